//! Dead letters that the broker makes by itself, and ours that it moves on: each is told for what it is.

use std::time::Duration;

use lapin::options::{BasicGetOptions, BasicRejectOptions};
use sidebus::broker::amqp::AmqpBroker;
use sidebus::broker::{Broker as _, ConsumeOptions, Prefetch, SessionId};
use sidebus::domain::letter::{self, Letter};
use sidebus::domain::name::{ExchangeName, QueueName};
use tokio::time::timeout;

use crate::support::publisher::numbered;
use crate::support::rabbitmq;
use crate::support::scene::Scene;
use crate::support::wait::{PATIENCE, until};

/// The first letter of a queue, read by the backend; it goes back.
async fn first_letter(scene: &Scene, lies_in: &str) -> Letter {
    let broker = AmqpBroker::new(rabbitmq::shared().await.options());
    let session = broker.connect(SessionId(1)).await.expect("a session");
    let queue = QueueName::parse(&scene.name(lies_in)).expect("a name");
    let options = ConsumeOptions { prefetch: Prefetch::new(1), exclusive: false, own_connection: false };
    let (mut arrivals, settler) = session.consume(queue.clone(), options).await.expect("the queue is there");
    let arrived = timeout(PATIENCE, arrivals.next_batch(1)).await.expect("a letter in time").expect("the queue stays");
    let message = arrived.into_iter().next().expect("a letter").message;
    drop((arrivals, settler));
    session.close(Duration::from_secs(2)).await;
    let exchange = ExchangeName::from_broker(&scene.name("dlx"));
    let (dlq, archive) = (scene.name("dlq"), scene.name("archive"));
    letter::read(message, (&queue, &exchange), |name| name == dlq || name == archive)
}

#[tokio::test]
async fn what_expired_or_found_its_queue_full_is_the_brokers_letter() {
    for (keys, cause) in [
        ("queue_type = \"quorum\"\nmessage_ttl = \"100ms\"", "BROKER_EXPIRED"),
        ("queue_type = \"classic\"\nmessage_ttl = \"100ms\"", "BROKER_EXPIRED"),
        ("queue_type = \"classic\"\nmax_length = 1\noverflow = \"drop_head\"", "BROKER_MAXLEN"),
    ] {
        let scene = Scene::new().await;
        let sidecar = scene.sidecar(&scene.work(keys)).await;
        sidecar.publisher().await.publish(vec![numbered(1), numbered(2)]).await.expect("confirmed");

        let letter = first_letter(&scene, "dlq").await;

        assert_eq!((letter.cause.as_str(), letter.queue.as_deref()), (cause, Some(&*scene.name("work"))), "{keys}");
        assert_eq!((letter.message.exchange.as_str(), &*letter.message.body), (&*scene.name("events"), &b"1"[..]));
        assert_eq!(letter.message.routing_key, numbered(1).routing_key);
        assert!(letter.is_broker_made() && letter.time_ms.is_some_and(|time| time > 0), "{letter:?}");
    }
}

#[tokio::test]
async fn a_retried_message_beyond_the_delivery_limit_keeps_its_history_in_the_brokers_letter() {
    let scene = Scene::new().await;
    let mut sidecar = scene.sidecar(&scene.work("delivery_limit = 6")).await;
    let mut handler = sidecar.handler().await;
    sidecar.publisher().await.publish(vec![numbered(1)]).await.expect("confirmed");
    let delivery = handler.delivery().await;
    handler.retry(&delivery).await;
    let again = handler.delivery().await;
    assert_eq!(again.attempt, 2);
    drop(handler);
    assert_eq!(sidecar.process.stop().await, Some(0));

    let amqp = scene.amqp().await;
    let (work, dlq) = (scene.name("work"), scene.name("dlq"));
    until("the broker gives it up", async || {
        if let Some(got) = amqp
            .channel
            .basic_get(work.as_str().into(), BasicGetOptions { no_ack: false })
            .await
            .expect("work is there")
        {
            let reject = BasicRejectOptions { requeue: true };
            got.delivery.acker.reject(reject).await.expect("a channel");
        }
        (amqp.depth(&dlq).await == Some(1)).then_some(())
    })
    .await;

    let letter = first_letter(&scene, "dlq").await;
    assert_eq!((letter.cause.as_str(), letter.queue.as_deref()), ("BROKER_DELIVERY_LIMIT", Some(&*work)));
    assert_eq!((letter.record.attempt(), letter.record.history.len()), (2, 1));
    assert_eq!(letter.last_failure().map(|failure| failure.reason.as_str()), Some("BUSY"));
    assert_eq!(letter.message.exchange.as_str(), scene.name("events"), "as its handler saw it");
}
