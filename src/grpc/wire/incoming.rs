//! From a caller's message to one that can go to the broker: every rule of the contract, every violation at once.
//!
//! Knows no lane and no confirm. What passes here makes no broker close a channel and no client library panic.

use std::collections::BTreeMap;
use std::fmt;

use super::violations::{Below, Key, Violations};
use super::{NAMELESS_EXCHANGE, SHORT_BYTES_MAX, header, time, trace};
use crate::domain::message::{Headers, Message, PERSISTENT, Properties, Value, encoded_bytes, is_reserved_header};
use crate::domain::name::ExchangeName;
use crate::domain::record::{CAUSATION_ID_HEADER, ORDERING_KEY_HEADER};
use crate::grpc::problem::{FieldViolation, Problem};
use crate::grpc::proto::sidebus::v1;

/// AMQP's mark of a message that may be lost with the broker's memory.
const TRANSIENT: u8 = 1;
/// Longest life time of a publish. RabbitMQ 3.10.8 takes ten years and closes the channel (406) above that; other brokers
/// count in 32 bits.
const TTL_MILLIS_MAX: u128 = 4_294_967_295;

/// What a publish is measured by and what fills its gaps.
#[derive(Debug, Clone, Copy)]
pub struct PublishDefaults<'a> {
    /// Where messages go that name no exchange.
    pub exchange: &'a ExchangeName,
    /// What a message may weigh.
    pub limits: PublishLimits,
    /// The publish time.
    pub now_unix_seconds: u64,
}

/// What a message may weigh.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PublishLimits {
    /// Bytes of the body.
    pub body_bytes_max: usize,
    /// Bytes of the header table as AMQP encodes it.
    pub header_bytes_max: usize,
    /// Levels of tables and arrays in a header.
    pub header_depth_max: usize,
}

/// Why a message cannot be published. The two are different reasons on the wire.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MessageProblem {
    /// The body is above the limit.
    TooLarge {
        /// Path of the body.
        field: String,
        /// Bytes found.
        found: usize,
        /// Bytes allowed.
        max: usize,
    },
    /// Everything that is wrong with its fields, at least one.
    Invalid(Vec<FieldViolation>),
}

impl From<MessageProblem> for Problem {
    fn from(problem: MessageProblem) -> Self {
        match problem {
            MessageProblem::TooLarge { field, found, max } => Self::MessageTooLarge { field, found, max },
            MessageProblem::Invalid(violations) => Self::InvalidMessage(violations),
        }
    }
}

