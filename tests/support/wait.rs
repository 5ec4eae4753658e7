//! Waiting for facts: by looking again until they are there or the deadline is over, never by sleeping so long.

use std::time::Duration;

use tokio::time::{Instant, MissedTickBehavior, interval};

/// No step of a test needs as long, on a busy machine either; a hang fails with it.
pub(crate) const PATIENCE: Duration = Duration::from_secs(40);
const LOOK_EVERY: Duration = Duration::from_millis(25);

/// Looks until there is an answer.
pub(crate) async fn until<T>(what: &str, look: impl AsyncFnMut() -> Option<T>) -> T {
    until_within(PATIENCE, what, look).await
}

/// The same with a deadline of its own.
pub(crate) async fn until_within<T>(limit: Duration, what: &str, mut look: impl AsyncFnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + limit;
    let mut ticks = interval(LOOK_EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        if let Some(answer) = look().await {
            return answer;
        }
        assert!(Instant::now() < deadline, "not within {limit:?}: {what}");
    }
}
