//! From the settings of the process to those of its gRPC doors. Knows no socket.

use crate::config::{ListenAddress, Settings};
use crate::grpc::admin::{AdminDoorSettings, Reach};
use crate::grpc::{DoorSettings, PublishLimits as WireLimits, PublishWindow, TransportSettings};

/// The door for tools.
pub(super) fn admin(settings: &Settings) -> AdminDoorSettings {
    AdminDoorSettings {
        namespace: settings.namespace.clone(),
        delivery: settings.delivery.clone(),
        retry: settings.retry.clone(),
        dead_letter: settings.dead_letter.clone(),
        reflection: settings.admin.listen.as_ref().is_some_and(ListenAddress::is_loopback),
    }
}

/// Where the door for tools can be reached from.
pub(super) fn reach(settings: &Settings) -> Reach {
    let is_loopback = settings.admin.listen.as_ref().is_none_or(ListenAddress::is_loopback);
    if is_loopback { Reach::Loopback } else { Reach::Network }
}

/// The door for handlers and publishers.
pub(super) fn data(settings: &Settings) -> DoorSettings {
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
        publish_window: PublishWindow { messages: settings.publish.window, bytes: settings.publish.window_bytes },
        window_bytes: settings.grpc.window_bytes,
        handlers_may_declare: settings.grpc.handlers_may_declare,
        open_timeout: settings.limits.open_timeout,
        reflection: settings.grpc.reflection,
        transport: TransportSettings {
            allowed_authorities: settings.grpc.allowed_authorities.clone(),
            connections_per_peer: settings.limits.connections_per_peer,
            streams_per_connection: settings.limits.streams_per_connection,
            keepalive_interval: settings.grpc.keepalive_interval,
            keepalive_timeout: settings.grpc.keepalive_timeout,
        },
    }
}
