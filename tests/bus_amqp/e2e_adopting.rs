//! Objects that somebody else has made, used as they are without losing a message: limits of queues, types of exchanges.

use lapin::ExchangeKind;
use lapin::types::{AMQPValue, FieldTable};
use sidebus::grpc::proto::sidebus::v1;
use sidebus::grpc::proto::sidebus::v1::settlement::Verdict;

use crate::support::handler::{Handler, number};
use crate::support::publisher::reason;
use crate::support::scene::Scene;

/// A quorum queue with this limit, and no place for what it gives up.
fn limited(limit: i32) -> FieldTable {
    let mut table = FieldTable::default();
    table.insert("x-queue-type".into(), AMQPValue::LongString("quorum".into()));
    table.insert("x-delivery-limit".into(), AMQPValue::LongInt(limit));
    table
}

#[tokio::test]
async fn an_adopted_queue_never_comes_to_its_own_limit() {
    for (limit, releases, losses) in [(2, 4, 4), (10, 2, 12)] {
        let scene = Scene::new().await;
        let amqp = scene.amqp().await;
        amqp.declare(&scene.name("work"), limited(limit)).await;
        let mut sidecar = scene.sidecar(&scene.work("")).await;
        let mut handler = sidecar.handler().await;
        handler.state(v1::SubscriptionState::Active, 0).await;
        sidecar.publisher().await.publish_numbers(0..1).await;
        for _ in 0..releases {
            let delivery = handler.delivery().await;
            assert_eq!((number(&delivery), delivery.attempt), (0, 1), "limit {limit}");
            handler.settle(&[delivery], Verdict::Release(v1::Release::default())).await;
        }
        for _ in 0..losses {
            handler.delivery().await;
            handler.half_close().await;
            handler = sidecar.handler().await;
        }
        for _ in 0..3 {
            // Held until the grace is over would take as long: the handler dies while the sidecar drains.
            handler.delivery().await;
            drop(handler);
            assert_eq!(sidecar.process.stop().await, Some(0));
            amqp.wait_for_depth(&scene.name("work"), 1).await;
            sidecar = scene.sidecar(&scene.work("")).await;
            handler = sidecar.handler().await;
        }
        let delivery = handler.delivery().await;
        assert_eq!((number(&delivery), delivery.attempt), (0, 1), "limit {limit}");
        handler.ack(&[delivery]).await;
        handler.leave().await;
        assert_eq!(sidecar.process.stop().await, Some(0));
        amqp.wait_for_depth(&scene.name("work"), 0).await;
    }
}

#[tokio::test]
async fn a_dead_letter_exchange_of_another_type_stops_its_subscriptions_and_no_publish() {
    for kind in [ExchangeKind::Direct, ExchangeKind::Topic, ExchangeKind::Headers] {
        let scene = Scene::new().await;
        let amqp = scene.amqp().await;
        amqp.exchange(&scene.name("dlx"), kind.clone()).await;
        let (dlx, dlq) = (scene.name("dlx2"), scene.name("dlq2"));
        let other = format!(
            "[queues.other]\nqueue = \"{}\"\nbindings = [\"#\"]\ndead_letter = {{ exchange = \"{dlx}\", queue = \"{dlq}\" }}\n",
            scene.name("other"),
        );
        let mut sidecar = scene.sidecar(&format!("{}{other}", scene.work(""))).await;
        let status = Handler::ending(sidecar.channel().await, Handler::of("work")).await;
        assert_eq!(reason(&status).1, "TOPOLOGY_MISMATCH", "{status:?}");
        let told = status.message();
        assert!(told.contains(&scene.name("dlx")) && told.contains("wanted is \"fanout\""), "{told}");
        assert!(told.contains("must be a fanout"), "{told}");
        let mut handler = Handler::open(sidecar.channel().await, Handler::of("other")).await;
        handler.state(v1::SubscriptionState::Active, 0).await;
        sidecar.publisher().await.publish_numbers(0..1).await;
        let delivery = handler.delivery().await;
        handler.dead_letter(&delivery).await;
        amqp.wait_for_depth(&dlq, 1).await;
        // It would hold the next message until the grace of the stop is over.
        handler.leave().await;

        // Without a restart, once it is mended.
        amqp.delete_exchange(&scene.name("dlx")).await;
        sidecar.metric_becomes("sidebus_topology_differences{kind=\"exchange\"}", 0.0).await;
        let mut handler = sidecar.handler().await;
        handler.state(v1::SubscriptionState::Active, 0).await;
        sidecar.publisher().await.publish_numbers(1..2).await;
        let delivery = handler.delivery().await;
        handler.dead_letter(&delivery).await;
        amqp.wait_for_depth(&scene.name("dlq"), 1).await;
        assert_eq!(sidecar.process.stop().await, Some(0), "{kind:?}");
    }
}

#[tokio::test]
async fn a_queue_that_sends_its_letters_elsewhere_than_its_settings_name_is_a_mismatch() {
    let scene = Scene::new().await;
    let amqp = scene.amqp().await;
    amqp.declare(&scene.name("work"), limited(30)).await;
    let name = scene.name("dlx");
    for keys in [
        format!("dead_letter = {{ exchange = \"{name}\" }}"),
        format!("arguments = {{ x-dead-letter-exchange = \"{name}\" }}"),
    ] {
        let mut sidecar = scene.sidecar(&scene.work(&keys)).await;
        let status = Handler::ending(sidecar.channel().await, Handler::of("work")).await;
        assert_eq!(reason(&status).1, "TOPOLOGY_MISMATCH", "{keys}: {status:?}");
        assert!(status.message().contains("x-dead-letter-exchange is nothing"), "{keys}: {}", status.message());
        assert_eq!(sidecar.process.stop().await, Some(0));
    }
}
