//! Serves the data plane on a bound socket: services, health, reflection. Knows no settings file.

use std::sync::Arc;

use tokio::net::{TcpListener, UnixListener};
use tokio::sync::mpsc;
use tokio_stream::StreamExt as _;
use tokio_stream::wrappers::{ReceiverStream, UnixListenerStream};
use tokio_util::sync::CancellationToken;
use tonic::service::Routes;
use tonic::transport::Server;
use tonic::transport::server::Router;
use tonic::{Request, Response, Status};
use tonic_health::ServingStatus;
use tonic_health::pb::health_server::{Health, HealthServer};
use tonic_health::server::HealthReporter;

use super::consumer::Consumer;
use super::door::{Door, DoorSettings};
use super::presence::Presence;
use super::problem::Problem;
use super::proto::sidebus::v1;
use super::proto::sidebus::v1::call_service_server::{CallService, CallServiceServer};
use super::proto::sidebus::v1::consumer_service_server::ConsumerServiceServer;
use super::proto::sidebus::v1::publisher_service_server::PublisherServiceServer;
use super::publisher::Publisher;
use super::{authority, peers, reflection, socket};
use crate::bridge;
use crate::domain::subscription::MESSAGE_ROOM_BYTES;
use crate::runtime::Tasks;

/// Flow-control windows of HTTP/2 in bytes: the default of 64 KiB stalls a stream of batches.
const STREAM_WINDOW_BYTES: u32 = 1024 * 1024;
const CONNECTION_WINDOW_BYTES: u32 = 2 * 1024 * 1024;
/// Calls of one connection that may have been given up before they were taken: a flood of them is an attack (CVE-2023-44487),
/// and ends the connection with all its streams. h2's own limit of 20 ends one whose callers share a deadline.
const PENDING_RESETS_MAX: usize = 1_024;
/// What is served here, as reflection tells it.
const SERVICES: [&str; 4] =
    ["sidebus.v1.ConsumerService", "sidebus.v1.PublisherService", "sidebus.v1.CallService", "grpc.health.v1.Health"];
/// Header list of a request in bytes.
const HEADER_LIST_BYTES_MAX: u32 = 16 * 1024;

/// Why the server could not be built or has failed.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The descriptors for reflection are broken: a bug of the build.
    #[error("gRPC reflection cannot be built")]
    Reflection(#[from] tonic_reflection::server::Error),
    /// The transport failed.
    #[error("the gRPC server failed")]
    Transport(#[from] tonic::transport::Error),
}

/// Tells `grpc.health.v1` how we are. Begins with *not serving*.
#[derive(Debug, Clone)]
pub struct HealthSwitch {
    reporter: HealthReporter,
    services: &'static [&'static str],
}

impl HealthSwitch {
    pub(super) fn new(reporter: HealthReporter, services: &'static [&'static str]) -> Self {
        Self { reporter, services }
    }

    /// Changes the answer for the whole server and for each service.
    pub async fn set(&self, is_serving: bool) {
        let status = if is_serving { ServingStatus::Serving } else { ServingStatus::NotServing };
        for service in std::iter::once(&"").chain(self.services) {
            self.reporter.set_service_status(*service, status).await;
        }
    }
}

/// A server that is ready to serve. Clones serve the same on another socket.
#[derive(Clone)]
pub struct DataPlane {
    /// For peers of this host.
    near: Router,
    /// For all others, who are asked whether they are still there.
    far: Router,
    connections_per_peer: usize,
    presence: Presence,
    health: HealthSwitch,
}

impl std::fmt::Debug for DataPlane {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("DataPlane").finish_non_exhaustive()
    }
}

