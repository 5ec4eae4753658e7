//! Who gets what of what waits: suspects first and apart, then everything else by free windows.
//!
//! A suspect may take its handler down. It is handed out alone, so that a crash names the culprit; after each one that a
//! handler settles the group that goes together doubles, so that a herd of innocents costs a moment and not a throughput.
//! What has taken a handler down while it was alone always goes alone.

use std::collections::{BTreeSet, VecDeque};
use std::time::{Duration, Instant};

use super::stream::Stream;
use super::{DeliveryId, Ledger, Open, Size, State, StreamId, Suspicion, Waiting};

/// Suspects wait so long for a stream that works on something long to be done with it, before it gets nothing more.
const SUSPECTS_PATIENCE: Duration = Duration::from_mins(1);

impl<L> Ledger<L> {
    /// Hands out what waits, oldest first, each to the stream with the largest free share of its window.
    pub fn dispatch(
        &mut self,
        now: Instant,
        mut next_id: impl FnMut() -> Option<DeliveryId>,
    ) -> Vec<(StreamId, DeliveryId)> {
        self.dispatched = Some(now);
        let mut granted = self.dispatch_suspects(now, &mut next_id);
        let mut kept = VecDeque::new();
        // Streams that a suspect, or a large item, waits for: they get nothing more until it fits, or it would wait for ever.
        let mut reserved = self.set_apart(now);
        while let Some(item) = self.waiting.pop_front() {
            if !self.streams.iter().any(|(id, stream)| stream.has_room() && !reserved.contains(id)) {
                self.waiting.push_front(item);
                break;
            }
            let Some(stream) = self.idlest(item.size, &reserved) else {
                // An item that no stream may ever receive is passed over, so that it does not hold up the others.
                reserved.extend(self.emptiest(item.size));
                kept.push_back(item);
                continue;
            };
            let Some(id) = next_id() else {
                self.waiting.push_front(item);
                break;
            };
            self.grant(now, stream, id, item);
            granted.push((stream, id));
        }
        while let Some(item) = kept.pop_back() {
            self.waiting.push_front(item);
        }
        granted
    }

    fn dispatch_suspects(
        &mut self,
        now: Instant,
        next_id: &mut impl FnMut() -> Option<DeliveryId>,
    ) -> Vec<(StreamId, DeliveryId)> {
        let mut granted = Vec::new();
        let mut kept = VecDeque::new();
        if self.suspects.is_empty() {
            self.blocked_since = None;
        }
        while let Some(item) = self.suspects.pop_front() {
            let Some(stream) = self.freest(&item) else {
                // In their order, or one that needs a stream for itself would see others pass for ever.
                let is_wanted = self.streams.values().any(|stream| stream.is_for(item.size));
                kept.push_back(item);
                if is_wanted {
                    self.blocked_since.get_or_insert(now);
                    break;
                }
                continue;
            };
            self.blocked_since = None;
            let Some(id) = next_id() else {
                self.suspects.push_front(item);
                break;
            };
            self.grant(now, stream, id, item);
            granted.push((stream, id));
        }
        while let Some(item) = kept.pop_back() {
            self.suspects.push_front(item);
        }
        granted
    }

    /// A stream that works on nothing but suspects, and fewer than may go together.
    fn freest(&self, item: &Waiting<L>) -> Option<StreamId> {
        let is_free = |stream: &Stream| stream.takes(item.size) && stream.takes_suspect(item.suspicion, self.group);
        let takers = self.streams.iter().filter(|(_, stream)| is_free(stream));
        takers.max_by_key(|(id, stream)| (stream.window.free_share(), std::cmp::Reverse(**id))).map(|(id, _)| *id)
    }

    /// Streams that get nothing but suspects: those that work on some, and as long as some wait, those that hold least
    /// until half of all are set apart, at least one. Those that do not move neither count nor are chosen as long as there is
    /// another, or the suspects have not waited long: everything would wait for one long task.
    fn set_apart(&self, now: Instant) -> BTreeSet<StreamId> {
        let mut apart: BTreeSet<StreamId> =
            self.streams.iter().filter(|(_, stream)| stream.is_apart()).map(|(id, _)| *id).collect();
        let wanted = self.suspects.iter().find(|item| self.streams.values().any(|stream| stream.is_for(item.size)));
        let Some(item) = wanted else { return apart };
        let (mut movers, mut stuck): (Vec<_>, Vec<_>) = self
            .streams
            .iter()
            .filter(|(_, stream)| stream.is_for(item.size))
            .partition(|(_, stream)| !stream.is_stuck(now));
        let is_urgent = self.blocked_since.is_some_and(|at| now >= at + SUSPECTS_PATIENCE);
        let from = if movers.is_empty() && is_urgent { &mut stuck } else { &mut movers };
        if from.is_empty() {
            return apart;
        }
        let have = from.iter().filter(|(id, _)| apart.contains(id)).count();
        let lacking = (from.len() / 2).max(1).saturating_sub(have);
        from.retain(|(id, _)| !apart.contains(id));
        from.sort_unstable_by_key(|(id, stream)| (stream.window.messages(), **id));
        apart.extend(from.iter().take(lacking).map(|(id, _)| **id));
        apart
    }

