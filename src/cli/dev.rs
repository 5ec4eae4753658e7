//! `sidebus dev`: the embedded broker, the worked example and sample traffic; needs nothing installed.
//!
//! The traffic goes the way of every other: published over gRPC, handed to a handler over gRPC, acked.

use std::fmt::Write as _;
use std::time::Duration;

use super::args::DevArgs;
use super::console::Console;
use super::exit::ExitStatus;
use super::run as daemon;
use super::settings;
use crate::app::{Addresses, App};
use crate::config::{Command, Settings};
use crate::grpc::client::{Client, ClientError, ErrorKind, Next, Outgoing, Source};
use crate::runtime::Signals;

/// Sample messages a second, and in all: nobody consumes three of the four queues, and memory is not endless.
const EVERY: Duration = Duration::from_secs(1);
const MESSAGES_MAX: u32 = 10_000;
/// Samples that may fail while everything begins.
const WARM_UP: u32 = 10;
/// What is published, in turn.
const SAMPLES: [(&str, &str); 4] = [
    ("player.PlayerRegistered", r#"{"player":"ada","email":"ada@example.com"}"#),
    ("hand.CardsDealt", r#"{"hand":7,"cards":["Ks","Qh"]}"#),
    ("player.FundsDeposited", r#"{"player":"ada","amount":100}"#),
    ("hand.HandFinished", r#"{"hand":7,"winner":"ada"}"#),
];
/// The subscription whose handler is built in; the others are for the reader's own.
const SHOWN: &str = "topology-tracker";
const SHOWN_WINDOW: u16 = 100;

/// Runs until SIGINT or SIGTERM.
pub(super) async fn run(args: &DevArgs, console: &mut Console<'_>) -> ExitStatus {
    let mut flags = args.settings.clone();
    if let Some(port) = args.port {
        flags.listen = Some(format!("127.0.0.1:{port}"));
    }
    if let Some(port) = args.admin_port {
        flags.admin = Some(format!("127.0.0.1:{port}"));
    }
    if flags.log_level.is_none() && flags.set.is_empty() {
        // What happens is shown below; the log would bury it.
        flags.log_level = Some("warn".to_owned());
    }
    let loaded = match settings::load(Command::Dev, &flags, console) {
        Ok(loaded) => loaded,
        Err(status) => return status,
    };
    let (app, signals) = match daemon::prepare(&loaded, console).await {
        Ok(prepared) => prepared,
        Err(status) => return status,
    };
    let addresses = app.addresses().clone();
    // Standard output may be closed; the traffic goes on.
    writeln!(console.output, "{}", banner(&loaded.settings, &addresses)).ok();
    serve(app, signals, args, console).await
}

async fn serve(app: App, signals: Signals, args: &DevArgs, console: &mut Console<'_>) -> ExitStatus {
    let endpoint = app.addresses().endpoint();
    let mut quiet = std::io::sink();
    let mut nothing = tokio::io::empty();
    let mut console_of_daemon = Console { input: &mut nothing, output: &mut quiet, words: &mut *console.words };
    let daemon = daemon::serve(app, signals, &mut console_of_daemon);
    if args.no_traffic {
        return daemon.await;
    }
    let output = &mut *console.output;
    let traffic = async {
        let (publish, show) = (publish(&endpoint), show(&endpoint, output));
        let (published, shown) = tokio::join!(publish, show);
        published.and(shown)
    };
    tokio::pin!(daemon);
    tokio::select! {
        biased;
        status = &mut daemon => return status,
        ended = traffic => if let Err(error) = ended {
            tracing::warn!(%error, "sample traffic has ended; the sidecar goes on");
        },
    }
    daemon.await
}

fn banner(settings: &Settings, addresses: &Addresses) -> String {
    let mut text = String::new();
    let grpc = addresses.endpoint();
    let scheme = if addresses.grpc.is_some() { "grpc://" } else { "unix:" };
    // Writing to a String cannot fail.
    let _ = writeln!(text, "sidebus {}: embedded broker, nothing is kept after the end", env!("CARGO_PKG_VERSION"));
    let _ = writeln!(text, "  handlers and publishers   {scheme}{grpc}   (reflection on)");
    if let Some(admin) = addresses.admin {
        let _ = writeln!(text, "  probes                    http://{admin}/readyz   http://{admin}/livez");
        let _ = writeln!(text, "  metrics                   http://{admin}/metrics");
    }
    let _ = writeln!(text, "  exchange                  {}", settings.exchange.name);
    for subscription in &settings.subscriptions {
        let keys: Vec<&str> = subscription.bindings.iter().map(|binding| binding.routing_key.as_str()).collect();
        let _ = writeln!(text, "  subscription              {:<20} {}", subscription.name.as_str(), keys.join(", "));
    }
    let _ = writeln!(text, "try");
    let _ = writeln!(text, "  sidebus sub --endpoint {grpc} --subscription player-projector");
    let _ = writeln!(text, "  sidebus pub --endpoint {grpc} player.PlayerRegistered '{{\"player\":\"grace\"}}'");
    let _ = write!(text, "stop with Ctrl-C");
    text
}

async fn publish(endpoint: &str) -> Result<(), ClientError> {
    let client = Client::connect(endpoint).await?;
    let mut clock = tokio::time::interval(EVERY);
    for (number, (routing_key, body)) in (0..MESSAGES_MAX).zip(SAMPLES.iter().cycle()) {
        clock.tick().await;
        let message = Outgoing {
            routing_key: (*routing_key).to_owned(),
            content_type: "application/json".to_owned(),
            message_id: format!("sample-{number}"),
            body: bytes::Bytes::from_static(body.as_bytes()),
            ..Outgoing::default()
        };
        match client.publish(vec![message]).await {
            Ok(_) => {}
            // The session is not there yet: samples may be skipped.
            Err(error) if number < WARM_UP && error.kind != ErrorKind::NoSidecar => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

async fn show(endpoint: &str, output: &mut (dyn std::io::Write + Send)) -> Result<(), ClientError> {
    let source = Source::Subscription(SHOWN.to_owned());
    let mut deliveries = Client::connect(endpoint).await?.subscribe(&source, "sidebus dev", SHOWN_WINDOW).await?;
    while let Some(frame) = deliveries.next().await? {
        let mut handled = Vec::new();
        for delivery in frame.deliveries {
            let body = String::from_utf8_lossy(&delivery.message.body);
            // A closed standard output must not keep messages in the queue.
            writeln!(output, "{SHOWN} <- {} {body}", delivery.message.routing_key).ok();
            handled.push(delivery.id);
        }
        output.flush().ok();
        if !handled.is_empty() {
            deliveries.settle(handled, Vec::new(), Next::Same).await;
        }
    }
    Ok(())
}
