//! One test's own part of a broker, and the sidecars that work on it.

use std::path::PathBuf;
use std::process::Command;

use futures_util::StreamExt as _;
use lapin::message::BasicGetMessage;
use lapin::options::{BasicConsumeOptions, BasicGetOptions, QueueDeclareOptions, QueueDeleteOptions};
use lapin::types::FieldTable;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tonic::transport::{Channel, Endpoint};

use super::handler::Handler;
use super::process::Process;
use super::proxy::Proxy;
use super::publisher::Publisher;
use super::rabbitmq::{self, BrokerHandle};
use super::wait::{PATIENCE, until};

/// Tests run beside each other and beside whatever else runs here.
pub(crate) const FREE_PORTS: [(&str, &str); 2] =
    [("BUS__GRPC__LISTEN", "127.0.0.1:0"), ("BUS__ADMIN__LISTEN", "127.0.0.1:0")];

/// Names that no other test has, and settings that use them.
#[derive(Debug)]
pub(crate) struct Scene {
    /// Address of the broker for sidecars, as `AMQP_URL` would name it.
    pub(crate) url: String,
    /// The same for what happens behind their backs.
    behind: String,
    pub(crate) prefix: String,
    folder: TempDir,
}

impl Scene {
    /// On the broker that all tests share.
    pub(crate) async fn new() -> Self {
        Self::on(rabbitmq::shared().await.url())
    }

    /// On a given broker.
    pub(crate) fn on(url: String) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        Self { behind: url.clone(), url, prefix: rabbitmq::prefix(), folder }
    }

    /// On a given broker, which sidecars reach through a link that the test can break.
    pub(crate) async fn linked(node: &BrokerHandle) -> (Self, Proxy) {
        let proxy = Proxy::to("127.0.0.1", node.port).await;
        let scene = Self::on(node.url(("guest", "guest"), "/"));
        let url = format!("amqp://guest:guest@127.0.0.1:{}/%2f", proxy.port);
        (Self { url, ..scene }, proxy)
    }

    /// A name of this scene: of an exchange or a queue.
    pub(crate) fn name(&self, stem: &str) -> String {
        format!("{}-{stem}", self.prefix)
    }

    /// Settings of a sidecar with the names of this scene, and further tables.
    pub(crate) fn settings(&self, tables: &str) -> String {
        let (url, prefix) = (&self.url, &self.prefix);
        format!(
            "[bus.amqp]\nurl = \"{url}\"\nexchange = \"{prefix}-events\"\nnamespace = \"{prefix}\"\n\
             [dead_letter]\nexchange = \"{prefix}-dlx\"\nqueue = \"{prefix}-dlq\"\n{tables}"
        )
    }

    /// A table for the subscription `work` with the queue `<prefix>-work`, bound to every key.
    pub(crate) fn work(&self, keys: &str) -> String {
        format!("[queues.work]\nqueue = \"{}\"\nbindings = [\"#\"]\n{keys}\n", self.name("work"))
    }

    /// The settings file of this scene.
    pub(crate) fn file(&self, settings: &str) -> PathBuf {
        let path = self.folder.path().join("sidebus.toml");
        std::fs::write(&path, settings).expect("a settings file");
        path
    }

    /// A sidecar with these tables beside the settings of the scene, ready.
    pub(crate) async fn sidecar(&self, tables: &str) -> Sidecar {
        let sidecar = self.sidecar_not_ready(tables).await;
        sidecar.ready().await;
        sidecar
    }

    /// The same, as soon as it listens.
    pub(crate) async fn sidecar_not_ready(&self, tables: &str) -> Sidecar {
        Sidecar::from_file(&self.settings(tables), self).await
    }

    /// A channel of a bare connection, for what a test does behind Sidebus's back.
    pub(crate) async fn amqp(&self) -> Amqp {
        let properties = lapin::ConnectionProperties::default();
        let connection = lapin::Connection::connect(&self.behind, properties).await.expect("the broker is up");
        Amqp { channel: connection.create_channel().await.expect("a channel"), connection }
    }
}

/// The number that is a body.
fn number_of(body: &[u8]) -> usize {
    std::str::from_utf8(body).ok().and_then(|text| text.parse().ok()).expect("a number")
}

/// A bare connection with one channel.
#[derive(Debug)]
pub(crate) struct Amqp {
    pub(crate) connection: lapin::Connection,
    pub(crate) channel: lapin::Channel,
}

impl Amqp {
    /// Declares a durable exchange.
    pub(crate) async fn exchange(&self, name: &str, kind: lapin::ExchangeKind) {
        let options = lapin::options::ExchangeDeclareOptions {
            passive: false,
            durable: true,
            auto_delete: false,
            internal: false,
            nowait: false,
        };
        self.channel.exchange_declare(name.into(), kind, options, FieldTable::default()).await.expect("an exchange");
    }

    /// Declares a durable queue.
    pub(crate) async fn declare(&self, queue: &str, arguments: FieldTable) {
        let options =
            QueueDeclareOptions { passive: false, durable: true, exclusive: false, auto_delete: false, nowait: false };
        self.channel.queue_declare(queue.into(), options, arguments).await.expect("a queue");
    }

    /// Ready messages of a queue; `None` = there is no such queue.
    pub(crate) async fn depth(&self, queue: &str) -> Option<u32> {
        self.look(queue).await.map(|(messages, _)| messages)
    }

    /// Ready messages and consumers of a queue. On a channel of its own, which a missing one closes.
    pub(crate) async fn look(&self, queue: &str) -> Option<(u32, u32)> {
        let channel = self.connection.create_channel().await.expect("a channel");
        let options =
            QueueDeclareOptions { passive: true, durable: false, exclusive: false, auto_delete: false, nowait: false };
        let found = channel.queue_declare(queue.into(), options, FieldTable::default()).await.ok()?;
        // Many of them would pile up until the connection goes.
        let _ = channel.close(200, "done".into()).await;
        Some((found.message_count(), found.consumer_count()))
    }

