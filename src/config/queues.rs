//! `[queues.<name>]` with what it takes from `[retry]`, `[dead_letter]` and `[bus.amqp]`. Knows no source.

use std::time::Duration;

use super::arguments::BindingEntry;
use super::problem::{Fault, Problems, Warning};
use super::queue_rules;
use super::value::write_duration;
use super::values::{Section, Values};
use crate::domain::dead_letter::{self, Bounds, DeadLetterKeys};
use crate::domain::kill_switch::KillSwitchSettings;
use crate::domain::ledger::LEASE_MARGIN;
use crate::domain::name::{ExchangeName, QueueName, SubscriptionName};
use crate::domain::queue_keys::{Overflow, QueueKeys};
use crate::domain::subscription::{
    Binding, DeadLetterScope, DeadLetterSettings, DeliverySettings, MESSAGE_ROOM_BYTES, QueueSettings, QueueType,
    RetryBackoff, RetrySettings, Subscription,
};

/// The broker takes a delivery back after this, unless told otherwise (its `consumer_timeout`).
const CONSUMER_TIMEOUT: Duration = Duration::from_mins(30);

/// What a subscription takes where it says nothing itself.
#[derive(Debug, Clone)]
pub(super) struct Defaults {
    pub(super) exchange: ExchangeName,
    pub(super) delivery: DeliverySettings,
    pub(super) retry: RetrySettings,
    pub(super) dead_letter: DeadLetterSettings,
}

/// The tables that rule every subscription.
pub(super) fn defaults(
    values: &Values,
    exchange: &ExchangeName,
    problems: &mut Problems,
    warnings: &mut Vec<Warning>,
) -> Defaults {
    let (amqp, letters) = (values.section("bus.amqp"), values.section("dead_letter"));
    let body_max: u64 = values.section("grpc").value("max_message_bytes");
    let built_in = RetrySettings::default();
    let scope = letters.optional("scope").map_or_else(DeadLetterScope::default, scope_of);
    let names = (letters.value("exchange"), letters.value("queue"));
    let (mut dead_letter, findings) = dead_letter::common(names, scope, bounds(&letters, ""));
    dead_letter.is_enabled = letters.value("enabled");
    queue_rules::tell(&values.section(""), findings, problems, warnings);
    Defaults {
        exchange: exchange.clone(),
        delivery: DeliverySettings {
            prefetch_count: amqp.value("prefetch_count"),
            prefetch_max: amqp.value("prefetch_max"),
            message_bytes_max: body_max.saturating_add(MESSAGE_ROOM_BYTES.into()),
            ..DeliverySettings::default()
        },
        retry: retry(&values.section(""), &built_in, problems),
        dead_letter,
    }
}

fn scope_of(word: &str) -> DeadLetterScope {
    match word {
        "per_queue" => DeadLetterScope::PerQueue,
        _ => DeadLetterScope::Shared,
    }
}

/// What bounds letters, from the keys that begin with `prefix`.
fn bounds(section: &Section<'_>, prefix: &str) -> Bounds {
    Bounds {
        archive_queue: section.optional(&format!("{prefix}archive_queue")),
        message_ttl: section.optional(&format!("{prefix}message_ttl")),
        max_length: section.optional(&format!("{prefix}max_length")),
    }
}

