//! How the pump consumes: begins with its first handler, follows the windows, starts again after failures.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use tracing::{debug, info, warn};

use super::super::objects::PlanOf;
use super::super::outbox::{RevocationReason, StreamEnd};
use super::intake::{Active, Adjusted, Intake, IntakeEvent, NotStarted, Stage, Started};
use super::prefetch::Wanted;
use super::pump::{Load, Pump};
use super::settling::{Channel, Source};
use super::size::{record_bytes, size_of};
use crate::broker::{BrokerError, ConsumeOptions, Incoming, Prefetch, SessionId};
use crate::domain::backoff::full_jitter;
use crate::domain::ledger::DeliveryId;
use crate::domain::prefetch::Need;
use crate::domain::record;
use crate::domain::topology::TopologyMode;
use crate::runtime::Phase;
use crate::telemetry::metrics;

/// A consumer that has lived so long was well.
const WELL_AFTER: Duration = Duration::from_secs(30);
/// A failure so long ago has nothing to do with the next one, however short consumers lived in between.
const LONG_AGO: Duration = Duration::from_mins(1);
/// Waits between two tries to consume.
const CONSUME_BACKOFF: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(10));
/// The same after a message that cannot be read: a quorum queue moves it after some twenty of them, and what is behind it waits.
const UNPARSABLE_BACKOFF: (Duration, Duration) = (Duration::from_millis(100), Duration::from_millis(500));

impl Pump {
    pub(super) fn consumer(&mut self, event: IntakeEvent) {
        match event {
            IntakeEvent::Started(Ok(started)) => self.started(started),
            IntakeEvent::Arrived(Ok(batch)) => self.arrived(batch),
            IntakeEvent::Started(Err(failed)) => self.not_started(failed),
            IntakeEvent::Arrived(Err(error)) => self.consumer_failed(error),
            IntakeEvent::Adjusted(adjusted) => self.adjusted(adjusted),
            IntakeEvent::RetryDue => self.intake = Intake::Idle { retry_at: None },
        }
    }

    fn started(&mut self, started: Started) {
        self.is_status_due = true;
        info!(
            subscription = %self.subscription.name, queue = %self.subscription.queue.name,
            prefetch = started.prefetch.get(), topology = %started.findings, "consuming"
        );
        self.context.objects.consumed(&self.owners().1, started.session, Ok(()));
        self.trial_started(&started.findings);
        self.delivery_limit_found = started.findings.delivery_limit(&self.subscription.queue.name);
        self.trouble = None;
        self.started_at = Some(Instant::now());
        self.session = Some(started.session);
        self.metrics.prefetch.set(f64::from(started.prefetch.get()));
        let own = (started.session, started.settler.channel());
        self.settling.add(own, started.settler, started.hold);
        if let Some((channel, untaken)) = started.former {
            if let Ok(untaken) = untaken {
                self.arrived(untaken);
                // What handlers hold can still be settled; what nobody holds comes again over the new session.
                self.give_back_waiting();
                self.pardon_unseen();
                self.settling.retire(channel);
            } else {
                self.pardon_unseen();
                self.consumer_gone(channel);
            }
        }
        self.intake = Intake::Active(Active::new(started.arrivals, own, started.prefetch));
    }

    fn arrived(&mut self, batch: Vec<Incoming>) {
        let now = Instant::now();
        if let Some(first) = batch.first() {
            // One consumer, one channel.
            self.settling.arrived((first.receipt.session(), first.receipt.channel()), batch.len());
            self.trial.rules.arrived(batch.iter().any(|one| !one.redelivered), now.into_std());
        }
        let mut returns_max = None;
        for Incoming { message, redelivered, receipt } in batch {
            let seen = record::read(message, &self.subscription.queue.name);
            returns_max = returns_max.max(Some(seen.delivery_count));
            if seen.distrusted_headers > 0 {
                metrics::headers_distrusted(seen.distrusted_headers);
            }
            let size = size_of(&seen);
            if redelivered && self.was_done(&seen, now) {
                self.ack_again(receipt, seen);
                continue;
            }
            let suspicion = self.suspicion(&seen, redelivered, now);
            let load = Load { receipt, seen: Arc::new(seen), redelivered, size, suspicion, arrived: now, handed: now };
            // What we write on a message that was tried before does not make it too large.
            if size.encoded - record_bytes(&load.seen) > self.subscription.delivery.message_bytes_max {
                self.too_large(load);
            } else if let Some(wait) = self.rest(&load) {
                self.wait_on(load, wait);
            } else {
                self.ledger.arrive(now.into_std(), load, size, suspicion);
            }
        }
        if let Some(returns_max) = returns_max {
            self.note_returns(returns_max);
        }
        // More than the broker sends ahead now: it came over the consumer before this one.
        let sent_ahead = self.intake.prefetch().map_or(usize::MAX, usize::from);
        // Suspects came over an earlier one.
        if self.ledger.waiting_count() - self.ledger.suspects_waiting() > sent_ahead {
            self.shed();
        }
    }

