//! How much a lane has to do, and a bell for when that is enough. Knows no message.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering, fence};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

/// Whoever waits so long for a confirm waits for a queue, and not for its turn.
const STUCK: Duration = Duration::from_secs(1);

/// Whoever waits so long does not wait for a disk that is slow for a moment, as all others then do.
const LONG: Duration = Duration::from_secs(3);

/// Whoever has waited for long may do so again: the queue that was waited for may be waited for again.
const LATELY: Duration = Duration::from_mins(1);

/// Messages that a lane has and has not answered.
#[derive(Debug)]
pub(super) struct Load {
    messages: AtomicUsize,
    born: Instant,
    /// When the oldest batch that is out was written, in milliseconds after that and one more; 0 = none is out.
    oldest: AtomicU64,
    /// When the oldest message was written that keeps all others back, counted as above; 0 = none does.
    holder: AtomicU64,
    /// When it was last seen that either is out for long, counted as above; 0 = never.
    stuck: AtomicU64,
    /// With so many the bell rings.
    enough: AtomicUsize,
    bell: Notify,
}

impl Default for Load {
    fn default() -> Self {
        Self {
            messages: AtomicUsize::new(0),
            born: Instant::now(),
            oldest: AtomicU64::new(0),
            holder: AtomicU64::new(0),
            stuck: AtomicU64::new(0),
            enough: AtomicUsize::new(usize::MAX),
            bell: Notify::new(),
        }
    }
}

impl Load {
    /// One message more, for as long as the burden lives.
    pub(super) fn burden(load: &Arc<Self>) -> Burden {
        load.messages.fetch_add(1, Ordering::SeqCst);
        Burden(Arc::clone(load))
    }

    /// Messages without an answer.
    pub(super) fn messages(&self) -> usize {
        self.messages.load(Ordering::SeqCst)
    }

    /// What is so once something was answered or written: when the oldest batch that is out was written, and the oldest
    /// message without which nothing goes out.
    pub(super) fn is(&self, oldest: Option<Instant>, holder: Option<Instant>) {
        if self.is_out_for(LONG) {
            self.stuck.store(self.ms_until(Instant::now()), Ordering::Relaxed);
        }
        let written = |at: Option<Instant>| at.map_or(0, |at| self.ms_until(at));
        self.oldest.store(written(oldest), Ordering::Relaxed);
        self.holder.store(written(holder), Ordering::Relaxed);
    }

    /// True if what comes now waits for a queue that confirms nothing: nothing goes out, or the oldest batch is out for long.
    pub(super) fn is_stuck(&self) -> bool {
        self.holder.load(Ordering::Relaxed) > 0 || self.is_out_for(STUCK)
    }

    /// True if nothing has moved for long, now or not long ago.
    pub(super) fn was_stuck_lately(&self) -> bool {
        let stuck = self.stuck.load(Ordering::Relaxed);
        self.is_out_for(LONG) || stuck > 0 && self.ms_until(Instant::now()) < stuck + ms(LATELY)
    }

    fn is_out_for(&self, time: Duration) -> bool {
        let since = [&self.oldest, &self.holder].map(|since| since.load(Ordering::Relaxed));
        let now = self.ms_until(Instant::now());
        since.into_iter().any(|since| since > 0 && now >= since + ms(time))
    }

    fn ms_until(&self, then: Instant) -> u64 {
        ms(then.saturating_duration_since(self.born)) + 1
    }

    /// To be called by whoever has handed a message in, afterwards.
    pub(super) fn handed_in(&self) {
        // With its counterpart below: of a message handed in and a bell set at the same moment, one side sees the other.
        fence(Ordering::SeqCst);
        if self.messages() >= self.enough.load(Ordering::SeqCst) {
            self.bell.notify_one();
        }
    }

    /// With so many messages the bell rings, until another number is set; the greatest = never. What was handed in before is the caller's to look
    /// for, after this.
    pub(super) fn ring_at(&self, messages: usize) {
        self.enough.store(messages, Ordering::SeqCst);
        fence(Ordering::SeqCst);
    }

    /// Waits for the bell. Cancel-safe.
    pub(super) async fn rung(&self) {
        self.bell.notified().await;
    }
}

fn ms(time: Duration) -> u64 {
    // Half of it is three hundred million years.
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX / 2)
}

/// See [`Load::burden`].
#[derive(Debug)]
pub(super) struct Burden(Arc<Load>);

impl Drop for Burden {
    fn drop(&mut self) {
        self.0.messages.fetch_sub(1, Ordering::SeqCst);
    }
}
