//! Stops in every order and in bad company: nothing is lost or charged, and the process ends in time.

use std::collections::BTreeSet;
use std::time::Duration;

use sidebus::grpc::proto::sidebus::v1;
use sidebus::grpc::proto::sidebus::v1::settlement::Verdict;
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

/// Asks a sidecar to stop; answers when.
fn ask(sidecar: &Sidecar) -> Instant {
    sidecar.process.signal("TERM");
    Instant::now()
}

/// It ends well, and within the budget of its stop.
async fn ends_in_time(sidecar: &mut Sidecar, asked: Instant) {
    assert_eq!(sidecar.process.end_within(ENDED_WITHIN).await.code(), Some(0));
    assert!(asked.elapsed() < ENDED_WITHIN, "{:?}", asked.elapsed());
}

/// It was stopped under load; answers what it has handled, each once.
fn done_by(handler: &Process) -> BTreeSet<usize> {
    let numbers = handled(handler);
    let before: BTreeSet<usize> = numbers.iter().copied().collect();
    assert_eq!(before.len(), numbers.len(), "none twice");
    assert!(before.len() < MESSAGES, "they were stopped under load");
    before
}

/// What they left is all that comes, and each of it once.
async fn the_rest_comes_once(scene: &Scene, handler: &Process) {
    let before = done_by(handler);
    let after = rest(scene, &before).await;
    assert_eq!(before.len() + after.len(), MESSAGES, "none twice");
}

/// failures.md S2 and H9.
#[tokio::test]
async fn a_sidecar_that_is_stopped_before_its_handler_loses_and_doubles_nothing() {
    let scene = Scene::new().await;
    let (mut sidecar, mut handler) = under_load(&scene).await;
    let asked = ask(&sidecar);
    // The handler has had its drain, and knows nothing of a stop of its own.
    sidecar.process.logged("stream ended").await;
    handler.signal("TERM");
    ends_in_time(&mut sidecar, asked).await;
    assert_eq!(handler.end().await.code(), Some(0));
    the_rest_comes_once(&scene, &handler).await;
}

/// failures.md S2 and H9.
#[tokio::test]
async fn a_handler_that_is_stopped_before_its_sidecar_loses_and_doubles_nothing() {
    let scene = Scene::new().await;
    let (mut sidecar, mut handler) = under_load(&scene).await;
    // It leaves, settles what it holds, and is gone before anybody asks the sidecar.
    assert_eq!(handler.stop().await, Some(0));
    let asked = ask(&sidecar);
    ends_in_time(&mut sidecar, asked).await;
    the_rest_comes_once(&scene, &handler).await;
}

/// failures.md S2 and H9: as in a pod without an order, where nobody knows which signal is seen first.
#[tokio::test]
async fn a_sidecar_and_its_handler_that_are_stopped_at_once_lose_and_double_nothing() {
    let scene = Scene::new().await;
    let (mut sidecar, mut handler) = under_load(&scene).await;
    let asked = ask(&sidecar);
    handler.signal("TERM");
    ends_in_time(&mut sidecar, asked).await;
    assert_eq!(handler.end().await.code(), Some(0));
    the_rest_comes_once(&scene, &handler).await;
}

/// failures.md H9: in a pod the handler may just die, and the sidecar is stopped afterwards.
#[tokio::test]
async fn a_handler_that_dies_before_its_sidecar_is_stopped_is_charged_nothing() {
    let scene = Scene::new().await;
    let (mut sidecar, mut handler) = under_load(&scene).await;
    handler.kill().await;
    let asked = ask(&sidecar);
    ends_in_time(&mut sidecar, asked).await;
    let before = done_by(&handler);
    let after = rest(&scene, &before).await;
    let twice = before.len() + after.len() - MESSAGES;
    println!("{twice} came twice");
    assert!(twice <= 100, "no more than were in flight: {twice}");
}

/// failures.md S2 and H3.
#[tokio::test]
async fn a_handler_that_hangs_costs_a_stop_no_more_than_its_budget_by_default() {
    let scene = Scene::new().await;
    let (mut sidecar, mut handler) = under_load(&scene).await;
    let mut hung = sidecar.handler().await;
    hung.delivery().await;
    let asked = ask(&sidecar);
    // Another one works on meanwhile, and is done with what it holds.
    sidecar.process.logged("stream ended").await;
    assert_eq!(handler.stop().await, Some(0));
    ends_in_time(&mut sidecar, asked).await;
    hung.until("the end", |hung| hung.ended.is_some()).await;
    let expired = i32::from(v1::RevocationReason::DrainExpired);
    assert!(hung.revocations.iter().any(|revocation| revocation.reason == expired), "{:?}", hung.revocations);
    the_rest_comes_once(&scene, &handler).await;
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
    let asked = ask(&sidecar);
    ends_in_time(&mut sidecar, asked).await;
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
    let asked = ask(&sidecar);
    ends_in_time(&mut sidecar, asked).await;
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
        ask(&sidecar)
    });
    let refused = answer.expect_err("no confirm has come");
    assert_eq!(reason(&refused), (Code::DeadlineExceeded, "CONFIRM_TIMEOUT".to_owned()), "{refused:?}");
    // A clean end: its caller has heard the truth.
    ends_in_time(&mut sidecar, asked).await;
}

/// failures.md S2: a verdict that is said during a drain counts as any other, in a slot that nobody has used before.
#[tokio::test]
async fn a_retry_that_is_said_during_a_drain_is_handed_out_by_the_next_sidecar_after_its_delay() {
    const DELAY: Duration = Duration::from_secs(5);
    let scene = Scene::new().await;
    let mut sidecar = scene.sidecar(&scene.work("")).await;
    let mut handler = sidecar.handler().await;
    sidecar.publisher().await.publish_numbers(0..20).await;
    let held = handler.deliveries(20).await;
    let asked = ask(&sidecar);
    handler.until("it is told to drain", |handler| !handler.drains.is_empty()).await;
    let said = Instant::now();
    let delay = Some(prost_types::Duration { seconds: 5, nanos: 0 });
    let retry = v1::Retry { delay, reason: "BUSY".to_owned(), description: "later".to_owned() };
    handler.settle(&held, Verdict::Retry(retry)).await;
    ends_in_time(&mut sidecar, asked).await;

    let mut next = scene.sidecar(&scene.work("")).await;
    let mut handler = next.handler().await;
    let again = handler.handle_all((0..20).collect()).await;
    assert!(said.elapsed() >= DELAY, "{:?}", said.elapsed());
    assert!(again.iter().all(|delivery| delivery.attempt == 2), "as retried, and not as given back");
    handler.leave().await;
    assert_eq!(next.process.stop().await, Some(0));
    scene.amqp().await.wait_for_depth(&scene.name("work"), 0).await;
}
