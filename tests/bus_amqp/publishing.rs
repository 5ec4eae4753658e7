//! Each publication gets its own outcome, at speed.

use std::task::Poll;
use std::time::Duration;

use sidebus::broker::amqp::{AmqpBroker, AmqpOptions};
use sidebus::broker::conformance::Lab;
use sidebus::broker::{Broker as _, BrokerError, Confirm, LaneRole, Publication, Session, SessionId};
use sidebus::domain::message::{Headers, Value};
use sidebus::domain::name::{ExchangeName, QueueName};

use crate::lab::{RabbitLab, declare, to_queue};
use crate::support::{nodes, rabbitmq};

const BATCH: u64 = 256;
const PER_LANE: u64 = 50_000;

/// Publishes through one lane, one in eight to nowhere; answers how many outcomes were somebody else's.
async fn misattributed(session: &dyn Session, queue: &str, first: u64) -> usize {
    let mut lane = session.lane(LaneRole::Publish).await.expect("a lane");
    let mut wrong = 0;
    let mut next = first;
    while next < first + PER_LANE {
        let ids: Vec<u64> = (next..(next + BATCH).min(first + PER_LANE)).collect();
        next += BATCH;
        let expected = |id: &u64| if id.is_multiple_of(8) { Confirm::Unroutable } else { Confirm::Stored };
        let publication = |id: &u64| to_queue(if id.is_multiple_of(8) { "to-nowhere" } else { queue }, *id);
        let outcomes = lane.publish(ids.iter().map(publication).collect()).await;
        wrong += ids.iter().zip(&outcomes).filter(|(id, outcome)| expected(id) != **outcome).count();
    }
    wrong
}

#[tokio::test]
async fn of_100_000_publications_each_has_its_own_outcome() {
    let lab = RabbitLab::new().await;
    let (session, queue) = (lab.session().await, lab.queue("work"));
    declare(&*session, &queue).await;
    let name = queue.as_str();
    let (one, two) = tokio::join!(misattributed(&*session, name, 0), misattributed(&*session, name, PER_LANE));
    lab.delete_queue(&queue).await;
    assert_eq!((one, two), (0, 0));
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
        let mut answers = match futures_util::poll!(lane.answers()) {
            Poll::Ready(answers) => answers,
            Poll::Pending => Vec::new(),
        };
        while answers.is_empty() {
            answers = lane.answers().await;
        }
        assert_eq!(answers, [[Confirm::Stored]]);
        assert!(lane.is_open() && lane.has_room());
    }
}

/// Its returns may hang on confirms that nobody waits for any more.
#[tokio::test]
async fn nothing_behind_a_late_batch_is_called_stored_that_no_queue_took() {
    let node = nodes::mortal().await;
    let options = AmqpOptions {
        confirm_timeout: Duration::from_secs(1),
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
    lane.write(batch(1..101)).await;
    lane.write(batch(101..201)).await;
    assert!(lane.answers().await.is_empty(), "late, and another batch is behind it");
    node.signal("CONT");
    let answers = lane.answers().await;

    assert_eq!(answers.iter().map(Vec::len).collect::<Vec<_>>(), [100, 100]);
    assert!(!lane.is_open());
    for (id, outcome) in (1..201_u64).zip(answers.into_iter().flatten()) {
        let right = if is_lost(&id) { Confirm::Unroutable } else { Confirm::Stored };
        assert!(outcome == right || outcome == Confirm::TimedOut, "message {id}: {outcome:?}");
    }
    session.close(Duration::from_secs(2)).await;
}
