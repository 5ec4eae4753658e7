//! One lane: a task that owns a confirm channel and publishes what waits, batch by batch. Knows no backend.

use std::collections::VecDeque;

use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;
use tracing::debug;

use super::link::LinkWatch;
use crate::broker::{BrokerError, Confirm, Lane, LaneRole, Publication, SessionId};
use crate::domain::lane_batch;
use crate::runtime::{TaskKind, Tasks};
use crate::telemetry::metrics;

/// Publishes that wait for a lane before callers wait for them.
const WAITING_MAX: usize = 1_024;

/// A way into a lane. Clones share it.
#[derive(Debug, Clone)]
pub(crate) struct LaneHandle(mpsc::Sender<Request>);

#[derive(Debug)]
struct Request {
    publication: Publication,
    reply: oneshot::Sender<Confirm>,
}

impl LaneHandle {
    /// Hands a publication in; the answer comes through the receiver. Waits while the lane is full.
    pub(crate) async fn submit(&self, publication: Publication) -> oneshot::Receiver<Confirm> {
        let (reply, answer) = oneshot::channel();
        // A lane that is gone drops the reply, which the caller sees as lost.
        drop(self.0.send(Request { publication, reply }).await);
        answer
    }

    /// Publishes one and waits for its outcome.
    pub(crate) async fn publish(&self, publication: Publication) -> Confirm {
        self.submit(publication).await.await.unwrap_or(Confirm::Lost)
    }
}

/// Starts a lane; it ends when the last handle is gone.
pub(crate) fn start(tasks: &Tasks, link: LinkWatch, role: LaneRole, batch_max: usize) -> LaneHandle {
    let (handle, requests) = mpsc::channel(WAITING_MAX);
    let task = LaneTask { link, role, batch_max, requests, open: None };
    tasks.spawn(TaskKind::Lane, label(role), task.run());
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
    role: LaneRole,
    batch_max: usize,
    requests: mpsc::Receiver<Request>,
    open: Option<(SessionId, Box<dyn Lane>)>,
}

impl LaneTask {
    async fn run(mut self) {
        let mut waiting = VecDeque::new();
        loop {
            if waiting.is_empty() {
                let mut arrived = Vec::new();
                if self.requests.recv_many(&mut arrived, self.batch_max).await == 0 {
                    return;
                }
                waiting.extend(arrived);
            }
            while waiting.len() < self.batch_max {
                let Ok(request) = self.requests.try_recv() else { break };
                waiting.push_back(request);
            }
            let batch = lane_batch::next_batch(&mut waiting, self.batch_max, |request| id_of(&request.publication));
            self.publish(batch).await;
        }
    }

    async fn publish(&mut self, batch: Vec<Request>) {
        let (publications, replies): (Vec<Publication>, Vec<oneshot::Sender<Confirm>>) =
            batch.into_iter().map(|request| (request.publication, request.reply)).unzip();
        let count = publications.len();
        let confirms = match self.lane().await {
            Ok(lane) => {
                let begun = Instant::now();
                let confirms = lane.publish(publications).await;
                metrics::batch_confirmed(label(self.role), count, begun.elapsed().as_secs_f64());
                confirms
            }
            Err(error) => vec![Confirm::NotSent(error); count],
        };
        debug_assert_eq!(confirms.len(), count, "a lane answers every publication once");
        for (reply, confirm) in replies.into_iter().zip(confirms) {
            // A caller that no longer waits has cancelled: the outcome is nobody's any more.
            drop(reply.send(confirm));
        }
        if self.open.as_ref().is_some_and(|(_, lane)| !lane.is_open()) {
            debug!(role = label(self.role), "lane retired");
            self.open = None;
        }
    }

    async fn lane(&mut self) -> Result<&mut Box<dyn Lane>, BrokerError> {
        let Some(live) = self.link.live() else { return Err(self.link.now().why_down()) };
        let lane = match self.open.take() {
            Some((session, lane)) if session == live.id => lane,
            Some(_) | None => live.session.lane(self.role).await?,
        };
        let (_, lane) = self.open.insert((live.id, lane));
        Ok(lane)
    }
}

fn id_of(publication: &Publication) -> &str {
    publication.message.properties.message_id.as_deref().unwrap_or_default()
}
