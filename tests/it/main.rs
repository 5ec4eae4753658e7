//! Everything that needs no real broker: one binary, so that it links once.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking, and so does what it calls"
)]

mod administration;
mod architecture;
mod bridge;
mod brokers;
mod conformance_memory;
mod deploy;
mod documents;
mod examples;
mod fail_points;
mod grpc;
mod process;
mod settings;
mod support;
