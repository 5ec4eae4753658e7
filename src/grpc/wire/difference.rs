//! Where a handler's declaration of a configured subscription says something else than the settings.
//!
//! Keys that the declaration leaves unset never differ. Knows no broker.

use super::declare::{DeclareDefaults, subscription_from_proto};
use crate::domain::difference::value_text;
use crate::domain::message::Headers;
use crate::domain::subscription::{Binding, RetryBackoff, Subscription};
use crate::domain::topology::{self, Step, TopologyMode};
use crate::grpc::problem::{Difference, Problem};
use crate::grpc::proto::sidebus::v1;

/// The first key that differs; `None` = the declaration fits. `defaults` are those of the sidecar: its exchange is the
/// one of bindings that name none.
///
/// # Errors
/// The declaration breaks a rule of its own, or names what a later release brings.
pub fn differences(
    configured: &Subscription,
    declared: &v1::SubscriptionSpec,
    defaults: &DeclareDefaults<'_>,
) -> Result<Option<Difference>, Problem> {
    // What is unset takes the configured value, so that only named keys can differ and bounds are those in force.
    let spec = v1::SubscriptionSpec {
        queue: given(&declared.queue).unwrap_or_else(|| configured.queue.name.as_str().to_owned()),
        ..declared.clone()
    };
    let defaults = DeclareDefaults {
        exchange: &configured.exchange,
        delivery: &configured.delivery,
        retry: &configured.retry,
        dead_letter: &configured.dead_letter,
        ..*defaults
    };
    let wanted = subscription_from_proto(&configured.name, spec, &defaults)?.subscription;
    Ok(pairs(configured, &wanted, declared)
        .into_iter()
        .find(|(_, configured, declared)| configured != declared)
        .map(|(key, configured, declared)| Difference { key, configured, declared }))
}

fn given(text: &str) -> Option<String> {
    (!text.is_empty()).then(|| text.to_owned())
}

/// Key, configured value and declared value, for every key that the declaration can name.
fn pairs(
    configured: &Subscription,
    wanted: &Subscription,
    declared: &v1::SubscriptionSpec,
) -> Vec<(String, String, String)> {
    let mut pairs = Vec::new();
    let mut add = |key: &str, configured: String, wanted: String| pairs.push((key.to_owned(), configured, wanted));
    add("queue", configured.queue.name.to_string(), wanted.queue.name.to_string());
    if !declared.bindings.is_empty() {
        add("bindings", bindings_text(&configured.bindings), bindings_text(&wanted.bindings));
    }
    if !declared.unbind.is_empty() {
        add("unbind", bindings_text(&configured.unbind), bindings_text(&wanted.unbind));
    }
    if let Some(named) = wanted.queue.queue_type {
        add("queue_type", topology::queue_type(&configured.queue).as_str().to_owned(), named.as_str().to_owned());
    }
    if let Some(durable) = declared.durable {
        add("durable", configured.queue.is_durable().to_string(), durable.to_string());
    }
    // False and unset are one on the wire, so only true is a word.
    if declared.auto_delete {
        add("auto_delete", configured.queue.is_auto_delete().to_string(), "true".to_owned());
    }
    if declared.exclusive {
        add("exclusive", configured.queue.is_exclusive().to_string(), "true".to_owned());
    }
    let (is, asked) = (&configured.delivery, &wanted.delivery);
    add("prefetch_count", is.prefetch_count.to_string(), asked.prefetch_count.to_string());
    add("prefetch_max", is.prefetch_max.to_string(), asked.prefetch_max.to_string());
    add("settle_timeout", format!("{:?}", is.settle_timeout), format!("{:?}", asked.settle_timeout));
    add("max_lease", format!("{:?}", is.max_lease), format!("{:?}", asked.max_lease));
    add("max_message_bytes", is.message_bytes_max.to_string(), asked.message_bytes_max.to_string());
    add("max_handlers", is.max_handlers.to_string(), asked.max_handlers.to_string());
    let (is, asked) = (&configured.retry, &wanted.retry);
    add("retry.max_attempts", is.max_attempts.to_string(), asked.max_attempts.to_string());
    add("retry.backoff", backoff_text(is.backoff), backoff_text(asked.backoff));
    add("retry.min_backoff", format!("{:?}", is.min_backoff), format!("{:?}", asked.min_backoff));
    add("retry.max_backoff", format!("{:?}", is.max_backoff), format!("{:?}", asked.max_backoff));
    add("retry.multiplier", is.multiplier.to_string(), asked.multiplier.to_string());
    add("retry.jitter", is.jitter.to_string(), asked.jitter.to_string());
    add("retry.crash_limit", is.crash_limit.to_string(), asked.crash_limit.to_string());
    let (is, asked) = (&configured.dead_letter, &wanted.dead_letter);
    add("dead_letter.enabled", is.is_enabled.to_string(), asked.is_enabled.to_string());
    add("dead_letter.scope", is.scope.as_str().to_owned(), asked.scope.as_str().to_owned());
    add("dead_letter.exchange", is.exchange.to_string(), asked.exchange.to_string());
    add("dead_letter.queue", is.letters().to_string(), asked.letters().to_string());
    pairs.extend(argument_pairs(configured, wanted));
    pairs
}

/// Every named argument against the one that the queue is declared with, our own defaults included.
fn argument_pairs(configured: &Subscription, wanted: &Subscription) -> Vec<(String, String, String)> {
    let in_force = arguments_in_force(configured);
    let named = wanted.queue.arguments.iter();
    named
        .map(|(name, value)| {
            let configured = in_force.get(name).map_or_else(|| "none".to_owned(), value_text);
            (format!("arguments.{name}"), configured, value_text(value))
        })
        .collect()
}

fn arguments_in_force(configured: &Subscription) -> Headers {
    let plan = topology::subscription(TopologyMode::Create, configured);
    let queues = plan.steps.into_iter().filter_map(|step| match step {
        Step::Queue(queue) if queue.name == configured.queue.name => Some(queue.arguments),
        Step::Queue(_) | Step::Exchange(_) | Step::Bind { .. } | Step::Unbind { .. } => None,
    });
    queues.last().unwrap_or_default()
}

fn backoff_text(backoff: RetryBackoff) -> String {
    match backoff {
        RetryBackoff::Exponential => "exponential".to_owned(),
        RetryBackoff::Linear => "linear".to_owned(),
        RetryBackoff::Constant => "constant".to_owned(),
    }
}

/// Order does not count, and repeating a binding is harmless.
fn bindings_text(bindings: &[Binding]) -> String {
    let mut texts: Vec<String> = bindings.iter().map(binding_text).collect();
    texts.sort_unstable();
    texts.dedup();
    texts.join(", ")
}

fn binding_text(binding: &Binding) -> String {
    let place = format!("{}/{}", binding.exchange, binding.routing_key);
    let arguments = binding.arguments.iter().map(|(name, value)| format!("{name}={}", value_text(value)));
    std::iter::once(place).chain(arguments).collect::<Vec<_>>().join(" ")
}
