//! What slows a subscription down or pauses it: the kill switch, the rate of retries, letters that cannot be stored.

use std::cell::Cell;
use std::collections::BTreeSet;
use std::time::Duration;

use sidebus::bridge::{Frame, Hangup, Status, SubscriptionState};
use sidebus::broker::{Broker as _, ConsumeOptions, Prefetch, SessionId, Settlement};
use sidebus::domain::kill_switch::KillSwitchSettings;
use sidebus::domain::ledger::{DeliveryId, Outcome};
use sidebus::domain::message::{Headers, Value};
use sidebus::domain::subscription::{RetrySettings, Subscription};
use sidebus::domain::topology::{Named, Queue, Step};
use sidebus::domain::verdict::Verdict;
use tokio::time::{Instant, timeout_at};

use super::bench::{Bench, Handler, bodies, broker, broker_with, ids, pass, queue, subscription};

const MINUTE: Duration = Duration::from_mins(1);
const BACKLOG: usize = 1_000;

fn retry() -> Verdict {
    Verdict::Retry { delay: None, reason: "BUSY".to_owned(), description: String::new() }
}

fn bad() -> Verdict {
    Verdict::DeadLetter { reason: "BAD".to_owned(), description: String::new() }
}

/// The subscription `work`, whose messages may fail for ever.
fn patient(retry: &RetrySettings) -> Subscription {
    Subscription { retry: RetrySettings { max_attempts: 1_000_000, ..retry.clone() }, ..subscription("work", "#") }
}

fn without_switch() -> KillSwitchSettings {
    KillSwitchSettings { enabled: false, ..KillSwitchSettings::default() }
}

fn numbers(count: usize) -> Vec<String> {
    (0..count).map(|number| number.to_string()).collect()
}

async fn publish(bench: &Bench, numbers: &[String]) {
    bench.publish(&numbers.iter().map(String::as_str).collect::<Vec<_>>()).await;
}

/// Works until then, each delivery with this verdict; answers when each came, and what it was.
async fn work(handler: &mut Handler, until: Instant, verdict: Verdict) -> Vec<(Instant, String)> {
    let mut came = Vec::new();
    while let Ok(frame) = timeout_at(until, handler.next()).await {
        frame.expect("the stream goes on");
        let got = handler.take();
        came.extend(bodies(&got).into_iter().map(|body| (Instant::now(), body)));
        if !got.is_empty() {
            handler.say(&ids(&got), verdict.clone()).await;
        }
    }
    came
}

/// The first status with this state.
async fn status(handler: &mut Handler, state: SubscriptionState) -> Status {
    handler.find(|frame: &Frame| frame.status.clone().filter(|status| status.state == state)).await
}

/// A subscription whose switch has just opened, and the handler that has failed everything; it holds nothing any more.
async fn opened(window: u32) -> (Bench, Handler) {
    let bench = Bench::with(broker(), vec![patient(&RetrySettings::default())], &[]);
    publish(&bench, &numbers(BACKLOG)).await;
    let mut handler = bench.join(window).await;
    while handler.state != Some(SubscriptionState::Paused) {
        handler.next().await.expect("the stream goes on");
        let got = handler.take();
        handler.say(&ids(&got), retry()).await;
    }
    assert!(handler.has_nothing_more());
    (bench, handler)
}

