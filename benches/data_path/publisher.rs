//! Publishers through the sidecar, with generated stubs.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use futures_util::future::join_all;
use sidebus::grpc::proto::sidebus::v1;
use sidebus::grpc::proto::sidebus::v1::publisher_service_client::PublisherServiceClient;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;

use super::place::ROUTING_KEY;

/// Messages that a stream's frame carries.
const ITEMS_PER_FRAME: usize = 64;

/// A message as the bare client sends it.
pub(crate) fn message(number: usize, body: Vec<u8>) -> v1::Message {
    v1::Message {
        body: body.into(),
        routing_key: ROUTING_KEY.to_owned(),
        message_id: number.to_string(),
        ..Default::default()
    }
}

/// Publishes with one stream until the last is confirmed.
pub(crate) async fn stream(channel: Channel, messages: usize, body: usize) {
    let (requests, outgoing) = mpsc::channel(16);
    let sending = async move {
        for first in (0..messages).step_by(ITEMS_PER_FRAME) {
            let numbers = first..messages.min(first + ITEMS_PER_FRAME);
            let item = |number: usize| v1::PublishItem {
                sequence: i64::try_from(number).expect("few enough") + 1,
                message: Some(message(number, vec![0; body])),
            };
            let request = v1::PublishStreamRequest { open: None, items: numbers.map(item).collect() };
            requests.send(request).await.expect("the stream is open");
        }
    };
    let confirming = async move {
        let mut client = PublisherServiceClient::new(channel);
        let mut answers = client.publish_stream(ReceiverStream::new(outgoing)).await.expect("a stream").into_inner();
        let mut confirmed = 0;
        while let Some(answer) = answers.message().await.expect("it ends well") {
            assert!(answer.failures.is_empty(), "{:?}", answer.failures);
            confirmed += answer.confirmed_sequences.len();
        }
        assert_eq!(confirmed, messages, "all are confirmed");
    };
    tokio::join!(sending, confirming);
}

/// Many callers, each with one message at a time.
pub(crate) async fn unary(channel: Channel, (callers, messages): (usize, usize), body: usize) {
    let next = Arc::new(AtomicUsize::new(0));
    let call = |_| {
        let (mut client, next) = (PublisherServiceClient::new(channel.clone()), Arc::clone(&next));
        tokio::spawn(async move {
            loop {
                let number = next.fetch_add(1, Ordering::Relaxed);
                if number >= messages {
                    return;
                }
                let request = v1::PublishRequest { messages: vec![message(number, vec![0; body])], options: None };
                client.publish(request).await.expect("it is confirmed");
            }
        })
    };
    for call in join_all((0..callers).map(call)).await {
        call.expect("no caller panics");
    }
}
