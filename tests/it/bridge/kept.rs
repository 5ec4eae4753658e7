//! A subscription without dead letters: what is given up stays, and nothing more is handed out.

use std::time::Duration;

use sidebus::bridge::{Frame, Hangup, RevocationReason, Said, SubscriptionState};
use sidebus::domain::ledger::Outcome;
use sidebus::domain::subscription::{DeadLetterSettings, DeliverySettings, QueueType, RetrySettings, Subscription};
use sidebus::domain::verdict::Verdict;
use sidebus::runtime::Phase;

use super::bench::{Bench, Handler, bodies, broker, dead_letter, ids, pass, subscription, until};

fn without_letters(change: impl Fn(&mut Subscription)) -> Subscription {
    let mut work = subscription("work", "#");
    work.dead_letter = DeadLetterSettings { is_enabled: false, ..dead_letter() };
    change(&mut work);
    work
}

/// Waits for the pause; answers what is said of it, and the frames until then.
async fn paused(handler: &mut Handler) -> (String, Vec<Frame>) {
    let mut frames = Vec::new();
    loop {
        let frame = handler.next().await.expect("the stream goes on");
        let status = frame.status.clone().filter(|status| status.state == SubscriptionState::Paused);
        frames.push(frame);
        if let Some(status) = status {
            return (status.description, frames);
        }
    }
}

async fn stopped(bench: &mut Bench) {
    bench.phases.enter(Phase::Intake);
    bench.bridge.registry.close();
    bench.phases.enter(Phase::Drain);
    bench.phases.enter(Phase::GiveBack);
    bench.bridge.all_ended.wait().await;
    bench.phases.enter(Phase::Close);
}

/// failures.md T13.
#[tokio::test(start_paused = true)]
async fn what_a_handler_gives_up_goes_back_and_after_the_next_start_all_is_there() {
    let mut bench = Bench::with(broker(), vec![without_letters(|_| {})], &[]);
    bench.publish(&["a", "b", "c"]).await;
    let mut handler = bench.join(2).await;
    let held = handler.receive(2).await;
    let verdict = Verdict::DeadLetter { reason: "BAD".to_owned(), description: String::new() };
    handler.say(&ids(&held[..1]), verdict).await;
    let (told, mut frames) = paused(&mut handler).await;
    assert!(told.starts_with("message \"a\" was given up at attempt 1 (REJECTED_BY_HANDLER)"), "{told}");
    while frames.iter().all(|frame| frame.results.is_empty()) {
        frames.push(handler.next().await.expect("the stream goes on"));
    }
    let result = frames.iter().find_map(|frame| frame.results.first()).expect("one was found");
    assert_eq!((result.id, result.outcome), (held[0].id, Outcome::Released));
    assert!(result.description.starts_with("it went back to its queue"), "{}", result.description);
    // What it holds beside that can still be settled.
    handler.ack(&ids(&held[1..])).await;
    bench.depth_becomes("work", 2, 0).await;
    pass(Duration::from_mins(5)).await;
    assert!(handler.has_nothing_more());
    bench.depth_becomes("work", 2, 0).await;
    bench.depth_becomes("dlq", 0, 0).await;
    // Neither a new session nor a new handler changes that.
    let session = || bench.bridge.link.live().map(|live| live.id);
    let before = session();
    bench.broker.faults().break_sessions("cut");
    until("another session", || session().is_some_and(|id| Some(id) != before)).await;
    let mut other = bench.join(2).await;
    assert!(paused(&mut other).await.0.starts_with("message \"a\" was given up"));
    pass(Duration::from_mins(5)).await;
    assert!(other.has_nothing_more());
    bench.depth_becomes("work", 2, 0).await;
    drop(handler);
    stopped(&mut bench).await;

    let bench = Bench::with(bench.broker.clone(), vec![without_letters(|_| {})], &[]);
    bench.connected().await;
    let mut handler = bench.join(2).await;
    let mut seen = Vec::new();
    while seen.len() < 2 {
        handler.next().await.expect("the stream goes on");
        let got = handler.take();
        assert!(got.iter().all(|one| one.seen.record.attempt() == 1));
        seen.extend(bodies(&got));
        handler.ack(&ids(&got)).await;
    }
    seen.sort();
    assert_eq!(seen, ["a", "c"]);
    bench.depth_becomes("work", 0, 0).await;
}

