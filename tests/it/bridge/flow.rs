//! How deliveries flow: windows, consumers, several handlers.

use std::cell::Cell;
use std::time::Duration;

use sidebus::bridge::{Hangup, Refusal, RevocationReason, Said, StreamEnd};
use sidebus::broker::{Confirm, Publication, Routing};
use sidebus::domain::ledger::Outcome;
use sidebus::domain::message::Value;
use sidebus::domain::name::SubscriptionName;
use sidebus::domain::verdict::Verdict;

use tokio::time::{Instant, MissedTickBehavior, interval, timeout};

use super::bench::{Bench, Handler, bodies, broker, ids, pass, queue, subscription, until};

#[tokio::test(start_paused = true)]
async fn a_message_goes_in_comes_out_and_is_gone_after_its_ack() {
    let bench = Bench::start();
    bench.publish(&["a"]).await;
    let mut handler = bench.join(10).await;
    let got = handler.receive(1).await;
    assert_eq!(bodies(&got), ["a"]);
    assert_eq!(got[0].seen.record.attempt(), 1);
    handler.ack(&ids(&got)).await;
    let outcome = handler.find(|frame| frame.results.first().map(|result| result.outcome)).await;
    assert_eq!(outcome, Outcome::Acked);
    bench.depth_becomes("work", 0, 0).await;
}

/// failures.md H13.
#[tokio::test(start_paused = true)]
async fn without_a_handler_nothing_is_taken_from_the_queue() {
    let bench = Bench::start();
    bench.publish(&["a", "b", "c"]).await;
    bench.depth_becomes("work", 3, 0).await;
    let mut handler = bench.join(10).await;
    handler.receive(3).await;
    bench.depth_becomes("work", 0, 3).await;
    handler.attached.voice.hang_up(Hangup::Lost).await;
    bench.depth_becomes("work", 3, 0).await;
}

#[tokio::test(start_paused = true)]
async fn the_broker_sends_ahead_what_the_windows_hold_and_no_more() {
    let bench = Bench::start();
    bench.publish(&["a", "b", "c", "d", "e"]).await;
    let mut first = bench.join(2).await;
    first.receive(2).await;
    bench.depth_becomes("work", 3, 2).await;
    let mut second = bench.join(2).await;
    second.receive(2).await;
    bench.depth_becomes("work", 1, 4).await;
    // A window of 0 pauses, and what is in flight stays.
    let said = Said { messages_max: Some(0), ..Said::default() };
    assert!(second.attached.voice.say(said).await);
    bench.depth_becomes("work", 1, 4).await;
    assert!(first.has_nothing_more() && second.has_nothing_more());
}

#[tokio::test(start_paused = true)]
async fn a_window_raised_from_nothing_lets_deliveries_through() {
    let bench = Bench::start();
    bench.publish(&["a", "b"]).await;
    let mut handler = bench.join(0).await;
    bench.depth_becomes("work", 2, 0).await;
    let said = Said { messages_max: Some(5), ..Said::default() };
    assert!(handler.attached.voice.say(said).await);
    assert_eq!(bodies(&handler.receive(2).await), ["a", "b"]);
}

#[tokio::test(start_paused = true)]
async fn what_one_handler_loses_another_one_gets_with_the_same_attempt() {
    let bench = Bench::start();
    bench.publish(&["a", "b", "c"]).await;
    let mut first = bench.join(3).await;
    first.receive(3).await;
    let mut second = bench.join(10).await;
    first.attached.voice.hang_up(Hangup::Lost).await;
    for group in [1, 2] {
        let got = second.receive(group).await;
        assert!(got.iter().all(|handout| handout.redelivered && handout.seen.record.attempt() == 1));
        second.ack(&ids(&got)).await;
    }
    bench.depth_becomes("work", 0, 0).await;
}

/// failures.md H8: whatever was settled before, and nothing else, stays settled.
#[tokio::test(start_paused = true)]
async fn of_a_handler_that_is_lost_between_two_verdicts_exactly_the_rest_goes_to_another() {
    const HELD: usize = 8;
    for settled in 0..=HELD {
        let bench = Bench::start();
        let numbers: Vec<String> = (0..HELD).map(|number| number.to_string()).collect();
        bench.publish(&numbers.iter().map(String::as_str).collect::<Vec<_>>()).await;
        let mut first = bench.join(10).await;
        let got = first.receive(HELD).await;
        // The newest first, so that what is acked is no prefix of what was delivered.
        for handout in got.iter().rev().take(settled) {
            first.ack(&[handout.id]).await;
        }
        first.attached.voice.hang_up(Hangup::Lost).await;
        let mut second = bench.join(10).await;
        let mut rest = Vec::new();
        while rest.len() < HELD - settled {
            second.next().await.expect("the stream goes on");
            let got = second.take();
            rest.extend(bodies(&got));
            second.ack(&ids(&got)).await;
        }
        assert_eq!(rest, numbers[..HELD - settled]);
        bench.depth_becomes("work", 0, 0).await;
    }
}

