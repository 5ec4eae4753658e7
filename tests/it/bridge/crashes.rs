//! Handlers that die with work in hand: who is charged, and who is not (failures.md H1, H2, S1).

use std::collections::BTreeMap;
use std::time::Duration;

use sidebus::bridge::{Hangup, Said};
use sidebus::broker::memory::MemoryBroker;
use sidebus::domain::message::Value;
use sidebus::domain::verdict::Verdict;
use sidebus::runtime::Phase;

use super::bench::{Bench, Handler, bodies, broker, ids, pass, queue, until};
use super::letters::{letters, text};

/// A message that takes every handler down.
const KILLER: &str = "killer";
const RESTART: Duration = Duration::from_secs(2);

/// What handlers were handed, and how often.
#[derive(Default)]
struct Log {
    /// By body: the attempt of each time.
    seen: BTreeMap<String, Vec<u32>>,
    done: usize,
    crashes: usize,
}

async fn die(handler: Handler) {
    handler.attached.voice.hang_up(Hangup::Lost).await;
}

/// One life of a handler: it works on whole frames at a time and dies of the killer, with all that came along. False = it
/// got nothing more for a while.
async fn live(mut handler: Handler, log: &mut Log) -> bool {
    loop {
        let Ok(frame) = tokio::time::timeout(Duration::from_secs(20), handler.next()).await else { return false };
        frame.expect("the stream goes on");
        let got = handler.take();
        for (body, handout) in bodies(&got).into_iter().zip(&got) {
            log.seen.entry(body).or_default().push(handout.seen.record.attempt());
        }
        if bodies(&got).iter().any(|body| body == KILLER) {
            log.crashes += 1;
            die(handler).await;
            return true;
        }
        log.done += got.len();
        handler.ack(&ids(&got)).await;
    }
}

/// Handlers that start again as often as they die, after this time.
async fn live_on(bench: &Bench, restart: Duration, log: &mut Log) {
    while live(bench.join(32).await, log).await {
        pass(restart).await;
    }
}

fn innocents() -> Vec<String> {
    (0..31).map(|number| format!("m{number}")).collect()
}

/// 31 innocents and the killer in the middle of them are held by a handler that dies.
async fn first_crash(bench: &Bench) {
    let innocents = innocents();
    let mut all: Vec<&str> = innocents.iter().map(String::as_str).collect();
    all.insert(17, KILLER);
    bench.publish(&all).await;
    let mut handler = bench.join(32).await;
    handler.receive(32).await;
    die(handler).await;
}

/// The 31 are handled on their first attempt, and the killer is a letter after five charged crashes.
async fn only_the_killer_is_given_up(bench: &Bench, log: &Log) {
    for innocent in innocents() {
        let attempts = log.seen.get(&innocent).unwrap_or_else(|| panic!("{innocent} was lost"));
        assert!(attempts.iter().all(|attempt| *attempt == 1), "{innocent} is charged: {attempts:?}");
    }
    assert_eq!(log.done, 31, "each is handled once");
    bench.depth_becomes("work", 0, 0).await;
    let letter = letters(bench, "dlq", 1).await.remove(0);
    assert_eq!(letter.body, KILLER.as_bytes());
    assert_eq!(text(&letter, "x-sidebus-dlq-cause"), Some("CRASH_LOOP"));
    assert_eq!(letter.properties.headers.get("x-sidebus-crash"), Some(&Value::Int64(5)));
    assert_eq!(letter.properties.headers.get("x-sidebus-attempt"), Some(&Value::Int64(0)));
    let Some(Value::Array(history)) = letter.properties.headers.get("x-sidebus-history") else { panic!("no history") };
    assert_eq!(history.len(), 5);
    let attempts = &log.seen[KILLER];
    assert!(attempts.is_sorted() && attempts.last() == Some(&5), "attempts never fall: {attempts:?}");
}

#[tokio::test(start_paused = true)]
async fn of_32_in_flight_only_the_one_that_kills_is_charged() {
    let bench = Bench::start();
    first_crash(&bench).await;
    let mut log = Log::default();
    live_on(&bench, RESTART, &mut log).await;
    only_the_killer_is_given_up(&bench, &log).await;
    assert!(log.crashes <= 10, "{} handlers were taken down", log.crashes);
}

