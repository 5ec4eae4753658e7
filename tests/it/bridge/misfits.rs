//! What exists otherwise than it is named stops those who use it and nobody else, and is over once it is mended.

use std::time::Duration;

use sidebus::bridge::StreamEnd;
use sidebus::broker::{BrokerError, Confirm};
use sidebus::domain::message::{Headers, Value};
use sidebus::domain::name::ExchangeName;
use sidebus::domain::subscription::{DeadLetterSettings, Subscription};
use sidebus::domain::topology::{Exchange, ExchangeKind, Queue, Step};

use super::bench::{Bench, Handler, bodies, broker, broker_with, ids, pass, queue, subscription};

fn exchange(name: &str, kind: ExchangeKind) -> Exchange {
    Exchange::durable(ExchangeName::parse(name).unwrap(), kind)
}

fn classic(name: &str) -> Step {
    Step::Queue(Queue {
        name: queue(name),
        durable: true,
        auto_delete: false,
        exclusive: false,
        arguments: Headers::new(),
        named: std::collections::BTreeSet::new(),
    })
}

/// A subscription whose queue is named with a TTL of one minute.
fn named(name: &str) -> Subscription {
    let mut named = subscription(name, "#");
    named.queue.arguments.insert("x-message-ttl".to_owned(), Value::Int64(60_000));
    named
}

async fn mismatch(handler: &mut Handler) -> (String, String) {
    loop {
        match handler.next().await {
            Ok(_) => {}
            Err(StreamEnd::Mismatch(BrokerError::Mismatch { object, differences, .. })) => {
                return (object, differences[0].key.clone());
            }
            Err(other) => panic!("the stream ended otherwise: {other:?}"),
        }
    }
}

#[tokio::test(start_paused = true)]
async fn an_exchange_that_does_not_fit_stops_the_subscriptions_bound_to_it_and_no_other() {
    let broker = broker_with(vec![Step::Exchange(exchange("commands", ExchangeKind::Fanout))]).await;
    let mut commands = exchange("commands", ExchangeKind::Direct);
    commands.named.insert("type".to_owned());
    let mut bound = subscription("bound", "#");
    bound.bindings[0].exchange = commands.name.clone();
    let bench = Bench::with(broker, vec![bound, subscription("work", "#")], &[commands]);

    bench.connected().await;
    let mut stopped = bench.join_as("bound", 10).await;
    assert_eq!(mismatch(&mut stopped).await, ("exchange commands".to_owned(), "type".to_owned()));
    let mut handler = bench.join(10).await;
    bench.publish(&["a"]).await;
    assert_eq!(bodies(&handler.receive(1).await), ["a"]);
}

#[tokio::test(start_paused = true)]
async fn a_queue_that_is_mended_is_made_without_a_handler_and_without_a_restart() {
    let bench = Bench::with(broker_with(vec![classic("work")]).await, vec![named("work"), named("other")], &[]);
    bench.connected().await;
    for _ in 0..2 {
        let mut stopped = bench.join(10).await;
        assert_eq!(mismatch(&mut stopped).await, ("queue work".to_owned(), "x-message-ttl".to_owned()));
    }
    assert!(bench.broker.faults().delete_queue(&queue("work")));
    // Longer than any wait between two looks.
    tokio::time::advance(Duration::from_secs(1)).await;
    bench.depth_becomes("work", 0, 0).await;
    bench.publish(&["a"]).await;
    bench.depth_becomes("work", 1, 0).await;
    let mut handler = bench.join(10).await;
    assert_eq!(bodies(&handler.receive(1).await), ["a"]);
}

#[tokio::test(start_paused = true)]
async fn a_queue_that_is_deleted_while_nobody_consumes_it_is_made_again_within_a_minute() {
    let bench = Bench::with(broker(), vec![subscription("work", "#"), subscription("other", "#")], &[]);
    bench.connected().await;
    assert!(bench.broker.faults().delete_queue(&queue("work")));
    bench.publish(&["lost"]).await;
    tokio::time::advance(Duration::from_secs(61)).await;
    bench.depth_becomes("work", 0, 0).await;
    bench.publish(&["a"]).await;
    bench.depth_becomes("work", 1, 0).await;
}

