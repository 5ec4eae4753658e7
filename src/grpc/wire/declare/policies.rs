//! Retry and dead-letter policy of a declaration. Knows no broker.

use std::time::Duration;

use super::{Reader, path};
use crate::domain::dead_letter::{self, Bounds, DeadLetterKeys, OWN_LETTERS_SUFFIX};
use crate::domain::message::{Headers, Value};
use crate::domain::name::{ExchangeName, QueueName};
use crate::domain::subscription::{
    Binding, DeadLetterScope, DeadLetterSettings, QueueSettings, RetryBackoff, RetrySettings,
};
use crate::grpc::proto::sidebus::v1;
use crate::grpc::wire::violations::Key;

/// Bounds of `[retry]` in the settings, which are those of a declaration too.
const BACKOFF_MIN: Duration = Duration::from_millis(100);
const BACKOFF_MAX: Duration = Duration::from_hours(24);
const MULTIPLIER_MAX: f64 = 100.0;
const COUNT_MAX: u32 = 1_000_000;

impl Reader<'_> {
    pub(super) fn retry(&mut self, policy: &v1::RetryPolicy) -> RetrySettings {
        let defaults = self.defaults.retry;
        let max_attempts = self.at_least_one(policy.max_attempts, "retry.max_attempts", defaults.max_attempts);
        let crash_limit = self.at_least_one(policy.crash_limit, "retry.crash_limit", defaults.crash_limit);
        let min_backoff = self.backoff(policy.min_backoff.as_ref(), "retry.min_backoff");
        let max_backoff = self.backoff(policy.max_backoff.as_ref(), "retry.max_backoff");
        let settings = RetrySettings {
            max_attempts,
            backoff: match v1::BackoffKind::try_from(policy.backoff) {
                Ok(v1::BackoffKind::Exponential) => RetryBackoff::Exponential,
                Ok(v1::BackoffKind::Linear) => RetryBackoff::Linear,
                Ok(v1::BackoffKind::Constant) => RetryBackoff::Constant,
                // What is unknown is `later`'s business.
                Ok(v1::BackoffKind::Unspecified) | Err(_) => defaults.backoff,
            },
            min_backoff: min_backoff.unwrap_or(defaults.min_backoff),
            max_backoff: max_backoff.unwrap_or(defaults.max_backoff),
            multiplier: self.number(policy.multiplier, "retry.multiplier", (1.0, MULTIPLIER_MAX, defaults.multiplier)),
            jitter: self.number(policy.jitter, "retry.jitter", (0.0, 1.0, defaults.jitter)),
            crash_limit,
            // Settings only.
            max_per_second: defaults.max_per_second,
            kill_switch: defaults.kill_switch,
        };
        if (min_backoff.is_some() || max_backoff.is_some()) && settings.min_backoff > settings.max_backoff {
            let field = if min_backoff.is_some() { "retry.min_backoff" } else { "retry.max_backoff" };
            let (min, max) = (settings.min_backoff, settings.max_backoff);
            self.violations.add(path(field), format_args!("min_backoff is {min:?} and above max_backoff, {max:?}"));
        }
        settings
    }

    fn at_least_one(&mut self, value: Option<i32>, field: &str, default: u32) -> u32 {
        let Some(count) = value else { return default };
        u32::try_from(count).ok().filter(|count| (1..=COUNT_MAX).contains(count)).unwrap_or_else(|| {
            self.violations.add(path(field), format_args!("is {count}; 1 to {COUNT_MAX} is allowed"));
            default
        })
    }

    fn backoff(&mut self, value: Option<&prost_types::Duration>, field: &str) -> Option<Duration> {
        let found = self.duration(value, field)?;
        if !(BACKOFF_MIN..=BACKOFF_MAX).contains(&found) {
            self.violations.add(path(field), "must be 100 ms to 24 h");
        }
        Some(found)
    }

    fn number(&mut self, value: Option<f64>, field: &str, (min, max, default): (f64, f64, f64)) -> f64 {
        let Some(value) = value else { return default };
        if !(min..=max).contains(&value) {
            self.violations.add(path(field), format_args!("is {value}; {min} to {max} is allowed"));
        }
        value
    }

    /// The dead letters of the queue. Handlers name neither the letters nor the queues of others.
    pub(super) fn dead_letter(
        &mut self,
        policy: &v1::DeadLetterPolicy,
        queue: &QueueSettings,
        bindings: &[Binding],
    ) -> DeadLetterSettings {
        let keys = DeadLetterKeys {
            is_enabled: policy.enabled,
            exchange: self.dead_letter_exchange(policy, &queue.arguments),
            queue: self.dead_letter_queue(&policy.queue, &queue.name),
            scope: match v1::DeadLetterScope::try_from(policy.scope) {
                Ok(v1::DeadLetterScope::Shared) => Some(DeadLetterScope::Shared),
                Ok(v1::DeadLetterScope::PerQueue) => Some(DeadLetterScope::PerQueue),
                Ok(v1::DeadLetterScope::Unspecified) | Err(_) => None,
            },
            bounds: Bounds::default(),
        };
        let (settings, mut findings) = dead_letter::of_queue(keys, self.defaults.dead_letter, &queue.name);
        findings.extend(settings.listening(bindings));
        self.found(findings);
        let is_common = self.defaults.dead_letter.queues().any(|letters| *letters == queue.name);
        if !is_common && settings.queues().any(|letters| *letters == queue.name) {
            self.violations.add(path("queue"), "is its own dead-letter queue: failures would turn in a circle");
        }
        settings
    }

    /// The queue argument `x-dead-letter-exchange`, which users write today, stands in for an unnamed exchange.
    fn dead_letter_exchange(&mut self, policy: &v1::DeadLetterPolicy, arguments: &Headers) -> Option<ExchangeName> {
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
        let text = Some(policy.exchange.as_str()).filter(|text| !text.is_empty()).or(argument_text)?;
        let field = path("dead_letter.exchange");
        self.refuse_ours(&field, text);
        if text == self.defaults.exchange.as_str() {
            self.violations.add(&field, "is the exchange of events; dead letters need a fanout of their own");
        }
        ExchangeName::parse(text).map_err(|error| self.violations.add(field, error)).ok()
    }

    fn dead_letter_queue(&mut self, text: &str, work: &QueueName) -> Option<QueueName> {
        if text.is_empty() {
            return None;
        }
        let field = path("dead_letter.queue");
        self.refuse_ours(&field, text);
        let queue = QueueName::parse(text).map_err(|error| self.violations.add(&field, error)).ok()?;
        let common = self.defaults.dead_letter;
        let is_own = text.strip_suffix(OWN_LETTERS_SUFFIX).is_none_or(|of| of == work.as_str());
        if queue != common.queue && queue != *common.letters() {
            if common.queues().any(|letters| *letters == queue) {
                self.violations.add(&field, "is the archive, which handlers may not take");
            } else if !is_own {
                self.violations.add(&field, "ends like the dead-letter queue of another, which handlers may not take");
            }
        }
        Some(queue)
    }
}
