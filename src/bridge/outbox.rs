//! What waits to be written to one handler's stream: the pump puts in, the stream takes frames out. Knows no wire.
//!
//! Pulled and not pushed: a frame is made when the connection can take it, so it carries all that has gathered, and
//! what was never pulled is known never to have reached the handler. Bounded by the window and by what the handler
//! itself has asked.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;

use crate::broker::BrokerError;
use crate::domain::ledger::{DeliveryId, Outcome, Size};
use crate::domain::record::Seen;

/// Results that may wait for a handler that does not read them.
const RESULTS_MAX: usize = 20_000;

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
    pub(super) fn new(id: DeliveryId, outcome: Outcome) -> Self {
        Self { id, outcome, first: None, description: String::new() }
    }

    pub(super) fn because(self, description: &str) -> Self {
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
    fn is_empty(&self) -> bool {
        self.deliveries.is_empty()
            && self.results.is_empty()
            && self.revocations.is_empty()
            && self.drain.is_none()
            && self.status.is_none()
    }
}

/// Limits of one frame.
#[derive(Debug, Clone, Copy)]
pub struct FrameLimits {
    /// Deliveries of one frame.
    pub messages_max: usize,
    /// Bytes of one frame; a single larger delivery travels alone.
    pub bytes_max: u64,
}

#[derive(Debug)]
struct Inner {
    deliveries: VecDeque<Handout>,
    /// What the handler's pace allows in one frame.
    frame_messages_max: usize,
    pending: Frame,
    end: Option<StreamEnd>,
}

/// See the module.
#[derive(Debug)]
pub struct Outbox {
    inner: Mutex<Inner>,
    filled: Notify,
}

impl Default for Outbox {
    fn default() -> Self {
        // Nothing is known of a new handler's pace: one that settles once a frame must not be late with its first.
        let inner = Inner { deliveries: VecDeque::new(), frame_messages_max: 1, pending: Frame::default(), end: None };
        Self { inner: Mutex::new(inner), filled: Notify::new() }
    }
}

impl Outbox {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        // Nothing in here can leave the contents half changed.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn put(&self, change: impl FnOnce(&mut Inner)) {
        change(&mut self.lock());
        self.filled.notify_one();
    }

    pub(super) fn deliver(&self, handouts: impl IntoIterator<Item = Handout>) {
        self.put(|inner| inner.deliveries.extend(handouts));
    }

    /// False = the handler asks and asks and never reads the answers.
    pub(super) fn answer(&self, result: VerdictResult) -> bool {
        let mut fits = true;
        self.put(|inner| {
            fits = inner.pending.results.len() < RESULTS_MAX;
            if fits {
                inner.pending.results.push(result);
            }
        });
        fits
    }

    pub(super) fn revoke(&self, reason: RevocationReason, ids: Vec<DeliveryId>) {
        self.put(|inner| inner.pending.revocations.push((reason, ids)));
    }

    /// What the handler's pace allows in one frame from now on.
    pub(super) fn pace(&self, frame_messages_max: usize) {
        self.lock().frame_messages_max = frame_messages_max.max(1);
    }

    /// Its effective window has changed.
    pub(super) fn tell_window(&self, messages_max: u32, bytes_max: u64, status: Status) {
        self.put(|inner| {
            inner.pending.status = Some(status);
            inner.pending.window = Some((messages_max, bytes_max));
        });
    }

    pub(super) fn tell(&self, status: Status) {
        self.put(|inner| inner.pending.status = Some(status));
    }

    pub(super) fn drain(&self, grace: Duration) {
        self.put(|inner| inner.pending.drain = Some(grace));
    }

    /// Ends the stream after what is still to be said. The first end counts.
    pub(super) fn end(&self, end: StreamEnd) {
        self.put(|inner| {
            inner.end.get_or_insert(end);
        });
    }

    /// Takes out what was never written: it was never at the handler.
    pub(super) fn take_unwritten(&self) -> Vec<DeliveryId> {
        self.lock().deliveries.drain(..).map(|handout| handout.id).collect()
    }

    /// True if this delivery was never written.
    pub(super) fn is_unwritten(&self, id: DeliveryId) -> bool {
        self.lock().deliveries.iter().any(|handout| handout.id == id)
    }

    /// Waits for something to say and makes a frame of it. Cancel-safe.
    ///
    /// # Errors
    /// The end of the stream, when all is said.
    pub async fn next(&self, limits: FrameLimits) -> Result<Frame, StreamEnd> {
        loop {
            {
                let mut inner = self.lock();
                let mut frame = std::mem::take(&mut inner.pending);
                // A delivery that fills a frame by itself leaves no room for what else there is to say.
                let is_huge = inner.deliveries.front().is_some_and(|next| next.size.encoded > limits.bytes_max);
                if inner.end.is_none() && (frame.is_empty() || !is_huge) {
                    let messages_max = limits.messages_max.min(inner.frame_messages_max);
                    let limits = FrameLimits { messages_max, ..limits };
                    take_deliveries(&mut inner.deliveries, &mut frame.deliveries, limits);
                }
                if !frame.is_empty() {
                    return Ok(frame);
                }
                if let Some(end) = &inner.end {
                    return Err(end.clone());
                }
            }
            self.filled.notified().await;
        }
    }
}

