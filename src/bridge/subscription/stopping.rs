//! How a subscription stops, phase by phase.

use tracing::info;

use super::super::outbox::{RevocationReason, StreamEnd};
use super::Kept;
use super::intake::Intake;
use super::pump::Pump;
use crate::domain::ledger::StreamId;
use crate::runtime::Phase;

impl Pump {
    pub(super) fn enter(&mut self, phase: Phase) {
        match phase {
            Phase::Running | Phase::Close => {}
            Phase::Notice => self.forgive(),
            // The consumer is cancelled by `tune`; handlers are told what is left to them.
            Phase::Intake | Phase::Drain => self.tell_drain(),
            Phase::GiveBack => self.end_of_grace(),
        }
    }

    fn tell_drain(&mut self) {
        self.release_due();
        let streams: Vec<StreamId> = self.peers.keys().copied().collect();
        for stream in streams {
            if !self.ledger.is_leaving(stream) {
                self.leave(stream);
                if let Some(peer) = self.peers.get(&stream) {
                    peer.outbox.drain(self.context.drain_grace);
                }
            }
        }
        if matches!(self.intake, Intake::Idle { .. }) {
            self.give_back_waiting();
        }
    }

    fn end_of_grace(&mut self) {
        self.tell_drain();
        let streams: Vec<StreamId> = self.peers.keys().copied().collect();
        for stream in streams {
            let left = self.ledger.working(stream);
            if let Some(peer) = self.peers.get(&stream)
                && !left.is_empty()
            {
                info!(subscription = %self.subscription.name, handler = %peer.label, left = left.len(), "grace is over");
                peer.outbox.revoke(RevocationReason::DrainExpired, left);
            }
            self.end(stream, StreamEnd::Draining);
        }
        self.give_back_waiting();
    }

    /// True when nothing is held any more and nobody needs the subscription, or there is no more time.
    pub(super) fn has_ended(&self) -> bool {
        let phase = self.phase.now();
        let is_empty = self.peers.is_empty()
            && matches!(self.intake, Intake::Idle { .. })
            && self.settling.is_idle()
            && self.copies.is_empty()
            && self.releases.is_empty()
            && self.crashes.is_empty()
            && self.ledger.waiting_count() == 0;
        // One that stays paused stays with its pause: the next handler would only run into the same. Not where the queue goes.
        let queue = &self.subscription.queue;
        let stays = self.stays_paused() && !queue.is_auto_delete() && !queue.is_exclusive();
        let is_unused = self.kept == Kept::WhileUsed && self.was_used && !stays;
        phase >= Phase::Close || (is_empty && (phase >= Phase::Drain || is_unused))
    }
}
