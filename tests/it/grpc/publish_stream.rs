//! A publish stream: every sequence gets one answer, in its order, and the caller knows how much it may send.

use std::time::Duration;

use sidebus::app::Ended;
use sidebus::broker::BrokerError;
use sidebus::grpc::proto::sidebus::v1;
use sidebus::grpc::proto::sidebus::v1::PublishFailureKind as Kind;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Request, Status, Streaming};

use super::WORK;
use crate::support::errors::refused;
use crate::support::sidecar::Sidecar;
use crate::support::words::{message, open};
use crate::support::{eventually, within};

/// Frames of a test that wait for the transport.
const FRAMES_MAX: usize = 4_096;

/// A stream and what it has told.
struct Producer {
    requests: Option<mpsc::Sender<v1::PublishStreamRequest>>,
    responses: Streaming<v1::PublishStreamResponse>,
    confirmed: Vec<i64>,
    failures: Vec<v1::PublishFailure>,
    window: v1::PublishWindow,
    states: Vec<v1::PublisherState>,
    frames: usize,
}

impl Producer {
    async fn open(sidecar: &Sidecar) -> Self {
        Self::open_with(sidecar, |request| request).await
    }

    async fn open_with(
        sidecar: &Sidecar,
        change: impl FnOnce(
            Request<ReceiverStream<v1::PublishStreamRequest>>,
        ) -> Request<ReceiverStream<v1::PublishStreamRequest>>,
    ) -> Self {
        let (requests, waiting) = mpsc::channel(FRAMES_MAX);
        let request = change(Request::new(ReceiverStream::new(waiting)));
        let call = async { sidecar.publisher().await.publish_stream(request).await };
        let responses = within("an answer", call).await.unwrap().into_inner();
        let mut producer = Self {
            requests: Some(requests),
            responses,
            confirmed: Vec::new(),
            failures: Vec::new(),
            window: v1::PublishWindow::default(),
            states: Vec::new(),
            frames: 0,
        };
        // The first frame comes unasked.
        producer.read().await.unwrap().unwrap();
        producer
    }

    async fn send(&self, frame: v1::PublishStreamRequest) {
        self.requests.as_ref().unwrap().send(frame).await.unwrap();
    }

    async fn items(&self, items: impl IntoIterator<Item = (i64, v1::Message)>) {
        self.send(frame(items)).await;
    }

    /// One more frame; `None` = the stream has ended well.
    async fn read(&mut self) -> Result<Option<()>, Status> {
        let Some(frame) = within("a frame", self.responses.message()).await? else { return Ok(None) };
        self.frames += 1;
        if frame.state() != v1::PublisherState::Unspecified {
            self.states.push(frame.state());
        }
        self.confirmed.extend(frame.confirmed_sequences);
        self.failures.extend(frame.failures);
        self.window = frame.window.unwrap_or(self.window);
        Ok(Some(()))
    }

    async fn answers(&mut self, count: usize) {
        while self.confirmed.len() + self.failures.len() < count {
            self.read().await.unwrap().expect("the stream goes on");
        }
    }

    async fn state(&mut self, wanted: v1::PublisherState) {
        while self.states.last() != Some(&wanted) {
            self.read().await.unwrap().expect("the stream goes on");
        }
    }

    /// Sends nothing more and reads to the end.
    async fn end(&mut self) -> Result<(), Status> {
        self.requests = None;
        while self.read().await?.is_some() {}
        Ok(())
    }

    fn failed(&self) -> Vec<(i64, v1::PublishFailureKind, bool)> {
        self.failures.iter().map(|failure| (failure.sequence, failure.kind(), failure.retryable)).collect()
    }
}

fn frame(items: impl IntoIterator<Item = (i64, v1::Message)>) -> v1::PublishStreamRequest {
    let items = items.into_iter().map(|(sequence, message)| v1::PublishItem { sequence, message: Some(message) });
    v1::PublishStreamRequest { open: None, items: items.collect() }
}

fn opening(open: v1::PublishStreamOpen) -> v1::PublishStreamRequest {
    v1::PublishStreamRequest { open: Some(open), items: Vec::new() }
}

#[tokio::test]
async fn every_sequence_is_confirmed_once_in_order_and_many_share_a_frame() {
    let sidecar = Sidecar::start(WORK).await;
    let mut producer = Producer::open(&sidecar).await;
    assert_eq!(producer.states, [v1::PublisherState::Active]);
    assert_eq!(producer.window, v1::PublishWindow { max_in_flight_messages: 4_096, max_in_flight_bytes: 16 << 20 });
    for batch in 0..100 {
        let first = batch * 100 + 1;
        producer.items((first..first + 100).map(|sequence| (sequence, message("work.A", sequence.to_string())))).await;
    }
    producer.answers(10_000).await;
    producer.end().await.unwrap();
    assert_eq!(producer.confirmed, (1..=10_000).collect::<Vec<i64>>());
    assert!(producer.failures.is_empty() && producer.frames <= 5_000, "{} frames", producer.frames);

    let mut handler = sidecar.handler(open("work")).await;
    let bodies: Vec<Vec<u8>> =
        handler.deliveries(20).await.into_iter().map(|it| it.message.unwrap().body.to_vec()).collect();
    assert_eq!(bodies, (1..=20).map(|sequence: i64| sequence.to_string().into_bytes()).collect::<Vec<_>>());
}

