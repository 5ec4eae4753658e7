//! A small client of a running sidecar, so that commands need not name the transport.
//!
//! Knows no command line. It reconnects never: a command says what went wrong and ends.

use std::collections::BTreeMap;
use std::error::Error as _;
use std::time::Duration;

use bytes::Bytes;
use serde_json::Value as Json;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status, Streaming};
use tonic_types::StatusExt as _;

use super::proto::sidebus::v1;
use super::proto::sidebus::v1::consumer_service_client::ConsumerServiceClient;
use super::proto::sidebus::v1::publisher_service_client::PublisherServiceClient;
use super::status::ERROR_DOMAIN;
use crate::domain::masking::masked;

mod json;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Largest frame taken; the sidecar's own body limit is 16 MiB unless configured.
const FRAME_BYTES_MAX: usize = 64 * 1024 * 1024;
/// Frames of ours that wait for the transport.
const REQUESTS_WAITING_MAX: usize = 16;

/// Kinds of failures that commands tell apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErrorKind {
    /// The endpoint is not an address.
    BadEndpoint,
    /// No sidecar answers there.
    NoSidecar,
    /// The sidecar answers, and has no session to the broker or cannot publish now.
    BrokerUnavailable,
    /// Login or rights.
    Refused,
    /// Topology that does not fit.
    Mismatch,
    /// Subscription or exchange that is not there.
    NotFound,
    /// No answer in time.
    TimedOut,
    /// Everything else.
    Other,
}

/// Why a call failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{reason}: {text}")]
pub struct ClientError {
    /// For decisions.
    pub kind: ErrorKind,
    /// The published code, or gRPC's word where the sidecar gave none.
    pub reason: String,
    /// What, where, why and what to try.
    pub text: String,
}

/// A message to publish.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Outgoing {
    /// Empty = the sidecar's configured exchange.
    pub exchange: String,
    /// At most 255 bytes.
    pub routing_key: String,
    /// Empty = none.
    pub content_type: String,
    /// Empty = the sidecar assigns one.
    pub message_id: String,
    /// Objects become tables, lists become arrays.
    pub headers: BTreeMap<String, Json>,
    /// Opaque.
    pub body: Bytes,
}

/// Whose messages are wanted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// A configured subscription: its handlers share the work.
    Subscription(String),
    /// A queue of our own, gone with us: every message that fits gets a copy.
    Pattern {
        /// Name of queue and subscription.
        name: String,
        /// Binding pattern such as `player.#`.
        pattern: String,
        /// Empty = the sidecar's configured exchange.
        exchange: String,
    },
}

/// A delivery. Must be settled with [`Deliveries::settle`].
#[derive(Debug, Clone, PartialEq)]
pub struct Received {
    /// Names the lease.
    pub id: i64,
    /// From 1.
    pub attempt: i32,
    /// It may have been handed out before.
    pub redelivered: bool,
    /// Queue it was taken from.
    pub queue: String,
    /// The message; binary headers as base64, times as seconds since 1970, decimals as text.
    pub message: Outgoing,
}

/// What a frame of the sidecar brings.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Frame {
    /// New work.
    pub deliveries: Vec<Received>,
    /// For people: changes of the subscription's state, settlements without effect, a drain.
    pub words: Vec<String>,
    /// Whether messages flow when there are any; `None` = unchanged.
    pub active: Option<bool>,
}

/// A connection to a sidecar.
#[derive(Debug, Clone)]
pub struct Client {
    channel: Channel,
    /// As it was given.
    endpoint: String,
}

impl Client {
    /// Connects to `host:port`, an `http://` address or the path of a Unix socket, within 5 s.
    ///
    /// # Errors
    /// That is no address, or nobody answers there.
    pub async fn connect(endpoint: &str) -> Result<Self, ClientError> {
        let address = match endpoint {
            path if path.starts_with('/') => format!("unix:{path}"),
            full if full.contains("://") || full.starts_with("unix:") => full.to_owned(),
            bare => format!("http://{bare}"),
        };
        let bad = |error: &dyn std::fmt::Display| ClientError {
            kind: ErrorKind::BadEndpoint,
            reason: "BAD_ENDPOINT".to_owned(),
            text: format!(
                "{:?} is not an address ({error}); try: host:port, or the path of a Unix socket",
                masked(endpoint)
            ),
        };
        if address.starts_with("https:") {
            return Err(bad(&"this build speaks plain text to sidecars"));
        }
        let target = Endpoint::from_shared(address).map_err(|error| bad(&error))?.connect_timeout(CONNECT_TIMEOUT);
        let channel = target.connect().await.map_err(|error| no_sidecar(endpoint, &error))?;
        Ok(Self { channel, endpoint: endpoint.to_owned() })
    }

