//! A channel that consumes, as its two halves share it: what is settled on it and in which order frames leave it.
//!
//! Knows no policy. The lock is held only while frames are begun, never across an await: what the coalescer takes as
//! settled must be queued in lapin before anybody else asks, or a frame that covers many could overtake a nack.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use lapin::Channel;
use lapin::options::{BasicAckOptions, BasicCancelOptions, BasicConsumeOptions, BasicNackOptions, BasicQosOptions};
use lapin::types::{FieldTable, ShortString};

use super::error::within;
use super::hub::Hub;
use super::link::{Cutter, Link};
use super::started::Started;
use crate::broker::{BrokerError, Prefetch, Proof, SessionId};
use crate::domain::coalesce::{Coalescer, Frame, Outcome, Reach};
use crate::domain::name::QueueName;

/// AMQP's reply code for a close that is no error.
const CLOSE_OK: u16 = 200;

/// The connection of a channel.
#[derive(Debug)]
pub(super) enum Way {
    /// That of the session.
    Shared(Arc<Hub>, Cutter),
    /// For this channel alone: it goes with the channel.
    Own(Arc<Hub>, Box<Link>),
}

impl Way {
    /// Takes a connection for one channel alone.
    pub(super) fn own(link: Link) -> Self {
        let hub = Arc::new(Hub::default());
        hub.watch_own(&link);
        Self::Own(hub, Box::new(link))
    }

    fn cut(&self) {
        match self {
            Self::Shared(_, cutter) => cutter.cut(),
            Self::Own(_, link) => link.cutter.cut(),
        }
    }

    fn hub(&self) -> &Hub {
        match self {
            Self::Shared(hub, _) | Self::Own(hub, _) => hub,
        }
    }
}

/// One channel with one consumer; with several once the prefetch has grown, and for the moment in which it shrinks.
#[derive(Debug)]
pub(super) struct ConsumeChannel {
    pub(super) session: SessionId,
    /// Ours, unique in the session: AMQP's own numbers are used again.
    pub(super) number: u64,
    pub(super) queue: QueueName,
    pub(super) operation_timeout: Duration,
    pub(super) channel: Channel,
    way: Way,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    coalescer: Coalescer,
    prefetch: Prefetch,
    /// Of the consumers that the broker still serves.
    tags: Vec<ShortString>,
    tags_given: u64,
}

/// What was begun for one batch of settlements.
pub(super) struct Written<'a> {
    pub(super) calls: Vec<Started<'a, ()>>,
    /// Tags that had been settled before.
    pub(super) repeated: Vec<u64>,
}

