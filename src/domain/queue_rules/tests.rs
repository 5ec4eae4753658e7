//! The rule table of queue types, row by row.

use std::time::Duration;

use super::super::message::Headers;
use super::super::name::QueueName;
use super::super::queue_keys::{QueueKeys, Weight};
use super::*;

fn resolve(keys: QueueKeys) -> (QueueSettings, Vec<Finding>) {
    keys.resolve(QueueName::parse("q").unwrap())
}

fn argument(name: &str, value: Value) -> QueueKeys {
    QueueKeys { arguments: Headers::from([(name.to_owned(), value)]), ..QueueKeys::default() }
}

fn quorum() -> QueueKeys {
    QueueKeys { queue_type: Some(QueueType::Quorum), ..QueueKeys::default() }
}

fn classic() -> QueueKeys {
    QueueKeys { queue_type: Some(QueueType::Classic), ..QueueKeys::default() }
}

/// Place and words of what is found of one weight.
fn told(keys: QueueKeys, weight: Weight) -> Vec<(String, String)> {
    let findings = resolve(keys).1.into_iter().filter(|finding| finding.weight == weight);
    findings.map(|finding| (finding.place.to_string(), finding.what)).collect()
}

#[test]
fn what_is_not_said_is_quorum_and_durable_and_says_nothing() {
    let (queue, findings) = resolve(QueueKeys::default());
    assert_eq!((topology::queue_type(&queue), queue.is_durable(), findings), (QueueType::Quorum, true, Vec::new()));
    let keys = QueueKeys {
        max_length: Some(1),
        max_length_bytes: Some(1),
        single_active_consumer: Some(true),
        overflow: Some(Overflow::RejectPublish),
        ..QueueKeys::default()
    };
    for keys in [keys.clone(), QueueKeys { queue_type: Some(QueueType::Quorum), ..keys }] {
        let (queue, findings) = resolve(keys);
        assert_eq!((topology::queue_type(&queue), findings), (QueueType::Quorum, Vec::new()));
    }
}

#[test]
fn four_keys_make_a_classic_queue_and_contradict_a_quorum_one() {
    let four = [
        ("exclusive", QueueKeys { exclusive: Some(true), ..QueueKeys::default() }),
        ("auto_delete", QueueKeys { auto_delete: Some(true), ..QueueKeys::default() }),
        ("durable", QueueKeys { durable: Some(false), ..QueueKeys::default() }),
        ("max_priority", QueueKeys { max_priority: Some(5), ..QueueKeys::default() }),
        ("arguments.x-max-priority", argument("x-max-priority", Value::Int64(5))),
    ];
    for (place, keys) in four {
        assert_eq!(topology::queue_type(&resolve(keys.clone()).0), QueueType::Classic, "{place}");
        let named = QueueKeys { queue_type: Some(QueueType::Quorum), ..keys.clone() };
        let expected = (place.to_owned(), "contradicts queue_type = \"quorum\"".to_owned());
        assert_eq!(told(named, Weight::Problem), std::slice::from_ref(&expected));
        let mut in_arguments = keys;
        in_arguments.arguments.insert("x-queue-type".to_owned(), Value::text("quorum"));
        let (_, findings) = resolve(in_arguments);
        let problem = findings.into_iter().find(|finding| finding.weight == Weight::Problem).unwrap();
        assert_eq!(problem.what, "contradicts arguments.x-queue-type = \"quorum\"");
        assert!(problem.hint.starts_with("leave arguments.x-queue-type out"), "{problem:?}");
    }
}

#[test]
fn all_contradictions_are_told_at_once() {
    let keys = QueueKeys { exclusive: Some(true), auto_delete: Some(true), durable: Some(false), ..quorum() };
    assert_eq!(told(keys, Weight::Problem).len(), 3);
}

