//! Publishing for handlers: limits, lanes, and one answer for each message. Knows no wire and no backend.

use std::collections::BTreeMap;
use std::sync::Arc;

use ::metrics::Gauge;

use super::gate::Gate;
use super::lane::{self, LaneHandle, LaneTerms, Lanes, Silences};
use super::link::LinkWatch;
use super::objects::PlanOf;
use super::permits::{Counted, Permits, Room};
use super::pipe::{self, PipeInput, PipeOutput, PipeWindow, PublisherWatch};
use super::registry::Registry;
use super::scope;
use crate::broker::{BrokerError, Confirm, LaneRole, Publication};
use crate::domain::name::ExchangeName;
use crate::domain::record::ORDERING_KEY_HEADER;
use crate::domain::silence::Destination;
use crate::domain::topology::{Plan, Step, TopologyMode};
use crate::runtime::{Phase, PhaseWatch, Tasks};
use crate::telemetry::metrics::{self, CappedLabel};

/// Limits of publishing.
#[derive(Debug, Clone, Copy)]
pub struct PublishLimits {
    /// Confirm channels for messages of no order, and as many for streams and ordering keys.
    pub lanes: usize,
    /// Messages of one lane batch. RabbitMQ 3.10 to 4.3 reads at least 201 messages ahead of a channel that waits for a quorum
    /// queue, and then nothing more of its whole connection (`credit_flow`), so two batches should be no more than 200.
    pub batch_max: usize,
    /// Unconfirmed messages of all callers.
    pub in_flight_max: usize,
    /// Sum of their bodies, in KiB (rounded up for each message).
    pub in_flight_kib_max: usize,
}

/// One part of so many of what may be unconfirmed may go aside.
const ASIDE_PART: usize = 4;

/// Why nothing was sent at all.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refusal {
    /// The sidecar stops.
    Draining,
    /// Too much is unconfirmed already.
    TooMany {
        /// Messages that may be unconfirmed.
        limit: u64,
    },
    /// The broker takes no publishes, in its words.
    Blocked(String),
}

impl Refusal {
    /// Its word in the metrics.
    pub(super) fn label(&self) -> &'static str {
        match self {
            Self::Draining => "draining",
            Self::TooMany { .. } => "too_many",
            Self::Blocked(_) => "blocked",
        }
    }
}

/// Publishes through lanes. Clones share them.
#[derive(Debug, Clone)]
pub struct Publisher {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    /// Of messages that may take any.
    free: Lanes,
    /// Of those among them that go where nothing was confirmed lately: RabbitMQ lets them hold up all that is behind them on
    /// a channel.
    aside: LaneHandle,
    silences: Arc<Silences>,
    /// Of streams and ordering keys, which cannot leave while anything of theirs is unanswered: what holds a lane up there
    /// holds up fewer.
    bound: Lanes,
    /// What all callers may have unconfirmed.
    room: Room,
    /// What of it may go aside: a place that confirms nothing takes the room of nobody else.
    room_aside: Room,
    link: LinkWatch,
    phase: PhaseWatch,
    labels: CappedLabel,
    unanswered: Gauge,
    /// What is made again when one of our exchanges is missing: its bindings went with it.
    topology: (Arc<Plan>, Registry),
    /// Held while it is made again.
    repairing: tokio::sync::Mutex<()>,
}

impl Publisher {
    /// Starts the lanes.
    pub(super) fn start(
        tasks: &Tasks,
        link: &LinkWatch,
        phase: &PhaseWatch,
        (limits, topology): (PublishLimits, (Arc<Plan>, Registry)),
    ) -> Self {
        let (gate, silences) = (Gate::default(), Arc::<Silences>::default());
        let terms = LaneTerms {
            role: LaneRole::Publish,
            batch_max: limits.batch_max,
            gate: Some(gate),
            silences: Some(Arc::clone(&silences)),
        };
        let lane = |terms: &LaneTerms| lane::start(tasks, link.clone(), phase.clone(), terms.clone());
        let lanes = || Lanes::new((0..limits.lanes.max(1)).map(|_| lane(&terms)).collect(), limits.batch_max);
        let shared = Shared {
            free: lanes(),
            bound: lanes(),
            aside: lane(&terms),
            silences,
            room: Room::new(limits.in_flight_max, limits.in_flight_kib_max),
            room_aside: Room::new(limits.in_flight_max / ASIDE_PART, limits.in_flight_kib_max / ASIDE_PART),
            link: link.clone(),
            phase: phase.clone(),
            labels: CappedLabel::default(),
            unanswered: metrics::publishes_in_flight(),
            topology,
            repairing: tokio::sync::Mutex::new(()),
        };
        Self { shared: Arc::new(shared) }
    }

