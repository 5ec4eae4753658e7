//! Where letters lie: in the shared queue or one of their own, and what bounds them.

use std::time::Duration;

use sidebus::broker::{Broker as _, ConsumeOptions, Prefetch, SessionId};
use sidebus::domain::dead_letter::{self, Bounds, DeadLetterKeys};
use sidebus::domain::ledger::Outcome;
use sidebus::domain::message::{Message, Value};
use sidebus::domain::subscription::{DeadLetterScope, RetryBackoff, RetrySettings, Subscription};
use sidebus::domain::verdict::Verdict;

use super::bench::{Bench, bodies, broker, dead_letter, ids, queue, subscription};

const HOUR: Duration = Duration::from_hours(1);

/// The subscription `work` whose letters lie in `work.dlq`.
fn own_letters(bounds: Bounds) -> Subscription {
    let keys = DeadLetterKeys { scope: Some(DeadLetterScope::PerQueue), bounds, ..DeadLetterKeys::default() };
    let (dead_letter, findings) = dead_letter::of_queue(keys, &dead_letter(), &queue("work"));
    assert_eq!(findings, []);
    Subscription { dead_letter, ..subscription("work", "#") }
}

fn bounds(message_ttl: Option<Duration>, max_length: Option<u64>) -> Bounds {
    Bounds { archive_queue: Some(queue("archive")), message_ttl, max_length }
}

fn start(subscription: Subscription) -> Bench {
    Bench::with(broker(), vec![subscription], &[])
}

/// Gives up so many messages, one after the other.
async fn give_up(bench: &Bench, numbers: &[&str]) {
    bench.publish(numbers).await;
    let mut handler = bench.join(10).await;
    let got = handler.receive(numbers.len()).await;
    for id in ids(&got) {
        let verdict = Verdict::DeadLetter { reason: "BAD".to_owned(), description: String::new() };
        handler.say(&[id], verdict).await;
        let outcome = handler.find(|frame| frame.results.first().map(|result| result.outcome)).await;
        assert_eq!(outcome, Outcome::DeadLettered);
    }
}

/// The messages of a queue, read as another client would.
pub(super) async fn letters(bench: &Bench, name: &str, count: usize) -> Vec<Message> {
    let session = bench.broker.connect(SessionId(1_000)).await.unwrap();
    let options = ConsumeOptions { prefetch: Prefetch::new(100), exclusive: false, own_connection: false };
    let (mut arrivals, _settler) = session.consume(queue(name), options).await.unwrap();
    let mut found = Vec::new();
    while found.len() < count {
        found.extend(arrivals.next_batch(100).await.unwrap().into_iter().map(|one| one.message));
    }
    found
}

pub(super) fn text<'a>(letter: &'a Message, name: &str) -> Option<&'a str> {
    letter.properties.headers.get(name).and_then(Value::as_text)
}

#[tokio::test(start_paused = true)]
async fn in_the_scope_of_one_queue_letters_lie_in_its_own() {
    let bench = start(own_letters(Bounds::default()));
    give_up(&bench, &["a"]).await;
    bench.depth_becomes("work.dlq", 1, 0).await;
    bench.depth_becomes("dlq", 0, 0).await;
    bench.depth_becomes("work", 0, 0).await;
    let letter = letters(&bench, "work.dlq", 1).await.remove(0);
    assert_eq!(text(&letter, "x-sidebus-dlq-reason"), Some("BAD"));
    let Some(Value::Table(origin)) = letter.properties.headers.get("x-sidebus-origin") else { panic!("no origin") };
    assert_eq!(origin.get("queue").and_then(Value::as_text), Some("work"), "a tool finds the way back");
}

#[tokio::test(start_paused = true)]
async fn a_letter_whose_own_queue_was_deleted_makes_it_again() {
    let bench = start(own_letters(Bounds::default()));
    bench.publish(&["a"]).await;
    let mut handler = bench.join(10).await;
    let got = handler.receive(1).await;
    assert!(bench.broker.faults().delete_queue(&queue("work.dlq")));
    let verdict = Verdict::DeadLetter { reason: "BAD".to_owned(), description: String::new() };
    handler.say(&ids(&got), verdict).await;
    bench.depth_becomes("work.dlq", 1, 0).await;
    bench.depth_becomes("work", 0, 0).await;
}

#[tokio::test(start_paused = true)]
async fn an_expired_letter_moves_to_the_archive() {
    let bench = start(own_letters(bounds(Some(HOUR), None)));
    give_up(&bench, &["a", "b"]).await;
    bench.depth_becomes("work.dlq", 2, 0).await;
    tokio::time::advance(Duration::from_mins(59)).await;
    bench.depth_becomes("archive", 0, 0).await;
    tokio::time::advance(Duration::from_mins(2)).await;
    bench.depth_becomes("work.dlq", 0, 0).await;
    bench.depth_becomes("archive", 2, 0).await;
    let archived = letters(&bench, "archive", 2).await;
    assert!(archived.iter().all(|letter| text(letter, "x-sidebus-dlq-cause") == Some("REJECTED_BY_HANDLER")));
}

