//! The process as its users and operators meet it: commands, exit codes, probes, signals, logs, metrics.

#![expect(clippy::unwrap_used, reason = "helpers of tests")]

mod commands;
mod metrics;
mod outage;
mod readiness;
mod refusing;
mod running;

/// One subscription `work` for `work.#`.
const WORK: &str = "[queues.work]\nbindings = [\"work.#\"]\n";
