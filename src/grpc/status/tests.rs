//! The published table, row by row, and the shape of the details.

use super::*;
use crate::broker::{BrokerError, Confirm};
use crate::domain::message::{Message, Properties};
use crate::domain::name::ExchangeName;
use crate::grpc::problem::{self, FieldViolation};

fn violation(field: &str) -> FieldViolation {
    FieldViolation { field: field.to_owned(), description: "has 300 bytes, at most 255 are allowed".to_owned() }
}

fn message() -> Message {
    Message {
        exchange: ExchangeName::from_broker("events"),
        routing_key: "player.X".to_owned(),
        properties: Properties::default(),
        body: bytes::Bytes::new(),
    }
}

fn unroutable() -> Problem {
    Problem::Unroutable { exchange: "events".to_owned(), routing_key: "player.X".to_owned() }
}

/// Situation, code, reason, whether "retry" stands in the last column of the list.
fn rows() -> Vec<(Problem, Code, &'static str, bool)> {
    let text = || "x".to_owned();
    vec![
        (Problem::ProtocolViolation(text()), Code::InvalidArgument, "PROTOCOL_VIOLATION", false),
        (Problem::InvalidMessage(vec![violation("a")]), Code::InvalidArgument, "INVALID_MESSAGE", false),
        (Problem::InvalidRequest(vec![violation("a")]), Code::InvalidArgument, "INVALID_REQUEST", false),
        (Problem::SubscriptionRequired { configured: 2 }, Code::InvalidArgument, "SUBSCRIPTION_REQUIRED", false),
        (Problem::SubscriptionNotFound(text()), Code::NotFound, "SUBSCRIPTION_NOT_FOUND", false),
        (
            Problem::TopologyMismatch { object: text(), reason: text(), hint: "mend it", difference: None },
            Code::FailedPrecondition,
            "TOPOLOGY_MISMATCH",
            false,
        ),
        (Problem::HandlerLimit { what: text(), limit: 64 }, Code::ResourceExhausted, "HANDLER_LIMIT", true),
        (Problem::SlowReader(text()), Code::ResourceExhausted, "SLOW_READER", false),
        (Problem::NotAllowed { what: text(), hint: text() }, Code::PermissionDenied, "NOT_ALLOWED", false),
        (Problem::Draining, Code::Unavailable, "SIDECAR_DRAINING", true),
        (Problem::BrokerUnavailable(text()), Code::Unavailable, "BROKER_UNAVAILABLE", true),
        (Problem::BrokerBlocked(text()), Code::Unavailable, "BROKER_BLOCKED", true),
        (unroutable(), Code::FailedPrecondition, "UNROUTABLE", false),
        (Problem::ExchangeNotFound(text()), Code::NotFound, "EXCHANGE_NOT_FOUND", false),
        (
            Problem::PublishRejected { exchange: text(), routing_key: text() },
            Code::ResourceExhausted,
            "PUBLISH_REJECTED",
            true,
        ),
        (Problem::ConfirmLost, Code::Unavailable, "CONFIRM_LOST", true),
        (Problem::ConfirmTimeout, Code::DeadlineExceeded, "CONFIRM_TIMEOUT", true),
        (
            Problem::MessageTooLarge { field: text(), found: 2, max: 1 },
            Code::InvalidArgument,
            "MESSAGE_TOO_LARGE",
            false,
        ),
        (Problem::FeatureUnavailable(text()), Code::Unimplemented, "FEATURE_UNAVAILABLE", false),
        (Problem::Internal { request_id: text() }, Code::Internal, "INTERNAL", false),
    ]
}

#[test]
fn every_situation_has_the_code_and_the_reason_of_the_list() {
    for (problem, code, reason, retry) in rows() {
        let hint = problem.hint().to_owned();
        let status = Status::from(problem);
        let details = status.get_error_details();
        let info = details.error_info().expect("every error has ErrorInfo");

        assert_eq!((status.code(), info.reason.as_str()), (code, reason));
        assert_eq!(info.domain, "sidebus.v1", "{reason}");
        assert_eq!(details.retry_info().is_some(), retry, "{reason}");
        assert_eq!(details.bad_request().is_some(), matches!(reason, "INVALID_MESSAGE" | "INVALID_REQUEST"));
        assert!(status.message().ends_with(&hint), "{reason}: {}", status.message());
    }
}

