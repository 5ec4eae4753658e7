//! Publishing for handlers: limits, lanes, and one answer for each message. Knows no wire and no backend.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::Semaphore;
use tracing::warn;

use super::lane::{self, LaneHandle, LaneTerms, Permits};
use super::link::LinkWatch;
use crate::broker::{BrokerError, Confirm, LaneRole, Publication};
use crate::domain::name::ExchangeName;
use crate::domain::topology::{Plan, Step};
use crate::runtime::{Phase, PhaseWatch, Tasks};
use crate::telemetry::metrics::{self, CappedLabel};

/// Limits of publishing.
#[derive(Debug, Clone, Copy)]
pub struct PublishLimits {
    /// Confirm channels.
    pub lanes: usize,
    /// Messages of one lane batch.
    pub batch_max: usize,
    /// Unconfirmed messages of all callers.
    pub in_flight_max: usize,
    /// Sum of their bodies, in KiB (rounded up for each message).
    pub in_flight_kib_max: usize,
}

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

/// Publishes through lanes. Clones share them.
#[derive(Debug, Clone)]
pub struct Publisher {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    lanes: Vec<LaneHandle>,
    next: AtomicUsize,
    in_flight: Arc<Semaphore>,
    in_flight_kib: Arc<Semaphore>,
    limits: PublishLimits,
    link: LinkWatch,
    phase: PhaseWatch,
    labels: CappedLabel,
    /// What is made again when one of our exchanges is missing: its bindings went with it.
    topology: Vec<Arc<Plan>>,
}

impl Publisher {
    /// Starts the lanes.
    pub(super) fn start(
        tasks: &Tasks,
        link: &LinkWatch,
        phase: PhaseWatch,
        (limits, topology): (PublishLimits, Vec<Arc<Plan>>),
    ) -> Self {
        let terms = LaneTerms { role: LaneRole::Publish, batch_max: limits.batch_max };
        let lane = |_| lane::start(tasks, link.clone(), phase.clone(), terms);
        let shared = Shared {
            lanes: (0..limits.lanes.max(1)).map(lane).collect(),
            next: AtomicUsize::new(0),
            in_flight: Arc::new(Semaphore::new(limits.in_flight_max)),
            in_flight_kib: Arc::new(Semaphore::new(limits.in_flight_kib_max)),
            limits,
            link: link.clone(),
            phase,
            labels: CappedLabel::default(),
            topology,
        };
        Self { shared: Arc::new(shared) }
    }

    /// Publishes in order, on one lane; answers in the same order when every outcome is known.
    ///
    /// Not cancel-safe in effect: what was handed in may be stored after the caller has gone.
    ///
    /// # Errors
    /// Nothing was sent: the sidecar stops, the broker is blocked, or too much is in flight.
    pub async fn publish(&self, publications: Vec<Publication>) -> Result<Vec<Confirm>, Refusal> {
        let shared = &self.shared;
        let exchanges: Vec<ExchangeName> = publications.iter().map(|p| p.message.exchange.clone()).collect();
        if shared.phase.now() >= Phase::GiveBack {
            self.count(exchanges.iter().map(|exchange| (exchange, "draining")));
            return Err(Refusal::Draining);
        }
        if let Some(reason) = shared.link.blocked() {
            self.count(exchanges.iter().map(|exchange| (exchange, "blocked")));
            return Err(Refusal::Blocked(reason));
        }
        let Some(permits) = self.permits(&publications) else {
            return Err(Refusal::TooMany { limit: u64::try_from(shared.limits.in_flight_max).unwrap_or(u64::MAX) });
        };
        let lane = &shared.lanes[shared.next.fetch_add(1, Ordering::Relaxed) % shared.lanes.len()];
        let mut answers = Vec::with_capacity(publications.len());
        for publication in publications {
            answers.push(lane.submit(publication, Some(Arc::clone(&permits))).await);
        }
        let mut confirms = Vec::with_capacity(answers.len());
        for answer in answers {
            confirms.push(answer.await.unwrap_or(Confirm::Lost));
        }
        self.count(exchanges.iter().zip(confirms.iter().map(result_label)));
        self.repair(&confirms).await;
        Ok(confirms)
    }

    /// An exchange of ours was there when the session began and is not any more, and every binding went with it: all is
    /// made again, for the next publish.
    async fn repair(&self, confirms: &[Confirm]) {
        let plans = &self.shared.topology;
        let is_ours = |confirm: &Confirm| {
            let Confirm::ExchangeMissing(name) = confirm else { return false };
            let mut steps = plans.iter().flat_map(|plan| &plan.steps);
            steps.any(|step| matches!(step, Step::Exchange(exchange) if exchange.name == *name))
        };
        if !confirms.iter().any(is_ours) {
            return;
        }
        let Some(live) = self.shared.link.live() else { return };
        for plan in plans {
            match live.session.apply(Arc::clone(plan)).await {
                Ok(findings) => warn!(topology = %findings, "an exchange was deleted while we ran; made again"),
                Err(error) => warn!(%error, hint = error.hint(), "an exchange was deleted while we ran"),
            }
        }
    }

    /// Room for these, kept until the lane has an answer for the last of them: a caller that goes away frees nothing.
    fn permits(&self, publications: &[Publication]) -> Option<Arc<Permits>> {
        let limits = &self.shared.limits;
        // One caller may always send, however much it brings: a limit below one request would refuse it for ever.
        let messages = publications.len().min(limits.in_flight_max);
        let kib: usize = publications.iter().map(|p| p.message.body.len().div_ceil(1_024)).sum();
        let kib = kib.min(limits.in_flight_kib_max);
        let (messages, kib) = (u32::try_from(messages).ok()?, u32::try_from(kib).ok()?);
        let messages = Arc::clone(&self.shared.in_flight).try_acquire_many_owned(messages).ok()?;
        let kib = Arc::clone(&self.shared.in_flight_kib).try_acquire_many_owned(kib).ok()?;
        Some(Arc::new(Permits { _messages: messages, _kib: kib }))
    }

    /// Waits until nothing is unconfirmed any more. Cancel-safe.
    pub async fn idle(&self) {
        let all = u32::try_from(self.shared.limits.in_flight_max).unwrap_or(u32::MAX);
        // The semaphore is never closed.
        drop(self.shared.in_flight.acquire_many(all).await);
    }

    fn count<'a>(&self, results: impl Iterator<Item = (&'a ExchangeName, &'static str)>) {
        let mut counts: BTreeMap<(&ExchangeName, &'static str), u64> = BTreeMap::new();
        for result in results {
            *counts.entry(result).or_default() += 1;
        }
        for ((exchange, result), count) in counts {
            metrics::published(self.shared.labels.of(exchange.as_str()), result, count);
        }
    }
}

fn result_label(confirm: &Confirm) -> &'static str {
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
