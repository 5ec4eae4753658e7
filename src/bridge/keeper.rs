//! Keeps one session to the broker alive: connect, apply what all share, watch, wait, again. Never gives up.
//!
//! The only place that reconnects: the client library's own recovery stays off. Knows no backend.

use std::collections::BTreeSet;
use std::convert::Infallible;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt as _;
use tokio::time::{Instant, MissedTickBehavior, interval_at};
use tracing::{debug, info, warn};

use super::link::{LinkTell, Owned};
use super::objects::{Objects, PlanOf};
use super::registry::Registry;
use super::scope;
use super::subscription::Kept;
use crate::broker::{Broker, BrokerError, ErrorClass, Findings, Session, SessionEvent, SessionId};
use crate::domain::backoff::full_jitter;
use crate::domain::topology::{Plan, Step, TopologyMode};
use crate::runtime::{Phase, PhaseWatch, Tasks};
use crate::telemetry::metrics;

/// Longest wait while the port refuses or nobody answers: a broker that comes back is used within two seconds.
const REFUSED_WAIT_MAX: Duration = Duration::from_secs(1);

/// A session that has lived so long was well.
const WELL_AFTER: Duration = Duration::from_secs(30);

/// Waits between two looks at what does not fit.
const MEND_BACKOFF: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(10));

/// Between two looks at everything that is wanted.
const LOOK_AT_ALL: Duration = Duration::from_mins(1);

/// What the keeper needs.
#[derive(Debug)]
pub(super) struct Keeper {
    /// The broker.
    pub(super) broker: Arc<dyn Broker>,
    /// What all subscriptions share, applied in every session.
    pub(super) shared: Arc<Plan>,
    /// Knows the own part of each subscription. The queue of a configured one must be there before the first publish,
    /// handler or not.
    pub(super) registry: Registry,
    /// What is known of the objects on the broker.
    pub(super) objects: Objects,
    /// Shortest and longest wait between two tries.
    pub(super) backoff: (Duration, Duration),
    /// How long a session may take to close.
    pub(super) close_within: Duration,
    /// Where it says that the process had better end.
    pub(super) tasks: Tasks,
}

/// A session that begins to serve, and the one that it replaces.
struct Term {
    own: Owned,
    former: Option<Owned>,
}

/// A reason for having no session that has been said, and stays, is said again after this.
const SAY_AGAIN: Duration = Duration::from_mins(1);

/// How a session ended.
enum Ended {
    ByBroker(BrokerError),
    ByUs,
    /// It is still there, until nobody uses it.
    Replaced(Term),
}

/// Which plans are carried out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Pass {
    /// All of them, so what one of them makes again is bound again by the others.
    Everything,
    /// Those that did not fit.
    Troubled,
}

/// Why a session is no longer attended to.
enum Left {
    ByBroker(BrokerError),
    ByUs,
    For(Owned),
}

