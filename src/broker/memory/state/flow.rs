//! The ways of a message: in by publishing, on to consumers, back by requeue, out by expiry, overflow and dead letters.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::channel::Channel;
use super::death::{self, Reason};
use super::queue::{Entry, Queue, body_bytes};
use super::{ChannelId, QueueId, SessionKey, State};
use crate::broker::{BrokerError, Confirm, Publication, Routing};
use crate::domain::message::{Headers, Message};
use crate::domain::name::ExchangeName;

/// How long an at-least-once queue waits before it asks its dead-letter target again. RabbitMQ takes up to 180 s; tests
/// and people at a desk have less patience.
const DEAD_LETTER_RETRY: Duration = Duration::from_secs(1);

/// What became of a batch.
pub(crate) enum Admission {
    Done(Vec<Confirm>),
    /// An alarm is on: here it is back, nothing was sent.
    Blocked(Vec<Publication>),
    SessionGone,
}

/// What a queue does next.
enum Turn {
    GiveUp(Entry, Reason),
    Rest,
}

impl State {
    pub(in crate::broker::memory) fn publish(
        &mut self,
        session: SessionKey,
        batch: Vec<Publication>,
        now: Instant,
    ) -> Admission {
        if !self.sessions.contains_key(&session) {
            return Admission::SessionGone;
        }
        if self.blocked.is_some() {
            return Admission::Blocked(batch);
        }
        let mut confirms = Vec::with_capacity(batch.len());
        for publication in batch {
            let confirm = self.publish_one(publication, now);
            // At rest after each one: a consumer with room must have it before a full queue refuses the next.
            self.come_to_rest(now);
            let lost = self.confirms_to_lose > 0;
            self.confirms_to_lose = self.confirms_to_lose.saturating_sub(1);
            confirms.push(if lost { Confirm::Lost } else { confirm });
        }
        Admission::Done(confirms)
    }

    fn publish_one(&mut self, publication: Publication, now: Instant) -> Confirm {
        let Publication { message, routing } = publication;
        let own_ttl = match message.properties.expiration.as_deref().map(str::parse::<u64>) {
            None => None,
            Some(Ok(millis)) => Some(Duration::from_millis(millis)),
            Some(Err(_)) => {
                let reason = "invalid expiration: not a number of milliseconds".to_owned();
                return Confirm::NotSent(BrokerError::ChannelClosed { reason });
            }
        };
        if self.exchanges.get(message.exchange.as_str()).is_some_and(|router| router.internal) {
            let (action, reason) = (format!("publish to exchange {}", message.exchange), "it is internal".to_owned());
            return Confirm::NotSent(BrokerError::AccessRefused { action, reason });
        }
        let Some(targets) = self.route(&message.exchange, &message.routing_key, &message.properties.headers) else {
            return Confirm::ExchangeMissing(message.exchange);
        };
        if targets.is_empty() {
            return if routing == Routing::Required { Confirm::Unroutable } else { Confirm::Stored };
        }
        let copies = u64::try_from(targets.len()).unwrap_or(u64::MAX);
        let bytes = body_bytes(&message);
        if self.bytes_held.saturating_add(bytes.saturating_mul(copies)) > self.bytes_max {
            return Confirm::Refused;
        }
        let message = Arc::new(message);
        let mut confirm = Confirm::Stored;
        for target in targets {
            if self.refuses(target, bytes) {
                confirm = Confirm::Refused;
            } else {
                self.store(target, Arc::clone(&message), own_ttl, now);
            }
        }
        confirm
    }

    /// The queues that a message goes to; `None` if there is no such exchange.
    fn route(&self, exchange: &ExchangeName, routing_key: &str, headers: &Headers) -> Option<Vec<QueueId>> {
        if exchange.is_nameless() {
            return Some(self.queue_ids.get(routing_key).copied().into_iter().collect());
        }
        Some(self.exchanges.get(exchange.as_str())?.route(routing_key, headers))
    }

    fn refuses(&self, queue: QueueId, bytes: u64) -> bool {
        self.queues.get(&queue).is_some_and(|queue| queue.refuses(bytes))
    }

    fn store(&mut self, id: QueueId, message: Arc<Message>, own_ttl: Option<Duration>, now: Instant) {
        let Some(queue) = self.queues.get_mut(&id) else { return };
        self.bytes_held = self.bytes_held.saturating_add(body_bytes(&message));
        queue.push(message, own_ttl, now);
        self.dirty.insert(id);
    }

