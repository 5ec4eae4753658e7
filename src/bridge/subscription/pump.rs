//! The task of one subscription: takes one event at a time, changes the ledger, sets things going. Never waits inside.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, PoisonError};

use futures_util::StreamExt as _;
use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use metrics::{Counter, Histogram};
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::super::lane::LaneHandle;
use super::super::link::LinkWatch;
use super::super::outbox::{Handout, Status, SubscriptionState};
use super::super::wish::Wish;
use super::brakes::Brakes;
use super::copies::{ALARM_PATIENCE, Tried};
use super::crashes::Crashes;
use super::intake::{Active, Intake, IntakeEvent};
use super::prefetch::Care;
use super::probation::Trial;
use super::releases::Releases;
use super::residence::Residence;
use super::settling::{Channel, Note, Settling, Source};
use super::streams::Peer;
use super::{Command, Context, Kept, Parts, Told, describe};
use tracing::warn;

use crate::broker::{BrokerError, Receipt, SessionId, Settled};
use crate::domain::late_acks::LateAcks;
use crate::domain::ledger::{Ledger, Outcome, Size, StreamId, Suspicion};
use crate::domain::record::Seen;
use crate::domain::subscription::Subscription;
use crate::domain::verdict::VerdictKind;
use crate::runtime::{Phase, PhaseWatch};
use crate::telemetry::metrics::SubscriptionMetrics;

/// Commands taken in one turn.
const COMMANDS_IN_A_TURN: usize = 256;

/// Said of a subscription whose retries and dead letters cannot be stored.
const ALARM: &str =
    "the broker has an alarm and takes no publishes, and copies for retries or dead letters wait for its end";
/// Said of a subscription before its first consumer in a session.
const NOT_YET: &str = "its queue is not consumed yet";

impl Load {
    /// The channel that its receipt belongs to.
    pub(super) fn channel(&self) -> Channel {
        (self.receipt.session(), self.receipt.channel())
    }
}

/// What travels with a delivery.
#[derive(Debug)]
pub(super) struct Load {
    pub receipt: Receipt,
    pub seen: Arc<Seen>,
    pub redelivered: bool,
    pub size: Size,
    pub suspicion: Suspicion,
    pub arrived: Instant,
    pub handed: Instant,
}

enum Event {
    Phase(Phase),
    Settled(Vec<(Note, Settled)>),
    Copied(Box<Tried>),
    Command(Command),
    Link,
    Wake,
    Intake(IntakeEvent),
}

/// See the module.
pub(super) struct Pump {
    pub(super) subscription: Arc<Subscription>,
    pub(super) context: Arc<Context>,
    pub(super) link: LinkWatch,
    pub(super) lane: LaneHandle,
    pub(super) phase: PhaseWatch,
    /// For the voices of streams; weak, or the pump would keep its own door open.
    pub(super) sender: mpsc::WeakSender<Command>,
    pub(super) kept: Kept,
    /// A handler has joined at least once.
    pub(super) was_used: bool,
    pub(super) ledger: Ledger<Load>,
    pub(super) peers: BTreeMap<StreamId, Peer>,
    pub(super) settling: Settling,
    pub(super) copies: FuturesUnordered<BoxFuture<'static, Tried>>,
    pub(super) wish: Wish,
    pub(super) metrics: SubscriptionMetrics,
    pub(super) intake: Intake,
    pub(super) care: Care,
    /// The consumer of a session that was replaced, unread, until that of the new one has begun.
    pub(super) former: Option<Active>,
    pub(super) status: Status,
    /// The link or the consumer has changed since the status was told.
    pub(super) is_status_due: bool,
    /// For whoever asks how it is.
    pub(super) told: Arc<Told>,
    commands: mpsc::Receiver<Command>,
    /// The session of the newest consumer.
    pub(super) session: Option<SessionId>,
    /// The session that was live when the link was last looked at.
    pub(super) last_live: Option<SessionId>,
    /// Why consuming does not work.
    pub(super) trouble: Option<BrokerError>,
    /// Failures of the consumer in a row.
    pub(super) failures: u32,
    pub(super) started_at: Option<Instant>,
    pub(super) failed_at: Option<Instant>,
    /// What is done and could not be told.
    pub(super) late: LateAcks,
    /// Releases that are held before they go back.
    pub(super) releases: Releases,
    /// Handlers that were lost with work in hand.
    pub(super) crashes: Crashes,
    /// What slows it down or pauses it.
    pub(super) brakes: Brakes,
    /// Deliveries that stay unsettled for long.
    pub(super) residence: Residence,
    /// What follows from messages that cannot be read.
    pub(super) trial: Trial,
    /// Since when copies wait for the end of an alarm.
    pub(super) alarm_since: Option<Instant>,
    /// Requeues that its queue allows, as they were found when it was last begun to be consumed; `None` = nobody could see.
    pub(super) delivery_limit_found: Option<i64>,
    counters: HashMap<(VerdictKind, Source, bool), Counter>,
    timers: HashMap<VerdictKind, Histogram>,
    _alive: mpsc::Sender<std::convert::Infallible>,
}

