//! Retries and dead letters: the copy is stored before the original is acked, whatever happens in between.

use std::time::Duration;

use sidebus::bridge::SubscriptionState;
use sidebus::domain::ledger::Outcome;
use sidebus::domain::message::Value;
use sidebus::domain::verdict::Verdict;

use super::bench::{Bench, Handler, ids, pass, queue, until};

fn retry(delay: Option<Duration>) -> Verdict {
    Verdict::Retry { delay, reason: "BUSY".to_owned(), description: "later".to_owned() }
}

async fn outcome_of(handler: &mut Handler) -> Outcome {
    handler.find(|frame| frame.results.first().map(|result| result.outcome)).await
}

#[tokio::test(start_paused = true)]
async fn a_retry_comes_back_as_attempt_two_and_not_before_its_time() {
    let bench = Bench::start();
    bench.publish(&["a"]).await;
    let mut handler = bench.join(10).await;
    let got = handler.receive(1).await;
    let begun = tokio::time::Instant::now();

    handler.say(&ids(&got), retry(Some(Duration::from_secs(5)))).await;

    assert_eq!(outcome_of(&mut handler).await, Outcome::RetryScheduled);
    bench.depth_becomes("work", 0, 0).await;
    let again = handler.receive(1).await;
    assert!(begun.elapsed() >= Duration::from_secs(5), "{:?}", begun.elapsed());
    assert_eq!(again[0].seen.record.attempt(), 2);
    let (first, second) = (&got[0].seen.message, &again[0].seen.message);
    assert_eq!((&first.exchange, &first.routing_key), (&second.exchange, &second.routing_key));
    assert_eq!(first.properties.headers, second.properties.headers);
    assert_eq!(first.properties.message_id, second.properties.message_id);
    assert_eq!(again[0].seen.record.history[0].reason, "BUSY");
}

#[tokio::test(start_paused = true)]
async fn the_last_attempt_becomes_a_letter_with_its_history() {
    let bench = Bench::start();
    bench.publish(&["a"]).await;
    let mut handler = bench.join(10).await;
    for _ in 0..2 {
        let got = handler.receive(1).await;
        handler.say(&ids(&got), retry(None)).await;
        assert_eq!(outcome_of(&mut handler).await, Outcome::RetryScheduled);
    }
    let got = handler.receive(1).await;
    assert_eq!(got[0].seen.record.attempt(), 3);
    handler.say(&ids(&got), retry(None)).await;
    assert_eq!(outcome_of(&mut handler).await, Outcome::DeadLettered);
    bench.depth_becomes("work", 0, 0).await;
    bench.depth_becomes("dlq", 1, 0).await;
    let headers = letter(&bench).await;
    assert_eq!(headers.get("x-sidebus-dlq-cause").and_then(Value::as_text), Some("MAX_ATTEMPTS"));
    let Some(Value::Array(history)) = headers.get("x-sidebus-history") else { panic!("no history in {headers:?}") };
    assert_eq!(history.len(), 3);
}

/// The headers of the only dead letter, read as another client would.
async fn letter(bench: &Bench) -> sidebus::domain::message::Headers {
    use sidebus::broker::{Broker as _, ConsumeOptions, Prefetch, SessionId};
    let session = bench.broker.connect(SessionId(1_000)).await.unwrap();
    let options = ConsumeOptions { prefetch: Prefetch::new(1), exclusive: false, own_connection: false };
    let (mut arrivals, _settler) = session.consume(queue("dlq"), options).await.unwrap();
    arrivals.next_batch(1).await.unwrap().remove(0).message.properties.headers
}

/// failures.md L6.
#[tokio::test(start_paused = true)]
async fn a_copy_whose_confirm_is_lost_is_stored_again_before_the_original_is_acked() {
    let bench = Bench::start();
    bench.publish(&["a"]).await;
    let mut handler = bench.join(10).await;
    let got = handler.receive(1).await;
    bench.broker.faults().lose_confirms(1);
    let verdict = Verdict::DeadLetter { reason: "BAD".to_owned(), description: String::new() };
    handler.say(&ids(&got), verdict).await;
    assert_eq!(outcome_of(&mut handler).await, Outcome::DeadLettered);
    bench.depth_becomes("work", 0, 0).await;
    // The lost confirm hid a stored copy: the duplicate is the price, the letter is never lost.
    bench.depth_becomes("dlq", 2, 0).await;
}

