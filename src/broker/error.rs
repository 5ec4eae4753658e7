//! What can go wrong with a broker, in our own words. Knows no client library.

use std::time::Duration;

use thiserror::Error;

/// Why a broker did not do what was asked. Texts of the broker are kept; credentials never are.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum BrokerError {
    /// No connection: name not found, port refused, or no answer in time.
    #[error("cannot reach the broker at {endpoint}: {reason}")]
    Unreachable {
        /// Host and port, without credentials.
        endpoint: String,
        /// The system's words.
        reason: String,
    },
    /// The TLS handshake failed.
    #[error("no TLS with the broker at {endpoint}: {reason}")]
    Tls {
        /// Host and port, without credentials.
        endpoint: String,
        /// What failed.
        reason: String,
    },
    /// User or password are wrong.
    #[error("the broker at {endpoint} refused the login of user {user}: {reason}")]
    LoginRefused {
        /// Host and port, without credentials.
        endpoint: String,
        /// Who tried.
        user: String,
        /// The broker's words.
        reason: String,
    },
    /// The virtual host is missing, or this user may not use it.
    #[error("the broker at {endpoint} refused virtual host {vhost:?}: {reason}")]
    VhostRefused {
        /// Host and port, without credentials.
        endpoint: String,
        /// The virtual host.
        vhost: String,
        /// The broker's words.
        reason: String,
    },
    /// The user lacks a right (403).
    #[error("the broker refused {action}: {reason}")]
    AccessRefused {
        /// What was tried.
        action: String,
        /// The broker's words.
        reason: String,
    },
    /// An exchange or queue is not there (404).
    #[error("{object} does not exist")]
    Missing {
        /// Such as `queue player-projector`.
        object: String,
    },
    /// An object exists with other arguments (406).
    #[error("{object} exists with other arguments: {reason}")]
    Mismatch {
        /// Such as `queue player-projector`.
        object: String,
        /// The broker's words: the argument and both values.
        reason: String,
    },
    /// An exclusive queue of another connection (405).
    #[error("{object} is exclusive to another connection")]
    Locked {
        /// Such as `queue player-projector`.
        object: String,
    },
    /// The broker stopped the consumer: usually its queue was deleted.
    #[error("the broker cancelled the consumer of queue {queue}")]
    ConsumerCancelled {
        /// The queue.
        queue: String,
    },
    /// A channel was closed by the broker for another reason.
    #[error("the broker closed the channel: {reason}")]
    ChannelClosed {
        /// The broker's words.
        reason: String,
    },
    /// The session is over.
    #[error("the session is lost: {reason}")]
    SessionLost {
        /// What ended it.
        reason: String,
    },
    /// A memory or disk alarm: the broker reads no publishes.
    #[error("the broker takes no publishes: {reason}")]
    Blocked {
        /// The broker's words.
        reason: String,
    },
    /// No answer in time.
    #[error("{operation} had no answer within {} ms", within.as_millis())]
    TimedOut {
        /// What was waited for.
        operation: String,
        /// How long.
        within: Duration,
    },
    /// This backend or broker cannot do it.
    #[error("{what} is not supported here")]
    Unsupported {
        /// What was asked.
        what: String,
    },
}

/// Kinds of errors, for metrics and decisions; a closed set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ErrorClass {
    /// The port refused, the name was not found or nobody answered.
    Refused,
    /// TLS.
    Tls,
    /// Login, rights or vhost.
    Login,
    /// Ended by the broker or an operator.
    Forced,
    /// Everything else.
    Other,
}

impl ErrorClass {
    /// The word of the metric label.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Refused => "refused",
            Self::Tls => "tls",
            Self::Login => "login",
            Self::Forced => "forced",
            Self::Other => "other",
        }
    }
}

impl BrokerError {
    /// The kind of the error.
    pub fn class(&self) -> ErrorClass {
        match self {
            Self::Unreachable { .. } => ErrorClass::Refused,
            Self::Tls { .. } => ErrorClass::Tls,
            Self::LoginRefused { .. } | Self::VhostRefused { .. } | Self::AccessRefused { .. } => ErrorClass::Login,
            Self::SessionLost { .. } | Self::ChannelClosed { .. } | Self::ConsumerCancelled { .. } => {
                ErrorClass::Forced
            }
            Self::Missing { .. }
            | Self::Mismatch { .. }
            | Self::Locked { .. }
            | Self::Blocked { .. }
            | Self::TimedOut { .. }
            | Self::Unsupported { .. } => ErrorClass::Other,
        }
    }

    /// What an operator can try.
    pub fn hint(&self) -> &'static str {
        match self {
            Self::Unreachable { .. } => "check bus.amqp.url (AMQP_URL) and that the broker listens there",
            Self::Tls { .. } => "check the certificate and the host name; amqps:// uses port 5671",
            Self::LoginRefused { .. } => "check user and password; the broker accepts guest from its own machine only",
            Self::VhostRefused { .. } => {
                "create the virtual host or give the user rights: rabbitmqctl add_vhost, set_permissions; a slash at \
                 the end of the URL means the empty virtual host"
            }
            Self::AccessRefused { .. } => "give the user the right: rabbitmqctl set_permissions",
            Self::Missing { .. } => "create it, or set bus.amqp.topology = \"create\"",
            Self::Mismatch { .. } => {
                "make the settings fit what exists, or delete the object when it is empty and let Sidebus create it"
            }
            Self::Locked { .. } => "another process holds this exclusive queue; stop it or use another name",
            Self::Blocked { .. } => "free memory or disk on the broker; see its log for the alarm",
            Self::ConsumerCancelled { .. } => "the queue was probably deleted; Sidebus looks again by itself",
            Self::ChannelClosed { .. } | Self::SessionLost { .. } | Self::TimedOut { .. } => {
                "Sidebus tries again by itself; see the broker's log for the cause"
            }
            Self::Unsupported { .. } => "use another backend or a newer broker",
        }
    }
}
