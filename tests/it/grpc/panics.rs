//! failures.md S4: a bug in a part that everybody needs ends the process, and what was in flight goes back to the broker.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use futures_util::stream::BoxStream;
use sidebus::app::Ended;
use sidebus::broker::memory::{MemoryBroker, MemoryOptions};
use sidebus::broker::{
    Arrivals, Broker, BrokerError, Capabilities, ConsumeOptions, Consumer, Findings, Incoming, Lane, LaneRole,
    Prefetch, Session, SessionEvent, SessionId,
};
use sidebus::domain::difference::Examined;
use sidebus::domain::name::QueueName;
use sidebus::domain::topology::Plan;
use sidebus::grpc::proto::sidebus::admin::v1 as admin;
use sidebus::grpc::proto::sidebus::admin::v1::topology_service_client::TopologyServiceClient;
use sidebus::grpc::proto::sidebus::v1;
use tokio::sync::watch;
use tonic::{Code, Status};

use super::WORK;
use crate::support::errors::refused;
use crate::support::sidecar::{Sidecar, channel};
use crate::support::words::{ack, message, open, retry, settle};
use crate::support::{eventually, within};

/// Where the bug is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Part {
    None,
    Keeper,
    Subscription,
    Lane,
    /// The lane of copies.
    Settle,
    /// A call that changes the topology.
    Call,
    /// Not a bug: threads of a library that hang.
    Threads,
}

/// The embedded broker with a trap: from the moment it is set, whoever of that part calls falls into it.
#[derive(Debug, Clone)]
struct Trapped<T> {
    inner: T,
    trap: watch::Receiver<Part>,
}

impl<T> Trapped<T> {
    async fn sprung(&self, part: Part) {
        let mut trap = self.trap.clone();
        if trap.wait_for(|set| *set == part).await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    async fn springs<U>(&self, part: Part, work: impl Future<Output = U>) -> U {
        tokio::select! {
            biased;
            () = self.sprung(part) => panic!("a bug of the {part:?}"),
            done = work => done,
        }
    }

    fn around<U>(&self, inner: U) -> Trapped<U> {
        Trapped { inner, trap: self.trap.clone() }
    }
}

impl Broker for Trapped<MemoryBroker> {
    fn connect(&self, id: SessionId) -> BoxFuture<'_, Result<Arc<dyn Session>, BrokerError>> {
        Box::pin(async move { Ok(Arc::new(self.around(self.inner.connect(id).await?)) as Arc<dyn Session>) })
    }

    fn endpoint(&self) -> String {
        self.inner.endpoint()
    }

    fn worn_out(&self) -> Option<String> {
        (*self.trap.borrow() == Part::Threads).then(|| "too many threads hang".to_owned())
    }
}

impl Session for Trapped<Arc<dyn Session>> {
    fn capabilities(&self) -> &Capabilities {
        self.inner.capabilities()
    }

    fn events(&self) -> BoxStream<'static, SessionEvent> {
        let (events, trap) = (self.inner.events(), self.around(()));
        Box::pin(futures_util::stream::unfold((events, trap), |(mut events, trap)| async move {
            let event = trap.springs(Part::Keeper, futures_util::StreamExt::next(&mut events)).await?;
            Some((event, (events, trap)))
        }))
    }

    fn apply(&self, plan: Arc<Plan>) -> BoxFuture<'_, Result<Findings, BrokerError>> {
        Box::pin(async move { self.springs(Part::Call, self.inner.apply(plan)).await })
    }

    fn examine(&self, plan: Arc<Plan>) -> BoxFuture<'_, Result<Vec<Examined>, BrokerError>> {
        self.inner.examine(plan)
    }

    fn consume(&self, queue: QueueName, options: ConsumeOptions) -> BoxFuture<'_, Result<Consumer, BrokerError>> {
        Box::pin(async move {
            let (arrivals, settler) = self.inner.consume(queue, options).await?;
            Ok((Box::new(self.around(arrivals)) as Box<dyn Arrivals>, settler))
        })
    }

    fn lane(&self, role: LaneRole) -> BoxFuture<'_, Result<Box<dyn Lane>, BrokerError>> {
        let part = match role {
            LaneRole::Publish => Part::Lane,
            LaneRole::Settle => Part::Settle,
        };
        Box::pin(async move { self.springs(part, self.inner.lane(role)).await })
    }

    fn close(&self, within: Duration) -> BoxFuture<'_, ()> {
        self.inner.close(within)
    }
}

