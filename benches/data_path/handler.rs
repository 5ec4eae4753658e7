//! A handler that does nothing, with generated stubs and one settlement frame for each frame that it gets.

use sidebus::grpc::proto::sidebus::v1;
use sidebus::grpc::proto::sidebus::v1::consumer_service_client::ConsumerServiceClient;
use sidebus::grpc::proto::sidebus::v1::settlement::Verdict;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::Streaming;
use tonic::transport::Channel;

/// Room for a frame of large bodies.
const FRAME_BYTES_MAX: usize = 64 << 20;

/// An open stream.
#[derive(Debug)]
pub(crate) struct BenchHandler {
    requests: mpsc::Sender<v1::SubscribeRequest>,
    frames: Streaming<v1::SubscribeResponse>,
}

impl BenchHandler {
    /// Opens it with a window of so many messages and frames of at most so many.
    pub(crate) async fn open(channel: Channel, subscription: String, (window, frame): (u16, usize)) -> Self {
        let (requests, outgoing) = mpsc::channel(64);
        let flow = v1::FlowControl { max_in_flight_messages: Some(window.into()), max_in_flight_bytes: Some(1 << 30) };
        let batch = v1::BatchLimits { max_messages: i32::try_from(frame).expect("a frame"), ..Default::default() };
        let open = v1::SubscribeOpen { subscription, flow: Some(flow), batch: Some(batch), ..Default::default() };
        let first = v1::SubscribeRequest { open: Some(open), ..Default::default() };
        requests.send(first).await.expect("room for the first frame");
        let mut client = ConsumerServiceClient::new(channel).max_decoding_message_size(FRAME_BYTES_MAX);
        let frames = client.subscribe(ReceiverStream::new(outgoing)).await.expect("a stream").into_inner();
        Self { requests, frames }
    }

    /// Takes and acks what comes until `is_done` says so of a frame, or another handler was told the same, then leaves: at the
    /// end all acks are written.
    pub(crate) async fn take(
        mut self,
        mut is_done: impl FnMut(&v1::SubscribeResponse) -> bool,
        all_done: CancellationToken,
    ) {
        loop {
            let frame = tokio::select! {
                frame = self.frames.message() => frame.expect("it goes on").expect("it goes on"),
                () = all_done.cancelled() => break,
            };
            assert!(frame.results.is_empty() && frame.revocations.is_empty(), "an ack did not count");
            let is_last = is_done(&frame);
            let delivery_ids: Vec<i64> = frame.deliveries.iter().map(|delivery| delivery.id).collect();
            if !delivery_ids.is_empty() {
                let settlement = v1::Settlement { delivery_ids, verdict: Some(Verdict::Ack(v1::Ack::default())) };
                self.send(v1::SubscribeRequest { settlements: vec![settlement], ..Default::default() }).await;
            }
            if is_last {
                all_done.cancel();
                break;
            }
        }
        self.send(v1::SubscribeRequest { leave: true, ..Default::default() }).await;
        while let Some(frame) = self.frames.message().await.expect("it ends well") {
            assert!(frame.results.is_empty() && frame.revocations.is_empty(), "an ack did not count");
        }
    }

    async fn send(&self, request: v1::SubscribeRequest) {
        self.requests.send(request).await.expect("the stream is open");
    }
}
