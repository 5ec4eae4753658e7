//! The gRPC door on the embedded broker, as a handler with generated stubs meets it.

mod draining;
mod ending;
mod failing;
mod opening;
mod panics;
mod publish_stream;
mod publishing;
mod services;
mod verdicts;
mod windows;

/// One subscription `work` for `work.#`.
const WORK: &str = "[queues.work]\nbindings = [\"work.#\"]\n";
