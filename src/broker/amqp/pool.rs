//! The pool of connections for publishing and for admin work. Knows no channel.
//!
//! `deadpool_lapin::Manager` makes plain links; it takes a URL and client properties, nothing more. The rest is here: a
//! look before the leap, TLS, logins that change, deadlines, errors of ours, and a `Debug` that does not print the password in the URL.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use deadpool::managed::{Manager as _, Metrics, Object, PoolError, RecycleError, RecycleResult, TimeoutType, Timeouts};
use lapin::{Channel, Connection};
use secrecy::ExposeSecret as _;
use tokio::sync::oneshot;
use tokio::time::timeout;
use tracing::warn;

use super::error;
use super::hub::Hub;
use super::link::{self, Role};
use super::opening;
use super::options::{AmqpOptions, Changes, Login, Transport};
use super::places::Place;
use super::preflight;
use super::scratch::Scratch;
use crate::broker::BrokerError;
use crate::runtime::{TaskKind, Tasks};

/// Connections of one role.
pub(super) type Pool = deadpool::managed::Pool<LinkManager>;

/// Where the connections of a session lead.
#[derive(Debug, Clone)]
pub(super) struct Towards {
    pub(super) options: Arc<AmqpOptions>,
    pub(super) changes: Changes,
    pub(super) place: Place,
}

/// What the files say now.
type Reread<'a> = &'a (dyn Fn() -> Result<AmqpOptions, BrokerError> + Send + Sync);

/// Makes pooled connections.
pub(super) struct LinkManager {
    towards: Towards,
    role: Role,
    hub: Arc<Hub>,
    abandoned: Arc<Abandoned>,
    plain: Arc<deadpool_lapin::Manager>,
}

impl fmt::Debug for LinkManager {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LinkManager").field("towards", &self.towards).field("role", &self.role).finish_non_exhaustive()
    }
}

impl LinkManager {
    /// Over a socket of ours, with the login of these options.
    async fn own(&self, options: &AmqpOptions) -> Result<Connection, BrokerError> {
        let Towards { changes, place, .. } = &self.towards;
        Ok(link::connect((options, changes), place, self.role).await?.connection)
    }

    /// With the login of the session, or that of the files where the broker takes the first no more: it may have changed
    /// there already, or not yet.
    async fn reread(&self, now: Reread<'_>) -> Result<Connection, BrokerError> {
        let known = &self.towards.options;
        // The first token of a session ends long before the session.
        if let Login::Token(_) = known.login {
            return self.own(&now()?).await;
        }
        match self.own(known).await {
            Err(refused @ BrokerError::LoginRefused { .. }) => {
                let fresh = now()?;
                if fresh.login.plain() == known.login.plain() { Err(refused) } else { self.own(&fresh).await }
            }
            answer => answer,
        }
    }

    /// lapin's own connect, which cannot be cut. It goes on where its caller is gone, so that only what hangs is counted.
    async fn plain(&self) -> Result<Connection, BrokerError> {
        let Towards { options, place, .. } = &self.towards;
        let (limit, plain, abandoned) = (options.connect_timeout, Arc::clone(&self.plain), Arc::clone(&self.abandoned));
        let (tell, told) = oneshot::channel();
        self.abandoned.tasks.spawn(TaskKind::Connect, self.role.as_str(), async move {
            match timeout(limit, plain.create()).await {
                // A connection that nobody waits for any more closes itself.
                Ok(result) => drop(tell.send(result)),
                Err(_) => {
                    abandoned.count.fetch_add(1, Ordering::Relaxed);
                }
            }
        });
        let late = |_| BrokerError::TimedOut {
            operation: format!("the handshake of the {} connection", self.role.as_str()),
            within: limit,
        };
        told.await.map_err(late)?.map_err(|error| error::connecting(&error, options, &place.node))
    }
}

/// Connects of lapin that passed their deadline: each keeps a thread and a socket for as long as the other side is silent.
#[derive(Debug, Default)]
pub(super) struct Abandoned {
    count: AtomicUsize,
    tasks: Tasks,
}

impl Abandoned {
    /// So many since the start.
    pub(super) fn count(&self) -> usize {
        self.count.load(Ordering::Relaxed)
    }
}

impl deadpool::managed::Manager for LinkManager {
    type Type = Connection;
    type Error = BrokerError;

    async fn create(&self) -> Result<Connection, BrokerError> {
        let Towards { options, changes, place } = &self.towards;
        let connection = match (&options.transport, changes) {
            (Transport::Plain, Changes::Never) => {
                preflight::look(options, place, options.preflight_timeout).await?;
                self.plain().await?
            }
            // The inner manager speaks no TLS and keeps the login that it was made with.
            (Transport::Tls(_), Changes::Never) => self.own(options).await?,
            (Transport::Plain | Transport::Tls(_), Changes::Reread(now)) => self.reread(now.as_ref()).await?,
        };
        self.hub.watch_pooled(&connection);
        Ok(connection)
    }

