//! Sidebus: a sidecar that gives any program a message bus over gRPC.
//!
//! The rooms of the code, one duty each; `ARCHITECTURE.md` says who may know whom.

pub mod admin;
pub mod app;
pub mod bridge;
pub mod broker;
pub mod cli;
pub mod config;
pub mod domain;
pub mod grpc;
pub mod runtime;
pub mod telemetry;

/// Installs the one TLS provider of this process. rustls panics at its first use when two are built in and none is
/// chosen, so this is the first thing that `main` does. A second call changes nothing.
pub fn install_tls_provider() {
    rustls::crypto::ring::default_provider().install_default().ok();
}
