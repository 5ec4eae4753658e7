//! What a handler may bring, and what it is told when it may not.

use v1::header_value::Kind;

use super::*;
use crate::domain::message::Value;
use crate::domain::subscription::{ArchiveSettings, DeadLetterScope, QueueType, RetryBackoff};
use crate::grpc::status::row;
use crate::grpc::wire::differences;

mod letters;

struct Fixture {
    exchange: ExchangeName,
    delivery: DeliverySettings,
    retry: RetrySettings,
    dead_letter: DeadLetterSettings,
}

impl Fixture {
    fn new() -> Self {
        Self {
            exchange: ExchangeName::from_broker("angzarr.events"),
            delivery: DeliverySettings::default(),
            retry: RetrySettings::default(),
            dead_letter: DeadLetterSettings::shared(
                ExchangeName::from_broker("angzarr.dlx"),
                QueueName::parse("angzarr.dlq").expect("a name"),
            ),
        }
    }

    fn defaults(&self) -> DeclareDefaults<'_> {
        DeclareDefaults {
            exchange: &self.exchange,
            namespace: "sidebus",
            delivery: &self.delivery,
            retry: &self.retry,
            dead_letter: &self.dead_letter,
        }
    }
}

fn name() -> SubscriptionName {
    SubscriptionName::parse("player-projector").expect("a name")
}

fn declare(spec: v1::SubscriptionSpec) -> Result<Subscription, Problem> {
    subscription_from_proto(&name(), spec, &Fixture::new().defaults()).map(|declared| declared.subscription)
}

/// The fields that a declaration is refused for, without the path above them.
fn refused(spec: v1::SubscriptionSpec) -> Vec<String> {
    match declare(spec) {
        Err(Problem::InvalidRequest(violations)) => {
            violations.into_iter().map(|violation| violation.field.replace("open.declare.", "")).collect()
        }
        other => panic!("must be refused as invalid: {other:?}"),
    }
}

fn spec() -> v1::SubscriptionSpec {
    v1::SubscriptionSpec::default()
}

fn binding(exchange: &str, key: &str) -> v1::Binding {
    v1::Binding { exchange: exchange.to_owned(), routing_key: key.to_owned(), ..Default::default() }
}

fn text(text: &str) -> v1::HeaderValue {
    v1::HeaderValue { kind: Some(Kind::Text(text.to_owned())) }
}

fn with_argument(name: &str, value: v1::HeaderValue) -> v1::SubscriptionSpec {
    v1::SubscriptionSpec { arguments: [(name.to_owned(), value)].into(), ..spec() }
}

#[test]
fn an_empty_declaration_takes_everything_from_the_settings() {
    let subscription = declare(spec()).expect("legal");
    let fixture = Fixture::new();
    assert_eq!(subscription.queue.name.as_str(), "player-projector");
    assert_eq!((subscription.queue.queue_type, subscription.queue.durable), (None, None));
    assert_eq!((subscription.delivery, subscription.retry), (fixture.delivery, fixture.retry));
    assert_eq!(subscription.dead_letter, fixture.dead_letter);
}

