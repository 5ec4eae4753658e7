//! Messages that the client library cannot read, on a real broker: their queue gets rid of them or is stalled, and everybody
//! else goes on. failures.md M1.

use std::collections::BTreeSet;

use lapin::types::{AMQPValue, FieldTable};
use sidebus::grpc::proto::sidebus::v1;

use crate::support::handler::Handler;
use crate::support::publisher::numbered;
use crate::support::rabbitmq;
use crate::support::raw::{Killer, RawPublisher};
use crate::support::scene::{Scene, Sidecar};

const TOGETHER: &str = "a message that cannot be read ended the connection of all";
const STALLED: &str = "the queue is stalled by a message that cannot be read";
const PARSE: &str = "sidebus_broker_reconnects_total{reason=\"parse\"}";

/// `work` and another subscription, which share nothing but the session.
fn tables(scene: &Scene, keys: &str) -> String {
    let (work, other) = (scene.name("work"), scene.name("other"));
    format!(
        "[queues.work]\nqueue = \"{work}\"\nbindings = [\"player.#\"]\n{keys}\n\
         [queues.other]\nqueue = \"{other}\"\nbindings = [\"other.#\"]\n"
    )
}

async fn raw() -> RawPublisher {
    let shared = rabbitmq::shared().await;
    let login = (shared.username.as_str(), shared.password.as_str());
    RawPublisher::connect((&shared.host, shared.port), login, &shared.vhost).await
}

/// Publishes it so that it ends in the queue of `work`.
async fn kill(scene: &Scene, killer: Killer) {
    let events = format!("{}-events", scene.prefix);
    if killer != Killer::LargeHeaders {
        return raw().await.publish(&killer.message(&events)).await;
    }
    // Its headers become too large on the way from another queue.
    let (amqp, parking) = (scene.amqp().await, scene.name(&format!("parking-{killer:?}")));
    let mut arguments = FieldTable::default();
    arguments.insert("x-message-ttl".into(), AMQPValue::LongInt(1));
    arguments.insert("x-dead-letter-exchange".into(), AMQPValue::LongString(events.into()));
    arguments.insert("x-dead-letter-routing-key".into(), AMQPValue::LongString("player.Large".into()));
    amqp.declare(&parking, arguments).await;
    let mut message = killer.message("");
    message.routing_key = parking.as_bytes();
    raw().await.publish(&message).await;
    amqp.wait_for_depth(&parking, 0).await;
}

/// The other subscription is served.
async fn others_go_on(sidecar: &Sidecar, other: &mut Handler, message: usize) {
    let published = v1::Message { routing_key: "other.x".to_owned(), ..numbered(message) };
    sidecar.publisher().await.publish(vec![published]).await.expect("it is stored");
    other.handle_all(BTreeSet::from([message])).await;
}

fn lines(sidecar: &Sidecar, words: &str) -> usize {
    sidecar.process.log().iter().filter(|line| line.contains(words)).count()
}

/// On a quorum queue, with this much patience of it.
async fn is_moved_and_nobody_else_is_hurt(killer: Killer, keys: &str) {
    let scene = Scene::new().await;
    let mut sidecar = scene.sidecar(&tables(&scene, keys)).await;
    let mut other = Handler::open(sidecar.channel().await, Handler::of("other")).await;
    let publisher = sidecar.publisher().await;
    publisher.publish_numbers(0..25).await;
    kill(&scene, killer).await;
    publisher.publish_numbers(25..50).await;
    let mut work = sidecar.handler().await;
    let handled = work.handle_all((0..50).collect()).await;
    assert!(handled.iter().all(|delivery| delivery.attempt == 1), "{killer:?}");
    others_go_on(&sidecar, &mut other, 100).await;
    let amqp = scene.amqp().await;
    amqp.wait_for_depth(&scene.name("dlq"), 1).await;
    assert_eq!(raw().await.take(&scene.name("dlq")).await, b"killer", "{killer:?}");
    // All is as before.
    publisher.publish_numbers(50..60).await;
    work.handle_all((50..60).collect()).await;
    others_go_on(&sidecar, &mut other, 101).await;
    assert_eq!(sidecar.metric(PARSE).await, Some(1.0), "{killer:?}: the others lost their session once");
    assert_eq!(lines(&sidecar, STALLED), 0, "{killer:?}");
    assert!(lines(&sidecar, TOGETHER) >= 1, "{killer:?}");
    work.leave().await;
    other.leave().await;
    amqp.wait_for_depth(&scene.name("work"), 0).await;
    assert_eq!(sidecar.process.stop().await, Some(0));
}

