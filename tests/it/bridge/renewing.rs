//! Secrets that change while the bridge runs: it moves to a new session, and nobody but the broker notices.

use std::time::Duration;

use sidebus::bridge::{RevocationReason, SubscriptionState};
use sidebus::broker::{BrokerError, Confirm, SessionId};
use sidebus::domain::ledger::Outcome;

use super::bench::{Bench, bodies, broker, ids, pass, subscription, until};

/// What is in flight on the old session is waited for so long.
const PARTING: Duration = Duration::from_secs(5);

fn live(bench: &Bench) -> Option<SessionId> {
    bench.bridge.link.live().map(|live| live.id)
}

async fn moved_to(bench: &Bench, number: u64) {
    until("the new session", || live(bench) == Some(SessionId(number))).await;
}

fn refused() -> BrokerError {
    BrokerError::LoginRefused {
        endpoint: "memory".to_owned(),
        user: "new".to_owned(),
        reason: "by the test".to_owned(),
    }
}

#[tokio::test(start_paused = true)]
async fn the_new_session_serves_before_the_old_one_closes_and_what_is_held_is_settled_on_the_old_one() {
    let bench = Bench::start();
    bench.publish(&["a"]).await;
    let mut handler = bench.join(10).await;
    let held = handler.receive(1).await;
    let began = tokio::time::Instant::now();

    bench.broker.faults().change_secret(1);

    moved_to(&bench, 2).await;
    assert_eq!(bench.broker.faults().sessions(), 2, "the old one is still there");
    bench.publish(&["b"]).await;
    let over_the_new_one = handler.receive(1).await;
    assert_eq!(bodies(&over_the_new_one), ["b"]);
    handler.ack(&ids(&held)).await;
    handler.ack(&ids(&over_the_new_one)).await;
    let mut applied = Vec::new();
    while applied.len() < 2 {
        let frame = handler.next().await.expect("the stream goes on");
        assert!(frame.revocations.is_empty(), "{:?}", frame.revocations);
        assert!(frame.status.is_none_or(|status| status.state == SubscriptionState::Active));
        applied.extend(frame.results.iter().map(|result| result.outcome));
    }
    assert_eq!(applied, [Outcome::Acked, Outcome::Acked]);
    until("the old one is closed", || bench.broker.faults().sessions() == 1).await;
    assert!(began.elapsed() < PARTING, "it is not waited longer than needed");
    bench.depth_becomes("work", 0, 0).await;
    assert!(handler.has_nothing_more());
}

#[tokio::test(start_paused = true)]
async fn what_is_held_for_too_long_is_revoked_and_comes_again_on_the_same_attempt() {
    let bench = Bench::start();
    bench.publish(&["a"]).await;
    let mut handler = bench.join(10).await;
    let held = handler.receive(1).await;
    let began = tokio::time::Instant::now();

    bench.broker.faults().change_secret(1);

    let (reason, revoked) = handler.find(|frame| frame.revocations.first().cloned()).await;
    assert_eq!((reason, revoked), (RevocationReason::BrokerLost, ids(&held)));
    assert!(began.elapsed() >= PARTING, "{:?}", began.elapsed());
    handler.ack(&ids(&held)).await;
    let late = |frame: &sidebus::bridge::Frame| frame.results.first().map(|result| result.outcome);
    assert_eq!(handler.find(late).await, Outcome::LeaseLost);
    let again = handler.receive(1).await;
    assert!(again[0].redelivered && again[0].seen.record.attempt() == 1);
    handler.ack(&ids(&again)).await;
    bench.depth_becomes("work", 0, 0).await;
    assert_eq!(bench.broker.faults().sessions(), 1);
}

#[tokio::test(start_paused = true)]
async fn while_the_new_secret_is_refused_the_old_session_goes_on() {
    let bench = Bench::start();
    let mut handler = bench.join(10).await;
    bench.connected().await;
    let faults = bench.broker.faults();
    faults.refuse_connects(refused());
    faults.change_secret(1);
    pass(Duration::from_mins(1)).await;

    bench.publish(&["a"]).await;
    let got = handler.receive(1).await;
    handler.ack(&ids(&got)).await;
    bench.depth_becomes("work", 0, 0).await;
    assert_eq!((live(&bench), faults.sessions()), (Some(SessionId(1)), 1));

    faults.accept_connects();
    until("the new session", || live(&bench).is_some_and(|id| id > SessionId(2))).await;
    until("the old one is closed", || faults.sessions() == 1).await;
    assert_eq!(handler.state, Some(SubscriptionState::Active));
}

#[tokio::test(start_paused = true)]
async fn once_the_old_secret_is_back_nothing_is_tried_any_more() {
    let bench = Bench::start();
    bench.connected().await;
    let faults = bench.broker.faults();
    faults.refuse_connects(refused());
    faults.change_secret(1);
    pass(Duration::from_secs(5)).await;
    faults.change_secret(0);
    pass(Duration::from_secs(15)).await;
    faults.accept_connects();
    pass(Duration::from_mins(1)).await;
    assert_eq!((live(&bench), faults.sessions()), (Some(SessionId(1)), 1));
}

