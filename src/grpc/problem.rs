//! What can go wrong on the gRPC door, one variant for each situation of the published list. Knows no status code:
//! `grpc::status` holds the table.

use std::fmt;

use thiserror::Error;

use crate::broker::{BrokerError, Confirm};
use crate::domain::difference;
use crate::domain::name::ExchangeName;

/// A field of a request that breaks a rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FieldViolation {
    /// Path from the request, such as `messages[3].headers["x"]`.
    pub field: String,
    /// The rule and what was found; never a value of a header or a body.
    pub description: String,
}

impl fmt::Display for FieldViolation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.field, self.description)
    }
}

/// A key that a handler declares with another value than the settings have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Difference {
    /// The key, such as `retry.max_attempts`.
    pub key: String,
    /// The value of the settings.
    pub configured: String,
    /// The value of the handler.
    pub declared: String,
}

/// Why a request or a stream failed. Every variant is a situation of the published list of codes; the text says what,
/// where and why, [`Problem::hint`] what to try.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum Problem {
    /// Frames out of order, a second open, a negative limit, a bad sequence, too many unknown ids.
    #[error("the stream breaks the protocol: {0}")]
    ProtocolViolation(String),
    /// A message cannot be published as it is.
    #[error("invalid message: {}", first(.0))]
    InvalidMessage(Vec<FieldViolation>),
    /// Any other field of a request breaks a rule.
    #[error("invalid request: {}", first(.0))]
    InvalidRequest(Vec<FieldViolation>),
    /// No subscription was named, and there is not exactly one.
    #[error("no subscription was named and {configured} are configured")]
    SubscriptionRequired {
        /// How many there are.
        configured: usize,
    },
    /// There is no such subscription, or it was deleted while the stream was open.
    #[error("subscription {0:?} does not exist")]
    SubscriptionNotFound(String),
    /// A handler declares a configured subscription otherwise.
    #[error(
        "subscription {subscription:?} is configured with {} = {}, and the handler declares {}",
        .difference.key, .difference.configured, .difference.declared
    )]
    DeclareDiffers {
        /// Its name.
        subscription: String,
        /// The first key that differs.
        difference: Difference,
    },
    /// A queue, exchange or binding of the broker is not as asked for.
    #[error("{reason}")]
    TopologyMismatch {
        /// Such as `queue player-projector`.
        object: String,
        /// The whole fact, in the words of the log.
        reason: String,
        /// What to try instead.
        hint: &'static str,
        /// The first thing that was named and differs, if it is known.
        difference: Option<Box<difference::Difference>>,
    },
    /// Too many handlers, streams, calls or publishes in flight.
    #[error("too many {what}: the limit is {limit}")]
    HandlerLimit {
        /// Such as `publishes in flight`.
        what: String,
        /// The limit that is reached.
        limit: u64,
    },
    /// The peer does not read its stream.
    #[error("the stream is not read: {0}")]
    SlowReader(String),
    /// The caller may not do that here.
    #[error("not allowed: {what}")]
    NotAllowed {
        /// What was tried.
        what: String,
        /// What to try instead.
        hint: String,
    },
    /// A queue, exchange or binding that is not this sidecar's.
    #[error("not managed here: {what}")]
    NotManaged {
        /// What was asked for.
        what: String,
        /// What to try instead.
        hint: String,
    },
    /// The token of a page is none of ours.
    #[error("the page token is not valid")]
    PageTokenExpired,
    /// This sidecar stops.
    #[error("the sidecar is shutting down")]
    Draining,
    /// No session to the broker; nothing was sent.
    #[error("no session to the broker: {0}")]
    BrokerUnavailable(String),
    /// The broker takes no publishes (memory or disk alarm); nothing was sent.
    #[error("the broker takes no publishes: {0}")]
    BrokerBlocked(String),
    /// No queue took the message.
    #[error("no queue is bound to exchange {exchange:?} for routing key {routing_key:?}")]
    Unroutable {
        /// Where it was published to.
        exchange: String,
        /// With which key.
        routing_key: String,
    },
    /// There is no such exchange; nothing was sent.
    #[error("exchange {0:?} does not exist")]
    ExchangeNotFound(String),
    /// The broker refused the message; of several queues, some may have stored it.
    #[error(
        "the broker refused a message for exchange {exchange:?}, routing key {routing_key:?}: a queue is full or has no quorum"
    )]
    PublishRejected {
        /// Where it was published to.
        exchange: String,
        /// With which key.
        routing_key: String,
    },
    /// The session was lost before the confirm.
    #[error("the session was lost before the confirm: nobody knows whether the message is stored")]
    ConfirmLost,
    /// No confirm in time.
    #[error("the broker did not confirm in time: nobody knows whether the message is stored")]
    ConfirmTimeout,
    /// A body above the limit.
    #[error("{field} has {found} bytes, at most {max} are allowed")]
    MessageTooLarge {
        /// Path of the body.
        field: String,
        /// Bytes found.
        found: usize,
        /// Bytes allowed.
        max: usize,
    },
    /// This broker, build or release cannot do it.
    #[error("not available in this release: {0}")]
    FeatureUnavailable(String),
    /// A bug of ours. The cause goes to the log, under the same id, and never to the caller.
    #[error("internal error, request {request_id}")]
    Internal {
        /// Joins the answer to the log.
        request_id: String,
    },
}

