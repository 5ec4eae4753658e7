//! What RabbitMQ says of an object that exists otherwise: the forms that Sidebus reads, and the guard that keeps a
//! comparison from making something.

use lapin::ExchangeKind;
use lapin::options::{ExchangeDeclareOptions, QueueDeclareOptions, QueueDeleteOptions};
use lapin::types::{AMQPValue, FieldTable};
use sidebus::domain::version::Version;

use crate::support::rabbitmq;
use crate::support::scene::{Amqp, Scene};

fn arguments(pairs: &[(&str, AMQPValue)]) -> FieldTable {
    let mut table = FieldTable::default();
    for (key, value) in pairs {
        table.insert((*key).into(), value.clone());
    }
    table
}

fn text(text: &str) -> AMQPValue {
    AMQPValue::LongString(text.into())
}

/// Declares actively; answers the broker's words when it refuses.
async fn declare(amqp: &Amqp, queue: &str, arguments: FieldTable) -> Result<(), String> {
    let channel = amqp.connection.create_channel().await.expect("a channel");
    let options =
        QueueDeclareOptions { passive: false, durable: true, exclusive: false, auto_delete: false, nowait: false };
    channel.queue_declare(queue.into(), options, arguments).await.map(drop).map_err(|error| error.to_string())
}

#[tokio::test]
async fn a_refused_declaration_names_the_argument_and_both_values_in_three_forms() {
    let is_typed = rabbitmq::shared().await.version().await >= Version::new(4, 0, 0);
    let scene = Scene::new().await;
    let amqp = scene.amqp().await;
    let ttl = |number| [("x-message-ttl", AMQPValue::LongInt(number))];
    let single = |flag| [("x-single-active-consumer", AMQPValue::Boolean(flag))];
    let quorum = [("x-queue-type", text("quorum"))];
    let dlx = [("x-dead-letter-exchange", text("it's"))];
    for (number, (existing, sent, expected)) in [
        (&[][..], &ttl(1)[..], "'x-message-ttl' N received the value '1' of type 'signedint' but current is none"),
        (&ttl(1), &[], "'x-message-ttl' N received none but current is the value '1' of type 'signedint'"),
        (&ttl(1), &ttl(2), "'x-message-ttl' N received '2' but current is '1'"),
        (
            &[],
            &single(true),
            "'x-single-active-consumer' N received the value 'true' of type 'bool' but current is none",
        ),
        (&single(true), &single(false), "'x-single-active-consumer' N received 'false' but current is 'true'"),
        (&[], &quorum, "'x-queue-type' N received the value 'quorum' of type 'longstr' but current is none"),
        (&dlx, &[], "'x-dead-letter-exchange' N received none but current is the value 'it's' of type 'longstr'"),
    ]
    .into_iter()
    .enumerate()
    {
        let queue = scene.name(&format!("it's {number}"));
        declare(&amqp, &queue, arguments(existing)).await.expect("the first one");
        let refused = declare(&amqp, &queue, arguments(sent)).await.expect_err("another one");
        let (key, values) = expected.split_once(" N ").expect("a key and values");
        // From 4.0 on a queue that names no type has one.
        let has_type = key == "'x-queue-type'" && is_typed;
        let values = if has_type { "received 'quorum' but current is 'classic'" } else { values };
        let begin = format!("inequivalent arg {key} for queue '{queue}' in vhost '");
        assert!(refused.contains(&begin) && refused.contains(&format!("': {values}")), "{refused}");
    }
}

#[tokio::test]
async fn a_long_name_costs_the_values_and_leaves_the_key() {
    let scene = Scene::new().await;
    let amqp = scene.amqp().await;
    let queue = scene.name(&"q".repeat(200));
    declare(&amqp, &queue, FieldTable::default()).await.expect("the first one");
    let sent = arguments(&[("x-message-ttl", AMQPValue::LongInt(1))]);
    let refused = declare(&amqp, &queue, sent).await.expect_err("another one");
    assert!(refused.contains("inequivalent arg 'x-message-ttl' for queue '") && refused.contains("..."), "{refused}");
    assert!(!refused.contains("but current is"), "{refused}");
}

#[tokio::test]
async fn an_argument_that_the_type_never_has_is_ignored_where_the_queue_exists_and_keeps_it_from_being_made() {
    let scene = Scene::new().await;
    let amqp = scene.amqp().await;
    for (kind, guard) in [
        ("classic", "x-delivery-limit"),
        ("classic", "x-dead-letter-strategy"),
        ("classic", "x-quorum-initial-group-size"),
        ("quorum", "x-max-priority"),
        ("quorum", "x-queue-mode"),
        ("stream", "x-max-priority"),
        ("stream", "x-queue-mode"),
        ("stream", "x-delivery-limit"),
        ("stream", "x-dead-letter-strategy"),
    ] {
        let queue = scene.name(&format!("{kind}-{guard}"));
        let plain = [("x-queue-type", text(kind))];
        let guarded = [("x-queue-type", text(kind)), (guard, AMQPValue::LongLongInt(1))];
        let refused = declare(&amqp, &queue, arguments(&guarded)).await.expect_err("it is not made");
        assert!(refused.contains(&format!("invalid arg '{guard}'")), "{refused}");
        assert_eq!(amqp.depth(&queue).await, None, "{kind}");
        declare(&amqp, &queue, arguments(&plain)).await.expect("it is made");
        declare(&amqp, &queue, arguments(&guarded)).await.expect("it is compared without the guard");
        let options = QueueDeleteOptions { if_unused: false, if_empty: false, nowait: false };
        amqp.channel.queue_delete(queue.as_str().into(), options).await.expect("it goes");
    }
}

#[tokio::test]
async fn an_alternate_exchange_that_is_no_name_is_told_last_where_the_exchange_exists_and_keeps_it_from_being_made() {
    let scene = Scene::new().await;
    let amqp = scene.amqp().await;
    let declare = async |exchange: &str, kind: ExchangeKind, alternate: Option<AMQPValue>| {
        let channel = amqp.connection.create_channel().await.expect("a channel");
        let options = ExchangeDeclareOptions { durable: true, ..ExchangeDeclareOptions::default() };
        let arguments = alternate.map(|value| arguments(&[("alternate-exchange", value)])).unwrap_or_default();
        let declared = channel.exchange_declare(exchange.into(), kind, options, arguments).await;
        declared.map_err(|error| error.to_string())
    };
    let guard = || Some(AMQPValue::Double(1.0));
    for (number, (alternate, current)) in
        [(None, "none"), (Some("1.0"), "'1.0'"), (Some("it's but current is x"), "'it's but current is x'")]
            .into_iter()
            .enumerate()
    {
        let exchange = scene.name(&format!("guarded-{number}"));
        let refused = declare(&exchange, ExchangeKind::Direct, guard()).await.expect_err("it is not made");
        assert!(refused.contains("invalid type 'double' for arg 'alternate-exchange'"), "{refused}");
        let existing = alternate.map(text);
        declare(&exchange, ExchangeKind::Direct, existing).await.expect("it is made, so nothing was there");
        let refused = declare(&exchange, ExchangeKind::Fanout, guard()).await.expect_err("another type");
        assert!(refused.contains("inequivalent arg 'type'"), "{refused}");
        let refused = declare(&exchange, ExchangeKind::Direct, guard()).await.expect_err("the guard is compared");
        let expected = format!("inequivalent arg 'alternate-exchange' for exchange '{exchange}' in vhost '");
        assert!(refused.contains(&expected) && refused.ends_with(&format!("but current is {current}")), "{refused}");
    }
}