fn take_deliveries(from: &mut VecDeque<Handout>, to: &mut Vec<Handout>, limits: FrameLimits) {
    let mut bytes = 0_u64;
    while let Some(next) = from.front() {
        bytes = bytes.saturating_add(next.size.encoded);
        let fits = to.is_empty() || (to.len() < limits.messages_max && bytes <= limits.bytes_max);
        if !fits {
            return;
        }
        to.extend(from.pop_front());
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::domain::message::{Message, Properties};
    use crate::domain::name::ExchangeName;
    use crate::domain::record::Record;

    fn handout(id: i64, encoded: u64) -> Handout {
        let message = Message {
            exchange: ExchangeName::nameless(),
            routing_key: String::new(),
            properties: Properties::default(),
            body: Bytes::new(),
        };
        let seen = Arc::new(Seen { message, record: Record::default(), distrusted_headers: 0 });
        Handout { id: DeliveryId(id), seen, redelivered: false, size: Size { body: encoded, encoded } }
    }

    const LIMITS: FrameLimits = FrameLimits { messages_max: 3, bytes_max: 100 };

    async fn next_ids(outbox: &Outbox) -> Vec<i64> {
        outbox.next(LIMITS).await.unwrap().deliveries.iter().map(|handout| handout.id.0).collect()
    }

    #[tokio::test]
    async fn frames_hold_what_fits_and_a_large_one_travels_alone() {
        let outbox = Outbox::default();
        outbox.pace(64);
        outbox.deliver([(1, 10), (2, 10), (3, 10), (4, 10), (5, 500), (6, 60), (7, 60)].map(|(id, n)| handout(id, n)));
        assert_eq!(next_ids(&outbox).await, [1, 2, 3]);
        assert_eq!(next_ids(&outbox).await, [4]);
        assert_eq!(next_ids(&outbox).await, [5]);
        assert_eq!(next_ids(&outbox).await, [6]);
        assert_eq!(next_ids(&outbox).await, [7]);
    }

    #[tokio::test]
    async fn a_new_handler_gets_frames_of_one_until_its_pace_is_known() {
        let outbox = Outbox::default();
        outbox.deliver([1, 2, 3, 4].map(|id| handout(id, 10)));
        assert_eq!(next_ids(&outbox).await, [1]);
        outbox.pace(2);
        assert_eq!(next_ids(&outbox).await, [2, 3]);
    }

    #[tokio::test]
    async fn a_delivery_that_fills_its_frame_shares_it_with_nothing() {
        let outbox = Outbox::default();
        outbox.deliver([handout(1, 500)]);
        outbox.revoke(RevocationReason::LeaseLimit, vec![DeliveryId(9)]);
        let first = outbox.next(LIMITS).await.unwrap();
        assert_eq!((first.deliveries.len(), first.revocations.len()), (0, 1));
        assert_eq!(next_ids(&outbox).await, [1]);
    }

    #[tokio::test]
    async fn an_ended_stream_says_what_is_left_but_delivers_nothing() {
        let outbox = Outbox::default();
        outbox.deliver([handout(1, 10)]);
        outbox.revoke(RevocationReason::DrainExpired, vec![DeliveryId(9)]);
        outbox.end(StreamEnd::Draining);
        outbox.end(StreamEnd::Done);
        let frame = outbox.next(LIMITS).await.unwrap();
        assert_eq!((frame.deliveries.len(), frame.revocations.len()), (0, 1));
        assert_eq!(outbox.next(LIMITS).await.unwrap_err(), StreamEnd::Draining);
    }

    #[tokio::test]
    async fn a_handler_that_never_reads_its_answers_is_noticed() {
        let outbox = Outbox::default();
        let result = VerdictResult::new(DeliveryId(1), Outcome::UnknownDelivery);
        assert!((0..RESULTS_MAX).all(|_| outbox.answer(result.clone())));
        assert!(!outbox.answer(result));
    }
}
