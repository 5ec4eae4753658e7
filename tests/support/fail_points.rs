//! The points at which a sidecar can die on the way of one delivery, and a broker that makes it die there.
//!
//! They lie at the port to brokers and not in the product: whatever happens between two calls of a broker is the same to it
//! and to the handlers, so a backend that is wrapped reaches every one of them.

use std::fmt;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::future::BoxFuture;
use futures_util::stream::BoxStream;
use sidebus::broker::{
    Answers, Arrivals, Broker, BrokerError, Capabilities, ConsumeOptions, Consumer, Findings, Incoming, Lane, LaneRole,
    Prefetch, Proof, Publication, Receipt, Session, SessionEvent, SessionId, Settled, Settlement, Settler,
};
use sidebus::domain::difference::Examined;
use sidebus::domain::name::QueueName;
use sidebus::domain::topology::Plan;
use sidebus::domain::verdict::{Verdict, VerdictKind};
use tokio::sync::watch;

/// The points by their names in the documents.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Point {
    Arrived,
    Framed,
    VerdictReceived,
    CopyQueued,
    CopyWritten,
    CopyConfirmed,
    AckQueued,
    AckWritten,
    ReleaseQueued,
    LetterConfirmed,
}

/// How it dies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// `kill -9`: nothing more is said to anybody.
    Kill,
    /// A bug, which ends the process.
    Panic,
    /// The link is cut, and the sidecar lives.
    Cut,
    /// Whoever is there first never hears of it; nobody else is hurt.
    Hang,
}

/// Calls of the port, and what comes before and after them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Place {
    /// A delivery was taken from the broker.
    Arrive,
    /// A frame was taken by the stream; nothing of the port is called.
    Frame,
    /// A copy is about to be written, was written, or was confirmed.
    Write,
    Written,
    Confirmed,
    /// A settlement is about to be written, or was.
    Settle,
    Settled,
}

/// One case of the matrix.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Case {
    pub(crate) point: Point,
    pub(crate) verdict: VerdictKind,
    pub(crate) fault: Fault,
    pub(crate) place: Place,
}

impl Case {
    fn is_same(self, other: Self) -> bool {
        // Before a verdict it makes no difference which one would have come, and no task of ours is at a stream's frame.
        let of = |case: Self| match case.place {
            Place::Arrive => (case.place, None, case.fault),
            Place::Frame => (case.place, None, if case.fault == Fault::Panic { Fault::Kill } else { case.fault }),
            Place::Write | Place::Written | Place::Confirmed | Place::Settle | Place::Settled => {
                (case.place, Some(case.verdict), case.fault)
            }
        };
        of(self) == of(other)
    }

    /// A release so close to the limit of its queue that it is a copy.
    pub(crate) fn is_guard(self) -> bool {
        self.verdict == VerdictKind::Release && matches!(self.place, Place::Write | Place::Written | Place::Confirmed)
    }

    /// What the handler says in the life that ends.
    pub(crate) fn said(self) -> Verdict {
        let (reason, description) = ("FAILED".to_owned(), String::new());
        match self.verdict {
            VerdictKind::Ack => Verdict::Ack,
            VerdictKind::Retry => Verdict::Retry { delay: Some(Duration::ZERO), reason, description },
            VerdictKind::DeadLetter => Verdict::DeadLetter { reason, description },
            VerdictKind::Release => Verdict::Release,
        }
    }

    /// True if every message must be handed out again.
    pub(crate) fn comes_again(self) -> bool {
        match (self.place, self.verdict) {
            (Place::Arrive | Place::Frame, _) | (_, VerdictKind::Release | VerdictKind::Retry) => true,
            // What a living sidecar knows to be done is acked once more, and handed to nobody.
            (Place::Settle, VerdictKind::Ack) => self.fault != Fault::Cut,
            (place, VerdictKind::DeadLetter) => place == Place::Write,
            (_, VerdictKind::Ack) => false,
        }
    }

    /// How often one message may be handed out after the fault: as its copy and as its original. A sidecar that lives may
    /// hand out what it still has before it hears that the link is gone, and hear the ack of that too late.
    pub(crate) fn again_max(self) -> usize {
        let is_copied = matches!(self.place, Place::Written | Place::Confirmed | Place::Settle | Place::Settled);
        let copies = usize::from((self.verdict == VerdictKind::Retry || self.is_guard()) && is_copied);
        1 + copies + usize::from(self.fault == Fault::Cut)
    }
}

