//! The rules of the contract's comments, as facts.

use bytes::Bytes;
use prost_types::{Duration as WireDuration, Timestamp};
use v1::header_value::Kind;

use super::*;
use crate::domain::failure::{Failure, FailureKind, Origin};
use crate::domain::message::{Headers, Message, Properties, Value};
use crate::domain::name::ExchangeName;
use crate::grpc::problem::Problem;
use crate::grpc::proto::sidebus::v1;

pub(super) const LIMITS: PublishLimits =
    PublishLimits { body_bytes_max: 16 * 1024 * 1024, header_bytes_max: 64 * 1024, header_depth_max: 8 };

pub(super) fn publish(message: v1::Message) -> Result<Message, MessageProblem> {
    let exchange = ExchangeName::from_broker("angzarr.events");
    let defaults = PublishDefaults { exchange: &exchange, limits: LIMITS, now_unix_seconds: 1_700_000_000 };
    message_from_proto(message, &"", &defaults, || "assigned".to_owned())
}

fn header(kind: Kind) -> v1::HeaderValue {
    v1::HeaderValue { kind: Some(kind) }
}

fn text(text: &str) -> v1::HeaderValue {
    header(Kind::Text(text.to_owned()))
}

fn with_header(name: &str, value: v1::HeaderValue) -> v1::Message {
    v1::Message { headers: [(name.to_owned(), value)].into(), ..Default::default() }
}

fn nested(levels: usize) -> v1::HeaderValue {
    (0..levels).fold(text("x"), |inner, level| {
        if level % 2 == 0 {
            header(Kind::Array(v1::HeaderArray { items: vec![inner] }))
        } else {
            header(Kind::Table(v1::HeaderTable { entries: [("n".to_owned(), inner)].into() }))
        }
    })
}

/// The fields that a message is refused for.
fn refused(message: v1::Message) -> Vec<String> {
    match publish(message) {
        Err(MessageProblem::Invalid(violations)) => violations.into_iter().map(|violation| violation.field).collect(),
        other => panic!("must be refused as invalid: {other:?}"),
    }
}

fn from_broker(properties: Properties) -> v1::Message {
    let exchange = ExchangeName::nameless();
    message_to_proto(&Message { exchange, routing_key: "q".to_owned(), properties, body: Bytes::new() }).message
}

fn with_headers<const N: usize>(headers: [(&str, Value); N]) -> Properties {
    let headers = headers.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
    Properties { headers, ..Properties::default() }
}

#[test]
fn an_empty_message_is_published_with_the_defaults() {
    let message = publish(v1::Message::default()).expect("legal");
    assert_eq!(message.exchange.as_str(), "angzarr.events");
    assert_eq!(message.properties.delivery_mode, Some(2), "persistent unless told otherwise");
    assert_eq!(message.properties.message_id.as_deref(), Some("assigned"));
    assert_eq!(message.properties.timestamp, Some(1_700_000_000));
    assert_eq!((message.properties.priority, message.properties.expiration), (None, None));

    let transient = publish(v1::Message { transient: true, ..Default::default() }).expect("legal");
    assert_eq!(transient.properties.delivery_mode, Some(1));
}

#[test]
fn the_nameless_exchange_has_a_name_on_grpc() {
    let message = publish(v1::Message { exchange: "@default".to_owned(), ..Default::default() }).expect("legal");
    assert!(message.exchange.is_nameless());
    assert_eq!(from_broker(Properties::default()).exchange, "@default");
    assert!(publish(v1::Message { exchange: "amq.topic".to_owned(), ..Default::default() }).is_ok());
    assert_eq!(refused(v1::Message { exchange: "a\nb".to_owned(), ..Default::default() }), ["exchange"]);
}

/// failures.md P7.
#[test]
fn the_senders_user_and_time_are_ours_and_not_an_error() {
    let message = publish(v1::Message {
        user_id: "somebody".to_owned(),
        publish_time: Some(Timestamp { seconds: 5, nanos: 0 }),
        ..Default::default()
    });
    let message = message.expect("ignored, so that a received message can be published");
    assert_eq!((message.properties.user_id, message.properties.timestamp), (None, Some(1_700_000_000)));
}

#[test]
fn every_short_text_ends_at_255_bytes() {
    let long = || "é".repeat(128);
    let fields = refused(v1::Message {
        routing_key: long(),
        content_type: long(),
        message_id: long(),
        correlation_id: long(),
        causation_id: long(),
        exchange: long(),
        r#type: long(),
        reply_to: long(),
        content_encoding: long(),
        app_id: long(),
        ordering_key: long(),
        ..Default::default()
    });
    assert_eq!(fields.len(), 11, "{fields:?}");
    assert!(publish(v1::Message { routing_key: "x".repeat(255), ..Default::default() }).is_ok());
}

