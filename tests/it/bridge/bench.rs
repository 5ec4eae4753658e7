//! A running bridge on the embedded broker, with paused time and every accident at hand.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use sidebus::bridge::{
    AttachRequest, Attached, Bridge, BridgeSettings, Frame, FrameLimits, Handout, PublishLimits, Results, Said,
    StreamEnd, SubscriptionState,
};
use sidebus::broker::memory::{MemoryBroker, MemoryOptions};
use sidebus::broker::{Broker, Confirm, Publication, Routing, SessionId};
use sidebus::domain::delivery_id::DeliveryIds;
use sidebus::domain::ledger::DeliveryId;
use sidebus::domain::message::{Headers, Message, Properties};
use sidebus::domain::name::{ExchangeName, QueueName, SubscriptionName};
use sidebus::domain::subscription::{
    Binding, DeadLetterSettings, DeliverySettings, QueueSettings, RetrySettings, Subscription,
};
use sidebus::domain::topology::{self, Exchange, ExchangeKind, Plan, Step, TopologyMode};
use sidebus::domain::verdict::Verdict;
use sidebus::runtime::{Phases, Tasks, unix_ms};

/// Every wait of a test ends here, on the paused clock.
const DEADLINE: Duration = Duration::from_mins(2);
/// Looks at a condition, and how often, on the paused clock.
const POLL: Duration = Duration::from_millis(10);
const POLLS_MAX: usize = 2_000;

pub(super) struct Bench {
    pub(super) broker: MemoryBroker,
    pub(super) bridge: Bridge,
    pub(super) phases: Phases,
    pub(super) tasks: Tasks,
}

pub(super) fn queue(name: &str) -> QueueName {
    QueueName::parse(name).unwrap()
}

pub(super) fn dead_letter() -> DeadLetterSettings {
    DeadLetterSettings::shared(ExchangeName::parse("dlx").unwrap(), queue("dlq"))
}

pub(super) fn subscription(name: &str, pattern: &str) -> Subscription {
    Subscription {
        name: SubscriptionName::parse(name).unwrap(),
        queue: QueueSettings {
            name: queue(name),
            queue_type: None,
            durable: None,
            auto_delete: None,
            exclusive: None,
            arguments: Headers::new(),
        },
        exchange: ExchangeName::parse("events").unwrap(),
        bindings: vec![Binding {
            exchange: ExchangeName::parse("events").unwrap(),
            routing_key: pattern.to_owned(),
            arguments: Headers::new(),
        }],
        delivery: DeliverySettings::default(),
        unbind: Vec::new(),
        retry: RetrySettings { max_attempts: 3, ..RetrySettings::default() },
        dead_letter: dead_letter(),
    }
}

/// A broker where nobody has been before.
pub(super) fn broker() -> MemoryBroker {
    MemoryBroker::new(MemoryOptions { bytes_max: 1 << 20 })
}

/// A broker where somebody else has made these already.
pub(super) async fn broker_with(steps: Vec<Step>) -> MemoryBroker {
    let broker = broker();
    let session = broker.connect(SessionId(1)).await.unwrap();
    session.apply(Arc::new(Plan { mode: TopologyMode::Create, steps })).await.unwrap();
    broker
}

/// The wall clock of a test goes with the paused one.
fn now_ms() -> u64 {
    thread_local! {
        static BEGUN: (tokio::time::Instant, u64) = (tokio::time::Instant::now(), unix_ms());
    }
    BEGUN.with(|(begun, at)| at + u64::try_from(begun.elapsed().as_millis()).unwrap())
}

impl Bench {
    /// A bridge with the subscription `work`, bound to everything.
    pub(super) fn start() -> Self {
        Self::on(broker())
    }

    /// As `start`, on a broker that may have seen another bridge before.
    pub(super) fn on(broker: MemoryBroker) -> Self {
        Self::with(broker, vec![subscription("work", "#")], &[])
    }

    /// As `on`, with these subscriptions, and exchanges beside that of events.
    pub(super) fn with(broker: MemoryBroker, subscriptions: Vec<Subscription>, others: &[Exchange]) -> Self {
        Self::through(Arc::new(broker.clone()), broker, (subscriptions, others))
    }

    /// As `with`, where the bridge knows this broker through something that stands before it.
    pub(super) fn through(
        before: Arc<dyn Broker>,
        broker: MemoryBroker,
        (subscriptions, others): (Vec<Subscription>, &[Exchange]),
    ) -> Self {
        let (tasks, phases) = (Tasks::default(), Phases::default());
        let events = Exchange::durable(ExchangeName::parse("events").unwrap(), ExchangeKind::Topic);
        let settings = BridgeSettings {
            ids: Arc::new(Mutex::new(DeliveryIds::begin(unix_ms(), None).unwrap())),
            broker: before,
            shared: topology::shared(TopologyMode::Create, events, others, &dead_letter()),
            topology: TopologyMode::Create,
            namespace: "sidebus".to_owned(),
            by: "test 0".to_owned(),
            now_ms,
            subscriptions,
            reconnect: (Duration::from_millis(200), Duration::from_secs(10)),
            close_within: Duration::from_secs(2),
            drain_grace: Duration::from_secs(18),
            publish: PublishLimits { lanes: 2, batch_max: 16, in_flight_max: 1_000, in_flight_kib_max: 1_000 },
        };
        let bridge = Bridge::start(settings, &tasks, &phases.watch());
        Self { broker, bridge, phases, tasks }
    }

    pub(super) async fn connected(&self) {
        until("a session", || self.bridge.link.live().is_some()).await;
    }

