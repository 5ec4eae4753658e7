//! What the cases have in common: a session with a lane, queues, messages, and consumers that are waited for with a
//! deadline. Knows no case.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt as _;

use super::Lab;
use crate::broker::{
    Arrivals, Broker, BrokerError, Confirm, ConsumeOptions, Findings, Incoming, Lane, LaneRole, Prefetch, Proof,
    Publication, Receipt, Routing, Session, SessionEvent, SessionId, Settled, Settlement, Settler,
};
use crate::domain::message::{Headers, Message, PERSISTENT, Properties, Value};
use crate::domain::name::{ExchangeName, QueueName};
use crate::domain::subscription::Binding;
use crate::domain::topology::{Exchange, ExchangeKind, Plan, Queue, Step, TopologyMode};

/// Most time for one answer of the broker.
pub(super) const PATIENCE: Duration = Duration::from_secs(30);

/// Queue types that a case runs on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Classic,
    Quorum,
}

impl Kind {
    pub(super) const BOTH: [Self; 2] = [Self::Classic, Self::Quorum];

    fn as_str(self) -> &'static str {
        match self {
            Self::Classic => "classic",
            Self::Quorum => "quorum",
        }
    }
}

/// A lab with one live session and one lane on it.
pub(super) struct Scene {
    pub(super) lab: Arc<dyn Lab>,
    pub(super) broker: Arc<dyn Broker>,
    pub(super) session: Arc<dyn Session>,
    pub(super) lane: Box<dyn Lane>,
    sessions: u64,
    published: u64,
}

impl Scene {
    pub(super) async fn open(lab: Arc<dyn Lab>) -> Self {
        let broker = lab.broker();
        let session = broker.connect(SessionId(1)).await.expect("a first session");
        let lane = session.lane(LaneRole::Publish).await.expect("a lane");
        Self { lab, broker, session, lane, sessions: 1, published: 0 }
    }

    /// Another session of the same broker, beside the scene's own.
    pub(super) async fn another_session(&mut self) -> Arc<dyn Session> {
        self.sessions += 1;
        within("a session", self.broker.connect(SessionId(self.sessions))).await.expect("a session")
    }

    /// Puts the scene on a new session with a new lane; the old session is left as it is.
    pub(super) async fn reconnect(&mut self) {
        self.session = self.another_session().await;
        self.lane = self.session.lane(LaneRole::Publish).await.expect("a lane");
    }

    /// Another lane on the same session.
    pub(super) async fn reopen_lane(&mut self) {
        self.lane = self.session.lane(LaneRole::Publish).await.expect("a lane");
    }

    /// Cuts every session, waits until the scene's own has noticed, and connects anew.
    pub(super) async fn cut(&mut self) {
        let events = self.session.events();
        self.lab.break_sessions().await;
        closed(events).await;
        self.reconnect().await;
    }

    pub(super) fn queue_name(&self, stem: &str) -> QueueName {
        QueueName::parse(&self.lab.name(stem)).expect("the lab gives sound names")
    }

    pub(super) fn exchange_name(&self, stem: &str) -> ExchangeName {
        ExchangeName::parse(&self.lab.name(stem)).expect("the lab gives sound names")
    }

    pub(super) async fn apply(&mut self, mode: TopologyMode, steps: Vec<Step>) -> Result<Findings, BrokerError> {
        within("a plan", self.session.apply(Arc::new(Plan { mode, steps }))).await
    }

    /// A durable queue of a type, with further arguments; its name ends in the type, so a case can run on both.
    pub(super) async fn queue(&mut self, stem: &str, kind: Kind, arguments: &[(&str, Value)]) -> QueueName {
        let queue = self.described(stem, kind, arguments);
        let name = queue.name.clone();
        self.apply(TopologyMode::Create, vec![Step::Queue(queue)]).await.expect("the queue is declared");
        name
    }

    /// As [`Self::queue`], not yet declared.
    pub(super) fn described(&self, stem: &str, kind: Kind, arguments: &[(&str, Value)]) -> Queue {
        let mut all = Headers::from([("x-queue-type".to_owned(), Value::text(kind.as_str()))]);
        all.extend(arguments.iter().map(|(name, value)| ((*name).to_owned(), value.clone())));
        Queue {
            name: self.queue_name(&format!("{stem}-{}", kind.as_str())),
            durable: true,
            auto_delete: false,
            exclusive: false,
            arguments: all,
            named: BTreeSet::new(),
        }
    }

