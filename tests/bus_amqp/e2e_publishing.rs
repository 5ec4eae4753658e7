//! What publishers are told when the broker cannot take a message, and that their neighbours are not hurt.

use futures_util::future::join_all;
use sidebus::grpc::proto::sidebus::v1;
use sidebus::grpc::proto::sidebus::v1::header_value::Kind;
use tonic::Code;

use crate::support::publisher::{numbered, reason, with_headers};
use crate::support::scene::Scene;

#[tokio::test]
async fn what_no_queue_takes_is_unroutable() {
    let scene = Scene::new().await;
    let sidecar = scene.sidecar("").await;
    let refused = sidecar.publisher().await.publish(vec![numbered(1)]).await.expect_err("no queue is bound");
    assert_eq!(reason(&refused), (Code::FailedPrecondition, "UNROUTABLE".to_owned()));
}

#[tokio::test]
async fn a_missing_exchange_fails_alone_among_255_good_neighbours() {
    let scene = Scene::new().await;
    let sidecar = scene.sidecar(&["[bus.amqp.publish]\nlanes = 1\n", &scene.work("")].concat()).await;
    let publisher = sidecar.publisher().await;
    let message = |number| match number {
        128 => v1::Message { exchange: scene.name("nowhere"), ..numbered(number) },
        _ => numbered(number),
    };
    let answers = join_all((0..256).map(|number| publisher.publish(vec![message(number)]))).await;
    for (number, answer) in answers.iter().enumerate() {
        match answer {
            Err(status) => {
                assert_eq!((number, reason(status)), (128, (Code::NotFound, "EXCHANGE_NOT_FOUND".to_owned())));
            }
            Ok(ids) => assert_eq!(ids, &[number.to_string()]),
        }
    }
    assert!(answers[128].is_err());
    scene.amqp().await.wait_for_depth(&scene.name("work"), 255).await;
}

#[tokio::test]
async fn a_full_queue_refuses_and_keeps_what_it_has() {
    for queue_type in ["classic", "quorum"] {
        let scene = Scene::new().await;
        let keys = format!("queue_type = \"{queue_type}\"\narguments = {{ x-max-length = 3 }}");
        let sidecar = scene.sidecar(&scene.work(&keys)).await;
        let publisher = sidecar.publisher().await;
        let mut stored = 0;
        // A quorum queue notices a little late that it is full.
        let refused = loop {
            match publisher.publish(vec![numbered(stored)]).await {
                Ok(_) => stored += 1,
                Err(status) => break status,
            }
            assert!(stored < 100, "{queue_type} takes everything");
        };
        assert_eq!(reason(&refused), (Code::ResourceExhausted, "PUBLISH_REJECTED".to_owned()), "{queue_type}");
        let mut handler = sidecar.handler().await;
        let kept = handler.deliveries(stored).await;
        handler.ack(&kept).await;
        handler.leave().await;
        scene.amqp().await.wait_for_depth(&scene.name("work"), 0).await;
    }
}

#[tokio::test]
async fn a_life_time_that_the_broker_cannot_count_is_refused_before_it_hurts() {
    let scene = Scene::new().await;
    let sidecar = scene.sidecar(&scene.work("")).await;
    let publisher = sidecar.publisher().await;
    let living = |seconds| v1::Message { ttl: Some(prost_types::Duration { seconds, nanos: 0 }), ..numbered(1) };
    let refused = publisher.publish(vec![living(4_294_968)]).await.expect_err("above 2^32 - 1 ms");
    assert_eq!(reason(&refused), (Code::InvalidArgument, "INVALID_MESSAGE".to_owned()));
    publisher.publish(vec![living(4_294_967)]).await.expect("the longest life time there is");
}

#[tokio::test]
async fn numbers_that_are_none_are_refused() {
    let scene = Scene::new().await;
    let sidecar = scene.sidecar(&scene.work("")).await;
    let publisher = sidecar.publisher().await;
    for number in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
        let refused = publisher.publish(vec![with_headers([("x-odds", Kind::Number(number))])]).await;
        let refused = refused.expect_err("the broker cannot carry it");
        assert_eq!(reason(&refused), (Code::InvalidArgument, "INVALID_MESSAGE".to_owned()), "{number}");
    }
    publisher.publish(vec![with_headers([("x-odds", Kind::Number(f64::MIN_POSITIVE))])]).await.expect("a number");
}
