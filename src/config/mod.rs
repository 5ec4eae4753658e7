//! Settings: from files, environment and flags to checked values, with every problem named at once.
//!
//! The only room that reads the environment and names the `config` crate. Knows the domain and no other room.

mod address;
mod amqp_url;
mod arguments;
mod choices;
mod convert;
mod environment;
mod exchanges;
mod file;
mod flags;
mod keys;
mod load;
mod names;
mod path;
mod problem;
mod process;
mod queue_rules;
mod queues;
mod settings;
mod shape;
mod tree;
mod typed;
mod value;
mod values;
mod words;

pub use environment::environment;
pub use load::{Command, Flags, LoadRequest, Loaded, SYSTEM_FILE, load};
pub use problem::{Problem, Problems, Warning};
pub use settings::{
    AdminSettings, AmqpSettings, Backend, GrpcSettings, HealthSettings, LimitSettings, ListenAddress, LogFormat,
    LogSettings, PublishSettings, Readiness, Settings, ShutdownSettings,
};

/// The promised worked example as TOML, as `config/sidebus.toml` holds it: one exchange, four queues, dead letters.
/// [`load`] takes it for [`Command::Dev`] where no settings file is found.
pub fn worked_example() -> &'static str {
    include_str!("../../config/sidebus.toml")
}
