//! The batches of a lane that are out, and when what became of them is certain. Knows no channel.

use std::collections::{HashSet, VecDeque};
use std::time::Duration;

use tokio::time::Instant;

use super::batch::Batch;
use crate::broker::{BrokerError, Confirm};
use crate::domain::name::ExchangeName;

/// Batches on their way. With three a return could hang on a confirm of a batch that nobody waits for.
const INCOMPLETE_MAX: usize = 2;

/// What a batch that is out gets once the one before it is late. Nothing more is sent on the channel, and a return that hangs on
/// a confirm of the late one may never come: what it says of a message that a queue must take is not certain, however long it is
/// waited for.
const BEHIND_LATE: Duration = Duration::from_secs(1);

/// See the module.
#[derive(Default)]
pub(super) struct Out {
    /// Batches without an answer, oldest first.
    batches: VecDeque<Batch>,
    /// How many of them, from the oldest on, are complete.
    complete: usize,
    /// Ids of returned messages whose batch has no answer yet.
    returned: HashSet<String>,
    /// One has failed: it may have left confirms behind.
    has_failed: bool,
    /// A batch was answered whose confirms nobody waits for any more.
    is_behind_late: bool,
}

impl Out {
    /// True if another batch may go out.
    pub(super) fn has_room(&self) -> bool {
        self.batches.len() - self.complete < INCOMPLETE_MAX
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
        self.batches.iter().flat_map(Batch::ids)
    }

    /// Waits until another batch is complete, for ever while none is out; answers those, oldest first, of which all is known
    /// then. None may be. Each is to be handed to [`Self::outcomes`] in this order. Cancel-safe.
    pub(super) async fn next(&mut self) -> Vec<Batch> {
        let Some(batch) = self.batches.get_mut(self.complete) else { return std::future::pending().await };
        batch.complete().await;
        self.complete += 1;
        self.has_failed |= batch.has_failed();
        if batch.is_late() {
            let soon = Instant::now() + BEHIND_LATE;
            self.batches.iter_mut().skip(self.complete).for_each(|behind| behind.hurry(soon));
        }
        for batch in self.batches.iter_mut().take(self.complete) {
            // A return that hangs on a confirm which came too late for its batch counts all the same.
            batch.glance();
            self.returned.extend(batch.take_returned());
        }
        // A return of the newest that is complete may still hang on a confirm of the one behind it.
        let certain = if self.complete == self.batches.len() { self.complete } else { self.complete - 1 };
        self.complete -= certain;
        self.batches.drain(..certain).collect()
    }

