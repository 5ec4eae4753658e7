//! `sidebus topology`: what a sidecar wants on its broker, shown, made, compared and exported.
//!
//! Reads the settings and goes to the broker itself, through the port; which backend it is, `app` decides.

use std::sync::Arc;
use std::time::Duration;

use clap::{Args, Subcommand, ValueEnum};

use super::args::SettingsArgs;
use super::console::Console;
use super::exit::ExitStatus;
use super::settings;
use super::target::parse_duration;
use crate::app;
use crate::broker::{Broker, BrokerError, Session, SessionId};
use crate::config::{Backend, Command, Settings};
use crate::domain::desired::Desired;
use crate::domain::masking::masked;

mod apply;
mod diff;
mod export;
mod graph;
mod json;
mod plan;
mod release;
mod words;

/// How long a session may take to close.
const CLOSE_WITHIN: Duration = Duration::from_secs(2);

/// What to do with the topology.
#[derive(Debug, Clone, Subcommand)]
pub enum TopologyCommand {
    /// Show what would be made, in order; needs no broker
    Plan(PlanArgs),
    /// Make on the broker what is missing; what exists is used as it is
    ///
    /// Each subscription is a part, and so is what all share. Exit code: 0 = no part failed; 3 = some parts are there and
    /// some failed; if every part failed, that of the first failure: 7 = something exists that does not fit, or what it
    /// builds on is missing; 6 = a right is missing; 5 = the broker was lost.
    Apply(LiveArgs),
    /// Compare the settings with the broker and touch nothing
    ///
    /// Exit code: 7 = something differs or is missing; 3 = bus.amqp.management.url is set, and yet not all could be told.
    /// Without it arguments, bindings and policies are unknown, which is expected: 0 = nothing that could be seen differs.
    Diff(LiveArgs),
    /// Print exchanges, queues and bindings for other tools; needs no broker
    Export(ExportArgs),
}

/// What is looked at.
#[derive(Debug, Clone, Args)]
pub struct Selection {
    /// Settings.
    #[command(flatten)]
    pub settings: SettingsArgs,
    /// Only what this subscription needs
    #[arg(long, value_name = "NAME")]
    pub subscription: Option<String>,
    /// All 81 delay slots too, which are otherwise made on first need: for sidecars that may not declare them
    #[arg(long)]
    pub delay_slots: bool,
}

/// `sidebus topology plan`.
#[derive(Debug, Clone, Args)]
pub struct PlanArgs {
    /// What is looked at.
    #[command(flatten)]
    pub selection: Selection,
    /// How it is printed
    #[arg(short = 'o', long, value_name = "FORMAT", value_enum, default_value_t = Output::Text)]
    pub output: Output,
}

/// `sidebus topology apply` and `sidebus topology diff`.
#[derive(Debug, Clone, Args)]
pub struct LiveArgs {
    /// What is looked at.
    #[command(flatten)]
    pub selection: Selection,
    /// How it is printed
    #[arg(short = 'o', long, value_name = "FORMAT", value_enum, default_value_t = Output::Text)]
    pub output: Output,
    /// Give up after this time, such as 500ms, 10s or 1m30s, with exit code 124
    #[arg(long, value_name = "TIME", value_parser = parse_duration)]
    pub timeout: Option<Duration>,
}

/// `sidebus topology export`.
#[derive(Debug, Clone, Args)]
pub struct ExportArgs {
    /// What is looked at.
    #[command(flatten)]
    pub selection: Selection,
    /// What it is for
    #[arg(long, value_name = "FORMAT", value_enum, default_value_t = Format::Text)]
    pub format: Format,
}

/// How data is printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Output {
    /// Lines for people
    Text,
    /// One JSON object
    Json,
}

/// What an export is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// Lines for people
    Text,
    /// One JSON object
    Json,
    /// `RabbitMQ`'s own: `rabbitmqctl import_definitions`
    Definitions,
    /// Graphviz
    Dot,
    /// Mermaid, as GitHub and GitLab show it
    Mermaid,
}

/// Carries a command out; `stop` ends it early.
pub(super) async fn run(
    command: TopologyCommand,
    console: &mut Console<'_>,
    stop: impl Future<Output = ()>,
) -> ExitStatus {
    let ended = match command {
        TopologyCommand::Plan(args) => plan::run(&args, console),
        TopologyCommand::Export(args) => export::run(&args, console),
        TopologyCommand::Apply(args) => {
            let timeout = args.timeout;
            bounded(timeout, stop, console, async |console| apply::run(&args, console).await).await
        }
        TopologyCommand::Diff(args) => {
            let timeout = args.timeout;
            bounded(timeout, stop, console, async |console| diff::run(&args, console).await).await
        }
    };
    ended.unwrap_or_else(|status| status)
}

