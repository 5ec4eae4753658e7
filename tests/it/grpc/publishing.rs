//! Publishing: OK only when every message is stored, and a code of its own for everything else.

use std::collections::BTreeMap;
use std::time::Duration;

use futures_util::future::join_all;
use sidebus::broker::BrokerError;
use sidebus::grpc::proto::sidebus::v1;
use sidebus::grpc::proto::sidebus::v1::header_value::Kind;
use tokio::time::timeout;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Request};

use super::WORK;
use crate::support::errors::{Refused, refused};
use crate::support::eventually;
use crate::support::sidecar::Sidecar;
use crate::support::words::{ack, message, open, settle};

#[tokio::test]
async fn ids_are_kept_or_assigned_and_answered_in_order() {
    let sidecar = Sidecar::start(WORK).await;
    let own = |id: &str| v1::Message { message_id: id.to_owned(), ..message("work.A", id) };
    let ids = sidecar.publish([own("a"), message("work.A", "assigned"), own("b"), own("a")]).await;
    assert_eq!((ids.len(), ids[0].as_str(), ids[2].as_str(), ids[3].as_str()), (4, "a", "b", "a"));
    assert_eq!(uuid::Uuid::parse_str(&ids[1]).unwrap().get_version_num(), 7);
    let mut handler = sidecar.handler(open("work")).await;
    let received = handler.deliveries(4).await;
    let seen: Vec<String> = received.into_iter().map(|delivery| delivery.message.unwrap().message_id).collect();
    assert_eq!(seen, ids);
}

/// failures.md P1.
#[tokio::test]
async fn what_no_queue_takes_is_an_error_unless_that_is_allowed() {
    let sidecar = Sidecar::start(WORK).await;
    let lost = message("nobody.Cares", "1");
    let why = refused(sidecar.try_publish(vec![lost.clone()]).await, Code::FailedPrecondition, "UNROUTABLE");
    assert_eq!((why.value("exchange"), why.value("routing_key")), ("angzarr.events", "nobody.Cares"));
    assert_eq!(why.retry_after, None, "a repetition would not help");

    let options = Some(v1::PublishOptions { allow_unroutable: true });
    let request = v1::PublishRequest { messages: vec![lost], options };
    let answer = sidecar.publisher().await.publish(request).await.unwrap().into_inner();
    assert_eq!(answer.message_ids.len(), 1);
}

#[tokio::test]
async fn a_missing_exchange_is_named_and_the_nameless_one_is_always_there() {
    let sidecar = Sidecar::start(WORK).await;
    let to = |exchange: &str| v1::Message { exchange: exchange.to_owned(), ..message("work", "1") };
    let why = refused(sidecar.try_publish(vec![to("nowhere")]).await, Code::NotFound, "EXCHANGE_NOT_FOUND");
    assert_eq!(why.value("exchange"), "nowhere");
    sidecar.publish([to("@default")]).await;
    let delivery = sidecar.handler(open("work")).await.delivery().await;
    assert_eq!(delivery.message.unwrap().exchange, "@default");
}

#[tokio::test]
async fn sizes_have_limits_and_each_its_code() {
    let sidecar = Sidecar::start(&format!("{WORK}[grpc]\nmax_message_bytes = \"1KiB\"\n")).await;
    sidecar.publish([message("work.A", vec![0; 1_024])]).await;
    let large = vec![message("work.A", "1"), message("work.A", vec![0; 1_025])];
    let why = refused(sidecar.try_publish(large).await, Code::InvalidArgument, "MESSAGE_TOO_LARGE");
    let told = (why.value("field"), why.value("found_bytes"), why.value("max_bytes"));
    assert_eq!(told, ("messages[1].body", "1025", "1024"));
    // Above the decoder's limit nothing of the request is known, so there are no details.
    let beyond = vec![message("work.A", vec![0; (1 << 20) + 2_048])];
    refused(sidecar.try_publish(beyond).await, Code::OutOfRange, "");
    sidecar.holds("work", 1, 0).await;
}

