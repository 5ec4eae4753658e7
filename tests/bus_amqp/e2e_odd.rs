//! Content that nobody would write on purpose: it is handled, retried and given up like any other, and comes out as it went in.

use lapin::BasicProperties;
use lapin::options::{BasicPublishOptions, ConfirmSelectOptions};
use lapin::types::{AMQPValue, DecimalValue, FieldArray, FieldTable};
use sidebus::grpc::proto::sidebus::v1;

use crate::support::handler::message;
use crate::support::scene::{Amqp, Scene};

fn table(entries: Vec<(&str, AMQPValue)>) -> FieldTable {
    let mut table = FieldTable::default();
    for (name, value) in entries {
        table.insert(name.into(), value);
    }
    table
}

/// Every type that a broker takes in a header, at its edges.
fn every_type() -> FieldTable {
    let not_text = AMQPValue::LongString(vec![0xff, 0x00, 0xfe].into());
    let deep = (0..6).fold(not_text.clone(), |inner, _| AMQPValue::FieldTable(table(vec![("in", inner)])));
    table(vec![
        ("", AMQPValue::LongString("without a name".into())),
        ("boolean", AMQPValue::Boolean(false)),
        ("i8", AMQPValue::ShortShortInt(i8::MIN)),
        ("i16", AMQPValue::ShortInt(i16::MIN)),
        ("i32", AMQPValue::LongInt(i32::MIN)),
        ("i64", AMQPValue::LongLongInt(i64::MIN)),
        ("u8", AMQPValue::ShortShortUInt(u8::MAX)),
        ("u16", AMQPValue::ShortUInt(u16::MAX)),
        ("u32", AMQPValue::LongUInt(u32::MAX)),
        ("f32", AMQPValue::Float(f32::MIN_POSITIVE)),
        ("f64", AMQPValue::Double(f64::MAX)),
        ("decimal", AMQPValue::DecimalValue(DecimalValue { scale: 255, value: u32::MAX })),
        ("not text", not_text.clone()),
        ("empty", AMQPValue::LongString("".into())),
        ("bytes", AMQPValue::ByteArray(vec![0, 255].into())),
        ("time", AMQPValue::Timestamp(u64::MAX)),
        ("void", AMQPValue::Void),
        ("array", AMQPValue::FieldArray(FieldArray::from(vec![not_text, AMQPValue::Void, AMQPValue::Boolean(true)]))),
        ("deep", deep),
    ])
}

/// Bodies and properties, from nothing to the edges of each.
fn odd_messages() -> Vec<(Vec<u8>, BasicProperties)> {
    let edges = BasicProperties::default()
        .with_priority(255)
        .with_delivery_mode(1)
        .with_timestamp(u64::MAX)
        .with_expiration("4294967295".into())
        .with_message_id("".into())
        .with_content_type("".into())
        .with_content_encoding("no such encoding".into())
        .with_type("t".repeat(255).into())
        .with_app_id("\u{0}\n\u{7f}".into())
        .with_headers(FieldTable::default());
    vec![
        (Vec::new(), BasicProperties::default()),
        (vec![0; 3], BasicProperties::default().with_headers(every_type())),
        (Vec::new(), edges),
    ]
}

async fn publish(amqp: &Amqp, queue: &str, (body, properties): &(Vec<u8>, BasicProperties)) {
    let options = BasicPublishOptions { mandatory: true, ..BasicPublishOptions::default() };
    let written = amqp.channel.basic_publish("".into(), queue.into(), options, body, properties.clone());
    assert!(written.await.expect("written").await.expect("answered").is_ack());
}

/// What a message carries but for what we write on it, and for what a copy may not keep: the broker would let it expire in its
/// slot, and every copy is persistent and has an id.
fn content(delivery: &lapin::message::Delivery) -> (Vec<u8>, FieldTable, Vec<Option<String>>) {
    let properties = &delivery.properties;
    let mut headers = FieldTable::default();
    for (name, value) in properties.headers().clone().unwrap_or_default().inner() {
        if !name.as_str().starts_with("x-sidebus-") {
            headers.insert(name.clone(), value.clone());
        }
    }
    let text = [properties.content_type(), properties.content_encoding(), properties.kind(), properties.app_id()];
    let mut rest: Vec<Option<String>> = text.into_iter().map(|one| one.as_ref().map(ToString::to_string)).collect();
    rest.push(properties.priority().map(|priority| priority.to_string()));
    rest.push(properties.timestamp().map(|time| time.to_string()));
    (delivery.data.clone(), headers, rest)
}

/// failures.md M5.
#[tokio::test]
async fn odd_content_is_retried_and_given_up_like_any_other_and_keeps_its_types() {
    for queue_type in ["quorum", "classic"] {
        let scene = Scene::new().await;
        let mut sidecar = scene.sidecar(&scene.work(&format!("queue_type = \"{queue_type}\""))).await;
        let amqp = scene.amqp().await;
        amqp.channel.confirm_select(ConfirmSelectOptions::default()).await.expect("confirms");
        let (work, control, letters) = (scene.name("work"), scene.name("control"), scene.name("dlq"));
        // What a broker makes of it by itself, in a queue like that of letters.
        amqp.declare(&control, table(vec![("x-queue-type", AMQPValue::LongString("quorum".into()))])).await;
        let mut handler = sidecar.handler().await;
        for odd in odd_messages() {
            publish(&amqp, &control, &odd).await;
            let expected = content(&amqp.get(&control).await.delivery);
            publish(&amqp, &work, &odd).await;
            let first = handler.delivery().await;
            handler.retry(&first).await;
            let second = handler.delivery().await;
            assert_eq!(second.attempt, 2, "{queue_type}");
            // Every copy is persistent, and has a life time of its own.
            let without_life = |delivery| v1::Message { ttl: None, transient: false, ..message(delivery).clone() };
            assert_eq!(without_life(&second), without_life(&first), "{queue_type}");
            handler.dead_letter(&second).await;
            assert_eq!(content(&amqp.get(&letters).await.delivery), expected, "{queue_type}");
        }
        handler.leave().await;
        assert_eq!(sidecar.process.stop().await, Some(0));
        amqp.wait_for_depth(&work, 0).await;
    }
}
