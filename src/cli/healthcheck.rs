//! `sidebus healthcheck`: one probe of a running sidecar over HTTP, for containers without a shell.

use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::args::HealthcheckArgs;
use super::console::Console;
use super::exit::ExitStatus;
use super::settings;
use crate::config::Command;
use crate::domain::masking::masked;

/// A probe that takes longer has failed.
const PROBE_WITHIN: Duration = Duration::from_secs(3);
/// Bytes of an answer that are read.
const ANSWER_BYTES_MAX: u64 = 16 * 1024;

/// Asks, and says the answer.
pub(super) async fn run(args: &HealthcheckArgs, console: &mut Console<'_>) -> ExitStatus {
    let given = match &args.admin_endpoint {
        Some(address) => Some(address.clone()),
        None => match settings::load(Command::Client, &args.settings, console) {
            Ok(loaded) => loaded.settings.client.admin_endpoint,
            Err(status) => return status,
        },
    };
    let Some(address) = given else {
        console.say(
            "neither admin.listen nor health.listen is on a known port: there is nothing to ask; try: --admin-endpoint",
        );
        return ExitStatus::Unhealthy;
    };
    let shown = masked(&address);
    match tokio::time::timeout(PROBE_WITHIN, ask(&address, &args.probe)).await {
        Ok(Ok((200, body))) => {
            console.say(body.trim_end());
            ExitStatus::Ok
        }
        Ok(Ok((_, body))) => {
            console.say(body.trim_end());
            ExitStatus::Unhealthy
        }
        Ok(Err(error)) => {
            console.say(format_args!("no sidecar answers at {shown}: {error}"));
            ExitStatus::Unhealthy
        }
        Err(_) => {
            console.say(format_args!("no answer from {shown} within {} s", PROBE_WITHIN.as_secs()));
            ExitStatus::Unhealthy
        }
    }
}

async fn ask(address: &str, probe: &str) -> std::io::Result<(u16, String)> {
    let mut stream = TcpStream::connect(address).await?;
    let request = format!("GET /{probe} HTTP/1.0\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut answer = Vec::new();
    stream.take(ANSWER_BYTES_MAX).read_to_end(&mut answer).await?;
    let answer = String::from_utf8_lossy(&answer);
    let status = answer.split_whitespace().nth(1).and_then(|code| code.parse().ok());
    let body = answer.split_once("\r\n\r\n").map_or("", |(_, body)| body);
    let status = status.ok_or_else(|| std::io::Error::other("the answer is not HTTP"))?;
    Ok((status, body.to_owned()))
}
