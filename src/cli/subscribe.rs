//! `sidebus sub`: prints messages and acks each one after it is written. Knows no transport.

use std::io::ErrorKind as IoErrorKind;
use std::time::Duration;

use clap::Args;
use uuid::Uuid;

use super::console::Console;
use super::exit::ExitStatus;
use super::target::{Target, parse_duration};
use crate::grpc::client::{Client, ClientError, Deliveries, Frame, Next, Received, Source};

mod format;

pub use format::Format;

/// Unsettled deliveries at a time.
const WINDOW: u16 = 100;
/// Time for a polite end: what is in flight is settled by then, or goes back by itself.
const LEAVE_GRACE: Duration = Duration::from_secs(5);
/// Label in logs and histories of failures.
const HANDLER: &str = "sidebus sub";

/// Take messages through a running sidecar and print them
#[derive(Debug, Clone, Default, Args)]
pub struct SubscribeArgs {
    /// Binding pattern, such as player.#: every message that fits is copied to a queue of our own, gone with us
    #[arg(required_unless_present = "subscription", conflicts_with = "subscription")]
    pub pattern: Option<String>,
    /// Join this subscription instead: its handlers share the work, and what is printed is taken from the queue
    #[arg(long, value_name = "NAME")]
    pub subscription: Option<String>,
    /// Exchange of the pattern [default: the sidecar's]
    #[arg(long, value_name = "NAME", conflicts_with = "subscription")]
    pub exchange: Option<String>,
    /// End after this many messages
    #[arg(short = 'n', long, value_name = "COUNT", value_parser = clap::value_parser!(u64).range(1..))]
    pub count: Option<u64>,
    /// What is printed of a message
    #[arg(short = 'o', long, value_name = "FORMAT", value_enum, default_value_t = Format::Body)]
    pub output: Format,
    /// End when nothing has come for this time
    #[arg(long, value_name = "TIME", num_args = 0..=1, require_equals = true, default_missing_value = "1s", value_parser = parse_duration)]
    pub exit_on_empty: Option<Duration>,
    /// Which sidecar.
    #[command(flatten)]
    pub target: Target,
}

/// Prints deliveries until the count is reached, nothing more comes, or `stop` ends it. Each is acked after it is
/// written and flushed; what is not printed goes back to the queue.
pub async fn run(args: SubscribeArgs, console: &mut Console<'_>, stop: impl Future<Output = ()>) -> ExitStatus {
    let target = args.target.clone();
    let endpoint = match target.endpoint(console) {
        Ok(endpoint) => endpoint,
        Err(status) => return status,
    };
    let connected = async {
        let client = Client::connect(&endpoint).await?;
        client.subscribe(&source(&args), HANDLER, window(args.count)).await
    };
    let deadline = target.deadline();
    tokio::pin!(stop, deadline);
    let deliveries = tokio::select! {
        biased;
        () = &mut stop => return ExitStatus::Interrupted,
        () = &mut deadline => return timed_out(console),
        deliveries = connected => deliveries,
    };
    let mut reader = match deliveries {
        Ok(deliveries) => Reader { deliveries, format: args.output, left: args.count, active: false, leaving: false },
        Err(error) => return console.fail(&error),
    };
    // Without a count, an interrupt is how this command ends.
    let interrupted = if args.count.is_some() { ExitStatus::Interrupted } else { ExitStatus::Ok };
    let status = loop {
        let quiet = quiet(args.exit_on_empty, reader.active);
        tokio::select! {
            biased;
            () = &mut stop => break interrupted,
            () = &mut deadline => break timed_out(console),
            frame = reader.deliveries.next() => match reader.take(frame, console).await {
                Some(Step::Leave(status)) => break status,
                Some(Step::Over(status)) => return status,
                None => {}
            },
            () = quiet => break ExitStatus::Ok,
        }
    };
    reader.leave(console).await;
    status
}

fn timed_out(console: &mut Console<'_>) -> ExitStatus {
    console.say("TIMEOUT: gave up after --timeout");
    ExitStatus::Timeout
}

