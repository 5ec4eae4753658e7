//! The one table from a problem to a gRPC status with its `google.rpc` details. Knows no rule: problems come ready.

use std::collections::HashMap;
use std::time::Duration;

use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt as _};

use super::problem::Problem;
use crate::domain::difference::Difference;
use crate::domain::verdict::cut;

/// `ErrorInfo.domain` of every error, for both packages.
pub const ERROR_DOMAIN: &str = "sidebus.v1";
/// Most indexes and violations listed in one status: details travel in trailers, and those are small.
pub const LISTED_MAX: usize = 16;
/// Longest text of a status and longest value in its details, in bytes.
const TEXT_BYTES_MAX: usize = 1024;
/// Longest field path or violation text in the details, in bytes; 16 of both stay below 8 KiB.
const VIOLATION_BYTES_MAX: usize = 240;
/// What `RetryInfo` advises: long enough for a reconnect, short enough to go unnoticed.
const RETRY_SOON: Duration = Duration::from_secs(1);
/// An alarm of the broker or a full house lasts longer.
const RETRY_LATER: Duration = Duration::from_secs(5);

/// One row of the published list of codes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Row {
    /// The gRPC code.
    pub code: Code,
    /// `ErrorInfo.reason`: a contract, unlike the text.
    pub reason: &'static str,
    /// `RetryInfo.retry_delay`; `None` = repeating the same does not help.
    pub retry: Option<Duration>,
}

/// The row of a problem.
pub fn row(problem: &Problem) -> Row {
    let (code, reason, retry) = match problem {
        Problem::ProtocolViolation(_) => (Code::InvalidArgument, "PROTOCOL_VIOLATION", None),
        Problem::InvalidMessage(_) => (Code::InvalidArgument, "INVALID_MESSAGE", None),
        Problem::InvalidRequest(_) => (Code::InvalidArgument, "INVALID_REQUEST", None),
        Problem::SubscriptionRequired { .. } => (Code::InvalidArgument, "SUBSCRIPTION_REQUIRED", None),
        Problem::SubscriptionNotFound(_) => (Code::NotFound, "SUBSCRIPTION_NOT_FOUND", None),
        Problem::DeclareDiffers { .. } | Problem::TopologyMismatch { .. } => {
            (Code::FailedPrecondition, "TOPOLOGY_MISMATCH", None)
        }
        Problem::HandlerLimit { .. } => (Code::ResourceExhausted, "HANDLER_LIMIT", Some(RETRY_LATER)),
        Problem::SlowReader(_) => (Code::ResourceExhausted, "SLOW_READER", None),
        Problem::NotAllowed { .. } => (Code::PermissionDenied, "NOT_ALLOWED", None),
        Problem::NotManaged { .. } => (Code::FailedPrecondition, "NOT_MANAGED", None),
        Problem::PageTokenExpired => (Code::InvalidArgument, "PAGE_TOKEN_EXPIRED", None),
        Problem::Draining => (Code::Unavailable, "SIDECAR_DRAINING", Some(RETRY_SOON)),
        Problem::BrokerUnavailable(_) => (Code::Unavailable, "BROKER_UNAVAILABLE", Some(RETRY_SOON)),
        Problem::BrokerBlocked(_) => (Code::Unavailable, "BROKER_BLOCKED", Some(RETRY_LATER)),
        Problem::Unroutable { .. } => (Code::FailedPrecondition, "UNROUTABLE", None),
        Problem::ExchangeNotFound(_) => (Code::NotFound, "EXCHANGE_NOT_FOUND", None),
        Problem::PublishRejected { .. } => (Code::ResourceExhausted, "PUBLISH_REJECTED", Some(RETRY_SOON)),
        Problem::ConfirmLost => (Code::Unavailable, "CONFIRM_LOST", Some(RETRY_SOON)),
        Problem::ConfirmTimeout => (Code::DeadlineExceeded, "CONFIRM_TIMEOUT", Some(RETRY_SOON)),
        Problem::MessageTooLarge { .. } => (Code::InvalidArgument, "MESSAGE_TOO_LARGE", None),
        Problem::FeatureUnavailable(_) => (Code::Unimplemented, "FEATURE_UNAVAILABLE", None),
        Problem::Internal { .. } => (Code::Internal, "INTERNAL", None),
    };
    Row { code, reason, retry }
}

impl From<Problem> for Status {
    fn from(problem: Problem) -> Self {
        let text = text(&problem);
        status(&problem, text, metadata(&problem))
    }
}

/// True for a frame whose bytes are no message: the transport gives that no code of its own.
pub(super) fn is_undecodable(status: &Status) -> bool {
    status.code() != Code::OutOfRange && status.message().contains("decode")
}

