//! What slows a subscription down or pauses it: its kill switch, letters that cannot be stored, the rate of its retries.

use std::sync::Arc;
use std::time::Duration;

use metrics::Gauge;
use tokio::time::Instant;
use tracing::{debug, info, warn};

use super::super::outbox::SubscriptionState;
use super::copies::{self, ALARM_PATIENCE, Copy, CopyEnd, Fate, Means, Purpose, Tried};
use super::letters::Letters;
use super::pump::Pump;
use super::throttle::Throttle;
use crate::domain::failure::FailureKind;
use crate::domain::kill_switch::{Attempt, Change, KillSwitch, Position};
use crate::domain::ledger::{DeliveryId, StreamId};
use crate::domain::name::SubscriptionName;
use crate::domain::subscription::{DeadLetterScope, DeadLetterSettings, Subscription};
use crate::telemetry::metrics::SubscriptionMetrics;

/// See the module.
pub(super) struct Brakes {
    /// `None` = switched off.
    switch: Option<KillSwitch>,
    /// It has just opened: what no handler has seen yet is to be held.
    has_opened: bool,
    letters: Letters,
    /// In front of retry copies.
    throttle: Arc<Throttle>,
    by_switch: Gauge,
    by_letters: Gauge,
}

impl Brakes {
    pub(super) fn new(subscription: &Subscription, metrics: &SubscriptionMetrics) -> Self {
        let retry = &subscription.retry;
        Self {
            switch: KillSwitch::new(retry.kill_switch),
            has_opened: false,
            letters: Letters::default(),
            throttle: Arc::new(Throttle::new(retry.max_per_second)),
            by_switch: metrics.paused("kill_switch"),
            by_letters: metrics.paused("dead_letters"),
        }
    }

    /// When the next probe may go.
    pub(super) fn wake_at(&self, now: Instant) -> Option<Instant> {
        match self.switch.as_ref()?.position() {
            // While nothing is handed out for another reason nobody acts on one that has passed.
            Position::Open(until) => Some(Instant::from_std(until)).filter(|until| *until > now),
            Position::Closed | Position::HalfOpen => None,
        }
    }

    /// Said of a subscription that hands nothing out because of them.
    pub(super) fn pause(&self, letters: &DeadLetterSettings, now_ms: u64) -> Option<String> {
        if let Some(what) = self.letters.given_up() {
            return Some(format!(
                "{what}, and dead_letter.enabled is false: it goes back to its queue, and nothing is consumed until Sidebus \
                 is started again; mend the handler, or take the message off the queue, before"
            ));
        }
        if let Some(problem) = self.letters.pause() {
            let target = target(letters);
            return Some(format!(
                "dead letters are not stored in {target}: {problem}; nothing is consumed until one of those that wait is"
            ));
        }
        let switch = self.switch.as_ref()?;
        let (share, sample) = (switch.settings().share * 100.0, switch.settings().sample);
        let what = format!("the kill switch is open: more than {share} % of the last {sample} attempts failed");
        match switch.position() {
            Position::Closed => None,
            Position::Open(until) => {
                let left = Instant::from_std(until).saturating_duration_since(Instant::now());
                Some(format!("{what}; the next probe goes out at {}", time_of_day(now_ms, left)))
            }
            Position::HalfOpen => Some(format!("{what}; one delivery at a time goes out as a probe")),
        }
    }
}

/// A subscription that has ended is not paused any more.
impl Drop for Brakes {
    fn drop(&mut self) {
        self.by_switch.set(0.0);
        self.by_letters.set(0.0);
    }
}

