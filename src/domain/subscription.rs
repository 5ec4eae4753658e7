//! What a subscription is: its queue, its bindings and its policy, from settings or from a handler's `declare`.
//!
//! Knows no settings file and no wire; `domain::topology` turns it into steps on the broker.

use std::time::Duration;

use super::kill_switch::KillSwitchSettings;
use super::message::{Headers, Value};
use super::name::{ExchangeName, QueueName, SubscriptionName};

/// Window of one handler where nobody chose another: RabbitMQ advises 100 to 300, and 10 gives a seventh of the speed.
pub const PREFETCH_COUNT_DEFAULT: u16 = 100;
/// Most deliveries that a quorum queue hands to one consumer (measured on RabbitMQ 3.10.8).
pub const PREFETCH_MAX_DEFAULT: u16 = 2_000;
/// Clock of the oldest unsettled delivery of a stream.
pub const SETTLE_TIMEOUT_DEFAULT: Duration = Duration::from_mins(1);
/// Longest life of a lease; RabbitMQ's own consumer timeout is 30 minutes.
pub const MAX_LEASE_DEFAULT: Duration = Duration::from_mins(25);
/// Largest encoded delivery: the largest body and what may stand around it.
pub const MESSAGE_BYTES_MAX_DEFAULT: u64 = 17 << 20;
/// What an encoded message may take beside its body, in bytes.
pub const MESSAGE_ROOM_BYTES: u32 = 1 << 20;
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
    /// For bindings that name none, those that are made while it runs too.
    pub exchange: ExchangeName,
    /// What feeds the queue; none = it is fed from elsewhere.
    pub bindings: Vec<Binding>,
    /// Bindings that are taken away before those above are made; the only ones that are ever removed from a shared queue.
    pub unbind: Vec<Binding>,
    /// How deliveries are handed out.
    pub delivery: DeliverySettings,
    /// What becomes of failures.
    pub retry: RetrySettings,
    /// Where given-up messages go.
    pub dead_letter: DeadLetterSettings,
}

/// Why two subscriptions cannot live side by side.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Clash {
    /// Both would work on one queue: who shares work shares a subscription.
    Queue,
    /// One would work on the dead letters of the other.
    Letters,
    /// Both would have one queue for the letters of each alone.
    OwnLetters,
    /// The first would be bound to the exchange through which the letters of the other go.
    Listening,
    /// The archive of one would be the queue for the letters of the other.
    Archive,
}

impl Subscription {
    /// Why this one cannot live beside another.
    pub fn clash(&self, other: &Self) -> Option<Clash> {
        let own = |subscription: &Self| subscription.dead_letter.own.as_ref().map(|own| own.queue.clone());
        let works_on = |one: &Self, letters: &Self| letters.dead_letter.queues().any(|queue| *queue == one.queue.name);
        if self.queue.name == other.queue.name {
            Some(Clash::Queue)
        } else if works_on(self, other) || works_on(other, self) {
            Some(Clash::Letters)
        } else if self.bindings.iter().any(|binding| binding.exchange == other.dead_letter.exchange) {
            // Not the other way round: letters may go where somebody listens already.
            Some(Clash::Listening)
        } else {
            let own = own(self).filter(|queue| own(other).as_ref() == Some(queue)).map(|_| Clash::OwnLetters);
            own.or_else(|| {
                self.archive_among_letters(other).or_else(|| other.archive_among_letters(self)).map(|_| Clash::Archive)
            })
        }
    }

    /// The archive of this one that is a queue for the letters of the other. The queue of all may be one, as long as it has
    /// no archive itself: then both ask for the same queue.
    pub fn archive_among_letters(&self, other: &Self) -> Option<&QueueName> {
        let letters = &other.dead_letter;
        let is_taken = |archive: &QueueName| {
            let is_own = letters.own.as_ref().is_some_and(|own| own.queue == *archive);
            let is_plain = letters.archive.is_none() && letters.queue == self.dead_letter.queue;
            is_own || letters.queue == *archive && !is_plain
        };
        self.dead_letter.archives().find(|archive| is_taken(archive))
    }
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
    /// Deleted with its messages when the last consumer leaves; false unless said otherwise.
    pub auto_delete: Option<bool>,
    /// For this sidecar's connection alone; false unless said otherwise.
    pub exclusive: Option<bool>,
    /// Every named argument, those of typed keys included (`message_ttl` is `x-message-ttl`), passed as they are.
    pub arguments: Headers,
}

impl QueueSettings {
    /// Survives a restart of the broker.
    pub fn is_durable(&self) -> bool {
        self.durable.unwrap_or(true)
    }

    /// Goes with its last consumer.
    pub fn is_auto_delete(&self) -> bool {
        self.auto_delete.unwrap_or(false)
    }

    /// For one connection only.
    pub fn is_exclusive(&self) -> bool {
        self.exclusive.unwrap_or(false)
    }

