//! `[queues.<name>]` with what it takes from `[retry]`, `[dead_letter]` and `[bus.amqp]`. Knows no source.

use std::time::Duration;

use super::arguments::BindingEntry;
use super::problem::{Fault, Problems, Warning};
use super::queue_rules;
use super::value::write_duration;
use super::values::{Section, Values};
use crate::domain::message::Headers;
use crate::domain::name::{ExchangeName, QueueName, SubscriptionName};
use crate::domain::subscription::{
    Binding, DeadLetterSettings, DeliverySettings, QueueSettings, QueueType, RetrySettings, Subscription,
};

/// The broker takes a delivery back after this, unless told otherwise (its `consumer_timeout`).
const CONSUMER_TIMEOUT: Duration = Duration::from_mins(30);
/// Between the end of the settle clock and the end of the lease there must be time to give back.
const LEASE_MARGIN: Duration = Duration::from_mins(1);

/// What a subscription takes where it says nothing itself.
#[derive(Debug, Clone)]
pub(super) struct Defaults {
    pub(super) exchange: ExchangeName,
    pub(super) delivery: DeliverySettings,
    pub(super) retry: RetrySettings,
    pub(super) dead_letter: DeadLetterSettings,
}

/// The tables that rule every subscription.
pub(super) fn defaults(values: &Values, exchange: &ExchangeName) -> Defaults {
    let amqp = values.section("bus.amqp");
    let letters = values.section("dead_letter");
    Defaults {
        exchange: exchange.clone(),
        delivery: DeliverySettings {
            prefetch_count: amqp.value("prefetch_count"),
            prefetch_max: amqp.value("prefetch_max"),
            ..DeliverySettings::default()
        },
        retry: RetrySettings {
            max_attempts: values.section("retry").value("max_attempts"),
            ..RetrySettings::default()
        },
        dead_letter: DeadLetterSettings { exchange: letters.value("exchange"), queue: letters.value("queue") },
    }
}

/// Every configured subscription, by name.
pub(super) fn read(
    values: &Values,
    defaults: &Defaults,
    problems: &mut Problems,
    warnings: &mut Vec<Warning>,
) -> Vec<Subscription> {
    let mut found: Vec<Subscription> = Vec::new();
    for (name, entry) in values.entries("queues") {
        // A name that is none was told of when its layer was read.
        let Ok(name) = SubscriptionName::parse(name) else { continue };
        let Some(subscription) = subscription(name, &entry, defaults, problems, warnings) else { continue };
        if let Some(other) = found.iter().find(|other| other.queue.name == subscription.queue.name) {
            let fault = Fault::new(format!("the queue {} belongs to queues.{} already", other.queue.name, other.name));
            problems.push(entry.problem("queue", fault.hint("handlers that share work share one subscription")));
        }
        found.push(subscription);
    }
    found
}

fn subscription(
    name: SubscriptionName,
    entry: &Section<'_>,
    defaults: &Defaults,
    problems: &mut Problems,
    warnings: &mut Vec<Warning>,
) -> Option<Subscription> {
    let exchange = entry.value_or("exchange", defaults.exchange.clone());
    let bindings: Vec<BindingEntry> = entry.optional("bindings").unwrap_or_default();
    let bindings = bindings.into_iter().map(|binding| bound(binding, &exchange)).collect();
    let queue = queue(&name, entry, problems)?;
    queue_rules::check(entry, &queue, problems, warnings);
    Some(Subscription {
        dead_letter: queue_rules::dead_letter(entry, &queue.arguments, &defaults.dead_letter, problems),
        retry: RetrySettings {
            max_attempts: entry.value_or("retry.max_attempts", defaults.retry.max_attempts),
            delay: defaults.retry.delay,
        },
        delivery: delivery(entry, &defaults.delivery, problems, warnings),
        name,
        queue,
        bindings,
    })
}

fn bound(entry: BindingEntry, exchange: &ExchangeName) -> Binding {
    Binding {
        exchange: entry.exchange.unwrap_or_else(|| exchange.clone()),
        routing_key: entry.routing_key,
        arguments: entry.arguments,
    }
}

fn queue(name: &SubscriptionName, entry: &Section<'_>, problems: &mut Problems) -> Option<QueueSettings> {
    let named: Option<QueueName> = entry.optional("queue");
    let queue_name = match named.map_or_else(|| QueueName::parse(name.as_str()), Ok) {
        Ok(name) => name,
        Err(error) => {
            let fault = Fault::new(format!("the name {error}")).hint("set `queue` to the queue's own name");
            problems.push(entry.problem("", fault));
            return None;
        }
    };
    let arguments: Headers = entry.optional("arguments").unwrap_or_default();
    Some(QueueSettings {
        name: queue_name,
        queue_type: queue_type(entry, &arguments, problems),
        durable: entry.optional("durable"),
        auto_delete: entry.value("auto_delete"),
        exclusive: entry.value("exclusive"),
        arguments,
    })
}

/// The type from its key or from `x-queue-type`, which is the same key under the broker's name.
fn queue_type(entry: &Section<'_>, arguments: &Headers, problems: &mut Problems) -> Option<QueueType> {
    let from_word = |word: &str| match word {
        "quorum" => Some(QueueType::Quorum),
        "classic" => Some(QueueType::Classic),
        _ => None,
    };
    let typed = entry.optional::<&'static str>("queue_type").and_then(from_word);
    let Some(argument) = arguments.get("x-queue-type") else { return typed };
    if typed.is_some() {
        let fault = Fault::new("is also in arguments as x-queue-type").hint("keep one of the two");
        problems.push(entry.problem("queue_type", fault));
        return typed;
    }
    let from_argument = argument.as_text().and_then(from_word);
    if from_argument.is_none() {
        problems.push(entry.problem("arguments", Fault::new("x-queue-type must be one of quorum, classic")));
    }
    from_argument
}

fn delivery(
    entry: &Section<'_>,
    defaults: &DeliverySettings,
    problems: &mut Problems,
    warnings: &mut Vec<Warning>,
) -> DeliverySettings {
    let delivery = DeliverySettings {
        prefetch_count: entry.value_or("prefetch_count", defaults.prefetch_count),
        prefetch_max: entry.value_or("prefetch_max", defaults.prefetch_max),
        settle_timeout: entry.value_or("settle_timeout", defaults.settle_timeout),
        max_lease: entry.value_or("max_lease", defaults.max_lease),
        max_handlers: entry.value_or("max_handlers", defaults.max_handlers),
    };
    if delivery.settle_timeout + LEASE_MARGIN > delivery.max_lease {
        let (key, other) = if entry.given("settle_timeout").is_some() {
            ("settle_timeout", delivery.max_lease)
        } else {
            ("max_lease", delivery.settle_timeout)
        };
        let rule = "max_lease must be at least settle_timeout and 1m";
        let fault = Fault::new(format!("{rule}; the other is {}", write_duration(other)));
        problems.push(entry.problem(key, fault));
    }
    if delivery.max_lease >= CONSUMER_TIMEOUT {
        let what = "RabbitMQ takes deliveries back after 30m unless its consumer_timeout was raised";
        warnings.push(Warning::new(entry.path("max_lease"), entry.origin("max_lease"), what));
    }
    delivery
}
