//! What an outbox holds: deliveries, results, revocations, status, the end of a stream.

use std::sync::Arc;
use std::time::Duration;

use crate::broker::BrokerError;
use crate::domain::ledger::{DeliveryId, Outcome, Size, StreamId};
use crate::domain::record::Seen;

/// One delivery on its way to a handler.
#[derive(Debug, Clone)]
pub struct Handout {
    /// Names the lease.
    pub id: DeliveryId,
    /// The message and what it carries.
    pub seen: Arc<Seen>,
    /// The broker's flag.
    pub redelivered: bool,
    /// Weighs so much in a frame.
    pub size: Size,
}

/// What became of one verdict or extension.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VerdictResult {
    /// The delivery.
    pub id: DeliveryId,
    /// What became of it.
    pub outcome: Outcome,
    /// With `AlreadySettled`: what the first verdict did, if that is known.
    pub first: Option<Outcome>,
    /// For people; may be empty.
    pub description: String,
}

impl VerdictResult {
    pub(in crate::bridge) fn new(id: DeliveryId, outcome: Outcome) -> Self {
        Self { id, outcome, first: None, description: String::new() }
    }

    pub(in crate::bridge) fn because(self, description: &str) -> Self {
        Self { description: description.to_owned(), ..self }
    }
}

/// Why leases are gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RevocationReason {
    /// The oldest one's time passed: a failed attempt.
    SettleTimeout,
    /// The session to the broker is gone.
    BrokerLost,
    /// The grace of a drain is over.
    DrainExpired,
    /// Near the longest lease.
    LeaseLimit,
}

/// How the subscription is doing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Status {
    /// Its state.
    pub state: SubscriptionState,
    /// For people; may be empty.
    pub description: String,
    /// Deliveries that no connected stream may receive.
    pub held: usize,
}

/// States of a subscription.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SubscriptionState {
    /// Messages flow when there are any.
    Active,
    /// No session to the broker.
    BrokerDown,
    /// Its queue cannot be consumed now; the description says why.
    Paused,
}

/// How a stream ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StreamEnd {
    /// The handler has left, or the drain is done.
    Done,
    /// The grace of the drain is over.
    Draining,
    /// Its oldest lease ended without a byte of it having been taken.
    SlowReader,
    /// The handler broke the rules.
    Protocol(String),
    /// The queue is there with other arguments.
    Mismatch(BrokerError),
    /// Nobody reads what the handler says any more: a bug of ours.
    Bug(StreamId),
}

/// A flat frame: whatever there is to say now.
#[derive(Debug, Default)]
pub struct Frame {
    /// New work.
    pub deliveries: Vec<Handout>,
    /// Results, in order.
    pub results: Vec<VerdictResult>,
    /// Leases that are gone.
    pub revocations: Vec<(RevocationReason, Vec<DeliveryId>)>,
    /// Nothing more will be delivered; what is left of the grace.
    pub drain: Option<Duration>,
    /// How the subscription is doing.
    pub status: Option<Status>,
    /// The effective window in messages and bytes, when it has changed; never without `status`.
    pub window: Option<(u32, u64)>,
}

impl Frame {
    pub(super) fn is_empty(&self) -> bool {
        self.deliveries.is_empty()
            && self.results.is_empty()
            && self.revocations.is_empty()
            && self.drain.is_none()
            && self.status.is_none()
    }
}
