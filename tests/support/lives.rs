//! One case of the matrix: a life that ends at its point, and one after it that finds everything.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt as _;
use sidebus::bridge::{
    AttachRequest, Attached, Bridge, BridgeSettings, FrameLimits, Handout, PublishLimits, Results, Said,
    SubscriptionState,
};
use sidebus::broker::conformance::Lab;
use sidebus::broker::{Broker, Confirm, ConsumeOptions, Prefetch, Proof, Publication, Routing, SessionId, Settlement};
use sidebus::domain::delivery_id::DeliveryIds;
use sidebus::domain::ledger::DeliveryId;
use sidebus::domain::message::{Headers, Message, Properties, Value};
use sidebus::domain::name::{ExchangeName, QueueName, SubscriptionName};
use sidebus::domain::subscription::{
    Binding, DeadLetterSettings, DeliverySettings, QueueSettings, QueueType, RetrySettings, Subscription,
};
use sidebus::domain::topology::{self, Exchange, ExchangeKind, TopologyMode};
use sidebus::domain::verdict::{Verdict, VerdictKind};
use sidebus::runtime::{Phase, Phases, Tasks, unix_ms, until_panic};
use tokio::time::timeout;

use super::fail_points::{Case, Fault, Fuse, Fused, Place};

/// Messages of a case: the one that the fault hits has neighbours.
const BODIES: [&str; 3] = ["a", "b", "c"];
/// Every wait ends here.
const DEADLINE: Duration = Duration::from_mins(1);

/// A bridge on a broker, with one subscription.
pub(super) struct Life {
    pub(super) bridge: Bridge,
    phases: Phases,
    tasks: Tasks,
}

fn queue(lab: &dyn Lab, stem: &str) -> QueueName {
    QueueName::parse(&lab.name(stem)).expect("a good name")
}

fn exchange(lab: &dyn Lab, stem: &str) -> ExchangeName {
    ExchangeName::parse(&lab.name(stem)).expect("a good name")
}

pub(super) fn subscription(lab: &dyn Lab, queue_type: QueueType) -> Subscription {
    let name = queue(lab, "work");
    let binding = Binding { exchange: exchange(lab, "events"), routing_key: "#".to_owned(), arguments: Headers::new() };
    Subscription {
        name: SubscriptionName::parse("work").expect("a good name"),
        queue: QueueSettings {
            name,
            queue_type: Some(queue_type),
            durable: None,
            auto_delete: None,
            exclusive: None,
            arguments: Headers::new(),
        },
        exchange: exchange(lab, "events"),
        bindings: vec![binding],
        unbind: Vec::new(),
        delivery: DeliverySettings::default(),
        retry: RetrySettings::default(),
        dead_letter: DeadLetterSettings::shared(exchange(lab, "dlx"), queue(lab, "dlq")),
    }
}

impl Life {
    pub(super) fn begin(lab: &dyn Lab, broker: Arc<dyn Broker>, subscription: Subscription) -> Self {
        let (tasks, phases) = (Tasks::default(), Phases::default());
        let events = Exchange::durable(exchange(lab, "events"), ExchangeKind::Topic);
        let letters = DeadLetterSettings::shared(exchange(lab, "dlx"), queue(lab, "dlq"));
        let settings = BridgeSettings {
            ids: Arc::new(Mutex::new(DeliveryIds::begin(unix_ms(), None).expect("a clock"))),
            broker,
            shared: topology::shared(TopologyMode::Create, events, &[], &letters),
            topology: TopologyMode::Create,
            namespace: lab.name("ns"),
            by: "test 0".to_owned(),
            now_ms: unix_ms,
            subscriptions: vec![subscription],
            reconnect: (Duration::from_millis(50), Duration::from_millis(200)),
            close_within: Duration::from_secs(2),
            drain_grace: Duration::from_secs(5),
            publish: PublishLimits { lanes: 1, batch_max: 16, in_flight_max: 100, in_flight_kib_max: 1_000 },
        };
        let bridge = Bridge::start(settings, &tasks, &phases.watch());
        Self { bridge, phases, tasks }
    }

    /// Waits for a session that is not this one.
    pub(super) async fn connected(&self, former: Option<SessionId>) -> SessionId {
        let mut link = self.bridge.link.clone();
        let live = async {
            loop {
                match link.live() {
                    Some(live) if Some(live.id) != former => return live.id,
                    Some(_) | None => link.changed().await,
                }
            }
        };
        timeout(DEADLINE, live).await.expect("a session")
    }

