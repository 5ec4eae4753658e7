//! One life of the connections to RabbitMQ: consume and settle are its own, publish and admin come from pools.
//!
//! Reconnecting is not its business: a lost connection ends it, and whoever keeps sessions opens another.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use futures_util::future::{BoxFuture, FutureExt, join_all};
use futures_util::stream::BoxStream;
use lapin::options::ConfirmSelectOptions;
use lapin::{Channel, Connection};
use tokio::time::{Instant, timeout_at};

use super::arrivals::AmqpArrivals;
use super::channel::{ConsumeChannel, Way};
use super::comparing::Eyes;
use super::denied::{Declaring, Denied, Suspects};
use super::error::within;
use super::examining::{Bindings, Verified, examine};
use super::exchanges::Exchanges;
use super::hub::Hub;
use super::inspect::Inspect;
use super::lane::AmqpLane;
use super::link::{self, Cutter, Link, Role};
use super::notice::Notice;
use super::opening;
use super::options::{AmqpOptions, Changes};
use super::pool::{self, Pool, Towards};
use super::preflight::preflight;
use super::scratch::Scratch;
use super::settler::AmqpSettler;
use super::shape::Shapes;
use super::topology::Site;
use crate::broker::{
    BrokerError, Capabilities, ConsumeOptions, Consumer, Findings, Lane, LaneRole, Session, SessionEvent, SessionId,
};
use crate::domain::difference::Examined;
use crate::domain::name::QueueName;
use crate::domain::subscription::Binding;
use crate::domain::topology::Plan;

/// AMQP's reply code for a close that is no error.
const CLOSE_OK: u16 = 200;

/// What outlives sessions: who sees objects whole, and how they were last seen.
#[derive(Debug, Clone, Default)]
pub(super) struct Memory {
    pub(super) inspect: Option<Arc<dyn Inspect>>,
    shapes: Arc<Shapes>,
    suspects: Suspects,
}

/// A session with RabbitMQ.
pub(super) struct AmqpSession {
    id: SessionId,
    options: Arc<AmqpOptions>,
    capabilities: Capabilities,
    hub: Arc<Hub>,
    consume: Own,
    settle: Own,
    towards: Towards,
    publish: Pool,
    admin: Pool,
    scratch_admin: Scratch,
    scratch_consume: Scratch,
    exchanges: Arc<Exchanges>,
    verified: Verified,
    denied: Denied,
    memory: Memory,
    /// Number of the newest consuming channel.
    channels: AtomicU64,
    /// Those that may still hold deliveries.
    consumers: Mutex<Vec<Weak<ConsumeChannel>>>,
    /// `None` = nothing that it was opened with changes.
    notice: Option<Notice>,
}

/// A connection that belongs to the session.
struct Own {
    connection: Arc<Connection>,
    cutter: Cutter,
}

impl From<Link> for Own {
    fn from(link: Link) -> Self {
        Self { connection: Arc::new(link.connection), cutter: link.cutter }
    }
}

impl fmt::Debug for AmqpSession {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AmqpSession").field("id", &self.id).field("options", &self.options).finish_non_exhaustive()
    }
}

