//! What is asked of a run.

use std::path::PathBuf;

use clap::{Parser, ValueEnum};
use serde::Serialize;

/// What is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, ValueEnum)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Job {
    /// A full queue is emptied: every message is handled and acked.
    Consume,
    /// Messages are published through one stream until the last is confirmed.
    PublishStream,
    /// Many callers publish message by message, each waiting for its confirm.
    Publish,
    /// As `consume`, in Python: pika, acking message by message, and a handler that settles frame by frame.
    Pika,
    /// The same with aio-pika.
    AioPika,
    /// At an even pace, from publish to handler.
    Latency,
}

/// The kind of queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, ValueEnum)]
#[serde(rename_all = "snake_case")]
pub(crate) enum QueueType {
    /// The default of Sidebus.
    Quorum,
    /// What many people have.
    Classic,
}

impl QueueType {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Quorum => "quorum",
            Self::Classic => "classic",
        }
    }
}

/// A bare AMQP client and Sidebus do the same job in turn. The broker is a private one, or the one of the
/// variable `BUS_TEST_AMQP_URL`.
#[derive(Debug, Clone, Parser)]
pub(crate) struct Arguments {
    /// Jobs to run.
    #[arg(long, value_delimiter = ',', default_value = "consume,publish-stream,publish,pika,aio-pika,latency")]
    pub(crate) jobs: Vec<Job>,
    /// Kinds of queues to run them on.
    #[arg(long, value_delimiter = ',', default_value = "quorum,classic")]
    pub(crate) queue_types: Vec<QueueType>,
    /// Times that each side does each job; the first is not counted.
    #[arg(long, default_value_t = 6)]
    pub(crate) rounds: usize,
    /// Messages of one job.
    #[arg(long, default_value_t = 40_000)]
    pub(crate) messages: usize,
    /// Bytes of a body.
    #[arg(long, default_value_t = 256)]
    pub(crate) body: usize,
    /// Unsettled messages that the consumer may hold, on either side.
    #[arg(long, default_value_t = 1_000)]
    pub(crate) prefetch: u16,
    /// Subscriptions, each with a queue, handlers and a prefetch of its own; the job `consume` works with all of them, the others
    /// with the first.
    #[arg(long, default_value_t = 1)]
    pub(crate) subscriptions: usize,
    /// Handlers that share a queue, on the side of Sidebus.
    #[arg(long, default_value_t = 1)]
    pub(crate) handlers: usize,
    /// Messages that a handler takes in one frame at most; 1 to 1,000.
    #[arg(long, default_value_t = 64)]
    pub(crate) frame: usize,
    /// Callers of the job `publish`.
    #[arg(long, default_value_t = 64)]
    pub(crate) callers: usize,
    /// Unconfirmed publishes of the bare client, and of a stream of Sidebus (`bus.amqp.publish.window`, which is 4,096 unless it is
    /// set).
    #[arg(long, default_value_t = 1_000)]
    pub(crate) window: usize,
    /// Messages a second of the job `latency`.
    #[arg(long, default_value_t = 1_000)]
    pub(crate) pace: u32,
    /// Seconds of the job `latency`.
    #[arg(long, default_value_t = 5)]
    pub(crate) seconds: u32,
    /// A file for the report as JSON.
    #[arg(long)]
    pub(crate) json: Option<PathBuf>,
    /// Further tables for the sidecar's settings file, such as `[bus.amqp.publish]` and its keys, to compare them.
    #[arg(long, default_value = "")]
    pub(crate) settings: String,
    /// Another sidecar binary, to compare two.
    #[arg(long, default_value = env!("CARGO_BIN_EXE_sidebus"))]
    pub(crate) binary: PathBuf,
    /// Given by cargo.
    #[arg(long, hide = true)]
    bench: bool,
}