    /// Publishes a batch of 1 to 500 messages: all are routed and confirmed, or it is an error. Returns the message ids
    /// in order. Not cancel-safe: what was sent may be stored.
    ///
    /// # Errors
    /// What the sidecar says; some messages may be stored.
    pub async fn publish(&self, messages: Vec<Outgoing>) -> Result<Vec<String>, ClientError> {
        let messages = messages.into_iter().map(json::outgoing_to_proto).collect();
        let request = v1::PublishRequest { messages, options: None };
        let answer = PublisherServiceClient::new(self.channel.clone()).publish(request).await;
        let answer = answer.map_err(|status| failed(&self.endpoint, status))?;
        Ok(answer.into_inner().message_ids)
    }

    /// Joins a subscription as the handler `handler`, with at most `window` unsettled deliveries (1 to 65,535).
    ///
    /// # Errors
    /// What the sidecar says.
    pub async fn subscribe(&self, source: &Source, handler: &str, window: u16) -> Result<Deliveries, ClientError> {
        let (requests, waiting) = mpsc::channel(REQUESTS_WAITING_MAX);
        let first = v1::SubscribeRequest { open: Some(open(source, handler, window)), ..Default::default() };
        // The channel is new and holds more than one frame.
        requests.try_send(first).map_err(|error| local(&error))?;
        let mut client = ConsumerServiceClient::new(self.channel.clone()).max_decoding_message_size(FRAME_BYTES_MAX);
        let responses =
            client.subscribe(ReceiverStream::new(waiting)).await.map_err(|status| failed(&self.endpoint, status))?;
        let responses = responses.into_inner();
        Ok(Deliveries { requests, responses })
    }
}

/// What is wanted after a settlement.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// As before.
    Same,
    /// At most this many unsettled deliveries.
    Window(u16),
    /// Nothing more: what is in flight may still be settled, then the stream ends.
    Leave,
}

/// A stream of deliveries.
#[derive(Debug)]
pub struct Deliveries {
    requests: mpsc::Sender<v1::SubscribeRequest>,
    responses: Streaming<v1::SubscribeResponse>,
}

impl Deliveries {
    /// Waits for the next frame; `None` = the stream ended well. Cancel-safe.
    ///
    /// # Errors
    /// What ended the stream.
    pub async fn next(&mut self) -> Result<Option<Frame>, ClientError> {
        Ok(self.responses.message().await?.map(json::frame_from_proto))
    }

    /// Acks and releases deliveries, and in the same frame says what comes next: apart, the room made by the first would
    /// be filled before the second is read. A stream that is over is no error here: [`Deliveries::next`] says why.
    pub async fn settle(&self, acked: Vec<i64>, released: Vec<i64>, next: Next) {
        use v1::settlement::Verdict;
        let verdicts = [(acked, Verdict::Ack(v1::Ack::default())), (released, Verdict::Release(v1::Release {}))];
        let settlements = verdicts
            .into_iter()
            .filter(|(ids, _)| !ids.is_empty())
            .map(|(delivery_ids, verdict)| v1::Settlement { delivery_ids, verdict: Some(verdict) })
            .collect();
        let (flow, leave) = match next {
            Next::Same => (None, false),
            Next::Window(window) => (Some(flow(window)), false),
            Next::Leave => (None, true),
        };
        self.send(v1::SubscribeRequest { settlements, flow, leave, ..Default::default() }).await;
    }

    async fn send(&self, frame: v1::SubscribeRequest) {
        // Fails only when the stream is over, which `next` reports with its cause.
        self.requests.send(frame).await.ok();
    }
}

fn flow(window: u16) -> v1::FlowControl {
    v1::FlowControl { max_in_flight_messages: Some(i32::from(window)), max_in_flight_bytes: None }
}