/// Every case that can occur, once, and the names of those that cannot. Names whose place is the same are one case: nothing
/// lies between them that a broker or a handler could see.
pub(crate) fn matrix() -> (Vec<Case>, Vec<(Point, VerdictKind)>) {
    const POINTS: [Point; 10] = [
        Point::Arrived,
        Point::Framed,
        Point::VerdictReceived,
        Point::CopyQueued,
        Point::CopyWritten,
        Point::CopyConfirmed,
        Point::AckQueued,
        Point::AckWritten,
        Point::ReleaseQueued,
        Point::LetterConfirmed,
    ];
    const VERDICTS: [VerdictKind; 4] =
        [VerdictKind::Ack, VerdictKind::Retry, VerdictKind::DeadLetter, VerdictKind::Release];
    let (mut cases, mut never) = (Vec::new(), Vec::new());
    for point in POINTS {
        for verdict in VERDICTS {
            let Some(place) = place(point, verdict) else {
                never.push((point, verdict));
                continue;
            };
            for fault in [Fault::Kill, Fault::Panic, Fault::Cut] {
                let case = Case { point, verdict, fault, place };
                if !cases.iter().any(|known: &Case| known.is_same(case)) {
                    cases.push(case);
                }
            }
        }
    }
    (cases, never)
}

/// Every point on the way of a release that is a copy.
pub(crate) fn guards() -> Vec<Case> {
    let points = [
        (Point::CopyQueued, Place::Write),
        (Point::CopyWritten, Place::Written),
        (Point::CopyConfirmed, Place::Confirmed),
    ];
    let faults = [Fault::Kill, Fault::Panic, Fault::Cut];
    let case = |(point, place), fault| Case { point, verdict: VerdictKind::Release, fault, place };
    points.into_iter().flat_map(|at| faults.map(|fault| case(at, fault))).collect()
}

fn place(point: Point, verdict: VerdictKind) -> Option<Place> {
    let is_copied = matches!(verdict, VerdictKind::Retry | VerdictKind::DeadLetter);
    match point {
        Point::Arrived => Some(Place::Arrive),
        Point::Framed => Some(Place::Frame),
        Point::VerdictReceived => Some(if is_copied { Place::Write } else { Place::Settle }),
        Point::CopyQueued => is_copied.then_some(Place::Write),
        Point::CopyWritten => is_copied.then_some(Place::Written),
        Point::CopyConfirmed => (verdict == VerdictKind::Retry).then_some(Place::Confirmed),
        Point::LetterConfirmed => (verdict == VerdictKind::DeadLetter).then_some(Place::Confirmed),
        Point::AckQueued => (verdict != VerdictKind::Release).then_some(Place::Settle),
        Point::AckWritten => (verdict != VerdictKind::Release).then_some(Place::Settled),
        Point::ReleaseQueued => (verdict == VerdictKind::Release).then_some(Place::Settle),
    }
}

/// Blows once, at its place.
pub(crate) struct Fuse {
    armed: Mutex<Option<(Place, Fault)>>,
    /// To read this body is death.
    deadly: Option<&'static str>,
    blown: watch::Sender<Option<Fault>>,
    cut: Box<dyn Fn() + Send + Sync>,
}

impl fmt::Debug for Fuse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Fuse").field("blown", &*self.blown.borrow()).finish_non_exhaustive()
    }
}

impl Fuse {
    /// Not armed yet. `cut` takes the link to the broker away at once.
    pub(crate) fn new(cut: impl Fn() + Send + Sync + 'static) -> Arc<Self> {
        Self::of(None, cut)
    }

    /// Blows as a kill once a message with this body arrives.
    pub(crate) fn deadly(body: &'static str, cut: impl Fn() + Send + Sync + 'static) -> Arc<Self> {
        Self::of(Some(body), cut)
    }

    fn of(deadly: Option<&'static str>, cut: impl Fn() + Send + Sync + 'static) -> Arc<Self> {
        Arc::new(Self { armed: Mutex::new(None), deadly, blown: watch::Sender::new(None), cut: Box::new(cut) })
    }

    fn reads(&self, batch: &[Incoming]) {
        if batch.iter().any(|incoming| self.deadly.is_some_and(|body| incoming.message.body == body)) {
            self.arm(Place::Arrive, Fault::Kill);
        }
    }

    pub(crate) fn arm(&self, place: Place, fault: Fault) {
        *self.armed.lock().expect("nobody panics with it") = Some((place, fault));
    }

    /// Waits until it has blown.
    pub(crate) async fn blown(&self) {
        self.blown.subscribe().wait_for(Option::is_some).await.expect("it lives as long as this");
    }

