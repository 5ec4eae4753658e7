//! RabbitMQ over AMQP 0-9-1: the only room that names lapin and its pool.
//!
//! Knows the port and the domain; no bridge, no wire, no settings.
//!
//! lapin's traps that shape this room: it has no deadlines (`error::within`, `link`), mixes up confirms of a shared
//! channel and hangs returns on other confirms (`lane`), ends a consumer's stream without a word (`arrivals`), panics on
//! long short strings (`convert`), connects in plaintext when built without TLS (`link`) and shares one queue among all
//! listeners (`hub`).

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use futures_util::future::{BoxFuture, FutureExt};

use super::{Broker, BrokerError, Session, SessionId};

mod arrivals;
mod channel;
mod convert;
mod error;
mod exchanges;
mod hub;
mod lane;
mod link;
mod options;
mod pool;
mod preflight;
mod scratch;
mod session;
mod settler;
mod started;
mod topology;

pub use options::AmqpOptions;

/// RabbitMQ, to be connected to again and again.
#[derive(Debug)]
pub struct AmqpBroker {
    options: Arc<AmqpOptions>,
    abandoned: Arc<AtomicUsize>,
}

impl AmqpBroker {
    /// Opens nothing yet.
    pub fn new(options: AmqpOptions) -> Self {
        Self { options: Arc::new(options), abandoned: Arc::default() }
    }

    /// Connects of lapin that were given up and could not be cut, since the start: each leaves a thread and a socket
    /// behind. Only pooled plain links can, the sockets of all others are ours. Above 8 the process should say so and
    /// end for a restart.
    pub fn abandoned_connects(&self) -> usize {
        self.abandoned.load(Ordering::Relaxed)
    }
}

impl Broker for AmqpBroker {
    fn connect(&self, id: SessionId) -> BoxFuture<'_, Result<Arc<dyn Session>, BrokerError>> {
        async move {
            let session = session::AmqpSession::open(id, Arc::clone(&self.options), &self.abandoned).await?;
            Ok(Arc::new(session) as Arc<dyn Session>)
        }
        .boxed()
    }

    fn endpoint(&self) -> String {
        self.options.endpoint()
    }
}
