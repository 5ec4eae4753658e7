//! Expiry, limits and dead letters, on paused time.

use futures_util::FutureExt as _;
use tokio::time::{Instant, advance};

use super::*;

fn dead_letters_to(target: &str) -> [(&'static str, Value); 2] {
    [("x-dead-letter-exchange", Value::text("")), ("x-dead-letter-routing-key", Value::text(target))]
}

#[tokio::test(start_paused = true)]
async fn a_waiting_consumer_wakes_for_the_expiry_of_another_queue() {
    let broker = broker();
    let session = session(&broker).await;
    let mut tap = {
        let home = declare(&session, "home", &[]).await;
        consume(&session, &home, 10).await
    };
    let mut arguments = dead_letters_to("home").to_vec();
    arguments.push(("x-message-ttl", Value::Int32(5_000)));
    let slot = declare(&session, "slot", &arguments).await;
    let began = Instant::now();
    // The consumer waits already, with no expiry in sight, when the message comes.
    let (taken, ()) = tokio::join!(tap.take(1), fill(&session, &slot, &["later"]));
    assert_eq!(bodies(&taken), ["later"]);
    assert_eq!(began.elapsed().as_secs(), 5);
}

#[tokio::test(start_paused = true)]
async fn an_earlier_expiry_moves_the_waking_forward() {
    let broker = broker();
    let session = session(&broker).await;
    let home = declare(&session, "home", &[]).await;
    for (name, ttl) in [("slow", 60_000), ("fast", 1_000)] {
        let mut arguments = dead_letters_to("home").to_vec();
        arguments.push(("x-message-ttl", Value::Int32(ttl)));
        declare(&session, name, &arguments).await;
    }
    fill(&session, &name("slow"), &["slow"]).await;
    let mut tap = consume(&session, &home, 10).await;
    let began = Instant::now();
    let fast = name("fast");
    let (taken, ()) = tokio::join!(tap.take(1), fill(&session, &fast, &["fast"]));
    assert_eq!((bodies(&taken), began.elapsed().as_secs()), (vec!["fast"], 1));
    assert_eq!((bodies(&tap.take(1).await), began.elapsed().as_secs()), (vec!["slow"], 60));
}

#[tokio::test(start_paused = true)]
async fn the_unsettled_does_not_expire_before_it_is_back() {
    let broker = broker();
    let session = session(&broker).await;
    let work = declare(&session, "work", &[("x-message-ttl", Value::Int32(1_000))]).await;
    fill(&session, &work, &["held"]).await;
    let mut tap = consume(&session, &work, 1).await;
    let taken = tap.take(1).await;
    advance(Duration::from_secs(10)).await;
    assert_depth(&broker, &work, 0, 1);
    assert_eq!(tap.settle(taken, Settlement::GiveBack).await, [Settled::Applied]);
    assert_depth(&broker, &work, 0, 0);
}

#[tokio::test(start_paused = true)]
async fn the_shorter_of_two_lives_counts() {
    let broker = broker();
    let session = session(&broker).await;
    let work = declare(&session, "work", &[("x-message-ttl", Value::Int32(1_000))]).await;
    let mut brief = to(&work, "brief");
    brief.message.properties.expiration = Some("100".to_owned());
    let mut long = to(&work, "long");
    long.message.properties.expiration = Some("100000".to_owned());
    publish(&session, vec![brief, long]).await;
    advance(Duration::from_millis(99)).await;
    assert_depth(&broker, &work, 2, 0);
    advance(Duration::from_millis(1)).await;
    assert_depth(&broker, &work, 1, 0);
    advance(Duration::from_millis(900)).await;
    assert_depth(&broker, &work, 0, 0);
}

#[tokio::test(start_paused = true)]
async fn a_life_of_no_length_is_enough_for_a_consumer_that_is_ready() {
    let broker = broker();
    let session = session(&broker).await;
    let work = declare(&session, "work", &[("x-message-ttl", Value::Int32(0))]).await;
    fill(&session, &work, &["nobody there"]).await;
    assert_depth(&broker, &work, 0, 0);
    let mut tap = consume(&session, &work, 1).await;
    fill(&session, &work, &["just in time"]).await;
    assert_eq!(bodies(&tap.take(1).await), ["just in time"]);
}

#[tokio::test(start_paused = true)]
async fn an_expiration_that_is_no_number_is_refused() {
    let broker = broker();
    let session = session(&broker).await;
    let work = declare(&session, "work", &[]).await;
    let mut publication = to(&work, "soon");
    publication.message.properties.expiration = Some("soon".to_owned());
    let confirms = publish(&session, vec![publication]).await;
    assert!(matches!(confirms[..], [Confirm::NotSent(_)]), "{confirms:?}");
}

#[tokio::test(start_paused = true)]
async fn requeues_are_counted_and_end_at_the_limit() {
    let broker = broker();
    let session = session(&broker).await;
    let dead = declare(&session, "dead", &[]).await;
    let mut arguments = dead_letters_to("dead").to_vec();
    arguments.push(("x-delivery-limit", Value::Int64(2)));
    let work = declare(&session, "work", &arguments).await;
    fill(&session, &work, &["poison"]).await;
    let mut tap = consume(&session, &work, 1).await;
    for requeues in 0..3 {
        let taken = tap.take(1).await;
        let expected = (requeues > 0).then_some(Value::Int64(requeues));
        assert_eq!(headers(&taken[0]).get("x-delivery-count"), expected.as_ref());
        tap.settle(taken, Settlement::GiveBack).await;
    }
    assert_depth(&broker, &work, 0, 0);
    let taken = consume(&session, &dead, 1).await.take(1).await;
    let reason = headers(&taken[0]).get("x-first-death-reason").and_then(Value::as_text);
    assert_eq!(reason, Some("delivery_limit"));
}

#[tokio::test(start_paused = true)]
async fn a_classic_queue_does_not_count_requeues() {
    let broker = broker();
    let session = session(&broker).await;
    let work = declare(&session, "work", &[]).await;
    fill(&session, &work, &["again"]).await;
    let mut tap = consume(&session, &work, 1).await;
    for _ in 0..30 {
        let taken = tap.take(1).await;
        assert_eq!(headers(&taken[0]).get("x-delivery-count"), None);
        tap.settle(taken, Settlement::GiveBack).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_queue_without_a_target_drops_what_it_gives_up() {
    let broker = broker();
    let session = session(&broker).await;
    let work = declare(&session, "work", &[("x-max-length", Value::Int32(1))]).await;
    fill(&session, &work, &["old", "new"]).await;
    assert_eq!(bodies(&consume(&session, &work, 5).await.take(1).await), ["new"]);
}

#[tokio::test(start_paused = true)]
async fn at_least_once_keeps_a_dead_letter_until_its_target_takes_it() {
    let broker = broker();
    let session = session(&broker).await;
    let full = [("x-max-length", Value::Int32(1)), ("x-overflow", Value::text("reject-publish"))];
    let home = declare(&session, "home", &full).await;
    fill(&session, &home, &["in the way"]).await;
    let mut arguments = dead_letters_to("home").to_vec();
    arguments.push(("x-message-ttl", Value::Int32(10)));
    arguments.push(("x-dead-letter-strategy", Value::text("at-least-once")));
    let slot = declare(&session, "slot", &arguments).await;
    fill(&session, &slot, &["kept"]).await;
    advance(Duration::from_secs(30)).await;
    let kept = Depth { ready: 0, unacked: 0, dead_lettering: 1 };
    assert_eq!(broker.faults().depth(&slot), Some(kept));

    broker.faults().delete_queue(&home);
    advance(Duration::from_secs(30)).await;
    assert_eq!(broker.faults().depth(&slot), Some(kept));

    declare(&session, "home", &[]).await;
    let taken = consume(&session, &home, 5).await.take(1).await;
    assert_eq!(bodies(&taken), ["kept"]);
    assert_depth(&broker, &slot, 0, 0);
}

#[tokio::test(start_paused = true)]
async fn at_most_once_loses_a_dead_letter_that_its_target_refuses() {
    let broker = broker();
    let session = session(&broker).await;
    let full = [("x-max-length", Value::Int32(0)), ("x-overflow", Value::text("reject-publish"))];
    declare(&session, "home", &full).await;
    let mut arguments = dead_letters_to("home").to_vec();
    arguments.push(("x-message-ttl", Value::Int32(10)));
    let slot = declare(&session, "slot", &arguments).await;
    fill(&session, &slot, &["lost"]).await;
    advance(Duration::from_secs(1)).await;
    assert_depth(&broker, &slot, 0, 0);
    assert_depth(&broker, &name("home"), 0, 0);
}

#[tokio::test(start_paused = true)]
async fn a_second_trip_with_the_death_headers_of_the_first_is_dropped() {
    let broker = broker();
    let session = session(&broker).await;
    // Two rungs of a ladder: slow, then fast, then home.
    let home = declare(&session, "home", &[]).await;
    for (name, target) in [("fast", "home"), ("slow", "fast")] {
        let mut arguments = dead_letters_to(target).to_vec();
        arguments.push(("x-message-ttl", Value::Int32(100)));
        declare(&session, name, &arguments).await;
    }
    let slow = name("slow");
    fill(&session, &slow, &["traveller"]).await;
    let mut tap = consume(&session, &home, 10).await;
    let back = tap.take(1).await.remove(0).message;

    let mut again = to(&slow, "traveller");
    again.message.properties.headers = back.properties.headers;
    assert_eq!(publish(&session, vec![again]).await, [Confirm::Stored]);
    advance(Duration::from_secs(10)).await;
    assert!(tap.arrivals.next_batch(1).now_or_never().is_none());
    assert_depth(&broker, &slow, 0, 0);
    assert_depth(&broker, &name("fast"), 0, 0);
}