/// failures.md L7.
#[tokio::test(start_paused = true)]
async fn a_copy_waits_for_the_end_of_an_alarm_and_is_stored_once() {
    let bench = Bench::start();
    bench.publish(&["a"]).await;
    let mut handler = bench.join(10).await;
    let got = handler.receive(1).await;
    bench.broker.faults().block("memory");
    until("the alarm", || bench.bridge.link.now().blocked.is_some()).await;
    let verdict = Verdict::DeadLetter { reason: "BAD".to_owned(), description: String::new() };
    handler.say(&ids(&got), verdict).await;
    pass(Duration::from_mins(5)).await;
    bench.depth_becomes("work", 0, 1).await;
    bench.depth_becomes("dlq", 0, 0).await;
    bench.broker.faults().unblock();
    assert_eq!(outcome_of(&mut handler).await, Outcome::DeadLettered);
    bench.depth_becomes("dlq", 1, 0).await;
    bench.depth_becomes("work", 0, 0).await;
}

/// failures.md L7.
#[tokio::test(start_paused = true)]
async fn while_copies_wait_for_the_end_of_an_alarm_nothing_more_is_consumed() {
    let bench = Bench::start();
    bench.publish(&["a", "b", "c", "d"]).await;
    let mut handler = bench.join(2).await;
    let got = handler.receive(2).await;
    bench.broker.faults().block("memory");
    until("the alarm", || bench.bridge.link.now().blocked.is_some()).await;
    let verdict = Verdict::DeadLetter { reason: "BAD".to_owned(), description: String::new() };
    handler.say(&ids(&got[..1]), verdict).await;
    while handler.state != Some(SubscriptionState::Paused) {
        handler.next().await.expect("the stream goes on");
    }
    handler.ack(&ids(&got[1..])).await;
    pass(Duration::from_mins(1)).await;
    bench.depth_becomes("work", 2, 1).await;
    bench.broker.faults().unblock();
    assert_eq!(outcome_of(&mut handler).await, Outcome::Acked);
    assert_eq!(outcome_of(&mut handler).await, Outcome::DeadLettered);
    let rest = handler.receive(2).await;
    assert_eq!(handler.state, Some(SubscriptionState::Active));
    handler.ack(&ids(&rest)).await;
    bench.depth_becomes("work", 0, 0).await;
}

#[tokio::test(start_paused = true)]
async fn missing_dead_letter_objects_are_made_again_and_nothing_is_lost() {
    let bench = Bench::start();
    bench.publish(&["a"]).await;
    let mut handler = bench.join(10).await;
    let got = handler.receive(1).await;
    assert!(bench.broker.faults().delete_queue(&queue("dlq")));
    let verdict = Verdict::DeadLetter { reason: "BAD".to_owned(), description: String::new() };
    handler.say(&ids(&got), verdict).await;
    assert_eq!(outcome_of(&mut handler).await, Outcome::DeadLettered);
    bench.depth_becomes("dlq", 1, 0).await;
    bench.depth_becomes("work", 0, 0).await;
}

#[tokio::test(start_paused = true)]
async fn a_passed_deadline_is_a_failed_attempt() {
    let bench = Bench::start();
    bench.publish(&["a"]).await;
    let mut handler = bench.join(10).await;
    let got = handler.receive(1).await;
    tokio::time::advance(Duration::from_secs(61)).await;
    let (reason, revoked) = handler.find(|frame| frame.revocations.first().cloned()).await;
    assert_eq!((reason, revoked), (sidebus::bridge::RevocationReason::SettleTimeout, ids(&got)));
    handler.ack(&ids(&got)).await;
    assert_eq!(outcome_of(&mut handler).await, Outcome::LeaseExpired);
    let again = handler.receive(1).await;
    assert_eq!(again[0].seen.record.attempt(), 2);
    assert_eq!(again[0].seen.record.history[0].kind, sidebus::domain::failure::FailureKind::Timeout);
}
