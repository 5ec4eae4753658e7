//! What files and defaults become.

use super::*;

#[test]
fn every_setting_has_its_promised_default() {
    let settings = Scene::bare().with(&[("AMQP_URL", "amqp://localhost")]).loaded().settings;
    let address = |port| ListenAddress { host: "127.0.0.1".to_owned(), port };
    assert_eq!(settings.exchange, Exchange::durable(exchange("angzarr.events"), ExchangeKind::Topic));
    assert_eq!((settings.delivery.prefetch_count, settings.delivery.prefetch_max), (100, 2_000));
    assert_eq!(settings.delivery, sidebus::domain::subscription::DeliverySettings::default());
    assert_eq!(settings.retry, sidebus::domain::subscription::RetrySettings::default());
    assert_eq!(settings.dead_letter.exchange.as_str(), "angzarr.dlx");
    assert_eq!(settings.dead_letter.queue.as_str(), "angzarr.dlq");
    assert_eq!((settings.topology, settings.namespace.as_str()), (TopologyMode::Create, "sidebus"));
    assert_eq!((settings.grpc.listen, settings.grpc.unix_socket), (Some(address(7672)), None));
    assert_eq!(settings.state_dir, None);
    assert_eq!(settings.admin.listen, Some(address(17672)));
    assert_eq!((settings.health.listen, settings.health.readiness), (None, Readiness::ConnectedOnce));
    assert!(settings.grpc.handlers_may_declare && settings.grpc.reflection);
    assert_eq!((settings.grpc.message_bytes_max, settings.grpc.window_bytes), (16 << 20, 8 << 20));
    assert_eq!((settings.log.filter.as_str(), settings.log.format), ("info", LogFormat::Auto));
    let shutdown = &settings.shutdown;
    let phases = [shutdown.notice, shutdown.intake, shutdown.drain, shutdown.give_back, shutdown.close];
    assert_eq!(phases, [0, 2, 18, 2, 3].map(Duration::from_secs));
    assert_eq!((settings.publish.lanes, settings.publish.batch_max), (4, 100));
    assert_eq!((settings.limits.header_bytes, settings.limits.header_depth), (65_536, 8));
    assert_eq!((settings.limits.publishes_in_flight, settings.limits.publish_bytes), (16_384, 64 << 20));
    assert!(settings.subscriptions.is_empty() && settings.exchanges.is_empty());
}

#[test]
fn the_worked_example_is_what_was_promised() {
    let loaded = Scene::new(worked_example()).loaded();

    let settings = &loaded.settings;
    assert_eq!(settings.exchange, Exchange::durable(exchange("angzarr.events"), ExchangeKind::Topic));
    assert_eq!(settings.delivery.prefetch_count, 10);
    let broker = amqp(&loaded);
    assert_eq!((broker.tls.is_some(), node(broker), broker.vhost.as_str()), (false, ("localhost", 5672), "/"));
    assert_eq!(login(broker), ("guest", "guest"));
    let found: Vec<(&str, &str, Vec<&str>)> = settings
        .subscriptions
        .iter()
        .map(|subscription| {
            let patterns = subscription.bindings.iter().map(|binding| binding.routing_key.as_str()).collect();
            (subscription.name.as_str(), subscription.queue.name.as_str(), patterns)
        })
        .collect();
    let row = |name, pattern| (name, name, vec![pattern]);
    assert_eq!(
        found,
        [
            row("hand-saga", "hand.#"),
            row("output-projector", "player.#"),
            row("player-projector", "player.#"),
            row("topology-tracker", "*.#"),
        ]
    );
    let player = subscription(&loaded, "player-projector");
    assert_eq!(
        (player.queue.durable, player.queue.auto_delete, player.queue.exclusive),
        (Some(true), Some(false), Some(false))
    );
    assert_eq!(
        player.queue.arguments,
        Headers::from([("x-dead-letter-exchange".to_owned(), Value::text("angzarr.dlx"))])
    );
    assert_eq!(player.queue.queue_type, None);
    assert_eq!(player.delivery.prefetch_count, 10);
    assert!(settings.subscriptions.iter().all(|one| one.bindings[0].exchange.as_str() == "angzarr.events"));
    let letters = DeadLetterSettings::shared(exchange("angzarr.dlx"), QueueName::parse("angzarr.dlq").unwrap());
    for one in &settings.subscriptions {
        let is_exchange_named = one.queue.arguments.contains_key("x-dead-letter-exchange");
        assert_eq!(one.dead_letter, DeadLetterSettings { is_exchange_named, ..letters.clone() });
    }
    assert!(loaded.warnings.is_empty(), "{:?}", loaded.warnings);
}

