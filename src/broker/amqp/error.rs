//! Turns lapin's errors into ours. Knows no channel and no connection; texts of the broker are kept, credentials never.

use std::future::Future;
use std::time::Duration;

use lapin::ErrorKind;
use tokio::time::timeout;

use super::options::{AmqpOptions, Node};
use super::tls;
use crate::broker::BrokerError;
use crate::domain::name::ExchangeName;

/// Reply codes of AMQP 0-9-1 that we tell apart.
mod code {
    pub(super) const ACCESS_REFUSED: u16 = 403;
    pub(super) const NOT_FOUND: u16 = 404;
    pub(super) const RESOURCE_LOCKED: u16 = 405;
    pub(super) const PRECONDITION_FAILED: u16 = 406;
    pub(super) const FRAME_ERROR: u16 = 501;
    pub(super) const NOT_ALLOWED: u16 = 530;
}

/// The broker's reply code and words, if it was the broker that spoke.
fn reply(error: &lapin::Error) -> Option<(u16, String)> {
    if let ErrorKind::ProtocolError(amqp) = error.kind() {
        return Some((amqp.kind().get_id(), amqp.get_message().to_string()));
    }
    None
}

/// The words of an error, the broker's own where it spoke.
pub(super) fn words(error: &lapin::Error) -> String {
    reply(error).map_or_else(|| error.to_string(), |(_, text)| text)
}

/// Why a connection to a node could not be opened.
pub(super) fn connecting(error: &lapin::Error, options: &AmqpOptions, node: &Node) -> BrokerError {
    let endpoint = options.endpoint_of(node);
    if let ErrorKind::IOError(io) = error.kind() {
        return streaming(io, options, node);
    }
    let reason = options.scrub(&words(error));
    match reply(error).map(|(code, _)| code) {
        Some(code::ACCESS_REFUSED) => BrokerError::LoginRefused { endpoint, user: options.login.user(), reason },
        Some(code::NOT_ALLOWED) => BrokerError::VhostRefused { endpoint, vhost: options.vhost.clone(), reason },
        Some(_) => BrokerError::SessionLost { reason },
        None => BrokerError::Unreachable { endpoint, reason },
    }
}

/// Why a stream that was open ended before the broker had greeted: TLS's own words where it was TLS.
pub(super) fn streaming(error: &std::io::Error, options: &AmqpOptions, node: &Node) -> BrokerError {
    let endpoint = options.endpoint_of(node);
    match tls::told(error) {
        Some(told) => tls::failure(told, &node.host).at(endpoint),
        None => BrokerError::Unreachable { endpoint, reason: error.to_string() },
    }
}

/// What lapin could not read of what the broker has sent; `None` = it was something else. Headers may fit into a frame when
/// they are published and not when they are handed out: the broker adds its own.
fn unread(error: &lapin::Error) -> Option<BrokerError> {
    // lapin's own words: the broker says the same code of what we send.
    let is_large = |(code, text): (u16, String)| code == code::FRAME_ERROR && text.starts_with("frame too large: ");
    let is_unread = matches!(error.kind(), ErrorKind::ParsingError(_)) || reply(error).is_some_and(is_large);
    is_unread.then(|| BrokerError::Unparsable { reason: words(error) })
}

/// Why a call on a channel failed. `object` is what it was about, such as `queue player-projector`.
pub(super) fn calling(error: &lapin::Error, object: &str) -> BrokerError {
    if let Some(unread) = unread(error) {
        return unread;
    }
    let Some((code, reason)) = reply(error) else {
        return BrokerError::SessionLost { reason: error.to_string() };
    };
    match code {
        code::ACCESS_REFUSED => BrokerError::AccessRefused { action: format!("access to {object}"), reason },
        code::NOT_FOUND => BrokerError::Missing { object: missing(object, &reason) },
        code::RESOURCE_LOCKED => BrokerError::Locked { object: object.to_owned() },
        code::PRECONDITION_FAILED => {
            BrokerError::Mismatch { object: object.to_owned(), differences: Vec::new(), reason }
        }
        _ => ended(error),
    }
}

/// The broker's words where it closed the connection for what was just asked: not for its own end (320), nor for a frame
/// that it could not read. Its texts begin with the name of the code.
pub(super) fn denial(error: &BrokerError) -> Option<String> {
    let names = ["NOT_ALLOWED - ", "NOT_IMPLEMENTED - ", "INTERNAL_ERROR - "];
    let BrokerError::SessionLost { reason } = error else { return None };
    // A text in lines would tear a log.
    let one_line = || reason.split_whitespace().collect::<Vec<_>>().join(" ");
    names.iter().any(|name| reason.starts_with(name)).then(one_line)
}

/// The broker's words, if it has closed a channel because this exchange takes no publishes from us: it is internal, or the
/// user lacks the right to write to it. A right that hangs on the routing key says nothing of the exchange.
pub(super) fn refused_publish(error: &lapin::Error, exchange: &ExchangeName) -> Option<String> {
    let (code::ACCESS_REFUSED, text) = reply(error)? else { return None };
    let name = if exchange.is_nameless() { "amq.default" } else { exchange.as_str() };
    let is_said = |words: &&str| text.starts_with(&format!("ACCESS_REFUSED - {words} exchange '{name}' in vhost"));
    // The words of 3.10 and 4.0, then those of 4.3.
    ["cannot publish to internal", "access to", "write access to"].iter().any(is_said).then_some(text)
}

/// Why a channel or a connection is over.
pub(super) fn ended(error: &lapin::Error) -> BrokerError {
    if let Some(unread) = unread(error) {
        return unread;
    }
    let reason = words(error);
    if error.is_amqp_soft_error() { BrokerError::ChannelClosed { reason } } else { BrokerError::SessionLost { reason } }
}

