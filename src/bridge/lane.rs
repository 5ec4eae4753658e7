//! One lane: a task that owns a confirm channel and publishes what waits, in batches that overlap. Knows no backend.

use std::collections::VecDeque;
use std::sync::Arc;

use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;
use tracing::debug;

use super::gate::Gate;
use super::link::{Hold, LinkWatch};
use super::permits::Permits;
use crate::broker::{Answers, BrokerError, Confirm, LaneRole, Publication, SessionId};
use crate::domain::breaker::Passage;
use crate::domain::lane_batch::Unanswered;
use crate::domain::silence::Destination;
use crate::runtime::{Phase, PhaseWatch, TaskKind, Tasks};

mod lanes;
mod load;
mod open;
mod silences;

pub(super) use lanes::Lanes;
use load::Load;
use open::{Open, Out, Request};
pub(super) use silences::Silences;

/// Publishes that wait for a lane before callers wait for them.
const WAITING_MAX: usize = 1_024;

/// A way into a lane. Clones share it.
#[derive(Debug, Clone)]
pub(crate) struct LaneHandle {
    requests: mpsc::Sender<Request>,
    load: Arc<Load>,
}

impl LaneHandle {
    /// Hands a publication in; the answer comes through the receiver. Waits while the lane is full. `destination`: where it
    /// goes, if others want to know that there is no confirm from there.
    pub(crate) async fn submit(
        &self,
        publication: Publication,
        permits: Option<Arc<Permits>>,
        destination: Option<Destination>,
    ) -> oneshot::Receiver<Confirm> {
        let (reply, answer) = oneshot::channel();
        let held = (permits, Load::burden(&self.load));
        // A lane that is gone drops the reply, which the caller sees as lost.
        drop(self.requests.send(Request { publication, reply, destination, held }).await);
        self.load.handed_in();
        answer
    }

    /// Messages that it has and has not answered.
    pub(crate) fn load(&self) -> usize {
        self.load.messages()
    }

    /// True if it has waited for long for what is out.
    pub(crate) fn is_stuck(&self) -> bool {
        self.load.is_stuck()
    }

    /// True if nothing there has moved for long, now or not long ago.
    pub(crate) fn was_stuck_lately(&self) -> bool {
        self.load.was_stuck_lately()
    }

    /// Publishes one and waits for its outcome.
    pub(crate) async fn publish(&self, publication: Publication) -> Confirm {
        self.submit(publication, None, None).await.await.unwrap_or(Confirm::Lost)
    }
}

/// What a lane is for.
#[derive(Debug, Clone)]
pub(crate) struct LaneTerms {
    /// Whom it serves.
    pub role: LaneRole,
    /// Messages that it writes together.
    pub batch_max: usize,
    /// What it shares with other lanes; `None` = an outage is no reason to begin slowly.
    pub gate: Option<Gate>,
    /// Where it tells of destinations that confirm nothing; `None` = nobody asks.
    pub silences: Option<Arc<Silences>>,
}

/// Starts a lane; it ends with the phase `Close`, or when the last handle is gone.
pub(crate) fn start(tasks: &Tasks, link: LinkWatch, mut phase: PhaseWatch, lane: LaneTerms) -> LaneHandle {
    let (handle, requests) = mpsc::channel(WAITING_MAX);
    let (waiting, unanswered) = (VecDeque::new(), Unanswered::default());
    let role = label(lane.role);
    let load: Arc<Load> = Arc::default();
    let task = LaneTask {
        link,
        terms: lane,
        load: Arc::clone(&load),
        requests,
        is_over: false,
        waiting,
        unanswered,
        open: None,
    };
    tasks.spawn(TaskKind::Lane, role, async move {
        tokio::select! {
            () = task.run() => {}
            // Whoever still waits sees its reply dropped: nobody knows whether the message is stored.
            () = phase.reached(Phase::Close) => {}
        }
    });
    LaneHandle { requests: handle, load }
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
    load: Arc<Load>,
    requests: mpsc::Receiver<Request>,
    /// Nobody will ask for more.
    is_over: bool,
    /// Taken in and not sent.
    waiting: VecDeque<Request>,
    /// The ids that are out.
    unanswered: Unanswered,
    open: Option<Open>,
}

/// What the messages that wait, wait for besides an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wait {
    /// Nothing.
    Answer,
    /// So many more: then they are worth a batch beside what is out.
    Company(usize),
}

/// What became of the messages that waited.
enum Sent {
    /// Some went out, or all were refused.
    Some,
    /// None.
    None(Wait),
}

/// Whether the next batch can be sent.
enum Way {
    /// On the open channel.
    Free(Hold),
    /// What is out comes first.
    Taken(Wait),
    /// Not at all.
    None(BrokerError),
}

impl LaneTask {
    async fn run(mut self) {
        loop {
            self.gather();
            let wait = match self.send().await {
                Sent::Some => continue,
                Sent::None(wait) => wait,
            };
            self.tell_load();
            let is_out = self.open.as_ref().is_some_and(|open| !open.is_idle());
            if self.is_over && !is_out {
                return;
            }
            self.wait(wait).await;
        }
    }

    fn gather(&mut self) {
        while self.waiting.len() < self.terms.batch_max {
            let Ok(request) = self.requests.try_recv() else { return };
            self.waiting.push_back(request);
        }
    }