    /// Publishes until it is stored: the session may be young.
    pub(super) async fn publish(&self, ids: &[&str]) {
        for id in ids {
            let mut confirm = Confirm::Lost;
            for _ in 0..100 {
                confirm = self.try_publish(id).await;
                if confirm == Confirm::Stored {
                    break;
                }
                tokio::time::advance(Duration::from_millis(100)).await;
            }
            assert_eq!(confirm, Confirm::Stored);
        }
    }

    pub(super) async fn try_publish(&self, id: &str) -> Confirm {
        let message = Message {
            exchange: ExchangeName::parse("events").unwrap(),
            routing_key: "player.PlayerRegistered".to_owned(),
            properties: Properties { message_id: Some(id.to_owned()), ..Properties::default() },
            body: Bytes::copy_from_slice(id.as_bytes()),
        };
        let publication = Publication { message, routing: Routing::Required };
        self.bridge.publisher.publish(vec![publication]).await.unwrap().remove(0)
    }

    pub(super) async fn join(&self, window: u32) -> Handler {
        self.join_as("work", window).await
    }

    pub(super) async fn join_as(&self, subscription: &str, window: u32) -> Handler {
        self.join_narrow(subscription, (window, 4 << 20)).await
    }

    /// With frames of so many bytes at most.
    pub(super) async fn join_narrow(&self, subscription: &str, (window, frame_bytes_max): (u32, u64)) -> Handler {
        let request = AttachRequest {
            handler: "h".to_owned(),
            messages_max: Some(window),
            bytes_max: 1 << 20,
            settle_timeout: None,
            frame_bytes_max,
            results: Results::All,
        };
        let name = SubscriptionName::parse(subscription).unwrap();
        let attached = self.bridge.registry.attach(&name, request).await.unwrap();
        Handler { attached, state: None, inbox: Vec::new() }
    }

    /// Ready and unsettled messages of a queue, once they are these.
    pub(super) async fn depth_becomes(&self, name: &str, ready: usize, unacked: usize) {
        let faults = self.broker.faults();
        let depth = || faults.depth(&queue(name)).map(|depth| (depth.ready, depth.unacked));
        let mut clock = tokio::time::interval(POLL);
        for _ in 0..POLLS_MAX {
            clock.tick().await;
            if depth() == Some((ready, unacked)) {
                return;
            }
        }
        panic!("queue {name} has {:?} (ready, unacked) and not {:?}", depth(), (ready, unacked));
    }
}

/// Lets time go by, on the paused clock, step by step so that everybody acts in time.
pub(super) async fn pass(time: Duration) {
    let step = Duration::from_millis(50);
    let mut clock = tokio::time::interval(step);
    for _ in 0..time.as_millis() / step.as_millis() {
        clock.tick().await;
    }
}

/// Polls on the paused clock.
pub(super) async fn until(what: &str, condition: impl Fn() -> bool) {
    let mut clock = tokio::time::interval(POLL);
    for _ in 0..POLLS_MAX {
        clock.tick().await;
        if condition() {
            return;
        }
    }
    panic!("waited in vain for {what}");
}

pub(super) struct Handler {
    pub(super) attached: Attached,
    pub(super) state: Option<SubscriptionState>,
    /// Deliveries that came while something else was looked for.
    inbox: Vec<Handout>,
}

impl Handler {
    /// True if nothing was delivered that `receive` has not taken.
    pub(super) fn has_nothing_more(&self) -> bool {
        self.inbox.is_empty()
    }

    /// The next frame, or how the stream ended.
    pub(super) async fn next(&mut self) -> Result<Frame, StreamEnd> {
        let limits = FrameLimits { messages_max: 64, bytes_max: 1 << 20, linger: Duration::ZERO };
        let next = tokio::time::timeout(DEADLINE, self.attached.outbox.next(limits));
        let mut frame = next.await.expect("a frame or an end in time")?;
        if let Some(status) = &frame.status {
            self.state = Some(status.state);
        }
        self.inbox.append(&mut frame.deliveries);
        Ok(frame)
    }

    /// The deliveries that have come.
    pub(super) fn take(&mut self) -> Vec<Handout> {
        std::mem::take(&mut self.inbox)
    }

    /// Waits for so many deliveries, over frames.
    pub(super) async fn receive(&mut self, count: usize) -> Vec<Handout> {
        while self.inbox.len() < count {
            self.next().await.expect("the stream goes on");
        }
        assert_eq!(self.inbox.len(), count, "no more than asked for");
        std::mem::take(&mut self.inbox)
    }

    /// Waits for a frame with something that this finds.
    pub(super) async fn find<T>(&mut self, mut find: impl FnMut(&Frame) -> Option<T>) -> T {
        loop {
            if let Some(found) = find(&self.next().await.expect("the stream goes on")) {
                return found;
            }
        }
    }

    pub(super) async fn say(&self, ids: &[DeliveryId], verdict: Verdict) {
        let said = Said { verdicts: vec![(ids.to_vec(), Ok(verdict))], ..Said::default() };
        assert!(self.attached.voice.say(said).await);
    }

    pub(super) async fn ack(&self, ids: &[DeliveryId]) {
        self.say(ids, Verdict::Ack).await;
    }
}

pub(super) fn ids(handouts: &[Handout]) -> Vec<DeliveryId> {
    handouts.iter().map(|handout| handout.id).collect()
}

pub(super) fn bodies(handouts: &[Handout]) -> Vec<String> {
    handouts.iter().map(|handout| String::from_utf8_lossy(&handout.seen.message.body).into_owned()).collect()
}
