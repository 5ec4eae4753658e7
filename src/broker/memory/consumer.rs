//! Both halves of a consumer of the embedded broker. Knows the state's operations and none of its rules.

use std::fmt;
use std::sync::Arc;

use futures_util::future::BoxFuture;
use tokio::sync::Notify;
use tokio::task::coop;
use tokio::time::timeout_at;

use super::super::{Arrivals, BrokerError, Consumer, Incoming, Prefetch, Proof, Receipt, Settled, Settlement, Settler};
use super::session::SessionGuard;
use super::state::{ChannelId, HandOut, Take};
use crate::domain::message::{Message, Value};

/// Counts how often a message was requeued; RabbitMQ's name and type for it.
const DELIVERY_COUNT_HEADER: &str = "x-delivery-count";

/// The receiving half and the settling half of a channel.
pub(super) fn halves(
    session: Arc<SessionGuard>,
    channel: ChannelId,
    (wake, has_own_connection): (Arc<Notify>, bool),
) -> Consumer {
    let guard = Arc::new(ChannelGuard { session, channel });
    (
        Box::new(MemoryArrivals { guard: Arc::clone(&guard), wake, has_own_connection }),
        Box::new(MemorySettler { guard }),
    )
}

/// Held by both halves: the channel closes with the second of them, and what is unsettled goes back.
struct ChannelGuard {
    session: Arc<SessionGuard>,
    channel: ChannelId,
}

impl Drop for ChannelGuard {
    fn drop(&mut self) {
        let (mut state, now) = self.session.shared.now();
        state.close_channel(self.channel, now);
    }
}

struct MemoryArrivals {
    guard: Arc<ChannelGuard>,
    wake: Arc<Notify>,
    has_own_connection: bool,
}

impl MemoryArrivals {
    fn look(&self, room_max: usize) -> Take {
        let (session, channel) = (&self.guard.session, self.guard.channel);
        let (mut state, now) = session.shared.now();
        let take = state.take(channel, room_max.max(1));
        let Take::Some(batch) = &take else { return take };
        let unreadable = session.shared.unreadable.borrow().clone();
        if batch.iter().all(|given| Some(&given.message.body) != unreadable.as_ref()) {
            return take;
        }
        let error = BrokerError::Unparsable { reason: "a body that the test forbids".to_owned() };
        if self.has_own_connection {
            state.close_channel(channel, now);
        } else {
            state.end_session(session.key, &error, now);
        }
        Take::Over(error)
    }

    fn incoming(&self, given: HandOut) -> Incoming {
        let HandOut { message, redelivered, delivery_count, tag } = given;
        // Texts and headers are cloned; the body shares its memory.
        let mut message: Message = Message::clone(&message);
        if let Some(count) = delivery_count {
            message.properties.headers.insert(DELIVERY_COUNT_HEADER.to_owned(), Value::Int64(i64::from(count)));
        }
        let receipt = Receipt::new(self.guard.session.id, self.guard.channel.0, tag);
        Incoming { message, redelivered, receipt }
    }
}

impl Drop for MemoryArrivals {
    fn drop(&mut self) {
        // Nobody can take what would still arrive; the settling half may live on.
        let (mut state, now) = self.guard.session.shared.now();
        state.cancel(self.guard.channel, now);
    }
}

impl fmt::Debug for MemoryArrivals {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemoryArrivals").field("channel", &self.guard.channel).finish_non_exhaustive()
    }
}

impl Arrivals for MemoryArrivals {
    fn next_batch(&mut self, room_max: usize) -> BoxFuture<'_, Result<Vec<Incoming>, BrokerError>> {
        Box::pin(async move {
            // A full queue never makes this wait, and its caller must not starve the other tasks.
            coop::consume_budget().await;
            loop {
                match self.look(room_max) {
                    Take::Some(batch) => return Ok(batch.into_iter().map(|given| self.incoming(given)).collect()),
                    Take::Over(error) => return Err(error),
                    // A wake-up that comes between the look and the wait is kept by the notify. Passing the deadline
                    // only means to look again, with the clock brought up to date.
                    Take::Nothing { wake_at: Some(at) } => {
                        let _woken_or_due = timeout_at(at, self.wake.notified()).await;
                    }
                    Take::Nothing { wake_at: None } => self.wake.notified().await,
                }
            }
        })
    }

    fn set_prefetch(&mut self, prefetch: Prefetch) -> BoxFuture<'_, Result<(), BrokerError>> {
        Box::pin(async move {
            let (mut state, now) = self.guard.session.shared.now();
            state.set_prefetch(self.guard.channel, prefetch, now)
        })
    }

    fn cancel(&mut self) -> BoxFuture<'_, Result<Vec<Incoming>, BrokerError>> {
        Box::pin(async move {
            let (mut state, now) = self.guard.session.shared.now();
            state.check_session(self.guard.session.key)?;
            let untaken = match state.take(self.guard.channel, usize::MAX) {
                Take::Some(batch) => batch,
                Take::Nothing { .. } | Take::Over(_) => Vec::new(),
            };
            state.cancel(self.guard.channel, now);
            Ok(untaken.into_iter().map(|given| self.incoming(given)).collect())
        })
    }
}

struct MemorySettler {
    guard: Arc<ChannelGuard>,
}

impl fmt::Debug for MemorySettler {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemorySettler").field("channel", &self.guard.channel).finish_non_exhaustive()
    }
}

impl Settler for MemorySettler {
    fn channel(&self) -> u64 {
        self.guard.channel.0
    }

    fn settle(&mut self, batch: Vec<(Receipt, Settlement)>, _proof: Proof) -> BoxFuture<'_, Vec<Settled>> {
        Box::pin(async move {
            coop::consume_budget().await;
            let ours = |receipt: &Receipt| {
                receipt.session() == self.guard.session.id && receipt.channel() == self.guard.channel.0
            };
            let (mut state, now) = self.guard.session.shared.now();
            let tags = batch.iter().map(|(receipt, settlement)| (ours(receipt).then(|| receipt.tag()), *settlement));
            state.settle(self.guard.channel, tags, now)
        })
    }
}
