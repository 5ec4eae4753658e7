//! RabbitMQ over AMQP 0-9-1: the only room that names lapin and its pool.
//!
//! Knows the port and the domain; no bridge, no wire, no settings.
//!
//! lapin's traps that shape this room: it has no deadlines (`error::within`, `link`), mixes up confirms of a shared
//! channel and hangs returns on other confirms (`lane`), ends a consumer's stream without a word (`arrivals`), panics on
//! long short strings (`convert`), connects in plaintext when built without TLS (`link`) and shares one queue among all
//! listeners (`hub`).

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures_util::future::{BoxFuture, FutureExt};

use super::{Broker, BrokerError, Session, SessionId};

mod arrivals;
mod channel;
mod comparing;
mod convert;
mod denied;
mod error;
mod examining;
mod exchanges;
mod hub;
mod inequivalent;
mod inspect;
mod lane;
mod link;
mod management;
mod notice;
mod opening;
mod options;
mod places;
mod pool;
mod preflight;
mod probing;
mod scratch;
mod session;
mod settler;
mod shape;
mod started;
mod tls;
mod token;
mod topology;

pub use inspect::{Inspect, Policy, QueueReport};
pub use management::{Management, ManagementError, ManagementInspector, ManagementOptions};
pub use notice::WatchedFile;
pub use options::{AmqpOptions, Changes, IdentityFiles, Login, Node, TlsOptions, Transport};

/// RabbitMQ, to be connected to again and again.
#[derive(Debug)]
pub struct AmqpBroker {
    /// As of the last connect.
    known: Mutex<Arc<AmqpOptions>>,
    changes: Changes,
    abandoned: Arc<pool::Abandoned>,
    memory: session::Memory,
    files: Arc<notice::Files>,
}

/// Connects that hang in lapin before a restart is the better way.
const ABANDONED_MAX: usize = 8;

impl AmqpBroker {
    /// With what never changes. Opens nothing yet.
    pub fn new(options: AmqpOptions) -> Self {
        Self::with_changes(options, Changes::Never)
    }

    /// With what may change between two connects. Opens nothing yet.
    pub fn with_changes(options: AmqpOptions, changes: Changes) -> Self {
        let (abandoned, memory) = (Arc::default(), session::Memory::default());
        Self { known: Mutex::new(Arc::new(options)), changes, abandoned, memory, files: Arc::default() }
    }

    /// With the files that sessions are opened with: one that holds something new makes a session outdated.
    #[must_use]
    pub fn watching(mut self, files: Vec<WatchedFile>) -> Self {
        self.files = Arc::new(notice::Files::new(files));
        self
    }

    /// With eyes for what AMQP does not show: properties, arguments and bindings of what exists.
    #[must_use]
    pub fn inspected_by(mut self, inspect: Arc<dyn Inspect>) -> Self {
        self.memory.inspect = Some(inspect);
        self
    }

    fn known(&self) -> MutexGuard<'_, Arc<AmqpOptions>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What holds for a connect that begins now.
    fn now(&self) -> Result<Arc<AmqpOptions>, BrokerError> {
        if let Changes::Reread(now) = &self.changes {
            *self.known() = Arc::new(now()?);
        }
        Ok(Arc::clone(&self.known()))
    }

    /// Connects of lapin that passed their deadline and could not be cut, since the start: each leaves a thread and a socket
    /// behind. Only pooled plain links can, the sockets of all others are ours.
    pub fn abandoned_connects(&self) -> usize {
        self.abandoned.count()
    }
}

impl Broker for AmqpBroker {
    fn connect(&self, id: SessionId) -> BoxFuture<'_, Result<Arc<dyn Session>, BrokerError>> {
        async move {
            let transport = self.known().transport.clone();
            let notice = notice::Notice::begin(&self.files, (self.changes.clone(), transport)).await;
            let towards = (self.now()?, self.changes.clone());
            let session = session::AmqpSession::open(id, towards, &self.abandoned, self.memory.clone()).await?;
            Ok(Arc::new(session.noticing(notice)) as Arc<dyn Session>)
        }
        .boxed()
    }

    fn endpoint(&self) -> String {
        self.known().endpoint()
    }

    fn worn_out(&self) -> Option<String> {
        let abandoned = self.abandoned_connects();
        (abandoned > ABANDONED_MAX)
            .then(|| format!("{abandoned} connects hang and cannot be ended, each with a thread"))
    }
}
