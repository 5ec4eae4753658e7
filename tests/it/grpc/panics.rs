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
use tokio::sync::watch;

use super::WORK;
use crate::support::sidecar::Sidecar;
use crate::support::words::{message, open};
use crate::support::{eventually, within};

/// Where the bug is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Part {
    None,
    Keeper,
    Subscription,
    Lane,
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
        self.inner.apply(plan)
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
        Box::pin(async move { self.springs(Part::Lane, self.inner.lane(role)).await })
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
            Self::Threads => "broker",
        })
    }
}

#[tokio::test]
async fn a_panic_in_any_part_that_all_need_ends_the_process_and_what_was_held_goes_back() {
    for part in [Part::Keeper, Part::Subscription, Part::Lane] {
        let trap = watch::Sender::new(Part::None);
        let broker = MemoryBroker::new(MemoryOptions { bytes_max: 1 << 20 });
        let trapped = Trapped { inner: broker.clone(), trap: trap.subscribe() };
        let mut sidecar = Sidecar::start_through(Arc::new(trapped), broker, WORK).await;
        sidecar.ready().await;
        let mut handler = sidecar.handler(open("work")).await;
        if part != Part::Lane {
            sidecar.publish([message("work.A", "1")]).await;
            handler.deliveries(1).await;
        }

        trap.send_replace(part);
        if part == Part::Lane {
            sidecar.try_publish(vec![message("work.A", "1")]).await.expect_err("its lane falls into the trap");
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
