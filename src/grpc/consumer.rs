//! `ConsumerService`: joins a handler's stream to its subscription. Knows no broker.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::Stream;
use tokio_util::sync::CancellationToken;
use tonic::{Code, Request, Response, Status, Streaming};
use tracing::warn;

use super::answers;
use super::door::Door;
use super::frames::{frame_to_proto, opened_to_proto, said_from_proto};
use super::presence::Seat;
use super::problem::{FieldViolation, Problem};
use super::proto::sidebus::v1;
use super::proto::sidebus::v1::consumer_service_server::ConsumerService;
use super::status::is_undecodable;
use super::wire::{self, DECLARE_PATH, DeclareDefaults, Declared, OpenRequest, ResultMode};
use crate::bridge::{
    AttachError, AttachRequest, Attached, DeclareError, FrameLimits, Hangup, Outbox, Results, StreamEnd, Voice,
};
use crate::domain::name::SubscriptionName;
use crate::domain::subscription::{Clash, Subscription};
use crate::runtime::TaskKind;

/// See the module.
#[derive(Debug, Clone)]
pub(super) struct Consumer(pub(super) Arc<Door>);

/// Tries to join a subscription that goes at the same moment.
const ATTACH_TRIES: usize = 3;

type Frames = Pin<Box<dyn Stream<Item = Result<v1::SubscribeResponse, Status>> + Send>>;

#[tonic::async_trait]
impl ConsumerService for Consumer {
    type SubscribeStream = Frames;

    async fn subscribe(&self, request: Request<Streaming<v1::SubscribeRequest>>) -> Result<Response<Frames>, Status> {
        let peer = request.remote_addr().map_or_else(|| "unknown".to_owned(), |address| address.to_string());
        let mut inbound = request.into_inner();
        let mut first = self.first_frame(&mut inbound).await?;
        let open = first.open.take();
        let open = open.ok_or_else(|| violation("the first frame must carry open"))?;
        let open = wire::open_from_proto(open)?;
        let leaves = first.leave;
        let said = said_from_proto(first)?;

        let (subscription, attached) = self.0.attach(open, peer).await?;
        let Attached { stream, outbox, voice, terms } = attached.joined;
        let gone = CancellationToken::new();
        let seat = Arc::new(self.0.presence.enter());
        if leaves {
            seat.leave();
        }
        let outgoing = Outgoing {
            first: Some(opened_to_proto(stream.0, &terms)),
            outbox,
            limits: attached.limits,
            queue: subscription.queue.name.as_str().to_owned(),
            _seat: Arc::clone(&seat),
        };
        let (name, left) = (format!("stream {}", stream.0), gone.clone().drop_guard());
        let reader = async move {
            if voice.say(said).await {
                voice.follow(read(inbound, &voice, gone, &seat)).await;
            }
        };
        self.0.tasks.spawn(TaskKind::Stream, subscription.name.as_str(), reader);
        Ok(Response::new(Box::pin(answers::answers(left, name, outgoing, Outgoing::next))))
    }

    async fn receive(&self, _: Request<v1::ReceiveRequest>) -> Result<Response<v1::ReceiveResponse>, Status> {
        Err(Problem::FeatureUnavailable("Receive; use Subscribe".to_owned()).into())
    }

    async fn settle(&self, _: Request<v1::SettleRequest>) -> Result<Response<v1::SettleResponse>, Status> {
        Err(Problem::FeatureUnavailable("Settle; settle on the Subscribe stream".to_owned()).into())
    }
}

fn violation(text: &str) -> Problem {
    Problem::ProtocolViolation(text.to_owned())
}

impl Consumer {
    async fn first_frame(&self, inbound: &mut Streaming<v1::SubscribeRequest>) -> Result<v1::SubscribeRequest, Status> {
        let within = self.0.settings.open_timeout;
        match tokio::time::timeout(within, inbound.message()).await {
            Ok(Ok(Some(frame))) => Ok(frame),
            Ok(Ok(None)) => Err(violation("the stream ended before its first frame").into()),
            // A frame above the decoder's limit keeps its published code.
            Ok(Err(status)) if status.code() == Code::OutOfRange => Err(status),
            Ok(Err(status)) => match hangup_of(&status) {
                Hangup::Protocol(text) => Err(violation(&text).into()),
                Hangup::HalfClosed | Hangup::Lost | Hangup::Bug => Err(status),
            },
            Err(_) => Err(violation(&format!("no first frame within {} ms", within.as_millis())).into()),
        }
    }
}

