//! `sidebus validate`: checks the settings as `run` would and opens no socket.

use super::args::ValidateArgs;
use super::console::Console;
use super::exit::ExitStatus;
use super::settings;
use crate::config::Command;

/// Checks, and says what it found.
pub(super) fn run(args: &ValidateArgs, console: &mut Console<'_>) -> ExitStatus {
    let loaded = match settings::load(Command::Validate, &args.settings, console) {
        Ok(loaded) => loaded,
        Err(status) => return status,
    };
    for warning in &loaded.warnings {
        console.say(format_args!("warning: {warning}"));
    }
    let (warnings, subscriptions) = (loaded.warnings.len(), loaded.settings.subscriptions.len());
    console.say(format_args!(
        "settings are valid: {subscriptions} subscriptions, {} values given, {warnings} warnings",
        loaded.origins.len()
    ));
    if args.deny_warnings && warnings > 0 { ExitStatus::Settings } else { ExitStatus::Ok }
}
