//! From a lease to what a handler is handed. Knows no ledger: parts come ready.

use super::outgoing::{deaths_to_proto, exchange_to_proto, message_to_proto};
use super::time;
use crate::domain::failure::{Failure, FailureKind, Origin};
use crate::domain::message::Message;
use crate::grpc::proto::sidebus::v1;

/// What a delivery is made of.
#[derive(Debug, Clone, Copy)]
pub struct DeliveryParts<'a> {
    /// Names the lease; below 2^53.
    pub id: i64,
    /// As attempt 1 showed it.
    pub message: &'a Message,
    /// From 1.
    pub attempt: u32,
    /// The broker's flag.
    pub redelivered: bool,
    /// Queue it was taken from.
    pub queue: &'a str,
    /// `None` on attempt 1.
    pub first_failure: Option<&'a Failure>,
    /// `None` on attempt 1; the first one on attempt 2.
    pub last_failure: Option<&'a Failure>,
    /// Where it came from; `None` until it has been copied.
    pub origin: Option<&'a Origin>,
}

/// A delivery as handlers see it.
#[derive(Debug, Clone, PartialEq)]
pub struct ShownDelivery {
    /// Ready for the wire.
    pub delivery: v1::Delivery,
    /// Header values nested too deeply to be shown; copies keep them.
    pub left_out: usize,
}

/// Converts a delivery for a handler. Total.
pub fn delivery_to_proto(parts: &DeliveryParts<'_>) -> ShownDelivery {
    let shown = message_to_proto(parts.message);
    let delivery = v1::Delivery {
        id: parts.id,
        message: Some(shown.message),
        attempt: clamp(parts.attempt),
        redelivered: parts.redelivered,
        queue: parts.queue.to_owned(),
        first_failure: parts.first_failure.map(failure_to_proto),
        last_failure: parts.last_failure.map(failure_to_proto),
        origin: parts.origin.map(origin_to_proto),
        deaths: deaths_to_proto(&parts.message.properties.headers),
        stream_offset: None,
    };
    ShownDelivery { delivery, left_out: shown.left_out }
}

/// Converts one failed attempt.
pub fn failure_to_proto(failure: &Failure) -> v1::FailureInfo {
    let kind = match failure.kind {
        FailureKind::Retry => v1::FailureKind::Retry,
        FailureKind::DeadLetter => v1::FailureKind::DeadLetter,
        FailureKind::Timeout => v1::FailureKind::Timeout,
        FailureKind::Crash => v1::FailureKind::Crash,
    };
    v1::FailureInfo {
        kind: kind.into(),
        reason: failure.reason.clone(),
        description: failure.description.clone(),
        handler: failure.handler.clone(),
        attempt: clamp(failure.attempt),
        time: time::millis_to_proto(failure.time_ms),
    }
}

fn origin_to_proto(origin: &Origin) -> v1::Origin {
    v1::Origin {
        exchange: exchange_to_proto(&origin.exchange),
        routing_key: origin.routing_key.clone(),
        queue: origin.queue.clone(),
        first_time: time::millis_to_proto(origin.first_time_ms),
    }
}

fn clamp(count: u32) -> i32 {
    i32::try_from(count).unwrap_or(i32::MAX)
}
