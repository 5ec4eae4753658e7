//! The deliveries of one subscription that are not settled yet: who holds which, since when, and what may be handed out.
//!
//! Knows no broker, no wire and no clock. Inputs: `attach`, `arrive`, `dispatch`, `verdict`, `extend`, `settled`, `due`,
//! `detach`, `lose`. The shell owns one timer, set to `next_wake`. Generic over the load that travels with a
//! delivery (the message and its receipt), which comes out exactly once.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::time::{Duration, Instant};

use super::verdict::VerdictKind;
use super::window::Window;

mod dispatch;
mod flow;
mod residence;
mod stream;
mod words;

#[cfg(test)]
mod laws;
#[cfg(test)]
mod tests;

use flow::MeanBody;
pub use stream::Terms;
use stream::{Ending, Stream};
pub use words::{Answer, Clock, DeliveryId, Due, Lost, Outcome, Size, StreamId, Suspicion};

/// What comes within this of the end of its lease is taken back, so that the broker's own limit never fires.
pub const LEASE_MARGIN: Duration = Duration::from_mins(1);

#[derive(Debug)]
struct Waiting<L> {
    load: L,
    size: Size,
    arrived: Instant,
    suspicion: Suspicion,
}

#[derive(Debug)]
struct Open<L> {
    stream: StreamId,
    size: Size,
    arrived: Instant,
    suspicion: Suspicion,
    clock: Duration,
    state: State<L>,
    /// It takes no room in a window any more.
    is_aside: bool,
}

#[derive(Debug)]
enum State<L> {
    /// At the handler.
    Working(L),
    /// Its verdict is being carried out.
    Settling(VerdictKind),
    /// Taken from the handler because a clock ran out; what follows is being carried out.
    Revoked,
}

/// See the module.
#[derive(Debug)]
pub struct Ledger<L> {
    streams: BTreeMap<StreamId, Stream>,
    open: HashMap<DeliveryId, Open<L>>,
    waiting: VecDeque<Waiting<L>>,
    /// These wait too, before all others, until a stream is free for them alone.
    suspects: VecDeque<Waiting<L>>,
    /// Since when the first of them finds no stream.
    blocked_since: Option<Instant>,
    /// Suspects that one stream may hold: doubled with each that a handler settles, 1 again after a crash.
    group: usize,
    mean_body: MeanBody,
    lease_max: Duration,
    /// The last `dispatch`.
    dispatched: Option<Instant>,
}

impl<L> Ledger<L> {
    /// An empty ledger; no lease lasts longer than `lease_max`, counted from the broker's delivery.
    pub fn new(lease_max: Duration) -> Self {
        let (streams, open) = (BTreeMap::new(), HashMap::new());
        let (waiting, suspects, group, mean_body) = (VecDeque::new(), VecDeque::new(), 1, MeanBody::default());
        Self { streams, open, waiting, suspects, blocked_since: None, group, mean_body, lease_max, dispatched: None }
    }

    /// A handler has connected.
    pub fn attach(&mut self, stream: StreamId, window: Window, terms: Terms) {
        self.streams.insert(stream, Stream::new(window, terms, self.lease_max));
    }

    /// A handler wants another window; `None` = unchanged. Shrinking never revokes.
    pub fn resize(&mut self, stream: StreamId, messages_max: Option<u32>, bytes_max: Option<u64>) {
        if let Some(stream) = self.streams.get_mut(&stream) {
            let window = &mut stream.window;
            let (messages, bytes) = (window.messages_max(), window.bytes_max());
            window.resize(messages_max.unwrap_or(messages), bytes_max.unwrap_or(bytes));
        }
    }

    /// Nothing more is handed to this stream; what it holds may still be settled. Cannot be taken back.
    pub fn leave(&mut self, stream: StreamId) {
        if let Some(stream) = self.streams.get_mut(&stream) {
            stream.leaving = true;
        }
    }

    /// The stream is gone. What it was working on comes out; what is being settled goes on without it.
    pub fn detach(&mut self, stream: StreamId) -> Vec<(DeliveryId, L)> {
        let Some(gone) = self.streams.remove(&stream) else { return Vec::new() };
        gone.working.into_keys().filter_map(|id| self.take_working(id)).collect()
    }

    fn take_working(&mut self, id: DeliveryId) -> Option<(DeliveryId, L)> {
        let open = self.open.remove(&id)?;
        match open.state {
            State::Working(load) => Some((id, load)),
            State::Settling(_) | State::Revoked => {
                self.open.insert(id, open);
                None
            }
        }
    }

    /// The broker handed out a message then; it waits for a handler with room.
    pub fn arrive(&mut self, arrived: Instant, load: L, size: Size, suspicion: Suspicion) {
        if self.is_receivable(size) {
            self.mean_body.observe(size.body);
        }
        self.wait_last(Waiting { load, size, arrived, suspicion });
    }

