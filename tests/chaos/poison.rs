//! Poison among good messages, and nothing but poison: each good one is handled, each bad one is a letter that says why.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use futures_util::StreamExt as _;
use lapin::message::Delivery;
use lapin::options::{BasicConsumeOptions, BasicQosOptions};
use lapin::types::{AMQPValue, FieldTable};
use sidebus::domain::delay::Slot;
use sidebus::grpc::proto::sidebus::v1;
use sidebus::grpc::proto::sidebus::v1::settlement::Verdict;
use tokio::time::{Instant, timeout};

use crate::support::examples::mortal;
use crate::support::handler::{Handler, number};
use crate::support::process::Process;
use crate::support::publisher::numbered;
use crate::support::scene::{Amqp, Scene, Sidecar};
use crate::support::wait::until_within;

const LONG: Duration = Duration::from_mins(3);
const GOOD: usize = 950;
/// Bodies of poison begin with what it does, and how many of each there are.
const POISON: [(&str, usize); 3] = [("kill", 8), ("reject", 21), ("retry", 21)];
const ATTEMPTS: usize = 3;

fn message(body: String) -> v1::Message {
    v1::Message { message_id: body.clone(), body: body.into(), ..numbered(0) }
}

/// All of them, the bad ones spread among the good ones.
fn messages() -> Vec<v1::Message> {
    let bad = POISON.iter().flat_map(|(kind, count)| (0..*count).map(move |number| format!("{kind} {number}")));
    let mut all: Vec<String> = (0..GOOD).map(|number| format!("good {number}")).collect();
    for (place, body) in bad.enumerate() {
        all.insert((place * 389) % all.len(), body);
    }
    all.into_iter().map(message).collect()
}

/// Takes so many messages off a queue for good.
async fn take_all(amqp: &Amqp, queue: &str, count: usize) -> Vec<Delivery> {
    amqp.channel.basic_qos(1_000, BasicQosOptions { global: false }).await.expect("a prefetch");
    let options = BasicConsumeOptions { no_ack: true, ..BasicConsumeOptions::default() };
    let tag = format!("{queue}-reader");
    let consuming = amqp.channel.basic_consume(queue.into(), tag.as_str().into(), options, FieldTable::default());
    let consumer = consuming.await.expect("a consumer");
    let taken = consumer.take(count).map(|delivery| delivery.expect("a letter")).collect();
    timeout(LONG, taken).await.expect("all letters in time")
}

fn text(letter: &Delivery, name: &str) -> String {
    let headers = letter.properties.headers().clone().unwrap_or_default();
    match headers.inner().get(name) {
        Some(AMQPValue::LongString(text)) => String::from_utf8_lossy(text.as_bytes()).into_owned(),
        other => panic!("{name} is {other:?}"),
    }
}

/// What the failures in the history of a letter were, once their attempts, times, waits and handlers are as they must be.
fn history(letter: &Delivery) -> Vec<String> {
    let headers = letter.properties.headers().clone().unwrap_or_default();
    let Some(AMQPValue::FieldArray(failures)) = headers.inner().get("x-sidebus-history") else { panic!("no history") };
    let (mut kinds, mut not_before) = (Vec::new(), 1);
    for (before, failure) in failures.as_slice().iter().enumerate() {
        let AMQPValue::FieldTable(failure) = failure else { panic!("a failure that is {failure:?}") };
        let text = |key: &str| match failure.inner().get(key) {
            Some(AMQPValue::LongString(text)) => String::from_utf8_lossy(text.as_bytes()).into_owned(),
            other => panic!("{key} is {other:?}"),
        };
        let number = |key: &str| match failure.inner().get(key) {
            Some(AMQPValue::LongLongInt(number)) => Some(*number),
            _ => None,
        };
        let (is_last, time) = (before + 1 == failures.as_slice().len(), number("time-ms").expect("a time"));
        assert_eq!(number("attempt"), i64::try_from(before + 1).ok(), "{failure:?}");
        assert_eq!(number("delay-ms").is_some(), !is_last, "each but the last was waited after: {failure:?}");
        assert!(time >= not_before, "sooner than after the wait before it: {failure:?}");
        assert!(!text("handler").is_empty(), "{failure:?}");
        let says_why = text("kind") == "crash" || !text("reason").is_empty();
        assert!(says_why, "{failure:?}");
        not_before = time + number("delay-ms").unwrap_or_default();
        kinds.push(text("kind"));
    }
    kinds
}

