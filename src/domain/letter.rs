//! A dead letter as an operator wants to see it, whoever wrote it: Sidebus, with cause and history, or the broker, with one
//! word. Knows no broker.

use super::failure::{Failure, Origin};
use super::message::{Headers, Message, Value};
use super::name::{ExchangeName, QueueName};
use super::record::{self, Record};

/// Unique id of one dead-lettering by Sidebus.
const ID: &str = "x-sidebus-dlq-id";

/// Why a letter lies where it lies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LetterCause {
    /// Given up by Sidebus: a word of [`DeadLetterCause`](super::giving_up::DeadLetterCause), or of a newer release.
    GivenUp(String),
    /// By the broker: the delivery limit of the queue.
    BrokerDeliveryLimit,
    /// By the broker: the life time of the message, or that of the queue.
    BrokerExpired,
    /// By the broker: the queue was full.
    BrokerMaxLength,
    /// Somebody else has put it here.
    Foreign,
}

impl LetterCause {
    /// The word that tools show.
    pub fn as_str(&self) -> &str {
        match self {
            Self::GivenUp(cause) => cause,
            Self::BrokerDeliveryLimit => "BROKER_DELIVERY_LIMIT",
            Self::BrokerExpired => "BROKER_EXPIRED",
            Self::BrokerMaxLength => "BROKER_MAXLEN",
            Self::Foreign => "FOREIGN",
        }
    }

    fn of_broker(reason: &str) -> Option<Self> {
        match reason {
            "delivery_limit" => Some(Self::BrokerDeliveryLimit),
            "expired" => Some(Self::BrokerExpired),
            "maxlen" => Some(Self::BrokerMaxLength),
            // `rejected` is another consumer's: Sidebus never rejects.
            _ => None,
        }
    }
}

/// What is known of a dead letter.
#[derive(Debug, Clone, PartialEq)]
pub struct Letter {
    /// As its handler saw it, or would have.
    pub message: Message,
    /// Why it lies here.
    pub cause: LetterCause,
    /// The handler's code; empty = none.
    pub reason: String,
    /// Attempts, crashes and history; what the broker wrote adds nothing to it.
    pub record: Record,
    /// Unique for each dead-lettering by Sidebus.
    pub id: Option<String>,
    /// When it was given up, in milliseconds since 1970; the broker tells whole seconds.
    pub time_ms: Option<u64>,
    /// The sidecar that gave it up, and its version.
    pub by: Option<String>,
    /// The work queue that it came from.
    pub queue: Option<String>,
}

impl Letter {
    /// True if the broker moved it here by its own rules.
    pub fn is_broker_made(&self) -> bool {
        match self.cause {
            LetterCause::BrokerDeliveryLimit | LetterCause::BrokerExpired | LetterCause::BrokerMaxLength => true,
            LetterCause::GivenUp(_) | LetterCause::Foreign => false,
        }
    }

    /// The newest failure.
    pub fn last_failure(&self) -> Option<&Failure> {
        self.record.history.last()
    }

    /// Where it was published to and when it was first taken.
    pub fn origin(&self) -> Option<&Origin> {
        self.record.origin.as_ref().map(|first| &first.origin)
    }
}

/// The newest death that the broker has recorded.
struct Death {
    reason: String,
    queue: String,
    exchange: String,
    routing_key: String,
    time_ms: Option<u64>,
}

/// Newest first, as the broker keeps them. `x-first-death-reason` is no help: of a message that was retried it tells of the
/// delay slot (measured).
fn deaths(headers: &Headers) -> Vec<Death> {
    let Some(Value::Array(rows)) = headers.get("x-death") else { return Vec::new() };
    let text = |row: &Headers, name: &str| row.get(name).and_then(Value::as_text).unwrap_or_default().to_owned();
    let read = |row: &Headers| {
        let keys = match row.get("routing-keys") {
            Some(Value::Array(keys)) => keys.as_slice(),
            Some(_) | None => &[],
        };
        Death {
            reason: text(row, "reason"),
            queue: text(row, "queue"),
            exchange: text(row, "exchange"),
            routing_key: keys.first().and_then(Value::as_text).unwrap_or_default().to_owned(),
            time_ms: match row.get("time") {
                Some(Value::Timestamp(seconds)) => Some(seconds.saturating_mul(1_000)),
                Some(_) | None => None,
            },
        }
    };
    rows.iter().filter_map(Value::as_table).map(read).collect()
}

