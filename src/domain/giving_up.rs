//! From a failed attempt to what is published because of it: a copy in a delay slot, or a dead letter. Knows no broker.

use std::time::Duration;

use super::delay::Slot;
use super::failure::{Failure, FailureKind};
use super::message::{Message, PERSISTENT, Value};
use super::name::{ExchangeName, QueueName};
use super::record::{self, Record};
use super::retry::{self, Draw};
use super::subscription::{DeadLetterSettings, RetrySettings};

/// The handler's own code on a letter.
const LETTER_REASON: &str = "x-sidebus-dlq-reason";

/// The code that a handler gave a message up with, on its letter; empty where none did.
pub fn letter_reason(letter: &Message) -> &str {
    letter.properties.headers.get(LETTER_REASON).and_then(Value::as_text).unwrap_or_default()
}

/// Why a message was given up; a closed set of ours, beside the handler's own reason.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum DeadLetterCause {
    /// Verdict `dead_letter`.
    RejectedByHandler,
    /// No attempts left; the last one failed by verdict.
    MaxAttempts,
    /// No attempts left; the last one ran out of time.
    SettleTimeout,
    /// Its life time would have ended before the next attempt.
    Expired,
    /// It took down as many handlers as it may, each while that one held nothing else.
    CrashLoop,
    /// Larger than the subscription takes; no handler saw it.
    MessageTooLarge,
}

impl DeadLetterCause {
    /// The word on the letter.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::RejectedByHandler => "REJECTED_BY_HANDLER",
            Self::MaxAttempts => "MAX_ATTEMPTS",
            Self::SettleTimeout => "SETTLE_TIMEOUT",
            Self::Expired => "EXPIRED",
            Self::CrashLoop => "CRASH_LOOP",
            Self::MessageTooLarge => "MESSAGE_TOO_LARGE",
        }
    }

    /// The word of the metric label.
    pub fn label(self) -> &'static str {
        match self {
            Self::RejectedByHandler => "rejected_by_handler",
            Self::MaxAttempts => "max_attempts",
            Self::SettleTimeout => "settle_timeout",
            Self::Expired => "expired",
            Self::CrashLoop => "crash_loop",
            Self::MessageTooLarge => "message_too_large",
        }
    }
}

/// What a failed attempt leads to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decision {
    /// Wait in this slot, then try again.
    Retry(Slot),
    /// Give the message up.
    DeadLetter(DeadLetterCause),
}

/// A failed attempt and its surroundings.
#[derive(Debug, Clone, Copy)]
pub struct Failed<'a> {
    /// What the message carries, this failure not included.
    pub record: &'a Record,
    /// Who said that it failed.
    pub kind: FailureKind,
    /// The handler's own delay.
    pub delay: Option<Duration>,
    /// What is left of the message's life time now, in milliseconds.
    pub remaining_ms: Option<u64>,
}

/// Retry or give up; total over everything that can have happened.
///
/// A handler's own delay is never early: the slot is rounded up, and nothing of it is drawn. Delays above the longest slot
/// are refused where verdicts are parsed, so they cannot come here; if one did, the longest slot would serve it.
pub fn decide(settings: &RetrySettings, failed: &Failed<'_>, draw: Draw) -> Decision {
    let failures = failed.record.failures.saturating_add(1);
    let crashes = failed.record.crashes.unwrap_or_default().saturating_add(1);
    let (is_last, cause) = match failed.kind {
        FailureKind::DeadLetter => (true, DeadLetterCause::RejectedByHandler),
        FailureKind::Timeout => (failures >= settings.max_attempts, DeadLetterCause::SettleTimeout),
        FailureKind::Retry => (failures >= settings.max_attempts, DeadLetterCause::MaxAttempts),
        FailureKind::Crash => (crashes >= settings.crash_limit, DeadLetterCause::CrashLoop),
    };
    if is_last {
        return Decision::DeadLetter(cause);
    }
    let slot = match (failed.kind, failed.delay) {
        // What takes handlers down goes alone anyway, one at a time: to wait longer would help nobody.
        (FailureKind::Crash, _) => Slot::shortest(),
        (_, Some(asked)) => Slot::at_least(asked).unwrap_or_else(Slot::longest),
        (_, None) => retry::slot(settings, failures, draw),
    };
    match failed.remaining_ms {
        Some(left) if Duration::from_millis(left) <= slot.ttl() => Decision::DeadLetter(DeadLetterCause::Expired),
        Some(_) | None => Decision::Retry(slot),
    }
}

