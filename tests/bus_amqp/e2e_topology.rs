//! Objects that exist already are used as they are.

use std::collections::BTreeMap;

use lapin::ExchangeKind;
use lapin::types::{AMQPValue, FieldTable};
use sidebus::domain::version::Version;
use sidebus::grpc::proto::sidebus::v1;

use crate::support::handler::{Handler, number};
use crate::support::nodes;
use crate::support::publisher::reason;
use crate::support::rabbitmq;
use crate::support::scene::{Amqp, Scene, Sidecar};

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

/// The promised objects, pre-made as classic queues; the one queue whose dead-letter exchange the example names has it.
async fn premake(amqp: &Amqp, dead_letters_of: &[&str]) {
    amqp.exchange("angzarr.events", ExchangeKind::Topic).await;
    amqp.exchange("angzarr.dlx", ExchangeKind::Fanout).await;
    for queue in ["player-projector", "output-projector", "hand-saga", "topology-tracker", "angzarr.dlq"] {
        let mut arguments = FieldTable::default();
        if dead_letters_of.contains(&queue) {
            arguments.insert("x-dead-letter-exchange".into(), AMQPValue::LongString("angzarr.dlx".into()));
        }
        amqp.declare(queue, arguments).await;
    }
}

/// A sidecar of the worked example, as users read it.
async fn example(scene: &Scene) -> Sidecar {
    let file = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("config/sidebus.toml");
    let written = std::fs::read_to_string(file).expect("the worked example");
    let sidecar = Sidecar::from_file(&written.replace("amqp://guest:guest@localhost:5672", &scene.url), scene).await;
    sidecar.ready().await;
    sidecar
}

#[tokio::test]
async fn promised_objects_that_were_made_as_classic_ones_are_adopted_untouched() {
    let node = nodes::managed().await;
    let vhost = node.virtual_host().await;
    let scene = Scene::on(node.url(("guest", "guest"), &vhost));
    let amqp = scene.amqp().await;
    premake(&amqp, &["player-projector"]).await;
    let before = shape(&vhost).await;
    assert_eq!(before["queues"].iter().filter(|row| row.contains("classic")).count(), 5, "{before:?}");

    let mut sidecar = example(&scene).await;
    sidecar.publisher().await.publish_numbers(0..1).await;
    let mut handler = Handler::open(sidecar.channel().await, Handler::of("player-projector")).await;
    let delivery = handler.delivery().await;
    assert_eq!(number(&delivery), 0);
    handler.dead_letter(&delivery).await;
    handler.leave().await;
    amqp.wait_for_depth("angzarr.dlq", 1).await;
    // One warning for each of the five, with what it lacks.
    let adopted: Vec<String> = sidecar.process.log().into_iter().filter(|line| line.contains("adopted: ")).collect();
    assert_eq!(adopted.len(), 5, "{adopted:?}");
    // From 4.0 on a queue that names no type has one.
    let is_typed = rabbitmq::shared().await.version().await >= Version::new(4, 0, 0);
    let told =
        if is_typed { "x-queue-type is \\\"classic\\\", wanted is " } else { "x-queue-type is nothing, wanted is " };
    assert!(adopted.iter().all(|line| line.contains(told)), "{adopted:?}");
    assert_eq!(sidecar.process.stop().await, Some(0));

    assert_eq!(shape(&vhost).await, before);
}

#[tokio::test]
async fn a_promised_queue_without_what_the_settings_name_is_stopped_and_no_other() {
    let node = nodes::managed().await;
    let vhost = node.virtual_host().await;
    let scene = Scene::on(node.url(("guest", "guest"), &vhost));
    premake(&scene.amqp().await, &[]).await;
    let before = shape(&vhost).await;

    let mut sidecar = example(&scene).await;
    let status = Handler::ending(sidecar.channel().await, Handler::of("player-projector")).await;
    assert_eq!(reason(&status).1, "TOPOLOGY_MISMATCH", "{status:?}");
    assert!(status.message().contains("x-dead-letter-exchange is nothing"), "{}", status.message());
    for other in ["output-projector", "hand-saga", "topology-tracker"] {
        Handler::open(sidecar.channel().await, Handler::of(other)).await.state(v1::SubscriptionState::Active, 0).await;
    }
    assert_eq!(sidecar.process.stop().await, Some(0));
    assert_eq!(queues(&shape(&vhost).await), queues(&before));
}

#[tokio::test]
async fn switched_off_nothing_is_asked_and_what_exists_is_consumed() {
    let node = nodes::managed().await;
    let vhost = node.virtual_host().await;
    let scene = Scene::on(node.url(("guest", "guest"), &vhost));
    let amqp = scene.amqp().await;
    amqp.declare("there", FieldTable::default()).await;
    let before = shape(&vhost).await;
    let settings = format!(
        "[bus.amqp]\nurl = \"{}\"\ntopology = \"off\"\n\
         [queues.work]\nqueue = \"there\"\nbindings = [\"#\"]\nmax_length = 7\n",
        scene.url
    );
    let mut sidecar = Sidecar::from_file(&settings, &scene).await;
    sidecar.ready().await;
    let mut handler = sidecar.handler().await;
    handler.state(v1::SubscriptionState::Active, 0).await;
    let options = lapin::options::BasicPublishOptions::default();
    let sent = amqp.channel.basic_publish("".into(), "there".into(), options, b"x", lapin::BasicProperties::default());
    sent.await.expect("it is sent");
    let delivery = handler.delivery().await;
    handler.ack(&[delivery]).await;
    handler.leave().await;
    amqp.wait_for_depth("there", 0).await;
    assert_eq!(sidecar.process.stop().await, Some(0));
    assert_eq!(shape(&vhost).await, before, "no exchange, no queue and no dead letters were made");
    let bindings = node.ctl(&["list_bindings", "-p", &vhost, "source_name"]).await;
    let made = bindings.lines().filter(|source| !source.trim().is_empty() && *source != "source_name");
    assert_eq!(made.count(), 0, "only the nameless exchange leads anywhere: {bindings}");
}

/// Their types and arguments.
fn queues(shape: &BTreeMap<&'static str, Vec<String>>) -> Vec<String> {
    shape["queues"].clone()
}
