//! Channels: what a consumer was sent, what it has taken, what it settles. Knows no routing and no limits.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use tokio::sync::Notify;
use tokio::time::Instant;

use super::queue::Entry;
use super::{ChannelId, QueueId, SessionKey, State};
use crate::broker::{BrokerError, Prefetch, Settled, Settlement};
use crate::domain::message::Message;
use crate::domain::name::QueueName;

/// A channel with its one consumer.
pub(super) struct Channel {
    pub(super) session: SessionKey,
    pub(super) queue: QueueId,
    prefetch: usize,
    last_tag: u64,
    /// Sent and not settled, by tag; the untaken are among them.
    unacked: BTreeMap<u64, Entry>,
    /// Tags that were sent and not taken.
    untaken: VecDeque<u64>,
    phase: Phase,
    wake: Arc<Notify>,
}

enum Phase {
    Consuming,
    Over(BrokerError),
}

/// A delivery as it is handed to the consumer's owner.
pub(crate) struct HandOut {
    pub(crate) message: Arc<Message>,
    pub(crate) redelivered: bool,
    /// How often it was requeued, where the queue counts and it was.
    pub(crate) delivery_count: Option<u32>,
    pub(crate) tag: u64,
}

/// What there is to take.
pub(crate) enum Take {
    Some(Vec<HandOut>),
    Nothing { wake_at: Option<Instant> },
    Over(BrokerError),
}

impl Channel {
    fn new(session: SessionKey, queue: QueueId, prefetch: Prefetch, wake: Arc<Notify>) -> Self {
        Self {
            session,
            queue,
            prefetch: usize::from(prefetch.get()),
            last_tag: 0,
            unacked: BTreeMap::new(),
            untaken: VecDeque::new(),
            phase: Phase::Consuming,
            wake,
        }
    }

    pub(super) fn unacked_count(&self) -> usize {
        self.unacked.len()
    }

    pub(super) fn has_room(&self) -> bool {
        matches!(self.phase, Phase::Consuming) && self.unacked.len() < self.prefetch
    }

    /// Sends a message ahead.
    pub(super) fn send(&mut self, entry: Entry) {
        self.last_tag += 1;
        self.unacked.insert(self.last_tag, entry);
        self.untaken.push_back(self.last_tag);
        self.wake.notify_one();
    }

    /// Makes whoever waits look again.
    pub(super) fn nudge(&self) {
        self.wake.notify_one();
    }

    /// Ends arrivals for this reason, unless they have ended for another; returns what was never taken.
    pub(super) fn end(&mut self, error: BrokerError) -> Vec<Entry> {
        if matches!(self.phase, Phase::Consuming) {
            self.phase = Phase::Over(error);
        }
        self.wake.notify_one();
        let Self { untaken, unacked, .. } = self;
        untaken.drain(..).filter_map(|tag| unacked.remove(&tag)).collect()
    }

    fn take(&mut self, room_max: usize) -> Option<Vec<HandOut>> {
        let count = self.untaken.len().min(room_max);
        let hand_out = |tag: u64| {
            let entry = self.unacked.get(&tag)?;
            Some(HandOut {
                message: Arc::clone(&entry.message),
                redelivered: entry.redelivered,
                delivery_count: (entry.requeues > 0).then_some(entry.requeues),
                tag,
            })
        };
        let batch: Vec<HandOut> = self.untaken.drain(..count).filter_map(hand_out).collect();
        (!batch.is_empty()).then_some(batch)
    }
}

impl State {
    pub(in crate::broker::memory) fn consume(
        &mut self,
        session: SessionKey,
        name: &QueueName,
        prefetch: Prefetch,
        now: Instant,
    ) -> Result<(ChannelId, Arc<Notify>), BrokerError> {
        self.check_session(session)?;
        let queue_id = self.find_queue(session, name)?;
        let id = ChannelId(self.next_number());
        let wake = Arc::new(Notify::new());
        self.channels.insert(id, Channel::new(session, queue_id, prefetch, Arc::clone(&wake)));
        if let Some(queue) = self.queues.get_mut(&queue_id) {
            queue.consumers.push_back(id);
        }
        self.dirty.insert(queue_id);
        self.come_to_rest(now);
        Ok((id, wake))
    }

    pub(in crate::broker::memory) fn take(&mut self, id: ChannelId, room_max: usize) -> Take {
        let Some(channel) = self.channels.get_mut(&id) else {
            return Take::Over(BrokerError::ChannelClosed { reason: "it has been closed".to_owned() });
        };
        if let Some(batch) = channel.take(room_max) {
            return Take::Some(batch);
        }
        match &channel.phase {
            Phase::Over(error) => Take::Over(error.clone()),
            Phase::Consuming => Take::Nothing { wake_at: self.wake_at },
        }
    }

