//! `PublishStream`: items in, answers out, both at once. Knows no lane and no broker.

use std::pin::Pin;
use std::sync::Arc;

use futures_util::Stream;
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, Streaming};
use tracing::debug;
use uuid::Uuid;

use super::answers;
use super::door::{Door, PublishWindow};
use super::problem::{FieldViolation, Problem};
use super::proto::sidebus::v1;
use super::publisher::refused;
use super::status::is_undecodable;
use super::wire::{self, PublishDefaults, PublishTerms};
use crate::bridge::{Answer, Outcome, PipeInput, PipeOutput, PipeWindow, PublisherState, PublisherWatch};
use crate::broker::Publication;
use crate::domain::name::ExchangeName;
use crate::runtime::{TaskKind, unix_ms};

/// What a caller reads.
pub(super) type Results = Pin<Box<dyn Stream<Item = Result<v1::PublishStreamResponse, Status>> + Send>>;

/// What the caller knows a message by, and what tells it what went wrong.
#[derive(Debug)]
struct Item {
    sequence: i64,
    message_id: String,
    routing_key: String,
    /// Why it was passed over.
    problem: Option<Problem>,
}

/// Opens a stream.
///
/// # Errors
/// The sidecar stops.
pub(super) fn open(
    door: &Arc<Door>,
    request: Request<Streaming<v1::PublishStreamRequest>>,
) -> Result<Response<Results>, Status> {
    let watch = door.publisher.watch();
    if watch.now() == PublisherState::Draining {
        return Err(Problem::Draining.into());
    }
    let peer = request.remote_addr().map_or_else(|| "unknown".to_owned(), |address| address.to_string());
    let trace = wire::trace_from_metadata(request.metadata());
    let window = door.settings.publish_window;
    let kib = usize::try_from(window.bytes.div_ceil(1_024)).unwrap_or(usize::MAX);
    let (input, output) = door.publisher.pipe(PipeWindow { messages: window.messages, kib });
    let gone = CancellationToken::new();
    let (to_end, end) = oneshot::channel();
    let reader = Reader {
        door: Arc::clone(door),
        terms: PublishTerms::unnamed(&door.settings.exchange),
        trace,
        sequence: 0,
        is_first: true,
        input,
    };
    let inbound = request.into_inner();
    let name = peer.clone();
    let (stopping, left) = (watch.clone(), gone.clone());
    door.tasks.spawn(TaskKind::Stream, name, async move {
        let ended = tokio::select! {
            () = left.cancelled() => return,
            ended = reader.run(inbound, stopping, &peer) => ended,
        };
        // The input is dropped by now, so what is unanswered is answered before this is told.
        drop(to_end.send(ended));
    });
    let outgoing = Outgoing { output, end: Some(end), watch, told: None, window };
    let name = format!("publish stream {}", Uuid::now_v7());
    Ok(Response::new(Box::pin(answers::answers(gone.drop_guard(), name, outgoing, Outgoing::next))))
}

struct Reader {
    door: Arc<Door>,
    terms: PublishTerms,
    trace: Option<v1::TraceContext>,
    /// The last one seen.
    sequence: i64,
    is_first: bool,
    input: PipeInput<Item>,
}

impl Reader {
    /// Reads until the caller has no more, or breaks a rule, or the sidecar stops; answers why it ended early.
    async fn run(
        mut self,
        mut inbound: Streaming<v1::PublishStreamRequest>,
        mut watch: PublisherWatch,
        peer: &str,
    ) -> Option<Status> {
        loop {
            let frame = tokio::select! {
                biased;
                () = watch.over() => return Some(Problem::Draining.into()),
                frame = inbound.message() => frame,
            };
            let taken = match frame {
                Ok(Some(frame)) => self.take(frame, peer).await,
                Ok(None) => return None,
                Err(status) => return Some(unreadable(status)),
            };
            if let Err(problem) = taken {
                return Some(problem.into());
            }
        }
    }

    async fn take(&mut self, frame: v1::PublishStreamRequest, peer: &str) -> Result<(), Problem> {
        if let Some(open) = frame.open {
            if !self.is_first {
                return Err(Problem::ProtocolViolation("open is only for the first frame".to_owned()));
            }
            self.terms = wire::publish_terms_from_proto(&open, &self.door.settings.exchange)?;
            debug!(producer = self.terms.producer.as_deref().unwrap_or(peer), %peer, "a publish stream is open");
        }
        self.is_first = false;
        let mut good = Vec::with_capacity(frame.items.len());
        for item in frame.items {
            if item.sequence <= self.sequence {
                let (found, last) = (item.sequence, self.sequence);
                self.input.publish(good).await;
                let rule = format!("sequence {found} after {last}: sequences rise from 1");
                return Err(Problem::ProtocolViolation(rule));
            }
            self.sequence = item.sequence;
            match self.publication(item) {
                Ok(publication) => good.push(publication),
                Err(failed) => {
                    // In its turn, so that answers keep the order of the items.
                    self.input.publish(std::mem::take(&mut good)).await;
                    self.input.pass(*failed, self.terms.exchange.clone()).await;
                }
            }
        }
        self.input.publish(good).await;
        Ok(())
    }

