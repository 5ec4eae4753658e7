//! A confirm channel behind the port, and how it tells what became of messages.

use std::collections::HashMap;
use std::fmt;

use futures_util::future::BoxFuture;

use super::{Confirm, Publication};

/// A confirm channel, owned by one task and never shared: lapin mixes up confirms of a shared one (measured).
///
/// Batches overlap: the next one may be on its way while the one before waits for its confirms. Written in turn they would
/// leave the broker idle for a round trip after each.
pub trait Lane: fmt::Debug + Send {
    /// True while it takes another batch: when fewer than two are incomplete, and not too much was left behind.
    fn has_room(&self) -> bool;

    /// Sends a batch, in order, behind those before it. Every message must have a message id, and none that of another
    /// that is not answered yet: it is how a returned message is recognised. Only to be called while there is room; not
    /// cancel-safe.
    fn write(&mut self, batch: Vec<Publication>) -> BoxFuture<'_, ()>;

    /// Waits until something is certain, or past its deadline; may answer nothing. Only to be called while a batch or a
    /// message that was left behind is out. Cancel-safe.
    fn answers(&mut self) -> BoxFuture<'_, Answers>;

    /// False after a failure that closed the channel or left it in doubt, or where it has been used for long enough after a
    /// refusal: open another lane, once all is answered.
    fn is_open(&self) -> bool;

    /// Sends one batch and waits for its answer, with nothing else on the way.
    fn publish(&mut self, batch: Vec<Publication>) -> BoxFuture<'_, Vec<Confirm>> {
        Box::pin(async move {
            let (count, mut told) = (batch.len(), InOrder::default());
            self.write(batch).await;
            while told.known() < count {
                told.add(self.answers().await);
            }
            told.into_confirms()
        })
    }
}

/// What a lane has to tell.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Answers {
    /// Batches that hold nothing up any more, the oldest first, with what became of each message. A number = it is left
    /// behind: the broker has not confirmed it for long, and its neighbours do not wait for it. Each number is given once.
    pub batches: Vec<Vec<Result<Confirm, u64>>>,
    /// What became of messages that were left behind, by their number.
    pub left: Vec<(u64, Confirm)>,
    /// Those of them that have no confirm although the broker has answered on their channel meanwhile, or the oldest of them
    /// where it has not: their queue is silent.
    pub silent: Vec<u64>,
}

impl Answers {
    /// One batch, whole.
    pub fn of(batch: Vec<Confirm>) -> Self {
        Self { batches: vec![batch.into_iter().map(Ok).collect()], ..Self::default() }
    }

    /// True if it tells nothing.
    pub fn is_empty(&self) -> bool {
        self.batches.is_empty() && self.left.is_empty()
    }
}

/// Gathers what a lane tells of some batches that follow each other, in the order of the messages.
#[derive(Debug, Default)]
pub struct InOrder {
    confirms: Vec<Option<Confirm>>,
    /// Places of the messages that were left behind, by their number.
    left: HashMap<u64, usize>,
    known: usize,
}

impl InOrder {
    /// Adds what was told next.
    pub fn add(&mut self, answers: Answers) {
        for confirm in answers.batches.into_iter().flatten() {
            match &confirm {
                Ok(_) => self.known += 1,
                Err(number) => drop(self.left.insert(*number, self.confirms.len())),
            }
            self.confirms.push(confirm.ok());
        }
        for (number, confirm) in answers.left {
            if let Some(place) = self.left.remove(&number) {
                self.confirms[place] = Some(confirm);
                self.known += 1;
            }
        }
    }

    /// Messages of which is known what became of them.
    pub fn known(&self) -> usize {
        self.known
    }

    /// What became of them, without those of which it is not known.
    pub fn into_confirms(self) -> Vec<Confirm> {
        self.confirms.into_iter().flatten().collect()
    }
}
