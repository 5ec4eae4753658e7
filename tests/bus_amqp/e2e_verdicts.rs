//! What handlers may do with what they hold, and what becomes of it on a real RabbitMQ.

use std::collections::BTreeSet;
use std::time::Duration;

use sidebus::grpc::proto::sidebus::v1;
use sidebus::grpc::proto::sidebus::v1::settlement::Verdict;
use sidebus::grpc::proto::sidebus::v1::{RevocationReason, SettlementOutcome as Outcome};
use tokio::time::timeout;
use tonic::Code;

use crate::support::handler::{Handler, number};
use crate::support::publisher::reason;
use crate::support::scene::{Scene, Sidecar};
use crate::support::wait::until;

const ACK: Option<Verdict> = Some(Verdict::Ack(v1::Ack { reply: None, outputs: Vec::new() }));

/// A handler whose window has so many messages.
async fn with_window(sidecar: &Sidecar, messages: i32) -> Handler {
    let flow = Some(v1::FlowControl { max_in_flight_messages: Some(messages), max_in_flight_bytes: None });
    Handler::open(sidecar.channel().await, v1::SubscribeOpen { flow, ..Handler::of("work") }).await
}

/// Waits until the broker has so many ready, and nobody who could take them.
async fn is_stored(scene: &Scene, messages: u32, consumers: u32) {
    let (amqp, queue) = (scene.amqp().await, scene.name("work"));
    let look = async || (amqp.look(&queue).await == Some((messages, consumers))).then_some(());
    until(&format!("{messages} ready and {consumers} consumers"), look).await;
}

/// Waits for an outcome of this delivery.
async fn told(handler: &mut Handler, id: i64, outcome: Outcome) {
    let is_told = |result: &v1::SettlementResult| result.outcome() == outcome && result.delivery_ids.contains(&id);
    handler.until(&format!("{outcome:?} for {id}"), |handler| handler.results.iter().any(is_told)).await;
}

/// failures.md H13.
#[tokio::test]
async fn without_a_handler_nothing_is_consumed_and_all_comes_to_the_first_that_joins() {
    let scene = Scene::new().await;
    let sidecar = scene.sidecar(&scene.work("")).await;
    sidecar.publisher().await.publish_numbers(0..20).await;
    is_stored(&scene, 20, 0).await;
    let (_, verbose) = sidecar.probe("/readyz?verbose").await;
    assert!(verbose.contains("no_handler"), "{verbose}");

    let mut handler = sidecar.handler().await;
    let held = handler.deliveries(20).await;
    handler.ack(&held).await;
    handler.leave().await;
    is_stored(&scene, 0, 0).await;
}

/// failures.md H6, H7 and H11.
#[tokio::test]
async fn only_the_first_verdict_of_the_holder_touches_the_broker() {
    let scene = Scene::new().await;
    let sidecar = scene.sidecar(&scene.work("")).await;
    let (mut one, mut other) = (with_window(&sidecar, 2).await, with_window(&sidecar, 2).await);
    sidecar.publisher().await.publish_numbers(0..4).await;
    let (held, of_other) = (one.deliveries(2).await, other.deliveries(2).await);

    one.say(vec![of_other[0].id + 1_000], ACK).await;
    told(&mut one, of_other[0].id + 1_000, Outcome::UnknownDelivery).await;
    one.say(vec![held[0].id], None).await;
    told(&mut one, held[0].id, Outcome::Invalid).await;
    // Nobody has settled anything, so nothing more comes and nothing is gone.
    one.say(vec![held[0].id], ACK).await;
    one.say(vec![held[0].id], ACK).await;
    one.dead_letter(&held[0]).await;
    told(&mut one, held[0].id, Outcome::AlreadySettled).await;
    one.ack(&held[1..]).await;
    drop(other);
    // What a lost handler held comes again one by one.
    let again = one.handle_all(of_other.iter().map(number).collect()).await;
    assert_eq!(again.len(), 2, "each of the other's once, and none of its own again");
    one.leave().await;
    is_stored(&scene, 0, 0).await;
    assert_eq!(scene.amqp().await.depth(&scene.name("dlq")).await, Some(0));
}

/// failures.md H7.
#[tokio::test]
async fn who_talks_nonsense_a_hundred_times_is_sent_away_and_what_it_held_comes_again() {
    let scene = Scene::new().await;
    let sidecar = scene.sidecar(&scene.work("")).await;
    let mut nonsense = sidecar.handler().await;
    sidecar.publisher().await.publish_numbers(0..10).await;
    nonsense.deliveries(10).await;
    nonsense.say((1_000_000..1_000_100).collect(), ACK).await;
    let ended = nonsense.end_status().await;
    assert_eq!(reason(&ended), (Code::InvalidArgument, "PROTOCOL_VIOLATION".to_owned()), "{ended:?}");

    let mut next = sidecar.handler().await;
    let held = next.deliveries(10).await;
    assert!(held.iter().all(|delivery| delivery.attempt == 1), "nothing is charged");
    next.ack(&held).await;
    next.leave().await;
    is_stored(&scene, 0, 0).await;
}

