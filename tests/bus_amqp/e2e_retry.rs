//! Retries and dead letters on real queues of both types: what comes back, what lies in the dead letters, and that
//! nothing is lost while they cannot be stored.

use std::time::Duration;

use lapin::message::BasicGetMessage;
use lapin::types::{AMQPValue, FieldTable};
use sidebus::grpc::proto::sidebus::v1;
use sidebus::grpc::proto::sidebus::v1::header_value::Kind;
use tokio::time::Instant;

use crate::support::handler::message;
use crate::support::publisher::{header, numbered, with_headers};
use crate::support::scene::{Scene, Sidecar};
use crate::support::wait::until;

const QUEUE_TYPES: [&str; 2] = ["quorum", "classic"];
/// The shortest delay slot.
const SLOT: Duration = Duration::from_millis(100);

fn every_kind_of_header() -> v1::Message {
    let list = v1::HeaderArray { items: vec![header(Kind::Integer(-7)), header(Kind::Text("deep".to_owned()))] };
    let entries = [("list".to_owned(), header(Kind::Array(list)))].into_iter().collect();
    let message = with_headers([
        ("text", Kind::Text("ä".to_owned())),
        ("integer", Kind::Integer(i64::MIN)),
        ("number", Kind::Number(0.1)),
        ("boolean", Kind::Boolean(true)),
        ("binary", Kind::Binary(vec![0, 255, 7].into())),
        ("time", Kind::Time(prost_types::Timestamp { seconds: 1_700_000_000, nanos: 0 })),
        ("decimal", Kind::Decimal("12.50".to_owned())),
        ("null", Kind::Null(v1::Null {})),
        ("table", Kind::Table(v1::HeaderTable { entries })),
    ]);
    v1::Message {
        content_type: "application/json".to_owned(),
        correlation_id: "c-1".to_owned(),
        ordering_key: "k".to_owned(),
        causation_id: "because".to_owned(),
        priority: Some(3),
        ttl: Some(prost_types::Duration { seconds: 600, nanos: 0 }),
        ..message
    }
}

async fn sidecar(scene: &Scene, queue_type: &str) -> Sidecar {
    scene.sidecar(&scene.work(&format!("queue_type = \"{queue_type}\""))).await
}

/// What was unacked would be ready again once the sidecar is gone.
async fn ended_with(mut sidecar: Sidecar, scene: &Scene, left: u32) {
    assert_eq!(sidecar.process.stop().await, Some(0));
    scene.amqp().await.wait_for_depth(&scene.name("work"), left).await;
}

fn headers(letter: &BasicGetMessage) -> FieldTable {
    letter.delivery.properties.headers().clone().unwrap_or_default()
}

fn text(letter: &BasicGetMessage, name: &str) -> String {
    match headers(letter).inner().get(name) {
        Some(AMQPValue::LongString(text)) => String::from_utf8_lossy(text.as_bytes()).into_owned(),
        other => panic!("{name} is {other:?}"),
    }
}

#[tokio::test]
async fn a_retried_message_comes_back_as_it_was_and_not_before_its_time() {
    for queue_type in QUEUE_TYPES {
        let scene = Scene::new().await;
        let sidecar = sidecar(&scene, queue_type).await;
        let mut handler = sidecar.handler().await;
        sidecar.publisher().await.publish(vec![every_kind_of_header()]).await.expect("confirmed");
        let first = handler.delivery().await;
        let begun = Instant::now();
        handler.retry(&first).await;
        let second = handler.delivery().await;

        assert!(begun.elapsed() >= SLOT, "{queue_type}: after {:?}", begun.elapsed());
        assert_eq!((first.attempt, second.attempt), (1, 2));
        // Exchange, key, id, life time and every header with its type.
        assert_eq!(message(&first), message(&second), "{queue_type}");
        assert_eq!(message(&second).headers, every_kind_of_header().headers);
        let failure = second.last_failure.clone().expect("attempt 1 failed");
        assert_eq!((failure.reason.as_str(), failure.description.as_str()), ("BUSY", "later"));
        let origin = second.origin.clone().expect("it was copied");
        assert_eq!((origin.exchange, origin.queue), (scene.name("events"), scene.name("work")));
        handler.retry(&second).await;
        let third = handler.delivery().await;
        assert_eq!((third.attempt, message(&third)), (3, message(&first)), "{queue_type}");
        handler.ack(&[third]).await;
        handler.leave().await;
        let amqp = scene.amqp().await;
        let slot = format!("{}.delay.000000100", scene.prefix);
        assert_eq!(amqp.depth(&slot).await, Some(0), "the slot is there, and empty");
        // Another type or other arguments would be refused.
        amqp.declare(&slot, slot_arguments()).await;
        ended_with(sidecar, &scene, 0).await;
    }
}