    /// What travels with a delivery that a handler is working on.
    pub fn load(&self, id: DeliveryId) -> Option<&L> {
        match &self.open.get(&id)?.state {
            State::Working(load) => Some(load),
            State::Settling(_) | State::Revoked => None,
        }
    }

    /// As `load`, to note something on it.
    pub fn load_mut(&mut self, id: DeliveryId) -> Option<&mut L> {
        match &mut self.open.get_mut(&id)?.state {
            State::Working(load) => Some(load),
            State::Settling(_) | State::Revoked => None,
        }
    }

    /// Takes deliveries back that never reached their handler; they wait again, in front and in their order.
    pub fn take_back(&mut self, now: Instant, ids: &[DeliveryId]) {
        for id in ids.iter().rev() {
            let Some(open) = self.open.get(id) else { continue };
            let (stream, size, arrived, suspicion) = (open.stream, open.size, open.arrived, open.suspicion);
            let Some((_, load)) = self.take_working(*id) else { continue };
            if let Some(stream) = self.streams.get_mut(&stream) {
                stream.window.free(size.body);
                stream.end(now, *id);
            }
            self.wait_first(Waiting { load, size, arrived, suspicion });
        }
    }

    /// A handler's word on a delivery. Ids are looked up in the stream's own deliveries: a foreign one is unknown.
    pub fn verdict(&mut self, now: Instant, stream_id: StreamId, id: DeliveryId, kind: VerdictKind) -> Answer<L> {
        let Some(stream) = self.streams.get_mut(&stream_id) else {
            return Answer::Result(Outcome::UnknownDelivery);
        };
        let open = match self.open.get_mut(&id) {
            Some(open) if open.stream == stream_id => open,
            Some(_) | None => return stream.remembered(id, kind),
        };
        match std::mem::replace(&mut open.state, State::Settling(kind)) {
            State::Working(load) => {
                stream.end(now, id);
                if open.suspicion != Suspicion::None {
                    self.group = self.group.saturating_mul(2);
                }
                Answer::Act(load)
            }
            State::Settling(first) => {
                open.state = State::Settling(first);
                if first == kind { Answer::Pending } else { Answer::Already(None) }
            }
            State::Revoked => {
                open.state = State::Revoked;
                stream.adrift.remove(&id);
                Answer::Result(Outcome::LeaseExpired)
            }
        }
    }

    /// So many verdicts of a stream came together; answers how many deliveries its frames may hold from now on.
    pub fn observe(&mut self, now: Instant, stream: StreamId, count: u32) -> Option<u32> {
        let stream = self.streams.get_mut(&stream)?;
        stream.pace.settled(now, count);
        Some(stream.pace.frame_max(stream.terms.settle_timeout))
    }

    /// More time for work in progress: sets the clock of a delivery, which runs while it is the oldest of its stream.
    pub fn extend(&mut self, now: Instant, stream_id: StreamId, id: DeliveryId, timeout: Duration) -> Outcome {
        let Some(stream) = self.streams.get_mut(&stream_id) else { return Outcome::UnknownDelivery };
        let open = match self.open.get_mut(&id) {
            Some(open) if open.stream == stream_id => open,
            Some(_) | None => return stream.remembered_end(id),
        };
        match open.state {
            State::Working(_) => {
                open.clock = timeout.min(self.lease_max);
                stream.restart_clock(now, id);
                Outcome::Extended
            }
            State::Settling(_) => Outcome::AlreadySettled,
            State::Revoked => Outcome::LeaseExpired,
        }
    }

    /// What a handler gave back is held before it goes: meanwhile it takes no room in the window. Its end is told with `settled`.
    pub fn set_aside(&mut self, id: DeliveryId) {
        let Some(open) = self.open.get_mut(&id) else { return };
        if !std::mem::replace(&mut open.is_aside, true)
            && let Some(stream) = self.streams.get_mut(&open.stream)
        {
            stream.window.free(open.size.body);
        }
    }

    /// What was to be done about a delivery is done, or has failed for good. Frees the window; answers who held it.
    pub fn settled(&mut self, id: DeliveryId, outcome: Outcome) -> Option<StreamId> {
        let open = self.open.remove(&id)?;
        let stream = self.streams.get_mut(&open.stream)?;
        if !open.is_aside {
            stream.window.free(open.size.body);
        }
        let ending = match open.state {
            State::Settling(kind) => Ending::Settled(kind, outcome),
            State::Revoked => Ending::Expired,
            State::Working(_) => Ending::Lost,
        };
        stream.remember(id, ending);
        Some(open.stream)
    }

