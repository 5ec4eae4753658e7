//! Tasks with a kind, the phases of stopping, signals and the wall clock. The only room that spawns.
//!
//! Knows no other room.

use std::time::{SystemTime, UNIX_EPOCH};

mod phase;
mod signals;
mod tasks;

pub use phase::{Phase, PhaseWatch, Phases};
pub use signals::{Signals, Stop};
pub use tasks::{Failure, TaskKind, Tasks, until_panic};

/// Milliseconds since 1970 by the wall clock; 0 before that. For ids and for texts, never for measuring time.
pub fn unix_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
