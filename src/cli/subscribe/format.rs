//! A delivery as bytes for the output. Knows no stream.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use clap::ValueEnum;
use serde_json::{Map, Value as Json};

use crate::grpc::client::Received;

/// How deliveries are printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub enum Format {
    /// The body as it is, then a line end.
    #[default]
    Body,
    /// One JSON object a line, with the envelope.
    Json,
}

/// The bytes of one delivery, line end included.
pub(super) fn line(received: &Received, format: Format) -> Vec<u8> {
    let mut bytes = match format {
        Format::Body => received.message.body.to_vec(),
        Format::Json => envelope(received).to_string().into_bytes(),
    };
    bytes.push(b'\n');
    bytes
}

/// A body that is no text comes as `body_base64`, which `sidebus pub --jsonl` reads as well.
fn envelope(received: &Received) -> Json {
    let message = &received.message;
    let mut object = Map::new();
    let mut put = |key: &str, value: Json| object.insert(key.to_owned(), value);
    put("routing_key", Json::from(message.routing_key.as_str()));
    put("exchange", Json::from(message.exchange.as_str()));
    put("queue", Json::from(received.queue.as_str()));
    put("message_id", Json::from(message.message_id.as_str()));
    put("content_type", Json::from(message.content_type.as_str()));
    put("attempt", Json::from(received.attempt));
    put("redelivered", Json::from(received.redelivered));
    put("headers", Json::Object(message.headers.clone().into_iter().collect()));
    match std::str::from_utf8(&message.body) {
        Ok(text) => put("body", Json::from(text)),
        Err(_) => put("body_base64", Json::from(STANDARD.encode(&message.body))),
    };
    Json::Object(object)
}