#[tokio::test(start_paused = true)]
async fn of_32_in_flight_only_the_one_that_kills_is_charged_where_handlers_take_half_a_minute_to_start() {
    let bench = Bench::start();
    first_crash(&bench).await;
    pass(Duration::from_secs(4)).await;
    bench.depth_becomes("work", 0, 32).await;
    pass(Duration::from_secs(26)).await;
    // Nobody has come for five seconds: others may have them.
    bench.depth_becomes("work", 32, 0).await;
    let mut log = Log::default();
    live_on(&bench, Duration::from_secs(30), &mut log).await;
    only_the_killer_is_given_up(&bench, &log).await;
    assert!(log.crashes <= 10, "{} handlers were taken down", log.crashes);
}

#[tokio::test(start_paused = true)]
async fn of_32_in_flight_only_the_one_that_kills_is_charged_where_two_sidecars_share_the_queue() {
    let broker: MemoryBroker = broker();
    let (bench, other) = (Bench::on(broker.clone()), Bench::on(broker));
    first_crash(&bench).await;
    let (mut log, mut others) = (Log::default(), Log::default());
    tokio::join!(live_on(&bench, RESTART, &mut log), live_on(&other, RESTART * 2, &mut others));
    log.done += others.done;
    log.crashes += others.crashes;
    for (body, mut attempts) in others.seen {
        let known = log.seen.entry(body).or_default();
        known.append(&mut attempts);
        known.sort_unstable();
    }
    only_the_killer_is_given_up(&bench, &log).await;
}

#[tokio::test(start_paused = true)]
async fn a_handler_that_dies_of_each_receipt_dies_five_times_and_others_are_handled() {
    let bench = Bench::start();
    bench.publish(&[KILLER, "a", "b"]).await;
    let mut log = Log::default();
    live_on(&bench, RESTART, &mut log).await;
    assert!(log.seen[KILLER].len() <= 6, "{:?}", log.seen);
    assert_eq!(log.done, 2, "{:?}", log.seen);
    bench.depth_becomes("work", 0, 0).await;
    bench.depth_becomes("dlq", 1, 0).await;
}

