//! Failed attempts: retries, their delays and their end, dead letters; and releases, which are no failures.

use std::collections::BTreeMap;

use sidebus::domain::message::Value;
use sidebus::domain::name::QueueName;
use sidebus::grpc::proto::sidebus::v1;
use sidebus::grpc::proto::sidebus::v1::SettlementOutcome as Outcome;
use sidebus::grpc::proto::sidebus::v1::header_value::Kind;
use tokio::time::{Duration, Instant};

use super::WORK;
use crate::support::sidecar::Sidecar;
use crate::support::words::{body, dead_letter, message, open, open_window, release, retry, settle};

fn published() -> v1::Message {
    let header = v1::HeaderValue { kind: Some(Kind::Integer(7)) };
    v1::Message {
        headers: BTreeMap::from([("tenant".to_owned(), header)]),
        ttl: Some(prost_types::Duration { seconds: 600, nanos: 0 }),
        priority: Some(3),
        content_type: "text/plain".to_owned(),
        ordering_key: "k".to_owned(),
        ..message("work.A", "payload")
    }
}

#[tokio::test]
async fn a_retry_comes_back_as_attempt_two_and_shows_what_attempt_one_showed() {
    let sidecar = Sidecar::start(WORK).await;
    sidecar.publish([published()]).await;
    let mut handler = sidecar.handler(v1::SubscribeOpen { handler: "unit-7".to_owned(), ..open("work") }).await;
    let first = handler.delivery().await;
    assert_eq!((first.first_failure.clone(), first.origin.clone()), (None, None));
    let begun = Instant::now();

    handler.say(settle([first.id], retry("DB_TIMEOUT", None))).await;
    let second = handler.delivery().await;

    // The policy's second, less the jitter of a fifth.
    assert!(begun.elapsed() >= Duration::from_millis(800), "early: {:?}", begun.elapsed());
    assert_eq!((second.attempt, second.id == first.id), (2, false));
    assert_eq!(second.message, first.message);
    assert_eq!(second.queue, first.queue);
    let failure = second.last_failure.clone().unwrap();
    assert_eq!(second.first_failure, second.last_failure);
    assert_eq!((failure.kind(), failure.attempt), (v1::FailureKind::Retry, 1));
    assert_eq!((failure.reason.as_str(), failure.description.as_str()), ("DB_TIMEOUT", "because of DB_TIMEOUT"));
    assert_eq!((failure.handler.as_str(), failure.time.is_some()), ("unit-7", true));
    let origin = second.origin.unwrap();
    let told = (origin.exchange.as_str(), origin.routing_key.as_str(), origin.queue.as_str());
    assert_eq!(told, ("angzarr.events", "work.A", "work"));
    assert_eq!(handler.other_results(), []);
}

#[tokio::test]
async fn a_message_that_had_no_id_shows_none_after_a_retry() {
    let sidecar = Sidecar::start(WORK).await;
    sidecar.publish_raw("work").await;
    let mut handler = sidecar.handler(open("work")).await;
    for attempt in 1..=3 {
        let delivery = handler.delivery().await;
        let message = delivery.message.unwrap();
        let shown = (message.exchange.as_str(), message.routing_key.as_str(), message.message_id.as_str());
        assert_eq!((delivery.attempt, shown), (attempt, ("@default", "work", "")));
        handler.say(settle([delivery.id], retry("AGAIN", Some(0)))).await;
    }
}

#[tokio::test]
async fn a_handlers_own_delay_is_kept_and_zero_is_the_shortest() {
    let sidecar = Sidecar::start(WORK).await;
    sidecar.publish([published()]).await;
    let mut handler = sidecar.handler(open("work")).await;
    for (delay, least) in [(0, 100), (150, 150)] {
        let delivery = handler.delivery().await;
        let begun = Instant::now();
        handler.say(settle([delivery.id], retry("SOON", Some(delay)))).await;
        sidecar.holds("work", 0, 0).await;
        let again = handler.delivery().await;
        let took = begun.elapsed();
        assert!(took >= Duration::from_millis(least), "{delay} ms: early after {took:?}");
        // Not the policy's.
        assert!(took < Duration::from_millis(800), "{delay} ms: late after {took:?}");
        handler.say(settle([again.id], release())).await;
    }
}