#[tokio::test(start_paused = true)]
async fn a_letter_that_finds_its_queue_full_goes_to_the_archive_and_none_is_lost() {
    let bench = start(own_letters(bounds(None, Some(2))));
    give_up(&bench, &["a", "b", "c", "d"]).await;
    bench.depth_becomes("work.dlq", 2, 0).await;
    bench.depth_becomes("archive", 2, 0).await;
    bench.depth_becomes("work", 0, 0).await;
    let mut all = letters(&bench, "work.dlq", 2).await;
    all.extend(letters(&bench, "archive", 2).await);
    let mut bodies: Vec<_> = all.iter().map(|letter| letter.body.clone()).collect();
    bodies.sort();
    assert_eq!(bodies, ["a", "b", "c", "d"]);
}

/// failures.md H12.
#[tokio::test(start_paused = true)]
async fn a_message_larger_than_the_limit_is_a_letter_that_no_handler_saw() {
    let mut wanted = subscription("work", "#");
    wanted.delivery.message_bytes_max = 1_024;
    let bench = start(wanted);
    let large = "x".repeat(1_000);
    bench.publish(&["before", &large, "after"]).await;
    let mut handler = bench.join(10).await;
    let got = handler.receive(2).await;
    assert_eq!(bodies(&got), ["before", "after"]);
    handler.ack(&ids(&got)).await;
    bench.depth_becomes("work", 0, 0).await;
    bench.depth_becomes("dlq", 1, 0).await;
    let letter = letters(&bench, "dlq", 1).await.remove(0);
    assert_eq!(text(&letter, "x-sidebus-dlq-cause"), Some("MESSAGE_TOO_LARGE"));
    assert_eq!(letter.properties.headers.get("x-sidebus-attempt"), Some(&Value::Int64(0)), "no attempt was made");
    assert_eq!(letter.body.len(), 1_000);
}

#[tokio::test(start_paused = true)]
async fn the_waits_between_attempts_grow_as_the_policy_says() {
    let retry = RetrySettings {
        backoff: RetryBackoff::Exponential,
        min_backoff: Duration::from_secs(1),
        max_backoff: Duration::from_secs(5),
        multiplier: 4.0,
        jitter: 0.0,
        max_attempts: 4,
        ..RetrySettings::default()
    };
    let bench = start(Subscription { retry, ..subscription("work", "#") });
    bench.publish(&["a"]).await;
    let mut handler = bench.join(10).await;
    let mut got = handler.receive(1).await;
    for seconds in [1_u64, 4, 5] {
        let begun = tokio::time::Instant::now();
        handler
            .say(&ids(&got), Verdict::Retry { delay: None, reason: String::new(), description: String::new() })
            .await;
        got = handler.receive(1).await;
        let (waited, planned) = (begun.elapsed(), Duration::from_secs(seconds));
        // A slot is at most 19 % longer, and our clock ticks in between.
        assert!(waited >= planned && waited <= planned.mul_f64(1.2) + Duration::from_millis(100), "{waited:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_delay_beyond_the_longest_slot_waits_on_without_a_handler_and_is_never_early() {
    const HOURS: u64 = 48;
    let bench = start(subscription("work", "#"));
    bench.publish(&["a"]).await;
    let mut handler = bench.join(10).await;
    let got = handler.receive(1).await;
    let begun = tokio::time::Instant::now();
    let delay = Some(Duration::from_hours(HOURS));
    handler.say(&ids(&got), Verdict::Retry { delay, reason: "NIGHT".to_owned(), description: String::new() }).await;
    let told = handler.find(|frame| frame.results.first().map(|result| result.outcome)).await;
    assert_eq!(told, Outcome::RetryScheduled);
    for _ in 1..HOURS {
        tokio::time::advance(Duration::from_hours(1)).await;
        bench.depth_becomes("work", 0, 0).await;
        assert!(handler.has_nothing_more());
    }
    tokio::time::advance(Duration::from_hours(1)).await;
    // The last slots are at most a fifth longer than what is left.
    let again = loop {
        tokio::time::advance(Duration::from_mins(1)).await;
        let _ = tokio::time::timeout(Duration::from_secs(1), handler.next()).await;
        if let Some(again) = handler.take().pop() {
            break again;
        }
    };
    let waited = begun.elapsed();
    assert!(waited >= Duration::from_hours(HOURS) && waited < Duration::from_hours(HOURS + 4), "{waited:?}");
    assert_eq!((again.seen.record.attempt(), again.seen.record.history.len()), (2, 1));
    handler.ack(&[again.id]).await;
    bench.depth_becomes("work", 0, 0).await;
}
