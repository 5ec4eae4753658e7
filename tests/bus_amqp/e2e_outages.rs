//! Brokers that go away under many callers, that have an alarm, or that close a channel: who hears of it, and that nothing
//! confirmed is lost.

use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::time::Duration;

use futures_util::future::join_all;
use sidebus::domain::version::Version;
use sidebus::grpc::proto::sidebus::v1;
use tokio::net::TcpSocket;
use tokio::time::Instant;
use tonic::Code;

use crate::support::handler::{Handler, number};
use crate::support::nodes;
use crate::support::publisher::{Publisher, Publishing, numbered, reason};
use crate::support::rabbitmq::BrokerHandle;
use crate::support::scene::{Scene, Sidecar};
use crate::support::wait::until;

const CALLERS: usize = 64;

/// Nobody waits for a broker that is away; the rest is for a busy machine.
const REFUSED_WITHIN: Duration = Duration::from_secs(2);

/// Callers that publish one message after the other, each until it is confirmed.
#[derive(Debug)]
struct Crowd {
    next: Cell<usize>,
    confirmed: RefCell<BTreeSet<usize>>,
    /// Confirms of each caller.
    served: RefCell<Vec<usize>>,
    refusals: Cell<usize>,
    slowest_refusal: Cell<Duration>,
    is_over: Cell<bool>,
}

impl Crowd {
    /// With numbers from this one on.
    fn new(first: usize) -> Self {
        Self {
            next: Cell::new(first),
            confirmed: RefCell::default(),
            served: RefCell::new(vec![0; CALLERS]),
            refusals: Cell::new(0),
            slowest_refusal: Cell::new(Duration::ZERO),
            is_over: Cell::new(false),
        }
    }

    /// All callers at once, until it is over.
    async fn publish(&self, publisher: &Publisher) {
        join_all((0..CALLERS).map(|caller| self.call(publisher, caller))).await;
    }

    async fn call(&self, publisher: &Publisher, caller: usize) {
        while !self.is_over.get() {
            let number = self.next.replace(self.next.get() + 1);
            loop {
                let asked = Instant::now();
                let Err(status) = publisher.publish(vec![numbered(number)]).await else { break };
                let (code, reason) = reason(&status);
                assert!(code == Code::Unavailable && ["BROKER_UNAVAILABLE", "CONFIRM_LOST"].contains(&reason.as_str()));
                self.refusals.set(self.refusals.get() + 1);
                self.slowest_refusal.set(self.slowest_refusal.get().max(asked.elapsed()));
            }
            self.confirmed.borrow_mut().insert(number);
            self.served.borrow_mut()[caller] += 1;
        }
    }

    /// Waits until each of them has been served, from now on.
    async fn all_are_served(&self) {
        let before = self.served.borrow().clone();
        let look = async || self.served.borrow().iter().zip(&before).all(|(now, then)| now > then).then_some(());
        until("every caller is served", look).await;
    }
}

/// The handler has held 50 of these since before the fault: it handles them and everything else that was confirmed.
async fn handles_all(handler: &mut Handler, crowd: &Crowd) {
    let confirmed: BTreeSet<usize> = crowd.confirmed.borrow().iter().copied().chain(0..50).collect();
    handler.take_deliveries();
    let taken = handler.handle_all(confirmed).await;
    assert!(taken.iter().all(|delivery| delivery.attempt == 1), "nothing is charged");
}

/// Nobody waited for a refusal, and everything confirmed is handled.
async fn ends_well(mut sidecar: Sidecar, mut handler: Handler, crowd: &Crowd) {
    assert!(crowd.slowest_refusal.get() < REFUSED_WITHIN, "{:?}", crowd.slowest_refusal.get());

    handler.until("what it held is revoked", |handler| !handler.revocations.is_empty()).await;
    handles_all(&mut handler, crowd).await;
    handler.leave_at_last().await;
    assert_eq!(sidecar.process.stop().await, Some(0));
}

