//! One handler's part of the ledger: its window, what it works on, and what it has ended lately.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::time::{Duration, Instant};

use super::{Answer, DeliveryId, Outcome, Size, Suspicion};
use crate::domain::pace::Pace;
use crate::domain::verdict::VerdictKind;
use crate::domain::window::Window;

/// Ended deliveries that are remembered for each stream, so that a repeated frame is answered and not unknown.
const REMEMBERED_MAX: usize = 10_000;

/// A stream that works on one delivery for so long is not waited for by suspects, where others move.
const STUCK: Duration = Duration::from_secs(5);

/// The terms of one stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Terms {
    /// Clock of its oldest unsettled delivery.
    pub settle_timeout: Duration,
    /// Largest encoded frame that the handler can receive, in bytes.
    pub frame_bytes_max: u64,
}

/// How a delivery ended for the stream that held it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ending {
    Settled(VerdictKind, Outcome),
    Expired,
    Lost,
}

/// The oldest unsettled delivery of a stream.
#[derive(Debug, Clone, Copy)]
struct Oldest {
    /// When it became that.
    since: Instant,
    /// The same, or its last extension.
    clock_began: Instant,
}

#[derive(Debug)]
pub(super) struct Stream {
    pub(super) window: Window,
    pub(super) terms: Terms,
    pub(super) leaving: bool,
    pub(super) pace: Pace,
    /// Half of the longest lease bounds what a slow handler may hold.
    lease_max: Duration,
    /// At the handler, without verdict. Ids rise, so the first is the oldest.
    pub(super) working: BTreeMap<DeliveryId, Suspicion>,
    /// Taken from the handler without its word, which may still work on them.
    pub(super) adrift: BTreeSet<DeliveryId>,
    /// Suspects among `working`, and those of them that must be alone.
    suspects: usize,
    charged: usize,
    /// Of the first of `working`.
    oldest: Option<Oldest>,
    /// Nothing of `working` has arrived before this. Not the first: what is taken back and handed out again is numbered anew.
    pub(super) earliest: Option<Instant>,
    endings: HashMap<DeliveryId, Ending>,
    endings_in_order: VecDeque<DeliveryId>,
}

impl Stream {
    pub(super) fn new(window: Window, terms: Terms, lease_max: Duration) -> Self {
        Self {
            window,
            terms,
            leaving: false,
            pace: Pace::default(),
            lease_max,
            working: BTreeMap::new(),
            adrift: BTreeSet::new(),
            suspects: 0,
            charged: 0,
            oldest: None,
            earliest: None,
            endings: HashMap::new(),
            endings_in_order: VecDeque::new(),
        }
    }

    pub(super) fn has_room(&self) -> bool {
        !self.leaving && self.is_in_pace() && self.window.accepts(0)
    }

    pub(super) fn takes(&self, size: Size) -> bool {
        self.has_room() && size.encoded <= self.terms.frame_bytes_max && self.window.accepts(size.body)
    }

    /// True if it works on suspects: nothing else may join them.
    pub(super) fn is_apart(&self) -> bool {
        self.suspects > 0
    }

    /// True if this suspect may join what it works on.
    pub(super) fn takes_suspect(&self, suspicion: Suspicion, group: usize) -> bool {
        let held = self.working.len();
        held == 0 || (suspicion == Suspicion::Suspect && self.charged == 0 && self.suspects == held && held < group)
    }

    /// True if its oldest delivery has been that for long: who waits for it to be empty would wait.
    pub(super) fn is_stuck(&self, now: Instant) -> bool {
        self.is_stuck_at().is_some_and(|at| now >= at)
    }

    /// When it will have been that for long.
    pub(super) fn is_stuck_at(&self) -> Option<Instant> {
        self.oldest.map(|oldest| oldest.since + STUCK)
    }

    /// True if it could ever receive this, whatever it holds now.
    pub(super) fn is_for(&self, size: Size) -> bool {
        !self.leaving && !self.window.is_paused() && size.encoded <= self.terms.frame_bytes_max
    }

