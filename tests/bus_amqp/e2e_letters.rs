//! Where letters lie on a real broker: in the shared queue or one of their own, and what becomes of those beyond bounds.

use std::time::Duration;

use lapin::options::QueueDeclareOptions;
use lapin::types::{AMQPValue, FieldTable};
use sidebus::grpc::proto::sidebus::v1;
use tokio::time::timeout;

use crate::support::publisher::numbered;
use crate::support::scene::{Amqp, Scene};
use crate::support::wait::until;

const QUEUE_TYPES: [&str; 2] = ["quorum", "classic"];

fn table<const N: usize>(entries: [(&str, AMQPValue); N]) -> FieldTable {
    let mut table = FieldTable::default();
    for (name, value) in entries {
        table.insert(name.into(), value);
    }
    table
}

fn text(value: &str) -> AMQPValue {
    AMQPValue::LongString(value.into())
}

/// Gives up so many messages through a sidecar with these tables, which then stops.
async fn give_up(scene: &Scene, tables: &str, count: usize) {
    let mut sidecar = scene.sidecar(tables).await;
    let mut handler = sidecar.handler().await;
    sidecar.publisher().await.publish_numbers(0..count).await;
    for _ in 0..count {
        let delivery = handler.delivery().await;
        handler.dead_letter(&delivery).await;
    }
    handler.leave().await;
    assert_eq!(sidecar.process.stop().await, Some(0));
}

#[tokio::test]
async fn letters_of_one_queue_lie_in_its_own_and_the_brokers_letters_in_the_shared_one() {
    for queue_type in QUEUE_TYPES {
        let scene = Scene::new().await;
        let work = scene.work(&format!("queue_type = \"{queue_type}\"\nmessage_ttl = \"5s\""));
        let tables = format!("scope = \"per_queue\"\n{work}");
        give_up(&scene, &tables, 2).await;
        let amqp = scene.amqp().await;
        let own = format!("{}.dlq", scene.name("work"));
        amqp.wait_for_depth(&own, 2).await;
        assert_eq!(amqp.depth(&scene.name("dlq")).await, Some(0), "{queue_type}");

        // Nobody takes it before its time is over.
        let sidecar = scene.sidecar(&tables).await;
        sidecar.publisher().await.publish_numbers(7..8).await;
        amqp.wait_for_depth(&scene.name("dlq"), 1).await;
        assert_eq!(amqp.depth(&own).await, Some(2), "{queue_type}");
    }
}

/// failures.md T13.
#[tokio::test]
async fn without_dead_letters_what_is_given_up_stays_and_after_a_restart_all_is_handled() {
    for queue_type in QUEUE_TYPES {
        let scene = Scene::new().await;
        let tables = format!("enabled = false\n{}", scene.work(&format!("queue_type = \"{queue_type}\"")));
        let mut sidecar = scene.sidecar(&tables).await;
        let amqp = scene.amqp().await;
        sidecar.publisher().await.publish_numbers(0..20).await;
        let mut handler = sidecar.handler().await;
        let poison = handler.delivery().await;
        handler.dead_letter(&poison).await;
        handler.state(v1::SubscriptionState::Paused, 1).await;
        let told = &handler.statuses.last().expect("a status").description;
        assert!(told.contains("was given up at attempt 1 (REJECTED_BY_HANDLER)"), "{queue_type}: {told}");
        // What lay here goes back with it, but for what the handler has been sent.
        let mut held = Vec::new();
        until("all else is back", async || {
            let more = handler.take_deliveries();
            handler.ack(&more).await;
            held.extend(more);
            // Nothing more may come: then only the depth changes.
            let _ = timeout(Duration::from_millis(50), handler.take_frame()).await;
            (amqp.depth(&scene.name("work")).await == u32::try_from(20 - held.len()).ok()).then_some(())
        })
        .await;
        let left = u32::try_from(20 - held.len()).expect("a small number");
        assert_eq!(amqp.depth(&scene.name("dlq")).await, Some(0));
        let sample = "sidebus_subscription_paused{subscription=\"work\",reason=\"dead_letters\"}";
        sidecar.metric_becomes(sample, 1.0).await;
        handler.leave().await;
        assert_eq!(sidecar.process.stop().await, Some(0));

        let mut sidecar = scene.sidecar(&tables).await;
        let mut handler = sidecar.handler().await;
        let mut left = left;
        while left > 0 {
            let delivery = handler.delivery().await;
            assert_eq!(delivery.attempt, 1, "{queue_type}");
            handler.ack(&[delivery]).await;
            left -= 1;
        }
        amqp.wait_for_depth(&scene.name("work"), 0).await;
        handler.leave().await;
        assert_eq!(sidecar.process.stop().await, Some(0));
    }
}

