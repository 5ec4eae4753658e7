//! The composition root: settings → bound sockets → running parts → an orderly end.
//!
//! The only place that knows which backend is behind the port and which settings go where.

use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use metrics_exporter_prometheus::PrometheusHandle;
use thiserror::Error;
use tokio::net::TcpListener;
use tracing::{error, info};

use crate::admin::{self, Probes};
use crate::bridge::{Bridge, BridgeSettings, LinkWatch, PublishLimits};
use crate::broker::Broker;
use crate::config::{Backend, Settings, ShutdownSettings};
use crate::domain::delivery_id::{ClockTooEarly, DeliveryIds};
use crate::domain::readiness::{Mode, Readiness};
use crate::grpc::{self, DataPlane, HealthSwitch, ServeError};
use crate::runtime::{Failure, Phase, PhaseWatch, Phases, TaskKind, Tasks, unix_ms, until_panic};
use crate::telemetry::metrics;

mod backend;
mod doors;
mod gates;
#[cfg(feature = "amqp")]
mod rabbitmq;
mod state;
mod topology;

pub use backend::broker;
pub use doors::Addresses;
use doors::{Doors, Socket, SocketFile};
pub use topology::desired;

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
    /// A Unix socket could not be made.
    #[error("cannot listen on {} for handlers and publishers (grpc.unix_socket): {reason}", path.display())]
    Socket {
        /// Where.
        path: PathBuf,
        /// Why, and what to try.
        reason: String,
    },
    /// The state directory cannot be used.
    #[error("bus.state_dir {} cannot be used: {reason}", path.display())]
    StateDir {
        /// Where.
        path: PathBuf,
        /// Why, and what to try.
        reason: String,
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
    /// A task panicked, or a part that everybody needs has failed: a bug, here or in a library. Nothing was drained; the broker hands out again what was unsettled.
    Bug(Failure),
}

/// A process with every socket bound, ready to run.
pub struct App {
    settings: Settings,
    broker: Arc<dyn Broker>,
    doors: Doors,
    ids: DeliveryIds,
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
        let doors = Doors::bind(&settings).await?;
        let addresses = doors.addresses()?;
        let ids = state::begin(settings.state_dir.as_deref())?;
        Ok(Self { settings, broker, doors, ids, addresses, metrics })
    }

    /// Where the process listens; with port 0 in the settings, the ports that the system chose.
    pub fn addresses(&self) -> &Addresses {
        &self.addresses
    }

    /// Runs until `stop` is asked for a first time, or the last handler has left if that is a reason to stop, and all is
    /// drained; or until `stop` is asked for a second time.
    ///
    /// # Errors
    /// The process could not begin.
    pub async fn run(self, mut stop: impl AsyncFnMut()) -> Result<Ended, StartError> {
        let (tasks, phases) = (Tasks::default(), Phases::default());
        let endpoint = self.broker.endpoint();
        let ids = Arc::new(Mutex::new(self.ids));
        let settings = bridge_settings(&self.settings, self.broker, Arc::clone(&ids));
        let mut bridge = Bridge::start(settings, &tasks, &phases.watch());
        let door = gates::data(&self.settings);
        let plane = DataPlane::build(bridge.registry.clone(), bridge.publisher.clone(), tasks.clone(), door).await?;
        let mode = mode(self.settings.health.readiness);
        let told = Some(endpoint.clone()).filter(|_| !self.settings.redact_topology);
        let looked_at = (bridge.link.clone(), bridge.registry.clone());
        let probes = Probes::new(looked_at, phases.watch(), mode, (told, self.metrics.clone()));
        let health = plane.health();
        let tools = grpc::admin::routes(bridge.administration.clone(), gates::admin(&self.settings)).await?;
        let (tools, admin_health) = tools;
        let switches = [health, admin_health];
        let idle = idle(&plane, self.settings.shutdown.exit_when_idle);
        if let Some(listener) = self.doors.grpc {
            serve_data(&tasks, plane.clone(), listener, phases.watch());
        }
        // If nothing else has removed the file of the socket by then, its end here does.
        let _file = self.doors.socket.map(|socket| serve_socket(&tasks, plane, socket, phases.watch()));
        // Whoever comes by the pod's address sees probes and metrics and nothing else.
        let tools = grpc::admin::guarded(admin::routes(probes.clone(), tools), gates::reach(&self.settings));
        let health_routes = admin::routes(probes.clone(), Router::new());
        for (socket, routes) in [(self.doors.admin, tools), (self.doors.health, health_routes)] {
            let Some(socket) = socket else { continue };
            serve_probes(&tasks, (socket, routes), phases.watch());
        }
        self.addresses.tell(&endpoint);

        let state_dir = self.settings.state_dir.as_deref();
        let ended = {
            let work = async {
                let tell = tell_readiness(&probes, bridge.link.clone(), phases.watch(), &switches, &self.metrics);
                let reason = tokio::select! {
                    () = tell => Reason::Asked,
                    () = idle => Reason::Idle,
                    () = stop() => Reason::Asked,
                };
                info!("stopping");
                // Told here, because from now on nobody else tells it.
                for health in &switches {
                    health.set(false).await;
                }
                metrics::ready(false);
                tokio::select! {
                    ended = drain(&self.settings.shutdown, &phases, &mut bridge, &tasks) => ended,
                    () = asked_again(reason, &mut stop) => Ended::Interrupted,
                }
            };
            let run = async {
                tokio::select! {
                    ended = work => ended,
                    failure = tasks.failure() => Ended::Bug(failure),
                    never = state::keep(state_dir, &ids) => match never {},
                }
            };
            until_panic(run).await.unwrap_or_else(main_panicked)
        };
        state::end(state_dir, &ids);
        Ok(ended)
    }
}