#[test]
fn what_counts_deliveries_is_for_quorum_queues() {
    let limit = QueueKeys { delivery_limit: Some(20), ..QueueKeys::default() };
    let strategy = || argument("x-dead-letter-strategy", Value::text("at-least-once"));
    for (keys, place, reason) in [
        (
            QueueKeys { queue_type: Some(QueueType::Classic), ..limit.clone() },
            "delivery_limit",
            "queue_type = \"classic\"",
        ),
        (QueueKeys { exclusive: Some(true), ..limit.clone() }, "delivery_limit", "exclusive = true"),
        (QueueKeys { max_priority: Some(3), ..limit.clone() }, "delivery_limit", "max_priority"),
        (
            QueueKeys { queue_type: Some(QueueType::Classic), ..strategy() },
            "arguments.x-dead-letter-strategy",
            "queue_type = \"classic\"",
        ),
    ] {
        let expected = format!("is for quorum queues, and {reason} makes this a classic one");
        assert_eq!(told(keys, Weight::Problem), [(place.to_owned(), expected)]);
    }
    assert!(told(limit, Weight::Problem).is_empty());
}

#[test]
fn arguments_that_the_broker_would_refuse_are_problems() {
    for (name, value) in [
        ("x-delivery-limit", Value::Int64(-1)),
        ("x-delivery-limit", Value::text("5")),
        ("x-message-ttl", Value::Int64(-1)),
        ("x-message-ttl", Value::Int64(315_360_000_001)),
        ("x-expires", Value::Int64(0)),
        ("x-max-length", Value::text("many")),
        ("x-expires", Value::Int64(i64::MAX)),
        ("x-max-length-bytes", Value::Int64(-5)),
        ("x-max-priority", Value::Int64(256)),
        ("x-overflow", Value::text("explode")),
        ("x-dead-letter-strategy", Value::text("at-best")),
        ("x-single-active-consumer", Value::text("yes")),
    ] {
        let problems = told(argument(name, value.clone()), Weight::Problem);
        assert!(
            problems.iter().any(|(place, _)| *place == format!("arguments.{name}")),
            "{name} {value:?}: {problems:?}"
        );
    }
    for (name, value) in [("x-message-ttl", Value::Int32(0)), ("x-delivery-limit", Value::Int64(0))] {
        assert!(told(argument(name, value), Weight::Problem).is_empty(), "{name}");
    }
}

#[test]
fn what_works_and_may_surprise_is_a_warning() {
    let warnings = |keys: QueueKeys| -> Vec<String> {
        let (_, findings) = resolve(keys);
        assert!(findings.iter().all(|finding| finding.weight == Weight::Warning), "{findings:?}");
        findings.into_iter().map(|finding| finding.place.to_string()).collect()
    };
    let drop_head = |keys| QueueKeys { overflow: Some(Overflow::DropHead), ..keys };
    assert_eq!(warnings(classic()), ["queue_type"]);
    assert_eq!(warnings(QueueKeys { durable: Some(false), ..QueueKeys::default() }), ["durable"]);
    assert!(warnings(QueueKeys { durable: Some(false), exclusive: Some(true), ..QueueKeys::default() }).is_empty());
    assert_eq!(warnings(QueueKeys { auto_delete: Some(true), ..QueueKeys::default() }), ["auto_delete"]);
    assert!(warnings(QueueKeys { max_priority: Some(10), ..QueueKeys::default() }).is_empty());
    assert_eq!(warnings(QueueKeys { max_priority: Some(11), ..QueueKeys::default() }), ["max_priority"]);
    let second = Some(Duration::from_secs(1));
    assert_eq!(warnings(QueueKeys { message_ttl: second, ..QueueKeys::default() }), ["message_ttl"]);
    assert_eq!(warnings(drop_head(QueueKeys::default())), ["overflow"]);
    assert_eq!(warnings(argument("x-delivery-limit", Value::Int64(5))), ["arguments.x-delivery-limit"]);
    assert_eq!(warnings(argument("x-overflow", Value::text("reject-publish-dlx"))), ["arguments.x-overflow"]);
    assert_eq!(warnings(argument("x-expires", Value::Int64(5))), ["arguments.x-expires"]);
    for name in ["x-max-retries", "x-queue-mode", "x-max-age"] {
        assert_eq!(warnings(argument(name, Value::text("lazy"))), [format!("arguments.{name}")]);
    }
    assert!(told(drop_head(QueueKeys::default()), Weight::Warning)[0].1.contains("at-most-once"));
    assert!(!told(drop_head(classic()), Weight::Warning)[1].1.contains("at-most-once"));
}