#[tokio::test]
async fn expired_letters_move_to_the_archive() {
    let scene = Scene::new().await;
    let archive = scene.name("archive");
    let tables = format!("archive_queue = \"{archive}\"\nmessage_ttl = \"200ms\"\n{}", scene.work(""));
    give_up(&scene, &tables, 3).await;
    let amqp = scene.amqp().await;
    amqp.wait_for_depth(&archive, 3).await;
    amqp.wait_for_depth(&scene.name("dlq"), 0).await;
    let letter = amqp.get(&archive).await;
    let headers = letter.delivery.properties.headers().clone().expect("headers");
    assert_eq!(headers.inner().get("x-sidebus-dlq-cause"), Some(&text("REJECTED_BY_HANDLER")));
    assert!(headers.contains_key("x-sidebus-origin"));
}

#[tokio::test]
async fn letters_beyond_the_length_go_to_the_archive_and_none_is_lost() {
    let scene = Scene::new().await;
    let (archive, own) = (scene.name("archive"), format!("{}.dlq", scene.name("work")));
    let bounds = format!("scope = \"per_queue\"\narchive_queue = \"{archive}\"\nmax_length = 2\n");
    let mut sidecar = scene.sidecar(&format!("{bounds}{}", scene.work(""))).await;
    let (amqp, mut handler) = (scene.amqp().await, sidecar.handler().await);
    // One after the other: a quorum queue tells its publishers late that it is full, so a few more stay than it should hold.
    for number in 0..10 {
        sidecar.publisher().await.publish_numbers(number..number + 1).await;
        let delivery = handler.delivery().await;
        handler.dead_letter(&delivery).await;
        let expected = u32::try_from(number).expect("small") + 1;
        until("the letter lies somewhere", async || {
            let found = amqp.depth(&own).await.zip(amqp.depth(&archive).await);
            found.filter(|(kept, archived)| kept + archived == expected)
        })
        .await;
    }
    handler.leave().await;
    assert_eq!(sidecar.process.stop().await, Some(0));
    let (kept, archived) = amqp.depth(&own).await.zip(amqp.depth(&archive).await).expect("both are there");
    assert!(kept >= 2 && archived >= 1, "{kept} stay, {archived} in the archive");
    assert_eq!((kept + archived, amqp.depth(&scene.name("work")).await), (10, Some(0)));
}

/// What `max_length` of dead letters rests on.
#[tokio::test]
async fn a_full_queue_that_refuses_moves_nothing_to_its_target() {
    let scene = Scene::new().await;
    let amqp = scene.amqp().await;
    amqp.channel.confirm_select(lapin::options::ConfirmSelectOptions::default()).await.expect("confirms");
    let (full, target) = (scene.name("full"), scene.name("target"));
    amqp.declare(&target, FieldTable::default()).await;
    let arguments = table([
        ("x-queue-type", text("quorum")),
        ("x-max-length", AMQPValue::LongLongInt(2)),
        ("x-overflow", text("reject-publish")),
        ("x-dead-letter-exchange", text("")),
        ("x-dead-letter-routing-key", text(&target)),
        ("x-dead-letter-strategy", text("at-least-once")),
    ]);
    amqp.declare(&full, arguments).await;
    let mut refused = 0;
    for _ in 0..10 {
        let options = lapin::options::BasicPublishOptions { mandatory: true, ..Default::default() };
        let published = amqp.channel.basic_publish(
            "".into(),
            full.as_str().into(),
            options,
            b"x",
            lapin::BasicProperties::default(),
        );
        let confirm = published.await.expect("written").await.expect("confirmed or refused");
        refused += u32::from(confirm.is_nack());
    }
    assert!(refused >= 6, "{refused} of 10 refused");
    assert_eq!(amqp.depth(&full).await, Some(10 - refused));
    assert_eq!(amqp.depth(&target).await, Some(0));
}

/// True if the broker takes a queue with these properties and arguments.
async fn is_taken(amqp: &Amqp, name: &str, change: impl Fn(&mut QueueDeclareOptions), arguments: FieldTable) -> bool {
    let channel = amqp.connection.create_channel().await.expect("a channel");
    let mut options =
        QueueDeclareOptions { passive: false, durable: true, exclusive: false, auto_delete: false, nowait: false };
    change(&mut options);
    channel.queue_declare(name.into(), options, arguments).await.is_ok()
}

