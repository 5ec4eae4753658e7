//! The whole broker as one value: sessions, channels, exchanges, queues. Time comes in as `now`.
//!
//! Nothing here waits or spawns. Every operation begins with [`State::tick`], does its work and leaves the state at rest:
//! whoever can be served has been served.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::sync::watch;
use tokio::time::Instant;

use super::super::BrokerError;
use super::faults::Depth;
use crate::domain::name::{ExchangeName, QueueName};
use crate::domain::topology::ExchangeKind;

mod channel;
mod death;
mod flow;
mod queue;
mod routing;
mod topology;

use channel::Channel;
pub(super) use channel::{HandOut, Take};
pub(super) use flow::Admission;
use queue::{Entry, Queue};
use routing::Router;

/// Number of a session, unique for the broker: two sidecars may both call their first session 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct SessionKey(u64);

/// Number of a channel, unique for the broker.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct ChannelId(pub(crate) u64);

/// Number of a queue: one declared again under an old name is another queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct QueueId(pub(crate) u64);

/// How a session stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Link {
    Open,
    Blocked(String),
    Closed(BrokerError),
}

/// The state of the broker.
pub(super) struct State {
    clock: Clock,
    bytes_max: u64,
    bytes_held: u64,
    exchanges: BTreeMap<String, Router>,
    queue_ids: BTreeMap<String, QueueId>,
    queues: BTreeMap<QueueId, Queue>,
    sessions: BTreeMap<SessionKey, watch::Sender<Link>>,
    channels: BTreeMap<ChannelId, Channel>,
    last_number: u64,
    /// Queues that may have something to do.
    dirty: BTreeSet<QueueId>,
    /// No queue needs a look before this.
    wake_at: Option<Instant>,
    refused: Option<BrokerError>,
    blocked: Option<String>,
    confirms_to_lose: u64,
}

/// Tells the wall clock from tokio's, so that paused time pauses both.
struct Clock {
    started: Instant,
    unix_at_start: Duration,
}

impl Clock {
    fn unix_secs(&self, now: Instant) -> u64 {
        (self.unix_at_start + now.saturating_duration_since(self.started)).as_secs()
    }
}

impl State {
    pub(super) fn new(bytes_max: u64, now: Instant) -> Self {
        let unix_at_start = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let exchanges = [
            ("amq.topic", ExchangeKind::Topic),
            ("amq.direct", ExchangeKind::Direct),
            ("amq.fanout", ExchangeKind::Fanout),
            ("amq.headers", ExchangeKind::Headers),
            ("amq.match", ExchangeKind::Headers),
        ];
        Self {
            clock: Clock { started: now, unix_at_start },
            bytes_max,
            bytes_held: 0,
            exchanges: exchanges.map(|(name, kind)| (name.to_owned(), Router::new(kind, false, false))).into(),
            queue_ids: BTreeMap::new(),
            queues: BTreeMap::new(),
            sessions: BTreeMap::new(),
            channels: BTreeMap::new(),
            last_number: 0,
            dirty: BTreeSet::new(),
            wake_at: None,
            refused: None,
            blocked: None,
            confirms_to_lose: 0,
        }
    }

    fn next_number(&mut self) -> u64 {
        self.last_number += 1;
        self.last_number
    }

    /// Carries out what time has brought.
    pub(super) fn tick(&mut self, now: Instant) {
        if self.wake_at.is_some_and(|at| at <= now) {
            self.wake_at = None;
            self.dirty.extend(self.queues.keys());
            self.come_to_rest(now);
        }
    }

    pub(super) fn connect(&mut self) -> Result<(SessionKey, watch::Receiver<Link>), BrokerError> {
        if let Some(error) = &self.refused {
            return Err(error.clone());
        }
        let key = SessionKey(self.next_number());
        let link = self.blocked.clone().map_or(Link::Open, Link::Blocked);
        let (tell, told) = watch::channel(link);
        self.sessions.insert(key, tell);
        Ok((key, told))
    }

    pub(super) fn session_count(&self) -> usize {
        self.sessions.len()
    }

