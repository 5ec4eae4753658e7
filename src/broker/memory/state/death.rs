//! What the broker writes on a message that a queue gives up, and when it refuses to go in circles.
//!
//! Pure; the headers are RabbitMQ's: one `x-death` row for each queue and reason, newest first.

use crate::domain::message::{Headers, Message, Value};
use crate::domain::name::{ExchangeName, QueueName};

/// Why a queue gave a message up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reason {
    /// Its time was over.
    Expired,
    /// The queue was full.
    MaxLength,
    /// It was requeued too often.
    DeliveryLimit,
}

impl Reason {
    /// The broker's word.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Expired => "expired",
            Self::MaxLength => "maxlen",
            Self::DeliveryLimit => "delivery_limit",
        }
    }
}

/// Where a queue sends what it gives up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Grave {
    pub(crate) exchange: ExchangeName,
    /// `None` = the key the message came with.
    pub(crate) routing_key: Option<String>,
    /// Keeps the message until its target has it, instead of dropping it.
    pub(crate) at_least_once: bool,
}

/// The message as its dead-letter target gets it. `unix_secs` is the time of death.
pub(crate) fn record(message: &Message, queue: &QueueName, reason: Reason, grave: &Grave, unix_secs: u64) -> Message {
    let mut dead = message.clone();
    let headers = &mut dead.properties.headers;
    let mut rows = match headers.remove("x-death") {
        Some(Value::Array(rows)) => rows,
        Some(_) | None => Vec::new(),
    };
    let same = rows.iter().position(|row| is_row_of(row, queue, reason));
    let row = same.map_or_else(|| first_row(message, queue, reason, unix_secs), |index| counted_up(rows.remove(index)));
    rows.insert(0, row);
    headers.insert("x-death".to_owned(), Value::Array(rows));
    if !headers.contains_key("x-first-death-reason") {
        for (name, value) in
            [("reason", reason.as_str()), ("queue", queue.as_str()), ("exchange", message.exchange.as_str())]
        {
            headers.insert(format!("x-first-death-{name}"), Value::text(value));
        }
    }
    // It must not expire again where it goes; the row keeps the original.
    dead.properties.expiration = None;
    dead.exchange = grave.exchange.clone();
    if let Some(key) = &grave.routing_key {
        dead.routing_key.clone_from(key);
    }
    dead
}

/// True if the recorded message has been in `queue` before and only the broker's own rules took it round: RabbitMQ drops
/// it then, in silence.
pub(crate) fn would_cycle(recorded: &Message, queue: &QueueName) -> bool {
    let Some(Value::Array(rows)) = recorded.properties.headers.get("x-death") else { return false };
    let Some(index) = rows.iter().position(|row| text(row, "queue") == Some(queue.as_str())) else { return false };
    rows[..=index].iter().all(|row| text(row, "reason") != Some("rejected"))
}

fn first_row(message: &Message, queue: &QueueName, reason: Reason, unix_secs: u64) -> Value {
    let mut row = Headers::from([
        ("count".to_owned(), Value::Int64(1)),
        ("reason".to_owned(), Value::text(reason.as_str())),
        ("queue".to_owned(), Value::text(queue.as_str())),
        ("time".to_owned(), Value::Timestamp(unix_secs)),
        ("exchange".to_owned(), Value::text(message.exchange.as_str())),
        ("routing-keys".to_owned(), Value::Array(vec![Value::text(message.routing_key.as_str())])),
    ]);
    if let Some(expiration) = &message.properties.expiration {
        row.insert("original-expiration".to_owned(), Value::text(expiration.as_str()));
    }
    Value::Table(row)
}

fn counted_up(row: Value) -> Value {
    let Value::Table(mut row) = row else { return row };
    let count = row.get("count").and_then(Value::as_integer).unwrap_or(0);
    row.insert("count".to_owned(), Value::Int64(count.saturating_add(1)));
    Value::Table(row)
}

fn is_row_of(row: &Value, queue: &QueueName, reason: Reason) -> bool {
    text(row, "queue") == Some(queue.as_str()) && text(row, "reason") == Some(reason.as_str())
}

