//! Log lines on stderr: for eyes on a terminal, one JSON object a line otherwise.

use std::io::IsTerminal as _;

use thiserror::Error;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::format::FmtSpan;

/// How lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// Human on a terminal, JSON otherwise.
    Auto,
    /// For eyes.
    Human,
    /// One JSON object a line.
    Json,
}

/// Why logging could not begin.
#[derive(Debug, Error)]
pub enum LogError {
    /// The filter cannot be read.
    #[error("{filter:?} is not a log filter: {reason}")]
    Filter {
        /// What was given.
        filter: String,
        /// What is wrong with it.
        reason: String,
    },
    /// Something has already installed a subscriber.
    #[error("logging has already begun in this process")]
    AlreadyBegun,
}

/// Begins logging for this process; once.
///
/// # Errors
/// A filter that cannot be read, or a second call.
pub fn begin(filter: &str, format: Format) -> Result<(), LogError> {
    let parsed = EnvFilter::try_new(filter)
        .map_err(|error| LogError::Filter { filter: filter.to_owned(), reason: error.to_string() })?;
    let is_terminal = std::io::stderr().is_terminal();
    let human = match format {
        Format::Auto => is_terminal,
        Format::Human => true,
        Format::Json => false,
    };
    let builder = tracing_subscriber::fmt()
        .with_env_filter(parsed)
        .with_writer(std::io::stderr)
        .with_ansi(human && is_terminal)
        .with_span_events(FmtSpan::NONE);
    let begun = if human {
        builder.with_target(false).try_init()
    } else {
        builder.json().flatten_event(true).with_current_span(false).with_span_list(false).try_init()
    };
    begun.map_err(|_| LogError::AlreadyBegun)
}
