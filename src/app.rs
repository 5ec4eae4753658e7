//! The composition root: settings → bound sockets → running parts → an orderly end.
//!
//! The only place that knows which backend is behind the port and which settings go where.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use metrics_exporter_prometheus::PrometheusHandle;
use thiserror::Error;
use tokio::net::TcpListener;
use tracing::{error, info};

use crate::admin::{self, Probes};
use crate::bridge::{Bridge, BridgeSettings, LinkWatch, PublishLimits};
use crate::broker::Broker;
#[cfg(feature = "amqp")]
use crate::broker::amqp::{AmqpBroker, AmqpOptions};
use crate::broker::memory::{MemoryBroker, MemoryOptions};
use crate::config::{AmqpSettings, Backend, ListenAddress, Settings, ShutdownSettings};
use crate::domain::delivery_id::ClockTooEarly;
use crate::domain::readiness::{Mode, Readiness};
use crate::domain::topology;
use crate::grpc::{DataPlane, DoorSettings, HealthSwitch, PublishLimits as WireLimits, ServeError};
use crate::runtime::{Failure, Phase, PhaseWatch, Phases, TaskKind, Tasks};
use crate::telemetry::metrics;

/// How often histograms that nobody scrapes are folded, so that they do not grow.
const UPKEEP: Duration = Duration::from_secs(5);

/// Why a process could not begin.
#[derive(Debug, Error)]
pub enum StartError {
    /// A socket could not be bound.
    #[error("cannot listen on {address} for {what} ({key}): {source}; is another process there?")]
    Bind {
        /// What the socket is for.
        what: &'static str,
        /// The setting.
        key: &'static str,
        /// Where.
        address: String,
        /// The system's words.
        source: std::io::Error,
    },
    /// The clock is wrong.
    #[error(transparent)]
    Clock(#[from] ClockTooEarly),
    /// The gRPC server could not be built.
    #[error(transparent)]
    Serve(#[from] ServeError),
    /// The backend is not in this build.
    #[error("backend {0} is not in this build; build with the feature of the same name")]
    NotBuilt(&'static str),
}

/// How a process ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ended {
    /// Asked to stop, and everything was settled or given back.
    Drained,
    /// Asked to stop, and the time was over before everything was: the broker hands out again what was unsettled.
    CutShort,
    /// Asked to stop a second time.
    Interrupted,
    /// A task panicked: a bug. Nothing was drained; the broker hands out again what was unsettled.
    Bug(Failure),
}

/// Where the process listens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Addresses {
    /// For handlers and publishers.
    pub grpc: SocketAddr,
    /// Probes and metrics.
    pub admin: Option<SocketAddr>,
    /// Probes and metrics for kubelet and Prometheus.
    pub health: Option<SocketAddr>,
}

/// A process with every socket bound, ready to run.
pub struct App {
    settings: Settings,
    broker: Arc<dyn Broker>,
    grpc: TcpListener,
    admin: Option<TcpListener>,
    health: Option<TcpListener>,
    addresses: Addresses,
    metrics: PrometheusHandle,
}

impl std::fmt::Debug for App {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("App").field("addresses", &self.addresses).finish_non_exhaustive()
    }
}

impl App {
    /// Binds every socket before anything else begins: a taken port ends the process at once.
    ///
    /// # Errors
    /// A socket that cannot be bound, or a backend that is not built in.
    pub async fn bind(settings: Settings, metrics: PrometheusHandle) -> Result<Self, StartError> {
        let broker = broker(&settings)?;
        Self::bind_with_broker(settings, broker, metrics).await
    }

    /// As [`App::bind`], over a broker of the caller's, whatever backend the settings name: for embedding and for tests
    /// that look into it.
    ///
    /// # Errors
    /// A socket that cannot be bound.
    pub async fn bind_with_broker(
        settings: Settings,
        broker: Arc<dyn Broker>,
        metrics: PrometheusHandle,
    ) -> Result<Self, StartError> {
        let grpc = listen(&settings.grpc.listen, "handlers and publishers", "grpc.listen").await?;
        let admin = match &settings.admin.listen {
            Some(address) => Some(listen(address, "probes and metrics", "admin.listen").await?),
            None => None,
        };
        let health = match &settings.health.listen {
            Some(address) => Some(listen(address, "probes and metrics", "health.listen").await?),
            None => None,
        };
        let addresses = Addresses {
            grpc: address_of(&grpc, "grpc.listen")?,
            admin: admin.as_ref().map(|socket| address_of(socket, "admin.listen")).transpose()?,
            health: health.as_ref().map(|socket| address_of(socket, "health.listen")).transpose()?,
        };
        Ok(Self { settings, broker, grpc, admin, health, addresses, metrics })
    }

