//! Links that fall silent: what callers and handlers hear of it, and that nothing confirmed is lost.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use futures_util::future::join_all;
use sidebus::grpc::proto::sidebus::v1;
use tokio::time::{Instant, timeout};
use tonic::Code;

use crate::support::handler::{Handler, number};
use crate::support::nodes;
use crate::support::publisher::{Publishing, numbered, reason};
use crate::support::scene::Scene;
use crate::support::wait::until;

/// Far longer than an ack takes to be read where nothing is in the way, and far shorter than a heartbeat.
const UNREAD: Duration = Duration::from_secs(1);
const BROKER_LOST: i32 = v1::RevocationReason::BrokerLost as i32;

/// A handler holds deliveries while nothing passes between sidecar and broker any more.
async fn a_silent_link_is_given_up_within(limit: Duration, query: &str) {
    let (mut scene, proxy) = Scene::linked(nodes::managed().await).await;
    scene.url.push_str(query);
    let mut sidecar = scene.sidecar(&scene.work("")).await;
    let mut handler = sidecar.handler().await;
    sidecar.publisher().await.publish_numbers(0..50).await;
    let held = handler.deliveries(50).await;
    let seen = handler.statuses.len();

    let silent = Instant::now();
    proxy.freeze();
    handler.state(v1::SubscriptionState::BrokerDown, seen).await;
    let noticed = silent.elapsed();
    assert!(noticed < limit, "{noticed:?}");
    handler.until("every lease is revoked", |handler| revoked(handler).len() == held.len()).await;
    let seen = handler.statuses.len();

    proxy.thaw();
    handler.state(v1::SubscriptionState::Active, seen).await;
    let again = handler.deliveries(50).await;
    assert!(again.iter().map(number).collect::<BTreeSet<_>>().into_iter().eq(0..50), "each of them, once");
    assert!(again.iter().all(|delivery| delivery.attempt == 1), "nothing is charged");
    handler.ack(&again).await;
    handler.leave().await;
    assert_eq!(sidecar.process.stop().await, Some(0));
    scene.amqp().await.wait_for_depth(&scene.name("work"), 0).await;
}

fn revoked(handler: &Handler) -> BTreeSet<i64> {
    let lost = handler.revocations.iter().filter(|revocation| revocation.reason == BROKER_LOST);
    lost.flat_map(|revocation| revocation.delivery_ids.iter().copied()).collect()
}

/// Results of all settlements promise that the broker has read them: an ack that is written and lies on the way is not yet one.
#[tokio::test]
async fn with_all_results_an_ack_is_told_when_the_broker_has_read_it_and_not_before() {
    let (scene, proxy) = Scene::linked(nodes::managed().await).await;
    let mut sidecar = scene.sidecar(&scene.work("")).await;
    let all = v1::ResultMode::All.into();
    let open = v1::SubscribeOpen { result_mode: all, ..Handler::of("work") };
    let mut handler = Handler::open(sidecar.channel().await, open).await;
    sidecar.publisher().await.publish_numbers(0..2).await;
    let held = handler.deliveries(2).await;
    handler.ack(&held[..1]).await;
    handler.until("what is read is told", |handler| handler.results.len() == 1).await;

    proxy.freeze();
    handler.ack(&held[1..]).await;
    let told = handler.until("an answer", |handler| handler.results.len() == 2);
    timeout(UNREAD, told).await.expect_err("the broker has read nothing");
    proxy.thaw();
    handler.until("the answer", |handler| handler.results.len() == 2).await;
    let acked = i32::from(v1::SettlementOutcome::Acked);
    assert!(handler.results.iter().all(|result| result.outcome == acked), "{:?}", handler.results);
    // With nothing between this answer and the death: what was told is true.
    sidecar.process.kill().await;
    let gone = async || scene.amqp().await.look(&scene.name("work")).await;
    until("its consumer is gone", async || gone().await.filter(|(_, consumers)| *consumers == 0)).await;
    scene.amqp().await.wait_for_depth(&scene.name("work"), 0).await;
}