fn main_panicked(text: String) -> Ended {
    error!(task.name = "main", panic = %text, "task panicked: this is a bug");
    Ended::Bug(Failure { task: "main".to_owned(), text })
}

fn mode(readiness: crate::config::Readiness) -> Mode {
    match readiness {
        crate::config::Readiness::ConnectedOnce => Mode::ConnectedOnce,
        crate::config::Readiness::Broker => Mode::Broker,
        crate::config::Readiness::Process => Mode::Process,
    }
}

/// Why a process stops.
#[derive(Debug, Clone, Copy)]
enum Reason {
    /// It was asked to.
    Asked,
    /// The last handler has left.
    Idle,
}

/// Ends when somebody has lost patience: asked twice, whether or not the first time was what began the stop.
async fn asked_again(reason: Reason, stop: &mut impl AsyncFnMut()) {
    match reason {
        Reason::Asked => {}
        Reason::Idle => stop().await,
    }
    stop().await;
}

/// Ends when the last handler has left, if that is a reason to stop.
fn idle(plane: &DataPlane, exit_when_idle: bool) -> impl Future<Output = ()> + use<> {
    let idle = plane.idle();
    async move {
        if !exit_when_idle {
            return std::future::pending().await;
        }
        idle.await;
        info!("the last handler has left");
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
    let drained_by = tokio::time::Instant::now() + within + settings.give_back;
    let mut ended = Ended::Drained;
    let is_drained = tokio::time::timeout(within, bridge.all_ended.wait()).await.is_ok();
    phases.enter(Phase::GiveBack);
    if !is_drained && tokio::time::timeout(settings.give_back, bridge.all_ended.wait()).await.is_err() {
        error!("some deliveries could not be given back in time; the broker hands them out again");
        ended = Ended::CutShort;
    }
    // Publishes are refused from here on; those that are out get their answer while the connections live, and what the phases
    // before have left of their time for it.
    let until = drained_by.max(tokio::time::Instant::now() + settings.close / 2);
    if tokio::time::timeout_at(until, bridge.publisher.idle()).await.is_err() {
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
    switches: &[HealthSwitch],
    metrics: &PrometheusHandle,
) {
    let mut upkeep = tokio::time::interval(UPKEEP);
    let mut last = None;
    loop {
        let now = probes.readiness() == Readiness::Ready;
        if last != Some(now) {
            last = Some(now);
            for health in switches {
                health.set(now).await;
            }
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

fn serve_socket(tasks: &Tasks, plane: DataPlane, socket: Socket, mut phase: PhaseWatch) -> Arc<SocketFile> {
    let Socket { listener, uids, file } = socket;
    let watch = tasks.clone();
    let file = Arc::new(file);
    let removed = Arc::clone(&file);
    tasks.spawn(TaskKind::Server, "grpc socket", async move {
        let shutdown = async move {
            phase.reached(Phase::Close).await;
            // Before the listener closes: afterwards a successor may have put its own there.
            removed.remove();
        };
        if let Err(error) = plane.serve_socket(listener, uids, shutdown).await {
            watch.fail("grpc socket", &error);
        }
    });
    file
}

fn serve_probes(tasks: &Tasks, (socket, routes): (TcpListener, Router), mut phase: PhaseWatch) {
    let watch = tasks.clone();
    tasks.spawn(TaskKind::Server, "probes", async move {
        if let Err(error) = admin::serve(socket, routes, async move { phase.reached(Phase::Close).await }).await {
            watch.fail("probes", &error);
        }
    });
}

/// Graceful close of a connection; then its socket is cut.
const CLOSE_WITHIN: Duration = Duration::from_secs(2);

fn bridge_settings(settings: &Settings, broker: Arc<dyn Broker>, ids: Arc<Mutex<DeliveryIds>>) -> BridgeSettings {
    let reconnect = match &settings.backend {
        Backend::Amqp(amqp) => (amqp.reconnect_min, amqp.reconnect_max),
        Backend::Memory { .. } => (Duration::from_millis(200), Duration::from_secs(10)),
    };
    let kib = usize::try_from(settings.limits.publish_bytes.div_ceil(1_024)).unwrap_or(usize::MAX);
    BridgeSettings {
        ids,
        broker,
        shared: topology::shared(settings),
        topology: settings.topology,
        namespace: settings.namespace.clone(),
        by: format!("{} {}", settings.instance, env!("CARGO_PKG_VERSION")),
        now_ms: unix_ms,
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
