//! Header values between AMQP's types and the widened ones of `sidebus.v1`. Knows no message.

use std::collections::BTreeMap;
use std::fmt;

use bytes::Bytes;

use super::violations::{Index, Key, Violations};
use super::{HEADER_NAME_BYTES_MAX, decimal, time};
use crate::domain::message::{Headers, Value};
use crate::grpc::proto::sidebus::v1;
use crate::grpc::proto::sidebus::v1::header_value::Kind;

/// Levels of tables and arrays in a header that are shown.
const SHOWN_DEPTH_MAX: usize = 8;

/// The entries of a table whose names pass, and how many values nested too deeply were left out.
pub(super) fn entries_to_proto(
    headers: &Headers,
    shown: impl Fn(&str, &Value) -> bool,
) -> (BTreeMap<String, v1::HeaderValue>, usize) {
    let mut left_out = 0;
    let visible = headers.iter().filter(|(name, value)| shown(name, value));
    let entries = visible
        .filter_map(|(name, value)| Some((name.clone(), value_to_proto(value, SHOWN_DEPTH_MAX, &mut left_out)?)))
        .collect();
    (entries, left_out)
}

/// A value with its type widened; `None` and one more in `left_out` for a table or array with no level left.
fn value_to_proto(value: &Value, depth_left: usize, left_out: &mut usize) -> Option<v1::HeaderValue> {
    let kind = match value {
        Value::Bool(flag) => Kind::Boolean(*flag),
        Value::Int8(number) => Kind::Integer(i64::from(*number)),
        Value::UInt8(number) => Kind::Integer(i64::from(*number)),
        Value::Int16(number) => Kind::Integer(i64::from(*number)),
        Value::UInt16(number) => Kind::Integer(i64::from(*number)),
        Value::Int32(number) => Kind::Integer(i64::from(*number)),
        Value::UInt32(number) => Kind::Integer(i64::from(*number)),
        Value::Int64(number) => Kind::Integer(*number),
        Value::Float(number) => Kind::Number(f64::from(*number)),
        Value::Double(number) => Kind::Number(*number),
        Value::Decimal { scale, value } => Kind::Decimal(decimal::to_text(*scale, *value)),
        Value::Text(bytes) => text_to_proto(bytes),
        Value::Binary(bytes) => Kind::Binary(bytes.clone()),
        Value::Timestamp(seconds) => timestamp_to_proto(*seconds),
        Value::Table(_) | Value::Array(_) if depth_left == 0 => {
            *left_out += 1;
            return None;
        }
        Value::Table(table) => {
            let entries = table
                .iter()
                .filter_map(|(name, value)| Some((name.clone(), value_to_proto(value, depth_left - 1, left_out)?)))
                .collect();
            Kind::Table(v1::HeaderTable { entries })
        }
        Value::Array(items) => {
            let items = items.iter().filter_map(|item| value_to_proto(item, depth_left - 1, left_out)).collect();
            Kind::Array(v1::HeaderArray { items })
        }
        Value::Void => Kind::Null(v1::Null {}),
    };
    Some(v1::HeaderValue { kind: Some(kind) })
}

fn text_to_proto(bytes: &Bytes) -> Kind {
    match std::str::from_utf8(bytes) {
        Ok(text) => Kind::Text(text.to_owned()),
        Err(_) => Kind::Binary(bytes.clone()),
    }
}

fn timestamp_to_proto(seconds: u64) -> Kind {
    match (time::seconds_to_proto(seconds), i64::try_from(seconds)) {
        (Some(time), _) => Kind::Time(time),
        (None, Ok(seconds)) => Kind::Integer(seconds),
        (None, Err(_)) => Kind::Decimal(seconds.to_string()),
    }
}

/// A table of a caller; what is wrong with it is noted. `at` is the path of the table, `depth_left` the levels that may
/// nest in it.
pub(super) fn entries_from_proto(
    entries: BTreeMap<String, v1::HeaderValue>,
    at: &dyn fmt::Display,
    depth_left: usize,
    violations: &mut Violations,
) -> Headers {
    let mut headers = Headers::new();
    for (name, value) in entries {
        let path = Key(at, &name);
        if name.len() > HEADER_NAME_BYTES_MAX {
            let rule = format_args!("the name has {} bytes, at most {HEADER_NAME_BYTES_MAX} are allowed", name.len());
            violations.add(path, rule);
        }
        if let Some(value) = value_from_proto(value, &path, depth_left, violations) {
            headers.insert(name, value);
        }
    }
    headers
}

fn value_from_proto(
    value: v1::HeaderValue,
    at: &dyn fmt::Display,
    depth_left: usize,
    violations: &mut Violations,
) -> Option<Value> {
    let Some(kind) = value.kind else {
        violations.add(at, "has no value, or one of a kind that this release does not know");
        return None;
    };
    match kind {
        Kind::Text(text) => Some(Value::text(text)),
        Kind::Integer(number) => Some(Value::Int64(number)),
        // RabbitMQ closes the connection for one that is not finite, and every neighbour's confirm is lost with it (3.10.8).
        Kind::Number(number) if !number.is_finite() => noted(at, "is not a finite number", violations),
        Kind::Number(number) => Some(Value::Double(number)),
        Kind::Boolean(flag) => Some(Value::Bool(flag)),
        Kind::Binary(bytes) => Some(Value::Binary(bytes)),
        Kind::Null(_) => Some(Value::Void),
        Kind::Time(time) => match time::seconds_from_proto(&time) {
            Ok(seconds) => Some(Value::Timestamp(seconds)),
            Err(rule) => noted(at, rule, violations),
        },
        Kind::Decimal(text) => match decimal::from_text(&text) {
            Ok((scale, value)) => Some(Value::Decimal { scale, value }),
            Err(rule) => noted(at, rule, violations),
        },
        Kind::Table(_) | Kind::Array(_) if depth_left == 0 => noted(at, "is nested too deeply", violations),
        Kind::Table(table) => Some(Value::Table(entries_from_proto(table.entries, at, depth_left - 1, violations))),
        Kind::Array(array) => {
            let items = array.items.into_iter().enumerate();
            let items =
                items.filter_map(|(index, item)| value_from_proto(item, &Index(at, index), depth_left - 1, violations));
            Some(Value::Array(items.collect()))
        }
    }
}

fn noted(at: &dyn fmt::Display, rule: impl fmt::Display, violations: &mut Violations) -> Option<Value> {
    violations.add(at, rule);
    None
}
