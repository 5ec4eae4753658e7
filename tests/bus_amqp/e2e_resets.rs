//! Links that are reset again and again while a publisher streams and a handler acks: nothing confirmed is lost, and no
//! confirm is wrong.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use sidebus::grpc::proto::sidebus::v1;
use tokio::sync::Notify;
use tokio::time::{Instant, timeout};

use crate::support::handler::{Handler, number};
use crate::support::nodes;
use crate::support::proxy::Proxy;
use crate::support::publisher::{Publishing, numbered};
use crate::support::scene::Scene;
use crate::support::wait::{PATIENCE, until};

/// Messages without an answer, at most, before the publisher waits.
const OUT_MAX: usize = 300;
const AT_ONCE: usize = 100;

/// What has become of the messages. Each eighth has no queue.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    /// Numbers by the sequences that have no answer yet.
    out: BTreeMap<i64, usize>,
    /// Nobody knows whether these are stored, or they are not.
    again: Vec<usize>,
    next: usize,
    pub(crate) confirmed: BTreeSet<usize>,
    pub(crate) repeated: usize,
}

fn is_routed(number: usize) -> bool {
    !number.is_multiple_of(8)
}

impl Tally {
    /// The next messages: first those that have to be sent again.
    fn messages(&mut self, last_sequence: i64, count: usize) -> Vec<v1::Message> {
        let mut numbers = std::mem::take(&mut self.again);
        self.repeated += numbers.len();
        let new = count.saturating_sub(numbers.len());
        numbers.extend(self.next..self.next + new);
        self.next += new;
        self.out.extend((last_sequence + 1..).zip(numbers.iter().copied()));
        let key = |number| format!("{}.{number}", if is_routed(number) { "player" } else { "nobody" });
        numbers.into_iter().map(|number| v1::Message { routing_key: key(number), ..numbered(number) }).collect()
    }

    /// Takes in what was answered; no confirm and no return may be another message's.
    fn take(&mut self, publishing: &mut Publishing) {
        for sequence in std::mem::take(&mut publishing.confirmed) {
            let number = self.out.remove(&sequence).expect("each is answered once");
            assert!(is_routed(number), "{number} was confirmed and has no queue");
            self.confirmed.insert(number);
        }
        for failure in std::mem::take(&mut publishing.failures) {
            let number = self.out.remove(&failure.sequence).expect("each is answered once");
            if failure.kind() == v1::PublishFailureKind::Unroutable {
                assert!(!is_routed(number), "{number} has a queue");
            } else {
                assert!(failure.retryable, "{failure:?}");
                self.again.push(number);
            }
        }
    }
}

/// What those who publish, handle and reset see of each other.
#[derive(Debug, Default)]
pub(crate) struct Play {
    /// Numbers that were confirmed and that were handled, so far.
    confirmed: Cell<usize>,
    pub(crate) handled: RefCell<BTreeSet<usize>>,
    /// No link is reset any more.
    pub(crate) is_over: Cell<bool>,
    pub(crate) has_ended: Notify,
}

impl Play {
    /// Publishes until no link is reset any more and each message has its answer.
    pub(crate) async fn publish(&self, mut publishing: Publishing) -> Tally {
        let mut tally = Tally::default();
        while !(self.is_over.get() && tally.out.is_empty() && tally.again.is_empty()) {
            let is_active = publishing.states.last() == Some(&v1::PublisherState::Active);
            if is_active && tally.out.len() + AT_ONCE <= OUT_MAX {
                let count = if self.is_over.get() { 0 } else { AT_ONCE };
                publishing.publish(tally.messages(publishing.sequence(), count)).await;
            }
            timeout(PATIENCE, publishing.take_frame()).await.expect("an answer or a state");
            tally.take(&mut publishing);
            self.confirmed.set(tally.confirmed.len());
        }
        tally
    }

    /// Acks whatever comes; answers it.
    pub(crate) async fn handle(&self, handler: &mut Handler) -> Vec<v1::Delivery> {
        let mut taken = Vec::new();
        loop {
            tokio::select! {
                () = handler.take_frame() => {}
                () = self.has_ended.notified() => return taken,
            }
            assert!(handler.ended.is_none(), "{:?}", handler.ended);
            let deliveries = handler.take_deliveries();
            handler.ack(&deliveries).await;
            self.handled.borrow_mut().extend(deliveries.iter().map(number));
            taken.extend(deliveries);
        }
    }

    /// Waits until both others are at work, from now on.
    pub(crate) async fn moves_on(&self) {
        let (confirmed, handled) = (self.confirmed.get(), self.handled.borrow().len());
        let has_moved = async || {
            // More than were out when the links went: these are of a new session.
            let is_publishing = self.confirmed.get() > confirmed + OUT_MAX;
            (is_publishing && self.handled.borrow().len() > handled).then_some(())
        };
        until("both are at work", has_moved).await;
    }

    /// Cuts every link, each time both others are at work; answers the longest time that this took.
    async fn reset(&self, proxy: &Proxy, count: usize) -> Duration {
        let mut slowest = Duration::ZERO;
        for _ in 0..count {
            let since = Instant::now();
            self.moves_on().await;
            slowest = slowest.max(since.elapsed());
            proxy.cut();
        }
        self.is_over.set(true);
        slowest
    }
}

/// failures.md L2 and L6.
#[tokio::test]
async fn over_20_resets_everything_confirmed_is_handled_and_no_confirm_is_wrong() {
    let (scene, proxy) = Scene::linked(nodes::managed().await).await;
    let queue = format!("[queues.work]\nqueue = \"{}\"\nbindings = [\"player.#\"]\n", scene.name("work"));
    let quick = "[bus.amqp.reconnect]\nmax_backoff = \"300ms\"\n";
    let mut sidecar = scene.sidecar(&[quick, &queue].concat()).await;
    let (mut handler, publishing) = (sidecar.handler().await, sidecar.publisher().await.open().await);

    let play = Play::default();
    let work = async {
        let (tally, slowest) = tokio::join!(play.publish(publishing), play.reset(&proxy, 20));
        let all = async || play.handled.borrow().is_superset(&tally.confirmed).then_some(());
        until("nothing that was confirmed is missing", all).await;
        play.has_ended.notify_one();
        (tally, slowest)
    };
    let ((tally, slowest), taken) = tokio::join!(work, play.handle(&mut handler));
    let numbers = play.handled.take();
    println!(
        "{} confirmed, {} sent again, {} handled more than once; at work again after {} ms at most",
        tally.confirmed.len(),
        tally.repeated,
        taken.len() - numbers.len(),
        slowest.as_millis()
    );
    assert!(numbers.iter().all(|number| *number < tally.next && is_routed(*number)), "nothing else has come");
    assert!(taken.iter().all(|delivery| delivery.attempt == 1), "nothing is charged");
    handler.leave_at_last().await;
    assert_eq!(sidecar.process.stop().await, Some(0));
    let left = scene.amqp().await.numbers(&scene.name("work")).await;
    assert!(left.iter().all(|number| numbers.contains(number)), "what is left was sent twice: {left:?}");
}