impl DataPlane {
    /// Builds the services over a bridge.
    ///
    /// # Errors
    /// The descriptors are broken.
    pub async fn build(
        registry: bridge::Registry,
        publisher: bridge::Publisher,
        tasks: Tasks,
        settings: DoorSettings,
    ) -> Result<Self, ServeError> {
        let (reporter, health_service) = tonic_health::server::health_reporter();
        let health = HealthSwitch::new(reporter, &SERVICES[..2]);
        // The reporter begins with "serving" for the empty name: whoever asks early must not believe it.
        health.set(false).await;
        let transport = settings.transport.clone();
        let presence = Presence::default();
        let door = Door { registry, publisher, tasks, presence: presence.clone(), settings };
        let mut routes = routes(Arc::new(door), health_service)?.prepare().into_axum_router();
        if let Some(allowed) = transport.allowed_authorities {
            routes = authority::guarded(routes, authority::Door::Data, allowed);
        }
        let routes = Routes::from(routes);
        let server = || server(transport.streams_per_connection);
        let asking = server()
            .http2_keepalive_interval(Some(transport.keepalive_interval))
            .http2_keepalive_timeout(Some(transport.keepalive_timeout))
            .add_routes(routes.clone());
        Ok(Self {
            near: server().add_routes(routes),
            far: asking,
            connections_per_peer: transport.connections_per_peer,
            presence,
            health,
        })
    }

    /// The switch of `grpc.health.v1`.
    pub fn health(&self) -> HealthSwitch {
        self.health.clone()
    }

    /// Ends when the last handler has left by its own will and no other has come for a second.
    pub fn idle(&self) -> impl Future<Output = ()> + use<> {
        self.presence.clone().idle()
    }

    /// Serves until `shutdown`; then open rpcs may end by themselves.
    ///
    /// # Errors
    /// The transport failed.
    pub async fn serve(self, listener: TcpListener, shutdown: impl Future<Output = ()>) -> Result<(), ServeError> {
        let (to_near, near) = mpsc::channel(peers::ACCEPTED_MAX);
        let (to_far, far) = mpsc::channel(peers::ACCEPTED_MAX);
        let stop = CancellationToken::new();
        let accepting = async {
            tokio::select! {
                () = shutdown => {}
                () = peers::accept(listener, self.connections_per_peer, to_near, to_far) => {}
            }
            stop.cancel();
            Ok(())
        };
        let serve = |router: Router, accepted| {
            let accepted = ReceiverStream::new(accepted).map(Ok::<_, std::io::Error>);
            router.serve_with_incoming_shutdown(accepted, stop.clone().cancelled_owned())
        };
        tokio::try_join!(accepting, serve(self.near, near), serve(self.far, far))?;
        Ok(())
    }

    /// The same on a Unix socket, to processes of these users; of any, where none is named.
    ///
    /// # Errors
    /// The transport failed.
    pub async fn serve_socket(
        self,
        listener: UnixListener,
        uids: Vec<u32>,
        shutdown: impl Future<Output = ()>,
    ) -> Result<(), ServeError> {
        self.near
            .serve_with_incoming_shutdown(socket::admitted(UnixListenerStream::new(listener), uids), shutdown)
            .await?;
        Ok(())
    }
}

fn server(streams_per_connection: u32) -> Server {
    Server::builder()
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .max_concurrent_streams(streams_per_connection)
        .http2_max_pending_accept_reset_streams(Some(PENDING_RESETS_MAX))
        .http2_max_header_list_size(HEADER_LIST_BYTES_MAX)
}

fn routes(door: Arc<Door>, health: HealthServer<impl Health>) -> Result<Routes, ServeError> {
    let decode_max =
        door.settings.publish.body_bytes_max.saturating_add(usize::try_from(MESSAGE_ROOM_BYTES).unwrap_or(usize::MAX));
    let reflection = door.settings.reflection;
    let mut routes = Routes::new(health)
        .add_service(
            ConsumerServiceServer::new(Consumer(Arc::clone(&door)))
                .max_decoding_message_size(decode_max)
                // What may be sent is bounded by what the handler says it can receive.
                .max_encoding_message_size(usize::MAX),
        )
        .add_service(PublisherServiceServer::new(Publisher(door)).max_decoding_message_size(decode_max))
        .add_service(CallServiceServer::new(Calls));
    if reflection {
        routes = reflection::added(routes, &SERVICES)?;
    }
    Ok(routes)
}

/// Request and reply comes in a later release.
struct Calls;

#[tonic::async_trait]
impl CallService for Calls {
    async fn call(&self, _: Request<v1::CallRequest>) -> Result<Response<v1::CallResponse>, Status> {
        Err(Problem::FeatureUnavailable("Call".to_owned()).into())
    }
}
