//! Time and limits that send messages on: expiry, delay slots, overflow. Knows no backend.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::Lab;
use super::scene::{Kind, Scene, bodies, texts};
use crate::broker::{Incoming, Settled};
use crate::domain::message::{Headers, Value};
use crate::domain::name::{ExchangeName, QueueName};
use crate::domain::topology::ExchangeKind;

/// Long enough to tell "at once" from "later" on a slow machine.
const TTL_MS: i64 = 400;
/// No message may come sooner. Brokers count in whole milliseconds, so a little is forgiven.
const AT_LEAST: Duration = Duration::from_millis(395);

/// A dead-letter exchange with one queue behind it.
async fn graveyard(scene: &mut Scene, stem: &str, kind: Kind) -> (ExchangeName, QueueName) {
    let queue = scene.queue(&format!("{stem}-dead"), kind, &[]).await;
    let exchange = scene.exchange(queue.as_str(), ExchangeKind::Fanout).await;
    scene.bind(&queue, &exchange, "", &[]).await;
    (exchange, queue)
}

/// The newest row of `x-death`.
fn newest_death(delivery: &Incoming) -> &Headers {
    let Some(Value::Array(rows)) = delivery.message.properties.headers.get("x-death") else {
        panic!("no x-death in {delivery:?}")
    };
    rows.first().and_then(Value::as_table).expect("a row of x-death is a table")
}

fn assert_died(delivery: &Incoming, queue: &QueueName, reason: &str) {
    let death = newest_death(delivery);
    assert_eq!(death.get("queue").and_then(Value::as_text), Some(queue.as_str()));
    assert_eq!(death.get("reason").and_then(Value::as_text), Some(reason));
    assert_eq!(death.get("count").and_then(Value::as_integer), Some(1));
    let headers = &delivery.message.properties.headers;
    assert_eq!(headers.get("x-first-death-queue").and_then(Value::as_text), Some(queue.as_str()));
    assert_eq!(headers.get("x-first-death-reason").and_then(Value::as_text), Some(reason));
}

pub(super) async fn an_expired_message_goes_to_the_dead_letters(lab: Arc<dyn Lab>) {
    let mut scene = Scene::open(lab).await;
    for kind in Kind::BOTH {
        let (exchange, dead) = graveyard(&mut scene, "ttl", kind).await;
        let arguments =
            [("x-message-ttl", Value::Int64(TTL_MS)), ("x-dead-letter-exchange", Value::text(exchange.as_str()))];
        let queue = scene.queue("ttl", kind, &arguments).await;
        let mut tap = scene.consume(&dead, 10).await;
        let sent = Instant::now();
        scene.fill(&queue, 0..3).await;

        let taken = tap.take(3).await;
        assert!(sent.elapsed() >= AT_LEAST, "{kind:?}: after {:?}", sent.elapsed());
        assert_eq!(bodies(&taken), texts(0..3), "{kind:?}");
        for delivery in &taken {
            assert_died(delivery, &queue, "expired");
            assert_eq!(
                (&delivery.message.exchange, delivery.message.routing_key.as_str()),
                (&exchange, queue.as_str())
            );
        }
        assert_eq!(tap.ack(taken).await, [Settled::Applied; 3]);
    }
}

pub(super) async fn a_message_may_carry_its_own_expiry(lab: Arc<dyn Lab>) {
    let mut scene = Scene::open(lab).await;
    for kind in Kind::BOTH {
        let (exchange, dead) = graveyard(&mut scene, "own-ttl", kind).await;
        let arguments = [("x-dead-letter-exchange", Value::text(exchange.as_str()))];
        let queue = scene.queue("own-ttl", kind, &arguments).await;
        let mut tap = scene.consume(&dead, 10).await;
        let mut message = scene.message_to(&queue, "brief");
        message.properties.expiration = Some(TTL_MS.to_string());
        let sent = Instant::now();
        scene.send(message).await;

        let taken = tap.take(1).await;
        assert!(sent.elapsed() >= AT_LEAST, "{kind:?}: after {:?}", sent.elapsed());
        assert_died(&taken[0], &queue, "expired");
        assert_eq!(taken[0].message.properties.expiration, None, "it must not expire again where it is now");
        let original = newest_death(&taken[0]).get("original-expiration").and_then(Value::as_text);
        assert_eq!(original, Some(TTL_MS.to_string().as_str()));
    }
}

