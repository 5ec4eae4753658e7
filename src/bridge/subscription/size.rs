//! What a delivery weighs in the frame that hands it out.

use crate::domain::ledger::Size;
use crate::domain::message::frame_bytes_bound;
use crate::domain::record::Seen;

/// More than the tags, numbers and times of one part of a frame take.
const FIELDS_BYTES: usize = 128;

pub(super) fn size_of(seen: &Seen) -> Size {
    let bytes = |count: usize| u64::try_from(count).unwrap_or(u64::MAX);
    let encoded = bytes(frame_bytes_bound(&seen.message)).saturating_add(record_bytes(seen));
    Size { body: bytes(seen.message.body.len()), encoded }
}

/// What a frame carries beside the message: its origin, its first and its last failure.
pub(super) fn record_bytes(seen: &Seen) -> u64 {
    let Some(first) = &seen.record.origin else { return 0 };
    let origin = first.origin.exchange.as_str().len() + first.origin.routing_key.len() + first.origin.queue.len();
    let failures = seen.record.history.first().into_iter().chain(seen.record.history.last());
    let failures = failures.map(|one| one.reason.len() + one.description.len() + one.handler.len() + FIELDS_BYTES);
    u64::try_from(origin + FIELDS_BYTES + failures.sum::<usize>()).unwrap_or(u64::MAX)
}