/// A handler that has joined, and the limits of its frames.
pub(super) struct Joined {
    joined: Attached,
    limits: FrameLimits,
}

impl Door {
    async fn attach(&self, open: OpenRequest, peer: String) -> Result<(Arc<Subscription>, Joined), Problem> {
        let name = self.name_of(&open)?;
        let limits = FrameLimits {
            messages_max: open.batch.messages_max,
            bytes_max: bytes(open.batch.bytes_max.min(open.frame_bytes_max)),
            linger: open.batch.linger,
        };
        // A subscription that a handler brought goes with its last handler, which may be between our two looks.
        for _ in 0..ATTACH_TRIES {
            let subscription = self.subscription_of(&name, &open)?;
            let request = AttachRequest {
                handler: wire::label(open.handler.as_deref().unwrap_or(&peer)),
                messages_max: open.window.messages.map(u32::from),
                bytes_max: open.window.bytes.unwrap_or(self.settings.window_bytes),
                settle_timeout: Some(open.settle_timeout_within(&subscription.delivery)?),
                frame_bytes_max: bytes(open.frame_bytes_max),
                results: match open.result_mode {
                    ResultMode::Failures => Results::Failures,
                    ResultMode::All => Results::All,
                },
            };
            match self.registry.attach(&name, request).await {
                Ok(joined) => return Ok((subscription, Joined { joined, limits })),
                Err(AttachError::Gone) => {}
                Err(AttachError::Draining) => return Err(Problem::Draining),
                Err(AttachError::HandlerLimit { handlers_max }) => {
                    let what = format!("handlers of subscription {name}");
                    return Err(Problem::HandlerLimit { what, limit: u64::from(handlers_max) });
                }
            }
        }
        Err(Problem::Draining)
    }

    fn name_of(&self, open: &OpenRequest) -> Result<SubscriptionName, Problem> {
        if let Some(name) = &open.subscription {
            return Ok(name.clone());
        }
        let configured = self.registry.configured();
        match configured.as_slice() {
            [only] => Ok(only.clone()),
            names => Err(Problem::SubscriptionRequired { configured: names.len() }),
        }
    }

    /// The running subscription of this name, or the one that the handler brings.
    fn subscription_of(&self, name: &SubscriptionName, open: &OpenRequest) -> Result<Arc<Subscription>, Problem> {
        let settings = &self.settings;
        let defaults = DeclareDefaults {
            exchange: &settings.exchange,
            namespace: &settings.namespace,
            delivery: &settings.delivery,
            retry: &settings.retry,
            dead_letter: &settings.dead_letter,
        };
        match (self.registry.find(name), &open.declare) {
            (Some(running), None) => Ok(running),
            (Some(running), Some(spec)) => match wire::differences(&running, spec, &defaults)? {
                None => Ok(running),
                Some(difference) => Err(Problem::DeclareDiffers { subscription: name.as_str().to_owned(), difference }),
            },
            (None, None) => Err(Problem::SubscriptionNotFound(name.as_str().to_owned())),
            (None, Some(_)) if !settings.handlers_may_declare => Err(Problem::NotAllowed {
                what: format!("subscription {name} is not configured and handlers may not declare here"),
                hint: "configure it under [queues], or set grpc.handlers_may_declare = true".to_owned(),
            }),
            (None, Some(spec)) => {
                let Declared { subscription, warnings } = wire::subscription_from_proto(name, spec.clone(), &defaults)?;
                self.registry.declare(subscription).map_err(refused)?;
                for warning in warnings {
                    warn!(subscription = %name, %warning, "a handler's declaration may surprise");
                }
                self.registry.find(name).ok_or(Problem::Draining)
            }
        }
    }
}

fn refused(error: DeclareError) -> Problem {
    match error {
        DeclareError::TooMany { limit } => {
            Problem::HandlerLimit { what: "subscriptions brought by handlers".to_owned(), limit: bytes(limit) }
        }
        DeclareError::Clash { other, clash } => {
            let (field, description) = match clash {
                Clash::Queue => ("queue", format!("belongs to subscription {other} already: share that subscription")),
                Clash::Letters => ("queue", format!("would be a dead-letter queue and a work queue, with {other}")),
                Clash::OwnLetters => {
                    ("dead_letter.queue", format!("takes the letters of subscription {other} already"))
                }
                Clash::Listening => (
                    "bindings",
                    format!("name the dead-letter exchange of subscription {other}: handlers may not bind to it"),
                ),
                // A declaration names no archive, so it is the other's.
                Clash::Archive => ("dead_letter.queue", format!("is the archive of subscription {other}")),
            };
            let field = format!("{DECLARE_PATH}.{field}");
            Problem::InvalidRequest(vec![FieldViolation { field, description }])
        }
    }
}

