//! What the RabbitMQ backend needs to know. Knows no settings file: whoever composes the process fills it.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use secrecy::{ExposeSecret, SecretString};

use crate::broker::BrokerError;

/// The largest frame that we ask for: what RabbitMQ offers unless told otherwise (`frame_max`). lapin has four MiB of room for
/// frames in each direction; told the size before it connects it gets that as memory which is there once it is used, told by the
/// broker it writes zeros to all of it: 24 MiB for three connections (measured with 4.12.3).
pub(super) const FRAME_BYTES_MAX: u32 = 131_072;

/// Where RabbitMQ is, who we are there, and how long each step may take: as of one connect.
#[derive(Clone)]
pub struct AmqpOptions {
    /// The nodes, at least one: a session goes to the first that answers, in any order.
    pub nodes: Vec<Node>,
    /// How the bytes travel, the same for all nodes.
    pub transport: Transport,
    /// Virtual host, decoded; may be empty.
    pub vhost: String,
    /// Who we are.
    pub login: Login,
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

/// A node of the broker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    /// Name or address, without brackets; with TLS also the name that the certificate must carry.
    pub host: String,
    /// Such as 5672, or 5671 with TLS.
    pub port: u16,
}

impl fmt::Display for Node {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            return write!(f, "[{}]:{}", self.host, self.port);
        }
        write!(f, "{}:{}", self.host, self.port)
    }
}

/// How the bytes travel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Transport {
    /// `amqp://`
    Plain,
    /// `amqps://`
    Tls(TlsOptions),
}

/// How the broker is known, and how we are. The files are read at every connect.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TlsOptions {
    /// PEM of the authorities that are trusted, instead of this host's.
    pub ca_file: Option<PathBuf>,
    /// Our own certificate, for brokers that ask for one.
    pub identity: Option<IdentityFiles>,
    /// The name that is sent and looked for in the broker's certificate, instead of the host.
    pub server_name: Option<String>,
}

/// A client certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IdentityFiles {
    /// PEM, our certificate first, then those between it and the authority.
    pub cert_file: PathBuf,
    /// PEM, not encrypted: PKCS#8, PKCS#1 or SEC1.
    pub key_file: PathBuf,
}

/// Who we are at the broker.
#[derive(Clone)]
pub enum Login {
    /// SASL PLAIN; decoded.
    Password {
        /// The user.
        username: SecretString,
        /// The password.
        password: SecretString,
    },
    /// SASL EXTERNAL: the client certificate tells.
    Certificate,
    /// SASL PLAIN with a token as the password, which the broker looks into for the user.
    Token(SecretString),
}

impl Login {
    /// Who, for people.
    pub(super) fn user(&self) -> String {
        match self {
            Self::Password { username, .. } => username.expose_secret().to_owned(),
            Self::Certificate => "of the client certificate".to_owned(),
            Self::Token(_) => "of the token".to_owned(),
        }
    }

    /// User and password as PLAIN sends them; empty where the certificate speaks.
    pub(super) fn plain(&self) -> (&str, &str) {
        match self {
            Self::Password { username, password } => (username.expose_secret(), password.expose_secret()),
            Self::Certificate => ("", ""),
            Self::Token(token) => ("", token.expose_secret()),
        }
    }
}

impl fmt::Debug for Login {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Password { .. } => "Password",
            Self::Certificate => "Certificate",
            Self::Token(_) => "Token",
        })
    }
}

/// Whether addresses and logins may change while the process runs.
#[derive(Clone)]
pub enum Changes {
    /// They are what they are.
    Never,
    /// They lie in files: asked at every connect for what these say now.
    Reread(Arc<dyn Fn() -> Result<AmqpOptions, BrokerError> + Send + Sync>),
}

impl fmt::Debug for Changes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Never => "Never",
            Self::Reread(_) => "Reread",
        })
    }
}