#[test]
fn a_declaration_of_every_key_is_carried() {
    let subscription = declare(v1::SubscriptionSpec {
        queue: "prod.players".to_owned(),
        exchange: "orders".to_owned(),
        bindings: vec![binding("", "player.#"), binding("amq.topic", "x")],
        queue_type: v1::QueueType::Quorum.into(),
        durable: Some(true),
        prefetch_count: 7,
        settle_timeout: Some(prost_types::Duration { seconds: 90, nanos: 0 }),
        retry: Some(v1::RetryPolicy {
            max_attempts: Some(3),
            min_backoff: Some(prost_types::Duration { seconds: 0, nanos: 100_000_000 }),
            ..Default::default()
        }),
        message_ttl: Some(prost_types::Duration { seconds: 1, nanos: 500_000_000 }),
        max_length: 10,
        overflow: v1::OverflowPolicy::DropHead.into(),
        delivery_limit: 50,
        single_active_consumer: true,
        ..spec()
    })
    .expect("legal");
    let exchanges: Vec<_> = subscription.bindings.iter().map(|binding| binding.exchange.as_str()).collect();
    assert_eq!(exchanges, ["orders", "amq.topic"]);
    assert_eq!(subscription.queue.queue_type, Some(QueueType::Quorum));
    assert_eq!((subscription.delivery.prefetch_count, subscription.delivery.prefetch_max), (7, 2000));
    assert_eq!((subscription.retry.max_attempts, subscription.retry.min_backoff), (3, Duration::from_millis(100)));
    let expected = Headers::from([
        ("x-message-ttl".to_owned(), Value::Int64(1500)),
        ("x-max-length".to_owned(), Value::Int64(10)),
        ("x-overflow".to_owned(), Value::text("drop-head")),
        ("x-delivery-limit".to_owned(), Value::Int64(50)),
        ("x-single-active-consumer".to_owned(), Value::Bool(true)),
    ]);
    assert_eq!(subscription.queue.arguments, expected);
}

#[test]
fn a_queue_type_may_come_as_an_argument_but_only_once() {
    let subscription = declare(with_argument("x-queue-type", text("classic"))).expect("legal");
    assert_eq!(subscription.queue.queue_type, Some(QueueType::Classic));
    assert!(subscription.queue.arguments.is_empty(), "the plan writes the argument");

    let both = v1::SubscriptionSpec {
        queue_type: v1::QueueType::Quorum.into(),
        ..with_argument("x-queue-type", text("classic"))
    };
    assert_eq!(refused(both), ["queue_type"]);
    assert_eq!(refused(with_argument("x-queue-type", text("stream"))), ["arguments[\"x-queue-type\"]"]);
}

#[test]
fn names_that_sidebus_keeps_are_refused() {
    let queue = |name: &str| v1::SubscriptionSpec { queue: name.to_owned(), ..spec() };
    for name in ["angzarr.dlq", "sidebus.delay.1", "amq.gen", "a\tb"] {
        assert_eq!(refused(queue(name)), ["queue"], "{name:?}");
    }
    assert!(declare(queue("sidebusiness")).is_ok());

    for name in ["angzarr.dlx", "sidebus.x", "@default"] {
        let spec = v1::SubscriptionSpec { bindings: vec![binding("ok", ""), binding(name, "")], ..spec() };
        assert_eq!(refused(spec), ["bindings[1].exchange"], "{name:?}");
        assert_eq!(refused(v1::SubscriptionSpec { exchange: name.to_owned(), ..spec_with_binding() }), ["exchange"]);
    }
    let circle = v1::DeadLetterPolicy { queue: "player-projector".to_owned(), ..own_letters() };
    assert_eq!(refused(v1::SubscriptionSpec { dead_letter: Some(circle), ..spec() }), ["queue"]);
}

fn own_letters() -> v1::DeadLetterPolicy {
    v1::DeadLetterPolicy { scope: v1::DeadLetterScope::PerQueue.into(), ..Default::default() }
}

#[test]
fn a_declaration_shapes_its_retries() {
    let seconds = |seconds| Some(prost_types::Duration { seconds, nanos: 0 });
    let policy = v1::RetryPolicy {
        max_attempts: Some(9),
        min_backoff: seconds(2),
        max_backoff: seconds(60),
        multiplier: Some(3.0),
        jitter: Some(0.0),
        backoff: v1::BackoffKind::Linear.into(),
        crash_limit: Some(7),
    };
    let found = declare(v1::SubscriptionSpec { retry: Some(policy), ..spec() }).expect("legal").retry;
    let expected = RetrySettings {
        max_attempts: 9,
        backoff: RetryBackoff::Linear,
        min_backoff: Duration::from_secs(2),
        max_backoff: Duration::from_mins(1),
        multiplier: 3.0,
        jitter: 0.0,
        crash_limit: 7,
        ..RetrySettings::default()
    };
    assert_eq!(found, expected);
}

