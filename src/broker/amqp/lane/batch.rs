//! One batch on its way: begun in one go, complete once each message is confirmed or failed. Knows no other batch.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use lapin::options::BasicPublishOptions;
use lapin::types::ShortString;
use lapin::{BasicProperties, Channel, Confirmation};
use tokio::time::{Instant, timeout_at};

use super::super::error;
use super::super::started::Started;
use super::left::Left;
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
    /// Its word is awaited elsewhere, under this number.
    Left(u64),
}

/// How long messages without a word hold up their batch, before they are left behind.
const PATIENCE: Duration = Duration::from_millis(250);

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
    /// When it goes on without what has no word by then.
    patience: Instant,
    begun: Instant,
    deadline: Instant,
    /// Messages were given up: nobody waits for their words any more.
    is_late: bool,
    /// A return may hang on a word that has not come.
    is_doubtful: bool,
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
        Self::new(publications, flights, timeout)
    }

    /// One whose confirms come from somewhere else.
    #[cfg(test)]
    pub(super) fn of<C>(publications: Vec<Publication>, calls: Vec<C>) -> Self
    where
        C: Future<Output = lapin::Result<Word>> + Send + 'static,
    {
        let flights = calls.into_iter().map(|call| Flight::Out(Started::begin(call))).collect();
        Self::new(publications, flights, Duration::from_mins(1))
    }

    fn new(publications: Vec<Publication>, flights: Vec<Flight>, timeout: Duration) -> Self {
        let now = Instant::now();
        let deadline = now + timeout;
        let patience = deadline.min(now + PATIENCE);
        Self { publications, flights, ended: 0, patience, begun: now, deadline, is_late: false, is_doubtful: false }
    }

    /// Waits until each message is confirmed or failed, or its patience is over. Cancel-safe.
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
        // What has not ended says so itself.
        let _ = timeout_at(self.patience, all).await;
    }

    /// Takes in what has come meanwhile.
    pub(super) fn glance(&mut self) {
        for flight in &mut self.flights[self.ended..] {
            if let Flight::Out(call) = flight {
                call.glance();
            }
        }
        let has_ended = |flight: &Flight| match flight {
            Flight::Out(call) => call.is_done(),
            Flight::Grounded(_) | Flight::Left(_) => true,
        };
        self.ended += self.flights[self.ended..].iter().take_while(|flight| has_ended(flight)).count();
    }

    /// True once each message is confirmed or failed, or left behind.
    pub(super) fn is_complete(&self) -> bool {
        self.ended == self.flights.len()
    }

    /// When it goes on without what has no word by then.
    pub(super) fn patience(&self) -> Instant {
        self.patience
    }

    /// When its time is over.
    pub(super) fn deadline(&self) -> Instant {
        self.deadline
    }

    /// Complete without the messages that have no word: those are left behind, or given up where its time is over. Their
    /// confirms are listened to all the same, since a return may hang on them.
    pub(super) fn leave(&mut self, left: &mut Left) {
        let is_over = Instant::now() >= self.deadline;
        let flights = self.publications.iter().zip(&mut self.flights).skip(self.ended);
        for (publication, flight) in flights {
            let is_open = matches!(flight, Flight::Out(call) if !call.is_done());
            if !is_open {
                continue;
            }
            // Given up where its time is over already.
            let rest = if is_over { Flight::Grounded(Confirm::TimedOut) } else { Flight::Left(left.next()) };
            if let Flight::Out(call) = std::mem::replace(flight, rest) {
                left.take(call.into_call(), (!is_over).then_some((publication, (self.begun, self.deadline))));
            }
            self.is_late |= is_over;
        }
        self.ended = self.flights.len();
    }

    /// A return may hang on a word that has not come: that a message was stored which a queue must take is not certain.
    pub(super) fn doubt(&mut self) {
        self.is_doubtful = true;
    }

    /// True if it has a word of which a return that has not come would make another one.
    pub(super) fn has_word(&self) -> bool {
        let required = self.publications.iter().zip(&self.flights);
        required.filter(|(publication, _)| publication.routing == Routing::Required).any(|(_, flight)| match flight {
            Flight::Out(call) => call.is_done(),
            Flight::Grounded(_) | Flight::Left(_) => false,
        })
    }

    /// True if it leaves the channel in doubt.
    pub(super) fn has_failed(&self) -> bool {
        self.is_late || self.flights.iter().any(|flight| matches!(flight, Flight::Out(Started::Done(Err(_)))))
    }

    /// Ids of returned messages, of this batch or of one that was out beside it; each is told once.
    pub(super) fn take_returned(&mut self) -> impl Iterator<Item = String> {
        self.flights.iter_mut().filter_map(|flight| match flight {
            Flight::Out(Started::Done(Ok(word))) => word.returned.take(),
            Flight::Out(_) | Flight::Grounded(_) | Flight::Left(_) => None,
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
            Flight::Out(_) | Flight::Grounded(_) | Flight::Left(_) => None,
        })?;
        let mut named = self.exchanges().filter_map(|name| Some((name, error::refused_publish(error, name)?)));
        let (exchange, reason) = named.next()?;
        Some((exchange.clone(), reason))
    }

    /// The outcomes, a number for what is left behind: `returned` are the ids that all confirms which may speak of these
    /// messages have told, `refused` what became of an exchange whose messages the broker has not stored. Takes its own ids
    /// out.
    pub(super) fn outcomes(
        self,
        returned: &mut HashSet<String>,
        refused: Option<&(ExchangeName, BrokerError)>,
    ) -> Vec<Result<Confirm, u64>> {
        let is_doubtful = self.is_doubtful;
        let outcome = |(publication, flight): (&Publication, Flight)| {
            let confirm = match flight {
                Flight::Left(number) => return Err(number),
                Flight::Grounded(confirm) => confirm,
                Flight::Out(call) => match call.result() {
                    None => Confirm::TimedOut,
                    Some(Err(_)) => Confirm::Lost,
                    Some(Ok(word)) => word.confirm,
                },
            };
            let confirm = with_return(confirm, publication.message.properties.message_id.as_ref(), returned);
            let is_doubtful = is_doubtful && publication.routing == Routing::Required;
            Ok(match refused {
                _ if is_doubtful && confirm == Confirm::Stored => Confirm::TimedOut,
                Some((exchange, error)) if confirm == Confirm::Lost && *exchange == publication.message.exchange => {
                    Confirm::NotSent(error.clone())
                }
                Some(_) | None => confirm,
            })
        };
        self.publications.iter().zip(self.flights).map(outcome).collect()
    }
}

/// What became of a message: the broker's return is certain knowledge, whatever became of the confirm.
pub(super) fn with_return(confirm: Confirm, id: Option<&String>, returned: &mut HashSet<String>) -> Confirm {
    if id.is_some_and(|id| returned.remove(id)) { Confirm::Unroutable } else { confirm }
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
