//! Each publication gets its own outcome, at speed.

use sidebus::broker::conformance::Lab;
use sidebus::broker::{BrokerError, Confirm, LaneRole, Publication, Session};
use sidebus::domain::message::{Headers, Value};
use sidebus::domain::name::ExchangeName;

use crate::lab::{RabbitLab, declare, to_queue};

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
async fn a_batch_that_is_given_up_leaves_a_lane_in_doubt() {
    let lab = RabbitLab::new().await;
    let (session, queue) = (lab.session().await, lab.queue("work"));
    declare(&*session, &queue).await;
    let mut lane = session.lane(LaneRole::Publish).await.expect("a lane");
    let mut given_up = false;
    while !given_up {
        let mut batch = lane.publish(vec![to_queue(queue.as_str(), 1)]);
        // On a busy machine the confirm may be there within the one poll; then another batch is given up.
        given_up = futures_util::poll!(&mut batch).is_pending();
    }
    assert!(!lane.is_open());
}
