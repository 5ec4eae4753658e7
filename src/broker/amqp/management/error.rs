//! Why the management API did not tell. Knows no HTTP; credentials never come in.

use thiserror::Error;

/// Why the management API did not tell.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum ManagementError {
    /// No connection, no TLS, no answer in time, or an error of its own (5xx).
    #[error(
        "cannot reach the management API at {endpoint}: {reason}; check bus.amqp.management.url and that the plugin \
         rabbitmq_management is enabled"
    )]
    Unreachable {
        /// Scheme, host and port, without credentials.
        endpoint: String,
        /// What failed.
        reason: String,
    },
    /// Login or rights (401, 403).
    #[error(
        "the management API at {endpoint} refused user {user}: {reason}; the user needs the tag management and rights \
         in the virtual host: rabbitmqctl set_user_tags"
    )]
    Refused {
        /// Scheme, host and port, without credentials.
        endpoint: String,
        /// Who asked.
        user: String,
        /// The broker's words.
        reason: String,
    },
    /// There is no such object (404).
    #[error("{name} does not exist")]
    NotThere {
        /// Its name.
        name: String,
    },
    /// What answers is something else.
    #[error("what answers at {endpoint} is no management API of RabbitMQ: {reason}; check bus.amqp.management.url")]
    NotManagement {
        /// Scheme, host and port, without credentials.
        endpoint: String,
        /// Why.
        reason: String,
    },
}
