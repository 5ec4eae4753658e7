//! A whole publish request, and the words of a publish stream for its failures. Knows no lane.

use super::incoming::{MessageProblem, PublishDefaults, message_from_proto};
use super::violations::Index;
use crate::domain::message::Message;
use crate::grpc::problem::{FieldViolation, Problem};
use crate::grpc::proto::sidebus::v1;
use crate::grpc::status::row;

/// Most messages of one `Publish`.
pub const MESSAGES_MAX: usize = 500;
/// Violations kept of one request; a status lists 16.
const VIOLATIONS_MAX: usize = 64;

/// Converts the messages of a `Publish`, in order. Nothing is published when one of them is wrong.
///
/// # Errors
/// `INVALID_REQUEST` for none or too many, `MESSAGE_TOO_LARGE` for the first such body, else `INVALID_MESSAGE` with
/// the fields of all messages.
pub fn batch_from_proto(
    messages: Vec<v1::Message>,
    defaults: &PublishDefaults<'_>,
    mut assign_id: impl FnMut() -> String,
) -> Result<Vec<Message>, Problem> {
    if messages.is_empty() || messages.len() > MESSAGES_MAX {
        let description = format!("holds {} messages, 1 to {MESSAGES_MAX} are allowed", messages.len());
        return Err(Problem::InvalidRequest(vec![FieldViolation { field: "messages".to_owned(), description }]));
    }
    let mut violations = Vec::new();
    let mut converted = Vec::with_capacity(messages.len());
    for (index, message) in messages.into_iter().enumerate() {
        match message_from_proto(message, &Index(&"messages", index), defaults, &mut assign_id) {
            Ok(message) => converted.push(message),
            Err(MessageProblem::Invalid(found)) => violations.extend(found),
            Err(problem @ MessageProblem::TooLarge { .. }) => return Err(problem.into()),
        }
    }
    if violations.is_empty() {
        return Ok(converted);
    }
    violations.truncate(VIOLATIONS_MAX);
    Err(Problem::InvalidMessage(violations))
}

/// The word of a publish stream for a problem with one item, and whether the same message may succeed later. `None` for
/// problems that end the stream instead.
pub fn failure_kind(problem: &Problem) -> Option<(v1::PublishFailureKind, bool)> {
    use v1::PublishFailureKind as Kind;
    let kind = match problem {
        Problem::Unroutable { .. } => Kind::Unroutable,
        Problem::PublishRejected { .. } => Kind::Rejected,
        Problem::ConfirmLost => Kind::ConfirmLost,
        Problem::ConfirmTimeout => Kind::ConfirmTimeout,
        Problem::ExchangeNotFound(_) => Kind::ExchangeNotFound,
        Problem::InvalidMessage(_) => Kind::Invalid,
        Problem::MessageTooLarge { .. } => Kind::TooLarge,
        Problem::NotAllowed { .. } => Kind::Denied,
        Problem::BrokerBlocked(_) => Kind::Blocked,
        Problem::Draining => Kind::Draining,
        Problem::BrokerUnavailable(_) => Kind::BrokerDown,
        Problem::ProtocolViolation(_)
        | Problem::InvalidRequest(_)
        | Problem::SubscriptionRequired { .. }
        | Problem::SubscriptionNotFound(_)
        | Problem::DeclareDiffers { .. }
        | Problem::TopologyMismatch { .. }
        | Problem::HandlerLimit { .. }
        | Problem::SlowReader(_)
        | Problem::FeatureUnavailable(_)
        | Problem::Internal { .. } => return None,
    };
    Some((kind, row(problem).retry.is_some()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::grpc::proto::sidebus::v1::PublishFailureKind as Kind;

    #[test]
    fn an_item_of_a_stream_fails_with_the_same_words_shortened() {
        let text = || "x".to_owned();
        for (problem, expected) in [
            (Problem::Unroutable { exchange: text(), routing_key: text() }, Some((Kind::Unroutable, false))),
            (Problem::PublishRejected { exchange: text(), routing_key: text() }, Some((Kind::Rejected, true))),
            (Problem::ConfirmLost, Some((Kind::ConfirmLost, true))),
            (Problem::ConfirmTimeout, Some((Kind::ConfirmTimeout, true))),
            (Problem::ExchangeNotFound(text()), Some((Kind::ExchangeNotFound, false))),
            (Problem::InvalidMessage(Vec::new()), Some((Kind::Invalid, false))),
            (Problem::MessageTooLarge { field: text(), found: 2, max: 1 }, Some((Kind::TooLarge, false))),
            (Problem::NotAllowed { what: text(), hint: text() }, Some((Kind::Denied, false))),
            (Problem::BrokerBlocked(text()), Some((Kind::Blocked, true))),
            (Problem::Draining, Some((Kind::Draining, true))),
            (Problem::BrokerUnavailable(text()), Some((Kind::BrokerDown, true))),
            (Problem::ProtocolViolation(text()), None),
        ] {
            assert_eq!(failure_kind(&problem), expected, "{problem:?}");
        }
    }
}
