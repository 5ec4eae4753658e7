//! One file or folder per command. Knows no transport: commands talk to a running sidecar through `grpc::client`, and
//! those that go to the broker themselves know its port and no backend.

pub mod args;
pub mod configuration;
pub mod console;
mod dev;
pub mod exit;
mod healthcheck;
pub mod publish;
mod run;
mod settings;
pub mod subscribe;
pub mod target;
pub mod topology;
mod validate;

#[cfg(test)]
mod fake;
#[cfg(test)]
mod tests;

use std::borrow::Cow;
use std::io::Write;

use clap::error::ErrorKind;

use self::args::{Cli, Command};
use self::console::Console;
use self::exit::ExitStatus;
use crate::domain::masking::masked;
use crate::runtime::Signals;

/// Carries a command out.
pub async fn run(cli: Cli, console: &mut Console<'_>) -> ExitStatus {
    match cli.command {
        Command::Run(args) => run::run(&args, console).await,
        Command::Dev(args) => Box::pin(dev::run(&args, console)).await,
        Command::Validate(args) => validate::run(&args, console),
        Command::Config(args) => configuration::run(&args, console),
        Command::Healthcheck(args) => healthcheck::run(&args, console).await,
        Command::Pub(args) => publish::run(args, console, interrupted()).await,
        Command::Topology { command } => topology::run(command, console, interrupted()).await,
        Command::Sub(args) => subscribe::run(args, console, interrupted()).await,
    }
}

/// Says what is wrong with a command line, or prints the help or the version that it asks for.
pub fn answer(error: &clap::Error, words: &mut dyn Write) -> ExitStatus {
    if matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion) {
        // Help and version are answers, not mistakes. A closed terminal is no reason to fail.
        error.print().ok();
        return ExitStatus::Ok;
    }
    // What is wrong is quoted, and may be an address that was meant for another place.
    match masked(&error.render().to_string()) {
        Cow::Borrowed(_) => error.print().ok(),
        Cow::Owned(said) => write!(words, "{said}").ok(),
    };
    ExitStatus::Usage
}

/// Waits for the first SIGINT or SIGTERM.
async fn interrupted() {
    match Signals::listen() {
        Ok(mut signals) => {
            signals.next().await;
        }
        // Without a handler the system's own default ends the process.
        Err(_) => std::future::pending().await,
    }
}
