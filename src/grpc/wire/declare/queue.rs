//! The keys of a declared queue, each in its bounds; how they play together is the domain's business.

use std::time::Duration;

use super::{Reader, path};
use crate::domain::queue_keys::{Overflow, QueueKeys};
use crate::domain::queue_rules::{DELIVERY_LIMIT_MIN, TTL_MS_MAX};
use crate::domain::subscription::QueueType;
use crate::grpc::proto::sidebus::v1;

impl Reader<'_> {
    /// Takes the arguments out of the declaration.
    pub(super) fn queue_keys(&mut self, spec: &mut v1::SubscriptionSpec) -> QueueKeys {
        let arguments = std::mem::take(&mut spec.arguments);
        let limit_min = i64::from(DELIVERY_LIMIT_MIN);
        let int_max = i64::from(i32::MAX);
        QueueKeys {
            queue_type: match v1::QueueType::try_from(spec.queue_type) {
                Ok(v1::QueueType::Quorum) => Some(QueueType::Quorum),
                Ok(v1::QueueType::Classic) => Some(QueueType::Classic),
                // Streams and what is unknown are `later`'s business.
                Ok(v1::QueueType::Unspecified | v1::QueueType::Stream) | Err(_) => None,
            },
            durable: spec.durable,
            // False and unset are one on the wire.
            auto_delete: spec.auto_delete.then_some(true),
            exclusive: spec.exclusive.then_some(true),
            max_priority: self.bounded(spec.max_priority.into(), "max_priority", (1, 255)),
            message_ttl: self.message_ttl(spec.message_ttl.as_ref()),
            max_length: self.bounded(spec.max_length, "max_length", (1, i64::MAX)),
            max_length_bytes: self.bounded(spec.max_length_bytes, "max_length_bytes", (1, i64::MAX)),
            overflow: match v1::OverflowPolicy::try_from(spec.overflow) {
                Ok(v1::OverflowPolicy::RejectPublish) => Some(Overflow::RejectPublish),
                Ok(v1::OverflowPolicy::DropHead) => Some(Overflow::DropHead),
                Ok(v1::OverflowPolicy::Unspecified) | Err(_) => None,
            },
            delivery_limit: self.bounded(spec.delivery_limit.into(), "delivery_limit", (limit_min, int_max)),
            single_active_consumer: spec.single_active_consumer.then_some(true),
            arguments: self.arguments(arguments, &path("arguments")),
        }
    }

    /// 0 is not set.
    fn bounded<T: TryFrom<i64>>(&mut self, value: i64, field: &str, (min, max): (i64, i64)) -> Option<T> {
        if value == 0 {
            return None;
        }
        if !(min..=max).contains(&value) {
            let rule = format_args!("is {value}; 0 (not set) or {min} to {max} is allowed");
            self.violations.add(path(field), rule);
            return None;
        }
        T::try_from(value).ok()
    }

    fn message_ttl(&mut self, value: Option<&prost_types::Duration>) -> Option<Duration> {
        let ttl = self.duration(value, "message_ttl")?;
        if !(Duration::from_millis(1)..=Duration::from_millis(TTL_MS_MAX)).contains(&ttl) {
            self.violations.add(path("message_ttl"), "must be 1 ms to 3,650 days");
            return None;
        }
        Some(ttl)
    }
}
