//! What the services share: the bridge behind them and the settings of the door.

use std::time::Duration;

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
    /// Window in bytes of a handler that asks for none.
    pub window_bytes: u64,
    /// Handlers may bring their own subscription.
    pub handlers_may_declare: bool,
    /// First frame of a stream.
    pub open_timeout: Duration,
    /// Serve gRPC reflection.
    pub reflection: bool,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Door {
    pub(super) registry: Registry,
    pub(super) publisher: Publisher,
    pub(super) tasks: Tasks,
    pub(super) settings: DoorSettings,
}
