//! A confirm channel: publishes batches and says of each message what became of it. Knows no retry.
//!
//! lapin attaches a returned message to whichever confirm completes next, so a return says nothing about the confirm
//! that carries it. The returns of a batch are collected first and matched by message id then.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::{BoxFuture, FutureExt};
use lapin::options::BasicPublishOptions;
use lapin::types::ShortString;
use lapin::{BasicProperties, Channel, Confirmation, PublisherConfirm};
use tokio::time::{Instant, timeout_at};

use super::convert::{TooLong, properties_out, short};
use super::exchanges::Exchanges;
use super::hub::Hub;
use super::started::Started;
use crate::broker::{BrokerError, Confirm, Lane, Publication, Routing};
use crate::domain::message::encoded_bytes;
use crate::domain::name::ExchangeName;

/// Room in a header frame for everything that is no header: fourteen properties of at most 256 bytes, rounded up.
const HEADER_FRAME_RESERVE_BYTES: usize = 4 * 1024;

/// One confirm channel, never cloned: lapin mixes up the confirms of a shared one.
pub(super) struct AmqpLane {
    channel: Channel,
    exchanges: Arc<Exchanges>,
    hub: Arc<Hub>,
    confirm_timeout: Duration,
    /// The broker's largest frame in bytes; a header frame above it costs the whole connection.
    frame_bytes_max: usize,
    /// False after a failure, and while a batch is out: one that is given up leaves confirms behind.
    sound: bool,
}

impl fmt::Debug for AmqpLane {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AmqpLane").field("sound", &self.sound).finish_non_exhaustive()
    }
}

/// A message in lapin's words.
struct Ready {
    exchange: ShortString,
    routing_key: ShortString,
    options: BasicPublishOptions,
    properties: BasicProperties,
}

/// One message on its way.
enum Flight<'a> {
    /// Decided before it was sent.
    Grounded(Confirm),
    /// The frames are queued.
    Writing(Started<'a, PublisherConfirm>),
    /// The frames are written, the broker's word is awaited.
    Confirming(Started<'static, Word>),
}

/// What one confirm said: about its own message, and about any message that was returned.
struct Word {
    confirm: Confirm,
    returned: Option<String>,
}

impl AmqpLane {
    pub(super) fn new(
        channel: Channel,
        (exchanges, hub): (Arc<Exchanges>, Arc<Hub>),
        confirm_timeout: Duration,
        frame_bytes_max: u32,
    ) -> Self {
        let frame_bytes_max = usize::try_from(frame_bytes_max).unwrap_or(usize::MAX);
        Self { channel, exchanges, hub, confirm_timeout, frame_bytes_max, sound: true }
    }

    async fn publish_all(&mut self, batch: Vec<Publication>) -> Vec<Confirm> {
        debug_assert!(ids_differ(&batch), "two messages of one batch have the same id");
        let missing = self.look_up(&batch).await;
        let prepare = |publication| self.prepare(publication, &missing);
        let ready: Vec<_> = batch.iter().map(prepare).collect();
        let open = self.is_open();
        self.sound = false;
        let mut flights: Vec<Flight<'_>> = batch.iter().zip(ready).map(|one| begin(&self.channel, one, open)).collect();
        let deadline = Instant::now() + self.confirm_timeout;
        let late = timeout_at(deadline, finish(&mut flights)).await.is_err();
        if late {
            // Whatever is there counts, or a return that hangs on a finished confirm would be missed.
            flights.iter_mut().for_each(glance);
        }
        let confirms = assign(&batch, flights);
        self.sound = open && !late && !confirms.contains(&Confirm::Lost);
        if !self.sound {
            // An exchange may have been deleted: the next lane looks again.
            self.exchanges.forget(batch.iter().map(|publication| &publication.message.exchange));
        }
        confirms
    }

    /// The exchanges of a batch that cannot be published to, and why.
    async fn look_up(&self, batch: &[Publication]) -> HashMap<ExchangeName, Confirm> {
        let mut missing = HashMap::new();
        let mut seen: Option<&ExchangeName> = None;
        for exchange in batch.iter().map(|publication| &publication.message.exchange) {
            // Batches mostly go to one exchange; a name that comes back later costs a look into the set.
            if seen == Some(exchange) || missing.contains_key(exchange) {
                continue;
            }
            seen = Some(exchange);
            let confirm = match self.exchanges.check(exchange).await {
                Ok(()) => continue,
                Err(BrokerError::Missing { .. }) => Confirm::ExchangeMissing(exchange.clone()),
                Err(error) => Confirm::NotSent(error),
            };
            missing.insert(exchange.clone(), confirm);
        }
        missing
    }

    /// Checks what would cost the neighbours their channel, or lapin its composure, if it were sent.
    fn prepare(&self, publication: &Publication, missing: &HashMap<ExchangeName, Confirm>) -> Result<Ready, Confirm> {
        let refused = |what: String| Confirm::NotSent(BrokerError::Unsupported { what });
        let message = &publication.message;
        if let Some(confirm) = missing.get(&message.exchange) {
            return Err(confirm.clone());
        }
        if message.properties.message_id.is_none() {
            return Err(refused("a publication without a message id".to_owned()));
        }
        if encoded_bytes(&message.properties.headers) + HEADER_FRAME_RESERVE_BYTES > self.frame_bytes_max {
            return Err(refused(format!("headers beyond one frame of {} bytes", self.frame_bytes_max)));
        }
        if let Some(text) = message.properties.expiration.as_deref().filter(|text| text.parse::<u32>().is_err()) {
            return Err(refused(format!("an expiration of {text:?}")));
        }
        ready(publication).map_err(|error| refused(error.to_string()))
    }
}

fn ready(publication: &Publication) -> Result<Ready, TooLong> {
    let message = &publication.message;
    Ok(Ready {
        exchange: short("an exchange name", message.exchange.as_str())?,
        routing_key: short("a routing key", &message.routing_key)?,
        options: BasicPublishOptions {
            mandatory: publication.routing == Routing::Required,
            // RabbitMQ closes the connection for it.
            immediate: false,
        },
        properties: properties_out(&message.properties)?,
    })
}

impl Lane for AmqpLane {
    fn publish(&mut self, batch: Vec<Publication>) -> BoxFuture<'_, Vec<Confirm>> {
        self.publish_all(batch).boxed()
    }

    fn is_open(&self) -> bool {
        self.sound && self.channel.status().connected() && self.hub.ensure_open().is_ok()
    }
}

