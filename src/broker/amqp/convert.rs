//! Carries messages between the domain and lapin without losing a type or a byte. Knows no channel.
//!
//! Texts over 255 bytes must never reach lapin: its short strings panic. Hence every conversion outwards is checked.

use bytes::Bytes;
use lapin::BasicProperties;
use lapin::message::Delivery;
use lapin::types::{AMQPValue, ByteArray, DecimalValue, FieldArray, FieldTable, LongString, ShortString};

use crate::domain::message::{Headers, Message, Properties, Value};
use crate::domain::name::ExchangeName;

/// A text that does not fit where AMQP 0-9-1 wants it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{what} of {bytes} bytes; 255 are allowed")]
pub(super) struct TooLong {
    what: &'static str,
    bytes: usize,
}

/// A short string, or what is too long.
pub(super) fn short(what: &'static str, text: &str) -> Result<ShortString, TooLong> {
    ShortString::try_new(text).map_err(|_| TooLong { what, bytes: text.len() })
}

/// Headers as lapin wants them; an empty table is one.
pub(super) fn table(headers: &Headers) -> Result<FieldTable, TooLong> {
    let mut table = FieldTable::default();
    for (name, value) in headers {
        table.insert(short("a header name", name)?, value_out(value)?);
    }
    Ok(table)
}

fn value_out(value: &Value) -> Result<AMQPValue, TooLong> {
    Ok(match value {
        Value::Bool(flag) => AMQPValue::Boolean(*flag),
        Value::Int8(number) => AMQPValue::ShortShortInt(*number),
        Value::UInt8(number) => AMQPValue::ShortShortUInt(*number),
        Value::Int16(number) => AMQPValue::ShortInt(*number),
        Value::UInt16(number) => AMQPValue::ShortUInt(*number),
        Value::Int32(number) => AMQPValue::LongInt(*number),
        Value::UInt32(number) => AMQPValue::LongUInt(*number),
        Value::Int64(number) => AMQPValue::LongLongInt(*number),
        Value::Float(number) => AMQPValue::Float(*number),
        Value::Double(number) => AMQPValue::Double(*number),
        Value::Decimal { scale, value } => AMQPValue::DecimalValue(DecimalValue { scale: *scale, value: *value }),
        Value::Text(bytes) => AMQPValue::LongString(LongString::from(bytes.to_vec())),
        Value::Binary(bytes) => AMQPValue::ByteArray(ByteArray::from(bytes.as_ref())),
        Value::Timestamp(seconds) => AMQPValue::Timestamp(*seconds),
        Value::Table(headers) => AMQPValue::FieldTable(table(headers)?),
        Value::Array(items) => {
            let items: Result<Vec<_>, _> = items.iter().map(value_out).collect();
            AMQPValue::FieldArray(FieldArray::from(items?))
        }
        Value::Void => AMQPValue::Void,
    })
}

/// The properties as lapin wants them. Empty headers become no headers.
pub(super) fn properties_out(properties: &Properties) -> Result<BasicProperties, TooLong> {
    let mut out = BasicProperties::default();
    macro_rules! set {
        ($(($field:ident, $with:ident, $what:literal)),*) => {
            $(if let Some(text) = &properties.$field { out = out.$with(short($what, text)?); })*
        };
    }
    set!(
        (content_type, with_content_type, "a content type"),
        (content_encoding, with_content_encoding, "a content encoding"),
        (correlation_id, with_correlation_id, "a correlation id"),
        (reply_to, with_reply_to, "a reply address"),
        (expiration, with_expiration, "an expiration"),
        (message_id, with_message_id, "a message id"),
        (kind, with_type, "a message type"),
        (user_id, with_user_id, "a user id"),
        (app_id, with_app_id, "an application id"),
        (cluster_id, with_cluster_id, "a cluster id")
    );
    if !properties.headers.is_empty() {
        out = out.with_headers(table(&properties.headers)?);
    }
    if let Some(mode) = properties.delivery_mode {
        out = out.with_delivery_mode(mode);
    }
    if let Some(priority) = properties.priority {
        out = out.with_priority(priority);
    }
    if let Some(timestamp) = properties.timestamp {
        out = out.with_timestamp(timestamp);
    }
    Ok(out)
}

/// A delivery in our words. The body changes its owner and is not copied.
pub(super) fn message_in(delivery: Delivery) -> Message {
    Message {
        exchange: ExchangeName::from_broker(delivery.exchange.as_str()),
        routing_key: delivery.routing_key.into(),
        properties: properties_in(&delivery.properties),
        body: Bytes::from(delivery.data),
    }
}

fn properties_in(properties: &BasicProperties) -> Properties {
    let text = |field: &Option<ShortString>| field.as_ref().map(|text| text.as_str().to_owned());
    Properties {
        content_type: text(properties.content_type()),
        content_encoding: text(properties.content_encoding()),
        headers: properties.headers().as_ref().map(headers_in).unwrap_or_default(),
        delivery_mode: *properties.delivery_mode(),
        priority: *properties.priority(),
        correlation_id: text(properties.correlation_id()),
        reply_to: text(properties.reply_to()),
        expiration: text(properties.expiration()),
        message_id: text(properties.message_id()),
        timestamp: *properties.timestamp(),
        kind: text(properties.kind()),
        user_id: text(properties.user_id()),
        app_id: text(properties.app_id()),
        cluster_id: text(properties.cluster_id()),
    }
}

