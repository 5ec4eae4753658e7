//! What a release of RabbitMQ, or its settings, deny stops its own subscription and disturbs nobody.

use std::collections::BTreeSet;

use lapin::types::{AMQPValue, FieldTable};
use sidebus::domain::version::Version;
use sidebus::grpc::proto::sidebus::v1;

use crate::releases::{DENYING, can_deny};
use crate::support::handler::{Handler, number};
use crate::support::publisher::reason;
use crate::support::rabbitmq::{self, BrokerHandle};
use crate::support::scene::{Scene, Sidecar};
use crate::support::wait::until;

const SESSION_LOST: &str = "no session to the broker, trying again";
const LOCATOR: &str = "queue_type = \"classic\"\narguments = { x-queue-master-locator = \"min-masters\" }";

/// Lines of its log with these words.
fn lines(sidecar: &Sidecar, words: &str) -> Vec<String> {
    sidecar.process.log().into_iter().filter(|line| line.contains(words)).collect()
}

/// A second subscription, with a plain quorum queue.
fn other(scene: &Scene) -> String {
    format!("[queues.other]\nqueue = \"{}\"\nbindings = [\"#\"]\n", scene.name("other"))
}

async fn mismatch(sidecar: &Sidecar, open: v1::SubscribeOpen) -> String {
    let status = Handler::ending(sidecar.channel().await, open).await;
    assert_eq!(reason(&status).1, "TOPOLOGY_MISMATCH", "{status:?}");
    status.message().to_owned()
}

/// The other subscription works.
async fn works(sidecar: &Sidecar, message: usize) {
    let mut handler = Handler::open(sidecar.channel().await, Handler::of("other")).await;
    handler.state(v1::SubscriptionState::Active, 0).await;
    sidecar.publisher().await.publish_numbers(message..message + 1).await;
    let delivery = handler.delivery().await;
    assert_eq!(number(&delivery), message);
    handler.ack(&[delivery]).await;
    handler.leave().await;
}

async fn has_denied_locators() -> bool {
    rabbitmq::shared().await.version().await >= Version::new(4, 3, 0)
}

#[tokio::test]
async fn what_a_release_denies_is_not_even_tried_and_is_a_mismatch_of_its_subscription() {
    let scene = Scene::new().await;
    let mut sidecar = scene.sidecar(&format!("{}{}", scene.work(LOCATOR), other(&scene))).await;
    if has_denied_locators().await {
        for _ in 0..2 {
            let told = mismatch(&sidecar, Handler::of("work")).await;
            assert!(told.contains("x-queue-master-locator is denied from RabbitMQ 4.3 on"), "{told}");
        }
        assert_eq!(lines(&sidecar, "the topology does not fit").len(), 1);
        sidecar.metric_becomes("sidebus_topology_differences{kind=\"queue\"}", 1.0).await;
    } else {
        sidecar.handler().await.state(v1::SubscriptionState::Active, 0).await;
    }
    works(&sidecar, 0).await;
    assert_eq!(lines(&sidecar, SESSION_LOST), Vec::<String>::new());
    assert_eq!(sidecar.process.stop().await, Some(0));
}

/// Its settings permit what its release denies by itself, which no client can see.
const PERMITTING: &str = "deprecated_features.permit.queue_master_locator = true\n";

#[tokio::test]
async fn a_queue_that_exists_is_used_whatever_the_release_would_deny() {
    let node = if has_denied_locators().await { Some(BrokerHandle::start_set(PERMITTING).await) } else { None };
    let scene = match &node {
        Some(node) => Scene::on(node.url(("guest", "guest"), "/")),
        None => Scene::new().await,
    };
    let mut table = FieldTable::default();
    table.insert("x-queue-type".into(), AMQPValue::LongString("classic".into()));
    table.insert("x-queue-master-locator".into(), AMQPValue::LongString("min-masters".into()));
    scene.amqp().await.declare(&scene.name("work"), table).await;
    let mut sidecar = scene.sidecar(&scene.work(LOCATOR)).await;
    let mut handler = sidecar.handler().await;
    handler.state(v1::SubscriptionState::Active, 0).await;
    sidecar.publisher().await.publish_numbers(0..1).await;
    assert_eq!(number(&handler.delivery().await), 0);
    assert_eq!(lines(&sidecar, SESSION_LOST), Vec::<String>::new());
    assert_eq!(sidecar.process.stop().await, Some(0));
}

#[tokio::test]
async fn what_a_release_gives_up_is_said_once_in_a_session() {
    let scene = Scene::new().await;
    let mut sidecar = scene.sidecar(&scene.work("durable = false\nauto_delete = true")).await;
    for _ in 0..2 {
        let mut handler = sidecar.handler().await;
        handler.state(v1::SubscriptionState::Active, 0).await;
        handler.leave().await;
    }
    let said = lines(&sidecar, "neither durable nor exclusive");
    let is_deprecated = rabbitmq::shared().await.version().await.deprecates_transient_queues();
    assert_eq!(said.len(), usize::from(is_deprecated), "{said:?}");
    assert_eq!(sidecar.process.stop().await, Some(0));
}

