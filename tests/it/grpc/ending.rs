//! How streams end, politely or not, and what becomes of what their handlers held; clocks and extensions.

use std::time::Duration;

use sidebus::broker::BrokerError;
use sidebus::domain::name::QueueName;
use sidebus::grpc::proto::sidebus::v1;
use sidebus::grpc::proto::sidebus::v1::SettlementOutcome as Outcome;
use tonic::Code;

use super::WORK;
use crate::support::errors::refused;
use crate::support::eventually;
use crate::support::handler::Handler;
use crate::support::proxy::Proxy;
use crate::support::sidecar::Sidecar;
use crate::support::words::{ack, body, extend, leave, message, open, open_window, settle};

fn numbered(count: usize) -> Vec<v1::Message> {
    (0..count).map(|number| message("work.A", number.to_string())).collect()
}

fn ids(deliveries: &[v1::Delivery]) -> Vec<i64> {
    deliveries.iter().map(|delivery| delivery.id).collect()
}

/// Numbers, attempts and redelivered flags of deliveries, in the order of the numbers.
fn seen(deliveries: &[v1::Delivery]) -> Vec<(String, i32, bool)> {
    let mut seen: Vec<_> = deliveries.iter().map(|one| (body(one), one.attempt, one.redelivered)).collect();
    seen.sort();
    seen
}

fn all_again(count: usize) -> Vec<(String, i32, bool)> {
    (0..count).map(|number| (number.to_string(), 1, true)).collect()
}

/// failures.md H9.
#[tokio::test]
async fn a_leaving_handler_gets_nothing_more_may_settle_and_ends_well() {
    let sidecar = Sidecar::start(WORK).await;
    let mut handler = sidecar.handler(open_window("work", 2)).await;
    sidecar.publish(numbered(3)).await;
    let held = handler.deliveries(2).await;

    handler.say(leave()).await;
    handler.say(settle([held[0].id], ack())).await;
    assert_eq!(handler.pending().await, []);
    assert_eq!(sidecar.depth("work").unacked, 1);

    handler.say(settle([held[1].id], ack())).await;
    handler.end().await.unwrap();
    sidecar.holds("work", 1, 0).await;
}

#[tokio::test]
async fn leaving_with_nothing_in_flight_ends_at_once() {
    let sidecar = Sidecar::start(WORK).await;
    let mut handler = sidecar.handler(open("work")).await;
    handler.say(leave()).await;
    handler.end().await.unwrap();
}

/// failures.md H9.
#[tokio::test]
async fn a_half_close_releases_what_is_unsettled_at_once() {
    let sidecar = Sidecar::start(WORK).await;
    sidecar.publish(numbered(3)).await;
    let mut handler = sidecar.handler(open("work")).await;
    let held = handler.deliveries(3).await;
    handler.say(settle([held[1].id], ack())).await;
    handler.half_close();
    handler.end().await.unwrap();
    let again = sidecar.handler(open("work")).await.deliveries(2).await;
    assert_eq!(seen(&again), [("0".to_owned(), 1, true), ("2".to_owned(), 1, true)]);
}

/// failures.md H1.
#[tokio::test]
async fn all_that_a_lost_handler_held_goes_to_another_uncharged() {
    let sidecar = Sidecar::start(WORK).await;
    sidecar.publish(numbered(5)).await;
    let link = Proxy::to("127.0.0.1", sidecar.port()).await;
    let mut lost = Handler::join(link.port, open("work")).await.unwrap();
    lost.deliveries(5).await;

    link.cut();

    assert!(lost.end().await.is_err(), "cut");
    let again = sidecar.handler(open("work")).await.handle(5).await;
    assert_eq!(seen(&again), all_again(5));
}

/// failures.md H8.
#[tokio::test]
async fn what_a_lost_handler_had_settled_stays_settled() {
    let sidecar = Sidecar::start(WORK).await;
    sidecar.publish(numbered(10)).await;
    let link = Proxy::to("127.0.0.1", sidecar.port()).await;
    let mut lost = Handler::join(link.port, open("work")).await.unwrap();
    let held = lost.deliveries(10).await;
    // Every second one, so that nothing between them may be acked along.
    let settled: Vec<i64> = ids(&held).into_iter().step_by(2).collect();
    lost.say(settle(settled, ack())).await;
    sidecar.holds("work", 0, 5).await;

    link.cut();

    let again = sidecar.handler(open("work")).await.handle(5).await;
    let left: Vec<String> = seen(&again).into_iter().map(|(number, _, _)| number).collect();
    assert_eq!(left, ["1", "3", "5", "7", "9"]);
}

/// failures.md H3.
#[tokio::test]
async fn a_passed_settle_timeout_is_told_and_counted_as_a_failed_attempt() {
    let sidecar = Sidecar::start(&format!("{WORK}settle_timeout = \"1s\"\n")).await;
    sidecar.publish(numbered(1)).await;
    let mut handler = sidecar.handler(open("work")).await;
    let first = handler.delivery().await;

    let revoked = handler.revocation().await;

    assert_eq!((revoked.delivery_ids.clone(), revoked.reason()), (vec![first.id], v1::RevocationReason::SettleTimeout));
    handler.say(settle([first.id], ack())).await;
    let told = handler.result().await;
    assert_eq!((told.id, told.outcome), (first.id, Outcome::LeaseExpired));
    let second = handler.delivery().await;
    let failure = second.last_failure.unwrap();
    assert_eq!((second.attempt, failure.kind(), failure.attempt), (2, v1::FailureKind::Timeout, 1));
}

