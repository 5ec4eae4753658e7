//! Verdicts, deadlines and what follows from them: acks, gives-back, copies, results.

use tokio::time::Instant;
use tracing::{debug, warn};

use super::super::objects::PlanOf;
use super::super::outbox::{RevocationReason, StreamEnd, VerdictResult};
use super::copies::{self, Copy, CopyEnd, Fate, Purpose, Repair};
use super::failing::FailedAttempt;
use super::pump::{Load, Pump};
use super::settling::{Job, Note, Source};
use super::{Results, Said};
use crate::broker::{Proof, Settled, Settlement};
use crate::domain::failure::FailureKind;
use crate::domain::giving_up;
use crate::domain::ledger::{Answer, Clock, DeliveryId, Due, LEASE_MARGIN, Outcome, StreamId, Suspicion};
use crate::domain::message::Message;
use crate::domain::verdict::{Verdict, VerdictKind};

/// Told where a verdict asked for something else.
const WENT_BACK: &str = "it went back to its queue: its copy could not be stored, or dead letters are switched off";

impl Pump {
    pub(super) fn said(&mut self, stream: StreamId, said: Said) {
        if !self.peers.contains_key(&stream) {
            return;
        }
        self.resize(stream, said.messages_max, said.bytes_max);
        let before = self.ledger.working_count(stream);
        for (ids, verdict) in said.verdicts {
            self.note_nameless(stream, &ids, verdict.as_ref().err());
            for id in ids {
                match &verdict {
                    Ok(verdict) => self.verdict(stream, id, verdict),
                    Err(problem) => self.answer(stream, VerdictResult::new(id, Outcome::Invalid).because(problem)),
                }
            }
        }
        let settled = before.saturating_sub(self.ledger.working_count(stream));
        let count = u32::try_from(settled).unwrap_or(u32::MAX);
        let frame_max = self.ledger.observe(Instant::now().into_std(), stream, count);
        if let (Some(frame_max), Some(peer)) = (frame_max, self.peers.get(&stream)) {
            peer.outbox.pace(usize::try_from(frame_max).unwrap_or(usize::MAX));
        }
        for (ids, timeout) in said.extensions {
            self.note_nameless(stream, &ids, timeout.as_ref().err());
            for id in ids {
                match &timeout {
                    Ok(timeout) => {
                        let outcome = self.ledger.extend(Instant::now().into_std(), stream, id, *timeout);
                        self.answer(stream, VerdictResult::new(id, outcome));
                    }
                    Err(problem) => self.answer(stream, VerdictResult::new(id, Outcome::Invalid).because(problem)),
                }
            }
        }
        if said.leave {
            self.leave(stream);
        }
    }

    /// Another window, within the cap of the subscription, and the handler is told what came of it.
    fn resize(&mut self, stream: StreamId, messages_max: Option<u32>, bytes_max: Option<u64>) {
        if messages_max.is_none() && bytes_max.is_none() {
            return;
        }
        let cap = u32::from(self.subscription.delivery.prefetch_max);
        self.ledger.resize(stream, messages_max.map(|count| count.min(cap)), bytes_max);
        self.apply_window(stream);
        self.share_refill();
    }

    pub(super) fn verdict(&mut self, stream: StreamId, id: DeliveryId, verdict: &Verdict) {
        match self.ledger.verdict(Instant::now().into_std(), stream, id, verdict.kind()) {
            Answer::Act(load) => self.carry_out(stream, id, load, verdict),
            Answer::Result(outcome) => {
                if verdict.kind() == VerdictKind::Ack && outcome == Outcome::LeaseLost {
                    self.acked_late(id);
                }
                self.answer(stream, VerdictResult::new(id, outcome));
            }
            Answer::Already(first) => {
                let result = VerdictResult::new(id, Outcome::AlreadySettled).because("another verdict came first");
                self.answer(stream, VerdictResult { first, ..result });
            }
            Answer::Pending => {}
        }
    }

