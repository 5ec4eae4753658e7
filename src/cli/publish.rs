//! `sidebus pub`: publishes from an argument, a file of lines or standard input. Knows no transport.

use std::collections::BTreeMap;
use std::io::Write;
use std::time::Duration;

use bytes::Bytes;
use clap::Args;
use serde_json::Value as Json;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _};

use super::console::{Console, counted};
use super::exit::ExitStatus;
use super::target::Target;
use crate::grpc::client::{Client, ClientError, Outgoing};

mod line;

/// Messages of one request; the sidecar takes 500.
const BATCH_MESSAGES_MAX: usize = 500;
/// Bodies of one request; a larger one travels alone. The sidecar's receive limit is 17 MiB unless configured.
const BATCH_BYTES_MAX: usize = 4 * 1024 * 1024;
/// A line that waits for company does not wait longer: `tail -f | sidebus pub --jsonl` must flow.
const LINE_WAIT: Duration = Duration::from_millis(20);

/// Publish messages through a running sidecar and print their ids
#[derive(Debug, Clone, Default, Args)]
pub struct PublishArgs {
    /// Routing key, such as player.PlayerRegistered; with --jsonl the key of lines that have none
    #[arg(required_unless_present = "jsonl")]
    pub key: Option<String>,
    /// Body; `-` or nothing reads standard input
    pub body: Option<String>,
    /// Header of every message; may be repeated
    #[arg(short = 'H', long = "header", value_name = "NAME=VALUE", value_parser = parse_header)]
    pub headers: Vec<(String, String)>,
    /// Exchange to publish to; `@default` is AMQP's nameless one [default: the sidecar's]
    #[arg(long, value_name = "NAME")]
    pub exchange: Option<String>,
    /// Publish the message this many times
    #[arg(short = 'n', long, value_name = "COUNT", default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..))]
    pub count: u64,
    /// MIME type of the body
    #[arg(long, value_name = "TYPE")]
    pub content_type: Option<String>,
    /// Read one JSON object a line, with `routing_key`, `exchange`, `content_type`, `message_id`, `headers`, `body` or
    /// `body_base64`, as `sub -o json` prints; the first line that is none ends it, and the lines behind it are not sent
    #[arg(long, conflicts_with_all = ["body", "count"])]
    pub jsonl: bool,
    /// Which sidecar.
    #[command(flatten)]
    pub target: Target,
}

fn parse_header(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or("must be NAME=VALUE")?;
    if name.is_empty() { Err("the name is empty".to_owned()) } else { Ok((name.to_owned(), value.to_owned())) }
}

/// Publishes; ids go to the output, one a line and in order. `stop` ends it early. After an error or an end the ids
/// printed are those of the messages that are stored for sure.
pub async fn run(args: PublishArgs, console: &mut Console<'_>, stop: impl Future<Output = ()>) -> ExitStatus {
    let mut stored = 0;
    let target = args.target.clone();
    let endpoint = match target.endpoint(console) {
        Ok(endpoint) => endpoint,
        Err(status) => return status,
    };
    let status = {
        let work = async { publish_all(args, &endpoint, console, &mut stored).await };
        tokio::select! {
            biased;
            () = stop => Err(Ended::Stopped),
            () = target.deadline() => Err(Ended::TimedOut),
            result = work => result,
        }
    };
    let status = match status {
        Ok(()) => ExitStatus::Ok,
        Err(Ended::Call(error)) => console.fail(&error),
        Err(Ended::Input(problem)) => {
            console.say(problem);
            ExitStatus::Failed
        }
        Err(Ended::Stopped) => ExitStatus::Interrupted,
        Err(Ended::TimedOut) => {
            console.say("TIMEOUT: gave up after --timeout; what was sent last may be stored");
            ExitStatus::Timeout
        }
    };
    if stored > 0 {
        console.say(format_args!("published {}", counted(stored, "message")));
    }
    let failed = !matches!(status, ExitStatus::Ok | ExitStatus::Interrupted | ExitStatus::Timeout);
    if failed && stored > 0 { ExitStatus::Partial } else { status }
}

enum Ended {
    Call(ClientError),
    Input(String),
    Stopped,
    TimedOut,
}

impl From<ClientError> for Ended {
    fn from(error: ClientError) -> Self {
        Self::Call(error)
    }
}

