//! A confirm channel behind the port, and how it tells what became of messages.

use std::fmt;

use futures_util::future::BoxFuture;

use super::{Confirm, Publication};

/// A confirm channel, owned by one task and never shared: lapin mixes up confirms of a shared one (measured).
///
/// Batches overlap: the next one may be on its way while the one before waits for its confirms. Written in turn they would
/// leave the broker idle for a round trip after each.
pub trait Lane: fmt::Debug + Send {
    /// True while it takes another batch: when fewer than two are incomplete.
    fn has_room(&self) -> bool;

    /// Sends a batch, in order, behind those before it. Every message must have a message id, and none that of another
    /// that is not answered yet: it is how a returned message is recognised. Only to be called while there is room; not
    /// cancel-safe.
    fn write(&mut self, batch: Vec<Publication>) -> BoxFuture<'_, ()>;

    /// Waits until something is certain, or past its deadline; may answer nothing. Only to be called while a batch or a
    /// message that was left behind is out. Cancel-safe.
    fn answers(&mut self) -> BoxFuture<'_, Answers>;

    /// False after a failure that closed the channel or left it in doubt: open another lane, once all is answered.
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
    /// Batches that hold nothing up any more, the oldest first, with what became of each message. `None` = it is left
    /// behind: the broker has not confirmed it for long, and its neighbours do not wait for it.
    pub batches: Vec<Vec<Option<Confirm>>>,
    /// Of messages that were left behind: the how many-th such message of this lane it is, from 0, and what became of it.
    pub left: Vec<(u64, Confirm)>,
    /// Those of them that have no confirm although the broker has answered on their channel meanwhile, or the oldest of them
    /// where it has not: their queue is silent.
    pub silent: Vec<u64>,
}

impl Answers {
    /// One batch, whole.
    pub fn of(batch: Vec<Confirm>) -> Self {
        Self { batches: vec![batch.into_iter().map(Some).collect()], ..Self::default() }
    }

    /// True if it tells nothing.
    pub fn is_empty(&self) -> bool {
        self.batches.is_empty() && self.left.is_empty()
    }
}

/// Gathers what a lane tells from its first message on, in the order of the messages.
#[derive(Debug, Default)]
pub struct InOrder {
    confirms: Vec<Option<Confirm>>,
    /// Places of the messages that were left behind, by their number.
    left: Vec<usize>,
    known: usize,
}

impl InOrder {
    /// Adds what was told next.
    pub fn add(&mut self, answers: Answers) {
        for confirm in answers.batches.into_iter().flatten() {
            match &confirm {
                Some(_) => self.known += 1,
                None => self.left.push(self.confirms.len()),
            }
            self.confirms.push(confirm);
        }
        for (number, confirm) in answers.left {
            let place = usize::try_from(number).ok().and_then(|number| self.left.get(number));
            if let Some(confirmed) = place.and_then(|place| self.confirms.get_mut(*place)) {
                *confirmed = Some(confirm);
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
