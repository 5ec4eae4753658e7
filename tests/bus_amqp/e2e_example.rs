//! The worked example that users read first, and the same service without any file.

use std::path::Path;

use sidebus::grpc::proto::sidebus::v1;

use crate::support::handler::{Handler, message};
use crate::support::nodes;
use crate::support::publisher::numbered;
use crate::support::rabbitmq::BrokerHandle;
use crate::support::scene::{Scene, Sidecar};
use crate::support::wait::until;

const PATTERNS: [(&str, &str); 4] = [
    ("hand-saga", "hand.#"),
    ("output-projector", "player.#"),
    ("player-projector", "player.#"),
    ("topology-tracker", "*.#"),
];

/// Rows of a listing of `rabbitmqctl`, without the nameless exchange's own bindings.
fn rows(listing: &str) -> Vec<Vec<&str>> {
    listing.lines().map(|line| line.split('\t').collect()).collect()
}

/// The promised exchanges and bindings.
async fn is_there(node: &BrokerHandle, vhost: &str) {
    let exchanges = node.ctl(&["list_exchanges", "-p", vhost, "name", "type", "durable"]).await;
    assert!(rows(&exchanges).contains(&vec!["angzarr.events", "topic", "true"]), "{exchanges}");
    assert!(rows(&exchanges).contains(&vec!["angzarr.dlx", "fanout", "true"]), "{exchanges}");
    let bindings = node.ctl(&["list_bindings", "-p", vhost, "source_name", "destination_name", "routing_key"]).await;
    for (queue, pattern) in PATTERNS {
        assert!(rows(&bindings).contains(&vec!["angzarr.events", queue, pattern]), "{queue}: {bindings}");
    }
    assert!(rows(&bindings).contains(&vec!["angzarr.dlx", "angzarr.dlq", ""]), "{bindings}");
}

fn event(key: &str) -> v1::Message {
    v1::Message { routing_key: key.to_owned(), message_id: String::new(), ..numbered(0) }
}

#[tokio::test]
async fn the_worked_example_runs_as_written() {
    let node = nodes::managed().await;
    let vhost = node.virtual_host().await;
    let scene = Scene::on(node.url(("guest", "guest"), &vhost));
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("config/sidebus.toml");
    let written = std::fs::read_to_string(file).expect("the worked example");
    let settings = written.replace("amqp://guest:guest@localhost:5672", &scene.url);
    assert_ne!(settings, written, "the example names the broker");

    let sidecar = Sidecar::from_file(&settings, &scene).await;
    sidecar.ready().await;

    is_there(node, &vhost).await;

    let keys = ["player.PlayerRegistered", "hand.CardsDealt", "table.Opened"];
    sidecar.publisher().await.publish(keys.map(event).to_vec()).await.expect("every event has a queue");
    let mut saga = Handler::open(sidecar.channel().await, Handler::of("hand-saga")).await;
    let dealt = saga.delivery().await;
    assert_eq!(message(&dealt).routing_key, "hand.CardsDealt");
    saga.dead_letter(&dealt).await;
    saga.leave().await;

    let expected = [
        ("angzarr.dlq", "1"),
        ("hand-saga", "0"),
        ("output-projector", "1"),
        ("player-projector", "1"),
        ("topology-tracker", "3"),
    ];
    // The broker's figures follow its queues with some delay.
    until("rabbitmqctl list_queues shows each event where it belongs", async || {
        let listing = node.ctl(&["list_queues", "-p", &vhost, "name", "messages"]).await;
        let listed = rows(&listing);
        expected.iter().all(|(name, depth)| listed.contains(&vec![*name, *depth])).then_some(())
    })
    .await;
}

#[tokio::test]
async fn the_example_in_its_short_form_makes_the_same() {
    let node = nodes::managed().await;
    let vhost = node.virtual_host().await;
    let scene = Scene::on(node.url(("guest", "guest"), &vhost));
    let settings = format!(
        r#"
[bus.amqp]
url = "{}"
[queues]
player-projector = {{ bindings = ["player.#"], durable = true, auto_delete = false, exclusive = false, arguments = {{ x-dead-letter-exchange = "angzarr.dlx" }} }}
output-projector = {{ bindings = ["player.#"] }}
hand-saga = {{ bindings = ["hand.#"] }}
topology-tracker = {{ bindings = ["*.#"] }}
"#,
        scene.url
    );
    let mut sidecar = Sidecar::from_file(&settings, &scene).await;
    sidecar.ready().await;
    is_there(node, &vhost).await;
    assert_eq!(sidecar.process.stop().await, Some(0));
}

#[tokio::test]
async fn two_variables_and_queues_brought_by_handlers_are_a_whole_service() {
    let node = nodes::managed().await;
    let vhost = node.virtual_host().await;
    let scene = Scene::on(node.url(("guest", "guest"), &vhost));
    let sidecar = Sidecar::from_environment(&[("BUS_BACKEND", "amqp"), ("AMQP_URL", &scene.url)]).await;
    sidecar.ready().await;

    let mut handlers = Vec::new();
    for (name, pattern) in PATTERNS {
        let bindings = vec![v1::Binding { routing_key: pattern.to_owned(), ..v1::Binding::default() }];
        let declare = Some(v1::SubscriptionSpec { bindings, ..v1::SubscriptionSpec::default() });
        let open = v1::SubscribeOpen { declare, ..Handler::of(name) };
        let mut handler = Handler::open(sidecar.channel().await, open).await;
        handler.state(v1::SubscriptionState::Active, 0).await;
        handlers.push(handler);
    }
    let publisher = sidecar.publisher().await;
    for key in ["player.PlayerRegistered", "hand.CardsDealt"] {
        publisher.publish(vec![event(key)]).await.expect("a queue takes it");
    }

    let expected = [
        vec!["hand.CardsDealt"],
        vec!["player.PlayerRegistered"],
        vec!["player.PlayerRegistered"],
        vec!["player.PlayerRegistered", "hand.CardsDealt"],
    ];
    for (handler, keys) in handlers.iter_mut().zip(expected) {
        let deliveries = handler.deliveries(keys.len()).await;
        let found: Vec<_> = deliveries.iter().map(|delivery| message(delivery).routing_key.as_str()).collect();
        assert_eq!(found, keys);
        assert!(deliveries.iter().all(|delivery| message(delivery).exchange == "angzarr.events"));
        handler.ack(&deliveries).await;
        handler.leave().await;
    }
    let amqp = scene.amqp().await;
    for (queue, _) in PATTERNS {
        amqp.wait_for_depth(queue, 0).await;
    }
    assert_eq!(amqp.depth("angzarr.dlq").await, Some(0));
}