#[test]
fn bindings_are_taken_away_unless_they_are_also_made() {
    let spec = v1::SubscriptionSpec {
        bindings: vec![binding("", "new.#")],
        unbind: vec![binding("", "old.#"), binding("legacy", "new.#")],
        ..spec()
    };
    let found = declare(spec.clone()).expect("legal").unbind;
    let places: Vec<_> = found.iter().map(|one| (one.exchange.as_str(), one.routing_key.as_str())).collect();
    assert_eq!(places, [("angzarr.events", "old.#"), ("legacy", "new.#")]);
    let unbind = vec![binding("", "old.#"), binding("angzarr.events", "new.#")];
    assert_eq!(refused(v1::SubscriptionSpec { unbind, ..spec }), ["unbind[1]"]);
}

#[test]
fn what_may_surprise_is_told_and_not_refused() {
    let spec = v1::SubscriptionSpec { auto_delete: true, ..with_argument("x-max-retries", text("3")) };
    let warnings = subscription_from_proto(&name(), spec, &Fixture::new().defaults()).expect("legal").warnings;
    assert_eq!(warnings.len(), 2);
    assert!(warnings[1].starts_with("open.declare.arguments[\"x-max-retries\"]: "), "{warnings:?}");
}

fn spec_with_binding() -> v1::SubscriptionSpec {
    v1::SubscriptionSpec { bindings: vec![binding("", "#")], ..spec() }
}

#[test]
fn numbers_and_times_have_bounds() {
    let seconds = |seconds| Some(prost_types::Duration { seconds, nanos: 0 });
    let retry = |policy| v1::SubscriptionSpec { retry: Some(policy), ..spec() };
    for (spec, field) in [
        (v1::SubscriptionSpec { prefetch_count: -1, ..spec() }, "prefetch_count"),
        (v1::SubscriptionSpec { prefetch_max: 65_536, ..spec() }, "prefetch_max"),
        (v1::SubscriptionSpec { max_handlers: -5, ..spec() }, "max_handlers"),
        (v1::SubscriptionSpec { settle_timeout: seconds(0), ..spec() }, "settle_timeout"),
        (v1::SubscriptionSpec { settle_timeout: seconds(1_441), ..spec() }, "settle_timeout"),
        (v1::SubscriptionSpec { max_lease: seconds(-1), ..spec() }, "max_lease"),
        (v1::SubscriptionSpec { settle_timeout: seconds(100), max_lease: seconds(120), ..spec() }, "max_lease"),
        (v1::SubscriptionSpec { message_ttl: seconds(0), ..spec() }, "message_ttl"),
        (v1::SubscriptionSpec { max_length: -1, ..spec() }, "max_length"),
        (v1::SubscriptionSpec { max_priority: 256, ..spec() }, "max_priority"),
        (v1::SubscriptionSpec { delivery_limit: 5, ..spec() }, "delivery_limit"),
        (retry(v1::RetryPolicy { max_attempts: Some(0), ..Default::default() }), "retry.max_attempts"),
        (retry(v1::RetryPolicy { min_backoff: seconds(0), ..Default::default() }), "retry.min_backoff"),
        (retry(v1::RetryPolicy { min_backoff: seconds(301), ..Default::default() }), "retry.min_backoff"),
        (retry(v1::RetryPolicy { max_backoff: seconds(86_401), ..Default::default() }), "retry.max_backoff"),
        (retry(v1::RetryPolicy { multiplier: Some(0.9), ..Default::default() }), "retry.multiplier"),
        (retry(v1::RetryPolicy { multiplier: Some(f64::NAN), ..Default::default() }), "retry.multiplier"),
        (retry(v1::RetryPolicy { jitter: Some(1.1), ..Default::default() }), "retry.jitter"),
        (v1::SubscriptionSpec { max_message_bytes: 1_023, ..spec() }, "max_message_bytes"),
        (v1::SubscriptionSpec { max_message_bytes: -1, ..spec() }, "max_message_bytes"),
        (v1::SubscriptionSpec { max_length_bytes: -1, ..spec() }, "max_length_bytes"),
        (v1::SubscriptionSpec { message_ttl: seconds(315_360_001), ..spec() }, "message_ttl"),
    ] {
        assert_eq!(refused(spec), [field]);
    }
}