#[tokio::test(start_paused = true)]
async fn an_exchange_that_a_joining_handler_makes_again_gets_the_bindings_of_all() {
    let subscriptions = vec![subscription("work", "#"), subscription("other", "#")];
    let bench = Bench::with(broker(), subscriptions, &[]);
    bench.connected().await;
    assert!(bench.broker.faults().delete_exchange(&ExchangeName::parse("events").unwrap()));
    let _handler = bench.join(10).await;
    bench.depth_becomes("work", 0, 0).await;
    // Much sooner than the minute of the common look.
    tokio::time::advance(Duration::from_secs(1)).await;
    bench.publish(&["a"]).await;
    bench.depth_becomes("other", 1, 0).await;
}

#[tokio::test(start_paused = true)]
async fn an_exchange_that_a_publish_makes_again_gets_the_bindings_of_what_handlers_brought() {
    let bench = Bench::on(broker());
    bench.bridge.registry.declare(subscription("brought", "#")).unwrap();
    let mut brought = bench.join_as("brought", 10).await;
    bench.publish(&["a"]).await;
    assert_eq!(bodies(&brought.receive(1).await), ["a"]);

    let events = ExchangeName::parse("events").unwrap();
    assert!(bench.broker.faults().delete_exchange(&events));
    assert_eq!(bench.try_publish("b").await, Confirm::ExchangeMissing(events));
    assert_eq!(bench.try_publish("c").await, Confirm::Stored);
    assert_eq!(bodies(&brought.receive(1).await), ["c"]);
}

#[tokio::test(start_paused = true)]
async fn what_handlers_brought_is_bound_again_with_everything_else_whatever_else_does_not_fit() {
    let broker = broker_with(vec![classic("misfit")]).await;
    let bench = Bench::with(broker, vec![subscription("work", "#"), named("misfit")], &[]);
    bench.bridge.registry.declare(subscription("brought", "#")).unwrap();
    let mut brought = bench.join_as("brought", 10).await;
    bench.publish(&["a"]).await;
    let taken = brought.receive(1).await;
    brought.ack(&ids(&taken)).await;
    // By then the misfit is looked at every ten seconds at most.
    pass(Duration::from_mins(3)).await;

    assert!(bench.broker.faults().delete_exchange(&ExchangeName::parse("events").unwrap()));
    let mut handler = bench.join(10).await;
    bench.depth_becomes("work", 0, 1).await;
    pass(Duration::from_millis(500)).await;
    assert_eq!(bench.try_publish("b").await, Confirm::Stored);
    assert_eq!(bodies(&handler.receive(2).await), ["a", "b"]);
    assert_eq!(bodies(&brought.receive(1).await), ["b"]);
}

#[tokio::test(start_paused = true)]
async fn dead_letters_that_lack_our_defaults_are_used_as_they_are() {
    let bench = Bench::on(broker_with(vec![classic("dlq"), classic("work")]).await);
    let mut handler = bench.join(10).await;
    bench.publish(&["a"]).await;
    assert_eq!(bodies(&handler.receive(1).await), ["a"]);
}

#[tokio::test(start_paused = true)]
async fn a_dead_letter_exchange_that_would_lose_letters_stops_its_subscriptions_and_no_publish() {
    let mut internal = exchange("dlx", ExchangeKind::Fanout);
    internal.internal = true;
    for (there, key) in [
        (exchange("dlx", ExchangeKind::Direct), "type"),
        (exchange("dlx", ExchangeKind::Topic), "type"),
        (exchange("dlx", ExchangeKind::Headers), "type"),
        (internal, "internal"),
    ] {
        let mut other = subscription("other", "#");
        other.dead_letter = DeadLetterSettings::shared(ExchangeName::parse("dlx2").unwrap(), queue("dlq2"));
        let broker = broker_with(vec![Step::Exchange(there)]).await;
        let bench = Bench::with(broker, vec![subscription("work", "#"), other], &[]);
        bench.connected().await;
        let mut stopped = bench.join(10).await;
        assert_eq!(mismatch(&mut stopped).await, ("exchange dlx".to_owned(), key.to_owned()));
        let mut handler = bench.join_as("other", 10).await;
        bench.publish(&["a"]).await;
        assert_eq!(bodies(&handler.receive(1).await), ["a"]);
    }
}
