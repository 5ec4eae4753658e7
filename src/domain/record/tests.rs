//! What a copy carries, and what a delivery shows of it.

use bytes::Bytes;
use proptest::prelude::*;

use super::*;
use crate::domain::message::Properties;

fn failure(attempt: u32, description: &str) -> Failure {
    Failure {
        kind: FailureKind::Retry,
        reason: "DB_TIMEOUT".to_owned(),
        description: description.to_owned(),
        handler: "h".to_owned(),
        attempt,
        time_ms: 1_700_000_000_000,
        delay_ms: attempt.is_multiple_of(2).then_some(1_131),
    }
}

fn published() -> Message {
    Message {
        exchange: ExchangeName::from_broker("angzarr.events"),
        routing_key: "player.PlayerRegistered".to_owned(),
        properties: Properties {
            user_id: Some("app".to_owned()),
            expiration: Some("60000".to_owned()),
            headers: Headers::from([
                ("x-tenant".to_owned(), Value::Int16(7)),
                ("x-sidebus-key".to_owned(), Value::text("k")),
            ]),
            ..Properties::default()
        },
        body: Bytes::from_static(b"{}"),
    }
}

fn work() -> QueueName {
    QueueName::parse("player-projector").unwrap()
}

fn copied(message: &Message, record: &Record) -> Message {
    let mut copy = message.clone();
    copy.properties.headers = copy_headers(message, record);
    copy.properties.headers.insert("x-death".to_owned(), Value::Array(Vec::new()));
    copy.properties.user_id = None;
    copy.properties.expiration = None;
    copy.properties.message_id = Some("ours".to_owned());
    copy.exchange = ExchangeName::nameless();
    copy.routing_key = work().as_str().to_owned();
    copy
}

#[test]
fn attempt_two_shows_what_attempt_one_showed() {
    let message = published();
    let mut record = Record { failures: 1, origin: Some(first_sight(&message, &work(), 5)), ..Record::default() };
    record.push(failure(1, "no answer"));

    let seen = read(copied(&message, &record), &work());

    assert_eq!(seen.message, message);
    assert_eq!(seen.record, record);
    assert_eq!(seen.record.attempt(), 2);
}

#[test]
fn our_headers_from_elsewhere_are_ignored_and_counted() {
    let message = published();
    let record = Record { failures: 999, ..Record::default() };
    let mut forged = copied(&message, &record);
    forged.exchange = ExchangeName::from_broker("angzarr.events");

    let seen = read(forged, &work());

    assert_eq!(seen.record, Record::default());
    assert_eq!(seen.distrusted_headers, 2);
    assert!(seen.message.properties.headers.contains_key("x-sidebus-key"));
}

#[test]
fn a_long_history_keeps_the_first_and_the_newest() {
    let mut record = Record::default();
    for attempt in 1..=30 {
        record.push(failure(attempt, "again"));
    }
    assert_eq!(record.history.len(), 11);
    assert_eq!(record.history[0].attempt, 1);
    assert_eq!(record.history[10].attempt, 30);
    assert_eq!(record.dropped, 19);
}

#[test]
fn a_history_gives_way_to_the_publishers_headers() {
    let mut message = published();
    message.properties.headers.insert("x-huge".to_owned(), Value::text("x".repeat(120 * 1024)));
    let mut record = Record { failures: 8, origin: Some(first_sight(&message, &work(), 5)), ..Record::default() };
    for attempt in 1..=8 {
        record.push(failure(attempt, &"y".repeat(DESCRIPTION_BYTES_MAX)));
    }

    let copy = copied(&message, &record);

    assert!(encoded_bytes(&copy.properties.headers) <= COPY_BYTES_MAX + 64);
    let seen = read(copy, &work());
    assert_eq!(seen.message, message);
    assert_eq!(seen.record.attempt(), 9);
    assert_eq!(seen.record.history.last().map(|failure| failure.attempt), Some(8));
    assert_eq!(seen.record.history.len() + seen.record.dropped as usize, 8);
}

proptest! {
    #[test]
    fn the_history_never_passes_its_limit(lengths in prop::collection::vec(0_usize..2_000, 1..40)) {
        let mut record = Record::default();
        for (attempt, length) in lengths.iter().enumerate() {
            record.push(failure(u32::try_from(attempt).unwrap(), &"x".repeat(*length)));
        }
        prop_assert!(encoded_history(&record.history) <= HISTORY_BYTES_MAX);
        prop_assert_eq!(record.history.len() + record.dropped as usize, lengths.len());
    }

    #[test]
    fn nonsense_counts_are_clamped(attempt in any::<i64>()) {
        let mut message = published();
        message.exchange = ExchangeName::nameless();
        message.routing_key = work().as_str().to_owned();
        message.properties.headers.insert(ATTEMPT.to_owned(), Value::Int64(attempt));
        let seen = read(message, &work());
        prop_assert!(i64::from(seen.record.failures) <= COUNT_MAX);
        prop_assert!(seen.record.attempt() >= 1);
    }
}
