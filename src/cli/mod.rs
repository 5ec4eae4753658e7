//! One file per command. Knows no broker and no transport: commands talk to a running sidecar through `grpc::client`.

pub mod args;
pub mod console;
mod dev;
pub mod exit;
mod healthcheck;
pub mod publish;
mod run;
mod settings;
pub mod subscribe;
pub mod target;
mod validate;

#[cfg(test)]
mod fake;
#[cfg(test)]
mod tests;

use args::{Cli, Command};
use console::Console;
use exit::ExitStatus;

use crate::runtime::Signals;

/// Carries a command out.
pub async fn run(cli: Cli, console: &mut Console<'_>) -> ExitStatus {
    match cli.command {
        Command::Run(args) => run::run(&args, console).await,
        Command::Dev(args) => dev::run(&args, console).await,
        Command::Validate(args) => validate::run(&args, console),
        Command::Healthcheck(args) => healthcheck::run(&args, console).await,
        Command::Pub(args) => publish::run(args, console, interrupted()).await,
        Command::Sub(args) => subscribe::run(args, console, interrupted()).await,
    }
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
