//! One handler's Subscribe stream, frame by frame. What it says goes out as bytes, so that it can also talk nonsense.

use std::collections::VecDeque;
use std::time::Duration;

use bytes::{BufMut as _, Bytes};
use prost::Message as _;
use sidebus::grpc::proto::sidebus::v1;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::codec::{Codec, EncodeBuf, Encoder};
use tonic::transport::Channel;
use tonic::{Request, Status, Streaming};
use tonic_prost::{ProstCodec, ProstDecoder};

use super::sidecar::channel;
use super::within;
use super::words::{ack, settle, window};

/// Frames of ours that wait for the transport.
const FRAMES_MAX: usize = 256;
/// Largest frame that is taken.
const FRAME_BYTES_MAX: usize = 64 << 20;
const PATH: &str = "/sidebus.v1.ConsumerService/Subscribe";

/// One result for one delivery.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Told {
    pub(crate) id: i64,
    pub(crate) outcome: v1::SettlementOutcome,
    pub(crate) first: v1::SettlementOutcome,
    pub(crate) description: String,
}

/// A stream and what has come through it and was not asked for yet.
#[derive(Debug)]
pub(crate) struct Handler {
    requests: Option<mpsc::Sender<Bytes>>,
    responses: Streaming<v1::SubscribeResponse>,
    pub(crate) opened: v1::SubscribeOpened,
    deliveries: VecDeque<v1::Delivery>,
    results: VecDeque<Told>,
    revocations: VecDeque<v1::Revocation>,
    statuses: VecDeque<v1::SubscriptionStatus>,
    drains: VecDeque<v1::Drain>,
    /// Deliveries of each frame that brought any.
    pub(crate) frames: Vec<usize>,
    end: Option<Result<(), Status>>,
}

/// Begins a stream with these frames; the answer is what the sidecar says to the first of them.
pub(crate) async fn begin(
    connection: Channel,
    frames: Vec<Bytes>,
) -> Result<(mpsc::Sender<Bytes>, Streaming<v1::SubscribeResponse>), Status> {
    let (requests, waiting) = mpsc::channel(FRAMES_MAX);
    for frame in frames {
        requests.try_send(frame).unwrap();
    }
    let mut client = tonic::client::Grpc::new(connection).max_decoding_message_size(FRAME_BYTES_MAX);
    client.ready().await.unwrap();
    let call = client.streaming(Request::new(ReceiverStream::new(waiting)), PATH.parse().unwrap(), Raw);
    let responses = within("an answer to the first frame", call).await?.into_inner();
    Ok((requests, responses))
}

impl Handler {
    /// Opens a stream on a connection of its own.
    pub(crate) async fn join(port: u16, open: v1::SubscribeOpen) -> Result<Self, Status> {
        Self::join_with(port, v1::SubscribeRequest { open: Some(open), ..Default::default() }).await
    }

    /// As `join`, with a whole first frame.
    pub(crate) async fn join_with(port: u16, first: v1::SubscribeRequest) -> Result<Self, Status> {
        let (requests, responses) = begin(channel(port).await, vec![first.encode_to_vec().into()]).await?;
        let mut handler = Self {
            requests: Some(requests),
            responses,
            opened: v1::SubscribeOpened::default(),
            deliveries: VecDeque::new(),
            results: VecDeque::new(),
            revocations: VecDeque::new(),
            statuses: VecDeque::new(),
            drains: VecDeque::new(),
            frames: Vec::new(),
            end: None,
        };
        let first = within("the first frame", handler.responses.message()).await?.expect("a frame");
        assert_eq!(
            first,
            v1::SubscribeResponse { opened: first.opened.clone(), ..Default::default() },
            "opened, alone"
        );
        handler.opened = first.opened.expect("the first frame is opened");
        Ok(handler)
    }

    pub(crate) async fn say(&self, frame: v1::SubscribeRequest) {
        self.say_bytes(frame.encode_to_vec()).await;
    }

    /// Sends bytes as a frame, whatever they are.
    pub(crate) async fn say_bytes(&self, frame: Vec<u8>) {
        let requests = self.requests.as_ref().expect("not half-closed");
        requests.send(frame.into()).await.expect("the stream is open");
    }

    pub(crate) async fn resize(&self, messages: i32) {
        self.say(v1::SubscribeRequest { flow: Some(window(messages)), ..Default::default() }).await;
    }

    /// Ends the request side.
    pub(crate) fn half_close(&mut self) {
        self.requests = None;
    }

    /// Reads one frame; `false` = the stream has ended.
    async fn read(&mut self) -> bool {
        if self.end.is_some() {
            return false;
        }
        match self.responses.message().await {
            Ok(Some(frame)) => self.sort(frame),
            Ok(None) => self.end = Some(Ok(())),
            Err(status) => self.end = Some(Err(status)),
        }
        self.end.is_none()
    }