    /// Takes an unsettled message back into its queue, if that still exists and allows it once more.
    pub(super) fn put_back(&mut self, id: QueueId, entry: Entry, now: Instant) {
        let Some(queue) = self.queues.get_mut(&id) else { return self.forget(&entry) };
        self.dirty.insert(id);
        if let Err(entry) = queue.requeue(entry) {
            self.give_up(id, entry, Reason::DeliveryLimit, now);
        }
    }

    /// Serves the queues that have something to do, until none has. Ends because every way in circles ends: see
    /// [`death::would_cycle`].
    pub(super) fn come_to_rest(&mut self, now: Instant) {
        while let Some(id) = self.dirty.pop_first() {
            self.retry_dead_letters(id, now);
            while let Turn::GiveUp(entry, reason) = self.serve(id, now) {
                self.give_up(id, entry, reason, now);
            }
            if let Some(at) = self.queues.get(&id).and_then(Queue::wake_at) {
                self.arm(at);
            }
        }
    }

    /// Hands out what it can, until something must be given up or nothing is left to do.
    fn serve(&mut self, id: QueueId, now: Instant) -> Turn {
        let Self { queues, channels, .. } = self;
        let Some(queue) = queues.get_mut(&id) else { return Turn::Rest };
        while queue.ready_count() > 0 {
            let expires_at = queue.head_expires_at();
            let reason = if expires_at.is_some_and(|at| at < now) {
                Reason::Expired
            } else if let Some(channel) = next_with_room(&mut queue.consumers, channels) {
                if let Some(entry) = queue.pop() {
                    channel.send(entry);
                }
                continue;
            } else if expires_at.is_some_and(|at| at <= now) {
                // A life of no length at all would have been enough for a consumer that is ready.
                Reason::Expired
            } else if queue.overflows() {
                Reason::MaxLength
            } else {
                return Turn::Rest;
            };
            return queue.pop().map_or(Turn::Rest, |entry| Turn::GiveUp(entry, reason));
        }
        Turn::Rest
    }

    /// Sends a message to the dead-letter target of its queue, or drops it where there is none.
    fn give_up(&mut self, id: QueueId, entry: Entry, reason: Reason, now: Instant) {
        let Some(queue) = self.queues.get(&id) else { return self.forget(&entry) };
        let Some(grave) = &queue.limits.grave else { return self.forget(&entry) };
        let at_least_once = grave.at_least_once;
        let dead = death::record(&entry.message, &queue.name, reason, grave, self.clock.unix_secs(now));
        let targets = self.route(&dead.exchange, &dead.routing_key, &dead.properties.headers).unwrap_or_default();
        let bytes = body_bytes(&dead);
        let (refusing, taking): (Vec<QueueId>, Vec<QueueId>) = targets
            .into_iter()
            .filter(|target| !self.queues.get(target).is_some_and(|queue| death::would_cycle(&dead, &queue.name)))
            .partition(|target| self.refuses(*target, bytes));
        if at_least_once && (taking.is_empty() || !refusing.is_empty()) {
            return self.keep_dead_letter(id, entry, reason, now);
        }
        let dead = Arc::new(dead);
        for target in taking {
            self.store(target, Arc::clone(&dead), None, now);
        }
        self.forget(&entry);
    }

    fn keep_dead_letter(&mut self, id: QueueId, entry: Entry, reason: Reason, now: Instant) {
        let Some(queue) = self.queues.get_mut(&id) else { return self.forget(&entry) };
        queue.dead_lettering.push((entry, reason));
        queue.retry_at.get_or_insert(now + DEAD_LETTER_RETRY);
    }

    fn retry_dead_letters(&mut self, id: QueueId, now: Instant) {
        let Some(queue) = self.queues.get_mut(&id) else { return };
        if queue.retry_at.is_none_or(|at| now < at) {
            return;
        }
        queue.retry_at = None;
        for (entry, reason) in std::mem::take(&mut queue.dead_lettering) {
            self.give_up(id, entry, reason, now);
        }
    }

    /// Remembers when to look again. Whoever waits for a later time is told to look at the clock anew.
    fn arm(&mut self, at: Instant) {
        if self.wake_at.is_none_or(|known| at < known) {
            self.wake_at = Some(at);
            for channel in self.channels.values() {
                channel.nudge();
            }
        }
    }
}

/// The consumer whose turn it is among those with room; after it, all others come first.
fn next_with_room<'a>(
    consumers: &mut VecDeque<ChannelId>,
    channels: &'a mut BTreeMap<ChannelId, Channel>,
) -> Option<&'a mut Channel> {
    let has_room = |id: &ChannelId| channels.get(id).is_some_and(Channel::has_room);
    let place = consumers.iter().position(has_room)?;
    let id = *consumers.get(place)?;
    consumers.rotate_left(place + 1);
    channels.get_mut(&id)
}
