//! The receiving half of a consumer: takes what lapin has ready, in the order of the channel. Knows no settlement but
//! the give-back of what nobody took.

use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;
use std::task::{Context, Poll};

use futures_util::future::{BoxFuture, FutureExt, poll_fn};
use futures_util::stream::StreamExt;
use lapin::Consumer;
use lapin::message::Delivery;

use super::channel::ConsumeChannel;
use super::convert::message_in;
use super::error;
use crate::broker::{Arrivals, BrokerError, Incoming, Prefetch, Receipt};

/// Consumers of one channel: a prefetch that grows is shared by so many.
const CONSUMERS_MAX: usize = 8;

/// Arrivals of one channel.
pub(super) struct AmqpArrivals {
    shared: Arc<ConsumeChannel>,
    prefetch: Prefetch,
    /// The consumers that the broker serves, whose prefetches together are ours; none once they were cancelled.
    active: Vec<Consumer>,
    /// Consumers on their way out, which may still hold deliveries. Those of one change, unless another was given up midway.
    retiring: Vec<Consumer>,
    /// Taken from lapin and not yet handed out: the leftovers of a changed prefetch.
    waiting: VecDeque<Delivery>,
    /// Why nothing comes any more. lapin tells it once and would then stay silent for ever.
    over: Option<BrokerError>,
}

impl fmt::Debug for AmqpArrivals {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Deliveries carry bodies and headers, which belong in no log.
        f.debug_struct("AmqpArrivals").field("queue", &self.shared.queue).finish_non_exhaustive()
    }
}

impl AmqpArrivals {
    pub(super) fn new(shared: Arc<ConsumeChannel>, prefetch: Prefetch, consumer: Consumer) -> Self {
        Self { shared, prefetch, active: vec![consumer], retiring: Vec::new(), waiting: VecDeque::new(), over: None }
    }

    /// Moves what lapin has ready into `waiting`, at most until that holds `count`.
    fn gather(&mut self, count: usize, context: &mut Context<'_>) {
        let mut leaving = std::mem::take(&mut self.retiring);
        leaving.retain_mut(|consumer| {
            let end = take_ready(consumer, &mut self.waiting, count, context);
            if let Some(End::Failed(error)) = &end {
                self.over.get_or_insert_with(|| self.shared.cause(error::ended(error)));
            }
            end.is_none()
        });
        self.retiring = leaving;
        let Some(end) = self.take_all_ready(count, context) else { return };
        let reason = match end {
            End::Failed(error) => self.shared.cause(error::ended(&error)),
            // lapin ends the stream without an error when the broker cancels a consumer, and leaves the channel as it is.
            End::Plain if self.shared.is_alive() => {
                self.give_up();
                self.cancelled()
            }
            End::Plain => self.shared.cause(BrokerError::SessionLost { reason: "the channel was closed".to_owned() }),
        };
        self.active.clear();
        self.over = Some(reason);
    }

    /// The queue was deleted; or, from 4.3 on, a quorum queue cancels the one consumer whose acks are late, takes back what it
    /// has and serves the others of the channel. Nobody reads from those any more, so they go with the channel, and what
    /// is here with them: all of it comes again, unless the queue has gone.
    fn give_up(&mut self) {
        self.shared.give_up();
        self.waiting.clear();
        self.retiring.clear();
    }

    /// Until none of the consumers has more, or there is enough: what came to one of them before something that was taken from
    /// another is there by then, and all that was taken is put in the order of the channel.
    fn take_all_ready(&mut self, count: usize, context: &mut Context<'_>) -> Option<End> {
        let mut end = None;
        loop {
            let before = self.waiting.len();
            for consumer in &mut self.active {
                match take_ready(consumer, &mut self.waiting, count, context) {
                    // One that was cancelled before the channel died does not know why it did.
                    Some(failed @ End::Failed(_)) => end = Some(failed),
                    Some(End::Plain) => drop(end.get_or_insert(End::Plain)),
                    None => {}
                }
            }
            if end.is_some() || self.active.len() < 2 || self.waiting.len() == before {
                break;
            }
        }
        if self.active.len() > 1 {
            self.sort();
        }
        end
    }

    fn sort(&mut self) {
        self.waiting.make_contiguous().sort_unstable_by_key(|delivery| delivery.delivery_tag);
    }

    fn poll_batch(&mut self, room: usize, context: &mut Context<'_>) -> Poll<Result<Vec<Incoming>, BrokerError>> {
        if self.waiting.len() < room && self.over.is_none() {
            self.gather(room, context);
        }
        if !self.waiting.is_empty() {
            let count = room.min(self.waiting.len());
            let batch = self.waiting.drain(..count).map(|delivery| incoming(&self.shared, delivery)).collect();
            return Poll::Ready(Ok(batch));
        }
        self.over.clone().map_or(Poll::Pending, |reason| Poll::Ready(Err(reason)))
    }