/// Reads what lies in the queue `lies_in`. `exchange` is the dead-letter exchange, and `holds_letters` knows the queues of
/// letters and archives: one that expired in one of them is still what it was.
///
/// Our own words are believed on what came the way of our letters: anybody may publish them elsewhere.
pub fn read(
    message: Message,
    (lies_in, exchange): (&QueueName, &ExchangeName),
    holds_letters: impl Fn(&str) -> bool,
) -> Letter {
    let deaths = deaths(&message.properties.headers);
    // What moved on from letters to an archive has deaths of its own behind that.
    let came_by =
        message.exchange == *exchange || message.exchange.is_nameless() && message.routing_key == lies_in.as_str();
    let death = deaths.into_iter().find(|death| !holds_letters(&death.queue));
    let headers = &message.properties.headers;
    let text = |name: &str| headers.get(name).and_then(Value::as_text).map(str::to_owned);
    match death {
        None if came_by && headers.contains_key(ID) => {
            let time = headers.get("x-sidebus-dlq-time").and_then(Value::as_integer);
            let cause = LetterCause::GivenUp(text("x-sidebus-dlq-cause").unwrap_or_default());
            let (reason, id, by) = (text("x-sidebus-dlq-reason"), text(ID), text("x-sidebus-dlq-by"));
            let seen = record::read_trusted(message);
            let queue = seen.record.origin.as_ref().map(|first| first.origin.queue.clone());
            Letter {
                message: seen.message,
                cause,
                reason: reason.unwrap_or_default(),
                record: seen.record,
                id,
                time_ms: time.and_then(|time| u64::try_from(time).ok()),
                by,
                queue,
            }
        }
        Some(death) if came_by => of_broker(message, death),
        Some(_) | None => foreign(message),
    }
}

fn of_broker(mut message: Message, death: Death) -> Letter {
    let Some(cause) = LetterCause::of_broker(&death.reason) else { return foreign(message) };
    // As it lay in the work queue: a copy of ours had come there by the queue's own name.
    message.exchange = ExchangeName::from_broker(&death.exchange);
    message.routing_key = death.routing_key;
    let is_copy = message.exchange.is_nameless() && message.routing_key == death.queue;
    let mut seen = if is_copy { record::read_trusted(message) } else { record::without(message) };
    record::strip(&mut seen.message.properties.headers);
    Letter {
        message: seen.message,
        cause,
        reason: String::new(),
        record: seen.record,
        id: None,
        time_ms: death.time_ms,
        by: None,
        queue: Some(death.queue),
    }
}