/// failures.md M4.
#[tokio::test(start_paused = true)]
async fn while_the_downstream_of_one_subscription_is_away_it_is_tried_once_a_minute_and_the_others_keep_their_rate() {
    let bench = Bench::with(broker(), vec![patient(&RetrySettings::default()), subscription("other", "#")], &[]);
    publish(&bench, &numbers(BACKLOG)).await;
    let (mut failing, mut other) = (bench.join(100).await, bench.join_as("other", 100).await);
    let begun = Instant::now();
    let away_until = begun + 10 * MINUTE;
    let done = Cell::new(0);
    let publishing = async {
        // One more each second, and the other subscription has each at once.
        let mut clock = tokio::time::interval(Duration::from_secs(1));
        for number in 0..590_usize {
            clock.tick().await;
            publish(&bench, &[format!("more-{number}")]).await;
            done.set(number);
        }
    };
    let (failed, acked, ()) =
        tokio::join!(work(&mut failing, away_until, retry()), work(&mut other, away_until, Verdict::Ack), publishing);

    let minutes = |came: &[(Instant, String)]| {
        let mut counts = [0; 10];
        for (at, _) in came {
            counts[usize::try_from((*at - begun).as_secs() / 60).unwrap().min(9)] += 1;
        }
        counts
    };
    let (failed, acked_in) = (minutes(&failed), minutes(&acked));
    // The window that was out when it opened, then probes after 10, 30 and 70 s, and then one a minute.
    assert!((101..=303).contains(&failed[0]), "{failed:?}");
    assert!(failed[1..].iter().all(|count| *count <= 2) && failed[1..].iter().sum::<i32>() >= 8, "{failed:?}");
    assert!(acked_in[0] >= 1_050 && acked_in[1..9].iter().all(|count| (59..=61).contains(count)), "{acked_in:?}");

    // The downstream is back: at most one pause, and then full speed.
    let back = work(&mut failing, away_until + 2 * MINUTE, Verdict::Ack).await;
    let first = back[0].0;
    assert!(first - away_until <= MINUTE, "{:?}", first - away_until);
    let all: BTreeSet<&String> = back.iter().map(|(_, body)| body).collect();
    assert_eq!((all.len(), back.len()), (BACKLOG + 590, BACKLOG + 590), "each once, none lost");
    let last = back[back.len() - 1].0;
    assert!(last - first <= Duration::from_secs(5), "{:?}", last - first);
    bench.depth_becomes("work", 0, 0).await;
    bench.depth_becomes("dlq", 0, 0).await;
}

/// failures.md M4.
#[tokio::test(start_paused = true)]
async fn an_open_switch_is_told_and_what_handlers_hold_is_settled_all_the_same() {
    let bench = Bench::with(broker(), vec![patient(&RetrySettings::default())], &[]);
    publish(&bench, &numbers(BACKLOG)).await;
    let mut slow = bench.join(10).await;
    let held = slow.receive(10).await;
    let mut failing = bench.join(100).await;
    while failing.state != Some(SubscriptionState::Paused) {
        failing.next().await.expect("the stream goes on");
        let got = failing.take();
        failing.say(&ids(&got), retry()).await;
    }
    let told = status(&mut slow, SubscriptionState::Paused).await.description;
    assert!(
        told.starts_with("the kill switch is open: more than 50 % of the last 200 attempts failed; the next"),
        "{told}"
    );
    assert!(told.contains("probe goes out at ") && told.ends_with(" UTC"), "{told}");
    // What waits keeps its place here: the consumer is what it was.
    let unacked = || bench.broker.faults().depth(&queue("work")).unwrap().unacked;
    let before = unacked();
    assert!(before >= 100, "{before} held");
    slow.ack(&ids(&held[..4])).await;
    slow.say(&ids(&held[4..5]), retry()).await;
    let mut outcomes = Vec::new();
    while outcomes.len() < 5 {
        outcomes.extend(slow.next().await.expect("the stream goes on").results.iter().map(|result| result.outcome));
    }
    assert_eq!(outcomes.iter().filter(|outcome| **outcome == Outcome::Acked).count(), 4, "{outcomes:?}");
    assert!(outcomes.contains(&Outcome::RetryScheduled));
    pass(Duration::from_secs(5)).await;
    assert!(slow.has_nothing_more() && failing.has_nothing_more());
}

/// The next probe, alone.
async fn probe(handler: &mut Handler) -> DeliveryId {
    handler.receive(1).await[0].id
}

/// failures.md M4.
#[tokio::test(start_paused = true)]
async fn a_probe_that_is_lost_or_given_back_is_followed_by_another_one() {
    let (bench, mut handler) = opened(50).await;
    let begun = Instant::now();
    let released = probe(&mut handler).await;
    assert!(begun.elapsed() >= Duration::from_secs(9), "{:?}", begun.elapsed());
    handler.say(&[released], Verdict::Release).await;
    let refused = probe(&mut handler).await;
    handler.say(&[refused], bad()).await;
    probe(&mut handler).await;
    bench.broker.faults().break_sessions("cut");
    let last = probe(&mut handler).await;
    assert!(begun.elapsed() < Duration::from_secs(12), "{:?}", begun.elapsed());
    handler.ack(&[last]).await;
    status(&mut handler, SubscriptionState::Active).await;
    handler.next().await.expect("the stream goes on");
    assert!(handler.take().len() > 1, "all at once");
}

