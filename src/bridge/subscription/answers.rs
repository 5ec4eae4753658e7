//! What handlers are told of their verdicts and extensions, and what is held against those that talk nonsense.

use std::time::Duration;

use tokio::time::Instant;
use tracing::debug;

use super::super::outbox::{StreamEnd, VerdictResult};
use super::Results;
use super::pump::Pump;
use crate::domain::ledger::{DeliveryId, Outcome, StreamId};

/// Unknown ids in a minute that end a stream.
const NONSENSE_MAX: u32 = 100;

impl Pump {
    /// An immediate answer to a verdict or an extension.
    pub(super) fn answer(&mut self, stream: StreamId, result: VerdictResult) {
        let outcome = result.outcome;
        let Some(peer) = self.peers.get_mut(&stream) else { return };
        if outcome == Outcome::UnknownDelivery {
            let now = Instant::now();
            if now.duration_since(peer.nonsense.0) > Duration::from_mins(1) {
                peer.nonsense = (now, 0);
            }
            peer.nonsense.1 += 1;
            if peer.nonsense.1 >= NONSENSE_MAX {
                let problem = format!("{NONSENSE_MAX} unknown delivery ids within a minute");
                return self.end(stream, StreamEnd::Protocol(problem));
            }
        }
        if !outcome.took_effect() {
            self.metrics.refused(refused_label(outcome));
        }
        if !outcome.took_effect() || peer.results == Results::All {
            self.report(stream, result);
        }
    }

    pub(super) fn report(&mut self, stream: StreamId, result: VerdictResult) {
        let Some(peer) = self.peers.get(&stream) else { return };
        if !peer.outbox.answer(result) {
            self.end(stream, StreamEnd::SlowReader);
        }
    }

    /// A verdict or an extension that names no delivery: an answer would name none either.
    pub(super) fn note_nameless(&self, stream: StreamId, ids: &[DeliveryId], problem: Option<&String>) {
        let (true, Some(problem)) = (ids.is_empty(), problem) else { return };
        let handler = self.peers.get(&stream).map(|peer| peer.label.as_str()).unwrap_or_default();
        debug!(subscription = %self.subscription.name, stream = stream.0, handler, %problem, "a verdict for nothing");
        self.metrics.refused(refused_label(Outcome::Invalid));
    }
}

fn refused_label(outcome: Outcome) -> &'static str {
    match outcome {
        Outcome::LeaseExpired => "lease_expired",
        Outcome::LeaseLost => "lease_lost",
        Outcome::UnknownDelivery => "unknown_delivery",
        Outcome::AlreadySettled => "already_settled",
        Outcome::Invalid
        | Outcome::Acked
        | Outcome::RetryScheduled
        | Outcome::DeadLettered
        | Outcome::Released
        | Outcome::Extended => "invalid",
    }
}
