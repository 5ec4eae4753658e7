//! A whole sidecar inside the test: real settings, a real socket, an embedded broker that the test can look into.

use std::collections::BTreeMap;
use std::sync::Arc;

use metrics_exporter_prometheus::PrometheusBuilder;
use sidebus::app::{Addresses, App, Ended};
use sidebus::broker::memory::{Depth, MemoryBroker, MemoryOptions};
use sidebus::broker::{Broker, Confirm, ConsumeOptions, Incoming, LaneRole, Prefetch, Publication, Routing, SessionId};
use sidebus::config::{Command, LoadRequest, Settings, load};
use sidebus::domain::message::{Message, Properties};
use sidebus::domain::name::{ExchangeName, QueueName};
use sidebus::grpc::proto::sidebus::v1;
use sidebus::grpc::proto::sidebus::v1::publisher_service_client::PublisherServiceClient;
use tempfile::TempDir;
use tokio::sync::{mpsc, oneshot};
use tonic::Status;
use tonic::transport::Channel;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;

use super::handler::Handler;
use super::{eventually, within};

/// Stops quickly, so that tests of stopping need not wait; a test that looks at a phase sets its own.
const QUICK: &str = "[shutdown]\nintake = \"0s\"\ndrain = \"10s\"\nreturn = \"2s\"\nclose = \"3s\"\n";

/// A running sidecar; it ends with this value.
#[derive(Debug)]
pub(crate) struct Sidecar {
    pub(crate) addresses: Addresses,
    pub(crate) broker: MemoryBroker,
    stop: mpsc::Sender<()>,
    ended: Option<oneshot::Receiver<Ended>>,
}

impl Sidecar {
    /// Starts with `[queues.*]` and whatever else the text holds, and waits until publishing works.
    pub(crate) async fn start(toml: &str) -> Self {
        let sidecar = Self::start_unready(toml).await;
        sidecar.ready().await;
        sidecar
    }

    /// As `start`, without waiting.
    pub(crate) async fn start_unready(toml: &str) -> Self {
        let broker = MemoryBroker::new(MemoryOptions { bytes_max: 256 << 20 });
        Self::start_over(broker, toml).await
    }

    /// As `start_unready`, over a broker that was there before.
    pub(crate) async fn start_over(broker: MemoryBroker, toml: &str) -> Self {
        Self::start_through(Arc::new(broker.clone()), broker, toml).await
    }

