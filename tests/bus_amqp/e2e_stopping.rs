//! Stops in every order and in bad company: nothing is lost or charged, and the process ends in time.

use std::collections::BTreeSet;
use std::time::Duration;

use sidebus::grpc::proto::sidebus::v1;
use tokio::time::Instant;
use tonic::Code;

use crate::support::examples::{handled, python};
use crate::support::handler::number;
use crate::support::nodes;
use crate::support::process::Process;
use crate::support::publisher::{numbered, reason};
use crate::support::scene::{Scene, Sidecar};
use crate::support::wait::until;

const MESSAGES: usize = 10_000;

/// All phases together by default, and a moment for a busy machine.
const ENDED_WITHIN: Duration = Duration::from_secs(25 + 2);

/// A sidecar full of work, and the handler of the examples, which has begun with it.
async fn under_load(scene: &Scene) -> (Sidecar, Process) {
    let sidecar = scene.sidecar(&scene.work("")).await;
    sidecar.publisher().await.publish_numbers(0..MESSAGES).await;
    let handler = python("handler.py", &["work"], &sidecar.grpc);
    until("the handler works", async || (handler.output().len() >= 200).then_some(())).await;
    (sidecar, handler)
}

/// Another sidecar and another handler do the rest; answers everything that came, each number as often as it did.
async fn rest(scene: &Scene, done: &BTreeSet<usize>) -> Vec<usize> {
    let mut sidecar = scene.sidecar(&scene.work("")).await;
    let mut handler = sidecar.handler().await;
    let taken = handler.handle_all((0..MESSAGES).filter(|number| !done.contains(number)).collect()).await;
    assert!(taken.iter().all(|delivery| delivery.attempt == 1), "nothing is charged");
    handler.leave().await;
    assert_eq!(sidecar.process.stop().await, Some(0));
    scene.amqp().await.wait_for_depth(&scene.name("work"), 0).await;
    taken.iter().map(number).collect()
}

/// Both were asked to stop under load: they end well, and each message was handled once.
async fn both_end_well(scene: &Scene, mut sidecar: Sidecar, mut handler: Process) {
    assert_eq!((sidecar.process.end().await.code(), handler.end().await.code()), (Some(0), Some(0)));
    let numbers = handled(&handler);
    let before: BTreeSet<usize> = numbers.iter().copied().collect();
    assert_eq!(before.len(), numbers.len(), "none twice");
    assert!(before.len() < MESSAGES, "they were stopped under load");
    let after = rest(scene, &before).await;
    assert_eq!(before.len() + after.len(), MESSAGES, "none twice");
}

/// failures.md S2 and H9.
#[tokio::test]
async fn a_sidecar_that_is_stopped_before_its_handler_loses_and_doubles_nothing() {
    let scene = Scene::new().await;
    let (sidecar, handler) = under_load(&scene).await;
    sidecar.process.signal("TERM");
    handler.signal("TERM");
    both_end_well(&scene, sidecar, handler).await;
}

/// failures.md S2 and H9.
#[tokio::test]
async fn a_handler_that_is_stopped_before_its_sidecar_loses_and_doubles_nothing() {
    let scene = Scene::new().await;
    let (sidecar, handler) = under_load(&scene).await;
    handler.signal("TERM");
    sidecar.process.signal("TERM");
    both_end_well(&scene, sidecar, handler).await;
}

/// failures.md H9: in a pod the handler may just die, and the sidecar is stopped afterwards.
#[tokio::test]
async fn a_handler_that_dies_before_its_sidecar_is_stopped_is_charged_nothing() {
    let scene = Scene::new().await;
    let (mut sidecar, mut handler) = under_load(&scene).await;
    handler.kill().await;
    assert_eq!(sidecar.process.stop().await, Some(0));
    let numbers = handled(&handler);
    let before: BTreeSet<usize> = numbers.iter().copied().collect();
    assert_eq!(before.len(), numbers.len(), "none twice");
    assert!(before.len() < MESSAGES, "they were stopped under load");
    let after = rest(&scene, &before).await;
    let twice = before.len() + after.len() - MESSAGES;
    println!("{twice} came twice");
    assert!(twice <= 100, "no more than were in flight: {twice}");
}

