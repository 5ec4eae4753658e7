//! How much a lane has to do, and a bell for when that is enough. Knows no message.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering, fence};

use tokio::sync::Notify;
use tokio::time::Instant;

/// Whoever waits so long for a confirm waits for a queue, and not for its turn.
const STUCK_MS: u64 = 1_000;

/// Messages that a lane has and has not answered.
#[derive(Debug)]
pub(super) struct Load {
    messages: AtomicUsize,
    born: Instant,
    /// When the oldest batch that is out was written, in milliseconds after that and one more; 0 = none is out.
    oldest: AtomicU64,
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

    /// The oldest batch that is out was written then.
    pub(super) fn oldest_is(&self, begun: Option<Instant>) {
        self.oldest.store(begun.map_or(0, |begun| self.ms_until(begun)), Ordering::Relaxed);
    }

    /// True if that has been out for so long that it waits for a queue which confirms nothing.
    pub(super) fn is_stuck(&self) -> bool {
        let oldest = self.oldest.load(Ordering::Relaxed);
        oldest > 0 && self.ms_until(Instant::now()) >= oldest + STUCK_MS
    }

    fn ms_until(&self, then: Instant) -> u64 {
        u64::try_from(then.saturating_duration_since(self.born).as_millis())
            .unwrap_or(u64::MAX - STUCK_MS)
            .saturating_add(1)
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

/// See [`Load::burden`].
#[derive(Debug)]
pub(super) struct Burden(Arc<Load>);

impl Drop for Burden {
    fn drop(&mut self) {
        self.0.messages.fetch_sub(1, Ordering::SeqCst);
    }
}
