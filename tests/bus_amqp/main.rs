//! Tests of the RabbitMQ backend against a real broker.
//!
//! Runs on its own: a private broker is started where `BUS_TEST_AMQP_URL` names none.
#![allow(clippy::expect_used, clippy::unwrap_used, clippy::panic, reason = "tests and their helpers fail by panicking")]

mod conformance;
mod connecting;
mod consuming;
mod declaring;
mod e2e_example;
mod e2e_handlers;
mod e2e_headers;
mod e2e_loss;
mod e2e_mending;
mod e2e_publishing;
mod e2e_retry;
mod e2e_start;
mod e2e_topology;
mod lab;
mod publishing;
mod traps;

#[path = "../support/mod.rs"]
mod support;
