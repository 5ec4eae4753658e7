//! Everything that needs no real broker.

mod conformance_memory;
mod settings;