#[test]
fn arguments_fit_into_a_frame() {
    let spec = |bytes| with_argument("x-note", text(&"y".repeat(bytes)));
    // 4 for the table, 1 + 6 for the name, 1 + 4 for the text and its type.
    assert!(declare(spec(64 * 1024 - 16)).is_ok());
    assert_eq!(refused(spec(64 * 1024 - 15)), ["arguments"]);
    let arguments = spec(64 * 1024).arguments;
    let binding = v1::Binding { arguments, ..binding("", "x") };
    assert_eq!(refused(v1::SubscriptionSpec { bindings: vec![binding], ..self::spec() }), ["bindings[0].arguments"]);
}

#[test]
fn a_match_that_no_headers_exchange_knows_is_refused_here() {
    let base = spec;
    let spec = |mode| {
        let arguments = with_argument("x-match", text(mode)).arguments;
        v1::SubscriptionSpec { bindings: vec![v1::Binding { arguments, ..binding("", "") }], ..base() }
    };
    assert!(["all", "any", "all-with-x", "any-with-x"].into_iter().all(|mode| declare(spec(mode)).is_ok()));
    assert_eq!(refused(spec("some")), ["bindings[0].arguments"]);
}

#[test]
fn keys_that_exclude_each_other_are_refused_here_and_not_by_the_broker() {
    let quorum = || v1::SubscriptionSpec { queue_type: v1::QueueType::Quorum.into(), ..spec() };
    assert_eq!(refused(v1::SubscriptionSpec { exclusive: true, ..quorum() }), ["exclusive"]);
    assert_eq!(refused(v1::SubscriptionSpec { durable: Some(false), ..quorum() }), ["durable"]);
    assert_eq!(refused(v1::SubscriptionSpec { max_priority: 5, ..quorum() }), ["max_priority"]);
    assert_eq!(refused(v1::SubscriptionSpec { auto_delete: true, delivery_limit: 10, ..spec() }), ["delivery_limit"]);
    let ttl = v1::HeaderValue { kind: Some(Kind::Integer(5)) };
    let both = v1::SubscriptionSpec {
        message_ttl: Some(prost_types::Duration { seconds: 1, nanos: 0 }),
        ..with_argument("x-message-ttl", ttl)
    };
    assert_eq!(refused(both), ["message_ttl"]);
    let negative = v1::HeaderValue { kind: Some(Kind::Integer(-1)) };
    assert_eq!(refused(with_argument("x-delivery-limit", negative)), ["arguments[\"x-delivery-limit\"]"]);
}

#[test]
fn what_a_later_release_brings_is_named_and_not_dropped() {
    let retry = |policy| v1::SubscriptionSpec { retry: Some(policy), ..spec() };
    let dead_letter = |policy| v1::SubscriptionSpec { dead_letter: Some(policy), ..spec() };
    for (spec, field) in [
        (v1::SubscriptionSpec { kind: v1::SubscriptionKind::Broadcast.into(), ..spec() }, "kind"),
        (v1::SubscriptionSpec { kind: 77, ..spec() }, "kind"),
        (v1::SubscriptionSpec { queue_type: v1::QueueType::Stream.into(), ..spec() }, "queue_type"),
        (v1::SubscriptionSpec { ordering_mode: v1::OrderingMode::Key.into(), ..spec() }, "ordering_mode"),
        (v1::SubscriptionSpec { partition_count: 1, ..spec() }, "partition_count"),
        (retry(v1::RetryPolicy { backoff: 77, ..Default::default() }), "retry.backoff"),
        (dead_letter(v1::DeadLetterPolicy { scope: 77, ..Default::default() }), "dead_letter.scope"),
    ] {
        let problem = declare(spec).expect_err("later");
        assert_eq!(row(&problem).reason, "FEATURE_UNAVAILABLE");
        assert_eq!(problem, Problem::FeatureUnavailable(format!("open.declare.{field}")));
    }
}

