//! One queue: what waits in it, in order, and the bounds that its arguments set. Pure; knows no consumer but its number.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::death::{Grave, Reason};
use super::{ChannelId, SessionKey};
use crate::broker::BrokerError;
use crate::domain::difference::FoundQueue;
use crate::domain::message::{Headers, Message, Value};
use crate::domain::name::{ExchangeName, QueueName};

/// A message in a queue or in the hands of one of its consumers.
#[derive(Debug)]
pub(crate) struct Entry {
    /// Its place in the queue, kept while it is out, so that it can go back there.
    pub(crate) position: u64,
    pub(crate) message: Arc<Message>,
    pub(crate) expires_at: Option<Instant>,
    pub(crate) redelivered: bool,
    /// How often it was put back.
    pub(crate) requeues: u32,
}

impl Entry {
    pub(crate) fn body_bytes(&self) -> u64 {
        body_bytes(&self.message)
    }
}

/// Bytes of a body.
pub(crate) fn body_bytes(message: &Message) -> u64 {
    u64::try_from(message.body.len()).unwrap_or(u64::MAX)
}

/// What the arguments of a queue ask for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Limits {
    ttl: Option<Duration>,
    length_max: Option<usize>,
    bytes_max: Option<u64>,
    overflow: Overflow,
    pub(crate) grave: Option<Grave>,
    /// Requeues are counted and shown.
    pub(crate) counts_requeues: bool,
    /// Requeues allowed; `None` = any number.
    requeues_max: Option<u32>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Overflow {
    DropHead,
    RejectPublish,
}

impl Limits {
    /// Reads the arguments that this broker honours; others are carried and mean nothing, as on classic queues.
    ///
    /// # Errors
    /// An argument has a type or value that it cannot have.
    pub(crate) fn read(arguments: &Headers) -> Result<Self, BrokerError> {
        let overflow = match text(arguments, "x-overflow")? {
            None | Some("drop-head") => Overflow::DropHead,
            Some("reject-publish" | "reject-publish-dlx") => Overflow::RejectPublish,
            Some(_) => return Err(invalid("x-overflow")),
        };
        let at_least_once = text(arguments, "x-dead-letter-strategy")? == Some("at-least-once");
        let routing_key = text(arguments, "x-dead-letter-routing-key")?.map(str::to_owned);
        let exchange = text(arguments, "x-dead-letter-exchange")?.map(ExchangeName::from_broker);
        // A negative limit is RabbitMQ 4's word for none.
        let requeues_max = match arguments.get("x-delivery-limit") {
            Some(Value::Int8(..0) | Value::Int16(..0) | Value::Int32(..0) | Value::Int64(..0)) | None => None,
            Some(_) => number(arguments, "x-delivery-limit")?.map(|limit| u32::try_from(limit).unwrap_or(u32::MAX)),
        };
        let quorum = text(arguments, "x-queue-type")? == Some("quorum");
        Ok(Self {
            ttl: number(arguments, "x-message-ttl")?.map(Duration::from_millis),
            length_max: number(arguments, "x-max-length")?.map(|max| usize::try_from(max).unwrap_or(usize::MAX)),
            bytes_max: number(arguments, "x-max-length-bytes")?,
            overflow,
            grave: exchange.map(|exchange| Grave { exchange, routing_key, at_least_once }),
            counts_requeues: quorum || requeues_max.is_some(),
            requeues_max,
        })
    }
}

fn text<'a>(arguments: &'a Headers, name: &str) -> Result<Option<&'a str>, BrokerError> {
    let Some(value) = arguments.get(name) else { return Ok(None) };
    value.as_text().map(Some).ok_or_else(|| invalid(name))
}

fn number(arguments: &Headers, name: &str) -> Result<Option<u64>, BrokerError> {
    let Some(value) = arguments.get(name) else { return Ok(None) };
    let number = value.as_integer().and_then(|number| u64::try_from(number).ok());
    number.map(Some).ok_or_else(|| invalid(name))
}

fn invalid(name: &str) -> BrokerError {
    BrokerError::ChannelClosed { reason: format!("invalid argument {name}") }
}

