//! The exit codes that commands and the daemon share: documented, tested and never reused.

use std::process::ExitCode;

/// How a process ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExitStatus {
    /// Done, also after a clean drain.
    Ok,
    /// Failed, none of the others.
    Failed,
    /// Wrong command line.
    Usage,
    /// Some done, some not.
    Partial,
    /// The settings are invalid; no socket was opened.
    Settings,
    /// The broker or, for commands, the sidecar cannot be reached.
    Unreachable,
    /// Login or rights.
    Refused,
    /// Topology that does not fit.
    Mismatch,
    /// Subscription, letter or key that is not there.
    NotFound,
    /// Checked and found unhealthy.
    Unhealthy,
    /// A panic or a broken invariant.
    Bug,
    /// No end in time.
    Timeout,
    /// Interrupted.
    Interrupted,
}

impl ExitStatus {
    /// The published number.
    pub fn code(self) -> u8 {
        match self {
            Self::Ok => 0,
            Self::Failed => 1,
            Self::Usage => 2,
            Self::Partial => 3,
            Self::Settings => 4,
            Self::Unreachable => 5,
            Self::Refused => 6,
            Self::Mismatch => 7,
            Self::NotFound => 8,
            Self::Unhealthy => 10,
            Self::Bug => 70,
            Self::Timeout => 124,
            Self::Interrupted => 130,
        }
    }
}

impl From<ExitStatus> for ExitCode {
    fn from(status: ExitStatus) -> Self {
        Self::from(status.code())
    }
}

#[cfg(test)]
mod tests {
    use super::ExitStatus::*;

    #[test]
    fn the_published_numbers_never_change() {
        let table = [
            (Ok, 0),
            (Failed, 1),
            (Usage, 2),
            (Partial, 3),
            (Settings, 4),
            (Unreachable, 5),
            (Refused, 6),
            (Mismatch, 7),
            (NotFound, 8),
            (Unhealthy, 10),
            (Bug, 70),
            (Timeout, 124),
            (Interrupted, 130),
        ];
        for (status, code) in table {
            assert_eq!(status.code(), code, "{status:?}");
        }
    }
}