/// The status of a `Publish` of several messages of which some failed, by their index in the request.
///
/// The first failure that the caller must mend decides the code, else the first one: retrying a batch that holds an
/// unroutable message for ever would help nobody. At most [`LISTED_MAX`] indexes are listed. `None` = nothing failed.
pub fn publish_status(failures: &[(usize, Problem)], total: usize) -> Option<Status> {
    let (_, problem) =
        failures.iter().find(|(_, problem)| row(problem).retry.is_none()).or_else(|| failures.first())?;
    if total == 1 {
        return Some(problem.clone().into());
    }
    let listed = || failures.iter().take(LISTED_MAX);
    let join = |parts: Vec<String>| parts.join(",");
    let mut metadata = metadata(problem);
    metadata.insert("failed_count".to_owned(), failures.len().to_string());
    metadata.insert("failed_indexes".to_owned(), join(listed().map(|(index, _)| index.to_string()).collect()));
    metadata
        .insert("failed_reasons".to_owned(), join(listed().map(|(_, failed)| row(failed).reason.to_owned()).collect()));
    let text = format!("{} of {total} messages are not known to be stored; {}", failures.len(), text(problem));
    Some(status(problem, text, metadata))
}

fn status(problem: &Problem, text: String, metadata: HashMap<String, String>) -> Status {
    let row = row(problem);
    let mut details = ErrorDetails::new();
    details.set_error_info(row.reason, ERROR_DOMAIN, metadata);
    if row.retry.is_some() {
        details.set_retry_info(row.retry);
    }
    if let Problem::InvalidMessage(violations) | Problem::InvalidRequest(violations) = problem {
        for violation in violations.iter().take(LISTED_MAX) {
            details.add_bad_request_violation(
                cut(violation.field.clone(), VIOLATION_BYTES_MAX),
                cut(violation.description.clone(), VIOLATION_BYTES_MAX),
            );
        }
    }
    Status::with_error_details(row.code, cut(text, TEXT_BYTES_MAX), details)
}

/// What, where, why; then what to try.
fn text(problem: &Problem) -> String {
    // The hint must survive a long first half: it is what helps.
    let what = cut(problem.to_string(), TEXT_BYTES_MAX * 3 / 4);
    format!("{what}; try: {}", problem.hint())
}

fn metadata(problem: &Problem) -> HashMap<String, String> {
    let pairs: Vec<(&str, String)> = match problem {
        Problem::DeclareDiffers { subscription, difference } => vec![
            ("subscription", subscription.clone()),
            ("key", difference.key.clone()),
            ("configured", difference.configured.clone()),
            ("declared", difference.declared.clone()),
        ],
        Problem::TopologyMismatch { object, difference, .. } => {
            let mut pairs = vec![("object", object.clone())];
            if let Some(Difference { key, wanted, found }) = difference.as_deref().cloned() {
                // Empty would look as if it were not known.
                let shown = |text: String| if text.is_empty() { "none".to_owned() } else { text };
                pairs.extend([("key", key), ("declared", shown(wanted)), ("existing", shown(found))]);
            }
            pairs
        }
        Problem::SubscriptionNotFound(name) => vec![("subscription", name.clone())],
        Problem::HandlerLimit { limit, .. } => vec![("limit", limit.to_string())],
        Problem::Unroutable { exchange, routing_key } | Problem::PublishRejected { exchange, routing_key } => {
            vec![("exchange", exchange.clone()), ("routing_key", routing_key.clone())]
        }
        Problem::ExchangeNotFound(exchange) => vec![("exchange", exchange.clone())],
        Problem::MessageTooLarge { field, found, max } => {
            vec![("field", field.clone()), ("found_bytes", found.to_string()), ("max_bytes", max.to_string())]
        }
        Problem::FeatureUnavailable(what) => vec![("feature", what.clone())],
        Problem::Internal { request_id } => vec![("request_id", request_id.clone())],
        Problem::ProtocolViolation(_)
        | Problem::InvalidMessage(_)
        | Problem::InvalidRequest(_)
        | Problem::SubscriptionRequired { .. }
        | Problem::SlowReader(_)
        | Problem::NotAllowed { .. }
        | Problem::NotManaged { .. }
        | Problem::PageTokenExpired
        | Problem::Draining
        | Problem::BrokerUnavailable(_)
        | Problem::BrokerBlocked(_)
        | Problem::ConfirmLost
        | Problem::ConfirmTimeout => Vec::new(),
    };
    pairs.into_iter().map(|(key, value)| (key.to_owned(), cut(value, TEXT_BYTES_MAX))).collect()
}

#[cfg(test)]
mod tests;