    /// Takes the new consumer in before the old one goes, so that nothing that was sent to either is lost.
    async fn change(&mut self, prefetch: Prefetch) -> Result<(), BrokerError> {
        if let Some(reason) = &self.over {
            return Err(reason.clone());
        }
        if prefetch == self.prefetch {
            return Ok(());
        }
        // In force until all is done: a change that fails or is dropped midway may leave a consumer that nobody reads,
        // and only the end of the channel gives its deliveries back.
        self.over = Some(BrokerError::ChannelClosed { reason: "a change of the prefetch was given up".to_owned() });
        let more = prefetch.get().checked_sub(self.prefetch.get()).filter(|_| self.active.len() < CONSUMERS_MAX);
        let changed = match more {
            Some(more) => self.add(Prefetch::new(more)).await,
            None => self.swap(prefetch).await,
        };
        if let Err(reason) = changed {
            let reason = self.shared.cause(reason);
            self.over = Some(reason.clone());
            return Err(reason);
        }
        self.prefetch = prefetch;
        self.over = None;
        self.gather_all().await;
        Ok(())
    }

    /// One consumer more, and none goes: quorum queues give back what was on its way to one that is cancelled, and count it.
    async fn add(&mut self, more: Prefetch) -> Result<(), BrokerError> {
        self.shared.qos(more).await?;
        let consumer = self.shared.consume().await?;
        self.active.push(consumer);
        Ok(())
    }

    async fn swap(&mut self, prefetch: Prefetch) -> Result<(), BrokerError> {
        self.shared.qos(prefetch).await?;
        let consumer = self.shared.consume().await?;
        let old = std::mem::replace(&mut self.active, vec![consumer]);
        let tags: Vec<_> = old.iter().map(Consumer::tag).collect();
        self.retiring.extend(old);
        for tag in tags {
            self.shared.cancel(tag).await?;
        }
        Ok(())
    }

    /// All that is there, in the order of the channel: two consumers share its tags, each has a buffer of its own.
    async fn gather_all(&mut self) {
        poll_fn(|context| {
            self.gather(usize::MAX, context);
            Poll::Ready(())
        })
        .await;
        self.sort();
    }

    async fn stop(&mut self) -> Result<Vec<Incoming>, BrokerError> {
        if self.active.is_empty() {
            return Ok(Vec::new());
        }
        for tag in self.active.iter().map(Consumer::tag) {
            self.shared.cancel(tag).await?;
        }
        // Each has ended, and each may hold something: below, the others would go with the first that ends.
        poll_fn(|context| {
            for consumer in &mut self.active {
                take_ready(consumer, &mut self.waiting, usize::MAX, context);
            }
            Poll::Ready(())
        })
        .await;
        self.gather_all().await;
        self.active.clear();
        self.over = Some(self.cancelled());
        Ok(self.waiting.drain(..).map(|delivery| incoming(&self.shared, delivery)).collect())
    }

    fn cancelled(&self) -> BrokerError {
        BrokerError::ConsumerCancelled { queue: self.shared.queue.as_str().to_owned() }
    }
}

impl Arrivals for AmqpArrivals {
    fn next_batch(&mut self, room_max: usize) -> BoxFuture<'_, Result<Vec<Incoming>, BrokerError>> {
        // Cancel-safe: what leaves `waiting` is answered within the same poll.
        poll_fn(move |context| self.poll_batch(room_max.max(1), context)).boxed()
    }

    fn set_prefetch(&mut self, prefetch: Prefetch) -> BoxFuture<'_, Result<(), BrokerError>> {
        self.change(prefetch).boxed()
    }

    fn cancel(&mut self) -> BoxFuture<'_, Result<Vec<Incoming>, BrokerError>> {
        self.stop().boxed()
    }
}

/// How lapin's stream ended.
enum End {
    Failed(lapin::Error),
    Plain,
}

fn take_ready(
    consumer: &mut Consumer,
    waiting: &mut VecDeque<Delivery>,
    count: usize,
    context: &mut Context<'_>,
) -> Option<End> {
    while waiting.len() < count {
        match consumer.poll_next_unpin(context) {
            Poll::Ready(Some(Ok(delivery))) => waiting.push_back(delivery),
            Poll::Ready(Some(Err(error))) => return Some(End::Failed(error)),
            Poll::Ready(None) => return Some(End::Plain),
            Poll::Pending => return None,
        }
    }
    None
}

fn incoming(shared: &ConsumeChannel, delivery: Delivery) -> Incoming {
    Incoming { redelivered: delivery.redelivered, receipt: receipt(shared, &delivery), message: message_in(delivery) }
}

fn receipt(shared: &ConsumeChannel, delivery: &Delivery) -> Receipt {
    Receipt::new(shared.session, shared.number, delivery.delivery_tag)
}
