//! The gRPC door: the only room that names tonic and prost. Knows no broker's client library and no settings file.

pub mod problem;
pub mod proto;
pub mod status;
