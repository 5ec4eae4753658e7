//! A handler's word on a delivery. Knows no wire: `grpc::wire` parses it.

use std::time::Duration;

/// Longest code of a reason in bytes.
pub const REASON_BYTES_MAX: usize = 64;

/// The handler's word on a delivery. There is no zero value: what was not said is never a verdict.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// Done; the message leaves the queue.
    Ack,
    /// Failed for now.
    Retry {
        /// Not earlier than this; `None` = the policy's delay.
        delay: Option<Duration>,
        /// Code in `UPPER_SNAKE`, at most 64 bytes; may be empty.
        reason: String,
        /// Free text; may be empty.
        description: String,
    },
    /// Failed for good.
    DeadLetter {
        /// Code in `UPPER_SNAKE`, at most 64 bytes; may be empty.
        reason: String,
        /// Free text; may be empty.
        description: String,
    },
    /// Not handled: back to the queue, not a failed attempt.
    Release,
}

impl Verdict {
    /// Which of the four.
    pub fn kind(&self) -> VerdictKind {
        match self {
            Self::Ack => VerdictKind::Ack,
            Self::Retry { .. } => VerdictKind::Retry,
            Self::DeadLetter { .. } => VerdictKind::DeadLetter,
            Self::Release => VerdictKind::Release,
        }
    }
}

/// The four verdicts without what they carry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum VerdictKind {
    /// Done.
    Ack,
    /// Failed for now.
    Retry,
    /// Failed for good.
    DeadLetter,
    /// Not handled.
    Release,
}

impl VerdictKind {
    /// The word of logs and metric labels.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ack => "ack",
            Self::Retry => "retry",
            Self::DeadLetter => "dead_letter",
            Self::Release => "release",
        }
    }
}