/// True when the queue of a scene has nothing left and so many letters lie there.
async fn is_over(scene: &Scene, amqp: &Amqp, sidecar: &Sidecar, letters: usize) -> bool {
    amqp.depth(&scene.name("work")).await == Some(0)
        && amqp.depth(&scene.name("dlq")).await == u32::try_from(letters).ok()
        && sidecar.metric("sidebus_in_flight_messages{subscription=\"work\"}").await == Some(0.0)
}

/// Processes that start again as often as they die. Answers what they were handed, and how many have died.
async fn live_on(scene: &Scene, sidecar: &Sidecar, letters: usize) -> (BTreeSet<String>, usize) {
    let amqp = scene.amqp().await;
    let mut seen = BTreeSet::new();
    let body = |line: String| line.rsplit_once(' ').expect("a body and an attempt").0.to_owned();
    let begun = Instant::now();
    for deaths in 0.. {
        let mut handler: Process = mortal("work", 0, &sidecar.grpc);
        let is_dead = until_within(LONG, "the handler dies, or nothing is left", async || {
            let is_dead = !handler.is_running();
            (is_dead || is_over(scene, &amqp, sidecar, letters).await).then_some(is_dead)
        })
        .await;
        seen.extend(handler.output().into_iter().map(body));
        if !is_dead {
            assert_eq!(handler.stop().await, Some(0));
            return (seen, deaths);
        }
        assert!(begun.elapsed() < LONG, "{deaths} handlers have died, {} bodies were seen", seen.len());
    }
    unreachable!("it is left when nothing is left");
}

/// failures.md M2, H1.
#[tokio::test]
async fn of_1000_messages_950_are_handled_and_50_of_three_kinds_of_poison_are_letters_that_say_why() {
    let scene = Scene::new().await;
    let policy = format!("retry = {{ max_attempts = {ATTEMPTS}, crash_limit = {ATTEMPTS}, min_backoff = \"100ms\" }}");
    let sidecar = scene.sidecar(&scene.work(&policy)).await;
    let publisher = sidecar.publisher().await;
    for batch in messages().chunks(500) {
        publisher.publish(batch.to_vec()).await.expect("confirmed");
    }
    let letters: usize = POISON.iter().map(|(_, count)| count).sum();
    let begun = Instant::now();

    let (seen, deaths) = live_on(&scene, &sidecar, letters).await;

    println!("{} bodies were seen, {deaths} handlers have died, {:.1} s", seen.len(), begun.elapsed().as_secs_f64());
    assert_eq!(seen.len(), GOOD + letters);
    let amqp = scene.amqp().await;
    let mut found: BTreeMap<(String, Vec<String>), usize> = BTreeMap::new();
    for letter in take_all(&amqp, &scene.name("dlq"), letters).await {
        let body = String::from_utf8_lossy(&letter.data).into_owned();
        let kind = body.split(' ').next().unwrap_or_default().to_owned();
        let (cause, failures) = match kind.as_str() {
            "kill" => ("CRASH_LOOP", vec!["crash"; ATTEMPTS]),
            "reject" => ("REJECTED_BY_HANDLER", vec!["dead_letter"]),
            "retry" => ("MAX_ATTEMPTS", vec!["retry"; ATTEMPTS]),
            other => panic!("{other} was given up"),
        };
        assert_eq!(
            (text(&letter, "x-sidebus-dlq-cause").as_str(), history(&letter)),
            (cause, failures.iter().map(|kind| (*kind).to_owned()).collect()),
            "{body}"
        );
        *found.entry((kind, history(&letter))).or_default() += 1;
    }
    let counts: Vec<(&str, usize)> = found.iter().map(|((kind, _), count)| (kind.as_str(), *count)).collect();
    assert_eq!(counts, POISON);
    for slot in Slot::all() {
        let left = amqp.depth(slot.exchange(&scene.prefix).as_str()).await;
        assert!(left.is_none_or(|left| left == 0), "{left:?} wait in the slot of {:?}", slot.ttl());
    }
}

