//! What the port promises of consumers, where RabbitMQ and lapin have traps of their own.

use std::collections::BTreeSet;
use std::time::Duration;

use futures_util::StreamExt;
use sidebus::broker::amqp::{AmqpBroker, AmqpOptions};
use sidebus::broker::conformance::Lab;
use sidebus::broker::{
    Arrivals, Broker, BrokerError, Confirm, ConsumeOptions, Incoming, LaneRole, Prefetch, Proof, Session, SessionEvent,
    SessionId, Settled, Settlement,
};
use sidebus::domain::message::Value;
use sidebus::domain::name::QueueName;
use sidebus::domain::version::Version;
use tokio::time::timeout;

use crate::lab::{PATIENCE, RabbitLab, declare, declare_with, number, to_queue};
use crate::support::rabbitmq::{self, BrokerHandle, SharedBroker};

fn options(prefetch: u16) -> ConsumeOptions {
    ConsumeOptions { prefetch: Prefetch::new(prefetch), exclusive: false, own_connection: false }
}

async fn fill(session: &dyn Session, queue: &str, count: u64) {
    let mut lane = session.lane(LaneRole::Settle).await.expect("a lane");
    let outcomes = lane.publish((0..count).map(|id| to_queue(queue, id)).collect()).await;
    assert!(outcomes.iter().all(|outcome| *outcome == Confirm::Stored), "{outcomes:?}");
}

/// Takes deliveries until there are `count`.
async fn take(arrivals: &mut dyn Arrivals, count: usize) -> Vec<Incoming> {
    let mut taken = Vec::new();
    while taken.len() < count {
        let room = count - taken.len();
        let batch = timeout(PATIENCE, arrivals.next_batch(room)).await.expect("more arrives");
        taken.extend(batch.expect("the consumer lives"));
    }
    taken
}

fn acks(taken: Vec<Incoming>) -> Vec<(sidebus::broker::Receipt, Settlement)> {
    taken.into_iter().map(|incoming| (incoming.receipt, Settlement::Ack)).collect()
}

#[tokio::test]
async fn a_changed_prefetch_loses_nothing_and_keeps_the_order() {
    let lab = RabbitLab::new().await;
    let (session, queue) = (lab.session().await, lab.queue("work"));
    declare(&*session, &queue).await;
    fill(&*session, queue.as_str(), 300).await;
    let (mut arrivals, mut settler) = session.consume(queue, options(20)).await.expect("a consumer");
    let mut taken = take(&mut *arrivals, 5).await;
    for prefetch in [100, 1, 7, 2_000] {
        arrivals.set_prefetch(Prefetch::new(prefetch)).await.expect("a new prefetch");
        let more = take(&mut *arrivals, 5).await;
        taken.extend(more);
    }
    let numbers: Vec<u64> = taken.iter().map(number).collect();
    assert_eq!(numbers, (0..25).collect::<Vec<_>>());
    let settled = settler.settle(acks(taken), Proof::Read).await;
    assert!(settled.iter().all(|one| *one == Settled::Applied), "receipts of older consumers stay good");
    let rest = take(&mut *arrivals, 275).await;
    assert!(rest.iter().map(number).eq(25..300) && rest.iter().all(|incoming| !incoming.redelivered));
}

#[tokio::test]
async fn cancel_hands_out_what_nobody_took_and_receipts_stay_good() {
    let lab = RabbitLab::new().await;
    let (session, queue) = (lab.session().await, lab.queue("work"));
    declare(&*session, &queue).await;
    fill(&*session, queue.as_str(), 10).await;
    let (mut arrivals, mut settler) = session.consume(queue.clone(), options(10)).await.expect("a consumer");
    let taken = take(&mut *arrivals, 4).await;
    let untaken = arrivals.cancel().await.expect("a cancel");
    let back = untaken.into_iter().map(|incoming| (incoming.receipt, Settlement::GiveBack)).collect();
    settler.settle(back, Proof::Written).await;
    let end = arrivals.next_batch(1).await;
    assert!(matches!(end, Err(BrokerError::ConsumerCancelled { .. })), "{end:?}");

    let (mut others, _settler) = session.consume(queue, options(20)).await.expect("another consumer");
    let rest: BTreeSet<u64> = take(&mut *others, 6).await.iter().map(number).collect();
    assert_eq!(rest, (4..10).collect());
    let settled = settler.settle(acks(taken), Proof::Read).await;
    assert_eq!(settled, vec![Settled::Applied; 4]);
}

