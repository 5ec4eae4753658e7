//! Settings: from files, environment and flags to checked values, with every problem named at once.
//!
//! The only room that reads the environment and names the `config` crate. Knows the domain and no other room.

mod settings;

pub use settings::{
    AdminSettings, AmqpSettings, Backend, GrpcSettings, HealthSettings, LimitSettings, ListenAddress, LogFormat,
    LogSettings, PublishSettings, Readiness, Settings, ShutdownSettings,
};