/// failures.md S2 and H3.
#[tokio::test]
async fn a_handler_that_hangs_costs_a_stop_no_more_than_its_budget_by_default() {
    let scene = Scene::new().await;
    let mut sidecar = scene.sidecar(&scene.work("")).await;
    let mut handler = sidecar.handler().await;
    sidecar.publisher().await.publish_numbers(0..10).await;
    handler.deliveries(10).await;
    let asked = Instant::now();
    assert_eq!(sidecar.process.stop().await, Some(0));
    println!("ended after {:.1} s", asked.elapsed().as_secs_f64());
    assert!(asked.elapsed() < ENDED_WITHIN, "{:?}", asked.elapsed());
    handler.until("the end", |handler| handler.ended.is_some()).await;
    let expired = i32::from(v1::RevocationReason::DrainExpired);
    assert!(handler.revocations.iter().any(|revocation| revocation.reason == expired), "{:?}", handler.revocations);
    scene.amqp().await.wait_for_depth(&scene.name("work"), 10).await;
}

/// failures.md S2 and L1.
#[tokio::test]
async fn a_stop_while_the_broker_is_down_ends_well_and_in_time() {
    let mut node = nodes::mortal().await;
    let scene = Scene::on(node.url(("guest", "guest"), "/"));
    let mut sidecar = scene.sidecar(&scene.work("")).await;
    let mut handler = sidecar.handler().await;
    sidecar.publisher().await.publish_numbers(0..10).await;
    let held = handler.deliveries(10).await;
    handler.ack(&held[..5]).await;
    let seen = handler.statuses.len();
    node.kill();
    handler.state(v1::SubscriptionState::BrokerDown, seen).await;
    let asked = Instant::now();
    assert_eq!(sidecar.process.stop().await, Some(0));
    println!("ended after {:.1} s", asked.elapsed().as_secs_f64());
    assert!(asked.elapsed() < ENDED_WITHIN, "{:?}", asked.elapsed());
}

/// failures.md S2 and L3.
#[tokio::test]
async fn a_stop_while_the_link_is_silent_ends_well_and_in_time_and_loses_nothing() {
    let (scene, proxy) = Scene::linked(nodes::managed().await).await;
    let mut sidecar = scene.sidecar(&scene.work("")).await;
    let mut handler = sidecar.handler().await;
    sidecar.publisher().await.publish_numbers(0..10).await;
    let held = handler.deliveries(10).await;
    proxy.freeze();
    handler.ack(&held[..5]).await;
    let asked = Instant::now();
    assert_eq!(sidecar.process.stop().await, Some(0));
    println!("ended after {:.1} s", asked.elapsed().as_secs_f64());
    assert!(asked.elapsed() < ENDED_WITHIN, "{:?}", asked.elapsed());
    proxy.cut();
    scene.amqp().await.wait_for_depth(&scene.name("work"), 10).await;
}

/// failures.md S2 and L6.
#[tokio::test]
async fn a_publish_whose_confirm_does_not_come_is_waited_for_as_long_as_any_other() {
    let (scene, proxy) = Scene::linked(nodes::managed().await).await;
    let tables = ["[bus.amqp.publish]\nconfirm_timeout = \"4s\"\n", &scene.work("")].concat();
    let mut sidecar = scene.sidecar(&tables).await;
    let publisher = sidecar.publisher().await;
    publisher.publish_numbers(0..1).await;
    proxy.freeze_answers();
    let amqp = scene.amqp().await;
    let (answer, asked) = tokio::join!(publisher.publish(vec![numbered(1)]), async {
        amqp.wait_for_depth(&scene.name("work"), 2).await;
        sidecar.process.signal("TERM");
        Instant::now()
    });
    let refused = answer.expect_err("no confirm has come");
    assert_eq!(reason(&refused), (Code::DeadlineExceeded, "CONFIRM_TIMEOUT".to_owned()), "{refused:?}");
    // A clean end: its caller has heard the truth.
    assert_eq!(sidecar.process.end().await.code(), Some(0));
    println!("ended after {:.1} s", asked.elapsed().as_secs_f64());
    assert!(asked.elapsed() < ENDED_WITHIN, "{:?}", asked.elapsed());
}
