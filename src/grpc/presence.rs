//! How many handlers are connected, and whether the last one has left by its own will. Knows no subscription.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::sync::watch;

/// A program that leaves one subscription and joins the next is not idle in between.
const IDLE_AFTER: Duration = Duration::from_secs(1);

/// See the module. Clones count together.
#[derive(Debug, Clone, Default)]
pub(super) struct Presence(watch::Sender<State>);

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct State {
    open: usize,
    /// The last one that went has said so; one that crashed may come again.
    last_left: bool,
}

/// A handler's place, from its joining until this value goes. Both directions of its stream hold it: the word that it
/// leaves may be read after the sending side has gone.
#[derive(Debug)]
pub(super) struct Seat {
    presence: Presence,
    has_left: AtomicBool,
}

impl Presence {
    /// One handler more.
    pub(super) fn enter(&self) -> Seat {
        self.0.send_modify(|state| state.open += 1);
        Seat { presence: self.clone(), has_left: AtomicBool::new(false) }
    }

    /// Ends when the last handler has left and nobody has come for a second. Cancel-safe.
    pub(super) async fn idle(self) {
        let is_idle = |state: &State| state.open == 0 && state.last_left;
        let mut changes = self.0.subscribe();
        loop {
            // This value holds a sender, so the wait cannot fail.
            if changes.wait_for(is_idle).await.is_err() {
                return std::future::pending().await;
            }
            let came_back = changes.wait_for(|state| !is_idle(state));
            if tokio::time::timeout(IDLE_AFTER, came_back).await.is_err() {
                return;
            }
        }
    }
}

impl Seat {
    /// The handler says that it leaves.
    pub(super) fn leave(&self) {
        self.has_left.store(true, Ordering::Relaxed);
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let last_left = self.has_left.load(Ordering::Relaxed);
        self.presence.0.send_modify(|state| *state = State { open: state.open - 1, last_left });
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;

    use tokio::time::timeout;

    use super::*;

    async fn is_idle(presence: &Presence) -> bool {
        timeout(IDLE_AFTER * 3, pin!(presence.clone().idle())).await.is_ok()
    }

    #[tokio::test(start_paused = true)]
    async fn idle_is_when_the_last_one_has_left() {
        let presence = Presence::default();
        assert!(!is_idle(&presence).await, "nobody has come yet");
        let (first, second) = (presence.enter(), presence.enter());
        for seat in [first, second] {
            assert!(!is_idle(&presence).await);
            seat.leave();
        }
        assert!(is_idle(&presence).await);
    }

    #[tokio::test(start_paused = true)]
    async fn one_that_crashed_may_come_again() {
        let presence = Presence::default();
        drop(presence.enter());
        assert!(!is_idle(&presence).await);
        let again = presence.enter();
        again.leave();
        drop(again);
        assert!(is_idle(&presence).await);
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_comes_within_a_second_keeps_it_busy() {
        let presence = Presence::default();
        let first = presence.enter();
        first.leave();
        drop(first);
        let waiting = presence.clone().idle();
        tokio::pin!(waiting);
        assert!(timeout(IDLE_AFTER / 2, &mut waiting).await.is_err());
        let _second = presence.enter();
        assert!(timeout(IDLE_AFTER * 3, waiting).await.is_err());
    }
}
