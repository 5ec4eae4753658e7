//! What a message carries about its failures: the `x-sidebus-*` headers, read and written. Knows no broker.

use super::failure::{Failure, FailureKind, Origin};
use super::late_acks::Print;
use super::message::{Headers, Message, Value, encoded_bytes, is_reserved_header};
use super::name::{ExchangeName, QueueName};
use super::verdict::cut;

/// Failed attempts by verdict or deadline.
const ATTEMPT: &str = "x-sidebus-attempt";
/// Crashes charged while alone.
const CRASH: &str = "x-sidebus-crash";
/// What attempt 1 showed.
const ORIGIN: &str = "x-sidebus-origin";
/// The failures, oldest first.
const HISTORY: &str = "x-sidebus-history";
/// Failures that no longer fit into the history.
const DROPPED: &str = "x-sidebus-history-dropped";
/// A longer delay than the longest slot ends then.
const NOT_BEFORE: &str = "x-sidebus-not-before";
/// Version of this format.
const VERSION: &str = "x-sidebus-v";
/// Headers under our prefix that belong to the publisher and always pass.
pub const PUBLISHERS_OWN: [&str; 2] = [ORDERING_KEY_HEADER, CAUSATION_ID_HEADER];
/// Messages of one ordering key keep their order on their way to the broker.
pub const ORDERING_KEY_HEADER: &str = "x-sidebus-key";
/// The message that this one follows from.
pub const CAUSATION_ID_HEADER: &str = "x-sidebus-causation-id";

/// Failures that are kept besides the first one.
const HISTORY_NEWEST: usize = 10;
/// Most bytes of the encoded history: the broker adds its own death headers, and all must fit one frame of 128 KiB.
const HISTORY_BYTES_MAX: usize = 16 * 1024;
/// Most bytes of the encoded headers of a copy that carries a history: a header frame ends at 128 KiB, and one beyond it
/// costs the whole connection. The rest is for the other properties and for the death header that the broker adds.
const COPY_BYTES_MAX: usize = 122 * 1024;
/// Longest free text of one failure in bytes.
pub const DESCRIPTION_BYTES_MAX: usize = 512;
/// Counts above this are nonsense: such a header was forged or broken.
const COUNT_MAX: i64 = 1_000_000;

/// The failures of a message and where it came from.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Record {
    /// Failed attempts by verdict or deadline.
    pub failures: u32,
    /// Crashes charged; 0 = a handler was lost with it and others, `None` = no handler ever was, or it has been cleared.
    pub crashes: Option<u32>,
    /// Set once the message has been copied.
    pub origin: Option<FirstSight>,
    /// The first failure and the newest ones, oldest first.
    pub history: Vec<Failure>,
    /// Failures that no longer fit.
    pub dropped: u32,
    /// Before this no handler gets it, in milliseconds since 1970.
    pub not_before_ms: Option<u64>,
}

/// What attempt 1 showed, as far as a copy cannot show it by itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FirstSight {
    /// Where the message came from.
    pub origin: Origin,
    /// User that the broker validated.
    pub user_id: Option<String>,
    /// Life time as published.
    pub expiration: Option<String>,
    /// False = the publisher gave no message id; the one on the wire is ours.
    pub had_message_id: bool,
    /// What is left of the life time, in milliseconds.
    pub remaining_ms: Option<u64>,
}

/// A message as the handler shall see it, and what it carries.
#[derive(Debug, Clone, PartialEq)]
pub struct Seen {
    /// As attempt 1: exchange, routing key, properties and headers are those of the publisher.
    pub message: Message,
    /// The failures so far.
    pub record: Record,
    /// Our headers on a message that did not come the way of our copies: ignored and removed.
    pub distrusted_headers: usize,
    /// How often the queue itself has counted a requeue; 0 where it counts nothing.
    pub delivery_count: u32,
}

impl Seen {
    /// What a redelivery of it is recognised by; `None` without a message id.
    pub fn print(&self) -> Option<Print> {
        Print::of(&self.message, self.record.attempt())
    }
}

impl Record {
    /// The attempt that a handler is shown, from 1.
    pub fn attempt(&self) -> u32 {
        1 + self.failures + self.crashes.unwrap_or_default()
    }

    /// Adds a failure; the middle of a long history goes first.
    pub fn push(&mut self, failure: Failure) {
        let description = cut(failure.description, DESCRIPTION_BYTES_MAX);
        self.history.push(Failure { description, ..failure });
        while self.history.len() > HISTORY_NEWEST + 1 || encoded_history(&self.history) > HISTORY_BYTES_MAX {
            if self.history.len() <= 2 {
                break;
            }
            self.history.remove(1);
            self.dropped = self.dropped.saturating_add(1);
        }
    }