/// What every copy is made of.
#[derive(Debug, Clone, Copy)]
pub struct Source<'a> {
    /// The message as attempt 1 showed it.
    pub message: &'a Message,
    /// What it carries, this failure not included.
    pub record: &'a Record,
    /// The work queue that it was taken from.
    pub queue: &'a QueueName,
    /// Now, in milliseconds since 1970.
    pub now_ms: u64,
    /// A fresh id, used where the message has none: a returned message is recognised by it.
    pub fresh_id: &'a str,
}

/// The copy that waits in a slot and then comes home.
pub fn retry_copy(
    source: &Source<'_>,
    failure: Failure,
    remaining_ms: Option<u64>,
    (slot, namespace): (Slot, &str),
) -> Message {
    let mut record = failed_record(source, failure);
    let slot_ms = u64::try_from(slot.ttl().as_millis()).unwrap_or(u64::MAX);
    if let Some(first) = &mut record.origin {
        first.remaining_ms = remaining_ms.map(|left| left.saturating_sub(slot_ms));
    }
    copy(source, &record, slot.exchange(namespace))
}

/// A give-back so close to the queue's own limit is a copy: the margin is for requeues that nobody could turn into one.
pub const GUARD_MARGIN: u32 = 5;

/// The copy that goes back to its own queue instead of a requeue; it carries the same record, so the attempt is the same.
/// A suspect stays one: the broker's redelivered flag does not travel with a copy.
pub fn guard_copy(source: &Source<'_>, remaining_ms: Option<u64>, is_suspect: bool) -> Message {
    let mut record = source.record.clone();
    if is_suspect {
        record.crashes.get_or_insert(0);
    } else {
        record.crashes.take_if(|crashes| *crashes == 0);
    }
    let mut first =
        record.origin.take().unwrap_or_else(|| record::first_sight(source.message, source.queue, source.now_ms));
    first.remaining_ms = remaining_ms;
    record.origin = Some(first);
    let mut copy = copy(source, &record, ExchangeName::nameless());
    // It waits in the queue itself, where its life time goes on.
    copy.properties.expiration = remaining_ms.map(|left| left.to_string());
    copy
}

/// Who gives a message up, and why.
#[derive(Debug, Clone, Copy)]
pub struct Verdict<'a> {
    /// Our cause.
    pub cause: DeadLetterCause,
    /// Unique id of this dead-lettering.
    pub letter_id: &'a str,
    /// The sidecar that gives it up, and its version.
    pub by: &'a str,
}

/// The dead letter: the message with its history, the cause and who gave it up. Without a failure no attempt is counted.
pub fn dead_letter(
    source: &Source<'_>,
    failure: Option<Failure>,
    target: &DeadLetterSettings,
    verdict: &Verdict<'_>,
) -> Message {
    let reason = failure.as_ref().map(|failure| failure.reason.clone()).unwrap_or_default();
    let record = match failure {
        Some(failure) => failed_record(source, failure),
        None => seen_record(source),
    };
    let (exchange, routing_key) = target.address(source.queue);
    let mut letter = copy(source, &record, exchange);
    letter.routing_key = routing_key;
    let time = i64::try_from(source.now_ms).unwrap_or(i64::MAX);
    letter.properties.headers.extend([
        ("x-sidebus-dlq-cause".to_owned(), Value::text(verdict.cause.as_str())),
        (LETTER_REASON.to_owned(), Value::text(reason)),
        ("x-sidebus-dlq-time".to_owned(), Value::Int64(time)),
        ("x-sidebus-dlq-id".to_owned(), Value::text(verdict.letter_id)),
        ("x-sidebus-dlq-by".to_owned(), Value::text(verdict.by)),
    ]);
    letter
}

fn seen_record(source: &Source<'_>) -> Record {
    let mut record = source.record.clone();
    if record.origin.is_none() {
        record.origin = Some(record::first_sight(source.message, source.queue, source.now_ms));
    }
    record
}

fn failed_record(source: &Source<'_>, failure: Failure) -> Record {
    let mut record = seen_record(source);
    match failure.kind {
        FailureKind::Crash => *record.crashes.get_or_insert(0) += 1,
        FailureKind::Retry | FailureKind::DeadLetter => {
            record.failures = record.failures.saturating_add(1);
            // A handler has lived to say so: what was never charged is cleared.
            record.crashes.take_if(|crashes| *crashes == 0);
        }
        FailureKind::Timeout => record.failures = record.failures.saturating_add(1),
    }
    record.push(failure);
    record
}

