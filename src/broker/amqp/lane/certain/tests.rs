//! Outcomes against a broker whose confirms come in any order, and whose returns hang on any of them.

use std::sync::{Arc, Mutex};

use futures_util::FutureExt as _;
use proptest::prelude::*;
use tokio::sync::oneshot;

use super::super::batch::Word;
use super::*;
use crate::broker::{Answers, InOrder, Publication, Routing};
use crate::domain::message::{Message, Properties};

/// A message on its way: what is right for it, and who waits for its confirm.
struct Sent {
    right: Confirm,
    /// Its queue does not answer until it is made to.
    is_mute: bool,
    waiting: Option<oneshot::Sender<Word>>,
}

/// A broker with a queue, one that is full and one that may be mute, and lapin in front of it: confirms come for several
/// messages at once and complete in any order, and each carries the oldest return that has come, whosever it is.
struct FakeBroker {
    random: fastrand::Rng,
    messages: Vec<Sent>,
    /// So many it has looked at: what is unroutable among them was returned.
    seen: usize,
    /// So many it has confirmed, but for those whose queue is mute.
    confirmed: usize,
    mute: Vec<usize>,
    /// Not attached to a confirm yet.
    returns: VecDeque<String>,
    /// Questions, answered behind all that was said before.
    soundings: Arc<Mutex<Vec<oneshot::Sender<()>>>>,
    /// They are answered at once.
    is_prompt: bool,
}

impl FakeBroker {
    fn with_seed(seed: u64) -> Self {
        let random = fastrand::Rng::with_seed(seed);
        let (messages, mute, returns) = (Vec::new(), Vec::new(), VecDeque::new());
        Self { random, messages, seen: 0, confirmed: 0, mute, returns, soundings: Arc::default(), is_prompt: false }
    }

    /// Sends a batch of so many; one in `mute_in` to the queue that may be mute, 0 = none.
    fn send(&mut self, count: usize, mute_in: usize) -> Batch {
        let (mut publications, mut calls) = (Vec::new(), Vec::new());
        for _ in 0..count {
            let id = self.messages.len().to_string();
            let properties = Properties { message_id: Some(id), ..Properties::default() };
            let exchange = ExchangeName::from_broker("events");
            let message = Message { exchange, routing_key: String::new(), properties, body: bytes::Bytes::new() };
            publications.push(Publication { message, routing: Routing::Required });
            let (confirm, call) = oneshot::channel();
            calls.push(async move { Ok(call.await.expect("the broker answers everything")) });
            let is_mute = mute_in > 0 && self.random.usize(..mute_in) == 0;
            let any = [Confirm::Stored, Confirm::Unroutable, Confirm::Refused];
            let right = if is_mute { Confirm::Stored } else { any[self.random.usize(..any.len())].clone() };
            self.messages.push(Sent { right, is_mute, waiting: Some(confirm) });
        }
        Batch::of(publications, calls)
    }

    /// Looks at some, and confirms some of what it has looked at; answers their numbers, as they complete in lapin.
    fn work(&mut self) -> Vec<usize> {
        let seen = self.random.usize(self.seen..=self.messages.len());
        let is_unroutable = |number: &usize| self.messages[*number].right == Confirm::Unroutable;
        self.returns.extend((self.seen..seen).filter(is_unroutable).map(|number| number.to_string()));
        self.seen = seen;
        let confirmed = self.random.usize(self.confirmed..=seen);
        let (mute, mut group): (Vec<usize>, Vec<usize>) =
            (self.confirmed..confirmed).partition(|number| self.messages[*number].is_mute);
        self.confirmed = confirmed;
        self.mute.extend(mute);
        if self.random.u8(..8) == 0 {
            group.append(&mut self.mute);
        }
        self.random.shuffle(&mut group);
        group
    }

