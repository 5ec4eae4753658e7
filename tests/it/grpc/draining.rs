//! How a sidecar stops under its handlers: told, settled or given back, and ended within its time.

use sidebus::app::Ended;
use sidebus::grpc::proto::sidebus::v1;
use tonic::Code;

use super::WORK;
use crate::support::errors::refused;
use crate::support::eventually;
use crate::support::sidecar::Sidecar;
use crate::support::words::{ack, message, open, open_window, settle};

/// A handler has next to no time, so that a test of its end need not wait.
const SHORT: &str = "[shutdown]\nintake = \"0s\"\ndrain = \"200ms\"\nreturn = \"2s\"\nclose = \"3s\"\n";

#[tokio::test]
async fn a_sidecar_without_handlers_stops_at_once() {
    let mut sidecar = Sidecar::start(WORK).await;
    sidecar.publish([message("work.A", "1")]).await;
    sidecar.stop().await;
    assert_eq!(sidecar.ended().await, Ended::Drained);
    assert_eq!((sidecar.depth("work").ready, sidecar.depth("work").unacked), (1, 0));
}

#[tokio::test]
async fn an_idle_handler_is_told_and_its_stream_ends_well() {
    let mut sidecar = Sidecar::start(WORK).await;
    let mut handler = sidecar.handler(open("work")).await;
    sidecar.stop().await;
    let drain = handler.drain().await;
    assert_eq!((drain.reason(), drain.grace.unwrap().seconds), (v1::DrainReason::Shutdown, 10));
    handler.end().await.unwrap();
    assert_eq!(sidecar.ended().await, Ended::Drained);
}

#[tokio::test]
async fn a_working_handler_settles_what_it_holds_and_gets_nothing_more() {
    let mut sidecar = Sidecar::start(WORK).await;
    sidecar.publish((0..5).map(|number| message("work.A", number.to_string()))).await;
    let mut handler = sidecar.handler(open_window("work", 3)).await;
    let held: Vec<i64> = handler.deliveries(3).await.iter().map(|delivery| delivery.id).collect();

    sidecar.stop().await;
    handler.drain().await;
    handler.say(settle([held[0]], ack())).await;
    assert_eq!(handler.pending().await, []);
    handler.say(settle([held[1], held[2]], ack())).await;

    handler.end().await.unwrap();
    assert_eq!(handler.other_results(), []);
    assert_eq!(sidecar.ended().await, Ended::Drained);
    assert_eq!((sidecar.depth("work").ready, sidecar.depth("work").unacked), (2, 0));
}

#[tokio::test]
async fn a_stuck_handler_loses_its_leases_and_the_messages_go_back() {
    let mut sidecar = Sidecar::start(&format!("{WORK}{SHORT}")).await;
    sidecar.publish([message("work.A", "1"), message("work.A", "2")]).await;
    let mut handler = sidecar.handler(open("work")).await;
    let held: Vec<i64> = handler.deliveries(2).await.iter().map(|delivery| delivery.id).collect();

    sidecar.stop().await;

    let revoked = handler.revocation().await;
    assert_eq!((revoked.delivery_ids.clone(), revoked.reason()), (held, v1::RevocationReason::DrainExpired));
    let why = refused(handler.end().await, Code::Unavailable, "SIDECAR_DRAINING");
    assert!(why.retry_after.is_some(), "{why:?}");
    assert_eq!(sidecar.ended().await, Ended::Drained);
    assert_eq!((sidecar.depth("work").ready, sidecar.depth("work").unacked), (2, 0));
    // The next sidecar hands them out again, uncharged.
    let next = Sidecar::start_over(sidecar.broker.clone(), WORK).await;
    let again = next.handler(open("work")).await.deliveries(2).await;
    assert!(again.iter().all(|delivery| delivery.attempt == 1 && delivery.redelivered), "{again:?}");
}

#[tokio::test]
async fn publishing_goes_on_and_new_handlers_are_refused_while_handlers_finish() {
    let mut sidecar = Sidecar::start(WORK).await;
    sidecar.publish([message("work.A", "1")]).await;
    let mut handler = sidecar.handler(open("work")).await;
    let mut publisher = sidecar.publisher().await;
    let delivery = handler.delivery().await;

    sidecar.stop().await;
    handler.drain().await;

    let request = v1::PublishRequest { messages: vec![message("work.A", "an outcome")], options: None };
    publisher.publish(request).await.unwrap();
    let refusal = sidecar.try_handler(open("work")).await;
    refused(refusal, Code::Unavailable, "SIDECAR_DRAINING");
    handler.say(settle([delivery.id], ack())).await;
    handler.end().await.unwrap();
    assert_eq!(sidecar.ended().await, Ended::Drained);
    assert_eq!(sidecar.depth("work").ready, 1);
}

#[tokio::test]
async fn a_second_signal_ends_a_drain_at_once() {
    let mut sidecar = Sidecar::start(WORK).await;
    sidecar.publish([message("work.A", "1")]).await;
    let mut handler = sidecar.handler(open("work")).await;
    handler.delivery().await;
    sidecar.stop().await;
    handler.drain().await;
    sidecar.stop().await;
    assert_eq!(sidecar.ended().await, Ended::Interrupted);
}

#[tokio::test]
async fn a_retry_during_the_drain_is_stored_before_the_end() {
    let mut sidecar = Sidecar::start(WORK).await;
    sidecar.publish([message("work.A", "1")]).await;
    let mut handler = sidecar.handler(open("work")).await;
    let delivery = handler.delivery().await;
    sidecar.stop().await;
    handler.drain().await;
    handler.say(settle([delivery.id], crate::support::words::retry("LATER", Some(0)))).await;
    handler.end().await.unwrap();
    assert_eq!(sidecar.ended().await, Ended::Drained);
    // The embedded broker outlives the sidecar, and the slot brings the copy home without it.
    eventually("the copy", async || (sidecar.depth("work").ready == 1).then_some(())).await;
}
