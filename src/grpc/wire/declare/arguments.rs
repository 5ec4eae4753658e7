//! The typed keys of a declaration as the queue arguments that they stand for. Knows no broker: names are AMQP's.

use super::super::time;
use super::super::violations::{Key, Violations};
use super::{named_queue_type, path};
use crate::domain::message::{Headers, Value};
use crate::domain::subscription::QueueType;
use crate::grpc::proto::sidebus::v1;

const PRIORITY_MAX: i32 = 255;
/// Below it a handful of broker restarts would end a healthy message.
const DELIVERY_LIMIT_MIN: i32 = 6;

/// The queue type and all arguments of a declaration. An argument that says a typed key again is refused, even when both
/// agree: which of two wins must never be a question.
pub(super) fn merge(
    spec: &v1::SubscriptionSpec,
    mut arguments: Headers,
    violations: &mut Violations,
) -> (Option<QueueType>, Headers) {
    let queue_type = queue_type(spec, &mut arguments, violations);
    for typed in typed(spec, violations) {
        if arguments.insert(typed.argument.to_owned(), typed.value).is_some() {
            let rule = format_args!("is also given as arguments[{:?}]: set one of them", typed.argument);
            violations.add(path(typed.field), rule);
        }
    }
    if arguments.get("x-delivery-limit").and_then(Value::as_integer).is_some_and(|limit| limit < 0) {
        // Unlimited from 4.0 on, and dropped at the first requeue before.
        violations.add(Key(&path("arguments"), "x-delivery-limit"), "must not be negative");
    }
    check_type(spec, queue_type, &arguments, violations);
    (queue_type, arguments)
}

/// `queue_type`, or the argument of that meaning, which then is no argument any more.
fn queue_type(spec: &v1::SubscriptionSpec, arguments: &mut Headers, violations: &mut Violations) -> Option<QueueType> {
    let named = named_queue_type(spec);
    let Some(argument) = arguments.remove("x-queue-type") else { return named };
    let argument = match argument.as_text() {
        Some("quorum") => QueueType::Quorum,
        Some("classic") => QueueType::Classic,
        Some(_) | None => {
            let rule = "must be \"quorum\" or \"classic\"; other types belong to a later release";
            violations.add(Key(&path("arguments"), "x-queue-type"), rule);
            return named;
        }
    };
    if named.is_some_and(|named| named != argument) {
        violations.add(path("queue_type"), "differs from arguments[\"x-queue-type\"]: set one of them");
    }
    Some(argument)
}

struct Typed {
    field: &'static str,
    argument: &'static str,
    value: Value,
}

fn typed(spec: &v1::SubscriptionSpec, violations: &mut Violations) -> Vec<Typed> {
    let mut found = Vec::new();
    let mut add = |field, argument, value| found.push(Typed { field, argument, value });
    match spec.message_ttl.as_ref().map(time::duration_from_proto) {
        None => {}
        Some(Ok(ttl)) => {
            if ttl.is_zero() {
                violations.add(path("message_ttl"), "must be positive");
            }
            let millis = i64::try_from(ttl.as_millis()).unwrap_or(i64::MAX);
            add("message_ttl", "x-message-ttl", Value::Int64(millis));
        }
        Some(Err(rule)) => violations.add(path("message_ttl"), rule),
    }
    for (field, argument, value, min, max) in [
        ("max_length", "x-max-length", spec.max_length, 1, i64::MAX),
        ("max_length_bytes", "x-max-length-bytes", spec.max_length_bytes, 1, i64::MAX),
        ("max_priority", "x-max-priority", i64::from(spec.max_priority), 1, i64::from(PRIORITY_MAX)),
        (
            "delivery_limit",
            "x-delivery-limit",
            i64::from(spec.delivery_limit),
            i64::from(DELIVERY_LIMIT_MIN),
            i64::from(i32::MAX),
        ),
    ] {
        if value == 0 {
            continue;
        }
        if !(min..=max).contains(&value) {
            violations.add(path(field), format_args!("is {value}; 0 (not set) or {min} to {max} is allowed"));
        }
        add(field, argument, Value::Int64(value));
    }
    match v1::OverflowPolicy::try_from(spec.overflow) {
        Ok(v1::OverflowPolicy::RejectPublish) => add("overflow", "x-overflow", Value::text("reject-publish")),
        Ok(v1::OverflowPolicy::DropHead) => add("overflow", "x-overflow", Value::text("drop-head")),
        Ok(v1::OverflowPolicy::Unspecified) | Err(_) => {}
    }
    if spec.single_active_consumer {
        add("single_active_consumer", "x-single-active-consumer", Value::Bool(true));
    }
    found
}

/// Quorum queues refuse what follows (406 for each on RabbitMQ 3.10.8), and only they count deliveries.
fn check_type(
    spec: &v1::SubscriptionSpec,
    queue_type: Option<QueueType>,
    arguments: &Headers,
    violations: &mut Violations,
) {
    let classic_only = [
        ("exclusive", spec.exclusive),
        ("auto_delete", spec.auto_delete),
        ("durable", spec.durable == Some(false)),
        ("max_priority", arguments.contains_key("x-max-priority")),
    ];
    let classic_only = classic_only.into_iter().find(|(_, set)| *set).map(|(field, _)| field);
    if let (Some(QueueType::Quorum), Some(field)) = (queue_type, classic_only) {
        violations.add(path(field), "cannot be had on a quorum queue: leave queue_type out");
    }
    let classic = queue_type == Some(QueueType::Classic) || classic_only.is_some();
    if classic && arguments.contains_key("x-delivery-limit") {
        violations.add(path("delivery_limit"), "is for quorum queues, and the other keys ask for a classic one");
    }
}
