//! The process as its users and operators meet it: commands, exit codes, probes, signals, logs, metrics.

#![expect(clippy::unwrap_used, reason = "helpers of tests")]

mod commands;
mod configuration;
mod disk;
mod limits;
mod metrics;
mod outage;
mod readiness;
mod refusing;
mod running;
mod sockets;
mod topology;

/// One subscription `work` for `work.#`.
const WORK: &str = "[queues.work]\nbindings = [\"work.#\"]\n";