    /// Publishes in order on one lane, and what has an ordering key on the lane of that key; answers in the same order when
    /// every outcome is known.
    ///
    /// Not cancel-safe in effect: what was handed in may be stored after the caller has gone.
    ///
    /// # Errors
    /// Nothing was sent: the sidecar stops, the broker is blocked, or too much is in flight.
    pub async fn publish(&self, publications: Vec<Publication>) -> Result<Vec<Confirm>, Refusal> {
        let shared = &self.shared;
        let exchanges: Vec<ExchangeName> = publications.iter().map(|p| p.message.exchange.clone()).collect();
        if let Some(refusal) = self.refusal() {
            self.count(exchanges.iter().map(|exchange| (exchange, refusal.label())));
            return Err(refusal);
        }
        let without_key = publications.iter().filter(|publication| self.lane_of_key(publication).is_none());
        let is_silent = shared.silences.has_any(without_key.map(destination_of));
        let Some(permits) = self.permits(&publications, is_silent) else {
            let limit = if is_silent { shared.room_aside.limit() } else { shared.room.limit() };
            let refusal = Refusal::TooMany { limit };
            self.count(exchanges.iter().map(|exchange| (exchange, refusal.label())));
            return Err(refusal);
        };
        let lane = if is_silent { &shared.aside } else { shared.free.idlest() };
        let mut answers = Vec::with_capacity(publications.len());
        for publication in publications {
            let destination = destination_of(&publication);
            let lane = self.lane_of_key(&publication).unwrap_or(lane);
            answers.push(lane.submit(publication, Some(Arc::clone(&permits)), Some(destination)).await);
        }
        let mut confirms = Vec::with_capacity(answers.len());
        for answer in answers {
            confirms.push(answer.await.unwrap_or(Confirm::Lost));
        }
        self.count(exchanges.iter().zip(confirms.iter().map(result_label)));
        self.repair(&confirms).await;
        Ok(confirms)
    }

    /// All messages of an ordering key take the same lane, whichever caller sends them. Streams do not ask: each keeps the
    /// order of all its messages on the one lane that it has.
    fn lane_of_key(&self, publication: &Publication) -> Option<&LaneHandle> {
        let key = publication.message.properties.headers.get(ORDERING_KEY_HEADER)?;
        Some(self.shared.bound.of_key(key.as_text()?))
    }

    /// A stream of publishes, on one lane as long as that one moves: each stream on the next.
    pub fn pipe<T>(&self, window: PipeWindow) -> (PipeInput<T>, PipeOutput<T>) {
        pipe::pipe(self, self.next_lane(), window)
    }

    /// A lane for a stream.
    pub(super) fn next_lane(&self) -> LaneHandle {
        self.shared.bound.next().clone()
    }

    /// Sees how publishing is.
    pub fn watch(&self) -> PublisherWatch {
        PublisherWatch::new(self.shared.link.clone(), self.shared.phase.clone())
    }

    /// Why nothing is sent now, before anybody asks the broker.
    pub(super) fn refusal(&self) -> Option<Refusal> {
        if self.shared.phase.now() >= Phase::GiveBack {
            return Some(Refusal::Draining);
        }
        self.shared.link.blocked().map(Refusal::Blocked)
    }

    /// Waits until nothing is sent for a reason that is told at once. Cancel-safe.
    pub(super) async fn refused(&self) -> Refusal {
        let mut watch = self.watch();
        loop {
            if let Some(refusal) = self.refusal() {
                return refusal;
            }
            watch.changed().await;
        }
    }

