//! Handlers, sidecars and brokers that die: everything confirmed is handled, and nothing is charged to a message.

use std::collections::BTreeSet;
use std::process::Command;
use std::time::Duration;

use sidebus::grpc::proto::sidebus::v1;
use tokio::time::Instant;

use crate::support::handler::{Shared, number};
use crate::support::nodes;
use crate::support::process::Process;
use crate::support::scene::{Scene, Sidecar};
use crate::support::wait::until;

/// From the broker's port answering again to consuming again: two seconds are promised, of which one is the longest wait
/// between two tries. A third is for a machine whose cores are shared by all tests; alone it takes 0.2 to 1.3 s.
const RESUMED_WITHIN: Duration = Duration::from_secs(2 + 1);
const BROKER_LOST: i32 = v1::RevocationReason::BrokerLost as i32;

async fn ended_empty(mut sidecar: Sidecar, scene: &Scene) {
    assert_eq!(sidecar.process.stop().await, Some(0));
    // What was unacked would be ready again once the sidecar is gone.
    scene.amqp().await.wait_for_depth(&scene.name("work"), 0).await;
}

/// failures.md H1.
#[tokio::test]
async fn what_a_killed_handler_held_is_handled_by_another_one_on_the_same_attempt() {
    for queue_type in ["quorum", "classic"] {
        let scene = Scene::new().await;
        let mut sidecar = scene.sidecar(&scene.work(&format!("queue_type = \"{queue_type}\""))).await;
        let mut command = Command::new(env!("CARGO_BIN_EXE_sidebus"));
        command.args(["sub", "--subscription", "work", "--endpoint", &sidecar.grpc]);
        let mut victim = Process::start("handler", command, &[]);
        sidecar.process.logged("consuming").await;
        // It takes what the sidecar sends and answers nothing any more.
        victim.signal("STOP");
        sidecar.publisher().await.publish_numbers(0..50).await;
        scene.amqp().await.wait_for_depth(&scene.name("work"), 0).await;
        victim.kill().await;

        let mut another = sidecar.handler().await;
        let taken = another.handle_all((0..50).collect()).await;
        assert!(taken.iter().all(|delivery| delivery.attempt == 1), "{queue_type}");
        assert_eq!(taken.len(), 50, "{queue_type}: none comes twice");
        assert!(taken.iter().any(|delivery| delivery.redelivered), "{queue_type}: the victim held some");
        another.leave().await;
        ended_empty(sidecar, &scene).await;
    }
}

/// failures.md S1.
#[tokio::test]
async fn nothing_is_lost_when_the_sidecar_is_killed_with_deliveries_in_flight() {
    for queue_type in ["quorum", "classic"] {
        let scene = Scene::new().await;
        let tables = scene.work(&format!("queue_type = \"{queue_type}\""));
        let mut sidecar = scene.sidecar(&tables).await;
        let mut handler = sidecar.handler().await;
        sidecar.publisher().await.publish_numbers(0..100).await;
        let held = handler.deliveries(20).await;
        handler.ack(&held[..5]).await;
        sidecar.process.kill().await;

        let sidecar = scene.sidecar(&tables).await;
        let mut handler = sidecar.handler().await;
        let taken = handler.handle_all((5..100).collect()).await;
        assert!(taken.iter().all(|delivery| delivery.attempt == 1), "{queue_type}");
        let ids: BTreeSet<i64> = held.iter().chain(&taken).map(|delivery| delivery.id).collect();
        assert_eq!(ids.len(), held.len() + taken.len(), "no delivery id repeats over a restart");
        handler.leave().await;
        ended_empty(sidecar, &scene).await;
    }
}

