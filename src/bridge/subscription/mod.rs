//! One subscription: a task that owns its deliveries, its consumer and its handlers. Knows no backend and no wire.

use std::sync::atomic::{AtomicU64, AtomicUsize};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tracing::error;

use super::lane::LaneHandle;
use super::link::LinkWatch;
use super::objects::Objects;
use super::outbox::Outbox;
use super::wish::Wish;
use crate::broker::BrokerError;
use crate::domain::delivery_id::DeliveryIds;
use crate::domain::ledger::{DeliveryId, StreamId};
use crate::domain::subscription::Subscription;
use crate::domain::topology::{Plan, TopologyMode};
use crate::domain::verdict::Verdict;
use crate::runtime::{PhaseWatch, TaskKind, Tasks, until_panic};
use crate::telemetry::metrics::CappedLabel;

mod answers;
mod brakes;
mod consuming;
mod copies;
mod crashes;
mod failing;
mod intake;
mod late;
mod letters;
mod prefetch;
mod probation;
mod pump;
mod releases;
mod residence;
mod settling;
mod size;
mod stopping;
mod streams;
mod throttle;
mod verdicts;

/// Commands that wait for the pump before streams wait for it.
const COMMANDS_MAX: usize = 1_024;

/// What every subscription of this process shares.
#[derive(Debug)]
pub(crate) struct Context {
    /// Numbers for deliveries.
    pub ids: Arc<Mutex<DeliveryIds>>,
    /// Numbers for streams.
    pub streams: AtomicU64,
    /// Copies that a lane writes together.
    pub copies_max: usize,
    /// Prefix of the delay slots.
    pub namespace: String,
    /// This sidecar and its version, for dead letters.
    pub by: String,
    /// The wall clock, in milliseconds since 1970: for what messages carry, and for delays beyond the longest slot.
    pub now_ms: fn() -> u64,
    /// Whether missing objects are declared.
    pub topology: TopologyMode,
    /// What all subscriptions share on the broker.
    pub shared: Arc<Plan>,
    /// What is known of the objects on the broker.
    pub objects: Objects,
    /// What is left for handlers when we stop.
    pub drain_grace: Duration,
    /// Names of subscriptions in metrics.
    pub labels: CappedLabel,
}

/// How long a subscription stays.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kept {
    /// The settings name it.
    Always,
    /// A handler has brought it: it goes with its last one. Its queue stays, unless the queue itself goes with its
    /// last consumer.
    WhileUsed,
}

/// How a handler wants to work, checked.
#[derive(Debug, Clone)]
pub struct AttachRequest {
    /// Label for logs and history.
    pub handler: String,
    /// Window in messages; `None` = the subscription's.
    pub messages_max: Option<u32>,
    /// Window in bytes.
    pub bytes_max: u64,
    /// Clock of its oldest delivery; `None` = the subscription's.
    pub settle_timeout: Option<Duration>,
    /// Largest encoded frame that it can receive, in bytes.
    pub frame_bytes_max: u64,
    /// Which results it wants.
    pub results: Results,
}

/// Which results a handler wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Results {
    /// What did not take effect, and verdicts that became another.
    Failures,
    /// Every one, after the broker has it.
    All,
}

/// A connected handler: what it is told, and how it answers.
#[derive(Debug)]
pub struct Attached {
    /// The stream's number.
    pub stream: StreamId,
    /// What waits for it.
    pub outbox: Arc<Outbox>,
    /// Its way to the subscription.
    pub voice: Voice,
    /// Terms in force.
    pub terms: Opened,
}

/// The terms in force on a stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Opened {
    /// The subscription's name.
    pub subscription: String,
    /// Window in messages.
    pub messages_max: u32,
    /// Window in bytes.
    pub bytes_max: u64,
    /// Clock of the oldest unsettled delivery.
    pub settle_timeout: Duration,
    /// No lease lasts longer.
    pub max_lease: Duration,
}

/// Why a handler was not taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AttachError {
    /// As many handlers as allowed are connected.
    HandlerLimit {
        /// How many are allowed.
        handlers_max: u16,
    },
    /// The sidecar stops.
    Draining,
    /// The subscription has just gone with its last handler: bring it again.
    Gone,
}

/// What one frame of a handler says.
#[derive(Debug, Default)]
pub struct Said {
    /// Verdicts in order, or why one is none.
    pub verdicts: Vec<(Vec<DeliveryId>, Result<Verdict, String>)>,
    /// More time for work in progress, or why not.
    pub extensions: Vec<(Vec<DeliveryId>, Result<Duration, String>)>,
    /// Another window in messages.
    pub messages_max: Option<u32>,
    /// Another window in bytes.
    pub bytes_max: Option<u64>,
    /// Nothing more is wanted.
    pub leave: bool,
}