    /// When those that suspects wait for have changed by time alone: one that does not move, or a patience that is over.
    pub(super) fn suspects_look_again(&self) -> Option<Instant> {
        if self.suspects.is_empty() {
            return None;
        }
        let stuck = self.streams.values().filter_map(Stream::is_stuck_at);
        let patience = self.blocked_since.map(|at| at + SUSPECTS_PATIENCE);
        // What has changed before the last look was seen by it.
        stuck.chain(patience).filter(|at| self.dispatched.is_none_or(|dispatched| *at > dispatched)).min()
    }

    fn idlest(&self, size: Size, reserved: &BTreeSet<StreamId>) -> Option<StreamId> {
        let takers = self.streams.iter().filter(|(id, stream)| stream.takes(size) && !reserved.contains(id));
        takers.max_by_key(|(id, stream)| (stream.window.free_share(), std::cmp::Reverse(**id))).map(|(id, _)| *id)
    }

    /// The stream that could take this item soonest: it lacks nothing but room in bytes.
    fn emptiest(&self, size: Size) -> Option<StreamId> {
        let waiters = self.streams.iter().filter(|(_, stream)| stream.could_take(size));
        waiters.min_by_key(|(id, stream)| (stream.window.bytes(), **id)).map(|(id, _)| *id)
    }

    fn grant(&mut self, now: Instant, stream_id: StreamId, id: DeliveryId, item: Waiting<L>) {
        let Some(stream) = self.streams.get_mut(&stream_id) else { return };
        debug_assert!(!self.open.contains_key(&id), "a delivery id was used twice");
        let Waiting { load, size, arrived, suspicion } = item;
        stream.window.take(size.body);
        stream.begin(now, id, (arrived, suspicion));
        let clock = stream.terms.settle_timeout;
        let state = State::Working(load);
        self.open.insert(id, Open { stream: stream_id, size, arrived, suspicion, clock, state, is_aside: false });
    }

    pub(super) fn wait_last(&mut self, item: Waiting<L>) {
        if item.suspicion == Suspicion::None {
            return self.waiting.push_back(item);
        }
        if self.suspects.is_empty() && self.streams.values().all(|stream| !stream.is_apart()) {
            // What was learned of others says nothing of this one.
            self.group = 1;
        }
        self.suspects.push_back(item);
    }

    pub(super) fn wait_first(&mut self, item: Waiting<L>) {
        match item.suspicion {
            Suspicion::None => self.waiting.push_front(item),
            Suspicion::Suspect | Suspicion::Charged => self.suspects.push_front(item),
        }
    }

    pub(super) fn take_where(&mut self, is_taken: impl Fn(&Waiting<L>) -> bool) -> Vec<Waiting<L>> {
        let mut taken = Vec::new();
        for queue in [&mut self.suspects, &mut self.waiting] {
            let (out, kept): (VecDeque<_>, _) = std::mem::take(queue).into_iter().partition(&is_taken);
            *queue = kept;
            taken.extend(out);
        }
        taken
    }

    /// A handler was lost with what it held.
    pub fn suspects_go_alone(&mut self) {
        self.group = 1;
    }

    /// What a lost handler held waits for another one; it had arrived then.
    pub fn wait_again(&mut self, arrived: Instant, load: L, size: Size, suspicion: Suspicion) {
        self.wait_last(Waiting { load, size, arrived, suspicion });
    }

    /// Suspects that wait for a handler.
    pub fn suspects_waiting(&self) -> usize {
        self.suspects.len()
    }

    /// Takes out every suspect that is still waiting for a handler.
    pub fn take_suspects(&mut self) -> Vec<L> {
        self.suspects.drain(..).map(|item| item.load).collect()
    }
}