    pub(super) async fn exchange(&mut self, stem: &str, kind: ExchangeKind) -> ExchangeName {
        let name = self.exchange_name(stem);
        let exchange = Exchange::durable(name.clone(), kind);
        self.apply(TopologyMode::Create, vec![Step::Exchange(exchange)]).await.expect("the exchange is declared");
        name
    }

    pub(super) async fn bind(
        &mut self,
        queue: &QueueName,
        exchange: &ExchangeName,
        key: &str,
        arguments: &[(&str, Value)],
    ) {
        let arguments = arguments.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect();
        let binding = Binding { exchange: exchange.clone(), routing_key: key.to_owned(), arguments };
        let step = Step::Bind { queue: queue.clone(), exclusive: false, binding };
        self.apply(TopologyMode::Create, vec![step]).await.expect("the queue is bound");
    }

    /// A persistent message with an id that this scene has not used before.
    pub(super) fn message(&mut self, exchange: &ExchangeName, key: &str, body: impl Into<Bytes>) -> Message {
        self.published += 1;
        let properties = Properties {
            message_id: Some(format!("m-{}", self.published)),
            delivery_mode: Some(PERSISTENT),
            ..Properties::default()
        };
        Message { exchange: exchange.clone(), routing_key: key.to_owned(), properties, body: body.into() }
    }

    /// A message for one queue by its name.
    pub(super) fn message_to(&mut self, queue: &QueueName, body: impl Into<Bytes>) -> Message {
        self.message(&ExchangeName::nameless(), queue.as_str(), body)
    }

    pub(super) async fn publish(&mut self, messages: Vec<Message>, routing: Routing) -> Vec<Confirm> {
        let batch = messages.into_iter().map(|message| Publication { message, routing }).collect();
        within("confirms", self.lane.publish(batch)).await
    }

    /// Publishes one message that a queue must take.
    pub(super) async fn send(&mut self, message: Message) {
        assert_eq!(self.publish(vec![message], Routing::Required).await, [Confirm::Stored]);
    }

    /// Puts one message with each body straight into a queue, in order.
    pub(super) async fn fill<I: IntoIterator<Item: ToString>>(&mut self, queue: &QueueName, bodies: I) {
        let messages: Vec<Message> = bodies.into_iter().map(|body| self.message_to(queue, body.to_string())).collect();
        let count = messages.len();
        assert_eq!(self.publish(messages, Routing::Required).await, vec![Confirm::Stored; count]);
    }

    /// A consumer on the scene's session.
    pub(super) async fn consume(&mut self, queue: &QueueName, prefetch: u16) -> Tap {
        Tap::on(&self.session, queue, prefetch).await
    }

    /// Asserts that a queue without consumers holds nothing: a message sent now must be the first to come.
    pub(super) async fn assert_empty(&mut self, queue: &QueueName) {
        let mut tap = self.consume(queue, 10).await;
        self.assert_nothing_else(queue, &mut tap).await;
    }

    /// Asserts that nothing waits for this consumer, which must have room: a message sent now must be the next to come.
    /// It is acked, so the check leaves nothing behind.
    pub(super) async fn assert_nothing_else(&mut self, queue: &QueueName, tap: &mut Tap) {
        let sentinel = self.message_to(queue, "sentinel");
        let id = sentinel.properties.message_id.clone();
        self.send(sentinel).await;
        let next = tap.take(1).await.remove(0);
        assert_eq!(next.message.properties.message_id, id, "{queue} held something else: {next:?}");
        assert_eq!(tap.ack(vec![next]).await, [Settled::Applied]);
    }
}

/// A consumer of the suite: both halves in one hand.
pub(super) struct Tap {
    pub(super) arrivals: Box<dyn Arrivals>,
    pub(super) settler: Box<dyn Settler>,
}

impl Tap {
    pub(super) async fn on(session: &Arc<dyn Session>, queue: &QueueName, prefetch: u16) -> Self {
        let options = ConsumeOptions { prefetch: Prefetch::new(prefetch), exclusive: false, own_connection: false };
        Self::with(session, queue, options).await
    }

    pub(super) async fn with(session: &Arc<dyn Session>, queue: &QueueName, options: ConsumeOptions) -> Self {
        let consumer = within("a consumer", session.consume(queue.clone(), options)).await;
        let (arrivals, settler) = consumer.expect("the queue can be consumed");
        Self { arrivals, settler }
    }