    fn shed(&mut self) {
        for load in self.ledger.shed() {
            self.give_back(load, None, Source::Sidecar);
        }
    }

    fn adjusted(&mut self, adjusted: Adjusted) {
        let Adjusted { arrivals, channel, target, result } = adjusted;
        match (result, target) {
            (Err(error), _) => self.consumer_failed(error),
            (Ok(_), Some(prefetch)) => {
                self.metrics.prefetch.set(f64::from(prefetch.get()));
                self.intake = Intake::Active(Active::new(arrivals, channel, prefetch));
                // The broker counts for each consumer: what the old one was sent does not count against the new one, so
                // without this every change would add a whole prefetch to what waits here. After a step of a careful
                // beginning that is less than a window, of bodies of a known size: not worth a second way through the broker.
                if !self.care.has_stepped_up() {
                    self.shed();
                }
            }
            (Ok(untaken), None) => {
                self.metrics.prefetch.set(0.0);
                // So that they are known to be no suspects when they come again, and count as what they are.
                self.arrived(untaken);
                self.pardon_unseen();
                self.intake = Intake::Idle { retry_at: None };
                self.give_back_waiting();
                self.settling.retire(channel);
            }
        }
    }

    /// The consumer could not begin. Nothing that is held hangs on it.
    fn not_started(&mut self, failed: NotStarted) {
        let NotStarted { session, stage, error, former } = failed;
        self.former = former.filter(|former| self.link.settles(former.channel.0));
        match stage {
            Stage::Topology => {}
            Stage::Consume => {
                self.note_unparsable(&error);
                self.context.objects.consumed(&self.owners().1, session, Err(&error));
            }
        }
        // Where nothing is created, what is missing is a difference like any other.
        let is_missing = matches!(error, BrokerError::Missing { .. }) && self.context.topology == TopologyMode::Verify;
        if is_missing || matches!(error, BrokerError::Mismatch { .. }) {
            self.end_all(&StreamEnd::Mismatch(error.clone()));
        }
        self.try_again(error);
    }

    fn owners(&self) -> (PlanOf, PlanOf) {
        let name = &self.subscription.name;
        (PlanOf::Subscription(name.clone()), PlanOf::Consumer(name.clone()))
    }

    /// It has ended: nobody waits for its objects any more.
    pub(super) fn forget_objects(&self) {
        let (plan_of, consumer_of) = self.owners();
        self.context.objects.forget(&plan_of);
        self.context.objects.forget(&consumer_of);
    }

    /// The consumer has ended by itself, and with it, usually, its channel.
    fn consumer_failed(&mut self, error: BrokerError) {
        self.note_unparsable(&error);
        self.pardon_unseen();
        if let Some(channel) = self.intake.channel() {
            self.consumer_gone(channel);
        }
        self.try_again(error);
    }

    /// The consumer of this channel is no more. Whatever the channel still is: without its two halves it is closed, and the broker
    /// hands out again what was unsettled on it.
    fn consumer_gone(&mut self, channel: Channel) {
        self.settling.forget(channel);
        self.receipts_lost(|load| load.channel() == channel);
    }

