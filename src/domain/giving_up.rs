//! From a failed attempt to what is published because of it: a copy in a delay slot, or a dead letter. Knows no broker.

use std::time::Duration;

use super::delay::{Slot, Wait};
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
    /// Wait, then try again.
    Retry(Wait),
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
    /// Now, in milliseconds since 1970.
    pub now_ms: u64,
}

/// Retry or give up; total over everything that can have happened.
///
/// A handler's own delay is never early: the slot is rounded up, and nothing of it is drawn.
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
    let wait = match (failed.kind, failed.delay) {
        // What takes handlers down goes alone anyway, one at a time: to wait longer would help nobody.
        (FailureKind::Crash, _) => Wait::once(Slot::shortest()),
        (_, Some(asked)) => Wait::at_least(asked, failed.now_ms),
        (_, None) => Wait::once(retry::slot(settings, failures, draw)),
    };
    if ends_in(wait, failed.remaining_ms, failed.now_ms) {
        return Decision::DeadLetter(DeadLetterCause::Expired);
    }
    Decision::Retry(wait)
}

/// True if the life time of a message would end before its wait does.
pub fn ends_in(wait: Wait, remaining_ms: Option<u64>, now_ms: u64) -> bool {
    remaining_ms.is_some_and(|left| left <= whole_ms(wait, now_ms))
}

fn whole_ms(wait: Wait, now_ms: u64) -> u64 {
    wait.not_before_ms.map_or(0, |time| time.saturating_sub(now_ms)).max(millis(wait.slot.ttl()))
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
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
pub fn retry_copy(source: &Source<'_>, failure: Failure, remaining_ms: Option<u64>, wait: (Wait, &str)) -> Message {
    let failure = Failure { delay_ms: Some(whole_ms(wait.0, source.now_ms)), ..failure };
    waiting_copy(source, failed_record(source, failure), remaining_ms, wait)
}

/// The copy that waits once more because its time has not come; no attempt was made.
pub fn delay_copy(source: &Source<'_>, remaining_ms: Option<u64>, wait: (Wait, &str)) -> Message {
    waiting_copy(source, seen_record(source), remaining_ms, wait)
}

fn waiting_copy(
    source: &Source<'_>,
    mut record: Record,
    remaining_ms: Option<u64>,
    (wait, namespace): (Wait, &str),
) -> Message {
    record.not_before_ms = wait.not_before_ms;
    if let Some(first) = &mut record.origin {
        first.remaining_ms = remaining_ms.map(|left| left.saturating_sub(millis(wait.slot.ttl())));
    }
    copy(source, &record, wait.slot.exchange(namespace))
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
    record.not_before_ms = None;
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
mod tests;