/// The rules of `domain::queue_rules` are no stricter than the broker.
#[tokio::test]
async fn the_broker_refuses_what_the_rules_refuse() {
    let scene = Scene::new().await;
    let amqp = scene.amqp().await;
    let quorum = || ("x-queue-type", text("quorum"));
    let name = |stem: &str| scene.name(stem);
    assert!(is_taken(&amqp, &name("q"), |_| {}, table([quorum()])).await);
    assert!(!is_taken(&amqp, &name("1"), |options| options.exclusive = true, table([quorum()])).await);
    assert!(!is_taken(&amqp, &name("2"), |options| options.auto_delete = true, table([quorum()])).await);
    assert!(!is_taken(&amqp, &name("3"), |options| options.durable = false, table([quorum()])).await);
    for (stem, queue_type, argument, value) in [
        ("4", "quorum", "x-max-priority", AMQPValue::LongLongInt(5)),
        ("5", "classic", "x-delivery-limit", AMQPValue::LongLongInt(20)),
        ("6", "classic", "x-dead-letter-strategy", text("at-least-once")),
        ("7", "classic", "x-dead-letter-strategy", text("at-most-once")),
        ("8", "classic", "x-max-priority", AMQPValue::LongLongInt(256)),
        ("9", "classic", "x-message-ttl", AMQPValue::LongLongInt(315_360_000_001)),
        ("10", "classic", "x-overflow", text("explode")),
    ] {
        let arguments = table([("x-queue-type", text(queue_type)), (argument, value)]);
        assert!(!is_taken(&amqp, &name(stem), |_| {}, arguments).await, "{queue_type} {argument}");
    }
    for (stem, queue_type, argument, value) in [
        ("11", "quorum", "x-message-ttl", AMQPValue::LongLongInt(315_360_000_000)),
        ("12", "quorum", "x-overflow", text("drop-head")),
        ("13", "quorum", "x-single-active-consumer", AMQPValue::Boolean(true)),
        ("14", "classic", "x-max-priority", AMQPValue::LongLongInt(255)),
        ("15", "classic", "x-single-active-consumer", AMQPValue::Boolean(true)),
    ] {
        let arguments = table([("x-queue-type", text(queue_type)), (argument, value)]);
        assert!(is_taken(&amqp, &name(stem), |_| {}, arguments).await, "{queue_type} {argument}");
        amqp.delete(&name(stem)).await;
    }
}

#[tokio::test]
async fn options_of_a_queue_reach_the_broker() {
    let scene = Scene::new().await;
    let keys = "max_length = 2\nmessage_ttl = \"1h\"\noverflow = \"reject_publish\"\nsingle_active_consumer = true\n\
                delivery_limit = 30\nmax_length_bytes = \"1MiB\"";
    let sidecar = scene.sidecar(&scene.work(keys)).await;
    let publisher = sidecar.publisher().await;
    let refused = until("a full queue refuses", async || publisher.publish(vec![numbered(0)]).await.err());
    assert_eq!(crate::support::publisher::reason(&refused.await).1, "PUBLISH_REJECTED");
    // Another value of any would be refused.
    let expected = table([
        ("x-queue-type", text("quorum")),
        ("x-max-length", AMQPValue::LongLongInt(2)),
        ("x-max-length-bytes", AMQPValue::LongLongInt(1 << 20)),
        ("x-message-ttl", AMQPValue::LongLongInt(3_600_000)),
        ("x-overflow", text("reject-publish")),
        ("x-single-active-consumer", AMQPValue::Boolean(true)),
        ("x-delivery-limit", AMQPValue::LongLongInt(30)),
        ("x-dead-letter-exchange", text(&scene.name("dlx"))),
        ("x-dead-letter-strategy", text("at-least-once")),
    ]);
    scene.amqp().await.declare(&scene.name("work"), expected).await;
}

#[tokio::test]
async fn bindings_with_match_arguments_are_made_and_unbind_takes_them_away() {
    let scene = Scene::new().await;
    let (parcels, work) = (scene.name("parcels"), scene.name("work"));
    let exchange = format!("[exchanges.\"{parcels}\"]\ntype = \"headers\"\n");
    let heavy = format!("{{ exchange = \"{parcels}\", arguments = {{ x-match = \"all\", heavy = true }} }}");
    let queue = |keys: &str| format!("{exchange}[queues.work]\nqueue = \"{work}\"\n{keys}\n");
    let parcel = |heavy: bool| {
        use sidebus::grpc::proto::sidebus::v1::{Message, header_value::Kind};
        let message = crate::support::publisher::with_headers([("heavy", Kind::Boolean(heavy))]);
        vec![Message { exchange: parcels.clone(), ..message }]
    };
    let mut first = scene.sidecar(&queue(&format!("bindings = [{heavy}, \"light.#\"]"))).await;
    let publisher = first.publisher().await;
    publisher.publish(parcel(true)).await.expect("it matches");
    let (_, why) = crate::support::publisher::reason(&publisher.publish(parcel(false)).await.expect_err("no match"));
    assert_eq!(why, "UNROUTABLE");
    assert_eq!(first.process.stop().await, Some(0));

    // What is in no list stays: `light.#` is not taken away.
    let second = scene.sidecar(&queue(&format!("unbind = [{heavy}, \"never.there\"]"))).await;
    let publisher = second.publisher().await;
    let (_, why) = crate::support::publisher::reason(&publisher.publish(parcel(true)).await.expect_err("unbound"));
    assert_eq!(why, "UNROUTABLE");
    let light = v1::Message { routing_key: "light.x".to_owned(), ..numbered(1) };
    publisher.publish(vec![light]).await.expect("still bound");
}
