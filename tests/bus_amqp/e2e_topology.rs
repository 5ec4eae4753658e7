//! Objects that exist already are used as they are.

use std::collections::BTreeMap;

use lapin::ExchangeKind;
use lapin::options::ExchangeDeclareOptions;
use lapin::types::FieldTable;

use crate::support::handler::number;
use crate::support::nodes;
use crate::support::scene::{Scene, Sidecar};

/// Listings of `rabbitmqctl` that show every argument.
async fn shape(vhost: &str) -> BTreeMap<&'static str, Vec<String>> {
    let node = nodes::managed().await;
    let rows = |text: String| text.lines().map(str::to_owned).collect::<std::collections::BTreeSet<_>>();
    let queues = node.ctl(&["list_queues", "-p", vhost, "name", "type", "durable", "arguments"]).await;
    let exchanges = node.ctl(&["list_exchanges", "-p", vhost, "name", "type", "durable", "arguments"]).await;
    [("queues", queues), ("exchanges", exchanges)]
        .map(|(name, text)| (name, rows(text).into_iter().collect()))
        .into_iter()
        .collect()
}

#[tokio::test]
async fn promised_objects_that_were_made_as_classic_ones_are_adopted_untouched() {
    let node = nodes::managed().await;
    let vhost = node.virtual_host().await;
    let scene = Scene::on(node.url(("guest", "guest"), &vhost));
    let amqp = scene.amqp().await;
    let durable =
        ExchangeDeclareOptions { passive: false, durable: true, auto_delete: false, internal: false, nowait: false };
    for (name, kind) in [("angzarr.events", ExchangeKind::Topic), ("angzarr.dlx", ExchangeKind::Fanout)] {
        amqp.channel.exchange_declare(name.into(), kind, durable, FieldTable::default()).await.expect("an exchange");
    }
    for queue in ["player-projector", "output-projector", "hand-saga", "topology-tracker", "angzarr.dlq"] {
        amqp.declare(queue, FieldTable::default()).await;
    }
    let before = shape(&vhost).await;
    assert_eq!(before["queues"].iter().filter(|row| row.contains("classic")).count(), 5, "{before:?}");

    let file = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("config/sidebus.toml");
    let written = std::fs::read_to_string(file).expect("the worked example");
    let settings = written.replace("amqp://guest:guest@localhost:5672", &scene.url);
    let mut sidecar = Sidecar::from_file(&settings, &scene).await;
    sidecar.ready().await;
    sidecar.publisher().await.publish_numbers(0..1).await;
    let open = crate::support::handler::Handler::of("player-projector");
    let mut handler = crate::support::handler::Handler::open(sidecar.channel().await, open).await;
    let delivery = handler.delivery().await;
    assert_eq!(number(&delivery), 0);
    handler.dead_letter(&delivery).await;
    handler.leave().await;
    amqp.wait_for_depth("angzarr.dlq", 1).await;
    assert_eq!(sidecar.process.stop().await, Some(0));

    assert_eq!(shape(&vhost).await, before);
}
