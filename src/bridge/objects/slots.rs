//! What is known of the delay slots, which nobody looks at but the copies that go there.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::time::Instant;

use super::PlanOf;
use crate::broker::SessionId;

/// A slot is bound anew no more often than this: whoever publishes meanwhile finds it unbound.
const BOUND_ANEW_EVERY: Duration = Duration::from_secs(10);

/// See the module. There are at most 81.
#[derive(Debug, Default)]
pub(in crate::bridge) struct Slots {
    /// The newest session in which each was looked at.
    known: BTreeMap<PlanOf, SessionId>,
    /// When each was last bound anew.
    bound_anew: BTreeMap<PlanOf, Instant>,
}

impl Slots {
    /// True if it was looked at in this session.
    pub(in crate::bridge) fn knows(&self, slot: &PlanOf, session: SessionId) -> bool {
        self.known.get(slot).is_some_and(|known| *known >= session)
    }

    /// It was looked at and is a slot, or cannot be looked at.
    pub(in crate::bridge) fn note(&mut self, slot: PlanOf, session: SessionId) {
        self.known.insert(slot, session);
    }

    /// True if it is to be bound anew now.
    pub(in crate::bridge) fn bind_anew(&mut self, slot: &PlanOf) -> bool {
        let now = Instant::now();
        let is_due = self.bound_anew.get(slot).is_none_or(|at| now.duration_since(*at) >= BOUND_ANEW_EVERY);
        if is_due {
            self.bound_anew.insert(slot.clone(), now);
        }
        is_due
    }
}