/// failures.md H10.
#[tokio::test(start_paused = true)]
async fn a_handler_that_is_ten_times_as_fast_gets_about_ten_times_as_much() {
    const ALL: usize = 220;
    let bench = Bench::start();
    let numbers: Vec<String> = (0..ALL).map(|number| number.to_string()).collect();
    bench.publish(&numbers.iter().map(String::as_str).collect::<Vec<_>>()).await;
    let work = async |handler: &mut Handler, done: &Cell<usize>, each: Duration, own: &Cell<usize>| {
        let mut pace = interval(each);
        pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
        while done.get() < ALL {
            let Ok(frame) = timeout(Duration::from_secs(2), handler.next()).await else { continue };
            frame.expect("the stream goes on");
            for handout in handler.take() {
                pace.tick().await;
                handler.ack(&[handout.id]).await;
                done.set(done.get() + 1);
                own.set(own.get() + 1);
            }
        }
    };
    let (mut fast, mut slow) = (bench.join(10).await, bench.join(10).await);
    let (done, by_fast, by_slow) = (Cell::new(0), Cell::new(0), Cell::new(0));
    tokio::join!(
        work(&mut fast, &done, Duration::from_millis(100), &by_fast),
        work(&mut slow, &done, Duration::from_secs(1), &by_slow),
    );
    assert_eq!(by_fast.get() + by_slow.get(), ALL);
    assert!((10..=40).contains(&by_slow.get()), "{} by the slow one", by_slow.get());
}

/// failures.md S4: a stream whose reader is gone must not go on as one that never answers.
#[tokio::test(start_paused = true)]
async fn what_a_handler_holds_whose_reader_panics_goes_to_another_uncharged() {
    let bench = Bench::start();
    bench.publish(&["a", "b"]).await;
    let mut first = bench.join(2).await;
    first.receive(2).await;
    let mut second = bench.join(10).await;
    first.attached.voice.follow(async { panic!("a bug in reading") }).await;
    let got = second.receive(2).await;
    assert!(got.iter().all(|handout| handout.seen.record.attempt() == 1));
    assert!(matches!(first.next().await, Err(StreamEnd::Bug(_))));
    second.ack(&ids(&got)).await;
    bench.depth_becomes("work", 0, 0).await;
}

#[tokio::test(start_paused = true)]
async fn what_was_never_written_goes_to_the_next_handler_when_one_leaves() {
    let bench = Bench::start();
    bench.publish(&["a", "b"]).await;
    let first = bench.join(5).await;
    // Handed out, and never pulled from the outbox.
    bench.depth_becomes("work", 0, 2).await;
    let mut second = bench.join(5).await;
    assert!(first.attached.voice.say(Said { leave: true, ..Said::default() }).await);
    assert_eq!(bodies(&second.receive(2).await), ["a", "b"]);
}

#[tokio::test(start_paused = true)]
async fn a_release_comes_back_with_the_same_attempt() {
    let bench = Bench::start();
    bench.publish(&["a"]).await;
    let mut handler = bench.join(1).await;
    let got = handler.receive(1).await;
    handler.say(&ids(&got), Verdict::Release).await;
    let again = handler.receive(1).await;
    assert!(again[0].redelivered && again[0].id > got[0].id);
    assert_eq!(again[0].seen.record.attempt(), 1);
}

/// failures.md L7.
#[tokio::test(start_paused = true)]
async fn a_blocked_broker_refuses_publishes_at_once_and_takes_acks() {
    let bench = Bench::start();
    bench.publish(&["a"]).await;
    let mut handler = bench.join(1).await;
    let got = handler.receive(1).await;
    bench.broker.faults().block("memory");
    until("the alarm", || bench.bridge.link.now().blocked.is_some()).await;

    let message = got[0].seen.message.clone();
    let refused = bench.bridge.publisher.publish(vec![Publication { message, routing: Routing::Required }]).await;
    assert_eq!(refused, Err(Refusal::Blocked("memory".to_owned())));
    handler.ack(&ids(&got)).await;
    bench.depth_becomes("work", 0, 0).await;

    bench.broker.faults().unblock();
    until("the end of the alarm", || bench.bridge.link.now().blocked.is_none()).await;
    assert_eq!(bench.try_publish("b").await, Confirm::Stored);
}