#[test]
fn a_release_decides_over_queues_that_do_not_last() {
    let transient = QueueKeys { durable: Some(false), ..QueueKeys::default() };
    let vanishing = QueueKeys { auto_delete: Some(true), ..transient.clone() };
    let exclusive = QueueKeys { exclusive: Some(true), ..vanishing.clone() };
    let durable = QueueKeys { auto_delete: Some(true), ..QueueKeys::default() };
    let weights = |keys: &QueueKeys, release| -> Vec<Weight> {
        on_release(&resolve(keys.clone()).0, release).into_iter().map(|finding| finding.weight).collect()
    };
    for (release, of_transient, of_vanishing) in [
        (Version::new(3, 10, 0), vec![], vec![]),
        (Version::new(3, 13, 0), vec![], vec![]),
        (Version::new(4, 0, 0), vec![Weight::Warning], vec![Weight::Warning]),
        (Version::new(4, 3, 0), vec![Weight::Warning], vec![Weight::Warning]),
        (Version::new(5, 0, 0), vec![Weight::Warning], vec![Weight::Warning]),
    ] {
        assert_eq!(weights(&transient, release), of_transient, "{release:?}");
        assert_eq!(weights(&vanishing, release), of_vanishing, "{release:?}");
        assert!(weights(&exclusive, release).is_empty() && weights(&durable, release).is_empty(), "{release:?}");
        assert!(weights(&quorum(), release).is_empty(), "{release:?}");
    }
}

#[test]
fn a_release_tells_which_arguments_it_refuses_or_has_left_behind() {
    let weight = |keys: QueueKeys, name: &str, release| {
        let mut keys = keys;
        keys.arguments.insert(name.to_owned(), Value::text("any"));
        on_release(&resolve(keys).0, release).first().map(|finding| finding.weight)
    };
    let (problem, warning) = (Some(Weight::Problem), Some(Weight::Warning));
    // On 3.10, 4.0 and 4.3.
    for (name, of_classic, of_quorum) in [
        ("x-queue-master-locator", [None, None, problem], [None; 3]),
        ("x-queue-leader-locator", [problem, None, None], [None; 3]),
        ("x-consumer-timeout", [None, None, problem], [None; 3]),
        ("x-queue-mode", [None, warning, warning], [None; 3]),
        ("x-max-in-memory-length", [None; 3], [warning; 3]),
        ("x-max-in-memory-bytes", [None; 3], [warning; 3]),
        ("x-message-ttl", [None; 3], [None; 3]),
    ] {
        let releases = [Version::new(3, 10, 8), Version::new(4, 0, 5), Version::new(4, 3, 6)];
        assert_eq!(releases.map(|release| weight(classic(), name, release)), of_classic, "classic {name}");
        assert_eq!(releases.map(|release| weight(quorum(), name, release)), of_quorum, "quorum {name}");
    }
}

#[test]
fn a_plan_keeps_what_a_release_looks_at() {
    let keys = QueueKeys { durable: Some(false), ..argument("x-queue-mode", Value::text("lazy")) };
    let (queue, release) = (resolve(keys).0, Version::new(4, 3, 6));
    let arguments = queue.arguments.clone();
    let planned = topology::Queue {
        name: queue.name.clone(),
        durable: false,
        auto_delete: false,
        exclusive: false,
        arguments,
        named: topology::Named::new(),
    };
    assert_eq!(on_release(&planned.as_settings(), release), on_release(&queue, release));
    assert_eq!(on_release(&queue, release).len(), 2);
}

#[test]
fn arguments_that_serve_quorum_queues_alone_are_known_as_such() {
    for name in ["x-consumer-timeout", "x-delayed-retry-min", "x-delayed-retry-max", "x-delayed-retry-type"] {
        assert_eq!(told(argument(name, Value::Int64(60_000)), Weight::Warning), [], "{name}");
        let on_classic = QueueKeys { exclusive: Some(true), ..argument(name, Value::Int64(60_000)) };
        let expected = "has no effect on a classic queue, or makes the broker refuse it".to_owned();
        assert_eq!(told(on_classic, Weight::Warning), [(format!("arguments.{name}"), expected)]);
    }
    let of = |release| on_release(&resolve(argument("x-delayed-retry-min", Value::Int64(1))).0, release);
    assert_eq!(of(Version::new(4, 2, 0))[0].what, "has no effect before RabbitMQ 4.3");
    assert_eq!(of(Version::new(4, 3, 0)), []);
}