fn bytes(count: usize) -> u64 {
    u64::try_from(count).unwrap_or(u64::MAX)
}

/// The sending side of a stream.
struct Outgoing {
    first: Option<v1::SubscribeResponse>,
    outbox: Arc<Outbox>,
    limits: FrameLimits,
    queue: String,
    _seat: Arc<Seat>,
}

impl Outgoing {
    async fn next(mut self) -> Option<(Result<v1::SubscribeResponse, Status>, Self)> {
        if let Some(first) = self.first.take() {
            return Some((Ok(first), self));
        }
        match self.outbox.next(self.limits).await {
            Ok(frame) => Some((Ok(frame_to_proto(frame, &self.queue)), self)),
            Err(end) => status_of(end).map(|status| (Err(status), self)),
        }
    }
}

fn status_of(end: StreamEnd) -> Option<Status> {
    let problem = match end {
        // A normal end must not look like an error.
        StreamEnd::Done => return None,
        StreamEnd::Draining => Problem::Draining,
        StreamEnd::SlowReader => Problem::SlowReader("its oldest lease ended and nothing of it was read".to_owned()),
        StreamEnd::Protocol(text) => Problem::ProtocolViolation(text),
        StreamEnd::Mismatch(error) => Problem::from_broker(error),
        // As the log names it.
        StreamEnd::Bug(stream) => Problem::Internal { request_id: format!("stream {}", stream.0) },
    };
    Some(problem.into())
}

/// Reads a handler's frames until it hangs up; `None` = the subscription has ended before.
async fn read(
    mut inbound: Streaming<v1::SubscribeRequest>,
    voice: &Voice,
    gone: CancellationToken,
    seat: &Seat,
) -> Option<Hangup> {
    loop {
        // In this order: a handler may say that it leaves and be gone when that is read.
        let frame = tokio::select! {
            biased;
            frame = inbound.message() => frame,
            () = gone.cancelled() => return Some(Hangup::Lost),
        };
        if frame.as_ref().is_ok_and(|frame| frame.as_ref().is_some_and(|frame| frame.leave)) {
            seat.leave();
        }
        let said = match frame {
            Ok(Some(frame)) => said_from_proto(frame).map_err(|problem| Hangup::Protocol(rule_of(problem))),
            Ok(None) => Err(hangup_without_a_word(&gone, seat).await),
            Err(status) => Err(hangup_of(&status)),
        };
        match said {
            Ok(said) => {
                if !voice.say(said).await {
                    return None;
                }
            }
            Err(hangup) => return Some(hangup),
        }
    }
}

/// A call that was cancelled has lost its answers within this.
const CANCELS_SHOW: Duration = Duration::from_millis(100);

/// What the end of the requests means. hyper tells a call that was cancelled as it tells a half-close, and a handler that dies
/// of an exception cancels its call; but then the answers have nobody left to read them either (seen with grpcio and tonic).
async fn hangup_without_a_word(gone: &CancellationToken, seat: &Seat) -> Hangup {
    if tokio::time::timeout(CANCELS_SHOW, gone.cancelled()).await.is_ok() {
        return Hangup::Lost;
    }
    // A handler that says nothing more, and listens, has left as well.
    seat.leave();
    Hangup::HalfClosed
}

/// The rule that a frame breaks, without the words that the status adds.
fn rule_of(problem: Problem) -> String {
    if let Problem::ProtocolViolation(rule) = problem { rule } else { problem.to_string() }
}

/// A frame that cannot be read is the handler's fault; everything else means that the connection is gone.
fn hangup_of(status: &Status) -> Hangup {
    let is_nonsense = status.code() == Code::OutOfRange || is_undecodable(status);
    if is_nonsense { Hangup::Protocol(status.message().to_owned()) } else { Hangup::Lost }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::ledger::StreamId;

    /// failures.md S4.
    #[test]
    fn a_stream_whose_reader_panicked_ends_with_internal_and_one_that_is_done_with_nothing() {
        let status = status_of(StreamEnd::Bug(StreamId(7))).unwrap();
        assert_eq!(status.code(), Code::Internal);
        assert!(status_of(StreamEnd::Done).is_none());
    }
}
