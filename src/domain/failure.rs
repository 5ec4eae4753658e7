//! One failed attempt and where a message first came from, as its history keeps them. Knows no header and no wire.

/// Who said that an attempt failed; a closed set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum FailureKind {
    /// Verdict retry.
    Retry,
    /// Verdict `dead_letter`.
    DeadLetter,
    /// The deadline passed.
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
    /// The handler's code; empty unless a verdict gave one.
    pub reason: String,
    /// Free text, at most 512 bytes in the history.
    pub description: String,
    /// Label of the handler.
    pub handler: String,
    /// The attempt that failed, from 1.
    pub attempt: u32,
    /// When, in milliseconds since 1970.
    pub time_ms: u64,
}

/// Where a message came from when Sidebus first took it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Origin {
    /// Exchange it was published to; empty = the nameless one.
    pub exchange: String,
    /// As published.
    pub routing_key: String,
    /// Work queue it was taken from.
    pub queue: String,
    /// When it was first taken, in milliseconds since 1970.
    pub first_time_ms: u64,
}
