//! Serves the data plane on a bound socket: services, health, reflection. Knows no settings file.

use std::sync::Arc;

use tokio::net::TcpListener;
use tonic::transport::Server;
use tonic::transport::server::{Router, TcpIncoming};
use tonic::{Request, Response, Status};
use tonic_health::ServingStatus;
use tonic_health::server::HealthReporter;

use super::consumer::Consumer;
use super::door::{Door, DoorSettings};
use super::problem::Problem;
use super::proto::FILE_DESCRIPTOR_SET;
use super::proto::sidebus::v1;
use super::proto::sidebus::v1::call_service_server::{CallService, CallServiceServer};
use super::proto::sidebus::v1::consumer_service_server::ConsumerServiceServer;
use super::proto::sidebus::v1::publisher_service_server::PublisherServiceServer;
use super::publisher::Publisher;
use crate::bridge;
use crate::runtime::Tasks;

/// Room in a request for everything besides its body.
const FRAME_ROOM_BYTES: usize = 1024 * 1024;
/// Flow-control windows of HTTP/2 in bytes: the default of 64 KiB stalls a stream of batches.
const STREAM_WINDOW_BYTES: u32 = 1024 * 1024;
const CONNECTION_WINDOW_BYTES: u32 = 2 * 1024 * 1024;
/// Rpcs at a time on one connection.
const STREAMS_MAX: u32 = 256;
/// Resets that may wait: a flood of them is an attack (CVE-2023-44487).
const PENDING_RESETS_MAX: usize = 20;
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
pub struct HealthSwitch(HealthReporter);

impl HealthSwitch {
    /// Changes the answer for the whole server and for each service.
    pub async fn set(&self, is_serving: bool) {
        let status = if is_serving { ServingStatus::Serving } else { ServingStatus::NotServing };
        for service in ["", "sidebus.v1.ConsumerService", "sidebus.v1.PublisherService"] {
            self.0.set_service_status(service, status).await;
        }
    }
}

/// A server that is ready to serve.
pub struct DataPlane {
    router: Router,
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
        let health = HealthSwitch(reporter);
        // The reporter begins with "serving" for the empty name: whoever asks early must not believe it.
        health.set(false).await;
        let decode_max = settings.publish.body_bytes_max + FRAME_ROOM_BYTES;
        let reflection = settings.reflection;
        let door = Arc::new(Door { registry, publisher, tasks, settings });
        let mut router = Server::builder()
            .initial_stream_window_size(STREAM_WINDOW_BYTES)
            .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
            .max_concurrent_streams(STREAMS_MAX)
            .http2_max_pending_accept_reset_streams(Some(PENDING_RESETS_MAX))
            .http2_max_header_list_size(HEADER_LIST_BYTES_MAX)
            .add_service(health_service)
            .add_service(
                ConsumerServiceServer::new(Consumer(Arc::clone(&door)))
                    .max_decoding_message_size(decode_max)
                    // What may be sent is bounded by what the handler says it can receive.
                    .max_encoding_message_size(usize::MAX),
            )
            .add_service(PublisherServiceServer::new(Publisher(door)).max_decoding_message_size(decode_max))
            .add_service(CallServiceServer::new(Calls));
        if reflection {
            let builder = || {
                let builder = tonic_reflection::server::Builder::configure()
                    .register_encoded_file_descriptor_set(FILE_DESCRIPTOR_SET)
                    .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET);
                // The descriptors hold the admin services too, which this door does not serve.
                SERVICES.iter().fold(builder, |builder, service| builder.with_service_name(*service))
            };
            // Older tools still ask for v1alpha.
            router = router.add_service(builder().build_v1()?).add_service(builder().build_v1alpha()?);
        }
        Ok(Self { router, health })
    }

    /// The switch of `grpc.health.v1`.
    pub fn health(&self) -> HealthSwitch {
        self.health.clone()
    }

    /// Serves until `shutdown`; then open rpcs may end by themselves.
    ///
    /// # Errors
    /// The transport failed.
    pub async fn serve(self, listener: TcpListener, shutdown: impl Future<Output = ()>) -> Result<(), ServeError> {
        let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
        self.router.serve_with_incoming_shutdown(incoming, shutdown).await?;
        Ok(())
    }
}

/// Request and reply comes in a later release.
struct Calls;

#[tonic::async_trait]
impl CallService for Calls {
    async fn call(&self, _: Request<v1::CallRequest>) -> Result<Response<v1::CallResponse>, Status> {
        Err(Problem::FeatureUnavailable("Call".to_owned()).into())
    }
}
