//! Which queues get a message, by kind of exchange. Knows no backend.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::Lab;
use super::scene::{Kind, Scene, bodies, texts};
use crate::broker::{Confirm, Routing, Settled};
use crate::domain::message::{Headers, Value};
use crate::domain::name::{ExchangeName, QueueName};
use crate::domain::topology::ExchangeKind;

/// Publishes a message with each of the keys, and tells which of them a queue got and whether the others were returned.
async fn check_keys(scene: &mut Scene, exchange: &ExchangeName, queue: &QueueName, cases: &[(&str, bool)]) {
    let batch = cases.iter().map(|(key, _)| scene.message(exchange, key, (*key).to_owned())).collect();
    let confirms = scene.publish(batch, Routing::Required).await;
    let expected = cases.iter().map(|(_, fits)| if *fits { Confirm::Stored } else { Confirm::Unroutable });
    assert_eq!(confirms, expected.collect::<Vec<_>>(), "{cases:?}");

    let fitting: Vec<&str> = cases.iter().filter(|(_, fits)| *fits).map(|(key, _)| *key).collect();
    let mut tap = scene.consume(queue, 100).await;
    let taken = tap.take(fitting.len()).await;
    assert_eq!(bodies(&taken), fitting);
    for delivery in &taken {
        assert_eq!(delivery.message.exchange, *exchange);
        assert_eq!(delivery.message.routing_key.as_bytes(), &delivery.message.body[..]);
    }
    tap.ack(taken).await;
    scene.assert_nothing_else(queue, &mut tap).await;
}

pub(super) async fn topics_match_words(lab: Arc<dyn Lab>) {
    let mut scene = Scene::open(lab).await;
    let exchange = scene.exchange("topics", ExchangeKind::Topic).await;
    let tables: [(&str, &[(&str, bool)]); 5] = [
        ("player.#", &[("player.PlayerRegistered", true), ("player", true), ("hand.CardsDealt", false)]),
        ("hand.*", &[("hand.CardsDealt", true), ("hand", false), ("hand.a.b", false)]),
        ("#.closed", &[("closed", true), ("a.b.closed", true), ("a.closed.b", false)]),
        ("*.#", &[("one", true), ("one.two", true)]),
        ("exact.key", &[("exact.key", true), ("exact.keys", false)]),
    ];
    for (number, (pattern, cases)) in tables.into_iter().enumerate() {
        // One exchange each, so that "unroutable" speaks of this pattern alone.
        let alone = scene.exchange(&format!("topic-{number}"), ExchangeKind::Topic).await;
        let queue = scene.queue(&format!("topic-{number}"), Kind::Classic, &[]).await;
        scene.bind(&queue, &alone, pattern, &[]).await;
        check_keys(&mut scene, &alone, &queue, cases).await;
    }
    let batch = vec![scene.message(&exchange, "any", "unbound")];
    assert_eq!(scene.publish(batch, Routing::Required).await, [Confirm::Unroutable]);
}

pub(super) async fn direct_exchanges_match_the_whole_key(lab: Arc<dyn Lab>) {
    let mut scene = Scene::open(lab).await;
    let exchange = scene.exchange("direct", ExchangeKind::Direct).await;
    let queue = scene.queue("direct", Kind::Classic, &[]).await;
    scene.bind(&queue, &exchange, "a.b", &[]).await;
    scene.bind(&queue, &exchange, "*", &[]).await;
    let cases = [("a.b", true), ("a.c", false), ("a", false), ("*", true), ("", false)];
    check_keys(&mut scene, &exchange, &queue, &cases).await;
}

pub(super) async fn fanout_exchanges_take_every_key(lab: Arc<dyn Lab>) {
    let mut scene = Scene::open(lab).await;
    let exchange = scene.exchange("fanout", ExchangeKind::Fanout).await;
    let queue = scene.queue("fanout", Kind::Classic, &[]).await;
    scene.bind(&queue, &exchange, "ignored", &[]).await;
    check_keys(&mut scene, &exchange, &queue, &[("a.b", true), ("", true), ("other", true)]).await;
}

pub(super) async fn the_nameless_exchange_reaches_every_queue_by_name(lab: Arc<dyn Lab>) {
    let mut scene = Scene::open(lab).await;
    let queue = scene.queue("by-name", Kind::Quorum, &[]).await;
    let nobody = scene.queue_name("by-another-name");
    let cases = [(queue.as_str(), true), (nobody.as_str(), false)];
    check_keys(&mut scene, &ExchangeName::nameless(), &queue, &cases).await;
}

pub(super) async fn headers_exchanges_match_all_or_any(lab: Arc<dyn Lab>) {
    let mut scene = Scene::open(lab).await;
    let exchange = scene.exchange("headers", ExchangeKind::Headers).await;
    let wanted = [("kind", Value::text("report")), ("size", Value::Int32(3))];
    let mut queues = Vec::new();
    for mode in ["all", "any"] {
        let queue = scene.queue(&format!("headers-{mode}"), Kind::Classic, &[]).await;
        let mut arguments = vec![("x-match", Value::text(mode))];
        arguments.extend(wanted.clone());
        scene.bind(&queue, &exchange, "", &arguments).await;
        queues.push(queue);
    }
    let other = [("kind", Value::text("letter"))];
    let sent = [
        ("both", &wanted[..], Confirm::Stored),
        ("one", &wanted[..1], Confirm::Stored),
        ("none", &other[..], Confirm::Unroutable),
    ];
    for (body, headers, expected) in sent {
        let mut message = scene.message(&exchange, "", body);
        let owned = headers.iter().map(|(name, value)| ((*name).to_owned(), value.clone()));
        message.properties.headers = owned.collect::<Headers>();
        assert_eq!(scene.publish(vec![message], Routing::Required).await, [expected], "{body}");
    }
    for (queue, expected) in queues.iter().zip([&["both"][..], &["both", "one"][..]]) {
        let mut tap = scene.consume(queue, 10).await;
        let taken = tap.take(expected.len()).await;
        assert_eq!(bodies(&taken), expected);
        tap.ack(taken).await;
        scene.assert_nothing_else(queue, &mut tap).await;
    }
}

pub(super) async fn every_bound_queue_gets_one_copy(lab: Arc<dyn Lab>) {
    let mut scene = Scene::open(lab).await;
    let exchange = scene.exchange("copies", ExchangeKind::Topic).await;
    let mut taps = Vec::new();
    for (number, patterns) in [&["a.#"][..], &["a.b", "a.*", "#"][..], &["b.#"][..]].into_iter().enumerate() {
        let queue = scene.queue(&format!("copy-{number}"), Kind::BOTH[number % 2], &[]).await;
        for pattern in patterns {
            scene.bind(&queue, &exchange, pattern, &[]).await;
        }
        taps.push((scene.consume(&queue, 100).await, queue));
    }
    let batch = (0..10).map(|n| scene.message(&exchange, "a.b", n.to_string())).collect();
    assert_eq!(scene.publish(batch, Routing::Required).await, vec![Confirm::Stored; 10]);
    for (mut tap, queue) in taps {
        let count = if queue == scene.described("copy-2", Kind::Classic, &[]).name { 0 } else { 10 };
        let taken = tap.take(count).await;
        let got: BTreeSet<String> = bodies(&taken).into_iter().collect();
        assert_eq!(got, texts(0..count).into_iter().collect(), "{queue}");
        assert_eq!(tap.ack(taken).await, vec![Settled::Applied; count]);
        scene.assert_nothing_else(&queue, &mut tap).await;
    }
}
