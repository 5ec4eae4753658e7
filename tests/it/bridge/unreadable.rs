//! Messages that no client can read: what they cost their own queue, and what they cost others. failures.md M1.

use std::collections::BTreeSet;
use std::time::Duration;

use bytes::Bytes;
use sidebus::bridge::SubscriptionState;
use sidebus::broker::{Confirm, Publication, Routing};
use sidebus::domain::message::{Headers, Message, Properties, Value};
use sidebus::domain::name::ExchangeName;
use sidebus::domain::subscription::{QueueType, Subscription};
use sidebus::domain::topology::{Named, Queue, Step};

use super::bench::{Bench, Handler, bodies, broker, broker_with, ids, pass, queue, subscription};

const KILLER: &str = "killer";

/// Two subscriptions that share nothing but the session.
fn two(queue_type: Option<QueueType>) -> Vec<Subscription> {
    let mut work = subscription("work", "nothing");
    work.queue.queue_type = queue_type;
    vec![work, subscription("other", "nothing")]
}

/// Puts it into this queue and no other, once there is a session again.
async fn put(bench: &Bench, name: &str, id: &str) {
    let mut tries = tokio::time::interval(Duration::from_millis(100));
    loop {
        tries.tick().await;
        let message = Message {
            exchange: ExchangeName::nameless(),
            routing_key: name.to_owned(),
            properties: Properties { message_id: Some(id.to_owned()), ..Properties::default() },
            body: Bytes::copy_from_slice(id.as_bytes()),
        };
        let publication = Publication { message, routing: Routing::Required };
        let confirm = bench.bridge.publisher.publish(vec![publication]).await.unwrap().remove(0);
        if confirm == Confirm::Stored {
            return;
        }
        assert!(matches!(confirm, Confirm::Lost | Confirm::NotSent(_)), "{confirm:?}");
    }
}

/// Takes and acks until all of these have come, each on its first attempt.
async fn handle_all(handler: &mut Handler, mut missing: BTreeSet<String>) {
    while !missing.is_empty() {
        handler.next().await.expect("the stream goes on");
        let taken = handler.take();
        assert!(taken.iter().all(|handout| handout.seen.record.attempt() == 1));
        for body in bodies(&taken) {
            missing.remove(&body);
        }
        if !taken.is_empty() {
            handler.ack(&ids(&taken)).await;
        }
    }
}

/// Waits until the handler is told that nothing comes, and why.
async fn paused(handler: &mut Handler) -> String {
    let is_stalled = |description: &String| description.contains("stalled");
    let told = handler.find(|frame| frame.status.as_ref().map(|status| status.description.clone()).filter(is_stalled));
    tokio::time::timeout(Duration::from_mins(1), told).await.expect("it is told in time")
}

#[tokio::test(start_paused = true)]
async fn a_counting_queue_gets_rid_of_it_and_its_fifty_neighbours_are_handled_at_the_first_attempt() {
    let bench = Bench::with(broker(), two(None), &[]);
    bench.connected().await;
    bench.broker.faults().make_unreadable(KILLER);
    let good: Vec<String> = (0..50).map(|number| number.to_string()).collect();
    for id in &good[..25] {
        put(&bench, "work", id).await;
    }
    put(&bench, "work", KILLER).await;
    for id in &good[25..] {
        put(&bench, "work", id).await;
    }
    let mut other = bench.join_as("other", 10).await;
    let mut work = bench.join(10).await;
    handle_all(&mut work, good.into_iter().collect()).await;
    bench.depth_becomes("dlq", 1, 0).await;
    bench.depth_becomes("work", 0, 0).await;
    put(&bench, "other", "a").await;
    handle_all(&mut other, BTreeSet::from(["a".to_owned()])).await;
    assert_eq!(bench.bridge.link.now().sessions, 2, "one session was lost");
    // It works as before.
    put(&bench, "work", "again").await;
    handle_all(&mut work, BTreeSet::from(["again".to_owned()])).await;
}

#[tokio::test(start_paused = true)]
async fn a_queue_that_has_lost_a_connection_of_its_own_costs_the_others_no_second_session() {
    let bench = Bench::with(broker(), two(None), &[]);
    bench.connected().await;
    bench.broker.faults().make_unreadable(KILLER);
    let _other = bench.join_as("other", 10).await;
    let mut work = bench.join(10).await;
    put(&bench, "work", KILLER).await;
    bench.depth_becomes("dlq", 1, 0).await;
    let sessions = || bench.bridge.link.now().sessions;
    assert_eq!(sessions(), 2);
    for id in ["a", "b"] {
        put(&bench, "work", id).await;
        handle_all(&mut work, BTreeSet::from([id.to_owned()])).await;
        put(&bench, "work", KILLER).await;
    }
    bench.depth_becomes("dlq", 3, 0).await;
    assert_eq!(sessions(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_classic_queue_is_stalled_tells_why_and_is_tried_again_every_ten_minutes() {
    let bench = Bench::with(broker(), two(Some(QueueType::Classic)), &[]);
    bench.connected().await;
    bench.broker.faults().make_unreadable(KILLER);
    let (mut work, mut other) = (bench.join(10).await, bench.join_as("other", 10).await);
    put(&bench, "work", KILLER).await;
    put(&bench, "work", "behind").await;
    let told = paused(&mut work).await;
    assert!(told.contains("queue work") && told.contains("rabbitmqctl purge_queue work"), "{told}");
    assert_eq!(work.state, Some(SubscriptionState::Paused));
    put(&bench, "other", "a").await;
    handle_all(&mut other, BTreeSet::from(["a".to_owned()])).await;
    pass(Duration::from_mins(15)).await;
    assert_eq!(work.state, Some(SubscriptionState::Paused));
    bench.depth_becomes("work", 2, 0).await;
    // As if somebody had taken it away. It was tried after ten minutes, so the next time is after twenty.
    bench.broker.faults().make_unreadable("nothing");
    pass(Duration::from_secs(270)).await;
    assert_eq!(work.state, Some(SubscriptionState::Paused));
    handle_all(&mut work, BTreeSet::from([KILLER.to_owned(), "behind".to_owned()])).await;
    bench.depth_becomes("work", 0, 0).await;
}

#[tokio::test(start_paused = true)]
async fn a_queue_whose_broker_would_drop_it_is_stalled_and_left_alone() {
    let arguments = Headers::from([
        ("x-queue-type".to_owned(), Value::text("quorum")),
        ("x-delivery-limit".to_owned(), Value::Int64(20)),
    ]);
    let (name, named) = (queue("work"), Named::new());
    let without_target = Queue { name, durable: true, auto_delete: false, exclusive: false, arguments, named };
    let broker = broker_with(vec![Step::Queue(without_target)]).await;
    let bench = Bench::with(broker, two(None), &[]);
    bench.connected().await;
    bench.broker.faults().make_unreadable(KILLER);
    let mut work = bench.join(10).await;
    put(&bench, "work", KILLER).await;
    let told = paused(&mut work).await;
    assert!(told.contains("restart Sidebus"), "{told}");
    for _ in 0..3 {
        pass(Duration::from_mins(11)).await;
        bench.broker.faults().break_sessions("cut");
    }
    pass(Duration::from_mins(1)).await;
    bench.depth_becomes("work", 1, 0).await;
}
