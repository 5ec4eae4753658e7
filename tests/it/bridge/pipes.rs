//! A stream of publishes inside the bridge: what one caller leaves lying costs nobody else anything.

use std::time::Duration;

use bytes::Bytes;
use futures_util::future::poll_immediate;
use sidebus::bridge::{Outcome, PipeWindow};
use sidebus::broker::{Confirm, Publication, Routing};
use sidebus::domain::message::{Message, Properties};
use sidebus::domain::name::ExchangeName;

use super::bench::Bench;

fn numbered(number: usize) -> (usize, Publication) {
    with_body(number, Bytes::from_static(b"body"))
}

fn with_body(number: usize, body: Bytes) -> (usize, Publication) {
    let message = Message {
        exchange: ExchangeName::parse("events").unwrap(),
        routing_key: "player.PlayerRegistered".to_owned(),
        properties: Properties { message_id: Some(number.to_string()), ..Properties::default() },
        body,
    };
    (number, Publication { message, routing: Routing::Required })
}

#[tokio::test(start_paused = true)]
async fn a_caller_that_takes_no_answers_is_held_back_and_nobody_else_is() {
    let bench = Bench::start();
    bench.connected().await;
    let everything = 1_000;
    let (mut input, mut output) = bench.bridge.publisher.pipe(PipeWindow { messages: everything, kib: everything });
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

#[tokio::test(start_paused = true)]
async fn a_window_in_bytes_holds_back_what_is_beyond_it_until_the_broker_has_answered() {
    let bench = Bench::start();
    bench.connected().await;
    let large = |number| vec![with_body(number, Bytes::from(vec![0; 1_024]))];
    for (kib, is_held_back) in [(3, true), (4, false)] {
        let (mut input, mut output) = bench.bridge.publisher.pipe(PipeWindow { messages: 1_000, kib });
        // Nobody else has a turn on this thread before something is awaited that is not ready: none of these is answered.
        for number in 0..3 {
            poll_immediate(input.publish(large(number))).await.expect("there is room for three");
        }
        let mut fourth = Box::pin(input.publish(large(3)));
        assert_eq!(poll_immediate(&mut fourth).await.is_none(), is_held_back, "a window of {kib} KiB");
        if is_held_back {
            fourth.await;
        } else {
            drop(fourth);
        }
        drop(input);
        let mut answered = Vec::new();
        while let Some(answers) = output.next().await {
            answered.extend(answers.into_iter().map(|answer| answer.tag));
        }
        assert_eq!(answered, [0, 1, 2, 3]);
    }
}