    /// Where the process listens; with port 0 in the settings, the ports that the system chose.
    pub fn addresses(&self) -> Addresses {
        self.addresses
    }

    /// Runs until `stop` is asked for a first time and all is drained, or a second time.
    ///
    /// # Errors
    /// The process could not begin.
    pub async fn run(self, mut stop: impl AsyncFnMut()) -> Result<Ended, StartError> {
        let (tasks, phases) = (Tasks::default(), Phases::default());
        let endpoint = self.broker.endpoint();
        let mut bridge = Bridge::start(bridge_settings(&self.settings, self.broker), &tasks, &phases.watch())?;
        let door = door_settings(&self.settings);
        let plane = DataPlane::build(bridge.registry.clone(), bridge.publisher.clone(), tasks.clone(), door).await?;
        let mode = match self.settings.health.readiness {
            crate::config::Readiness::ConnectedOnce => Mode::ConnectedOnce,
            crate::config::Readiness::Broker => Mode::Broker,
            crate::config::Readiness::Process => Mode::Process,
        };
        let probes = Probes::new(bridge.link.clone(), phases.watch(), mode, (endpoint.clone(), self.metrics.clone()));
        let health = plane.health();
        serve_data(&tasks, plane, self.grpc, phases.watch());
        for socket in [self.admin, self.health].into_iter().flatten() {
            serve_probes(&tasks, socket, probes.clone(), phases.watch());
        }
        let shown = |address: Option<SocketAddr>| address.map_or_else(|| "off".to_owned(), |at| at.to_string());
        let (admin, health_at) = (shown(self.addresses.admin), shown(self.addresses.health));
        info!(grpc = %self.addresses.grpc, %admin, health = %health_at, broker = %endpoint, "listening");

        let ended = {
            let work = async {
                let tell = tell_readiness(&probes, bridge.link.clone(), phases.watch(), &health, &self.metrics);
                tokio::select! {
                    () = tell => {}
                    () = stop() => {}
                }
                info!("stopping");
                // Told here, because from now on nobody else tells it.
                health.set(false).await;
                metrics::ready(false);
                tokio::select! {
                    ended = drain(&self.settings.shutdown, &phases, &mut bridge, &tasks) => ended,
                    () = stop() => Ended::Interrupted,
                }
            };
            tokio::select! {
                ended = work => ended,
                failure = tasks.failure() => Ended::Bug(failure),
            }
        };
        Ok(ended)
    }
}

/// The phases of stopping, each with its budget.
async fn drain(settings: &ShutdownSettings, phases: &Phases, bridge: &mut Bridge, tasks: &Tasks) -> Ended {
    phases.enter(Phase::Notice);
    tokio::time::sleep(settings.notice).await;
    phases.enter(Phase::Intake);
    // From here no subscription begins any more, so that the end of all can be waited for.
    bridge.registry.close();
    phases.enter(Phase::Drain);
    let within = settings.intake + settings.drain;
    let mut ended = Ended::Drained;
    let is_drained = tokio::time::timeout(within, bridge.all_ended.wait()).await.is_ok();
    phases.enter(Phase::GiveBack);
    if !is_drained && tokio::time::timeout(settings.give_back, bridge.all_ended.wait()).await.is_err() {
        error!("some deliveries could not be given back in time; the broker hands them out again");
        ended = Ended::CutShort;
    }
    // Publishes are refused from here on; those that are out get their answer while the connections live.
    if tokio::time::timeout(settings.close / 2, bridge.publisher.idle()).await.is_err() {
        error!("some publishes were not confirmed in time; their callers are told that nobody knows");
        ended = Ended::CutShort;
    }
    phases.enter(Phase::Close);
    if !tasks.all_ended(settings.close / 2).await {
        info!(tasks = tasks.count(), "closing took too long and was cut short");
    }
    info!("stopped");
    ended
}

/// Tells readiness to gRPC health and metrics as it changes; never ends.
async fn tell_readiness(
    probes: &Probes,
    mut link: LinkWatch,
    mut phase: PhaseWatch,
    health: &HealthSwitch,
    metrics: &PrometheusHandle,
) {
    let mut upkeep = tokio::time::interval(UPKEEP);
    let mut last = None;
    loop {
        let now = probes.readiness() == Readiness::Ready;
        if last != Some(now) {
            last = Some(now);
            health.set(now).await;
            metrics::ready(now);
            info!(ready = now, "readiness changed");
        }
        tokio::select! {
            () = link.changed() => {}
            _ = phase.changed() => {}
            _ = upkeep.tick() => metrics.run_upkeep(),
        }
    }
}

fn serve_data(tasks: &Tasks, plane: DataPlane, socket: TcpListener, mut phase: PhaseWatch) {
    let watch = tasks.clone();
    tasks.spawn(TaskKind::Server, "grpc", async move {
        if let Err(error) = plane.serve(socket, async move { phase.reached(Phase::Close).await }).await {
            watch.fail("grpc", &error);
        }
    });
}