    pub(super) async fn publish(&self, lab: &dyn Lab, bodies: &[&str]) {
        let message = |body: &str| Message {
            exchange: exchange(lab, "events"),
            routing_key: "a.b".to_owned(),
            properties: Properties { message_id: Some(body.to_owned()), ..Properties::default() },
            body: Bytes::copy_from_slice(body.as_bytes()),
        };
        let publish = |body| Publication { message: message(body), routing: Routing::Required };
        let confirms = self.bridge.publisher.publish(bodies.iter().copied().map(publish).collect()).await;
        assert_eq!(confirms, Ok(vec![Confirm::Stored; bodies.len()]));
    }

    pub(super) async fn join(&self) -> Attached {
        let request = AttachRequest {
            handler: "h".to_owned(),
            messages_max: Some(10),
            bytes_max: 1 << 20,
            settle_timeout: None,
            frame_bytes_max: 4 << 20,
            results: Results::Failures,
        };
        let name = SubscriptionName::parse("work").expect("a good name");
        self.bridge.registry.attach(&name, request).await.expect("a stream")
    }

    /// As a signal ends it, when all handlers have left.
    pub(super) async fn stop(mut self) {
        self.phases.enter(Phase::Intake);
        self.bridge.registry.close();
        self.phases.enter(Phase::Drain);
        timeout(DEADLINE, self.bridge.all_ended.wait()).await.expect("nothing is left to settle");
        self.phases.enter(Phase::Close);
        assert!(self.tasks.all_ended(DEADLINE).await, "every task ends");
    }

    /// As a kill or a bug ends it: its link is cut already.
    pub(super) async fn bury(self, fault: Fault) {
        if fault == Fault::Panic {
            timeout(DEADLINE, self.tasks.failure()).await.expect("a panic ends the process");
        }
        self.phases.enter(Phase::Close);
        self.bridge.registry.close();
        assert!(self.tasks.all_ended(DEADLINE).await, "every task ends");
    }
}

const LIMITS: FrameLimits = FrameLimits { messages_max: 64, bytes_max: 1 << 20, linger: Duration::ZERO };

/// The next deliveries, or none after so long.
pub(super) async fn deliveries(handler: &Attached, wait: Duration) -> Vec<Handout> {
    let next = async {
        loop {
            let frame = handler.outbox.next(LIMITS).await.expect("the stream goes on");
            if !frame.deliveries.is_empty() {
                return frame.deliveries;
            }
        }
    };
    timeout(wait, next).await.unwrap_or_default()
}

/// Waits until its queue is consumed; answers what has come by then.
pub(super) async fn active(handler: &Attached) -> Vec<Handout> {
    let mut came = Vec::new();
    let told = async {
        loop {
            let frame = handler.outbox.next(LIMITS).await.expect("the stream goes on");
            came.extend(frame.deliveries);
            if frame.status.is_some_and(|status| status.state == SubscriptionState::Active) {
                return;
            }
        }
    };
    timeout(DEADLINE, told).await.expect("its queue is consumed");
    came
}

pub(super) fn body(message: &Message) -> String {
    String::from_utf8_lossy(&message.body).into_owned()
}

/// What a queue holds, taken off for good.
pub(super) async fn take_all(lab: &dyn Lab, stem: &str, quiet: Duration) -> Vec<String> {
    let session = lab.broker().connect(SessionId(1_000)).await.expect("a session");
    let options = ConsumeOptions { prefetch: Prefetch::new(100), exclusive: false, own_connection: false };
    let (mut arrivals, mut settler) = session.consume(queue(lab, stem), options).await.expect("the queue is there");
    let mut taken = Vec::new();
    while let Ok(batch) = timeout(quiet, arrivals.next_batch(100)).await {
        let batch = batch.expect("the queue stays");
        taken.extend(batch.iter().map(|incoming| body(&incoming.message)));
        let acks = batch.into_iter().map(|incoming| (incoming.receipt, Settlement::Ack)).collect();
        settler.settle(acks, Proof::Read).await;
    }
    session.close(Duration::from_secs(2)).await;
    taken
}