/// failures.md L6.
#[tokio::test]
async fn when_the_broker_closes_every_connection_streams_stay_and_everything_confirmed_is_handled() {
    let node = nodes::mortal().await;
    let scene = Scene::on(node.url(("guest", "guest"), "/"));
    let sidecar = scene.sidecar(&scene.work("")).await;
    let (mut handler, publisher) = (sidecar.handler().await, sidecar.publisher().await);
    publisher.publish_numbers(0..50).await;
    handler.deliveries(50).await;

    let crowd = Crowd::new(50);
    let closing = async {
        for _ in 0..3 {
            crowd.all_are_served().await;
            node.ctl(&["close_all_connections", "maintenance"]).await;
        }
        crowd.all_are_served().await;
        crowd.is_over.set(true);
    };
    tokio::join!(crowd.publish(&publisher), closing);
    ends_well(sidecar, handler, &crowd).await;
}

/// failures.md P9.
#[tokio::test]
async fn each_of_64_callers_hears_at_once_that_the_broker_is_away_and_is_served_once_it_is_back() {
    let node = nodes::managed().await;
    let (scene, proxy) = Scene::linked(node).await;
    let sidecar = scene.sidecar(&scene.work("")).await;
    let (mut handler, publisher) = (sidecar.handler().await, sidecar.publisher().await);
    publisher.publish_numbers(0..50).await;
    handler.deliveries(50).await;

    let crowd = Crowd::new(50);
    let outage = async {
        crowd.all_are_served().await;
        // Bound and not listening, so that nobody else listens there meanwhile.
        let nobody = TcpSocket::new_v4().expect("a socket");
        nobody.bind("127.0.0.1:0".parse().expect("an address")).expect("a port");
        proxy.lead_to(nobody.local_addr().expect("a bound port").port());
        proxy.cut();
        let enough = async || (crowd.refusals.get() > 20 * CALLERS).then_some(());
        until("callers go on asking", enough).await;
        proxy.lead_to(node.port);
        crowd.all_are_served().await;
        crowd.is_over.set(true);
    };
    tokio::join!(crowd.publish(&publisher), outage);
    ends_well(sidecar, handler, &crowd).await;
}

/// Sets an alarm and makes the broker block the publishing connection, which it does with the next publish; that one has no
/// answer in time.
async fn block(node: &BrokerHandle, alarm: [&str; 2], publisher: &Publisher, number: usize) {
    node.ctl(&alarm).await;
    let unanswered = publisher.publish(vec![numbered(number)]).await.expect_err("the broker does not read it");
    assert_eq!(reason(&unanswered).1, "CONFIRM_TIMEOUT");
}

/// failures.md L7.
#[tokio::test]
async fn during_an_alarm_publishes_are_refused_at_once_acks_go_on_and_a_stop_ends_in_time() {
    let node = BrokerHandle::start().await;
    let scene = Scene::on(node.url(("guest", "guest"), "/"));
    let quick = "[bus.amqp.publish]\nconfirm_timeout = \"2s\"\n";
    let mut sidecar = scene.sidecar(&[quick, &scene.work("")].concat()).await;
    let (mut handler, publisher) = (sidecar.handler().await, sidecar.publisher().await);
    let mut publishing = publisher.open().await;
    publisher.publish_numbers(0..50).await;
    let held = handler.deliveries(50).await;
    block(&node, ["set_vm_memory_high_watermark", "0"], &publisher, 50).await;
    publishing.until("the alarm is told", |it| it.states.last() == Some(&v1::PublisherState::Blocked)).await;

    let asked = Instant::now();
    let refused = publisher.publish(vec![numbered(51)]).await.expect_err("the broker takes no publishes");
    assert_eq!(reason(&refused), (Code::Unavailable, "BROKER_BLOCKED".to_owned()));
    assert!(refused.message().contains("memory"), "{}", refused.message());
    publishing.publish((52..62).map(numbered)).await;
    publishing.until("its items are answered", Publishing::is_answered).await;
    assert!(asked.elapsed() < REFUSED_WITHIN, "{:?}", asked.elapsed());
    let is_refused = |failure: &v1::PublishFailure| failure.kind() == v1::PublishFailureKind::Blocked;
    assert!(publishing.confirmed.is_empty() && publishing.failures.iter().all(is_refused), "{:?}", publishing.failures);
    handler.ack(&held).await;
    let queues = async || node.ctl(&["list_queues", "name", "messages"]).await;
    let is_empty = async || queues().await.contains(&format!("{}\t0", scene.name("work"))).then_some(());
    until("the acks have reached the queue", is_empty).await;

    node.ctl(&["set_vm_memory_high_watermark", "0.4"]).await;
    publishing.until("the alarm is over", |it| it.states.last() == Some(&v1::PublisherState::Active)).await;
    publisher.publish_numbers(62..72).await;
    publishing.publish((72..82).map(numbered)).await;
    publishing.until("each has an answer", Publishing::is_answered).await;
    handler.handle_all((62..82).collect()).await;

    // More than any disk has.
    block(&node, ["set_disk_free_limit", "1000000GB"], &publisher, 82).await;
    let refused = publisher.publish(vec![numbered(83)]).await.expect_err("the broker takes no publishes");
    assert_eq!(reason(&refused), (Code::Unavailable, "BROKER_BLOCKED".to_owned()));
    assert!(refused.message().contains("disk"), "{}", refused.message());
    let asked = Instant::now();
    assert_eq!(sidecar.process.stop().await, Some(0));
    println!("ended after {:?}", asked.elapsed());
    assert!(asked.elapsed() < Duration::from_secs(25 + 2), "{:?}", asked.elapsed());
}

