//! One caller's stream of publishes: one lane at a time, so that its order holds; answers as they come, many at once. Knows
//! no wire.

use std::sync::Arc;

use tokio::sync::{Semaphore, mpsc, oneshot};

use super::lane::LaneHandle;
use super::link::LinkWatch;
use super::permits::Permits;
use super::publisher::{Publisher, Refusal, kib_of, result_label};
use crate::broker::{Confirm, Publication};
use crate::domain::name::ExchangeName;
use crate::runtime::{Phase, PhaseWatch};

use stream_lane::{StreamLane, Told};

pub(super) mod stream_lane;

/// Messages that share one permit of all callers, and answers of one group.
const GROUP_MAX: usize = 256;
/// Groups that were not sent and whose answers nobody has taken, before their caller waits.
const REFUSED_GROUPS_MAX: usize = 4;

/// What one pipe may have unconfirmed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PipeWindow {
    /// Messages, also those whose answer nobody has taken yet.
    pub messages: usize,
    /// Sum of their bodies in KiB, rounded up for each message.
    pub kib: usize,
}

/// What became of one message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// The broker's word.
    Confirm(Confirm),
    /// It was not sent.
    Refused(Refusal),
    /// It was never handed in, see [`PipeInput::pass`].
    Passed,
}

impl Outcome {
    /// Its word in the metrics.
    fn label(&self) -> Option<&'static str> {
        Some(match self {
            Self::Confirm(confirm) => result_label(confirm),
            Self::Refused(refusal) => refusal.label(),
            Self::Passed => return None,
        })
    }
}

/// An answer, with what the caller knows the message by.
#[derive(Debug)]
pub struct Answer<T> {
    /// As handed in.
    pub tag: T,
    /// Where it was published to.
    pub exchange: ExchangeName,
    /// What became of it.
    pub outcome: Outcome,
}

/// How publishing is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PublisherState {
    /// All is well.
    Active,
    /// The broker takes no publishes.
    Blocked,
    /// There is no session.
    Down,
    /// The sidecar stops.
    Draining,
}

/// Sees how publishing is.
#[derive(Debug, Clone)]
pub struct PublisherWatch {
    link: LinkWatch,
    phase: PhaseWatch,
}

impl PublisherWatch {
    pub(super) fn new(link: LinkWatch, phase: PhaseWatch) -> Self {
        Self { link, phase }
    }

    /// How it is now.
    pub fn now(&self) -> PublisherState {
        if self.phase.now() >= Phase::Intake {
            PublisherState::Draining
        } else if self.link.live().is_none() {
            PublisherState::Down
        } else if self.link.blocked().is_some() {
            PublisherState::Blocked
        } else {
            PublisherState::Active
        }
    }

    /// Waits until it may be otherwise. Cancel-safe.
    pub async fn changed(&mut self) {
        tokio::select! {
            () = self.link.changed() => {}
            _ = self.phase.changed() => {}
        }
    }

    /// Waits until nothing is published any more. Cancel-safe.
    pub async fn over(&mut self) {
        self.phase.reached(Phase::GiveBack).await;
    }
}

struct Entry<T> {
    tag: T,
    exchange: ExchangeName,
    answer: Pending,
}

enum Pending {
    Passed,
    Lane(oneshot::Receiver<Confirm>),
}

/// Where messages go in. Dropped, it ends the pipe once all are answered.
#[derive(Debug)]
pub struct PipeInput<T> {
    publisher: Publisher,
    lane: StreamLane,
    window: PipeWindow,
    kib: Arc<Semaphore>,
    entries: mpsc::Sender<Entry<T>>,
    refused: mpsc::Sender<Vec<Answer<T>>>,
}

/// Where answers come out, in the order of the messages but for those that were not sent at all.
#[derive(Debug)]
pub struct PipeOutput<T> {
    publisher: Publisher,
    answers: Answers<T>,
    told: Arc<Told>,
}

