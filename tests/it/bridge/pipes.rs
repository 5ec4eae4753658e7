//! A stream of publishes inside the bridge: what one caller leaves lying costs nobody else anything.

use std::time::Duration;

use bytes::Bytes;
use sidebus::bridge::{Outcome, PipeWindow};
use sidebus::broker::{Confirm, Publication, Routing};
use sidebus::domain::message::{Message, Properties};
use sidebus::domain::name::ExchangeName;

use super::bench::Bench;

fn numbered(number: usize) -> (usize, Publication) {
    let message = Message {
        exchange: ExchangeName::parse("events").unwrap(),
        routing_key: "player.PlayerRegistered".to_owned(),
        properties: Properties { message_id: Some(number.to_string()), ..Properties::default() },
        body: Bytes::from_static(b"body"),
    };
    (number, Publication { message, routing: Routing::Required })
}

#[tokio::test(start_paused = true)]
async fn a_caller_that_takes_no_answers_is_held_back_and_nobody_else_is() {
    let bench = Bench::start();
    bench.connected().await;
    let everything = 1_000;
    let (input, mut output) = bench.bridge.publisher.pipe(PipeWindow { messages: everything, kib: everything });
    input.publish((0..everything).map(numbered).collect()).await;
    let more = input.publish(vec![numbered(everything)]);
    tokio::time::timeout(Duration::from_mins(1), more).await.expect_err("its window is full of answers");

    bench.publish(&["of another caller"]).await;

    let mut answered = Vec::new();
    while answered.len() < everything {
        for answer in output.next().await.expect("there are more") {
            assert_eq!(answer.outcome, Outcome::Confirm(Confirm::Stored));
            answered.push(answer.tag);
        }
    }
    assert_eq!(answered, (0..everything).collect::<Vec<_>>());
    drop(input);
    assert!(output.next().await.is_none());
}
