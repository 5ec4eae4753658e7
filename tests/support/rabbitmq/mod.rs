//! A RabbitMQ for tests: the one that `BUS_TEST_AMQP_URL` names, else a private node that dies with this process.
//!
//! Every test owns names with a random prefix, so that tests share a broker without meeting each other.

use std::io::Write as _;
use std::time::Duration;

use secrecy::SecretString;
use sidebus::broker::amqp::{AmqpBroker, AmqpOptions, Login, Node, TlsOptions, Transport};
use sidebus::broker::{Broker as _, SessionId};
use sidebus::domain::version::Version;
use tokio::sync::OnceCell;

mod node;
mod server;

use super::container::{self, BrokerContainer};
pub(crate) use super::identity::Identity;
pub(crate) use node::BrokerHandle;
use server::Server;

/// The variable that names a broker of somebody's. Never `AMQP_URL`, which people export for their own broker.
const URL_VARIABLE: &str = "BUS_TEST_AMQP_URL";

/// A broker to connect to.
#[derive(Debug)]
pub(crate) struct SharedBroker {
    /// True for `amqps://`; roots of its own come by `SSL_CERT_FILE`.
    pub(crate) tls: bool,
    pub(crate) host: String,
    pub(crate) port: u16,
    pub(crate) vhost: String,
    pub(crate) username: String,
    pub(crate) password: String,
    /// The private node; none where a URL was given.
    pub(crate) node: Option<BrokerHandle>,
    /// The container, where it runs in one.
    pub(crate) container: Option<BrokerContainer>,
}

static SHARED: OnceCell<SharedBroker> = OnceCell::const_new();

/// The broker of this test process. Sources in order: the URL, a private node, a container where no server is
/// installed and an engine answers.
pub(crate) async fn shared() -> &'static SharedBroker {
    SHARED
        .get_or_init(async || {
            let shared = match given_url() {
                Some(url) => SharedBroker::from_url(&url),
                None if Server::find().is_none() && container::engine_is_there() => {
                    SharedBroker::contained(container::start().await)
                }
                None => SharedBroker::private(BrokerHandle::start().await),
            };
            let version = shared.version().await;
            // Past the capture of output, so that every run shows once what it ran on.
            let _ = writeln!(std::io::stderr(), "broker of these tests: RabbitMQ {version}");
            shared
        })
        .await
}

#[expect(
    clippy::disallowed_methods,
    reason = "only config reads the environment of the product; this is the tests' own"
)]
fn given_url() -> Option<String> {
    std::env::var(URL_VARIABLE).ok().filter(|url| !url.is_empty())
}

/// For connecting to the virtual host `/` of a broker.
pub(crate) fn options((host, port): (&str, u16), (username, password): (&str, &str)) -> AmqpOptions {
    AmqpOptions {
        nodes: vec![Node { host: host.to_owned(), port }],
        transport: Transport::Plain,
        vhost: "/".to_owned(),
        login: Login::Password { username: SecretString::from(username), password: SecretString::from(password) },
        connection_name: "sidebus-test".to_owned(),
        heartbeat: Duration::from_secs(10),
        preflight_timeout: Duration::from_secs(20),
        connect_timeout: Duration::from_secs(20),
        operation_timeout: Duration::from_secs(20),
        confirm_timeout: Duration::from_secs(30),
        close_timeout: Duration::from_secs(2),
        pool_size_max: 2,
        pool_wait_timeout: Duration::from_secs(10),
    }
}

impl SharedBroker {
    fn from_url(text: &str) -> Self {
        let url = url::Url::parse(text).expect("BUS_TEST_AMQP_URL is a URL");
        let tls = url.scheme() == "amqps";
        assert!(tls || url.scheme() == "amqp", "{URL_VARIABLE} must be amqp:// or amqps://");
        let decode = |part: &str| percent_decode(part);
        let path = url.path();
        Self {
            tls,
            host: url.host_str().expect("the URL names a host").trim_matches(['[', ']']).to_owned(),
            port: url.port().unwrap_or(if tls { 5671 } else { 5672 }),
            // Without a path the virtual host is "/", with a bare slash it is the empty one.
            vhost: if path.is_empty() { "/".to_owned() } else { decode(path.trim_start_matches('/')) },
            username: if url.username().is_empty() { "guest".to_owned() } else { decode(url.username()) },
            password: url.password().map_or_else(|| "guest".to_owned(), decode),
            node: None,
            container: None,
        }
    }

