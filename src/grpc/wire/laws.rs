//! Laws of the conversion: what goes in comes out, and nothing panics.

use std::collections::BTreeMap;

use bytes::Bytes;
use proptest::collection::{btree_map, vec};
use proptest::prelude::*;
use v1::header_value::Kind;

use super::tests::publish;
use super::*;
use crate::domain::message::{Headers, Message, Properties, Value, is_reserved_header};
use crate::domain::name::ExchangeName;
use crate::grpc::proto::sidebus::v1;

fn decimals() -> impl Strategy<Value = String> {
    (0..=i32::MAX, 0..40_usize).prop_map(|(value, scale)| {
        let digits = format!("{value:0>width$}", width = scale + 1);
        let (whole, fraction) = digits.split_at(digits.len() - scale);
        if fraction.is_empty() { whole.to_owned() } else { format!("{whole}.{fraction}") }
    })
}

/// Header values that a caller may send, in their normal form.
fn valid_values() -> impl Strategy<Value = v1::HeaderValue> {
    let leaf = prop_oneof![
        ".{0,12}".prop_map(Kind::Text),
        any::<i64>().prop_map(Kind::Integer),
        any::<f64>().prop_filter("finite", |number| number.is_finite()).prop_map(Kind::Number),
        any::<bool>().prop_map(Kind::Boolean),
        vec(any::<u8>(), 0..12).prop_map(|bytes| Kind::Binary(Bytes::from(bytes))),
        (0..253_402_300_800_i64).prop_map(|seconds| Kind::Time(prost_types::Timestamp { seconds, nanos: 0 })),
        decimals().prop_map(Kind::Decimal),
        Just(Kind::Null(v1::Null {})),
    ];
    let wrap = |kind| v1::HeaderValue { kind: Some(kind) };
    leaf.prop_map(wrap).prop_recursive(6, 24, 4, move |inner| {
        prop_oneof![
            btree_map(".{0,8}", inner.clone(), 0..4)
                .prop_map(move |entries| wrap(Kind::Table(v1::HeaderTable { entries }))),
            vec(inner, 0..4).prop_map(move |items| wrap(Kind::Array(v1::HeaderArray { items }))),
        ]
    })
}

fn valid_headers() -> impl Strategy<Value = BTreeMap<String, v1::HeaderValue>> {
    let names = "[a-zA-Z-]{1,16}".prop_filter("free", |name| {
        !is_reserved_header(name) && !["traceparent", "tracestate", "baggage"].contains(&name.as_str())
    });
    btree_map(names, valid_values(), 0..6)
}

fn traces() -> impl Strategy<Value = Option<v1::TraceContext>> {
    proptest::option::of(
        ("00-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}", "[ -~]{0,30}", "[ -~]{0,30}")
            .prop_map(|(traceparent, tracestate, baggage)| v1::TraceContext { traceparent, tracestate, baggage }),
    )
}

/// Messages that a caller may send, with everything set that the sidecar would fill in.
fn valid_messages() -> impl Strategy<Value = v1::Message> {
    let texts = (".{0,20}", ".{0,20}", ".{1,20}", ".{0,20}", ".{0,20}", ".{0,20}", ".{0,20}", ".{0,20}", ".{0,20}");
    let numbers = (proptest::option::of(1..=4_294_967_295_u64), proptest::option::of(0..=255), any::<bool>());
    let exchange = prop_oneof![Just("@default".to_owned()), "[a-z.]{1,20}"];
    (texts, numbers, exchange, valid_headers(), traces(), vec(any::<u8>(), 0..64)).prop_map(
        |(texts, (ttl, priority, transient), exchange, headers, trace, body)| v1::Message {
            body: Bytes::from(body),
            routing_key: texts.0,
            content_type: texts.1,
            headers,
            message_id: texts.2,
            correlation_id: texts.3,
            causation_id: texts.4,
            exchange,
            r#type: texts.5,
            reply_to: texts.6,
            publish_time: Some(prost_types::Timestamp { seconds: 1_700_000_000, nanos: 0 }),
            ttl: ttl.map(|millis| duration_to_proto(std::time::Duration::from_millis(millis))),
            priority,
            trace,
            cloud_event: None,
            transient,
            content_encoding: texts.7,
            app_id: texts.8,
            user_id: String::new(),
            ordering_key: "key".to_owned(),
        },
    )
}

