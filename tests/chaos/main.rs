//! Everything dies in turn, under load, and poison comes by the thousand: what is confirmed is handled all the same, or a
//! letter that says why.
//!
//! Runs on its own, on private brokers, some of which it kills.
#![allow(clippy::expect_used, clippy::unwrap_used, clippy::panic, reason = "tests and their helpers fail by panicking")]
#![allow(clippy::print_stdout, reason = "it tells its counts")]

mod everything_dies;
mod poison;
mod relentless;
#[path = "../support/mod.rs"]
mod support;