fn open(source: &Source, handler: &str, window: u16) -> v1::SubscribeOpen {
    let (subscription, declare) = match source {
        Source::Subscription(name) => (name.clone(), None),
        Source::Pattern { name, pattern, exchange } => {
            let binding =
                v1::Binding { exchange: exchange.clone(), routing_key: pattern.clone(), ..Default::default() };
            let spec = v1::SubscriptionSpec {
                bindings: vec![binding],
                auto_delete: true,
                exclusive: true,
                ..Default::default()
            };
            (name.clone(), Some(spec))
        }
    };
    v1::SubscribeOpen {
        subscription,
        handler: handler.to_owned(),
        flow: Some(flow(window)),
        max_message_bytes: i32::try_from(FRAME_BYTES_MAX).unwrap_or(i32::MAX),
        declare,
        ..Default::default()
    }
}

/// Why a call failed that was the first on its way: what the sidecar says, or that there is none.
fn failed(endpoint: &str, status: Status) -> ClientError {
    // A status of the sidecar has no source. Not so one that was made here because nothing that speaks gRPC has answered,
    // as a web server does, or because the connection was closed.
    let is_ours = [Code::Unknown, Code::Internal, Code::Unavailable, Code::Cancelled].contains(&status.code());
    if let Some(source) = status.source().filter(|_| is_ours) {
        return no_sidecar(endpoint, source);
    }
    let is_foreign = status.code() == Code::Unimplemented && status.get_error_details().error_info().is_none();
    if is_foreign { nobody_at(endpoint, "what is there knows no such service") } else { status.into() }
}

fn no_sidecar(endpoint: &str, error: &dyn std::error::Error) -> ClientError {
    // The outer text is "transport error"; the cause says refused, not found or timed out.
    let mut cause = error;
    while let Some(deeper) = cause.source() {
        cause = deeper;
    }
    nobody_at(endpoint, &cause.to_string())
}

fn nobody_at(endpoint: &str, cause: &str) -> ClientError {
    let endpoint = masked(endpoint);
    ClientError {
        kind: ErrorKind::NoSidecar,
        reason: "NO_SIDECAR".to_owned(),
        text: format!(
            "no sidecar answers at {endpoint} ({cause}); try: start one with `sidebus run`, or say where it is with \
             --endpoint or client.endpoint"
        ),
    }
}

fn local(error: &dyn std::fmt::Display) -> ClientError {
    ClientError { kind: ErrorKind::Other, reason: "INTERNAL".to_owned(), text: error.to_string() }
}

impl From<Status> for ClientError {
    fn from(status: Status) -> Self {
        let details = status.get_error_details();
        let reason = details.error_info().filter(|info| info.domain == ERROR_DOMAIN).map(|info| info.reason.clone());
        let mut text = status.message().to_owned();
        for violation in details.bad_request().map(|request| request.field_violations.as_slice()).unwrap_or_default() {
            text = format!("{text}\n  {}: {}", violation.field, violation.description);
        }
        let kind = reason.as_deref().map_or_else(|| kind_of_code(status.code()), |reason| kind(reason, status.code()));
        Self { kind, reason: reason.unwrap_or_else(|| format!("{:?}", status.code())), text }
    }
}

fn kind(reason: &str, code: Code) -> ErrorKind {
    match reason {
        "TOPOLOGY_MISMATCH" => ErrorKind::Mismatch,
        "BROKER_UNAVAILABLE" | "BROKER_BLOCKED" | "CONFIRM_LOST" => ErrorKind::BrokerUnavailable,
        _ => kind_of_code(code),
    }
}

/// gRPC's codes are another's list, open for more; what is not named here is nothing to decide upon.
fn kind_of_code(code: Code) -> ErrorKind {
    if code == Code::Unavailable {
        ErrorKind::NoSidecar
    } else if code == Code::DeadlineExceeded {
        ErrorKind::TimedOut
    } else if code == Code::NotFound {
        ErrorKind::NotFound
    } else if code == Code::PermissionDenied || code == Code::Unauthenticated {
        ErrorKind::Refused
    } else {
        ErrorKind::Other
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_does_not_know_the_service_is_no_sidecar_and_what_a_sidecar_says_stands() {
        let foreign = failed("h:1", Status::unimplemented(""));
        assert_eq!((foreign.kind, foreign.reason.as_str()), (ErrorKind::NoSidecar, "NO_SIDECAR"));
        assert!(foreign.text.contains("no sidecar answers at h:1 (what is there knows no such service)"), "{foreign}");
        for code in [Code::Unknown, Code::Internal, Code::NotFound] {
            let told = failed("h:1", Status::new(code, "its own words"));
            assert_eq!(told.text, "its own words");
        }
    }
}
