//! Handlers that are lost with work in hand: what is suspect then, what is charged, and what nobody is to blame for.
//!
//! Charging all that a lost handler held would dead-letter innocents as soon as a handler takes long to start again. So
//! nothing is charged that was held with others: it is handed out alone, and only what takes a handler down then is.

use std::time::Duration;

use tokio::time::Instant;
use tracing::{info, warn};

use super::failing::FailedAttempt;
use super::pump::{Load, Pump};
use super::settling::Source;
use crate::broker::Proof;
use crate::domain::failure::FailureKind;
use crate::domain::late_acks::{Print, Prints};
use crate::domain::ledger::{DeliveryId, Suspicion};
use crate::domain::record::Seen;
use crate::runtime::Phase;

/// A handler that was lost is waited for so long: for what it held, before that goes back, and for our own SIGTERM, which
/// tells that the whole pod is stopped and that no message is to blame.
const RESTART: Duration = Duration::from_secs(5);

/// What was on its way to a consumer that was cancelled, or lost with its session, is back within this.
const UNDER_WAY: Duration = Duration::from_secs(10);

/// A handler was lost that held nothing else.
struct Crash {
    id: DeliveryId,
    load: Load,
    handler: String,
    at: Instant,
}

/// See the module.
#[derive(Default)]
pub(super) struct Crashes {
    /// Not charged yet.
    pending: Vec<Crash>,
    /// Since when no handler takes anything.
    deserted: Option<Instant>,
    /// What will come again without a handler being to blame: we gave it back, or the broker was lost with it.
    innocents: Prints,
    /// So many may come again until then that this sidecar never saw: they were on their way to a consumer that is no more.
    amnesty: Option<(u16, Instant)>,
}

impl Crashes {
    /// True if no crash waits to be charged.
    pub(super) fn is_empty(&self) -> bool {
        self.pending.is_empty()
    }

    /// True if this one may still be charged with a crash.
    pub(super) fn has(&self, id: DeliveryId) -> bool {
        self.pending.iter().any(|crash| crash.id == id)
    }
}

impl Pump {
    /// What a handler held that was lost without a word. Not `is_certain` = it may have worked on something else as well.
    pub(super) fn crashed(&mut self, held: Vec<(DeliveryId, Load)>, handler: &str, is_certain: bool) {
        if held.is_empty() && is_certain {
            // It worked on nothing, so nothing took it down.
            return;
        }
        self.ledger.suspects_go_alone();
        self.crashes.amnesty = None;
        let is_alone = is_certain && held.len() == 1;
        for (id, mut load) in held {
            if is_alone {
                self.crashes.pending.push(Crash { id, load, handler: handler.to_owned(), at: Instant::now() });
                continue;
            }
            self.metrics.crashed(false);
            // It will be handed out once more.
            load.redelivered = true;
            if load.suspicion == Suspicion::None {
                load.suspicion = Suspicion::Suspect;
            }
            let (arrived, size, suspicion) = (load.arrived.into_std(), load.size, load.suspicion);
            self.ledger.wait_again(arrived, load, size, suspicion);
        }
    }

    /// Charges the crashes that have waited long enough, or all: a handler is there again, so nobody stops us.
    pub(super) fn charge(&mut self, all: bool) {
        let is_due = |crash: &Crash| all || crash.at.elapsed() >= RESTART;
        let (due, kept): (Vec<Crash>, _) = std::mem::take(&mut self.crashes.pending).into_iter().partition(is_due);
        self.crashes.pending = kept;
        for Crash { id, load, handler, .. } in due {
            self.attempt_failed(id, FailureKind::Crash);
            self.metrics.crashed(true);
            warn!(
                subscription = %self.subscription.name, %handler, attempt = load.seen.record.attempt(),
                message.id = load.seen.message.properties.message_id.as_deref().unwrap_or_default(),
                crashes = load.seen.record.crashes.unwrap_or_default() + 1, limit = self.subscription.retry.crash_limit,
                "a handler was lost that held this message alone: a crash is charged to it"
            );
            let attempt = FailedAttempt {
                kind: FailureKind::Crash,
                reason: String::new(),
                description: "the handler was lost while it held this message alone".to_owned(),
                handler,
                delay: None,
                source: Source::Crash,
                proof: Proof::Written,
            };
            self.fail(None, load, attempt);
        }
    }

