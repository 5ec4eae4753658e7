//! The lane of one stream, and when it takes another.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, oneshot};
use tokio::time::{Instant, timeout};

use super::super::lane::LaneHandle;
use super::super::permits::Permits;
use crate::broker::{Confirm, Publication};

/// On a lane that moves a message has its answer much sooner, unless its own queue is silent.
const OWN_MAX: Duration = Duration::from_secs(1);

/// Whoever had a message without a confirm in time may have more of them.
const LATE_FOR: Duration = Duration::from_mins(1);

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
    /// When a message had no confirm in time: it is this stream that holds the lane up.
    late: Mutex<Option<Instant>>,
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
        let submitted = self.submitted.load(Ordering::Relaxed);
        while timeout(OWN_MAX, self.told.all(submitted)).await.is_err() {
            if !self.lane.is_stuck() {
                return self.told.be_late();
            }
        }
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
            if late > 0 {
                self.be_late();
            }
            // Behind the other: whoever sees these sees what they were.
            self.answers.fetch_add(count, Ordering::Release);
            self.more.notify_one();
        }
    }

    fn be_late(&self) {
        *self.late.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
    }

    fn is_late(&self) -> bool {
        let late = *self.late.lock().unwrap_or_else(PoisonError::into_inner);
        late.is_some_and(|late| late.elapsed() < LATE_FOR)
    }

    /// Waits for so many answers since the beginning. Cancel-safe.
    async fn all(&self, submitted: usize) {
        while self.answers.load(Ordering::Acquire) < submitted {
            self.more.notified().await;
        }
    }
}