/// failures.md H3.
#[tokio::test]
async fn an_extension_keeps_a_lease() {
    let sidecar = Sidecar::start(WORK).await;
    sidecar.publish(numbered(2)).await;
    let second = Some(prost_types::Duration { seconds: 1, nanos: 0 });
    let mut handler = sidecar.handler(v1::SubscribeOpen { settle_timeout: second, ..open_window("work", 1) }).await;
    let mut other = sidecar.handler(v1::SubscribeOpen { settle_timeout: second, ..open_window("work", 1) }).await;
    let kept = handler.delivery().await;
    let failed = other.delivery().await;
    handler.say(extend(kept.id, 60)).await;
    // The other one began no earlier, so by its end the clock that was not extended would be over as well.
    assert_eq!(other.revocation().await.delivery_ids, [failed.id]);
    handler.quiet_for(Duration::from_millis(200)).await;
    assert_eq!(handler.other_revocations(), 0);
    handler.say(settle([kept.id], ack())).await;
    assert_eq!((handler.pending().await, handler.other_results()), (Vec::new(), Vec::new()));
}

/// failures.md H3.
#[tokio::test]
async fn only_the_oldest_delivery_of_a_stream_ages() {
    let sidecar = Sidecar::start(&format!("{WORK}settle_timeout = \"1s\"\n")).await;
    sidecar.publish(numbered(3)).await;
    let mut handler = sidecar.handler(open("work")).await;
    let held = handler.deliveries(3).await;
    let revoked = handler.revocation().await;
    assert_eq!(revoked.delivery_ids, [held[0].id]);
    handler.say(settle([held[1].id, held[2].id], ack())).await;
    assert_eq!(handler.pending().await, []);
    assert_eq!((handler.other_results(), handler.other_revocations()), (Vec::new(), 0));
}

/// failures.md H5.
#[tokio::test]
async fn a_handler_that_reads_late_loses_nothing() {
    let sidecar = Sidecar::start(WORK).await;
    let mut late = sidecar.handler(open_window("work", 200)).await;
    // More than the windows of HTTP/2 hold.
    sidecar.publish((0..200).map(|_| message("work.A", vec![b'x'; 40_000]))).await;
    sidecar.holds("work", 0, 200).await;
    let mut other = sidecar.handler(open_window("work", 200)).await;
    sidecar.publish([message("work.A", "next")]).await;
    assert_eq!(body(&other.delivery().await), "next", "others are served meanwhile");
    assert_eq!(late.deliveries(200).await.len(), 200);
}

/// failures.md H5.
#[tokio::test]
async fn a_handler_that_never_reads_is_ended_when_its_oldest_lease_is_over() {
    let sidecar = Sidecar::start(&format!("{WORK}settle_timeout = \"1s\"\n")).await;
    for _ in 0..4 {
        sidecar.publish((0..100).map(|_| message("work.A", vec![b'x'; 100_000]))).await;
    }
    // The first frames fill the connection; the last ones never leave the sidecar.
    let flow = v1::FlowControl { max_in_flight_messages: Some(400), max_in_flight_bytes: Some(1 << 30) };
    let mut deaf = sidecar.handler(v1::SubscribeOpen { flow: Some(flow), ..open("work") }).await;
    eventually("handed out", async || (sidecar.depth("work").unacked > 0).then_some(())).await;

    eventually("given back", async || (sidecar.depth("work").unacked == 0).then_some(())).await;

    // One was the oldest and has failed; all the others were not even looked at.
    let mut other = sidecar.handler(open("work")).await;
    let mut charged = 0;
    for _ in 0..400 {
        let delivery = other.delivery().await;
        charged += usize::from(delivery.attempt > 1);
        other.say(settle([delivery.id], ack())).await;
    }
    assert!(charged <= 2, "{charged} messages were charged");
    refused(deaf.end().await, Code::ResourceExhausted, "SLOW_READER");
}

/// failures.md L1.
#[tokio::test]
async fn a_lost_broker_is_told_and_what_was_not_acked_meanwhile_comes_again() {
    let sidecar = Sidecar::start(WORK).await;
    sidecar.publish(numbered(2)).await;
    let mut handler = sidecar.handler(open("work")).await;
    handler.state(v1::SubscriptionState::Active).await;
    let held = handler.deliveries(2).await;

    let away = BrokerError::Unreachable { endpoint: "memory".to_owned(), reason: "refused by the test".to_owned() };
    sidecar.broker.faults().refuse_connects(away);
    sidecar.broker.faults().break_sessions("cut by the test");

    let revoked = handler.revocation().await;
    assert_eq!((revoked.delivery_ids.clone(), revoked.reason()), (ids(&held), v1::RevocationReason::BrokerLost));
    handler.state(v1::SubscriptionState::BrokerDown).await;
    handler.say(settle([held[0].id], ack())).await;
    let told = handler.result().await;
    assert_eq!((told.id, told.outcome), (held[0].id, Outcome::LeaseLost));
    sidecar.broker.faults().accept_connects();
    handler.state(v1::SubscriptionState::Active).await;
    let again = handler.deliveries(1).await;
    assert_eq!(seen(&again), all_again(2)[1..]);
}

/// failures.md L9.
#[tokio::test]
async fn a_deleted_queue_is_made_again_and_the_stream_lives_on() {
    let sidecar = Sidecar::start(WORK).await;
    let mut handler = sidecar.handler(open("work")).await;
    sidecar.publish(numbered(1)).await;
    handler.delivery().await;
    assert!(sidecar.broker.faults().delete_queue(&QueueName::parse("work").unwrap()));
    handler.state(v1::SubscriptionState::Paused).await;
    handler.state(v1::SubscriptionState::Active).await;
    sidecar.publish([message("work.A", "after")]).await;
    assert_eq!(body(&handler.delivery().await), "after");
}