#[tokio::test(start_paused = true)]
async fn a_lost_handler_and_a_stop_within_five_seconds_charge_nothing() {
    let broker: MemoryBroker = broker();
    for _ in 0..7 {
        let mut bench = Bench::on(broker.clone());
        if broker.faults().depth(&queue("work")).is_none_or(|depth| depth.ready == 0) {
            bench.publish(&["a"]).await;
        }
        let mut handler = bench.join(10).await;
        let got = handler.receive(1).await;
        assert_eq!(got[0].seen.record.attempt(), 1);
        assert_eq!(got[0].seen.record.crashes, None);
        die(handler).await;
        pass(Duration::from_secs(4)).await;
        for phase in [Phase::Notice, Phase::Intake] {
            bench.phases.enter(phase);
        }
        bench.bridge.registry.close();
        bench.phases.enter(Phase::Drain);
        bench.bridge.all_ended.wait().await;
        bench.phases.enter(Phase::Close);
        bench.depth_becomes("work", 1, 0).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_crash_is_charged_after_five_seconds_also_where_no_handler_comes() {
    let bench = Bench::start();
    bench.publish(&["a"]).await;
    let mut handler = bench.join(10).await;
    handler.receive(1).await;
    die(handler).await;
    pass(Duration::from_secs(4)).await;
    bench.depth_becomes("work", 0, 1).await;
    pass(Duration::from_secs(2)).await;
    bench.depth_becomes("work", 1, 0).await;
    let got = bench.join(10).await.receive(1).await;
    let record = &got[0].seen.record;
    assert_eq!((record.attempt(), record.crashes), (2, Some(1)));
    let last = record.history.last().unwrap();
    assert_eq!((last.kind.as_str(), last.handler.as_str(), last.attempt), ("crash", "h", 1));
    let message = &got[0].seen.message;
    assert_eq!((message.exchange.as_str(), message.routing_key.as_str()), ("events", "player.PlayerRegistered"));
}

#[tokio::test(start_paused = true)]
async fn what_a_leaving_handler_still_held_when_it_died_is_no_suspect() {
    let bench = Bench::start();
    bench.publish(&["a", "b", "c", "d"]).await;
    let mut handler = bench.join(10).await;
    handler.receive(4).await;
    assert!(handler.attached.voice.say(Said { leave: true, ..Said::default() }).await);
    die(handler).await;
    bench.depth_becomes("work", 4, 0).await;
    // All at once: a suspect would be alone.
    let got = bench.join(10).await.receive(4).await;
    assert!(got.iter().all(|handout| handout.redelivered && handout.seen.record.attempt() == 1));
}

#[tokio::test(start_paused = true)]
async fn what_was_lost_with_the_broker_alone_is_no_suspect() {
    let bench = Bench::start();
    bench.publish(&["a", "b", "c", "d"]).await;
    let mut handler = bench.join(3).await;
    handler.receive(3).await;
    bench.broker.faults().break_sessions("cut");
    until("the outage", || bench.bridge.link.live().is_none()).await;
    let got = handler.receive(3).await;
    assert_eq!(got.iter().filter(|handout| handout.redelivered).count(), 3);
}

#[tokio::test(start_paused = true)]
async fn what_another_sidecar_was_lost_with_comes_alone_and_then_in_groups_that_double() {
    let broker: MemoryBroker = broker();
    let names: Vec<String> = (0..20).map(|number| format!("m{number}")).collect();
    {
        let bench = Bench::on(broker.clone());
        bench.publish(&names.iter().map(String::as_str).collect::<Vec<_>>()).await;
        let mut handler = bench.join(20).await;
        handler.receive(20).await;
        // What a kill does: nothing is said to the broker any more, and its end of the link notices.
        broker.faults().break_sessions("killed");
    }
    let bench = Bench::on(broker);
    let mut handler = bench.join(20).await;
    let mut sizes = Vec::new();
    while sizes.iter().sum::<usize>() < 20 {
        handler.next().await.unwrap();
        while let Ok(frame) = tokio::time::timeout(Duration::from_millis(100), handler.next()).await {
            frame.unwrap();
        }
        let got = handler.take();
        assert!(got.iter().all(|handout| handout.redelivered && handout.seen.record.attempt() == 1));
        sizes.push(got.len());
        handler.ack(&ids(&got)).await;
    }
    // After n settled ones the group is 2^n, so that the third turn takes all that is left.
    assert_eq!(sizes, [1, 2, 8, 9]);
    bench.depth_becomes("work", 0, 0).await;
}

#[tokio::test(start_paused = true)]
async fn a_suspect_that_a_handler_gives_back_is_none_any_more() {
    let bench = Bench::start();
    bench.publish(&["a", "b"]).await;
    let mut handler = bench.join(10).await;
    handler.receive(2).await;
    die(handler).await;
    let mut handler = bench.join(10).await;
    let first = handler.receive(1).await;
    // It is held for a second, which holds up nobody.
    handler.say(&ids(&first), Verdict::Release).await;
    let second = handler.receive(1).await;
    handler.ack(&ids(&second)).await;
    bench.publish(&["c"]).await;
    assert_eq!(bodies(&handler.receive(1).await), ["c"]);
    // It joins what is open.
    let again = handler.receive(1).await;
    assert_eq!((bodies(&again), again[0].seen.record.attempt()), (bodies(&first), 1));
}

#[tokio::test(start_paused = true)]
async fn what_waits_behind_suspects_stays_where_it_is() {
    let bench = Bench::start();
    let names: Vec<String> = (0..100).map(|number| format!("m{number}")).collect();
    bench.publish(&names.iter().map(String::as_str).collect::<Vec<_>>()).await;
    let mut handler = bench.join(10).await;
    handler.receive(10).await;
    die(handler).await;
    let mut handler = bench.join(10).await;
    let first = handler.receive(1).await;
    // Slow, but not too slow: what was sent ahead for it waits.
    pass(Duration::from_secs(10)).await;
    handler.ack(&ids(&first)).await;
    let mut fresh = Vec::new();
    while fresh.len() < 90 {
        handler.next().await.expect("the stream goes on");
        let got = handler.take();
        handler.ack(&ids(&got)).await;
        fresh
            .extend(got.into_iter().filter(|handout| !names[..10].contains(&bodies(std::slice::from_ref(handout))[0])));
    }
    let again = fresh.iter().filter(|handout| handout.redelivered).count();
    assert_eq!(again, 0, "it went to the broker and back");
}

#[tokio::test(start_paused = true)]
async fn nothing_is_charged_while_a_handler_may_work_on_something_that_was_taken_from_it() {
    let bench = Bench::start();
    bench.publish(&[KILLER, "a"]).await;
    let mut handler = bench.join(1).await;
    assert_eq!(bodies(&handler.receive(1).await), [KILLER]);
    handler.find(|frame| frame.revocations.first().cloned()).await;
    assert_eq!(bodies(&handler.receive(1).await), ["a"]);
    die(handler).await;
    pass(Duration::from_secs(7)).await;
    let mut handler = bench.join(10).await;
    loop {
        handler.next().await.expect("the stream goes on");
        let got = handler.take();
        handler.ack(&ids(&got)).await;
        if let Some(innocent) = got.iter().find(|handout| bodies(std::slice::from_ref(*handout)) == ["a"]) {
            assert_eq!(innocent.seen.record.attempt(), 1);
            return;
        }
    }
}