/// The policy of the keys `retry.…` of a table, over what holds without them.
fn retry(section: &Section<'_>, defaults: &RetrySettings, problems: &mut Problems) -> RetrySettings {
    let backoff = match section.optional("retry.backoff") {
        None => defaults.backoff,
        Some("linear") => RetryBackoff::Linear,
        Some("constant") => RetryBackoff::Constant,
        Some(_) => RetryBackoff::Exponential,
    };
    let switch = &defaults.kill_switch;
    let settings = RetrySettings {
        max_attempts: section.value_or("retry.max_attempts", defaults.max_attempts),
        backoff,
        min_backoff: section.value_or("retry.min_backoff", defaults.min_backoff),
        max_backoff: section.value_or("retry.max_backoff", defaults.max_backoff),
        multiplier: section.value_or("retry.multiplier", defaults.multiplier),
        jitter: section.value_or("retry.jitter", defaults.jitter),
        crash_limit: section.value_or("retry.crash_limit", defaults.crash_limit),
        max_per_second: section.value_or("retry.max_per_second", defaults.max_per_second),
        kill_switch: KillSwitchSettings {
            enabled: section.value_or("retry.kill_switch.enabled", switch.enabled),
            share: section.value_or("retry.kill_switch.share", switch.share),
            sample: section.value_or("retry.kill_switch.sample", switch.sample),
            min_pause: section.value_or("retry.kill_switch.min_pause", switch.min_pause),
            max_pause: section.value_or("retry.kill_switch.max_pause", switch.max_pause),
        },
    };
    let waits = (settings.min_backoff, settings.max_backoff);
    min_above_max(section, ("retry.min_backoff", "retry.max_backoff"), waits, problems);
    let pauses = (settings.kill_switch.min_pause, settings.kill_switch.max_pause);
    min_above_max(section, ("retry.kill_switch.min_pause", "retry.kill_switch.max_pause"), pauses, problems);
    settings
}

