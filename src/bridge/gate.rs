//! The breaker of publishing, shared by the lanes of handlers: after an outage they begin with one publish at a time. Knows
//! no lane.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;
use tokio::time::Instant;

use crate::domain::breaker::{Breaker, Passage, Probe};

/// One lane's way to the breaker; clones share it.
#[derive(Debug, Clone)]
pub(super) struct Gate {
    shared: Arc<Shared>,
    moved: watch::Receiver<()>,
    /// The last answer was to wait, at most until then.
    held: Option<Instant>,
}

#[derive(Debug)]
struct Shared {
    breaker: Mutex<Breaker>,
    moves: watch::Sender<()>,
}

impl Default for Gate {
    fn default() -> Self {
        let moves = watch::Sender::new(());
        Self { moved: moves.subscribe(), shared: Arc::new(Shared { breaker: Mutex::default(), moves }), held: None }
    }
}

impl Gate {
    /// What may go out now; see [`Breaker::ask`].
    pub(super) fn ask(&mut self, outages: u64) -> Passage {
        // Marked as seen before the question, so a move in between is not slept through.
        self.moved.borrow_and_update();
        let passage = self.breaker().ask(outages, Instant::now().into_std());
        self.held = match passage {
            Passage::Wait(until) => Some(until.into()),
            Passage::Closed | Passage::Probe(_) => None,
        };
        passage
    }

    /// See [`Breaker::answered`].
    pub(super) fn answered(&self, probe: Probe, by_broker: bool) {
        let is_moved = self.breaker().answered(probe, by_broker);
        self.tell(is_moved);
    }

    /// See [`Breaker::withdraw`].
    pub(super) fn withdraw(&self, probe: Probe) {
        let is_moved = self.breaker().withdraw(probe);
        self.tell(is_moved);
    }

    /// True while the last answer was to wait.
    pub(super) fn is_held(&self) -> bool {
        self.held.is_some()
    }

    /// Waits until it is worth asking again. Cancel-safe.
    pub(super) async fn moved(&mut self) {
        let Some(until) = self.held else { return };
        // Its sender lives as long as this.
        let _ = tokio::time::timeout_at(until, self.moved.changed()).await;
        // To be asked again before it is waited for again: a moment that has passed would wake its lane without end.
        self.held = None;
    }

    fn tell(&self, is_moved: bool) {
        if is_moved {
            self.shared.moves.send_replace(());
        }
    }

    fn breaker(&self) -> MutexGuard<'_, Breaker> {
        self.shared.breaker.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