impl Keeper {
    /// Runs until the phase `Close`, then closes the session.
    pub(super) async fn run(self, tell: LinkTell, mut phase: PhaseWatch) {
        let (mut number, mut failures) = (0_u64, 0_u32);
        let (mut prepared, mut told) = (None, None);
        loop {
            let attempt = if let Some(term) = prepared.take() {
                Ok(term)
            } else {
                tokio::select! {
                    attempt = self.open(&mut number, None) => attempt.map(|own| Term { own, former: None }),
                    () = phase.reached(Phase::Close) => return,
                }
            };
            let error = match attempt {
                Ok(term) => {
                    told = None;
                    let began = Instant::now();
                    match self.serve(term, &mut number, &tell, &mut phase).await {
                        Ended::ByUs => return,
                        Ended::Replaced(term) => {
                            prepared = Some(term);
                            continue;
                        }
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
            self.report(&error, failures, wait, &mut told);
            self.ends_if_worn_out();
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

    /// Opens and prepares the session with the next number, beside the present one if there is one.
    pub(super) async fn open(&self, number: &mut u64, present: Option<&Owned>) -> Result<Owned, BrokerError> {
        *number += 1;
        let id = SessionId(*number);
        let session = self.broker.connect(id).await?;
        match self.prepare(id, session.as_ref(), present).await {
            Ok(()) => Ok(Owned::new(id, session)),
            Err(error) => {
                session.close(self.close_within).await;
                Err(error)
            }
        }
    }

    /// What all share, then the own part of each configured subscription. An object that does not fit stops those who use
    /// it and nobody else: it is said, and looked at again while the session lives. The exclusive queues of the present
    /// session cannot be had before that one is closed.
    async fn prepare(&self, id: SessionId, session: &dyn Session, present: Option<&Owned>) -> Result<(), BrokerError> {
        let mut done: Vec<Step> = Vec::new();
        for part in scope::parts(&self.shared) {
            match self.apply(id, session, (&PlanOf::shared(&part), &part), Pass::Everything).await {
                Ok(_) => done.extend(part.steps.iter().cloned()),
                Err(error) if error.is_about_an_object() => {}
                Err(error) => return Err(error),
            }
        }
        for known in self.registry.known().into_iter().filter(|known| known.kept == Kept::Always) {
            if present.is_some() && known.subscription.queue.is_exclusive() {
                continue;
            }
            let held = known.wish.hold().await;
            let (owner, plan) = (known.owner(), scope::without(&held.plan, &done));
            if let Err(error) = self.apply(id, session, (&owner, &plan), Pass::Everything).await
                && !error.is_about_an_object()
            {
                // Nobody would look again: a broker that does not answer is none to publish to. Told as what keeps the
                // session from being used.
                debug!(session = %id, plan = %owner, %error, "topology not ready");
                return Err(error);
            }
        }
        Ok(())
    }

    async fn apply(
        &self,
        id: SessionId,
        session: &dyn Session,
        (owner, plan): (&PlanOf, &Arc<Plan>),
        pass: Pass,
    ) -> Result<Findings, BrokerError> {
        let outcome = match pass {
            Pass::Everything => self.objects.apply_in_pass(owner, (id, session), plan).await,
            Pass::Troubled => self.objects.apply(owner, (id, session), plan).await,
        };
        // Looks that find all as it was are no news.
        if let Ok(findings) = &outcome
            && plan.mode != TopologyMode::Off
            && (self.objects.is_first(owner, id) || !findings.created.is_empty())
        {
            info!(session = %id, plan = %owner, topology = %findings, "topology ready");
        }
        outcome
    }

    /// Asked after each failure and with every look, since pooled connections fail beside a session that lives.
    fn ends_if_worn_out(&self) {
        if let Some(reason) = self.broker.worn_out() {
            self.tasks.fail("broker", &reason);
        }
    }

    /// Looks again at what does not fit, so that mending it needs no restart and no handler, and every minute at all: what
    /// is deleted while nobody consumes it is noticed by nobody else. Never ends.
    async fn mend(&self, id: SessionId, session: &dyn Session) -> Infallible {
        let mut looks = 0_u32;
        let mut every_minute = interval_at(Instant::now() + LOOK_AT_ALL, LOOK_AT_ALL);
        every_minute.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            if self.objects.troubled().is_empty() {
                looks = 0;
            }
            let trouble = async {
                self.objects.trouble().await;
                tokio::time::sleep(full_jitter(looks.saturating_add(1), MEND_BACKOFF, fastrand::f64())).await;
            };
            // Everything does not wait for the next look at what does not fit, which it includes.
            let pass = tokio::select! {
                () = trouble => Pass::Troubled,
                _ = every_minute.tick() => Pass::Everything,
                () = self.objects.everything_is_due() => Pass::Everything,
            };
            self.ends_if_worn_out();
            let fits = self.look_again(id, session, pass).await;
            // Once one fits, others may need nothing more.
            looks = if fits && pass == Pass::Troubled { 0 } else { looks.saturating_add(1) };
        }
    }

    /// Carries out the plans that are due, those of subscriptions that handlers have brought among them; true when one of
    /// them fits.
    async fn look_again(&self, id: SessionId, session: &dyn Session, pass: Pass) -> bool {
        let mut troubled: BTreeSet<PlanOf> = self.objects.troubled().into_iter().collect();
        let mut is_due = |owner: &PlanOf| troubled.remove(owner) || pass == Pass::Everything;
        let mut fits = false;
        for part in scope::parts(&self.shared) {
            let owner = PlanOf::shared(&part);
            if is_due(&owner) {
                fits |= self.apply(id, session, (&owner, &part), pass).await.is_ok();
            }
        }
        for known in self.registry.known() {
            let owner = known.owner();
            if is_due(&owner)
                && let Some(held) = self.registry.hold(&known).await
            {
                fits |= self.apply(id, session, (&owner, &held.plan), pass).await.is_ok();
            }
        }
        // Of subscriptions that have ended meanwhile: nobody would ever mend them.
        for owner in &troubled {
            self.objects.forget(owner);
        }
        fits
    }

    async fn serve(&self, term: Term, number: &mut u64, tell: &LinkTell, phase: &mut PhaseWatch) -> Ended {
        let Term { own, mut former } = term;
        let (id, found) = (own.id, own.session.capabilities());
        info!(
            session = %id, broker = %self.broker.endpoint(), product = %found.product, version = %found.version,
            "session ready"
        );
        metrics::broker_connected(true);
        metrics::broker_blocked(false);
        tell.change(|link| {
            link.live = Some(own.live());
            link.leaving = former.as_ref().map(|former| former.id);
            link.is_closing_former = former.is_some();
            link.blocked = None;
            link.error = None;
            link.sessions += 1;
        });
        let ended = match self.attend((&own, &mut former), number, tell, phase).await {
            Left::For(successor) => return Ended::Replaced(Term { own: successor, former: Some(own) }),
            Left::ByBroker(error) => Ended::ByBroker(error),
            Left::ByUs => Ended::ByUs,
        };
        metrics::broker_connected(false);
        metrics::broker_blocked(false);
        // Told before the close, so that nobody begins something on a session that is being closed.
        tell.change(|link| {
            (link.live, link.leaving, link.is_closing_former, link.blocked) = (None, None, false, None);
            if let Ended::ByBroker(error) = &ended {
                link.error = Some(error.clone());
                if let BrokerError::Unparsable { .. } = error {
                    link.unparsable = Some(id);
                }
            }
        });
        let close = |session: Arc<dyn Session>| async move { session.close(self.close_within).await };
        tokio::join!(close(own.session), async {
            if let Some(former) = former {
                close(former.session).await;
            }
        });
        ended
    }

    /// Watches a session until it is lost, replaced or not wanted any more.
    async fn attend(
        &self,
        (own, former): (&Owned, &mut Option<Owned>),
        number: &mut u64,
        tell: &LinkTell,
        phase: &mut PhaseWatch,
    ) -> Left {
        let id = own.id;
        let mut events = own.session.events();
        let mut mending = pin!(self.mend(id, own.session.as_ref()));
        let mut succession = pin!(async {
            self.part(former, tell).await;
            self.successor(own, number).await
        });
        loop {
            let event = tokio::select! {
                event = events.next() => event,
                never = &mut mending => match never {},
                successor = &mut succession => return Left::For(successor),
                () = phase.reached(Phase::Close) => return Left::ByUs,
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
                Some(SessionEvent::Closed(error)) => return Left::ByBroker(error),
                None => return Left::ByBroker(BrokerError::SessionLost { reason: "its events ended".to_owned() }),
            }
        }
    }

    pub(super) fn wait(&self, failures: u32, error: &BrokerError) -> Duration {
        let (min, max) = self.backoff;
        let max = match error.class() {
            ErrorClass::Refused | ErrorClass::Forced | ErrorClass::Parse => max.min(REFUSED_WAIT_MAX),
            ErrorClass::Tls | ErrorClass::Login | ErrorClass::Other => max,
        };
        full_jitter(failures, (min, max), fastrand::f64())
    }

    /// Says each new reason at once, and one that stays once a minute: with a try a second a log would hold nothing else.
    fn report(&self, error: &BrokerError, failures: u32, wait: Duration, told: &mut Option<(BrokerError, Instant)>) {
        metrics::reconnect(error.class().as_str());
        let wait_ms = u64::try_from(wait.as_millis()).unwrap_or(u64::MAX);
        if told.as_ref().is_some_and(|(before, at)| before == error && at.elapsed() < SAY_AGAIN) {
            debug!(broker = %self.broker.endpoint(), %error, failures, wait_ms, "no session to the broker, trying again");
            return;
        }
        *told = Some((error.clone(), Instant::now()));
        warn!(
            broker = %self.broker.endpoint(), %error, hint = error.hint(), failures, wait_ms,
            "no session to the broker, trying again"
        );
    }
}