impl Arrivals for Trapped<Box<dyn Arrivals>> {
    fn next_batch(&mut self, room_max: usize) -> BoxFuture<'_, Result<Vec<Incoming>, BrokerError>> {
        let trap = self.around(());
        Box::pin(async move { trap.springs(Part::Subscription, self.inner.next_batch(room_max)).await })
    }

    fn set_prefetch(&mut self, prefetch: Prefetch) -> BoxFuture<'_, Result<(), BrokerError>> {
        self.inner.set_prefetch(prefetch)
    }

    fn cancel(&mut self) -> BoxFuture<'_, Result<Vec<Incoming>, BrokerError>> {
        self.inner.cancel()
    }
}

impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::None => "nothing",
            Self::Keeper => "keeper broker",
            Self::Subscription => "subscription work",
            Self::Lane => "lane publish",
            Self::Settle => "lane settle",
            Self::Call => "none",
            Self::Threads => "broker",
        })
    }
}

#[tokio::test]
async fn a_panic_in_any_part_that_all_need_ends_the_process_and_what_was_held_goes_back() {
    for part in [Part::Keeper, Part::Subscription, Part::Lane, Part::Settle] {
        let trap = watch::Sender::new(Part::None);
        let broker = MemoryBroker::new(MemoryOptions { bytes_max: 1 << 20 });
        let trapped = Trapped { inner: broker.clone(), trap: trap.subscribe() };
        let mut sidecar = Sidecar::start_through(Arc::new(trapped), broker, WORK).await;
        sidecar.ready().await;
        let mut handler = sidecar.handler(open("work")).await;
        let mut held = Vec::new();
        if part != Part::Lane {
            sidecar.publish([message("work.A", "1")]).await;
            held = handler.deliveries(1).await;
        }

        trap.send_replace(part);
        match part {
            Part::Lane => {
                sidecar.try_publish(vec![message("work.A", "1")]).await.expect_err("its lane falls into the trap");
            }
            // The copy opens the lane.
            Part::Settle => handler.say(settle(vec![held[0].id], retry("NOT_NOW", None))).await,
            Part::None | Part::Keeper | Part::Subscription | Part::Call | Part::Threads => {}
        }
        let ended = sidecar.ended().await;
        let Ended::Bug(failure) = ended else { panic!("{part}: {ended:?}") };
        assert_eq!((failure.task, failure.text), (part.to_string(), format!("a bug of the {part:?}")));
        within("the end of the stream", handler.end()).await.expect_err("it was cut");
        if part != Part::Lane {
            eventually("it is ready for the next process", async || (sidecar.depth("work").ready == 1).then_some(()))
                .await;
        }
    }
}

#[tokio::test]
async fn a_panic_in_a_unary_call_ends_that_call_alone_and_keeps_nothing_locked() {
    let trap = watch::Sender::new(Part::None);
    let broker = MemoryBroker::new(MemoryOptions { bytes_max: 1 << 20 });
    let trapped = Trapped { inner: broker.clone(), trap: trap.subscribe() };
    let sidecar = Sidecar::start_through(Arc::new(trapped), broker, WORK).await;
    sidecar.ready().await;
    let mut handler = sidecar.handler(open("work")).await;
    sidecar.publish([message("work.A", "1")]).await;
    let held = handler.deliveries(1).await;
    let door = channel(sidecar.addresses.admin.expect("a door for administrators").port()).await;
    let binding = v1::Binding { routing_key: "other.#".to_owned(), ..v1::Binding::default() };
    let bind = admin::CreateBindingRequest {
        subscription: "work".to_owned(),
        binding: Some(binding),
        ..admin::CreateBindingRequest::default()
    };

    trap.send_replace(Part::Call);
    let mut caller = TopologyServiceClient::new(door);
    let fallen = within("the end of the call", caller.create_binding(bind.clone())).await;
    assert_eq!(fallen.expect_err("it falls into the trap").code(), Code::Cancelled);
    trap.send_replace(Part::None);

    // The same call on the same connection: what it held is free again.
    within("an answer", caller.create_binding(bind)).await.expect("bound");
    handler.say(settle(vec![held[0].id], ack())).await;
    sidecar.publish([message("other.A", "2")]).await;
    assert_eq!(&handler.delivery().await.message.expect("a message").body[..], b"2");
}

