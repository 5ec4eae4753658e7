//! What becomes of deliveries that failed, or that no handler shall see: the copy that follows is stored first, and then
//! the original is acked.

use std::sync::Arc;
use std::time::Duration;

use tracing::{debug, warn};
use uuid::Uuid;

use super::copies::{Purpose, Repair};
use super::pump::{Load, Pump};
use super::settling::{Note, Source};
use crate::broker::Proof;
use crate::domain::delay::{Slot, Wait};
use crate::domain::failure::{Failure, FailureKind};
use crate::domain::giving_up::{self, DeadLetterCause, Decision, Failed};
use crate::domain::ledger::{DeliveryId, Outcome};
use crate::domain::retry::Draw;
use crate::domain::verdict::{RETRY_DELAY_MAX, VerdictKind};

/// A failed attempt on its way to a copy.
pub(super) struct FailedAttempt {
    pub kind: FailureKind,
    pub reason: String,
    pub description: String,
    pub handler: String,
    pub delay: Option<Duration>,
    pub source: Source,
    pub proof: Proof,
}

impl Load {
    /// What is left of the life time of the message, in milliseconds; `None` = for ever.
    pub(super) fn remaining_ms(&self) -> Option<u64> {
        let held_ms = u64::try_from(self.arrived.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.seen.record.remaining_ms(&self.seen.message).map(|left| left.saturating_sub(held_ms))
    }
}

impl Pump {
    /// A failed attempt: a copy for the next one, or a dead letter.
    pub(super) fn fail(&mut self, id: Option<DeliveryId>, load: Load, attempt: FailedAttempt) {
        if let Some(id) = id {
            self.attempt_failed(id, attempt.kind);
        }
        let now_ms = (self.context.now_ms)();
        let (message, record) = (&load.seen.message, &load.seen.record);
        let remaining_ms = load.remaining_ms();
        let failed = Failed { record, kind: attempt.kind, delay: attempt.delay, remaining_ms, now_ms };
        let decision = giving_up::decide(&self.subscription.retry, &failed, draw());
        let number = record.attempt();
        let failure = Failure {
            kind: attempt.kind,
            reason: attempt.reason,
            description: attempt.description,
            handler: attempt.handler,
            attempt: number,
            time_ms: now_ms,
            delay_ms: None,
        };
        let fresh_id = Uuid::now_v7().to_string();
        let queue = &self.subscription.queue.name;
        let source = giving_up::Source { message, record, queue, now_ms, fresh_id: &fresh_id };
        let verdict = match attempt.kind {
            FailureKind::DeadLetter => VerdictKind::DeadLetter,
            FailureKind::Retry | FailureKind::Timeout | FailureKind::Crash => VerdictKind::Retry,
        };
        let (copy, purpose, repair, outcome) = match decision {
            Decision::Retry(wait) => {
                let copy = giving_up::retry_copy(&source, failure, remaining_ms, (wait, &self.context.namespace));
                (copy, Purpose::Retry { attempt: number }, self.slot_repair(wait.slot), Outcome::RetryScheduled)
            }
            Decision::DeadLetter(cause) if !self.subscription.dead_letter.is_enabled => {
                let (outcome, source, done) = (Outcome::Released, attempt.source, None);
                return self.keep(load, cause, &Note { id, verdict, outcome, source, done });
            }
            Decision::DeadLetter(cause) => {
                let letter_id = Uuid::now_v7().to_string();
                let verdict = giving_up::Verdict { cause, letter_id: &letter_id, by: &self.context.by };
                let letter = giving_up::dead_letter(&source, Some(failure), &self.subscription.dead_letter, &verdict);
                (letter, Purpose::DeadLetter(cause), self.own_repair(), Outcome::DeadLettered)
            }
        };
        let done = Some(Arc::clone(&load.seen));
        let note = Note { id, verdict, outcome, source: attempt.source, done };
        self.copy(load, (copy, purpose), repair, (attempt.proof, note));
    }

    /// Larger than any handler of this subscription may get.
    pub(super) fn too_large(&mut self, load: Load) {
        warn!(
            subscription = %self.subscription.name, bytes = load.size.encoded,
            limit = self.subscription.delivery.message_bytes_max,
            "a message is larger than max_message_bytes and is given up"
        );
        self.give_up_unseen(load, DeadLetterCause::MessageTooLarge);
    }

