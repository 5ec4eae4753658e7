//! Accidents on demand, and a look into the queues, for tests. Knows the state and no session's inside.

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;

use super::super::BrokerError;
use super::Shared;
use crate::domain::name::{ExchangeName, QueueName};

/// Switches for what can happen to a broker, and a look inside. Clones work on the same broker.
#[derive(Clone)]
pub struct Faults {
    shared: Arc<Shared>,
}

/// What a queue holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Depth {
    /// Messages that wait for a consumer.
    pub ready: usize,
    /// Messages handed out and not settled.
    pub unacked: usize,
    /// Messages given up by an at-least-once queue whose dead-letter target does not take them yet.
    pub dead_lettering: usize,
}

impl Faults {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        Self { shared }
    }

    /// Ends every session now, as a restart of the broker would: events tell `Closed`, arrivals end, settling is stale,
    /// publishing is lost, what was unsettled goes back to its queues and exclusive queues are gone.
    pub fn break_sessions(&self, reason: &str) {
        let (mut state, now) = self.shared.now();
        state.end_all_sessions(&BrokerError::SessionLost { reason: reason.to_owned() }, now);
    }

    /// Answers every connect with this error, until [`Self::accept_connects`].
    pub fn refuse_connects(&self, error: BrokerError) {
        self.shared.now().0.refuse_connects(Some(error));
    }

    /// Ends [`Self::refuse_connects`].
    pub fn accept_connects(&self) {
        self.shared.now().0.refuse_connects(None);
    }

    /// What sessions are opened with from now on; those that were opened with another are outdated. 0 at the start.
    pub fn change_secret(&self, secret: u64) {
        self.shared.secret.send_replace(secret);
    }

    /// Messages with this body cannot be read from now on: each ends what it is handed out to, a session or a consumer that has
    /// a connection of its own, and goes back to its queue.
    pub fn make_unreadable(&self, body: &'static str) {
        self.shared.unreadable.send_replace(Some(Bytes::from_static(body.as_bytes())));
    }

    /// Sessions that are open.
    pub fn sessions(&self) -> usize {
        self.shared.now().0.session_count()
    }

    /// Blocks publishing in every session, as a memory or disk alarm does: publishes wait, settling goes on.
    pub fn block(&self, reason: &str) {
        self.shared.now().0.block(reason);
    }

    /// Ends [`Self::block`].
    pub fn unblock(&self) {
        self.shared.now().0.unblock();
    }

    /// Stores the next `count` publications and answers `Lost` all the same. The lane counts as closed after that.
    pub fn lose_confirms(&self, count: u64) {
        self.shared.now().0.lose_confirms(count);
    }

    /// Deletes a queue with all that it holds; false if there was none. Its consumers are cancelled.
    pub fn delete_queue(&self, queue: &QueueName) -> bool {
        let (mut state, now) = self.shared.now();
        state.delete_queue_by_name(queue, now)
    }

    /// Cancels the consumers of a queue that stays, and takes back what they hold: late acks, as RabbitMQ from 4.3 on punishes them.
    pub fn cancel_consumers(&self, queue: &QueueName) {
        let (mut state, now) = self.shared.now();
        state.cancel_consumers(queue, now);
    }

    /// Deletes an exchange with all its bindings; false if there was none.
    pub fn delete_exchange(&self, exchange: &ExchangeName) -> bool {
        self.shared.now().0.delete_exchange(exchange)
    }

    /// What a queue holds; `None` if there is no such queue.
    pub fn depth(&self, queue: &QueueName) -> Option<Depth> {
        self.shared.now().0.depth(queue)
    }
}

impl fmt::Debug for Faults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Faults").finish_non_exhaustive()
    }
}
