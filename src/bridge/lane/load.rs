//! How much a lane has to do, and a bell for when that is enough. Knows no message.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering, fence};

use tokio::sync::Notify;

/// Messages that a lane has and has not answered.
#[derive(Debug)]
pub(super) struct Load {
    messages: AtomicUsize,
    /// With so many the bell rings.
    enough: AtomicUsize,
    bell: Notify,
}

impl Default for Load {
    fn default() -> Self {
        Self { messages: AtomicUsize::new(0), enough: AtomicUsize::new(usize::MAX), bell: Notify::new() }
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