impl Pump {
    /// How many deliveries may be handed out now.
    pub(super) fn take_allowance(&mut self) -> usize {
        if std::mem::take(&mut self.brakes.has_opened) {
            self.take_back_unwritten();
        }
        if self.brakes.letters.is_paused() {
            return 0;
        }
        let Some(switch) = &mut self.brakes.switch else { return usize::MAX };
        let before = switch.position();
        let is_out = |id| self.ledger.load(id).is_some() || self.crashes.has(id);
        let allowed = switch.allowance(Instant::now().into_std(), is_out);
        self.is_status_due |= switch.position() != before;
        allowed.unwrap_or(usize::MAX)
    }

    /// These were handed out.
    pub(super) fn handed(&mut self, granted: &[(StreamId, DeliveryId)]) {
        let Some(switch) = &mut self.brakes.switch else { return };
        for (_, id) in granted {
            switch.handed(*id);
        }
    }

    /// What was never written was not at its handler: it waits with all else.
    fn take_back_unwritten(&mut self) {
        let unwritten: Vec<DeliveryId> =
            self.peers.values().flat_map(|peer| peer.outbox.take_unwritten(usize::MAX)).collect();
        self.ledger.take_back(Instant::now().into_std(), &unwritten);
    }

    /// A handler has done it.
    pub(super) fn attempt_succeeded(&mut self, id: DeliveryId) {
        self.attempted(id, Attempt::Succeeded);
    }

    /// An attempt has failed. A handler that gives a message up speaks of the message, wherever it is tried.
    pub(super) fn attempt_failed(&mut self, id: DeliveryId, kind: FailureKind) {
        let attempt = match kind {
            FailureKind::Retry | FailureKind::Timeout | FailureKind::Crash => Attempt::Failed,
            FailureKind::DeadLetter => Attempt::Neither,
        };
        self.attempted(id, attempt);
    }

    fn attempted(&mut self, id: DeliveryId, attempt: Attempt) {
        let brakes = &mut self.brakes;
        let Some(switch) = &mut brakes.switch else { return };
        let was_closed = switch.position() == Position::Closed;
        let Some(change) = switch.ended(Instant::now().into_std(), id, attempt) else { return };
        let (subscription, settings) = (&self.subscription.name, switch.settings());
        self.is_status_due = true;
        match change {
            Change::Opened(pause) if was_closed => {
                brakes.has_opened = true;
                brakes.by_switch.set(1.0);
                warn!(
                    %subscription, share = settings.share, sample = settings.sample, pause_s = pause.as_secs_f64(),
                    "the kill switch opens: too many attempts failed; nothing is handed out but a probe after each pause"
                );
            }
            Change::Opened(pause) => {
                brakes.has_opened = true;
                debug!(%subscription, pause_s = pause.as_secs_f64(), "the probe failed, the kill switch stays open");
            }
            Change::Closed => {
                brakes.by_switch.set(0.0);
                info!(%subscription, "the kill switch closes: the probe succeeded");
            }
        }
    }

    /// Notes since when copies wait for the end of an alarm.
    pub(super) fn note_alarm(&mut self) {
        if !self.link.is_blocked() || self.copies.is_empty() {
            self.is_status_due |= self.alarm_since.take().is_some();
            return;
        }
        self.alarm_since.get_or_insert_with(Instant::now);
        self.is_status_due |= self.pauses_for_alarm() && self.status.state == SubscriptionState::Active;
    }

    pub(super) fn pauses_for_alarm(&self) -> bool {
        self.alarm_since.is_some_and(|at| at.elapsed() >= ALARM_PATIENCE)
    }

    /// Consumes nothing: what comes would end as a letter that cannot be stored. A queue that goes with its consumer would
    /// take what it holds along, so there the consumer stays and what it brings is held.
    pub(super) fn pauses_for_letters(&self) -> bool {
        self.brakes.letters.is_paused() && !self.subscription.queue.is_auto_delete()
    }

    /// No handler ends its pause.
    pub(super) fn stays_paused(&self) -> bool {
        self.brakes.letters.given_up().is_some() || self.trial.rules.is_stalled()
    }

