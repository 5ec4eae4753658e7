//! One lane: a task that owns a confirm channel and publishes what waits, batch by batch. Knows no backend.

use std::collections::VecDeque;
use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, mpsc, oneshot};
use tokio::time::Instant;
use tracing::debug;

use super::link::LinkWatch;
use crate::broker::{BrokerError, Confirm, Lane, LaneRole, Publication, SessionId};
use crate::domain::lane_batch;
use crate::runtime::{Phase, PhaseWatch, TaskKind, Tasks};
use crate::telemetry::metrics;

/// Publishes that wait for a lane before callers wait for them.
const WAITING_MAX: usize = 1_024;

/// A way into a lane. Clones share it.
#[derive(Debug, Clone)]
pub(crate) struct LaneHandle(mpsc::Sender<Request>);

/// A share of what all callers may have unconfirmed.
#[derive(Debug)]
pub(crate) struct Permits {
    pub(super) _messages: OwnedSemaphorePermit,
    pub(super) _kib: OwnedSemaphorePermit,
}

#[derive(Debug)]
struct Request {
    publication: Publication,
    reply: oneshot::Sender<Confirm>,
    /// Given back when this is answered.
    permits: Option<Arc<Permits>>,
}

impl LaneHandle {
    /// Hands a publication in; the answer comes through the receiver. Waits while the lane is full.
    pub(crate) async fn submit(
        &self,
        publication: Publication,
        permits: Option<Arc<Permits>>,
    ) -> oneshot::Receiver<Confirm> {
        let (reply, answer) = oneshot::channel();
        // A lane that is gone drops the reply, which the caller sees as lost.
        drop(self.0.send(Request { publication, reply, permits }).await);
        answer
    }

    /// Publishes one and waits for its outcome.
    pub(crate) async fn publish(&self, publication: Publication) -> Confirm {
        self.submit(publication, None).await.await.unwrap_or(Confirm::Lost)
    }
}

/// What a lane is for.
#[derive(Debug, Clone, Copy)]
pub(crate) struct LaneTerms {
    /// Whom it serves.
    pub role: LaneRole,
    /// Messages that it writes together.
    pub batch_max: usize,
}

/// Starts a lane; it ends with the phase `Close`, or when the last handle is gone.
pub(crate) fn start(tasks: &Tasks, link: LinkWatch, mut phase: PhaseWatch, lane: LaneTerms) -> LaneHandle {
    let (handle, requests) = mpsc::channel(WAITING_MAX);
    let task = LaneTask { link, terms: lane, requests, open: None };
    tasks.spawn(TaskKind::Lane, label(lane.role), async move {
        tokio::select! {
            () = task.run() => {}
            // Whoever still waits sees its reply dropped: nobody knows whether the message is stored.
            () = phase.reached(Phase::Close) => {}
        }
    });
    LaneHandle(handle)
}

fn label(role: LaneRole) -> &'static str {
    match role {
        LaneRole::Publish => "publish",
        LaneRole::Settle => "settle",
    }
}

struct LaneTask {
    link: LinkWatch,
    terms: LaneTerms,
    requests: mpsc::Receiver<Request>,
    open: Option<(SessionId, Box<dyn Lane>)>,
}

impl LaneTask {
    async fn run(mut self) {
        let mut waiting = VecDeque::new();
        loop {
            if waiting.is_empty() {
                let mut arrived = Vec::new();
                if self.requests.recv_many(&mut arrived, self.terms.batch_max).await == 0 {
                    return;
                }
                waiting.extend(arrived);
            }
            while waiting.len() < self.terms.batch_max {
                let Ok(request) = self.requests.try_recv() else { break };
                waiting.push_back(request);
            }
            let batch =
                lane_batch::next_batch(&mut waiting, self.terms.batch_max, |request| id_of(&request.publication));
            self.publish(batch).await;
        }
    }

    async fn publish(&mut self, batch: Vec<Request>) {
        let (publications, replies): (Vec<Publication>, Vec<_>) =
            batch.into_iter().map(|request| (request.publication, (request.reply, request.permits))).unzip();
        let count = publications.len();
        let confirms = match self.lane().await {
            Ok(lane) => {
                let begun = Instant::now();
                let confirms = lane.publish(publications).await;
                metrics::batch_confirmed(label(self.terms.role), count, begun.elapsed().as_secs_f64());
                confirms
            }
            Err(error) => vec![Confirm::NotSent(error); count],
        };
        debug_assert_eq!(confirms.len(), count, "a lane answers every publication once");
        for ((reply, _permits), confirm) in replies.into_iter().zip(confirms) {
            // A caller that no longer waits has cancelled: the outcome is nobody's any more.
            drop(reply.send(confirm));
        }
        if self.open.as_ref().is_some_and(|(_, lane)| !lane.is_open()) {
            debug!(role = label(self.terms.role), "lane retired");
            self.open = None;
        }
    }

    async fn lane(&mut self) -> Result<&mut Box<dyn Lane>, BrokerError> {
        // Whatever ended the last session, this publish was not refused for it: there is nobody to send it to.
        let down = |why: BrokerError| BrokerError::SessionLost { reason: why.to_string() };
        let Some(live) = self.link.live() else { return Err(down(self.link.now().why_down())) };
        // An alarm that came after this was handed in: the broker would not read it, and callers would wait in vain.
        if let (LaneRole::Publish, Some(reason)) = (self.terms.role, self.link.blocked()) {
            return Err(BrokerError::Blocked { reason });
        }
        let lane = match self.open.take() {
            Some((session, lane)) if session == live.id => lane,
            Some(_) | None => live.session.lane(self.terms.role).await?,
        };
        let (_, lane) = self.open.insert((live.id, lane));
        Ok(lane)
    }
}

fn id_of(publication: &Publication) -> &str {
    publication.message.properties.message_id.as_deref().unwrap_or_default()
}