#[tokio::test]
async fn the_last_attempt_ends_in_the_dead_letters_and_is_told() {
    let sidecar = Sidecar::start(&format!("{WORK}retry = {{ max_attempts = 3 }}\n")).await;
    sidecar.publish([published()]).await;
    let mut handler = sidecar.handler(open("work")).await;
    let mut last = 0;
    for (attempt, reason) in [(1, "ONE"), (2, "TWO"), (3, "THREE")] {
        let delivery = handler.delivery().await;
        assert_eq!(delivery.attempt, attempt);
        assert_eq!(handler.other_results(), []);
        handler.say(settle([delivery.id], retry(reason, Some(0)))).await;
        last = delivery.id;
    }

    let told = handler.result().await;
    assert_eq!((told.id, told.outcome), (last, Outcome::DeadLettered));
    sidecar.holds("work", 0, 0).await;
    let letter = sidecar.take("angzarr.dlq").await;
    assert_eq!((letter.exchange.as_str(), letter.body.as_ref()), ("angzarr.dlx", &b"payload"[..]));
    let headers = letter.properties.headers;
    let text = |name: &str| headers.get(name).and_then(Value::as_text).unwrap_or_default();
    assert_eq!((text("x-sidebus-dlq-cause"), text("x-sidebus-dlq-reason")), ("MAX_ATTEMPTS", "THREE"));
    let Some(Value::Array(history)) = headers.get("x-sidebus-history") else { panic!("no history: {headers:?}") };
    let reason = |failure: &Value| failure.as_table().unwrap().get("reason").unwrap().as_text().unwrap().to_owned();
    assert_eq!(history.iter().map(reason).collect::<Vec<_>>(), ["ONE", "TWO", "THREE"]);
}

#[tokio::test]
async fn a_dead_letter_goes_at_once_with_its_reason_and_origin() {
    let sidecar = Sidecar::start(WORK).await;
    let assigned = sidecar.publish([published()]).await;
    let mut handler = sidecar.handler(open("work")).await;
    let delivery = handler.delivery().await;

    handler.say(settle([delivery.id], dead_letter("INVALID_ORDER"))).await;

    let letter = sidecar.take("angzarr.dlq").await;
    sidecar.holds("work", 0, 0).await;
    assert_eq!(letter.properties.message_id.as_deref(), Some(assigned[0].as_str()));
    let headers = &letter.properties.headers;
    let text = |name: &str| headers.get(name).and_then(Value::as_text).unwrap_or_default();
    assert_eq!((text("x-sidebus-dlq-cause"), text("x-sidebus-dlq-reason")), ("REJECTED_BY_HANDLER", "INVALID_ORDER"));
    assert_eq!(headers.get("tenant").and_then(Value::as_integer), Some(7), "the publisher's own headers stay");
    let origin = headers.get("x-sidebus-origin").and_then(Value::as_table).unwrap();
    assert_eq!(origin.get("routing-key").and_then(Value::as_text), Some("work.A"));
    assert_eq!((handler.pending().await, handler.other_results()), (Vec::new(), Vec::new()), "success is silent");
}

/// The cause on the only letter.
async fn cause(sidecar: &Sidecar) -> String {
    let letter = sidecar.take("angzarr.dlq").await;
    letter.properties.headers.get("x-sidebus-dlq-cause").and_then(Value::as_text).unwrap_or_default().to_owned()
}