#[tokio::test(start_paused = true)]
async fn a_secret_that_changes_while_no_session_is_live_is_simply_used() {
    let bench = Bench::start();
    bench.connected().await;
    let faults = bench.broker.faults();
    faults.refuse_connects(refused());
    faults.break_sessions("cut");
    until("it is down", || live(&bench).is_none()).await;
    faults.change_secret(1);
    faults.accept_connects();
    until("a session", || live(&bench).is_some()).await;
    let first = live(&bench);
    pass(Duration::from_mins(1)).await;
    assert_eq!((live(&bench), faults.sessions()), (first, 1));
}

#[tokio::test(start_paused = true)]
async fn a_new_session_that_dies_during_the_move_leaves_neither_behind() {
    let bench = Bench::start();
    bench.publish(&["a"]).await;
    let mut handler = bench.join(10).await;
    handler.receive(1).await;
    bench.broker.faults().change_secret(1);
    moved_to(&bench, 2).await;
    bench.broker.faults().break_sessions("cut");
    let again = handler.receive(1).await;
    handler.ack(&ids(&again)).await;
    bench.depth_becomes("work", 0, 0).await;
    assert_eq!(bench.broker.faults().sessions(), 1);
}

#[tokio::test(start_paused = true)]
async fn what_is_published_and_handled_while_secrets_change_is_stored_once_and_handled_once() {
    const MESSAGES: usize = 2_000;
    let bench = Bench::start();
    let mut handler = bench.join(20).await;
    bench.connected().await;
    let publishing = async {
        for number in 0..MESSAGES {
            if number % 200 == 100 {
                bench.broker.faults().change_secret(u64::try_from(number).unwrap());
            }
            assert_eq!(bench.try_publish(&number.to_string()).await, Confirm::Stored, "{number}");
            tokio::time::advance(Duration::from_millis(20)).await;
        }
    };
    let handling = async {
        let mut taken = Vec::new();
        while taken.len() < MESSAGES {
            handler.next().await.expect("the stream goes on");
            let got = handler.take();
            handler.ack(&ids(&got)).await;
            taken.extend(bodies(&got));
        }
        taken
    };
    let ((), mut taken) = tokio::join!(publishing, handling);
    bench.depth_becomes("work", 0, 0).await;
    assert!(live(&bench) >= Some(SessionId(5)), "it has moved several times: {:?}", live(&bench));
    taken.sort_unstable();
    taken.dedup();
    assert_eq!(taken.len(), MESSAGES, "each once");
    assert!(handler.has_nothing_more());
}

#[tokio::test(start_paused = true)]
async fn a_queue_that_goes_with_its_last_consumer_keeps_what_waits_in_it() {
    let mut passing = subscription("work", "#");
    passing.queue.auto_delete = Some(true);
    let bench = Bench::with(broker(), vec![passing], &[]);
    let mut handler = bench.join(1).await;
    bench.publish(&["a", "b", "c"]).await;
    let held = handler.receive(1).await;

    bench.broker.faults().change_secret(1);
    moved_to(&bench, 2).await;

    let mut taken = bodies(&held);
    handler.ack(&ids(&held)).await;
    while taken.len() < 3 {
        let got = handler.receive(1).await;
        handler.ack(&ids(&got)).await;
        taken.extend(bodies(&got));
    }
    taken.sort();
    assert_eq!(taken, ["a", "b", "c"]);
    until("the old one is closed", || bench.broker.faults().sessions() == 1).await;
}

#[tokio::test(start_paused = true)]
async fn an_exclusive_queue_is_served_by_the_old_session_to_its_end_and_then_at_once_by_the_new_one() {
    let exclusive = |name: &str| {
        let mut exclusive = subscription(name, "#");
        exclusive.queue.exclusive = Some(true);
        exclusive
    };
    let bench = Bench::with(broker(), vec![exclusive("work"), exclusive("idle")], &[]);
    let mut handler = bench.join(10).await;
    bench.publish(&["a"]).await;
    let held = handler.receive(1).await;
    handler.ack(&ids(&held)).await;

    bench.broker.faults().change_secret(1);
    moved_to(&bench, 2).await;
    bench.publish(&["b"]).await;
    let over_the_old_one = handler.receive(1).await;
    assert_eq!(bodies(&over_the_old_one), ["b"]);
    assert_eq!(bench.broker.faults().sessions(), 2, "the old one is still there");
    handler.ack(&ids(&over_the_old_one)).await;

    until("the old one is closed", || bench.broker.faults().sessions() == 1).await;
    // Sooner than any second try.
    pass(Duration::from_millis(50)).await;
    assert_eq!(bench.try_publish("c").await, Confirm::Stored);
    assert_eq!(bodies(&handler.receive(1).await), ["c"]);
    bench.depth_becomes("idle", 1, 0).await;
}