    /// An exchange of ours was there when the session began and is not any more, and every binding went with it: all is
    /// made again, for the next publish.
    pub(super) async fn repair(&self, confirms: impl IntoIterator<Item = &Confirm>) {
        let (shared, registry) = &self.shared.topology;
        let missing = |confirm: &Confirm| {
            let Confirm::ExchangeMissing(name) = confirm else { return None };
            Some(name.clone())
        };
        // Gathered only where something is missing: this is on the way of every publish.
        let missing: Vec<ExchangeName> = confirms.into_iter().filter_map(missing).collect();
        if missing.is_empty() || shared.mode != TopologyMode::Create {
            return;
        }
        // One at a time: the others have their answer, and the next publish finds what was made.
        let Ok(_alone) = self.shared.repairing.try_lock() else { return };
        let Some(live) = self.shared.link.live() else { return };
        let objects = registry.objects();
        for part in scope::parts(shared).into_iter().filter(|part| declares(part, &missing)) {
            // What is made again or fails is told there.
            let _ = objects.apply(&PlanOf::shared(&part), live.parts(), &part).await;
        }
        for known in registry.known() {
            if let Some(held) = registry.hold(&known).await
                && names(&held.plan, &missing)
            {
                let _ = objects.apply(&known.owner(), live.parts(), &held.plan).await;
            }
        }
    }

    /// Room for these, kept until the lane has an answer for the last of them: a caller that goes away frees nothing.
    fn permits(&self, publications: &[Publication], is_silent: bool) -> Option<Arc<Permits>> {
        let (count, kib) = (publications.len(), publications.iter().map(kib_of).sum());
        let aside = if is_silent { Some(self.shared.room_aside.try_take(count, kib)?) } else { None };
        let all = self.shared.room.try_take(count, kib)?;
        Some(Arc::new(Permits::new(Some(all), aside, self.counted(count))))
    }

    /// The same, waited for. Cancel-safe.
    pub(super) async fn wait_for_room(&self, messages: usize, kib: usize) -> Permits {
        let all = self.shared.room.take(messages, kib).await;
        Permits::new(all, None, self.counted(messages))
    }

    fn counted(&self, messages: usize) -> Counted {
        Counted::new(self.shared.unanswered.clone(), messages)
    }

    /// Waits until nothing is unconfirmed any more. Cancel-safe.
    pub async fn idle(&self) {
        self.shared.room.idle().await;
    }

    pub(super) fn count<'a>(&self, results: impl Iterator<Item = (&'a ExchangeName, &'static str)>) {
        let mut counts: BTreeMap<(&ExchangeName, &'static str), u64> = BTreeMap::new();
        for result in results {
            *counts.entry(result).or_default() += 1;
        }
        for ((exchange, result), count) in counts {
            metrics::published(self.shared.labels.of(exchange.as_str()), result, count);
        }
    }
}

/// True for a plan that makes one of these exchanges.
fn declares(plan: &Plan, exchanges: &[ExchangeName]) -> bool {
    plan.steps.iter().any(|step| matches!(step, Step::Exchange(exchange) if exchanges.contains(&exchange.name)))
}

/// True for a plan that makes one of these exchanges or binds to it.
fn names(plan: &Plan, exchanges: &[ExchangeName]) -> bool {
    let binds = |step: &Step| matches!(step, Step::Bind { binding, .. } if exchanges.contains(&binding.exchange));
    declares(plan, exchanges) || plan.steps.iter().any(binds)
}

fn destination_of(publication: &Publication) -> Destination {
    Destination::of(publication.message.exchange.as_str(), &publication.message.routing_key)
}

/// A body's share of what all callers may have unconfirmed.
pub(super) fn kib_of(publication: &Publication) -> usize {
    publication.message.body.len().div_ceil(1_024)
}

pub(super) fn result_label(confirm: &Confirm) -> &'static str {
    match confirm {
        Confirm::Stored => "stored",
        Confirm::Unroutable => "unroutable",
        Confirm::Refused => "rejected",
        Confirm::Lost => "confirm_lost",
        Confirm::TimedOut => "confirm_timeout",
        Confirm::ExchangeMissing(_) => "exchange_not_found",
        Confirm::NotSent(BrokerError::Blocked { .. }) => "blocked",
        Confirm::NotSent(_) => "broker_down",
    }
}