#[tokio::test]
async fn the_commands_say_what_the_release_makes_of_the_settings() {
    let scene = Scene::new().await;
    let settings = scene.settings(&scene.work("durable = false\narguments = { x-queue-mode = \"lazy\" }"));
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("sidebus.toml");
    std::fs::write(&file, settings).expect("a settings file");
    let version = rabbitmq::shared().await.version().await;
    for command in ["diff", "apply"] {
        let mut call = tokio::process::Command::new(env!("CARGO_BIN_EXE_sidebus"));
        call.args(["topology", command, "-o", "json", "-c"]).arg(&file).env_clear();
        let said = call.output().await.expect("the command runs");
        let words = String::from_utf8_lossy(&said.stderr).into_owned();
        assert!(words.contains(&format!("RabbitMQ {version} at ")), "{words}");
        let json: serde_json::Value = serde_json::from_slice(&said.stdout).expect("JSON");
        let found = json["release"].as_array().expect("a list").iter();
        let keys: Vec<&str> = found.filter_map(|it| it["key"].as_str()).collect();
        if version.deprecates_transient_queues() {
            assert_eq!(keys, ["durable", "arguments.x-queue-mode"], "{json}");
            assert!(words.contains("arguments.x-queue-mode has no effect from RabbitMQ 3.12 on"), "{words}");
        } else {
            assert!(keys.is_empty(), "{json}");
        }
    }
}

/// The processes of all connections that the broker has.
async fn connections(node: &BrokerHandle) -> BTreeSet<String> {
    node.ctl(&["list_connections", "pid"]).await.lines().map(str::to_owned).collect()
}

#[tokio::test]
async fn what_only_the_settings_of_a_broker_deny_is_a_mismatch_and_costs_nobody_a_connection_again() {
    if !can_deny().await {
        println!("skipped: this release cannot deny deprecated features");
        return;
    }
    let node = BrokerHandle::start_set(DENYING).await;
    let scene = Scene::on(node.url(("guest", "guest"), "/"));
    let mut sidecar = scene.sidecar(&format!("{}{}", scene.work("durable = false"), other(&scene))).await;
    let told = mismatch(&sidecar, Handler::of("work")).await;
    assert!(told.contains("Feature `transient_nonexcl_queues` is deprecated. Its use is not permitted"), "{told}");
    works(&sidecar, 0).await;

    let before = connections(&node).await;
    for _ in 0..5 {
        mismatch(&sidecar, Handler::of("work")).await;
    }
    works(&sidecar, 1).await;
    assert!(before.is_subset(&connections(&node).await), "nothing was closed");
    assert_eq!(lines(&sidecar, "the topology does not fit").len(), 1);
    assert_eq!(lines(&sidecar, SESSION_LOST), Vec::<String>::new());

    // Somebody makes one that the broker permits: it is adopted, as always.
    scene.amqp().await.declare(&scene.name("work"), FieldTable::default()).await;
    let told = mismatch(&sidecar, Handler::of("work")).await;
    assert!(told.contains("durable is true, wanted is false"), "{told}");
    assert_eq!(sidecar.process.stop().await, Some(0));
}

#[tokio::test]
async fn an_exclusive_queue_that_the_broker_denies_ends_one_session_at_most() {
    if !can_deny().await {
        println!("skipped: this release cannot deny deprecated features");
        return;
    }
    let node = BrokerHandle::start_set(DENYING).await;
    let scene = Scene::on(node.url(("guest", "guest"), "/"));
    let keys = format!("exclusive = true\n{LOCATOR}");
    let mut sidecar = scene.sidecar(&format!("{}{}", scene.work(&keys), other(&scene))).await;
    // From 4.3 on the rules know it, so no session is lost.
    let sessions = usize::from(!has_denied_locators().await);
    until("it is known", async || (lines(&sidecar, "the topology does not fit").len() == 1).then_some(())).await;
    for _ in 0..3 {
        let told = mismatch(&sidecar, Handler::of("work")).await;
        assert!(told.contains("x-queue-master-locator") || told.contains("queue_master_locator"), "{told}");
    }
    works(&sidecar, 0).await;
    let before = connections(&node).await;
    mismatch(&sidecar, Handler::of("work")).await;
    assert!(before.is_subset(&connections(&node).await), "nothing was closed");
    assert_eq!(lines(&sidecar, SESSION_LOST).len(), sessions, "{:?}", lines(&sidecar, SESSION_LOST));
    assert_eq!(sidecar.process.stop().await, Some(0));
}