    fn carry_out(&mut self, stream: StreamId, id: DeliveryId, load: Load, verdict: &Verdict) {
        self.time_handling(verdict.kind(), load.handed);
        let peer = self.peers.get(&stream);
        let proof = match peer.map(|peer| peer.results) {
            Some(Results::All) => Proof::Read,
            Some(Results::Failures) | None => Proof::Written,
        };
        let handler = peer.map(|peer| peer.label.clone()).unwrap_or_default();
        let source = Source::Handler;
        match verdict {
            Verdict::Ack => {
                self.attempt_succeeded(id);
                let (verdict, outcome, done) = (VerdictKind::Ack, Outcome::Acked, Some(load.seen));
                let note = Note { id: Some(id), verdict, outcome, source, done };
                self.settling.push(Job { receipt: load.receipt, settlement: Settlement::Ack, proof, note });
            }
            Verdict::Release => self.release(load, id),
            Verdict::Retry { delay, reason, description } => {
                let (reason, description) = (reason.clone(), description.clone());
                let (kind, delay) = (FailureKind::Retry, *delay);
                self.fail(Some(id), load, FailedAttempt { kind, reason, description, handler, delay, source, proof });
            }
            Verdict::DeadLetter { reason, description } => {
                let (reason, description) = (reason.clone(), description.clone());
                let (kind, delay) = (FailureKind::DeadLetter, None);
                self.fail(Some(id), load, FailedAttempt { kind, reason, description, handler, delay, source, proof });
            }
        }
    }

    /// The clocks that have run out.
    pub(super) fn clocks(&mut self) {
        for due in self.ledger.due(Instant::now().into_std()) {
            match (due.holder, due.clock) {
                (None, _) => self.give_back(due.load, None, Source::Deadline),
                (Some((stream, id)), Clock::LeaseLimit) => {
                    if let Some(peer) = self.peers.get(&stream) {
                        // One that was never written is taken out, or two handlers would work on it.
                        let written = peer.outbox.withdraw(&[id]);
                        if written.is_empty() {
                            self.ledger.was_never_written(stream, [id]);
                        } else {
                            peer.outbox.revoke(RevocationReason::LeaseLimit, written);
                        }
                    }
                    self.give_back(due.load, Some(id), Source::Deadline);
                }
                (Some(held), Clock::SettleTimeout | Clock::LeaseUsedUp) => self.timed_out(held, due),
            }
        }
    }

    fn timed_out(&mut self, (stream, id): (StreamId, DeliveryId), due: Due<Load>) {
        let Some(peer) = self.peers.get(&stream) else {
            return self.give_back(due.load, Some(id), Source::Deadline);
        };
        if peer.outbox.withdraw(&[id]).is_empty() {
            // It never reached the handler, so the handler did not fail it; but nobody reads that stream.
            self.give_back(due.load, Some(id), Source::Deadline);
            return self.end(stream, StreamEnd::SlowReader);
        }
        // Half of it: a frame may have been taken in the first moments of this clock.
        let is_stuck = peer.outbox.is_stuck(peer.settle_timeout / 2);
        peer.outbox.revoke(RevocationReason::SettleTimeout, vec![id]);
        let limit = if due.clock == Clock::LeaseUsedUp { "longest lease" } else { "settle timeout" };
        warn!(
            subscription = %self.subscription.name, delivery = id.0, handler = %peer.label,
            message.id = due.load.seen.message.properties.message_id.as_deref().unwrap_or_default(),
            attempt = due.load.seen.record.attempt(), limit, "its time is over without a verdict: a failed attempt"
        );
        let attempt = FailedAttempt {
            kind: FailureKind::Timeout,
            reason: String::new(),
            description: format!("no verdict within the {limit}"),
            handler: peer.label.clone(),
            delay: None,
            source: Source::Deadline,
            proof: Proof::Written,
        };
        self.fail(Some(id), due.load, attempt);
        if is_stuck {
            // What was written and never read would fail one by one, each after a whole clock.
            self.end(stream, StreamEnd::SlowReader);
        }
    }

    /// The place of a letter or of a copy to the own queue is made by what the subscription wants then.
    pub(super) fn own_repair(&self) -> Repair {
        Repair::Own(PlanOf::Subscription(self.subscription.name.clone()), self.wish.clone())
    }

    /// Puts a copy on its way; the original is settled when its fate is known.
    pub(super) fn copy(
        &mut self,
        load: Load,
        (message, purpose): (Message, Purpose),
        repair: Repair,
        (proof, note): (Proof, Note),
    ) {
        let limit = load.arrived + self.subscription.delivery.max_lease.saturating_sub(LEASE_MARGIN);
        // What ends with its lease may still become a copy: the margin is for that.
        let until = limit.max(Instant::now() + LEASE_MARGIN / 2);
        let when_full = match purpose {
            Purpose::DeadLetter(_) => self.subscription.dead_letter.when_full().cloned(),
            Purpose::Retry { .. } | Purpose::Wait | Purpose::Guard => None,
        };
        let copy = Copy { message, purpose, when_full, repair, load, proof, until, note, tries: 0 };
        self.copies.push(Box::pin(copies::store(copy, self.means())));
    }

    /// What should have become a copy goes back to its queue, after a while: it may come again at once.
    pub(super) fn fall_back(&mut self, mut load: Load, note: &Note) {
        judge(&mut load, note.source);
        self.release_later(load, note.id, (note.verdict, note.source));
    }