/// The broker names what it did not find: `NOT_FOUND - no exchange 'x' in vhost '/'`; a bind may miss either end.
fn missing(object: &str, reason: &str) -> String {
    ["exchange", "queue"]
        .into_iter()
        .find_map(|kind| {
            let (_, rest) = reason.split_once(&format!("no {kind} '"))?;
            let (name, _) = rest.split_once("' in vhost")?;
            Some(format!("{kind} {name}"))
        })
        .unwrap_or_else(|| object.to_owned())
}

/// Waits for a call of lapin, but not for ever: none of them has a deadline of its own.
pub(super) async fn within<T>(
    limit: Duration,
    operation: &str,
    call: impl Future<Output = lapin::Result<T>>,
) -> Result<T, BrokerError> {
    match timeout(limit, call).await {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(error)) => Err(calling(&error, operation)),
        Err(_) => Err(BrokerError::TimedOut { operation: operation.to_owned(), within: limit }),
    }
}

#[cfg(test)]
mod tests {
    use lapin::protocol::{AMQPError, AMQPErrorKind};

    use super::*;
    use crate::broker::amqp::options::tests::sample;

    fn spoken(code: u16, text: &str) -> lapin::Error {
        ErrorKind::ProtocolError(AMQPError::new(AMQPErrorKind::from_id(code).unwrap(), text.into())).into()
    }

    #[test]
    fn the_codes_of_a_refused_connect_are_told_apart() {
        let options = sample(5672);
        let login = connecting(&spoken(403, "ACCESS_REFUSED - p@ss/wörd is wrong"), &options, &options.nodes[0]);
        assert!(matches!(&login, BrokerError::LoginRefused { user, .. } if user == "mia"), "{login:?}");
        assert!(!login.to_string().contains("p@ss"), "{login}");
        let vhost = connecting(&spoken(530, "NOT_ALLOWED - vhost x not found"), &options, &options.nodes[0]);
        assert!(matches!(vhost, BrokerError::VhostRefused { .. }), "{vhost:?}");
    }

    #[test]
    fn a_denial_is_what_closes_a_connection_for_what_was_asked() {
        let of = |code, text| denial(&calling(&spoken(code, text), "queue q"));
        let told = of(541, "INTERNAL_ERROR - Feature `x` is deprecated.\nIts use is not permitted");
        assert_eq!(told.as_deref(), Some("INTERNAL_ERROR - Feature `x` is deprecated. Its use is not permitted"));
        for (code, text) in
            [(320, "CONNECTION_FORCED - bye"), (406, "PRECONDITION_FAILED - x"), (501, "FRAME_ERROR - x")]
        {
            assert_eq!(of(code, text), None, "{text}");
        }
    }

    #[test]
    fn a_refused_publish_blames_the_exchange_and_never_its_neighbours_or_a_routing_key() {
        let refused = |code, text: &str, exchange: &str| {
            let exchange = ExchangeName::parse(exchange).unwrap_or_else(|_| ExchangeName::nameless());
            refused_publish(&spoken(code, &format!("ACCESS_REFUSED - {text}")), &exchange).is_some()
        };
        for text in [
            "cannot publish to internal exchange 'x' in vhost '/'",
            "access to exchange 'x' in vhost '/' refused for user 'u'",
            "write access to exchange 'x' in vhost '/' refused for user 'u'",
        ] {
            assert!(refused(403, text, "x"), "{text}");
            assert!(!refused(403, text, "y") && !refused(403, text, "x2") && !refused(404, text, "x"), "{text}");
        }
        assert!(refused(403, "access to exchange 'amq.default' in vhost '/' refused for user 'u'", ""));
        let topic =
            "access to topic 'access to exchange 'y' in vhost' in exchange 'x' in vhost '/' refused for user 'u'";
        assert!(!refused(403, topic, "x") && !refused(403, topic, "y"));
    }

    #[test]
    fn what_cannot_be_read_is_told_from_what_the_broker_could_not_read() {
        for (text, is_unread) in
            [("frame too large: 131149 bytes", true), ("FRAME_ERROR - frame size 131149 larger than 131072", false)]
        {
            let ended = ended(&spoken(501, text));
            assert_eq!(matches!(ended, BrokerError::Unparsable { .. }), is_unread, "{ended:?}");
        }
    }

    #[test]
    fn the_codes_of_a_refused_call_are_told_apart() {
        for (code, text, expected) in [
            (404, "NOT_FOUND - no exchange 'a b' in vhost '/'", BrokerError::Missing { object: "exchange a b".into() }),
            (404, "NOT_FOUND - whatever", BrokerError::Missing { object: "queue q".into() }),
            (405, "RESOURCE_LOCKED", BrokerError::Locked { object: "queue q".into() }),
            (
                406,
                "PRECONDITION_FAILED - x",
                BrokerError::Mismatch {
                    object: "queue q".into(),
                    differences: Vec::new(),
                    reason: "PRECONDITION_FAILED - x".into(),
                },
            ),
            (403, "no", BrokerError::AccessRefused { action: "access to queue q".into(), reason: "no".into() }),
            (320, "CONNECTION_FORCED", BrokerError::SessionLost { reason: "CONNECTION_FORCED".into() }),
            (313, "NO_CONSUMERS", BrokerError::ChannelClosed { reason: "NO_CONSUMERS".into() }),
        ] {
            assert_eq!(calling(&spoken(code, text), "queue q"), expected);
        }
    }
}
