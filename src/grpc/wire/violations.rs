//! Collects what is wrong with a request, so that a caller mends everything at once. Knows no message.

use std::fmt;

use super::SHORT_BYTES_MAX;
use crate::domain::verdict::cut;
use crate::grpc::problem::FieldViolation;

/// Violations kept of one request; more would only grow an answer that lists 16 anyway.
const KEPT_MAX: usize = 64;
/// Longest name quoted in a path, in bytes: it may be what is too long.
const QUOTED_BYTES_MAX: usize = 64;

/// Violations of one request, in the order in which they were found.
#[derive(Debug, Default)]
pub(super) struct Violations {
    found: Vec<FieldViolation>,
}

impl Violations {
    /// Notes that a field breaks a rule.
    pub(super) fn add(&mut self, field: impl fmt::Display, description: impl fmt::Display) {
        if self.found.len() < KEPT_MAX {
            self.found.push(FieldViolation { field: field.to_string(), description: description.to_string() });
        }
    }

    /// AMQP's short strings end at 255 bytes; the client library panics above.
    pub(super) fn short(&mut self, field: impl fmt::Display, text: &str) {
        self.at_most(field, text, SHORT_BYTES_MAX);
    }

    /// Notes a text that is too long.
    pub(super) fn at_most(&mut self, field: impl fmt::Display, text: &str, bytes_max: usize) {
        if text.len() > bytes_max {
            self.add(field, format_args!("has {} bytes, at most {bytes_max} are allowed", text.len()));
        }
    }

    /// Everything found.
    pub(super) fn into_vec(self) -> Vec<FieldViolation> {
        self.found
    }

    /// True while nothing is wrong.
    pub(super) fn is_empty(&self) -> bool {
        self.found.is_empty()
    }
}

/// A path and one more name: `messages[3].routing_key`, or the name alone below an empty path.
#[derive(Clone, Copy)]
pub(super) struct Below<'a>(pub(super) &'a dyn fmt::Display, pub(super) &'a str);

impl fmt::Display for Below<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let above = self.0.to_string();
        if above.is_empty() { f.write_str(self.1) } else { write!(f, "{above}.{}", self.1) }
    }
}

/// A path and a key of a map: `headers["x"]`, long keys cut.
#[derive(Clone, Copy)]
pub(super) struct Key<'a>(pub(super) &'a dyn fmt::Display, pub(super) &'a str);

impl fmt::Display for Key<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}[{:?}]", self.0, cut(self.1.to_owned(), QUOTED_BYTES_MAX))
    }
}

/// A path and a position in a list: `items[2]`.
#[derive(Clone, Copy)]
pub(super) struct Index<'a>(pub(super) &'a dyn fmt::Display, pub(super) usize);

impl fmt::Display for Index<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}[{}]", self.0, self.1)
    }
}