    pub(crate) fn private(node: BrokerHandle) -> Self {
        Self {
            tls: false,
            host: "127.0.0.1".to_owned(),
            port: node.port,
            vhost: "/".to_owned(),
            username: "guest".to_owned(),
            password: "guest".to_owned(),
            node: Some(node),
            container: None,
        }
    }

    fn contained(container: BrokerContainer) -> Self {
        Self {
            tls: false,
            host: "127.0.0.1".to_owned(),
            port: container.port,
            vhost: "/".to_owned(),
            username: "guest".to_owned(),
            password: "guest".to_owned(),
            node: None,
            container: Some(container),
        }
    }

    /// As the environment of a daemon would name it.
    pub(crate) fn url(&self) -> String {
        let vhost = self.vhost.replace('%', "%25").replace('/', "%2f");
        let scheme = if self.tls { "amqps" } else { "amqp" };
        format!("{scheme}://{}:{}@{}:{}/{vhost}", self.username, self.password, self.host, self.port)
    }

    /// For connecting to it.
    pub(crate) fn options(&self) -> AmqpOptions {
        let login = (self.username.as_str(), self.password.as_str());
        AmqpOptions {
            transport: if self.tls { Transport::Tls(TlsOptions::default()) } else { Transport::Plain },
            vhost: self.vhost.clone(),
            ..options((&self.host, self.port), login)
        }
    }

    /// Its version, as it tells every client.
    pub(crate) async fn version(&self) -> Version {
        let session = AmqpBroker::new(self.options()).connect(SessionId(1)).await.expect("the broker is up");
        let found = session.capabilities().clone();
        session.close(Duration::from_secs(2)).await;
        found.release().unwrap_or_else(|| panic!("{found:?} is no version"))
    }

    /// A bare connection, for what a test does behind Sidebus's back.
    pub(crate) async fn lapin(&self) -> lapin::Connection {
        lapin::Connection::connect(&self.url(), lapin::ConnectionProperties::default()).await.expect("the broker is up")
    }

    /// For tests that need the default names and therefore a virtual host of their own: fails where somebody else's
    /// deployment is found.
    pub(crate) async fn claim_default_names(&self) {
        if self.node.is_some() {
            return;
        }
        let connection = self.lapin().await;
        for name in ["angzarr.events", "angzarr.dlx"] {
            let channel = connection.create_channel().await.expect("a channel");
            let options = lapin::options::ExchangeDeclareOptions { passive: true, ..Default::default() };
            let kind = lapin::ExchangeKind::Topic;
            let found =
                channel.exchange_declare(name.into(), kind, options, lapin::types::FieldTable::default()).await.is_ok();
            assert!(!found, "{URL_VARIABLE} names a virtual host in use: exchange {name} exists");
        }
        let channel = connection.create_channel().await.expect("a channel");
        let options = lapin::options::QueueDeclareOptions { passive: true, ..Default::default() };
        let found =
            channel.queue_declare("angzarr.dlq".into(), options, lapin::types::FieldTable::default()).await.is_ok();
        assert!(!found, "{URL_VARIABLE} names a virtual host in use: queue angzarr.dlq exists");
    }
}

/// A prefix that nobody else has.
pub(crate) fn prefix() -> String {
    let mut bytes = [0_u8; 6];
    getrandom::fill(&mut bytes).expect("randomness");
    bytes.iter().fold("t-".to_owned(), |name, byte| format!("{name}{byte:02x}"))
}

fn percent_decode(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        let hex = after.get(..2).filter(|_| *first == b'%').and_then(|hex| std::str::from_utf8(hex).ok());
        if let Some(byte) = hex.and_then(|hex| u8::from_str_radix(hex, 16).ok()) {
            bytes.push(byte);
            rest = &after[2..];
        } else {
            bytes.push(*first);
            rest = after;
        }
    }
    String::from_utf8(bytes).expect("the URL is UTF-8")
}