#[tokio::test]
async fn each_item_fails_alone_with_its_own_word() {
    let sidecar = Sidecar::start(&format!("{WORK}[grpc]\nmax_message_bytes = \"1KiB\"\n")).await;
    let mut producer = Producer::open(&sidecar).await;
    let own = |id: &str, message: v1::Message| v1::Message { message_id: id.to_owned(), ..message };
    let nowhere = v1::Message { exchange: "nowhere".to_owned(), ..message("work.A", "5") };
    let no_message = v1::PublishItem { sequence: 7, message: None };
    let mut items = frame([
        (1, message("work.A", "1")),
        (2, own("lost", message("nobody.Cares", "2"))),
        (3, v1::Message { priority: Some(256), ..message("work.A", "3") }),
        (4, message("work.A", vec![0; 1_025])),
        (5, nowhere),
        (6, message("work.A", "6")),
    ]);
    items.items.push(no_message);
    producer.send(items).await;
    producer.items([(9, message("work.A", "9"))]).await;
    producer.answers(8).await;
    producer.end().await.unwrap();

    assert_eq!(producer.confirmed, [1, 6, 9]);
    assert_eq!(
        producer.failed(),
        [
            (2, Kind::Unroutable, false),
            (3, Kind::Invalid, false),
            (4, Kind::TooLarge, false),
            (5, Kind::ExchangeNotFound, false),
            (7, Kind::Invalid, false)
        ]
    );
    assert_eq!(producer.failures[0].message_id, "lost");
    assert!(producer.failures[1].description.contains("message.priority"), "{:?}", producer.failures[1]);
    sidecar.holds("work", 3, 0).await;
}

#[tokio::test]
async fn what_opens_the_stream_counts_for_items_that_say_nothing() {
    let sidecar = Sidecar::start(WORK).await;
    let trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    let mut producer = Producer::open_with(&sidecar, |mut request| {
        request.metadata_mut().insert("traceparent", trace.parse().unwrap());
        request
    })
    .await;
    let open_frame = v1::PublishStreamOpen {
        options: Some(v1::PublishOptions { allow_unroutable: true }),
        exchange: "@default".to_owned(),
        producer: "test".to_owned(),
    };
    producer.send(opening(open_frame)).await;
    producer.items([(1, message("work", "1")), (2, message("no-queue", "2"))]).await;
    producer.answers(2).await;
    assert_eq!(producer.confirmed, [1, 2]);
    sidecar.holds("work", 1, 0).await;
    let received = sidecar.handler(open("work")).await.delivery().await.message.unwrap();
    assert_eq!((received.exchange.as_str(), received.trace.unwrap().traceparent.as_str()), ("@default", trace));
}

#[tokio::test]
async fn a_stream_that_breaks_the_protocol_is_answered_and_ended() {
    let sidecar = Sidecar::start(WORK).await;
    for (sequences, rule) in [([1, 1], "sequence 1 after 1"), ([5, 4], "sequence 4 after 5"), ([1, 0], "sequence 0")] {
        let mut producer = Producer::open(&sidecar).await;
        producer.items(sequences.map(|sequence| (sequence, message("work.A", "1")))).await;
        let why = refused(producer.end().await, Code::InvalidArgument, "PROTOCOL_VIOLATION");
        assert!(why.text.contains(rule), "{why:?}");
        assert_eq!(producer.confirmed, [sequences[0]], "what came before the fault is answered");
    }
    let mut producer = Producer::open(&sidecar).await;
    producer.items([(1, message("work.A", "1"))]).await;
    producer.send(opening(v1::PublishStreamOpen::default())).await;
    let why = refused(producer.end().await, Code::InvalidArgument, "PROTOCOL_VIOLATION");
    assert!(why.text.contains("open is only for the first frame"), "{why:?}");

    let mut producer = Producer::open(&sidecar).await;
    let bad = v1::PublishStreamOpen { exchange: "a\u{7}".to_owned(), producer: "p".repeat(129), options: None };
    producer.send(opening(bad)).await;
    let why = refused(producer.end().await, Code::InvalidArgument, "INVALID_REQUEST");
    assert_eq!(why.fields, ["open.exchange", "open.producer"]);
}

#[tokio::test]
async fn a_window_below_one_frame_or_one_body_refuses_nothing() {
    let window = "[bus.amqp.publish]\nwindow = 3\nwindow_bytes = \"2KiB\"\n[limits]\npublishes_in_flight = 2\n";
    let sidecar = Sidecar::start(&format!("{WORK}{window}")).await;
    let mut producer = Producer::open(&sidecar).await;
    assert_eq!(producer.window, v1::PublishWindow { max_in_flight_messages: 3, max_in_flight_bytes: 2_048 });
    producer.items((1..=50).map(|sequence| (sequence, message("work.A", vec![0; 3_000])))).await;
    producer.answers(50).await;
    assert_eq!(producer.confirmed, (1..=50).collect::<Vec<i64>>());
}

