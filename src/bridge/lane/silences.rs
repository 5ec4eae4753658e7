//! What lanes tell each other of destinations that confirm nothing.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::time::Instant;

use crate::domain::silence::{Destination, Silence};

/// See the module. Takes no lock as long as every message is confirmed soon.
#[derive(Debug, Default)]
pub(in crate::bridge) struct Silences {
    any: AtomicBool,
    known: Mutex<Silence>,
}

impl Silences {
    /// A message that went there was not confirmed for long.
    pub(super) fn note(&self, destination: Destination) {
        let mut known = self.known();
        known.note(destination, Instant::now().into_std());
        self.any.store(true, Ordering::Relaxed);
    }

    /// One that went there was stored.
    pub(super) fn forget(&self, destination: Destination) {
        if !self.any.load(Ordering::Relaxed) {
            return;
        }
        let mut known = self.known();
        let now = Instant::now().into_std();
        known.forget(destination, now);
        self.any.store(!known.expire(now), Ordering::Relaxed);
    }

    /// True if one of these is silent.
    pub(in crate::bridge) fn has_any(&self, mut destinations: impl Iterator<Item = Destination>) -> bool {
        if !self.any.load(Ordering::Relaxed) {
            return false;
        }
        let (mut known, now) = (self.known(), Instant::now().into_std());
        self.any.store(!known.expire(now), Ordering::Relaxed);
        destinations.any(|destination| known.has(destination, now))
    }

    fn known(&self) -> MutexGuard<'_, Silence> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