/// failures.md M4.
#[tokio::test(start_paused = true)]
async fn a_probe_that_takes_its_handler_down_has_failed() {
    let (bench, mut handler) = opened(50).await;
    probe(&mut handler).await;
    handler.attached.voice.hang_up(Hangup::Lost).await;
    let begun = Instant::now();
    let mut next = bench.join(50).await;
    let last = probe(&mut next).await;
    assert_eq!(begun.elapsed().as_secs(), 20, "{:?}", begun.elapsed());
    next.ack(&[last]).await;
    status(&mut next, SubscriptionState::Active).await;
    next.next().await.expect("the stream goes on");
    assert!(next.take().len() > 1, "all at once");
}

/// failures.md M4.
#[tokio::test(start_paused = true)]
async fn a_passed_deadline_counts_as_a_failure_and_a_message_that_is_given_up_does_not() {
    let kill_switch = KillSwitchSettings { sample: 10, ..KillSwitchSettings::default() };
    let bench = Bench::with(broker(), vec![patient(&RetrySettings { kill_switch, ..RetrySettings::default() })], &[]);
    publish(&bench, &numbers(100)).await;
    let mut handler = bench.join(6).await;
    for _ in 0..10 {
        let got = handler.receive(6).await;
        handler.say(&ids(&got), bad()).await;
    }
    assert_eq!(handler.state, Some(SubscriptionState::Active));
    handler.receive(6).await;
    // One a minute, as each becomes the oldest.
    let begun = Instant::now();
    status(&mut handler, SubscriptionState::Paused).await;
    assert_eq!(begun.elapsed().as_secs() / 60, 6, "{:?}", begun.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_switch_that_is_off_never_opens() {
    let settings = RetrySettings { kill_switch: without_switch(), ..RetrySettings::default() };
    let bench = Bench::with(broker(), vec![patient(&settings)], &[]);
    publish(&bench, &numbers(500)).await;
    let mut handler = bench.join(100).await;
    let came = work(&mut handler, Instant::now() + Duration::from_secs(30), retry()).await;
    assert!(came.len() >= 1_500, "{}", came.len());
    assert_eq!(handler.state, Some(SubscriptionState::Active));
}

#[tokio::test(start_paused = true)]
async fn retries_beyond_their_rate_wait_unsettled_and_none_is_lost() {
    let settings = RetrySettings { max_per_second: 10, kill_switch: without_switch(), ..RetrySettings::default() };
    let bench = Bench::with(broker(), vec![patient(&settings)], &[]);
    publish(&bench, &numbers(100)).await;
    let mut handler = bench.join(100).await;
    let got = handler.receive(100).await;
    let begun = Instant::now();
    let later = Verdict::Retry { delay: Some(MINUTE), reason: String::new(), description: String::new() };
    handler.say(&ids(&got), later).await;
    let mut scheduled = Vec::new();
    while scheduled.len() < 100 {
        let frame = handler.next().await.expect("the stream goes on");
        assert!(frame.results.iter().all(|result| result.outcome == Outcome::RetryScheduled));
        scheduled.extend(frame.results.iter().map(|_| begun.elapsed()));
        let unacked = bench.broker.faults().depth(&queue("work")).unwrap().unacked;
        assert!(unacked <= 100 - scheduled.len() + 1, "{unacked} after {}", scheduled.len());
    }
    for (number, at) in scheduled.iter().enumerate() {
        let due = Duration::from_millis(100) * u32::try_from(number).unwrap();
        assert!(*at >= due && *at <= due + Duration::from_millis(50), "{number} after {at:?}");
    }
    let mut again = bodies(&handler.receive(100).await);
    again.sort();
    let mut all = numbers(100);
    all.sort();
    assert_eq!(again, all);
}

/// A queue that holds so many and refuses more.
fn bounded(name: &str, length: i64) -> Step {
    let arguments = Headers::from([
        ("x-queue-type".to_owned(), Value::text("classic")),
        ("x-max-length".to_owned(), Value::Int64(length)),
        ("x-overflow".to_owned(), Value::text("reject-publish")),
    ]);
    let (name, named) = (queue(name), Named::new());
    Step::Queue(Queue { name, durable: true, auto_delete: false, exclusive: false, arguments, named })
}

/// Takes so many letters away.
async fn make_room(bench: &Bench, count: u16) {
    let session = bench.broker.connect(SessionId(1_000)).await.unwrap();
    let options = ConsumeOptions { prefetch: Prefetch::new(count), exclusive: false, own_connection: false };
    let (mut arrivals, mut settler) = session.consume(queue("dlq"), options).await.unwrap();
    let letters = arrivals.next_batch(usize::from(count)).await.unwrap();
    let acks = letters.into_iter().map(|letter| (letter.receipt, Settlement::Ack)).collect();
    settler.settle(acks, sidebus::broker::Proof::Read).await;
}

/// failures.md T5.
#[tokio::test(start_paused = true)]
async fn letters_that_cannot_be_stored_pause_their_subscription_until_one_is() {
    let wanted = vec![subscription("work", "#"), subscription("other", "#")];
    let bench = Bench::with(broker_with(vec![bounded("dlq", 1)]).await, wanted, &[]);
    publish(&bench, &numbers(50)).await;
    let mut handler = bench.join(20).await;
    let got = handler.receive(20).await;
    handler.say(&ids(&got[..6]), bad()).await;
    let told = status(&mut handler, SubscriptionState::Paused).await.description;
    assert_eq!(
        told,
        "dead letters are not stored in queue dlq (exchange dlx): the broker refused it: the queue is full or has no \
         quorum; nothing is consumed until one of those that wait is"
    );
    // One is stored, which made room for another delivery, and five wait. There is more room now, and nothing comes.
    handler.ack(&ids(&got[6..])).await;
    let more = handler.take();
    assert_eq!(more.len(), 1);
    handler.ack(&ids(&more)).await;
    pass(MINUTE).await;
    assert!(handler.has_nothing_more());
    bench.depth_becomes("work", 29, 5).await;
    let mut other = bench.join_as("other", 5).await;
    assert_eq!(work(&mut other, Instant::now() + Duration::from_secs(1), Verdict::Ack).await.len(), 50);

    // Room for one: the first letter that is stored ends the pause, and those behind it begin another one.
    make_room(&bench, 1).await;
    let begun = Instant::now();
    status(&mut handler, SubscriptionState::Active).await;
    assert!(begun.elapsed() <= Duration::from_secs(10), "{:?}", begun.elapsed());
    while handler.state != Some(SubscriptionState::Paused) {
        handler.next().await.expect("the stream goes on");
        let got = handler.take();
        handler.say(&ids(&got), bad()).await;
    }
    assert!(bench.broker.faults().delete_queue(&queue("dlq")));
    status(&mut handler, SubscriptionState::Active).await;
    let came = work(&mut handler, Instant::now() + MINUTE, Verdict::Ack).await;
    assert!(came.len() >= 8, "{}", came.len());
    bench.depth_becomes("work", 0, 0).await;
}

/// failures.md T5.
#[tokio::test(start_paused = true)]
async fn letters_that_wait_when_the_session_is_lost_pause_again_with_their_first_failure() {
    let bench = Bench::on(broker_with(vec![bounded("dlq", 1)]).await);
    publish(&bench, &numbers(30)).await;
    let mut handler = bench.join(5).await;
    let mut pauses = Vec::new();
    for _ in 0..2 {
        let begun = Instant::now();
        handler.state = None;
        while handler.state != Some(SubscriptionState::Paused) {
            handler.next().await.expect("the stream goes on");
            let got = handler.take();
            handler.say(&ids(&got), bad()).await;
        }
        pauses.push(begun.elapsed());
        bench.broker.faults().break_sessions("cut");
        status(&mut handler, SubscriptionState::BrokerDown).await;
        bench.connected().await;
    }
    assert!(pauses[0] >= Duration::from_secs(1) && pauses[1] < Duration::from_secs(1), "{pauses:?}");
}
