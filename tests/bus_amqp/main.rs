//! Tests of the RabbitMQ backend against a real broker.
//!
//! Runs on its own: a private broker is started where `BUS_TEST_AMQP_URL` names none.
#![allow(clippy::expect_used, clippy::unwrap_used, clippy::panic, reason = "tests and their helpers fail by panicking")]

mod broker_letters;
mod conformance;
mod connecting;
mod consuming;
mod declaring;
mod e2e_adopting;
mod e2e_bindings;
mod e2e_brakes;
mod e2e_clock;
mod e2e_commands;
mod e2e_crashes;
mod e2e_example;
mod e2e_faults;
mod e2e_handlers;
mod e2e_headers;
mod e2e_letters;
mod e2e_links;
mod e2e_loss;
mod e2e_memory;
mod e2e_mending;
mod e2e_mismatch;
mod e2e_mute;
mod e2e_odd;
mod e2e_outages;
mod e2e_pauses;
mod e2e_pieces;
mod e2e_production;
mod e2e_publishing;
mod e2e_releases;
mod e2e_resets;
mod e2e_retry;
mod e2e_rights;
mod e2e_rotation;
mod e2e_start;
mod e2e_stopping;
mod e2e_topology;
mod e2e_unreadable;
mod e2e_verdicts;
mod fail_points;
mod inequivalent;
mod lab;
mod logins;
mod management;
mod publishing;
mod releases;
mod securing;
mod series;
mod traps;
mod unreadable;
mod wearing;

#[path = "../support/mod.rs"]
mod support;