impl Pump {
    pub(super) fn new(
        subscription: Arc<Subscription>,
        parts: Parts,
        commands: mpsc::Receiver<Command>,
        sender: mpsc::WeakSender<Command>,
    ) -> Self {
        let metrics = SubscriptionMetrics::new(label_of(&parts, &subscription));
        Self {
            brakes: Brakes::new(&subscription, &metrics),
            trial: Trial::new(&metrics),
            metrics,
            ledger: Ledger::new(subscription.delivery.max_lease),
            wish: parts.wish,
            subscription,
            context: parts.context,
            link: parts.link,
            lane: parts.lane,
            phase: parts.phase,
            sender,
            kept: parts.kept,
            was_used: false,
            told: parts.told,
            commands,
            peers: BTreeMap::new(),
            settling: Settling::default(),
            copies: FuturesUnordered::new(),
            intake: Intake::Idle { retry_at: None },
            care: Care::default(),
            former: None,
            status: Status { state: SubscriptionState::BrokerDown, description: String::new(), held: 0 },
            is_status_due: true,
            session: None,
            last_live: None,
            trouble: None,
            failures: 0,
            started_at: None,
            failed_at: None,
            late: LateAcks::default(),
            releases: Releases::default(),
            crashes: Crashes::default(),
            residence: Residence::default(),
            alarm_since: None,
            delivery_limit_found: None,
            counters: HashMap::new(),
            timers: HashMap::new(),
            _alive: parts.alive,
        }
    }

    pub(super) async fn run(mut self) {
        loop {
            self.advance();
            if self.has_ended() {
                self.forget_objects();
                return;
            }
            match self.next_event().await {
                Event::Phase(phase) => self.enter(phase),
                Event::Settled(done) => self.settled_on_trial(done),
                Event::Copied(tried) => {
                    if let Some(end) = self.tried(*tried) {
                        self.copied(end);
                    }
                }
                Event::Command(command) => self.commands(command),
                Event::Link => self.link_changed(),
                Event::Wake => {
                    self.clocks();
                    self.release_due();
                    self.crashes_due();
                }
                Event::Intake(event) => self.consumer(event),
            }
        }
    }

    async fn next_event(&mut self) -> Event {
        let wake = self.wake_at();
        let timer = async {
            match wake {
                Some(at) => tokio::time::sleep_until(at).await,
                None => std::future::pending().await,
            }
        };
        // Every arm is cancel-safe: work in progress lives in fields. The order is random, so that no handler that
        // talks without end can keep the others, the broker or the clocks from being heard.
        tokio::select! {
            phase = self.phase.changed() => Event::Phase(phase),
            done = self.settling.next() => Event::Settled(done),
            Some(end) = self.copies.next(), if !self.copies.is_empty() => Event::Copied(Box::new(end)),
            Some(command) = self.commands.recv() => Event::Command(command),
            () = self.link.changed() => Event::Link,
            () = timer => Event::Wake,
            event = self.intake.next() => Event::Intake(event),
        }
    }

    fn wake_at(&self) -> Option<Instant> {
        let now = Instant::now();
        let ledger = self.ledger.next_wake().map(Instant::from_std);
        let pause = self.alarm_since.map(|at| at + ALARM_PATIENCE).filter(|at| *at > now);
        [
            ledger,
            self.intake.wake_at(),
            self.releases.wake_at(),
            self.residence.wake_at(),
            self.settling.wake_at(now),
            pause,
            self.crashes_wake_at(),
            self.brakes.wake_at(now),
            self.trial.rules.wake_at(now.into_std()).map(Instant::from_std),
        ]
        .into_iter()
        .flatten()
        .min()
    }

    /// A turn of commands: the first, and what waits behind it, up to a bound so that nothing else starves.
    fn commands(&mut self, first: Command) {
        self.command(first);
        for _ in 1..COMMANDS_IN_A_TURN {
            let Ok(next) = self.commands.try_recv() else { return };
            self.command(next);
        }
    }

    fn command(&mut self, command: Command) {
        match command {
            Command::Attach(request, reply) => {
                // A caller that has gone meanwhile never saw its stream: nothing was handed to it yet.
                if let Err(Ok(attached)) = reply.send(self.attach(request)) {
                    self.lose(attached.stream);
                }
            }
            Command::Said(stream, said) => self.said(stream, said),
            Command::Hangup(stream, hangup) => self.hung_up(stream, hangup),
        }
    }

    /// What follows from the last event: hand out, flush, tune the consumer, tell the streams.
    fn advance(&mut self) {
        self.lose_abandoned();
        // First, so that what it takes back from a slow handler goes to another one at once.
        self.apply_windows();
        self.note_alarm();
        self.note_deserted();
        self.dispatch();
        self.end_idle_streams();
        self.pass_trial();
        self.tune();
        // Last, so that nothing that was put on its way above waits for the next event.
        self.settling.flush();
        self.settling.sweep(Instant::now());
        self.tell_status();
        self.look_at_residence();
        self.metrics.in_flight.set(f64::from(u32::try_from(self.ledger.open_count()).unwrap_or(u32::MAX)));
    }

