//! From the domain's message to what a handler sees. Knows no lease and no stream.

use super::{NAMELESS_EXCHANGE, SHORT_BYTES_MAX, header, time, trace};
use crate::domain::message::{Headers, Message, PERSISTENT, Value, is_reserved_header};
use crate::domain::name::ExchangeName;
use crate::domain::record::{CAUSATION_ID_HEADER, ORDERING_KEY_HEADER};
use crate::grpc::proto::sidebus::v1;

/// Lines of the broker's own history that are shown.
const DEATHS_MAX: usize = 16;

/// A message as handlers see it.
#[derive(Debug, Clone, PartialEq)]
pub struct ShownMessage {
    /// Ready for the wire; the body shares its memory with the domain's.
    pub message: v1::Message,
    /// Header values nested too deeply to be shown; copies keep them.
    pub left_out: usize,
}

/// Converts a message for a handler. Total: whatever a publisher sent has a form here.
pub fn message_to_proto(message: &Message) -> ShownMessage {
    let properties = &message.properties;
    let text = |field: &Option<String>| field.clone().unwrap_or_default();
    let shown = |name: &str, value: &Value| !is_reserved_header(name) && !trace::is_trace(name, value);
    let (headers, left_out) = header::entries_to_proto(&properties.headers, shown);
    let message = v1::Message {
        body: message.body.clone(),
        routing_key: message.routing_key.clone(),
        content_type: text(&properties.content_type),
        headers,
        message_id: text(&properties.message_id),
        correlation_id: text(&properties.correlation_id),
        causation_id: short_header(&properties.headers, CAUSATION_ID_HEADER),
        exchange: exchange_to_proto(&message.exchange),
        r#type: text(&properties.kind),
        reply_to: text(&properties.reply_to),
        publish_time: properties.timestamp.and_then(time::seconds_to_proto),
        ttl: properties.expiration.as_deref().and_then(ttl_to_proto),
        priority: properties.priority.map(i32::from),
        trace: trace::to_proto(&properties.headers),
        // A later release reads them; until then they are plain headers.
        cloud_event: None,
        transient: properties.delivery_mode != Some(PERSISTENT),
        content_encoding: text(&properties.content_encoding),
        app_id: text(&properties.app_id),
        user_id: text(&properties.user_id),
        ordering_key: short_header(&properties.headers, ORDERING_KEY_HEADER),
    };
    ShownMessage { message, left_out }
}

/// The name of an exchange on gRPC, where empty means "the configured one".
pub(super) fn exchange_to_proto(exchange: &ExchangeName) -> String {
    if exchange.is_nameless() { NAMELESS_EXCHANGE.to_owned() } else { exchange.as_str().to_owned() }
}

/// The broker's own dead-lettering history (`x-death`), newest first as the broker keeps it, at most 16 lines. Lines of
/// another form are passed over: anybody can publish that header.
pub fn deaths_to_proto(headers: &Headers) -> Vec<v1::DeathRecord> {
    let Some(Value::Array(lines)) = headers.get("x-death") else { return Vec::new() };
    lines.iter().filter_map(Value::as_table).take(DEATHS_MAX).map(death_to_proto).collect()
}

fn death_to_proto(line: &Headers) -> v1::DeathRecord {
    let text = |name: &str| line.get(name).and_then(Value::as_text).unwrap_or_default().to_owned();
    let routing_keys = match line.get("routing-keys") {
        Some(Value::Array(keys)) => keys.iter().filter_map(Value::as_text).map(str::to_owned).collect(),
        Some(_) | None => Vec::new(),
    };
    let first_time = match line.get("time") {
        Some(Value::Timestamp(seconds)) => time::seconds_to_proto(*seconds),
        Some(_) | None => None,
    };
    v1::DeathRecord {
        queue: text("queue"),
        reason: text("reason"),
        exchange: text("exchange"),
        routing_keys,
        count: line.get("count").and_then(Value::as_integer).unwrap_or_default(),
        time: first_time,
    }
}

/// A header that is shown as a field; what would not pass as that field is left out.
fn short_header(headers: &Headers, name: &str) -> String {
    let text = headers.get(name).and_then(Value::as_text);
    text.filter(|text| text.len() <= SHORT_BYTES_MAX).unwrap_or_default().to_owned()
}

fn ttl_to_proto(expiration: &str) -> Option<prost_types::Duration> {
    expiration.parse().ok().and_then(time::millis_to_duration)
}
