//! Deliveries that stay unsettled for long: how old the oldest one is, and one word about each that is too old.

use std::time::Duration;

use tokio::time::Instant;
use tracing::warn;

use super::pump::{Load, Pump};
use crate::domain::ledger::StreamId;

/// From one look to the next, while anything is unsettled.
const LOOK_EVERY: Duration = Duration::from_secs(10);
/// Nobody should need as long; the broker allows three times of it.
const TOLD_AFTER: Duration = Duration::from_mins(10);
/// Lines of one look: a whole window may be as old.
const LINES_MAX: usize = 10;

/// When it was looked last, and is looked next.
#[derive(Debug, Default)]
pub(super) struct Residence {
    look_at: Option<Instant>,
    /// What came until then has been told.
    told: Option<Instant>,
}

impl Residence {
    /// When the pump has to look again.
    pub(super) fn wake_at(&self) -> Option<Instant> {
        self.look_at
    }
}

impl Pump {
    /// With every event; looks no more often than it is due.
    pub(super) fn look_at_residence(&mut self) {
        if self.ledger.open_count() + self.ledger.waiting_count() == 0 {
            if self.residence.look_at.take().is_some() {
                self.metrics.oldest.set(0.0);
            }
            return;
        }
        let now = Instant::now();
        if now < *self.residence.look_at.get_or_insert(now + LOOK_EVERY) {
            return;
        }
        self.residence.look_at = Some(now + LOOK_EVERY);
        let oldest = self.ledger.oldest_arrival().map_or(Duration::ZERO, |at| now.into_std().duration_since(at));
        self.metrics.oldest.set(oldest.as_secs_f64());
        let Some(until) = now.checked_sub(TOLD_AFTER).filter(|_| oldest >= TOLD_AFTER) else { return };
        let after = self.residence.told.replace(until).map(Instant::into_std);
        let mut more = 0_usize;
        for (number, (stream, load)) in self.ledger.unsettled(after, until.into_std()).enumerate() {
            if number < LINES_MAX {
                self.tell_unsettled(stream, load);
            } else {
                more += 1;
            }
        }
        if more > 0 {
            warn!(subscription = %self.subscription.name, more, "as many others are unsettled for as long");
        }
    }

    fn tell_unsettled(&self, stream: Option<StreamId>, load: &Load) {
        let peer = stream.and_then(|stream| self.peers.get(&stream));
        warn!(
            subscription = %self.subscription.name,
            message.id = load.seen.message.properties.message_id.as_deref().unwrap_or_default(),
            handler = peer.map_or("none yet", |peer| &peer.label), seconds = load.arrived.elapsed().as_secs(),
            "unsettled for long: a handler hangs, extends without end or has too large a window"
        );
    }
}
