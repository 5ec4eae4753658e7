//! How a subscription goes on after a message that cannot be read: over a connection of its own, then with all others again,
//! or not at all while such a message is at the head of its queue. The rules are in `domain::probation`.

use metrics::Gauge;
use tokio::time::Instant;
use tracing::{error, info, warn};

use super::intake::Intake;
use super::pump::Pump;
use super::settling::Note;
use crate::broker::{BrokerError, Findings, Settled};
use crate::domain::ledger::Outcome;
use crate::domain::message::Value;
use crate::domain::probation::{Fate, Limit, Probation};
use crate::domain::subscription::{DELIVERY_LIMIT_DEFAULT, QueueType};
use crate::domain::topology::{self, TopologyMode};
use crate::domain::version::Version;
use crate::telemetry::metrics::SubscriptionMetrics;

/// From here on RabbitMQ takes a limit of deliveries by itself for a quorum queue that names none.
const LIMITS_BY_DEFAULT: Version = Version::new(4, 0, 0);

/// A subscription on trial.
pub(super) struct Trial {
    pub(super) rules: Probation,
    /// The present consumer, or the one that is about to begin, has a connection of its own.
    pub(super) is_alone: bool,
    /// What the broker does with a message that comes back again and again, as of the last start.
    fate: Fate,
    /// 1 while it is stalled.
    by_parser: Gauge,
}

impl Trial {
    pub(super) fn new(metrics: &SubscriptionMetrics) -> Self {
        let (rules, fate) = (Probation::default(), Fate::default());
        Self { rules, is_alone: false, fate, by_parser: metrics.paused("parser") }
    }
}

/// A subscription that has ended is not paused any more.
impl Drop for Trial {
    fn drop(&mut self) {
        self.by_parser.set(0.0);
    }
}

impl Pump {
    /// A consumer has begun.
    pub(super) fn trial_started(&mut self, findings: &Findings) {
        self.trial.fate = self.fate(findings);
        self.trial.rules.started(Instant::now().into_std());
    }

    /// The end of a consumer, if it was a message that cannot be read.
    pub(super) fn note_unparsable(&mut self, error: &BrokerError) {
        let BrokerError::Unparsable { reason } = error else { return };
        if !self.trial.is_alone {
            return self.lost_together();
        }
        let was_stalled = self.trial.rules.is_stalled();
        self.trial.rules.lost_alone(self.trial.fate, Instant::now().into_std());
        let (subscription, queue) = (&self.subscription.name, &self.subscription.queue.name);
        let (losses, fate) = (self.trial.rules.losses(), self.trial.fate);
        warn!(
            %subscription, %queue, %reason, losses, ?fate,
            "this queue hands out a message that cannot be read: it has ended a connection of its own"
        );
        if self.trial.rules.is_stalled() && !was_stalled {
            self.is_status_due = true;
            self.trial.by_parser.set(1.0);
            error!(%subscription, %queue, remedy = %self.stalled(), "the queue is stalled by a message that cannot be read");
        }
    }

    /// The end of a session, if it was such a message and may have been one of this queue.
    pub(super) fn note_lost_session(&mut self) {
        let Some(lost) = self.link.now().unparsable else { return };
        let was_here = |session| session == Some(lost);
        let former = self.former.as_ref().map(|former| former.channel.0);
        if !self.trial.is_alone && (was_here(self.intake.session()) || was_here(former)) {
            self.lost_together();
        }
    }

    fn lost_together(&mut self) {
        // An exclusive queue is gone with its connection, and the message with it.
        if self.subscription.queue.is_exclusive() || self.trial.rules.is_alone() {
            return;
        }
        self.trial.rules.lost_together();
        warn!(
            subscription = %self.subscription.name, queue = %self.subscription.queue.name,
            "a message that cannot be read ended the connection of all: this queue goes on over one of its own until it is \
             known whose message it was"
        );
    }

    /// Deliveries are settled: of the messages that came, so many could be read.
    pub(super) fn settled_on_trial(&mut self, done: Vec<(Note, Settled)>) {
        let is_progress =
            |(note, settled): &(Note, Settled)| *settled == Settled::Applied && note.outcome != Outcome::Released;
        if self.trial.rules.is_alone() && done.iter().any(is_progress) {
            self.change_trial(|rules| rules.settled(Instant::now().into_std()));
        }
        self.settled(done);
    }

    /// What follows from the time that has passed.
    pub(super) fn pass_trial(&mut self) {
        if self.trial.rules.is_alone() {
            let held = self.ledger.open_count() + self.ledger.waiting_count() + self.releases.count();
            let is_idle = matches!(self.intake, Intake::Active(_)) && held == 0 && self.crashes.is_empty();
            self.change_trial(|rules| rules.pass(is_idle, Instant::now().into_std()));
        }
    }

    /// A new session is live.
    pub(super) fn trial_session_began(&mut self) {
        self.change_trial(Probation::session_began);
    }

    fn change_trial(&mut self, change: impl FnOnce(&mut Probation)) {
        let rules = &mut self.trial.rules;
        let (was_alone, was_stalled) = (rules.is_alone(), rules.is_stalled());
        change(rules);
        let (subscription, queue) = (&self.subscription.name, &self.subscription.queue.name);
        if was_stalled && !rules.is_stalled() {
            self.is_status_due = true;
            self.trial.by_parser.set(0.0);
            info!(%subscription, %queue, "a stalled queue is tried again");
        } else if was_alone && !rules.is_alone() {
            info!(%subscription, %queue, "the queue shares the connection of all again");
        }
    }

    /// What is said of a stalled queue: its name, the cause, and what an operator can do today.
    pub(super) fn stalled(&self) -> String {
        let queue = &self.subscription.queue.name;
        let then = if self.trial.rules.is_tried_again() {
            "it is tried again every ten minutes and with each new session"
        } else {
            "then restart Sidebus: it does not try by itself, since this broker drops a message that comes back too often"
        };
        format!(
            "queue {queue} is stalled: Sidebus cannot read the message at its head, which has a routing key, a name of a header \
             or a content type that is not UTF-8, or nearly 128 KiB of headers; move its messages to another queue (\"Move \
             messages\" of the management UI, with the shovel plugin), or delete them (rabbitmqctl purge_queue {queue}); {then}"
        )
    }

    fn fate(&self, findings: &Findings) -> Fate {
        let queue = &self.subscription.queue;
        let object = format!("queue {}", queue.name);
        let adopted = findings.adopted.iter().find(|adopted| adopted.object == object);
        // Without a declaration an existing queue is not compared with what is wanted.
        let is_known = self.context.topology == TopologyMode::Create
            && adopted.map_or_else(|| findings.created.contains(&object), |adopted| adopted.unknown.is_none());
        if !is_known {
            return Fate::Risked;
        }
        let wanted = topology::queue_type(queue);
        let named = queue.arguments.get("x-delivery-limit").and_then(Value::as_integer);
        let ours = (wanted == QueueType::Quorum).then_some(i64::from(DELIVERY_LIMIT_DEFAULT));
        let release = self.link.live().and_then(|live| live.session.capabilities().release());
        let limit = Limit {
            wanted: named.or(ours),
            found: findings.delivery_limit(&queue.name),
            is_default: release.is_some_and(|release| release >= LIMITS_BY_DEFAULT),
        };
        Fate::of(wanted, adopted.map_or(&[], |adopted| &adopted.lacks), limit)
    }
}