/// A queue.
#[derive(Debug)]
pub(crate) struct Queue {
    pub(crate) name: QueueName,
    pub(crate) exclusive_to: Option<SessionKey>,
    pub(crate) auto_delete: bool,
    /// Told to whoever compares; everything lasts as long as the broker object.
    pub(crate) durable: bool,
    /// As they were asked for; `limits` holds those that are honoured.
    pub(crate) arguments: Headers,
    pub(crate) limits: Limits,
    /// Turns round, so that the next one to be served is in front.
    pub(crate) consumers: VecDeque<ChannelId>,
    /// Given up, and the target does not take them yet.
    pub(crate) dead_lettering: Vec<(Entry, Reason)>,
    /// When the target is asked again.
    pub(crate) retry_at: Option<Instant>,
    ready: VecDeque<Entry>,
    ready_bytes: u64,
    next_position: u64,
}

impl Queue {
    pub(crate) fn new(name: QueueName, exclusive_to: Option<SessionKey>, auto_delete: bool, limits: Limits) -> Self {
        Self {
            name,
            exclusive_to,
            auto_delete,
            durable: true,
            arguments: Headers::new(),
            limits,
            consumers: VecDeque::new(),
            dead_lettering: Vec::new(),
            retry_at: None,
            ready: VecDeque::new(),
            ready_bytes: 0,
            next_position: 0,
        }
    }

    /// As whoever compares sees it.
    pub(crate) fn found(&self) -> FoundQueue {
        FoundQueue {
            durable: self.durable,
            auto_delete: self.auto_delete,
            exclusive: self.exclusive_to.is_some(),
            arguments: self.arguments.clone(),
        }
    }

    pub(crate) fn ready_count(&self) -> usize {
        self.ready.len()
    }

    /// True if a message of this size must be refused.
    pub(crate) fn refuses(&self, body_bytes: u64) -> bool {
        self.limits.overflow == Overflow::RejectPublish && self.is_over(1, body_bytes)
    }

    /// True if the oldest message must make room for newer ones.
    pub(crate) fn overflows(&self) -> bool {
        self.limits.overflow == Overflow::DropHead && !self.ready.is_empty() && self.is_over(0, 0)
    }

    fn is_over(&self, more_count: usize, more_bytes: u64) -> bool {
        self.limits.length_max.is_some_and(|max| self.ready.len() + more_count > max)
            || self.limits.bytes_max.is_some_and(|max| self.ready_bytes.saturating_add(more_bytes) > max)
    }

    /// Appends a message. `own_ttl` is what the message itself allows; the shorter life wins.
    pub(crate) fn push(&mut self, message: Arc<Message>, own_ttl: Option<Duration>, now: Instant) {
        let ttl = match (own_ttl, self.limits.ttl) {
            (Some(own), Some(queue)) => Some(own.min(queue)),
            (own, queue) => own.or(queue),
        };
        // A time that the clock cannot express never comes.
        let expires_at = ttl.and_then(|ttl| now.checked_add(ttl));
        let position = self.next_position;
        self.next_position += 1;
        let entry = Entry { position, message, expires_at, redelivered: false, requeues: 0 };
        self.ready_bytes += entry.body_bytes();
        self.ready.push_back(entry);
    }

    /// Takes a message back to its old place.
    ///
    /// # Errors
    /// Gives it back to the caller when it was requeued more often than the queue allows.
    pub(crate) fn requeue(&mut self, mut entry: Entry) -> Result<(), Entry> {
        entry.redelivered = true;
        if self.limits.counts_requeues {
            entry.requeues = entry.requeues.saturating_add(1);
            if self.limits.requeues_max.is_some_and(|max| entry.requeues > max) {
                return Err(entry);
            }
        }
        let place = self.ready.partition_point(|waiting| waiting.position < entry.position);
        self.ready_bytes += entry.body_bytes();
        self.ready.insert(place, entry);
        Ok(())
    }

    /// Takes the oldest message out.
    pub(crate) fn pop(&mut self) -> Option<Entry> {
        let entry = self.ready.pop_front()?;
        self.ready_bytes -= entry.body_bytes();
        Some(entry)
    }

