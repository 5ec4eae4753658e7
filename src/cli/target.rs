//! The flags of every command that talks to a running sidecar. Knows no command.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;

use super::args::SettingsArgs;
use super::console::Console;
use super::exit::ExitStatus;
use super::settings;
use crate::config::Command;

/// Which sidecar, and how long to try.
#[derive(Debug, Clone, Default, Args)]
pub struct Target {
    /// Sidecar to talk to: host:port or the path of a Unix socket [default: client.endpoint of the settings, else the
    /// address that they listen on]
    #[arg(long, value_name = "ADDRESS")]
    pub endpoint: Option<String>,
    /// Settings file that says where the sidecar is, or a directory of *.toml; may be repeated, later ones win
    #[arg(short, long = "config", value_name = "FILE")]
    pub config: Vec<PathBuf>,
    /// Give up after this time, such as 500ms, 10s or 1m30s, with exit code 124
    #[arg(long, value_name = "TIME", value_parser = parse_duration)]
    pub timeout: Option<Duration>,
}

impl Target {
    /// The address given, else that of the settings; with an address the settings are not read at all.
    ///
    /// # Errors
    /// The exit status, after the reason was said.
    pub fn endpoint(&self, console: &mut Console<'_>) -> Result<String, ExitStatus> {
        if let Some(endpoint) = &self.endpoint {
            return Ok(endpoint.clone());
        }
        let settings = SettingsArgs { config: self.config.clone(), ..SettingsArgs::default() };
        let loaded = settings::load(Command::Client, &settings, console)?;
        loaded.settings.client.endpoint.ok_or_else(|| {
            console.say("grpc.listen is off or on a port that the system chooses; try: --endpoint, or client.endpoint");
            ExitStatus::Unreachable
        })
    }

    /// Ends when the time is over; never without a limit.
    pub async fn deadline(&self) {
        match self.timeout {
            Some(timeout) => tokio::time::sleep(timeout).await,
            None => std::future::pending().await,
        }
    }
}

/// Reads `250ms`, `10s`, `1h30m`: whole numbers, each with its unit, at most a year in all.
///
/// # Errors
/// What a duration looks like.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    const YEAR: Duration = Duration::from_hours(365 * 24);
    let wrong = || format!("{text:?} is not a duration such as 250ms, 10s or 1h30m");
    let mut total = Duration::ZERO;
    let mut rest = text;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit()).ok_or_else(wrong)?;
        let (number, tail) = rest.split_at(digits);
        let unit = tail.find(|c: char| c.is_ascii_digit()).unwrap_or(tail.len());
        let (unit, tail) = tail.split_at(unit);
        let millis: u64 = match unit {
            "ms" => 1,
            "s" => 1_000,
            "m" => 60_000,
            "h" => 3_600_000,
            _ => return Err(wrong()),
        };
        let number: u64 = number.parse().map_err(|_| wrong())?;
        total = total.saturating_add(Duration::from_millis(number.saturating_mul(millis)));
        rest = tail;
    }
    if text.is_empty() || total > YEAR { Err(wrong()) } else { Ok(total) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_duration_needs_units() {
        for (text, millis) in [("250ms", 250), ("10s", 10_000), ("1h30m", 5_400_000), ("0s", 0)] {
            assert_eq!(parse_duration(text), Ok(Duration::from_millis(millis)), "{text}");
        }
        for text in ["", "10", "s", "1d", "-1s", "1.5s", "1s5", "99999999999999999999s", "9000h"] {
            assert!(parse_duration(text).is_err(), "{text:?}");
        }
    }
}