/// How the request side of a stream ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Hangup {
    /// The handler half-closed: it leaves, and what it holds is released at once.
    HalfClosed,
    /// The connection was lost, or the handler was killed.
    Lost,
    /// It broke the rules.
    Protocol(String),
    /// Nobody reads what it says any more: a bug of ours.
    Bug,
}

pub(crate) enum Command {
    Attach(AttachRequest, oneshot::Sender<Result<Attached, AttachError>>),
    Said(StreamId, Said),
    Hangup(StreamId, Hangup),
}

/// A stream's way to its subscription.
#[derive(Debug, Clone)]
pub struct Voice {
    stream: StreamId,
    commands: mpsc::Sender<Command>,
}

impl Voice {
    /// Passes a frame on; waits while the subscription is busy. False = the subscription has ended.
    pub async fn say(&self, said: Said) -> bool {
        self.commands.send(Command::Said(self.stream, said)).await.is_ok()
    }

    /// Waits for how the request side ends, and tells it. A panic in there ends the stream: a handler that nobody listens to
    /// must not be handed anything more. `None` = there is nobody to tell.
    pub async fn follow(&self, reading: impl Future<Output = Option<Hangup>>) {
        let ended = until_panic(reading).await.unwrap_or_else(|text| {
            error!(stream = self.stream.0, panic = %text, "the reader of a handler panicked: this is a bug");
            Some(Hangup::Bug)
        });
        if let Some(hangup) = ended {
            self.hang_up(hangup).await;
        }
    }

    /// Tells how the request side ended.
    pub async fn hang_up(&self, hangup: Hangup) {
        // A subscription that has ended holds nothing of this stream.
        drop(self.commands.send(Command::Hangup(self.stream, hangup)).await);
    }
}

impl std::fmt::Debug for Command {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (word, stream) = match self {
            Self::Attach(..) => ("attach", None),
            Self::Said(stream, _) => ("said", Some(stream)),
            Self::Hangup(stream, _) => ("hangup", Some(stream)),
        };
        f.debug_tuple("Command").field(&word).field(&stream).finish()
    }
}

/// What a subscription says of itself for whoever asks.
#[derive(Debug, Default)]
pub(crate) struct Told {
    /// Connected handlers.
    pub handlers: AtomicUsize,
    /// Why it is paused.
    pub pause: Mutex<Option<String>>,
}

/// A way to a running subscription. Clones share it.
#[derive(Debug, Clone)]
pub(crate) struct SubscriptionHandle {
    /// What it was started with.
    pub subscription: Arc<Subscription>,
    /// What it wants on the broker.
    pub wish: Wish,
    /// What it says of itself.
    pub told: Arc<Told>,
    commands: mpsc::Sender<Command>,
}

impl SubscriptionHandle {
    pub(crate) async fn attach(&self, request: AttachRequest) -> Result<Attached, AttachError> {
        let (reply, answer) = oneshot::channel();
        if self.commands.send(Command::Attach(request, reply)).await.is_err() {
            return Err(AttachError::Gone);
        }
        answer.await.unwrap_or(Err(AttachError::Gone))
    }

    /// True when its task has ended.
    pub(crate) fn has_ended(&self) -> bool {
        self.commands.is_closed()
    }
}

/// What a subscription's task is given.
#[derive(Debug)]
pub(crate) struct Parts {
    pub context: Arc<Context>,
    pub link: LinkWatch,
    pub phase: PhaseWatch,
    pub kept: Kept,
    pub wish: Wish,
    /// Where it says how it is.
    pub told: Arc<Told>,
    /// Dropped when the subscription has nothing unsettled any more and has ended.
    pub alive: mpsc::Sender<std::convert::Infallible>,
    /// The lane of its copies. Each subscription has its own: a queue that confirms nothing holds up nobody else's retries.
    pub lane: LaneHandle,
}

/// Starts the task of a subscription. Its consumer begins with its first handler.
pub(crate) fn start(tasks: &Tasks, subscription: Arc<Subscription>, parts: Parts) -> SubscriptionHandle {
    let (sender, commands) = mpsc::channel(COMMANDS_MAX);
    let (wish, told) = (parts.wish.clone(), Arc::clone(&parts.told));
    let name = subscription.name.as_str().to_owned();
    let pump = pump::Pump::new(Arc::clone(&subscription), parts, commands, sender.downgrade());
    tasks.spawn(TaskKind::Subscription, name, pump.run());
    SubscriptionHandle { subscription, wish, told, commands: sender }
}

/// A description of what keeps a subscription from consuming.
fn describe(error: &BrokerError) -> String {
    format!("{error}; {}", error.hint())
}