    /// What became of each message of a batch; `refused`: see [`Batch::outcomes`].
    pub(super) fn outcomes(&mut self, batch: Batch, refused: Option<&(ExchangeName, BrokerError)>) -> Vec<Confirm> {
        let is_behind_late = self.is_behind_late;
        self.is_behind_late |= batch.is_late();
        batch.outcomes(&mut self.returned, refused, is_behind_late)
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;
    use proptest::prelude::*;
    use tokio::sync::oneshot;

    use super::super::batch::Word;
    use super::*;
    use crate::broker::{Publication, Routing};
    use crate::domain::message::{Message, Properties};

    /// A broker with one queue and one that is full, and lapin in front of it: confirms come for several messages at once and
    /// complete in any order, and each carries the oldest return that has come, whosever it is.
    struct FakeBroker {
        random: fastrand::Rng,
        /// What is right for each message, and who waits for its confirm.
        messages: Vec<(Confirm, Option<oneshot::Sender<Word>>)>,
        /// So many it has looked at: what is unroutable among them was returned.
        seen: usize,
        /// So many it has confirmed.
        confirmed: usize,
        /// Not attached to a confirm yet.
        returns: VecDeque<String>,
    }

    impl FakeBroker {
        /// Sends a batch of so many.
        fn send(&mut self, count: usize) -> Batch {
            let (mut publications, mut calls) = (Vec::new(), Vec::new());
            for _ in 0..count {
                let id = self.messages.len().to_string();
                let properties = Properties { message_id: Some(id), ..Properties::default() };
                let exchange = ExchangeName::from_broker("events");
                let message = Message { exchange, routing_key: String::new(), properties, body: bytes::Bytes::new() };
                publications.push(Publication { message, routing: Routing::Required });
                let (confirm, call) = oneshot::channel();
                calls.push(async move { Ok(call.await.expect("the broker answers everything")) });
                let right = [Confirm::Stored, Confirm::Unroutable, Confirm::Refused];
                self.messages.push((right[self.random.usize(..right.len())].clone(), Some(confirm)));
            }
            Batch::of(publications, calls)
        }

        /// Looks at some, and confirms some of what it has looked at; answers their numbers, as they complete in lapin.
        fn work(&mut self) -> Vec<usize> {
            let seen = self.random.usize(self.seen..=self.messages.len());
            let is_unroutable = |number: &usize| self.messages[*number].0 == Confirm::Unroutable;
            self.returns.extend((self.seen..seen).filter(is_unroutable).map(|number| number.to_string()));
            self.seen = seen;
            let confirmed = self.random.usize(self.confirmed..=seen);
            let mut group: Vec<usize> = (self.confirmed..confirmed).collect();
            self.confirmed = confirmed;
            self.random.shuffle(&mut group);
            group
        }

        fn complete(&mut self, number: usize) {
            let (right, waiting) = &mut self.messages[number];
            // What is returned is acked, too.
            let confirm = if *right == Confirm::Refused { Confirm::Refused } else { Confirm::Stored };
            let word = Word { confirm, returned: self.returns.pop_front() };
            waiting.take().expect("once").send(word).ok().expect("it waits");
        }
    }

    /// All outcomes that are certain now.
    fn told(out: &mut Out) -> Vec<Confirm> {
        let mut told = Vec::new();
        // Else the runtime keeps back what it thinks is too much for one turn.
        while let Some(certain) = tokio::task::unconstrained(out.next()).now_or_never() {
            if certain.is_empty() && out.complete == out.batches.len() {
                break;
            }
            for batch in certain {
                told.extend(out.outcomes(batch, None));
            }
        }
        told
    }

    impl FakeBroker {
        fn with_seed(seed: u64) -> Self {
            let random = fastrand::Rng::with_seed(seed);
            Self { random, messages: Vec::new(), seen: 0, confirmed: 0, returns: VecDeque::new() }
        }
    }

    /// failures.md L3.
    #[tokio::test(start_paused = true)]
    async fn what_is_out_behind_a_late_batch_is_late_a_second_after_it() {
        let (mut broker, mut out, begun) = (FakeBroker::with_seed(1), Out::default(), Instant::now());
        out.push(broker.send(1));
        tokio::time::advance(Duration::from_secs(59)).await;
        out.push(broker.send(1));
        let mut told = Vec::new();
        while told.len() < 2 {
            for batch in out.next().await {
                told.extend(out.outcomes(batch, None));
            }
        }
        assert_eq!(told, [Confirm::TimedOut, Confirm::TimedOut]);
        let waited = begun.elapsed();
        let expected = Duration::from_mins(1) + BEHIND_LATE;
        assert!((expected..expected + Duration::from_millis(100)).contains(&waited), "{waited:?}");
    }

    proptest! {
        #[test]
        fn each_message_gets_its_own_outcome_whichever_confirm_carries_its_return(
            sizes in prop::collection::vec(1_usize..8, 1..40),
            seed in any::<u64>(),
        ) {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
            runtime.block_on(async {
                let mut broker = FakeBroker::with_seed(seed);
                let (mut out, mut told_so_far, mut sizes) = (Out::default(), Vec::new(), sizes.into_iter().peekable());
                while sizes.peek().is_some() || broker.confirmed < broker.messages.len() {
                    while out.has_room() && broker.random.bool() && let Some(size) = sizes.next() {
                        out.push(broker.send(size));
                    }
                    for number in broker.work() {
                        broker.complete(number);
                        told_so_far.extend(told(&mut out));
                        // More goes out while confirms of the same group are still on their way.
                        if out.has_room() && broker.random.bool() && let Some(size) = sizes.next() {
                            out.push(broker.send(size));
                        }
                    }
                }
                told_so_far.extend(told(&mut out));
                let right: Vec<Confirm> = broker.messages.into_iter().map(|(right, _)| right).collect();
                prop_assert_eq!(told_so_far, right);
                prop_assert!(!out.has_failed() && out.returned.is_empty() && out.batches.is_empty());
                Ok(())
            })?;
        }
    }
}
