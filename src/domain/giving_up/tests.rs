//! What failures lead to, and what is published because of them.

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
    Failed { record, kind, delay: None, remaining_ms: None, now_ms: 0 }
}

#[test]
fn retries_stop_at_the_ceiling() {
    let record = |failures| Record { failures, ..Record::default() };
    let retry = |delay| Decision::Retry(Wait::once(Slot::at_least(delay).unwrap()));
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
    let Decision::Retry(wait) = decision else { panic!("{decision:?}") };
    assert!(wait.slot.ttl() >= asked);
}

#[test]
fn a_delay_beyond_the_longest_slot_comes_home_and_waits_for_the_rest() {
    let (message, record, queue) = (message(), Record::default(), QueueName::parse("hand-saga").unwrap());
    let days = Duration::from_hours(48);
    let failed = Failed { delay: Some(days), now_ms: 7, ..failed(&record, FailureKind::Retry) };
    let Decision::Retry(wait) = decide(&settings(), &failed, DRAW) else { panic!("a retry") };
    let source = Source { message: &message, record: &record, queue: &queue, now_ms: 7, fresh_id: "fresh" };
    let home = |mut copy: Message| {
        copy.exchange = ExchangeName::nameless();
        record::read(copy, &queue)
    };

    let first = home(retry_copy(&source, failure(), None, (wait, "sidebus")));
    assert_eq!((first.record.attempt(), first.record.not_before_ms), (2, Some(7 + 48 * 3_600_000)));
    let now_ms = 7 + millis(wait.slot.ttl());
    let rest = Wait::rest(first.record.not_before_ms.unwrap(), now_ms).expect("too early");
    let source = Source { message: &first.message, record: &first.record, now_ms, ..source };
    let second = home(delay_copy(&source, None, (rest, "sidebus")));
    assert_eq!((second.record.attempt(), &second.record.history), (2, &first.record.history));
    assert_eq!(Wait::rest(second.record.not_before_ms.unwrap(), now_ms + millis(rest.slot.ttl())), None);

    let dying = Failed { remaining_ms: Some(47 * 3_600_000), ..failed };
    assert_eq!(decide(&settings(), &dying, DRAW), Decision::DeadLetter(DeadLetterCause::Expired));
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
        delay_ms: None,
    }
}

#[test]
fn a_copy_comes_home_as_attempt_two_with_less_time_to_live() {
    let (message, record, queue) = (message(), Record::default(), QueueName::parse("hand-saga").unwrap());
    let source = Source { message: &message, record: &record, queue: &queue, now_ms: 7, fresh_id: "fresh" };
    let slot = Slot::at_least(SECOND).unwrap();

    let mut copy = retry_copy(&source, failure(), Some(80_000), (Wait::once(slot), "sidebus"));

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