    fn complete(&mut self, number: usize) {
        let Sent { right, waiting, .. } = &mut self.messages[number];
        // What is returned is acked, too.
        let confirm = if *right == Confirm::Refused { Confirm::Refused } else { Confirm::Stored };
        let word = Word { confirm, returned: self.returns.pop_front() };
        waiting.take().expect("once").send(word).ok().expect("it waits");
    }

    fn sound(&self) -> impl Fn() -> Sounding + use<> {
        let (soundings, is_prompt) = (Arc::clone(&self.soundings), self.is_prompt);
        move || {
            let (answer, answered) = oneshot::channel();
            if is_prompt {
                let _ = answer.send(());
            } else {
                soundings.lock().unwrap().push(answer);
            }
            async move { answered.await.is_ok() }.boxed()
        }
    }

    fn answer_soundings(&self) {
        let soundings = std::mem::take(&mut *self.soundings.lock().unwrap());
        for sounding in soundings {
            let _ = sounding.send(());
        }
    }

    fn is_done(&self) -> bool {
        self.confirmed == self.messages.len() && self.mute.is_empty()
    }
}

fn answers(out: &mut Out, certain: Certain) -> Answers {
    let batches = certain.batches.into_iter().map(|batch| out.outcomes(batch, None)).collect();
    Answers { batches, left: certain.left, silent: certain.silent }
}

/// Adds all that is certain now.
fn tell(out: &mut Out, broker: &FakeBroker, told: &mut InOrder) {
    // Else the runtime keeps back what it thinks is too much for one turn.
    while let Some(certain) = tokio::task::unconstrained(out.next(broker.sound())).now_or_never() {
        told.add(answers(out, certain));
    }
}

async fn next(out: &mut Out, broker: &FakeBroker) -> Answers {
    let certain = out.next(broker.sound()).await;
    answers(out, certain)
}

/// failures.md P3.
#[tokio::test(start_paused = true)]
async fn what_is_not_confirmed_holds_nothing_up_and_is_late_in_its_own_time() {
    let (mut broker, mut out, begun) = (FakeBroker::with_seed(1), Out::default(), Instant::now());
    broker.is_prompt = true;
    let mut first = 0;
    for wait in [Duration::from_secs(50), Duration::ZERO] {
        out.push(broker.send(1, 1));
        out.push(broker.send(1, 1));
        assert!(!out.has_room());
        let (batches, silent) = (vec![vec![Err(first)], vec![Err(first + 1)]], (0..first).collect());
        assert_eq!(next(&mut out, &broker).await, Answers { batches, left: vec![], silent });
        first += 2;
        assert!(out.has_room() && begun.elapsed() < Duration::from_secs(51));
        tokio::time::advance(wait).await;
    }
    let late = |first| Answers {
        left: vec![(first, Confirm::TimedOut), (first + 1, Confirm::TimedOut)],
        silent: vec![first, first + 1],
        ..Answers::default()
    };
    assert!(!out.has_failed());
    assert_eq!(next(&mut out, &broker).await, late(0));
    assert!((60..61).contains(&begun.elapsed().as_secs()) && out.has_failed(), "{:?}", begun.elapsed());
    assert_eq!(next(&mut out, &broker).await, late(2));
    assert!((110..111).contains(&begun.elapsed().as_secs()), "{:?}", begun.elapsed());
    assert_eq!(out.left.waiting(), 0);
}

/// failures.md P3: RabbitMQ would stop to read.
#[tokio::test(start_paused = true)]
async fn nothing_more_goes_out_while_too_many_are_left_behind() {
    let (mut broker, mut out) = (FakeBroker::with_seed(1), Out::default());
    broker.is_prompt = true;
    out.push(broker.send(LEFT_MAX, 1));
    next(&mut out, &broker).await;
    assert!(out.has_room());
    out.push(broker.send(1, 1));
    next(&mut out, &broker).await;
    assert!(!out.has_room());
    broker.complete(0);
    assert_eq!(next(&mut out, &broker).await.left, [(0, Confirm::Stored)]);
    assert!(out.has_room(), "one less");
    assert!(!out.has_failed());
}