fn slot_arguments() -> FieldTable {
    let mut arguments = FieldTable::default();
    let texts = [
        ("x-queue-type", "quorum"),
        ("x-dead-letter-exchange", ""),
        ("x-dead-letter-strategy", "at-least-once"),
        ("x-overflow", "reject-publish"),
    ];
    for (name, value) in texts {
        arguments.insert(name.into(), AMQPValue::LongString(value.into()));
    }
    arguments.insert("x-message-ttl".into(), AMQPValue::LongLongInt(100));
    arguments
}

#[tokio::test]
async fn a_dead_letter_carries_why_who_and_the_whole_message() {
    for queue_type in QUEUE_TYPES {
        let scene = Scene::new().await;
        let sidecar = sidecar(&scene, queue_type).await;
        let mut handler = sidecar.handler().await;
        sidecar.publisher().await.publish(vec![every_kind_of_header()]).await.expect("confirmed");
        let delivery = handler.delivery().await;
        handler.dead_letter(&delivery).await;
        handler.leave().await;

        let letter = scene.amqp().await.get(&scene.name("dlq")).await;
        assert_eq!(text(&letter, "x-sidebus-dlq-cause"), "REJECTED_BY_HANDLER");
        assert_eq!(text(&letter, "x-sidebus-dlq-reason"), "NO_SUCH_HAND");
        assert_eq!(text(&letter, "text"), "ä");
        assert_eq!(headers(&letter).inner().get("integer"), Some(&AMQPValue::LongLongInt(i64::MIN)));
        assert_eq!(headers(&letter).inner().get("x-sidebus-attempt"), Some(&AMQPValue::LongLongInt(1)));
        for name in ["x-sidebus-dlq-id", "x-sidebus-dlq-by"] {
            assert!(!text(&letter, name).is_empty());
        }
        for name in ["x-sidebus-dlq-time", "x-sidebus-origin", "x-sidebus-history"] {
            assert!(headers(&letter).contains_key(name), "{name}");
        }
        assert_eq!(letter.delivery.data, b"0");
        assert_eq!(letter.delivery.properties.message_id().as_ref().map(ToString::to_string).as_deref(), Some("0"));
        ended_with(sidecar, &scene, 0).await;
    }
}

#[tokio::test]
async fn after_the_last_attempt_a_message_is_a_dead_letter() {
    let scene = Scene::new().await;
    let sidecar = scene.sidecar(&[&scene.work(""), "[retry]\nmax_attempts = 3\n"].concat()).await;
    let mut handler = sidecar.handler().await;
    sidecar.publisher().await.publish_numbers(7..8).await;
    for attempt in 1..=3 {
        let delivery = handler.delivery().await;
        assert_eq!(delivery.attempt, attempt);
        handler.retry(&delivery).await;
    }
    let dead_lettered = i32::from(v1::SettlementOutcome::DeadLettered);
    handler
        .until("the handler is told", |handler| handler.results.iter().any(|result| result.outcome == dead_lettered))
        .await;
    handler.leave().await;
    let letter = scene.amqp().await.get(&scene.name("dlq")).await;
    assert_eq!(text(&letter, "x-sidebus-dlq-cause"), "MAX_ATTEMPTS");
    assert_eq!(headers(&letter).inner().get("x-sidebus-attempt"), Some(&AMQPValue::LongLongInt(3)));
    ended_with(sidecar, &scene, 0).await;
}

