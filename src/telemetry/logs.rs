//! Log lines on stderr: for eyes on a terminal, one JSON object a line otherwise.

use std::io::IsTerminal as _;

use thiserror::Error;
use tracing::Level;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::filter_fn;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;

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
    // The client library logs what we expect (a missing queue, found by looking) as errors, every returned message with
    // its properties as a warning, and whole frames, the login among them, at trace: it speaks only when asked by name,
    // and of these never.
    let speaks = filter.contains("lapin");
    let is_discreet = filter_fn(move |line| {
        let is_library = line.target().starts_with("lapin") || line.target().starts_with("amq_protocol");
        let tells_contents = line.target().starts_with("lapin::returned_messages") || *line.level() == Level::TRACE;
        !is_library || (speaks && !tells_contents)
    });
    let is_terminal = std::io::stderr().is_terminal();
    let human = match format {
        Format::Auto => is_terminal,
        Format::Human => true,
        Format::Json => false,
    };
    let layer = tracing_subscriber::fmt::layer().with_writer(std::io::stderr);
    // On a terminal the library's own rule holds: colours unless NO_COLOR is set.
    let layer = if human && is_terminal { layer } else { layer.with_ansi(false) };
    let registry = tracing_subscriber::registry().with(parsed).with(is_discreet);
    let begun = if human {
        registry.with(layer.with_target(false)).try_init()
    } else {
        registry.with(layer.json().flatten_event(true).with_current_span(false).with_span_list(false)).try_init()
    };
    begun.map_err(|_| LogError::AlreadyBegun)
}