fn text<'a>(row: &'a Value, name: &str) -> Option<&'a str> {
    row.as_table()?.get(name)?.as_text()
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::domain::message::Properties;

    fn queue(name: &str) -> QueueName {
        QueueName::parse(name).unwrap()
    }

    fn message() -> Message {
        let properties = Properties { expiration: Some("500".to_owned()), ..Properties::default() };
        let exchange = ExchangeName::from_broker("events");
        Message { exchange, routing_key: "a.b".to_owned(), properties, body: Bytes::from_static(b"x") }
    }

    fn grave(routing_key: Option<&str>) -> Grave {
        let routing_key = routing_key.map(str::to_owned);
        Grave { exchange: ExchangeName::from_broker("dlx"), routing_key, at_least_once: false }
    }

    fn rows(message: &Message) -> Vec<(String, String, i64)> {
        let Some(Value::Array(rows)) = message.properties.headers.get("x-death") else { panic!("no x-death") };
        let row = |row: &Value| {
            let count = row.as_table().and_then(|row| row.get("count")).and_then(Value::as_integer).unwrap();
            (text(row, "queue").unwrap().to_owned(), text(row, "reason").unwrap().to_owned(), count)
        };
        rows.iter().map(row).collect()
    }

    #[test]
    fn the_first_death_tells_where_and_why() {
        let dead = record(&message(), &queue("work"), Reason::Expired, &grave(None), 1_700_000_000);
        assert_eq!(rows(&dead), [("work".to_owned(), "expired".to_owned(), 1)]);
        assert_eq!((dead.exchange.as_str(), dead.routing_key.as_str()), ("dlx", "a.b"));
        assert_eq!(dead.properties.expiration, None);
        let Some(Value::Array(all)) = dead.properties.headers.get("x-death") else { panic!("no x-death") };
        let row = all[0].as_table().unwrap();
        assert_eq!(row.get("time"), Some(&Value::Timestamp(1_700_000_000)));
        assert_eq!(row.get("exchange"), Some(&Value::text("events")));
        assert_eq!(row.get("routing-keys"), Some(&Value::Array(vec![Value::text("a.b")])));
        assert_eq!(row.get("original-expiration"), Some(&Value::text("500")));
        assert_eq!(dead.properties.headers.get("x-first-death-queue"), Some(&Value::text("work")));
    }

    #[test]
    fn deaths_are_counted_for_each_queue_and_reason_newest_first() {
        let mut dead = message();
        for (name, reason) in [("a", Reason::Expired), ("b", Reason::MaxLength), ("a", Reason::Expired)] {
            dead = record(&dead, &queue(name), reason, &grave(Some("k")), 1);
        }
        assert_eq!(rows(&dead), [("a".to_owned(), "expired".to_owned(), 2), ("b".to_owned(), "maxlen".to_owned(), 1)]);
        assert_eq!(dead.properties.headers.get("x-first-death-queue"), Some(&Value::text("a")));
        assert_eq!(dead.routing_key, "k");
    }

    #[test]
    fn a_circle_without_a_rejection_is_noticed() {
        let once = record(&message(), &queue("a"), Reason::Expired, &grave(None), 1);
        let twice = record(&once, &queue("b"), Reason::Expired, &grave(None), 1);
        assert!(would_cycle(&twice, &queue("a")));
        assert!(would_cycle(&twice, &queue("b")));
        assert!(!would_cycle(&twice, &queue("c")));
        assert!(!would_cycle(&message(), &queue("a")));
    }

    #[test]
    fn a_rejection_on_the_way_breaks_the_circle() {
        let mut dead = record(&message(), &queue("a"), Reason::Expired, &grave(None), 1);
        let rejected = Value::Table(Headers::from([
            ("queue".to_owned(), Value::text("b")),
            ("reason".to_owned(), Value::text("rejected")),
        ]));
        let Some(Value::Array(rows)) = dead.properties.headers.get_mut("x-death") else { panic!("no x-death") };
        rows.insert(0, rejected);
        assert!(!would_cycle(&dead, &queue("a")));
    }
}