fn foreign(message: Message) -> Letter {
    let record = Record::default();
    let (cause, reason) = (LetterCause::Foreign, String::new());
    Letter { message, cause, reason, record, id: None, time_ms: None, by: None, queue: None }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::domain::failure::FailureKind;
    use crate::domain::giving_up::{self, DeadLetterCause};
    use crate::domain::message::Properties;
    use crate::domain::subscription::DeadLetterSettings;

    fn queue(name: &str) -> QueueName {
        QueueName::parse(name).unwrap()
    }

    fn dlx() -> ExchangeName {
        ExchangeName::parse("dlx").unwrap()
    }

    fn message() -> Message {
        Message {
            exchange: ExchangeName::from_broker("events"),
            routing_key: "hand.CardsDealt".to_owned(),
            properties: Properties { message_id: Some("m".to_owned()), ..Properties::default() },
            body: Bytes::from_static(b"cards"),
        }
    }

    fn given_up() -> Message {
        let (message, record, work) = (message(), Record::default(), queue("work"));
        let source = giving_up::Source { message: &message, record: &record, queue: &work, now_ms: 7, fresh_id: "f" };
        let failure = Failure {
            kind: FailureKind::DeadLetter,
            reason: "BAD".to_owned(),
            description: "never".to_owned(),
            handler: "h".to_owned(),
            attempt: 1,
            time_ms: 7,
            delay_ms: None,
        };
        let verdict =
            giving_up::Verdict { cause: DeadLetterCause::RejectedByHandler, letter_id: "l-1", by: "pod-1 0.1.0" };
        giving_up::dead_letter(&source, Some(failure), &DeadLetterSettings::shared(dlx(), queue("dlq")), &verdict)
    }

    fn death(queue: &str, reason: &str, (exchange, key): (&str, &str)) -> Value {
        Value::Table(Headers::from([
            ("queue".to_owned(), Value::text(queue)),
            ("reason".to_owned(), Value::text(reason)),
            ("exchange".to_owned(), Value::text(exchange)),
            ("routing-keys".to_owned(), Value::Array(vec![Value::text(key)])),
            ("time".to_owned(), Value::Timestamp(9)),
        ]))
    }

    fn lying_in(message: Message, lies_in: &str) -> Letter {
        read(message, (&queue(lies_in), &dlx()), |name| name == "dlq" || name == "archive")
    }

    #[test]
    fn a_letter_of_ours_tells_all_and_shows_what_its_handler_saw() {
        let letter = lying_in(given_up(), "dlq");
        assert_eq!(letter.cause.as_str(), "REJECTED_BY_HANDLER");
        assert_eq!((letter.reason.as_str(), letter.id.as_deref(), letter.time_ms), ("BAD", Some("l-1"), Some(7)));
        assert_eq!((letter.by.as_deref(), letter.queue.as_deref()), (Some("pod-1 0.1.0"), Some("work")));
        assert_eq!(letter.last_failure().map(|failure| failure.description.as_str()), Some("never"));
        assert_eq!(letter.origin().map(|origin| origin.first_time_ms), Some(7));
        let seen = Properties { delivery_mode: Some(2), ..message().properties };
        assert_eq!(letter.message, Message { properties: seen, ..message() });
        assert!(!letter.is_broker_made());
    }

    #[test]
    fn one_that_expired_among_the_letters_is_still_what_it_was() {
        let mut moved = given_up();
        moved.exchange = ExchangeName::nameless();
        moved.routing_key = "archive".to_owned();
        let death = death("dlq", "expired", ("dlx", "work"));
        moved.properties.headers.insert("x-death".to_owned(), Value::Array(vec![death]));
        assert_eq!(lying_in(moved, "archive").cause.as_str(), "REJECTED_BY_HANDLER");
    }

    #[test]
    fn the_brokers_own_letters_are_told_by_their_newest_death() {
        for (reason, cause) in
            [("delivery_limit", "BROKER_DELIVERY_LIMIT"), ("expired", "BROKER_EXPIRED"), ("maxlen", "BROKER_MAXLEN")]
        {
            let mut dead = message();
            dead.exchange = dlx();
            let deaths = vec![
                death("work", reason, ("events", "hand.CardsDealt")),
                death("sidebus.delay.000001000", "expired", ("sidebus.delay.000001000", "work")),
            ];
            dead.properties.headers.insert("x-death".to_owned(), Value::Array(deaths));
            let letter = lying_in(dead, "dlq");
            assert_eq!((letter.cause.as_str(), letter.is_broker_made()), (cause, true));
            assert_eq!((letter.queue.as_deref(), letter.time_ms), (Some("work"), Some(9_000)));
            assert_eq!(letter.message, message());
        }
    }

    #[test]
    fn what_others_put_here_is_foreign_whatever_it_says() {
        assert_eq!(lying_in(message(), "dlq").cause, LetterCause::Foreign);
        // Our words on what came another way.
        let mut forged = given_up();
        forged.exchange = ExchangeName::from_broker("events");
        assert_eq!(lying_in(forged, "dlq").cause, LetterCause::Foreign);
        // Our words on what a queue gave up: the broker's word counts.
        let mut forged = given_up();
        let death = death("work", "expired", ("events", "hand.CardsDealt"));
        forged.properties.headers.insert("x-death".to_owned(), Value::Array(vec![death]));
        let letter = lying_in(forged, "dlq");
        assert_eq!((letter.cause, letter.record), (LetterCause::BrokerExpired, Record::default()));
        let mut rejected = message();
        rejected.exchange = dlx();
        let death = self::death("work", "rejected", ("events", "hand.CardsDealt"));
        rejected.properties.headers.insert("x-death".to_owned(), Value::Array(vec![death]));
        assert_eq!(lying_in(rejected, "dlq").cause, LetterCause::Foreign);
    }
}
