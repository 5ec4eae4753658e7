//! From the subscription that a handler brings to the domain's, with what it leaves unset taken from the settings.
//!
//! Knows no settings file. What this release cannot carry is refused by name, never dropped in silence.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::time::Duration;

use super::time;
use super::violations::{Below, Index, Key, Violations};
use super::{SHORT_BYTES_MAX, header};
use crate::domain::message::{Headers, Value, encoded_bytes};
use crate::domain::name::{ExchangeName, QueueName, SubscriptionName};
use crate::domain::subscription::{
    Binding, DeadLetterSettings, DeliverySettings, QueueSettings, QueueType, RetrySettings, Subscription,
};
use crate::grpc::problem::Problem;
use crate::grpc::proto::sidebus::v1;

mod arguments;
mod later;

/// Path of the declaration in the first frame.
const PATH: &str = "open.declare";
/// Levels of tables and arrays in an argument.
const DEPTH_MAX: usize = 8;
/// Bytes of one table of arguments: a frame above the connection's limit would end it for everybody.
const ARGUMENT_BYTES_MAX: usize = 64 * 1024;
const SETTLE_TIMEOUT_MIN: Duration = Duration::from_secs(1);
const MAX_LEASE_MIN: Duration = Duration::from_mins(2);
/// The last minute of a lease is for giving back.
const LEASE_MARGIN: Duration = Duration::from_mins(1);
const RETRY_DELAY_MIN: Duration = Duration::from_millis(100);

/// What a declaration leaves unset, and which names it may not take.
#[derive(Debug, Clone, Copy)]
pub struct DeclareDefaults<'a> {
    /// For bindings that name none.
    pub exchange: &'a ExchangeName,
    /// Prefix of our own queues: names below it are refused.
    pub namespace: &'a str,
    /// Windows, clocks and limits.
    pub delivery: &'a DeliverySettings,
    /// Retry policy.
    pub retry: &'a RetrySettings,
    /// Where given-up messages go. Handlers may neither consume that queue nor bind to that exchange.
    pub dead_letter: &'a DeadLetterSettings,
}

/// Converts a declaration.
///
/// # Errors
/// `INVALID_REQUEST` with every field that breaks a rule, else `FEATURE_UNAVAILABLE` with those of a later release.
pub fn subscription_from_proto(
    name: &SubscriptionName,
    spec: v1::SubscriptionSpec,
    defaults: &DeclareDefaults<'_>,
) -> Result<Subscription, Problem> {
    let mut violations = Violations::default();
    let later = later::fields(&spec, &mut violations);
    let mut reader = Reader { defaults, violations };
    let subscription = reader.read(name, spec);
    if !reader.violations.is_empty() {
        return Err(Problem::InvalidRequest(reader.violations.into_vec()));
    }
    if !later.is_empty() {
        return Err(Problem::FeatureUnavailable(later.join(", ")));
    }
    // Without violations every part was read.
    subscription.ok_or_else(|| Problem::InvalidRequest(Vec::new()))
}

struct Reader<'a> {
    defaults: &'a DeclareDefaults<'a>,
    violations: Violations,
}

