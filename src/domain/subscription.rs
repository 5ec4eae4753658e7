//! What a subscription is: its queue, its bindings and its policy, from settings or from a handler's `declare`.
//!
//! Knows no settings file and no wire; `domain::topology` turns it into steps on the broker.

use std::time::Duration;

use super::message::Headers;
use super::name::{ExchangeName, QueueName, SubscriptionName};

/// Window of one handler where nobody chose another: RabbitMQ advises 100 to 300, and 10 gives a seventh of the speed.
pub const PREFETCH_COUNT_DEFAULT: u16 = 100;
/// Most deliveries that a quorum queue hands to one consumer (measured on RabbitMQ 3.10.8).
pub const PREFETCH_MAX_DEFAULT: u16 = 2_000;
/// Clock of the oldest unsettled delivery of a stream.
pub const SETTLE_TIMEOUT_DEFAULT: Duration = Duration::from_mins(1);
/// Longest life of a lease; RabbitMQ's own consumer timeout is 30 minutes.
pub const MAX_LEASE_DEFAULT: Duration = Duration::from_mins(25);
/// Streams of one subscription in one sidecar.
pub const MAX_HANDLERS_DEFAULT: u16 = 64;
/// Requeues after which a quorum queue gives a message up; a backstop.
pub const DELIVERY_LIMIT_DEFAULT: u32 = 20;

/// A named consumer group: its queue, its bindings and its policy.
#[derive(Debug, Clone, PartialEq)]
pub struct Subscription {
    /// Name of the group.
    pub name: SubscriptionName,
    /// Its queue.
    pub queue: QueueSettings,
    /// What feeds the queue; none = it is fed from elsewhere.
    pub bindings: Vec<Binding>,
    /// How deliveries are handed out.
    pub delivery: DeliverySettings,
    /// What becomes of failures.
    pub retry: RetrySettings,
    /// Where given-up messages go.
    pub dead_letter: DeadLetterSettings,
}

/// The queue of a subscription, as asked for. `None` = not named: our default applies when we create the queue, and an
/// existing queue is taken as it is.
#[derive(Debug, Clone, PartialEq)]
pub struct QueueSettings {
    /// Name on the broker.
    pub name: QueueName,
    /// Quorum unless another key rules that out.
    pub queue_type: Option<QueueType>,
    /// Survives a restart of the broker; true unless said otherwise.
    pub durable: Option<bool>,
    /// Deleted with its messages when the last consumer leaves.
    pub auto_delete: bool,
    /// For this sidecar's connection alone.
    pub exclusive: bool,
    /// Further arguments, passed as they are.
    pub arguments: Headers,
}

/// Queue types of the broker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum QueueType {
    /// Replicated.
    Quorum,
    /// On one node.
    Classic,
}

/// One binding of a queue to an exchange.
#[derive(Debug, Clone, PartialEq)]
pub struct Binding {
    /// The exchange that feeds the queue.
    pub exchange: ExchangeName,
    /// Pattern on topic exchanges, exact on direct ones, unused on fanout and headers exchanges; at most 255 bytes.
    pub routing_key: String,
    /// Match arguments of a headers exchange, such as `x-match`.
    pub arguments: Headers,
}

/// How deliveries are handed out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeliverySettings {
    /// Default window of one handler, in messages.
    pub prefetch_count: u16,
    /// Cap of the sum of the windows in this sidecar.
    pub prefetch_max: u16,
    /// Clock of the oldest unsettled delivery of a stream.
    pub settle_timeout: Duration,
    /// No lease lasts longer, counted from the broker's delivery.
    pub max_lease: Duration,
    /// Streams that may subscribe at a time.
    pub max_handlers: u16,
}

impl Default for DeliverySettings {
    fn default() -> Self {
        Self {
            prefetch_count: PREFETCH_COUNT_DEFAULT,
            prefetch_max: PREFETCH_MAX_DEFAULT,
            settle_timeout: SETTLE_TIMEOUT_DEFAULT,
            max_lease: MAX_LEASE_DEFAULT,
            max_handlers: MAX_HANDLERS_DEFAULT,
        }
    }
}

/// What becomes of failed attempts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RetrySettings {
    /// Attempts that may fail by verdict or deadline, the first included; at least 1.
    pub max_attempts: u32,
    /// Delay of every retry for which the handler chose none.
    pub delay: Duration,
}

impl Default for RetrySettings {
    fn default() -> Self {
        Self { max_attempts: 5, delay: Duration::from_secs(1) }
    }
}

/// Where given-up messages go: a fanout exchange and the queue bound to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeadLetterSettings {
    /// Fanout exchange; `angzarr.dlx` unless configured.
    pub exchange: ExchangeName,
    /// Queue bound to it; `angzarr.dlq` unless configured.
    pub queue: QueueName,
}