    pub(in crate::broker::memory) fn set_prefetch(
        &mut self,
        id: ChannelId,
        prefetch: Prefetch,
        now: Instant,
    ) -> Result<(), BrokerError> {
        let Some(channel) = self.channels.get_mut(&id) else {
            return Err(BrokerError::ChannelClosed { reason: "it has been closed".to_owned() });
        };
        if let Phase::Over(error) = &channel.phase {
            return Err(error.clone());
        }
        channel.prefetch = usize::from(prefetch.get());
        self.dirty.insert(channel.queue);
        self.come_to_rest(now);
        Ok(())
    }

    /// Stops arrivals and gives the untaken back; what was taken stays settleable. Harmless when they have ended.
    pub(in crate::broker::memory) fn cancel(&mut self, id: ChannelId, now: Instant) {
        let Some(channel) = self.channels.get_mut(&id) else { return };
        let Some(queue) = self.queues.get(&channel.queue) else { return };
        let error = BrokerError::ConsumerCancelled { queue: queue.name.to_string() };
        let untaken = channel.end(error);
        let queue_id = channel.queue;
        self.remove_consumer(id, queue_id);
        for entry in untaken {
            self.put_back(queue_id, entry, now);
        }
        self.delete_if_left(queue_id);
        self.come_to_rest(now);
    }

    /// Ends the consumers of a queue and takes back all that they have.
    pub(in crate::broker::memory) fn cancel_consumers(&mut self, name: &QueueName, now: Instant) {
        let Some(id) = self.queue_ids.get(name.as_str()).copied() else { return };
        let error = BrokerError::ConsumerCancelled { queue: name.to_string() };
        let of_queue: Vec<ChannelId> =
            self.channels.iter().filter(|(_, channel)| channel.queue == id).map(|(channel, _)| *channel).collect();
        for channel in of_queue {
            self.detach(channel, &error);
            self.requeue_all(channel, now);
        }
        self.come_to_rest(now);
    }

    /// Closes a channel: all that was not settled goes back.
    pub(in crate::broker::memory) fn close_channel(&mut self, id: ChannelId, now: Instant) {
        self.detach(id, &BrokerError::ChannelClosed { reason: "closed by this side".to_owned() });
        self.requeue_all(id, now);
        self.channels.remove(&id);
        self.come_to_rest(now);
    }

    /// Settles in the order of the batch; `None` stands for a receipt of another session or channel.
    pub(in crate::broker::memory) fn settle(
        &mut self,
        id: ChannelId,
        batch: impl Iterator<Item = (Option<u64>, Settlement)>,
        now: Instant,
    ) -> Vec<Settled> {
        let settled = batch.map(|(tag, settlement)| self.settle_one(id, tag, settlement, now)).collect();
        self.come_to_rest(now);
        settled
    }

    fn settle_one(&mut self, id: ChannelId, tag: Option<u64>, settlement: Settlement, now: Instant) -> Settled {
        let Some(channel) = self.channels.get_mut(&id) else { return Settled::Stale };
        let Some(entry) = tag.and_then(|tag| channel.unacked.remove(&tag)) else { return Settled::Stale };
        let queue = channel.queue;
        match settlement {
            Settlement::Ack => self.forget(&entry),
            Settlement::GiveBack => self.put_back(queue, entry, now),
        }
        self.dirty.insert(queue);
        Settled::Applied
    }

    /// Ends a channel's consumer with this error; what it holds stays with it for the moment.
    pub(super) fn detach(&mut self, id: ChannelId, error: &BrokerError) {
        let Some(channel) = self.channels.get_mut(&id) else { return };
        let queue = channel.queue;
        if matches!(channel.phase, Phase::Consuming) {
            channel.phase = Phase::Over(error.clone());
        }
        channel.untaken.clear();
        channel.nudge();
        self.remove_consumer(id, queue);
    }

    /// Puts everything that a channel holds back, in order, and lets an `auto_delete` queue go with its last consumer.
    pub(super) fn requeue_all(&mut self, id: ChannelId, now: Instant) {
        let Some(channel) = self.channels.get_mut(&id) else { return };
        let queue = channel.queue;
        for entry in std::mem::take(&mut channel.unacked).into_values() {
            self.put_back(queue, entry, now);
        }
        self.delete_if_left(queue);
    }

    fn remove_consumer(&mut self, id: ChannelId, queue: QueueId) {
        let Some(queue) = self.queues.get_mut(&queue) else { return };
        queue.consumers.retain(|consumer| *consumer != id);
    }

    /// Only called when a consumer has just gone, so a queue that never had one stays.
    fn delete_if_left(&mut self, id: QueueId) {
        if self.queues.get(&id).is_some_and(|queue| queue.auto_delete && queue.consumers.is_empty()) {
            self.delete_queue(id);
        }
    }
}
