//! Messages of the wire as plain values that commands read and print. Knows no transport.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value as Json;

use super::{Frame, Outgoing, Received};
use crate::grpc::proto::sidebus::v1;
use crate::grpc::proto::sidebus::v1::header_value::Kind;

pub(super) fn outgoing_to_proto(message: Outgoing) -> v1::Message {
    v1::Message {
        body: message.body,
        routing_key: message.routing_key,
        content_type: message.content_type,
        headers: message.headers.into_iter().map(|(name, value)| (name, header_to_proto(value))).collect(),
        message_id: message.message_id,
        exchange: message.exchange,
        ..Default::default()
    }
}

fn header_to_proto(value: Json) -> v1::HeaderValue {
    let kind = match value {
        Json::Null => Kind::Null(v1::Null {}),
        Json::Bool(flag) => Kind::Boolean(flag),
        Json::Number(number) => match (number.as_i64(), number.as_f64()) {
            (Some(integer), _) => Kind::Integer(integer),
            (None, Some(double)) => Kind::Number(double),
            (None, None) => Kind::Decimal(number.to_string()),
        },
        Json::String(text) => Kind::Text(text),
        Json::Array(items) => Kind::Array(v1::HeaderArray { items: items.into_iter().map(header_to_proto).collect() }),
        Json::Object(entries) => {
            let entries = entries.into_iter().map(|(name, value)| (name, header_to_proto(value))).collect();
            Kind::Table(v1::HeaderTable { entries })
        }
    };
    v1::HeaderValue { kind: Some(kind) }
}

pub(super) fn frame_from_proto(frame: v1::SubscribeResponse) -> Frame {
    let mut words = Vec::new();
    let active = frame.status.as_ref().map(|status| status.state() == v1::SubscriptionState::Active);
    if let Some(status) = &frame.status
        && status.state() != v1::SubscriptionState::Active
    {
        let state = status.state().as_str_name().trim_start_matches("SUBSCRIPTION_STATE_");
        words.push(format!("{state} {}", status.description).trim_end().to_owned());
    }
    words.extend(frame.results.iter().filter(|result| result.outcome >= 10).map(|result| {
        let outcome = result.outcome().as_str_name().trim_start_matches("SETTLEMENT_OUTCOME_");
        let count = result.delivery_ids.len();
        let settlements = if count == 1 { "settlement" } else { "settlements" };
        format!("{outcome}: {count} {settlements} took no effect {}", result.description)
    }));
    if frame.drain.is_some() {
        words.push("SIDECAR_DRAINING: the sidecar delivers nothing more".to_owned());
    }
    Frame { deliveries: frame.deliveries.into_iter().map(received_from_proto).collect(), words, active }
}

fn received_from_proto(delivery: v1::Delivery) -> Received {
    let message = delivery.message.unwrap_or_default();
    Received {
        id: delivery.id,
        attempt: delivery.attempt,
        redelivered: delivery.redelivered,
        queue: delivery.queue,
        message: Outgoing {
            exchange: message.exchange,
            routing_key: message.routing_key,
            content_type: message.content_type,
            message_id: message.message_id,
            headers: headers_from_proto(message.headers),
            body: message.body,
        },
    }
}

fn headers_from_proto(headers: BTreeMap<String, v1::HeaderValue>) -> BTreeMap<String, Json> {
    headers.into_iter().map(|(name, value)| (name, header_from_proto(value))).collect()
}

fn header_from_proto(value: v1::HeaderValue) -> Json {
    match value.kind {
        None | Some(Kind::Null(_)) => Json::Null,
        Some(Kind::Text(text) | Kind::Decimal(text)) => Json::String(text),
        Some(Kind::Integer(number)) => Json::from(number),
        Some(Kind::Number(number)) => Json::from(number),
        Some(Kind::Boolean(flag)) => Json::Bool(flag),
        Some(Kind::Binary(bytes)) => Json::String(STANDARD.encode(bytes)),
        Some(Kind::Time(time)) => Json::from(time.seconds),
        Some(Kind::Table(table)) => Json::Object(headers_from_proto(table.entries).into_iter().collect()),
        Some(Kind::Array(array)) => Json::Array(array.items.into_iter().map(header_from_proto).collect()),
    }
}
