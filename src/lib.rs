//! Sidebus: a sidecar that gives any program a message bus over gRPC.
//!
//! The rooms of the code, one duty each; `ARCHITECTURE.md` says who may know whom.

pub mod bridge;
pub mod broker;
pub mod cli;
pub mod config;
pub mod domain;
pub mod grpc;
pub mod runtime;
pub mod telemetry;
