//! Several lanes, and which of them a message takes.

use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::sync::atomic::{AtomicUsize, Ordering};

use super::LaneHandle;

/// See the module. At least one lane.
#[derive(Debug)]
pub(in crate::bridge) struct Lanes {
    all: Vec<LaneHandle>,
    next: AtomicUsize,
    /// Messages that a lane writes together.
    batch_max: usize,
}

impl Lanes {
    pub(in crate::bridge) fn new(all: Vec<LaneHandle>, batch_max: usize) -> Self {
        Self { all, next: AtomicUsize::new(0), batch_max }
    }

    /// The first lane with less than a batch to do, else the one with the least: few messages on many lanes are more channels
    /// to write to for the same work. One that waits for a stuck queue is left to those who are in it, as long as another moves.
    pub(in crate::bridge) fn idlest(&self) -> &LaneHandle {
        let moving = || self.all.iter().filter(|lane| !lane.is_stuck());
        let idle = moving().find(|lane| lane.load() < self.batch_max);
        let least = || moving().min_by_key(|lane| lane.load());
        idle.or_else(least).or_else(|| self.all.iter().min_by_key(|lane| lane.load())).unwrap_or(&self.all[0])
    }

    /// One after the other, and none that waited for a stuck queue lately as long as there is another.
    pub(in crate::bridge) fn next(&self) -> &LaneHandle {
        let first = self.next.fetch_add(1, Ordering::Relaxed) % self.all.len();
        let (before, from_it) = self.all.split_at(first);
        from_it
            .iter()
            .chain(before)
            .find(|lane| !lane.is_stuck() && !lane.was_stuck_lately())
            .unwrap_or(&self.all[first])
    }

    /// The same for each message of a key.
    pub(in crate::bridge) fn of_key(&self, key: &str) -> &LaneHandle {
        &self.all[place_of(key, self.all.len())]
    }
}

/// Which of so many lanes a key takes.
fn place_of(key: &str, lanes: usize) -> usize {
    let mut hasher = DefaultHasher::new();
    key.hash(&mut hasher);
    let lanes = u64::try_from(lanes).unwrap_or(u64::MAX).max(1);
    usize::try_from(hasher.finish() % lanes).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::place_of;

    #[test]
    fn a_key_has_one_lane_and_keys_use_all_of_them() {
        let places: Vec<usize> = (0..100).map(|key: i32| place_of(&key.to_string(), 4)).collect();
        assert_eq!(places, (0..100).map(|key: i32| place_of(&key.to_string(), 4)).collect::<Vec<_>>());
        assert_eq!(places.into_iter().collect::<BTreeSet<_>>(), BTreeSet::from([0, 1, 2, 3]));
    }
}
