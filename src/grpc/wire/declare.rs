//! From the subscription that a handler brings to the domain's, with what it leaves unset taken from the settings.
//!
//! Knows no settings file. What this release cannot carry is refused by name, never dropped in silence.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::time::Duration;

use super::time;
use super::violations::{Below, Index, Key, Violations};
use super::{SHORT_BYTES_MAX, header};
use crate::domain::dead_letter::OWN_LETTERS_SUFFIX;
use crate::domain::ledger::LEASE_MARGIN;
use crate::domain::message::{Headers, encoded_bytes};
use crate::domain::name::{ExchangeName, QueueName, SubscriptionName};
use crate::domain::queue_keys::{Finding, Place, Weight};
use crate::domain::subscription::{
    Binding, DeadLetterSettings, DeliverySettings, RetrySettings, Subscription, match_fault,
};
use crate::grpc::problem::Problem;
use crate::grpc::proto::sidebus::v1;

mod later;
mod policies;
mod queue;

/// Path of the declaration in the first frame.
pub(in crate::grpc) const PATH: &str = "open.declare";
/// Levels of tables and arrays in an argument.
const DEPTH_MAX: usize = 8;
/// Bytes of one table of arguments: a frame above the connection's limit would end it for everybody.
const ARGUMENT_BYTES_MAX: usize = 64 * 1024;
const SETTLE_TIMEOUT_MIN: Duration = Duration::from_secs(1);
const MAX_LEASE_MIN: Duration = Duration::from_mins(2);
/// Frames of less than this hold no message worth the name.
const MESSAGE_BYTES_MIN: i32 = 1 << 10;

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

/// What a declaration asks for.
#[derive(Debug, Clone, PartialEq)]
pub struct Declared {
    /// The subscription.
    pub subscription: Subscription,
    /// What works and may surprise, each with its field.
    pub warnings: Vec<String>,
}

/// Converts a declaration.
///
/// # Errors
/// `INVALID_REQUEST` with every field that breaks a rule, else `FEATURE_UNAVAILABLE` with those of a later release.
pub fn subscription_from_proto(
    name: &SubscriptionName,
    spec: v1::SubscriptionSpec,
    defaults: &DeclareDefaults<'_>,
) -> Result<Declared, Problem> {
    let later = later::fields(&spec);
    let mut reader = Reader { defaults, violations: Violations::default(), warnings: Vec::new() };
    let subscription = reader.read(name, spec);
    if !reader.violations.is_empty() {
        return Err(Problem::InvalidRequest(reader.violations.into_vec()));
    }
    if !later.is_empty() {
        return Err(Problem::FeatureUnavailable(later.join(", ")));
    }
    // Without violations every part was read.
    let subscription = subscription.ok_or_else(|| Problem::InvalidRequest(Vec::new()))?;
    Ok(Declared { subscription, warnings: reader.warnings })
}

/// Converts one binding, under the rules of a declaration.
///
/// # Errors
/// `INVALID_REQUEST` with every field that breaks a rule; `at` is the path of the binding.
pub fn binding_from_proto(binding: v1::Binding, at: &str, defaults: &DeclareDefaults<'_>) -> Result<Binding, Problem> {
    let mut reader = Reader { defaults, violations: Violations::default(), warnings: Vec::new() };
    let binding = reader.binding(binding, &at, defaults.exchange);
    if reader.violations.is_empty() { Ok(binding) } else { Err(Problem::InvalidRequest(reader.violations.into_vec())) }
}

struct Reader<'a> {
    defaults: &'a DeclareDefaults<'a>,
    violations: Violations,
    warnings: Vec<String>,
}