#[test]
fn a_mismatch_names_the_key_and_both_values() {
    let difference =
        problem::Difference { key: "durable".to_owned(), configured: "true".to_owned(), declared: "false".to_owned() };
    let declared = Status::from(Problem::DeclareDiffers { subscription: "q".to_owned(), difference });
    let broker = Status::from(Problem::from_broker(BrokerError::Mismatch {
        object: "queue q".to_owned(),
        differences: vec![Difference {
            key: "x-message-ttl".to_owned(),
            wanted: "1000".to_owned(),
            found: String::new(),
        }],
        reason: String::new(),
    }));

    let of = |status: &Status, key: &str| {
        status.get_error_details().error_info().and_then(|info| info.metadata.get(key).cloned()).unwrap_or_default()
    };
    assert_eq!(declared.get_error_details().error_info().expect("info").reason, "TOPOLOGY_MISMATCH");
    assert_eq!(
        (of(&declared, "key"), of(&declared, "configured"), of(&declared, "declared")),
        ("durable".to_owned(), "true".to_owned(), "false".to_owned())
    );
    assert_eq!(of(&broker, "key"), "x-message-ttl");
    assert_eq!(of(&broker, "declared"), "1000");
    assert_eq!(of(&broker, "existing"), "none");
}

#[test]
fn a_batch_lists_at_most_16_indexes_and_what_must_be_mended_decides() {
    let mut failures: Vec<_> = (0..40).map(|index| (index, Problem::ConfirmLost)).collect();
    failures[30].1 = unroutable();

    let status = publish_status(&failures, 50).expect("failures");

    let details = status.get_error_details();
    let info = details.error_info().expect("info");
    assert_eq!((status.code(), info.reason.as_str()), (Code::FailedPrecondition, "UNROUTABLE"));
    assert_eq!(info.metadata["failed_count"], "40");
    assert_eq!(info.metadata["failed_indexes"].split(',').count(), 16);
    assert_eq!(info.metadata["failed_reasons"].split(',').next(), Some("CONFIRM_LOST"));
    assert!(status.message().starts_with("40 of 50 messages"), "{}", status.message());
    assert!(publish_status(&[], 3).is_none());
}

#[test]
fn details_stay_small_whatever_is_in_them() {
    let long = FieldViolation { field: "é".repeat(5_000), description: "x".repeat(5_000) };
    let status = Status::from(Problem::InvalidMessage(vec![long; 500]));

    assert!(status.details().len() < 10_000, "{}", status.details().len());
    assert!(status.message().len() <= 1024);
    assert!(status.message().ends_with("details"), "the hint must survive");
}

#[test]
fn an_outcome_of_the_broker_becomes_its_reason() {
    let lost = || BrokerError::SessionLost { reason: "gone".to_owned() };
    for (confirm, expected) in [
        (Confirm::Stored, None),
        (Confirm::Unroutable, Some("UNROUTABLE")),
        (Confirm::Refused, Some("PUBLISH_REJECTED")),
        (Confirm::Lost, Some("CONFIRM_LOST")),
        (Confirm::TimedOut, Some("CONFIRM_TIMEOUT")),
        (Confirm::ExchangeMissing(ExchangeName::from_broker("events")), Some("EXCHANGE_NOT_FOUND")),
        (Confirm::NotSent(lost()), Some("BROKER_UNAVAILABLE")),
        (Confirm::NotSent(BrokerError::Missing { object: "exchange events".to_owned() }), Some("EXCHANGE_NOT_FOUND")),
        (
            Confirm::NotSent(BrokerError::AccessRefused { action: "publish".to_owned(), reason: "403".to_owned() }),
            Some("NOT_ALLOWED"),
        ),
    ] {
        let problem = Problem::from_confirm(confirm.clone(), &message().exchange, &message().routing_key);
        assert_eq!(problem.as_ref().map(|problem| row(problem).reason), expected, "{confirm:?}");
    }
}