/// failures.md L3.
#[tokio::test]
async fn a_link_that_falls_silent_is_given_up_within_two_heartbeats_of_the_settings() {
    a_silent_link_is_given_up_within(Duration::from_secs(4 + 2), "?heartbeat=2").await;
}

/// failures.md L3.
#[tokio::test]
async fn a_link_that_falls_silent_is_given_up_within_20_seconds_by_default() {
    // And two for a busy machine.
    a_silent_link_is_given_up_within(Duration::from_secs(20 + 2), "").await;
}

/// The numbers whose confirm is lost. The others were not sent, and nothing else was said of any.
fn lost(outcomes: &BTreeMap<usize, String>) -> BTreeSet<usize> {
    let is_known = |word: &str| ["CONFIRM_LOST", "BROKER_DOWN", "BROKER_UNAVAILABLE"].contains(&word);
    assert!(outcomes.values().all(|word| is_known(word)), "{outcomes:?}");
    outcomes.iter().filter(|(_, word)| *word == "CONFIRM_LOST").map(|(number, _)| *number).collect()
}

/// Everything of a stream that has failed since, by number.
fn failed(publishing: &mut Publishing) -> BTreeMap<usize, String> {
    let failures = std::mem::take(&mut publishing.failures);
    assert!(failures.iter().all(|failure| failure.retryable), "{failures:?}");
    let word = |failure: &v1::PublishFailure| failure.kind().as_str_name().replace("PUBLISH_FAILURE_KIND_", "");
    failures.iter().map(|failure| (failure.message_id.parse().expect("a number"), word(failure))).collect()
}

/// failures.md L6.
#[tokio::test]
async fn a_stream_hears_of_each_message_whether_its_confirm_is_lost_and_publishes_on() {
    let (scene, proxy) = Scene::linked(nodes::managed().await).await;
    let sidecar = scene.sidecar(&scene.work("")).await;
    let mut publishing = sidecar.publisher().await.open().await;
    publishing.publish((0..100).map(numbered)).await;
    publishing.until("all are confirmed", |it| it.confirmed.len() == 100).await;

    proxy.freeze_answers();
    publishing.publish((100..600).map(numbered)).await;
    stored_above(&scene, 100).await;
    proxy.cut();
    proxy.thaw();
    publishing.until("each has an answer", Publishing::is_answered).await;
    assert_eq!(publishing.confirmed.len(), 100, "nothing more is confirmed");
    let outcomes = failed(&mut publishing);
    assert!(outcomes.keys().copied().eq(100..600));
    let in_doubt = lost(&outcomes);

    while publishing.confirmed.len() == 100 {
        publishing.publish([numbered(600)]).await;
        publishing.until("it has an answer", Publishing::is_answered).await;
    }
    publishing.failures.clear();
    publishing.publish((601..700).map(numbered)).await;
    publishing.until("all are confirmed", |it| it.confirmed.len() == 200).await;
    assert_eq!(publishing.failures, []);
    holds_what_was_told(&scene, (0..100).chain(600..700), &in_doubt).await;
}

/// failures.md L3: what is out when the link falls silent is told in time, and that nobody knows what became of it.
#[tokio::test]
async fn a_stream_whose_confirms_do_not_come_hears_so_in_time_and_publishes_on() {
    let (scene, proxy) = Scene::linked(nodes::managed().await).await;
    let tables = ["[bus.amqp.publish]\nconfirm_timeout = \"2s\"\n", &scene.work("")].concat();
    let sidecar = scene.sidecar(&tables).await;
    let mut publishing = sidecar.publisher().await.open().await;
    publishing.publish((0..100).map(numbered)).await;
    publishing.until("all are confirmed", |it| it.confirmed.len() == 100).await;

    proxy.freeze_answers();
    let asked = Instant::now();
    // One, so that it is one batch: what waits behind a lane that is given up waits for another channel, too.
    publishing.publish([numbered(100)]).await;
    publishing.until("it has an answer", Publishing::is_answered).await;
    let waited = asked.elapsed();
    assert!(waited >= Duration::from_secs(2) && waited < Duration::from_secs(2 + 2), "{waited:?}");
    let outcomes = failed(&mut publishing);
    assert_eq!(outcomes.get(&100).map(String::as_str), Some("CONFIRM_TIMEOUT"), "{outcomes:?}");
    proxy.thaw();
    publishing.publish((200..300).map(numbered)).await;
    publishing.until("all are confirmed", |it| it.confirmed.len() == 200).await;
    assert_eq!(publishing.failures, []);
    holds_what_was_told(&scene, (0..100).chain(200..300), &outcomes.into_keys().collect()).await;
}