/// failures.md P6.
#[tokio::test]
async fn bad_messages_are_refused_with_the_field_and_nothing_is_stored() {
    let sidecar = Sidecar::start(WORK).await;
    let header = |name: &str| {
        let value = v1::HeaderValue { kind: Some(Kind::Text("x".to_owned())) };
        v1::Message { headers: BTreeMap::from([(name.to_owned(), value)]), ..message("work.A", "1") }
    };
    let no_kind = BTreeMap::from([("empty".to_owned(), v1::HeaderValue { kind: None })]);
    for (bad, field) in [
        (message(&format!("work.{}", "a".repeat(251)), "1"), "messages[1].routing_key"),
        (header("x-sidebus-attempt"), "messages[1].headers[\"x-sidebus-attempt\"]"),
        (header("x-death"), "messages[1].headers[\"x-death\"]"),
        (header("CC"), "messages[1].headers[\"CC\"]"),
        (v1::Message { headers: no_kind, ..message("work.A", "1") }, "messages[1].headers[\"empty\"]"),
        (v1::Message { priority: Some(256), ..message("work.A", "1") }, "messages[1].priority"),
        (v1::Message { ttl: Some(prost_types::Duration::default()), ..message("work.A", "1") }, "messages[1].ttl"),
        (v1::Message { app_id: "a".repeat(256), ..message("work.A", "1") }, "messages[1].app_id"),
    ] {
        let why = refused(
            sidecar.try_publish(vec![message("work.A", "good"), bad]).await,
            Code::InvalidArgument,
            "INVALID_MESSAGE",
        );
        assert_eq!(why.fields, [field]);
    }
    sidecar.publish([message(&format!("work.{}", "a".repeat(250)), "255 bytes are legal")]).await;
    sidecar.holds("work", 1, 0).await;
}

#[tokio::test]
async fn a_request_holds_one_to_five_hundred_messages() {
    let sidecar = Sidecar::start(WORK).await;
    let many = |count| vec![message("work.A", "1"); count];
    for count in [0, 501] {
        let why = refused(sidecar.try_publish(many(count)).await, Code::InvalidArgument, "INVALID_REQUEST");
        assert_eq!(why.fields, ["messages"]);
    }
    assert_eq!(sidecar.publish(many(500)).await.len(), 500);
    sidecar.holds("work", 500, 0).await;
}

#[tokio::test]
async fn a_full_queue_refuses_and_says_that_a_repetition_may_help() {
    let sidecar = Sidecar::start(&format!("{WORK}arguments = {{ x-max-length = 1 }}\n")).await;
    sidecar.publish([message("work.A", "1")]).await;
    let full = sidecar.try_publish(vec![message("work.A", "2")]).await;
    let why = refused(full, Code::ResourceExhausted, "PUBLISH_REJECTED");
    assert!(why.retry_after.is_some() && why.value("routing_key") == "work.A", "{why:?}");
    let mut handler = sidecar.handler(open("work")).await;
    let first = handler.delivery().await;
    handler.say(settle([first.id], ack())).await;
    sidecar.publish([message("work.A", "3")]).await;
}

#[tokio::test]
async fn a_partial_failure_lists_what_failed_and_why() {
    let sidecar = Sidecar::start(WORK).await;
    let elsewhere = v1::Message { exchange: "nowhere".to_owned(), ..message("work.A", "3") };
    let batch = vec![message("work.A", "0"), message("nobody.A", "1"), message("work.A", "2"), elsewhere];
    let why = refused(sidecar.try_publish(batch).await, Code::FailedPrecondition, "UNROUTABLE");
    assert_eq!((why.value("failed_count"), why.value("failed_indexes")), ("2", "1,3"));
    assert_eq!(why.value("failed_reasons"), "UNROUTABLE,EXCHANGE_NOT_FOUND");
    sidecar.holds("work", 2, 0).await;
}

