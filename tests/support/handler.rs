//! A handler as the tests want it: generated stubs, every frame kept until a test asks for it.

use std::cell::Cell;
use std::collections::{BTreeSet, VecDeque};

use sidebus::grpc::proto::sidebus::v1;
use sidebus::grpc::proto::sidebus::v1::consumer_service_client::ConsumerServiceClient;
use sidebus::grpc::proto::sidebus::v1::settlement::Verdict;
use tokio::sync::{Semaphore, mpsc};
use tokio::time::timeout;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;
use tonic::{Status, Streaming};

use super::wait::PATIENCE;

/// Work that several handlers share.
#[derive(Debug)]
pub(crate) struct Shared {
    goal: usize,
    taken: Cell<usize>,
    enough: Semaphore,
}

impl Shared {
    /// So many deliveries.
    pub(crate) fn of(goal: usize) -> Self {
        Self { goal, taken: Cell::new(0), enough: Semaphore::new(0) }
    }
}

/// An open `Subscribe` stream.
#[derive(Debug)]
pub(crate) struct Handler {
    requests: mpsc::Sender<v1::SubscribeRequest>,
    frames: Streaming<v1::SubscribeResponse>,
    deliveries: VecDeque<v1::Delivery>,
    /// Everything else that the sidecar has told, in order.
    pub(crate) results: Vec<v1::SettlementResult>,
    pub(crate) revocations: Vec<v1::Revocation>,
    pub(crate) statuses: Vec<v1::SubscriptionStatus>,
    pub(crate) drains: Vec<v1::Drain>,
    /// How the stream ended.
    pub(crate) ended: Option<Result<(), Status>>,
}

impl Handler {
    /// The first frame for a subscription, everything else left to the sidecar.
    pub(crate) fn of(subscription: &str) -> v1::SubscribeOpen {
        v1::SubscribeOpen { subscription: subscription.to_owned(), ..v1::SubscribeOpen::default() }
    }

    /// Opens a stream and waits until it is accepted.
    pub(crate) async fn open(channel: Channel, open: v1::SubscribeOpen) -> Self {
        let mut handler = Self::begin(channel, open).await;
        handler.until("the stream is accepted", |handler| !handler.statuses.is_empty()).await;
        handler
    }

    /// Opens a stream that is going to end by itself; answers how.
    pub(crate) async fn ending(channel: Channel, open: v1::SubscribeOpen) -> Status {
        let mut handler = Self::begin(channel, open).await;
        handler.end_status().await
    }

    /// Waits for the end of the stream, which must be an error.
    pub(crate) async fn end_status(&mut self) -> Status {
        self.until("the stream ends", |handler| handler.ended.is_some()).await;
        match self.ended.take() {
            Some(Err(status)) => status,
            other => panic!("the stream ended with {other:?}"),
        }
    }

    async fn begin(channel: Channel, open: v1::SubscribeOpen) -> Self {
        let (requests, outgoing) = mpsc::channel(64);
        let first = v1::SubscribeRequest { open: Some(open), ..v1::SubscribeRequest::default() };
        requests.send(first).await.expect("room for the first frame");
        let mut client = ConsumerServiceClient::new(channel).max_decoding_message_size(64 << 20);
        let answer = timeout(PATIENCE, client.subscribe(ReceiverStream::new(outgoing))).await.expect("an answer");
        Self {
            requests,
            frames: answer.expect("a stream").into_inner(),
            deliveries: VecDeque::new(),
            results: Vec::new(),
            revocations: Vec::new(),
            statuses: Vec::new(),
            drains: Vec::new(),
            ended: None,
        }
    }

    /// Takes frames until something is true of what has come.
    pub(crate) async fn until(&mut self, what: &str, mut is_true: impl FnMut(&Self) -> bool) {
        let taking = async {
            while !is_true(self) {
                assert!(self.ended.is_none(), "the stream ended with {:?} before: {what}", self.ended);
                self.take_frame().await;
            }
        };
        let in_time = timeout(PATIENCE, taking).await.is_ok();
        assert!(in_time, "not in time: {what}; statuses {:?}", self.statuses);
    }

    /// Takes one frame; nothing is lost when this is dropped.
    pub(crate) async fn take_frame(&mut self) {
        match self.frames.message().await {
            Ok(Some(frame)) => {
                self.deliveries.extend(frame.deliveries);
                self.results.extend(frame.results);
                self.revocations.extend(frame.revocations);
                self.statuses.extend(frame.status);
                self.drains.extend(frame.drain);
            }
            Ok(None) => self.ended = Some(Ok(())),
            Err(status) => self.ended = Some(Err(status)),
        }
    }

    /// Waits for the next delivery.
    pub(crate) async fn delivery(&mut self) -> v1::Delivery {
        self.until("a delivery", |handler| !handler.deliveries.is_empty()).await;
        self.deliveries.pop_front().expect("a delivery")
    }

    /// Waits for so many deliveries.
    pub(crate) async fn deliveries(&mut self, count: usize) -> Vec<v1::Delivery> {
        self.until(&format!("{count} deliveries"), |handler| handler.deliveries.len() >= count).await;
        self.deliveries.drain(..count).collect()
    }

    /// Takes and acks deliveries until these numbers have come; answers everything that came.
    pub(crate) async fn handle_all(&mut self, mut missing: BTreeSet<usize>) -> Vec<v1::Delivery> {
        let mut taken = Vec::new();
        while !missing.is_empty() {
            let delivery = self.delivery().await;
            missing.remove(&number(&delivery));
            self.ack(std::slice::from_ref(&delivery)).await;
            taken.push(delivery);
        }
        taken
    }