    /// Waits for exactly `count` deliveries, in their order.
    pub(super) async fn take(&mut self, count: usize) -> Vec<Incoming> {
        let mut taken = Vec::with_capacity(count);
        while taken.len() < count {
            let what = format!("delivery {} of {count}", taken.len() + 1);
            let batch = within(&what, self.arrivals.next_batch(count - taken.len())).await.expect("the consumer lives");
            assert!(!batch.is_empty(), "a batch has at least one delivery");
            assert!(batch.len() <= count - taken.len(), "a batch keeps to its room");
            taken.extend(batch);
        }
        taken
    }

    pub(super) async fn settle(&mut self, batch: Vec<(Receipt, Settlement)>) -> Vec<Settled> {
        // `Read`: a later step of the case may be a new session, which must not overtake the settlement.
        within("settlements", self.settler.settle(batch, Proof::Read)).await
    }

    pub(super) async fn ack(&mut self, deliveries: Vec<Incoming>) -> Vec<Settled> {
        self.settle(receipts(deliveries, Settlement::Ack)).await
    }

    pub(super) async fn give_back(&mut self, deliveries: Vec<Incoming>) -> Vec<Settled> {
        self.settle(receipts(deliveries, Settlement::GiveBack)).await
    }

    /// Waits for the end of the arrivals, throwing away what comes before.
    pub(super) async fn end(&mut self) -> BrokerError {
        loop {
            match within("the end of a consumer", self.arrivals.next_batch(100)).await {
                Ok(_) => {}
                Err(error) => return error,
            }
        }
    }
}

/// The same settlement for each of some deliveries.
pub(super) fn receipts(deliveries: Vec<Incoming>, settlement: Settlement) -> Vec<(Receipt, Settlement)> {
    deliveries.into_iter().map(|delivery| (delivery.receipt, settlement)).collect()
}

/// The bodies as text, in order.
pub(super) fn bodies(deliveries: &[Incoming]) -> Vec<String> {
    deliveries.iter().map(|delivery| body(&delivery.message)).collect()
}

/// The bodies as a set; no body may be there twice.
pub(super) fn distinct_bodies(deliveries: &[Incoming]) -> BTreeSet<String> {
    let distinct: BTreeSet<String> = bodies(deliveries).into_iter().collect();
    assert_eq!(distinct.len(), deliveries.len(), "a delivery came twice: {:?}", bodies(deliveries));
    distinct
}

/// Texts of numbers, as [`Scene::fill`] writes them.
pub(super) fn texts<I: IntoIterator<Item: ToString>>(items: I) -> Vec<String> {
    items.into_iter().map(|item| item.to_string()).collect()
}

/// A body as text.
pub(super) fn body(message: &Message) -> String {
    String::from_utf8_lossy(&message.body).into_owned()
}

/// Waits for the end of a session by its events; alarms of the broker do not matter here.
pub(super) async fn closed(mut events: futures_util::stream::BoxStream<'static, SessionEvent>) {
    loop {
        match within("the end of a session", events.next()).await {
            Some(SessionEvent::Closed(_)) => break,
            Some(SessionEvent::Blocked(_) | SessionEvent::Unblocked) => {}
            None => panic!("the events ended without Closed"),
        }
    }
    assert!(within("the end of the events", events.next()).await.is_none(), "nothing comes after Closed");
}

/// Waits for an answer, at most [`PATIENCE`].
pub(super) async fn within<T>(what: &str, answer: impl Future<Output = T>) -> T {
    let Ok(answer) = tokio::time::timeout(PATIENCE, answer).await else {
        panic!("{what} did not come within {} s", PATIENCE.as_secs())
    };
    answer
}

/// The time between two looks at something that will come true, and the end of patience.
pub(super) struct Pace {
    what: &'static str,
    // Time must pass between two looks, or paused time would stand still.
    every: tokio::time::Interval,
    end: tokio::time::Instant,
}

impl Pace {
    pub(super) fn until(what: &'static str) -> Self {
        let end = tokio::time::Instant::now() + PATIENCE;
        Self { what, every: tokio::time::interval(Duration::from_millis(20)), end }
    }

    /// Waits for the next look; panics when patience is at its end.
    pub(super) async fn again(&mut self) {
        let now = self.every.tick().await;
        assert!(now < self.end, "waited {} s until {}", PATIENCE.as_secs(), self.what);
    }
}
