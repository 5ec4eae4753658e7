//! From flags to loaded settings, for every command that needs them.

use std::path::PathBuf;

use super::args::SettingsArgs;
use super::console::Console;
use super::exit::ExitStatus;
use crate::config::{self, Command, Flags, LoadRequest, Loaded};

/// Everything that the settings of a command may come from.
pub(super) fn request(command: Command, args: &SettingsArgs) -> LoadRequest {
    let working_dir = std::env::current_dir().unwrap_or_else(|_| PathBuf::from("."));
    let mut request = LoadRequest::new(command, config::environment(), working_dir);
    request.files.clone_from(&args.config);
    request.overrides.clone_from(&args.set);
    request.flags = Flags {
        backend: args.backend.clone(),
        listen: args.listen.clone(),
        admin: args.admin.clone(),
        log_level: args.log_level.clone(),
    };
    request
}

/// Loads the settings; every problem goes to the console.
///
/// # Errors
/// The exit status for settings that do not hold.
pub(super) fn load(command: Command, args: &SettingsArgs, console: &mut Console<'_>) -> Result<Loaded, ExitStatus> {
    config::load(&request(command, args)).map_err(|problems| {
        console.say(&problems);
        ExitStatus::Settings
    })
}