fn begin<'a>(channel: &'a Channel, one: (&'a Publication, Result<Ready, Confirm>), open: bool) -> Flight<'a> {
    let (publication, ready) = one;
    match ready {
        Err(confirm) => Flight::Grounded(confirm),
        Ok(_) if !open => Flight::Grounded(Confirm::Lost),
        Ok(Ready { exchange, routing_key, options, properties }) => {
            let body = &publication.message.body;
            Flight::Writing(Started::begin(channel.basic_publish(exchange, routing_key, options, body, properties)))
        }
    }
}

/// Waits until each message is confirmed or failed. One after the other: by the time the first is there, most are.
async fn finish(flights: &mut [Flight<'_>]) {
    for flight in flights.iter_mut() {
        if let Flight::Writing(call) = flight {
            call.finish().await;
            advance(flight);
        }
    }
    for flight in flights.iter_mut() {
        if let Flight::Confirming(confirm) = flight {
            confirm.finish().await;
        }
    }
}

fn glance(flight: &mut Flight<'_>) {
    if let Flight::Writing(call) = flight {
        call.glance();
        advance(flight);
    }
    if let Flight::Confirming(confirm) = flight {
        confirm.glance();
    }
}

/// From written to awaiting the broker's word.
fn advance(flight: &mut Flight<'_>) {
    if !matches!(flight, Flight::Writing(Started::Done(_))) {
        return;
    }
    let Flight::Writing(call) = std::mem::replace(flight, Flight::Grounded(Confirm::Lost)) else { return };
    if let Some(Ok(confirm)) = call.result() {
        *flight = Flight::Confirming(Started::begin(async move { Ok(word(confirm.await?)) }));
    }
}

/// The outcomes, returns matched by message id over the whole batch.
fn assign(batch: &[Publication], flights: Vec<Flight<'_>>) -> Vec<Confirm> {
    let mut returned: HashSet<String> = HashSet::new();
    let confirms: Vec<Confirm> = flights
        .into_iter()
        .map(|flight| match flight {
            Flight::Grounded(confirm) => confirm,
            Flight::Writing(_) => Confirm::TimedOut,
            Flight::Confirming(said) => match said.result() {
                None => Confirm::TimedOut,
                Some(Err(_)) => Confirm::Lost,
                Some(Ok(word)) => {
                    returned.extend(word.returned);
                    word.confirm
                }
            },
        })
        .collect();
    let outcome = |(publication, confirm): (&Publication, Confirm)| match &publication.message.properties.message_id {
        // The broker's return is certain knowledge, whatever became of the confirm.
        Some(id) if returned.contains(id) => Confirm::Unroutable,
        Some(_) | None => confirm,
    };
    batch.iter().zip(confirms).map(outcome).collect()
}

fn ids_differ(batch: &[Publication]) -> bool {
    let mut seen = HashSet::new();
    batch.iter().filter_map(|publication| publication.message.properties.message_id.as_ref()).all(|id| seen.insert(id))
}

fn word(confirmation: Confirmation) -> Word {
    let (confirm, message) = match confirmation {
        Confirmation::Ack(message) => (Confirm::Stored, message),
        Confirmation::Nack(message) => (Confirm::Refused, message),
        // Only a channel without confirms says so, and a lane is never one.
        Confirmation::NotRequested => (Confirm::Lost, None),
    };
    let id = message.and_then(|message| message.delivery.properties.message_id().clone());
    Word { confirm, returned: id.map(String::from) }
}
