//! Keeps one session to the broker alive: connect, apply what all share, watch, wait, again. Never gives up.
//!
//! The only place that reconnects: the client library's own recovery stays off. Knows no backend.

use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt as _;
use tokio::time::Instant;
use tracing::{info, warn};

use super::link::{LinkTell, Live};
use crate::broker::{Broker, BrokerError, ErrorClass, Session, SessionEvent, SessionId};
use crate::domain::backoff::full_jitter;
use crate::domain::name::SubscriptionName;
use crate::domain::topology::Plan;
use crate::runtime::{Phase, PhaseWatch};
use crate::telemetry::metrics;

/// Longest wait while the port refuses or nobody answers: a broker that comes back is used within two seconds.
const REFUSED_WAIT_MAX: Duration = Duration::from_secs(1);

/// A session that has lived so long was well.
const WELL_AFTER: Duration = Duration::from_secs(30);

/// What the keeper needs.
#[derive(Debug)]
pub(super) struct Keeper {
    /// The broker.
    pub(super) broker: Arc<dyn Broker>,
    /// What all subscriptions share, applied in every session.
    pub(super) shared: Arc<Plan>,
    /// The own part of each configured subscription: its queue must be there before the first publish, handler or not.
    pub(super) subscriptions: Vec<(SubscriptionName, Arc<Plan>)>,
    /// Shortest and longest wait between two tries.
    pub(super) backoff: (Duration, Duration),
    /// How long a session may take to close.
    pub(super) close_within: Duration,
}

/// How a session ended.
enum Ended {
    ByBroker(BrokerError),
    ByUs,
}

impl Keeper {
    /// Runs until the phase `Close`, then closes the session.
    pub(super) async fn run(self, tell: LinkTell, mut phase: PhaseWatch) {
        let (mut number, mut failures) = (0_u64, 0_u32);
        loop {
            number += 1;
            let attempt = tokio::select! {
                attempt = self.open(SessionId(number)) => attempt,
                () = phase.reached(Phase::Close) => return,
            };
            let error = match attempt {
                Ok(session) => {
                    let began = Instant::now();
                    match self.serve(SessionId(number), session, &tell, &mut phase).await {
                        Ended::ByUs => return,
                        Ended::ByBroker(error) => {
                            // One that dies right after its start must not be begun again without a pause.
                            if began.elapsed() >= WELL_AFTER {
                                failures = 0;
                            }
                            error
                        }
                    }
                }
                Err(error) => error,
            };
            failures = failures.saturating_add(1);
            let wait = self.wait(failures, &error);
            self.report(&error, failures, wait);
            tell.change(|link| {
                link.live = None;
                link.blocked = None;
                link.error = Some(error);
            });
            tokio::select! {
                () = tokio::time::sleep(wait) => {}
                () = phase.reached(Phase::Close) => return,
            }
        }
    }

    async fn open(&self, id: SessionId) -> Result<Arc<dyn Session>, BrokerError> {
        let session = self.broker.connect(id).await?;
        match session.apply(Arc::clone(&self.shared)).await {
            Ok(findings) => {
                info!(session = %id, topology = %findings, "shared topology ready");
                self.prepare(id, session.as_ref()).await;
                Ok(session)
            }
            Err(error) => {
                session.close(self.close_within).await;
                Err(error)
            }
        }
    }

    /// A subscription that cannot be prepared stops nobody else: its own task tries again, and tells its handlers.
    async fn prepare(&self, id: SessionId, session: &dyn Session) {
        for (subscription, plan) in &self.subscriptions {
            match session.apply(Arc::clone(plan)).await {
                Ok(findings) => {
                    info!(session = %id, %subscription, topology = %findings, "topology ready");
                }
                Err(error) => warn!(session = %id, %subscription, %error, hint = error.hint(), "topology not ready"),
            }
        }
    }

    async fn serve(&self, id: SessionId, session: Arc<dyn Session>, tell: &LinkTell, phase: &mut PhaseWatch) -> Ended {
        let mut events = session.events();
        let found = session.capabilities();
        info!(
            session = %id, broker = %self.broker.endpoint(), product = %found.product, version = %found.version,
            "session ready"
        );
        metrics::broker_connected(true);
        tell.change(|link| {
            link.live = Some(Live { id, session: Arc::clone(&session) });
            link.error = None;
            link.sessions += 1;
        });
        let ended = loop {
            let event = tokio::select! {
                event = events.next() => event,
                () = phase.reached(Phase::Close) => break Ended::ByUs,
            };
            match event {
                Some(SessionEvent::Blocked(reason)) => {
                    warn!(session = %id, %reason, "the broker takes no publishes: memory or disk alarm");
                    metrics::broker_blocked(true);
                    tell.change(|link| link.blocked = Some(reason));
                }
                Some(SessionEvent::Unblocked) => {
                    info!(session = %id, "the broker takes publishes again");
                    metrics::broker_blocked(false);
                    tell.change(|link| link.blocked = None);
                }
                Some(SessionEvent::Closed(error)) => break Ended::ByBroker(error),
                None => break Ended::ByBroker(BrokerError::SessionLost { reason: "its events ended".to_owned() }),
            }
        };
        metrics::broker_connected(false);
        metrics::broker_blocked(false);
        // Told before the close, so that nobody begins something on a session that is being closed.
        tell.change(|link| link.live = None);
        session.close(self.close_within).await;
        ended
    }

    fn wait(&self, failures: u32, error: &BrokerError) -> Duration {
        let (min, max) = self.backoff;
        let max = match error.class() {
            ErrorClass::Refused | ErrorClass::Forced => max.min(REFUSED_WAIT_MAX),
            ErrorClass::Tls | ErrorClass::Login | ErrorClass::Other => max,
        };
        full_jitter(failures, (min, max), fastrand::f64())
    }

    fn report(&self, error: &BrokerError, failures: u32, wait: Duration) {
        metrics::reconnect(error.class().as_str());
        warn!(
            broker = %self.broker.endpoint(), %error, hint = error.hint(), failures,
            wait_ms = u64::try_from(wait.as_millis()).unwrap_or(u64::MAX), "no session to the broker, trying again"
        );
    }
}
