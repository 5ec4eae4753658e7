//! Where the RabbitMQ backend is tried: names of its own, a link of its own that can be cut.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::{BoxFuture, FutureExt};
use sidebus::broker::amqp::{AmqpBroker, AmqpOptions, Node};
use sidebus::broker::conformance::Lab;
use sidebus::broker::{Broker, Incoming, Publication, Routing, Session, SessionId};
use sidebus::domain::message::{Message, PERSISTENT, Properties, Value};
use sidebus::domain::name::{ExchangeName, QueueName};
use sidebus::domain::topology::{Plan, Queue, Step, TopologyMode};

use crate::support::proxy::Proxy;
use crate::support::rabbitmq::{self, SharedBroker};

/// No step of a test needs as long; a hang fails with it.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// A lab on the shared broker.
#[derive(Debug)]
pub(crate) struct RabbitLab {
    shared: &'static SharedBroker,
    pub(crate) proxy: Proxy,
    broker: Arc<AmqpBroker>,
    prefix: String,
}

impl RabbitLab {
    pub(crate) async fn new() -> Self {
        let shared = rabbitmq::shared().await;
        let proxy = Proxy::to(&shared.host, shared.port).await;
        let nodes = vec![Node { host: "127.0.0.1".to_owned(), port: proxy.port }];
        let options = AmqpOptions { nodes, ..shared.options() };
        Self { shared, proxy, broker: Arc::new(AmqpBroker::new(options)), prefix: rabbitmq::prefix() }
    }

    /// A session on this lab's link.
    pub(crate) async fn session(&self) -> Arc<dyn Session> {
        self.broker.connect(SessionId(1)).await.expect("a session")
    }

    pub(crate) fn queue(&self, stem: &str) -> QueueName {
        QueueName::parse(&self.name(stem)).expect("a good name")
    }
}

impl Lab for RabbitLab {
    fn broker(&self) -> Arc<dyn Broker> {
        Arc::clone(&self.broker) as Arc<dyn Broker>
    }

    fn name(&self, stem: &str) -> String {
        format!("{}-{stem}", self.prefix)
    }

    fn break_sessions(&self) -> BoxFuture<'_, ()> {
        async { self.proxy.cut() }.boxed()
    }

    fn delete_queue(&self, queue: &QueueName) -> BoxFuture<'_, ()> {
        let queue = queue.as_str().to_owned();
        async move {
            let connection = self.shared.lapin().await;
            let channel = connection.create_channel().await.expect("a channel");
            let options = lapin::options::QueueDeleteOptions { if_unused: false, if_empty: false, nowait: false };
            channel.queue_delete(queue.as_str().into(), options).await.expect("the queue goes");
        }
        .boxed()
    }
}

/// A durable queue without any argument.
pub(crate) async fn declare(session: &dyn Session, queue: &QueueName) {
    declare_with(session, queue, []).await;
}

/// The same with arguments.
pub(crate) async fn declare_with<const N: usize>(
    session: &dyn Session,
    queue: &QueueName,
    arguments: [(&str, Value); N],
) {
    let arguments = arguments.into_iter().map(|(key, value)| (key.to_owned(), value)).collect();
    let queue = Queue {
        name: queue.clone(),
        durable: true,
        auto_delete: false,
        exclusive: false,
        arguments,
        named: std::collections::BTreeSet::new(),
    };
    let plan = Plan { mode: TopologyMode::Create, steps: vec![Step::Queue(queue)] };
    session.apply(Arc::new(plan)).await.expect("the queue is declared");
}

/// A message for a queue through the nameless exchange.
pub(crate) fn to_queue(queue: &str, id: u64) -> Publication {
    let properties =
        Properties { message_id: Some(id.to_string()), delivery_mode: Some(PERSISTENT), ..Properties::default() };
    let message = Message {
        exchange: ExchangeName::nameless(),
        routing_key: queue.to_owned(),
        properties,
        body: Bytes::from(id.to_string()),
    };
    Publication { message, routing: Routing::Required }
}

/// The number that [`to_queue`] gave it.
pub(crate) fn number(incoming: &Incoming) -> u64 {
    incoming.message.properties.message_id.as_deref().and_then(|id| id.parse().ok()).expect("a numbered message")
}
