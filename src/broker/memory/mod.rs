//! The embedded broker: what a small RabbitMQ does, inside the process. For `sidebus dev`, for tests and benches.
//!
//! Knows the port and the domain. Nothing survives the [`MemoryBroker`] object, but the object outlives its sessions, so a
//! test can let a sidecar die and come back. It has no task of its own: whoever calls also carries out what time has
//! brought since, and whoever waits wakes for the next expiry.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use futures_util::future::BoxFuture;
use tokio::sync::watch;
use tokio::time::Instant;

use super::{Broker, BrokerError, Session, SessionId};

mod consumer;
mod faults;
mod lane;
mod session;
mod state;
#[cfg(test)]
mod tests;

pub use faults::{Depth, Faults};
use session::MemorySession;
use state::State;

/// Bounds of an embedded broker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MemoryOptions {
    /// Bytes of bodies held before publishes are refused; a body counts once for each queue that holds it.
    pub bytes_max: u64,
}

/// An embedded broker. Clones share the same queues.
#[derive(Clone)]
pub struct MemoryBroker {
    shared: Arc<Shared>,
}

/// What sessions, consumers and lanes have in common.
struct Shared {
    state: Mutex<State>,
    /// Stands for whatever a session is opened with.
    secret: watch::Sender<u64>,
    /// A body that no client library can read.
    unreadable: watch::Sender<Option<Bytes>>,
}

impl Shared {
    /// The state, brought up to date with the clock.
    fn now(&self) -> (MutexGuard<'_, State>, Instant) {
        let now = Instant::now();
        // Every operation leaves the state whole before it can panic, so a poisoned lock is as good as any other.
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.tick(now);
        (state, now)
    }
}

impl MemoryBroker {
    /// A broker without queues, with the exchanges that every RabbitMQ has.
    pub fn new(options: MemoryOptions) -> Self {
        let MemoryOptions { bytes_max } = options;
        let state = Mutex::new(State::new(bytes_max, Instant::now()));
        let (secret, unreadable) = (watch::Sender::new(0), watch::Sender::new(None));
        Self { shared: Arc::new(Shared { state, secret, unreadable }) }
    }

    /// The accidents that can befall it, and a look inside.
    pub fn faults(&self) -> Faults {
        Faults::new(Arc::clone(&self.shared))
    }
}

impl fmt::Debug for MemoryBroker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemoryBroker").finish_non_exhaustive()
    }
}

impl Broker for MemoryBroker {
    fn connect(&self, id: SessionId) -> BoxFuture<'_, Result<Arc<dyn Session>, BrokerError>> {
        Box::pin(async move {
            let (key, link) = self.shared.now().0.connect()?;
            let session: Arc<dyn Session> = Arc::new(MemorySession::new(Arc::clone(&self.shared), id, key, link));
            Ok(session)
        })
    }

    fn endpoint(&self) -> String {
        "memory".to_owned()
    }
}