/// Every supported key of queues and exchanges.
const WHOLE: &str = r#"
[bus]
backend = "memory"
[bus.amqp]
exchange = "shop.events"
exchange_type = "direct"
[exchanges."shop.events"]
arguments = { alternate-exchange = "shop.rest" }
[exchanges."billing.commands"]
type = "direct"
durable = false
[exchanges.short]
name = "A Long.Name"
type = "headers"
[queues.a]
queue = "prod.a"
exchange = "billing.commands"
bindings = ["x", { exchange = "A Long.Name", arguments = { x-match = "all", n = 1, deep = { f = 1.5, l = [true] } } }]
exclusive = true
prefetch_count = 7
prefetch_max = 70
settle_timeout = "10s"
max_lease = "5m"
max_handlers = 2
retry = { max_attempts = 9 }
dead_letter = { exchange = "a.dlx", queue = "a.dlq" }
[queues.b]
arguments = { x-dead-letter-exchange = "b.dlx", x-queue-type = "classic" }
"#;

#[test]
fn a_queue_and_its_exchanges_are_read_whole() {
    let loaded = Scene::new(WHOLE).loaded();
    let settings = &loaded.settings;
    assert_eq!((settings.exchange.name.as_str(), settings.exchange.kind), ("shop.events", ExchangeKind::Direct));
    assert_eq!(settings.exchange.arguments.get("alternate-exchange"), Some(&Value::text("shop.rest")));
    let others: Vec<_> = settings.exchanges.iter().map(|one| (one.name.as_str(), one.kind, one.durable)).collect();
    assert_eq!(
        others,
        [("A Long.Name", ExchangeKind::Headers, true), ("billing.commands", ExchangeKind::Direct, false)]
    );

    let a = subscription(&loaded, "a");
    assert_eq!(
        (a.queue.name.as_str(), a.queue.exclusive, a.queue.durable, a.queue.queue_type),
        ("prod.a", Some(true), None, None)
    );
    assert_eq!((a.bindings[0].exchange.as_str(), a.bindings[0].routing_key.as_str()), ("billing.commands", "x"));
    let deep =
        Headers::from([("f".to_owned(), Value::Double(1.5)), ("l".to_owned(), Value::Array(vec![Value::Bool(true)]))]);
    let arguments = Headers::from([
        ("x-match".to_owned(), Value::text("all")),
        ("n".to_owned(), Value::Int64(1)),
        ("deep".to_owned(), Value::Table(deep)),
    ]);
    assert_eq!(a.bindings[1], Binding { exchange: exchange("A Long.Name"), routing_key: String::new(), arguments });
    assert_eq!((a.delivery.prefetch_count, a.delivery.prefetch_max, a.delivery.max_handlers), (7, 70, 2));
    assert_eq!((a.delivery.settle_timeout, a.delivery.max_lease), (Duration::from_secs(10), Duration::from_mins(5)));
    assert_eq!(a.retry.max_attempts, 9);
    assert_eq!((a.dead_letter.exchange.as_str(), a.dead_letter.queue.as_str()), ("a.dlx", "a.dlq"));

    let b = subscription(&loaded, "b");
    assert_eq!((b.dead_letter.exchange.as_str(), b.dead_letter.queue.as_str()), ("b.dlx", "angzarr.dlq"));
    assert_eq!((b.queue.queue_type, b.queue.arguments.len()), (Some(QueueType::Classic), 1));
}