    fn try_again(&mut self, error: BrokerError) {
        self.is_status_due = true;
        // One that dies right after its start has not been well in between.
        let was_well = self.started_at.take().is_some_and(|at| at.elapsed() >= WELL_AFTER);
        let is_first = self.failed_at.replace(Instant::now()).is_none_or(|at| at.elapsed() >= LONG_AGO);
        self.failures = if was_well || is_first { 1 } else { self.failures.saturating_add(1) };
        let is_unparsable = matches!(error, BrokerError::Unparsable { .. });
        let backoff = if is_unparsable { UNPARSABLE_BACKOFF } else { CONSUME_BACKOFF };
        let wait = full_jitter(self.failures, backoff, fastrand::f64());
        let wait_ms = u64::try_from(wait.as_millis()).unwrap_or(u64::MAX);
        let (subscription, queue) = (&self.subscription.name, &self.subscription.queue.name);
        if error.is_about_an_object() || is_unparsable {
            // Said once already: when it was new, or with what follows from it.
            debug!(%subscription, %queue, %error, wait_ms, "not consuming, trying again");
        } else {
            warn!(%subscription, %queue, %error, hint = error.hint(), wait_ms, "not consuming, trying again");
        }
        self.metrics.prefetch.set(0.0);
        self.intake = Intake::after_failure(wait);
        self.trouble = Some(error);
    }

    pub(super) fn link_changed(&mut self) {
        self.is_status_due = true;
        self.note_lost_session();
        let link = self.link.now();
        let live = link.live.as_ref().map(|live| live.id);
        let is_over = |session: SessionId| !link.settles(session);
        let is_useless = match &self.intake {
            // Towards a session that was replaced: nothing hangs on it yet.
            Intake::Starting { session, .. } => Some(*session) != live,
            Intake::Idle { .. } | Intake::Active(_) | Intake::Adjusting { .. } => {
                self.intake.session().is_some_and(is_over)
            }
        };
        if is_useless {
            self.intake = Intake::Idle { retry_at: None };
            self.metrics.prefetch.set(0.0);
        }
        self.former.take_if(|former| is_over(former.channel.0));
        let is_lost = self.session.take_if(|session| is_over(*session)).is_some();
        if is_lost {
            // Before what is lost with it: suspects among that come again, and are no less suspect.
            self.pardon_unseen();
        }
        self.settling.forget_sessions(is_over);
        self.receipts_lost(|load| is_over(load.receipt.session()));
        if live != self.last_live {
            self.last_live = live;
            // That was the end of the last one.
            self.trouble.take_if(|error| matches!(error, BrokerError::SessionLost { .. }));
            // A new session may well have what the last one lacked.
            if let Intake::Idle { retry_at } = &mut self.intake {
                *retry_at = None;
            }
            if live.is_some() {
                self.trial_session_began();
            }
        }
    }

    /// These receipts are worthless: the broker hands the messages out again.
    fn receipts_lost(&mut self, is_lost: impl Fn(&Load) -> bool) {
        self.releases_lost(&is_lost);
        self.crashes_lost(&is_lost);
        let lost = self.ledger.lose(Instant::now().into_std(), is_lost);
        for load in lost.revoked.iter().flat_map(|(_, lost)| lost).map(|(_, load)| load).chain(&lost.waiting) {
            self.acquit(load);
        }
        for (stream, lost) in lost.revoked {
            let Some(peer) = self.peers.get(&stream) else { continue };
            let ids: Vec<DeliveryId> = lost.iter().map(|(id, _)| *id).collect();
            // What was never written need not be taken back.
            let written: HashSet<DeliveryId> = peer.outbox.withdraw(&ids).into_iter().collect();
            self.ledger.was_never_written(stream, ids.iter().copied().filter(|id| !written.contains(id)));
            if written.is_empty() {
                continue;
            }
            let revoked = ids.into_iter().filter(|id| written.contains(id)).collect();
            peer.outbox.revoke(RevocationReason::BrokerLost, revoked);
            for (id, load) in lost.iter().filter(|(id, _)| written.contains(id)) {
                self.may_come_late(*id, load);
            }
        }
    }

