//! The W3C trace context between message fields, AMQP headers and call metadata. Knows no tracing library.

use std::fmt;

use tonic::metadata::MetadataMap;

use super::violations::{Below, Key, Violations};
use crate::domain::message::{Headers, Value};
use crate::grpc::proto::sidebus::v1;

/// Names of the three headers and metadata keys, in the order of the fields of `TraceContext`.
const NAMES: [&str; 3] = ["traceparent", "tracestate", "baggage"];
const TRACESTATE_BYTES_MAX: usize = 512;
const BAGGAGE_BYTES_MAX: usize = 8 * 1024;

/// The trace of a call, for messages that bring none. What is malformed or too long is passed over, since metadata
/// often comes from a library that the caller does not see; without a traceparent there is no trace.
pub fn trace_from_metadata(metadata: &MetadataMap) -> Option<v1::TraceContext> {
    let part = |name: &str| {
        let text = metadata.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
        if fits(name, text) { text.to_owned() } else { String::new() }
    };
    let [traceparent, tracestate, baggage] = NAMES.map(part);
    (!traceparent.is_empty()).then_some(v1::TraceContext { traceparent, tracestate, baggage })
}

/// True for headers that are shown as a part of `trace`; others of these names stay plain headers, so that a received
/// message can be published again.
pub(super) fn is_trace(name: &str, value: &Value) -> bool {
    NAMES.contains(&name) && value.as_text().is_some_and(|text| !text.is_empty() && fits(name, text))
}

/// The trace of a delivery's headers.
pub(super) fn to_proto(headers: &Headers) -> Option<v1::TraceContext> {
    let part = |name: &str| {
        let value = headers.get(name).filter(|value| is_trace(name, value));
        value.and_then(Value::as_text).unwrap_or_default().to_owned()
    };
    let [traceparent, tracestate, baggage] = NAMES.map(part);
    let empty = traceparent.is_empty() && tracestate.is_empty() && baggage.is_empty();
    (!empty).then_some(v1::TraceContext { traceparent, tracestate, baggage })
}

/// Puts the trace of a caller into the headers that go to the broker.
pub(super) fn from_proto(
    trace: v1::TraceContext,
    at: &dyn fmt::Display,
    headers: &mut Headers,
    violations: &mut Violations,
) {
    let path = Below(at, "trace");
    let values = [trace.traceparent, trace.tracestate, trace.baggage];
    for (name, text) in NAMES.into_iter().zip(values).filter(|(_, text)| !text.is_empty()) {
        if !fits(name, &text) {
            violations.add(Below(&path, name), rule(name));
        }
        if headers.insert(name.to_owned(), Value::text(text)).is_some() {
            violations.add(Key(&Below(at, "headers"), name), format_args!("is also given as trace.{name}: set one"));
        }
    }
}

fn fits(name: &str, text: &str) -> bool {
    match name {
        "traceparent" => text.is_empty() || is_traceparent(text),
        "tracestate" => text.len() <= TRACESTATE_BYTES_MAX,
        _ => text.len() <= BAGGAGE_BYTES_MAX,
    }
}

fn rule(name: &str) -> &'static str {
    match name {
        "traceparent" => "is not of the form 00-<32 hex digits>-<16 hex digits>-<2 hex digits>",
        "tracestate" => "has more than 512 bytes",
        _ => "has more than 8192 bytes",
    }
}

/// Version 00: 55 characters, lower-case hex digits in four groups.
fn is_traceparent(text: &str) -> bool {
    let is_hex = |part: &str| part.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    let parts: Vec<&str> = text.split('-').collect();
    matches!(parts.as_slice(), ["00", trace, span, flags]
        if (trace.len(), span.len(), flags.len()) == (32, 16, 2) && is_hex(trace) && is_hex(span) && is_hex(flags))
}

#[cfg(test)]
mod tests {
    use super::*;

    const TRACEPARENT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    #[test]
    fn the_trace_of_a_call_needs_a_sound_traceparent() {
        let mut metadata = MetadataMap::new();
        metadata.insert("tracestate", "a=b".parse().expect("ascii"));
        assert_eq!(trace_from_metadata(&metadata), None);

        metadata.insert("traceparent", TRACEPARENT.parse().expect("ascii"));
        metadata.insert("baggage", "x".repeat(8193).parse().expect("ascii"));
        let trace = trace_from_metadata(&metadata).expect("trace");
        assert_eq!((trace.traceparent.as_str(), trace.tracestate.as_str()), (TRACEPARENT, "a=b"));
        assert_eq!(trace.baggage, "", "too long, so it is left out");
    }

    #[test]
    fn a_traceparent_has_version_00_and_lower_case_digits() {
        assert!(is_traceparent(TRACEPARENT));
        for text in ["", "00", &TRACEPARENT.to_uppercase(), &TRACEPARENT.replace("00-", "01-"), &TRACEPARENT[..54]] {
            assert!(!is_traceparent(text), "{text}");
        }
    }
}
