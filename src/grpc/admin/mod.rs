//! The administration door over gRPC: topology, health, reflection. Knows no listener; `admin` serves it beside the
//! probes.

use std::sync::Arc;

use tonic::service::Routes;

use super::proto::sidebus::admin::v1::topology_service_server::TopologyServiceServer;
use super::server::{HealthSwitch, ServeError};
use super::{authority, reflection};
use crate::bridge::Administration;
use crate::domain::subscription::{DeadLetterSettings, DeliverySettings, RetrySettings};

mod page;
mod topology;

/// What is served here, as reflection tells it.
const SERVICES: [&str; 2] = ["sidebus.admin.v1.TopologyService", "grpc.health.v1.Health"];
/// Largest request in bytes: bindings and specifications, never bodies.
const REQUEST_BYTES_MAX: usize = 1024 * 1024;

/// Settings of the door.
#[derive(Debug, Clone)]
pub struct AdminDoorSettings {
    /// Prefix of our own queues, which nobody binds to.
    pub namespace: String,
    /// What a specification leaves unset.
    pub delivery: DeliverySettings,
    /// What a specification leaves unset.
    pub retry: RetrySettings,
    /// What a specification leaves unset.
    pub dead_letter: DeadLetterSettings,
    /// Serve gRPC reflection.
    pub reflection: bool,
}

/// See the module.
#[derive(Debug)]
struct Door {
    administration: Administration,
    settings: AdminDoorSettings,
}

/// Names under which a loopback door may be called; a page in a browser that reaches it under another is refused.
const LOOPBACK_NAMES: [&str; 3] = ["localhost", "127.0.0.1", "[::1]"];

/// Where the door listens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reach {
    /// On loopback, where a browser of this host can be made to go (DNS rebinding).
    Loopback,
    /// Beyond it, under names that only the operator knows.
    Network,
}

/// Guards everything that is served on the admin address, probes and metrics included.
pub fn guarded(routes: axum::Router, reach: Reach) -> axum::Router {
    match reach {
        Reach::Loopback => {
            authority::guarded(routes, authority::Door::Admin, LOOPBACK_NAMES.map(str::to_owned).to_vec())
        }
        Reach::Network => routes,
    }
}

/// The services as routes for an HTTP/2 server, and the switch of their health, which begins with *not serving*.
///
/// # Errors
/// The descriptors for reflection are broken: a bug of the build.
pub async fn routes(
    administration: Administration,
    settings: AdminDoorSettings,
) -> Result<(axum::Router, HealthSwitch), ServeError> {
    let (reporter, health_service) = tonic_health::server::health_reporter();
    let health = HealthSwitch::new(reporter, &SERVICES[..1]);
    // The reporter begins with "serving" for the empty name: whoever asks early must not believe it.
    health.set(false).await;
    let reflection = settings.reflection;
    let door = Arc::new(Door { administration, settings });
    let topology = TopologyServiceServer::new(topology::Topology(door)).max_decoding_message_size(REQUEST_BYTES_MAX);
    let mut routes = Routes::new(health_service).add_service(topology);
    if reflection {
        routes = reflection::added(routes, &SERVICES)?;
    }
    Ok((routes.prepare().into_axum_router(), health))
}