/// failures.md H8.
#[tokio::test]
async fn of_a_handler_that_is_lost_exactly_what_it_has_not_settled_comes_again() {
    let scene = Scene::new().await;
    let sidecar = scene.sidecar(&scene.work("")).await;
    let all = v1::ResultMode::All.into();
    let open = v1::SubscribeOpen { result_mode: all, ..Handler::of("work") };
    let mut lost = Handler::open(sidecar.channel().await, open).await;
    sidecar.publisher().await.publish_numbers(0..100).await;
    let held = lost.deliveries(100).await;
    let (settled, rest): (Vec<_>, Vec<_>) =
        held.into_iter().rev().partition(|delivery| number(delivery).is_multiple_of(3));
    lost.ack(&settled).await;
    let is_acked = |handler: &Handler| {
        let acked = handler.results.iter().filter(|result| result.outcome() == Outcome::Acked);
        acked.map(|result| result.delivery_ids.len()).sum::<usize>() == settled.len()
    };
    lost.until("the broker has read them", is_acked).await;
    drop(lost);

    let mut next = sidecar.handler().await;
    let missing: BTreeSet<usize> = rest.iter().map(number).collect();
    let again = next.handle_all(missing.clone()).await;
    assert_eq!(again.iter().map(number).collect::<BTreeSet<_>>(), missing);
    assert_eq!(again.len(), missing.len(), "each once");
    next.leave().await;
    is_stored(&scene, 0, 0).await;
}

/// failures.md H3.
#[tokio::test]
async fn a_hanging_handler_loses_its_oldest_delivery_unless_it_asks_for_more_time() {
    let scene = Scene::new().await;
    let sidecar = scene.sidecar(&scene.work("retry.min_backoff = \"100ms\"")).await;
    let settle_timeout = Some(prost_types::Duration { seconds: 1, nanos: 0 });
    let open = v1::SubscribeOpen { settle_timeout, ..Handler::of("work") };
    let mut handler = Handler::open(sidecar.channel().await, open).await;
    sidecar.publisher().await.publish_numbers(0..1).await;
    let first = handler.delivery().await;
    handler.until("it is revoked", |handler| !handler.revocations.is_empty()).await;
    let revocation = &handler.revocations[0];
    assert_eq!((revocation.reason(), &revocation.delivery_ids), (RevocationReason::SettleTimeout, &vec![first.id]));
    handler.ack(std::slice::from_ref(&first)).await;
    told(&mut handler, first.id, Outcome::LeaseExpired).await;

    let second = handler.delivery().await;
    assert_eq!((number(&second), second.attempt), (0, 2), "it is charged, and not lost");
    handler.extend(std::slice::from_ref(&second), 20).await;
    let revoked_again = handler.until("it is revoked again", |handler| handler.revocations.len() > 1);
    timeout(Duration::from_secs(3), revoked_again).await.expect_err("it has more time");
    handler.ack(&[second]).await;
    handler.leave().await;
    is_stored(&scene, 0, 0).await;
}

/// The window of a handler is a level: it may be changed at any time.
#[tokio::test]
async fn a_window_is_raised_shrunk_and_paused_while_deliveries_are_out() {
    let scene = Scene::new().await;
    let sidecar = scene.sidecar(&scene.work("")).await;
    sidecar.publisher().await.publish_numbers(0..200).await;
    let mut handler = with_window(&sidecar, 10).await;
    let mut held = handler.deliveries(10).await;
    handler.window(Some(30), None).await;
    held.extend(handler.deliveries(20).await);

    // Twenty-six of thirty go: it holds four, and one more comes.
    handler.window(Some(5), None).await;
    let done: Vec<_> = held.drain(..26).collect();
    handler.ack(&done).await;
    held.extend(handler.deliveries(1).await);
    stays_quiet(&mut handler).await;

    handler.window(Some(0), None).await;
    handler.ack(&held).await;
    held.clear();
    stays_quiet(&mut handler).await;

    // From 31 on, of two bytes each.
    handler.window(Some(100), Some(12)).await;
    held.extend(handler.deliveries(6).await);
    stays_quiet(&mut handler).await;
    handler.window(Some(1_000), Some(1 << 20)).await;
    held.extend(handler.deliveries(200 - 26 - 5 - held.len()).await);
    let numbers: BTreeSet<usize> = held.iter().map(number).collect();
    assert_eq!(numbers.len(), held.len(), "none twice");
    handler.ack(&held).await;
    handler.leave().await;
    is_stored(&scene, 0, 0).await;
}

/// Nothing is delivered for a while: far longer than what is on its way takes.
async fn stays_quiet(handler: &mut Handler) {
    let more = handler.delivery();
    timeout(Duration::from_millis(500), more).await.expect_err("its window is full");
}
