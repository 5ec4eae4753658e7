//! The consumer of a subscription: none without handlers, begun, adjusted and cancelled without stopping the pump.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use tokio::time::Instant;

use super::super::link::Live;
use crate::broker::{Arrivals, BrokerError, ConsumeOptions, Findings, Incoming, Prefetch, SessionId, Settler};
use crate::domain::name::QueueName;
use crate::domain::topology::Plan;

/// Deliveries taken from the backend at a time.
const ROOM_MAX: usize = 1_024;

/// A consumer that has begun.
pub(super) struct Started {
    pub arrivals: Box<dyn Arrivals>,
    pub settler: Box<dyn Settler>,
    pub session: SessionId,
    pub prefetch: Prefetch,
    pub findings: Findings,
}

/// What became of a change of the prefetch (`Some`) or of a cancel (`None`).
pub(super) struct Adjusted {
    pub arrivals: Box<dyn Arrivals>,
    pub session: SessionId,
    pub target: Option<Prefetch>,
    pub result: Result<(), BrokerError>,
}

/// The states of the consumer.
pub(super) enum Intake {
    /// None; not before `retry_at` after a failure.
    Idle { retry_at: Option<Instant> },
    /// Topology is looked at, then the consumer begins.
    Starting { session: SessionId, work: BoxFuture<'static, Result<Started, BrokerError>> },
    /// Deliveries arrive.
    Active { arrivals: Box<dyn Arrivals>, session: SessionId, prefetch: Prefetch },
    /// Its prefetch changes, or it ends.
    Adjusting { session: SessionId, work: BoxFuture<'static, Adjusted> },
}

/// What happened to the consumer.
pub(super) enum IntakeEvent {
    Started(Result<Started, BrokerError>),
    Arrived(Result<Vec<Incoming>, BrokerError>),
    Adjusted(Adjusted),
    RetryDue,
}

impl Intake {
    /// The session that the consumer belongs to.
    pub(super) fn session(&self) -> Option<SessionId> {
        match self {
            Self::Idle { .. } => None,
            Self::Starting { session, .. } | Self::Active { session, .. } | Self::Adjusting { session, .. } => {
                Some(*session)
            }
        }
    }

    /// Begins: the subscription's own part of the topology, then the consumer.
    pub(super) fn start(live: Live, plan: Arc<Plan>, queue: QueueName, options: ConsumeOptions) -> Self {
        let session = live.id;
        let work = Box::pin(async move {
            let findings = live.session.apply(plan).await?;
            let prefetch = options.prefetch;
            let (arrivals, settler) = live.session.consume(queue, options).await?;
            Ok(Started { arrivals, settler, session: live.id, prefetch, findings })
        });
        Self::Starting { session, work }
    }

    /// After a failure: not before this time.
    pub(super) fn after_failure(wait: Duration) -> Self {
        Self::Idle { retry_at: Some(Instant::now() + wait) }
    }

    /// Changes the prefetch (`Some`) or cancels (`None`); anything but an active consumer stays as it is.
    pub(super) fn adjust(self, target: Option<Prefetch>) -> Self {
        match self {
            Self::Active { mut arrivals, session, .. } => {
                let work = Box::pin(async move {
                    let result = match target {
                        Some(prefetch) => arrivals.set_prefetch(prefetch).await,
                        None => arrivals.cancel().await,
                    };
                    Adjusted { arrivals, session, target, result }
                });
                Self::Adjusting { session, work }
            }
            Self::Idle { .. } | Self::Starting { .. } | Self::Adjusting { .. } => self,
        }
    }

    /// Waits for something to happen. Cancel-safe: work in progress is kept in the state.
    pub(super) async fn next(&mut self) -> IntakeEvent {
        match self {
            Self::Idle { retry_at: None } => std::future::pending().await,
            Self::Idle { retry_at: Some(at) } => {
                tokio::time::sleep_until(*at).await;
                IntakeEvent::RetryDue
            }
            Self::Starting { work, .. } => IntakeEvent::Started(work.await),
            Self::Active { arrivals, .. } => IntakeEvent::Arrived(arrivals.next_batch(ROOM_MAX).await),
            Self::Adjusting { work, .. } => IntakeEvent::Adjusted(work.await),
        }
    }
}
