//! The pool of connections for publishing and for admin work. Knows no channel.
//!
//! `deadpool_lapin::Manager` makes plain links; it takes a URL and client properties, nothing more. The rest is here: a
//! look before the leap, TLS, deadlines, errors of ours, and a `Debug` that does not print the password in the URL.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use deadpool::managed::{Manager as _, Metrics, Object, PoolError, RecycleError, RecycleResult, TimeoutType, Timeouts};
use lapin::Connection;
use secrecy::ExposeSecret;
use tokio::time::timeout;

use super::error;
use super::hub::Hub;
use super::link::{self, Role};
use super::options::AmqpOptions;
use super::preflight::preflight;
use crate::broker::BrokerError;

/// Connections of one role.
pub(super) type Pool = deadpool::managed::Pool<LinkManager>;

/// Makes pooled connections.
pub(super) struct LinkManager {
    options: Arc<AmqpOptions>,
    role: Role,
    hub: Arc<Hub>,
    abandoned: Arc<AtomicUsize>,
    plain: deadpool_lapin::Manager,
}

impl fmt::Debug for LinkManager {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LinkManager").field("options", &self.options).field("role", &self.role).finish_non_exhaustive()
    }
}

impl LinkManager {
    /// lapin's own connect, which cannot be cut: what it leaves behind when it hangs is counted.
    async fn plain(&self) -> Result<Connection, BrokerError> {
        let limit = self.options.connect_timeout;
        let counted = CountUnlessDone { abandoned: &self.abandoned, done: false };
        let result = timeout(limit, self.plain.create()).await;
        let late = || BrokerError::TimedOut {
            operation: format!("the handshake of the {} connection", self.role.as_str()),
            within: limit,
        };
        let answered = result.map_err(|_| late())?;
        counted.finish();
        answered.map_err(|error| error::connecting(&error, &self.options))
    }
}

/// Counts a connect that was given up, by its deadline or by dropping it.
struct CountUnlessDone<'a> {
    abandoned: &'a AtomicUsize,
    done: bool,
}

impl CountUnlessDone<'_> {
    fn finish(mut self) {
        self.done = true;
    }
}

impl Drop for CountUnlessDone<'_> {
    fn drop(&mut self) {
        if !self.done {
            self.abandoned.fetch_add(1, Ordering::Relaxed);
        }
    }
}

impl deadpool::managed::Manager for LinkManager {
    type Type = Connection;
    type Error = BrokerError;

    async fn create(&self) -> Result<Connection, BrokerError> {
        let connection = if self.options.tls {
            link::connect(&self.options, self.role).await?.connection
        } else {
            preflight(&self.options).await?;
            self.plain().await?
        };
        self.hub.watch_pooled(&connection);
        Ok(connection)
    }

    async fn recycle(&self, connection: &mut Connection, metrics: &Metrics) -> RecycleResult<BrokerError> {
        // The same question for both kinds of links: is it connected.
        self.plain.recycle(connection, metrics).await.map_err(|error| RecycleError::message(error.to_string()))
    }
}

/// A pool that opens its first connection when it is asked for one.
pub(super) fn pool(
    options: &Arc<AmqpOptions>,
    role: Role,
    hub: &Arc<Hub>,
    abandoned: &Arc<AtomicUsize>,
) -> Result<Pool, BrokerError> {
    let broken = |reason: String| BrokerError::SessionLost { reason };
    let runtime = lapin::runtime::default_runtime().map_err(|error| broken(error.to_string()))?;
    let name = options.connection_name.clone();
    let make = move || link::properties(&name, role);
    let manager = LinkManager {
        options: Arc::clone(options),
        role,
        hub: Arc::clone(hub),
        abandoned: Arc::clone(abandoned),
        plain: deadpool_lapin::Manager::new(options.url().expose_secret(), make, runtime),
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

/// A connection, a fresh one where the idle one is dead.
pub(super) async fn take(pool: &Pool) -> Result<Object<LinkManager>, BrokerError> {
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::broker::amqp::options::tests::sample;

    #[tokio::test]
    async fn debug_of_a_pool_shows_no_password() {
        let pool = pool(&Arc::new(sample(1)), Role::Publish, &Arc::default(), &Arc::default()).unwrap();
        let shown = format!("{pool:?} {:?}", pool.manager());
        assert!(!shown.contains("p%40ss") && !shown.contains("p@ss") && !shown.contains("mia"), "{shown}");
    }
}
