//! Deliveries that were done when their receipt was lost already: acked when they come again, and handled by nobody twice.

use std::sync::Arc;

use tokio::time::Instant;
use tracing::debug;

use super::pump::{Load, Pump};
use super::settling::{Job, Note, Source};
use crate::broker::{Proof, Receipt, Settlement};
use crate::domain::ledger::{DeliveryId, Outcome};
use crate::domain::record::Seen;
use crate::domain::verdict::VerdictKind;

impl Pump {
    /// A handler still has it, and may ack it though its receipt is worth nothing any more.
    pub(super) fn may_come_late(&mut self, id: DeliveryId, load: &Load) {
        if let Some(print) = load.seen.print() {
            self.late.lost(Instant::now().into_std(), id, print);
        }
    }

    /// A handler has acked what was lost.
    pub(super) fn acked_late(&mut self, id: DeliveryId) {
        self.late.acked(Instant::now().into_std(), id);
    }

    /// It is done, and the broker could not be told.
    pub(super) fn done_in_vain(&mut self, note: &Note) {
        let Some(seen) = &note.done else { return };
        match seen.print() {
            Some(print) => self.late.done(Instant::now().into_std(), print),
            // It will be handled once more; its handler has lived through it.
            None if note.source == Source::Handler => self.acquit_seen(seen),
            None => {}
        }
    }

    /// Whether this was done before, as often as it is asked.
    pub(super) fn was_done(&mut self, seen: &Seen, now: Instant) -> bool {
        self.late.knows_any() && seen.print().is_some_and(|print| self.late.recognises(now.into_std(), &print))
    }

    /// Tells the broker what it could not be told before.
    pub(super) fn ack_again(&mut self, receipt: Receipt, seen: Seen) {
        self.metrics.acked_again();
        debug!(
            subscription = %self.subscription.name,
            message.id = seen.message.properties.message_id.as_deref().unwrap_or_default(),
            "acked again: it was done when its session was lost"
        );
        let (verdict, outcome, source) = (VerdictKind::Ack, Outcome::Acked, Source::Sidecar);
        let note = Note { id: None, verdict, outcome, source, done: Some(Arc::new(seen)) };
        self.settling.push(Job { receipt, settlement: Settlement::Ack, proof: Proof::Written, note });
    }
}