fn copy(source: &Source<'_>, record: &Record, exchange: ExchangeName) -> Message {
    let mut properties = source.message.properties.clone();
    properties.headers = record::copy_headers(source.message, record);
    properties.delivery_mode = Some(PERSISTENT);
    // The broker refuses a user that is not the one that publishes (406, which closes the channel), and a life time of
    // its own would end the wait in the slot; the origin keeps both.
    properties.user_id = None;
    properties.expiration = None;
    properties.message_id.get_or_insert_with(|| source.fresh_id.to_owned());
    Message {
        exchange,
        // The key is the address: the nameless exchange brings the copy home by it.
        routing_key: source.queue.as_str().to_owned(),
        properties,
        body: source.message.body.clone(),
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::domain::message::Properties;
    use crate::domain::subscription::OwnLetters;

    const SECOND: Duration = Duration::from_secs(1);

    const DRAW: Draw = Draw { spread: 0.5, pick: 0.5 };

    fn settings() -> RetrySettings {
        RetrySettings { max_attempts: 3, jitter: 0.0, ..RetrySettings::default() }
    }

    fn failed(record: &Record, kind: FailureKind) -> Failed<'_> {
        Failed { record, kind, delay: None, remaining_ms: None }
    }

    #[test]
    fn retries_stop_at_the_ceiling() {
        let record = |failures| Record { failures, ..Record::default() };
        let retry = |delay| Decision::Retry(Slot::at_least(delay).unwrap());
        for (failures, kind, expected) in [
            (0, FailureKind::Retry, retry(SECOND)),
            (1, FailureKind::Timeout, retry(SECOND * 2)),
            (2, FailureKind::Retry, Decision::DeadLetter(DeadLetterCause::MaxAttempts)),
            (2, FailureKind::Timeout, Decision::DeadLetter(DeadLetterCause::SettleTimeout)),
            (u32::MAX, FailureKind::Retry, Decision::DeadLetter(DeadLetterCause::MaxAttempts)),
            (0, FailureKind::DeadLetter, Decision::DeadLetter(DeadLetterCause::RejectedByHandler)),
        ] {
            assert_eq!(decide(&settings(), &failed(&record(failures), kind), DRAW), expected, "{failures} {kind:?}");
        }
    }

    #[test]
    fn a_handlers_own_delay_is_never_early() {
        let record = Record::default();
        let asked = Duration::from_millis(5_001);
        let failed = Failed { delay: Some(asked), ..failed(&record, FailureKind::Retry) };
        let decision = decide(&RetrySettings::default(), &failed, Draw { spread: 0.0, pick: 0.999 });
        let Decision::Retry(slot) = decision else { panic!("{decision:?}") };
        assert!(slot.ttl() >= asked);
    }

    #[test]
    fn a_message_that_would_expire_while_waiting_is_given_up() {
        let record = Record::default();
        let dying = Failed { remaining_ms: Some(900), ..failed(&record, FailureKind::Retry) };
        assert_eq!(decide(&settings(), &dying, DRAW), Decision::DeadLetter(DeadLetterCause::Expired));
    }

    fn message() -> Message {
        Message {
            exchange: ExchangeName::from_broker("angzarr.events"),
            routing_key: "hand.CardsDealt".to_owned(),
            properties: Properties {
                user_id: Some("app".to_owned()),
                expiration: Some("90000".to_owned()),
                ..Properties::default()
            },
            body: Bytes::from_static(b"cards"),
        }
    }

    fn failure() -> Failure {
        Failure {
            kind: FailureKind::Retry,
            reason: "BUSY".to_owned(),
            description: String::new(),
            handler: "h1".to_owned(),
            attempt: 1,
            time_ms: 7,
        }
    }

    #[test]
    fn a_copy_comes_home_as_attempt_two_with_less_time_to_live() {
        let (message, record, queue) = (message(), Record::default(), QueueName::parse("hand-saga").unwrap());
        let source = Source { message: &message, record: &record, queue: &queue, now_ms: 7, fresh_id: "fresh" };
        let slot = Slot::at_least(SECOND).unwrap();

        let mut copy = retry_copy(&source, failure(), Some(80_000), (slot, "sidebus"));

        assert_eq!(copy.exchange, slot.exchange("sidebus"));
        assert_eq!(copy.properties.delivery_mode, Some(PERSISTENT));
        assert_eq!(copy.properties.message_id.as_deref(), Some("fresh"));
        assert_eq!((&copy.properties.user_id, &copy.properties.expiration), (&None, &None));
        copy.exchange = ExchangeName::nameless();
        let seen = record::read(copy, &queue);
        assert_eq!(seen.record.attempt(), 2);
        assert_eq!(seen.record.remaining_ms(&seen.message), Some(80_000 - 1_131));
        let expected =
            Message { properties: Properties { delivery_mode: Some(PERSISTENT), ..message.properties }, ..message };
        assert_eq!(seen.message, expected);
    }

    #[test]
    fn a_guard_copy_comes_home_as_the_same_attempt() {
        let (message, queue) = (message(), QueueName::parse("hand-saga").unwrap());
        let record = Record { failures: 2, ..Record::default() };
        let source = Source { message: &message, record: &record, queue: &queue, now_ms: 7, fresh_id: "fresh" };

        let copy = guard_copy(&source, Some(80_000), false);

        assert!(copy.exchange.is_nameless());
        assert_eq!(copy.properties.expiration.as_deref(), Some("80000"));
        let seen = record::read(copy, &queue);
        assert_eq!(seen.record.attempt(), 3);
        assert_eq!(seen.message.routing_key, message.routing_key);
        assert_eq!(seen.message.properties.expiration, message.properties.expiration);
    }

    #[test]
    fn a_letter_says_why_who_and_when() {
        let (message, record, queue) = (message(), Record::default(), QueueName::parse("hand-saga").unwrap());
        let source = Source { message: &message, record: &record, queue: &queue, now_ms: 7, fresh_id: "fresh" };
        let target = DeadLetterSettings::shared(
            ExchangeName::parse("angzarr.dlx").unwrap(),
            QueueName::parse("angzarr.dlq").unwrap(),
        );
        let verdict = Verdict { cause: DeadLetterCause::RejectedByHandler, letter_id: "l-1", by: "pod-1 0.1.0" };

        let letter = dead_letter(&source, Some(failure()), &target, &verdict);

        assert_eq!((letter.exchange.as_str(), letter.routing_key.as_str()), ("angzarr.dlx", "hand-saga"));
        let text = |name: &str| letter.properties.headers.get(name).and_then(Value::as_text);
        assert_eq!(text("x-sidebus-dlq-cause"), Some("REJECTED_BY_HANDLER"));
        assert_eq!(text("x-sidebus-dlq-reason"), Some("BUSY"));
        assert_eq!(text("x-sidebus-dlq-by"), Some("pod-1 0.1.0"));
        assert_eq!(letter.properties.headers.get("x-sidebus-attempt"), Some(&Value::Int64(1)));
    }

    #[test]
    fn a_letter_that_no_handler_saw_counts_no_attempt_and_goes_where_the_scope_says() {
        let (message, record, queue) = (message(), Record::default(), QueueName::parse("hand-saga").unwrap());
        let source = Source { message: &message, record: &record, queue: &queue, now_ms: 7, fresh_id: "fresh" };
        let mut target = DeadLetterSettings::shared(
            ExchangeName::parse("angzarr.dlx").unwrap(),
            QueueName::parse("angzarr.dlq").unwrap(),
        );
        let own = QueueName::parse("hand-saga.dlq").unwrap();
        target.own = Some(OwnLetters { queue: own, archive: None });
        let verdict = Verdict { cause: DeadLetterCause::MessageTooLarge, letter_id: "l-1", by: "pod-1 0.1.0" };

        let letter = dead_letter(&source, None, &target, &verdict);

        assert_eq!((letter.exchange.as_str(), letter.routing_key.as_str()), ("", "hand-saga.dlq"));
        let text = |name: &str| letter.properties.headers.get(name).and_then(Value::as_text);
        assert_eq!((text("x-sidebus-dlq-cause"), text("x-sidebus-dlq-reason")), (Some("MESSAGE_TOO_LARGE"), Some("")));
        assert_eq!(letter.properties.headers.get("x-sidebus-attempt"), Some(&Value::Int64(0)));
        assert!(letter.properties.headers.contains_key("x-sidebus-origin"));
    }
}