#[tokio::test]
async fn of_10000_messages_that_are_all_poison_none_is_lost() {
    const ALL: usize = 10_000;
    let scene = Scene::new().await;
    let sidecar = scene.sidecar(&scene.work("")).await;
    sidecar.publisher().await.publish_numbers(0..ALL).await;
    let mut handler = sidecar.handler().await;
    let mut left = ALL;
    while left > 0 {
        let deliveries = handler.deliveries(1).await;
        let more = handler.take_deliveries();
        let all: Vec<_> = deliveries.into_iter().chain(more).collect();
        left -= all.len();
        let letter = v1::DeadLetter { reason: "POISON".to_owned(), description: String::new() };
        handler.settle(&all, Verdict::DeadLetter(letter)).await;
    }
    handler.leave().await;
    let amqp = scene.amqp().await;
    let numbers = take_all(&amqp, &scene.name("dlq"), ALL).await;
    let numbers: BTreeSet<usize> =
        numbers.iter().map(|letter| std::str::from_utf8(&letter.data).unwrap().parse().unwrap()).collect();
    assert_eq!(numbers.len(), ALL, "each is there, and once");
    amqp.wait_for_depth(&scene.name("work"), 0).await;
    amqp.wait_for_depth(&scene.name("dlq"), 0).await;
}

/// A delay for each number, in milliseconds: shorter than the shortest slot, on a slot, between two.
fn asked(number: usize) -> Duration {
    Duration::from_millis([1, 100, 150, 200, 333, 700, 1_000, 1_500][number % 8])
}

/// delivery.md's bound, which is printed, and slack for a busy machine, which is asserted.
#[tokio::test]
async fn delays_that_handlers_choose_are_never_early_and_little_late() {
    const ALL: usize = 400;
    const LATE_MAX: Duration = Duration::from_secs(1);
    let scene = Scene::new().await;
    // Each first attempt fails, which is more than its share.
    let sidecar = scene.sidecar(&scene.work("retry = { kill_switch = { enabled = false } }")).await;
    // The slots are made with their first message.
    returns(&sidecar, 8).await;
    let late = returns(&sidecar, ALL).await;
    let share = |percent: usize| late[(late.len() - 1) * percent / 100];
    println!("{ALL} returns, later than their slot by p50 {:?}, p99 {:?}, max {:?}", share(50), share(99), share(100));
    assert!(share(99) <= LATE_MAX, "{:?}", share(99));
    scene.amqp().await.wait_for_depth(&scene.name("work"), 0).await;
}

/// Retries each once; answers how late they came after the time of their slot, sorted.
async fn returns(sidecar: &Sidecar, count: usize) -> Vec<Duration> {
    sidecar.publisher().await.publish_numbers(0..count).await;
    let mut handler = Handler::open(sidecar.channel().await, Handler::of("work")).await;
    let mut begun: BTreeMap<usize, Instant> = BTreeMap::new();
    let mut late = Vec::new();
    while late.len() < count {
        let delivery = handler.delivery().await;
        let number = number(&delivery);
        if delivery.attempt == 1 {
            begun.insert(number, Instant::now());
            let delay = prost_types::Duration::try_from(asked(number)).expect("a short time");
            let retry = v1::Retry { delay: Some(delay), reason: "BUSY".to_owned(), description: String::new() };
            handler.settle(&[delivery], Verdict::Retry(retry)).await;
        } else {
            let waited = begun[&number].elapsed();
            assert!(waited >= asked(number), "{number} is early: {waited:?}");
            late.push(waited.saturating_sub(Slot::at_least(asked(number)).expect("a slot").ttl()));
            handler.ack(&[delivery]).await;
        }
    }
    handler.leave().await;
    late.sort_unstable();
    late
}