/// Runs one case. `quiet` = after so long nothing more is on its way.
pub(crate) async fn run(case: Case, queue_type: QueueType, lab: Arc<dyn Lab>, quiet: Duration) {
    let what = format!("{case:?} {queue_type:?}");
    let subscription = || {
        let mut work = subscription(&*lab, queue_type);
        if case.is_guard() {
            // The smallest of limits: whatever goes back is a copy.
            work.queue.arguments.insert("x-delivery-limit".to_owned(), Value::Int64(2));
        }
        work
    };
    let cut = {
        let lab = Arc::clone(&lab);
        move || lab.break_sessions().now_or_never().expect("a cut takes no time")
    };
    let fuse = Fuse::new(cut);
    let first = Life::begin(&*lab, Arc::new(Fused::new(lab.broker(), Arc::clone(&fuse))), subscription());
    let session = first.connected(None).await;
    first.publish(&*lab, &BODIES).await;
    if case.place == Place::Arrive {
        fuse.arm(case.place, case.fault);
    }
    let handler = first.join().await;
    let mut held: Vec<DeliveryId> = Vec::new();
    while case.place != Place::Arrive && held.len() < BODIES.len() {
        let got = deliveries(&handler, DEADLINE).await;
        assert!(!got.is_empty(), "{what}: no delivery");
        held.extend(got.iter().map(|handout| handout.id));
    }
    match case.place {
        Place::Arrive => {}
        Place::Frame => {
            fuse.arm(case.place, case.fault);
            tokio::select! {
                // Of the tasks of the product none calls anything here, so none panics.
                _ = until_panic(fuse.reach(Place::Frame)) => {}
                () = fuse.blown() => {}
            }
        }
        Place::Write | Place::Written | Place::Confirmed | Place::Settle | Place::Settled => {
            fuse.arm(case.place, case.fault);
            let said = Said { verdicts: vec![(held, Ok(case.said()))], ..Said::default() };
            assert!(handler.voice.say(said).await);
        }
    }
    timeout(DEADLINE, fuse.blown()).await.unwrap_or_else(|_| panic!("{what}: the point was not reached"));
    drop(handler);

    let life = if case.fault == Fault::Cut {
        first.connected(Some(session)).await;
        first
    } else {
        let is_task = case.place != Place::Frame;
        first.bury(if is_task { case.fault } else { Fault::Kill }).await;
        let next = Life::begin(&*lab, lab.broker(), subscription());
        next.connected(None).await;
        next
    };
    let again = everything(&life, case, quiet, &what).await;
    life.stop().await;
    judge(case, again, (&*lab, quiet), &what).await;
}

/// Acks whatever comes, until nothing more does. Answers the attempts of each.
async fn everything(life: &Life, case: Case, quiet: Duration, what: &str) -> BTreeMap<String, Vec<u32>> {
    let handler = life.join().await;
    let mut again: BTreeMap<String, Vec<u32>> = BTreeMap::new();
    let mut got = active(&handler).await;
    loop {
        if got.is_empty() {
            let is_all = again.len() == BODIES.len() || !case.comes_again();
            got = deliveries(&handler, if is_all { quiet } else { DEADLINE }).await;
        }
        if got.is_empty() {
            break;
        }
        for handout in &got {
            let seen = again.entry(body(&handout.seen.message)).or_default();
            seen.push(handout.seen.record.attempt());
            assert!(seen.len() <= case.again_max(), "{what}: {again:?}");
        }
        let ids = std::mem::take(&mut got).iter().map(|handout| handout.id).collect();
        assert!(handler.voice.say(Said { verdicts: vec![(ids, Ok(Verdict::Ack))], ..Said::default() }).await);
    }
    assert!(handler.voice.say(Said { leave: true, ..Said::default() }).await);
    again
}

async fn judge(case: Case, mut again: BTreeMap<String, Vec<u32>>, (lab, quiet): (&dyn Lab, Duration), what: &str) {
    let letters = take_all(lab, "dlq", quiet).await;
    // What came later than a busy broker was waited for; a copy among it carries one failure at most.
    for body in take_all(lab, "work", quiet).await {
        let seen = again.entry(body).or_default();
        seen.push(1);
        assert!(seen.len() <= case.again_max(), "{what}: {again:?}");
    }
    for body in BODIES {
        let attempts = again.get(body).cloned().unwrap_or_default();
        let given_up = letters.iter().filter(|letter| *letter == body).count();
        assert!(given_up <= 1, "{what}: {body} is a letter {given_up} times");
        let is_done = case.verdict == VerdictKind::Ack && !is_before_verdict(case);
        assert!(is_done || given_up == 1 || !attempts.is_empty(), "{what}: {body} is lost");
        // Only what was said to have failed has failed.
        let failed = usize::from(case.verdict == VerdictKind::Retry);
        let attempt_max = 1 + if is_before_verdict(case) { 0 } else { failed };
        let attempt_max = u32::try_from(attempt_max).expect("a small number");
        assert!(attempts.iter().all(|attempt| *attempt <= attempt_max), "{what}: {body} came with {attempts:?}");
        assert!(given_up == 0 || case.verdict == VerdictKind::DeadLetter, "{what}: {body}");
    }
}

fn is_before_verdict(case: Case) -> bool {
    matches!(case.place, Place::Arrive | Place::Frame)
}
