//! What happens when the link, the queue or the broker is lost, in each state of a delivery.

use std::time::Duration;

use sidebus::bridge::{RevocationReason, SubscriptionState};
use sidebus::broker::{BrokerError, Confirm, Publication, Routing};
use sidebus::domain::ledger::Outcome;
use sidebus::domain::message::{Message, Properties};
use sidebus::domain::name::ExchangeName;
use sidebus::domain::verdict::Verdict;

use super::bench::{Bench, bodies, ids, queue, until};

fn refused() -> BrokerError {
    BrokerError::Unreachable { endpoint: "memory".to_owned(), reason: "refused by the test".to_owned() }
}

/// failures.md L6.
#[tokio::test(start_paused = true)]
async fn a_lost_session_revokes_tells_and_hands_out_again_with_the_same_attempt() {
    let bench = Bench::start();
    bench.publish(&["a", "b"]).await;
    let mut handler = bench.join(10).await;
    let got = handler.receive(2).await;

    bench.broker.faults().break_sessions("cut");

    let (reason, revoked) = handler.find(|frame| frame.revocations.first().cloned()).await;
    assert_eq!((reason, revoked), (RevocationReason::BrokerLost, ids(&got)));
    let again = handler.receive(2).await;
    assert_eq!(bodies(&again), ["a", "b"]);
    assert!(again.iter().all(|handout| handout.redelivered && handout.seen.record.attempt() == 1));
    handler.ack(&ids(&again)).await;
    bench.depth_becomes("work", 0, 0).await;
    assert_eq!(handler.state, Some(SubscriptionState::Active));
}

#[tokio::test(start_paused = true)]
async fn what_is_acked_after_its_session_was_lost_is_acked_again_and_handed_out_to_nobody() {
    let bench = Bench::start();
    bench.publish(&["a", "b", "c"]).await;
    let mut handler = bench.join(10).await;
    let got = handler.receive(3).await;

    bench.broker.faults().refuse_connects(refused());
    bench.broker.faults().break_sessions("cut");
    handler.find(|frame| frame.revocations.first().cloned()).await;
    handler.ack(&ids(&got)[..2]).await;
    let outcomes: Vec<Outcome> = handler
        .find(|frame| (!frame.results.is_empty()).then(|| frame.results.iter().map(|r| r.outcome).collect()))
        .await;
    assert_eq!(outcomes, [Outcome::LeaseLost, Outcome::LeaseLost], "nobody knows yet");
    bench.broker.faults().accept_connects();

    let again = handler.receive(1).await;
    assert_eq!(bodies(&again), ["c"]);
    bench.depth_becomes("work", 0, 1).await;
    handler.ack(&ids(&again)).await;
    bench.depth_becomes("work", 0, 0).await;
    // Equal to one that was done, and another message: it was never handed out before.
    bench.publish(&["a"]).await;
    assert_eq!(bodies(&handler.receive(1).await), ["a"]);
}

/// failures.md L9, where the queue stays: late acks, from RabbitMQ 4.3 on.
#[tokio::test(start_paused = true)]
async fn what_is_held_when_the_broker_cancels_the_consumer_is_revoked_and_comes_again_together_charged_to_nobody() {
    let bench = Bench::start();
    bench.publish(&["a", "b", "c"]).await;
    let mut handler = bench.join(10).await;
    let got = handler.receive(3).await;
    bench.broker.faults().cancel_consumers(&queue("work"));
    let (reason, revoked) = handler.find(|frame| frame.revocations.first().cloned()).await;
    assert_eq!((reason, revoked), (RevocationReason::BrokerLost, ids(&got)));
    // Too late, and remembered: what is done already is handed out to nobody.
    handler.ack(&ids(&got)[..1]).await;
    let outcomes: Vec<Outcome> = handler
        .find(|frame| (!frame.results.is_empty()).then(|| frame.results.iter().map(|r| r.outcome).collect()))
        .await;
    assert_eq!(outcomes, [Outcome::LeaseLost]);
    let again = handler.receive(2).await;
    assert_eq!(bodies(&again), ["b", "c"], "no suspects, which would go alone");
    assert!(again.iter().all(|handout| handout.redelivered && handout.seen.record.attempt() == 1));
    handler.ack(&ids(&again)).await;
    bench.depth_becomes("work", 0, 0).await;
}

/// What was done never comes again here, and its memory stays: an equal message that was never handed out is another one.
#[tokio::test(start_paused = true)]
async fn an_equal_message_that_was_never_handed_out_before_is_handled_while_one_is_remembered_as_done() {
    let bench = Bench::start();
    bench.publish(&["a"]).await;
    let mut handler = bench.join(10).await;
    let got = handler.receive(1).await;
    bench.broker.faults().refuse_connects(refused());
    bench.broker.faults().break_sessions("cut");
    handler.find(|frame| frame.revocations.first().cloned()).await;
    handler.ack(&ids(&got)).await;
    handler.find(|frame| frame.results.first().cloned()).await;
    assert!(bench.broker.faults().delete_queue(&queue("work")));
    bench.broker.faults().accept_connects();

    until("the queue", || bench.broker.faults().depth(&queue("work")).is_some()).await;
    bench.publish(&["a"]).await;
    let again = handler.receive(1).await;
    assert!(bodies(&again) == ["a"] && !again[0].redelivered);
    handler.ack(&ids(&again)).await;
    bench.depth_becomes("work", 0, 0).await;
}