#[tokio::test]
async fn an_alarm_and_a_lost_broker_are_states_and_words_of_items() {
    let sidecar = Sidecar::start(WORK).await;
    let faults = sidecar.broker.faults();
    let mut producer = Producer::open(&sidecar).await;
    faults.block("low on memory");
    producer.state(v1::PublisherState::Blocked).await;
    assert_eq!(producer.window, v1::PublishWindow::default(), "nothing may be sent now");
    producer.items([(1, message("work.A", "1"))]).await;
    producer.answers(1).await;
    assert_eq!(producer.failed(), [(1, Kind::Blocked, true)]);
    assert!(producer.failures[0].description.contains("low on memory"), "{:?}", producer.failures);
    faults.unblock();
    producer.state(v1::PublisherState::Active).await;
    assert_eq!(producer.window.max_in_flight_messages, 4_096);

    faults.refuse_connects(BrokerError::Unreachable { endpoint: "memory".to_owned(), reason: "down".to_owned() });
    faults.break_sessions("cut by the test");
    producer.state(v1::PublisherState::BrokerDown).await;
    producer.items([(2, message("work.A", "2"))]).await;
    producer.answers(2).await;
    assert_eq!(producer.failed()[1], (2, Kind::BrokerDown, true));
    faults.accept_connects();
    producer.state(v1::PublisherState::Active).await;
    faults.lose_confirms(1);
    producer.items([(3, message("work.A", "3"))]).await;
    producer.items([(4, message("work.A", "4"))]).await;
    producer.answers(4).await;
    assert_eq!(producer.failed()[2], (3, Kind::ConfirmLost, true));
    assert_eq!(producer.confirmed, [4], "the stream outlives it all");
    producer.end().await.unwrap();
}

#[tokio::test]
async fn a_caller_that_has_no_more_gets_its_answers_while_the_sidecar_stops() {
    let stopping = "[shutdown]\nintake = \"0s\"\ndrain = \"10s\"\nreturn = \"2s\"\nclose = \"3s\"\n";
    let mut sidecar = Sidecar::start(&format!("{WORK}{stopping}")).await;
    sidecar.publish([message("work.A", "held")]).await;
    let mut handler = sidecar.handler(open("work")).await;
    let held = handler.delivery().await;
    let mut producer = Producer::open(&sidecar).await;
    sidecar.stop().await;
    producer.state(v1::PublisherState::Draining).await;
    assert_eq!(producer.window, v1::PublishWindow::default());
    producer.items((1..=100).map(|sequence| (sequence, message("work.A", "late")))).await;
    producer.end().await.unwrap();
    assert_eq!(producer.confirmed.len(), 100, "publishes go until handlers are done");
    handler.say(crate::support::words::settle([held.id], crate::support::words::ack())).await;
    assert_eq!(sidecar.ended().await, Ended::Drained);
}

#[tokio::test]
async fn a_caller_that_stays_is_sent_away_when_the_sidecar_stops() {
    let mut sidecar = Sidecar::start(WORK).await;
    let mut producer = Producer::open(&sidecar).await;
    producer.items([(1, message("work.A", "1"))]).await;
    producer.answers(1).await;
    sidecar.stop().await;
    let end = loop {
        match producer.read().await {
            Ok(Some(())) => {}
            Ok(None) => break Ok(()),
            Err(status) => break Err(status),
        }
    };
    refused(end, Code::Unavailable, "SIDECAR_DRAINING");
    assert_eq!(sidecar.ended().await, Ended::Drained);
}

#[tokio::test]
async fn a_caller_that_goes_away_or_never_reads_holds_nothing_that_others_need() {
    let limits = "[bus.amqp.publish]\nwindow = 8\n[limits]\npublishes_in_flight = 8\n";
    let sidecar = Sidecar::start(&format!("{WORK}{limits}")).await;
    let idle = Producer::open(&sidecar).await;
    for sequence in 1..=100 {
        idle.items([(sequence, message("work.A", "unread"))]).await;
    }
    let gone = Producer::open(&sidecar).await;
    gone.items((1..=100).map(|sequence| (sequence, message("work.A", "gone")))).await;
    drop(gone);
    let mut producer = Producer::open(&sidecar).await;
    producer.items((1..=1_000).map(|sequence| (sequence, message("work.A", "read")))).await;
    producer.answers(1_000).await;
    assert_eq!(producer.confirmed.len(), 1_000);
    eventually("room for a unary publish", async || {
        let publish = sidecar.try_publish(vec![message("work.A", "1")]);
        tokio::time::timeout(Duration::from_secs(5), publish).await.ok()?.ok()
    })
    .await;
    drop(idle);
}
