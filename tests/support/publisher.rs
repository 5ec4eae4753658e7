//! A publisher as the tests want it: generated stubs and nothing else of Sidebus.

use std::collections::BTreeMap;

use sidebus::grpc::proto::sidebus::v1;
use sidebus::grpc::proto::sidebus::v1::publisher_service_client::PublisherServiceClient;
use tokio::time::timeout;
use tonic::transport::Channel;
use tonic::{Code, Status};
use tonic_types::StatusExt as _;

use super::wait::PATIENCE;

/// Publishes through a sidecar.
#[derive(Debug, Clone)]
pub(crate) struct Publisher(PublisherServiceClient<Channel>);

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
        messages: Vec<v1::Message>,
        per_frame: usize,
    ) -> (Vec<i64>, Vec<v1::PublishFailure>) {
        let items: Vec<v1::PublishItem> = (1..)
            .zip(messages)
            .map(|(sequence, message)| v1::PublishItem { sequence, message: Some(message) })
            .collect();
        let frames: Vec<_> = items
            .chunks(per_frame)
            .map(|items| v1::PublishStreamRequest { open: None, items: items.to_vec() })
            .collect();
        let mut client = self.0.clone();
        let answer = client.publish_stream(tokio_stream::iter(frames)).await.expect("a stream");
        let (mut responses, mut confirmed, mut failures) = (answer.into_inner(), Vec::new(), Vec::new());
        while let Some(frame) = timeout(PATIENCE, responses.message()).await.expect("in time").expect("it ends well") {
            confirmed.extend(frame.confirmed_sequences);
            failures.extend(frame.failures);
        }
        (confirmed, failures)
    }

    /// Publishes numbered messages, all of which must be confirmed.
    pub(crate) async fn publish_numbers(&self, numbers: std::ops::Range<usize>) {
        let messages: Vec<_> = numbers.map(numbered).collect();
        for batch in messages.chunks(500) {
            self.publish(batch.to_vec()).await.expect("confirmed");
        }
    }
}
