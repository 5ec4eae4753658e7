//! The clocks of the model: which of a stream's deliveries is the oldest since when, and how long each may be that.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use super::super::tests::{LEASE, terms};
use super::super::{Clock, LEASE_MARGIN, StreamId};

/// As the model has them: by the number of the delivery, with its holder, its load and whether it is being settled.
type Held = BTreeMap<i64, (StreamId, u32, bool)>;

/// The oldest delivery of a stream.
#[derive(Debug, Clone, Copy)]
struct Oldest {
    id: i64,
    since: Instant,
    /// The same, or its last extension.
    began: Instant,
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Clocks {
    oldest: BTreeMap<StreamId, Oldest>,
    /// What extensions have set.
    extended: BTreeMap<i64, Duration>,
}

/// When its lease ends in any case.
pub(super) fn limit(arrived: Instant) -> Instant {
    arrived + LEASE.saturating_sub(LEASE_MARGIN)
}

impl Clocks {
    fn clock(&self, id: i64) -> Duration {
        self.extended.get(&id).copied().unwrap_or_else(|| terms().settle_timeout)
    }

    /// Something has happened: whichever is the oldest one now and was not before has become it now.
    pub(super) fn follow(&mut self, now: Instant, held: &Held) {
        let mut first: BTreeMap<StreamId, i64> = BTreeMap::new();
        for (id, (stream, ..)) in held.iter().filter(|(_, (.., settling))| !settling) {
            first.entry(*stream).or_insert(*id);
        }
        self.oldest.retain(|stream, oldest| first.get(stream) == Some(&oldest.id));
        for (stream, id) in first {
            self.oldest.entry(stream).or_insert(Oldest { id, since: now, began: now });
        }
    }

    pub(super) fn extend(&mut self, now: Instant, stream: StreamId, id: i64, timeout: Duration) {
        self.extended.insert(id, timeout.min(LEASE));
        if let Some(oldest) = self.oldest.get_mut(&stream).filter(|oldest| oldest.id == id) {
            oldest.began = now;
        }
    }

    /// What is due, and by which clock. One that is only now the oldest has its whole time yet.
    pub(super) fn due(&self, now: Instant, held: &Held, arrived: &[Instant]) -> BTreeMap<i64, Clock> {
        let mut due = BTreeMap::new();
        let mut ahead: BTreeMap<StreamId, bool> = BTreeMap::new();
        for (id, (stream, load, _)) in held.iter().filter(|(_, (.., settling))| !settling) {
            let stays_ahead = ahead.entry(*stream).or_default();
            let oldest = self.oldest[stream];
            let (since, began) = if oldest.id == *id { (oldest.since, oldest.began) } else { (now, now) };
            let clock = if !*stays_ahead && now >= began + self.clock(*id) {
                Clock::SettleTimeout
            } else if now < limit(arrived[*load as usize]) {
                *stays_ahead = true;
                continue;
            } else if !*stays_ahead && now >= since + terms().settle_timeout {
                Clock::LeaseUsedUp
            } else {
                Clock::LeaseLimit
            };
            due.insert(*id, clock);
        }
        due
    }

    /// When the next of what handlers hold is due.
    pub(super) fn next(&self, held: &Held, arrived: &[Instant]) -> Option<Instant> {
        let working = held.values().filter(|(.., settling)| !settling);
        let leases = working.map(|(_, load, _)| limit(arrived[*load as usize]));
        self.oldest.values().map(|oldest| oldest.began + self.clock(oldest.id)).chain(leases).min()
    }
}