/// The return of the one that was confirmed may be on its way.
#[tokio::test(start_paused = true)]
async fn where_the_broker_answers_no_question_nothing_is_called_stored_that_a_queue_must_take() {
    let (mut broker, mut out, begun) = (FakeBroker::with_seed(1), Out::default(), Instant::now());
    out.push(broker.send(2, 1));
    broker.complete(1);
    let answer = next(&mut out, &broker).await;
    assert_eq!(answer, Answers { batches: vec![vec![Err(0), Ok(Confirm::TimedOut)]], left: vec![], silent: vec![0] });
    assert!((60..61).contains(&begun.elapsed().as_secs()) && out.has_failed(), "{:?}", begun.elapsed());
    assert_eq!(next(&mut out, &broker).await.left, [(0, Confirm::TimedOut)]);
}

/// Whichever of the two is heard of first.
#[tokio::test(start_paused = true)]
async fn a_return_that_hangs_on_the_confirm_of_a_message_that_was_given_up_counts() {
    for _ in 0..32 {
        let (mut broker, mut out) = (FakeBroker::with_seed(1), Out::default());
        broker.is_prompt = true;
        out.push(broker.send(1, 1));
        assert_eq!(next(&mut out, &broker).await.batches, [[Err(0)]]);
        tokio::time::advance(Duration::from_millis(59_700)).await;
        out.push(broker.send(1, 0));
        broker.messages[1].right = Confirm::Unroutable;
        assert_eq!(next(&mut out, &broker).await.left, [(0, Confirm::TimedOut)]);
        broker.returns.push_back("1".to_owned());
        broker.complete(0);
        broker.complete(1);
        assert_eq!(next(&mut out, &broker).await.batches, [[Ok(Confirm::Unroutable)]]);
    }
}

proptest! {
    #[test]
    fn each_message_gets_its_own_outcome_whichever_confirm_carries_its_return(
        sizes in prop::collection::vec(1_usize..8, 1..40),
        mute_in in prop_oneof![Just(0_usize), 3_usize..20],
        seed in any::<u64>(),
    ) {
        let mut runtime = tokio::runtime::Builder::new_current_thread();
        let runtime = runtime.enable_time().start_paused(true).build().unwrap();
        runtime.block_on(async {
            let mut broker = FakeBroker::with_seed(seed);
            let (mut out, mut told, mut sizes) = (Out::default(), InOrder::default(), sizes.into_iter().peekable());
            // Fewer than a minute, which all have.
            let mut waits = 100;
            while sizes.peek().is_some() || !broker.is_done() {
                while out.has_room() && broker.random.bool() && let Some(size) = sizes.next() {
                    out.push(broker.send(size, mute_in));
                }
                for number in broker.work() {
                    broker.complete(number);
                    // Or what comes is heard of together.
                    if broker.random.bool() {
                        tell(&mut out, &broker, &mut told);
                    }
                    // More goes out while confirms of the same group are still on their way.
                    if out.has_room() && broker.random.bool() && let Some(size) = sizes.next() {
                        out.push(broker.send(size, mute_in));
                    }
                    if waits > 0 && broker.random.u8(..4) == 0 {
                        tokio::time::advance(Duration::from_millis(500)).await;
                        waits -= 1;
                    }
                }
                broker.answer_soundings();
                tell(&mut out, &broker, &mut told);
            }
            for _ in 0..3 {
                tokio::time::advance(Duration::from_millis(500)).await;
                tell(&mut out, &broker, &mut told);
                broker.answer_soundings();
            }
            let right: Vec<Confirm> = broker.messages.into_iter().map(|sent| sent.right).collect();
            prop_assert_eq!(told.into_confirms(), right);
            prop_assert!(!out.has_failed() && out.returned.is_empty() && out.batches.is_empty());
            prop_assert!(out.left.is_empty() && out.round.is_none());
            Ok(())
        })?;
    }
}
