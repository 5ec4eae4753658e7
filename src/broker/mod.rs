//! The port to brokers: what the rest of Sidebus asks of one, in our own words.
//!
//! Knows the domain and nothing of any client library. Every backend passes `broker::conformance`.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use futures_util::stream::BoxStream;

use crate::domain::difference::Examined;
use crate::domain::message::Message;
use crate::domain::name::{ExchangeName, QueueName};
use crate::domain::subscription::Binding;
use crate::domain::topology::Plan;
use crate::domain::version::Version;

#[cfg(feature = "amqp")]
pub mod amqp;
#[cfg(feature = "conformance")]
pub mod conformance;
mod error;
mod findings;
mod lane;
pub mod memory;

pub use error::{BrokerError, ErrorClass, TlsFault};
pub use findings::{Adopted, Findings};
pub use lane::{Answers, InOrder, Lane};

/// A broker that can be connected to, again and again.
pub trait Broker: fmt::Debug + Send + Sync {
    /// Opens a session. Bounded by the backend's own deadlines; dropping the future gives up.
    ///
    /// # Errors
    /// Why there is no session: unreachable, TLS, login, missing vhost.
    fn connect(&self, id: SessionId) -> BoxFuture<'_, Result<Arc<dyn Session>, BrokerError>>;

    /// Where this broker is, for logs and errors; never with credentials.
    fn endpoint(&self) -> String;

    /// Why the process had better end and be started again: tries that could not be ended have left too much behind.
    fn worn_out(&self) -> Option<String> {
        None
    }
}

/// One life of the connections to a broker. Its parts die with it.
pub trait Session: fmt::Debug + Send + Sync {
    /// What the broker is, known after connecting.
    fn capabilities(&self) -> &Capabilities;

    /// What happens to the session; ends after [`SessionEvent::Closed`]. Every call gets its own stream, and one that
    /// comes after the end sees `Closed` at once.
    fn events(&self) -> BoxStream<'static, SessionEvent>;

    /// Carries out a plan, step by step, on channels of its own. What exists is compared first: what somebody has named
    /// must be as it is named, everything else is taken as it is and told.
    ///
    /// # Errors
    /// The first step that failed; earlier ones stand. `Mismatch` when something that was named differs.
    fn apply(&self, plan: Arc<Plan>) -> BoxFuture<'_, Result<Findings, BrokerError>>;

    /// Looks at everything that a plan names, whatever its mode, and touches nothing: one answer for each step, in their
    /// order. A binding of an unbind step that is there is [`ObjectState::Extra`]. A backend that can list bindings may add
    /// such answers behind, for what feeds the queues of the plan and is named by none of its steps. What this backend or
    /// these rights cannot see is [`ObjectState::Unknown`].
    ///
    /// # Errors
    /// The session is gone, or a look had no answer in time.
    ///
    /// [`ObjectState::Extra`]: crate::domain::difference::ObjectState::Extra
    /// [`ObjectState::Unknown`]: crate::domain::difference::ObjectState::Unknown
    fn examine(&self, plan: Arc<Plan>) -> BoxFuture<'_, Result<Vec<Examined>, BrokerError>>;

    /// What feeds a queue, but for the nameless exchange; `None` = it cannot be seen: AMQP does not show bindings, so this
    /// takes a management API that answers. A queue that is not there has none.
    fn bindings(&self, _queue: QueueName) -> BoxFuture<'_, Option<Vec<Binding>>> {
        Box::pin(std::future::ready(None))
    }

    /// Begins to consume a queue on a channel of its own, prefetch set before.
    ///
    /// # Errors
    /// The queue is missing, exclusive to another connection, or the session is gone.
    fn consume(&self, queue: QueueName, options: ConsumeOptions) -> BoxFuture<'_, Result<Consumer, BrokerError>>;

    /// Opens a confirm channel for one task.
    ///
    /// # Errors
    /// The session is gone, or no channel could be had in time.
    fn lane(&self, role: LaneRole) -> BoxFuture<'_, Result<Box<dyn Lane>, BrokerError>>;

    /// Waits until the next session would be opened with another address, login or certificate than this one was, and
    /// answers the settings keys of what is new. Never, unless a backend takes these from where they may change. Still
    /// true when it is asked again, and false again once the old ones are back. Cancel-safe.
    fn outdated(&self) -> BoxFuture<'_, Vec<String>> {
        Box::pin(std::future::pending())
    }

    /// Gives back what is unsettled, then closes; after `within` the sockets are cut.
    fn close(&self, within: Duration) -> BoxFuture<'_, ()>;
}

/// A consumer in its two halves: apart, so that receiving never waits for a flush of acks.
pub type Consumer = (Box<dyn Arrivals>, Box<dyn Settler>);

/// The receiving half of a consumer, owned by one task.
pub trait Arrivals: fmt::Debug + Send {
    /// Waits for a delivery, then takes all that are there, at most `room_max` (at least 1). Cancel-safe.
    ///
    /// # Errors
    /// The consumer is over: queue deleted, cancelled by the broker, session lost. An end is always an error.
    fn next_batch(&mut self, room_max: usize) -> BoxFuture<'_, Result<Vec<Incoming>, BrokerError>>;

    /// Changes how many unsettled deliveries the broker may send ahead. What is in flight stays settleable.
    ///
    /// # Errors
    /// The session or the channel is gone.
    fn set_prefetch(&mut self, prefetch: Prefetch) -> BoxFuture<'_, Result<(), BrokerError>>;

