//! The checked settings of one process. Knows no source: `config::load` fills it.

use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use secrecy::SecretString;

use super::access::AccessFiles;
use crate::domain::name::QueueName;
use crate::domain::subscription::{DeadLetterSettings, DeliverySettings, RetrySettings, Subscription};
use crate::domain::topology::{Exchange, TopologyMode};

/// Everything that a sidecar needs to know; every value is in its bounds.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Which broker.
    pub backend: Backend,
    /// This sidecar in connection names, logs and dead letters (`bus.instance`).
    pub instance: String,
    /// Where the note of the last start lies (`bus.state_dir`); `None` = nowhere.
    pub state_dir: Option<PathBuf>,
    /// Whether missing exchanges and queues are declared (`bus.amqp.topology`).
    pub topology: TopologyMode,
    /// Prefix of our own delay slots in the virtual host (`bus.amqp.namespace`).
    pub namespace: String,
    /// Where publishes and bindings go that name none (`bus.amqp.exchange`).
    pub exchange: Exchange,
    /// Further exchanges (`[exchanges.<name>]`), without the one above.
    pub exchanges: Vec<Exchange>,
    /// Configured subscriptions (`[queues.<name>]`), by name.
    pub subscriptions: Vec<Subscription>,
    /// What a handler's `declare` leaves unset.
    pub delivery: DeliverySettings,
    /// What a handler's `declare` leaves unset (`[retry]`).
    pub retry: RetrySettings,
    /// What a handler's `declare` leaves unset (`[dead_letter]`).
    pub dead_letter: DeadLetterSettings,
    /// `bus.amqp.publish.*`
    pub publish: PublishSettings,
    /// `[grpc]`
    pub grpc: GrpcSettings,
    /// `[admin]`
    pub admin: AdminSettings,
    /// `[client]`
    pub client: ClientSettings,
    /// `[health]`
    pub health: HealthSettings,
    /// `[log]`
    pub log: LogSettings,
    /// No host and no virtual host in metrics and health (`telemetry.redact_topology`).
    pub redact_topology: bool,
    /// `[shutdown]`
    pub shutdown: ShutdownSettings,
    /// `[limits]`
    pub limits: LimitSettings,
}

impl Settings {
    /// Every queue that holds letters, of all and of each subscription; some more than once.
    pub fn letter_queues(&self) -> impl Iterator<Item = &QueueName> {
        let own = self.subscriptions.iter().flat_map(|subscription| subscription.dead_letter.queues());
        self.dead_letter.queues().chain(own)
    }
}

/// Which broker (`bus.backend`).
#[derive(Debug, Clone)]
pub enum Backend {
    /// Embedded, for development: nothing survives the process.
    Memory {
        /// Bodies held before publishes are refused.
        bytes_max: u64,
    },
    /// RabbitMQ.
    Amqp(Box<AmqpSettings>),
}

/// `[bus.amqp]`: how to reach RabbitMQ.
#[derive(Debug, Clone)]
pub struct AmqpSettings {
    /// The nodes, at least one: of `url`, of each of `urls`, or of `host`.
    pub nodes: Vec<Node>,
    /// `None` = plain AMQP.
    pub tls: Option<TlsSettings>,
    /// Virtual host, decoded; may be empty.
    pub vhost: String,
    /// Who we are there.
    pub login: Login,
    /// The files that the above was read from, to be read again; `None` = it is in none.
    pub files: Option<AccessFiles>,
    /// Keys that are given and not in effect, because an address from a higher layer says otherwise.
    pub beaten: Vec<&'static str>,
    /// Half-open links are noticed within twice this.
    pub heartbeat: Duration,
    /// Our own probe: TCP, TLS, greeting.
    pub preflight_timeout: Duration,
    /// Then the client library's connect.
    pub connect_timeout: Duration,
    /// Any other wait on the broker.
    pub operation_timeout: Duration,
    /// Shortest wait between two tries.
    pub reconnect_min: Duration,
    /// Longest wait between two tries.
    pub reconnect_max: Duration,
    /// Connections for publishing and admin work.
    pub pool_size_max: usize,
    /// Wait for one of them.
    pub pool_wait_timeout: Duration,
    /// Where arguments, bindings and policies can be seen (`bus.amqp.management.*`).
    pub management: Option<ManagementSettings>,
}

/// `bus.amqp.management.*`: RabbitMQ's HTTP management API.
#[derive(Debug, Clone)]
pub struct ManagementSettings {
    /// True for `https://`.
    pub tls: bool,
    /// Host name or address.
    pub host: String,
    /// 80, or 443 with TLS, unless given.
    pub port: u16,
    /// What stands before `/api`; usually empty. No slash at the end.
    pub base_path: String,
    /// Decoded; that of AMQP unless given.
    pub username: SecretString,
    /// Decoded; that of AMQP unless given.
    pub password: SecretString,
    /// PEM file of the only roots that are trusted, that of AMQP unless given; `None` = the system's.
    pub ca_file: Option<PathBuf>,
}

/// A node of the broker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    /// Name, IPv4 or IPv6 address without brackets.
    pub host: String,
    /// 5672, or 5671 with TLS, unless given.
    pub port: u16,
}

/// `bus.amqp.tls.*`: paths are absolute, or relative to where the process was started.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsSettings {
    /// Trusted instead of this host's roots.
    pub ca_file: Option<PathBuf>,
    /// Certificate and key of ours.
    pub identity: Option<(PathBuf, PathBuf)>,
    /// Checked in the broker's certificate, instead of the host.
    pub server_name: Option<String>,
}