/// failures.md M6.
#[tokio::test(start_paused = true)]
async fn of_two_messages_with_one_id_only_the_one_that_was_done_is_acked_again() {
    let bench = Bench::start();
    for body in ["a", "b"] {
        let twin = Message {
            exchange: ExchangeName::parse("events").unwrap(),
            routing_key: "player.Drawn".to_owned(),
            properties: Properties { message_id: Some("twin".to_owned()), ..Properties::default() },
            body: body.into(),
        };
        let publication = Publication { message: twin, routing: Routing::Required };
        bench.connected().await;
        assert_eq!(bench.bridge.publisher.publish(vec![publication]).await.unwrap(), [Confirm::Stored]);
    }
    let mut handler = bench.join(10).await;
    let got = handler.receive(2).await;
    assert_eq!(bodies(&got), ["a", "b"]);
    bench.broker.faults().break_sessions("cut");
    handler.find(|frame| frame.revocations.first().cloned()).await;
    handler.ack(&ids(&got)[1..]).await;
    let again = handler.receive(1).await;
    assert_eq!(bodies(&again), ["a"]);
    handler.ack(&ids(&again)).await;
    bench.depth_becomes("work", 0, 0).await;
}

#[tokio::test(start_paused = true)]
async fn a_handler_that_comes_before_the_broker_waits_and_is_served() {
    let broker =
        sidebus::broker::memory::MemoryBroker::new(sidebus::broker::memory::MemoryOptions { bytes_max: 1_000 });
    broker.faults().refuse_connects(refused());
    let bench = Bench::on(broker);
    let mut handler = bench.join(10).await;
    let described = handler.find(|frame| frame.status.clone()).await;
    assert_eq!(described.state, SubscriptionState::BrokerDown);
    assert!(matches!(bench.try_publish("x").await, Confirm::NotSent(_)));

    bench.broker.faults().accept_connects();

    bench.publish(&["a"]).await;
    assert_eq!(bodies(&handler.receive(1).await), ["a"]);
}

#[tokio::test(start_paused = true)]
async fn a_deleted_queue_is_made_again_and_consumed_again() {
    let bench = Bench::start();
    bench.publish(&["a"]).await;
    let mut handler = bench.join(10).await;
    handler.receive(1).await;
    assert!(bench.broker.faults().delete_queue(&queue("work")));
    until("the queue", || bench.broker.faults().depth(&queue("work")).is_some()).await;
    bench.publish(&["b"]).await;
    assert_eq!(bodies(&handler.receive(1).await), ["b"]);
}

#[tokio::test(start_paused = true)]
async fn a_queue_that_was_deleted_often_a_while_ago_is_made_again_at_once_when_that_happens_again() {
    let bench = Bench::start();
    let is_there = || bench.broker.faults().depth(&queue("work")).is_some();
    for _ in 0..3 {
        let handler = bench.join(10).await;
        for _ in 0..8 {
            until("it is there", is_there).await;
            assert!(bench.broker.faults().delete_queue(&queue("work")));
        }
        until("it is there at last", is_there).await;
        drop(handler);
        tokio::time::advance(Duration::from_mins(2)).await;
        bench.publish(&["a"]).await;
        bench.depth_becomes("work", 1, 0).await;

        let mut handler = bench.join(10).await;
        handler.receive(1).await;
        let deleted = tokio::time::Instant::now();
        assert!(bench.broker.faults().delete_queue(&queue("work")));
        until("it is there again", is_there).await;
        assert!(deleted.elapsed() < Duration::from_millis(500), "{:?}", deleted.elapsed());
        drop(handler);
    }
}

#[tokio::test(start_paused = true)]
async fn a_session_lost_while_a_copy_waits_leaves_the_message_and_no_letter() {
    let bench = Bench::start();
    bench.publish(&["a"]).await;
    let mut handler = bench.join(10).await;
    let got = handler.receive(1).await;
    // The alarm holds the copy back: it is neither stored nor refused when the link goes.
    bench.broker.faults().block("memory");
    let verdict = Verdict::DeadLetter { reason: "BAD".to_owned(), description: String::new() };
    handler.say(&ids(&got), verdict).await;
    tokio::task::yield_now().await;
    bench.broker.faults().break_sessions("cut");
    bench.broker.faults().unblock();

    let again = handler.receive(1).await;
    assert!(again[0].redelivered);
    handler.ack(&ids(&again)).await;
    bench.depth_becomes("work", 0, 0).await;
    bench.depth_becomes("dlq", 0, 0).await;
}

/// failures.md S1.
#[tokio::test(start_paused = true)]
async fn a_sidecar_that_dies_leaves_everything_to_the_next_one() {
    let bench = Bench::start();
    bench.publish(&["a", "b", "c"]).await;
    let mut handler = bench.join(2).await;
    let got = handler.receive(2).await;
    handler.ack(&ids(&got[..1])).await;
    bench.depth_becomes("work", 0, 2).await;
    let broker = bench.broker.clone();
    // What a kill does: nothing is said to the broker any more, and its end of the link notices.
    broker.faults().break_sessions("killed");
    drop((handler, bench));

    let next = Bench::on(broker);
    let mut handler = next.join(10).await;
    let mut left = Vec::new();
    for _ in 0..2 {
        // One by one: nobody knows what the other sidecar died of.
        let got = handler.receive(1).await;
        left.extend(bodies(&got));
        handler.ack(&ids(&got)).await;
    }
    left.sort();
    assert_eq!(left, ["b", "c"]);
}