impl AmqpSession {
    /// Asks who is there, then opens the connections that every session needs, all to the node that answered.
    pub(super) async fn open(
        id: SessionId,
        (options, changes): (Arc<AmqpOptions>, Changes),
        abandoned: &Arc<pool::Abandoned>,
        memory: Memory,
    ) -> Result<Self, BrokerError> {
        let (capabilities, place) = preflight(&options).await?;
        let hub = Arc::new(Hub::default());
        let connect = |role| link::connect((&options, &changes), &place, role);
        let (consume, settle) = tokio::try_join!(connect(Role::Consume), connect(Role::Settle))?;
        hub.watch_own(&consume);
        hub.watch_own(&settle);
        let (consume, settle) = (Own::from(consume), Own::from(settle));
        let towards = Towards { options: Arc::clone(&options), changes, place };
        let publish = pool::pool(&towards, Role::Publish, &hub, abandoned)?;
        let admin = pool::pool(&towards, Role::Admin, &hub, abandoned)?;
        let scratch_admin = Scratch::pooled(admin.clone(), options.operation_timeout);
        let scratch_consume =
            Scratch::own(Arc::clone(&consume.connection), Arc::clone(&hub), options.operation_timeout);
        let exchanges = Arc::new(Exchanges::new(scratch_admin.clone()));
        Ok(Self {
            id,
            options,
            capabilities,
            hub,
            consume,
            settle,
            towards,
            publish,
            admin,
            scratch_admin,
            scratch_consume,
            exchanges,
            verified: Verified::default(),
            denied: Denied::default(),
            memory,
            channels: AtomicU64::new(0),
            consumers: Mutex::new(Vec::new()),
            notice: None,
        })
    }

    /// With what notices that it was opened with old secrets.
    pub(super) fn noticing(self, notice: Notice) -> Self {
        Self { notice: Some(notice), ..self }
    }

    fn eyes(&self) -> Eyes<'_> {
        Eyes {
            admin: &self.scratch_admin,
            consume: &self.scratch_consume,
            shapes: &self.memory.shapes,
            inspect: self.memory.inspect.as_deref(),
        }
    }

    /// A channel of a connection that the session ends with.
    async fn own_channel(&self, connection: &Connection) -> Result<Channel, BrokerError> {
        opening::own_channel(connection, self.options.operation_timeout, &self.hub).await
    }

    async fn start_consumer(&self, queue: QueueName, options: ConsumeOptions) -> Result<Consumer, BrokerError> {
        self.hub.ensure_open()?;
        let (channel, way) = if options.own_connection {
            let Towards { options, changes, place } = &self.towards;
            let link = link::connect((options, changes), place, Role::Consume).await?;
            (opening::channel(&link.connection, options.operation_timeout).await?, Way::own(link))
        } else {
            let way = Way::Shared(Arc::clone(&self.hub), self.consume.cutter.clone());
            (self.own_channel(&self.consume.connection).await?, way)
        };
        let number = self.channels.fetch_add(1, Ordering::Relaxed) + 1;
        let shared = Arc::new(ConsumeChannel::new(
            (self.id, number),
            (queue, options.prefetch),
            (channel, way),
            self.options.operation_timeout,
        ));
        self.remember(&shared);
        let begun = async {
            shared.qos(options.prefetch).await?;
            shared.consume().await
        };
        let consumer = begun.await.map_err(|error| shared.cause(error))?;
        let arrivals = AmqpArrivals::new(Arc::clone(&shared), options.prefetch, consumer);
        Ok((Box::new(arrivals), Box::new(AmqpSettler::new(shared))))
    }

    fn remember(&self, shared: &Arc<ConsumeChannel>) {
        let mut consumers = self.consumers.lock().unwrap_or_else(PoisonError::into_inner);
        consumers.retain(|known| known.strong_count() > 0);
        consumers.push(Arc::downgrade(shared));
    }

    async fn open_lane(&self, role: LaneRole) -> Result<Box<dyn Lane>, BrokerError> {
        self.hub.ensure_open()?;
        let limit = self.options.operation_timeout;
        let (channel, frame_bytes_max) = match role {
            LaneRole::Publish => pool::channel(&self.publish, limit).await?,
            LaneRole::Settle => {
                let connection = &self.settle.connection;
                (self.own_channel(connection).await?, connection.configuration().frame_max())
            }
        };
        let select = channel.confirm_select(ConfirmSelectOptions { nowait: false });
        within(limit, "confirm.select", select).await?;
        let shared = (Arc::clone(&self.exchanges), Arc::clone(&self.hub));
        Ok(Box::new(AmqpLane::new(channel, shared, self.options.confirm_timeout, frame_bytes_max)))
    }

    async fn close_within(&self, limit: Duration) {
        let consumers: Vec<_> = self.consumers.lock().unwrap_or_else(PoisonError::into_inner).clone();
        // One that is lost is only let go: whoever reconnects waits for this, and lapin may wait for the answer of a dead socket.
        if self.hub.ensure_open().is_ok() {
            self.close_politely(limit).await;
        }
        self.publish.close();
        self.admin.close();
        self.hub.close(BrokerError::SessionLost { reason: "it was closed by this process".to_owned() });
        consumers.iter().filter_map(Weak::upgrade).for_each(|shared| shared.cut_own());
    }

    async fn close_politely(&self, limit: Duration) {
        let deadline = Instant::now() + limit;
        // Whatever fails or is late is cut below; the broker then gives back by itself.
        let _ = timeout_at(deadline, self.give_back()).await;
        let polite_until = deadline.min(Instant::now() + self.options.close_timeout);
        let polite = async {
            tokio::join!(close(&self.consume.connection), close(&self.settle.connection), close_all(&self.publish));
            close_all(&self.admin).await;
        };
        let _ = timeout_at(polite_until, polite).await;
    }

    async fn give_back(&self) {
        let consumers = std::mem::take(&mut *self.consumers.lock().unwrap_or_else(PoisonError::into_inner));
        let alive: Vec<_> = consumers.iter().filter_map(Weak::upgrade).filter(|shared| shared.is_alive()).collect();
        join_all(alive.iter().map(|shared| shared.give_all_back())).await;
    }
}