    /// These receipts are worth nothing any more: the broker hands the messages out again. Answers what each stream was
    /// working on; what is being settled is told by `settled` as its outcome becomes known.
    pub fn lose(&mut self, now: Instant, is_lost: impl Fn(&L) -> bool) -> Lost<L> {
        let waiting = self.take_where(|item| is_lost(&item.load));
        let mut revoked = Vec::new();
        for (stream_id, stream) in &mut self.streams {
            let lost = |id: &DeliveryId| match self.open.get(id).map(|open| &open.state) {
                Some(State::Working(load)) => is_lost(load),
                Some(State::Settling(_) | State::Revoked) | None => false,
            };
            let ids: Vec<DeliveryId> = stream.working.keys().copied().filter(lost).collect();
            let mut taken = Vec::with_capacity(ids.len());
            for id in ids {
                if let Some(Open { size, state: State::Working(load), .. }) = self.open.remove(&id) {
                    stream.window.free(size.body);
                    taken.push((id, load));
                }
                stream.end(now, id);
                stream.adrift.insert(id);
                stream.remember(id, Ending::Lost);
            }
            if !taken.is_empty() {
                revoked.push((*stream_id, taken));
            }
        }
        Lost { waiting: waiting.into_iter().map(|item| item.load).collect(), revoked }
    }

    /// Takes out every delivery that is still waiting for a handler, but the suspects.
    pub fn take_waiting(&mut self) -> Vec<L> {
        self.waiting.drain(..).map(|item| item.load).collect()
    }

    /// Takes out the leases whose clock has run out; tell their end with `settled`.
    pub fn due(&mut self, now: Instant) -> Vec<Due<L>> {
        let mut due = Vec::new();
        let limit = self.lease_max.saturating_sub(LEASE_MARGIN);
        let over = self.take_where(|item| now >= item.arrived + limit);
        due.extend(over.into_iter().map(|item| Due { holder: None, load: item.load, clock: Clock::LeaseLimit }));

        for (stream_id, stream) in &mut self.streams {
            let mut earliest: Option<Instant> = None;
            for id in stream.working.keys().copied().collect::<Vec<_>>() {
                let Some(open) = self.open.get_mut(&id) else { continue };
                let ran_out = stream.is_oldest(id) && stream.clock_began().is_some_and(|at| now >= at + open.clock);
                let clock = if ran_out {
                    Clock::SettleTimeout
                } else if now >= open.arrived + limit {
                    if stream.has_had_its_time(now, id) { Clock::LeaseUsedUp } else { Clock::LeaseLimit }
                } else {
                    earliest = Some(earliest.map_or(open.arrived, |earliest| earliest.min(open.arrived)));
                    continue;
                };
                if let State::Working(load) = std::mem::replace(&mut open.state, State::Revoked) {
                    stream.end(now, id);
                    stream.adrift.insert(id);
                    due.push(Due { holder: Some((*stream_id, id)), load, clock });
                }
            }
            stream.earliest = earliest;
        }
        due
    }

    /// When `due` and `dispatch` are worth asking again, if nothing else happens.
    pub fn next_wake(&self) -> Option<Instant> {
        let limit = self.lease_max.saturating_sub(LEASE_MARGIN);
        let suspect = self.suspects.iter().map(|item| item.arrived + limit).min();
        let waiting = self.waiting.front().map(|item| item.arrived + limit);
        let oldest = self.streams.values().filter_map(|stream| {
            let id = stream.working.first_key_value()?.0;
            let open = self.open.get(id)?;
            Some((stream.clock_began()? + open.clock).min(stream.earliest? + limit))
        });
        oldest.chain(waiting).chain(suspect).chain(self.suspects_look_again()).min()
    }

    /// Unsettled deliveries of a stream, those being settled included; `None` = no such stream.
    pub fn in_flight(&self, stream: StreamId) -> Option<u32> {
        self.streams.get(&stream).map(|stream| stream.window.messages())
    }

    /// True if the stream has said that it leaves.
    pub fn is_leaving(&self, stream: StreamId) -> bool {
        self.streams.get(&stream).is_some_and(|stream| stream.leaving)
    }

    /// True if its handler may still work on something that was taken from it.
    pub fn has_adrift(&self, stream: StreamId) -> bool {
        self.streams.get(&stream).is_some_and(|stream| !stream.adrift.is_empty())
    }

    /// Of what was lost, the handler never had these.
    pub fn was_never_written(&mut self, stream: StreamId, ids: impl IntoIterator<Item = DeliveryId>) {
        let Some(stream) = self.streams.get_mut(&stream) else { return };
        for id in ids {
            stream.adrift.remove(&id);
        }
    }

    /// How many deliveries a stream is working on.
    pub fn working_count(&self, stream: StreamId) -> usize {
        self.streams.get(&stream).map_or(0, |stream| stream.working.len())
    }

    /// What a stream is working on, oldest first.
    pub fn working(&self, stream: StreamId) -> Vec<DeliveryId> {
        self.streams.get(&stream).map(|stream| stream.working.keys().copied().collect()).unwrap_or_default()
    }

    /// Deliveries of all streams that are not settled, and of streams that are gone while settling went on.
    pub fn open_count(&self) -> usize {
        self.open.len()
    }

    /// Deliveries that wait for a handler, suspects included.
    pub fn waiting_count(&self) -> usize {
        self.waiting.len() + self.suspects.len()
    }
}
