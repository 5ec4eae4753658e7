//! How a sidecar stops under its handlers: told, settled or given back, and ended within its time.

use std::os::unix::net::UnixListener;
use std::sync::Arc;
use std::time::Duration;

use sidebus::app::Ended;
use sidebus::broker::Broker;
use sidebus::broker::memory::{MemoryBroker, MemoryOptions};
use sidebus::grpc::proto::sidebus::v1;
use tonic::Code;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;

use super::WORK;
use crate::support::errors::refused;
use crate::support::eventually;
use crate::support::fail_points::{Fault, Fuse, Fused, Place};
use crate::support::handler::Handler;
use crate::support::sidecar::Sidecar;
use crate::support::words::{ack, leave, message, open, open_window, settle};

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

/// failures.md S2.
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

/// failures.md S2.
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
    let again = next.handler(open("work")).await.handle(2).await;
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

/// failures.md S2.
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

/// failures.md S2: the broker does not take back what is given back.
#[tokio::test]
async fn a_stop_in_which_not_everything_could_be_given_back_says_so() {
    let fuse = Fuse::new(|| {});
    let broker = MemoryBroker::new(MemoryOptions { bytes_max: 1 << 20 });
    let fused = Fused::new(Arc::new(broker.clone()) as Arc<dyn Broker>, Arc::clone(&fuse));
    let short = "[shutdown]\nintake = \"0s\"\ndrain = \"100ms\"\nreturn = \"100ms\"\nclose = \"1s\"\n";
    let mut sidecar = Sidecar::start_through(Arc::new(fused), broker, &format!("{WORK}{short}")).await;
    sidecar.ready().await;
    sidecar.publish([message("work.A", "1")]).await;
    let mut handler = sidecar.handler(open("work")).await;
    handler.delivery().await;
    fuse.arm(Place::Settle, Fault::Hang);
    sidecar.stop().await;
    handler.drain().await;
    assert_eq!(sidecar.ended().await, Ended::CutShort);
    // Nothing is lost: the broker hands it out again.
    sidecar.holds("work", 1, 0).await;
}

#[tokio::test]
async fn retries_during_the_drain_count_and_are_stored_before_the_end() {
    const COUNT: usize = 12;
    let mut sidecar = Sidecar::start(WORK).await;
    sidecar.publish((0..COUNT).map(|number| message("work.A", number.to_string()))).await;
    let mut handler = sidecar.handler(open("work")).await;
    let deliveries = handler.deliveries(COUNT).await;
    sidecar.stop().await;
    handler.drain().await;
    for delivery in deliveries {
        handler.say(settle([delivery.id], crate::support::words::retry("LATER", Some(0)))).await;
    }
    handler.end().await.unwrap();
    assert_eq!(sidecar.ended().await, Ended::Drained);
    // The embedded broker outlives the sidecar, and the slot brings the copies home without it.
    eventually("the copies", async || (sidecar.depth("work").ready == COUNT).then_some(())).await;
    let mut next = Sidecar::start_over(sidecar.broker.clone(), WORK).await;
    let mut handler = next.handler(open("work")).await;
    let again = handler.handle(COUNT).await;
    assert!(again.iter().all(|delivery| delivery.attempt == 2), "as retried, and not as given back");
    next.stop().await;
    handler.end().await.unwrap();
    assert_eq!(next.ended().await, Ended::Drained);
}

#[tokio::test]
async fn the_path_of_the_socket_is_free_before_nobody_listens_there_and_the_successor_keeps_it() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("bus.sock");
    let door = format!("[grpc]\nunix_socket = {:?}\n", path.to_str().unwrap());
    let slow = "[shutdown]\nbudget = \"60s\"\nclose = \"10s\"\n";
    let mut sidecar = Sidecar::start(&format!("{WORK}{door}{slow}")).await;
    let mut health = HealthClient::new(sidecar.channel().await);
    let mut watch = health.watch(HealthCheckRequest::default()).await.unwrap().into_inner();
    watch.message().await.unwrap().unwrap();

    sidecar.stop().await;

    // Closing waits for the rpc that is still open; by then nobody is let in any more.
    let successor = eventually("a free path", async || UnixListener::bind(&path).ok()).await;
    let next = async { while watch.message().await.is_ok_and(|told| told.is_some()) {} };
    assert!(tokio::time::timeout(Duration::from_millis(200), next).await.is_err(), "the predecessor lives");
    assert_eq!(sidecar.ended().await, Ended::Drained);
    assert!(path.exists(), "it belongs to the successor");
    drop(successor);
}

/// Stops when the last handler has left.
const JOB: &str = "[shutdown]\nexit_when_idle = true\nclose = \"3s\"\n";

#[tokio::test]
async fn a_handler_that_leaves_and_is_gone_at_once_has_left() {
    let mut sidecar = Sidecar::start(&format!("{WORK}{JOB}")).await;
    sidecar.publish([message("work.A", "1")]).await;
    let mut handler = sidecar.handler(open("work")).await;
    let held = handler.delivery().await;
    handler.say(leave()).await;
    // Once this is answered, what was said before it has been heard.
    handler.say(settle([held.id + 1], ack())).await;
    handler.result().await;
    drop(handler);
    assert_eq!(sidecar.ended().await, Ended::Drained);
}

#[tokio::test]
async fn a_handler_that_leaves_with_its_first_frame_has_left() {
    let mut sidecar = Sidecar::start(&format!("{WORK}{JOB}")).await;
    let first = v1::SubscribeRequest { open: Some(open("work")), ..leave() };
    let mut handler = Handler::join_with(sidecar.port(), first).await.unwrap();
    handler.end().await.unwrap();
    assert_eq!(sidecar.ended().await, Ended::Drained);
}
