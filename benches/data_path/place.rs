//! Where both sides work: one broker, one queue, one sidecar.

use std::process::Command;

use lapin::options::{QueueBindOptions, QueuePurgeOptions};
use lapin::types::{AMQPValue, FieldTable};
use tonic::transport::{Channel, Endpoint};

use super::arguments::{Arguments, QueueType};
use super::support::process::Process;
use super::support::rabbitmq::{self, SharedBroker};
use super::support::scene::{Amqp, FREE_PORTS, Scene, Sidecar};
use super::support::wait::until;

/// What messages for the first queue are published with.
pub(crate) const ROUTING_KEY: &str = "bench.0";
/// A whole window of bodies fits, so that HTTP/2 is no smaller window than ours.
const HTTP2_WINDOW_BYTES: u32 = 2 << 20;

/// The broker.
#[derive(Debug)]
pub(crate) struct Place {
    pub(crate) broker: &'static SharedBroker,
}

/// A queue and the subscription of the sidecar that consumes it.
#[derive(Debug, Clone)]
pub(crate) struct Target {
    pub(crate) queue: String,
    pub(crate) subscription: String,
    pub(crate) routing_key: String,
}

impl Target {
    fn new(scene: &Scene, number: usize) -> Self {
        let subscription = if number == 0 { "work".to_owned() } else { format!("work-{number}") };
        Self { queue: scene.name(&subscription), subscription, routing_key: format!("bench.{number}") }
    }

    /// Its table in the settings.
    fn table(&self) -> String {
        let Self { queue, subscription, routing_key } = self;
        format!("[queues.{subscription}]\nqueue = \"{queue}\"\nbindings = [\"{routing_key}\"]\n")
    }

    /// Makes the queue.
    async fn make(&self, amqp: &Amqp, queue_type: QueueType, exchange: &str) {
        let mut keys = FieldTable::default();
        keys.insert("x-queue-type".into(), AMQPValue::LongString(queue_type.as_str().into()));
        amqp.declare(&self.queue, keys).await;
        let bound = amqp.channel.queue_bind(
            self.queue.as_str().into(),
            exchange.into(),
            self.routing_key.as_str().into(),
            QueueBindOptions::default(),
            FieldTable::default(),
        );
        bound.await.expect("a binding");
    }
}

/// Queues of one type, and the sidecar that serves them while nobody else does.
#[derive(Debug)]
pub(crate) struct Stage {
    pub(crate) queue_type: QueueType,
    /// At least one.
    pub(crate) targets: Vec<Target>,
    pub(crate) exchange: String,
    pub(crate) url: String,
    pub(crate) sidecar: Sidecar,
    /// Resident before any work, in KiB.
    pub(crate) idle_kib: u64,
    pub(crate) broker_pid: Option<u32>,
    amqp: Amqp,
}

impl Place {
    pub(crate) async fn find() -> Self {
        Self { broker: rabbitmq::shared().await }
    }

    /// Makes the queues, then starts a sidecar on them.
    pub(crate) async fn stage(&self, queue_type: QueueType, arguments: &Arguments) -> Stage {
        let scene = Scene::on(self.broker.url());
        let amqp = scene.amqp().await;
        let exchange = scene.name("events");
        amqp.exchange(&exchange, lapin::ExchangeKind::Topic).await;
        let targets: Vec<Target> =
            (0..arguments.subscriptions.max(1)).map(|number| Target::new(&scene, number)).collect();
        for target in &targets {
            target.make(&amqp, queue_type, &exchange).await;
        }
        let tables: String = targets.iter().map(Target::table).collect();
        let settings = scene.settings(&format!("{}\n{tables}", arguments.settings));
        let file = scene.file(&settings);
        let mut command = Command::new(&arguments.binary);
        command.args(["run", "-c"]).arg(&file);
        // The same for both sides. By the environment, since the tables of `--settings` may hold others of its section.
        let window = arguments.window.to_string();
        let environment = [FREE_PORTS.as_slice(), &[("BUS__AMQP__PUBLISH__WINDOW", &window)]].concat();
        let sidecar = Sidecar::listening(Process::start("sidecar", command, &environment)).await;
        sidecar.ready().await;
        let idle_kib = sidecar.process.memory("VmRSS") / 1024;
        let broker_pid = self.broker.node.as_ref().and_then(rabbitmq::BrokerHandle::pid);
        Stage { queue_type, targets, exchange, url: scene.url.clone(), sidecar, idle_kib, broker_pid, amqp }
    }
}

impl Stage {
    /// A connection to the sidecar, as a program that wants speed makes it.
    pub(crate) async fn channel(&self) -> Channel {
        let endpoint = Endpoint::from_shared(format!("http://{}", self.sidecar.grpc)).expect("an address");
        let endpoint = endpoint
            .tcp_nodelay(true)
            .initial_stream_window_size(HTTP2_WINDOW_BYTES)
            .initial_connection_window_size(HTTP2_WINDOW_BYTES);
        endpoint.connect().await.expect("the sidecar listens")
    }

    /// The first one, which all jobs use.
    pub(crate) fn first(&self) -> &Target {
        &self.targets[0]
    }

    /// Each with its share of so many messages that go round.
    pub(crate) fn shares(&self, messages: usize) -> impl Iterator<Item = (&Target, usize)> {
        let count = self.targets.len();
        self.targets.iter().enumerate().map(move |(number, target)| (target, (messages + count - 1 - number) / count))
    }

    /// Waits until no queue holds anything: a job that left something was none.
    pub(crate) async fn is_empty(&self) {
        for target in &self.targets {
            self.amqp.wait_for_depth(&target.queue, 0).await;
        }
    }

    /// Waits until so many messages are ready in a queue.
    pub(crate) async fn holds(&self, target: &Target, messages: usize) {
        let depth = u32::try_from(messages).expect("few enough");
        let found = async || self.amqp.depth(&target.queue).await.filter(|found| *found >= depth).map(drop);
        until("the queue is filled", found).await;
    }

    /// Empties the first queue; answers how many messages it held.
    pub(crate) async fn purge(&self) -> usize {
        let queue = self.first().queue.as_str().into();
        let purged = self.amqp.channel.queue_purge(queue, QueuePurgeOptions::default()).await;
        usize::try_from(purged.expect("the queue is there")).expect("few enough")
    }

    /// Stops the sidecar and removes the queues.
    pub(crate) async fn leave(self) {
        let Self { mut sidecar, amqp, targets, exchange, .. } = self;
        assert_eq!(sidecar.process.stop().await, Some(0), "the sidecar stops well");
        for target in &targets {
            amqp.delete(&target.queue).await;
        }
        amqp.delete_exchange(&exchange).await;
    }
}
