//! The batches of a lane that are out, and when what became of them is certain. Knows no channel.
//!
//! A return hangs on any confirm that lapin completes with it (see [`super`]). While every message is confirmed soon it is
//! certain that a batch has all its returns once the one behind it is complete too. A message that is not confirmed for long
//! would hold up both, and with them the lane: it is left behind, and the others ask the broker for any answer on the
//! channel. Once that is there, lapin has seen all that came before it, so what was confirmed before the question has its
//! return by then.

use std::collections::{HashSet, VecDeque};
use std::time::Duration;

use futures_util::future::{BoxFuture, FutureExt as _};
use tokio::time::{Instant, sleep_until, timeout_at};

use super::batch::Batch;
use super::left::{Heard, Left};
use crate::broker::{BrokerError, Confirm};
use crate::domain::name::ExchangeName;

/// Batches on their way: a return hangs on a confirm of the same batch or of the one behind it.
const INCOMPLETE_MAX: usize = 2;

/// With more messages left behind no batch goes out. A channel of RabbitMQ that has 32 unanswered with one quorum queue
/// (`quorum_commands_soft_limit`) lets its connection read about 400 more, and then nothing of any channel.
const LEFT_MAX: usize = 16;

/// What the broker has to answer a question at least.
const SOUNDING_MIN: Duration = Duration::from_secs(1);

/// A question to the broker on the channel; false = it gives no answer.
pub(super) type Sounding = BoxFuture<'static, bool>;

/// What is certain.
#[derive(Default)]
pub(super) struct Certain {
    /// Batches, the oldest first, each to be handed to [`Out::outcomes`].
    pub(super) batches: Vec<Batch>,
    /// Messages that were left behind, by their number.
    pub(super) left: Vec<(u64, Confirm)>,
    /// Those among them whose queue is silent.
    pub(super) silent: Vec<u64>,
}

/// What is certain once a question is answered.
struct Round {
    batches: Vec<Batch>,
    heard: Vec<Heard>,
    sounding: Sounding,
    deadline: Instant,
    /// The number of the first message that these batches have left behind: nobody knows of it before they are answered.
    first_left: u64,
}

/// See the module.
#[derive(Default)]
pub(super) struct Out {
    /// Batches without an answer, oldest first.
    batches: VecDeque<Batch>,
    /// How many of them, from the oldest on, are complete.
    complete: usize,
    left: Left,
    round: Option<Round>,
    /// The last question had an answer.
    answers: bool,
    /// Ids of returned messages of which nobody was told yet.
    returned: HashSet<String>,
    /// The channel is closed or in doubt: nobody may wait for a confirm that comes after all.
    has_failed: bool,
}

impl Out {
    /// True if nothing was left behind that has no answer yet.
    pub(super) fn has_left_nobody(&self) -> bool {
        self.left.is_empty()
    }

    /// True if another batch may go out.
    pub(super) fn has_room(&self) -> bool {
        let asking = self.round.as_ref().map_or(0, |round| round.batches.len());
        asking + self.batches.len() - self.complete < INCOMPLETE_MAX && self.left.waiting() <= LEFT_MAX
    }

    pub(super) fn push(&mut self, batch: Batch) {
        self.batches.push_back(batch);
    }

    /// True once nothing more should be sent on the channel.
    pub(super) fn has_failed(&self) -> bool {
        self.has_failed
    }

    /// Ids of messages without an answer.
    pub(super) fn ids(&self) -> impl Iterator<Item = &String> {
        let asking = self.round.iter().flat_map(|round| &round.batches);
        self.batches.iter().chain(asking).flat_map(Batch::ids).chain(self.left.ids())
    }

    /// Waits until something is certain, for ever while nothing is out. `sound` begins a question. Cancel-safe.
    pub(super) async fn next(&mut self, sound: impl Fn() -> Sounding) -> Certain {
        loop {
            // Heard while a question was out that did not ask for it.
            if self.round.is_none() && self.left.has_heard() {
                return self.judge(&sound);
            }
            let known = self.known_below();
            let Self { batches, complete, left, round, returned, .. } = self;
            // While one question is out, the batches behind it wait for the next.
            let batch = if round.is_none() { batches.get_mut(*complete) } else { None };
            let over = left.deadline(known);
            tokio::select! {
                is_answered = answered(round) => return self.end_round(is_answered),
                () = complete_or_due(batch) => {}
                () = left.word(returned) => {}
                () = due(over) => {}
            }
            let certain = self.judge(&sound);
            if !certain.batches.is_empty() || !certain.left.is_empty() {
                return certain;
            }
        }
    }

    /// Messages that were left behind and have a number below this one are known to be so.
    fn known_below(&self) -> u64 {
        self.round.as_ref().map_or(u64::MAX, |round| round.first_left)
    }

