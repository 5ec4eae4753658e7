//! Whole frames of a Subscribe stream: what a handler says, and what it is told. Knows no transport.

use std::time::Duration;

use super::problem::Problem;
use super::proto::sidebus::v1;
use super::wire::{self, DeliveryParts, duration_to_proto};
use crate::bridge::{Frame, Handout, Opened, RevocationReason, Said, Status, SubscriptionState, VerdictResult};
use crate::domain::ledger::{DeliveryId, Outcome};

/// Reads a frame after the first one.
///
/// # Errors
/// The frame breaks the protocol, which ends the stream. A bad verdict does not: it is answered and the lease stays.
pub(super) fn said_from_proto(frame: v1::SubscribeRequest) -> Result<Said, Problem> {
    if frame.open.is_some() {
        return Err(Problem::ProtocolViolation("open is only for the first frame".to_owned()));
    }
    let window = frame.flow.as_ref().map(wire::flow_from_proto).transpose()?.unwrap_or_default();
    let ids = |ids: Vec<i64>| ids.into_iter().map(DeliveryId).collect();
    let verdicts = frame.settlements.into_iter().map(|settlement| match wire::settlement_from_proto(settlement) {
        Ok((named, verdict)) => (ids(named), Ok(verdict)),
        Err(invalid) => (ids(invalid.delivery_ids), Err(invalid.description)),
    });
    let extensions = frame.extensions.into_iter().map(|extension| match wire::extension_from_proto(extension) {
        Ok((named, timeout)) => (ids(named), Ok(timeout)),
        Err(invalid) => (ids(invalid.delivery_ids), Err(invalid.description)),
    });
    Ok(Said {
        verdicts: verdicts.collect(),
        extensions: extensions.collect(),
        messages_max: window.messages.map(u32::from),
        bytes_max: window.bytes,
        leave: frame.leave,
    })
}

/// The first frame of the server.
pub(super) fn opened_to_proto(stream_id: u64, opened: &Opened) -> v1::SubscribeResponse {
    v1::SubscribeResponse {
        opened: Some(v1::SubscribeOpened {
            stream_id: stream_id.to_string(),
            subscription: opened.subscription.clone(),
            flow: Some(flow(opened.messages_max, opened.bytes_max)),
            settle_timeout: Some(duration_to_proto(opened.settle_timeout)),
            max_lease: Some(duration_to_proto(opened.max_lease)),
            ordering_mode: v1::OrderingMode::None.into(),
            server_version: env!("CARGO_PKG_VERSION").to_owned(),
        }),
        ..v1::SubscribeResponse::default()
    }
}

fn flow(messages_max: u32, bytes_max: u64) -> v1::FlowControl {
    v1::FlowControl {
        max_in_flight_messages: Some(i32::try_from(messages_max).unwrap_or(i32::MAX)),
        max_in_flight_bytes: Some(i64::try_from(bytes_max).unwrap_or(i64::MAX)),
    }
}

/// Any later frame of the server; `queue` is where the subscription's deliveries come from.
pub(super) fn frame_to_proto(frame: Frame, queue: &str) -> v1::SubscribeResponse {
    v1::SubscribeResponse {
        deliveries: frame.deliveries.iter().map(|handout| delivery(handout, queue)).collect(),
        results: results(frame.results),
        revocations: frame.revocations.into_iter().map(revocation).collect(),
        drain: frame.drain.map(drain),
        status: frame.status.map(|now| status(now, frame.window)),
        opened: None,
    }
}

fn delivery(handout: &Handout, queue: &str) -> v1::Delivery {
    let record = &handout.seen.record;
    wire::delivery_to_proto(&DeliveryParts {
        id: handout.id.0,
        message: &handout.seen.message,
        attempt: record.attempt(),
        redelivered: handout.redelivered,
        queue,
        first_failure: record.history.first(),
        last_failure: record.history.last(),
        origin: record.origin.as_ref().map(|first| &first.origin),
    })
    .delivery
}

/// Ids with the same outcome next to each other share one result.
fn results(results: Vec<VerdictResult>) -> Vec<v1::SettlementResult> {
    let mut grouped: Vec<v1::SettlementResult> = Vec::new();
    for VerdictResult { id, outcome, first, description } in results {
        let (outcome, first) = (outcome_to_proto(outcome), first.map_or(0, |first| outcome_to_proto(first).into()));
        match grouped.last_mut() {
            Some(last)
                if last.outcome() == outcome && last.first_outcome == first && last.description == description =>
            {
                last.delivery_ids.push(id.0);
            }
            Some(_) | None => grouped.push(v1::SettlementResult {
                delivery_ids: vec![id.0],
                outcome: outcome.into(),
                description,
                first_outcome: first,
            }),
        }
    }
    grouped
}

fn outcome_to_proto(outcome: Outcome) -> v1::SettlementOutcome {
    match outcome {
        Outcome::Acked => v1::SettlementOutcome::Acked,
        Outcome::RetryScheduled => v1::SettlementOutcome::RetryScheduled,
        Outcome::DeadLettered => v1::SettlementOutcome::DeadLettered,
        Outcome::Released => v1::SettlementOutcome::Released,
        Outcome::Extended => v1::SettlementOutcome::Extended,
        Outcome::LeaseExpired => v1::SettlementOutcome::LeaseExpired,
        Outcome::LeaseLost => v1::SettlementOutcome::LeaseLost,
        Outcome::UnknownDelivery => v1::SettlementOutcome::UnknownDelivery,
        Outcome::Invalid => v1::SettlementOutcome::Invalid,
        Outcome::AlreadySettled => v1::SettlementOutcome::AlreadySettled,
    }
}

fn revocation((reason, ids): (RevocationReason, Vec<DeliveryId>)) -> v1::Revocation {
    let reason = match reason {
        RevocationReason::SettleTimeout => v1::RevocationReason::SettleTimeout,
        RevocationReason::BrokerLost => v1::RevocationReason::BrokerLost,
        RevocationReason::DrainExpired => v1::RevocationReason::DrainExpired,
        RevocationReason::LeaseLimit => v1::RevocationReason::LeaseLimit,
    };
    v1::Revocation { delivery_ids: ids.into_iter().map(|id| id.0).collect(), reason: reason.into() }
}

fn drain(grace: Duration) -> v1::Drain {
    v1::Drain { reason: v1::DrainReason::Shutdown.into(), grace: Some(duration_to_proto(grace)), reconnect: false }
}

fn status(status: Status, window: Option<(u32, u64)>) -> v1::SubscriptionStatus {
    let state = match status.state {
        SubscriptionState::Active => v1::SubscriptionState::Active,
        SubscriptionState::BrokerDown => v1::SubscriptionState::BrokerDown,
        SubscriptionState::Paused => v1::SubscriptionState::Paused,
    };
    v1::SubscriptionStatus {
        state: state.into(),
        description: status.description,
        flow: window.map(|(messages, bytes)| flow(messages, bytes)),
        held_count: i32::try_from(status.held).unwrap_or(i32::MAX),
    }
}