#[test]
fn reserved_names_are_refused_with_their_path() {
    for name in ["x-sidebus-attempt", "x-sidebus-key", "x-death", "CC", "BCC", "x-delay", "x-stream-offset"] {
        assert_eq!(refused(with_header(name, text("1"))), [format!("headers[{name:?}]")]);
    }
    // Below the top level the broker knows no such names.
    let inner = header(Kind::Table(v1::HeaderTable { entries: [("CC".to_owned(), text("1"))].into() }));
    assert!(publish(with_header("x-tenant", inner)).is_ok());
}

#[test]
fn header_names_end_at_128_bytes_at_every_level() {
    assert!(publish(with_header(&"n".repeat(128), text("1"))).is_ok());
    let field = refused(with_header(&"n".repeat(129), text("1"))).remove(0);
    assert!(field.len() < 80, "a long name must not fill the answer: {field}");
    let inner = header(Kind::Table(v1::HeaderTable { entries: [("n".repeat(129), text("1"))].into() }));
    assert!(publish(with_header("x", inner)).is_err());
}

#[test]
fn a_header_needs_a_value() {
    let none = || v1::HeaderValue { kind: None };
    assert_eq!(refused(with_header("x", none())), ["headers[\"x\"]"]);
    let list = header(Kind::Array(v1::HeaderArray { items: vec![text("a"), none()] }));
    assert_eq!(refused(with_header("x", list)), ["headers[\"x\"][1]"]);
}

#[test]
fn headers_nest_at_most_eight_levels() {
    assert!(publish(with_header("x", nested(8))).is_ok());
    let field = refused(with_header("x", nested(9))).remove(0);
    assert!(field.starts_with("headers[\"x\"][\"n\"]") || field.starts_with("headers[\"x\"][0]"), "{field}");
}

#[test]
fn headers_are_weighed_as_amqp_encodes_them() {
    // 4 for the table, 1 + 1 for the name, 1 + 4 for the text and its type.
    let fits = 64 * 1024 - 11;
    assert!(publish(with_header("x", text(&"y".repeat(fits)))).is_ok());
    assert_eq!(refused(with_header("x", text(&"y".repeat(fits + 1)))), ["headers"]);
}

#[test]
fn values_that_amqp_cannot_carry_are_refused() {
    for kind in [
        Kind::Time(Timestamp { seconds: -1, nanos: 0 }),
        Kind::Time(Timestamp { seconds: 0, nanos: -1 }),
        Kind::Time(Timestamp { seconds: i64::MAX, nanos: 0 }),
        Kind::Decimal("18446744073709551615".to_owned()),
        Kind::Decimal("abc".to_owned()),
    ] {
        assert_eq!(refused(with_header("x", header(kind.clone()))), ["headers[\"x\"]"], "{kind:?}");
    }
    let cut = publish(with_header("x", header(Kind::Time(Timestamp { seconds: 7, nanos: 999_999_999 }))));
    assert_eq!(cut.expect("legal").properties.headers["x"], Value::Timestamp(7), "fractions are cut");
}

#[test]
fn ttl_is_whole_milliseconds_that_the_broker_takes() {
    let with = |seconds, nanos| v1::Message { ttl: Some(WireDuration { seconds, nanos }), ..Default::default() };
    let message = publish(with(1, 500_000_000)).expect("legal");
    assert_eq!(message.properties.expiration.as_deref(), Some("1500"));
    assert!(publish(with(4_294_967, 295_000_000)).is_ok());
    for (seconds, nanos) in [(0, 0), (0, 999_999), (0, 1_500_000), (-1, 0), (4_294_967, 296_000_000), (i64::MAX, 0)] {
        assert_eq!(refused(with(seconds, nanos)), ["ttl"], "{seconds} s {nanos} ns");
    }
}

#[test]
fn priority_is_one_byte_and_zero_is_not_unset() {
    let with = |priority| v1::Message { priority: Some(priority), ..Default::default() };
    assert_eq!(publish(with(0)).expect("legal").properties.priority, Some(0));
    assert_eq!(publish(with(255)).expect("legal").properties.priority, Some(255));
    for priority in [-1, 256, i32::MIN] {
        assert_eq!(refused(with(priority)), ["priority"]);
    }
}