fn serve_probes(tasks: &Tasks, socket: TcpListener, probes: Probes, mut phase: PhaseWatch) {
    let watch = tasks.clone();
    tasks.spawn(TaskKind::Server, "probes", async move {
        if let Err(error) = admin::serve(socket, probes, async move { phase.reached(Phase::Close).await }).await {
            watch.fail("probes", &error);
        }
    });
}

async fn listen(address: &ListenAddress, what: &'static str, key: &'static str) -> Result<TcpListener, StartError> {
    let bound = TcpListener::bind((address.host.as_str(), address.port)).await;
    bound.map_err(|source| StartError::Bind { what, key, address: address.to_string(), source })
}

fn address_of(socket: &TcpListener, key: &'static str) -> Result<SocketAddr, StartError> {
    let told = socket.local_addr();
    told.map_err(|source| StartError::Bind { what: "its own address", key, address: "?".to_owned(), source })
}

fn broker(settings: &Settings) -> Result<Arc<dyn Broker>, StartError> {
    match &settings.backend {
        Backend::Memory { bytes_max } => Ok(Arc::new(MemoryBroker::new(MemoryOptions { bytes_max: *bytes_max }))),
        Backend::Amqp(amqp) => rabbitmq(amqp, settings),
    }
}

#[cfg(not(feature = "amqp"))]
fn rabbitmq(_: &AmqpSettings, _: &Settings) -> Result<Arc<dyn Broker>, StartError> {
    Err(StartError::NotBuilt("amqp"))
}

#[cfg(feature = "amqp")]
#[expect(clippy::unnecessary_wraps, reason = "builds without the feature answer with an error")]
fn rabbitmq(amqp: &AmqpSettings, settings: &Settings) -> Result<Arc<dyn Broker>, StartError> {
    Ok(Arc::new(AmqpBroker::new(AmqpOptions {
        tls: amqp.tls,
        host: amqp.host.clone(),
        port: amqp.port,
        vhost: amqp.vhost.clone(),
        username: amqp.username.clone(),
        password: amqp.password.clone(),
        connection_name: format!("sidebus {}", settings.instance),
        heartbeat: amqp.heartbeat,
        preflight_timeout: amqp.preflight_timeout,
        connect_timeout: amqp.connect_timeout,
        operation_timeout: amqp.operation_timeout,
        confirm_timeout: settings.publish.confirm_timeout,
        close_timeout: CLOSE_WITHIN,
        pool_size_max: amqp.pool_size_max,
        pool_wait_timeout: amqp.pool_wait_timeout,
    })))
}

/// Graceful close of a connection; then its socket is cut.
const CLOSE_WITHIN: Duration = Duration::from_secs(2);

fn bridge_settings(settings: &Settings, broker: Arc<dyn Broker>) -> BridgeSettings {
    let reconnect = match &settings.backend {
        Backend::Amqp(amqp) => (amqp.reconnect_min, amqp.reconnect_max),
        Backend::Memory { .. } => (Duration::from_millis(200), Duration::from_secs(10)),
    };
    let kib = usize::try_from(settings.limits.publish_bytes.div_ceil(1_024)).unwrap_or(usize::MAX);
    BridgeSettings {
        broker,
        shared: topology::shared(
            settings.topology,
            settings.exchange.clone(),
            &settings.exchanges,
            &settings.dead_letter,
        ),
        topology: settings.topology,
        namespace: settings.namespace.clone(),
        by: format!("{} {}", settings.instance, env!("CARGO_PKG_VERSION")),
        subscriptions: settings.subscriptions.clone(),
        reconnect,
        close_within: CLOSE_WITHIN,
        drain_grace: settings.shutdown.drain,
        publish: PublishLimits {
            lanes: settings.publish.lanes,
            batch_max: settings.publish.batch_max,
            in_flight_max: settings.limits.publishes_in_flight,
            in_flight_kib_max: kib,
        },
    }
}

fn door_settings(settings: &Settings) -> DoorSettings {
    DoorSettings {
        exchange: settings.exchange.name.clone(),
        namespace: settings.namespace.clone(),
        delivery: settings.delivery.clone(),
        retry: settings.retry.clone(),
        dead_letter: settings.dead_letter.clone(),
        publish: WireLimits {
            body_bytes_max: settings.grpc.message_bytes_max,
            header_bytes_max: settings.limits.header_bytes,
            header_depth_max: settings.limits.header_depth,
        },
        window_bytes: settings.grpc.window_bytes,
        handlers_may_declare: settings.grpc.handlers_may_declare,
        open_timeout: settings.limits.open_timeout,
        reflection: settings.grpc.reflection,
    }
}
