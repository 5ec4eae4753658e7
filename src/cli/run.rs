//! `sidebus run`: the daemon.

use tracing::{info, warn};

use super::args::RunArgs;
use super::console::Console;
use super::exit::ExitStatus;
use super::settings;
use crate::app::{App, Ended, StartError};
use crate::config::{Command, Loaded, LogFormat};
use crate::runtime::Signals;
use crate::telemetry::{logs, metrics};

/// Runs until SIGTERM or SIGINT, drains, ends; a second signal ends it at once.
pub(super) async fn run(args: &RunArgs, console: &mut Console<'_>) -> ExitStatus {
    let loaded = match settings::load(Command::Run, &args.settings, console) {
        Ok(loaded) => loaded,
        Err(status) => return status,
    };
    match prepare(&loaded, console).await {
        Ok((app, signals)) => serve(app, signals, console).await,
        Err(status) => status,
    }
}

/// Begins logs and metrics, listens for signals and binds every socket, in this order: whoever sees our address may stop
/// us, and then we must end as promised.
///
/// # Errors
/// The exit status, after the reason was said.
pub(super) async fn prepare(loaded: &Loaded, console: &mut Console<'_>) -> Result<(App, Signals), ExitStatus> {
    let settings = &loaded.settings;
    let format = match settings.log.format {
        LogFormat::Auto => logs::Format::Auto,
        LogFormat::Human => logs::Format::Human,
        LogFormat::Json => logs::Format::Json,
    };
    if let Err(error) = logs::begin(&settings.log.filter, format) {
        console.say(format_args!("{error}; hint: write directives such as info,sidebus::bridge=debug"));
        return Err(ExitStatus::Settings);
    }
    for warning in &loaded.warnings {
        warn!(setting = %warning.key, origin = %warning.origin, "{}", warning.what);
    }
    let handle = match metrics::install(env!("CARGO_PKG_VERSION")) {
        Ok(handle) => handle,
        Err(error) => {
            console.say(format_args!("metrics cannot begin: {error}"));
            return Err(ExitStatus::Bug);
        }
    };
    info!(version = env!("CARGO_PKG_VERSION"), instance = %settings.instance, "starting");
    let signals = Signals::listen().map_err(|error| {
        console.say(format_args!("signals cannot be listened for: {error}"));
        ExitStatus::Failed
    })?;
    let app = App::bind(settings.clone(), handle).await.map_err(|error| start_failed(&error, console))?;
    Ok((app, signals))
}

/// Runs a bound process until a signal.
pub(super) async fn serve(app: App, mut signals: Signals, console: &mut Console<'_>) -> ExitStatus {
    let stop = async || {
        let signal = signals.next().await;
        info!(signal = signal.as_str(), "asked to stop");
    };
    // Boxed: it holds the whole process, and every caller's future would be as large.
    match Box::pin(app.run(stop)).await {
        Ok(Ended::Drained) => ExitStatus::Ok,
        // Nothing is lost, and something took longer than it should.
        Ok(Ended::CutShort) => ExitStatus::Failed,
        Ok(Ended::Interrupted) => ExitStatus::Interrupted,
        Ok(Ended::Bug(failure)) => {
            console.say(format_args!(
                "{} has failed: {}; start it again, and report it if that does not help",
                failure.task, failure.text
            ));
            ExitStatus::Bug
        }
        Err(error) => start_failed(&error, console),
    }
}

fn start_failed(error: &StartError, console: &mut Console<'_>) -> ExitStatus {
    console.say(error);
    match error {
        StartError::NotBuilt(_) => ExitStatus::Settings,
        StartError::Bind { .. }
        | StartError::Socket { .. }
        | StartError::StateDir { .. }
        | StartError::Clock(_)
        | StartError::Serve(_) => ExitStatus::Failed,
    }
}
