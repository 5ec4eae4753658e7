//! What goes back to its queue uncounted: held if it would come again at once, because a handler released it or no copy can be
//! made of it, and copied before the queue's own limit.
//!
//! Below RabbitMQ 4.3 every requeue counts against a quorum queue's delivery limit, and beyond it the message is
//! dead-lettered, or dropped where no target is: 21 releases destroyed a message (measured).

use std::time::Duration;

use tokio::time::Instant;
use uuid::Uuid;

use super::copies::Purpose;
use super::pump::{Load, Pump};
use super::settling::{Job, Note, Source};
use crate::broker::{Proof, Settled, Settlement};
use crate::domain::giving_up::{self, GUARD_MARGIN};
use crate::domain::late_acks::{Print, Prints};
use crate::domain::ledger::{DeliveryId, Outcome, Suspicion};
use crate::domain::message::Value;
use crate::domain::record::Seen;
use crate::domain::subscription::DELIVERY_LIMIT_DEFAULT;
use crate::domain::verdict::VerdictKind;
use crate::runtime::Phase;

/// A release is held so long; twice as long for each time that its message was released before, up to the longest.
const HOLD_MIN: Duration = Duration::from_secs(1);
const HOLD_MAX: Duration = Duration::from_secs(30);

/// One that goes back at its time.
#[derive(Debug)]
struct Held {
    until: Instant,
    load: Load,
    id: Option<DeliveryId>,
    /// What it was, and who said so.
    cause: (VerdictKind, Source),
}

/// Releases that are held before they go back: at once they would come back at once.
#[derive(Debug, Default)]
pub(super) struct Releases {
    held: Vec<Held>,
    /// What was released here before: only quorum queues count, from RabbitMQ 4.3 on not even they count a release, and a
    /// copy begins their count anew.
    before: Prints,
}

impl Releases {
    /// When the next one goes back.
    pub(super) fn wake_at(&self) -> Option<Instant> {
        self.held.iter().map(|held| held.until).min()
    }

    /// How many are held.
    pub(super) fn count(&self) -> usize {
        self.held.len()
    }

    /// True if none is held.
    pub(super) fn is_empty(&self) -> bool {
        self.held.is_empty()
    }

    /// How long this one is held. Another sidecar may have released it too: then the broker knows better.
    fn hold(&mut self, seen: &Seen) -> Duration {
        let mut before = seen.delivery_count;
        // One without an id may be any of those that look like it.
        if let Some(print) = Print::of(&seen.message, seen.record.attempt()) {
            let now = Instant::now().into_std();
            before = before.max(self.before.count(now, &print));
            self.before.add(now, print);
        }
        HOLD_MIN.saturating_mul(2_u32.saturating_pow(before)).min(HOLD_MAX)
    }
}

impl Pump {
    /// A handler's verdict: back to the queue, after a while.
    pub(super) fn release(&mut self, mut load: Load, id: DeliveryId) {
        // The handler lives and has spoken: it is no suspect any more.
        load.suspicion = Suspicion::None;
        self.release_later(load, Some(id), (VerdictKind::Release, Source::Handler));
    }

    /// What would come back at once goes back after a while, each time a longer one.
    pub(super) fn release_later(&mut self, load: Load, id: Option<DeliveryId>, cause: (VerdictKind, Source)) {
        let until = Instant::now() + self.releases.hold(&load.seen);
        if let Some(id) = id {
            // Nobody works on it, and it must not keep other messages from its handler.
            self.ledger.set_aside(id);
        }
        self.releases.held.push(Held { until, load, id, cause });
        self.release_due();
    }

    /// Gives back what was held long enough; all of it when the sidecar stops.
    pub(super) fn release_due(&mut self) {
        let (now, is_stopping) = (Instant::now(), self.phase.now() >= Phase::Intake);
        let is_due = |held: &Held| is_stopping || held.until <= now;
        let (due, kept): (Vec<Held>, _) = std::mem::take(&mut self.releases.held).into_iter().partition(is_due);
        self.releases.held = kept;
        for Held { load, id, cause, .. } in due {
            self.give_back_instead(load, id, cause);
        }
    }

    /// The broker hands these out again by itself.
    pub(super) fn releases_lost(&mut self, is_lost: impl Fn(&Load) -> bool) {
        let is_lost = |held: &Held| is_lost(&held.load);
        let (lost, kept): (Vec<Held>, _) = std::mem::take(&mut self.releases.held).into_iter().partition(is_lost);
        self.releases.held = kept;
        let stale = lost.into_iter().map(|Held { load, id, cause: (verdict, source), .. }| {
            self.acquit(&load);
            (Note { id, verdict, outcome: Outcome::Released, source, done: None }, Settled::Stale)
        });
        let stale: Vec<_> = stale.collect();
        if !stale.is_empty() {
            self.settled(stale);
        }
    }

    /// Gives back what waits for a handler.
    pub(super) fn give_back_waiting(&mut self) {
        for load in self.ledger.take_waiting() {
            self.give_back(load, None, Source::Sidecar);
        }
        // Else suspects are kept for a handler that starts again.
        let is_stopping = self.phase.now() >= Phase::Intake;
        if is_stopping || self.pauses_for_letters() {
            self.give_back_suspects();
        }
        if is_stopping {
            self.forgive();
        }
    }

    /// Puts a give-back on its way. Near the queue's own limit it is a copy, which resets the queue's count.
    pub(super) fn give_back(&mut self, load: Load, id: Option<DeliveryId>, source: Source) {
        self.give_back_instead(load, id, (VerdictKind::Release, source));
    }

    /// The same, of a delivery whose verdict was perhaps another one.
    pub(super) fn give_back_instead(
        &mut self,
        load: Load,
        id: Option<DeliveryId>,
        (verdict, source): (VerdictKind, Source),
    ) {
        self.acquit(&load);
        let note = Note { id, verdict, outcome: Outcome::Released, source, done: None };
        let proof = Proof::Written;
        if load.seen.delivery_count.saturating_add(GUARD_MARGIN) < self.delivery_limit() {
            let (receipt, settlement) = (load.receipt, Settlement::GiveBack);
            return self.settling.push(Job { receipt, settlement, proof, note });
        }
        let (message, record) = (&load.seen.message, &load.seen.record);
        let remaining_ms = load.remaining_ms();
        let (queue, fresh_id) = (&self.subscription.queue.name, Uuid::now_v7().to_string());
        let source = giving_up::Source { message, record, queue, now_ms: (self.context.now_ms)(), fresh_id: &fresh_id };
        let copy = giving_up::guard_copy(&source, remaining_ms, load.suspicion != Suspicion::None);
        // Not remembered as done: the copy is the same message in everything, and would be taken for its original.
        self.copy(load, (copy, Purpose::Guard), self.own_repair(), (proof, note));
    }

    /// Requeues that the queue allows: what it was found to have, else what was asked for, else what RabbitMQ takes from
    /// 4.0 on. A limit below 0 means none from 4.0 on and death at the first requeue on 3.10 (measured): every give-back
    /// is a copy then, which is right on both. A classic queue counts nothing, so its deliveries never come near.
    pub(super) fn delivery_limit(&self) -> u32 {
        let named = || self.subscription.queue.arguments.get("x-delivery-limit").and_then(Value::as_integer);
        let limit = self.delivery_limit_found.or_else(named);
        limit.map_or(DELIVERY_LIMIT_DEFAULT, |limit| u32::try_from(limit.max(0)).unwrap_or(u32::MAX))
    }
}
