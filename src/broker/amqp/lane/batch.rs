//! One batch on its way: begun in one go, complete once each message is confirmed, failed or late. Knows no other batch.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use lapin::options::BasicPublishOptions;
use lapin::types::ShortString;
use lapin::{BasicProperties, Channel, Confirmation};
use tokio::time::{Instant, timeout_at};

use super::super::error;
use super::super::started::Started;
use crate::broker::{BrokerError, Confirm, Publication, Routing};
use crate::domain::name::ExchangeName;

/// A message in lapin's words; its body stays with the publication.
pub(super) struct Ready {
    pub(super) exchange: ShortString,
    pub(super) routing_key: ShortString,
    pub(super) options: BasicPublishOptions,
    pub(super) properties: BasicProperties,
}

/// One message on its way.
enum Flight {
    /// Decided before it was sent.
    Grounded(Confirm),
    /// The frames are queued in their order; the broker's word is awaited.
    Out(Started<'static, Word>),
}

/// What one confirm said: about its own message, and about any message that was returned.
pub(super) struct Word {
    pub(super) confirm: Confirm,
    pub(super) returned: Option<String>,
}

/// See the module.
pub(super) struct Batch {
    publications: Vec<Publication>,
    flights: Vec<Flight>,
    /// Flights before this one have ended.
    ended: usize,
    deadline: Instant,
    is_late: bool,
}

impl Batch {
    /// Begins every message that is ready, each call polled once: that queues its frames.
    pub(super) fn begin(
        channel: &Arc<Channel>,
        (publications, ready): (Vec<Publication>, Vec<Result<Ready, Confirm>>),
        timeout: Duration,
    ) -> Self {
        let flights = publications.iter().zip(ready).map(|(publication, ready)| match ready {
            Err(confirm) => Flight::Grounded(confirm),
            Ok(ready) => {
                Flight::Out(Started::begin(publish(Arc::clone(channel), ready, publication.message.body.clone())))
            }
        });
        let flights = flights.collect();
        Self { publications, flights, ended: 0, deadline: Instant::now() + timeout, is_late: false }
    }

    /// One whose confirms come from somewhere else.
    #[cfg(test)]
    pub(super) fn of<C>(publications: Vec<Publication>, calls: Vec<C>) -> Self
    where
        C: Future<Output = lapin::Result<Word>> + Send + 'static,
    {
        let flights = calls.into_iter().map(|call| Flight::Out(Started::begin(call))).collect();
        Self { publications, flights, ended: 0, deadline: Instant::now() + Duration::from_mins(1), is_late: false }
    }

    /// Waits until each message is confirmed or failed, or its time is over. Cancel-safe.
    pub(super) async fn complete(&mut self) {
        let (flights, ended) = (&mut self.flights, &mut self.ended);
        // One after the other: by the time the first has ended, most have.
        let all = async {
            while let Some(flight) = flights.get_mut(*ended) {
                if let Flight::Out(call) = flight {
                    call.finish().await;
                }
                *ended += 1;
            }
        };
        self.is_late = timeout_at(self.deadline, all).await.is_err();
    }

    /// Takes in what has come meanwhile.
    pub(super) fn glance(&mut self) {
        for flight in &mut self.flights {
            if let Flight::Out(call) = flight {
                call.glance();
            }
        }
    }

    /// True if its time was over before all was known.
    pub(super) fn is_late(&self) -> bool {
        self.is_late
    }

    /// Waits no longer than until then.
    pub(super) fn hurry(&mut self, deadline: Instant) {
        self.deadline = self.deadline.min(deadline);
    }

    /// True if it leaves the channel in doubt.
    pub(super) fn has_failed(&self) -> bool {
        self.is_late || self.flights.iter().any(|flight| matches!(flight, Flight::Out(Started::Done(Err(_)))))
    }

    /// Ids of returned messages, of this batch or of one that was out beside it; each is told once.
    pub(super) fn take_returned(&mut self) -> impl Iterator<Item = String> {
        self.flights.iter_mut().filter_map(|flight| match flight {
            Flight::Out(Started::Done(Ok(word))) => word.returned.take(),
            Flight::Out(_) | Flight::Grounded(_) => None,
        })
    }

    /// Where its messages go.
    pub(super) fn exchanges(&self) -> impl Iterator<Item = &ExchangeName> {
        self.publications.iter().map(|publication| &publication.message.exchange)
    }

    /// Message ids, for messages that have one.
    pub(super) fn ids(&self) -> impl Iterator<Item = &String> {
        ids(&self.publications)
    }

    /// The exchange for which the broker has closed the channel, and in which words; `None` = for none of these.
    pub(super) fn culprit(&self) -> Option<(ExchangeName, String)> {
        // One close ends all that was out, with the same words.
        let error = self.flights.iter().find_map(|flight| match flight {
            Flight::Out(Started::Done(Err(error))) => Some(error),
            Flight::Out(_) | Flight::Grounded(_) => None,
        })?;
        let mut named = self.exchanges().filter_map(|name| Some((name, error::refused_publish(error, name)?)));
        let (exchange, reason) = named.next()?;
        Some((exchange.clone(), reason))
    }

    /// The outcomes: `returned` are the ids that all confirms which may speak of these messages have told, `refused` what
    /// became of an exchange whose messages the broker has not stored. Takes its own ids out. `is_behind_late`: a return
    /// may hang on a confirm of a batch that nobody waits for any more, so that a message was stored is not certain.
    pub(super) fn outcomes(
        self,
        returned: &mut HashSet<String>,
        refused: Option<&(ExchangeName, BrokerError)>,
        is_behind_late: bool,
    ) -> Vec<Confirm> {
        let outcome = |(publication, flight): (&Publication, Flight)| {
            // The broker's return is certain knowledge, whatever became of the confirm.
            if publication.message.properties.message_id.as_ref().is_some_and(|id| returned.remove(id)) {
                return Confirm::Unroutable;
            }
            let confirm = match flight {
                Flight::Grounded(confirm) => confirm,
                Flight::Out(call) => match call.result() {
                    None => Confirm::TimedOut,
                    Some(Err(_)) => Confirm::Lost,
                    Some(Ok(word)) => word.confirm,
                },
            };
            let is_doubtful = is_behind_late && publication.routing == Routing::Required;
            match refused {
                _ if is_doubtful && confirm == Confirm::Stored => Confirm::TimedOut,
                Some((exchange, error)) if confirm == Confirm::Lost && *exchange == publication.message.exchange => {
                    Confirm::NotSent(error.clone())
                }
                Some(_) | None => confirm,
            }
        };
        self.publications.iter().zip(self.flights).map(outcome).collect()
    }
}

/// The message ids of publications that have one.
pub(super) fn ids(publications: &[Publication]) -> impl Iterator<Item = &String> {
    publications.iter().filter_map(|publication| publication.message.properties.message_id.as_ref())
}

async fn publish(channel: Arc<Channel>, ready: Ready, body: bytes::Bytes) -> lapin::Result<Word> {
    let Ready { exchange, routing_key, options, properties } = ready;
    Ok(word(channel.basic_publish(exchange, routing_key, options, &body, properties).await?.await?))
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