    /// Nothing is charged: we are stopped, and the handlers with us, or the queue goes. It goes back and stays a suspect.
    pub(super) fn forgive(&mut self) {
        for Crash { mut load, .. } in std::mem::take(&mut self.crashes.pending) {
            self.metrics.crashed(false);
            if load.suspicion == Suspicion::None {
                load.suspicion = Suspicion::Suspect;
            }
            self.give_back(load, None, Source::Crash);
        }
    }

    /// The broker hands these out again, as suspects; a charge would be one for another time.
    pub(super) fn crashes_lost(&mut self, is_lost: impl Fn(&Load) -> bool) {
        let before = self.crashes.pending.len();
        self.crashes.pending.retain(|crash| !is_lost(&crash.load));
        for _ in self.crashes.pending.len()..before {
            self.metrics.crashed(false);
        }
    }

    /// Notes since when no handler takes anything.
    pub(super) fn note_deserted(&mut self) {
        if self.ledger.effective_windows().any(|window| window > 0) {
            self.crashes.deserted = None;
        } else {
            self.crashes.deserted.get_or_insert_with(Instant::now);
        }
    }

    /// When `crashes_due` is worth asking again.
    pub(super) fn crashes_wake_at(&self) -> Option<Instant> {
        let charge = self.crashes.pending.iter().map(|crash| crash.at).min();
        let deserted = self.crashes.deserted.filter(|_| self.ledger.suspects_waiting() > 0);
        charge.into_iter().chain(deserted).min().map(|at| at + RESTART)
    }

    /// What has waited long enough for a handler.
    pub(super) fn crashes_due(&mut self) {
        self.charge(false);
        if self.crashes.deserted.is_some_and(|at| at.elapsed() >= RESTART) {
            self.give_back_suspects();
        }
    }

    /// Suspects go back to the queue and stay suspects: whoever gets them sees that they were delivered before.
    pub(super) fn give_back_suspects(&mut self) {
        let suspects = self.ledger.take_suspects();
        if !suspects.is_empty() {
            // Nothing that comes now may pass for what was only on its way.
            self.crashes.amnesty = None;
            info!(subscription = %self.subscription.name, count = suspects.len(), "suspects go back to the queue");
        }
        for load in suspects {
            self.give_back(load, None, Source::Crash);
        }
    }

    /// It will be delivered again, and no handler is to blame, unless one is already.
    pub(super) fn acquit(&mut self, load: &Load) {
        if load.suspicion == Suspicion::None {
            self.acquit_seen(&load.seen);
        }
    }

    /// The same, of what a handler has lived through.
    pub(super) fn acquit_seen(&mut self, seen: &Seen) {
        let print = Print::loose(&seen.message, seen.record.attempt());
        self.crashes.innocents.add(Instant::now().into_std(), print);
    }

    /// Whether a handler may have been lost with this. The flag is the broker's: this sidecar or another one had it before.
    pub(super) fn suspicion(&mut self, seen: &Seen, redelivered: bool, now: Instant) -> Suspicion {
        match seen.record.crashes {
            Some(charged) if charged > 0 => Suspicion::Charged,
            None if !redelivered => Suspicion::None,
            Some(_) | None if self.is_innocent(seen, now) => Suspicion::None,
            None if self.takes_amnesty(now) => Suspicion::None,
            Some(_) | None => Suspicion::Suspect,
        }
    }

    /// A consumer is no more, or its prefetch is another. Quorum queues hand out again what was on its way to it (measured), and nobody
    /// here has seen that. A suspect of another sidecar may slip through among them: it is one again when it kills.
    pub(super) fn pardon_unseen(&mut self) {
        if self.crashes.is_empty() && self.ledger.suspects_waiting() == 0 {
            let most = self.subscription.delivery.prefetch_max;
            self.crashes.amnesty = Some((most, Instant::now() + UNDER_WAY));
        }
    }

    fn takes_amnesty(&mut self, now: Instant) -> bool {
        self.crashes.amnesty.take_if(|(left, until)| *left == 0 || now >= *until);
        let Some((left, _)) = &mut self.crashes.amnesty else { return false };
        *left -= 1;
        true
    }

    fn is_innocent(&mut self, seen: &Seen, now: Instant) -> bool {
        let innocents = &mut self.crashes.innocents;
        !innocents.is_empty() && innocents.take(now.into_std(), &Print::loose(&seen.message, seen.record.attempt()))
    }

    /// True when what handlers are lost with is given back at once: we are stopped, so most likely they are, too.
    pub(super) fn is_stopping(&self) -> bool {
        self.phase.now() >= Phase::Notice
    }
}
