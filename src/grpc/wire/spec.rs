//! A subscription as it runs, as the specification that would bring it: defaults filled in. Knows no stream.

use super::{header, time};
use crate::domain::message::{Headers, Value};
use crate::domain::subscription::{
    Binding, DeadLetterScope, DeadLetterSettings, QueueType, RetryBackoff, RetrySettings, Subscription,
};
use crate::domain::topology;
use crate::grpc::proto::sidebus::v1;

/// A binding with its exchange.
pub fn binding_to_proto(binding: &Binding) -> v1::Binding {
    v1::Binding {
        exchange: binding.exchange.as_str().to_owned(),
        routing_key: binding.routing_key.clone(),
        arguments: arguments_to_proto(&binding.arguments),
    }
}

/// The specification of a running subscription; `bindings` are those of the moment.
pub fn spec_to_proto(subscription: &Subscription, bindings: &[Binding]) -> v1::SubscriptionSpec {
    let (queue, delivery) = (&subscription.queue, &subscription.delivery);
    let queue_type = match topology::queue_type(queue) {
        QueueType::Quorum => v1::QueueType::Quorum,
        QueueType::Classic => v1::QueueType::Classic,
    };
    v1::SubscriptionSpec {
        kind: v1::SubscriptionKind::Shared.into(),
        queue: queue.name.as_str().to_owned(),
        bindings: bindings.iter().map(binding_to_proto).collect(),
        unbind: subscription.unbind.iter().map(binding_to_proto).collect(),
        queue_type: queue_type.into(),
        durable: Some(queue.is_durable()),
        auto_delete: queue.is_auto_delete(),
        exclusive: queue.is_exclusive(),
        // Typed keys are shown as the arguments that they stand for: one place for each fact.
        arguments: arguments_to_proto(&queue.arguments),
        prefetch_count: delivery.prefetch_count.into(),
        prefetch_max: delivery.prefetch_max.into(),
        settle_timeout: Some(time::duration_to_proto(delivery.settle_timeout)),
        max_lease: Some(time::duration_to_proto(delivery.max_lease)),
        max_handlers: delivery.max_handlers.into(),
        max_message_bytes: i32::try_from(delivery.message_bytes_max).unwrap_or(i32::MAX),
        retry: Some(retry_to_proto(&subscription.retry)),
        dead_letter: Some(dead_letter_to_proto(&subscription.dead_letter)),
        ordering_mode: v1::OrderingMode::None.into(),
        ..v1::SubscriptionSpec::default()
    }
}

fn retry_to_proto(retry: &RetrySettings) -> v1::RetryPolicy {
    let backoff = match retry.backoff {
        RetryBackoff::Exponential => v1::BackoffKind::Exponential,
        RetryBackoff::Linear => v1::BackoffKind::Linear,
        RetryBackoff::Constant => v1::BackoffKind::Constant,
    };
    v1::RetryPolicy {
        max_attempts: Some(i32::try_from(retry.max_attempts).unwrap_or(i32::MAX)),
        min_backoff: Some(time::duration_to_proto(retry.min_backoff)),
        max_backoff: Some(time::duration_to_proto(retry.max_backoff)),
        multiplier: Some(retry.multiplier),
        jitter: Some(retry.jitter),
        backoff: backoff.into(),
        crash_limit: Some(i32::try_from(retry.crash_limit).unwrap_or(i32::MAX)),
    }
}

fn dead_letter_to_proto(target: &DeadLetterSettings) -> v1::DeadLetterPolicy {
    let scope = match target.scope {
        DeadLetterScope::Shared => v1::DeadLetterScope::Shared,
        DeadLetterScope::PerQueue => v1::DeadLetterScope::PerQueue,
    };
    v1::DeadLetterPolicy {
        enabled: Some(target.is_enabled),
        scope: scope.into(),
        exchange: target.exchange.as_str().to_owned(),
        queue: target.letters().as_str().to_owned(),
    }
}

fn arguments_to_proto(arguments: &Headers) -> std::collections::BTreeMap<String, v1::HeaderValue> {
    let everything = |_: &str, _: &Value| true;
    header::entries_to_proto(arguments, everything).0
}
