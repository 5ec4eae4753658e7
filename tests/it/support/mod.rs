//! What the black-box tests share: a sidecar in this process, a handler with raw frames, the real binary.

#![expect(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "helpers of tests")]

use std::time::Duration;

#[path = "../../support/deadly.rs"]
pub(crate) mod deadly;
pub(crate) mod errors;
#[path = "../../support/fail_points.rs"]
pub(crate) mod fail_points;
pub(crate) mod handler;
pub(crate) mod http;
#[path = "../../support/lives.rs"]
pub(crate) mod lives;
pub(crate) mod process;
#[path = "../../support/proxy.rs"]
pub(crate) mod proxy;
pub(crate) mod sidecar;
pub(crate) mod words;

/// Longer than anything here takes: a hang is a failure, not a wait.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);
/// Between two looks at something that tells no changes.
const LOOK_AGAIN: Duration = Duration::from_millis(5);

/// Waits for something that must happen.
pub(crate) async fn within<T>(what: &str, future: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, future).await.unwrap_or_else(|_| panic!("{what}: not within {PATIENCE:?}"))
}

/// Looks again and again until something holds that tells no changes.
pub(crate) async fn eventually<T>(what: &str, mut look: impl AsyncFnMut() -> Option<T>) -> T {
    let mut clock = tokio::time::interval(LOOK_AGAIN);
    let found = async {
        loop {
            clock.tick().await;
            if let Some(found) = look().await {
                return found;
            }
        }
    };
    within(what, found).await
}