#[test]
fn a_large_body_is_its_own_problem() {
    let exchange = ExchangeName::nameless();
    let limits = PublishLimits { body_bytes_max: 4, ..LIMITS };
    let defaults = PublishDefaults { exchange: &exchange, limits, now_unix_seconds: 0 };
    let of = |body: &'static [u8]| {
        let message = v1::Message { body: Bytes::from_static(body), priority: Some(-1), ..Default::default() };
        batch_from_proto(vec![v1::Message::default(), message], &defaults, String::new).expect_err("refused")
    };
    assert_eq!(of(b"12345"), Problem::MessageTooLarge { field: "messages[1].body".to_owned(), found: 5, max: 4 });
    assert!(
        matches!(of(b"1234"), Problem::InvalidMessage(violations) if violations[0].field == "messages[1].priority")
    );
}

#[test]
fn a_batch_holds_1_to_500_messages_and_names_every_fault() {
    let exchange = ExchangeName::nameless();
    let defaults = PublishDefaults { exchange: &exchange, limits: LIMITS, now_unix_seconds: 0 };
    let of = |messages| batch_from_proto(messages, &defaults, String::new);
    assert!(matches!(of(Vec::new()), Err(Problem::InvalidRequest(_))));
    assert!(matches!(of(vec![v1::Message::default(); 501]), Err(Problem::InvalidRequest(_))));
    assert_eq!(of(vec![v1::Message::default(); 500]).map(|messages| messages.len()), Ok(500));

    let bad = v1::Message { priority: Some(-1), cloud_event: Some(v1::CloudEvent::default()), ..Default::default() };
    let Err(Problem::InvalidMessage(violations)) = of(vec![bad.clone(), v1::Message::default(), bad]) else {
        panic!("must be refused");
    };
    let fields: Vec<_> = violations.iter().map(|violation| violation.field.as_str()).collect();
    assert_eq!(
        fields,
        ["messages[0].priority", "messages[0].cloud_event", "messages[2].priority", "messages[2].cloud_event"]
    );
}

#[test]
fn one_thing_said_twice_is_refused() {
    let traceparent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01".to_owned();
    let message = v1::Message {
        trace: Some(v1::TraceContext { traceparent, ..Default::default() }),
        ..with_header("traceparent", text("other"))
    };
    assert_eq!(refused(message), ["headers[\"traceparent\"]"]);
    let bad = v1::TraceContext { traceparent: "x".to_owned(), tracestate: "y".repeat(513), baggage: String::new() };
    let fields = refused(v1::Message { trace: Some(bad), ..Default::default() });
    assert_eq!(fields, ["trace.traceparent", "trace.tracestate"]);
}

#[test]
fn every_amqp_type_has_a_widened_form() {
    let not_utf8 = Bytes::from_static(b"\xff");
    for (value, expected) in [
        (Value::UInt8(255), Kind::Integer(255)),
        (Value::Int8(-1), Kind::Integer(-1)),
        (Value::UInt32(u32::MAX), Kind::Integer(i64::from(u32::MAX))),
        (Value::Float(1.5), Kind::Number(1.5)),
        (Value::Decimal { scale: 2, value: 1250 }, Kind::Decimal("12.50".to_owned())),
        (Value::Text(not_utf8.clone()), Kind::Binary(not_utf8)),
        (Value::Timestamp(253_402_300_799), Kind::Time(Timestamp { seconds: 253_402_300_799, nanos: 0 })),
        (Value::Timestamp(253_402_300_800), Kind::Integer(253_402_300_800)),
        (Value::Timestamp(u64::MAX), Kind::Decimal("18446744073709551615".to_owned())),
        (Value::Void, Kind::Null(v1::Null {})),
    ] {
        assert_eq!(from_broker(with_headers([("x", value.clone())])).headers["x"].kind, Some(expected), "{value:?}");
    }
}

#[test]
fn what_sidebus_and_the_broker_own_is_not_shown_as_headers() {
    let shown = from_broker(with_headers([
        ("x-sidebus-attempt", Value::Int64(3)),
        ("x-sidebus-key", Value::text("k")),
        ("x-sidebus-causation-id", Value::text("c")),
        ("x-delivery-count", Value::Int64(1)),
        ("CC", Value::Array(vec![Value::text("other")])),
        ("traceparent", Value::text("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")),
        ("baggage", Value::Int32(1)),
        ("x-tenant", Value::text("t")),
    ]));
    assert_eq!(shown.headers.keys().collect::<Vec<_>>(), ["baggage", "x-tenant"], "odd baggage stays a plain header");
    assert_eq!((shown.ordering_key.as_str(), shown.causation_id.as_str()), ("k", "c"));
    assert_eq!(shown.trace.expect("trace").traceparent.len(), 55);
}