/// failures.md L8.
#[tokio::test(start_paused = true)]
async fn at_the_lease_limit_what_was_extended_for_ever_has_failed_and_what_waited_behind_it_has_not() {
    let bench = Bench::start();
    bench.publish(&["a", "b"]).await;
    let mut handler = bench.join(2).await;
    let got = handler.receive(2).await;
    let extend = Said { extensions: vec![(ids(&got), Ok(Duration::from_mins(25)))], ..Said::default() };
    assert!(handler.attached.voice.say(extend).await);
    handler.find(|frame| frame.results.first().map(|result| result.outcome)).await;
    tokio::time::advance(Duration::from_mins(24)).await;
    let mut revoked = Vec::new();
    while revoked.len() < 2 {
        revoked.extend(handler.next().await.expect("the stream goes on").revocations);
    }
    let of = |handout: usize| vec![got[handout].id];
    assert_eq!(revoked, [(RevocationReason::SettleTimeout, of(0)), (RevocationReason::LeaseLimit, of(1))]);
    // The one that failed waits its delay.
    for (body, attempt) in [("b", 1), ("a", 2)] {
        let again = handler.receive(1).await;
        assert_eq!((bodies(&again), again[0].seen.record.attempt()), (vec![body.to_owned()], attempt));
        handler.ack(&ids(&again)).await;
    }
}

#[tokio::test(start_paused = true)]
async fn the_broker_sends_ahead_no_more_than_the_windows_in_bytes_hold() {
    let bench = Bench::start();
    let numbers: Vec<String> = (1_000..1_100).map(|number| number.to_string()).collect();
    bench.publish(&numbers.iter().map(String::as_str).collect::<Vec<_>>()).await;
    let mut handler = bench.join(50).await;
    let held = ids(&handler.receive(50).await);
    bench.depth_becomes("work", 50, 50).await;
    let said = Said { bytes_max: Some(40), ..Said::default() };
    assert!(handler.attached.voice.say(said).await);
    let told = handler.find(|frame| frame.window).await;
    assert_eq!(told, (10, 40), "ten bodies of four bytes");
    handler.ack(&held).await;
    bench.depth_becomes("work", 40, 10).await;
}

/// failures.md H4.
#[tokio::test(start_paused = true)]
async fn a_slow_handler_is_sent_no_more_than_it_can_do_within_its_leases() {
    let bench = Bench::start();
    let numbers: Vec<String> = (0..120).map(|number| number.to_string()).collect();
    bench.publish(&numbers.iter().map(String::as_str).collect::<Vec<_>>()).await;
    let mut handler = bench.join(100).await;
    let mut told = None;
    let mut done = 0;
    while done < 40 {
        let frame = handler.next().await.expect("the stream goes on");
        told = frame.window.or(told);
        assert!(frame.revocations.is_empty(), "{:?}", frame.revocations);
        for handout in handler.take() {
            tokio::time::advance(Duration::from_secs(20)).await;
            handler.ack(&[handout.id]).await;
            done += 1;
        }
    }
    let (messages, _) = told.expect("its window is another, and it is told");
    assert!((30..=37).contains(&messages), "half of 25 min at 20 s a message: {messages}");
    let depth = bench.broker.faults().depth(&queue("work")).expect("the queue is there");
    assert!(depth.unacked <= 60, "what lay here for it went back: {depth:?}");
}

#[tokio::test(start_paused = true)]
async fn a_subscription_that_a_handler_brought_goes_with_it_and_comes_again() {
    let bench = Bench::start();
    bench.connected().await;
    let name = SubscriptionName::parse("brought").unwrap();
    for round in ["a", "b"] {
        bench.bridge.registry.declare(subscription("brought", "#")).unwrap();
        let mut handler = bench.join_as("brought", 5).await;
        until("its queue", || bench.broker.faults().depth(&queue("brought")).is_some()).await;
        bench.publish(&[round]).await;
        let got = handler.receive(1).await;
        assert_eq!(bodies(&got), [round]);
        handler.ack(&ids(&got)).await;
        assert!(handler.attached.voice.say(Said { leave: true, ..Said::default() }).await);
        until("its end", || bench.bridge.registry.find(&name).is_none()).await;
        bench.depth_becomes("brought", 0, 0).await;
    }
    assert_eq!(bench.bridge.registry.configured().len(), 1, "a configured one stays without handlers");
}

