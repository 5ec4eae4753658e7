//! What publishers are told when the broker cannot take a message, and that their neighbours are not hurt.

use std::collections::BTreeSet;
use std::ops::Range;

use futures_util::future::join_all;
use lapin::options::QueueBindOptions;
use lapin::types::FieldTable;
use sidebus::grpc::proto::sidebus::v1;
use sidebus::grpc::proto::sidebus::v1::header_value::Kind;
use tokio::time::Instant;
use tonic::Code;

use crate::support::handler::Handler;
use crate::support::nodes;
use crate::support::publisher::{Publishing, numbered, publishes, reason, with_headers};
use crate::support::rabbitmq;
use crate::support::scene::{Scene, Sidecar};
use crate::support::wait::until;

#[tokio::test]
async fn what_no_queue_takes_is_unroutable() {
    let scene = Scene::new().await;
    let sidecar = scene.sidecar("").await;
    let refused = sidecar.publisher().await.publish(vec![numbered(1)]).await.expect_err("no queue is bound");
    assert_eq!(reason(&refused), (Code::FailedPrecondition, "UNROUTABLE".to_owned()));
}

/// What becomes of a message of the long stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    Stored,
    Unroutable,
    Refused,
}

impl Fate {
    fn of(sequence: i64) -> Self {
        match sequence % 16 {
            0 | 8 => Self::Unroutable,
            4 => Self::Refused,
            _ => Self::Stored,
        }
    }

    /// How the keys of such messages begin.
    fn key(self) -> &'static str {
        match self {
            Self::Stored => "player",
            Self::Unroutable => "nobody",
            Self::Refused => "full",
        }
    }

    fn told(failure: &v1::PublishFailure) -> Option<Self> {
        match (failure.kind(), failure.retryable) {
            (v1::PublishFailureKind::Unroutable, false) => Some(Self::Unroutable),
            (v1::PublishFailureKind::Rejected, true) => Some(Self::Refused),
            _ => None,
        }
    }
}

/// One in eight is unroutable, one in sixteen is refused by a full queue, and all others lie in their queue in the order of
/// the stream.
#[tokio::test]
async fn of_a_stream_of_100_000_each_message_has_its_own_outcome_and_the_queue_has_its_order() {
    let count = i64::from(publishes());
    let scene = Scene::new().await;
    let [work, full] = ["work", "full"].map(|stem| scene.name(stem));
    let tables = format!(
        "[queues.work]\nqueue = \"{work}\"\nbindings = [\"player.#\"]\n\
         [queues.full]\nqueue = \"{full}\"\nbindings = [\"full.#\"]\nqueue_type = \"classic\"\n\
         arguments = {{ x-max-length = 1 }}\n"
    );
    let sidecar = scene.sidecar(&tables).await;
    let publisher = sidecar.publisher().await;
    let first = v1::Message { routing_key: "full.0".to_owned(), ..numbered(0) };
    publisher.publish(vec![first]).await.expect("the only one that it takes");
    let message = |sequence: i64| v1::Message {
        routing_key: format!("{}.{sequence}", Fate::of(sequence).key()),
        message_id: sequence.to_string(),
        body: sequence.to_string().into(),
        ..v1::Message::default()
    };
    let begun = Instant::now();
    let (confirmed, failures) = publisher.stream((1..=count).map(message), 100).await;
    println!(
        "{count} in {:.1} s: {} confirmed, {} failed",
        begun.elapsed().as_secs_f64(),
        confirmed.len(),
        failures.len()
    );
    assert!(failures.iter().all(|it| it.message_id == it.sequence.to_string()));
    let wrong = failures.iter().find(|it| Fate::told(it) != Some(Fate::of(it.sequence)));
    assert!(wrong.is_none(), "{wrong:?}");
    let with = |is_wanted: fn(Fate) -> bool| (1..=count).filter(move |it| is_wanted(Fate::of(*it)));
    // Not compared as a whole: nobody reads a list of so many numbers.
    assert!(failures.iter().map(|it| it.sequence).eq(with(|fate| fate != Fate::Stored)), "{} failures", failures.len());
    assert!(confirmed.iter().copied().eq(with(|fate| fate == Fate::Stored)), "{} confirmed", confirmed.len());
    let amqp = scene.amqp().await;
    amqp.wait_for_depth(&work, u32::try_from(confirmed.len()).expect("a count")).await;
    let kept = amqp.drain(&work).await;
    assert!(kept.iter().map(|it| i64::try_from(*it).expect("a number")).eq(confirmed), "{} are there", kept.len());
    assert_eq!(amqp.numbers(&full).await, [0]);
}

