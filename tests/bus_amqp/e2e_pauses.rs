//! A sidecar that stands still for longer than its heartbeats, at work: what it finds when it goes on, and that nothing
//! confirmed is lost.

use std::collections::BTreeSet;
use std::time::Duration;

use serde_json::Value as Json;
use sidebus::grpc::proto::sidebus::v1;
use tokio::time::Instant;

use crate::e2e_resets::Play;
use crate::support::handler::{Handler, number};
use crate::support::nodes;
use crate::support::rabbitmq::BrokerHandle;
use crate::support::scene::{Scene, Sidecar};
use crate::support::wait::until;

/// What the second handler holds all the time.
const HELD: usize = 20;
/// Lines about one lost session: the keeper's own, and one for each subscription and lane that hears of it.
const WARNINGS_MAX: usize = 12;

/// Waits until the broker has closed every connection of this sidecar.
async fn given_up(node: &BrokerHandle, scene: &Scene) {
    until("the broker has given the sidecar up", async || {
        let connections = node.ctl(&["list_connections", "client_properties"]).await;
        (!connections.contains(&scene.prefix)).then_some(())
    })
    .await;
}

/// Lines of the log with this level.
fn lines(sidecar: &Sidecar, level: &str) -> Vec<String> {
    let is_level = |line: &String| serde_json::from_str::<Json>(line).is_ok_and(|line| line["level"] == level);
    sidecar.process.log().into_iter().filter(is_level).collect()
}

/// Ids whose verdict was answered with this outcome.
fn answered(handler: &Handler, outcome: v1::SettlementOutcome) -> BTreeSet<i64> {
    let results = handler.results.iter().filter(|result| result.outcome == i32::from(outcome));
    results.flat_map(|result| result.delivery_ids.iter().copied()).collect()
}

fn numbers(deliveries: &[v1::Delivery]) -> BTreeSet<usize> {
    deliveries.iter().map(number).collect()
}

/// How long it was paused, and then until it consumed; what was acked meanwhile, and what after the loss was told.
type Pause = (Duration, Duration, BTreeSet<usize>, BTreeSet<usize>);

/// Pauses the sidecar at work, until the broker has given it up.
async fn pause(play: &Play, (node, scene): (&BrokerHandle, &Scene), sidecar: &Sidecar, holder: &mut Handler) -> Pause {
    play.moves_on().await;
    let held = holder.deliveries(HELD).await;
    let seen = holder.statuses.len();
    sidecar.process.signal("STOP");
    let paused = Instant::now();
    given_up(node, scene).await;
    // It reads these as soon as it goes on, perhaps before it knows of its broker.
    holder.ack(&held[..5]).await;
    sidecar.process.signal("CONT");
    let (paused, resumed) = (paused.elapsed(), Instant::now());
    holder.state(v1::SubscriptionState::BrokerDown, seen).await;
    let down = holder.statuses.len();
    holder.ack(&held[5..]).await;
    let late: BTreeSet<i64> = held[5..].iter().map(|delivery| delivery.id).collect();
    holder
        .until("late verdicts are answered", |it| answered(it, v1::SettlementOutcome::LeaseLost).is_superset(&late))
        .await;
    holder.state(v1::SubscriptionState::Active, down).await;
    let resumed = resumed.elapsed();
    play.moves_on().await;
    play.is_over.set(true);
    // Of the first ones nobody knows: their acks may have been written to the dead connection.
    (paused, resumed, numbers(&held[..5]), numbers(&held[5..]))
}

/// failures.md S5.
#[tokio::test]
async fn a_sidecar_that_was_paused_for_long_begins_a_new_session_and_everything_confirmed_is_handled() {
    let node = nodes::managed().await;
    let scene = Scene::on(node.url(("guest", "guest"), "/"));
    let queue = |name: &str| format!("[queues.{name}]\nqueue = \"{}\"\nbindings = [\"player.#\"]\n", scene.name(name));
    let tables = [queue("work"), queue("held")].concat();
    let settings = scene.settings(&tables).replace("[bus.amqp]\n", "[bus.amqp]\nheartbeat = \"1s\"\n");
    let settings = format!("[bus]\ninstance = \"{}\"\n{settings}", scene.prefix);
    let mut sidecar = Sidecar::from_file(&settings, &scene).await;
    sidecar.ready().await;
    let mut handler = sidecar.handler().await;
    let flow = v1::FlowControl { max_in_flight_messages: i32::try_from(HELD).ok(), ..v1::FlowControl::default() };
    let open = v1::SubscribeOpen { flow: Some(flow), ..Handler::of("held") };
    let mut holder = Handler::open(sidecar.channel().await, open).await;
    let publishing = sidecar.publisher().await.open().await;

    let play = Play::default();
    let pausing = pause(&play, (node, &scene), &sidecar, &mut holder);
    let work = async {
        let (tally, times) = tokio::join!(play.publish(publishing), pausing);
        let all = async || play.handled.borrow().is_superset(&tally.confirmed).then_some(());
        until("nothing that was confirmed is missing", all).await;
        play.has_ended.notify_one();
        (tally, times)
    };
    let ((tally, (paused, resumed, first, late)), taken) = tokio::join!(work, play.handle(&mut handler));
    // What was acked too late is acked again, and comes to nobody.
    let copies = holder
        .handle_all(tally.confirmed.difference(&late).copied().filter(|number| !first.contains(number)).collect())
        .await;
    println!(
        "paused for {} ms, consuming {} ms after it; {} confirmed, {} sent again, {} and {} handled more than once",
        paused.as_millis(),
        resumed.as_millis(),
        tally.confirmed.len(),
        tally.repeated,
        taken.len() - play.handled.borrow().len(),
        copies.len() - numbers(&copies).len()
    );
    assert!(taken.iter().chain(&copies).all(|delivery| delivery.attempt == 1), "nothing is charged");
    assert!(
        copies.iter().all(|delivery| !late.contains(&number(delivery))),
        "what was acked late is not handed out again"
    );
    let is_stale = |status: &&v1::SubscriptionStatus| {
        status.state() == v1::SubscriptionState::Paused && status.description.contains("lost")
    };
    assert_eq!(holder.statuses.iter().find(is_stale), None, "a lost session is no reason to be paused");
    let sessions = sidecar.process.log().iter().filter(|line| line.contains("\"session ready\"")).count();
    assert_eq!(sessions, 2, "one was lost, one begun");
    assert_eq!(lines(&sidecar, "ERROR"), [""; 0]);
    let warnings = lines(&sidecar, "WARN");
    assert!(warnings.len() <= WARNINGS_MAX, "{warnings:#?}");
    handler.leave_at_last().await;
    holder.leave_at_last().await;
    assert_eq!(sidecar.process.stop().await, Some(0));
    let amqp = scene.amqp().await;
    for name in ["work", "held"] {
        amqp.wait_for_depth(&scene.name(name), 0).await;
    }
}