#[tokio::test]
async fn at_most_sixteen_failures_are_listed_and_all_are_counted() {
    let sidecar = Sidecar::start(WORK).await;
    let batch = (0..40).map(|number| message("nobody.A", number.to_string())).collect();
    let why = refused(sidecar.try_publish(batch).await, Code::FailedPrecondition, "UNROUTABLE");
    assert_eq!((why.value("failed_count"), why.value("failed_indexes").split(',').count()), ("40", 16));
}

#[tokio::test]
async fn every_property_and_kind_of_header_comes_through() {
    let sidecar = Sidecar::start(WORK).await;
    let sent = full_message();
    let id = sidecar.publish([sent.clone()]).await.remove(0);
    let received = sidecar.handler(open("work")).await.delivery().await.message.unwrap();
    assert!(received.publish_time.is_some(), "the sidecar notes the time");
    let expected = v1::Message {
        message_id: id,
        exchange: "angzarr.events".to_owned(),
        publish_time: received.publish_time,
        // The broker's word for the publisher, never the publisher's own.
        user_id: String::new(),
        ..sent
    };
    assert_eq!(received, expected);
    // What was received can be published as it is.
    sidecar.publish([received]).await;
}

fn full_message() -> v1::Message {
    let value = |kind| v1::HeaderValue { kind: Some(kind) };
    let nested = v1::HeaderTable { entries: BTreeMap::from([("in".to_owned(), value(Kind::Integer(i64::MIN)))]) };
    let items = vec![value(Kind::Boolean(true)), value(Kind::Table(nested.clone()))];
    let kinds = [
        ("text", Kind::Text("grüße".to_owned())),
        ("integer", Kind::Integer(i64::MAX)),
        ("number", Kind::Number(-0.5)),
        ("boolean", Kind::Boolean(false)),
        ("binary", Kind::Binary(vec![0, 0xff].into())),
        ("time", Kind::Time(prost_types::Timestamp { seconds: 1_700_000_000, nanos: 0 })),
        ("table", Kind::Table(nested)),
        ("array", Kind::Array(v1::HeaderArray { items })),
        ("decimal", Kind::Decimal("12.50".to_owned())),
        ("null", Kind::Null(v1::Null {})),
    ];
    v1::Message {
        headers: kinds.into_iter().map(|(name, kind)| (name.to_owned(), value(kind))).collect(),
        content_type: "application/json".to_owned(),
        content_encoding: "gzip".to_owned(),
        correlation_id: "correlation".to_owned(),
        causation_id: "causation".to_owned(),
        r#type: "Registered".to_owned(),
        reply_to: "answers".to_owned(),
        ttl: Some(prost_types::Duration { seconds: 60, nanos: 5_000_000 }),
        priority: Some(0),
        trace: Some(trace("01")),
        transient: true,
        app_id: "app".to_owned(),
        user_id: "somebody else".to_owned(),
        ordering_key: "key".to_owned(),
        ..message("work.A", vec![0, 0xff, 0])
    }
}

fn trace(flags: &str) -> v1::TraceContext {
    v1::TraceContext {
        traceparent: format!("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-{flags}"),
        tracestate: "a=b".to_owned(),
        baggage: "c=d".to_owned(),
    }
}

#[tokio::test]
async fn the_trace_of_the_call_stands_in_for_that_of_the_message() {
    let sidecar = Sidecar::start(WORK).await;
    let own = v1::Message { trace: Some(trace("00")), ..message("work.A", "own") };
    let mut request =
        Request::new(v1::PublishRequest { messages: vec![own, message("work.A", "none")], options: None });
    let of_call = trace("01");
    request.metadata_mut().insert("traceparent", of_call.traceparent.parse().unwrap());
    sidecar.publisher().await.publish(request).await.unwrap();
    let received = sidecar.handler(open("work")).await.deliveries(2).await;
    let parents: Vec<String> =
        received.into_iter().map(|delivery| delivery.message.unwrap().trace.unwrap().traceparent).collect();
    assert_eq!(parents, [trace("00").traceparent, of_call.traceparent]);
}