/// failures.md L1.
#[tokio::test]
async fn a_stream_outlives_its_killed_broker_and_everything_confirmed_is_handled() {
    let mut node = nodes::mortal().await;
    let scene = Scene::on(node.url(("guest", "guest"), "/"));
    let sidecar = scene.sidecar(&scene.work("")).await;
    let mut handler = sidecar.handler().await;
    handler.state(v1::SubscriptionState::Active, 0).await;
    sidecar.publisher().await.publish_numbers(0..200).await;
    let held = handler.deliveries(50).await;
    handler.ack(&held[..10]).await;
    let seen = handler.statuses.len();

    node.note_queues().await;
    node.kill();
    handler.state(v1::SubscriptionState::BrokerDown, seen).await;
    let seen = handler.statuses.len();
    handler.until("revocations", |handler| !handler.revocations.is_empty()).await;
    assert!(handler.revocations.iter().all(|revocation| revocation.reason == BROKER_LOST));
    let revoked: BTreeSet<i64> =
        handler.revocations.iter().flat_map(|revocation| revocation.delivery_ids.iter().copied()).collect();
    assert!(held[10..].iter().all(|delivery| revoked.contains(&delivery.id)), "every lease is revoked");
    handler.ack(&held[10..12]).await;
    handler
        .until("the late acks are answered", |handler| {
            let lost = i32::from(v1::SettlementOutcome::LeaseLost);
            handler
                .results
                .iter()
                .filter(|result| result.outcome == lost)
                .flat_map(|result| &result.delivery_ids)
                .count()
                >= 2
        })
        .await;
    let not_revoked = |delivery: &v1::Delivery| !revoked.contains(&delivery.id);
    assert!(!handler.take_deliveries().iter().any(not_revoked), "nothing is handed out without a broker");

    node.restart().await;
    let accepting = Instant::now();
    handler.state(v1::SubscriptionState::Active, seen).await;
    let resumed = accepting.elapsed();
    println!("consuming again {} ms after the broker greeted", resumed.as_millis());
    assert!(resumed < RESUMED_WITHIN, "{resumed:?}");
    let taken = handler.handle_all((12..200).collect()).await;
    assert!(taken.iter().all(|delivery| delivery.attempt == 1));
    assert!(taken.iter().all(|delivery| !(10..12).contains(&number(delivery))), "what was acked late comes to nobody");
    sidecar.metric_becomes("sidebus_acked_again_total{subscription=\"work\"}", 2.0).await;
    handler.leave_at_last().await;
    ended_empty(sidecar, &scene).await;
}

/// failures.md L9.
#[tokio::test]
async fn a_queue_deleted_while_it_is_consumed_is_declared_and_consumed_again() {
    let scene = Scene::new().await;
    let mut sidecar = scene.sidecar(&scene.work("")).await;
    let mut handler = sidecar.handler().await;
    handler.state(v1::SubscriptionState::Active, 0).await;
    let seen = handler.statuses.len();

    scene.amqp().await.delete(&scene.name("work")).await;

    sidecar.process.logged("not consuming, trying again").await;
    handler.state(v1::SubscriptionState::Active, seen).await;
    sidecar.publisher().await.publish_numbers(0..3).await;
    let deliveries = handler.deliveries(3).await;
    handler.ack(&deliveries).await;
    handler.leave().await;
    ended_empty(sidecar, &scene).await;
}

