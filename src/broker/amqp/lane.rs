//! A confirm channel: publishes batches and says of each message what became of it. Knows no retry.
//!
//! lapin attaches a returned message to whichever confirm completes next, of the same multiple confirm in any order, so a
//! return says nothing about the confirm that carries it. Returns are matched by message id. At most two batches are
//! incomplete, so a multiple confirm spans two at most, and a batch is answered once the one behind it is complete too. What
//! the broker does not confirm for long is left behind by its batch, see [`certain`].

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::{BoxFuture, FutureExt};
use lapin::Channel;
use lapin::options::{BasicPublishOptions, BasicQosOptions};
use tokio::time::Instant;

use super::convert::{TooLong, properties_out, short};
use super::exchanges::Exchanges;
use super::hub::Hub;
use crate::broker::{Answers, BrokerError, Confirm, Lane, Publication, Routing};
use crate::domain::message::encoded_bytes;
use crate::domain::name::ExchangeName;

mod batch;
mod certain;
mod left;

use batch::{Batch, Ready};
use certain::{Certain, Out};

/// Room in a header frame for everything that is no header: fourteen properties of at most 256 bytes, rounded up.
const HEADER_FRAME_RESERVE_BYTES: usize = 4 * 1024;

/// A channel that was refused a message is used for so long, and then another one. A channel of RabbitMQ that a quorum queue has
/// refused remembers that until the queue says otherwise, which it does not where a policy made it full and is gone.
const REFUSED_LASTS: Duration = Duration::from_secs(5);

impl fmt::Debug for AmqpLane {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AmqpLane").field("has_failed", &self.out.has_failed()).finish_non_exhaustive()
    }
}

/// One confirm channel, in the hands of one task: lapin mixes up the confirms of a shared one.
pub(super) struct AmqpLane {
    channel: Arc<Channel>,
    exchanges: Arc<Exchanges>,
    hub: Arc<Hub>,
    confirm_timeout: Duration,
    /// The broker's largest frame in bytes; a header frame above it costs the whole connection.
    frame_bytes_max: usize,
    out: Out,
    /// The first refusal.
    refused: Option<Instant>,
}

impl AmqpLane {
    pub(super) fn new(
        channel: Channel,
        (exchanges, hub): (Arc<Exchanges>, Arc<Hub>),
        confirm_timeout: Duration,
        frame_bytes_max: u32,
    ) -> Self {
        Self {
            channel: Arc::new(channel),
            exchanges,
            hub,
            confirm_timeout,
            frame_bytes_max: usize::try_from(frame_bytes_max).unwrap_or(usize::MAX),
            out: Out::default(),
            refused: None,
        }
    }

    async fn begin(&mut self, publications: Vec<Publication>) {
        debug_assert!(self.ids_differ(&publications), "two unanswered messages have the same id");
        let wanted = publications.iter().map(|publication| &publication.message.exchange);
        let unfit = self.exchanges.unfit(wanted, self.confirm_timeout).await;
        let open = self.is_sound();
        let prepare = |publication| match self.prepare(publication, &unfit) {
            Ok(_) if !open => Err(Confirm::Lost),
            decided => decided,
        };
        let ready = publications.iter().map(prepare).collect();
        self.out.push(Batch::begin(&self.channel, (publications, ready), self.confirm_timeout));
    }

    async fn next_answers(&mut self) -> Answers {
        let channel = &self.channel;
        let sound = || {
            let channel = Arc::clone(channel);
            // Any call with an answer that changes nothing: nobody consumes on this channel. A channel that is closed has no
            // more to tell, which is an answer, too.
            async move { channel.basic_qos(0, BasicQosOptions::default()).await.map_or_else(|_| true, |()| true) }
                .boxed()
        };
        let Certain { batches, left, silent } = self.out.next(sound).await;
        let batches: Vec<_> = batches.into_iter().map(|batch| self.answer(batch)).collect();
        let mut confirms = batches.iter().flatten().flatten().chain(left.iter().map(|(_, confirm)| confirm));
        if self.refused.is_none() && confirms.any(|confirm| *confirm == Confirm::Refused) {
            self.refused = Some(Instant::now());
        }
        Answers { batches, left, silent }
    }

    fn answer(&mut self, batch: Batch) -> Vec<Result<Confirm, u64>> {
        if batch.has_failed() {
            // An exchange may have been deleted: the next lane looks again.
            self.exchanges.forget(batch.exchanges());
        }
        // Remembered: published to again, it would take the next lane and its neighbours down as well. The broker has stored
        // nothing of its messages; what became of the others behind them nobody knows.
        let refused = batch.culprit().map(|(exchange, reason)| {
            let error = self.exchanges.refuse(&exchange, &reason);
            (exchange, error)
        });
        self.out.outcomes(batch, refused.as_ref())
    }

    /// Checks what would cost the neighbours their channel, or lapin its composure, if it were sent.
    fn prepare(&self, publication: &Publication, unfit: &HashMap<ExchangeName, Confirm>) -> Result<Ready, Confirm> {
        let refused = |what: String| Confirm::NotSent(BrokerError::Unsupported { what });
        let message = &publication.message;
        if let Some(confirm) = unfit.get(&message.exchange) {
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

    /// True while what is sent arrives.
    fn is_sound(&self) -> bool {
        !self.out.has_failed() && self.channel.status().connected() && self.hub.ensure_open().is_ok()
    }

    fn ids_differ(&self, publications: &[Publication]) -> bool {
        let mut seen: HashSet<&String> = self.out.ids().collect();
        batch::ids(publications).all(|id| seen.insert(id))
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
    fn has_room(&self) -> bool {
        self.out.has_room()
    }

    fn write(&mut self, batch: Vec<Publication>) -> BoxFuture<'_, ()> {
        self.begin(batch).boxed()
    }

    fn answers(&mut self) -> BoxFuture<'_, Answers> {
        self.next_answers().boxed()
    }

    fn is_open(&self) -> bool {
        // What is left behind would hold the next channel up.
        let is_worn =
            self.refused.is_some_and(|refused| refused.elapsed() >= REFUSED_LASTS) && self.out.has_left_nobody();
        self.is_sound() && !is_worn
    }
}
