//! Each publication gets its own outcome, at speed.

use std::task::Poll;
use std::time::Duration;

use futures_util::future::join_all;
use sidebus::broker::amqp::{AmqpBroker, AmqpOptions};
use sidebus::broker::conformance::Lab;
use sidebus::broker::{Broker as _, BrokerError, Confirm, InOrder, LaneRole, Publication, Session, SessionId};
use sidebus::domain::message::{Headers, Value};
use sidebus::domain::name::{ExchangeName, QueueName};
use tokio::time::timeout;

use crate::lab::{PATIENCE, RabbitLab, declare, declare_with, to_queue};
use crate::support::publisher::publishes;
use crate::support::{nodes, rabbitmq};

const BATCH: u64 = 256;
const LANES: u64 = 4;

/// Where one lane publishes to.
struct Targets {
    good: QueueName,
    /// Refuses everything: it is full.
    full: QueueName,
}

impl Targets {
    fn publication(&self, id: u64) -> (Publication, Confirm) {
        match id % 8 {
            0 => (to_queue("to-nowhere", id), Confirm::Unroutable),
            4 => (to_queue(self.full.as_str(), id), Confirm::Refused),
            _ => (to_queue(self.good.as_str(), id), Confirm::Stored),
        }
    }
}

/// Publishes through one lane, always two batches at once; answers how many outcomes were somebody else's.
async fn misattributed(session: &dyn Session, targets: &Targets, ids: std::ops::Range<u64>) -> usize {
    let mut lane = session.lane(LaneRole::Publish).await.expect("a lane");
    let (mut next, mut all_expected, mut told) = (ids.start, Vec::new(), InOrder::default());
    while next < ids.end || told.known() < all_expected.len() {
        while next < ids.end && lane.has_room() {
            let end = (next + BATCH).min(ids.end);
            let (batch, expected): (Vec<_>, Vec<_>) = (next..end).map(|id| targets.publication(id)).unzip();
            lane.write(batch).await;
            all_expected.extend(expected);
            next = end;
        }
        told.add(lane.answers().await);
    }
    let outcomes = told.into_confirms();
    all_expected.iter().zip(&outcomes).filter(|(expected, outcome)| expected != outcome).count()
}

#[tokio::test]
async fn of_100_000_publications_over_four_lanes_each_has_its_own_outcome() {
    for queue_type in ["classic", "quorum"] {
        let lab = RabbitLab::new().await;
        let targets = Targets { good: lab.queue("work"), full: lab.queue("full") };
        let session = lab.session().await;
        declare_with(&*session, &targets.good, [("x-queue-type", Value::text(queue_type))]).await;
        // A quorum queue may take a few more than it should.
        let limits = [("x-max-length", Value::Int64(1)), ("x-overflow", Value::text("reject-publish"))];
        declare_with(&*session, &targets.full, limits).await;
        let mut lane = session.lane(LaneRole::Publish).await.expect("a lane");
        assert_eq!(lane.publish(vec![to_queue(targets.full.as_str(), 0)]).await, [Confirm::Stored]);

        let share = u64::from(publishes()) / LANES;
        let parts = (0..LANES).map(|lane| misattributed(&*session, &targets, lane * share..(lane + 1) * share));
        let wrong: usize = join_all(parts).await.into_iter().sum();
        for queue in [&targets.good, &targets.full] {
            lab.delete_queue(queue).await;
        }
        assert_eq!(wrong, 0, "{queue_type}");
    }
}

#[tokio::test]
async fn what_would_break_the_channel_is_not_sent_and_neighbours_pass() {
    let lab = RabbitLab::new().await;
    let (session, queue) = (lab.session().await, lab.queue("work"));
    declare(&*session, &queue).await;
    let good = |id| to_queue(queue.as_str(), id);
    let change = |id, change: fn(&mut Publication)| {
        let mut publication = good(id);
        change(&mut publication);
        publication
    };
    let missing = ExchangeName::from_broker(&lab.name("missing"));
    let mut elsewhere = good(9);
    elsewhere.message.exchange = missing.clone();
    let batch = vec![
        good(1),
        change(2, |one| one.message.routing_key = "k".repeat(256)),
        change(3, |one| one.message.properties.expiration = Some("soon".to_owned())),
        change(4, |one| one.message.properties.kind = Some("t".repeat(256))),
        change(5, |one| {
            one.message.properties.headers = Headers::from([("big".to_owned(), Value::text("x".repeat(140_000)))]);
        }),
        change(6, |one| one.message.properties.message_id = None),
        elsewhere,
        good(7),
    ];
    let mut lane = session.lane(LaneRole::Publish).await.expect("a lane");
    let outcomes = lane.publish(batch).await;
    for outcome in &outcomes[1..6] {
        assert!(matches!(outcome, Confirm::NotSent(BrokerError::Unsupported { .. })), "{outcome:?}");
    }
    let rest = [&outcomes[0], &outcomes[6], &outcomes[7]];
    assert_eq!(rest, [&Confirm::Stored, &Confirm::ExchangeMissing(missing), &Confirm::Stored]);
    assert!(lane.is_open());
}

