//! The command line: which commands there are and what they take. Knows nothing of what they do.
//!
//! `clap`'s `env` feature stays off: it reads the environment and shows values, secrets included, in help texts.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

use super::configuration::ConfigArgs;
use super::publish::PublishArgs;
use super::subscribe::SubscribeArgs;
use super::topology::TopologyCommand;

/// A message bus over gRPC for the program beside it.
#[derive(Debug, Parser)]
#[command(name = "sidebus", version, about, propagate_version = true)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run the sidecar until SIGTERM (needs `BUS_BACKEND` and `AMQP_URL`, or a settings file)
    #[command(alias = "serve")]
    Run(RunArgs),
    /// Run with an embedded broker, the worked example and sample traffic; needs nothing installed
    Dev(DevArgs),
    /// Check the settings and name every problem; opens no socket
    Validate(ValidateArgs),
    /// Show the settings in effect, explain a key, print the schema
    Config(ConfigArgs),
    /// Publish messages through a running sidecar and print their ids
    Pub(PublishArgs),
    /// Receive messages from a running sidecar and print them
    Sub(SubscribeArgs),
    /// Show, make, compare or export exchanges, queues and bindings
    Topology {
        /// What to do with them.
        #[command(subcommand)]
        command: TopologyCommand,
    },
    /// Ask a running sidecar whether it is ready; the container's HEALTHCHECK
    Healthcheck(HealthcheckArgs),
}

/// Where settings come from besides the environment.
#[derive(Debug, Clone, Default, Args)]
pub struct SettingsArgs {
    /// Settings file, or a directory of *.toml; may be repeated, later ones win
    #[arg(short, long = "config", value_name = "FILE")]
    pub config: Vec<PathBuf>,
    /// One setting, such as `bus.amqp.prefetch_count=50`; never a secret, it would stand in `ps`
    #[arg(long = "set", value_name = "KEY=VALUE", value_parser = parse_setting)]
    pub set: Vec<(String, String)>,
    /// Backend: amqp or memory
    #[arg(long, value_name = "NAME")]
    pub backend: Option<String>,
    /// Address for handlers and publishers (grpc.listen)
    #[arg(long, value_name = "ADDRESS")]
    pub listen: Option<String>,
    /// Address for probes and metrics (admin.listen), or off
    #[arg(long, value_name = "ADDRESS")]
    pub admin: Option<String>,
    /// error, warn, info, debug or trace (log.level)
    #[arg(long, value_name = "LEVEL")]
    pub log_level: Option<String>,
}

fn parse_setting(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or("must be KEY=VALUE")?;
    if key.is_empty() { Err("the key is empty".to_owned()) } else { Ok((key.to_owned(), value.to_owned())) }
}

/// `sidebus run`.
#[derive(Debug, Args)]
pub struct RunArgs {
    /// Settings.
    #[command(flatten)]
    pub settings: SettingsArgs,
}

/// `sidebus dev`.
#[derive(Debug, Args)]
pub struct DevArgs {
    /// Settings; without a file the worked example is used.
    #[command(flatten)]
    pub settings: SettingsArgs,
    /// Port for handlers and publishers on 127.0.0.1; 0 = any free one
    #[arg(long, value_name = "PORT", conflicts_with = "listen")]
    pub port: Option<u16>,
    /// Port for probes and metrics on 127.0.0.1; 0 = any free one
    #[arg(long, value_name = "PORT", conflicts_with = "admin")]
    pub admin_port: Option<u16>,
    /// Publish nothing and handle nothing by itself
    #[arg(long)]
    pub no_traffic: bool,
}

/// `sidebus validate`.
#[derive(Debug, Args)]
pub struct ValidateArgs {
    /// Settings.
    #[command(flatten)]
    pub settings: SettingsArgs,
    /// Treat warnings as problems
    #[arg(long)]
    pub deny_warnings: bool,
}

/// `sidebus healthcheck`.
#[derive(Debug, Args)]
pub struct HealthcheckArgs {
    /// Settings, for the address to ask.
    #[command(flatten)]
    pub settings: SettingsArgs,
    /// Which probe: readyz, livez or startupz
    #[arg(long, default_value = "readyz", value_parser = ["readyz", "livez", "startupz"])]
    pub probe: String,
    /// Address to ask instead of admin.listen or health.listen
    #[arg(long, value_name = "ADDRESS")]
    pub admin_endpoint: Option<String>,
}