#[test]
fn odd_properties_are_shown_as_unset() {
    for expiration in ["soon", "-1", "", "1.5", "99999999999999999999", "18446744073709551615"] {
        let properties = Properties { expiration: Some(expiration.to_owned()), ..Properties::default() };
        assert_eq!(from_broker(properties).ttl, None, "{expiration:?}");
    }
    let properties = Properties {
        expiration: Some("1500".to_owned()),
        timestamp: Some(u64::MAX),
        delivery_mode: Some(7),
        priority: Some(255),
        ..Properties::default()
    };
    let shown = from_broker(properties);
    assert_eq!(shown.ttl, Some(WireDuration { seconds: 1, nanos: 500_000_000 }));
    assert_eq!((shown.publish_time, shown.transient, shown.priority), (None, true, Some(255)));
}

#[test]
fn values_nested_too_deeply_are_left_out_and_counted() {
    let deep = |levels| (0..levels).fold(Value::Void, |inner, _| Value::Array(vec![inner, Value::Void]));
    let message = |levels| Message {
        exchange: ExchangeName::nameless(),
        routing_key: String::new(),
        properties: with_headers([("x", deep(levels)), ("y", Value::Void)]),
        body: Bytes::new(),
    };
    assert_eq!(message_to_proto(&message(8)).left_out, 0);
    let shown = message_to_proto(&message(9));
    assert_eq!((shown.left_out, shown.message.headers.len()), (1, 2));
}

#[test]
fn the_body_is_shared_and_not_copied() {
    let body = Bytes::from(vec![7; 1024]);
    let message = publish(v1::Message { body: body.clone(), ..Default::default() }).expect("legal");
    let shown = message_to_proto(&message).message;
    assert_eq!((message.body.as_ptr(), shown.body.as_ptr()), (body.as_ptr(), body.as_ptr()));
}

#[test]
fn the_brokers_own_history_is_shown_newest_first_and_bounded() {
    let line = |count: i64| {
        Value::Table(Headers::from([
            ("queue".to_owned(), Value::text("q")),
            ("reason".to_owned(), Value::text("expired")),
            ("routing-keys".to_owned(), Value::Array(vec![Value::text("a"), Value::Int64(1), Value::text("b")])),
            ("count".to_owned(), Value::Int64(count)),
            ("time".to_owned(), Value::Timestamp(9)),
        ]))
    };
    let mut lines: Vec<_> = (0..20).map(line).collect();
    lines.insert(0, Value::text("not a table"));
    let deaths = deaths_to_proto(&Headers::from([("x-death".to_owned(), Value::Array(lines))]));
    assert_eq!(deaths.len(), 16);
    assert_eq!((deaths[0].count, deaths[15].count), (0, 15));
    assert_eq!((deaths[0].routing_keys.join(","), deaths[0].reason.as_str()), ("a,b".to_owned(), "expired"));
    assert!(deaths_to_proto(&Headers::from([("x-death".to_owned(), Value::text("forged"))])).is_empty());
}

#[test]
fn a_delivery_carries_its_failures_and_its_origin() {
    let message = publish(v1::Message::default()).expect("legal");
    let failure = Failure {
        kind: FailureKind::Crash,
        reason: String::new(),
        description: "lost".to_owned(),
        handler: "h".to_owned(),
        attempt: 1,
        time_ms: 1_500,
        delay_ms: None,
    };
    let origin = Origin {
        exchange: ExchangeName::nameless(),
        routing_key: "k".to_owned(),
        queue: "q".to_owned(),
        first_time_ms: u64::MAX,
    };
    let parts = DeliveryParts {
        id: 42,
        message: &message,
        attempt: 2,
        redelivered: true,
        queue: "q",
        first_failure: Some(&failure),
        last_failure: Some(&failure),
        origin: Some(&origin),
    };
    let delivery = delivery_to_proto(&parts).delivery;
    let shown = delivery.last_failure.expect("failure");
    assert_eq!((delivery.id, delivery.attempt, delivery.redelivered), (42, 2, true));
    assert_eq!(shown.kind(), v1::FailureKind::Crash);
    assert_eq!(shown.time, Some(Timestamp { seconds: 1, nanos: 500_000_000 }));
    let origin = delivery.origin.expect("origin");
    assert_eq!((origin.exchange.as_str(), origin.first_time), ("@default", None));
}
