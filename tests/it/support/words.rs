//! Frames, verdicts and messages, short to write.

use bytes::Bytes;
use sidebus::grpc::proto::sidebus::v1;
use sidebus::grpc::proto::sidebus::v1::settlement::Verdict;

/// A message with a routing key and a body.
pub(crate) fn message(routing_key: &str, body: impl Into<Vec<u8>>) -> v1::Message {
    v1::Message { routing_key: routing_key.to_owned(), body: body.into().into(), ..Default::default() }
}

/// The first frame of a handler that names its subscription.
pub(crate) fn open(subscription: &str) -> v1::SubscribeOpen {
    v1::SubscribeOpen { subscription: subscription.to_owned(), ..Default::default() }
}

/// As `open`, with a window in messages.
pub(crate) fn open_window(subscription: &str, messages: i32) -> v1::SubscribeOpen {
    v1::SubscribeOpen { flow: Some(window(messages)), ..open(subscription) }
}

/// As `open`, with every result reported.
pub(crate) fn open_all(subscription: &str) -> v1::SubscribeOpen {
    v1::SubscribeOpen { result_mode: v1::ResultMode::All.into(), ..open(subscription) }
}

/// A window in messages.
pub(crate) fn window(messages: i32) -> v1::FlowControl {
    v1::FlowControl { max_in_flight_messages: Some(messages), max_in_flight_bytes: None }
}

/// A window in bytes.
pub(crate) fn window_bytes(bytes: i64) -> v1::FlowControl {
    v1::FlowControl { max_in_flight_messages: None, max_in_flight_bytes: Some(bytes) }
}

pub(crate) fn ack() -> Verdict {
    Verdict::Ack(v1::Ack::default())
}

pub(crate) fn release() -> Verdict {
    Verdict::Release(v1::Release {})
}

/// A retry after so many milliseconds; `None` = as the policy says.
pub(crate) fn retry(reason: &str, delay_ms: Option<i32>) -> Verdict {
    let delay =
        delay_ms.map(|ms| prost_types::Duration { seconds: i64::from(ms / 1_000), nanos: ms % 1_000 * 1_000_000 });
    let description = format!("because of {reason}");
    Verdict::Retry(v1::Retry { delay, reason: reason.to_owned(), description })
}

pub(crate) fn dead_letter(reason: &str) -> Verdict {
    let description = format!("because of {reason}");
    Verdict::DeadLetter(v1::DeadLetter { reason: reason.to_owned(), description })
}

/// A frame with one settlement.
pub(crate) fn settle(delivery_ids: impl Into<Vec<i64>>, verdict: impl Into<Option<Verdict>>) -> v1::SubscribeRequest {
    let settlement = v1::Settlement { delivery_ids: delivery_ids.into(), verdict: verdict.into() };
    v1::SubscribeRequest { settlements: vec![settlement], ..Default::default() }
}

/// A frame with one extension.
pub(crate) fn extend(delivery_id: i64, seconds: i64) -> v1::SubscribeRequest {
    let timeout = Some(prost_types::Duration { seconds, nanos: 0 });
    let extension = v1::Extension { delivery_ids: vec![delivery_id], timeout };
    v1::SubscribeRequest { extensions: vec![extension], ..Default::default() }
}

pub(crate) fn leave() -> v1::SubscribeRequest {
    v1::SubscribeRequest { leave: true, ..Default::default() }
}

/// The body of a delivery as text.
pub(crate) fn body(delivery: &v1::Delivery) -> String {
    let body = delivery.message.as_ref().map(|message| Bytes::from(message.body.to_vec())).unwrap_or_default();
    String::from_utf8_lossy(&body).into_owned()
}
