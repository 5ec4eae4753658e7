//! `limits.memory_budget`: whether the windows of all configured queues could hold more than there is room for.

use super::problem::{Fault, Problems};
use super::settings::Settings;
use super::value::write_size;
use super::values::Values;

/// Refuses settings whose sum of `prefetch_max` × `max_message_bytes` is above the budget. Subscriptions that handlers
/// bring are not known here and not counted.
pub(super) fn check(settings: &Settings, values: &Values, problems: &mut Problems) {
    let limits = values.section("limits");
    let Some(budget) = limits.optional::<u64>("memory_budget") else { return };
    let needs = settings.subscriptions.iter().map(|subscription| &subscription.delivery);
    let needs = needs.map(|delivery| delivery.message_bytes_max.saturating_mul(u64::from(delivery.prefetch_max)));
    let sum = needs.fold(0_u64, u64::saturating_add);
    if sum > budget {
        let fault = Fault::new(format!("the windows of all queues could hold {}", write_size(sum)));
        let hint = "lower prefetch_max, queues.<name>.max_message_bytes or grpc.max_message_bytes, or raise the budget";
        problems.push(limits.problem("memory_budget", fault.hint(hint)));
    }
}