async fn publish_all(
    args: PublishArgs,
    endpoint: &str,
    console: &mut Console<'_>,
    stored: &mut u64,
) -> Result<(), Ended> {
    let template = Outgoing {
        exchange: args.exchange.unwrap_or_default(),
        routing_key: args.key.unwrap_or_default(),
        content_type: args.content_type.unwrap_or_default(),
        message_id: String::new(),
        headers: args.headers.into_iter().map(|(name, value)| (name, Json::String(value))).collect::<BTreeMap<_, _>>(),
        body: Bytes::new(),
    };
    // First of all: with nobody there, reading a long input would be in vain.
    let client = Client::connect(endpoint).await?;
    if args.jsonl {
        return publish_lines(&client, &template, console, stored).await;
    }
    let body = match args.body {
        Some(body) if body != "-" => Bytes::from(body),
        Some(_) | None => read_all(console).await?,
    };
    let message = Outgoing { body, ..template };
    let batch_max = (BATCH_BYTES_MAX / message.body.len().max(1)).clamp(1, BATCH_MESSAGES_MAX);
    let mut left = args.count;
    while left > 0 {
        let count = usize::try_from(left).unwrap_or(usize::MAX).min(batch_max);
        publish_batch(&client, vec![message.clone(); count], console.output, stored).await?;
        left -= count as u64;
    }
    Ok(())
}

async fn read_all(console: &mut Console<'_>) -> Result<Bytes, Ended> {
    let mut body = Vec::new();
    let read = console.input.read_to_end(&mut body).await;
    read.map_err(|error| Ended::Input(format!("cannot read standard input: {error}")))?;
    Ok(Bytes::from(body))
}

/// Sends lines as they come, together where they come together.
async fn publish_lines(
    client: &Client,
    template: &Outgoing,
    console: &mut Console<'_>,
    stored: &mut u64,
) -> Result<(), Ended> {
    let Console { input, output, .. } = console;
    let mut lines = (&mut **input).lines();
    let mut number = 0_u64;
    let mut batch = Batch::default();
    loop {
        let next = if batch.messages.is_empty() {
            Some(lines.next_line().await)
        } else {
            // Cancel-safe: a line half read stays in `lines`.
            tokio::time::timeout(LINE_WAIT, lines.next_line()).await.ok()
        };
        let late = next.is_none();
        let ended = match next {
            None => None,
            Some(Ok(Some(text))) => {
                number += 1;
                let added = line::parse(&text, template).map(|message| batch.extend(message));
                added.err().map(|problem| Err(Ended::Input(bad_line(number, &problem))))
            }
            Some(Ok(None)) => Some(Ok(())),
            Some(Err(error)) => Some(Err(Ended::Input(format!("cannot read standard input: {error}")))),
        };
        if batch.is_full() || ended.is_some() || late {
            publish_batch(client, batch.take(), *output, stored).await?;
        }
        if let Some(ended) = ended {
            return ended;
        }
    }
}

/// What was before it is sent first, so that the ids printed tell where to go on.
fn bad_line(number: u64, problem: &str) -> String {
    format!("line {number}: {problem}; neither this line nor those behind it were sent")
}

#[derive(Default)]
struct Batch {
    messages: Vec<Outgoing>,
    bytes: usize,
}

impl Batch {
    fn extend(&mut self, message: Option<Outgoing>) {
        self.bytes += message.as_ref().map_or(0, |message| message.body.len());
        self.messages.extend(message);
    }

    fn is_full(&self) -> bool {
        self.messages.len() >= BATCH_MESSAGES_MAX || self.bytes >= BATCH_BYTES_MAX
    }

    fn take(&mut self) -> Vec<Outgoing> {
        self.bytes = 0;
        std::mem::take(&mut self.messages)
    }
}

async fn publish_batch(
    client: &Client,
    batch: Vec<Outgoing>,
    output: &mut (dyn Write + Send),
    stored: &mut u64,
) -> Result<(), Ended> {
    if batch.is_empty() {
        return Ok(());
    }
    let ids = client.publish(batch).await?;
    *stored += ids.len() as u64;
    let text: String = ids.into_iter().flat_map(|id| [id, "\n".to_owned()]).collect();
    // A reader that has gone does not undo what is published.
    output.write_all(text.as_bytes()).and_then(|()| output.flush()).ok();
    Ok(())
}