fn source(args: &SubscribeArgs) -> Source {
    if let Some(name) = &args.subscription {
        return Source::Subscription(name.clone());
    }
    // The last twelve digits of a version 7 id are random.
    let id = Uuid::now_v7().simple().to_string();
    let (_, random) = id.split_at(id.len() - 12);
    Source::Pattern {
        name: format!("sub-{random}"),
        pattern: args.pattern.clone().unwrap_or_default(),
        exchange: args.exchange.clone().unwrap_or_default(),
    }
}

/// Never more than is still wanted: what we hold, other handlers cannot have.
fn window(left: Option<u64>) -> u16 {
    left.and_then(|left| u16::try_from(left).ok()).map_or(WINDOW, |left| left.min(WINDOW))
}

/// Ends when nothing has come for the time given; a broker that is away says nothing about emptiness.
async fn quiet(time: Option<Duration>, active: bool) {
    match time {
        Some(time) if active => tokio::time::sleep(time).await,
        Some(_) | None => std::future::pending().await,
    }
}

enum Step {
    /// We have had enough.
    Leave(ExitStatus),
    /// The stream is over.
    Over(ExitStatus),
}

struct Reader {
    deliveries: Deliveries,
    format: Format,
    left: Option<u64>,
    active: bool,
    leaving: bool,
}

impl Reader {
    async fn take(&mut self, frame: Result<Option<Frame>, ClientError>, console: &mut Console<'_>) -> Option<Step> {
        let frame = match frame {
            Ok(Some(frame)) => frame,
            Ok(None) => {
                console.say("SIDECAR_DRAINING: the sidecar ended the stream; try: run it again");
                return Some(Step::Over(ExitStatus::Failed));
            }
            Err(error) => return Some(Step::Over(console.fail(&error))),
        };
        for words in &frame.words {
            console.say(words);
        }
        self.active = frame.active.unwrap_or(self.active);
        if frame.deliveries.is_empty() {
            return None;
        }
        let (printed, problem) = self.print(&frame.deliveries, console);
        self.left = self.left.map(|left| left.saturating_sub(printed as u64));
        let (acked, released) = frame.deliveries.split_at(printed);
        let ids = |part: &[Received]| part.iter().map(|received| received.id).collect();
        let next = match self.left {
            _ if problem.is_some() => Next::Leave,
            Some(0) => Next::Leave,
            Some(left) if left < u64::from(WINDOW) => Next::Window(window(Some(left))),
            Some(_) | None => Next::Same,
        };
        self.leaving = next == Next::Leave;
        self.deliveries.settle(ids(acked), ids(released), next).await;
        match problem {
            // The reader of our output has seen enough, as `head` does: that is no failure.
            Some(error) if error.kind() == IoErrorKind::BrokenPipe => Some(Step::Leave(ExitStatus::Ok)),
            Some(error) => {
                console.say(format_args!("cannot write the output: {error}"));
                Some(Step::Leave(ExitStatus::Failed))
            }
            None => self.leaving.then_some(Step::Leave(ExitStatus::Ok)),
        }
    }

    /// How many were written for sure, and what stopped the rest.
    fn print(&self, deliveries: &[Received], console: &mut Console<'_>) -> (usize, Option<std::io::Error>) {
        let wanted = self.left.and_then(|left| usize::try_from(left).ok()).unwrap_or(usize::MAX);
        let mut printed = 0;
        for received in deliveries.iter().take(wanted) {
            let line = format::line(received, self.format);
            // One flush a line: an ack must never be ahead of what the reader of the output can see.
            if let Err(error) = console.output.write_all(&line).and_then(|()| console.output.flush()) {
                return (printed, Some(error));
            }
            printed += 1;
        }
        (printed, None)
    }

    /// Settles what is in flight and waits for the end of the stream, for a while.
    async fn leave(&mut self, console: &mut Console<'_>) {
        if !self.leaving {
            self.deliveries.settle(Vec::new(), Vec::new(), Next::Leave).await;
        }
        let end = async {
            while let Some(frame) = self.deliveries.next().await? {
                let ids = frame.deliveries.iter().map(|received| received.id).collect();
                self.deliveries.settle(Vec::new(), ids, Next::Same).await;
            }
            Ok::<(), ClientError>(())
        };
        match tokio::time::timeout(LEAVE_GRACE, end).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => console.say(error),
            Err(_) => {
                console.say("the sidecar did not end the stream in time; unprinted messages go back by themselves");
            }
        }
    }
}