    /// Takes and acks whatever comes until the work is done; answers its own share, each delivery as `what` shows it.
    pub(crate) async fn share<T>(&mut self, work: &Shared, what: impl Fn(&v1::Delivery) -> T) -> Vec<T> {
        let mut own = Vec::new();
        loop {
            tokio::select! {
                () = self.take_frame() => {}
                _ = work.enough.acquire() => return own,
            }
            assert!(self.ended.is_none(), "{:?}", self.ended);
            let deliveries = self.take_deliveries();
            self.ack(&deliveries).await;
            own.extend(deliveries.iter().map(&what));
            work.taken.set(work.taken.get() + deliveries.len());
            if work.taken.get() >= work.goal {
                work.enough.close();
            }
        }
    }

    /// Deliveries that have come and were not asked for yet.
    pub(crate) fn take_deliveries(&mut self) -> Vec<v1::Delivery> {
        self.deliveries.drain(..).collect()
    }

    /// One verdict on deliveries.
    pub(crate) async fn settle(&self, deliveries: &[v1::Delivery], verdict: Verdict) {
        self.say(deliveries.iter().map(|delivery| delivery.id).collect(), Some(verdict)).await;
    }

    /// Whatever may be said of these ids, also nothing.
    pub(crate) async fn say(&self, delivery_ids: Vec<i64>, verdict: Option<Verdict>) {
        let settlements = vec![v1::Settlement { delivery_ids, verdict }];
        self.send(v1::SubscribeRequest { settlements, ..v1::SubscribeRequest::default() }).await;
    }

    /// Another window.
    #[allow(dead_code, reason = "each test binary uses a part of it")]
    pub(crate) async fn window(&self, messages: Option<i32>, bytes: Option<i64>) {
        let flow = Some(v1::FlowControl { max_in_flight_messages: messages, max_in_flight_bytes: bytes });
        self.send(v1::SubscribeRequest { flow, ..v1::SubscribeRequest::default() }).await;
    }

    pub(crate) async fn ack(&self, deliveries: &[v1::Delivery]) {
        self.settle(deliveries, Verdict::Ack(v1::Ack::default())).await;
    }

    /// More time for these, from now on.
    pub(crate) async fn extend(&self, deliveries: &[v1::Delivery], seconds: i64) {
        let delivery_ids = deliveries.iter().map(|delivery| delivery.id).collect();
        let timeout = Some(prost_types::Duration { seconds, nanos: 0 });
        let extensions = vec![v1::Extension { delivery_ids, timeout }];
        self.send(v1::SubscribeRequest { extensions, ..v1::SubscribeRequest::default() }).await;
    }

    /// The retry verdict with the shortest delay.
    pub(crate) async fn retry(&self, delivery: &v1::Delivery) {
        let delay = Some(prost_types::Duration::default());
        let retry = v1::Retry { delay, reason: "BUSY".to_owned(), description: "later".to_owned() };
        self.settle(std::slice::from_ref(delivery), Verdict::Retry(retry)).await;
    }

    pub(crate) async fn dead_letter(&self, delivery: &v1::Delivery) {
        let letter = v1::DeadLetter { reason: "NO_SUCH_HAND".to_owned(), description: "never dealt".to_owned() };
        self.settle(std::slice::from_ref(delivery), Verdict::DeadLetter(letter)).await;
    }

    /// Leaves and waits for the end: everything that was settled is at the broker then.
    pub(crate) async fn leave(&mut self) {
        self.send(v1::SubscribeRequest { leave: true, ..v1::SubscribeRequest::default() }).await;
        self.until("the end", |handler| handler.ended.is_some()).await;
        assert!(matches!(self.ended, Some(Ok(()))), "{:?}", self.ended);
    }

    /// Says nothing more and listens to the end: what it holds is given back at once.
    pub(crate) async fn half_close(mut self) {
        let (closed, _) = mpsc::channel(1);
        self.requests = closed;
        self.until("the end", |handler| handler.ended.is_some()).await;
        assert!(matches!(self.ended, Some(Ok(()))), "{:?}", self.ended);
    }

    /// The same for a handler to which more may be on its way, which is acked: what was published twice, or came again.
    pub(crate) async fn leave_at_last(&mut self) {
        self.send(v1::SubscribeRequest { leave: true, ..v1::SubscribeRequest::default() }).await;
        let leaving = async {
            while self.ended.is_none() {
                let late = self.take_deliveries();
                if !late.is_empty() {
                    self.ack(&late).await;
                }
                self.take_frame().await;
            }
        };
        timeout(PATIENCE, leaving).await.expect("the end in time");
        assert!(matches!(self.ended, Some(Ok(()))), "{:?}", self.ended);
    }

    async fn send(&self, request: v1::SubscribeRequest) {
        // Once the sidecar is gone nobody takes requests, and the stream's end says so.
        drop(self.requests.send(request).await);
    }

    /// Waits for a state of the subscription, from the statuses after the first `seen`.
    pub(crate) async fn state(&mut self, state: v1::SubscriptionState, seen: usize) {
        let what = format!("state {state:?}");
        self.until(&what, |handler| handler.statuses.iter().skip(seen).any(|status| status.state == i32::from(state)))
            .await;
    }
}

/// The number of a message made by `publisher::numbered`.
pub(crate) fn number(delivery: &v1::Delivery) -> usize {
    let body = delivery.message.as_ref().map(|message| message.body.clone()).unwrap_or_default();
    std::str::from_utf8(&body).ok().and_then(|text| text.parse().ok()).expect("a numbered message")
}

/// The message of a delivery.
pub(crate) fn message(delivery: &v1::Delivery) -> &v1::Message {
    delivery.message.as_ref().expect("a delivery has a message")
}
