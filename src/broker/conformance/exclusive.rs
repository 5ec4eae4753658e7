//! Exclusive queues: for one session only, and gone with it. Knows no backend.

use std::sync::Arc;
use std::time::Duration;

use super::Lab;
use super::scene::{Kind, Pace, Scene, Tap, bodies, within};
use crate::broker::{BrokerError, Confirm, ConsumeOptions, Prefetch, Routing, Session, Settled};
use crate::domain::message::Headers;
use crate::domain::name::{ExchangeName, QueueName};
use crate::domain::subscription::Binding;
use crate::domain::topology::{ExchangeKind, Step, TopologyMode};

fn options() -> ConsumeOptions {
    ConsumeOptions { prefetch: Prefetch::new(10), exclusive: true, own_connection: false }
}

/// An exclusive queue of the scene's session, bound to a new fanout exchange.
async fn exclusive_queue(scene: &mut Scene, stem: &str) -> (QueueName, ExchangeName) {
    let exchange = scene.exchange(&format!("{stem}-x"), ExchangeKind::Fanout).await;
    let mut queue = scene.described(stem, Kind::Classic, &[]);
    queue.exclusive = true;
    let name = queue.name.clone();
    let binding = Binding { exchange: exchange.clone(), routing_key: String::new(), arguments: Headers::new() };
    let steps = vec![Step::Queue(queue), Step::Bind { queue: name.clone(), exclusive: true, binding }];
    scene.apply(TopologyMode::Create, steps).await.expect("the queue is declared and bound");
    (name, exchange)
}

async fn consume(session: &Arc<dyn Session>, queue: &QueueName) -> Result<Tap, BrokerError> {
    let consumer = within("a consumer", session.consume(queue.clone(), options())).await;
    consumer.map(|(arrivals, settler)| Tap { arrivals, settler })
}

pub(super) async fn an_exclusive_queue_serves_its_own_session(lab: Arc<dyn Lab>) {
    let mut scene = Scene::open(lab).await;
    let (queue, exchange) = exclusive_queue(&mut scene, "own").await;
    let mut tap = consume(&scene.session, &queue).await.expect("the owner may consume");
    let bound = scene.message(&exchange, "any", "by its binding");
    scene.send(bound).await;
    scene.fill(&queue, ["by its name"]).await;
    let taken = tap.take(2).await;
    assert_eq!(bodies(&taken), ["by its binding", "by its name"]);
    assert_eq!(tap.ack(taken).await, [Settled::Applied; 2]);
}

pub(super) async fn an_exclusive_queue_is_made_and_bound_where_others_are_only_verified(lab: Arc<dyn Lab>) {
    let mut scene = Scene::open(lab).await;
    let exchange = scene.exchange("verified-x", ExchangeKind::Direct).await;
    let mut queue = scene.described("verified", Kind::Classic, &[]);
    queue.exclusive = true;
    let name = queue.name.clone();
    let binding =
        |key: &str| Binding { exchange: exchange.clone(), routing_key: key.to_owned(), arguments: Headers::new() };
    let bind = |key| Step::Bind { queue: name.clone(), exclusive: true, binding: binding(key) };
    let steps = vec![Step::Queue(queue), bind("new"), bind("old")];
    let found = scene.apply(TopologyMode::Verify, steps).await.expect("nobody else can have made it");
    assert_eq!(found.created, [format!("queue {name}")]);
    let unbind = Step::Unbind { queue: name.clone(), exclusive: true, binding: binding("old") };
    scene.apply(TopologyMode::Verify, vec![unbind]).await.expect("nobody else can unbind it");

    let messages = ["old", "new"].map(|key| scene.message(&exchange, key, key.to_owned())).to_vec();
    let confirms = scene.publish(messages, Routing::Required).await;
    assert_eq!(confirms, [Confirm::Unroutable, Confirm::Stored]);
    let mut tap = consume(&scene.session, &name).await.expect("the owner may consume");
    assert_eq!(bodies(&tap.take(1).await), ["new"]);
}

pub(super) async fn an_exclusive_queue_is_locked_for_other_sessions(lab: Arc<dyn Lab>) {
    let mut scene = Scene::open(lab).await;
    let (queue, _) = exclusive_queue(&mut scene, "locked").await;
    let _owner = consume(&scene.session, &queue).await.expect("the owner may consume");

    let other = scene.another_session().await;
    let refusal = consume(&other, &queue).await.map(|_| ());
    assert!(matches!(refusal, Err(BrokerError::Locked { .. })), "{refusal:?}");
}

pub(super) async fn an_exclusive_queue_goes_with_its_session(lab: Arc<dyn Lab>) {
    let mut scene = Scene::open(lab).await;
    let (queue, _) = exclusive_queue(&mut scene, "mortal").await;
    let owner = consume(&scene.session, &queue).await.expect("the owner may consume");
    scene.session.close(Duration::from_secs(5)).await;
    drop(owner);

    scene.reconnect().await;
    let mut pace = Pace::until("the queue is gone");
    loop {
        let message = scene.message_to(&queue, "to nobody");
        if scene.publish(vec![message], Routing::Required).await == [Confirm::Unroutable] {
            break;
        }
        pace.again().await;
    }
}