/// failures.md L5 and P8.
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

/// failures.md P8: that it is missing is believed for a second, and for no session.
#[tokio::test]
async fn an_exchange_that_somebody_makes_later_takes_publishes() {
    let scene = Scene::new().await;
    let sidecar = scene.sidecar(&scene.work("")).await;
    let (publisher, exchange) = (sidecar.publisher().await, scene.name("later"));
    let message = |number| v1::Message { exchange: exchange.clone(), ..numbered(number) };
    for number in 0..20 {
        let refused = publisher.publish(vec![message(number)]).await.expect_err("nobody has made it");
        assert_eq!(reason(&refused), (Code::NotFound, "EXCHANGE_NOT_FOUND".to_owned()));
    }
    let amqp = scene.amqp().await;
    amqp.exchange(&exchange, lapin::ExchangeKind::Fanout).await;
    let bound = amqp.channel.queue_bind(
        scene.name("work").as_str().into(),
        exchange.as_str().into(),
        "".into(),
        QueueBindOptions::default(),
        FieldTable::default(),
    );
    bound.await.expect("a binding");
    until("it takes a publish", async || publisher.publish(vec![message(20)]).await.ok()).await;
    assert_eq!(amqp.numbers(&scene.name("work")).await, [20]);
    amqp.delete_exchange(&exchange).await;
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

/// Publishes side by side through one lane: how many neighbours were not stored, and what was said of the others.
async fn beside(sidecar: &Sidecar, exchange: &str, numbers: Range<usize>) -> (usize, Vec<(Code, String)>) {
    let publisher = sidecar.publisher().await;
    let bad =
        |number| v1::Message { exchange: exchange.to_owned(), message_id: format!("bad-{number}"), ..numbered(number) };
    let refused = join_all((0..5).map(|number| publisher.publish(vec![bad(number)])));
    let good = join_all(numbers.map(|number| publisher.publish(vec![numbered(number)])));
    let (refused, good) = tokio::join!(refused, good);
    let reasons = refused.iter().map(|answer| reason(answer.as_ref().expect_err("it takes no publishes"))).collect();
    (good.iter().filter(|answer| answer.is_err()).count(), reasons)
}

const NOT_ALLOWED: Code = Code::PermissionDenied;

#[tokio::test]
async fn a_publish_to_an_internal_exchange_of_the_settings_hurts_no_neighbour() {
    let scene = Scene::new().await;
    let inner = scene.name("inner");
    for mode in ["create", "verify", "off"] {
        let tables = format!(
            "[bus.amqp.publish]\nlanes = 1\n{}[exchanges.\"{inner}\"]\ntype = \"fanout\"\ninternal = true\n",
            scene.work("")
        );
        let settings = scene.settings(&tables).replace("namespace", &format!("topology = \"{mode}\"\nnamespace"));
        let mut sidecar = Sidecar::from_file(&settings, &scene).await;
        sidecar.ready().await;
        let (lost, reasons) = beside(&sidecar, &inner, 0..200).await;
        assert_eq!((lost, reasons), (0, vec![(NOT_ALLOWED, "NOT_ALLOWED".to_owned()); 5]), "{mode}");
        assert_eq!(sidecar.process.stop().await, Some(0));
    }
}

/// failures.md L5.
#[tokio::test]
async fn an_exchange_without_the_right_to_write_costs_its_neighbours_one_batch_and_no_other() {
    let node = nodes::managed().await;
    let (vhost, user) = (node.virtual_host().await, rabbitmq::prefix());
    node.ctl(&["add_user", &user, "canary-7142"]).await;
    let scene = Scene::on(node.url((&user, "canary-7142"), &vhost));
    let write = format!("^({}-.*|amq[.]default)$", scene.prefix);
    node.ctl(&["set_permissions", "-p", &vhost, &user, ".*", &write, ".*"]).await;
    let amqp = Scene::on(node.url(("guest", "guest"), &vhost)).amqp().await;
    amqp.exchange("foreign", lapin::ExchangeKind::Topic).await;
    let mut sidecar = scene.sidecar(&["[bus.amqp.publish]\nlanes = 1\n", &scene.work("")].concat()).await;

    // Nobody knows yet that the right is missing, so it goes out in the middle of a batch.
    let mut publishing = sidecar.publisher().await.open().await;
    let foreign = |number| v1::Message { exchange: "foreign".to_owned(), ..numbered(number) };
    publishing.publish((0..200).map(|number| if number == 100 { foreign(number) } else { numbered(number) })).await;
    publishing.until("each has an answer", Publishing::is_answered).await;
    for failure in &publishing.failures {
        let right = if failure.message_id == "100" {
            assert!(failure.description.contains("exchange 'foreign'"), "{failure:?}");
            v1::PublishFailureKind::Denied
        } else {
            v1::PublishFailureKind::ConfirmLost
        };
        assert_eq!(failure.kind(), right, "{failure:?}");
    }
    assert!(publishing.failures.iter().any(|failure| failure.message_id == "100"), "{:?}", publishing.confirmed);
    let told = publishing.confirmed.iter().map(|sequence| usize::try_from(sequence - 1).expect("a number"));
    let mut stored = BTreeSet::new();
    until("all that were told to be stored are", async || {
        stored.extend(amqp.numbers(&scene.name("work")).await);
        told.clone().all(|number| stored.contains(&number)).then_some(())
    })
    .await;
    assert!(!stored.contains(&100));

    let (lost, reasons) = beside(&sidecar, "foreign", 200..400).await;
    assert_eq!((lost, reasons), (0, vec![(NOT_ALLOWED, "NOT_ALLOWED".to_owned()); 5]));
    // Beside what of the batch was stored without anybody hearing of it, which may have come late.
    let mut later = BTreeSet::new();
    until("all good neighbours are stored", async || {
        later.extend(amqp.numbers(&scene.name("work")).await.into_iter().filter(|number| *number >= 200));
        (later.len() == 200).then_some(())
    })
    .await;
    assert_eq!(sidecar.process.stop().await, Some(0));
}

/// failures.md P2: RabbitMQ's channel goes on refusing for a quorum queue that was full when its policy was cleared.
#[tokio::test]
async fn a_queue_that_a_policy_limits_no_longer_takes_messages_again() {
    let node = nodes::managed().await;
    let (scene, _proxy) = Scene::linked(node).await;
    let sidecar = scene.sidecar(&scene.work("")).await;
    let (publisher, name) = (sidecar.publisher().await, scene.name("work"));
    let limits = r#"{"max-length":1,"overflow":"reject-publish"}"#;
    node.ctl(&["set_policy", &name, &format!("^{name}$"), limits]).await;
    let publish = async || publisher.publish(vec![numbered(1)]).await;
    let refused = until("it is full", async || publish().await.err()).await;
    assert_eq!(reason(&refused), (Code::ResourceExhausted, "PUBLISH_REJECTED".to_owned()), "{refused:?}");
    node.ctl(&["clear_policy", &name]).await;
    until("it takes messages again", async || publish().await.ok()).await;
}

/// failures.md P5: RabbitMQ takes no more than 16 MiB from 4.0 on, and closes the channel of who sends more.
#[tokio::test]
async fn a_body_of_16_mib_comes_through_and_a_larger_one_never_reaches_the_broker() {
    const MAX: usize = 16 << 20;
    let scene = Scene::new().await;
    let sidecar = scene.sidecar(&scene.work("queue_type = \"classic\"")).await;
    let publisher = sidecar.publisher().await;
    let of = |bytes: usize| v1::Message { body: vec![7; bytes].into(), ..numbered(1) };
    publisher.publish(vec![of(MAX)]).await.expect("as large as the broker takes");
    for (bytes, code, why) in
        [(MAX + 1, Code::InvalidArgument, "MESSAGE_TOO_LARGE"), (MAX + MAX / 8, Code::OutOfRange, "")]
    {
        let refused = publisher.publish(vec![of(bytes)]).await.expect_err("too large");
        assert_eq!(reason(&refused), (code, why.to_owned()));
    }
    let open = v1::SubscribeOpen { max_message_bytes: 64 << 20, ..Handler::of("work") };
    let mut handler = Handler::open(sidecar.channel().await, open).await;
    let delivery = handler.delivery().await;
    let body = &delivery.message.as_ref().expect("a message").body;
    assert!(body.len() == MAX && body.iter().all(|byte| *byte == 7), "{} bytes", body.len());
    handler.ack(&[delivery]).await;
    handler.leave().await;
    let (_, page) = sidecar.probe("/metrics").await;
    assert!(!page.contains("sidebus_broker_reconnects_total{"), "the session is the first one");
    scene.amqp().await.wait_for_depth(&scene.name("work"), 0).await;
}