/// failures.md L5 and L8. Before 4.3 the channel is closed; from 4.3 on classic queues know no such time (4.3.6), and a quorum
/// queue takes its deliveries back and cancels that consumer alone.
#[tokio::test]
async fn a_channel_that_the_broker_closes_for_late_acks_costs_its_own_deliveries_alone() {
    let node = BrokerHandle::start_set("consumer_timeout = 6000\n").await;
    // Otherwise it looks once a minute.
    node.ctl(&["eval", "application:set_env(rabbit, channel_tick_interval, 500)."]).await;
    let version = Version::parse(node.ctl(&["version"]).await.trim()).expect("a version");
    let is_cancelled = version >= Version::parse("4.3.0").expect("a version");
    let (queue_type, told_error) =
        if is_cancelled { ("quorum", "cancelled the consumer") } else { ("classic", "timed out") };
    let scene = Scene::on(node.url(("guest", "guest"), "/"));
    let queue = |name: &str, key: &str| {
        let queue = scene.name(name);
        format!("[queues.{name}]\nqueue = {queue:?}\nqueue_type = {queue_type:?}\nbindings = [{key:?}]\n")
    };
    let mut sidecar = scene.sidecar(&[queue("work", "player.#"), queue("other", "other.#")].concat()).await;
    let mut handler = sidecar.handler().await;
    let mut other = Handler::open(sidecar.channel().await, Handler::of("other")).await;
    other.state(v1::SubscriptionState::Active, 0).await;
    let told = other.statuses.len();
    sidecar.publisher().await.publish_numbers(0..3).await;
    let held = handler.deliveries(3).await;

    let line = sidecar.process.logged("not consuming, trying again").await;
    assert_eq!(line["subscription"], "work");
    assert!(line["error"].as_str().is_some_and(|error| error.contains(told_error)), "{line}");
    let again = handler.deliveries(3).await;
    handler.ack(&again).await;
    let revoked = |handler: &Handler| -> BTreeSet<i64> {
        let broker_lost = i32::from(v1::RevocationReason::BrokerLost);
        let lost = handler.revocations.iter().filter(|revocation| revocation.reason == broker_lost);
        lost.flat_map(|revocation| revocation.delivery_ids.iter().copied()).collect()
    };
    assert_eq!(revoked(&handler), held.iter().map(|delivery| delivery.id).collect());
    assert!(again.iter().map(number).collect::<BTreeSet<_>>().into_iter().eq(0..3));
    assert!(again.iter().all(|delivery| delivery.attempt == 1), "nothing is charged");

    let message = v1::Message { routing_key: "other.A".to_owned(), ..numbered(3) };
    sidecar.publisher().await.publish(vec![message]).await.expect("confirmed");
    let neighbour = other.deliveries(1).await;
    other.ack(&neighbour).await;
    assert!(other.revocations.is_empty() && other.statuses.len() == told, "{:?}", other.statuses);
    handler.leave().await;
    other.leave().await;
    ended_empty(sidecar, &scene).await;
}

async fn ended_empty(mut sidecar: Sidecar, scene: &Scene) {
    assert_eq!(sidecar.process.stop().await, Some(0));
    for queue in ["work", "other"] {
        scene.amqp().await.wait_for_depth(&scene.name(queue), 0).await;
    }
}