/// Who we are at the broker (`bus.amqp.sasl`).
#[derive(Debug, Clone)]
pub enum Login {
    /// `plain`: decoded.
    Password {
        /// The user.
        username: SecretString,
        /// The password.
        password: SecretString,
    },
    /// `external`: the client certificate tells.
    Certificate,
    /// `oauth2`: the token of `bus.amqp.oauth2.token_file`.
    Token(SecretString),
}

/// `bus.amqp.publish.*`
#[derive(Debug, Clone)]
pub struct PublishSettings {
    /// Confirm channels, each owned by one task.
    pub lanes: usize,
    /// Messages of one batch.
    pub batch_max: usize,
    /// Then a publish fails with `CONFIRM_TIMEOUT`.
    pub confirm_timeout: Duration,
    /// Messages that one publish stream may have unconfirmed.
    pub window: usize,
    /// Sum of their bodies.
    pub window_bytes: u64,
}

/// Where to listen: a host name or address, and a port. Port 0 = any free one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListenAddress {
    /// Name, IPv4 or IPv6 address without brackets.
    pub host: String,
    /// TCP port.
    pub port: u16,
}

impl ListenAddress {
    /// True if only this host can reach it, as far as the text tells: `localhost`, `127.…` or `::1`.
    pub fn is_loopback(&self) -> bool {
        self.is_localhost() || self.host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
    }

    /// True if both cannot be listened on at once, as far as the text tells. `localhost` is `127.0.0.1` or
    /// `::1`: which of them, the host decides. Port 0 is a free one each time.
    pub(super) fn clashes_with(&self, other: &Self) -> bool {
        let is_one_of_localhost = |it: &Self| ["127.0.0.1", "::1"].contains(&it.host.as_str());
        let is_same_host = self.host.eq_ignore_ascii_case(&other.host)
            || (self.is_localhost() && is_one_of_localhost(other))
            || (other.is_localhost() && is_one_of_localhost(self));
        self.port != 0 && self.port == other.port && is_same_host
    }

    fn is_localhost(&self) -> bool {
        self.host.eq_ignore_ascii_case("localhost")
    }
}

impl fmt::Display for ListenAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

/// `[grpc]`: the door for handlers and publishers.
#[derive(Debug, Clone)]
pub struct GrpcSettings {
    /// Where to listen; `None` = on the socket alone.
    pub listen: Option<ListenAddress>,
    /// The Unix socket beside the address, or instead of it.
    pub unix_socket: Option<SocketSettings>,
    /// Largest body; the decode limit is this plus 1 MiB.
    pub message_bytes_max: usize,
    /// Window in bytes of a handler that asks for none.
    pub window_bytes: u64,
    /// Handlers may bring their own subscription.
    pub handlers_may_declare: bool,
    /// Serve gRPC reflection.
    pub reflection: bool,
    /// Values of `:authority` (host, or host and port) that are taken on TCP; `None` = any.
    pub allowed_authorities: Option<Vec<String>>,
    /// Time between pings to peers beyond this host.
    pub keepalive_interval: Duration,
    /// Wait for the answer to a ping.
    pub keepalive_timeout: Duration,
}

/// `grpc.unix_socket*`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SocketSettings {
    /// Where the socket is made.
    pub path: PathBuf,
    /// Permissions, such as 0o660.
    pub mode: u32,
    /// Users that may connect; empty = any.
    pub uids: Vec<u32>,
}

/// `[admin]`: probes, metrics and tools.
#[derive(Debug, Clone)]
pub struct AdminSettings {
    /// Where to listen; `None` = off.
    pub listen: Option<ListenAddress>,
}

/// `[client]`: where the commands that talk to a running sidecar go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientSettings {
    /// The gRPC door: `host:port` or the path of a socket; `None` = no door that can be reached from here.
    pub endpoint: Option<String>,
    /// The admin door, else the health door.
    pub admin_endpoint: Option<String>,
}

/// `[health]`: probes and metrics for those who cannot reach loopback.
#[derive(Debug, Clone)]
pub struct HealthSettings {
    /// Where to listen; `None` = off.
    pub listen: Option<ListenAddress>,
    /// What readiness means.
    pub readiness: Readiness,
}

/// What readiness means (`health.readiness`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Readiness {
    /// Not ready before the first session, then ready until we stop.
    ConnectedOnce,
    /// Follows the link to the broker.
    Broker,
    /// Ready while the process runs.
    Process,
}

/// `[log]`
#[derive(Debug, Clone)]
pub struct LogSettings {
    /// Directives such as `info,sidebus::bridge=debug`.
    pub filter: String,
    /// How lines look.
    pub format: LogFormat,
}

/// How log lines look (`log.format`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// Human on a terminal, JSON otherwise.
    Auto,
    /// For eyes.
    Human,
    /// One JSON object a line.
    Json,
}

/// `[shutdown]`: the phases of stopping.
#[derive(Debug, Clone)]
pub struct ShutdownSettings {
    /// Readiness is off, nothing else has changed.
    pub notice: Duration,
    /// Consumers are cancelled, new streams refused.
    pub intake: Duration,
    /// Handlers finish.
    pub drain: Duration,
    /// What is unsettled goes back.
    pub give_back: Duration,
    /// Confirms, connections, servers.
    pub close: Duration,
    /// Stop after the last handler left.
    pub exit_when_idle: bool,
}

/// `[limits]`
#[derive(Debug, Clone)]
pub struct LimitSettings {
    /// AMQP headers of one message, encoded.
    pub header_bytes: usize,
    /// Levels of nested headers.
    pub header_depth: usize,
    /// First frame of a stream.
    pub open_timeout: Duration,
    /// Connections of one peer, but for those of this host.
    pub connections_per_peer: usize,
    /// Calls at a time on one connection.
    pub streams_per_connection: u32,
    /// Unconfirmed publishes of all callers.
    pub publishes_in_flight: usize,
    /// Sum of their bodies.
    pub publish_bytes: u64,
}
