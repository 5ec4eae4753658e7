//! The phases of stopping, with polite, slow and hung handlers.

use std::time::Duration;

use sidebus::bridge::{RevocationReason, StreamEnd};
use sidebus::broker::Confirm;
use sidebus::runtime::Phase;

use super::bench::{Bench, ids};

#[tokio::test(start_paused = true)]
async fn a_drain_lets_handlers_finish_and_ends_their_streams_well() {
    let mut bench = Bench::start();
    bench.publish(&["a", "b", "c"]).await;
    let mut handler = bench.join(2).await;
    let got = handler.receive(2).await;

    bench.phases.enter(Phase::Intake);
    bench.bridge.registry.close();
    bench.phases.enter(Phase::Drain);

    handler.find(|frame| frame.drain).await;
    assert_eq!(bench.try_publish("d").await, Confirm::Stored, "publishing goes on while handlers finish");
    handler.ack(&ids(&got)).await;
    let end = loop {
        if let Err(end) = handler.next().await {
            break end;
        }
    };
    assert_eq!(end, StreamEnd::Done);
    assert!(handler.has_nothing_more(), "nothing new during a drain");
    bench.bridge.all_ended.wait().await;
    bench.depth_becomes("work", 2, 0).await;
}

#[tokio::test(start_paused = true)]
async fn a_hung_handler_loses_its_deliveries_uncharged_when_the_grace_is_over() {
    let mut bench = Bench::start();
    bench.publish(&["a"]).await;
    let mut handler = bench.join(2).await;
    let got = handler.receive(1).await;
    bench.phases.enter(Phase::Intake);
    bench.bridge.registry.close();
    bench.phases.enter(Phase::Drain);
    handler.find(|frame| frame.drain).await;
    bench.phases.enter(Phase::GiveBack);
    let revoked = handler.find(|frame| frame.revocations.first().cloned()).await;
    assert_eq!(revoked, (RevocationReason::DrainExpired, ids(&got)));
    assert_eq!(handler.next().await.unwrap_err(), StreamEnd::Draining);
    bench.bridge.all_ended.wait().await;
    bench.depth_becomes("work", 1, 0).await;
    bench.phases.enter(Phase::Close);
    assert!(bench.tasks.all_ended(Duration::from_secs(3)).await, "every task ends with the process");
}

#[tokio::test(start_paused = true)]
async fn a_stopping_sidecar_takes_no_new_handlers() {
    let bench = Bench::start();
    bench.connected().await;
    bench.phases.enter(Phase::Intake);
    let name = sidebus::domain::name::SubscriptionName::parse("work").unwrap();
    let handler = bench.bridge.registry.attach(&name, request()).await;
    assert_eq!(handler.unwrap_err(), sidebus::bridge::AttachError::Draining);
}

fn request() -> sidebus::bridge::AttachRequest {
    sidebus::bridge::AttachRequest {
        handler: "late".to_owned(),
        messages_max: None,
        bytes_max: 1,
        settle_timeout: None,
        frame_bytes_max: 1,
        results: sidebus::bridge::Results::Failures,
    }
}
