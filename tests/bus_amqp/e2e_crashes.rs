//! Processes that die of a message, on real queues: the message is found out, and nothing else is charged
//! (failures.md H1).

use std::collections::BTreeMap;
use std::time::Duration;

use lapin::types::AMQPValue;
use sidebus::grpc::proto::sidebus::v1;

use crate::support::examples::mortal;
use crate::support::process::Process;
use crate::support::publisher::numbered;
use crate::support::scene::{Scene, Sidecar};
use crate::support::wait::{until, until_within};

/// Lives that a test gives its handlers.
const LIVES_MAX: usize = 30;
const LIFE: Duration = Duration::from_mins(1);

fn message(body: String) -> v1::Message {
    v1::Message { message_id: String::new(), body: body.into(), ..numbered(0) }
}

/// What a handler was handed: bodies and attempts.
fn handed(handler: &Process) -> Vec<(String, u32)> {
    let split = |line: String| {
        let (body, attempt) = line.rsplit_once(' ').expect("a body and an attempt");
        (body.to_owned(), attempt.parse().expect("a number"))
    };
    handler.output().into_iter().map(split).collect()
}

/// Handlers that start again as often as they die, until so many letters lie there and nothing else is left.
async fn live_on(scene: &Scene, sidecar: &Sidecar, letters: u32) -> BTreeMap<String, Vec<u32>> {
    let amqp = scene.amqp().await;
    let mut seen: BTreeMap<String, Vec<u32>> = BTreeMap::new();
    for _ in 0..LIVES_MAX {
        let mut handler = mortal("work", 0, &sidecar.grpc);
        let is_over = until_within(LIFE, "the handler dies, or nothing is left", async || {
            if !handler.is_running() {
                return Some(false);
            }
            let is_empty = amqp.depth(&scene.name("work")).await == Some(0)
                && amqp.depth(&scene.name("dlq")).await == Some(letters)
                && sidecar.metric("sidebus_in_flight_messages{subscription=\"work\"}").await == Some(0.0);
            is_empty.then_some(true)
        })
        .await;
        for (body, attempt) in handed(&handler) {
            seen.entry(body).or_default().push(attempt);
        }
        if is_over {
            assert_eq!(handler.stop().await, Some(0));
            return seen;
        }
    }
    panic!("{LIVES_MAX} handlers have died: {seen:?}");
}

#[tokio::test]
async fn of_32_in_flight_the_one_that_kills_is_found_and_nothing_else_is_charged() {
    for queue_type in ["quorum", "classic"] {
        let scene = Scene::new().await;
        let sidecar = scene.sidecar(&scene.work(&format!("queue_type = \"{queue_type}\""))).await;
        let mut first = mortal("work", 32, &sidecar.grpc);
        let bodies = (0..32).map(|number| if number == 17 { "kill".to_owned() } else { format!("m {number}") });
        sidecar.publisher().await.publish(bodies.map(message).collect()).await.expect("confirmed");
        first.end().await;
        assert_eq!(first.output_count(), 32, "{queue_type}: it held them all");

        let seen = live_on(&scene, &sidecar, 1).await;

        let innocents = seen.iter().filter(|(body, _)| *body != "kill");
        assert!(innocents.clone().all(|(_, attempts)| attempts.iter().all(|attempt| *attempt == 1)), "{seen:?}");
        assert_eq!(innocents.count(), 31, "{queue_type}");
        let kills = &seen["kill"];
        assert!(kills.is_sorted() && kills.last() == Some(&5), "{queue_type}: {kills:?}");
        let letter = scene.amqp().await.get(&scene.name("dlq")).await;
        assert_eq!(letter.delivery.data, b"kill");
        let headers = letter.delivery.properties.headers().clone().unwrap_or_default();
        assert_eq!(headers.inner().get("x-sidebus-dlq-cause"), Some(&AMQPValue::LongString("CRASH_LOOP".into())));
        assert_eq!(headers.inner().get("x-sidebus-crash"), Some(&AMQPValue::LongLongInt(5)));
        let charged = sidecar.metric("sidebus_crashes_total{subscription=\"work\",charged=\"yes\"}").await;
        assert_eq!(charged, Some(5.0), "{queue_type}");
    }
}

/// An exception that nobody catches closes the channel properly: the call is cancelled, and no link is cut.
#[tokio::test]
async fn a_handler_that_ends_by_an_exception_has_died_of_its_message() {
    let scene = Scene::new().await;
    let sidecar = scene.sidecar(&scene.work("retry = { crash_limit = 3 }")).await;
    let all = ["m 1", "raise", "m 2"].map(|body| message(body.to_owned())).to_vec();
    sidecar.publisher().await.publish(all).await.expect("confirmed");
    let seen = live_on(&scene, &sidecar, 1).await;
    assert!(seen["m 1"].iter().chain(&seen["m 2"]).all(|attempt| *attempt == 1), "{seen:?}");
    assert!(seen["raise"].len() <= 4 && seen["raise"].last() == Some(&3), "{seen:?}");
    let letter = scene.amqp().await.get(&scene.name("dlq")).await;
    assert_eq!(letter.delivery.data, b"raise");
}

/// failures.md H9.
#[tokio::test]
async fn a_rolling_deploy_whose_handlers_are_killed_charges_nothing() {
    let scene = Scene::new().await;
    let tables = scene.work("");
    for round in 0..6 {
        let mut sidecar = scene.sidecar(&tables).await;
        if round == 0 {
            sidecar.publisher().await.publish(vec![message("m".to_owned())]).await.expect("confirmed");
        }
        // It never comes to so many: it holds what it has.
        let mut handler = mortal("work", 9, &sidecar.grpc);
        until("it holds the message", async || (handler.output_count() == 1).then_some(())).await;
        assert_eq!(handed(&handler), [("m".to_owned(), 1)], "round {round}");
        handler.kill().await;
        sidecar.process.logged("handler lost").await;
        assert_eq!(sidecar.process.stop().await, Some(0));
    }
    scene.amqp().await.wait_for_depth(&scene.name("work"), 1).await;
}
