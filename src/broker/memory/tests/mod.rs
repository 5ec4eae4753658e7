//! Behaviour that no other backend shares: the fault switches, and rules of RabbitMQ that differ between its versions.
//! What every backend must do is in `broker::conformance`.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::time::timeout;

use super::{Depth, MemoryBroker, MemoryOptions};
use crate::broker::{
    Arrivals, Broker, BrokerError, Confirm, ConsumeOptions, Findings, Incoming, LaneRole, Prefetch, Proof, Publication,
    Routing, Session, SessionId, Settled, Settlement, Settler,
};
use crate::domain::message::{Headers, Message, Properties, Value};
use crate::domain::name::{ExchangeName, QueueName};
use crate::domain::topology::{Plan, Queue, Step, TopologyMode};

mod dead_letters;
mod faults;
mod lives;

fn broker() -> MemoryBroker {
    MemoryBroker::new(MemoryOptions { bytes_max: 1 << 20 })
}

async fn session(broker: &MemoryBroker) -> Arc<dyn Session> {
    // Always the same number: two sidecars of one broker count alike.
    broker.connect(SessionId(1)).await.unwrap()
}

fn name(text: &str) -> QueueName {
    QueueName::parse(text).unwrap()
}

fn queue(text: &str, arguments: &[(&str, Value)]) -> Queue {
    let arguments = arguments.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect();
    Queue { name: name(text), durable: true, auto_delete: false, exclusive: false, arguments, named: BTreeSet::new() }
}

async fn create(session: &Arc<dyn Session>, steps: Vec<Step>) -> Result<Findings, BrokerError> {
    session.apply(Arc::new(Plan { mode: TopologyMode::Create, steps })).await
}

async fn declare(session: &Arc<dyn Session>, text: &str, arguments: &[(&str, Value)]) -> QueueName {
    create(session, vec![Step::Queue(queue(text, arguments))]).await.unwrap();
    name(text)
}

/// A message for a queue by its name.
fn to(queue: &QueueName, body: &str) -> Publication {
    let properties = Properties { message_id: Some(format!("id-{body}")), ..Properties::default() };
    let (exchange, body) = (ExchangeName::nameless(), Bytes::from(body.to_owned()));
    let message = Message { exchange, routing_key: queue.to_string(), properties, body };
    Publication { message, routing: Routing::Required }
}

/// Publishes on a lane of its own.
async fn publish(session: &Arc<dyn Session>, batch: Vec<Publication>) -> Vec<Confirm> {
    session.lane(LaneRole::Publish).await.unwrap().publish(batch).await
}

async fn fill(session: &Arc<dyn Session>, queue: &QueueName, texts: &[&str]) {
    let confirms = publish(session, texts.iter().map(|text| to(queue, text)).collect()).await;
    assert_eq!(confirms, vec![Confirm::Stored; texts.len()]);
}

struct Tap {
    arrivals: Box<dyn Arrivals>,
    settler: Box<dyn Settler>,
}

async fn consume(session: &Arc<dyn Session>, queue: &QueueName, prefetch: u16) -> Tap {
    let options = ConsumeOptions { prefetch: Prefetch::new(prefetch), exclusive: false, own_connection: false };
    let (arrivals, settler) = session.consume(queue.clone(), options).await.unwrap();
    Tap { arrivals, settler }
}

impl Tap {
    async fn take(&mut self, count: usize) -> Vec<Incoming> {
        let mut taken = Vec::new();
        while taken.len() < count {
            // Paused time jumps to the deadline when nothing else is left to happen.
            let batch = timeout(Duration::from_mins(10), self.arrivals.next_batch(count - taken.len())).await;
            taken.extend(batch.expect("a delivery comes").unwrap());
        }
        taken
    }

    async fn settle(&mut self, deliveries: Vec<Incoming>, settlement: Settlement) -> Vec<Settled> {
        let batch = deliveries.into_iter().map(|delivery| (delivery.receipt, settlement)).collect();
        self.settler.settle(batch, Proof::Written).await
    }
}

fn bodies(deliveries: &[Incoming]) -> Vec<&str> {
    deliveries.iter().map(|delivery| std::str::from_utf8(&delivery.message.body).unwrap()).collect()
}

/// Asserts what a queue holds that keeps no dead letters.
#[track_caller]
fn assert_depth(broker: &MemoryBroker, queue: &QueueName, ready: usize, unacked: usize) {
    assert_eq!(broker.faults().depth(queue), Some(Depth { ready, unacked, dead_lettering: 0 }));
}

fn headers(delivery: &Incoming) -> &Headers {
    &delivery.message.properties.headers
}
