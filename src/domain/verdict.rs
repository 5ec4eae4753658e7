//! What a handler says of a delivery. Knows no wire and no broker.

use std::time::Duration;

/// Longest code of a handler, in bytes.
pub const REASON_BYTES_MAX: usize = 64;
/// Longest text of a handler, in bytes; longer ones are cut.
pub const DESCRIPTION_BYTES_MAX: usize = 4 * 1024;
/// Longest delay that a handler may ask for.
pub const RETRY_DELAY_MAX: Duration = Duration::from_hours(30 * 24);

/// The handler's word on a delivery. There is no default on purpose: silence is never an ack.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// Done: the message leaves the queue.
    Ack,
    /// Failed for now: comes back later, a failed attempt.
    Retry {
        /// Not earlier than this, at most [`RETRY_DELAY_MAX`]; `None` = as the policy says.
        delay: Option<Duration>,
        /// Code in `UPPER_SNAKE`, at most [`REASON_BYTES_MAX`]; empty = none.
        reason: String,
        /// Free text, at most [`DESCRIPTION_BYTES_MAX`]; empty = none.
        description: String,
    },
    /// Failed for good: to the dead letters.
    DeadLetter {
        /// Code in `UPPER_SNAKE`, at most [`REASON_BYTES_MAX`]; empty = none.
        reason: String,
        /// Free text, at most [`DESCRIPTION_BYTES_MAX`]; empty = none.
        description: String,
    },
    /// Not handled: back to its queue, not a failed attempt.
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

/// True for a code in `UPPER_SNAKE` of at most [`REASON_BYTES_MAX`] bytes, and for none at all.
pub fn is_reason(text: &str) -> bool {
    let allowed = |c: char| c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_';
    text.is_empty()
        || (text.len() <= REASON_BYTES_MAX
            && text.starts_with(|c: char| c.is_ascii_uppercase())
            && text.chars().all(allowed))
}

/// The longest part of a text that has at most `bytes_max` bytes, cut between characters.
pub fn cut(mut text: String, bytes_max: usize) -> String {
    let end = text.floor_char_boundary(bytes_max);
    text.truncate(end);
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reasons_are_short_upper_snake() {
        for text in ["", "DB_TIMEOUT", "E2", &"X".repeat(64)] {
            assert!(is_reason(text), "{text:?}");
        }
        for text in ["db_timeout", "DB TIMEOUT", "_X", "2E", "DB-TIMEOUT", "Ü", &"X".repeat(65)] {
            assert!(!is_reason(text), "{text:?}");
        }
    }

    #[test]
    fn a_text_is_cut_between_characters() {
        assert_eq!(cut("aéb".to_owned(), 2), "a");
        assert_eq!(cut("aéb".to_owned(), 3), "aé");
        assert_eq!(cut("aéb".to_owned(), 9), "aéb");
    }
}
