//! How the keeper moves to a new session when secrets have changed: the new one serves before the old one closes. Knows no
//! backend and no secret.

use std::time::Duration;

use futures_util::StreamExt as _;
use tracing::{info, warn};

use super::keeper::Keeper;
use super::link::{LinkTell, Owned};
use crate::broker::{BrokerError, SessionEvent};
use crate::telemetry::metrics;

/// Time for what is in flight on a session that was replaced: publishes get their answers, handlers settle what they
/// hold. What is left then is handed out again by the broker.
const PARTING_MAX: Duration = Duration::from_secs(5);

impl Keeper {
    /// Waits until nobody uses a session that was replaced, or for as long as that may take, and closes it.
    pub(super) async fn part(&self, former: &mut Option<Owned>, tell: &LinkTell) {
        let Some(leaving) = former.as_ref() else { return };
        let mut events = leaving.session.events();
        let over = async {
            while let Some(event) = events.next().await {
                if let SessionEvent::Closed(_) = event {
                    break;
                }
            }
        };
        let is_empty = tokio::select! {
            () = leaving.unused() => true,
            () = tokio::time::sleep(PARTING_MAX) => false,
            () = over => false,
        };
        tell.change(|link| link.leaving = None);
        leaving.session.close(self.close_within).await;
        tell.change(|link| link.is_closing_former = false);
        // Its exclusive queues went with it, and whoever nobody consumes is made by nobody else.
        self.objects.look_at_everything();
        info!(session = %leaving.id, everything_settled = is_empty, "the session with the old secrets is closed");
        *former = None;
    }

    /// Waits until secrets have changed and there is a session that was opened with the new ones; the present one goes on
    /// meanwhile, whatever happens to the tries. Their number has no bound, as with those after a lost session.
    pub(super) async fn successor(&self, present: &Owned, number: &mut u64) -> Owned {
        let mut failures = 0_u32;
        let mut told: Option<BrokerError> = None;
        loop {
            // Asked before every try: once the old secrets are back there is nothing to try any more.
            let settings = present.session.outdated().await.join(", ");
            let error = match self.open(number, Some(present)).await {
                Ok(session) => {
                    metrics::secret_reload("ok");
                    info!(session = %session.id, %settings, "secrets have changed, moving to a new session");
                    return session;
                }
                Err(error) => error,
            };
            metrics::secret_reload("failed");
            failures = failures.saturating_add(1);
            if told.as_ref() != Some(&error) {
                warn!(
                    session = %present.id, %settings, %error, hint = error.hint(),
                    "secrets have changed and the broker cannot be used with the new ones; the session goes on with the old ones, trying again"
                );
            }
            let wait = self.wait(failures, &error);
            told = Some(error);
            tokio::time::sleep(wait).await;
        }
    }
}