    /// A dead letter that no handler has seen: no attempt is counted.
    fn give_up_unseen(&mut self, load: Load, cause: DeadLetterCause) {
        let (verdict, outcome, source) = (VerdictKind::DeadLetter, Outcome::DeadLettered, Source::Sidecar);
        if !self.subscription.dead_letter.is_enabled {
            let note = Note { id: None, verdict, outcome: Outcome::Released, source, done: None };
            return self.keep(load, cause, &note);
        }
        let (letter_id, fresh_id) = (Uuid::now_v7().to_string(), Uuid::now_v7().to_string());
        let (message, record, queue) = (&load.seen.message, &load.seen.record, &self.subscription.queue.name);
        let now_ms = (self.context.now_ms)();
        let made_of = giving_up::Source { message, record, queue, now_ms, fresh_id: &fresh_id };
        let why = giving_up::Verdict { cause, letter_id: &letter_id, by: &self.context.by };
        let letter = giving_up::dead_letter(&made_of, None, &self.subscription.dead_letter, &why);
        let done = Some(Arc::clone(&load.seen));
        let note = Note { id: None, verdict, outcome, source, done };
        self.copy(load, (letter, Purpose::DeadLetter(cause)), self.own_repair(), (Proof::Written, note));
    }

    /// It is given up, and dead letters are switched off: it goes back to its queue, and nothing more is consumed.
    fn keep(&mut self, load: Load, cause: DeadLetterCause, note: &Note) {
        let message_id = load.seen.message.properties.message_id.as_deref().unwrap_or_default();
        let attempt = load.seen.record.attempt();
        warn!(
            subscription = %self.subscription.name, queue = %self.subscription.queue.name, cause = cause.as_str(),
            message.id = message_id, attempt,
            "a message is given up and dead letters are switched off: it goes back to its queue, and nothing more is consumed"
        );
        self.given_up(format!("message {message_id:?} was given up at attempt {attempt} ({})", cause.as_str()));
        self.fall_back(load, note);
    }

    /// How long a message has to wait on that came home before the time that its handler chose.
    pub(super) fn rest(&self, load: &Load) -> Option<Wait> {
        let (time, now_ms) = (load.seen.record.not_before_ms?, (self.context.now_ms)());
        // No handler can ask for more: such a time was forged, or a clock has jumped.
        let is_possible = Duration::from_millis(time.saturating_sub(now_ms)) <= RETRY_DELAY_MAX;
        Wait::rest(time, now_ms).filter(|_| is_possible)
    }

    /// Sends it to wait on. No handler sees it, and no attempt is counted.
    pub(super) fn wait_on(&mut self, load: Load, wait: Wait) {
        let (now_ms, remaining_ms) = ((self.context.now_ms)(), load.remaining_ms());
        if giving_up::ends_in(wait, remaining_ms, now_ms) {
            return self.give_up_unseen(load, DeadLetterCause::Expired);
        }
        debug!(subscription = %self.subscription.name, attempt = load.seen.record.attempt(), "waits on: its time has not come");
        let (message, record, queue) = (&load.seen.message, &load.seen.record, &self.subscription.queue.name);
        let fresh_id = Uuid::now_v7().to_string();
        let source = giving_up::Source { message, record, queue, now_ms, fresh_id: &fresh_id };
        let copy = giving_up::delay_copy(&source, remaining_ms, (wait, &self.context.namespace));
        let (verdict, outcome, source) = (VerdictKind::Retry, Outcome::RetryScheduled, Source::Sidecar);
        // Not remembered as done: the copy is the same message in everything, and would be taken for its original.
        let note = Note { id: None, verdict, outcome, source, done: None };
        self.copy(load, (copy, Purpose::Wait), self.slot_repair(wait.slot), (Proof::Written, note));
    }

    fn slot_repair(&self, slot: Slot) -> Repair {
        let plan = slot.plan(&self.context.namespace);
        plan.map_or_else(|_| self.own_repair(), |plan| Repair::Slot(Arc::new(plan)))
    }
}

/// Chance for one retry: where in its span the delay lies, and which of two slots serves it.
fn draw() -> Draw {
    Draw { spread: fastrand::f64(), pick: fastrand::f64() }
}