impl Problem {
    /// What the caller can try.
    pub fn hint(&self) -> &str {
        match self {
            Self::ProtocolViolation(_) => "see the comments of sidebus.v1 for the order of frames",
            Self::InvalidMessage(_) | Self::InvalidRequest(_) => "correct the fields named in the details",
            Self::SubscriptionRequired { .. } => "set open.subscription",
            Self::SubscriptionNotFound(_) => {
                "configure it under [queues.<name>], or let the handler bring it with open.declare"
            }
            Self::DeclareDiffers { .. } => "leave the key out of open.declare, or give it the configured value",
            Self::HandlerLimit { .. } => "retry later, or raise the limit in the settings",
            Self::SlowReader(_) => "read the stream while working, then reconnect",
            Self::TopologyMismatch { hint, .. } => hint,
            Self::NotAllowed { hint, .. } | Self::NotManaged { hint, .. } => hint,
            Self::PageTokenExpired => "begin with the first page: leave page_token empty",
            Self::Draining => "retry, or open a new stream: another sidecar or the next start takes it",
            Self::BrokerUnavailable(_) => "retry; Sidebus reconnects by itself",
            Self::BrokerBlocked(_) => "retry later; free memory or disk on the broker",
            Self::Unroutable { .. } => {
                "bind a queue, correct the routing key (at a headers exchange: the headers), or set options.allow_unroutable"
            }
            Self::ExchangeNotFound(_) => "correct the name, or configure it under [exchanges.<name>]",
            Self::PublishRejected { .. } => {
                "retry with the same message_id; some of several queues may have stored it already"
            }
            Self::ConfirmLost | Self::ConfirmTimeout => {
                "retry with the same message_id, so that duplicates are visible"
            }
            Self::MessageTooLarge { .. } => "publish a reference to the content, or raise grpc.max_message_bytes",
            Self::FeatureUnavailable(_) => "leave it out, or use a release that has it",
            Self::Internal { .. } => "report it with the request id",
        }
    }

    /// Why a publication failed; `None` when it is stored.
    /// `exchange` and `routing_key` are where it was published to.
    pub fn from_confirm(confirm: Confirm, exchange: &ExchangeName, routing_key: &str) -> Option<Self> {
        let exchange = || exchange.as_str().to_owned();
        let routing_key = || routing_key.to_owned();
        match confirm {
            Confirm::Stored => None,
            Confirm::Unroutable => Some(Self::Unroutable { exchange: exchange(), routing_key: routing_key() }),
            Confirm::Refused => Some(Self::PublishRejected { exchange: exchange(), routing_key: routing_key() }),
            Confirm::Lost => Some(Self::ConfirmLost),
            Confirm::TimedOut => Some(Self::ConfirmTimeout),
            Confirm::ExchangeMissing(name) => Some(Self::ExchangeNotFound(name.as_str().to_owned())),
            Confirm::NotSent(BrokerError::Missing { .. }) => Some(Self::ExchangeNotFound(exchange())),
            Confirm::NotSent(error) => Some(Self::from_broker(error)),
        }
    }

    /// The problem behind an error of the broker.
    pub fn from_broker(error: BrokerError) -> Self {
        match error {
            BrokerError::Mismatch { .. } | BrokerError::Missing { .. } | BrokerError::Locked { .. } => {
                let (reason, hint) = (error.to_string(), error.hint());
                let object = error.differing_object().unwrap_or_default().to_owned();
                let differences =
                    if let BrokerError::Mismatch { differences, .. } = error { differences } else { Vec::new() };
                Self::TopologyMismatch {
                    object,
                    reason,
                    hint,
                    difference: differences.into_iter().next().map(Box::new),
                }
            }
            BrokerError::AccessRefused { .. } => {
                Self::NotAllowed { hint: error.hint().to_owned(), what: error.to_string() }
            }
            BrokerError::Unsupported { what } => Self::FeatureUnavailable(what),
            BrokerError::Blocked { reason } => Self::BrokerBlocked(reason),
            BrokerError::Unreachable { .. }
            | BrokerError::Tls { .. }
            | BrokerError::Unreadable { .. }
            | BrokerError::LoginRefused { .. }
            | BrokerError::VhostRefused { .. }
            | BrokerError::ConsumerCancelled { .. }
            | BrokerError::ChannelClosed { .. }
            | BrokerError::SessionLost { .. }
            | BrokerError::Unparsable { .. }
            | BrokerError::TimedOut { .. } => Self::BrokerUnavailable(error.to_string()),
        }
    }
}

/// The first violation and how many follow: a status text is one line.
fn first(violations: &[FieldViolation]) -> String {
    match violations {
        [] => "no field is named".to_owned(),
        [only] => only.to_string(),
        [first, rest @ ..] => format!("{first} (and {} more)", rest.len()),
    }
}
