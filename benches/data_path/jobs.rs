//! The jobs, each done by the bare client and then by Sidebus.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::future::join_all;
use futures_util::stream::FuturesUnordered;
use sidebus::grpc::proto::sidebus::v1;
use sidebus::grpc::proto::sidebus::v1::publisher_service_client::PublisherServiceClient;
use tokio::time::{Instant, MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use super::arguments::{Arguments, Job};
use super::bare::{BareConsumer, BarePublisher};
use super::figures::Sample;
use super::handler::BenchHandler;
use super::machine;
use super::place::Stage;
use super::{publisher, python};

/// Bytes of a body that hold the time of its publish.
const STAMP_BYTES: usize = 8;

/// Both sides, one after the other.
pub(crate) async fn run_both(job: Job, stage: &Stage, arguments: &Arguments) -> (Sample, Sample) {
    match job {
        Job::Consume => (consume_bare(stage, arguments).await, consume_sidebus(stage, arguments).await),
        Job::PublishStream => (publish_bare(stage, arguments).await, publish_stream(stage, arguments).await),
        Job::Publish => (publish_bare(stage, arguments).await, publish_unary(stage, arguments).await),
        Job::Pika => (python(stage, arguments, "pika").await, python(stage, arguments, "sidebus").await),
        Job::AioPika => (python(stage, arguments, "aio-pika").await, python(stage, arguments, "sidebus").await),
        Job::Latency => (latency_bare(stage, arguments).await, latency_sidebus(stage, arguments).await),
    }
}

/// Does something and measures it: the time, and what each process has worked.
async fn measured(stage: &Stage, messages: usize, work: impl Future<Output = ()>) -> Sample {
    let (own, sidecar) = (std::process::id(), stage.sidecar.process.pid());
    let worked = || [machine::cpu(own), machine::cpu(sidecar), stage.broker_pid.map_or(Duration::ZERO, machine::cpu)];
    let (before, begun) = (worked(), Instant::now());
    work.await;
    let (wall, after) = (begun.elapsed(), worked());
    let spent = |process: usize| after[process].saturating_sub(before[process]);
    Sample { messages, wall, client: spent(0), sidecar: spent(1), broker: spent(2), delays: Vec::new() }
}

async fn fill(stage: &Stage, arguments: &Arguments) {
    let publisher = BarePublisher::open(stage, &stage.targets, arguments.window).await;
    publisher.publish((0..arguments.messages).map(|_| vec![0; arguments.body])).await;
    for (target, share) in stage.shares(arguments.messages) {
        stage.holds(target, share).await;
    }
}

async fn consume_bare(stage: &Stage, arguments: &Arguments) -> Sample {
    fill(stage, arguments).await;
    let mut consumers = Vec::new();
    for (target, share) in stage.shares(arguments.messages) {
        consumers.push((BareConsumer::open(stage, target, arguments.prefetch).await, share));
    }
    let work = async {
        join_all(consumers.iter_mut().map(|(consumer, share)| consumer.take(*share, |_| {}))).await;
    };
    let sample = measured(stage, arguments.messages, work).await;
    stage.is_empty().await;
    sample
}

async fn consume_sidebus(stage: &Stage, arguments: &Arguments) -> Sample {
    fill(stage, arguments).await;
    let (taken, all_done) = (Arc::new(AtomicUsize::new(0)), CancellationToken::new());
    let mut channels = Vec::new();
    for target in &stage.targets {
        for _ in 0..arguments.handlers {
            channels.push((stage.channel().await, target.subscription.clone()));
        }
    }
    let work = async {
        let handlers = channels.into_iter().map(|(channel, subscription)| {
            let (taken, all_done) = (Arc::clone(&taken), all_done.clone());
            // Each on a task of its own, so that they use the cores.
            let window = arguments.prefetch / u16::try_from(arguments.handlers).expect("few handlers");
            let (frame, all) = (arguments.frame, arguments.messages);
            tokio::spawn(async move {
                let handler = BenchHandler::open(channel, subscription, (window.max(1), frame)).await;
                let count = move |frame: &v1::SubscribeResponse| {
                    let own = frame.deliveries.len();
                    taken.fetch_add(own, Ordering::Relaxed) + own >= all
                };
                handler.take(count, all_done).await;
            })
        });
        for handler in join_all(handlers).await {
            handler.expect("no handler panics");
        }
    };
    let sample = measured(stage, arguments.messages, work).await;
    stage.is_empty().await;
    sample
}

async fn python(stage: &Stage, arguments: &Arguments, client: &str) -> Sample {
    fill(stage, arguments).await;
    let sample = python::consume(stage, client, (arguments.messages, arguments.prefetch)).await;
    stage.is_empty().await;
    sample
}

async fn publish_bare(stage: &Stage, arguments: &Arguments) -> Sample {
    let publisher = BarePublisher::open(stage, &stage.targets[..1], arguments.window).await;
    let bodies = (0..arguments.messages).map(|_| vec![0; arguments.body]);
    let sample = measured(stage, arguments.messages, publisher.publish(bodies)).await;
    all_are_there(stage, arguments.messages).await;
    sample
}

async fn publish_stream(stage: &Stage, arguments: &Arguments) -> Sample {
    let channel = stage.channel().await;
    let work = publisher::stream(channel, arguments.messages, arguments.body);
    let sample = measured(stage, arguments.messages, work).await;
    all_are_there(stage, arguments.messages).await;
    sample
}

async fn publish_unary(stage: &Stage, arguments: &Arguments) -> Sample {
    let channel = stage.channel().await;
    let work = publisher::unary(channel, (arguments.callers, arguments.messages), arguments.body);
    let sample = measured(stage, arguments.messages, work).await;
    all_are_there(stage, arguments.messages).await;
    sample
}

/// A confirm that lied would make a benchmark of nothing.
async fn all_are_there(stage: &Stage, messages: usize) {
    stage.holds(stage.first(), messages).await;
    assert_eq!(stage.purge().await, messages, "as many as were published");
}

/// The times at which messages are to be published, and the clock that their bodies tell.
struct Pace {
    messages: usize,
    body: usize,
    every: Duration,
    zero: Instant,
}

impl Pace {
    fn of(arguments: &Arguments) -> Self {
        let messages = usize::try_from(arguments.pace * arguments.seconds).expect("few enough");
        let every = Duration::from_secs(1) / arguments.pace;
        Self { messages, body: arguments.body.max(STAMP_BYTES), every, zero: Instant::now() }
    }

    fn stamp(&self) -> Vec<u8> {
        let now = u64::try_from(self.zero.elapsed().as_nanos()).expect("a short run");
        let mut body = now.to_be_bytes().to_vec();
        body.resize(self.body, 0);
        body
    }

    /// Time since the stamp.
    fn delay(&self, body: &[u8]) -> Duration {
        let stamp = body[..STAMP_BYTES].try_into().expect("a stamp");
        self.zero.elapsed().saturating_sub(Duration::from_nanos(u64::from_be_bytes(stamp)))
    }

    /// Calls once for each message, in time.
    async fn keep(&self, mut publish: impl AsyncFnMut(usize)) {
        let mut ticks = interval(self.every);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
        for number in 0..self.messages {
            ticks.tick().await;
            publish(number).await;
        }
    }
}

async fn latency_bare(stage: &Stage, arguments: &Arguments) -> Sample {
    let publisher = BarePublisher::open(stage, &stage.targets[..1], arguments.window).await;
    let mut consumer = BareConsumer::open(stage, stage.first(), arguments.prefetch).await;
    let (pace, mut delays) = (Pace::of(arguments), Vec::new());
    let publishing = async {
        let mut unconfirmed = FuturesUnordered::new();
        let publish = async |number| {
            publisher.begin(number, pace.stamp(), &mut unconfirmed).await;
            // Their ends are looked at while the next tick is awaited, as a program would.
            while let Some(Some(())) = futures_util::future::poll_immediate(unconfirmed.next()).await {}
        };
        pace.keep(publish).await;
        while unconfirmed.next().await.is_some() {}
    };
    let taking = consumer.take(pace.messages, |body| delays.push(pace.delay(body)));
    let work = async {
        tokio::join!(publishing, taking);
    };
    let mut sample = measured(stage, pace.messages, work).await;
    sample.delays = delays;
    sample
}

async fn latency_sidebus(stage: &Stage, arguments: &Arguments) -> Sample {
    let (publishing_channel, handling_channel) = (stage.channel().await, stage.channel().await);
    let (subscription, limits) = (stage.first().subscription.clone(), (arguments.prefetch, arguments.frame));
    let handler = BenchHandler::open(handling_channel, subscription, limits).await;
    let (pace, mut delays) = (Pace::of(arguments), Vec::new());
    let publishing = async {
        let mut unconfirmed = FuturesUnordered::new();
        let publish = async |number| {
            let mut client = PublisherServiceClient::new(publishing_channel.clone());
            let messages = vec![publisher::message(number, pace.stamp())];
            let call = async move { client.publish(v1::PublishRequest { messages, options: None }).await.map(drop) };
            unconfirmed.push(tokio::spawn(call));
            while let Some(Some(end)) = futures_util::future::poll_immediate(unconfirmed.next()).await {
                end.expect("no caller panics").expect("it is confirmed");
            }
        };
        pace.keep(publish).await;
        while let Some(end) = unconfirmed.next().await {
            end.expect("no caller panics").expect("it is confirmed");
        }
    };
    let note = |frame: &v1::SubscribeResponse| {
        let bodies = frame.deliveries.iter().filter_map(|delivery| delivery.message.as_ref());
        bodies.for_each(|message| delays.push(pace.delay(&message.body)));
        delays.len() == pace.messages
    };
    let taking = handler.take(note, CancellationToken::new());
    let work = async {
        tokio::join!(publishing, taking);
    };
    let mut sample = measured(stage, pace.messages, work).await;
    sample.delays = delays;
    sample
}