    /// Here is this place.
    pub(crate) async fn reach(&self, place: Place) {
        let fault = self.armed.lock().expect("nobody panics with it").take_if(|armed| armed.0 == place);
        if let Some((_, fault)) = fault {
            if fault != Fault::Hang {
                (self.cut)();
            }
            self.blown.send_replace(Some(fault));
            match fault {
                Fault::Kill | Fault::Cut => {}
                Fault::Panic => panic!("a bug at {place:?}"),
                Fault::Hang => std::future::pending::<()>().await,
            }
        }
        if *self.blown.borrow() == Some(Fault::Kill) {
            std::future::pending::<()>().await;
        }
    }

    fn is_dead(&self) -> bool {
        self.blown.borrow().is_some_and(|fault| !matches!(fault, Fault::Cut | Fault::Hang))
    }
}

/// A broker, or a part of one, with a fuse.
#[derive(Debug, Clone)]
pub(crate) struct Fused<T> {
    inner: T,
    fuse: Arc<Fuse>,
}

impl<T> Fused<T> {
    pub(crate) fn new(inner: T, fuse: Arc<Fuse>) -> Self {
        Self { inner, fuse }
    }

    fn around<U>(&self, inner: U) -> Fused<U> {
        Fused { inner, fuse: Arc::clone(&self.fuse) }
    }
}

impl Broker for Fused<Arc<dyn Broker>> {
    fn connect(&self, id: SessionId) -> BoxFuture<'_, Result<Arc<dyn Session>, BrokerError>> {
        Box::pin(async move {
            if self.fuse.is_dead() {
                std::future::pending::<()>().await;
            }
            Ok(Arc::new(self.around(self.inner.connect(id).await?)) as Arc<dyn Session>)
        })
    }

    fn endpoint(&self) -> String {
        self.inner.endpoint()
    }
}

impl Session for Fused<Arc<dyn Session>> {
    fn capabilities(&self) -> &Capabilities {
        self.inner.capabilities()
    }

    fn events(&self) -> BoxStream<'static, SessionEvent> {
        self.inner.events()
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
            Ok((
                Box::new(self.around(arrivals)) as Box<dyn Arrivals>,
                Box::new(self.around(settler)) as Box<dyn Settler>,
            ))
        })
    }

    fn lane(&self, role: LaneRole) -> BoxFuture<'_, Result<Box<dyn Lane>, BrokerError>> {
        Box::pin(async move {
            let lane = self.inner.lane(role).await?;
            // Publishing has tests of its own.
            Ok(if role == LaneRole::Settle { Box::new(self.around(lane)) } else { lane })
        })
    }

    fn close(&self, within: Duration) -> BoxFuture<'_, ()> {
        self.inner.close(within)
    }
}

impl Arrivals for Fused<Box<dyn Arrivals>> {
    fn next_batch(&mut self, room_max: usize) -> BoxFuture<'_, Result<Vec<Incoming>, BrokerError>> {
        Box::pin(async move {
            let batch = self.inner.next_batch(room_max).await?;
            self.fuse.reads(&batch);
            self.fuse.reach(Place::Arrive).await;
            Ok(batch)
        })
    }

    fn set_prefetch(&mut self, prefetch: Prefetch) -> BoxFuture<'_, Result<(), BrokerError>> {
        self.inner.set_prefetch(prefetch)
    }

    fn cancel(&mut self) -> BoxFuture<'_, Result<Vec<Incoming>, BrokerError>> {
        self.inner.cancel()
    }
}

impl Settler for Fused<Box<dyn Settler>> {
    fn channel(&self) -> u64 {
        self.inner.channel()
    }

    fn settle(&mut self, batch: Vec<(Receipt, Settlement)>, proof: Proof) -> BoxFuture<'_, Vec<Settled>> {
        Box::pin(async move {
            self.fuse.reach(Place::Settle).await;
            let settled = self.inner.settle(batch, proof).await;
            self.fuse.reach(Place::Settled).await;
            settled
        })
    }
}

impl Lane for Fused<Box<dyn Lane>> {
    fn has_room(&self) -> bool {
        self.inner.has_room()
    }

    fn write(&mut self, batch: Vec<Publication>) -> BoxFuture<'_, ()> {
        Box::pin(async move {
            self.fuse.reach(Place::Write).await;
            self.inner.write(batch).await;
            self.fuse.reach(Place::Written).await;
        })
    }

    fn answers(&mut self) -> BoxFuture<'_, Answers> {
        Box::pin(async move {
            let answers = self.inner.answers().await;
            if !answers.is_empty() {
                self.fuse.reach(Place::Confirmed).await;
            }
            answers
        })
    }

    fn is_open(&self) -> bool {
        self.inner.is_open()
    }
}