/// The end of a command; an error is a status whose reason was said.
type Ended = Result<ExitStatus, ExitStatus>;

/// Ends work early when it is stopped or takes too long.
async fn bounded<'c>(
    timeout: Option<Duration>,
    stop: impl Future<Output = ()>,
    console: &mut Console<'c>,
    work: impl AsyncFnOnce(&mut Console<'c>) -> Ended,
) -> Ended {
    let deadline = async {
        match timeout {
            Some(timeout) => tokio::time::sleep(timeout).await,
            None => std::future::pending().await,
        }
    };
    let early = tokio::select! {
        biased;
        () = stop => ExitStatus::Interrupted,
        () = deadline => ExitStatus::Timeout,
        ended = work(console) => return ended,
    };
    if early == ExitStatus::Timeout {
        console.say("TIMEOUT: gave up after --timeout; what was made stays");
    }
    Err(early)
}

/// The settings and what they want.
fn wanted(
    command: Command,
    selection: &Selection,
    console: &mut Console<'_>,
) -> Result<(Settings, Desired), ExitStatus> {
    let loaded = settings::load(command, &selection.settings, console)?;
    for warning in &loaded.warnings {
        console.say(format_args!("warning: {warning}"));
    }
    let settings = loaded.settings;
    let all = app::desired(&settings);
    let mut desired = match &selection.subscription {
        None => all,
        Some(name) => {
            let known: Vec<String> = all.subscriptions().iter().map(ToString::to_string).collect();
            all.only(name).ok_or_else(|| {
                let known = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
                let name = masked(name);
                console.say(format_args!("the settings name no subscription {name:?}; they name {known}"));
                ExitStatus::NotFound
            })?
        }
    };
    if selection.delay_slots {
        desired = desired.with_delay_slots(&settings.namespace).map_err(|error| {
            console.say(format_args!("delay slots below bus.amqp.namespace have no good name: it {error}"));
            ExitStatus::Settings
        })?;
    }
    Ok((settings, desired))
}

/// A broker that is really there, and a session with it.
async fn connect(settings: &Settings, console: &mut Console<'_>) -> Result<Live, ExitStatus> {
    if matches!(settings.backend, Backend::Memory { .. }) {
        console.say("bus.backend is memory, which no other process can see: set bus.backend = \"amqp\" (BUS_BACKEND)");
        return Err(ExitStatus::Settings);
    }
    let broker = app::broker(settings).map_err(|error| {
        console.say(error);
        ExitStatus::Settings
    })?;
    let session = broker.connect(SessionId(1)).await.map_err(|error| failed(&error, console))?;
    Ok(Live { broker, session })
}

/// A broker and the session with it.
#[derive(Debug)]
struct Live {
    broker: Arc<dyn Broker>,
    session: Arc<dyn Session>,
}

impl Live {
    /// Such as `RabbitMQ 3.10.8 at amqp://rabbit:5672`.
    fn describe(&self) -> String {
        let found = self.session.capabilities();
        format!("{} {} at {}", found.product, found.version, self.broker.endpoint())
    }

    async fn close(&self) {
        self.session.close(CLOSE_WITHIN).await;
    }
}

/// Says why, and what to try.
fn failed(error: &BrokerError, console: &mut Console<'_>) -> ExitStatus {
    console.say(format_args!("{error}; hint: {}", error.hint()));
    status_of(error)
}

/// The published code for what the broker or the way to it did.
fn status_of(error: &BrokerError) -> ExitStatus {
    match error {
        BrokerError::Unreachable { .. }
        | BrokerError::Tls { .. }
        | BrokerError::TimedOut { .. }
        | BrokerError::SessionLost { .. }
        | BrokerError::Unparsable { .. }
        | BrokerError::Blocked { .. } => ExitStatus::Unreachable,
        BrokerError::LoginRefused { .. } | BrokerError::VhostRefused { .. } | BrokerError::AccessRefused { .. } => {
            ExitStatus::Refused
        }
        BrokerError::Unreadable { .. } => ExitStatus::Settings,
        BrokerError::Mismatch { .. } | BrokerError::Missing { .. } => ExitStatus::Mismatch,
        BrokerError::Locked { .. }
        | BrokerError::ConsumerCancelled { .. }
        | BrokerError::ChannelClosed { .. }
        | BrokerError::Unsupported { .. } => ExitStatus::Failed,
    }
}

/// Prints data. A reader that has gone is no failure; a full disk is.
fn print(text: &str, console: &mut Console<'_>) -> Result<(), ExitStatus> {
    let written = writeln!(console.output, "{}", text.trim_end_matches('\n')).and_then(|()| console.output.flush());
    match written {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
            console.say(format_args!("cannot write: {error}"));
            Err(ExitStatus::Failed)
        }
        Ok(()) | Err(_) => Ok(()),
    }
}