impl AmqpOptions {
    /// Scheme, host and port of every node for people, without credentials.
    pub fn endpoint(&self) -> String {
        let nodes: Vec<String> = self.nodes.iter().map(ToString::to_string).collect();
        format!("{}://{}", self.scheme(), nodes.join(","))
    }

    /// The same of one node.
    pub(super) fn endpoint_of(&self, node: &Node) -> String {
        format!("{}://{node}", self.scheme())
    }

    fn scheme(&self) -> &'static str {
        match self.transport {
            Transport::Plain => "amqp",
            Transport::Tls(_) => "amqps",
        }
    }

    /// What the broker is asked for: four fifths of the setting, in whole seconds as the protocol has them. lapin 4.12 looks for
    /// silence every half heartbeat and ends a connection after more than two, so after two and a half of its own at
    /// most: those are two of the setting.
    pub(super) fn heartbeat_seconds(&self) -> u16 {
        u16::try_from(self.heartbeat.as_secs() * 4 / 5).unwrap_or(u16::MAX).max(1)
    }

    /// The URL of one address that the pool's inner manager wants, every part encoded by us. A secret: it carries the
    /// password.
    pub(super) fn url(&self, address: SocketAddr) -> SecretString {
        let (username, password) = self.login.plain();
        SecretString::from(format!(
            "{}://{}:{}@{address}/{}?heartbeat={}&frame_max={FRAME_BYTES_MAX}",
            self.scheme(),
            percent_encode(username),
            percent_encode(password),
            percent_encode(&self.vhost),
            self.heartbeat_seconds(),
        ))
    }

    /// A text of the broker or the system without anything that could be the password.
    pub(super) fn scrub(&self, text: &str) -> String {
        let (username, password) = self.login.plain();
        scrub(text, username, password)
    }
}

impl fmt::Debug for AmqpOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AmqpOptions")
            .field("endpoint", &self.endpoint())
            .field("transport", &self.transport)
            .field("login", &self.login)
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

/// A text without the password, as it is or encoded, and without what stands before the `@` of an address.
pub(super) fn scrub(text: &str, username: &str, password: &str) -> String {
    let mut clean = text.to_owned();
    // A password that equals the user's name cannot be told from the name, which is no secret.
    if !password.is_empty() && password != username {
        clean = clean.replace(password, "***").replace(&percent_encode(password), "***");
    }
    scrub_userinfo(&clean)
}

/// Encodes every byte that is not unreserved (RFC 3986, section 2.3).
pub(super) fn percent_encode(text: &str) -> String {
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
            nodes: vec![Node { host: "127.0.0.1".to_owned(), port }],
            transport: Transport::Plain,
            vhost: "/".to_owned(),
            login: Login::Password { username: SecretString::from("mia"), password: SecretString::from("p@ss/wörd") },
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
    fn an_endpoint_names_every_node() {
        let node = |host: &str, port| Node { host: host.to_owned(), port };
        let options = AmqpOptions { nodes: vec![node("a", 5672), node("::1", 5673)], ..sample(1) };
        assert_eq!(options.endpoint(), "amqp://a:5672,[::1]:5673");
        let options = AmqpOptions { transport: Transport::Tls(TlsOptions::default()), ..options };
        assert_eq!(options.endpoint_of(&options.nodes[0]), "amqps://a:5672");
    }

    #[test]
    fn the_url_survives_hostile_credentials_and_vhosts() {
        let address = SocketAddr::from(([127, 0, 0, 1], 5672));
        let url = sample(5672).url(address);
        let uri: lapin::uri::AMQPUri = url.expose_secret().parse().unwrap();
        assert_eq!(uri.authority.userinfo.password, "p@ss/wörd");
        assert_eq!((uri.vhost.as_str(), uri.authority.port, uri.query.heartbeat), ("/", 5672, Some(8)));
        let empty = AmqpOptions { vhost: String::new(), ..sample(1) };
        let uri: lapin::uri::AMQPUri = empty.url(address).expose_secret().parse().unwrap();
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