/// Waits until the queue has taken in more than so many.
async fn stored_above(scene: &Scene, count: u32) {
    let (amqp, queue) = (scene.amqp().await, scene.name("work"));
    let look = async || amqp.depth(&queue).await.filter(|depth| *depth > count).map(drop);
    until("the broker stores what it does not confirm", look).await;
}

/// Once each is what was confirmed, at most once what is in doubt, and nothing else.
async fn holds_what_was_told(scene: &Scene, confirmed: impl Iterator<Item = usize>, in_doubt: &BTreeSet<usize>) {
    let mut found = scene.amqp().await.numbers(&scene.name("work")).await;
    found.sort_unstable();
    assert!(found.windows(2).all(|pair| pair[0] != pair[1]), "none twice: {found:?}");
    let found: BTreeSet<usize> = found.into_iter().collect();
    let confirmed: BTreeSet<usize> = confirmed.collect();
    assert!(found.is_superset(&confirmed), "nothing that was confirmed is missing");
    let others: BTreeSet<usize> = found.difference(&confirmed).copied().collect();
    assert!(!others.is_empty() && others.is_subset(in_doubt), "nothing is stored that was called not sent: {others:?}");
}

/// failures.md L6.
#[tokio::test]
async fn each_caller_hears_whether_its_confirm_is_lost_and_may_publish_again() {
    let (scene, proxy) = Scene::linked(nodes::managed().await).await;
    let sidecar = scene.sidecar(&scene.work("")).await;
    let publisher = sidecar.publisher().await;
    publisher.publish_numbers(0..100).await;

    proxy.freeze_answers();
    let callers = join_all((100..164).map(|number| publisher.publish(vec![numbered(number)])));
    let (answers, ()) = tokio::join!(callers, async {
        stored_above(&scene, 100).await;
        proxy.cut();
        proxy.thaw();
    });
    let said = answers.into_iter().map(|answer| reason(&answer.expect_err("no confirm has come")));
    let said: Vec<(Code, String)> = said.collect();
    assert!(said.iter().all(|(code, _)| *code == Code::Unavailable), "{said:?}");
    let in_doubt = lost(&(100..).zip(said.into_iter().map(|(_, reason)| reason)).collect());

    let again = async || publisher.publish(vec![numbered(200)]).await.ok();
    assert_eq!(until("it can be published again", again).await, ["200"]);
    publisher.publish_numbers(201..300).await;
    holds_what_was_told(&scene, (0..100).chain(200..300), &in_doubt).await;
}

/// failures.md S4 and L4: a real process, and its real exit code.
#[tokio::test]
async fn a_process_whose_connects_hang_beyond_help_ends_with_70_and_what_it_held_goes_back() {
    let (mut scene, proxy) = Scene::linked(nodes::managed().await).await;
    scene.url.push_str("?connection_timeout=300");
    let mut sidecar = scene.sidecar(&scene.work("")).await;
    let mut handler = sidecar.handler().await;
    // Not through this sidecar, which would have its lane then.
    let another = scene.sidecar(&scene.work("")).await;
    another.publisher().await.publish_numbers(0..1).await;
    handler.delivery().await;

    proxy.only_greet();
    let publisher = sidecar.publisher().await;
    // Each of them opens a connection for its lane, which hangs in lapin and cannot be cut.
    for number in 0..9 {
        let refused = publisher.publish(vec![numbered(number)]).await.expect_err("there is no lane");
        assert_eq!(reason(&refused), (Code::Unavailable, "BROKER_UNAVAILABLE".to_owned()), "{refused:?}");
    }
    proxy.cut();
    assert_eq!(sidecar.process.end().await.code(), Some(70));
    scene.amqp().await.wait_for_depth(&scene.name("work"), 1).await;
}
