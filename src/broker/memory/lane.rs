//! A lane of the embedded broker. Knows the state's operations and none of its rules.

use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;

use futures_util::future::BoxFuture;
use tokio::sync::watch;
use tokio::task::coop;

use super::super::{Answers, Confirm, Lane, Publication};
use super::session::SessionGuard;
use super::state::{Admission, Link};

/// Batches that wait out an alarm, and no more.
const INCOMPLETE_MAX: usize = 2;

/// A confirm channel: closed by a lost confirm or by the end of its session.
pub(super) struct MemoryLane {
    session: Arc<SessionGuard>,
    link: watch::Receiver<Link>,
    out: VecDeque<Vec<Publication>>,
    in_doubt: bool,
}

impl MemoryLane {
    pub(super) fn new(session: Arc<SessionGuard>, link: watch::Receiver<Link>) -> Self {
        Self { session, link, out: VecDeque::new(), in_doubt: false }
    }

    fn offer(&self, batch: Vec<Publication>) -> Admission {
        let (mut state, now) = self.session.shared.now();
        state.publish(self.session.key, batch, now)
    }

    /// Waits out an alarm, then publishes the oldest batch. Dropped while it waits, nothing was sent.
    async fn admit(&mut self) -> Vec<Confirm> {
        coop::consume_budget().await;
        loop {
            let Some(batch) = self.out.pop_front() else { return Vec::new() };
            let count = batch.len();
            if self.in_doubt {
                return vec![Confirm::Lost; count];
            }
            // Marked as seen before the look at the state, so a change in between is not slept through.
            self.link.borrow_and_update();
            match self.offer(batch) {
                Admission::Done(confirms) => return confirms,
                Admission::SessionGone => return vec![Confirm::Lost; count],
                Admission::Blocked(waiting) => self.out.push_front(waiting),
            }
            if self.link.changed().await.is_err() {
                self.in_doubt = true;
            }
        }
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
    fn has_room(&self) -> bool {
        self.out.len() < INCOMPLETE_MAX
    }

    fn write(&mut self, batch: Vec<Publication>) -> BoxFuture<'_, ()> {
        self.out.push_back(batch);
        Box::pin(std::future::ready(()))
    }

    fn answers(&mut self) -> BoxFuture<'_, Answers> {
        Box::pin(async move {
            let confirms = self.admit().await;
            self.in_doubt |= confirms.contains(&Confirm::Lost);
            Answers::of(confirms)
        })
    }

    fn is_open(&self) -> bool {
        !self.in_doubt && !matches!(*self.link.borrow(), Link::Closed(_))
    }
}
