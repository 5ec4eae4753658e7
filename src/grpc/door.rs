//! What the services share: the bridge behind them and the settings of the door.

use std::time::Duration;

use super::presence::Presence;
use super::wire::PublishLimits;
use crate::bridge::{Publisher, Registry};
use crate::domain::name::ExchangeName;
use crate::domain::subscription::{DeadLetterSettings, DeliverySettings, RetrySettings};
use crate::runtime::Tasks;

/// Settings of the door for handlers and publishers.
#[derive(Debug, Clone)]
pub struct DoorSettings {
    /// Where publishes and bindings go that name none.
    pub exchange: ExchangeName,
    /// Prefix of our own queues.
    pub namespace: String,
    /// What a handler's `declare` leaves unset.
    pub delivery: DeliverySettings,
    /// What a handler's `declare` leaves unset.
    pub retry: RetrySettings,
    /// What a handler's `declare` leaves unset.
    pub dead_letter: DeadLetterSettings,
    /// What a message may weigh.
    pub publish: PublishLimits,
    /// What one publish stream may have unconfirmed.
    pub publish_window: PublishWindow,
    /// Window in bytes of a handler that asks for none.
    pub window_bytes: u64,
    /// Handlers may bring their own subscription.
    pub handlers_may_declare: bool,
    /// First frame of a stream.
    pub open_timeout: Duration,
    /// Serve gRPC reflection.
    pub reflection: bool,
    /// Connections and what they may do.
    pub transport: TransportSettings,
}

/// What one publish stream may have unconfirmed.
#[derive(Debug, Clone, Copy)]
pub struct PublishWindow {
    /// Messages.
    pub messages: usize,
    /// Sum of their bodies.
    pub bytes: u64,
}

/// Connections to the door and what they may do.
#[derive(Debug, Clone)]
pub struct TransportSettings {
    /// Names under which callers on TCP may address the door, host or host and port; `None` = any.
    pub allowed_authorities: Option<Vec<String>>,
    /// Connections of one peer that is not of this host.
    pub connections_per_peer: usize,
    /// Rpcs at a time on one connection.
    pub streams_per_connection: u32,
    /// Time between pings to peers that are not of this host.
    pub keepalive_interval: Duration,
    /// Wait for the answer to a ping.
    pub keepalive_timeout: Duration,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Door {
    pub(super) registry: Registry,
    pub(super) publisher: Publisher,
    pub(super) tasks: Tasks,
    pub(super) presence: Presence,
    pub(super) settings: DoorSettings,
}
