//! What exists otherwise than it is named stops its own subscription, is told, and is over once it is mended.

use lapin::types::{AMQPValue, FieldTable};
use sidebus::domain::version::Version;
use sidebus::grpc::proto::sidebus::v1;
use tonic_types::StatusExt as _;

use crate::support::handler::{Handler, number};
use crate::support::publisher::reason;
use crate::support::rabbitmq;
use crate::support::scene::{Scene, Sidecar};
use crate::support::wait::until;

const QUEUES_THAT_DIFFER: &str = "sidebus_topology_differences{kind=\"queue\"}";

fn table(pairs: &[(&str, AMQPValue)]) -> FieldTable {
    let mut table = FieldTable::default();
    for (key, value) in pairs {
        table.insert((*key).into(), value.clone());
    }
    table
}

fn ttl(number: i32) -> FieldTable {
    table(&[("x-message-ttl", AMQPValue::LongInt(number))])
}

/// Lines of its log at this level that hold all of the words.
fn lines(sidecar: &Sidecar, level: &str, words: &[&str]) -> Vec<String> {
    let is_meant = |line: &String| line.contains(level) && words.iter().all(|word| line.contains(word));
    sidecar.process.log().into_iter().filter(is_meant).collect()
}

/// Two subscriptions; the queue of the first is named with a TTL of one minute.
fn two(scene: &Scene) -> String {
    let other = scene.name("other");
    let named = scene.work("arguments = { x-message-ttl = 60000 }");
    format!("{named}[queues.other]\nqueue = \"{other}\"\nbindings = [\"#\"]\n")
}

#[tokio::test]
async fn a_named_argument_that_differs_stops_one_subscription_until_it_is_mended() {
    let scene = Scene::new().await;
    let amqp = scene.amqp().await;
    amqp.declare(&scene.name("work"), ttl(1_000)).await;
    let mut sidecar = scene.sidecar(&two(&scene)).await;

    for _ in 0..2 {
        let status = Handler::ending(sidecar.channel().await, Handler::of("work")).await;
        assert_eq!(reason(&status).1, "TOPOLOGY_MISMATCH", "{status:?}");
        let details = status.get_error_details();
        let told = &details.error_info().expect("info").metadata;
        assert_eq!(
            (told["object"].as_str(), told["key"].as_str(), told["declared"].as_str(), told["existing"].as_str()),
            (format!("queue {}", scene.name("work")).as_str(), "x-message-ttl", "60000", "1000")
        );
        assert!(status.message().contains("delete the object when it is empty"), "{}", status.message());
    }
    sidecar.metric_becomes(QUEUES_THAT_DIFFER, 1.0).await;
    let mut other = Handler::open(sidecar.channel().await, Handler::of("other")).await;
    other.state(v1::SubscriptionState::Active, 0).await;
    sidecar.publisher().await.publish_numbers(0..1).await;
    assert_eq!(number(&other.delivery().await), 0);
    let said = lines(&sidecar, "ERROR", &["the topology does not fit", "x-message-ttl is 1000, wanted is 60000"]);
    assert_eq!(said.len(), 1, "it is said once, however often it is looked at: {said:?}");

    // No handler waits for it, and nothing is restarted.
    amqp.delete(&scene.name("work")).await;
    sidecar.metric_becomes(QUEUES_THAT_DIFFER, 0.0).await;
    amqp.wait_for_depth(&scene.name("work"), 0).await;
    sidecar.publisher().await.publish_numbers(1..2).await;
    let mut work = sidecar.handler().await;
    assert_eq!(number(&work.delivery().await), 1);
    assert_eq!(sidecar.process.stop().await, Some(0));
}

#[tokio::test]
async fn a_queue_that_is_made_again_otherwise_while_it_is_consumed_ends_its_streams_until_it_is_mended() {
    let scene = Scene::new().await;
    let amqp = scene.amqp().await;
    let mut sidecar = scene.sidecar(&scene.work("queue_type = \"quorum\"")).await;
    let mut handler = sidecar.handler().await;
    handler.state(v1::SubscriptionState::Active, 0).await;

    // Faster than the sidecar may make it again, or else once more.
    until("a classic queue of that name", async || {
        amqp.delete(&scene.name("work")).await;
        let channel = amqp.connection.create_channel().await.expect("a channel");
        let options = lapin::options::QueueDeclareOptions {
            passive: false,
            durable: true,
            exclusive: false,
            auto_delete: false,
            nowait: false,
        };
        channel.queue_declare(scene.name("work").as_str().into(), options, FieldTable::default()).await.ok()
    })
    .await;

    let status = handler.end_status().await;
    assert_eq!(reason(&status).1, "TOPOLOGY_MISMATCH", "{status:?}");
    // From 4.0 on the broker notes the type of a queue that was declared without one.
    let is_noted = rabbitmq::shared().await.version().await >= Version::new(4, 0, 0);
    let found = if is_noted { "\"classic\"" } else { "nothing" };
    let expected = format!("x-queue-type is {found}, wanted is \"quorum\"");
    assert!(status.message().contains(&expected), "{}", status.message());
    sidecar.metric_becomes(QUEUES_THAT_DIFFER, 1.0).await;

    amqp.delete(&scene.name("work")).await;
    sidecar.metric_becomes(QUEUES_THAT_DIFFER, 0.0).await;
    sidecar.publisher().await.publish_numbers(0..1).await;
    assert_eq!(number(&sidecar.handler().await.delivery().await), 0);
    assert_eq!(sidecar.process.stop().await, Some(0));
}

