//! Messages of foreign publishers whose headers nearly fill a frame: they cost nobody else anything.

use lapin::BasicProperties;
use lapin::options::BasicPublishOptions;
use lapin::types::{AMQPValue, FieldTable};
use sidebus::grpc::proto::sidebus::v1;
use sidebus::grpc::proto::sidebus::v1::settlement::Verdict;

use crate::support::handler::{Handler, message, number};
use crate::support::scene::{Amqp, Scene, Sidecar};

/// A header table of nearly so many bytes, from somebody who does not use Sidebus.
async fn publish(amqp: &Amqp, queue: &str, header_bytes: usize, body: &str) {
    let mut headers = FieldTable::default();
    headers.insert("x-huge".into(), AMQPValue::LongString("x".repeat(header_bytes).into()));
    let properties = BasicProperties::default().with_headers(headers).with_delivery_mode(2);
    let options = BasicPublishOptions { mandatory: true, immediate: false };
    let sent = amqp.channel.basic_publish("".into(), queue.into(), options, body.as_bytes(), properties).await;
    sent.expect("a channel");
}

/// The longest text that a failure may bring.
async fn retry(handler: &Handler, delivery: &v1::Delivery) {
    let delay = Some(prost_types::Duration::default());
    let retry = v1::Retry { delay, reason: "BUSY".to_owned(), description: "x".repeat(4_096) };
    handler.settle(std::slice::from_ref(delivery), Verdict::Retry(retry)).await;
}

fn sessions(sidecar: &Sidecar) -> usize {
    sidecar.process.log().iter().filter(|line| line.contains("\"session ready\"")).count()
}

#[tokio::test]
async fn headers_of_120_kib_are_retried_and_dead_lettered_with_a_shorter_history() {
    let scene = Scene::new().await;
    let mut sidecar = scene.sidecar(&[&scene.work(""), "[retry]\nmax_attempts = 12\n"].concat()).await;
    let mut handler = sidecar.handler().await;
    let amqp = scene.amqp().await;
    publish(&amqp, &scene.name("work"), 120 * 1024, "1").await;
    for attempt in 1..=12 {
        let delivery = handler.delivery().await;
        assert_eq!(delivery.attempt, attempt);
        assert_eq!(message(&delivery).headers.len(), 1);
        assert_eq!(delivery.last_failure.as_ref().map_or(0, |failure| failure.attempt), attempt - 1);
        retry(&handler, &delivery).await;
    }
    let letter = amqp.get(&scene.name("dlq")).await;
    let headers = letter.delivery.properties.headers().clone().expect("headers");
    assert!(headers.contains_key("x-huge") && headers.contains_key("x-sidebus-history-dropped"), "{headers:?}");
    handler.leave().await;
    assert_eq!(sessions(&sidecar), 1, "no session was lost");
    assert_eq!(sidecar.process.stop().await, Some(0));
    amqp.wait_for_depth(&scene.name("work"), 0).await;
}

#[tokio::test]
async fn headers_that_leave_no_room_for_a_copy_go_back_and_hurt_nobody() {
    let scene = Scene::new().await;
    let mut sidecar = scene.sidecar(&scene.work("")).await;
    let mut handler = sidecar.handler().await;
    let amqp = scene.amqp().await;
    publish(&amqp, &scene.name("work"), 127_000, "1").await;
    let first = handler.delivery().await;
    retry(&handler, &first).await;
    sidecar
        .process
        .logged("copy can never be stored; the original goes back to its queue, and no attempt is counted")
        .await;
    publish(&amqp, &scene.name("work"), 10, "2").await;
    let mut came = Vec::new();
    for _ in 0..2 {
        let delivery = handler.delivery().await;
        came.push((number(&delivery), delivery.attempt, delivery.redelivered));
        handler.ack(&[delivery]).await;
    }
    came.sort_unstable();
    assert_eq!(came, [(1, 1, true), (2, 1, false)]);
    sidecar
        .metric_becomes("sidebus_copies_total{subscription=\"work\",purpose=\"retry\",result=\"impossible\"}", 1.0)
        .await;
    handler.leave().await;
    assert_eq!(sessions(&sidecar), 1, "no session was lost");
    assert_eq!(sidecar.process.stop().await, Some(0));
    amqp.wait_for_depth(&scene.name("work"), 0).await;
}