    /// The life time that is left, in milliseconds; `None` = for ever.
    pub fn remaining_ms(&self, message: &Message) -> Option<u64> {
        match &self.origin {
            Some(first) => first.remaining_ms,
            None => message.properties.expiration.as_deref().and_then(|text| text.parse().ok()),
        }
    }
}

/// Reads what a delivery carries and restores what attempt 1 showed.
///
/// Our headers are believed only on what came through the nameless exchange with the queue's name as its key, as every
/// copy does: whoever can publish could send an attempt of 999 or a hostile origin.
pub fn read(message: Message, queue: &QueueName) -> Seen {
    let is_trusted = message.exchange.is_nameless() && message.routing_key == queue.as_str();
    if is_trusted { read_trusted(message) } else { without(message) }
}

/// A message whose headers under our prefix are somebody else's: they are ignored and removed.
pub fn without(mut message: Message) -> Seen {
    let delivery_count = count(&message.properties.headers, "x-delivery-count");
    let ours = take_ours(&mut message.properties.headers);
    Seen { message, record: Record::default(), distrusted_headers: ours.len(), delivery_count }
}

/// A message that came the way of our copies, whatever way that is where it lies.
pub fn read_trusted(mut message: Message) -> Seen {
    let delivery_count = count(&message.properties.headers, "x-delivery-count");
    let ours = take_ours(&mut message.properties.headers);
    if ours.is_empty() {
        return Seen { message, record: Record::default(), distrusted_headers: 0, delivery_count };
    }
    let record = Record {
        failures: count(&ours, ATTEMPT),
        // Its presence alone makes a suspect.
        crashes: ours.contains_key(CRASH).then(|| count(&ours, CRASH)),
        origin: ours.get(ORIGIN).and_then(Value::as_table).and_then(read_origin),
        history: ours.get(HISTORY).map(read_history).unwrap_or_default(),
        dropped: count(&ours, DROPPED),
        not_before_ms: number(&ours, NOT_BEFORE),
    };
    restore(&mut message, record.origin.as_ref());
    Seen { message, record, distrusted_headers: 0, delivery_count }
}

/// The headers of a copy: the publisher's own, without what the broker wrote or would act upon, and our record.
///
/// Death headers must go: a republished `x-death` makes the broker see a cycle and drop the message in silence
/// (measured). `CC` and `BCC` must go: a kept `CC` sends another copy elsewhere when a slot expires (measured).
pub fn copy_headers(message: &Message, record: &Record) -> Headers {
    let kept = |name: &str| !is_reserved_header(name) || PUBLISHERS_OWN.contains(&name);
    let mut headers: Headers = message
        .properties
        .headers
        .iter()
        .filter(|(name, _)| kept(name))
        .map(|(name, value)| (name.clone(), value.clone()))
        .collect();
    headers.insert(VERSION.to_owned(), Value::Int64(1));
    headers.insert(ATTEMPT.to_owned(), Value::Int64(i64::from(record.failures)));
    if let Some(crashes) = record.crashes {
        headers.insert(CRASH.to_owned(), Value::Int64(i64::from(crashes)));
    }
    if let Some(time) = record.not_before_ms {
        // In milliseconds: AMQP's own time has seconds only, and nothing may be early.
        headers.insert(NOT_BEFORE.to_owned(), integer(time));
    }
    if let Some(first) = &record.origin {
        headers.insert(ORIGIN.to_owned(), Value::Table(write_origin(first)));
    }
    let (history, dropped) = fitting_history(record, COPY_BYTES_MAX.saturating_sub(encoded_bytes(&headers)));
    if !history.is_empty() {
        headers.insert(HISTORY.to_owned(), Value::Array(history.iter().map(write_failure).collect()));
    }
    if dropped > 0 {
        headers.insert(DROPPED.to_owned(), Value::Int64(i64::from(dropped)));
    }
    headers
}

/// The failures that fit into so many bytes, and the number of those that no longer do. A publisher's own headers may
/// leave little room; the newest failure is the last to go.
fn fitting_history(record: &Record, bytes_max: usize) -> (Vec<Failure>, u32) {
    let (mut history, mut dropped) = (record.history.clone(), record.dropped);
    while !history.is_empty() && encoded_history(&history) > bytes_max {
        history.remove(usize::from(history.len() > 2));
        dropped = dropped.saturating_add(1);
    }
    (history, dropped)
}

/// What is noted when a message is copied for the first time.
pub fn first_sight(message: &Message, queue: &QueueName, now_ms: u64) -> FirstSight {
    FirstSight {
        origin: Origin {
            exchange: message.exchange.clone(),
            routing_key: message.routing_key.clone(),
            queue: queue.as_str().to_owned(),
            first_time_ms: now_ms,
        },
        user_id: message.properties.user_id.clone(),
        expiration: message.properties.expiration.clone(),
        had_message_id: message.properties.message_id.is_some(),
        remaining_ms: None,
    }
}