impl ConsumeChannel {
    pub(super) fn new(
        (session, number): (SessionId, u64),
        (queue, prefetch): (QueueName, Prefetch),
        (channel, way): (Channel, Way),
        operation_timeout: Duration,
    ) -> Self {
        let state = State { coalescer: Coalescer::new(), prefetch, tags: Vec::new(), tags_given: 0 };
        Self { session, number, queue, operation_timeout, channel, way, state: Mutex::new(state) }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// False once anything on it would be in vain.
    pub(super) fn is_alive(&self) -> bool {
        self.channel.status().connected()
    }

    /// Ends the connection of this channel: a call on it had no answer in time, so nothing on it can be trusted.
    pub(super) fn cut(&self) {
        self.way.cut();
    }

    /// Ends its connection, if that is its own.
    pub(super) fn cut_own(&self) {
        if let Way::Own(..) = self.way {
            self.cut();
        }
    }

    /// Why it is over, where its connection knows more: what a call meets after the end says nothing of the cause.
    pub(super) fn cause(&self, error: BrokerError) -> BrokerError {
        match self.way.hub().ensure_open() {
            Err(cause @ BrokerError::Unparsable { .. }) => cause,
            Ok(()) | Err(_) => error,
        }
    }

    /// Prefetch of the next consumer on this channel.
    pub(super) async fn qos(&self, prefetch: Prefetch) -> Result<(), BrokerError> {
        let mut call = {
            let mut state = self.lock();
            state.prefetch = prefetch;
            self.begin_qos(prefetch)
        };
        self.answered("basic.qos", &mut call).await?;
        self.ok("basic.qos", call)
    }

    /// Begins to consume under a tag of its own.
    pub(super) async fn consume(&self) -> Result<lapin::Consumer, BrokerError> {
        let tag = {
            let mut state = self.lock();
            state.tags_given += 1;
            let tag = ShortString::from(format!("sidebus.{}.{}.{}", self.session, self.number, state.tags_given));
            state.tags.push(tag.clone());
            tag
        };
        let options = BasicConsumeOptions {
            // RabbitMQ does not know it.
            no_local: false,
            // Every delivery is settled by us.
            no_ack: false,
            // Several sidecars share the work of one queue.
            exclusive: false,
            nowait: false,
        };
        let queue = ShortString::from(self.queue.as_str());
        let object = format!("queue {}", self.queue);
        within(self.operation_timeout, &object, self.channel.basic_consume(queue, tag, options, FieldTable::default()))
            .await
    }

    /// Stops one consumer; what it had been sent stays settleable.
    pub(super) async fn cancel(&self, tag: ShortString) -> Result<(), BrokerError> {
        self.lock().tags.retain(|known| *known != tag);
        let call = self.channel.basic_cancel(tag, BasicCancelOptions { nowait: false });
        within(self.operation_timeout, "basic.cancel", call).await
    }

    /// Gives everything unsettled back and closes the channel, with all its consumers, in this moment: closing alone counts as a
    /// failed delivery (of three that were in time all were counted, so only one that came to another consumer meanwhile: 4.3.6).
    /// The consumers are not cancelled first. A quorum queue whose acks are late cancels the consumer, or, where
    /// that was cancelled by us, closes the channel (measured on 4.3.6); and lapin ends the whole connection when two closes
    /// cross.
    pub(super) fn give_up(&self) {
        // Nobody may settle in between what has been given back.
        let _settling = self.lock();
        drop(Started::begin(self.channel.basic_nack(0, BasicNackOptions { multiple: true, requeue: true })));
        drop(Started::begin(self.channel.close(CLOSE_OK, "given up".into())));
    }

    /// Begins the frames for a batch, in one go.
    pub(super) fn write(&self, batch: &[(u64, Outcome)], proof: Proof) -> Written<'_> {
        let mut state = self.lock();
        let frames = state.coalescer.settle(batch.iter().copied());
        let mut calls: Vec<_> = frames.frames.into_iter().map(|frame| self.begin(frame)).collect();
        if proof == Proof::Read {
            // A channel is read in order, so an answer to a later call proves that the frames were read. This call
            // repeats the prefetch that is in force, which changes nothing; under the lock, or it could undo a new one.
            calls.push(self.begin_qos(state.prefetch));
        }
        Written { calls, repeated: frames.repeated }
    }

    /// Cancels what consumes and gives everything unsettled back: closing alone counts as a failed delivery.
    pub(super) async fn give_all_back(&self) -> Result<(), BrokerError> {
        let tags = self.lock().tags.clone();
        for tag in tags {
            self.cancel(tag).await?;
        }
        let nack = self.channel.basic_nack(0, BasicNackOptions { multiple: true, requeue: true });
        within(self.operation_timeout, "basic.nack", nack).await?;
        // Proof that it was read, as above.
        let prefetch = self.lock().prefetch;
        self.qos(prefetch).await
    }

    fn begin(&self, frame: Frame) -> Started<'_, ()> {
        let multiple = frame.reach == Reach::UpTo;
        match frame.outcome {
            Outcome::Ack => Started::begin(self.channel.basic_ack(frame.tag, BasicAckOptions { multiple })),
            // Nack and never reject: on 4.3 only nack is uncounted.
            Outcome::GiveBack => {
                Started::begin(self.channel.basic_nack(frame.tag, BasicNackOptions { multiple, requeue: true }))
            }
        }
    }

    fn begin_qos(&self, prefetch: Prefetch) -> Started<'_, ()> {
        // Not global: RabbitMQ 4.3 denies that, and per consumer is what is meant.
        Started::begin(self.channel.basic_qos(prefetch.get(), BasicQosOptions { global: false }))
    }

    async fn answered(&self, operation: &str, call: &mut Started<'_, ()>) -> Result<(), BrokerError> {
        let limit = self.operation_timeout;
        tokio::time::timeout(limit, call.finish())
            .await
            .map_err(|_| BrokerError::TimedOut { operation: operation.to_owned(), within: limit })
    }

    fn ok(&self, operation: &str, call: Started<'_, ()>) -> Result<(), BrokerError> {
        match call.result() {
            Some(Ok(())) => Ok(()),
            Some(Err(error)) => Err(super::error::calling(&error, &format!("queue {}", self.queue))),
            None => Err(BrokerError::TimedOut { operation: operation.to_owned(), within: self.operation_timeout }),
        }
    }
}