    fn publication(&self, item: v1::PublishItem) -> Result<(Item, Publication), Box<Item>> {
        let sequence = item.sequence;
        let failed = |message_id, problem| {
            Box::new(Item { sequence, message_id, routing_key: String::new(), problem: Some(problem) })
        };
        let Some(mut message) = item.message else {
            let missing = FieldViolation { field: "message".to_owned(), description: "is required".to_owned() };
            return Err(failed(String::new(), Problem::InvalidMessage(vec![missing])));
        };
        if message.trace.is_none() {
            message.trace.clone_from(&self.trace);
        }
        let given_id = message.message_id.clone();
        let settings = &self.door.settings;
        let defaults = PublishDefaults {
            exchange: &self.terms.exchange,
            limits: settings.publish,
            now_unix_seconds: unix_ms() / 1_000,
        };
        match wire::message_from_proto(message, &"message", &defaults, || Uuid::now_v7().to_string()) {
            Ok(message) => {
                let message_id = message.properties.message_id.clone().unwrap_or_default();
                let item = Item { sequence, message_id, routing_key: message.routing_key.clone(), problem: None };
                Ok((item, Publication { message, routing: self.terms.routing }))
            }
            Err(problem) => Err(failed(given_id, problem.into())),
        }
    }
}

/// A frame that cannot be read is the caller's fault; else the connection is gone, and nobody reads the status.
fn unreadable(status: Status) -> Status {
    // A frame above the decoder's limit keeps its published code.
    if is_undecodable(&status) { Problem::ProtocolViolation(status.message().to_owned()).into() } else { status }
}

struct Outgoing {
    output: PipeOutput<Item>,
    /// Why the stream ends, once everything is answered; `None` = it has ended.
    end: Option<oneshot::Receiver<Option<Status>>>,
    watch: PublisherWatch,
    told: Option<PublisherState>,
    window: PublishWindow,
}

impl Outgoing {
    async fn next(mut self) -> Option<(Result<v1::PublishStreamResponse, Status>, Self)> {
        loop {
            let news = self.news();
            if news != v1::PublishStreamResponse::default() {
                return Some((Ok(news), self));
            }
            self.end.as_ref()?;
            let answers = tokio::select! {
                biased;
                answers = self.output.next() => answers,
                () = self.watch.changed() => continue,
            };
            let Some(answers) = answers else {
                // Without a word the reader has panicked, which is in the log.
                let internal = || Some(Problem::Internal { request_id: Uuid::now_v7().to_string() }.into());
                let status = self.end.take()?.await.unwrap_or_else(|_| internal())?;
                return Some((Err(status), self));
            };
            self.output.mend(&answers).await;
            let mut frame = self.news();
            for answer in answers {
                add(&mut frame, answer);
            }
            return Some((Ok(frame), self));
        }
    }

    /// Window and state, if they are others than the caller knows.
    fn news(&mut self) -> v1::PublishStreamResponse {
        let mut frame = v1::PublishStreamResponse::default();
        let now = self.watch.now();
        if self.told == Some(now) {
            return frame;
        }
        self.told = Some(now);
        let (state, is_open) = match now {
            PublisherState::Active => (v1::PublisherState::Active, true),
            PublisherState::Blocked => (v1::PublisherState::Blocked, false),
            PublisherState::Down => (v1::PublisherState::BrokerDown, false),
            PublisherState::Draining => (v1::PublisherState::Draining, false),
        };
        frame.set_state(state);
        frame.window = Some(if is_open {
            v1::PublishWindow {
                max_in_flight_messages: i32::try_from(self.window.messages).unwrap_or(i32::MAX),
                max_in_flight_bytes: i64::try_from(self.window.bytes).unwrap_or(i64::MAX),
            }
        } else {
            v1::PublishWindow::default()
        });
        frame
    }
}

fn add(frame: &mut v1::PublishStreamResponse, answer: Answer<Item>) {
    let Answer { tag: Item { sequence, message_id, routing_key, problem }, exchange, outcome } = answer;
    match problem.or_else(|| problem_of(outcome, &exchange, &routing_key)) {
        None => frame.confirmed_sequences.push(sequence),
        Some(problem) => {
            let (kind, retryable) = wire::failure_kind(&problem);
            let mut failure = v1::PublishFailure {
                sequence,
                retryable,
                description: problem.to_string(),
                message_id,
                ..Default::default()
            };
            failure.set_kind(kind);
            frame.failures.push(failure);
        }
    }
}

fn problem_of(outcome: Outcome, exchange: &ExchangeName, routing_key: &str) -> Option<Problem> {
    match outcome {
        Outcome::Confirm(confirm) => Problem::from_confirm(confirm, exchange, routing_key),
        Outcome::Refused(refusal) => Some(refused(refusal)),
        Outcome::Passed => None,
    }
}