#[tokio::test]
async fn a_queue_that_was_deleted_is_made_again_and_its_loss_is_counted() {
    let scene = Scene::new().await;
    let amqp = scene.amqp().await;
    let mut sidecar = scene.sidecar(&scene.work("")).await;
    let mut handler = sidecar.handler().await;
    handler.state(v1::SubscriptionState::Active, 0).await;
    let seen = handler.statuses.len();

    amqp.delete(&scene.name("work")).await;

    handler.state(v1::SubscriptionState::Active, seen).await;
    sidecar.metric_becomes("sidebus_queues_recreated_total", 1.0).await;
    let words = [&format!("queue {}", scene.name("work")), "the messages that it held are lost"];
    assert_eq!(lines(&sidecar, "ERROR", &words.map(|word| word as &str)).len(), 1);
    sidecar.publisher().await.publish_numbers(0..1).await;
    assert_eq!(number(&handler.delivery().await), 0);
    assert_eq!(sidecar.process.stop().await, Some(0));
}

#[tokio::test]
async fn an_exchange_of_another_type_is_adopted_with_a_warning_where_nobody_names_its_type() {
    let scene = Scene::new().await;
    scene.amqp().await.exchange(&scene.name("events"), lapin::ExchangeKind::Fanout).await;
    let mut sidecar = scene.sidecar(&scene.work("")).await;
    let mut handler = sidecar.handler().await;
    handler.state(v1::SubscriptionState::Active, 0).await;
    sidecar.publisher().await.publish_numbers(0..1).await;
    assert_eq!(number(&handler.delivery().await), 0);
    let object = format!("exchange {}", scene.name("events"));
    let said = lines(&sidecar, "WARN", &["adopted: ", &object, "type is \\\"fanout\\\", wanted is \\\"topic\\\""]);
    assert_eq!(said.len(), 1, "{said:?}");
    assert_eq!(sidecar.process.stop().await, Some(0));
}

#[tokio::test]
async fn an_exchange_of_another_type_than_named_stops_those_whom_it_feeds() {
    let scene = Scene::new().await;
    let (amqp, commands) = (scene.amqp().await, scene.name("commands"));
    amqp.exchange(&commands, lapin::ExchangeKind::Fanout).await;
    let tables = format!(
        "[exchanges.\"{commands}\"]\ntype = \"direct\"\n\
         [queues.work]\nqueue = \"{}\"\nbindings = [{{ exchange = \"{commands}\", routing_key = \"credit\" }}]\n\
         [queues.other]\nqueue = \"{}\"\nbindings = [\"#\"]\n",
        scene.name("work"),
        scene.name("other"),
    );
    let mut sidecar = scene.sidecar(&tables).await;
    let status = Handler::ending(sidecar.channel().await, Handler::of("work")).await;
    assert_eq!(reason(&status).1, "TOPOLOGY_MISMATCH", "{status:?}");
    assert!(status.message().contains("type is \"fanout\", wanted is \"direct\""), "{}", status.message());
    let mut other = Handler::open(sidecar.channel().await, Handler::of("other")).await;
    other.state(v1::SubscriptionState::Active, 0).await;

    let options = lapin::options::ExchangeDeleteOptions::default();
    amqp.channel.exchange_delete(commands.as_str().into(), options).await.expect("the exchange goes");
    sidecar.metric_becomes("sidebus_topology_differences{kind=\"exchange\"}", 0.0).await;
    sidecar.handler().await.state(v1::SubscriptionState::Active, 0).await;
    assert_eq!(sidecar.process.stop().await, Some(0));
}

#[tokio::test]
async fn without_any_creating_what_is_missing_is_a_mismatch_until_it_is_there() {
    let scene = Scene::new().await;
    let amqp = scene.amqp().await;
    let settings = scene.settings(&scene.work("")).replace("namespace", "topology = \"verify\"\nnamespace");
    let mut sidecar = Sidecar::from_file(&settings, &scene).await;
    sidecar.ready().await;
    let status = Handler::ending(sidecar.channel().await, Handler::of("work")).await;
    assert_eq!(reason(&status).1, "TOPOLOGY_MISMATCH", "{status:?}");
    sidecar.metric_becomes("sidebus_topology_differences{kind=\"exchange\"}", 2.0).await;

    amqp.exchange(&scene.name("events"), lapin::ExchangeKind::Topic).await;
    amqp.exchange(&scene.name("dlx"), lapin::ExchangeKind::Fanout).await;
    amqp.declare(&scene.name("dlq"), FieldTable::default()).await;
    amqp.declare(&scene.name("work"), FieldTable::default()).await;
    sidecar.metric_becomes("sidebus_topology_differences{kind=\"exchange\"}", 0.0).await;
    sidecar.metric_becomes(QUEUES_THAT_DIFFER, 0.0).await;
    let mut handler = sidecar.handler().await;
    handler.state(v1::SubscriptionState::Active, 0).await;
    assert_eq!(sidecar.process.stop().await, Some(0));
}
