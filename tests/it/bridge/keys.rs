//! Ordering keys: what callers that know nothing of each other publish with one key keeps its order.

use std::sync::Arc;

use bytes::Bytes;
use sidebus::broker::{Confirm, Publication, Routing};
use sidebus::domain::message::{Headers, Message, Properties, Value};
use sidebus::domain::name::ExchangeName;
use sidebus::domain::record::ORDERING_KEY_HEADER;
use tokio::task::JoinSet;

use super::bench::{Bench, bodies, ids};

/// So many that without a key both lanes of the bench have more than a batch to do.
const MESSAGES: usize = 200;

fn publication(number: usize, key: Option<&str>) -> Publication {
    let headers = key.map(|key| (ORDERING_KEY_HEADER.to_owned(), Value::text(key)));
    let message = Message {
        exchange: ExchangeName::parse("events").unwrap(),
        routing_key: "player.PlayerRegistered".to_owned(),
        properties: Properties { headers: headers.into_iter().collect::<Headers>(), ..Properties::default() },
        body: Bytes::from(format!("{}-{number}", key.unwrap_or("none"))),
    };
    Publication { message, routing: Routing::Required }
}

/// Publishes so many messages at once, each by a caller of its own with the key of its turn; answers what a handler then gets.
async fn order_of(keys: &'static [Option<&str>]) -> Vec<String> {
    let bench = Arc::new(Bench::start());
    bench.connected().await;
    let mut callers = JoinSet::new();
    for number in 0..MESSAGES {
        let bench = Arc::clone(&bench);
        let publication = publication(number, keys[number % keys.len()]);
        callers.spawn(async move { bench.bridge.publisher.publish(vec![publication]).await.unwrap() });
    }
    assert!(callers.join_all().await.into_iter().all(|confirms| confirms == [Confirm::Stored]));
    let mut handler = bench.join(100).await;
    let mut got = Vec::new();
    while got.len() < MESSAGES {
        handler.next().await.expect("the stream goes on");
        let handouts = handler.take();
        got.extend(bodies(&handouts));
        handler.ack(&ids(&handouts)).await;
    }
    got
}

/// The numbers of one key, in the order of the queue.
fn numbers(bodies: &[String], key: &str) -> Vec<usize> {
    let of_key = |body: &String| body.strip_prefix(key)?.strip_prefix('-')?.parse().ok();
    bodies.iter().filter_map(of_key).collect()
}

#[tokio::test(start_paused = true)]
async fn what_many_callers_publish_with_one_key_keeps_its_order() {
    let got = order_of(&[Some("player-7")]).await;
    assert!(numbers(&got, "player-7").into_iter().eq(0..MESSAGES), "{got:?}");
}

#[tokio::test(start_paused = true)]
async fn each_key_keeps_its_order_beside_other_keys_and_what_has_none_takes_every_lane() {
    let got = order_of(&[Some("a"), Some("b"), None, None]).await;
    for key in ["a", "b"] {
        assert!(numbers(&got, key).is_sorted() && numbers(&got, key).len() == MESSAGES / 4, "{key}: {got:?}");
    }
    assert!(!numbers(&got, "none").is_sorted(), "it has overtaken itself, so more than one lane was at work");
}