    pub(super) fn check_session(&self, session: SessionKey) -> Result<(), BrokerError> {
        if self.sessions.contains_key(&session) {
            return Ok(());
        }
        Err(BrokerError::SessionLost { reason: "it has ended".to_owned() })
    }

    pub(super) fn end_all_sessions(&mut self, error: &BrokerError, now: Instant) {
        self.end_sessions(&self.sessions.keys().copied().collect(), error, now);
    }

    pub(super) fn end_session(&mut self, session: SessionKey, error: &BrokerError, now: Instant) {
        if self.sessions.contains_key(&session) {
            self.end_sessions(&BTreeSet::from([session]), error, now);
        }
    }

    /// Ends them together: what one gives back must not go to another that is about to end.
    fn end_sessions(&mut self, ended: &BTreeSet<SessionKey>, error: &BrokerError, now: Instant) {
        for session in ended {
            if let Some(tell) = self.sessions.remove(session) {
                tell.send_replace(Link::Closed(error.clone()));
            }
        }
        let channels: Vec<ChannelId> =
            self.channels.iter().filter(|(_, channel)| ended.contains(&channel.session)).map(|(id, _)| *id).collect();
        for id in &channels {
            self.detach(*id, error);
        }
        let exclusive = self.queues.iter().filter(|(_, queue)| queue.exclusive_to.is_some_and(|s| ended.contains(&s)));
        let exclusive: Vec<QueueId> = exclusive.map(|(id, _)| *id).collect();
        for id in exclusive {
            self.delete_queue(id);
        }
        for id in &channels {
            self.requeue_all(*id, now);
        }
        self.come_to_rest(now);
    }

    pub(super) fn refuse_connects(&mut self, error: Option<BrokerError>) {
        self.refused = error;
    }

    pub(super) fn block(&mut self, reason: &str) {
        self.blocked = Some(reason.to_owned());
        self.tell_all(&Link::Blocked(reason.to_owned()));
    }

    pub(super) fn unblock(&mut self) {
        self.blocked = None;
        self.tell_all(&Link::Open);
    }

    fn tell_all(&self, link: &Link) {
        for tell in self.sessions.values() {
            tell.send_replace(link.clone());
        }
    }

    pub(super) fn lose_confirms(&mut self, count: u64) {
        self.confirms_to_lose = count;
    }

    pub(super) fn depth(&self, name: &QueueName) -> Option<Depth> {
        let id = *self.queue_ids.get(name.as_str())?;
        let queue = self.queues.get(&id)?;
        let unacked = self.channels.values().filter(|channel| channel.queue == id).map(Channel::unacked_count).sum();
        Some(Depth { ready: queue.ready_count(), unacked, dead_lettering: queue.dead_lettering.len() })
    }

    pub(super) fn delete_queue_by_name(&mut self, name: &QueueName, now: Instant) -> bool {
        let Some(id) = self.queue_ids.get(name.as_str()).copied() else { return false };
        self.delete_queue(id);
        self.come_to_rest(now);
        true
    }

    pub(super) fn delete_exchange(&mut self, name: &ExchangeName) -> bool {
        self.exchanges.remove(name.as_str()).is_some()
    }

    /// Deletes a queue with all that waits in it; its consumers are told. What they hold stays settleable, to no effect.
    fn delete_queue(&mut self, id: QueueId) {
        let Some(queue) = self.queues.remove(&id) else { return };
        self.queue_ids.remove(queue.name.as_str());
        self.exchanges.retain(|_, router| !(router.forget(id) && router.auto_delete));
        let error = BrokerError::ConsumerCancelled { queue: queue.name.to_string() };
        for entry in queue.into_entries() {
            self.forget(&entry);
        }
        let of_queue = self.channels.values_mut().filter(|channel| channel.queue == id);
        let untaken: Vec<Entry> = of_queue.flat_map(|channel| channel.end(error.clone())).collect();
        for entry in untaken {
            self.forget(&entry);
        }
    }

    /// Counts a body out that no queue and no consumer holds any more.
    fn forget(&mut self, entry: &Entry) {
        debug_assert!(self.bytes_held >= entry.body_bytes(), "bodies are counted in before they are counted out");
        self.bytes_held = self.bytes_held.saturating_sub(entry.body_bytes());
    }
}