    pub(super) fn tune(&mut self) {
        let wanted = if self.phase.now() >= Phase::Intake { None } else { self.wanted() };
        self.set_former_aside();
        match (&mut self.intake, wanted) {
            (Intake::Idle { retry_at: None }, Some(wanted)) => self.begin_consuming(wanted),
            (Intake::Idle { .. }, None) if self.former.is_some() => {
                if let Some(former) = self.former.take() {
                    self.intake = Intake::Active(former);
                    self.adjust(None);
                }
            }
            // Nobody wants it any more: a stream has left what it never saw.
            (Intake::Idle { .. }, None) => self.give_back_waiting(),
            (Intake::Active(_), None) => self.adjust(None),
            // Another consumer would begin at the end of the line.
            (Intake::Active(active), Some(wanted))
                if self.subscription.queue.is_single_active() && !self.trial.is_alone =>
            {
                active.prefetch.tells(Instant::now().into_std(), wanted.prefetch.get(), Need::None);
            }
            (Intake::Active(active), Some(wanted)) => {
                // Each step is worth its round trips: the first or the last one, or four times as much.
                let before = active.prefetch.told();
                let is_step = !wanted.is_careful || before == 1 || wanted.prefetch.get() / 4 >= before;
                let grows = wanted.prefetch.get() > before;
                let steps_up = self.care.is_careful() && grows;
                let idle = self.ledger.held_count() + self.releases.count();
                let is_needed = is_step || idle > 0;
                // What no handler works on has all of it: nothing else would come.
                let is_starved = grows && idle >= usize::from(before);
                // The broker sends nothing more.
                let has_all = self.ledger.open_count() + self.ledger.waiting_count() >= usize::from(before);
                let need = if grows && !is_needed {
                    // On a queue that trickles each small step would be one consumer more.
                    Need::None
                } else if steps_up && is_step || is_starved {
                    Need::Urgent
                } else if grows && has_all {
                    // Whoever has room gets nothing until something is settled, however little room that is.
                    Need::Exact
                } else {
                    Need::Usual
                };
                if active.prefetch.tells(Instant::now().into_std(), wanted.prefetch.get(), need) {
                    self.care.changes(wanted.is_careful, steps_up);
                    if !grows {
                        self.pardon_unseen();
                    }
                    self.adjust(Some(wanted.prefetch));
                }
            }
            (Intake::Idle { .. } | Intake::Starting { .. } | Intake::Adjusting { .. }, _) => {}
        }
    }

    /// A consumer of a session that was replaced, or over a connection of its own that is not needed any more, goes when the
    /// next one has begun; nothing is read from it until then.
    fn set_former_aside(&mut self) {
        if self.subscription.queue.is_exclusive() {
            // It belongs to that session, and is served there until the end of it.
            return;
        }
        // Numbers of sessions rise: a consumer may also be ahead of what this pump has heard of the link.
        let Intake::Active(active) = &self.intake else { return };
        let is_of_the_past = self.last_live.is_some_and(|live| active.channel.0 < live);
        let is_needlessly_alone = self.trial.is_alone && !self.trial.rules.is_alone();
        if !is_of_the_past && !is_needlessly_alone {
            return;
        }
        let intake = std::mem::replace(&mut self.intake, Intake::Idle { retry_at: None });
        if let Intake::Active(active) = intake {
            self.former = Some(active);
        }
    }

    fn begin_consuming(&mut self, wanted: Wanted) {
        let own_connection = self.trial.rules.is_alone() && !self.subscription.queue.is_exclusive();
        // Not changed later on a queue whose consumers take turns: the first window may be a small one. Of bodies that are
        // known to be large it takes fewer.
        let is_fixed = self.subscription.queue.is_single_active() && !own_connection;
        let least = self.ledger.fitting(u32::from(self.subscription.delivery.prefetch_count));
        let least = if is_fixed { u16::try_from(least).unwrap_or(u16::MAX) } else { 0 };
        let prefetch = wanted.prefetch.max(Prefetch::new(least));
        self.care.changes(wanted.is_careful, false);
        let Some(live) = self.link.live() else { return };
        if self.subscription.queue.is_exclusive() && self.link.is_closing_former() {
            // The broker would refuse it; the end of that session is told.
            return;
        }
        let exclusive = self.subscription.queue.is_exclusive();
        let options = ConsumeOptions { prefetch, exclusive, own_connection };
        self.trial.is_alone = own_connection;
        let queue = self.subscription.queue.name.clone();
        let whose = (self.owners().0, self.wish.clone(), self.context.objects.clone());
        self.intake = Intake::start(live, whose, (queue, options), self.former.take());
    }

    fn adjust(&mut self, target: Option<Prefetch>) {
        if target.is_none() && self.subscription.queue.is_auto_delete() {
            // The queue goes with its last consumer: what we hold must be back in it before, for other consumers.
            self.give_back_waiting();
            self.give_back_suspects();
            self.forgive();
            self.settling.flush();
        }
        let intake = std::mem::replace(&mut self.intake, Intake::Idle { retry_at: None });
        self.intake = intake.adjust(target);
    }
}
