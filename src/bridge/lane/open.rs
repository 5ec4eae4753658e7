//! What is out on the channel of a lane, and who waits for it. Sends nothing.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use tokio::sync::oneshot;
use tokio::time::Instant;

use super::super::link::Hold;
use super::super::permits::Permits;
use super::load::Burden;
use super::{LaneTerms, label};
use crate::broker::{Answers, BrokerError, Confirm, Lane, Publication, SessionId};
use crate::domain::breaker::Probe;
use crate::domain::lane_batch::{Key, Unanswered};
use crate::domain::silence::Destination;
use crate::telemetry::metrics;

/// So many messages, or a full batch if that is less, are worth a batch of their own while another is out. With fewer the
/// broker idles less for them than their callers wait: a batch that another follows is answered with it. Sixty-four callers
/// that each wait for their answer get twice as many a second when they share one batch (measured).
const OVERLAP_FROM: usize = 128;

/// Messages that hold nobody up while they are out: what comes next need not wait for them.
const FEW: usize = 8;

/// A message and its caller.
#[derive(Debug)]
pub(super) struct Request {
    pub(super) publication: Publication,
    pub(super) reply: oneshot::Sender<Confirm>,
    pub(super) destination: Option<Destination>,
    /// Given back when this is answered, and so is its place in the load of the lane.
    pub(super) held: Held,
}

/// Who waits for an answer, where the message goes, and what it holds.
type Caller = (oneshot::Sender<Confirm>, Option<Destination>, Held);

/// What a message holds until it is answered.
pub(super) type Held = (Option<Arc<Permits>>, Burden);

/// A confirm channel and what is out on it.
pub(super) struct Open {
    pub(super) session: SessionId,
    pub(super) lane: Box<dyn Lane>,
    /// Oldest first.
    pub(super) out: VecDeque<Out>,
    /// Messages that their batches have left behind, by their number.
    left: BTreeMap<u64, Left>,
}

impl Open {
    pub(super) fn new(session: SessionId, lane: Box<dyn Lane>) -> Self {
        Self { session, lane, out: VecDeque::new(), left: BTreeMap::new() }
    }

    /// True if nothing waits for an answer.
    pub(super) fn is_idle(&self) -> bool {
        self.out.is_empty() && self.left.is_empty()
    }

    /// Messages without an answer.
    pub(super) fn messages(&self) -> usize {
        self.in_batches() + self.left.len()
    }

    /// Those that others wait for.
    fn in_batches(&self) -> usize {
        self.out.iter().map(|batch| batch.replies.len()).sum()
    }

    /// When the first batch that is out was written.
    pub(super) fn oldest(&self) -> Option<Instant> {
        self.out.front().map(|batch| batch.begun)
    }

    /// When the oldest message was written without whose answer nothing goes out; `waits_for_id`: what is next has the id of
    /// one that is out.
    pub(super) fn holder(&self, waits_for_id: bool) -> Option<Instant> {
        let (_, left) = self.left.first_key_value()?;
        let may_go = !waits_for_id && self.lane.is_open() && self.lane.has_room();
        (self.out.is_empty() && !may_go).then_some(left.begun)
    }

    /// How many more must wait before so many go out beside what is out; 0 = they go now, `None` = not for their number.
    pub(super) fn lacks(&self, waiting: usize, batch_max: usize) -> Option<usize> {
        let enough = if self.in_batches() <= FEW { 0 } else { OVERLAP_FROM.min(batch_max) };
        self.lane.has_room().then(|| enough.saturating_sub(waiting))
    }

    /// Hands outcomes to the callers.
    pub(super) fn hear(&mut self, answers: Answers, unanswered: &mut Unanswered, terms: &LaneTerms) {
        for confirms in answers.batches {
            self.answer_oldest(confirms, unanswered, terms);
        }
        for number in answers.silent {
            let destination = self.left.get(&number).and_then(|left| left.destination);
            if let (Some(silences), Some(destination)) = (&terms.silences, destination) {
                silences.note(destination);
            }
        }
        for left in answers.left {
            self.answer_left(left, unanswered, terms);
        }
    }

    fn answer_oldest(&mut self, confirms: Vec<Result<Confirm, u64>>, unanswered: &mut Unanswered, terms: &LaneTerms) {
        let is_left = |place: usize| confirms.get(place).is_some_and(Result::is_err);
        let mut keys = unanswered.answered(is_left).into_iter();
        let Some(Out { replies, begun, mut probe, hold }) = self.out.pop_front() else { return };
        debug_assert_eq!(confirms.len(), replies.len(), "a lane answers every publication once");
        if confirms.iter().all(Result::is_ok)
            && let (Some(gate), Some(probe)) = (&terms.gate, probe.take())
        {
            gate.answered(probe, confirms.iter().flatten().all(is_word_of_broker));
        }
        metrics::batch_confirmed(label(terms.role), replies.len(), begun.elapsed().as_secs_f64());
        for ((reply, destination, held), confirm) in replies.into_iter().zip(confirms) {
            match confirm {
                Ok(confirm) => {
                    forget_silence(terms, destination, &confirm);
                    // A caller that no longer waits has cancelled: the outcome is nobody's any more.
                    drop(reply.send(confirm));
                }
                Err(number) => {
                    let (key, probe, held) = (keys.next(), probe.take(), (held, hold.clone()));
                    self.left.insert(number, Left { reply, destination, key, begun, probe, _held: held });
                }
            }
        }
    }

    fn answer_left(&mut self, (number, confirm): (u64, Confirm), unanswered: &mut Unanswered, terms: &LaneTerms) {
        let Some(left) = self.left.remove(&number) else { return };
        if let Some(key) = left.key {
            unanswered.over(key);
        }
        if let (Some(gate), Some(probe)) = (&terms.gate, left.probe) {
            gate.answered(probe, is_word_of_broker(&confirm));
        }
        forget_silence(terms, left.destination, &confirm);
        metrics::late_confirmed(label(terms.role), left.begun.elapsed().as_secs_f64());
        // As with those of a batch.
        drop(left.reply.send(confirm));
    }
}

/// The callers of one batch.
pub(super) struct Out {
    pub(super) replies: Vec<Caller>,
    pub(super) begun: Instant,
    /// It is one message, and others wait for what becomes of it.
    pub(super) probe: Option<Probe>,
    /// Lasts until the answers are there: a session that is replaced meanwhile stays for them.
    pub(super) hold: Hold,
}

/// The caller of a message that its batch has left behind.
struct Left {
    reply: oneshot::Sender<Confirm>,
    destination: Option<Destination>,
    key: Option<Key>,
    begun: Instant,
    probe: Option<Probe>,
    /// As with a batch.
    _held: (Held, Hold),
}

/// Where something was stored is no silence.
fn forget_silence(terms: &LaneTerms, destination: Option<Destination>, confirm: &Confirm) {
    if let (Some(silences), Some(destination), Confirm::Stored) = (&terms.silences, destination, confirm) {
        silences.forget(destination);
    }
}

/// True for an outcome that only a broker can tell that is there.
fn is_word_of_broker(confirm: &Confirm) -> bool {
    match confirm {
        Confirm::Stored | Confirm::Unroutable | Confirm::Refused | Confirm::ExchangeMissing(_) => true,
        Confirm::NotSent(error) => matches!(error, BrokerError::AccessRefused { .. }),
        Confirm::Lost | Confirm::TimedOut => false,
    }
}
