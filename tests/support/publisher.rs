//! A publisher as the tests want it: generated stubs and nothing else of Sidebus.

use std::collections::BTreeMap;

use sidebus::grpc::proto::sidebus::v1;
use sidebus::grpc::proto::sidebus::v1::publisher_service_client::PublisherServiceClient;
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;
use tonic::{Code, Status, Streaming};
use tonic_types::StatusExt as _;

use super::wait::PATIENCE;

/// Publishes through a sidecar.
#[derive(Debug, Clone)]
pub(crate) struct Publisher(PublisherServiceClient<Channel>);

/// Names how many messages the large tests publish: the same on one day with ten times as many.
const PUBLISHES: &str = "BUS_TEST_PUBLISHES";

/// What the large tests publish, if nobody wishes otherwise.
#[expect(clippy::disallowed_methods, reason = "only config reads the environment of the product; this is not it")]
pub(crate) fn publishes() -> u32 {
    let wish = std::env::var(PUBLISHES).ok();
    wish.map_or(100_000, |text| text.parse().unwrap_or_else(|_| panic!("{PUBLISHES} is a number, not {text}")))
}

/// A message whose number is its id, its body and the end of its key.
pub(crate) fn numbered(number: usize) -> v1::Message {
    v1::Message {
        body: number.to_string().into(),
        routing_key: format!("player.Event{number}"),
        message_id: number.to_string(),
        ..v1::Message::default()
    }
}

/// A header.
pub(crate) fn header(kind: v1::header_value::Kind) -> v1::HeaderValue {
    v1::HeaderValue { kind: Some(kind) }
}

/// A message with these headers and the number 0.
pub(crate) fn with_headers<const N: usize>(headers: [(&str, v1::header_value::Kind); N]) -> v1::Message {
    let headers: BTreeMap<_, _> = headers.into_iter().map(|(name, kind)| (name.to_owned(), header(kind))).collect();
    v1::Message { headers, ..numbered(0) }
}

/// Code and published reason of a refusal.
pub(crate) fn reason(status: &Status) -> (Code, String) {
    let info = status.get_error_details().error_info().map(|info| info.reason.clone());
    (status.code(), info.unwrap_or_default())
}

impl Publisher {
    pub(crate) fn new(channel: Channel) -> Self {
        Self(PublisherServiceClient::new(channel))
    }

    /// Publishes a batch: all or an error.
    pub(crate) async fn publish(&self, messages: Vec<v1::Message>) -> Result<Vec<String>, Status> {
        let request = v1::PublishRequest { messages, options: None };
        let answer = timeout(PATIENCE, self.0.clone().publish(request)).await.expect("a publish has a deadline");
        Ok(answer?.into_inner().message_ids)
    }

    /// Publishes these with one stream, sequences from 1, in frames of this many; answers what was confirmed and what
    /// failed, each in the order of the answers. The caller never waits for its window.
    pub(crate) async fn stream(
        &self,
        messages: impl IntoIterator<Item = v1::Message, IntoIter: Send + 'static>,
        per_frame: usize,
    ) -> (Vec<i64>, Vec<v1::PublishFailure>) {
        let mut items =
            (1..).zip(messages).map(|(sequence, message)| v1::PublishItem { sequence, message: Some(message) });
        // Made when they are sent: all of them at once are more than a test should hold.
        let frames = std::iter::from_fn(move || {
            let items: Vec<_> = items.by_ref().take(per_frame).collect();
            (!items.is_empty()).then_some(v1::PublishStreamRequest { open: None, items })
        });
        let mut client = self.0.clone();
        let answer = client.publish_stream(tokio_stream::iter(frames)).await.expect("a stream");
        let (mut responses, mut confirmed, mut failures) = (answer.into_inner(), Vec::new(), Vec::new());
        while let Some(frame) = timeout(PATIENCE, responses.message()).await.expect("in time").expect("it ends well") {
            confirmed.extend(frame.confirmed_sequences);
            failures.extend(frame.failures);
        }
        (confirmed, failures)
    }

    /// Opens a stream and waits until it is accepted.
    pub(crate) async fn open(&self) -> Publishing {
        let (items, outgoing) = mpsc::channel(64);
        let mut client = self.0.clone();
        let answer = client.publish_stream(ReceiverStream::new(outgoing));
        let answers = timeout(PATIENCE, answer).await.expect("an answer").expect("a stream").into_inner();
        let mut publishing = Publishing {
            items,
            answers,
            sequence: 0,
            answered: 0,
            confirmed: Vec::new(),
            failures: Vec::new(),
            states: Vec::new(),
        };
        publishing.until("the stream is accepted", |it| !it.states.is_empty()).await;
        publishing
    }

    /// Publishes numbered messages, all of which must be confirmed.
    pub(crate) async fn publish_numbers(&self, numbers: std::ops::Range<usize>) {
        let messages: Vec<_> = numbers.map(numbered).collect();
        for batch in messages.chunks(500) {
            self.publish(batch.to_vec()).await.expect("confirmed");
        }
    }
}

/// An open `PublishStream`, whose answers are kept until a test asks for them.
#[derive(Debug)]
pub(crate) struct Publishing {
    items: mpsc::Sender<v1::PublishStreamRequest>,
    answers: Streaming<v1::PublishStreamResponse>,
    sequence: i64,
    answered: usize,
    pub(crate) confirmed: Vec<i64>,
    pub(crate) failures: Vec<v1::PublishFailure>,
    pub(crate) states: Vec<v1::PublisherState>,
}

impl Publishing {
    /// Publishes these with the next sequences, from 1, in one frame.
    pub(crate) async fn publish(&mut self, messages: impl IntoIterator<Item = v1::Message>) {
        let number = |message| {
            self.sequence += 1;
            v1::PublishItem { sequence: self.sequence, message: Some(message) }
        };
        let items = messages.into_iter().map(number).collect();
        self.items.send(v1::PublishStreamRequest { open: None, items }).await.expect("the stream is open");
    }

    /// The last sequence so far.
    pub(crate) fn sequence(&self) -> i64 {
        self.sequence
    }

    /// Takes frames until something is true of what has come.
    pub(crate) async fn until(&mut self, what: &str, is_true: impl Fn(&Self) -> bool) {
        let taking = async {
            while !is_true(self) {
                self.take_frame().await;
            }
        };
        let in_time = timeout(PATIENCE, taking).await.is_ok();
        assert!(in_time, "not in time: {what}; states {:?}, failures {:?}", self.states, self.failures.last());
    }

    /// Takes one frame; the stream must not end.
    pub(crate) async fn take_frame(&mut self) {
        let frame = self.answers.message().await.expect("the stream goes on").expect("the stream goes on");
        if frame.state() != v1::PublisherState::Unspecified {
            self.states.push(frame.state());
        }
        self.answered += frame.confirmed_sequences.len() + frame.failures.len();
        self.confirmed.extend(frame.confirmed_sequences);
        self.failures.extend(frame.failures);
    }

    /// Messages without an answer.
    pub(crate) fn unanswered(&self) -> usize {
        usize::try_from(self.sequence).unwrap_or_default().saturating_sub(self.answered)
    }

    /// True once each message of it has an answer.
    pub(crate) fn is_answered(&self) -> bool {
        i64::try_from(self.answered) == Ok(self.sequence)
    }
}
