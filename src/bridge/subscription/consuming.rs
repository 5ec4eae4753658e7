//! How the pump consumes: begins with its first handler, follows the windows, starts again after failures.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use tracing::{info, warn};

use super::super::outbox::{RevocationReason, StreamEnd};
use super::intake::{Adjusted, Intake, IntakeEvent, Started};
use super::pump::{Load, Pump, size_of};
use crate::broker::{BrokerError, ConsumeOptions, Incoming, Prefetch};
use crate::domain::backoff::full_jitter;
use crate::domain::ledger::DeliveryId;
use crate::domain::record;
use crate::domain::window;
use crate::runtime::Phase;
use crate::telemetry::metrics;

/// Changes of the windows are gathered so long before the broker is told: each telling is three round trips.
const PREFETCH_SETTLES: Duration = Duration::from_millis(200);
/// Waits between two tries to consume.
const CONSUME_BACKOFF: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(10));

impl Pump {
    pub(super) fn consumer(&mut self, event: IntakeEvent) {
        match event {
            IntakeEvent::Started(Ok(started)) => self.started(started),
            IntakeEvent::Arrived(Ok(batch)) => self.arrived(batch),
            IntakeEvent::Started(Err(error)) | IntakeEvent::Arrived(Err(error)) => self.consumer_failed(error),
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
        self.session = Some(started.session);
        self.metrics.prefetch.set(f64::from(started.prefetch.get()));
        let channel = (started.session, started.settler.channel());
        self.settling.add(channel, started.settler);
        self.intake =
            Intake::Active { arrivals: started.arrivals, session: started.session, prefetch: started.prefetch };
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
        let Adjusted { arrivals, session, target, result } = adjusted;
        match (result, target) {
            (Err(error), _) => self.consumer_failed(error),
            (Ok(()), Some(prefetch)) => {
                self.metrics.prefetch.set(f64::from(prefetch.get()));
                self.intake = Intake::Active { arrivals, session, prefetch };
            }
            (Ok(()), None) => {
                self.metrics.prefetch.set(0.0);
                self.intake = Intake::Idle { retry_at: None };
                self.give_back_waiting();
                self.settling.retire_all();
            }
        }
    }

    fn consumer_failed(&mut self, error: BrokerError) {
        self.is_status_due = true;
        let failures = self.trouble.as_ref().map_or(1, |(_, failures)| failures.saturating_add(1));
        let wait = full_jitter(failures, CONSUME_BACKOFF, fastrand::f64());
        warn!(
            subscription = %self.subscription.name, queue = %self.subscription.queue.name, %error,
            hint = error.hint(), wait_ms = u64::try_from(wait.as_millis()).unwrap_or(u64::MAX),
            "not consuming, trying again"
        );
        self.metrics.prefetch.set(0.0);
        self.intake = Intake::after_failure(wait);
        match &error {
            // The channel is alive: what handlers hold can still be settled.
            BrokerError::ConsumerCancelled { .. } => self.settling.retire_all(),
            BrokerError::Mismatch { .. } => self.end_all(&StreamEnd::Mismatch(error.clone())),
            BrokerError::Unreachable { .. }
            | BrokerError::Tls { .. }
            | BrokerError::LoginRefused { .. }
            | BrokerError::VhostRefused { .. }
            | BrokerError::AccessRefused { .. }
            | BrokerError::Missing { .. }
            | BrokerError::Locked { .. }
            | BrokerError::ChannelClosed { .. }
            | BrokerError::SessionLost { .. }
            | BrokerError::TimedOut { .. }
            | BrokerError::Unsupported { .. } => {
                self.settling.forget_all();
                self.receipts_lost();
            }
        }
        self.trouble = Some((error, failures));
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
            self.receipts_lost();
        }
        if live.is_some() {
            // A new session may well have what the last one lacked.
            if let Intake::Idle { retry_at } = &mut self.intake {
                *retry_at = None;
            }
        }
    }

    /// The receipts of everything in the ledger are worthless: the broker hands the messages out again.
    pub(super) fn receipts_lost(&mut self) {
        for (stream, mut ids) in self.ledger.session_lost() {
            let Some(peer) = self.peers.get(&stream) else { continue };
            // What was never written need not be taken back.
            let unwritten: HashSet<DeliveryId> = peer.outbox.take_unwritten().into_iter().collect();
            ids.retain(|id| !unwritten.contains(id));
            if !ids.is_empty() {
                peer.outbox.revoke(RevocationReason::BrokerLost, ids);
            }
        }
    }

    pub(super) fn tune(&mut self) {
        let wanted = if self.phase.now() >= Phase::Intake {
            None
        } else {
            window::prefetch(self.ledger.windows(), self.subscription.delivery.prefetch_max).map(Prefetch::new)
        };
        match (&self.intake, wanted) {
            (Intake::Idle { retry_at: None }, Some(prefetch)) => self.begin_consuming(prefetch),
            (Intake::Active { .. }, None) => self.adjust(None),
            (Intake::Active { prefetch: now, .. }, Some(wanted)) if *now != wanted => {
                self.adjust_when_settled(*now, wanted);
            }
            (Intake::Active { .. }, Some(_)) => self.prefetch_due = None,
            (Intake::Idle { .. } | Intake::Starting { .. } | Intake::Adjusting { .. }, _) => {}
        }
    }

    fn begin_consuming(&mut self, prefetch: Prefetch) {
        let Some(live) = self.link.live() else { return };
        let options = ConsumeOptions { prefetch, exclusive: self.subscription.queue.exclusive };
        let queue = self.subscription.queue.name.clone();
        self.intake = Intake::start(live, Arc::clone(&self.plan), queue, options);
    }

    fn adjust_when_settled(&mut self, now: Prefetch, wanted: Prefetch) {
        let at = *self.prefetch_due.get_or_insert_with(|| Instant::now() + PREFETCH_SETTLES);
        if Instant::now() < at {
            return;
        }
        self.prefetch_due = None;
        // Below a quarter it is not worth the round trips; the windows bound what is handed out anyway.
        if now.get().abs_diff(wanted.get()) >= now.get().div_ceil(4) {
            self.adjust(Some(wanted));
        } else {
            self.prefetch_due = Some(Instant::now() + PREFETCH_SETTLES * 50);
        }
    }

    fn adjust(&mut self, target: Option<Prefetch>) {
        if target.is_none() && self.subscription.queue.auto_delete {
            // The queue goes with its last consumer: what we hold must be back in it before, for other consumers.
            self.give_back_waiting();
            self.settling.flush();
        }
        self.prefetch_due = None;
        let intake = std::mem::replace(&mut self.intake, Intake::Idle { retry_at: None });
        self.intake = intake.adjust(target);
    }
}