#[tokio::test]
async fn a_quorum_queue_moves_it_to_the_dead_letters_and_its_fifty_neighbours_are_handled_at_the_first_attempt() {
    is_moved_and_nobody_else_is_hurt(Killer::RoutingKey, "").await;
}

#[tokio::test]
async fn the_same_for_every_kind_of_message_that_cannot_be_read() {
    for killer in [Killer::HeaderName, Killer::ContentType, Killer::LargeHeaders] {
        is_moved_and_nobody_else_is_hurt(killer, "arguments = { x-delivery-limit = 6 }").await;
    }
}

/// The queue is stalled; what an operator then does by hand, and a restart, make it go on.
async fn is_stalled_until_somebody_helps(scene: &Scene, killer: Killer, keys: &str) {
    let tables = tables(scene, keys);
    let mut sidecar = scene.sidecar(&tables).await;
    let mut other = Handler::open(sidecar.channel().await, Handler::of("other")).await;
    let mut work = sidecar.handler().await;
    work.state(v1::SubscriptionState::Active, 0).await;
    kill(scene, killer).await;
    let is_told = |handler: &Handler| {
        handler.statuses.iter().any(|status| {
            status.state == i32::from(v1::SubscriptionState::Paused) && status.description.contains("is stalled")
        })
    };
    work.until(&format!("{killer:?} stalls the queue"), is_told).await;
    let status = work.statuses.last().expect("a status");
    assert!(status.description.contains(&format!("rabbitmqctl purge_queue {}", scene.name("work"))), "{status:?}");
    sidecar.metric_becomes("sidebus_subscription_paused{subscription=\"work\",reason=\"parser\"}", 1.0).await;
    others_go_on(&sidecar, &mut other, 100).await;
    assert_eq!((lines(&sidecar, STALLED), lines(&sidecar, TOGETHER) >= 1), (1, true), "{killer:?}");
    assert_eq!(sidecar.metric(PARSE).await, Some(1.0), "{killer:?}: the others lost their session once");
    sidecar.publisher().await.publish_numbers(0..1).await;
    let amqp = scene.amqp().await;
    amqp.wait_for_depth(&scene.name("work"), 2).await;
    assert_eq!(amqp.depth(&scene.name("dlq")).await, Some(0), "{killer:?}");
    work.leave().await;
    other.leave().await;
    assert_eq!(sidecar.process.stop().await, Some(0));

    assert_eq!(raw().await.take(&scene.name("work")).await, b"killer");
    let mut sidecar = scene.sidecar(&tables).await;
    let mut work = sidecar.handler().await;
    work.handle_all(BTreeSet::from([0])).await;
    work.leave().await;
    assert_eq!(sidecar.process.stop().await, Some(0));
}

#[tokio::test]
async fn a_classic_queue_is_stalled_and_the_others_go_on() {
    for killer in Killer::ALL {
        let scene = Scene::new().await;
        is_stalled_until_somebody_helps(&scene, killer, "queue_type = \"classic\"").await;
    }
}

#[tokio::test]
async fn a_quorum_queue_without_dead_letters_is_stalled_before_its_broker_drops_the_message() {
    let scene = Scene::new().await;
    let mut arguments = FieldTable::default();
    arguments.insert("x-queue-type".into(), AMQPValue::LongString("quorum".into()));
    arguments.insert("x-delivery-limit".into(), AMQPValue::LongInt(20));
    scene.amqp().await.declare(&scene.name("work"), arguments).await;
    is_stalled_until_somebody_helps(&scene, Killer::ContentType, "").await;
}
