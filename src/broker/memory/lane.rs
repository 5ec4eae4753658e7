//! A lane of the embedded broker. Knows the state's operations and none of its rules.

use std::fmt;
use std::sync::Arc;

use futures_util::future::BoxFuture;
use tokio::sync::watch;
use tokio::task::coop;

use super::super::{Confirm, Lane, Publication};
use super::session::SessionGuard;
use super::state::{Admission, Link};

/// A confirm channel: closed by a lost confirm or by the end of its session.
pub(super) struct MemoryLane {
    session: Arc<SessionGuard>,
    link: watch::Receiver<Link>,
    in_doubt: bool,
}

impl MemoryLane {
    pub(super) fn new(session: Arc<SessionGuard>, link: watch::Receiver<Link>) -> Self {
        Self { session, link, in_doubt: false }
    }

    fn offer(&self, batch: Vec<Publication>) -> Admission {
        let (mut state, now) = self.session.shared.now();
        state.publish(self.session.key, batch, now)
    }

    /// Waits out an alarm, then publishes. Dropped while it waits, nothing was sent.
    async fn admit(&mut self, mut batch: Vec<Publication>) -> Vec<Confirm> {
        coop::consume_budget().await;
        let count = batch.len();
        loop {
            // Marked as seen before the look at the state, so a change in between is not slept through.
            self.link.borrow_and_update();
            match self.offer(batch) {
                Admission::Done(confirms) => return confirms,
                Admission::SessionGone => break,
                Admission::Blocked(waiting) => batch = waiting,
            }
            if self.link.changed().await.is_err() {
                break;
            }
        }
        vec![Confirm::Lost; count]
    }
}

impl fmt::Debug for MemoryLane {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemoryLane")
            .field("session", &self.session.id)
            .field("in_doubt", &self.in_doubt)
            .finish_non_exhaustive()
    }
}

impl Lane for MemoryLane {
    fn publish(&mut self, batch: Vec<Publication>) -> BoxFuture<'_, Vec<Confirm>> {
        Box::pin(async move {
            if self.in_doubt {
                return vec![Confirm::Lost; batch.len()];
            }
            let confirms = self.admit(batch).await;
            self.in_doubt = confirms.contains(&Confirm::Lost);
            confirms
        })
    }

    fn is_open(&self) -> bool {
        !self.in_doubt && !matches!(*self.link.borrow(), Link::Closed(_))
    }
}
