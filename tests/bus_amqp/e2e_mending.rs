//! What mends itself while the sidecar runs, and what is answered when it stops.

use std::time::Duration;

use lapin::options::ExchangeDeleteOptions;
use tokio::time::{interval, timeout};

use crate::support::publisher::{numbered, reason};
use crate::support::scene::Scene;

const PATIENCE: Duration = Duration::from_secs(30);

#[tokio::test]
async fn an_exchange_that_was_deleted_is_made_again_with_its_bindings() {
    let scene = Scene::new().await;
    let mut sidecar = scene.sidecar(&scene.work("")).await;
    let (publisher, amqp) = (sidecar.publisher().await, scene.amqp().await);
    publisher.publish_numbers(0..1).await;
    amqp.wait_for_depth(&scene.name("work"), 1).await;

    let options = ExchangeDeleteOptions { if_unused: false, nowait: false };
    amqp.channel.exchange_delete(scene.name("events").as_str().into(), options).await.expect("the exchange was there");

    let stored = async {
        let mut clock = interval(Duration::from_millis(50));
        loop {
            clock.tick().await;
            if publisher.publish(vec![numbered(1)]).await.is_ok() {
                return;
            }
        }
    };
    timeout(PATIENCE, stored).await.expect("a publish is routed again");
    amqp.wait_for_depth(&scene.name("work"), 2).await;
    assert_eq!(sidecar.process.stop().await, Some(0));
}

#[tokio::test]
async fn publishes_that_are_out_when_the_sidecar_stops_get_their_answer() {
    let scene = Scene::new().await;
    let mut sidecar = scene.sidecar(&scene.work("")).await;
    let (publisher, amqp) = (sidecar.publisher().await, scene.amqp().await);
    publisher.publish_numbers(0..1).await;
    let publishing = async {
        let (mut stored, mut next) = (1_u32, 1_usize);
        loop {
            let batch: Vec<_> = (next..next + 100).map(numbered).collect();
            match publisher.publish(batch).await {
                Ok(ids) => stored += u32::try_from(ids.len()).expect("a batch"),
                Err(status) => return (stored, status),
            }
            next += 100;
        }
    };
    let stopping = async {
        // Some batches are through and others follow without a pause.
        amqp.wait_for_depth(&scene.name("none"), 0).await;
        sidecar.process.stop().await
    };
    amqp.declare(&scene.name("none"), lapin::types::FieldTable::default()).await;
    let ((stored, status), exit) = tokio::join!(publishing, stopping);

    assert_eq!(exit, Some(0));
    assert_ne!(reason(&status).1, "CONFIRM_LOST", "{status:?}");
    amqp.wait_for_depth(&scene.name("work"), stored).await;
}
