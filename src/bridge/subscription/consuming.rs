//! How the pump consumes: begins with its first handler, follows the windows, starts again after failures.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use tracing::{info, warn};

use super::super::outbox::{RevocationReason, StreamEnd};
use super::intake::{Active, Adjusted, Intake, IntakeEvent, Started};
use super::pump::{Load, Pump, size_of};
use super::settling::Source;
use crate::broker::{BrokerError, ConsumeOptions, Incoming, Prefetch};
use crate::domain::backoff::full_jitter;
use crate::domain::record;
use crate::domain::window;
use crate::runtime::Phase;
use crate::telemetry::metrics;

/// A consumer that has lived so long was well.
const WELL_AFTER: Duration = Duration::from_secs(30);
/// Waits between two tries to consume.
const CONSUME_BACKOFF: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(10));

impl Pump {
    pub(super) fn consumer(&mut self, event: IntakeEvent) {
        match event {
            IntakeEvent::Started(Ok(started)) => self.started(started),
            IntakeEvent::Arrived(Ok(batch)) => self.arrived(batch),
            IntakeEvent::Started(Err(error)) => self.not_started(error),
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
        self.trouble = None;
        self.started_at = Some(Instant::now());
        self.session = Some(started.session);
        self.metrics.prefetch.set(f64::from(started.prefetch.get()));
        let channel = (started.session, started.settler.channel());
        self.settling.add(channel, started.settler);
        let (arrivals, prefetch) = (started.arrivals, started.prefetch);
        self.intake = Intake::Active(Active { arrivals, channel, prefetch, prefetch_due: None });
    }

    fn arrived(&mut self, batch: Vec<Incoming>) {
        let now = Instant::now();
        if let Some(first) = batch.first() {
            // One consumer, one channel.
            self.settling.arrived((first.receipt.session(), first.receipt.channel()), batch.len());
        }
        for Incoming { message, redelivered, receipt } in batch {
            let seen = record::read(message, &self.subscription.queue.name);
            if seen.distrusted_headers > 0 {
                metrics::headers_distrusted(seen.distrusted_headers);
            }
            let size = size_of(&seen);
            let load = Load { receipt, seen: Arc::new(seen), redelivered, size, arrived: now, handed: now };
            self.ledger.arrive(now.into_std(), load, size);
        }
    }

    fn adjusted(&mut self, adjusted: Adjusted) {
        let Adjusted { arrivals, channel, target, result } = adjusted;
        match (result, target) {
            (Err(error), _) => self.consumer_failed(error),
            (Ok(()), Some(prefetch)) => {
                self.metrics.prefetch.set(f64::from(prefetch.get()));
                self.intake = Intake::Active(Active { arrivals, channel, prefetch, prefetch_due: None });
                // The broker counts for each consumer: what the old one was sent does not count against the new one, so
                // without this every change would add a whole prefetch to what waits here.
                for load in self.ledger.shed() {
                    self.give_back(load, None, Source::Sidecar);
                }
            }
            (Ok(()), None) => {
                self.metrics.prefetch.set(0.0);
                self.intake = Intake::Idle { retry_at: None };
                self.give_back_waiting();
                self.settling.retire(channel);
            }
        }
    }

    /// The consumer could not begin. Nothing that is held hangs on it.
    fn not_started(&mut self, error: BrokerError) {
        if let BrokerError::Mismatch { .. } = &error {
            self.end_all(&StreamEnd::Mismatch(error.clone()));
        }
        self.try_again(error);
    }

    /// The consumer has ended by itself, and with it, usually, its channel.
    fn consumer_failed(&mut self, error: BrokerError) {
        if let Some(channel) = self.intake.channel() {
            if let BrokerError::ConsumerCancelled { .. } = &error {
                // The channel lives: what handlers hold can still be settled.
                self.settling.retire(channel);
            } else {
                // Whatever the channel still is: without its two halves it is closed, and the broker hands out again
                // what was unsettled on it.
                self.settling.forget(channel);
                self.receipts_lost(|load| load.channel() == channel);
            }
        }
        self.try_again(error);
    }

    fn try_again(&mut self, error: BrokerError) {
        self.is_status_due = true;
        // One that dies right after its start has not been well in between.
        let was_well = self.started_at.take().is_some_and(|at| at.elapsed() >= WELL_AFTER);
        self.failures = if was_well { 1 } else { self.failures.saturating_add(1) };
        let wait = full_jitter(self.failures, CONSUME_BACKOFF, fastrand::f64());
        warn!(
            subscription = %self.subscription.name, queue = %self.subscription.queue.name, %error,
            hint = error.hint(), wait_ms = u64::try_from(wait.as_millis()).unwrap_or(u64::MAX),
            "not consuming, trying again"
        );
        self.metrics.prefetch.set(0.0);
        self.intake = Intake::after_failure(wait);
        self.trouble = Some(error);
    }

    pub(super) fn link_changed(&mut self) {
        self.is_status_due = true;
        let live = self.link.live().map(|live| live.id);
        if self.intake.session().is_some() && self.intake.session() != live {
            self.intake = Intake::Idle { retry_at: None };
            self.metrics.prefetch.set(0.0);
        }
        if self.session.is_some() && self.session != live {
            self.session = None;
            self.settling.forget_sessions_except(live);
            self.receipts_lost(|_| true);
        }
        if live != self.last_live {
            self.last_live = live;
            // A new session may well have what the last one lacked.
            if let Intake::Idle { retry_at } = &mut self.intake {
                *retry_at = None;
            }
        }
    }

    /// These receipts are worthless: the broker hands the messages out again.
    fn receipts_lost(&mut self, is_lost: impl Fn(&Load) -> bool) {
        for (stream, ids) in self.ledger.lose(is_lost) {
            let Some(peer) = self.peers.get(&stream) else { continue };
            // What was never written need not be taken back.
            let written = peer.outbox.withdraw(&ids);
            if !written.is_empty() {
                peer.outbox.revoke(RevocationReason::BrokerLost, written);
            }
        }
    }

    pub(super) fn tune(&mut self) {
        let wanted = if self.phase.now() >= Phase::Intake {
            None
        } else {
            window::prefetch(self.ledger.windows(), self.subscription.delivery.prefetch_max).map(Prefetch::new)
        };
        match (&mut self.intake, wanted) {
            (Intake::Idle { retry_at: None }, Some(prefetch)) => self.begin_consuming(prefetch),
            // Nobody wants it any more: a stream has left what it never saw.
            (Intake::Idle { .. }, None) => self.give_back_waiting(),
            (Intake::Active(_), None) => self.adjust(None),
            (Intake::Active(active), Some(wanted)) => {
                if let Some(target) = active.follow(wanted) {
                    self.adjust(Some(target));
                }
            }
            (Intake::Idle { .. } | Intake::Starting { .. } | Intake::Adjusting { .. }, _) => {}
        }
    }

    fn begin_consuming(&mut self, prefetch: Prefetch) {
        let Some(live) = self.link.live() else { return };
        let options = ConsumeOptions { prefetch, exclusive: self.subscription.queue.exclusive };
        let queue = self.subscription.queue.name.clone();
        let mut plans = vec![Arc::clone(&self.plan)];
        if self.failures > 0 {
            // What all share was there when the session began; somebody may have deleted it since.
            plans.insert(0, Arc::clone(&self.context.shared));
        }
        self.intake = Intake::start(live, plans, queue, options);
    }

    fn adjust(&mut self, target: Option<Prefetch>) {
        if target.is_none() && self.subscription.queue.auto_delete {
            // The queue goes with its last consumer: what we hold must be back in it before, for other consumers.
            self.give_back_waiting();
            self.settling.flush();
        }
        let intake = std::mem::replace(&mut self.intake, Intake::Idle { retry_at: None });
        self.intake = intake.adjust(target);
    }
}
