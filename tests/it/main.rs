//! Everything that needs no broker.

mod settings;