fn headers_in(table: &FieldTable) -> Headers {
    table.into_iter().map(|(name, value)| (name.as_str().to_owned(), value_in(value))).collect()
}

fn value_in(value: &AMQPValue) -> Value {
    match value {
        AMQPValue::Boolean(flag) => Value::Bool(*flag),
        AMQPValue::ShortShortInt(number) => Value::Int8(*number),
        AMQPValue::ShortShortUInt(number) => Value::UInt8(*number),
        AMQPValue::ShortInt(number) => Value::Int16(*number),
        AMQPValue::ShortUInt(number) => Value::UInt16(*number),
        AMQPValue::LongInt(number) => Value::Int32(*number),
        AMQPValue::LongUInt(number) => Value::UInt32(*number),
        AMQPValue::LongLongInt(number) => Value::Int64(*number),
        AMQPValue::Float(number) => Value::Float(*number),
        AMQPValue::Double(number) => Value::Double(*number),
        AMQPValue::DecimalValue(number) => Value::Decimal { scale: number.scale, value: number.value },
        // lapin never parses one (the type octet means something else to RabbitMQ); as text nothing is lost.
        AMQPValue::ShortString(text) => Value::text(text.as_str()),
        AMQPValue::LongString(text) => Value::Text(Bytes::copy_from_slice(text.as_bytes())),
        AMQPValue::ByteArray(bytes) => Value::Binary(Bytes::copy_from_slice(bytes.as_slice())),
        AMQPValue::Timestamp(seconds) => Value::Timestamp(*seconds),
        AMQPValue::FieldTable(table) => Value::Table(headers_in(table)),
        AMQPValue::FieldArray(items) => Value::Array(items.as_slice().iter().map(value_in).collect()),
        AMQPValue::Void => Value::Void,
    }
}

#[cfg(test)]
mod tests {
    use proptest::collection::{btree_map, vec};
    use proptest::prelude::*;

    use super::*;

    fn bytes() -> impl Strategy<Value = Bytes> {
        vec(any::<u8>(), 0..40).prop_map(Bytes::from)
    }

    fn value() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            any::<bool>().prop_map(Value::Bool),
            any::<i8>().prop_map(Value::Int8),
            any::<u8>().prop_map(Value::UInt8),
            any::<i16>().prop_map(Value::Int16),
            any::<u16>().prop_map(Value::UInt16),
            any::<i32>().prop_map(Value::Int32),
            any::<u32>().prop_map(Value::UInt32),
            any::<i64>().prop_map(Value::Int64),
            prop::num::f32::NORMAL.prop_map(Value::Float),
            prop::num::f64::NORMAL.prop_map(Value::Double),
            (any::<u8>(), any::<u32>()).prop_map(|(scale, value)| Value::Decimal { scale, value }),
            bytes().prop_map(Value::Text),
            bytes().prop_map(Value::Binary),
            any::<u64>().prop_map(Value::Timestamp),
            Just(Value::Void),
        ];
        leaf.prop_recursive(3, 24, 6, |inner| {
            prop_oneof![
                btree_map("[a-zé-]{0,20}", inner.clone(), 0..6).prop_map(Value::Table),
                vec(inner, 0..6).prop_map(Value::Array),
            ]
        })
    }

    fn properties() -> impl Strategy<Value = Properties> {
        let text = || prop::option::of("\\PC{0,60}");
        let texts = (text(), text(), text(), text(), text(), text(), text(), text(), text(), text());
        let numbers = (any::<Option<u8>>(), any::<Option<u8>>(), any::<Option<u64>>());
        (texts, numbers, btree_map("[a-z-]{0,20}", value(), 0..6)).prop_map(|(texts, numbers, headers)| Properties {
            content_type: texts.0,
            content_encoding: texts.1,
            correlation_id: texts.2,
            reply_to: texts.3,
            expiration: texts.4,
            message_id: texts.5,
            kind: texts.6,
            user_id: texts.7,
            app_id: texts.8,
            cluster_id: texts.9,
            delivery_mode: numbers.0,
            priority: numbers.1,
            timestamp: numbers.2,
            headers,
        })
    }

    proptest! {
        #[test]
        fn what_goes_out_and_comes_back_is_the_same(properties in properties()) {
            prop_assert_eq!(properties_in(&properties_out(&properties).unwrap()), properties);
        }
    }

    #[test]
    fn a_long_text_is_an_error_and_no_panic() {
        let long = "x".repeat(256);
        let headers = Headers::from([("outer".to_owned(), Value::Table(Headers::from([(long.clone(), Value::Void)])))]);
        for properties in [
            Properties { message_id: Some(long.clone()), ..Properties::default() },
            Properties { kind: Some(long), ..Properties::default() },
            Properties { headers, ..Properties::default() },
        ] {
            let error = properties_out(&properties).unwrap_err();
            assert_eq!(error.bytes, 256, "{error}");
        }
    }

    #[test]
    fn the_body_is_moved_and_not_copied() {
        let data = b"payload".to_vec();
        let address = data.as_ptr();
        let delivery = Delivery::mock(7, "e".into(), "k".into(), false, data);
        assert_eq!(message_in(delivery).body.as_ptr(), address);
    }
}