/// Converts a message of a caller. `at` is its path in the request, such as `messages[3]`, or empty; `assign_id` makes
/// an id when the caller gave none.
///
/// `user_id` and `publish_time` are ignored, so that a received message can be edited and published.
///
/// # Errors
/// The body is too large, or every field that breaks a rule.
pub fn message_from_proto(
    message: v1::Message,
    at: &dyn fmt::Display,
    defaults: &PublishDefaults<'_>,
    assign_id: impl FnOnce() -> String,
) -> Result<Message, MessageProblem> {
    let limits = &defaults.limits;
    if message.body.len() > limits.body_bytes_max {
        let field = Below(at, "body").to_string();
        return Err(MessageProblem::TooLarge { field, found: message.body.len(), max: limits.body_bytes_max });
    }
    let mut violations = Violations::default();
    check_texts(&message, at, &mut violations);
    let exchange = exchange_from_proto(&message.exchange, at, defaults.exchange, &mut violations);
    let expiration = message.ttl.as_ref().and_then(|ttl| expiration_from_proto(ttl, at, &mut violations));
    let priority = message.priority.and_then(|priority| priority_from_proto(priority, at, &mut violations));
    if message.cloud_event.is_some() {
        violations.add(Below(at, "cloud_event"), "is not in this release; send the attributes as headers");
    }
    let headers = Fields {
        entries: message.headers,
        trace: message.trace,
        ordering_key: message.ordering_key,
        causation_id: message.causation_id,
    };
    let headers = headers.into_headers(at, limits, &mut violations);
    if !violations.is_empty() {
        return Err(MessageProblem::Invalid(violations.into_vec()));
    }
    let properties = Properties {
        content_type: given(message.content_type),
        content_encoding: given(message.content_encoding),
        headers,
        delivery_mode: Some(if message.transient { TRANSIENT } else { PERSISTENT }),
        priority,
        correlation_id: given(message.correlation_id),
        reply_to: given(message.reply_to),
        expiration,
        message_id: Some(given(message.message_id).unwrap_or_else(assign_id)),
        timestamp: Some(defaults.now_unix_seconds),
        kind: given(message.r#type),
        // Another user than the connection's closes the channel (406), and the broker needs none.
        user_id: None,
        app_id: given(message.app_id),
        cluster_id: None,
    };
    Ok(Message { exchange, routing_key: message.routing_key, properties, body: message.body })
}

fn given(text: String) -> Option<String> {
    (!text.is_empty()).then_some(text)
}

fn check_texts(message: &v1::Message, at: &dyn fmt::Display, violations: &mut Violations) {
    for (name, text) in [
        ("routing_key", &message.routing_key),
        ("content_type", &message.content_type),
        ("message_id", &message.message_id),
        ("correlation_id", &message.correlation_id),
        ("causation_id", &message.causation_id),
        ("type", &message.r#type),
        ("reply_to", &message.reply_to),
        ("content_encoding", &message.content_encoding),
        ("app_id", &message.app_id),
        ("ordering_key", &message.ordering_key),
    ] {
        violations.short(Below(at, name), text);
    }
}

pub(super) fn exchange_from_proto(
    name: &str,
    at: &dyn fmt::Display,
    default: &ExchangeName,
    violations: &mut Violations,
) -> ExchangeName {
    match name {
        "" => default.clone(),
        NAMELESS_EXCHANGE => ExchangeName::nameless(),
        _ => {
            let path = Below(at, "exchange");
            violations.at_most(path, name, SHORT_BYTES_MAX);
            if name.chars().any(char::is_control) {
                violations.add(path, "contains a control character");
            }
            // Publishing to the broker's own exchanges (`amq.topic`) is legal; only declaring them is not.
            ExchangeName::from_broker(name)
        }
    }
}

fn expiration_from_proto(
    ttl: &prost_types::Duration,
    at: &dyn fmt::Display,
    violations: &mut Violations,
) -> Option<String> {
    let path = Below(at, "ttl");
    let duration = match time::duration_from_proto(ttl) {
        Ok(duration) => duration,
        Err(rule) => {
            violations.add(path, rule);
            return None;
        }
    };
    let millis = duration.as_millis();
    if millis == 0 || !duration.subsec_nanos().is_multiple_of(1_000_000) {
        violations.add(path, "must be whole milliseconds, at least 1");
    }
    if millis > TTL_MILLIS_MAX {
        violations.add(path, format_args!("is longer than {TTL_MILLIS_MAX} ms, the longest here"));
    }
    Some(millis.to_string())
}

fn priority_from_proto(priority: i32, at: &dyn fmt::Display, violations: &mut Violations) -> Option<u8> {
    let within = u8::try_from(priority).ok();
    if within.is_none() {
        violations.add(Below(at, "priority"), "must be 0 to 255");
    }
    within
}

/// The parts of a message that become AMQP headers.
struct Fields {
    entries: BTreeMap<String, v1::HeaderValue>,
    trace: Option<v1::TraceContext>,
    ordering_key: String,
    causation_id: String,
}

impl Fields {
    fn into_headers(self, at: &dyn fmt::Display, limits: &PublishLimits, violations: &mut Violations) -> Headers {
        let path = Below(at, "headers");
        for name in self.entries.keys().filter(|name| is_reserved_header(name)) {
            violations.add(Key(&path, name), reserved_rule(name));
        }
        let mut headers = header::entries_from_proto(self.entries, &path, limits.header_depth_max, violations);
        if let Some(trace) = self.trace {
            trace::from_proto(trace, at, &mut headers, violations);
        }
        let fields = [(ORDERING_KEY_HEADER, self.ordering_key), (CAUSATION_ID_HEADER, self.causation_id)];
        for (name, text) in fields.into_iter().filter(|(_, text)| !text.is_empty()) {
            headers.insert(name.to_owned(), Value::text(text));
        }
        let bytes = encoded_bytes(&headers);
        if bytes > limits.header_bytes_max {
            violations.add(path, format_args!("have {bytes} bytes, at most {} are allowed", limits.header_bytes_max));
        }
        headers
    }
}

fn reserved_rule(name: &str) -> &'static str {
    match name {
        ORDERING_KEY_HEADER => "is a reserved name: set ordering_key",
        CAUSATION_ID_HEADER => "is a reserved name: set causation_id",
        _ => "is a reserved name",
    }
}