    /// True if it lacks nothing but room in bytes, which settling makes.
    pub(super) fn could_take(&self, size: Size) -> bool {
        self.has_room() && !self.window.is_paused() && size.encoded <= self.terms.frame_bytes_max
    }

    fn is_in_pace(&self) -> bool {
        self.window.messages() < self.in_pace()
    }

    /// Messages that a handler of this pace may have.
    pub(super) fn in_pace(&self) -> u32 {
        self.pace.window_max(self.lease_max)
    }

    /// True for the oldest one if it has been that for a whole settle timeout: only extensions have kept it.
    pub(super) fn has_had_its_time(&self, now: Instant, id: DeliveryId) -> bool {
        self.is_oldest(id) && self.oldest.is_some_and(|oldest| now >= oldest.since + self.terms.settle_timeout)
    }

    /// When the clock of the oldest began, or was set anew.
    pub(super) fn clock_began(&self) -> Option<Instant> {
        self.oldest.map(|oldest| oldest.clock_began)
    }

    pub(super) fn is_oldest(&self, id: DeliveryId) -> bool {
        self.working.first_key_value().is_some_and(|(first, _)| *first == id)
    }

    pub(super) fn begin(&mut self, now: Instant, id: DeliveryId, (arrived, suspicion): (Instant, Suspicion)) {
        self.earliest = Some(self.earliest.map_or(arrived, |earliest| earliest.min(arrived)));
        if self.working.is_empty() {
            self.pace.begin(now);
        }
        self.working.insert(id, suspicion);
        self.suspects += usize::from(suspicion != Suspicion::None);
        self.charged += usize::from(suspicion == Suspicion::Charged);
        self.oldest.get_or_insert(Oldest { since: now, clock_began: now });
    }

    /// The delivery is no longer at the handler; the next oldest one's clock begins.
    pub(super) fn end(&mut self, now: Instant, id: DeliveryId) {
        let was_oldest = self.is_oldest(id);
        if let Some(suspicion) = self.working.remove(&id) {
            self.suspects -= usize::from(suspicion != Suspicion::None);
            self.charged -= usize::from(suspicion == Suspicion::Charged);
        }
        if was_oldest {
            self.oldest = (!self.working.is_empty()).then_some(Oldest { since: now, clock_began: now });
            self.earliest = self.earliest.filter(|_| self.oldest.is_some());
        }
    }

    pub(super) fn restart_clock(&mut self, now: Instant, id: DeliveryId) {
        if self.is_oldest(id)
            && let Some(oldest) = &mut self.oldest
        {
            oldest.clock_began = now;
        }
    }

    pub(super) fn remember(&mut self, id: DeliveryId, ending: Ending) {
        if self.endings.insert(id, ending).is_none() {
            self.endings_in_order.push_back(id);
        }
        while self.endings_in_order.len() > REMEMBERED_MAX {
            if let Some(oldest) = self.endings_in_order.pop_front() {
                self.endings.remove(&oldest);
                self.adrift.remove(&oldest);
            }
        }
    }

    /// The answer to a verdict on a delivery that is no longer open.
    pub(super) fn remembered<L>(&mut self, id: DeliveryId, kind: VerdictKind) -> Answer<L> {
        self.adrift.remove(&id);
        match self.endings.get(&id) {
            Some(Ending::Settled(first, outcome)) if *first == kind => Answer::Result(*outcome),
            Some(Ending::Settled(_, outcome)) => Answer::Already(Some(*outcome)),
            Some(Ending::Expired) => Answer::Result(Outcome::LeaseExpired),
            Some(Ending::Lost) => Answer::Result(Outcome::LeaseLost),
            None => Answer::Result(Outcome::UnknownDelivery),
        }
    }

    /// The answer to an extension of a delivery that is no longer open.
    pub(super) fn remembered_end(&self, id: DeliveryId) -> Outcome {
        match self.endings.get(&id) {
            Some(Ending::Settled(..)) => Outcome::AlreadySettled,
            Some(Ending::Expired) => Outcome::LeaseExpired,
            Some(Ending::Lost) => Outcome::LeaseLost,
            None => Outcome::UnknownDelivery,
        }
    }
}
