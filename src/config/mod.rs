//! Settings: from files, environment and flags to checked values, with every problem named at once.
//!
//! The only room that reads the environment and names the `config` crate. Knows the domain and no other room.

mod access;
mod address;
mod amqp_url;
mod arguments;
mod budget;
mod choices;
mod client;
mod convert;
mod effective;
mod environment;
mod exchanges;
mod file;
mod flags;
mod keys;
mod load;
mod login;
mod management;
mod names;
mod path;
mod patterns;
mod problem;
mod process;
mod queue_rules;
mod queues;
mod reference;
mod render;
mod settings;
mod shape;
mod tls;
mod tree;
mod typed;
mod value;
mod values;
mod words;

pub use access::AccessFiles;
pub use effective::{Effective, Origin, Shown, show};
pub use environment::environment;
pub use load::{Command, Flags, LoadRequest, Loaded, SYSTEM_FILE, load};
pub use problem::{Problem, Problems, Warning};
pub use reference::{NoSuchKey, explain, markdown, schema};
pub use settings::{
    AdminSettings, AmqpSettings, Backend, ClientSettings, GrpcSettings, HealthSettings, LimitSettings, ListenAddress,
    LogFormat, LogSettings, Login, ManagementSettings, Node, PublishSettings, Readiness, Settings, ShutdownSettings,
    SocketSettings, TlsSettings,
};

/// The promised worked example as TOML, as `config/sidebus.toml` holds it: one exchange, four queues, dead letters.
/// [`load`] takes it for [`Command::Dev`] where no settings file is found.
pub fn worked_example() -> &'static str {
    include_str!("../../config/sidebus.toml")
}
