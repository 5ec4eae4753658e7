//! Acks and gives-back on their way to the broker: one flush at a time for each channel, the next one gathers meanwhile.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use tokio::time::Instant;

use super::super::link::Hold;
use crate::broker::{Proof, Receipt, SessionId, Settled, Settlement, Settler};
use crate::domain::ledger::{DeliveryId, Outcome};
use crate::domain::record::Seen;
use crate::domain::verdict::VerdictKind;

/// A channel is not closed so soon after its last ack: RabbitMQ's side of a channel keeps acks back while a quorum queue
/// is busy, and forgets them when the channel ends. Closed at once, a
/// message that was acked came again (seen on 3.10.8 under load).
const LINGER: Duration = Duration::from_millis(250);

/// Who caused a settlement.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Source {
    Handler,
    Deadline,
    Crash,
    Sidecar,
}

impl Source {
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Handler => "handler",
            Self::Deadline => "deadline",
            Self::Crash => "crash",
            Self::Sidecar => "sidecar",
        }
    }
}

/// What is to be remembered of a settlement until the broker has it.
#[derive(Debug)]
pub(super) struct Note {
    /// The delivery; `None` = no stream holds it any more.
    pub id: Option<DeliveryId>,
    /// What it was.
    pub verdict: VerdictKind,
    /// What the handler will be told.
    pub outcome: Outcome,
    /// Who caused it.
    pub source: Source,
    /// What was seen, where nothing of it is left to do once the broker has this: it is remembered should it come too late.
    pub done: Option<Arc<Seen>>,
}

/// One settlement to carry out.
#[derive(Debug)]
pub(super) struct Job {
    pub receipt: Receipt,
    pub settlement: Settlement,
    pub proof: Proof,
    pub note: Note,
}

/// A channel of a session.
pub(super) type Channel = (SessionId, u64);

struct Slot {
    /// `None` while a flush has it.
    settler: Option<Box<dyn Settler>>,
    waiting: Vec<Job>,
    /// Deliveries of this channel that are not settled.
    outstanding: usize,
    /// Nothing more arrives on it: with its last delivery it goes, and the channel with it.
    is_retired: bool,
    /// When its last settlement was written.
    last: Option<Instant>,
    /// A session that is replaced stays for what is not settled here.
    _hold: Hold,
}

impl Slot {
    /// When it may go, if it is done with.
    fn ends_at(&self, now: Instant) -> Option<Instant> {
        let is_done = self.is_retired && self.outstanding == 0 && self.settler.is_some();
        is_done.then(|| self.last.map_or(now, |at| at + LINGER))
    }
}

struct Flushed {
    channel: Channel,
    settler: Box<dyn Settler>,
    done: Vec<(Note, Settled)>,
}

/// The settling halves of the consumers of one subscription, by channel: one that was cancelled still settles.
#[derive(Default)]
pub(super) struct Settling {
    slots: HashMap<Channel, Slot>,
    flushing: FuturesUnordered<BoxFuture<'static, Flushed>>,
    /// Settlements of channels that are gone.
    stale: Vec<(Note, Settled)>,
    /// When the last settlement was written, unless that is long enough ago.
    last: Option<Instant>,
}

impl Settling {
    /// A consumer has begun on this channel.
    pub(super) fn add(&mut self, channel: Channel, settler: Box<dyn Settler>, hold: Hold) {
        let slot = Slot {
            settler: Some(settler),
            waiting: Vec::new(),
            outstanding: 0,
            is_retired: false,
            last: None,
            _hold: hold,
        };
        self.slots.insert(channel, slot);
    }

    /// So many deliveries have arrived on this channel.
    pub(super) fn arrived(&mut self, channel: Channel, count: usize) {
        if let Some(slot) = self.slots.get_mut(&channel) {
            slot.outstanding += count;
        }
    }