/// failures.md T13.
#[tokio::test(start_paused = true)]
async fn whatever_a_message_is_given_up_for_it_stays() {
    let retry = |max_attempts| RetrySettings { max_attempts, crash_limit: 1, ..RetrySettings::default() };
    for (cause, limit) in [("MAX_ATTEMPTS", 2), ("SETTLE_TIMEOUT", 1), ("CRASH_LOOP", 1)] {
        let bench = Bench::with(broker(), vec![without_letters(|work| work.retry = retry(limit))], &[]);
        bench.publish(&["a"]).await;
        let mut handler = bench.join(10).await;
        let mut got = handler.receive(1).await;
        let fail = |delay| Verdict::Retry { delay, reason: "BUSY".to_owned(), description: String::new() };
        match cause {
            "MAX_ATTEMPTS" => {
                handler.say(&ids(&got), fail(Some(Duration::ZERO))).await;
                got = handler.receive(1).await;
                handler.say(&ids(&got), fail(None)).await;
            }
            "SETTLE_TIMEOUT" => {}
            _ => {
                handler.attached.voice.hang_up(Hangup::Lost).await;
                handler = bench.join(10).await;
            }
        }
        let (told, frames) = paused(&mut handler).await;
        assert!(told.contains(&format!("({cause})")), "{cause}: {told}");
        let revoked = frames.iter().flat_map(|frame| &frame.revocations).map(|(reason, _)| *reason);
        let expected = Vec::from_iter((cause == "SETTLE_TIMEOUT").then_some(RevocationReason::SettleTimeout));
        assert_eq!(revoked.collect::<Vec<_>>(), expected, "{cause}");
        bench.depth_becomes("work", 1, 0).await;
        bench.depth_becomes("dlq", 0, 0).await;
    }
}

/// failures.md T13: such a queue goes with its last consumer, so it keeps it, and what went back comes again.
#[tokio::test(start_paused = true)]
async fn on_a_queue_that_goes_with_its_consumer_what_is_kept_is_held_before_it_comes_again() {
    let work = without_letters(|work| {
        work.queue.queue_type = Some(QueueType::Classic);
        work.queue.auto_delete = Some(true);
        work.delivery = DeliverySettings { message_bytes_max: 100, ..DeliverySettings::default() };
    });
    let bench = Bench::with(broker(), vec![work], &[]);
    let mut handler = bench.join(10).await;
    bench.publish(&["x".repeat(200).as_str()]).await;
    assert!(paused(&mut handler).await.0.contains("(MESSAGE_TOO_LARGE)"));
    // Of what comes again at once, time would never pass.
    pass(Duration::from_mins(5)).await;
    bench.depth_becomes("work", 0, 1).await;
}

/// failures.md T13.
#[tokio::test(start_paused = true)]
async fn the_pause_of_a_subscription_that_its_handler_brought_outlives_the_handler() {
    let bench = Bench::with(broker(), Vec::new(), &[]);
    let bring = || bench.bridge.registry.declare(without_letters(|_| {}));
    bring().unwrap();
    let mut handler = bench.join(10).await;
    bench.publish(&["a"]).await;
    let got = handler.receive(1).await;
    let verdict = Verdict::DeadLetter { reason: "BAD".to_owned(), description: String::new() };
    handler.say(&ids(&got), verdict).await;
    paused(&mut handler).await;
    assert!(handler.attached.voice.say(Said { leave: true, ..Said::default() }).await);
    bench.depth_becomes("work", 1, 0).await;
    pass(Duration::from_mins(1)).await;
    bring().unwrap();
    let mut other = bench.join(10).await;
    assert!(paused(&mut other).await.0.starts_with("message \"a\" was given up"));
    pass(Duration::from_mins(1)).await;
    assert!(other.has_nothing_more());
    bench.depth_becomes("work", 1, 0).await;
}

/// failures.md T13.
#[tokio::test(start_paused = true)]
async fn a_message_that_is_too_large_stays_too() {
    let work = without_letters(|work| {
        work.delivery = DeliverySettings { message_bytes_max: 100, ..DeliverySettings::default() };
    });
    let bench = Bench::with(broker(), vec![work], &[]);
    bench.publish(&["x".repeat(200).as_str()]).await;
    let mut handler = bench.join(10).await;
    assert!(paused(&mut handler).await.0.contains("(MESSAGE_TOO_LARGE)"));
    bench.depth_becomes("work", 1, 0).await;
    bench.depth_becomes("dlq", 0, 0).await;
}