#[test]
fn a_binding_without_an_exchange_is_compared_with_that_of_its_queue() {
    let elsewhere =
        v1::SubscriptionSpec { exchange: "moves".to_owned(), bindings: vec![binding("", "own.#")], ..spec() };
    let of_own_exchange = declare(elsewhere).expect("legal");
    let unnamed = v1::SubscriptionSpec { bindings: vec![binding("", "own.#")], ..spec() };
    assert_eq!(
        differences(&of_own_exchange, &unnamed, &Fixture::new().defaults()).expect("legal"),
        None,
        "the exchange of the settings is taken, not that of all"
    );
}

#[test]
fn only_named_keys_differ_from_the_settings() {
    let fixture = Fixture::new();
    let mut configured = declare(spec_with_binding()).expect("legal");
    configured.delivery.prefetch_count = 10;
    configured.retry.max_attempts = 9;
    let difference = |declared: v1::SubscriptionSpec| {
        let found = differences(&configured, &declared, &fixture.defaults()).expect("legal");
        found.map(|found| (found.key, found.configured, found.declared))
    };
    let told = |key: &str, configured: &str, declared: &str| {
        Some((key.to_owned(), configured.to_owned(), declared.to_owned()))
    };
    assert_eq!(difference(spec()), None, "unset keys never differ");
    assert_eq!(difference(spec_with_binding()), None);
    assert_eq!(difference(v1::SubscriptionSpec { prefetch_count: 10, durable: Some(true), ..spec() }), None);
    assert_eq!(difference(v1::SubscriptionSpec { queue_type: v1::QueueType::Quorum.into(), ..spec() }), None);
    assert_eq!(difference(with_argument("x-dead-letter-exchange", text("angzarr.dlx"))), None);

    assert_eq!(difference(v1::SubscriptionSpec { prefetch_count: 11, ..spec() }), told("prefetch_count", "10", "11"));
    assert_eq!(difference(v1::SubscriptionSpec { exclusive: true, ..spec() }), told("exclusive", "false", "true"));
    let without_letters = v1::DeadLetterPolicy { enabled: Some(false), ..Default::default() };
    assert_eq!(
        difference(v1::SubscriptionSpec { dead_letter: Some(without_letters), ..spec() }),
        told("dead_letter.enabled", "true", "false")
    );
    assert_eq!(
        difference(v1::SubscriptionSpec { bindings: vec![binding("", "hand.#")], ..spec() }),
        told("bindings", "angzarr.events/#", "angzarr.events/hand.#")
    );
    assert_eq!(
        difference(v1::SubscriptionSpec { max_length: 5, ..spec() }),
        told("arguments.x-max-length", "none", "5")
    );
    assert_eq!(
        difference(v1::SubscriptionSpec { queue: "other".to_owned(), ..spec() }),
        told("queue", "player-projector", "other")
    );
    let retry = |policy| v1::SubscriptionSpec { retry: Some(policy), ..spec() };
    assert_eq!(
        difference(retry(v1::RetryPolicy { backoff: v1::BackoffKind::Constant.into(), ..Default::default() })),
        told("retry.backoff", "exponential", "constant")
    );
    assert_eq!(
        difference(retry(v1::RetryPolicy { jitter: Some(0.5), multiplier: Some(2.0), ..Default::default() })),
        told("retry.jitter", "0.2", "0.5")
    );
    assert_eq!(
        difference(v1::SubscriptionSpec { dead_letter: Some(own_letters()), ..spec() }),
        told("dead_letter.scope", "shared", "per_queue")
    );
    assert_eq!(
        difference(v1::SubscriptionSpec { unbind: vec![binding("", "old.#")], ..spec() }),
        told("unbind", "", "angzarr.events/old.#")
    );
    assert_eq!(
        difference(v1::SubscriptionSpec { max_message_bytes: 2_048, ..spec() }),
        told("max_message_bytes", "17825792", "2048")
    );
    let broken = v1::SubscriptionSpec { prefetch_count: -1, ..spec() };
    assert!(matches!(differences(&configured, &broken, &fixture.defaults()), Err(Problem::InvalidRequest(_))));
}
