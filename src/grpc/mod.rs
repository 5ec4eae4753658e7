//! The gRPC door: the only room that names tonic and prost. Knows no broker's client library and no settings file.

pub mod admin;
mod answers;
mod authority;
pub mod client;
mod consumer;
mod door;
mod frames;
mod peers;
mod presence;
pub mod problem;
pub mod proto;
mod publish_stream;
mod publisher;
mod reflection;
mod server;
mod socket;
pub mod status;
pub mod wire;

pub use door::{DoorSettings, PublishWindow, TransportSettings};
pub use server::{DataPlane, HealthSwitch, ServeError};
pub use wire::PublishLimits;