/// Told once, where one of the two is said: for all, or for one queue.
fn min_above_max(
    section: &Section<'_>,
    (min_key, max_key): (&str, &str),
    (min, max): (Duration, Duration),
    problems: &mut Problems,
) {
    let is_said = [min_key, max_key].into_iter().find(|key| section.given(key).is_some());
    if let (Some(key), true) = (is_said, min > max) {
        let (min, max) = (write_duration(min), write_duration(max));
        let fault = Fault::new(format!("{min_key} is {min} and above {max_key}, which is {max}"));
        let last = max_key.rsplit('.').next().unwrap_or(max_key);
        problems.push(section.problem(key, fault.hint(format!("set both, the longer one as {last}"))));
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
    let mode: &str = values.section("bus.amqp").value("topology");
    for (name, entry) in values.entries("queues") {
        // A name that is none was told of when its layer was read.
        let Ok(name) = SubscriptionName::parse(name) else { continue };
        let Some(subscription) = subscription(name, &entry, defaults, problems, warnings) else { continue };
        if mode == "off" && subscription.queue.is_exclusive() {
            let what =
                "cannot be had with bus.amqp.topology = \"off\": such a queue exists only for whoever declares it";
            problems
                .push(entry.problem("exclusive", Fault::new(what).hint("set bus.amqp.topology to create or verify")));
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
    let bindings = bindings(entry, "bindings", &exchange);
    let unbind = bindings_to_remove(entry, (&exchange, &bindings), problems);
    let queue = queue(&name, entry, problems, warnings)?;
    let keys = DeadLetterKeys {
        is_enabled: entry.optional("dead_letter.enabled"),
        exchange: queue_rules::dead_letter_exchange(entry, &queue.arguments, problems),
        queue: entry.optional("dead_letter.queue"),
        scope: entry.optional("dead_letter.scope").map(scope_of),
        bounds: bounds(entry, "dead_letter."),
    };
    let (dead_letter, mut findings) = dead_letter::of_queue(keys, &defaults.dead_letter, &queue.name);
    findings.extend(dead_letter.listening(&bindings));
    queue_rules::tell(entry, findings, problems, warnings);
    Some(Subscription {
        dead_letter,
        retry: retry(entry, &defaults.retry, problems),
        delivery: delivery(entry, &defaults.delivery, problems, warnings),
        name,
        queue,
        exchange,
        bindings,
        unbind,
    })
}

fn bindings(entry: &Section<'_>, key: &str, exchange: &ExchangeName) -> Vec<Binding> {
    let bindings: Vec<BindingEntry> = entry.optional(key).unwrap_or_default();
    let bound = |entry: BindingEntry| Binding {
        exchange: entry.exchange.unwrap_or_else(|| exchange.clone()),
        routing_key: entry.routing_key,
        arguments: entry.arguments,
    };
    bindings.into_iter().map(bound).collect()
}

/// The list `unbind`: what is in both lists would be taken away and made again at every start.
fn bindings_to_remove(
    entry: &Section<'_>,
    (exchange, kept): (&ExchangeName, &[Binding]),
    problems: &mut Problems,
) -> Vec<Binding> {
    let unbind = bindings(entry, "unbind", exchange);
    for binding in unbind.iter().filter(|binding| kept.contains(binding)) {
        let (key, exchange) = (&binding.routing_key, &binding.exchange);
        let fault = Fault::new(format!("{key:?} of {exchange} is also in {}", entry.path("bindings")));
        problems.push(entry.problem("unbind", fault.hint("keep it in one of the two lists")));
    }
    unbind
}

fn queue(
    name: &SubscriptionName,
    entry: &Section<'_>,
    problems: &mut Problems,
    warnings: &mut Vec<Warning>,
) -> Option<QueueSettings> {
    let named: Option<QueueName> = entry.optional("queue");
    let queue_name = match named.map_or_else(|| QueueName::parse(name.as_str()), Ok) {
        Ok(name) => name,
        Err(error) => {
            let fault = Fault::new(format!("the name {error}")).hint("set `queue` to the queue's own name");
            problems.push(entry.problem("", fault));
            return None;
        }
    };
    let (queue, findings) = keys(entry).resolve(queue_name);
    queue_rules::tell(entry, findings, problems, warnings);
    Some(queue)
}

fn keys(entry: &Section<'_>) -> QueueKeys {
    let queue_type = |word: &str| match word {
        "classic" => QueueType::Classic,
        _ => QueueType::Quorum,
    };
    let overflow = |word: &str| match word {
        "drop_head" => Overflow::DropHead,
        _ => Overflow::RejectPublish,
    };
    QueueKeys {
        queue_type: entry.optional("queue_type").map(queue_type),
        durable: entry.optional("durable"),
        auto_delete: entry.optional("auto_delete"),
        exclusive: entry.optional("exclusive"),
        max_priority: entry.optional("max_priority"),
        message_ttl: entry.optional("message_ttl"),
        max_length: entry.optional("max_length"),
        max_length_bytes: entry.optional("max_length_bytes"),
        overflow: entry.optional("overflow").map(overflow),
        delivery_limit: entry.optional("delivery_limit"),
        single_active_consumer: entry.optional("single_active_consumer"),
        arguments: entry.optional("arguments").unwrap_or_default(),
    }
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
        message_bytes_max: entry.value_or("max_message_bytes", defaults.message_bytes_max),
        max_handlers: entry.value_or("max_handlers", defaults.max_handlers),
    };
    if delivery.settle_timeout + LEASE_MARGIN > delivery.max_lease {
        let margin = write_duration(LEASE_MARGIN);
        let (key, other, bound, rule) = if entry.given("settle_timeout").is_some() {
            let most = delivery.max_lease.saturating_sub(LEASE_MARGIN);
            ("settle_timeout", delivery.max_lease, most, format!("must be {margin} below max_lease"))
        } else {
            let least = delivery.settle_timeout + LEASE_MARGIN;
            ("max_lease", delivery.settle_timeout, least, format!("must be {margin} above settle_timeout"))
        };
        let fault = Fault::new(format!("{rule}, which is {}", write_duration(other)));
        problems.push(entry.problem(key, fault.hint(format!("write \"{}\"", write_duration(bound)))));
    }
    if delivery.prefetch_count > delivery.prefetch_max {
        let what =
            format!("is above prefetch_max: no handler gets more than {} unless that is raised", delivery.prefetch_max);
        warnings.push(Warning::new(entry.path("prefetch_count"), entry.origin("prefetch_count"), &what));
    }
    if delivery.max_lease >= CONSUMER_TIMEOUT {
        let what = "RabbitMQ takes deliveries back after 30m unless its consumer_timeout was raised";
        warnings.push(Warning::new(entry.path("max_lease"), entry.origin("max_lease"), what));
    }
    delivery
}