    fn dispatch(&mut self) {
        if self.phase.now() >= Phase::Intake {
            return;
        }
        let (now, mut left) = (Instant::now(), self.take_allowance());
        let granted = {
            let mut ids = self.context.ids.lock().unwrap_or_else(PoisonError::into_inner);
            self.ledger.dispatch(now.into_std(), || {
                left = left.checked_sub(1)?;
                ids.take(1)
            })
        };
        self.handed(&granted);
        let mut handouts: BTreeMap<StreamId, Vec<Handout>> = BTreeMap::new();
        for (stream, id) in granted {
            let Some(load) = self.ledger.load_mut(id) else { continue };
            load.handed = now;
            self.metrics.deliveries.increment(1);
            if load.redelivered {
                self.metrics.redeliveries.increment(1);
            }
            let (seen, redelivered, size) = (Arc::clone(&load.seen), load.redelivered, load.size);
            handouts.entry(stream).or_default().push(Handout { id, seen, redelivered, size });
        }
        for (stream, handouts) in handouts {
            // One lock and one wake for all of them, so that they travel in one frame.
            let in_flight = self.ledger.in_flight(stream).and_then(|count| usize::try_from(count).ok());
            if let Some(peer) = self.peers.get(&stream) {
                peer.outbox.deliver(handouts, in_flight.unwrap_or_default());
            }
        }
    }

    pub(super) fn count_settlement(&mut self, note: &Note, settled: Settled) {
        let is_applied = settled == Settled::Applied;
        let metrics = &self.metrics;
        // What went back to its queue was released, whatever its verdict was.
        let verdict = if note.outcome == Outcome::Released { VerdictKind::Release } else { note.verdict };
        let counter = self.counters.entry((verdict, note.source, is_applied)).or_insert_with(|| {
            let outcome = if is_applied { "applied" } else { "stale" };
            metrics.settlements(verdict.as_str(), note.source.as_str(), outcome)
        });
        counter.increment(1);
    }

    pub(super) fn time_handling(&mut self, verdict: VerdictKind, handed: Instant) {
        let metrics = &self.metrics;
        let timer = self.timers.entry(verdict).or_insert_with(|| metrics.handler_seconds(verdict.as_str()));
        timer.record(handed.elapsed().as_secs_f64());
    }

    pub(super) fn tell_status(&mut self) {
        // Something waits though there is room: it is too large for every handler with room, perhaps for all.
        let waits = if self.ledger.waiting_count() > 0 { self.ledger.held_count() } else { 0 };
        // Without room nobody knows: it is as it was.
        let held = if self.ledger.has_room() { waits } else { self.status.held.min(waits) };
        if !self.is_status_due && held == self.status.held {
            return;
        }
        self.is_status_due = false;
        if held > 0 && self.status.held == 0 {
            warn!(
                subscription = %self.subscription.name, held,
                "deliveries wait that no connected handler can receive: raise its max_message_bytes"
            );
        }
        let status = self.present_status(held);
        if status != self.status {
            self.metrics.held.set(f64::from(u32::try_from(status.held).unwrap_or(u32::MAX)));
            for peer in self.peers.values() {
                peer.outbox.tell(status.clone());
            }
            let pause = (status.state == SubscriptionState::Paused).then(|| status.description.clone());
            *self.told.pause.lock().unwrap_or_else(PoisonError::into_inner) = pause;
            self.status = status;
        }
    }

    fn present_status(&self, held: usize) -> Status {
        let now_ms = (self.context.now_ms)();
        let (link, pause) = (self.link.now(), self.brakes.pause(&self.subscription.dead_letter, now_ms));
        let (state, description) = match (&link.live, &self.trouble) {
            (None, _) => (SubscriptionState::BrokerDown, describe(&link.why_down())),
            (Some(_), _) if self.trial.rules.is_stalled() => (SubscriptionState::Paused, self.stalled()),
            // The consumer hears it before the link does.
            (Some(_), Some(error @ BrokerError::SessionLost { .. })) => {
                (SubscriptionState::BrokerDown, describe(error))
            }
            (Some(_), Some(error)) => (SubscriptionState::Paused, describe(error)),
            (Some(_), None) if self.pauses_for_alarm() => (SubscriptionState::Paused, ALARM.to_owned()),
            (Some(_), None) if pause.is_some() => (SubscriptionState::Paused, pause.unwrap_or_default()),
            // Until the queue is there and bound, a publish that follows at once would not reach it.
            (Some(_), None) if self.session.is_none() && self.ledger.has_room() => {
                (SubscriptionState::Paused, NOT_YET.to_owned())
            }
            (Some(_), None) => (SubscriptionState::Active, String::new()),
        };
        Status { state, description, held }
    }
}

/// A queue that goes with its consumer has a name that nobody will ask for again: its series would only pile up.
fn label_of<'a>(parts: &'a Parts, subscription: &'a Subscription) -> &'a str {
    let is_passing = subscription.queue.is_exclusive() && parts.kept == Kept::WhileUsed;
    if is_passing { "other" } else { parts.context.labels.of(subscription.name.as_str()) }
}
