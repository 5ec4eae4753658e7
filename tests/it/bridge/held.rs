//! What must not be held for ever, and what must be held a while: abandoned streams, copies, paused handlers, releases.

use std::time::Duration;

use sidebus::bridge::{AttachRequest, Hangup, Results, Said};
use sidebus::broker::BrokerError;
use sidebus::domain::ledger::Outcome;
use sidebus::domain::message::{Headers, Value};
use sidebus::domain::name::SubscriptionName;
use sidebus::domain::subscription::QueueType;
use sidebus::domain::topology::{Named, Queue, Step};
use sidebus::domain::verdict::Verdict;
use sidebus::runtime::Phase;

use super::bench::{Bench, bodies, broker, broker_with, ids, queue, subscription, until};

#[tokio::test(start_paused = true)]
async fn a_changed_window_and_a_lost_session_leave_the_subscription_alive() {
    let bench = Bench::start();
    bench.publish(&["a"]).await;
    let mut handler = bench.join(10).await;
    let got = handler.receive(1).await;
    handler.ack(&ids(&got)).await;
    // Too small a change to be told at once: it stays due.
    assert!(handler.attached.voice.say(Said { messages_max: Some(11), ..Said::default() }).await);
    tokio::time::advance(Duration::from_millis(500)).await;
    let refused = BrokerError::Unreachable { endpoint: "memory".to_owned(), reason: "away".to_owned() };
    bench.broker.faults().refuse_connects(refused);
    bench.broker.faults().break_sessions("cut");
    until("the outage", || bench.bridge.link.live().is_none()).await;
    tokio::time::advance(Duration::from_secs(11)).await;
    bench.broker.faults().accept_connects();
    bench.publish(&["b"]).await;
    assert_eq!(bodies(&handler.receive(1).await), ["b"]);
}

