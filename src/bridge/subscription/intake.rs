//! The consumer of a subscription: none without handlers, begun, adjusted and cancelled without stopping the pump.

use std::time::Duration;

use futures_util::future::BoxFuture;
use tokio::time::Instant;

use super::super::link::{Hold, Live};
use super::super::objects::{Objects, PlanOf};
use super::super::wish::Wish;
use super::settling::Channel;
use crate::broker::{Arrivals, BrokerError, ConsumeOptions, Findings, Incoming, Prefetch, SessionId, Settler};
use crate::domain::name::QueueName;
use crate::domain::prefetch::Gathering;

/// Deliveries taken from the backend at a time.
const ROOM_MAX: usize = 1_024;

/// A consumer that has begun.
pub(super) struct Started {
    pub arrivals: Box<dyn Arrivals>,
    pub settler: Box<dyn Settler>,
    pub session: SessionId,
    pub prefetch: Prefetch,
    pub findings: Findings,
    /// Of the session; kept while something of it is unsettled.
    pub hold: Hold,
    /// The consumer of the session before, which has been cancelled, and what nobody had taken from it.
    pub former: Option<(Channel, Result<Vec<Incoming>, BrokerError>)>,
}

/// Why a consumer has not begun.
pub(super) struct NotStarted {
    pub session: SessionId,
    pub stage: Stage,
    pub error: BrokerError,
    /// The consumer of the session before, as it was.
    pub former: Option<Active>,
}

/// How far it had come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stage {
    /// The topology does not fit, or could not be looked at.
    Topology,
    /// It fits, and consuming was refused.
    Consume,
}

/// A consumer that is served.
pub(super) struct Active {
    pub arrivals: Box<dyn Arrivals>,
    pub channel: Channel,
    /// What the broker was told to send ahead, and when it is told a change. It lives here, so that it cannot outlive the
    /// consumer.
    pub prefetch: Gathering,
}

impl Active {
    /// A consumer that has just been told so.
    pub(super) fn new(arrivals: Box<dyn Arrivals>, channel: Channel, prefetch: Prefetch) -> Self {
        Self { arrivals, channel, prefetch: Gathering::new(prefetch.get()) }
    }
}

/// What became of a change of the prefetch (`Some`) or of a cancel (`None`).
pub(super) struct Adjusted {
    pub arrivals: Box<dyn Arrivals>,
    pub channel: Channel,
    pub target: Option<Prefetch>,
    /// What nobody had taken from a consumer that was cancelled.
    pub result: Result<Vec<Incoming>, BrokerError>,
}

/// The states of the consumer.
pub(super) enum Intake {
    /// None; not before `retry_at` after a failure.
    Idle { retry_at: Option<Instant> },
    /// Topology is looked at, then the consumer begins.
    Starting { session: SessionId, work: BoxFuture<'static, Result<Started, NotStarted>> },
    /// Deliveries arrive.
    Active(Active),
    /// Its prefetch changes, or it ends.
    Adjusting { channel: Channel, work: BoxFuture<'static, Adjusted> },
}

/// What happened to the consumer.
pub(super) enum IntakeEvent {
    Started(Result<Started, NotStarted>),
    Arrived(Result<Vec<Incoming>, BrokerError>),
    Adjusted(Adjusted),
    RetryDue,
}

impl Intake {
    /// The session that the consumer belongs to.
    pub(super) fn session(&self) -> Option<SessionId> {
        match self {
            Self::Idle { .. } => None,
            Self::Starting { session, .. } => Some(*session),
            Self::Active(Active { channel, .. }) | Self::Adjusting { channel, .. } => Some(channel.0),
        }
    }

    /// What the broker may send ahead to a consumer that is served.
    pub(super) fn prefetch(&self) -> Option<u16> {
        match self {
            Self::Active(active) => Some(active.prefetch.told()),
            Self::Idle { .. } | Self::Starting { .. } | Self::Adjusting { .. } => None,
        }
    }

    /// The channel of a consumer that has begun.
    pub(super) fn channel(&self) -> Option<Channel> {
        match self {
            Self::Idle { .. } | Self::Starting { .. } => None,
            Self::Active(Active { channel, .. }) | Self::Adjusting { channel, .. } => Some(*channel),
        }
    }

    /// When the pump has to look at the windows again.
    pub(super) fn wake_at(&self) -> Option<Instant> {
        match self {
            Self::Active(active) => active.prefetch.due().map(Instant::from_std),
            Self::Idle { .. } | Self::Starting { .. } | Self::Adjusting { .. } => None,
        }
    }

    /// Begins: the plan of the moment, then the consumer. That of the session before ends only then: a queue that goes with
    /// its last consumer stays.
    pub(super) fn start(
        live: Live,
        (owner, wish, objects): (PlanOf, Wish, Objects),
        (queue, options): (QueueName, ConsumeOptions),
        former: Option<Active>,
    ) -> Self {
        let session = live.id;
        let work = Box::pin(async move {
            let held = wish.hold().await;
            let prefetch = options.prefetch;
            let applied = objects.apply(&owner, live.parts(), &held.plan).await;
            drop(held);
            let begun = async {
                let findings = applied.map_err(|error| (Stage::Topology, error))?;
                match live.session.consume(queue, options).await {
                    Ok(halves) => Ok((findings, halves)),
                    Err(error) => Err((Stage::Consume, error)),
                }
            };
            let (findings, (arrivals, settler)) = match begun.await {
                Ok(begun) => begun,
                Err((stage, error)) => return Err(NotStarted { session, stage, error, former }),
            };
            let former = match former {
                Some(mut former) => Some((former.channel, former.arrivals.cancel().await)),
                None => None,
            };
            Ok(Started { arrivals, settler, session, prefetch, findings, hold: live.hold, former })
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
            Self::Active(Active { mut arrivals, channel, .. }) => {
                let work = Box::pin(async move {
                    let result = match target {
                        Some(prefetch) => arrivals.set_prefetch(prefetch).await.map(|()| Vec::new()),
                        None => arrivals.cancel().await,
                    };
                    Adjusted { arrivals, channel, target, result }
                });
                Self::Adjusting { channel, work }
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
            Self::Active(active) => IntakeEvent::Arrived(active.arrivals.next_batch(ROOM_MAX).await),
            Self::Adjusting { work, .. } => IntakeEvent::Adjusted(work.await),
        }
    }
}
