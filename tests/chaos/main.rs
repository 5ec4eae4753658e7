//! Everything dies in turn, under load: what is confirmed is handled all the same.
//!
//! Runs on its own, on a private broker that it kills.
#![allow(clippy::expect_used, clippy::unwrap_used, clippy::panic, reason = "tests and their helpers fail by panicking")]
#![allow(clippy::print_stdout, reason = "it tells its counts")]

mod everything_dies;
mod relentless;
#[path = "../support/mod.rs"]
mod support;