    /// What a copy needs on its way.
    pub(super) fn means(&self) -> Means {
        let (lane, objects) = (self.lane.clone(), self.context.objects.clone());
        Means {
            lane,
            link: self.link.clone(),
            objects,
            throttle: Arc::clone(&self.brakes.throttle),
            phase: self.phase.clone(),
        }
    }

    /// What came of a try to store a copy: how it ended, or nothing yet.
    pub(super) fn tried(&mut self, tried: Tried) -> Option<CopyEnd> {
        let (copy, problem) = match tried {
            Tried::Ended(end) => {
                self.letter_ended(&end);
                return Some(end);
            }
            Tried::NotYet(copy, problem) => (copy, problem),
        };
        let (is_letter, was_paused) = (is_letter(&copy), self.brakes.letters.pause().is_some());
        if is_letter && self.brakes.letters.failed(copy.tries == 1, &problem) {
            self.is_status_due = true;
            self.brakes.by_letters.set(1.0);
            warn!(
                subscription = %self.subscription.name, letters = target(&self.subscription.dead_letter), %problem,
                "dead letters cannot be stored: nothing is consumed until one of those that wait is"
            );
        }
        self.metrics.copied(copy.purpose.label(), "failed");
        tell_failed(&self.subscription.name, &copy, &problem, is_letter && was_paused);
        self.copies.push(Box::pin(copies::store(copy, self.means())));
        None
    }

    /// A message was given up where dead letters are switched off.
    pub(super) fn given_up(&mut self, what: String) {
        if self.brakes.letters.give_up(what) {
            self.is_status_due = true;
            self.brakes.by_letters.set(1.0);
        }
    }

    fn letter_ended(&mut self, end: &CopyEnd) {
        let (was_tried, is_stored) = (end.copy.tries > 0, end.fate == Fate::Stored);
        if is_letter(&end.copy) && self.brakes.letters.ended(was_tried, is_stored) {
            self.is_status_due = true;
            self.brakes.by_letters.set(0.0);
            info!(subscription = %self.subscription.name, is_stored, "the pause for dead letters is over");
        }
    }
}

fn is_letter(copy: &Copy) -> bool {
    matches!(copy.purpose, Purpose::DeadLetter(_))
}

fn tell_failed(subscription: &SubscriptionName, copy: &Copy, problem: &str, is_known: bool) {
    let (exchange, queue, purpose) = (&copy.message.exchange, &copy.message.routing_key, copy.purpose.label());
    let wait_ms = u64::try_from(copies::wait_after(copy.tries).as_millis()).unwrap_or(u64::MAX);
    if is_known {
        debug!(%subscription, %exchange, %queue, message.id = copy.message_id(), %problem, wait_ms, "letter not stored");
    } else {
        warn!(
            %subscription, %exchange, %queue, purpose, message.id = copy.message_id(), %problem, wait_ms,
            "copy not stored; the original stays unacked and the copy is tried again"
        );
    }
}

/// Where letters go, for people.
fn target(letters: &DeadLetterSettings) -> String {
    match letters.scope {
        DeadLetterScope::Shared => format!("queue {} (exchange {})", letters.letters(), letters.exchange),
        DeadLetterScope::PerQueue => format!("queue {}", letters.letters()),
    }
}

/// The time of day after so long, of Greenwich.
fn time_of_day(now_ms: u64, wait: Duration) -> String {
    let seconds = now_ms.saturating_add(u64::try_from(wait.as_millis()).unwrap_or(u64::MAX)).div_ceil(1_000);
    format!("{:02}:{:02}:{:02} UTC", seconds / 3_600 % 24, seconds / 60 % 60, seconds % 60)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_of_the_next_probe_is_told_to_the_second() {
        assert_eq!(time_of_day(86_399_500, Duration::from_secs(10)), "00:00:10 UTC");
        assert_eq!(time_of_day(1_700_000_000_000, Duration::ZERO), "22:13:20 UTC");
    }
}