#[tokio::test]
async fn a_missing_queue_is_named() {
    let lab = RabbitLab::new().await;
    let (session, queue) = (lab.session().await, lab.queue("nowhere"));
    let refused = session.consume(queue.clone(), options(1)).await.map(|_| ());
    assert_eq!(refused, Err(BrokerError::Missing { object: format!("queue {queue}") }));
}

/// failures.md L9.
#[tokio::test]
async fn a_deleted_queue_ends_its_consumer_alone() {
    let lab = RabbitLab::new().await;
    let (session, gone, stays) = (lab.session().await, lab.queue("gone"), lab.queue("stays"));
    declare(&*session, &gone).await;
    declare(&*session, &stays).await;
    let (mut lost, _lost) = session.consume(gone.clone(), options(1)).await.expect("a consumer");
    let (mut kept, _kept) = session.consume(stays.clone(), options(1)).await.expect("a consumer");
    lab.delete_queue(&gone).await;
    for _ in 0..2 {
        let end = timeout(PATIENCE, lost.next_batch(1)).await.expect("an end, each time that somebody asks");
        assert_eq!(end.map(|_| ()), Err(BrokerError::ConsumerCancelled { queue: gone.as_str().to_owned() }));
    }
    fill(&*session, stays.as_str(), 1).await;
    assert_eq!(take(&mut *kept, 1).await.len(), 1);
}

/// The same where the prefetch has grown, and with it the consumers of the channel: they end one after the other.
#[tokio::test]
async fn a_deleted_queue_ends_all_consumers_of_a_channel_as_it_ends_one() {
    let lab = RabbitLab::new().await;
    let session = lab.session().await;
    for number in 0..20 {
        let gone = lab.queue(&format!("gone-{number}"));
        declare(&*session, &gone).await;
        let (mut lost, _lost) = session.consume(gone.clone(), options(1)).await.expect("a consumer");
        for prefetch in 2..=8 {
            lost.set_prefetch(Prefetch::new(prefetch)).await.expect("another consumer");
        }
        let (end, ()) = tokio::join!(timeout(PATIENCE, lost.next_batch(1)), lab.delete_queue(&gone));
        let end = end.expect("an end").map(|_| ());
        assert_eq!(end, Err(BrokerError::ConsumerCancelled { queue: gone.as_str().to_owned() }));
    }
}

/// failures.md L8, from 4.3 on: the broker cancels the one consumer whose acks are late, and serves the others.
#[tokio::test]
async fn one_consumer_of_several_that_is_cancelled_ends_its_channel_and_what_it_has_goes_to_whoever_reads() {
    if rabbitmq::shared().await.version().await < Version::new(4, 3, 0) {
        println!("skipped: RabbitMQ cancels a consumer for late acks from 4.3 on only");
        return;
    }
    let node = BrokerHandle::start_set("consumer_timeout = 6000\n").await;
    // Otherwise it looks once a minute.
    node.ctl(&["eval", "application:set_env(rabbit, channel_tick_interval, 500)."]).await;
    let shared = SharedBroker::private(node);
    let session = broker_of(&shared, PATIENCE).connect(SessionId(1)).await.expect("a session");
    let queues = (0..20).map(|number| QueueName::parse(&format!("late-{number}")).expect("a good name"));
    let queues: Vec<QueueName> = queues.collect();
    let late = queues.iter().enumerate().map(async |(number, queue)| {
        declare_with(&*session, queue, [("x-queue-type", Value::text("quorum"))]).await;
        let (mut arrivals, settler) = session.consume(queue.clone(), options(1)).await.expect("a consumer");
        fill(&*session, queue.as_str(), 1).await;
        let mut held = take(&mut *arrivals, 1).await;
        arrivals.set_prefetch(Prefetch::new(3)).await.expect("another consumer");
        let are_both_late = number % 2 == 1;
        if are_both_late {
            fill(&*session, queue.as_str(), 2).await;
            held.extend(take(&mut *arrivals, 2).await);
        }
        let end = async {
            loop {
                // What comes again may come to the other one.
                if let Err(end) = arrivals.next_batch(1).await {
                    break end;
                }
            }
        };
        let end = timeout(PATIENCE, end).await.expect("an end");
        assert_eq!(end, BrokerError::ConsumerCancelled { queue: queue.as_str().to_owned() });
        drop((arrivals, settler, held));
    });
    futures_util::future::join_all(late).await;
    // Closing a channel in that moment has not cost the session.
    for (number, queue) in queues.into_iter().enumerate() {
        fill(&*session, queue.as_str(), 5).await;
        let (mut others, mut settler) = session.consume(queue, options(10)).await.expect("a consumer");
        let count = if number % 2 == 1 { 8 } else { 6 };
        let taken = take(&mut *others, count).await;
        assert_eq!(settler.settle(acks(taken), Proof::Read).await, vec![Settled::Applied; count]);
    }
}

