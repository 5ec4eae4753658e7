//! What is published is what is delivered, to the last byte and the last type. Knows no backend.
//!
//! Not here: `user_id`, which a broker compares with the login, and floats that are not finite, which RabbitMQ's parser
//! has no clause for.

use std::sync::Arc;

use bytes::Bytes;

use super::Lab;
use super::scene::{Kind, Scene};
use crate::broker::{Incoming, Settled};
use crate::domain::message::{Headers, Message, PERSISTENT, Properties, Value};
use crate::domain::topology::ExchangeKind;

/// Sends a message through a queue of each type and returns nothing that differs.
async fn check(scene: &mut Scene, what: &str, change: impl Fn(&mut Message)) {
    for kind in Kind::BOTH {
        let queue = scene.queue(what, kind, &[]).await;
        let mut sent = scene.message_to(&queue, "body");
        change(&mut sent);
        scene.send(sent.clone()).await;
        let mut tap = scene.consume(&queue, 10).await;
        let mut taken = tap.take(1).await;
        let Incoming { message, redelivered, receipt } = taken.remove(0);
        assert!(message == sent, "{what} on {kind:?}\n sent {sent:?}\n came {message:?}");
        assert!(!redelivered);
        assert_eq!(tap.settle(vec![(receipt, crate::broker::Settlement::Ack)]).await, [Settled::Applied]);
    }
}

fn headers(pairs: &[(&str, Value)]) -> Headers {
    pairs.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect()
}

fn every_scalar() -> Headers {
    headers(&[
        ("bool", Value::Bool(true)),
        ("int8", Value::Int8(i8::MIN)),
        ("uint8", Value::UInt8(u8::MAX)),
        ("int16", Value::Int16(i16::MIN)),
        ("uint16", Value::UInt16(u16::MAX)),
        ("int32", Value::Int32(i32::MIN)),
        ("uint32", Value::UInt32(u32::MAX)),
        ("int64", Value::Int64(i64::MIN)),
        ("float", Value::Float(-0.1)),
        ("double", Value::Double(f64::MIN_POSITIVE)),
        ("decimal", Value::Decimal { scale: 3, value: 4_000_000_001 }),
        ("text", Value::text("grüß dich")),
        ("text-not-utf8", Value::Text(Bytes::from_static(&[0xff, 0x00, 0xfe]))),
        ("text-empty", Value::Text(Bytes::new())),
        ("binary", Value::Binary(Bytes::from_static(&[0, 1, 2, 255]))),
        ("timestamp", Value::Timestamp(1_700_000_000)),
        ("void", Value::Void),
    ])
}

pub(super) async fn every_property_survives(lab: Arc<dyn Lab>) {
    let mut scene = Scene::open(lab).await;
    check(&mut scene, "properties", |message| {
        message.properties = Properties {
            content_type: Some("application/json".to_owned()),
            content_encoding: Some("gzip".to_owned()),
            headers: headers(&[("one", Value::Int32(1))]),
            delivery_mode: Some(PERSISTENT),
            priority: Some(9),
            correlation_id: Some("grüße ✓".to_owned()),
            reply_to: Some("answers.here".to_owned()),
            expiration: Some("3600000".to_owned()),
            message_id: Some("x".repeat(255)),
            timestamp: Some(u64::from(u32::MAX) + 1),
            kind: Some("player.PlayerRegistered".to_owned()),
            user_id: None,
            app_id: Some("app".to_owned()),
            cluster_id: Some("cluster".to_owned()),
        };
    })
    .await;
}

pub(super) async fn absent_properties_stay_absent(lab: Arc<dyn Lab>) {
    let mut scene = Scene::open(lab).await;
    check(&mut scene, "absent", |message| {
        message.properties = Properties { message_id: message.properties.message_id.take(), ..Properties::default() };
    })
    .await;
}

pub(super) async fn every_type_of_header_survives(lab: Arc<dyn Lab>) {
    let mut scene = Scene::open(lab).await;
    check(&mut scene, "scalars", |message| message.properties.headers = every_scalar()).await;
}

pub(super) async fn nested_headers_survive(lab: Arc<dyn Lab>) {
    let mut scene = Scene::open(lab).await;
    let mixed = Value::Array(every_scalar().into_values().collect());
    let deep = (0..6).fold(Value::Table(every_scalar()), |inner, level| {
        let table = Value::Table(headers(&[("level", Value::Int32(level)), ("inner", inner)]));
        Value::Array(vec![table, Value::Void])
    });
    let all = headers(&[
        ("mixed", mixed),
        ("deep", deep),
        ("empty-table", Value::Table(Headers::new())),
        ("empty-array", Value::Array(Vec::new())),
    ]);
    check(&mut scene, "nested", |message| message.properties.headers = all.clone()).await;
}

pub(super) async fn bodies_of_every_size_survive(lab: Arc<dyn Lab>) {
    let mut scene = Scene::open(lab).await;
    // Nothing; one byte; around a frame of 128 KiB; one MiB.
    for size in [0, 1, 131_063, 131_064, 131_065, 1 << 20] {
        let pattern: Vec<u8> = (0..size).map(|index: usize| u8::try_from(index % 251).unwrap_or(0)).collect();
        let body = Bytes::from(pattern);
        check(&mut scene, &format!("size-{size}"), |message| message.body = body.clone()).await;
    }
}

pub(super) async fn long_routing_keys_survive(lab: Arc<dyn Lab>) {
    let mut scene = Scene::open(lab).await;
    let exchange = scene.exchange("long-keys", ExchangeKind::Fanout).await;
    let queue = scene.queue("long-keys", Kind::Classic, &[]).await;
    scene.bind(&queue, &exchange, "", &[]).await;
    // 255 bytes, the most that the protocol allows, some of them beyond ASCII.
    let key = format!("{}{}", "schlüssel.".repeat(23), "xy");
    assert_eq!(key.len(), 255);
    let message = scene.message(&exchange, &key, "long");
    scene.send(message).await;
    let mut tap = scene.consume(&queue, 1).await;
    let taken = tap.take(1).await;
    assert_eq!(taken[0].message.routing_key, key);
    assert_eq!(taken[0].message.exchange, exchange);
}
