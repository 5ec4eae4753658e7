//! The fields of a declaration that a later release brings. Knows no name and no bound.

use super::path;
use crate::grpc::proto::sidebus::v1;
use crate::grpc::wire::time;
use crate::grpc::wire::violations::Violations;

const MAX_BACKOFF_DEFAULT_SECONDS: u64 = 300;
const MULTIPLIER_DEFAULT: f64 = 2.0;
const JITTER_DEFAULT: f64 = 0.2;
const CRASH_LIMIT_DEFAULT: i32 = 5;

/// Paths of fields that are set to something which this release would have to ignore.
pub(super) fn fields(spec: &v1::SubscriptionSpec, violations: &mut Violations) -> Vec<String> {
    let kind = v1::SubscriptionKind::try_from(spec.kind);
    let queue_type = v1::QueueType::try_from(spec.queue_type);
    let overflow = v1::OverflowPolicy::try_from(spec.overflow);
    let ordering = v1::OrderingMode::try_from(spec.ordering_mode);
    let mut fields = vec![
        ("kind", !matches!(kind, Ok(v1::SubscriptionKind::Unspecified | v1::SubscriptionKind::Shared))),
        ("queue_type", matches!(queue_type, Ok(v1::QueueType::Stream) | Err(_))),
        ("overflow", overflow.is_err()),
        ("ordering_mode", !matches!(ordering, Ok(v1::OrderingMode::Unspecified | v1::OrderingMode::None))),
        ("partition_count", spec.partition_count != 0),
        ("max_message_bytes", spec.max_message_bytes != 0),
        ("unbind", !spec.unbind.is_empty()),
    ];
    if let Some(policy) = &spec.retry {
        fields.extend(retry_fields(policy, violations));
    }
    if let Some(policy) = &spec.dead_letter {
        let scope = v1::DeadLetterScope::try_from(policy.scope);
        let shared = matches!(scope, Ok(v1::DeadLetterScope::Unspecified | v1::DeadLetterScope::Shared));
        fields.extend([("dead_letter.enabled", policy.enabled == Some(false)), ("dead_letter.scope", !shared)]);
    }
    fields.into_iter().filter(|(_, later)| *later).map(|(field, _)| path(field)).collect()
}

/// This release retries after one constant delay (`min_backoff`); the shape of a growing one cannot be chosen yet.
fn retry_fields(policy: &v1::RetryPolicy, violations: &mut Violations) -> [(&'static str, bool); 5] {
    let backoff = v1::BackoffKind::try_from(policy.backoff);
    let max_backoff = policy.max_backoff.as_ref().map(time::duration_from_proto);
    if let Some(Err(rule)) = max_backoff {
        violations.add(path("retry.max_backoff"), rule);
    }
    let other_backoff =
        max_backoff.is_some_and(|found| found.is_ok_and(|found| found.as_secs() != MAX_BACKOFF_DEFAULT_SECONDS));
    let differs = |value: Option<f64>, default: f64| value.is_some_and(|value| value.total_cmp(&default).is_ne());
    [
        ("retry.backoff", matches!(backoff, Ok(v1::BackoffKind::Linear) | Err(_))),
        ("retry.max_backoff", other_backoff),
        ("retry.multiplier", differs(policy.multiplier, MULTIPLIER_DEFAULT)),
        ("retry.jitter", differs(policy.jitter, JITTER_DEFAULT)),
        ("retry.crash_limit", policy.crash_limit.is_some_and(|limit| limit != CRASH_LIMIT_DEFAULT)),
    ]
}