    /// True if its consumers take turns, as far as the settings say.
    pub fn is_single_active(&self) -> bool {
        self.arguments.get("x-single-active-consumer") == Some(&Value::Bool(true))
    }
}

/// Queue types of the broker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum QueueType {
    /// Replicated.
    Quorum,
    /// On one node.
    Classic,
}

impl QueueType {
    /// The broker's word, which the settings use too.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Quorum => "quorum",
            Self::Classic => "classic",
        }
    }
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

/// What is wrong with match arguments: a headers exchange of RabbitMQ refuses such a binding, the others do not look.
pub fn match_fault(arguments: &Headers) -> Option<&'static str> {
    const MODES: [&str; 4] = ["all", "any", "all-with-x", "any-with-x"];
    let is_known = arguments.get("x-match")?.as_text().is_some_and(|mode| MODES.contains(&mode));
    (!is_known).then_some("x-match must be one of all, any, all-with-x, any-with-x")
}

impl Binding {
    /// For people: `{exchange} -> {queue} {routing key}`.
    pub fn describe(&self, queue: &QueueName) -> String {
        format!("{} -> {queue} {}", self.exchange, self.routing_key).trim_end().to_owned()
    }
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
    /// Bytes of the largest encoded delivery; a larger one is a dead letter.
    pub message_bytes_max: u64,
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
            message_bytes_max: MESSAGE_BYTES_MAX_DEFAULT,
            max_handlers: MAX_HANDLERS_DEFAULT,
        }
    }
}

/// What becomes of failed attempts.
#[derive(Debug, Clone, PartialEq)]
pub struct RetrySettings {
    /// Attempts that may fail by verdict or deadline, the first included; at least 1.
    pub max_attempts: u32,
    /// How delays grow.
    pub backoff: RetryBackoff,
    /// Delay after the first failure, and the unit of all others.
    pub min_backoff: Duration,
    /// No delay of the policy is longer, jitter aside.
    pub max_backoff: Duration,
    /// Growth of an exponential delay; at least 1.
    pub multiplier: f64,
    /// Share of a delay that is random, 0 to 1: a delay `d` lies in `d × (1 ± jitter)`.
    pub jitter: f64,
    /// Handlers that one message may take down, each while that one held nothing else; at least 1.
    pub crash_limit: u32,
    /// Retry copies that are published in a second; more wait, held.
    pub max_per_second: u32,
    /// What pauses the subscription when too much fails.
    pub kill_switch: KillSwitchSettings,
}

/// How the delays of retries grow, with n failures so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RetryBackoff {
    /// min × multiplier^(n−1)
    Exponential,
    /// min × n
    Linear,
    /// min
    Constant,
}

impl Default for RetrySettings {
    fn default() -> Self {
        Self {
            max_attempts: 5,
            backoff: RetryBackoff::Exponential,
            min_backoff: Duration::from_secs(1),
            max_backoff: Duration::from_mins(5),
            multiplier: 2.0,
            jitter: 0.2,
            crash_limit: 5,
            max_per_second: 1_000,
            kill_switch: KillSwitchSettings::default(),
        }
    }
}

/// Where given-up messages go; `domain::dead_letter` makes and reads it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeadLetterSettings {
    /// False: what is given up goes back to its queue, and its subscription pauses. The place for letters is made all the
    /// same: the broker gives up by itself what comes back too often.
    pub is_enabled: bool,
    /// Fanout exchange; `angzarr.dlx` unless configured. In both scopes the broker's own letters go there.
    pub exchange: ExchangeName,
    /// The subscription itself names the exchange: a queue that exists must send its letters there.
    pub is_exchange_named: bool,
    /// Queue bound to it; `angzarr.dlq` unless configured.
    pub queue: QueueName,
    /// Whose queue takes our letters.
    pub scope: DeadLetterScope,
    /// Where letters that expire in `queue` go; without it they have no bounds. Its length bounds own queues only.
    pub archive: Option<ArchiveSettings>,
    /// The queue of our letters in the scope of one queue; `None` in the shared one, and where no queue is meant yet.
    pub own: Option<OwnLetters>,
}

/// Whose queue takes the letters of a subscription.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum DeadLetterScope {
    /// The one that all share.
    #[default]
    Shared,
    /// One of its own, `{queue}.dlq` unless it is named, reached through the nameless exchange.
    PerQueue,
}

impl DeadLetterScope {
    /// The word of the settings.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Shared => "shared",
            Self::PerQueue => "per_queue",
        }
    }
}

/// The queue of one subscription's letters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OwnLetters {
    /// `{queue}.dlq` unless configured.
    pub queue: QueueName,
    /// What bounds it.
    pub archive: Option<ArchiveSettings>,
}

/// What bounds a dead-letter queue, and where its letters go then.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ArchiveSettings {
    /// Declared like a dead-letter queue, without bounds.
    pub queue: QueueName,
    /// Life of a letter before it goes there.
    pub message_ttl: Option<Duration>,
    /// Letters that stay; what comes when so many lie there goes to the archive at once.
    pub max_length: Option<u64>,
}