pub(super) async fn a_delay_slot_brings_a_message_home(lab: Arc<dyn Lab>) {
    let mut scene = Scene::open(lab).await;
    for kind in Kind::BOTH {
        let mut arguments = vec![("x-message-ttl", Value::Int64(TTL_MS)), ("x-dead-letter-exchange", Value::text(""))];
        if kind == Kind::Quorum {
            arguments.push(("x-dead-letter-strategy", Value::text("at-least-once")));
            arguments.push(("x-overflow", Value::text("reject-publish")));
        }
        let slot = scene.queue("slot", kind, &arguments).await;
        let entrance = scene.exchange(slot.as_str(), ExchangeKind::Fanout).await;
        scene.bind(&slot, &entrance, "", &[]).await;
        let home = scene.queue("home", kind, &[]).await;
        let mut tap = scene.consume(&home, 10).await;

        // Twice round: a single hop never looks like a circle to the broker, if the copy starts without death headers.
        for round in ["first", "second"] {
            let mut message = scene.message(&entrance, home.as_str(), round);
            message.properties.headers.insert("x-kept".to_owned(), Value::Int16(7));
            let sent = Instant::now();
            scene.send(message).await;
            let taken = tap.take(1).await;
            assert!(sent.elapsed() >= AT_LEAST, "{kind:?}: after {:?}", sent.elapsed());
            let home_again = &taken[0].message;
            assert_eq!(bodies(&taken), [round]);
            assert!(home_again.exchange.is_nameless(), "{kind:?}: {:?}", home_again.exchange);
            assert_eq!(home_again.routing_key, home.as_str());
            assert_eq!(home_again.properties.headers.get("x-kept"), Some(&Value::Int16(7)));
            assert_died(&taken[0], &slot, "expired");
            assert_eq!(tap.ack(taken).await, [Settled::Applied]);
        }
    }
}

pub(super) async fn an_overfull_queue_drops_its_oldest_into_the_dead_letters(lab: Arc<dyn Lab>) {
    let mut scene = Scene::open(lab).await;
    for kind in Kind::BOTH {
        let (exchange, dead) = graveyard(&mut scene, "overfull", kind).await;
        let arguments = [("x-max-length", Value::Int64(2)), ("x-dead-letter-exchange", Value::text(exchange.as_str()))];
        let queue = scene.queue("overfull", kind, &arguments).await;
        scene.fill(&queue, 0..5).await;

        let mut dead_tap = scene.consume(&dead, 10).await;
        let dropped = dead_tap.take(3).await;
        assert_eq!(bodies(&dropped), texts(0..3), "{kind:?}");
        assert_died(&dropped[0], &queue, "maxlen");
        let mut tap = scene.consume(&queue, 10).await;
        let kept = tap.take(2).await;
        assert_eq!(bodies(&kept), texts(3..5), "{kind:?}");
        tap.ack(kept).await;
        scene.assert_nothing_else(&queue, &mut tap).await;
    }
}

pub(super) async fn a_dead_letter_key_replaces_the_routing_key(lab: Arc<dyn Lab>) {
    let mut scene = Scene::open(lab).await;
    let target = scene.queue("named-grave", Kind::Classic, &[]).await;
    let arguments = [
        ("x-message-ttl", Value::Int64(1)),
        ("x-dead-letter-exchange", Value::text("")),
        ("x-dead-letter-routing-key", Value::text(target.as_str())),
    ];
    let queue = scene.queue("rekeyed", Kind::Classic, &arguments).await;
    scene.fill(&queue, ["sent on"]).await;
    let mut tap = scene.consume(&target, 10).await;
    let taken = tap.take(1).await;
    assert_eq!(taken[0].message.routing_key, target.as_str());
    assert_died(&taken[0], &queue, "expired");
}