    /// As `start_over`, through something between the sidecar and that broker.
    pub(crate) async fn start_through(shared: Arc<dyn Broker>, broker: MemoryBroker, toml: &str) -> Self {
        let shutdown = if toml.contains("[shutdown]") { "" } else { QUICK };
        let settings = settings(&format!("{toml}\n{shutdown}"));
        let (tell_addresses, addresses) = oneshot::channel();
        let (tell_end, ended) = oneshot::channel();
        let (stop, mut stops) = mpsc::channel::<()>(4);
        // A runtime of its own, as in a process: the test's may be busy, or paused.
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            let ended = runtime.block_on(async {
                // Not installed: a recorder is for the whole process, and here are many sidecars.
                let metrics = PrometheusBuilder::new().build_recorder().handle();
                let app = App::bind_with_broker(settings, shared, metrics).await.unwrap();
                tell_addresses.send(app.addresses().clone()).unwrap();
                // A test that ends drops the other side, which stops the sidecar at once.
                let stop = async || {
                    stops.recv().await;
                };
                app.run(stop).await.unwrap()
            });
            tell_end.send(ended).ok();
        });
        Self { addresses: within("bound sockets", addresses).await.unwrap(), broker, stop, ended: Some(ended) }
    }

    /// Waits until the sidecar says that it is ready.
    pub(crate) async fn ready(&self) {
        let mut health = HealthClient::new(self.channel().await);
        eventually("readiness", async || {
            let answer = health.check(HealthCheckRequest { service: String::new() }).await.ok()?;
            (answer.into_inner().status == 1).then_some(())
        })
        .await;
    }

    pub(crate) fn port(&self) -> u16 {
        self.addresses.grpc.expect("it listens on TCP").port()
    }

    /// A connection of its own.
    pub(crate) async fn channel(&self) -> Channel {
        channel(self.port()).await
    }

    pub(crate) async fn publisher(&self) -> PublisherServiceClient<Channel> {
        PublisherServiceClient::new(self.channel().await)
    }

    /// Publishes a batch; answers the ids or the status.
    pub(crate) async fn try_publish(&self, messages: Vec<v1::Message>) -> Result<Vec<String>, Status> {
        let request = v1::PublishRequest { messages, options: None };
        let answer = within("a publish", self.publisher().await.publish(request)).await?;
        Ok(answer.into_inner().message_ids)
    }

    /// Publishes a batch that must succeed.
    pub(crate) async fn publish(&self, messages: impl IntoIterator<Item = v1::Message>) -> Vec<String> {
        self.try_publish(messages.into_iter().collect()).await.unwrap()
    }

    /// A handler on a connection of its own, which must be taken.
    pub(crate) async fn handler(&self, open: v1::SubscribeOpen) -> Handler {
        self.try_handler(open).await.unwrap()
    }

    pub(crate) async fn try_handler(&self, open: v1::SubscribeOpen) -> Result<Handler, Status> {
        Handler::join(self.port(), open).await
    }

    /// Asks the sidecar to stop, as a signal does.
    pub(crate) async fn stop(&self) {
        self.stop.send(()).await.unwrap();
    }

    /// How the sidecar ended.
    pub(crate) async fn ended(&mut self) -> Ended {
        within("the end of the sidecar", self.ended.take().unwrap()).await.unwrap()
    }

    pub(crate) fn depth(&self, queue: &str) -> Depth {
        self.broker.faults().depth(&QueueName::parse(queue).unwrap()).unwrap_or_default()
    }

    /// Waits until a queue holds exactly this.
    pub(crate) async fn holds(&self, queue: &str, ready: usize, unacked: usize) {
        let wanted = Depth { ready, unacked, dead_lettering: 0 };
        eventually(&format!("{queue} holds {wanted:?}"), async || (self.depth(queue) == wanted).then_some(())).await;
    }

    /// Puts a message without any property into a queue past the sidecar, as other programs do.
    pub(crate) async fn publish_raw(&self, queue: &str) {
        let session = self.broker.connect(SessionId(1_000_001)).await.unwrap();
        let mut lane = session.lane(LaneRole::Publish).await.unwrap();
        let message = Message {
            exchange: ExchangeName::nameless(),
            routing_key: queue.to_owned(),
            properties: Properties::default(),
            body: bytes::Bytes::from_static(b"raw"),
        };
        let confirms = lane.publish(vec![Publication { message, routing: Routing::Required }]).await;
        assert_eq!(confirms, [Confirm::Stored]);
    }

    /// Takes a message from a queue past the sidecar, as an operator's tool would.
    pub(crate) async fn take(&self, queue: &str) -> Message {
        let session = self.broker.connect(SessionId(1_000_000)).await.unwrap();
        let options = ConsumeOptions { prefetch: Prefetch::new(1), exclusive: false, own_connection: false };
        let (mut arrivals, _settler) = session.consume(QueueName::parse(queue).unwrap(), options).await.unwrap();
        let batch: Vec<Incoming> = within(&format!("a message in {queue}"), arrivals.next_batch(1)).await.unwrap();
        batch.into_iter().next().unwrap().message
    }
}

/// Connects to a port of this machine.
pub(crate) async fn channel(port: u16) -> Channel {
    let endpoint = Channel::from_shared(format!("http://127.0.0.1:{port}")).unwrap();
    within("a connection", endpoint.connect()).await.unwrap()
}

/// Settings as a file would give them, on free ports and the memory backend.
pub(crate) fn settings(toml: &str) -> Settings {
    let dir = TempDir::new().unwrap();
    let file = dir.path().join("sidebus.toml");
    std::fs::write(&file, toml).unwrap();
    let mut request = LoadRequest::new(Command::Run, BTreeMap::new(), dir.path().to_owned());
    request.files = vec![file];
    let pairs = [("bus.backend", "memory"), ("grpc.listen", "127.0.0.1:0"), ("admin.listen", "127.0.0.1:0")];
    request.overrides = pairs.map(|(key, value)| (key.to_owned(), value.to_owned())).to_vec();
    load(&request).unwrap_or_else(|problems| panic!("{problems}")).settings
}