/// Anything that a broker may hand out.
fn any_value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        any::<bool>().prop_map(Value::Bool),
        any::<u8>().prop_map(Value::UInt8),
        any::<i32>().prop_map(Value::Int32),
        any::<i64>().prop_map(Value::Int64),
        any::<u32>().prop_map(|bits| Value::Float(f32::from_bits(bits))),
        any::<u64>().prop_map(|bits| Value::Double(f64::from_bits(bits))),
        (any::<u8>(), any::<u32>()).prop_map(|(scale, value)| Value::Decimal { scale, value }),
        vec(any::<u8>(), 0..12).prop_map(|bytes| Value::Text(Bytes::from(bytes))),
        vec(any::<u8>(), 0..12).prop_map(|bytes| Value::Binary(Bytes::from(bytes))),
        prop_oneof![any::<u64>(), Just(u64::MAX), Just(253_402_300_800)].prop_map(Value::Timestamp),
        Just(Value::Void),
    ];
    leaf.prop_recursive(12, 24, 2, |inner| {
        prop_oneof![
            btree_map(".{0,4}", inner.clone(), 1..3).prop_map(Value::Table),
            vec(inner, 1..3).prop_map(Value::Array),
        ]
    })
}

fn any_headers() -> impl Strategy<Value = Headers> {
    let names = prop_oneof![
        ".{0,8}",
        proptest::sample::select(vec!["x-death", "traceparent", "tracestate", "baggage", "x-sidebus-key", "CC"])
            .prop_map(str::to_owned),
    ];
    btree_map(names, any_value(), 0..6)
}

fn any_delivered() -> impl Strategy<Value = Message> {
    let odd = (proptest::option::of(".{0,24}"), proptest::option::of(any::<u64>()), proptest::option::of(any::<u8>()));
    (any_headers(), odd, ".{0,20}").prop_map(|(headers, (expiration, timestamp, mode), key)| Message {
        exchange: ExchangeName::from_broker(&key),
        routing_key: key,
        properties: Properties { headers, expiration, timestamp, delivery_mode: mode, ..Properties::default() },
        body: Bytes::new(),
    })
}

proptest! {
    #[test]
    fn a_published_message_comes_back_as_it_was_sent(sent in valid_messages()) {
        let published = publish(sent.clone());
        prop_assert!(published.is_ok(), "{published:?}");
        let shown = message_to_proto(&published.expect("checked above"));
        prop_assert_eq!(shown.left_out, 0);
        prop_assert_eq!(shown.message, sent);
    }

    #[test]
    fn a_violation_is_an_answer_and_never_a_panic(
        mut sent in valid_messages(),
        name in "\\PC{0,300}",
        text in "\\PC{0,300}",
        seconds in any::<i64>(),
        nanos in any::<i32>(),
        priority in any::<i32>(),
        decimal in "[-+0-9.]{0,70}",
    ) {
        sent.routing_key = text;
        sent.exchange = name.clone();
        sent.ttl = Some(prost_types::Duration { seconds, nanos });
        sent.priority = Some(priority);
        sent.headers.insert(name, v1::HeaderValue { kind: Some(Kind::Decimal(decimal)) });
        let time = prost_types::Timestamp { seconds, nanos };
        sent.headers.insert("t".to_owned(), v1::HeaderValue { kind: Some(Kind::Time(time)) });
        if let Err(MessageProblem::Invalid(violations)) = publish(sent) {
            prop_assert!(!violations.is_empty(), "a refusal must name a field");
        }
    }

    #[test]
    fn whatever_the_broker_hands_out_has_a_form(message in any_delivered()) {
        let shown = message_to_proto(&message);
        deaths_to_proto(&message.properties.headers);
        // Whoever reads it back must be able to: 100 levels is where protobuf's decoders stop.
        let encoded = prost::Message::encode_to_vec(&shown.message);
        prop_assert!(<v1::Message as prost::Message>::decode(encoded.as_slice()).is_ok());
    }
}
