//! What a publish holds until it has its answer: shares of what may be unconfirmed, and its place in the metrics.

use std::sync::Arc;

use ::metrics::Gauge;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// What several callers together may have unconfirmed.
#[derive(Debug)]
pub(super) struct Room {
    messages: Arc<Semaphore>,
    messages_max: usize,
    kib: Arc<Semaphore>,
    kib_max: usize,
}

impl Room {
    /// For so many messages, and so many KiB of bodies, at least one of each.
    pub(super) fn new(messages_max: usize, kib_max: usize) -> Self {
        let of = |max: usize| max.clamp(1, Semaphore::MAX_PERMITS);
        let (messages_max, kib_max) = (of(messages_max), of(kib_max));
        let [messages, kib] = [messages_max, kib_max].map(|max| Arc::new(Semaphore::new(max)));
        Self { messages, messages_max, kib, kib_max }
    }

    /// Messages that it is for.
    pub(super) fn limit(&self) -> u64 {
        u64::try_from(self.messages_max).unwrap_or(u64::MAX)
    }

    /// A share of it now, if there is one. One caller may always send, however much it brings: a limit below one request
    /// would refuse it for ever.
    pub(super) fn try_take(&self, messages: usize, kib: usize) -> Option<Share> {
        let (messages, kib) = self.bounded(messages, kib);
        let messages = Arc::clone(&self.messages).try_acquire_many_owned(messages).ok()?;
        let kib = Arc::clone(&self.kib).try_acquire_many_owned(kib).ok()?;
        Some(Share { _messages: messages, _kib: kib })
    }

    /// The same, waited for. Cancel-safe.
    pub(super) async fn take(&self, messages: usize, kib: usize) -> Option<Share> {
        let (messages, kib) = self.bounded(messages, kib);
        // The semaphores are never closed.
        let messages = Arc::clone(&self.messages).acquire_many_owned(messages).await.ok()?;
        let kib = Arc::clone(&self.kib).acquire_many_owned(kib).await.ok()?;
        Some(Share { _messages: messages, _kib: kib })
    }

    /// Waits until nobody has a share. Cancel-safe.
    pub(super) async fn idle(&self) {
        let all = u32::try_from(self.messages_max).unwrap_or(u32::MAX);
        // The semaphore is never closed.
        drop(self.messages.acquire_many(all).await);
    }

    fn bounded(&self, messages: usize, kib: usize) -> (u32, u32) {
        let share = |wanted: usize, max: usize| u32::try_from(wanted.min(max)).unwrap_or(u32::MAX);
        (share(messages, self.messages_max), share(kib, self.kib_max))
    }
}

/// A share of a [`Room`], given back when this is dropped.
#[derive(Debug)]
pub(crate) struct Share {
    _messages: OwnedSemaphorePermit,
    _kib: OwnedSemaphorePermit,
}

/// Shares of what may be unconfirmed, given back when this is dropped.
#[derive(Debug)]
pub(crate) struct Permits {
    /// Of all callers together.
    _all: Option<Share>,
    /// Of those among them that go aside.
    _aside: Option<Share>,
    /// KiB of the caller itself.
    _own: Option<OwnedSemaphorePermit>,
    _counted: Counted,
}

impl Permits {
    /// A share of all callers, and one of those that go aside.
    pub(super) fn new(all: Option<Share>, aside: Option<Share>, counted: Counted) -> Self {
        Self { _all: all, _aside: aside, _own: None, _counted: counted }
    }

    /// The same, with a share of what one caller may have.
    pub(super) fn and_own(self, own: Option<OwnedSemaphorePermit>) -> Self {
        Self { _own: own, ..self }
    }
}

/// Messages that a gauge counts for as long as this lives.
#[derive(Debug)]
pub(crate) struct Counted(Gauge, f64);

impl Counted {
    pub(super) fn new(gauge: Gauge, messages: usize) -> Self {
        #[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
        let messages = messages as f64;
        gauge.increment(messages);
        Self(gauge, messages)
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.decrement(self.1);
    }
}
