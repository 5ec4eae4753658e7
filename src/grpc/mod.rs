//! The gRPC door: the only room that names tonic and prost. Knows no broker's client library and no settings file.

pub mod client;
mod consumer;
mod door;
mod frames;
pub mod problem;
pub mod proto;
mod publisher;
mod server;
pub mod status;
pub mod wire;

pub use door::DoorSettings;
pub use server::{DataPlane, HealthSwitch, ServeError};
pub use wire::PublishLimits;