/// The name of a producer whose reader falls into a trap.
const TRAPPED: &str = "falls-into-the-trap";

/// Takes what the sidecars of this process log, and panics in whoever logs that this producer has come. That is its reader.
struct LogTrap;

impl tracing::Subscriber for LogTrap {
    fn enabled(&self, metadata: &tracing::Metadata<'_>) -> bool {
        metadata.is_event() && metadata.target() == "sidebus::grpc::publish_stream"
    }

    fn new_span(&self, _: &tracing::span::Attributes<'_>) -> tracing::span::Id {
        tracing::span::Id::from_u64(1)
    }

    fn record(&self, _: &tracing::span::Id, _: &tracing::span::Record<'_>) {}

    fn record_follows_from(&self, _: &tracing::span::Id, _: &tracing::span::Id) {}

    fn event(&self, event: &tracing::Event<'_>) {
        event.record(&mut |field: &tracing::field::Field, value: &dyn fmt::Debug| {
            let is_it = field.name() == "producer" && format!("{value:?}").contains(TRAPPED);
            assert!(!is_it, "a bug in reading");
        });
    }

    fn enter(&self, _: &tracing::span::Id) {}

    fn exit(&self, _: &tracing::span::Id) {}
}

/// Publishes these with a stream of this producer; answers what was confirmed, and the end.
async fn stream_of(sidecar: &Sidecar, producer: &str, bodies: &[&'static str]) -> (Vec<i64>, Result<(), Status>) {
    let open = v1::PublishStreamOpen { producer: producer.to_owned(), ..v1::PublishStreamOpen::default() };
    let item = |(sequence, body): (i64, &&str)| v1::PublishItem { sequence, message: Some(message("work.A", *body)) };
    let items = (1..).zip(bodies).map(item).collect();
    let frames = [v1::PublishStreamRequest { open: Some(open), items }];
    let call = async { sidecar.publisher().await.publish_stream(tokio_stream::iter(frames)).await };
    let mut answers = within("an answer", call).await.unwrap().into_inner();
    let mut confirmed = Vec::new();
    loop {
        match within("an answer or the end", answers.message()).await {
            Ok(Some(frame)) => confirmed.extend(frame.confirmed_sequences),
            Ok(None) => return (confirmed, Ok(())),
            Err(status) => return (confirmed, Err(status)),
        }
    }
}

#[tokio::test]
async fn a_panic_in_the_reader_of_a_publish_stream_ends_that_stream_alone() {
    tracing::subscriber::set_global_default(LogTrap).expect("no other test of this binary sets one for all");
    let sidecar = Sidecar::start(WORK).await;
    let (confirmed, end) = stream_of(&sidecar, TRAPPED, &["1"]).await;
    assert_eq!(confirmed, Vec::<i64>::new(), "nothing was handed in");
    refused(end, Code::Internal, "INTERNAL");
    let (confirmed, end) = stream_of(&sidecar, "another", &["2"]).await;
    assert!(confirmed == [1] && end.is_ok(), "{confirmed:?}, {end:?}");
    sidecar.holds("work", 1, 0).await;
}

/// failures.md L4.
#[tokio::test]
async fn a_broker_backend_that_worn_out_ends_the_process_with_the_next_failure() {
    let trap = watch::Sender::new(Part::None);
    let broker = MemoryBroker::new(MemoryOptions { bytes_max: 1 << 20 });
    let trapped = Trapped { inner: broker.clone(), trap: trap.subscribe() };
    let mut sidecar = Sidecar::start_through(Arc::new(trapped), broker, WORK).await;
    sidecar.ready().await;
    trap.send_replace(Part::Threads);
    sidecar.broker.faults().break_sessions("gone");
    let ended = sidecar.ended().await;
    let Ended::Bug(failure) = ended else { panic!("{ended:?}") };
    assert_eq!(failure.task, Part::Threads.to_string());
    assert!(failure.text.contains("too many threads hang"), "{failure:?}");
}
