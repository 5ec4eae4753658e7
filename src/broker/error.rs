//! What can go wrong with a broker, in our own words. Knows no client library.

use std::net::IpAddr;
use std::time::Duration;

use thiserror::Error;

use crate::domain::difference::{self, Difference, ObjectKind};

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
        /// Whose fault it is.
        fault: TlsFault,
    },
    /// The login or the address cannot be read from its file any more.
    #[error("the way to the broker cannot be read: {reason}")]
    Unreadable {
        /// Which setting and file, and why.
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
    /// An object exists with other arguments, or the broker takes none like this (406; 541 where its release or settings
    /// deny it).
    #[error("{object} {}", unlike(differences, reason))]
    Mismatch {
        /// Such as `queue player-projector`.
        object: String,
        /// What was named and differs; empty where only the broker's words are known.
        differences: Vec<Difference>,
        /// The broker's words where nothing could be told apart in them; else empty.
        reason: String,
    },
    /// An exclusive queue of another connection (405).
    #[error("{object} is exclusive to another connection")]
    Locked {
        /// Such as `queue player-projector`.
        object: String,
    },
    /// The consumer was cancelled. By the broker: its queue was deleted, or acks were late (quorum queues from RabbitMQ 4.3 on),
    /// and what was unsettled is gone, or comes again. By this side: receipts stay good.
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
    /// The broker sent what the client library cannot read, and that was the end of its connection: of the session, or of a
    /// consumer that has a connection of its own.
    #[error("the connection is lost: a message cannot be read ({reason})")]
    Unparsable {
        /// What could not be read.
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

/// Every difference, or the broker's own words.
fn unlike(differences: &[Difference], reason: &str) -> String {
    if differences.is_empty() {
        return format!("is not to be had as named: {reason}");
    }
    let differences: Vec<String> = differences.iter().map(Difference::to_string).collect();
    format!("exists and is not as named: {}", differences.join("; "))
}

/// Whether a broker at this endpoint sees us come from its own machine, as far as the text tells.
fn is_loopback(endpoint: &str) -> bool {
    let place = endpoint.split_once("://").map_or(endpoint, |(_scheme, place)| place);
    let host = place.rsplit_once(':').map_or(place, |(host, _port)| host);
    let host = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(host);
    host.eq_ignore_ascii_case("localhost") || host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

/// Whether an exchange takes no publishes at all, in our words or in RabbitMQ's: no right helps then.
fn is_internal(reason: &str) -> bool {
    reason == "it is internal" || reason.starts_with("ACCESS_REFUSED - cannot publish to internal exchange")
}

/// Why there is no TLS, as far as it decides what to try.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TlsFault {
    /// The broker's certificate is by nobody whom we trust.
    UnknownAuthority,
    /// The broker's certificate is for another name.
    WrongName,
    /// The broker's certificate is not valid now.
    Expired,
    /// The broker wants another client certificate than it got, or any at all.
    ClientCertificate,
    /// A file of ours.
    OwnFiles,
    /// What answers does not speak TLS.
    NoTls,
    /// Anything else.
    Other,
}

impl TlsFault {
    fn hint(self) -> &'static str {
        match self {
            Self::UnknownAuthority => {
                "set bus.amqp.tls.ca_file (or SSL_CERT_FILE) to the authority that signed the broker's certificate"
            }
            Self::WrongName => {
                "name the broker as its certificate does, or set bus.amqp.tls.server_name to the name in it"
            }
            Self::Expired => "renew the broker's certificate, or set this host's clock",
            Self::ClientCertificate => {
                "set bus.amqp.tls.cert_file and key_file to a certificate that is valid now, by an authority that the \
                 broker trusts"
            }
            Self::OwnFiles => "correct the file, or the setting that names it; it is read again at the next try",
            Self::NoTls => {
                "use the port of the broker's TLS listener, such as 5671, or amqp:// where the network is trusted"
            }
            Self::Other => "check the certificate and the host name; amqps:// uses port 5671",
        }
    }
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
    /// Something that the broker sent could not be read.
    Parse,
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
            Self::Parse => "parse",
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
            Self::LoginRefused { .. }
            | Self::VhostRefused { .. }
            | Self::AccessRefused { .. }
            | Self::Unreadable { .. } => ErrorClass::Login,
            Self::SessionLost { .. } | Self::ChannelClosed { .. } | Self::ConsumerCancelled { .. } => {
                ErrorClass::Forced
            }
            Self::Unparsable { .. } => ErrorClass::Parse,
            Self::Missing { .. }
            | Self::Mismatch { .. }
            | Self::Locked { .. }
            | Self::Blocked { .. }
            | Self::TimedOut { .. }
            | Self::Unsupported { .. } => ErrorClass::Other,
        }
    }

    /// True when an object or a right on the broker is not as needed, while the session is well: it concerns those who
    /// use that object and nobody else.
    pub fn is_about_an_object(&self) -> bool {
        match self {
            Self::AccessRefused { .. }
            | Self::Missing { .. }
            | Self::Mismatch { .. }
            | Self::Locked { .. }
            | Self::Unsupported { .. } => true,
            Self::Unreachable { .. }
            | Self::Tls { .. }
            | Self::Unreadable { .. }
            | Self::LoginRefused { .. }
            | Self::VhostRefused { .. }
            | Self::ConsumerCancelled { .. }
            | Self::ChannelClosed { .. }
            | Self::SessionLost { .. }
            | Self::Unparsable { .. }
            | Self::Blocked { .. }
            | Self::TimedOut { .. } => false,
        }
    }

    /// The object that is not there or not as wanted, such as `queue player-projector`.
    pub fn differing_object(&self) -> Option<&str> {
        if let Self::Missing { object } | Self::Mismatch { object, .. } | Self::Locked { object } = self {
            return Some(object);
        }
        None
    }

    /// What an operator can try.
    pub fn hint(&self) -> &'static str {
        match self {
            Self::Unreachable { .. } => "check bus.amqp.url (AMQP_URL) and that the broker listens there",
            Self::Tls { fault, .. } => fault.hint(),
            Self::Unreadable { .. } => "mount the file again, or correct what it holds; it is read at the next try",
            Self::LoginRefused { user, endpoint, .. } if user == "guest" && !is_loopback(endpoint) => {
                "the broker accepts guest from its own machine only: give Sidebus a user of its own"
            }
            Self::LoginRefused { .. } => {
                "check user and password: rabbitmqctl authenticate_user tells whether they fit"
            }
            Self::VhostRefused { .. } => {
                "create the virtual host or give the user rights: rabbitmqctl add_vhost, set_permissions; a slash at \
                 the end of the URL means the empty virtual host"
            }
            Self::AccessRefused { reason, .. } if is_internal(reason) => {
                "publish to the exchange that feeds it, or make it again without `internal`"
            }
            Self::AccessRefused { .. } => "give the user the right: rabbitmqctl set_permissions",
            Self::Missing { object } if ObjectKind::of(object) == Some(ObjectKind::Exchange) => {
                "let Sidebus create it: configure it under [exchanges.<name>], with bus.amqp.topology = \"create\"; or create \
                 it on the broker, or correct the name"
            }
            Self::Missing { .. } => "create it, or set bus.amqp.topology = \"create\"",
            Self::Mismatch { differences, .. } if differences.is_empty() => {
                "change the key that the reason names, or leave it out"
            }
            Self::Mismatch { object, differences, .. } => {
                difference::hint(ObjectKind::of(object).unwrap_or(ObjectKind::Queue), differences)
            }
            Self::Locked { .. } => {
                "another process holds this exclusive queue, or a connection that the broker has not given up yet; \
                 stop that process or use another name"
            }
            Self::Blocked { .. } => "free memory or disk on the broker; see its log for the alarm",
            Self::ConsumerCancelled { .. } => {
                "the queue was deleted, or (from RabbitMQ 4.3 on) a delivery was held for longer than the broker's \
                 consumer_timeout: keep max_lease below it; Sidebus consumes again by itself"
            }
            Self::ChannelClosed { .. } | Self::SessionLost { .. } | Self::TimedOut { .. } => {
                "Sidebus tries again by itself; see the broker's log for the cause"
            }
            Self::Unparsable { .. } => {
                "Sidebus looks for the queue of that message by itself; whoever publishes it sends a routing key, a name of a \
                 header or a content type that is not UTF-8, or nearly 128 KiB of headers"
            }
            Self::Unsupported { .. } => "use another backend or a newer broker",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn guest_is_told_to_come_from_elsewhere_only_where_it_does() {
        for (endpoint, user, is_from_elsewhere) in [
            ("amqp://rabbit:5672", "guest", true),
            ("amqps://10.0.0.1:5671", "guest", true),
            ("amqp://rabbit:5672", "app", false),
            ("amqp://localhost:5672", "guest", false),
            ("amqp://127.0.0.1:5672", "guest", false),
            ("amqps://[::1]:5671", "guest", false),
        ] {
            let (endpoint, user, reason) = (endpoint.to_owned(), user.to_owned(), String::new());
            let error = BrokerError::LoginRefused { endpoint, user, reason };
            assert_eq!(error.hint().contains("its own machine"), is_from_elsewhere, "{error}");
            assert_eq!(error.hint().contains("check user and password"), !is_from_elsewhere, "{error}");
        }
    }
}