/// Entries, each taken once it is answered.
#[derive(Debug)]
struct Answers<T> {
    /// The oldest that is not answered.
    head: Option<Entry<T>>,
    entries: mpsc::Receiver<Entry<T>>,
    /// Not sent: told at once, and not behind messages whose confirms an alarm keeps away.
    refused: mpsc::Receiver<Vec<Answer<T>>>,
}

impl<T> std::fmt::Debug for Entry<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Entry").field("exchange", &self.exchange).finish_non_exhaustive()
    }
}

/// Places for the answers of a group, and its shares of what may be unconfirmed.
type Room<'a, T> = (mpsc::PermitIterator<'a, Entry<T>>, Arc<Permits>);

/// The two ends of a pipe over a lane.
pub(super) fn pipe<T>(publisher: &Publisher, lane: LaneHandle, window: PipeWindow) -> (PipeInput<T>, PipeOutput<T>) {
    let window = PipeWindow { messages: window.messages.max(1), kib: window.kib.clamp(1, Semaphore::MAX_PERMITS) };
    let (to_output, entries) = mpsc::channel(window.messages);
    let (refuse, refused) = mpsc::channel(REFUSED_GROUPS_MAX);
    let lane = StreamLane::new(lane);
    let told = lane.told();
    let input = PipeInput {
        publisher: publisher.clone(),
        lane,
        window,
        kib: Arc::new(Semaphore::new(window.kib)),
        entries: to_output,
        refused: refuse,
    };
    let answers = Answers { head: None, entries, refused };
    (input, PipeOutput { publisher: publisher.clone(), answers, told })
}

impl<T> PipeInput<T> {
    /// Hands messages in, in their order. Waits while the pipe, or all callers together, have too much unconfirmed.
    ///
    /// Not cancel-safe: a cancelled call has handed in some of them.
    pub async fn publish(&mut self, publications: Vec<(T, Publication)>) {
        let mut publications = publications.into_iter();
        loop {
            let group: Vec<(T, Publication)> =
                publications.by_ref().take(GROUP_MAX.min(self.window.messages)).collect();
            if group.is_empty() {
                return;
            }
            self.leave_slow_lane().await;
            self.publish_group(group).await;
        }
    }

    async fn leave_slow_lane(&mut self) {
        let next = || self.publisher.next_lane();
        tokio::select! {
            biased;
            () = self.lane.leave_if_held_up(next) => {}
            // Nobody takes answers any more.
            () = self.entries.closed() => {}
            // Told with the group.
            _ = self.publisher.refused() => {}
        }
    }

    async fn publish_group(&self, group: Vec<(T, Publication)>) {
        let room = async {
            // The answers' places come first: whoever does not take answers holds nothing that others wait for.
            let places = self.entries.reserve_many(group.len()).await.ok()?;
            Some((places, Arc::new(self.room(&group).await)))
        };
        let refusal = tokio::select! {
            refusal = self.publisher.refused() => refusal,
            // Asked after the wait: much may have happened meanwhile.
            room = room => match (room, self.publisher.refusal()) {
                (None, _) => return,
                (Some(room), None) => return self.submit(group, room).await,
                (Some(_), Some(refusal)) => refusal,
            },
        };
        let refuse = |(tag, publication): (T, Publication)| Answer {
            tag,
            exchange: publication.message.exchange,
            outcome: Outcome::Refused(refusal.clone()),
        };
        // Nobody takes answers any more where this fails.
        drop(self.refused.send(group.into_iter().map(refuse).collect()).await);
    }

    async fn submit(&self, group: Vec<(T, Publication)>, (places, permits): Room<'_, T>) {
        for ((tag, publication), place) in group.into_iter().zip(places) {
            let exchange = publication.message.exchange.clone();
            let answer = Pending::Lane(self.lane.submit(publication, Some(Arc::clone(&permits))).await);
            place.send(Entry { tag, exchange, answer });
        }
    }

