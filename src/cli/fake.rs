//! A sidecar of paper for the tests of commands: it keeps what it is told and hands out what it was given.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard};

use futures_util::StreamExt as _;
use futures_util::stream::{BoxStream, unfold};
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Request, Response, Status, Streaming};

use crate::grpc::problem::Problem;
use crate::grpc::proto::sidebus::v1;
use crate::grpc::proto::sidebus::v1::consumer_service_server::{ConsumerService, ConsumerServiceServer};
use crate::grpc::proto::sidebus::v1::publisher_service_server::{PublisherService, PublisherServiceServer};

/// What the sidecar was told, and what it shall do.
#[derive(Debug, Default)]
pub(super) struct Script {
    /// Batches in order.
    pub(super) published: Vec<Vec<v1::Message>>,
    /// Answers every publish after this many batches.
    pub(super) refuse_after: Option<(usize, Problem)>,
    /// Answers every subscribe.
    pub(super) refuse_subscribe: Option<Problem>,
    /// First frames of streams.
    pub(super) opened: Vec<v1::SubscribeOpen>,
    /// Handed out within the window.
    pub(super) waiting: VecDeque<v1::Message>,
    /// Verdicts in order.
    pub(super) settled: Vec<v1::Settlement>,
    /// True once a client said so.
    pub(super) left: bool,
    /// Ends the stream after the first frame, as a drain does.
    pub(super) drain: bool,
}

/// A running sidecar; it ends with this value.
#[derive(Debug)]
pub(super) struct Fake {
    /// `host:port`.
    pub(super) endpoint: String,
    script: Arc<Mutex<Script>>,
    _server: JoinSet<()>,
}

impl Fake {
    pub(super) async fn start(script: Script) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let endpoint = listener.local_addr().expect("an address").to_string();
        let script = Arc::new(Mutex::new(script));
        let service = Service(Arc::clone(&script));
        let router = tonic::transport::Server::builder()
            .add_service(ConsumerServiceServer::new(service.clone()))
            .add_service(PublisherServiceServer::new(service));
        let mut server = JoinSet::new();
        server.spawn(async move {
            router.serve_with_incoming(TcpListenerStream::new(listener)).await.expect("serving");
        });
        Self { endpoint, script, _server: server }
    }

    pub(super) fn script(&self) -> MutexGuard<'_, Script> {
        self.script.lock().expect("not poisoned")
    }
}

#[derive(Debug, Clone)]
struct Service(Arc<Mutex<Script>>);

impl Service {
    fn script(&self) -> MutexGuard<'_, Script> {
        self.0.lock().expect("not poisoned")
    }
}

#[tonic::async_trait]
impl PublisherService for Service {
    type PublishStreamStream = BoxStream<'static, Result<v1::PublishStreamResponse, Status>>;

    async fn publish(&self, request: Request<v1::PublishRequest>) -> Result<Response<v1::PublishResponse>, Status> {
        let messages = request.into_inner().messages;
        let mut script = self.script();
        if let Some((batches, problem)) = script.refuse_after.clone()
            && script.published.len() >= batches
        {
            return Err(problem.into());
        }
        let message_ids = (0..messages.len()).map(|index| format!("id-{}-{index}", script.published.len())).collect();
        script.published.push(messages);
        Ok(Response::new(v1::PublishResponse { message_ids }))
    }

    async fn publish_stream(
        &self,
        _: Request<Streaming<v1::PublishStreamRequest>>,
    ) -> Result<Response<Self::PublishStreamStream>, Status> {
        Err(Status::unimplemented("not played here"))
    }
}

/// One stream: what is in flight and how much may be.
struct Stream {
    service: Service,
    requests: Streaming<v1::SubscribeRequest>,
    next_id: i64,
    in_flight: usize,
    window: usize,
}

impl Stream {
    async fn answer(mut self) -> Option<(Result<v1::SubscribeResponse, Status>, Self)> {
        if self.service.script().drain && self.next_id > 1 {
            return None;
        }
        let request = self.requests.message().await.ok()??;
        if let Some(flow) = request.open.as_ref().and_then(|open| open.flow).or(request.flow) {
            self.window = flow.max_in_flight_messages.and_then(|count| usize::try_from(count).ok()).unwrap_or(0);
        }
        let settled: usize = request.settlements.iter().map(|settlement| settlement.delivery_ids.len()).sum();
        self.in_flight -= settled;
        let mut frame = v1::SubscribeResponse::default();
        let service = self.service.clone();
        let mut script = service.script();
        script.settled.extend(request.settlements);
        if request.open.is_some() {
            frame.opened = Some(v1::SubscribeOpened::default());
            frame.status =
                Some(v1::SubscriptionStatus { state: v1::SubscriptionState::Active.into(), ..Default::default() });
        }
        script.opened.extend(request.open);
        script.left |= request.leave;
        if script.left && self.in_flight == 0 {
            return None;
        }
        while !script.left && self.in_flight < self.window {
            let Some(message) = script.waiting.pop_front() else { break };
            frame.deliveries.push(v1::Delivery { id: self.next_id, message: Some(message), ..Default::default() });
            self.next_id += 1;
            self.in_flight += 1;
        }
        drop(script);
        Some((Ok(frame), self))
    }
}

#[tonic::async_trait]
impl ConsumerService for Service {
    type SubscribeStream = BoxStream<'static, Result<v1::SubscribeResponse, Status>>;

    async fn subscribe(
        &self,
        request: Request<Streaming<v1::SubscribeRequest>>,
    ) -> Result<Response<Self::SubscribeStream>, Status> {
        if let Some(problem) = self.script().refuse_subscribe.clone() {
            return Err(problem.into());
        }
        let stream =
            Stream { service: self.clone(), requests: request.into_inner(), next_id: 1, in_flight: 0, window: 0 };
        Ok(Response::new(unfold(stream, Stream::answer).boxed()))
    }

    async fn receive(&self, _: Request<v1::ReceiveRequest>) -> Result<Response<v1::ReceiveResponse>, Status> {
        Err(Status::unimplemented("not played here"))
    }

    async fn settle(&self, _: Request<v1::SettleRequest>) -> Result<Response<v1::SettleResponse>, Status> {
        Err(Status::unimplemented("not played here"))
    }
}