    /// When the oldest message expires. Those behind it wait for their turn, as in RabbitMQ.
    pub(crate) fn head_expires_at(&self) -> Option<Instant> {
        self.ready.front()?.expires_at
    }

    /// When this queue must be looked at again without anybody asking.
    pub(crate) fn wake_at(&self) -> Option<Instant> {
        [self.head_expires_at(), self.retry_at].into_iter().flatten().min()
    }

    /// All that it still holds; for a queue that is deleted.
    pub(crate) fn into_entries(self) -> impl Iterator<Item = Entry> {
        self.ready.into_iter().chain(self.dead_lettering.into_iter().map(|(entry, _)| entry))
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::domain::message::Properties;

    fn limits(arguments: &[(&str, Value)]) -> Result<Limits, BrokerError> {
        Limits::read(&arguments.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect())
    }

    fn queue(arguments: &[(&str, Value)]) -> Queue {
        Queue::new(QueueName::parse("q").unwrap(), None, false, limits(arguments).unwrap())
    }

    fn push(queue: &mut Queue, body: &'static str) {
        let message = Message {
            exchange: ExchangeName::nameless(),
            routing_key: "q".to_owned(),
            properties: Properties::default(),
            body: Bytes::from_static(body.as_bytes()),
        };
        queue.push(Arc::new(message), None, Instant::now());
    }

    fn bodies(queue: &mut Queue) -> Vec<String> {
        std::iter::from_fn(|| queue.pop())
            .map(|entry| String::from_utf8(entry.message.body.to_vec()).unwrap())
            .collect()
    }

    #[test]
    fn requeued_messages_find_their_old_place() {
        let mut queue = queue(&[]);
        for body in ["0", "1", "2", "3"] {
            push(&mut queue, body);
        }
        let out: Vec<Entry> = (0..3).map(|_| queue.pop().unwrap()).collect();
        for entry in out.into_iter().rev() {
            queue.requeue(entry).unwrap();
        }
        assert_eq!(queue.ready_bytes, 4);
        assert_eq!(bodies(&mut queue), ["0", "1", "2", "3"]);
        assert_eq!(queue.ready_bytes, 0);
    }

    #[test]
    fn a_delivery_limit_counts_requeues() {
        let mut queue = queue(&[("x-delivery-limit", Value::Int64(2))]);
        push(&mut queue, "poison");
        for _ in 0..2 {
            let entry = queue.pop().unwrap();
            queue.requeue(entry).unwrap();
        }
        let entry = queue.pop().unwrap();
        assert_eq!(queue.requeue(entry).unwrap_err().requeues, 3);
    }

    #[test]
    fn length_and_bytes_bound_what_waits() {
        let reject = ("x-overflow", Value::text("reject-publish"));
        for arguments in
            [[("x-max-length", Value::Int64(1)), reject.clone()], [("x-max-length-bytes", Value::Int32(3)), reject]]
        {
            let mut queue = queue(&arguments);
            assert!(!queue.refuses(3));
            push(&mut queue, "abc");
            assert!(queue.refuses(1), "{arguments:?}");
            assert!(!queue.overflows());
            queue.pop();
            assert!(!queue.refuses(1));
        }
    }

    #[test]
    fn drop_head_overflows_only_beyond_the_limit() {
        let mut queue = queue(&[("x-max-length", Value::Int64(1))]);
        push(&mut queue, "a");
        assert!(!queue.overflows());
        push(&mut queue, "b");
        assert!(queue.overflows());
        assert!(!queue.refuses(1));
    }

    #[test]
    fn arguments_of_a_wrong_kind_are_refused() {
        for (name, value) in [
            ("x-message-ttl", Value::text("soon")),
            ("x-message-ttl", Value::Int32(-1)),
            ("x-max-length", Value::Void),
            ("x-overflow", Value::text("explode")),
            ("x-dead-letter-exchange", Value::Int32(1)),
        ] {
            assert!(limits(&[(name, value.clone())]).is_err(), "{name} {value:?}");
        }
        assert_eq!(limits(&[("x-delivery-limit", Value::Int64(-1))]).unwrap().requeues_max, None);
        assert!(limits(&[("x-unheard-of", Value::Void)]).is_ok());
    }
}