#[tokio::test]
async fn an_alarm_and_a_lost_broker_are_told_at_once_and_differ() {
    let sidecar = Sidecar::start(WORK).await;
    let faults = sidecar.broker.faults();
    let publish = async || sidecar.try_publish(vec![message("work.A", "1")]).await;
    // What is sent before the alarm is seen waits for its confirm, so nobody here waits for that.
    let reason = async |wanted: &str| {
        eventually(wanted, async || {
            let answer = timeout(Duration::from_millis(200), publish()).await.ok()?;
            let why = Refused::from(answer.err()?);
            (why.reason == wanted).then_some(why)
        })
        .await
    };

    faults.block("low on memory");
    let blocked = reason("BROKER_BLOCKED").await;
    assert!(blocked.code == Code::Unavailable && blocked.retry_after.is_some(), "{blocked:?}");
    assert!(blocked.text.contains("low on memory"), "{blocked:?}");
    faults.unblock();
    eventually("publishing again", async || publish().await.ok()).await;

    faults.refuse_connects(BrokerError::Unreachable { endpoint: "memory".to_owned(), reason: "down".to_owned() });
    faults.break_sessions("cut by the test");
    let down = reason("BROKER_UNAVAILABLE").await;
    assert!(down.code == Code::Unavailable && down.retry_after.is_some(), "{down:?}");
    faults.accept_connects();
    eventually("publishing again", async || publish().await.ok()).await;
}

#[tokio::test]
async fn a_lost_confirm_is_told_as_such() {
    let sidecar = Sidecar::start(WORK).await;
    sidecar.broker.faults().lose_confirms(1);
    let why = refused(sidecar.try_publish(vec![message("work.A", "1")]).await, Code::Unavailable, "CONFIRM_LOST");
    assert!(why.retry_after.is_some() && why.text.contains("message_id"), "{why:?}");
    sidecar.publish([message("work.A", "2")]).await;
}

#[tokio::test]
async fn too_much_in_flight_is_refused_and_not_queued() {
    let limits = "[limits]\npublishes_in_flight = 2\n";
    let sidecar = Sidecar::start(&format!("{WORK}{limits}")).await;
    // A request larger than the limit still goes, alone.
    sidecar.publish(vec![message("work.A", "1"); 5]).await;
    let (mut one, mut two) = (sidecar.publisher().await, sidecar.publisher().await);
    let request = || v1::PublishRequest { messages: vec![message("work.A", "1"); 500], options: None };
    // Two at once: one is always taken, and where they meet the other is told to come again.
    let met = eventually("a refusal", async || {
        let (one, two) = tokio::join!(one.publish(request()), two.publish(request()));
        assert!(one.is_ok() || two.is_ok(), "{one:?} {two:?}");
        one.and(two).err()
    })
    .await;
    let why = refused(Err::<(), _>(met), Code::ResourceExhausted, "HANDLER_LIMIT");
    assert!(why.value("limit") == "2" && why.retry_after.is_some(), "{why:?}");
}

/// Callers of one process share a connection with its handlers, and may all give up at the same moment.
#[tokio::test]
async fn a_storm_of_calls_that_are_given_up_leaves_their_connection_to_the_others() {
    let sidecar = Sidecar::start(WORK).await;
    let publisher = sidecar.publisher().await;
    let (items, requests) = tokio::sync::mpsc::channel(1);
    let stream = publisher.clone().publish_stream(ReceiverStream::new(requests)).await.unwrap();
    let mut answers = stream.into_inner();
    for round in 1..=10 {
        let request = || v1::PublishRequest { messages: vec![message("work.A", "1")], options: None };
        let calls = (0..1_500).map(|_| {
            let mut publisher = publisher.clone();
            async move { publisher.publish(request()).await }
        });
        // Some are answered, some are on their way, and many are not sent yet.
        drop(timeout(Duration::from_millis(round), join_all(calls)).await);
        let item = v1::PublishItem { sequence: i64::try_from(round).unwrap(), message: Some(message("work.A", "2")) };
        items.send(v1::PublishStreamRequest { open: None, items: vec![item] }).await.unwrap();
        while answers.message().await.unwrap().unwrap().confirmed_sequences.is_empty() {}
    }
}