#[tokio::test]
async fn a_message_that_would_expire_before_its_next_attempt_is_given_up_now() {
    let sidecar = Sidecar::start(WORK).await;
    let ttl = Some(prost_types::Duration { seconds: 30, nanos: 0 });
    sidecar.publish([v1::Message { ttl, ..published() }]).await;
    let mut handler = sidecar.handler(open("work")).await;
    let delivery = handler.delivery().await;
    handler.say(settle([delivery.id], retry("LATER", Some(31_000)))).await;
    assert_eq!(handler.result().await.outcome, Outcome::DeadLettered);
    assert_eq!(cause(&sidecar).await, "EXPIRED");
}

#[tokio::test]
async fn a_last_attempt_that_runs_out_of_time_is_given_up_with_that_cause() {
    let sidecar = Sidecar::start(&format!("{WORK}settle_timeout = \"1s\"\nretry = {{ max_attempts = 1 }}\n")).await;
    sidecar.publish([published()]).await;
    let mut handler = sidecar.handler(open("work")).await;
    let delivery = handler.delivery().await;
    assert_eq!(handler.revocation().await.delivery_ids, [delivery.id]);
    assert_eq!(cause(&sidecar).await, "SETTLE_TIMEOUT");
    sidecar.holds("work", 0, 0).await;
}

#[tokio::test]
async fn a_missing_dead_letter_queue_is_made_again_before_anything_is_given_up() {
    let sidecar = Sidecar::start(WORK).await;
    sidecar.publish([published()]).await;
    let mut handler = sidecar.handler(open("work")).await;
    let delivery = handler.delivery().await;
    assert!(sidecar.broker.faults().delete_queue(&QueueName::parse("angzarr.dlq").unwrap()));
    handler.say(settle([delivery.id], dead_letter("NEVER"))).await;
    sidecar.holds("angzarr.dlq", 1, 0).await;
    sidecar.holds("work", 0, 0).await;
}

#[tokio::test]
async fn dead_letters_reach_whoever_listens_at_their_exchange() {
    let letters = "[queues.letters]\nbindings = [{ exchange = \"angzarr.dlx\", routing_key = \"\" }]\n";
    let sidecar = Sidecar::start(&format!("{WORK}{letters}")).await;
    sidecar.publish([published()]).await;
    let mut handler = sidecar.handler(open("work")).await;
    let delivery = handler.delivery().await;
    handler.say(settle([delivery.id], dead_letter("NEVER"))).await;
    let letter = sidecar.handler(open("letters")).await.delivery().await;
    assert_eq!((body(&letter).as_str(), letter.attempt), ("payload", 1));
    sidecar.holds("angzarr.dlq", 1, 0).await;
}

#[tokio::test]
async fn a_released_message_comes_back_redelivered_and_uncharged() {
    let sidecar = Sidecar::start(WORK).await;
    sidecar.publish([published()]).await;
    let mut handler = sidecar.handler(open_window("work", 1)).await;
    let first = handler.delivery().await;
    handler.say(settle([first.id], release())).await;
    let second = handler.delivery().await;
    assert_eq!((second.attempt, second.redelivered, second.id == first.id), (1, true, false));
    assert_eq!((second.message, second.first_failure, second.origin), (first.message, None, None));
}

#[tokio::test]
async fn a_lost_confirm_of_a_copy_loses_nothing() {
    let sidecar = Sidecar::start(WORK).await;
    sidecar.publish([published()]).await;
    let mut handler = sidecar.handler(open("work")).await;
    let first = handler.delivery().await;
    handler.say(settle([first.id], retry("AGAIN", Some(0)))).await;
    let second = handler.delivery().await;
    // The slot is there by now: what is lost is the answer, not the copy.
    sidecar.broker.faults().lose_confirms(1);

    handler.say(settle([second.id], retry("AGAIN", Some(0)))).await;

    // The copy is stored twice, since nobody knows of the first one: at least once, and never less.
    for _ in 0..2 {
        assert_eq!(handler.delivery().await.attempt, 3);
    }
    assert_eq!((handler.pending().await, handler.other_results()), (Vec::new(), Vec::new()));
}
