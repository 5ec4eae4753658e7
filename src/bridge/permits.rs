//! What a publish holds until it has its answer: shares of what may be unconfirmed, and its place in the metrics.

use ::metrics::Gauge;
use tokio::sync::OwnedSemaphorePermit;

/// A share of what may be unconfirmed, given back when this is dropped.
#[derive(Debug)]
pub(crate) struct Permits {
    /// Of all callers together.
    _messages: Option<OwnedSemaphorePermit>,
    _kib: Option<OwnedSemaphorePermit>,
    /// KiB of the caller itself.
    _own: Option<OwnedSemaphorePermit>,
    _counted: Counted,
}

impl Permits {
    /// Shares of all callers.
    pub(super) fn new(
        messages: Option<OwnedSemaphorePermit>,
        kib: Option<OwnedSemaphorePermit>,
        counted: Counted,
    ) -> Self {
        Self { _messages: messages, _kib: kib, _own: None, _counted: counted }
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
