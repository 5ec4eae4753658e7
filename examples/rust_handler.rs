//! A handler in Rust: subscribes, settles once a frame, leaves on SIGTERM, comes back after any loss. Needs tonic and the
//! generated stubs, nothing else of Sidebus.
//!
//! ```text
//! cargo run --example rust_handler -- player-projector 'player.#'
//! ```

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "it talks to a terminal")]

use std::error::Error;
use std::time::Duration;

use sidebus::grpc::proto::sidebus::v1 as pb;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use pb::consumer_service_client::ConsumerServiceClient;
use pb::settlement::Verdict;

/// Wait before the next try when the sidecar is away.
const RECONNECT: Duration = Duration::from_secs(1);

/// What a handler may find wrong with a message.
enum Refusal {
    /// No attempt will ever succeed.
    Invalid(String),
    /// The next one may.
    #[expect(dead_code, reason = "this handler needs nothing that could be away")]
    Later(String),
}

/// The work itself.
fn handle(message: &pb::Message) -> Result<(), Refusal> {
    let body = std::str::from_utf8(&message.body).map_err(|error| Refusal::Invalid(error.to_string()))?;
    println!("{} {body}", message.routing_key);
    Ok(())
}

fn settle(delivery: &pb::Delivery) -> pb::Settlement {
    let message = delivery.message.as_ref().ok_or_else(|| Refusal::Invalid("no message".to_owned()));
    let verdict = match message.and_then(handle) {
        Ok(()) => Verdict::Ack(pb::Ack::default()),
        Err(Refusal::Invalid(description)) => {
            Verdict::DeadLetter(pb::DeadLetter { reason: "INVALID".into(), description })
        }
        Err(Refusal::Later(description)) => {
            Verdict::Retry(pb::Retry { delay: None, reason: "UNEXPECTED".into(), description })
        }
    };
    pb::Settlement { delivery_ids: vec![delivery.id], verdict: Some(verdict) }
}

/// One stream, from open to its end. `leaving` stays true after SIGTERM, however the stream ends then.
async fn serve(
    endpoint: &str,
    open: pb::SubscribeOpen,
    (stop, leaving): (&mut Signal, &mut bool),
) -> Result<(), Box<dyn Error>> {
    // host:port, or unix:/path of the sidecar's socket.
    let address = if endpoint.starts_with("unix:") { endpoint.to_owned() } else { format!("http://{endpoint}") };
    let mut client = ConsumerServiceClient::connect(address).await?;
    let (out, requests) = mpsc::channel(16);
    out.send(pb::SubscribeRequest { open: Some(open), ..Default::default() }).await?;
    let mut frames = client.subscribe(ReceiverStream::new(requests)).await?.into_inner();
    loop {
        let request = tokio::select! {
            frame = frames.message() => {
                let Some(frame) = frame? else { return Ok(()) };
                pb::SubscribeRequest { settlements: frame.deliveries.iter().map(settle).collect(), ..Default::default() }
            }
            // What is in flight may still be settled; the sidecar then ends the stream.
            _ = stop.recv(), if !*leaving => {
                *leaving = true;
                pb::SubscribeRequest { leave: true, ..Default::default() }
            }
        };
        // Once the sidecar has ended its side nobody takes requests; the next turn sees why.
        let _ = out.send(request).await;
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let subscription = arguments.next().unwrap_or_else(|| "player-projector".to_owned());
    let bindings: Vec<_> = arguments.map(|routing_key| pb::Binding { routing_key, ..Default::default() }).collect();
    // Bindings declare the subscription; without any it must be in the sidecar's settings.
    let declare = (!bindings.is_empty()).then(|| pb::SubscriptionSpec { bindings, ..Default::default() });
    let open = pb::SubscribeOpen { subscription, declare, ..Default::default() };
    #[expect(clippy::disallowed_methods, reason = "a program of its own, outside the rooms of Sidebus")]
    let endpoint = std::env::var("SIDEBUS_ENDPOINT").unwrap_or_else(|_| "127.0.0.1:7672".to_owned());

    let (mut stop, mut leaving) = (signal(SignalKind::terminate())?, false);
    while !leaving {
        let Err(error) = serve(&endpoint, open.clone(), (&mut stop, &mut leaving)).await else { continue };
        let cause = error.source().map(|cause| format!(": {cause}")).unwrap_or_default();
        eprintln!("{error}{cause}");
        tokio::select! {
            () = tokio::time::sleep(RECONNECT), if !leaving => {}
            _ = stop.recv(), if !leaving => leaving = true,
            else => {}
        }
    }
    Ok(())
}