/// failures.md S2.
#[tokio::test]
async fn sigterm_under_load_drains_without_loss_and_without_duplicates() {
    let scene = Scene::new().await;
    let tables = scene.work("");
    let mut sidecar = scene.sidecar(&tables).await;
    sidecar.publisher().await.publish_numbers(0..3_000).await;
    let mut handler = sidecar.handler().await;
    let mut taken: Vec<usize> = Vec::new();
    let mut is_asked = false;
    while handler.ended.is_none() {
        if taken.len() >= 500 && !is_asked {
            sidecar.process.signal("TERM");
            is_asked = true;
        }
        handler.take_frame().await;
        let deliveries = handler.take_deliveries();
        taken.extend(deliveries.iter().map(number));
        handler.ack(&deliveries).await;
    }
    assert!(matches!(handler.ended, Some(Ok(()))), "{:?}", handler.ended);
    assert!(handler.drains.len() == 1 && handler.revocations.is_empty(), "{:?}", handler.drains);
    assert_eq!(sidecar.process.end().await.code(), Some(0));
    let before: BTreeSet<usize> = taken.iter().copied().collect();
    assert_eq!(before.len(), taken.len(), "none twice");
    assert!(before.len() < 3_000, "it was stopped under load");

    let left = u32::try_from(3_000 - before.len()).expect("a small number");
    scene.amqp().await.wait_for_depth(&scene.name("work"), left).await;
    let sidecar = scene.sidecar(&tables).await;
    let mut handler = sidecar.handler().await;
    let rest = handler.handle_all((0..3_000).filter(|number| !before.contains(number)).collect()).await;
    assert_eq!(rest.len() + before.len(), 3_000, "none twice");
}

/// failures.md S2.
#[tokio::test]
async fn a_handler_that_never_answers_does_not_keep_a_sidecar_from_ending() {
    let scene = Scene::new().await;
    let tables = [&scene.work(""), "[shutdown]\nbudget = \"4s\"\nintake = \"0s\"\nreturn = \"1s\"\nclose = \"1s\"\n"];
    let mut sidecar = scene.sidecar(&tables.concat()).await;
    let mut handler = sidecar.handler().await;
    sidecar.publisher().await.publish_numbers(0..10).await;
    handler.deliveries(10).await;
    assert_eq!(sidecar.process.stop().await, Some(0));
    handler.until("the end", |handler| handler.ended.is_some()).await;
    assert!(
        matches!(&handler.ended, Some(Err(status)) if status.code() == tonic::Code::Unavailable),
        "{:?}",
        handler.ended
    );
    let drained = i32::from(v1::RevocationReason::DrainExpired);
    assert!(handler.revocations.iter().any(|revocation| revocation.reason == drained), "{:?}", handler.revocations);
    until("all are back", async || (scene.amqp().await.depth(&scene.name("work")).await == Some(10)).then_some(()))
        .await;
}

/// failures.md S1 and H10.
#[tokio::test]
async fn two_sidecars_share_a_queue_and_one_finishes_what_the_other_held_when_it_was_killed() {
    let scene = Scene::new().await;
    let tables = scene.work("");
    let (mut first, second) = (scene.sidecar(&tables).await, scene.sidecar(&tables).await);
    let (mut one, mut other) = (first.handler().await, second.handler().await);
    for handler in [&mut one, &mut other] {
        handler.state(v1::SubscriptionState::Active, 0).await;
    }
    let work = Shared::of(2_000);
    let publisher = first.publisher().await;
    let (by_one, by_other, ()) =
        tokio::join!(one.share(&work, number), other.share(&work, number), publisher.publish_numbers(0..2_000),);
    assert!(!by_one.is_empty() && !by_other.is_empty(), "both work: {} and {}", by_one.len(), by_other.len());
    let all: BTreeSet<usize> = by_one.iter().chain(&by_other).copied().collect();
    assert!(all.into_iter().eq(0..2_000));
    assert_eq!(by_one.len() + by_other.len(), 2_000, "none twice");

    second.publisher().await.publish_numbers(2_000..2_200).await;
    let held = one.deliveries(50).await;
    first.process.kill().await;
    let rest = other.handle_all((2_000..2_200).collect()).await;
    // Of the first round an ack may have been lost with the sidecar.
    assert_eq!(rest.iter().filter(|delivery| number(delivery) >= 2_000).count(), 200, "none twice");
    assert!(rest.iter().all(|delivery| delivery.attempt == 1), "nothing is charged");
    let held: BTreeSet<usize> = held.iter().map(number).collect();
    assert!(rest.iter().all(|delivery| !held.contains(&number(delivery)) || delivery.redelivered));
    other.leave().await;
    ended_empty(second, &scene).await;
}
