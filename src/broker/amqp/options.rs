//! What the RabbitMQ backend needs to know. Knows no settings file: whoever composes the process fills it.

use std::fmt;
use std::time::Duration;

use secrecy::{ExposeSecret, SecretString};

/// Where RabbitMQ is, who we are there, and how long each step may take.
#[derive(Clone)]
pub struct AmqpOptions {
    /// True for `amqps://`.
    pub tls: bool,
    /// Host name or address; with TLS also the name that the certificate must carry.
    pub host: String,
    /// Such as 5672, or 5671 with TLS.
    pub port: u16,
    /// Virtual host, decoded; may be empty.
    pub vhost: String,
    /// Decoded.
    pub username: SecretString,
    /// Decoded.
    pub password: SecretString,
    /// Shown by the broker, followed by the role of the connection.
    pub connection_name: String,
    /// Whole seconds, 1 to 65,535; a half-open link is noticed within twice this.
    pub heartbeat: Duration,
    /// Our own probe, all of it: name, TCP, TLS, greeting.
    pub preflight_timeout: Duration,
    /// One connection, from TCP to the virtual host.
    pub connect_timeout: Duration,
    /// One declare, bind, consume, cancel or flush of settlements.
    pub operation_timeout: Duration,
    /// One batch of publishes, until every confirm is there.
    pub confirm_timeout: Duration,
    /// Most time of the close handshakes, after everything was given back.
    pub close_timeout: Duration,
    /// Connections of the publish pool, and of the admin pool; at least 1.
    pub pool_size_max: usize,
    /// Wait for a pooled connection while all are taken.
    pub pool_wait_timeout: Duration,
}

impl AmqpOptions {
    /// Host and port for people, without credentials.
    pub fn endpoint(&self) -> String {
        let scheme = if self.tls { "amqps" } else { "amqp" };
        if self.host.contains(':') {
            return format!("{scheme}://[{}]:{}", self.host, self.port);
        }
        format!("{scheme}://{}:{}", self.host, self.port)
    }

    /// Heartbeat as the protocol carries it.
    pub(super) fn heartbeat_seconds(&self) -> u16 {
        u16::try_from(self.heartbeat.as_secs()).unwrap_or(u16::MAX).max(1)
    }

    /// The URL that the pool's inner manager wants, every part encoded by us. A secret: it carries the password.
    pub(super) fn url(&self) -> SecretString {
        let scheme = if self.tls { "amqps" } else { "amqp" };
        let host = if self.host.contains(':') { format!("[{}]", self.host) } else { self.host.clone() };
        SecretString::from(format!(
            "{scheme}://{}:{}@{host}:{}/{}?heartbeat={}",
            percent_encode(self.username.expose_secret()),
            percent_encode(self.password.expose_secret()),
            self.port,
            percent_encode(&self.vhost),
            self.heartbeat_seconds(),
        ))
    }

    /// A text of the broker or the system without anything that could be the password.
    pub(super) fn scrub(&self, text: &str) -> String {
        let mut clean = text.to_owned();
        let password = self.password.expose_secret();
        // A password that equals the user's name cannot be told from the name, which is no secret.
        if !password.is_empty() && password != self.username.expose_secret() {
            clean = clean.replace(password, "***").replace(&percent_encode(password), "***");
        }
        scrub_userinfo(&clean)
    }
}

impl fmt::Debug for AmqpOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AmqpOptions")
            .field("endpoint", &self.endpoint())
            .field("vhost", &self.vhost)
            .field("connection_name", &self.connection_name)
            .field("heartbeat", &self.heartbeat)
            .field("connect_timeout", &self.connect_timeout)
            .field("operation_timeout", &self.operation_timeout)
            .field("confirm_timeout", &self.confirm_timeout)
            .field("pool_size_max", &self.pool_size_max)
            .finish_non_exhaustive()
    }
}

/// Encodes every byte that is not unreserved (RFC 3986, section 2.3).
fn percent_encode(text: &str) -> String {
    use std::fmt::Write as _;
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~') {
            encoded.push(char::from(byte));
        } else {
            let _ = write!(encoded, "%{byte:02X}");
        }
    }
    encoded
}

/// Replaces what stands between `://` and the last `@` of each word.
fn scrub_userinfo(text: &str) -> String {
    let mut clean = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(start) = rest.find("://") {
        let (before, after) = rest.split_at(start + 3);
        let word = after.find(char::is_whitespace).unwrap_or(after.len());
        clean.push_str(before);
        rest = after;
        if let Some(at) = after[..word].rfind('@') {
            clean.push_str("***");
            rest = &after[at..];
        }
    }
    clean.push_str(rest);
    clean
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(in crate::broker::amqp) fn sample(port: u16) -> AmqpOptions {
        AmqpOptions {
            tls: false,
            host: "127.0.0.1".to_owned(),
            port,
            vhost: "/".to_owned(),
            username: SecretString::from("mia"),
            password: SecretString::from("p@ss/wörd"),
            connection_name: "sidebus".to_owned(),
            heartbeat: Duration::from_secs(10),
            preflight_timeout: Duration::from_secs(5),
            connect_timeout: Duration::from_secs(10),
            operation_timeout: Duration::from_secs(10),
            confirm_timeout: Duration::from_secs(10),
            close_timeout: Duration::from_secs(2),
            pool_size_max: 2,
            pool_wait_timeout: Duration::from_secs(5),
        }
    }

    #[test]
    fn debug_and_endpoint_show_no_credentials() {
        let shown = format!("{:?} {}", sample(5672), sample(5672).endpoint());
        assert!(!shown.contains("mia") && !shown.contains("p@ss") && !shown.contains("p%40ss"), "{shown}");
    }

    #[test]
    fn the_url_survives_hostile_credentials_and_vhosts() {
        let url = sample(5672).url();
        let uri: lapin::uri::AMQPUri = url.expose_secret().parse().unwrap();
        assert_eq!(uri.authority.userinfo.password, "p@ss/wörd");
        assert_eq!((uri.vhost.as_str(), uri.authority.port, uri.query.heartbeat), ("/", 5672, Some(10)));
        let empty = AmqpOptions { vhost: String::new(), ..sample(1) };
        let uri: lapin::uri::AMQPUri = empty.url().expose_secret().parse().unwrap();
        assert_eq!(uri.vhost, "", "a bare slash means the empty virtual host");
    }

    #[test]
    fn texts_lose_the_password_in_every_form() {
        let options = sample(5672);
        for text in ["bad p@ss/wörd here", "bad p%40ss%2Fw%C3%B6rd", "at amqp://mia:p@ss/wörd@host:1/x now"] {
            let clean = options.scrub(text);
            assert!(!clean.contains("p@ss") && !clean.contains("p%40ss"), "{clean}");
        }
        assert_eq!(options.scrub("see amqp://a:b@host/x and amqp://host/y"), "see amqp://***@host/x and amqp://host/y");
    }
}