#[tokio::test(start_paused = true)]
async fn a_handler_that_settles_once_a_frame_is_never_late_at_a_second_a_message() {
    let bench = Bench::start();
    let names: Vec<String> = (0..200).map(|number| number.to_string()).collect();
    bench.publish(&names.iter().map(String::as_str).collect::<Vec<_>>()).await;
    let mut handler = bench.join(100).await;
    let (mut count, mut largest) = (0, 0);
    while count < 200 {
        let frame = handler.next().await.expect("the stream goes on");
        assert!(frame.revocations.is_empty(), "{:?} after {count}", frame.revocations);
        let got = handler.take();
        if got.is_empty() {
            continue;
        }
        (count, largest) = (count + got.len(), largest.max(got.len()));
        tokio::time::advance(Duration::from_secs(1) * u32::try_from(got.len()).unwrap()).await;
        handler.ack(&ids(&got)).await;
    }
    assert!((2..60).contains(&largest), "frames grow, and not to a whole timeout: {largest}");
    bench.depth_becomes("work", 0, 0).await;
}

#[tokio::test(start_paused = true)]
async fn a_consumer_that_waits_for_its_turn_is_never_replaced_for_other_windows() {
    let mut alone = subscription("work", "#");
    alone.queue.arguments.insert("x-single-active-consumer".to_owned(), Value::Bool(true));
    let bench = Bench::with(broker(), vec![alone], &[]);
    let numbers: Vec<String> = (0..300).map(|number| number.to_string()).collect();
    bench.publish(&numbers.iter().map(String::as_str).collect::<Vec<_>>()).await;
    let mut first = bench.join(1).await;
    first.receive(1).await;
    bench.depth_becomes("work", 200, 100).await;
    let mut second = bench.join(150).await;
    second.receive(99).await;
    pass(Duration::from_secs(30)).await;
    bench.depth_becomes("work", 200, 100).await;
}

#[tokio::test(start_paused = true)]
async fn what_lies_here_for_a_handler_that_turns_out_slow_goes_to_another_at_once() {
    let bench = Bench::start();
    let numbers: Vec<String> = (0..100).map(|number| number.to_string()).collect();
    bench.publish(&numbers.iter().map(String::as_str).collect::<Vec<_>>()).await;
    let mut slow = bench.join(100).await;
    let one = slow.receive(1).await;
    let mut other = bench.join(100).await;
    pass(Duration::from_secs(50)).await;
    slow.ack(&ids(&one)).await;
    let begun = Instant::now();
    while other.has_nothing_more() {
        other.next().await.expect("the stream goes on");
    }
    assert!(begun.elapsed() < Duration::from_secs(1), "{:?}", begun.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_paused_handler_finds_the_queue_that_it_brought_made_at_once() {
    let bench = Bench::start();
    bench.connected().await;
    bench.bridge.registry.declare(subscription("brought", "#")).unwrap();
    let _paused = bench.join_as("brought", 0).await;
    let asked = Instant::now();
    until("its queue", || bench.broker.faults().depth(&queue("brought")).is_some()).await;
    assert!(asked.elapsed() < Duration::from_secs(1), "{:?}", asked.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_half_closed_stream_gives_back_at_once() {
    let bench = Bench::start();
    bench.publish(&["a"]).await;
    let mut first = bench.join(1).await;
    first.receive(1).await;
    let mut second = bench.join(1).await;
    let asked = Instant::now();
    first.attached.voice.hang_up(Hangup::HalfClosed).await;
    second.receive(1).await;
    assert!(asked.elapsed() < Duration::from_millis(500), "{:?}", asked.elapsed());
}

/// failures.md H12: what no handler can take does not take the place of what they can.
#[tokio::test(start_paused = true)]
async fn messages_that_nobody_can_receive_keep_nobody_waiting() {
    let bench = Bench::start();
    let large = "x".repeat(20_000);
    bench.publish(&[&large, &large, &large]).await;
    bench.publish(&["1", "2", "3", "4", "5"]).await;
    let mut handler = bench.join_narrow("work", (3, 10_000)).await;
    let got = handler.receive(3).await;
    handler.ack(&ids(&got)).await;
    assert_eq!(bodies(&handler.receive(2).await), ["4", "5"]);
}
