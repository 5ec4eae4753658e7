//! What is remembered of failed attempts and of where a message came from. Knows no headers and no wire.

use super::name::ExchangeName;

/// Kinds of failed attempts; a closed set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum FailureKind {
    /// The verdict retry.
    Retry,
    /// The verdict `dead_letter`.
    DeadLetter,
    /// The settle timeout or the longest lease passed.
    Timeout,
    /// The handler was lost while it held this delivery alone.
    Crash,
}

impl FailureKind {
    /// The word in the history.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Retry => "retry",
            Self::DeadLetter => "dead_letter",
            Self::Timeout => "timeout",
            Self::Crash => "crash",
        }
    }

    /// Reads the word in the history.
    pub fn parse(word: &str) -> Option<Self> {
        [Self::Retry, Self::DeadLetter, Self::Timeout, Self::Crash].into_iter().find(|kind| kind.as_str() == word)
    }
}

/// One failed attempt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// Who said so.
    pub kind: FailureKind,
    /// The handler's code, at most 64 bytes; empty unless a verdict gave one.
    pub reason: String,
    /// Free text, at most 512 bytes in a history; may be empty.
    pub description: String,
    /// Label of the handler.
    pub handler: String,
    /// The attempt that failed, from 1.
    pub attempt: u32,
    /// When, in milliseconds since 1970.
    pub time_ms: u64,
    /// The wait that followed, in milliseconds; `None` = the message was given up, or an older release wrote this.
    pub delay_ms: Option<u64>,
}

/// The first sight of a message that has been copied since (retry, crash copy, replay).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Origin {
    /// Exchange it was published to.
    pub exchange: ExchangeName,
    /// As published.
    pub routing_key: String,
    /// Work queue it was taken from.
    pub queue: String,
    /// When it was first taken from that queue, in milliseconds since 1970.
    pub first_time_ms: u64,
}