    pub(super) fn copied(&mut self, end: CopyEnd) {
        let CopyEnd { copy, fate } = end;
        self.count_copy(&copy, &fate);
        match fate {
            Fate::Stored => {}
            // Nothing was stored for it.
            Fate::SessionOver => {
                if copy.note.source == Source::Handler {
                    self.acquit_seen(&copy.load.seen);
                }
                return self.settled(vec![(Note { done: None, ..copy.note }, Settled::Stale)]);
            }
            // For this one there is no time, or no way, to be a copy near the limit of its queue.
            Fate::Impossible(_) | Fate::TooLate if copy.purpose == Purpose::Guard => {
                let (settlement, proof) = (Settlement::GiveBack, copy.proof);
                return self.settling.push(Job { receipt: copy.load.receipt, settlement, proof, note: copy.note });
            }
            Fate::Impossible(_) => return self.fall_back(copy.load, &copy.note),
            // The broker's own clock runs.
            Fate::TooLate => {
                let Copy { mut load, note, .. } = copy;
                judge(&mut load, note.source);
                return self.give_back_instead(load, note.id, (note.verdict, note.source));
            }
        }
        match copy.purpose {
            Purpose::Retry { attempt } => {
                self.metrics.retried(attempt);
                debug!(
                    subscription = %self.subscription.name, attempt, slot = %copy.message.exchange,
                    message.id = copy.message_id(), "retry scheduled"
                );
            }
            Purpose::Wait => {}
            Purpose::Guard => {
                debug!(subscription = %self.subscription.name, message.id = copy.message_id(), "given back by a copy");
            }
            Purpose::DeadLetter(cause) => {
                self.metrics.dead_lettered(cause.label());
                warn!(
                    subscription = %self.subscription.name, cause = cause.as_str(),
                    reason = giving_up::letter_reason(&copy.message),
                    message.id = copy.message_id(), "dead-lettered"
                );
            }
        }
        let (settlement, proof) = (Settlement::Ack, copy.proof);
        self.settling.push(Job { receipt: copy.load.receipt, settlement, proof, note: copy.note });
    }

    fn count_copy(&self, copy: &Copy, fate: &Fate) {
        let purpose = copy.purpose.label();
        match fate {
            Fate::Stored => self.metrics.copied(purpose, "stored"),
            Fate::SessionOver | Fate::TooLate => self.metrics.copied(purpose, "dropped"),
            Fate::Impossible(problem) => {
                self.metrics.copied(purpose, "impossible");
                warn!(
                    subscription = %self.subscription.name, queue = %self.subscription.queue.name, purpose,
                    message.id = copy.message_id(), %problem,
                    "copy can never be stored; the original goes back to its queue, and no attempt is counted"
                );
            }
        }
    }

    /// The broker has settlements, or never will.
    pub(super) fn settled(&mut self, done: Vec<(Note, Settled)>) {
        let stale = done.iter().filter(|(_, settled)| *settled == Settled::Stale).count();
        if stale > 0 {
            warn!(
                subscription = %self.subscription.name, stale,
                "settlements came too late: their channel is gone, the broker hands the messages out again"
            );
        }
        for (note, settled) in done {
            self.count_settlement(&note, settled);
            if settled == Settled::Stale {
                self.done_in_vain(&note);
            }
            let Some(id) = note.id else { continue };
            let outcome = match settled {
                Settled::Applied => note.outcome,
                Settled::Stale => Outcome::LeaseLost,
            };
            let Some(stream) = self.ledger.settled(id, outcome) else { continue };
            if note.source != Source::Handler {
                // The handler has been told by a revocation.
                continue;
            }
            let became = |what, asked| outcome == what && note.verdict != asked;
            let is_letter = became(Outcome::DeadLettered, VerdictKind::DeadLetter);
            let went_back = became(Outcome::Released, VerdictKind::Release);
            let is_wanted = self.peers.get(&stream).is_some_and(|peer| peer.results == Results::All);
            if is_wanted || is_letter || went_back || !outcome.took_effect() {
                let description = if went_back { WENT_BACK } else { "" };
                self.report(stream, VerdictResult::new(id, outcome).because(description));
            }
        }
    }
}

/// What is thought of a delivery that goes back without its copy.
fn judge(load: &mut Load, source: Source) {
    match source {
        // Its handler lives and has spoken.
        Source::Handler => load.suspicion = Suspicion::None,
        Source::Crash if load.suspicion == Suspicion::None => load.suspicion = Suspicion::Suspect,
        Source::Crash | Source::Deadline | Source::Sidecar => {}
    }
}