    /// Something that only needs an answer in its turn. Cancel-safe.
    pub async fn pass(&self, tag: T, exchange: ExchangeName) {
        // Nobody takes answers any more where this fails.
        drop(self.entries.send(Entry { tag, exchange, answer: Pending::Passed }).await);
    }

    async fn room(&self, group: &[(T, Publication)]) -> Permits {
        let kib: usize = group.iter().map(|(_, publication)| kib_of(publication)).sum();
        let own = u32::try_from(kib.min(self.window.kib)).unwrap_or(u32::MAX);
        // The semaphore is never closed.
        let own = Arc::clone(&self.kib).acquire_many_owned(own).await.ok();
        self.publisher.wait_for_room(group.len(), kib).await.and_own(own)
    }
}

impl<T> PipeOutput<T> {
    /// The next answers, at least one: those that are there, what was not sent before all others. `None` = the input is gone
    /// and all are answered.
    ///
    /// Cancel-safe.
    pub async fn next(&mut self) -> Option<Vec<Answer<T>>> {
        let answers = self.answers.next().await?;
        self.told.hear(confirms(&answers));
        self.publisher.count(answers.iter().filter_map(|answer| Some((&answer.exchange, answer.outcome.label()?))));
        Some(answers)
    }

    /// Makes exchanges of ours again that these answers say are missing. To be called with every group.
    pub async fn mend(&self, answers: &[Answer<T>]) {
        self.publisher.repair(confirms(answers)).await;
    }
}

/// Those of them that lanes gave.
fn confirms<T>(answers: &[Answer<T>]) -> impl Iterator<Item = &Confirm> {
    answers.iter().filter_map(|answer| match &answer.outcome {
        Outcome::Confirm(confirm) => Some(confirm),
        Outcome::Refused(_) | Outcome::Passed => None,
    })
}

impl<T> Answers<T> {
    /// See [`PipeOutput::next`].
    async fn next(&mut self) -> Option<Vec<Answer<T>>> {
        let Self { head, entries, refused } = self;
        tokio::select! {
            biased;
            Some(refused) = refused.recv() => Some(refused),
            answers = in_order(head, entries) => match answers {
                Some(answers) => Some(answers),
                None => self.refused.recv().await,
            },
        }
    }
}

/// The next answers of messages that were handed in. Cancel-safe.
async fn in_order<T>(head: &mut Option<Entry<T>>, entries: &mut mpsc::Receiver<Entry<T>>) -> Option<Vec<Answer<T>>> {
    if head.is_none() {
        *head = entries.recv().await;
    }
    let mut outcome = match &mut head.as_mut()?.answer {
        Pending::Passed => Outcome::Passed,
        Pending::Lane(confirm) => Outcome::Confirm(confirm.await.unwrap_or(Confirm::Lost)),
    };
    let mut answers = Vec::new();
    // From here on nothing is awaited, so that a cancelled call takes nothing along.
    while let Some(entry) = head.take() {
        answers.push(Answer { tag: entry.tag, exchange: entry.exchange, outcome });
        if answers.len() == GROUP_MAX {
            break;
        }
        *head = entries.try_recv().ok();
        let Some(next) = head.as_mut().and_then(|head| head.answer.now()) else { break };
        outcome = next;
    }
    Some(answers)
}

impl Pending {
    fn now(&mut self) -> Option<Outcome> {
        match self {
            Self::Passed => Some(Outcome::Passed),
            Self::Lane(confirm) => match confirm.try_recv() {
                Ok(confirm) => Some(Outcome::Confirm(confirm)),
                Err(oneshot::error::TryRecvError::Closed) => Some(Outcome::Confirm(Confirm::Lost)),
                Err(oneshot::error::TryRecvError::Empty) => None,
            },
        }
    }
}

#[cfg(test)]
mod tests;
