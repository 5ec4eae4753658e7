//! A whole publish request, and the words of a publish stream for its failures. Knows no lane.

use super::incoming::{MessageProblem, PublishDefaults, exchange_from_proto, message_from_proto};
use super::label;
use super::violations::{Index, Violations};
use crate::broker::Routing;
use crate::domain::message::Message;
use crate::domain::name::ExchangeName;
use crate::grpc::problem::{FieldViolation, Problem};
use crate::grpc::proto::sidebus::v1;
use crate::grpc::status::row;

/// Most messages of one `Publish`.
pub const MESSAGES_MAX: usize = 500;
/// Longest label of a producer in bytes.
const PRODUCER_BYTES_MAX: usize = 128;
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

/// How a publish stream publishes.
#[derive(Debug, Clone)]
pub struct PublishTerms {
    /// For messages that name none.
    pub exchange: ExchangeName,
    /// Whether they must reach a queue.
    pub routing: Routing,
    /// The label that the caller has given itself.
    pub producer: Option<String>,
}

impl PublishTerms {
    /// Those of a stream without `open`.
    pub fn unnamed(exchange: &ExchangeName) -> Self {
        Self { exchange: exchange.clone(), routing: Routing::Required, producer: None }
    }
}

/// Whether messages must reach a queue.
pub fn routing_from_proto(options: Option<&v1::PublishOptions>) -> Routing {
    let may_be_dropped = options.is_some_and(|options| options.allow_unroutable);
    if may_be_dropped { Routing::Optional } else { Routing::Required }
}

/// Reads what opens a publish stream; `exchange` is the configured one.
///
/// # Errors
/// `INVALID_REQUEST` with every field that breaks a rule.
pub fn publish_terms_from_proto(
    open: &v1::PublishStreamOpen,
    exchange: &ExchangeName,
) -> Result<PublishTerms, Problem> {
    let mut violations = Violations::default();
    let exchange = exchange_from_proto(&open.exchange, &"open", exchange, &mut violations);
    violations.at_most("open.producer", &open.producer, PRODUCER_BYTES_MAX);
    if !violations.is_empty() {
        return Err(Problem::InvalidRequest(violations.into_vec()));
    }
    let producer = (!open.producer.is_empty()).then(|| label(&open.producer));
    Ok(PublishTerms { exchange, routing: routing_from_proto(open.options.as_ref()), producer })
}

/// The word of a publish stream for a problem with one item, and whether the same message may succeed later.
pub fn failure_kind(problem: &Problem) -> (v1::PublishFailureKind, bool) {
    use v1::PublishFailureKind as Kind;
    let kind = match problem {
        Problem::Unroutable { .. } => Kind::Unroutable,
        Problem::PublishRejected { .. } => Kind::Rejected,
        Problem::ConfirmLost => Kind::ConfirmLost,
        Problem::ConfirmTimeout => Kind::ConfirmTimeout,
        Problem::ExchangeNotFound(_) => Kind::ExchangeNotFound,
        Problem::MessageTooLarge { .. } => Kind::TooLarge,
        Problem::NotAllowed { .. } => Kind::Denied,
        Problem::BrokerBlocked(_) => Kind::Blocked,
        Problem::Draining => Kind::Draining,
        Problem::BrokerUnavailable(_) => Kind::BrokerDown,
        // Most of these end the stream instead; what is left is a message that no broker takes as it is.
        Problem::InvalidMessage(_)
        | Problem::ProtocolViolation(_)
        | Problem::InvalidRequest(_)
        | Problem::SubscriptionRequired { .. }
        | Problem::SubscriptionNotFound(_)
        | Problem::DeclareDiffers { .. }
        | Problem::TopologyMismatch { .. }
        | Problem::HandlerLimit { .. }
        | Problem::NotManaged { .. }
        | Problem::PageTokenExpired
        | Problem::SlowReader(_)
        | Problem::FeatureUnavailable(_)
        | Problem::Internal { .. } => Kind::Invalid,
    };
    (kind, row(problem).retry.is_some())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::grpc::proto::sidebus::v1::PublishFailureKind as Kind;

    #[test]
    fn an_item_of_a_stream_fails_with_the_same_words_shortened() {
        let text = || "x".to_owned();
        for (problem, expected) in [
            (Problem::Unroutable { exchange: text(), routing_key: text() }, (Kind::Unroutable, false)),
            (Problem::PublishRejected { exchange: text(), routing_key: text() }, (Kind::Rejected, true)),
            (Problem::ConfirmLost, (Kind::ConfirmLost, true)),
            (Problem::ConfirmTimeout, (Kind::ConfirmTimeout, true)),
            (Problem::ExchangeNotFound(text()), (Kind::ExchangeNotFound, false)),
            (Problem::InvalidMessage(Vec::new()), (Kind::Invalid, false)),
            (Problem::MessageTooLarge { field: text(), found: 2, max: 1 }, (Kind::TooLarge, false)),
            (Problem::NotAllowed { what: text(), hint: text() }, (Kind::Denied, false)),
            (Problem::BrokerBlocked(text()), (Kind::Blocked, true)),
            (Problem::Draining, (Kind::Draining, true)),
            (Problem::BrokerUnavailable(text()), (Kind::BrokerDown, true)),
            (Problem::FeatureUnavailable(text()), (Kind::Invalid, false)),
        ] {
            assert_eq!(failure_kind(&problem), expected, "{problem:?}");
        }
    }
}
