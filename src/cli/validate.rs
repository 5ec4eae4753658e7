//! `sidebus validate`: checks the settings as `run` would and opens no socket.

use super::args::ValidateArgs;
use super::console::{Console, counted};
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
    let words = [
        counted(loaded.settings.subscriptions.len(), "subscription"),
        format!("{} given", counted(loaded.origins.len(), "value")),
        counted(loaded.warnings.len(), "warning"),
    ];
    console.say(format_args!("settings are valid: {}", words.join(", ")));
    if args.deny_warnings && !loaded.warnings.is_empty() { ExitStatus::Settings } else { ExitStatus::Ok }
}
