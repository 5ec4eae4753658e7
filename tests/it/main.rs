//! Everything that needs no real broker.

mod conformance_memory;
mod grpc;
mod process;
mod settings;
mod support;
