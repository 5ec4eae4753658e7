//! The checked settings of one process. Knows no source: `config::load` fills it.

use std::fmt;
use std::net::IpAddr;
use std::time::Duration;

use secrecy::SecretString;

use crate::domain::subscription::{DeadLetterSettings, DeliverySettings, RetrySettings, Subscription};
use crate::domain::topology::{Exchange, TopologyMode};

/// Everything that a sidecar needs to know; every value is in its bounds.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Which broker.
    pub backend: Backend,
    /// This sidecar in connection names, logs and dead letters (`bus.instance`).
    pub instance: String,
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
    /// `[health]`
    pub health: HealthSettings,
    /// `[log]`
    pub log: LogSettings,
    /// `[shutdown]`
    pub shutdown: ShutdownSettings,
    /// `[limits]`
    pub limits: LimitSettings,
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
    /// True for `amqps://`.
    pub tls: bool,
    /// Host name or address.
    pub host: String,
    /// 5672, or 5671 with TLS, unless given.
    pub port: u16,
    /// Virtual host, decoded; may be empty.
    pub vhost: String,
    /// Decoded.
    pub username: SecretString,
    /// Decoded.
    pub password: SecretString,
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
        self.host.eq_ignore_ascii_case("localhost") || self.host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
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
    /// Where to listen.
    pub listen: ListenAddress,
    /// Largest body; the decode limit is this plus 1 MiB.
    pub message_bytes_max: usize,
    /// Window in bytes of a handler that asks for none.
    pub window_bytes: u64,
    /// Handlers may bring their own subscription.
    pub handlers_may_declare: bool,
    /// Serve gRPC reflection.
    pub reflection: bool,
}

/// `[admin]`: probes, metrics and tools.
#[derive(Debug, Clone)]
pub struct AdminSettings {
    /// Where to listen; `None` = off.
    pub listen: Option<ListenAddress>,
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
    /// Unconfirmed publishes of all callers.
    pub publishes_in_flight: usize,
    /// Sum of their bodies.
    pub publish_bytes: u64,
}