    fn sort(&mut self, frame: v1::SubscribeResponse) {
        assert_eq!(frame.opened, None, "opened comes once");
        if !frame.deliveries.is_empty() {
            self.frames.push(frame.deliveries.len());
        }
        self.deliveries.extend(frame.deliveries);
        for result in frame.results {
            let (outcome, first) = (result.outcome(), result.first_outcome());
            let told = |id| Told { id, outcome, first, description: result.description.clone() };
            self.results.extend(result.delivery_ids.iter().copied().map(told));
        }
        self.revocations.extend(frame.revocations);
        self.statuses.extend(frame.status);
        self.drains.extend(frame.drain);
    }

    async fn wait<T>(&mut self, what: &str, take: impl Fn(&mut Self) -> Option<T>) -> T {
        let found = async {
            loop {
                if let Some(found) = take(self) {
                    return found;
                }
                assert!(self.read().await, "{what} expected, and the stream has ended: {:?}", self.end);
            }
        };
        within(what, found).await
    }

    pub(crate) async fn delivery(&mut self) -> v1::Delivery {
        self.wait("a delivery", |handler| handler.deliveries.pop_front()).await
    }

    pub(crate) async fn deliveries(&mut self, count: usize) -> Vec<v1::Delivery> {
        let what = format!("{count} deliveries");
        self.wait(&what, |handler| (handler.deliveries.len() >= count).then_some(())).await;
        self.deliveries.drain(..count).collect()
    }

    /// Acks each as it comes: suspects come alone and then in groups that double.
    pub(crate) async fn handle(&mut self, count: usize) -> Vec<v1::Delivery> {
        let mut handled = Vec::with_capacity(count);
        while handled.len() < count {
            let delivery = self.delivery().await;
            self.say(settle([delivery.id], ack())).await;
            handled.push(delivery);
        }
        handled
    }

    pub(crate) async fn result(&mut self) -> Told {
        self.wait("a result", |handler| handler.results.pop_front()).await
    }

    pub(crate) async fn revocation(&mut self) -> v1::Revocation {
        self.wait("a revocation", |handler| handler.revocations.pop_front()).await
    }

    /// Statuses that have come and were not asked for.
    pub(crate) fn statuses(&mut self) -> Vec<v1::SubscriptionStatus> {
        self.statuses.drain(..).collect()
    }

    pub(crate) async fn status(&mut self) -> v1::SubscriptionStatus {
        self.wait("a status", |handler| handler.statuses.pop_front()).await
    }

    /// Waits for this state; earlier ones are passed over.
    pub(crate) async fn state(&mut self, state: v1::SubscriptionState) -> v1::SubscriptionStatus {
        loop {
            let status = self.status().await;
            if status.state() == state {
                return status;
            }
        }
    }

    pub(crate) async fn drain(&mut self) -> v1::Drain {
        self.wait("a drain", |handler| handler.drains.pop_front()).await
    }

    /// Reads to the end of the stream.
    pub(crate) async fn end(&mut self) -> Result<(), Status> {
        let ended = async { while self.read().await {} };
        within("the end of the stream", ended).await;
        self.end.clone().expect("ended")
    }

    /// A round trip through the subscription: what it had to say before, it has said now. Answers the deliveries that
    /// were not asked for. A settlement without a verdict does nothing but be answered.
    pub(crate) async fn pending(&mut self) -> Vec<v1::Delivery> {
        const ROUND_TRIP: i64 = 7;
        self.say(settle([ROUND_TRIP], None)).await;
        let is_answer = |told: &Told| told.id == ROUND_TRIP && told.outcome == v1::SettlementOutcome::Invalid;
        self.wait("a round trip", |handler| {
            let place = handler.results.iter().position(is_answer)?;
            handler.results.remove(place)
        })
        .await;
        self.deliveries.drain(..).collect()
    }

    /// Results that came and were not asked for.
    pub(crate) fn other_results(&self) -> Vec<Told> {
        self.results.iter().cloned().collect()
    }

    /// Revocations that came and were not asked for.
    pub(crate) fn other_revocations(&self) -> usize {
        self.revocations.len()
    }

    /// Nothing of this kind comes for a while: for what no round trip can prove, as the end of a clock.
    pub(crate) async fn quiet_for(&mut self, time: Duration) {
        let read = async { while self.read().await {} };
        let over = tokio::time::timeout(time, read).await;
        assert!(over.is_err(), "the stream has ended: {:?}", self.end);
    }
}

/// Bytes out, frames in.
#[derive(Debug, Clone, Copy)]
struct Raw;

impl Codec for Raw {
    type Encode = Bytes;
    type Decode = v1::SubscribeResponse;
    type Encoder = Self;
    type Decoder = ProstDecoder<v1::SubscribeResponse>;

    fn encoder(&mut self) -> Self::Encoder {
        Self
    }

    fn decoder(&mut self) -> Self::Decoder {
        ProstCodec::<v1::SubscribeRequest, v1::SubscribeResponse>::default().decoder()
    }
}

impl Encoder for Raw {
    type Item = Bytes;
    type Error = Status;

    fn encode(&mut self, frame: Bytes, to: &mut EncodeBuf<'_>) -> Result<(), Status> {
        to.put(frame);
        Ok(())
    }
}
