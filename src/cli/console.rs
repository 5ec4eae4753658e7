//! Where a command reads and writes: data to one side, words for people to the other. Knows no command.

use std::fmt;
use std::io::Write;

use tokio::io::AsyncBufRead;

use super::exit::ExitStatus;
use crate::grpc::client::{ClientError, ErrorKind};

/// The streams of a command, given from outside so that tests see them.
pub struct Console<'a> {
    /// Standard input.
    pub input: &'a mut (dyn AsyncBufRead + Unpin + Send),
    /// Data.
    pub output: &'a mut (dyn Write + Send),
    /// Words for people.
    pub words: &'a mut (dyn Write + Send),
}

impl fmt::Debug for Console<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Console").finish_non_exhaustive()
    }
}

impl Console<'_> {
    /// Tells people something, in a line of its own. Nobody listening is no failure.
    pub fn say(&mut self, words: impl fmt::Display) {
        writeln!(self.words, "sidebus: {words}").ok();
    }

    /// Tells why a call failed and gives the exit status for it.
    pub fn fail(&mut self, error: &ClientError) -> ExitStatus {
        self.say(error);
        match error.kind {
            ErrorKind::BadEndpoint => ExitStatus::Usage,
            ErrorKind::NoSidecar | ErrorKind::BrokerUnavailable => ExitStatus::Unreachable,
            ErrorKind::Refused => ExitStatus::Refused,
            ErrorKind::Mismatch => ExitStatus::Mismatch,
            ErrorKind::NotFound => ExitStatus::NotFound,
            ErrorKind::TimedOut => ExitStatus::Timeout,
            ErrorKind::Other => ExitStatus::Failed,
        }
    }
}

/// A number with its word, such as `1 message` or `2 messages`.
pub(super) fn counted(count: impl TryInto<u64>, word: &str) -> String {
    // No number that we count is beyond 64 bits.
    let count = count.try_into().unwrap_or(u64::MAX);
    format!("{count} {word}{}", if count == 1 { "" } else { "s" })
}
