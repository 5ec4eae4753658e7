//! What waits to be written to one handler's stream: the pump puts in, the stream takes frames out. Knows no wire.
//!
//! Pulled and not pushed: a frame is made when the connection can take it, so it carries all that has gathered, and
//! what was never pulled is known never to have reached the handler. Bounded by the window and by what the handler
//! itself has asked.

use std::collections::{HashSet, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

use crate::domain::ledger::DeliveryId;

mod words;

pub use words::{Frame, Handout, RevocationReason, Status, StreamEnd, SubscriptionState, VerdictResult};

/// Results that may wait for a handler that does not read them.
const RESULTS_MAX: usize = 20_000;

/// Limits of one frame.
#[derive(Debug, Clone, Copy)]
pub struct FrameLimits {
    /// Deliveries of one frame.
    pub messages_max: usize,
    /// Bytes of one frame; a single larger delivery travels alone.
    pub bytes_max: u64,
    /// How long a frame waits for more, beyond the refill rule.
    pub linger: Duration,
}

/// A frame waits so long for more while its handler has more work than half of its window holds, unless a quarter of the
/// window is free: a handler that settles message by message would otherwise get one-message frames for ever, at a
/// thirtieth of the speed (measured with Python). One that keeps up has little in flight and never waits.
const GATHER: Duration = Duration::from_millis(2);

#[derive(Debug)]
struct Inner {
    deliveries: VecDeque<Handout>,
    /// What the handler's pace allows in one frame.
    frame_messages_max: usize,
    pending: Frame,
    end: Option<StreamEnd>,
    /// When the last frame was taken.
    taken_at: Option<Instant>,
    /// A quarter of the window: so many deliveries are written at once.
    refill: usize,
    /// Since when deliveries wait, and whether their handler had nothing to do then.
    gathering: Option<(Instant, bool)>,
}

impl Inner {
    /// When the deliveries that wait may be written; `None` = now.
    fn not_before(&self, limits: FrameLimits) -> Option<Instant> {
        let (since, was_idle) = self.gathering?;
        let enough = if limits.linger.is_zero() { self.refill } else { limits.messages_max };
        if self.deliveries.len() >= enough.min(limits.messages_max) {
            return None;
        }
        let wait = if was_idle { limits.linger } else { GATHER + limits.linger };
        Some(since + wait).filter(|at| *at > Instant::now())
    }
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
        let (deliveries, pending) = (VecDeque::new(), Frame::default());
        let inner =
            Inner { deliveries, frame_messages_max: 1, pending, end: None, taken_at: None, refill: 1, gathering: None };
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

    /// Adds deliveries; `in_flight` is all that the handler's window counts, these included.
    pub(super) fn deliver(&self, handouts: impl IntoIterator<Item = Handout>, in_flight: usize) {
        self.put(|inner| {
            inner.deliveries.extend(handouts);
            let keeps_up = in_flight <= 2 * inner.refill;
            let is_idle = keeps_up || in_flight <= inner.deliveries.len();
            let (_, was_idle) = inner.gathering.get_or_insert_with(|| (Instant::now(), is_idle));
            *was_idle |= is_idle;
        });
    }

    /// A quarter of this window is worth a frame.
    pub(super) fn refill(&self, window_messages: u32) {
        self.lock().refill = usize::try_from(window_messages / 4).unwrap_or(usize::MAX).max(1);
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

    /// Takes out what was never written, the newest and no more than so many: it was never at the handler.
    pub(super) fn take_unwritten(&self, at_most: usize) -> Vec<DeliveryId> {
        let mut inner = self.lock();
        let kept = inner.deliveries.len().saturating_sub(at_most);
        let taken = inner.deliveries.split_off(kept);
        if kept == 0 {
            inner.gathering = None;
        }
        taken.into_iter().map(|handout| handout.id).collect()
    }

    /// Takes these out if they were never written; answers the others, which the handler has.
    pub(super) fn withdraw(&self, ids: &[DeliveryId]) -> Vec<DeliveryId> {
        let mut inner = self.lock();
        let unwritten: HashSet<DeliveryId> = inner.deliveries.iter().map(|handout| handout.id).collect();
        let (here, written): (HashSet<DeliveryId>, Vec<DeliveryId>) =
            ids.iter().fold((HashSet::new(), Vec::new()), |(mut here, mut written), id| {
                if unwritten.contains(id) {
                    here.insert(*id);
                } else {
                    written.push(*id);
                }
                (here, written)
            });
        inner.deliveries.retain(|handout| !here.contains(&handout.id));
        if inner.deliveries.is_empty() {
            inner.gathering = None;
        }
        written
    }

    /// True if deliveries wait and for this long no frame was taken: nobody reads the stream.
    pub(super) fn is_stuck(&self, time: Duration) -> bool {
        let inner = self.lock();
        !inner.deliveries.is_empty() && inner.taken_at.is_none_or(|at| at.elapsed() >= time)
    }

    /// Waits for something to say and makes a frame of it. Cancel-safe.
    ///
    /// # Errors
    /// The end of the stream, when all is said.
    pub async fn next(&self, limits: FrameLimits) -> Result<Frame, StreamEnd> {
        loop {
            let wake = {
                let mut inner = self.lock();
                let limits = FrameLimits { messages_max: limits.messages_max.min(inner.frame_messages_max), ..limits };
                let mut frame = std::mem::take(&mut inner.pending);
                // A delivery that fills a frame by itself leaves no room for what else there is to say.
                let is_huge = inner.deliveries.front().is_some_and(|next| next.size.encoded > limits.bytes_max);
                let not_before = inner.not_before(limits);
                if inner.end.is_none() && not_before.is_none() && (frame.is_empty() || !is_huge) {
                    take_deliveries(&mut inner.deliveries, &mut frame.deliveries, limits);
                    if inner.deliveries.is_empty() {
                        inner.gathering = None;
                    }
                }
                if !frame.is_empty() {
                    inner.taken_at = Some(Instant::now());
                    return Ok(frame);
                }
                if let Some(end) = &inner.end {
                    return Err(end.clone());
                }
                not_before
            };
            match wake {
                // Either way the outbox is looked at again.
                Some(at) => drop(tokio::time::timeout_at(at, self.filled.notified()).await),
                None => self.filled.notified().await,
            }
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
    use std::sync::Arc;

    use bytes::Bytes;

    use super::*;
    use crate::domain::ledger::{Outcome, Size};
    use crate::domain::message::{Message, Properties};
    use crate::domain::name::ExchangeName;
    use crate::domain::record::{Record, Seen};

    fn handout(id: i64, encoded: u64) -> Handout {
        let message = Message {
            exchange: ExchangeName::nameless(),
            routing_key: String::new(),
            properties: Properties::default(),
            body: Bytes::new(),
        };
        let seen = Arc::new(Seen { message, record: Record::default(), distrusted_headers: 0, delivery_count: 0 });
        Handout { id: DeliveryId(id), seen, redelivered: false, size: Size { body: encoded, encoded } }
    }

    const LIMITS: FrameLimits = FrameLimits { messages_max: 3, bytes_max: 100, linger: Duration::ZERO };

    async fn next_ids(outbox: &Outbox) -> Vec<i64> {
        outbox.next(LIMITS).await.unwrap().deliveries.iter().map(|handout| handout.id.0).collect()
    }

    #[tokio::test]
    async fn frames_hold_what_fits_and_a_large_one_travels_alone() {
        let outbox = Outbox::default();
        outbox.pace(64);
        outbox
            .deliver([(1, 10), (2, 10), (3, 10), (4, 10), (5, 500), (6, 60), (7, 60)].map(|(id, n)| handout(id, n)), 7);
        assert_eq!(next_ids(&outbox).await, [1, 2, 3]);
        assert_eq!(next_ids(&outbox).await, [4]);
        assert_eq!(next_ids(&outbox).await, [5]);
        assert_eq!(next_ids(&outbox).await, [6]);
        assert_eq!(next_ids(&outbox).await, [7]);
    }

    #[tokio::test]
    async fn a_new_handler_gets_frames_of_one_until_its_pace_is_known() {
        let outbox = Outbox::default();
        outbox.deliver([1, 2, 3, 4].map(|id| handout(id, 10)), 4);
        assert_eq!(next_ids(&outbox).await, [1]);
        outbox.pace(2);
        assert_eq!(next_ids(&outbox).await, [2, 3]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_busy_handler_waits_for_a_frame_worth_writing_and_an_idle_one_does_not() {
        let outbox = Outbox::default();
        outbox.pace(64);
        outbox.refill(12);
        let begun = Instant::now();
        outbox.deliver([handout(1, 10)], 1);
        assert_eq!(next_ids(&outbox).await, [1]);
        assert_eq!(begun.elapsed(), Duration::ZERO, "it had nothing to do");
        outbox.deliver([handout(2, 10)], 6);
        assert_eq!(next_ids(&outbox).await, [2]);
        assert_eq!(begun.elapsed(), Duration::ZERO, "half of its window is free: it keeps up");
        outbox.deliver([handout(3, 10)], 7);
        assert_eq!(next_ids(&outbox).await, [3]);
        assert!(begun.elapsed() >= GATHER, "it has more to do, so more may come");
        let again = Instant::now();
        outbox.deliver([4, 5, 6].map(|id| handout(id, 10)), 10);
        assert_eq!(next_ids(&outbox).await, [4, 5, 6]);
        assert_eq!(again.elapsed(), Duration::ZERO, "a quarter of the window is free");
    }

    #[tokio::test]
    async fn a_delivery_that_fills_its_frame_shares_it_with_nothing() {
        let outbox = Outbox::default();
        outbox.deliver([handout(1, 500)], 1);
        outbox.revoke(RevocationReason::LeaseLimit, vec![DeliveryId(9)]);
        let first = outbox.next(LIMITS).await.unwrap();
        assert_eq!((first.deliveries.len(), first.revocations.len()), (0, 1));
        assert_eq!(next_ids(&outbox).await, [1]);
    }

    #[tokio::test]
    async fn an_ended_stream_says_what_is_left_but_delivers_nothing() {
        let outbox = Outbox::default();
        outbox.deliver([handout(1, 10)], 1);
        outbox.revoke(RevocationReason::DrainExpired, vec![DeliveryId(9)]);
        outbox.end(StreamEnd::Draining);
        outbox.end(StreamEnd::Done);
        let frame = outbox.next(LIMITS).await.unwrap();
        assert_eq!((frame.deliveries.len(), frame.revocations.len()), (0, 1));
        assert_eq!(outbox.next(LIMITS).await.unwrap_err(), StreamEnd::Draining);
    }

    #[tokio::test(start_paused = true)]
    async fn an_outbox_is_stuck_when_deliveries_wait_and_nobody_takes_them() {
        const LONG: Duration = Duration::from_secs(30);
        let outbox = Outbox::default();
        outbox.deliver([handout(1, 10), handout(2, 500)], 2);
        assert_eq!(next_ids(&outbox).await, [1]);
        assert!(!outbox.is_stuck(LONG));
        tokio::time::advance(LONG).await;
        assert!(outbox.is_stuck(LONG));
        assert_eq!(next_ids(&outbox).await, [2]);
        tokio::time::advance(LONG).await;
        assert!(!outbox.is_stuck(LONG), "nothing waits");
    }

    #[tokio::test]
    async fn a_handler_that_never_reads_its_answers_is_noticed() {
        let outbox = Outbox::default();
        let result = VerdictResult::new(DeliveryId(1), Outcome::UnknownDelivery);
        assert!((0..RESULTS_MAX).all(|_| outbox.answer(result.clone())));
        assert!(!outbox.answer(result));
    }
}