fn broker_of(shared: &SharedBroker, confirm_timeout: Duration) -> AmqpBroker {
    AmqpBroker::new(AmqpOptions { confirm_timeout, ..shared.options() })
}

/// failures.md L1.
#[tokio::test]
async fn a_killed_broker_ends_the_session_and_comes_back_with_everything_confirmed() {
    let mut shared = SharedBroker::private(BrokerHandle::start().await);
    let broker = broker_of(&shared, PATIENCE);
    let session = broker.connect(SessionId(1)).await.expect("a session");
    let queue = QueueName::parse("work").expect("a good name");
    declare(&*session, &queue).await;
    fill(&*session, "work", 10).await;
    let (mut arrivals, mut settler) = session.consume(queue.clone(), options(10)).await.expect("a consumer");
    let taken = take(&mut *arrivals, 10).await;
    let mut events = session.events();

    let node = shared.node.as_mut().expect("a private node");
    node.note_queues().await;
    node.kill();
    let event = timeout(PATIENCE, events.next()).await.expect("the end is told");
    assert!(matches!(event, Some(SessionEvent::Closed(BrokerError::SessionLost { .. }))), "{event:?}");
    let end = timeout(PATIENCE, arrivals.next_batch(1)).await.expect("arrivals end");
    assert!(matches!(end, Err(BrokerError::SessionLost { .. })), "{end:?}");
    assert_eq!(settler.settle(acks(taken), Proof::Written).await, vec![Settled::Stale; 10]);

    shared.node.as_mut().expect("a private node").restart().await;
    let session = broker.connect(SessionId(2)).await.expect("a session again");
    let (mut arrivals, _settler) = session.consume(queue, options(10)).await.expect("a consumer");
    let again = take(&mut *arrivals, 10).await;
    assert!(again.iter().all(|incoming| incoming.redelivered));
}

/// failures.md L7.
#[tokio::test]
async fn an_alarm_blocks_publishes_and_lets_acks_through() {
    let shared = SharedBroker::private(BrokerHandle::start().await);
    let node = shared.node.as_ref().expect("a private node");
    let session = broker_of(&shared, Duration::from_secs(2)).connect(SessionId(1)).await.expect("a session");
    let queue = QueueName::parse("work").expect("a good name");
    declare(&*session, &queue).await;
    fill(&*session, "work", 1).await;
    let (mut arrivals, mut settler) = session.consume(queue, options(10)).await.expect("a consumer");
    let mut events = session.events();
    let mut lane = session.lane(LaneRole::Publish).await.expect("a lane");
    assert_eq!(lane.publish(vec![to_queue("work", 1)]).await, [Confirm::Stored]);

    node.ctl(&["set_vm_memory_high_watermark", "0"]).await;
    // RabbitMQ blocks a connection when it publishes.
    assert_eq!(lane.publish(vec![to_queue("work", 2)]).await, [Confirm::TimedOut]);
    assert!(!lane.is_open());
    let event = timeout(PATIENCE, events.next()).await.expect("the alarm is told");
    assert!(matches!(event, Some(SessionEvent::Blocked(_))), "{event:?}");
    let taken = take(&mut *arrivals, 2).await;
    assert_eq!(settler.settle(acks(taken), Proof::Read).await, vec![Settled::Applied; 2]);

    node.ctl(&["set_vm_memory_high_watermark", "0.4"]).await;
    let event = timeout(PATIENCE, events.next()).await.expect("the end of the alarm is told");
    assert_eq!(event, Some(SessionEvent::Unblocked));
    timeout(PATIENCE, session.close(Duration::from_secs(2))).await.expect("close is bounded");
}