impl Reader<'_> {
    fn read(&mut self, name: &SubscriptionName, mut spec: v1::SubscriptionSpec) -> Option<Subscription> {
        let queue_name = if spec.queue.is_empty() { name.as_str().to_owned() } else { spec.queue.clone() };
        let queue_name = self.queue_name(&queue_name);
        let arguments = std::mem::take(&mut spec.arguments);
        let arguments = self.arguments(arguments, &path("arguments"));
        let bindings = std::mem::take(&mut spec.bindings);
        let bindings = self.bindings(bindings, &spec.exchange);
        let delivery = self.delivery(&spec);
        let retry = self.retry(&spec.retry.unwrap_or_default());
        let dead_letter = self.dead_letter(&spec.dead_letter.clone().unwrap_or_default(), &arguments);
        let (queue_type, arguments) = arguments::merge(&spec, arguments, &mut self.violations);
        let (name, queue_name, dead_letter) = (name.clone(), queue_name?, dead_letter?);
        if queue_name == dead_letter.queue && queue_name != self.defaults.dead_letter.queue {
            self.violations.add(path("queue"), "is its own dead-letter queue: failures would turn in a circle");
        }
        let queue = QueueSettings {
            name: queue_name,
            queue_type,
            durable: spec.durable,
            auto_delete: spec.auto_delete,
            exclusive: spec.exclusive,
            arguments,
        };
        Some(Subscription { name, queue, bindings, delivery, retry, dead_letter })
    }

    fn arguments(&mut self, entries: BTreeMap<String, v1::HeaderValue>, at: &dyn Display) -> Headers {
        let arguments = header::entries_from_proto(entries, at, DEPTH_MAX, &mut self.violations);
        let bytes = encoded_bytes(&arguments);
        if bytes > ARGUMENT_BYTES_MAX {
            self.violations.add(at, format_args!("have {bytes} bytes, at most {ARGUMENT_BYTES_MAX} are allowed"));
        }
        arguments
    }

    fn queue_name(&mut self, text: &str) -> Option<QueueName> {
        let queue = QueueName::parse(text).map_err(|error| self.violations.add(path("queue"), error)).ok()?;
        self.refuse_ours(path("queue"), queue.as_str());
        if queue == self.defaults.dead_letter.queue {
            self.violations.add(path("queue"), "is the dead-letter queue, which handlers may not take");
        }
        Some(queue)
    }

    /// Names that Sidebus keeps for itself in the virtual host.
    fn refuse_ours(&mut self, field: impl Display, name: &str) {
        let below = name.strip_prefix(self.defaults.namespace).is_some_and(|rest| rest.starts_with('.'));
        if below {
            let rule = format_args!("begins with \"{}.\", which Sidebus keeps for itself", self.defaults.namespace);
            self.violations.add(field, rule);
        }
    }

    fn bindings(&mut self, bindings: Vec<v1::Binding>, exchange: &str) -> Vec<Binding> {
        let exchange = if exchange.is_empty() {
            self.defaults.exchange.clone()
        } else {
            self.binding_exchange(exchange, &path("exchange"))
        };
        let bindings = bindings.into_iter().enumerate();
        bindings.map(|(index, binding)| self.binding(binding, index, &exchange)).collect()
    }

    fn binding(&mut self, binding: v1::Binding, index: usize, exchange: &ExchangeName) -> Binding {
        let bindings = path("bindings");
        let at = Index(&bindings, index);
        let exchange = if binding.exchange.is_empty() {
            exchange.clone()
        } else {
            self.binding_exchange(&binding.exchange, &Below(&at, "exchange"))
        };
        self.violations.short(Below(&at, "routing_key"), &binding.routing_key);
        let arguments = self.arguments(binding.arguments, &Below(&at, "arguments"));
        Binding { exchange, routing_key: binding.routing_key, arguments }
    }

    fn binding_exchange(&mut self, name: &str, field: &dyn Display) -> ExchangeName {
        self.violations.at_most(field, name, SHORT_BYTES_MAX);
        if name.chars().any(char::is_control) {
            self.violations.add(field, "contains a control character");
        }
        if name == super::NAMELESS_EXCHANGE {
            self.violations.add(field, "is the nameless exchange, to which nothing can be bound");
        }
        if name == self.defaults.dead_letter.exchange.as_str() {
            self.violations.add(field, "is the dead-letter exchange, to which handlers may not bind");
        }
        self.refuse_ours(field, name);
        // Binding to the broker's own exchanges (`amq.topic`) is legal; only declaring them is not.
        ExchangeName::from_broker(name)
    }

    fn delivery(&mut self, spec: &v1::SubscriptionSpec) -> DeliverySettings {
        let defaults = self.defaults.delivery;
        let settle_timeout = self.duration(spec.settle_timeout.as_ref(), "settle_timeout");
        let max_lease = self.duration(spec.max_lease.as_ref(), "max_lease");
        if settle_timeout.is_some_and(|timeout| timeout < SETTLE_TIMEOUT_MIN) {
            self.violations.add(path("settle_timeout"), "is shorter than 1 s");
        }
        if max_lease.is_some_and(|lease| lease < MAX_LEASE_MIN) {
            self.violations.add(path("max_lease"), "is shorter than 2 min");
        }
        let settings = DeliverySettings {
            prefetch_count: self.count(spec.prefetch_count, "prefetch_count", defaults.prefetch_count),
            prefetch_max: self.count(spec.prefetch_max, "prefetch_max", defaults.prefetch_max),
            settle_timeout: settle_timeout.unwrap_or(defaults.settle_timeout),
            max_lease: max_lease.unwrap_or(defaults.max_lease),
            max_handlers: self.count(spec.max_handlers, "max_handlers", defaults.max_handlers),
        };
        let named = settle_timeout.is_some() || max_lease.is_some();
        if named && settings.settle_timeout.saturating_add(LEASE_MARGIN) > settings.max_lease {
            let field = if max_lease.is_some() { "max_lease" } else { "settle_timeout" };
            self.violations.add(path(field), "max_lease must be at least settle_timeout + 1 min");
        }
        settings
    }

    fn count(&mut self, value: i32, field: &str, default: u16) -> u16 {
        match u16::try_from(value) {
            Ok(0) => default,
            Ok(count) => count,
            Err(_) => {
                self.violations.add(path(field), format_args!("is {value}; 0 to {} is allowed", u16::MAX));
                default
            }
        }
    }

    fn duration(&mut self, value: Option<&prost_types::Duration>, field: &str) -> Option<Duration> {
        time::duration_from_proto(value?).map_err(|rule| self.violations.add(path(field), rule)).ok()
    }

    fn retry(&mut self, policy: &v1::RetryPolicy) -> RetrySettings {
        let defaults = self.defaults.retry;
        let max_attempts = match policy.max_attempts {
            None => defaults.max_attempts,
            Some(count) => u32::try_from(count).ok().filter(|count| *count > 0).unwrap_or_else(|| {
                self.violations.add(path("retry.max_attempts"), format_args!("is {count}; at least 1 is allowed"));
                defaults.max_attempts
            }),
        };
        let delay = self.duration(policy.min_backoff.as_ref(), "retry.min_backoff");
        if delay.is_some_and(|delay| delay < RETRY_DELAY_MIN) {
            self.violations.add(path("retry.min_backoff"), "is shorter than 100 ms");
        }
        RetrySettings { max_attempts, delay: delay.unwrap_or(defaults.delay) }
    }

    /// The queue argument `x-dead-letter-exchange`, which users write today, stands in for an unnamed exchange.
    fn dead_letter(&mut self, policy: &v1::DeadLetterPolicy, arguments: &Headers) -> Option<DeadLetterSettings> {
        let argument = arguments.get("x-dead-letter-exchange");
        let argument_text = argument.and_then(Value::as_text).filter(|text| !text.is_empty());
        if argument.is_some() && argument_text.is_none() {
            let arguments = path("arguments");
            self.violations.add(Key(&arguments, "x-dead-letter-exchange"), "must be the name of an exchange, as text");
        }
        if let Some(text) = argument_text
            && !policy.exchange.is_empty()
            && policy.exchange != text
        {
            let rule = "differs from arguments[\"x-dead-letter-exchange\"]: set one of them";
            self.violations.add(path("dead_letter.exchange"), rule);
        }
        let named = Some(policy.exchange.as_str()).filter(|text| !text.is_empty()).or(argument_text);
        let exchange = match named {
            None => Some(self.defaults.dead_letter.exchange.clone()),
            Some(text) => {
                let field = path("dead_letter.exchange");
                self.refuse_ours(&field, text);
                ExchangeName::parse(text).map_err(|error| self.violations.add(field, error)).ok()
            }
        };
        let queue = if policy.queue.is_empty() {
            Some(self.defaults.dead_letter.queue.clone())
        } else {
            let field = path("dead_letter.queue");
            self.refuse_ours(&field, &policy.queue);
            QueueName::parse(&policy.queue).map_err(|error| self.violations.add(field, error)).ok()
        };
        Some(DeadLetterSettings { exchange: exchange?, queue: queue? })
    }
}

fn path(field: &str) -> String {
    format!("{PATH}.{field}")
}

/// The queue type that a declaration names; streams and unknown ones are `later`'s business.
fn named_queue_type(spec: &v1::SubscriptionSpec) -> Option<QueueType> {
    match v1::QueueType::try_from(spec.queue_type) {
        Ok(v1::QueueType::Quorum) => Some(QueueType::Quorum),
        Ok(v1::QueueType::Classic) => Some(QueueType::Classic),
        Ok(v1::QueueType::Unspecified | v1::QueueType::Stream) | Err(_) => None,
    }
}

#[cfg(test)]
mod tests;