/// The messages that are ready once the sidecar is killed: those that were never settled.
async fn unsettled(sidecar: &mut Sidecar, scene: &Scene, count: u32) {
    sidecar.process.kill().await;
    scene.amqp().await.wait_for_depth(&scene.name("work"), count).await;
}

#[tokio::test]
async fn a_letter_without_a_place_keeps_its_message_unacked_until_there_is_one() {
    for is_killed in [true, false] {
        let scene = Scene::new().await;
        // Made once; then it may only look, so that it cannot make the place by itself.
        ended_with(scene.sidecar(&scene.work("")).await, &scene, 0).await;
        let verify = scene.settings(&scene.work("")).replace("namespace", "topology = \"verify\"\nnamespace");
        let mut sidecar = Sidecar::from_file(&verify, &scene).await;
        sidecar.ready().await;
        let mut handler = sidecar.handler().await;
        handler.state(v1::SubscriptionState::Active, 0).await;
        let amqp = scene.amqp().await;
        sidecar.publisher().await.publish(vec![numbered(1)]).await.expect("confirmed");
        let delivery = handler.delivery().await;
        let options = lapin::options::ExchangeDeleteOptions { if_unused: false, nowait: false };
        amqp.channel.exchange_delete(scene.name("dlx").into(), options).await.expect("the exchange goes");
        amqp.delete(&scene.name("dlq")).await;
        handler.dead_letter(&delivery).await;
        let is_told = |line: &String| line.contains("copy not stored") && line.contains("-dlx does not exist");
        let look = async || sidecar.process.log().iter().any(is_told).then_some(());
        until("the missing exchange is named", look).await;
        if is_killed {
            unsettled(&mut sidecar, &scene, 1).await;
            continue;
        }
        let mut maker = scene.sidecar(&scene.work("")).await;
        assert_eq!(maker.process.stop().await, Some(0));
        amqp.wait_for_depth(&scene.name("dlq"), 1).await;
        handler.leave().await;
        ended_with(sidecar, &scene, 0).await;
    }
}

#[tokio::test]
async fn full_dead_letters_keep_messages_unacked_until_there_is_room() {
    let scene = Scene::new().await;
    let amqp = scene.amqp().await;
    let mut full = FieldTable::default();
    full.insert("x-max-length".into(), AMQPValue::LongLongInt(1));
    full.insert("x-overflow".into(), AMQPValue::LongString("reject-publish".into()));
    amqp.declare(&scene.name("dlq"), full).await;
    let mut sidecar = scene.sidecar(&scene.work("")).await;
    let mut handler = sidecar.handler().await;
    sidecar.publisher().await.publish_numbers(0..2).await;
    for delivery in handler.deliveries(2).await {
        handler.dead_letter(&delivery).await;
    }
    sidecar.process.logged("copy not stored; the original stays unacked and the copy is tried again").await;
    assert_eq!(amqp.depth(&scene.name("dlq")).await, Some(1));

    let mut letters = vec![amqp.get(&scene.name("dlq")).await];
    letters.push(amqp.get(&scene.name("dlq")).await);

    let mut bodies: Vec<_> = letters.iter().map(|letter| letter.delivery.data.clone()).collect();
    bodies.sort();
    assert_eq!(bodies, [b"0".to_vec(), b"1".to_vec()]);
    handler.leave().await;
    ended_with(sidecar, &scene, 0).await;
    until("no third letter", async || (amqp.depth(&scene.name("dlq")).await == Some(0)).then_some(())).await;
}