fn take_ours(headers: &mut Headers) -> Headers {
    let is_ours = |name: &str| name.starts_with("x-sidebus-") && !PUBLISHERS_OWN.contains(&name);
    let names: Vec<String> = headers.keys().filter(|name| is_ours(name)).cloned().collect();
    names.into_iter().filter_map(|name| headers.remove_entry(&name)).collect()
}

/// Takes away what the broker wrote while the message was on its way: attempt 1 did not show it.
pub fn strip(headers: &mut Headers) {
    headers.retain(|name, _| !is_reserved_header(name) || PUBLISHERS_OWN.contains(&name.as_str()));
}

fn restore(message: &mut Message, first: Option<&FirstSight>) {
    strip(&mut message.properties.headers);
    let Some(first) = first else { return };
    message.exchange.clone_from(&first.origin.exchange);
    message.routing_key.clone_from(&first.origin.routing_key);
    message.properties.user_id.clone_from(&first.user_id);
    message.properties.expiration.clone_from(&first.expiration);
    if !first.had_message_id {
        message.properties.message_id = None;
    }
}

fn count(headers: &Headers, name: &str) -> u32 {
    let number = headers.get(name).and_then(Value::as_integer).unwrap_or(0);
    u32::try_from(number.clamp(0, COUNT_MAX)).unwrap_or(0)
}

fn text(table: &Headers, name: &str) -> Option<String> {
    table.get(name).and_then(Value::as_text).map(str::to_owned)
}

fn number(table: &Headers, name: &str) -> Option<u64> {
    table.get(name).and_then(Value::as_integer).and_then(|n| u64::try_from(n).ok())
}

fn integer(number: u64) -> Value {
    Value::Int64(i64::try_from(number).unwrap_or(i64::MAX))
}

fn read_origin(table: &Headers) -> Option<FirstSight> {
    Some(FirstSight {
        origin: Origin {
            exchange: ExchangeName::from_broker(&text(table, "exchange")?),
            routing_key: text(table, "routing-key")?,
            queue: text(table, "queue")?,
            first_time_ms: number(table, "first-time-ms")?,
        },
        user_id: text(table, "user-id"),
        expiration: text(table, "expiration"),
        had_message_id: !matches!(table.get("message-id"), Some(Value::Bool(false))),
        remaining_ms: number(table, "remaining-ms"),
    })
}

fn write_origin(first: &FirstSight) -> Headers {
    let mut table = Headers::from([
        ("exchange".to_owned(), Value::text(first.origin.exchange.as_str())),
        ("routing-key".to_owned(), Value::text(first.origin.routing_key.clone())),
        ("queue".to_owned(), Value::text(first.origin.queue.clone())),
        ("first-time-ms".to_owned(), integer(first.origin.first_time_ms)),
        ("message-id".to_owned(), Value::Bool(first.had_message_id)),
    ]);
    if let Some(user) = &first.user_id {
        table.insert("user-id".to_owned(), Value::text(user.clone()));
    }
    if let Some(expiration) = &first.expiration {
        table.insert("expiration".to_owned(), Value::text(expiration.clone()));
    }
    if let Some(remaining) = first.remaining_ms {
        table.insert("remaining-ms".to_owned(), integer(remaining));
    }
    table
}

fn read_history(value: &Value) -> Vec<Failure> {
    let Value::Array(items) = value else { return Vec::new() };
    items.iter().filter_map(Value::as_table).filter_map(read_failure).take(HISTORY_NEWEST + 1).collect()
}

fn read_failure(table: &Headers) -> Option<Failure> {
    Some(Failure {
        kind: FailureKind::parse(table.get("kind")?.as_text()?)?,
        reason: text(table, "reason").unwrap_or_default(),
        description: text(table, "text").unwrap_or_default(),
        handler: text(table, "handler").unwrap_or_default(),
        attempt: u32::try_from(number(table, "attempt")?).ok()?,
        time_ms: number(table, "time-ms")?,
        delay_ms: number(table, "delay-ms"),
    })
}

fn write_failure(failure: &Failure) -> Value {
    let mut table = Headers::from([
        ("kind".to_owned(), Value::text(failure.kind.as_str())),
        ("reason".to_owned(), Value::text(failure.reason.clone())),
        ("text".to_owned(), Value::text(failure.description.clone())),
        ("handler".to_owned(), Value::text(failure.handler.clone())),
        ("attempt".to_owned(), Value::Int64(i64::from(failure.attempt))),
        ("time-ms".to_owned(), integer(failure.time_ms)),
    ]);
    if let Some(delay) = failure.delay_ms {
        table.insert("delay-ms".to_owned(), integer(delay));
    }
    Value::Table(table)
}

fn encoded_history(history: &[Failure]) -> usize {
    let headers = Headers::from([(HISTORY.to_owned(), Value::Array(history.iter().map(write_failure).collect()))]);
    encoded_bytes(&headers)
}

#[cfg(test)]
mod tests;