#[tokio::test(start_paused = true)]
async fn a_call_that_is_given_up_while_it_joins_holds_nothing() {
    let bench = Bench::start();
    bench.connected().await;
    {
        let name = SubscriptionName::parse("work").unwrap();
        let request = AttachRequest {
            handler: "ghost".to_owned(),
            messages_max: Some(10),
            bytes_max: 1 << 20,
            settle_timeout: None,
            frame_bytes_max: 4 << 20,
            results: Results::All,
        };
        let mut joining = Box::pin(bench.bridge.registry.attach(&name, request));
        assert!(futures_util::poll!(&mut joining).is_pending());
        for _ in 0..20 {
            // The pump answers, and nobody takes the answer.
            tokio::task::yield_now().await;
        }
    }
    let mut handler = bench.join(10).await;
    let begun = tokio::time::Instant::now();
    bench.publish(&["a"]).await;
    assert_eq!(bodies(&handler.receive(1).await), ["a"]);
    assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_copy_that_cannot_be_stored_ends_with_the_lease() {
    let bench = Bench::start();
    bench.publish(&["a"]).await;
    let mut handler = bench.join(10).await;
    let got = handler.receive(1).await;
    let begun = tokio::time::Instant::now();
    bench.broker.faults().block("memory");
    handler.say(&ids(&got), Verdict::DeadLetter { reason: "BAD".to_owned(), description: String::new() }).await;
    tokio::time::advance(Duration::from_mins(23)).await;
    assert!(handler.has_nothing_more());
    // The lane's own deadline is not the embedded broker's to keep: the alarm ends, and the next try is too late.
    let Ok(mut again) = tokio::time::timeout(Duration::from_mins(20), async {
        tokio::time::advance(Duration::from_mins(2)).await;
        bench.broker.faults().unblock();
        handler.find(|frame| frame.results.first().map(|result| result.outcome)).await
    })
    .await
    else {
        panic!("held for {:?}", begun.elapsed());
    };
    // Stored at the last moment or given back: either way it is not held any longer.
    if again == Outcome::Released {
        let got = handler.receive(1).await;
        handler.say(&ids(&got), Verdict::Ack).await;
        again = Outcome::DeadLettered;
    }
    assert_eq!(again, Outcome::DeadLettered);
    bench.depth_becomes("work", 0, 0).await;
}

#[tokio::test(start_paused = true)]
async fn a_paused_handler_that_leaves_keeps_nothing_that_it_never_saw() {
    let bench = Bench::start();
    bench.publish(&["a", "b"]).await;
    let handler = bench.join(5).await;
    bench.depth_becomes("work", 0, 2).await;
    assert!(handler.attached.voice.say(Said { messages_max: Some(0), ..Said::default() }).await);
    tokio::time::advance(Duration::from_secs(2)).await;
    assert!(handler.attached.voice.say(Said { leave: true, ..Said::default() }).await);
    bench.depth_becomes("work", 2, 0).await;
}

/// failures.md H14.
#[tokio::test(start_paused = true)]
async fn a_hundred_releases_are_held_each_and_cost_neither_attempt_nor_message() {
    let bench = Bench::start();
    bench.publish(&["a"]).await;
    let mut handler = bench.join(10).await;
    let begun = tokio::time::Instant::now();
    for _ in 0..100 {
        let got = handler.receive(1).await;
        assert_eq!(got[0].seen.record.attempt(), 1);
        handler.say(&ids(&got), Verdict::Release).await;
    }
    let got = handler.receive(1).await;
    assert!(begun.elapsed() >= Duration::from_secs(100), "{:?}", begun.elapsed());
    assert_eq!(got[0].seen.message.routing_key, "player.PlayerRegistered");
    handler.ack(&ids(&got)).await;
    bench.depth_becomes("work", 0, 0).await;
    bench.depth_becomes("dlq", 0, 0).await;
}

/// failures.md H14: a classic queue counts nothing, and from RabbitMQ 4.3 on none counts a release.
#[tokio::test(start_paused = true)]
async fn each_release_of_a_message_is_held_twice_as_long_where_no_queue_counts() {
    let mut work = subscription("work", "#");
    work.queue.queue_type = Some(QueueType::Classic);
    let bench = Bench::with(broker(), vec![work], &[]);
    bench.publish(&["a"]).await;
    let mut handler = bench.join(10).await;
    let mut got = handler.receive(1).await;
    for hold in [1, 2, 4, 8, 16, 30, 30] {
        let begun = tokio::time::Instant::now();
        handler.say(&ids(&got), Verdict::Release).await;
        got = handler.receive(1).await;
        assert_eq!((begun.elapsed().as_secs(), got[0].seen.record.attempt()), (hold, 1));
    }
    handler.ack(&ids(&got)).await;
    // Another message begins anew.
    bench.publish(&["b"]).await;
    let got = handler.receive(1).await;
    let begun = tokio::time::Instant::now();
    handler.say(&ids(&got), Verdict::Release).await;
    let got = handler.receive(1).await;
    assert_eq!((bodies(&got), begun.elapsed().as_secs()), (vec!["b".to_owned()], 1));
    handler.ack(&ids(&got)).await;
    bench.depth_becomes("work", 0, 0).await;
}

/// failures.md H14.
#[tokio::test(start_paused = true)]
async fn releases_that_are_held_keep_no_other_message_from_their_handler() {
    let bench = Bench::start();
    let mut handler = bench.join(1).await;
    let numbers: Vec<String> = (0..10).map(|number| number.to_string()).collect();
    bench.publish(&numbers.iter().map(String::as_str).collect::<Vec<_>>()).await;
    let begun = tokio::time::Instant::now();
    let mut seen = Vec::new();
    while seen.len() < 10 {
        let got = handler.receive(1).await;
        let is_new = !seen.contains(&bodies(&got)[0]);
        // Each is released at first, and once more where it comes again before all others were there.
        handler.say(&ids(&got), Verdict::Release).await;
        if is_new {
            seen.extend(bodies(&got));
        }
    }
    assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
    // The stream ends when its handler leaves, although releases are held; they go back all the same.
    assert!(handler.attached.voice.say(Said { leave: true, ..Said::default() }).await);
    let left = tokio::time::Instant::now();
    while handler.next().await.is_ok() {}
    assert!(left.elapsed() < Duration::from_secs(5), "{:?}", left.elapsed());
    bench.depth_becomes("work", 10, 0).await;
}

/// The work queue as somebody else has made it: with a limit of its own, and no place for what it gives up.
fn limited(limit: i64) -> Step {
    let arguments = Headers::from([
        ("x-queue-type".to_owned(), Value::text("quorum")),
        ("x-delivery-limit".to_owned(), Value::Int64(limit)),
    ]);
    let (name, named) = (queue("work"), Named::new());
    Step::Queue(Queue { name, durable: true, auto_delete: false, exclusive: false, arguments, named })
}

#[tokio::test(start_paused = true)]
async fn an_adopted_queue_never_comes_to_its_own_limit() {
    for limit in [2, 10] {
        let mut bench = Bench::on(broker_with(vec![limited(limit)]).await);
        bench.publish(&["a"]).await;
        let mut handler = bench.join(10).await;
        for _ in 0..15 {
            let got = handler.receive(1).await;
            assert_eq!(got[0].seen.record.attempt(), 1, "limit {limit}");
            handler.say(&ids(&got), Verdict::Release).await;
        }
        handler.receive(1).await;
        for _ in 0..15 {
            handler.attached.voice.hang_up(Hangup::HalfClosed).await;
            handler = bench.join(10).await;
            handler.receive(1).await;
        }
        for _ in 0..15 {
            bench.phases.enter(Phase::Intake);
            bench.bridge.registry.close();
            bench.phases.enter(Phase::Drain);
            bench.phases.enter(Phase::GiveBack);
            bench.bridge.all_ended.wait().await;
            bench.depth_becomes("work", 1, 0).await;
            bench.phases.enter(Phase::Close);
            bench = Bench::on(bench.broker.clone());
            bench.connected().await;
            let got = bench.join(10).await.receive(1).await;
            assert_eq!((bodies(&got), got[0].seen.record.attempt()), (vec!["a".to_owned()], 1), "limit {limit}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_suspect_that_goes_back_as_a_copy_stays_a_suspect() {
    // So small a limit that every give-back is a copy, which the broker delivers as if it were new.
    let bench = Bench::on(broker_with(vec![limited(2)]).await);
    bench.publish(&["a", "b"]).await;
    let mut handler = bench.join(10).await;
    handler.receive(2).await;
    handler.attached.voice.hang_up(Hangup::Lost).await;
    bench.depth_becomes("work", 2, 0).await;
    let mut handler = bench.join(10).await;
    for _ in 0..2 {
        let got = handler.receive(1).await;
        let record = &got[0].seen.record;
        assert_eq!((got[0].redelivered, record.crashes, record.attempt()), (false, Some(0), 1));
        handler.ack(&ids(&got)).await;
    }
    bench.depth_becomes("work", 0, 0).await;
}