    async fn recycle(&self, connection: &mut Connection, metrics: &Metrics) -> RecycleResult<BrokerError> {
        // Its first use is not counted.
        if opening::is_worn(connection, metrics.recycle_count + 1) {
            return Err(RecycleError::message("its channels are used up"));
        }
        // The same question for both kinds of links: is it connected.
        self.plain.recycle(connection, metrics).await.map_err(|error| RecycleError::message(error.to_string()))
    }
}

/// A pool that opens its first connection when it is asked for one.
pub(super) fn pool(
    towards: &Towards,
    role: Role,
    hub: &Arc<Hub>,
    abandoned: &Arc<Abandoned>,
) -> Result<Pool, BrokerError> {
    let broken = |reason: String| BrokerError::SessionLost { reason };
    let runtime = lapin::runtime::default_runtime().map_err(|error| broken(error.to_string()))?;
    let options = &towards.options;
    let name = options.connection_name.clone();
    let make = move || link::properties(&name, role);
    let url = options.url(towards.place.address);
    let manager = LinkManager {
        towards: towards.clone(),
        role,
        hub: Arc::clone(hub),
        abandoned: Arc::clone(abandoned),
        plain: Arc::new(deadpool_lapin::Manager::new(url.expose_secret(), make, runtime)),
    };
    let create = options.preflight_timeout + options.connect_timeout;
    Pool::builder(manager)
        .max_size(options.pool_size_max.max(1))
        .timeouts(Timeouts {
            wait: Some(options.pool_wait_timeout),
            // Both parts have deadlines of their own; this one is the net below them.
            create: Some(create + Duration::from_secs(1)),
            recycle: Some(options.operation_timeout),
        })
        .runtime(deadpool::Runtime::Tokio1)
        .build()
        .map_err(|error| broken(error.to_string()))
}

/// A connection in use opens a channel within this, or another one is opened, which has the whole time.
const USED_OPENS_WITHIN: Duration = Duration::from_secs(2);

/// A channel, and the largest frame of its connection in bytes. The channel keeps the connection, which the pool has back at
/// once, for the next one. One that opens no channel in time is given to nobody else: it may be one of which RabbitMQ reads
/// nothing, for the sake of a queue that does not answer, while its heartbeats go on.
pub(super) async fn channel(pool: &Pool, limit: Duration) -> Result<(Channel, u32), BrokerError> {
    loop {
        let connection = take(pool).await?;
        let is_used = Object::metrics(&connection).recycle_count > 0;
        let limit = if is_used { limit.min(USED_OPENS_WITHIN) } else { limit };
        match opening::channel(&connection, limit).await {
            Err(error @ BrokerError::TimedOut { .. }) => {
                let role = pool.manager().role.as_str();
                warn!(role, %error, "a connection is left for a new one: the broker may read it no more");
                drop(Object::take(connection));
                // Each time one less.
                if !is_used {
                    return Err(error);
                }
            }
            opened => return Ok((opened?, connection.configuration().frame_max())),
        }
    }
}

/// A connection, a fresh one where the idle one is dead.
async fn take(pool: &Pool) -> Result<Object<LinkManager>, BrokerError> {
    let limits = pool.timeouts();
    let late = |what: &str, within: Option<Duration>| BrokerError::TimedOut {
        operation: format!("{what} of the pool"),
        within: within.unwrap_or_default(),
    };
    // Boxed: it holds a whole connect, and would make every caller's future as large.
    Box::pin(pool.get()).await.map_err(|error| match error {
        PoolError::Backend(error) => error,
        PoolError::Timeout(TimeoutType::Wait) => late("waiting for a connection", limits.wait),
        PoolError::Timeout(TimeoutType::Create) => late("opening a connection", limits.create),
        PoolError::Timeout(TimeoutType::Recycle) => late("checking a connection", limits.recycle),
        PoolError::Closed => BrokerError::SessionLost { reason: "the session was closed".to_owned() },
        error @ (PoolError::NoRuntimeSpecified | PoolError::PostCreateHook(_)) => {
            BrokerError::SessionLost { reason: error.to_string() }
        }
    })
}

/// A connection that the pool does not know, for one call that it may die of.
pub(super) async fn lone(pool: &Pool) -> Result<Scratch, BrokerError> {
    let connection = Box::pin(pool.manager().create()).await?;
    Ok(Scratch::lone(Arc::new(connection), pool.manager().towards.options.operation_timeout))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::broker::amqp::options::tests::sample;

    #[tokio::test]
    async fn debug_of_a_pool_shows_no_password() {
        let options = Arc::new(sample(1));
        let place = Place { node: options.nodes[0].clone(), address: ([127, 0, 0, 1], 1).into() };
        let towards = Towards { options, changes: Changes::Never, place };
        let pool = pool(&towards, Role::Publish, &Arc::default(), &Arc::default()).unwrap();
        let shown = format!("{pool:?} {:?}", pool.manager());
        assert!(!shown.contains("p%40ss") && !shown.contains("p@ss") && !shown.contains("mia"), "{shown}");
    }
}