    /// Takes in what has come meanwhile, whomever it speaks of.
    fn glance(&mut self) {
        self.left.glance(&mut self.returned);
        self.batches.iter_mut().for_each(Batch::glance);
        self.returned.extend(self.batches.iter_mut().flat_map(Batch::take_returned));
        self.has_failed |= self.left.has_failed();
    }

    /// True while nothing is left behind and nothing holds others up.
    fn is_well(&self) -> bool {
        self.left.is_empty() && self.batches.get(self.complete).is_none_or(Batch::is_complete)
    }

    /// What is certain now, or once a question is answered that begins with this.
    fn judge(&mut self, sound: &impl Fn() -> Sounding) -> Certain {
        if self.is_well() {
            self.returned.extend(self.batches.iter_mut().flat_map(Batch::take_returned));
        } else {
            self.glance();
        }
        let left = self.left.give_up(self.known_below(), &mut self.returned);
        let over = left.iter().filter(|(_, confirm)| *confirm == Confirm::TimedOut).map(|(number, _)| *number);
        let silent = over.take(if self.answers { usize::MAX } else { 1 }).collect();
        let mut certain = Certain { left, silent, ..Certain::default() };
        // Their ids may be used again, and returns of them may still come.
        self.has_failed |= !certain.left.is_empty();
        if self.round.is_some() {
            return certain;
        }
        let first_left = self.left.next();
        let was_well = self.left.is_empty();
        let is_split = self.complete_what_can_be();
        self.has_failed |= self.batches.iter().take(self.complete).any(Batch::has_failed);
        if was_well && !is_split {
            // A return of the newest that is complete may still hang on a confirm of the one behind it.
            let count =
                if self.complete == self.batches.len() { self.complete } else { self.complete.saturating_sub(1) };
            self.complete -= count;
            certain.batches.extend(self.batches.drain(..count));
            return certain;
        }
        let (batches, heard): (Vec<Batch>, _) = (self.batches.drain(..self.complete).collect(), self.left.take_heard());
        self.complete = 0;
        if is_split || batches.iter().any(Batch::has_word) || heard.iter().any(Heard::is_word) {
            let deadlines = batches.iter().map(Batch::deadline).chain(heard.iter().map(Heard::deadline));
            let deadline = deadlines.fold(Instant::now() + SOUNDING_MIN, Instant::max);
            self.round = Some(Round { batches, heard, sounding: begun(sound()), deadline, first_left });
        } else {
            certain.left.extend(heard.into_iter().map(|heard| heard.outcome(&mut self.returned, true)));
            certain.batches = batches;
        }
        certain
    }

    /// Counts the batches that are complete, and leaves behind what others have waited for long enough. True if it did.
    fn complete_what_can_be(&mut self) -> bool {
        let now = Instant::now();
        let mut is_split = false;
        while let Some(batch) = self.batches.get_mut(self.complete) {
            if !batch.is_complete() {
                if now < batch.patience() {
                    break;
                }
                // Whoever was not polled for long may have missed what has come.
                batch.glance();
                self.returned.extend(batch.take_returned());
                batch.leave(&mut self.left);
                is_split = true;
            }
            self.complete += 1;
        }
        is_split
    }

    fn end_round(&mut self, is_answered: bool) -> Certain {
        self.glance();
        let Some(mut round) = self.round.take() else { return Certain::default() };
        if !is_answered {
            self.has_failed = true;
            round.batches.iter_mut().for_each(Batch::doubt);
        }
        let left = round.heard.into_iter().map(|heard| heard.outcome(&mut self.returned, is_answered)).collect();
        self.answers = is_answered;
        // Where the channel itself gives no answer, RabbitMQ may be at the oldest, and has not come to the others.
        let silent = if is_answered { self.left.silent() } else { self.left.oldest().into_iter().collect() };
        Certain { batches: round.batches, left, silent }
    }

    /// What became of each message of a batch; `refused`: see [`Batch::outcomes`].
    pub(super) fn outcomes(
        &mut self,
        batch: Batch,
        refused: Option<&(ExchangeName, BrokerError)>,
    ) -> Vec<Result<Confirm, u64>> {
        batch.outcomes(&mut self.returned, refused)
    }
}

/// Begins it now: whoever takes what is certain may do something long before the next wait.
fn begun(mut sounding: Sounding) -> Sounding {
    match (&mut sounding).now_or_never() {
        Some(is_answered) => std::future::ready(is_answered).boxed(),
        None => sounding,
    }
}

/// The end of the question that is out; for ever while none is. Cancel-safe.
async fn answered(round: &mut Option<Round>) -> bool {
    match round {
        Some(round) => timeout_at(round.deadline, &mut round.sounding).await.unwrap_or(false),
        None => std::future::pending().await,
    }
}

async fn complete_or_due(batch: Option<&mut Batch>) {
    match batch {
        Some(batch) => batch.complete().await,
        None => std::future::pending().await,
    }
}

async fn due(at: Option<Instant>) {
    match at {
        Some(at) => sleep_until(at).await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests;