#[tokio::test]
async fn a_wait_for_answers_that_is_given_up_loses_none() {
    let lab = RabbitLab::new().await;
    let (session, queue) = (lab.session().await, lab.queue("work"));
    declare(&*session, &queue).await;
    let mut lane = session.lane(LaneRole::Publish).await.expect("a lane");
    for _ in 0..100 {
        lane.write(vec![to_queue(queue.as_str(), 1)]).await;
        let mut told = InOrder::default();
        if let Poll::Ready(answers) = futures_util::poll!(lane.answers()) {
            told.add(answers);
        }
        while told.known() == 0 {
            told.add(lane.answers().await);
        }
        assert_eq!(told.into_confirms(), [Confirm::Stored]);
        assert!(lane.is_open() && lane.has_room());
    }
}

/// failures.md P3.
#[tokio::test]
async fn what_a_queue_does_not_confirm_holds_up_no_neighbour_and_each_has_its_own_outcome() {
    const BATCHES: u64 = 60;
    let node = nodes::managed().await;
    let options = AmqpOptions {
        confirm_timeout: Duration::from_mins(2),
        ..rabbitmq::options(("127.0.0.1", node.port), ("guest", "guest"))
    };
    let session = AmqpBroker::new(options).connect(SessionId(1)).await.expect("it is up");
    for queue_type in ["classic", "quorum"] {
        let [good, mute] = ["good", "mute"].map(|_| rabbitmq::prefix());
        for queue in [&good, &mute] {
            let queue = QueueName::parse(queue).expect("a name");
            declare_with(&*session, &queue, [("x-queue-type", Value::text(queue_type))]).await;
        }
        // Twelve to the one that is mute, which can be left behind all at once.
        let is_mute = |id: u64| id.is_multiple_of(5 * 64);
        let publication = |id: u64| match id {
            id if is_mute(id) => (to_queue(&mute, id), Confirm::Stored),
            id if id % 8 == 1 => (to_queue("to-nowhere", id), Confirm::Unroutable),
            id => (to_queue(&good, id), Confirm::Stored),
        };
        let mut lane = session.lane(LaneRole::Publish).await.expect("a lane");
        assert_eq!(lane.publish(vec![to_queue(&good, 1), to_queue(&mute, 2)]).await, vec![Confirm::Stored; 2]);
        node.mute_queue(&mute, true).await;

        let (mut told, mut all, mut next, mut muted) = (InOrder::default(), Vec::new(), 0_u64, 0);
        let others = async {
            while next < BATCHES || told.known() + muted < all.len() {
                if next < BATCHES && lane.has_room() {
                    let ids = next * 64..(next + 1) * 64;
                    muted += ids.clone().filter(|id| is_mute(*id)).count();
                    let (batch, right): (Vec<_>, Vec<_>) = ids.map(publication).unzip();
                    lane.write(batch).await;
                    all.extend(right);
                    next += 1;
                } else {
                    told.add(lane.answers().await);
                }
            }
        };
        timeout(PATIENCE, others).await.expect("all but those of the mute queue");
        assert_eq!((told.known(), all.len()), (60 * 64 - 12, 60 * 64));

        node.mute_queue(&mute, false).await;
        while told.known() < all.len() {
            told.add(timeout(PATIENCE, lane.answers()).await.expect("it answers now"));
        }
        assert!(told.into_confirms() == all, "each has its own outcome");
        assert!(lane.is_open());
    }
    session.close(Duration::from_secs(2)).await;
}

/// Its returns may hang on confirms that nobody waits for any more.
#[tokio::test]
async fn nothing_behind_a_late_batch_is_called_stored_that_no_queue_took() {
    let node = nodes::mortal().await;
    let options = AmqpOptions {
        confirm_timeout: Duration::from_secs(4),
        ..rabbitmq::options(("127.0.0.1", node.port), ("guest", "guest"))
    };
    let session = AmqpBroker::new(options).connect(SessionId(1)).await.expect("it is up");
    let name = rabbitmq::prefix();
    let queue = QueueName::parse(&name).expect("a name");
    declare(&*session, &queue).await;
    let mut lane = session.lane(LaneRole::Publish).await.expect("a lane");
    // Known to exist, so that no look is in the way later.
    assert_eq!(lane.publish(vec![to_queue(&name, 0)]).await, [Confirm::Stored]);

    node.signal("STOP");
    let is_lost = |id: &u64| id.is_multiple_of(2);
    let batch = |ids: std::ops::Range<u64>| -> Vec<Publication> {
        ids.map(|id| to_queue(if is_lost(&id) { "to-nowhere" } else { &name }, id)).collect()
    };
    let mut told = InOrder::default();
    lane.write(batch(1..101)).await;
    assert!(timeout(Duration::from_secs(2), lane.answers()).await.is_err(), "nothing is known yet");
    lane.write(batch(101..201)).await;
    told.add(lane.answers().await);
    assert!(!lane.is_open(), "the first is late, and the other one is not");
    node.signal("CONT");
    while told.known() < 200 {
        told.add(lane.answers().await);
    }
    let mut in_time = 0;
    for (id, outcome) in (1..201_u64).zip(told.into_confirms()) {
        let right = if is_lost(&id) { Confirm::Unroutable } else { Confirm::Stored };
        assert!(outcome == right || outcome == Confirm::TimedOut, "message {id}: {outcome:?}");
        in_time += usize::from(outcome == right);
    }
    assert!(in_time >= 100, "{in_time}");
    session.close(Duration::from_secs(2)).await;
}