impl Reader<'_> {
    fn read(&mut self, name: &SubscriptionName, mut spec: v1::SubscriptionSpec) -> Option<Subscription> {
        let queue_name = if spec.queue.is_empty() { name.as_str().to_owned() } else { spec.queue.clone() };
        let queue_name = self.queue_name(&queue_name);
        let (bindings, unbind) = (std::mem::take(&mut spec.bindings), std::mem::take(&mut spec.unbind));
        let exchange = self.exchange(&spec.exchange);
        let bindings = self.bindings(bindings, "bindings", &exchange);
        let unbind = self.bindings(unbind, "unbind", &exchange);
        self.refuse_both(&bindings, &unbind);
        let delivery = self.delivery(&spec);
        let retry = self.retry(&spec.retry.unwrap_or_default());
        let keys = self.queue_keys(&mut spec);
        let (queue, findings) = keys.resolve(queue_name?);
        self.found(findings);
        let dead_letter = self.dead_letter(&spec.dead_letter.unwrap_or_default(), &queue, &bindings);
        Some(Subscription { name: name.clone(), queue, exchange, bindings, unbind, delivery, retry, dead_letter })
    }

    /// Notes what the rules of the domain say of the declaration.
    fn found(&mut self, findings: Vec<Finding>) {
        for Finding { weight, place, what, hint } in findings {
            let field = match place {
                Place::Key(key) => path(key),
                Place::Argument(name) => Key(&path("arguments"), &name).to_string(),
            };
            match (weight, hint.is_empty()) {
                (Weight::Problem, true) => self.violations.add(field, what),
                (Weight::Problem, false) => self.violations.add(field, format_args!("{what}: {hint}")),
                (Weight::Warning, _) => self.warnings.push(format!("{field}: {what}")),
            }
        }
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
        if self.defaults.dead_letter.queues().any(|letters| *letters == queue) {
            self.violations.add(path("queue"), "is a dead-letter queue or an archive, which handlers may not take");
        } else if queue.as_str().ends_with(OWN_LETTERS_SUFFIX) {
            // Other sidecars of the virtual host have theirs, which we do not know.
            self.violations
                .add(path("queue"), "ends like the dead-letter queue of another, which handlers may not take");
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

    /// The exchange of bindings that name none.
    fn exchange(&mut self, named: &str) -> ExchangeName {
        if named.is_empty() { self.defaults.exchange.clone() } else { self.binding_exchange(named, &path("exchange")) }
    }

    fn bindings(&mut self, bindings: Vec<v1::Binding>, list: &str, exchange: &ExchangeName) -> Vec<Binding> {
        let list = path(list);
        let bindings = bindings.into_iter().enumerate();
        bindings.map(|(index, binding)| self.binding(binding, &Index(&list, index), exchange)).collect()
    }

    fn binding(&mut self, binding: v1::Binding, at: &dyn Display, exchange: &ExchangeName) -> Binding {
        let exchange = if binding.exchange.is_empty() {
            exchange.clone()
        } else {
            self.binding_exchange(&binding.exchange, &Below(at, "exchange"))
        };
        self.violations.short(Below(at, "routing_key"), &binding.routing_key);
        let arguments = self.arguments(binding.arguments, &Below(at, "arguments"));
        if let Some(fault) = match_fault(&arguments) {
            self.violations.add(Below(at, "arguments"), fault);
        }
        Binding { exchange, routing_key: binding.routing_key, arguments }
    }

    /// What is in both lists would be taken away and made again at every start.
    fn refuse_both(&mut self, bindings: &[Binding], unbind: &[Binding]) {
        let list = path("unbind");
        for (index, _) in unbind.iter().enumerate().filter(|(_, binding)| bindings.contains(binding)) {
            self.violations.add(Index(&list, index), "is also in bindings: keep it in one of the two lists");
        }
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
            message_bytes_max: self.message_bytes(spec.max_message_bytes),
            max_handlers: self.count(spec.max_handlers, "max_handlers", defaults.max_handlers),
        };
        let named = settle_timeout.is_some() || max_lease.is_some();
        if named && settings.settle_timeout.saturating_add(LEASE_MARGIN) > settings.max_lease {
            let field = if max_lease.is_some() { "max_lease" } else { "settle_timeout" };
            self.violations.add(path(field), "max_lease must be at least settle_timeout + 1 min");
        }
        settings
    }

    fn message_bytes(&mut self, value: i32) -> u64 {
        if value == 0 {
            return self.defaults.delivery.message_bytes_max;
        }
        if value < MESSAGE_BYTES_MIN {
            let rule = format_args!("is {value}; 0 (not set) or at least {MESSAGE_BYTES_MIN} is allowed");
            self.violations.add(path("max_message_bytes"), rule);
        }
        u64::try_from(value).unwrap_or_default()
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
}

fn path(field: &str) -> String {
    format!("{PATH}.{field}")
}

#[cfg(test)]
mod tests;
