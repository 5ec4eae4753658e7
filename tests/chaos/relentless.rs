//! A publisher that gives up nothing: what is not confirmed is sent again, by a new stream if need be, until it is. The body
//! of each copy is its own number, so that what is handled tells which copy it was.

use std::cell::Cell;
use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;
use std::time::Duration;

use sidebus::grpc::proto::sidebus::v1;
use sidebus::grpc::proto::sidebus::v1::publisher_service_client::PublisherServiceClient;
use tokio::sync::mpsc;
use tokio::time::{MissedTickBehavior, interval};
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;
use v1::PublishFailureKind as Kind;

use crate::support::publisher::numbered;

/// Unanswered messages of its own.
pub(crate) const WINDOW: usize = 2_000;
const FRAME: usize = 64;
/// Confirmed messages that nobody has handled: it goes with the handlers, so that no accident finds it done.
pub(crate) const AHEAD: usize = 5_000;
/// Between two looks at how far the handlers are.
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// Between two tries to open a stream, and two looks at a publisher that has nothing to send.
const TRY_EVERY: Duration = Duration::from_millis(100);

/// What the publisher knows of a copy of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Answer {
    /// It is stored.
    Confirmed,
    /// Nobody has said, or can say, whether it is stored.
    Unknown,
    /// It is not, and never will be.
    NotStored,
}

/// A message that was sent, for the first time or again.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Copy {
    /// Which message it is.
    pub(crate) number: usize,
    pub(crate) answer: Answer,
}

/// What it knows of its messages.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    pub(crate) confirmed: usize,
    /// Each copy, at the number that is its body.
    pub(crate) copies: Vec<Copy>,
    /// Answers that were no confirm, by their kind.
    pub(crate) failures: BTreeMap<&'static str, usize>,
    /// Streams that broke, and messages that had no answer then.
    pub(crate) broken: (usize, usize),
}

/// What the publisher and whoever causes accidents tell each other.
#[derive(Debug, Default)]
pub(crate) struct Progress {
    /// Messages that are handled.
    pub(crate) handled: Cell<usize>,
    /// Messages that are sent and have no answer.
    pub(crate) unanswered: Cell<usize>,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Relentless {
    client: PublisherServiceClient<Channel>,
    messages: usize,
    todo: VecDeque<usize>,
    tally: Tally,
    progress: Rc<Progress>,
}

/// One stream while it lasts.
struct Stream {
    requests: mpsc::Sender<v1::PublishStreamRequest>,
    next: i64,
    /// The copies that have no answer, by their sequence.
    out: BTreeMap<i64, usize>,
    is_active: bool,
}

impl Relentless {
    pub(crate) fn new(channel: Channel, messages: usize, progress: Rc<Progress>) -> Self {
        let (client, todo) = (PublisherServiceClient::new(channel), (0..messages).collect());
        Self { client, messages, todo, tally: Tally::default(), progress }
    }

    /// Publishes until all is confirmed.
    pub(crate) async fn publish_all(mut self) -> Tally {
        let mut tries = interval(TRY_EVERY);
        tries.set_missed_tick_behavior(MissedTickBehavior::Delay);
        while self.tally.confirmed < self.messages {
            tries.tick().await;
            let (requests, outgoing) = mpsc::channel(4);
            let Ok(answer) = self.client.publish_stream(ReceiverStream::new(outgoing)).await else { continue };
            let mut stream = Stream { requests, next: 1, out: BTreeMap::new(), is_active: false };
            self.serve(&mut stream, answer.into_inner()).await;
            self.progress.unanswered.set(0);
            if !stream.out.is_empty() {
                self.tally.broken.0 += 1;
                self.tally.broken.1 += stream.out.len();
            }
            self.todo.extend(stream.out.into_values().map(|copy| self.tally.copies[copy].number));
        }
        self.tally
    }

    /// Until all is confirmed, or the stream breaks.
    async fn serve(&mut self, stream: &mut Stream, mut answers: tonic::Streaming<v1::PublishStreamResponse>) {
        let mut looks = interval(LOOK_EVERY);
        while self.tally.confirmed < self.messages {
            while self.may_send(stream) {
                let Ok(place) = stream.requests.try_reserve() else { break };
                let numbers: Vec<usize> = self.todo.drain(..FRAME.min(self.todo.len())).collect();
                let items = numbers.into_iter().map(|number| {
                    let sequence = stream.next;
                    stream.next += 1;
                    let copy = self.tally.copies.len();
                    self.tally.copies.push(Copy { number, answer: Answer::Unknown });
                    stream.out.insert(sequence, copy);
                    let message = v1::Message { body: copy.to_string().into(), ..numbered(number) };
                    v1::PublishItem { sequence, message: Some(message) }
                });
                place.send(v1::PublishStreamRequest { open: None, items: items.collect() });
            }
            self.progress.unanswered.set(stream.out.len());
            let has_more = self.may_send(stream);
            let frame = tokio::select! {
                frame = answers.message() => frame,
                _ = looks.tick() => continue,
                // Room for another frame.
                room = stream.requests.reserve(), if has_more => if room.is_ok() { continue } else { return },
            };
            let Ok(Some(frame)) = frame else { return };
            self.take(stream, frame);
        }
    }

    fn may_send(&self, stream: &Stream) -> bool {
        let ahead = (self.tally.confirmed + stream.out.len()).saturating_sub(self.progress.handled.get());
        stream.is_active && stream.out.len() < WINDOW && ahead < AHEAD && !self.todo.is_empty()
    }

    fn take(&mut self, stream: &mut Stream, frame: v1::PublishStreamResponse) {
        if frame.state() != v1::PublisherState::Unspecified {
            stream.is_active = frame.state() == v1::PublisherState::Active;
        }
        for sequence in frame.confirmed_sequences {
            let copy = stream.out.remove(&sequence).expect("each sequence is answered once");
            self.tally.copies[copy].answer = Answer::Confirmed;
            self.tally.confirmed += 1;
        }
        for failure in frame.failures {
            let copy = stream.out.remove(&failure.sequence).expect("each sequence is answered once");
            assert!(failure.retryable, "{failure:?}");
            // Of several queues one may have refused it and another have taken it.
            if !matches!(failure.kind(), Kind::ConfirmLost | Kind::ConfirmTimeout | Kind::Rejected) {
                self.tally.copies[copy].answer = Answer::NotStored;
            }
            *self.tally.failures.entry(failure.kind().as_str_name()).or_default() += 1;
            self.todo.push_back(self.tally.copies[copy].number);
        }
    }
}
