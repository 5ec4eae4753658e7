//! The lane of one stream, and when it takes another.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use tokio::sync::{Notify, oneshot};

use super::super::lane::LaneHandle;
use super::super::permits::Permits;
use crate::broker::{Confirm, Publication};

/// One at a time, so that the order of the stream holds.
#[derive(Debug)]
pub(in crate::bridge) struct StreamLane {
    lane: LaneHandle,
    /// Messages that lanes have taken.
    submitted: AtomicUsize,
    told: Arc<Told>,
}

/// What has come out, for those who put in.
#[derive(Debug, Default)]
pub(in crate::bridge) struct Told {
    /// Answers of lanes.
    answers: AtomicUsize,
    /// The last ones had a message without a confirm in time: it is this stream that holds the lane up.
    is_late: AtomicBool,
    more: Notify,
}

impl StreamLane {
    pub(in crate::bridge) fn new(lane: LaneHandle) -> Self {
        Self { lane, submitted: AtomicUsize::new(0), told: Arc::default() }
    }

    /// What must hear of every answer.
    pub(in crate::bridge) fn told(&self) -> Arc<Told> {
        Arc::clone(&self.told)
    }

    /// See [`LaneHandle::submit`].
    pub(in crate::bridge) async fn submit(
        &self,
        publication: Publication,
        permits: Option<Arc<Permits>>,
    ) -> oneshot::Receiver<Confirm> {
        let answer = self.lane.submit(publication, permits, None).await;
        self.submitted.fetch_add(1, Ordering::Relaxed);
        answer
    }

    /// Where others hold the lane up: takes the next one, once all that was submitted is answered, so that the order holds.
    /// Cancel-safe.
    pub(in crate::bridge) async fn leave_if_held_up(&mut self, next: impl Fn() -> LaneHandle) {
        let may_leave = |told: &Told, other: &LaneHandle| !told.is_late() && !other.was_stuck_lately();
        if !self.lane.was_stuck_lately() || !may_leave(&self.told, &next()) {
            return;
        }
        self.told.all(self.submitted.load(Ordering::Relaxed)).await;
        let other = next();
        // Much may have become known meanwhile.
        if may_leave(&self.told, &other) {
            self.lane = other;
        }
    }
}

impl Told {
    pub(in crate::bridge) fn hear<'a>(&self, confirms: impl Iterator<Item = &'a Confirm>) {
        let (count, late) = confirms
            .fold((0, 0), |(count, late), confirm| (count + 1, late + usize::from(*confirm == Confirm::TimedOut)));
        if count > 0 {
            self.is_late.store(late > 0, Ordering::Relaxed);
            // Behind the other: whoever sees these sees what they were.
            self.answers.fetch_add(count, Ordering::Release);
            self.more.notify_one();
        }
    }

    fn is_late(&self) -> bool {
        self.is_late.load(Ordering::Relaxed)
    }

    /// Waits for so many answers since the beginning. Cancel-safe.
    async fn all(&self, submitted: usize) {
        while self.answers.load(Ordering::Acquire) < submitted {
            self.more.notified().await;
        }
    }
}