    /// Nothing more arrives on this channel: it goes as soon as what has arrived is settled. Without this every handler
    /// that came and went would leave a channel open on the broker.
    pub(super) fn retire(&mut self, channel: Channel) {
        if let Some(slot) = self.slots.get_mut(&channel) {
            slot.is_retired = true;
        }
    }

    /// Lets go of the channels on which all is settled and has been for a while.
    pub(super) fn sweep(&mut self, now: Instant) {
        self.last.take_if(|at| *at + LINGER <= now);
        self.slots.retain(|_, slot| slot.ends_at(now).is_none_or(|at| at > now));
    }

    /// When `sweep` is worth asking again.
    pub(super) fn wake_at(&self, now: Instant) -> Option<Instant> {
        let idle_at = self.last.map(|at| at + LINGER);
        self.slots.values().filter_map(|slot| slot.ends_at(now)).chain(idle_at).min()
    }

    /// The channel is dead, and every receipt of it with it.
    pub(super) fn forget(&mut self, channel: Channel) {
        if let Some(slot) = self.slots.remove(&channel) {
            self.stale.extend(slot.waiting.into_iter().map(|job| (job.note, Settled::Stale)));
        }
    }

    /// Hands a settlement in; `flush` sends it.
    pub(super) fn push(&mut self, job: Job) {
        let channel = (job.receipt.session(), job.receipt.channel());
        match self.slots.get_mut(&channel) {
            Some(slot) => slot.waiting.push(job),
            None => self.stale.push((job.note, Settled::Stale)),
        }
    }

    /// Sends what waits on every channel that is not busy.
    pub(super) fn flush(&mut self) {
        for (channel, slot) in &mut self.slots {
            if slot.waiting.is_empty() {
                continue;
            }
            let Some(settler) = slot.settler.take() else { continue };
            let jobs = std::mem::take(&mut slot.waiting);
            self.flushing.push(Box::pin(settle(*channel, settler, jobs)));
        }
    }

    /// Forgets the channels of sessions that are over; what still waits on them is stale.
    pub(super) fn forget_sessions(&mut self, is_over: impl Fn(SessionId) -> bool) {
        let gone: Vec<Channel> = self.slots.keys().filter(|(id, _)| is_over(*id)).copied().collect();
        for channel in gone {
            self.forget(channel);
        }
    }

    /// True if nothing waits, nothing is on its way, and nothing was for a while.
    pub(super) fn is_idle(&self) -> bool {
        self.last.is_none()
            && self.flushing.is_empty()
            && self.stale.is_empty()
            && self.slots.values().all(|slot| slot.waiting.is_empty())
    }

    /// Waits for settlements to be done; for ever while there are none. Cancel-safe.
    pub(super) async fn next(&mut self) -> Vec<(Note, Settled)> {
        if !self.stale.is_empty() {
            return std::mem::take(&mut self.stale);
        }
        let Some(flushed) = self.flushing.next().await else { return std::future::pending().await };
        if let Some(slot) = self.slots.get_mut(&flushed.channel) {
            slot.settler = Some(flushed.settler);
            debug_assert!(slot.outstanding >= flushed.done.len(), "more was settled than had arrived");
            slot.outstanding = slot.outstanding.saturating_sub(flushed.done.len());
            let now = Some(Instant::now());
            (slot.last, self.last) = (now, now);
        }
        flushed.done
    }
}

async fn settle(channel: Channel, mut settler: Box<dyn Settler>, jobs: Vec<Job>) -> Flushed {
    let proof = jobs.iter().map(|job| job.proof).max().unwrap_or(Proof::Written);
    let mut notes = Vec::with_capacity(jobs.len());
    let mut batch = Vec::with_capacity(jobs.len());
    for job in jobs {
        notes.push(job.note);
        batch.push((job.receipt, job.settlement));
    }
    let outcomes = settler.settle(batch, proof).await;
    debug_assert_eq!(outcomes.len(), notes.len(), "a settler answers every receipt once");
    Flushed { channel, settler, done: notes.into_iter().zip(outcomes).collect() }
}
