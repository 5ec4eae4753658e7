//! The fields of a declaration that a later release brings. Knows no name and no bound.

use super::path;
use crate::grpc::proto::sidebus::v1;

/// Paths of fields that are set to something which this release would have to ignore.
pub(super) fn fields(spec: &v1::SubscriptionSpec) -> Vec<String> {
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
    ];
    if let Some(policy) = &spec.retry {
        fields.push(("retry.backoff", v1::BackoffKind::try_from(policy.backoff).is_err()));
    }
    if let Some(policy) = &spec.dead_letter {
        fields.push(("dead_letter.scope", v1::DeadLetterScope::try_from(policy.scope).is_err()));
    }
    fields.into_iter().filter(|(_, later)| *later).map(|(field, _)| path(field)).collect()
}