    /// Stops arrivals. Receipts stay good; what had arrived and was never taken comes out, to be settled like the rest.
    ///
    /// # Errors
    /// The session or the channel is gone.
    fn cancel(&mut self) -> BoxFuture<'_, Result<Vec<Incoming>, BrokerError>>;
}

/// The settling half of a consumer, owned by one task.
pub trait Settler: fmt::Debug + Send {
    /// The channel whose receipts it settles: [`Receipt::channel`].
    fn channel(&self) -> u64;

    /// Settles a batch, coalesced into as few frames as possible and flushed once; answers in the order of the batch.
    fn settle(&mut self, batch: Vec<(Receipt, Settlement)>, proof: Proof) -> BoxFuture<'_, Vec<Settled>>;
}

/// Number of a session; rises with every connect of this process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SessionId(pub u64);

impl fmt::Display for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// What a broker is and can do.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Capabilities {
    /// Such as `RabbitMQ`.
    pub product: String,
    /// Such as `3.10.8`; empty = not told.
    pub version: String,
}

impl Capabilities {
    /// The version as numbers; `None` = not told, or nothing that this backend's versions look like.
    pub fn release(&self) -> Option<Version> {
        Version::parse(&self.version)
    }
}

/// What happens to a session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SessionEvent {
    /// The broker takes no publishes: memory or disk alarm, in its words.
    Blocked(String),
    /// It does again.
    Unblocked,
    /// The session is over.
    Closed(BrokerError),
}

/// How to consume.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConsumeOptions {
    /// What the broker may send ahead.
    pub prefetch: Prefetch,
    /// The queue belongs to the connection that consumes it.
    pub exclusive: bool,
    /// Over a connection of its own, whose loss ends this consumer and nothing else. Not for exclusive queues.
    pub own_connection: bool,
}

/// Deliveries that the broker may send ahead of settlement (1 to 65,535; AMQP 0-9-1 basic.qos, where 0 is no limit).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Prefetch(std::num::NonZeroU16);

impl Prefetch {
    /// A prefetch; 0 is taken for 1, since the broker would read it as "no limit".
    pub fn new(count: u16) -> Self {
        Self(std::num::NonZeroU16::new(count).unwrap_or(std::num::NonZeroU16::MIN))
    }

    /// As a number.
    pub fn get(self) -> u16 {
        self.0.get()
    }
}

/// A message that the broker handed out.
#[derive(Debug)]
pub struct Incoming {
    /// As the broker told it.
    pub message: Message,
    /// The broker's flag: it may have been handed out before.
    pub redelivered: bool,
    /// For settling it, once.
    pub receipt: Receipt,
}

/// The right to settle one delivery once; belongs to one session. Settling consumes it.
#[derive(Debug, PartialEq, Eq)]
pub struct Receipt {
    session: SessionId,
    channel: u64,
    tag: u64,
}

impl Receipt {
    /// For backends: a receipt of a session, of one of its channels (numbered as the backend likes) and its tag.
    pub fn new(session: SessionId, channel: u64, tag: u64) -> Self {
        Self { session, channel, tag }
    }

    /// The session that it belongs to.
    pub fn session(&self) -> SessionId {
        self.session
    }

    /// The channel that it belongs to.
    pub fn channel(&self) -> u64 {
        self.channel
    }

    /// The broker's number on that channel.
    pub fn tag(&self) -> u64 {
        self.tag
    }
}

/// What a broker can do with a delivery.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Settlement {
    /// Done with it.
    Ack,
    /// Back to its queue: nack with requeue, never reject (on 4.3 only nack is uncounted).
    GiveBack,
}

/// What a settlement must prove before it counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Proof {
    /// Written on a live channel: all that AMQP 0-9-1 knows of an ack.
    Written,
    /// The broker has answered a later call on the same channel, so it has read the ack.
    Read,
}

/// What became of a settlement.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Settled {
    /// It took effect.
    Applied,
    /// It did not: the session or channel is gone. The broker hands the message out again.
    Stale,
}

/// Whom a lane serves; the roles live on connections of their own, because an alarm blocks whole connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LaneRole {
    /// Messages of handlers and publishers.
    Publish,
    /// Copies: retries and dead letters.
    Settle,
}

/// A message to publish.
#[derive(Debug, Clone, PartialEq)]
pub struct Publication {
    /// Goes to its `exchange` with its `routing_key`. Must have a message id.
    pub message: Message,
    /// What happens when no queue takes it.
    pub routing: Routing,
}

/// What happens to a message that no queue takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Routing {
    /// It is returned and reported as [`Confirm::Unroutable`] (AMQP's `mandatory`).
    Required,
    /// It is dropped in silence.
    Optional,
}

/// The outcome of one publication.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Confirm {
    /// The broker has it, and at least one queue took it (or need not have).
    Stored,
    /// No queue took it; the broker has dropped it.
    Unroutable,
    /// The broker refused it: a full queue, no quorum. Other queues may have stored it.
    Refused,
    /// The channel or session was lost before the answer: nobody knows.
    Lost,
    /// No answer in time: nobody knows.
    TimedOut,
    /// There is no such exchange; not sent.
    ExchangeMissing(ExchangeName),
    /// Not sent, and why.
    NotSent(BrokerError),
}