    /// Waits for answers, for requests while none waits, and else for what may let them out or refuse them.
    async fn wait(&mut self, wait: Wait) {
        let mut arrived = Vec::new();
        match wait {
            Wait::Answer => self.load.ring_at(usize::MAX),
            Wait::Company(more) => {
                self.load.ring_at(more + self.waiting.len() + self.open.as_ref().map_or(0, Open::messages));
                // Looked at once the bell is set, so that nothing in between is missed.
                if self.requests.len() >= more {
                    return;
                }
            }
        }
        let idle = self.open.as_ref().filter(|open| open.is_idle()).map(|open| open.session);
        let is_idle = idle.is_some() && self.waiting.is_empty();
        tokio::select! {
            () = self.load.rung(), if wait != Wait::Answer => {}
            () = news(&mut self.link, idle.filter(|_| is_idle)), if is_idle || !self.waiting.is_empty() => {
                if is_idle {
                    // Nobody may want this lane for hours, and its channel keeps what the session knew.
                    self.open = None;
                }
            }
            () = moved(&mut self.terms.gate), if !self.waiting.is_empty() => {}
            answers = answers(&mut self.open) => self.hear(answers),
            count = self.requests.recv_many(&mut arrived, self.terms.batch_max), if self.waiting.is_empty() && !self.is_over => {
                self.is_over = count == 0;
                self.waiting.extend(arrived);
            }
        }
    }

    /// Sends or refuses what waits.
    async fn send(&mut self) -> Sent {
        if self.waiting.is_empty() {
            return Sent::None(Wait::Answer);
        }
        let hold = match self.way().await {
            Way::Free(hold) => hold,
            Way::Taken(wait) => return Sent::None(wait),
            Way::None(error) => {
                for request in self.waiting.drain(..) {
                    // As in `answer`.
                    drop(request.reply.send(Confirm::NotSent(error.clone())));
                }
                return Sent::Some;
            }
        };
        let Some(open) = &mut self.open else { return Sent::None(Wait::Answer) };
        let (most, probe) = match self.terms.gate.as_mut().map(|gate| gate.ask(self.link.outages())) {
            Some(Passage::Wait(_)) => return Sent::None(Wait::Answer),
            Some(Passage::Probe(probe)) => (1, Some(probe)),
            Some(Passage::Closed) | None => (self.terms.batch_max, None),
        };
        let batch = self.unanswered.take(&mut self.waiting, most, id_of);
        if batch.is_empty() {
            if let (Some(gate), Some(probe)) = (&self.terms.gate, probe) {
                gate.withdraw(probe);
            }
            return Sent::None(Wait::Answer);
        }
        let (publications, replies) = batch
            .into_iter()
            .map(|request| (request.publication, (request.reply, request.destination, request.held)))
            .unzip();
        open.out.push_back(Out { replies, begun: Instant::now(), probe, hold });
        open.lane.write(publications).await;
        self.tell_load();
        Sent::Some
    }

    async fn way(&mut self) -> Way {
        // Whatever ended the last session, this publish was not refused for it: there is nobody to send it to.
        let down = |why: BrokerError| {
            let is_said = matches!(why, BrokerError::SessionLost { .. });
            if is_said { why } else { BrokerError::SessionLost { reason: why.to_string() } }
        };
        let Some(live) = self.link.live() else { return Way::None(down(self.link.now().why_down())) };
        // An alarm that came after this was handed in: the broker would not read it, and callers would wait in vain.
        if let (LaneRole::Publish, Some(reason)) = (self.terms.role, self.link.blocked()) {
            return Way::None(BrokerError::Blocked { reason });
        }
        match &self.open {
            Some(open) if open.session == live.id && open.lane.is_open() => {
                return match open.lacks(self.waiting.len(), self.terms.batch_max) {
                    Some(0) => Way::Free(live.hold),
                    Some(more) => Way::Taken(Wait::Company(more)),
                    None => Way::Taken(Wait::Answer),
                };
            }
            Some(open) if !open.is_idle() => return Way::Taken(Wait::Answer),
            Some(_) => debug!(role = label(self.terms.role), "lane retired"),
            None => {}
        }
        self.open = None;
        // A pooled connection may hang for as long as it takes to open one, and the session be lost and replaced meanwhile.
        let lane = tokio::select! {
            lane = live.session.lane(self.terms.role) => lane,
            () = self.link.lost(live.id) => Err(down(self.link.now().why_down())),
        };
        match lane {
            Ok(lane) => self.open = Some(Open::new(live.id, lane)),
            Err(error) => return Way::None(error),
        }
        Way::Free(live.hold)
    }

    /// Hands outcomes to the callers.
    fn hear(&mut self, answers: Answers) {
        if let Some(open) = &mut self.open {
            open.hear(answers, &mut self.unanswered, &self.terms);
        }
        self.tell_load();
    }

    fn tell_load(&self) {
        let open = self.open.as_ref();
        let waits_for_id = self.waiting.front().is_some_and(|request| self.unanswered.has(id_of(request)));
        self.load.is(open.and_then(Open::oldest), open.and_then(|open| open.holder(waits_for_id)));
    }
}

/// Waits for the end of this session, or for any change of the link. Cancel-safe.
async fn news(link: &mut LinkWatch, session: Option<SessionId>) {
    match session {
        Some(session) => link.lost(session).await,
        None => link.changed().await,
    }
}

/// Waits until the gate may let more out; for ever where it holds nothing back. Cancel-safe.
async fn moved(gate: &mut Option<Gate>) {
    match gate {
        Some(gate) if gate.is_held() => gate.moved().await,
        Some(_) | None => std::future::pending().await,
    }
}

async fn answers(open: &mut Option<Open>) -> Answers {
    match open {
        Some(open) if !open.is_idle() => open.lane.answers().await,
        Some(_) | None => std::future::pending().await,
    }
}

fn id_of(request: &Request) -> &str {
    request.publication.message.properties.message_id.as_deref().unwrap_or_default()
}

#[cfg(test)]
mod tests;