impl Session for AmqpSession {
    fn capabilities(&self) -> &Capabilities {
        &self.capabilities
    }

    fn events(&self) -> BoxStream<'static, SessionEvent> {
        self.hub.events()
    }

    fn apply(&self, plan: Arc<Plan>) -> BoxFuture<'_, Result<Findings, BrokerError>> {
        async move {
            self.hub.ensure_open()?;
            let declaring = Declaring { denied: &self.denied, suspects: &self.memory.suspects, pool: &self.admin };
            let (eyes, release) = (self.eyes(), self.capabilities.release());
            let site = Site { eyes, exchanges: &self.exchanges, verified: &self.verified, declaring, release };
            site.apply(&plan).await
        }
        .boxed()
    }

    fn examine(&self, plan: Arc<Plan>) -> BoxFuture<'_, Result<Vec<Examined>, BrokerError>> {
        async move {
            self.hub.ensure_open()?;
            examine(self.eyes(), &plan).await
        }
        .boxed()
    }

    fn bindings(&self, queue: QueueName) -> BoxFuture<'_, Option<Vec<Binding>>> {
        async move { Bindings::new(self.eyes()).of(&queue).await.ok() }.boxed()
    }

    fn consume(&self, queue: QueueName, options: ConsumeOptions) -> BoxFuture<'_, Result<Consumer, BrokerError>> {
        self.start_consumer(queue, options).boxed()
    }

    fn lane(&self, role: LaneRole) -> BoxFuture<'_, Result<Box<dyn Lane>, BrokerError>> {
        self.open_lane(role).boxed()
    }

    fn outdated(&self) -> BoxFuture<'_, Vec<String>> {
        async move {
            match &self.notice {
                Some(notice) => notice.changed().await,
                None => std::future::pending().await,
            }
        }
        .boxed()
    }

    fn close(&self, within: Duration) -> BoxFuture<'_, ()> {
        self.close_within(within).boxed()
    }
}

/// Closes in good order; never on a blocked connection, where lapin writes nothing and would hang.
async fn close(connection: &Connection) {
    if connection.status().connected() && !connection.status().blocked() {
        // An error means that it is closed already.
        let _ = connection.close(CLOSE_OK, "closed by this process".into()).await;
    }
}

async fn close_all(pool: &Pool) {
    let idle = pool.retain(|_, _| false).removed;
    join_all(idle.iter().map(close)).await;
}