    /// Waits until a queue has so many ready messages.
    pub(crate) async fn wait_for_depth(&self, queue: &str, depth: u32) {
        let what = format!("{queue} has {depth} ready messages");
        until(&what, async || (self.depth(queue).await == Some(depth)).then_some(())).await;
    }

    /// Takes a message off a queue for good, when there is one.
    pub(crate) async fn get(&self, queue: &str) -> BasicGetMessage {
        let options = BasicGetOptions { no_ack: true };
        let get = async || self.channel.basic_get(queue.into(), options).await.expect("the queue is there");
        until(&format!("a message in {queue}"), get).await
    }

    /// Takes all numbered messages off a queue for good.
    pub(crate) async fn numbers(&self, queue: &str) -> Vec<usize> {
        let mut numbers = Vec::new();
        for _ in 0..self.depth(queue).await.expect("the queue is there") {
            numbers.push(number_of(&self.get(queue).await.delivery.data));
        }
        numbers
    }

    /// The same for very many, of a queue to which nobody publishes any more: what came later would be lost.
    pub(crate) async fn drain(&self, queue: &str) -> Vec<usize> {
        let count = usize::try_from(self.depth(queue).await.expect("the queue is there")).expect("a count");
        let channel = self.connection.create_channel().await.expect("a channel");
        let options = BasicConsumeOptions { no_local: false, no_ack: true, exclusive: true, nowait: false };
        let consumed = channel.basic_consume(queue.into(), "".into(), options, FieldTable::default()).await;
        let mut arrivals = consumed.expect("a consumer");
        let mut numbers = Vec::with_capacity(count);
        while numbers.len() < count {
            let next = timeout(PATIENCE, arrivals.next()).await.expect("in time").expect("there are more");
            numbers.push(number_of(&next.expect("a delivery").data));
        }
        channel.close(200, "done".into()).await.expect("it closes");
        numbers
    }

    pub(crate) async fn delete_exchange(&self, name: &str) {
        let options = lapin::options::ExchangeDeleteOptions { if_unused: false, nowait: false };
        self.channel.exchange_delete(name.into(), options).await.expect("the exchange goes");
    }

    pub(crate) async fn delete(&self, queue: &str) {
        let options = QueueDeleteOptions { if_unused: false, if_empty: false, nowait: false };
        self.channel.queue_delete(queue.into(), options).await.expect("the queue goes");
    }
}

/// A running daemon: the real binary.
#[derive(Debug)]
pub(crate) struct Sidecar {
    pub(crate) process: Process,
    /// `host:port` of the gRPC door.
    pub(crate) grpc: String,
    pub(crate) admin: String,
}

impl Sidecar {
    /// Starts the binary with a settings file and waits until it listens, on free ports whatever the file says.
    pub(crate) async fn from_file(settings: &str, scene: &Scene) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_sidebus"));
        command.args(["run", "-c"]).arg(scene.file(settings));
        Self::listening(Process::start("sidecar", command, &FREE_PORTS)).await
    }

    /// Starts the binary without any file, on free ports.
    pub(crate) async fn from_environment(environment: &[(&str, &str)]) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_sidebus"));
        command.arg("run");
        Self::listening(Process::start("sidecar", command, &[environment, &FREE_PORTS].concat())).await
    }

    /// A daemon that was started otherwise, as soon as it listens.
    pub(crate) async fn listening(mut process: Process) -> Self {
        let line = process.logged("listening").await;
        let address = |key: &str| line[key].as_str().expect("an address").to_owned();
        Self { grpc: address("grpc"), admin: address("admin"), process }
    }

    /// Status and text of a probe.
    pub(crate) async fn probe(&self, path: &str) -> (u16, String) {
        let mut socket = TcpStream::connect(&self.admin).await.expect("the probes answer");
        let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
        socket.write_all(request.as_bytes()).await.expect("a request");
        let mut answer = String::new();
        socket.read_to_string(&mut answer).await.expect("an answer");
        let status = answer.split(' ').nth(1).and_then(|status| status.parse().ok()).expect("a status");
        (status, answer)
    }

    /// A sample of the metrics page, by its name and labels as they are written there.
    pub(crate) async fn metric(&self, sample: &str) -> Option<f64> {
        let (_, page) = self.probe("/metrics").await;
        page.lines().find_map(|line| line.strip_prefix(sample)?.trim().parse().ok())
    }

    /// Waits until a sample of the metrics page has this value.
    pub(crate) async fn metric_becomes(&self, sample: &str, value: f64) {
        let is_there = async || self.metric(sample).await.filter(|found| (found - value).abs() < 0.5).map(drop);
        until(&format!("{sample} is {value}"), is_there).await;
    }

    /// Waits until it is ready.
    pub(crate) async fn ready(&self) {
        until("the sidecar is ready", async || (self.probe("/readyz").await.0 == 200).then_some(())).await;
    }

    pub(crate) async fn channel(&self) -> Channel {
        let endpoint = Endpoint::from_shared(format!("http://{}", self.grpc)).expect("an address");
        endpoint.connect().await.expect("the sidecar listens")
    }

    /// A handler of the subscription `work`, with the defaults of everything else.
    pub(crate) async fn handler(&self) -> Handler {
        Handler::open(self.channel().await, Handler::of("work")).await
    }

    pub(crate) async fn publisher(&self) -> Publisher {
        Publisher::new(self.channel().await)
    }
}
