//! What is known of the objects on the broker: which do not fit, which were adopted, which this process has seen. Says
//! each thing once. Knows no backend; whoever applies a plan tells the outcome.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;
use tracing::{error, info, warn};

use crate::broker::{Adopted, BrokerError, Findings, Session, SessionId};
use crate::domain::difference::{Difference, ObjectKind};
use crate::domain::name::SubscriptionName;
use crate::domain::topology::{Plan, Step, TopologyMode};
use crate::telemetry::metrics;

mod slots;
pub(super) use slots::Slots;

/// Queues that are remembered as seen; of further ones nobody notices that they were made again.
const SEEN_MAX: usize = 10_000;

/// Troubles of ended subscriptions that are remembered.
const FORMER_MAX: usize = 1_000;

/// Whose plan it is.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum PlanOf {
    /// A part of what all share, by its first object.
    Shared(String),
    /// A subscription.
    Subscription(SubscriptionName),
    /// The consumer of a subscription whose plan may well fit: it lacks the right to read, say.
    Consumer(SubscriptionName),
}

impl PlanOf {
    /// A part of what all share.
    pub(super) fn shared(part: &Plan) -> Self {
        let name = part.steps.first().map(|step| match step {
            Step::Exchange(exchange) => format!("exchange {}", exchange.name),
            Step::Queue(queue) => format!("queue {}", queue.name),
            Step::Bind { queue, .. } | Step::Unbind { queue, .. } => format!("bindings of queue {queue}"),
        });
        Self::Shared(name.unwrap_or_default())
    }
}

impl fmt::Display for PlanOf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Shared(object) => write!(f, "shared {object}"),
            Self::Subscription(name) => write!(f, "subscription {name}"),
            Self::Consumer(name) => write!(f, "consumer of subscription {name}"),
        }
    }
}

/// With these a queue gives up, refuses or loses messages: as arguments they begin with `x-`, in policies they do not.
const DROPPING: [&str; 4] = ["max-length", "max-length-bytes", "message-ttl", "expires"];

/// Whether an adopted object gives up, refuses or loses messages for this, be it its own argument or what a policy rules
/// (`policy <name>: <key>`).
fn drops(lack: &Difference) -> bool {
    let key = lack.key.rsplit_once(": ").map_or(lack.key.as_str(), |(_, key)| key);
    DROPPING.contains(&key.strip_prefix("x-").unwrap_or(key)) && !lack.found.is_empty()
}

/// Whether an exchange that was there before had to be made again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Lost {
    Exchange,
    NoExchange,
}

/// What is known of the objects. Clones share it.
#[derive(Debug, Clone, Default)]
pub(super) struct Objects(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    slots: Mutex<Slots>,
    /// Rings when a plan does not fit any more.
    trouble: Notify,
    /// Rings when everything has to be looked at.
    everything: Notify,
    /// Held by who makes the place for a copy.
    mending: tokio::sync::Mutex<()>,
}

#[derive(Debug, Default)]
struct State {
    /// The newest session of which something was told.
    session: Option<SessionId>,
    /// Objects and remarks that were told in that session.
    adopted: BTreeSet<String>,
    /// Queues that outlive their consumers and that were there while this process ran.
    seen: HashSet<String>,
    /// The newest session in which a plan was told to be ready; plans of configured subscriptions and of what all share.
    told: BTreeMap<PlanOf, SessionId>,
    /// What does not fit, by whose plan it stops.
    troubles: BTreeMap<PlanOf, Trouble>,
    /// Of subscriptions that have ended: who comes again with the same is not told anew.
    former: BTreeMap<PlanOf, BrokerError>,
}

/// Something that does not fit.
#[derive(Debug, PartialEq, Eq)]
struct Trouble {
    error: BrokerError,
    /// Somebody has heard of it.
    is_told: bool,
}

impl Objects {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Carries a plan out and takes the outcome in: whoever applies one goes through here, or a queue that was made again
    /// would be made in silence. An exchange that was made again lets the keeper look at everything.
    ///
    /// # Errors
    /// As the session's own.
    pub(super) async fn apply(
        &self,
        owner: &PlanOf,
        (id, session): (SessionId, &dyn Session),
        plan: &Arc<Plan>,
    ) -> Result<Findings, BrokerError> {
        let (outcome, lost) = self.carry_out(owner, (id, session), plan).await;
        self.ring_for(lost);
        outcome
    }

    /// As [`Self::apply`], within a pass over everything, which binds all again to an exchange that it has made.
    ///
    /// # Errors
    /// As the session's own.
    pub(super) async fn apply_in_pass(
        &self,
        owner: &PlanOf,
        session: (SessionId, &dyn Session),
        plan: &Arc<Plan>,
    ) -> Result<Findings, BrokerError> {
        self.carry_out(owner, session, plan).await.0
    }

    async fn carry_out(
        &self,
        owner: &PlanOf,
        (id, session): (SessionId, &dyn Session),
        plan: &Arc<Plan>,
    ) -> (Result<Findings, BrokerError>, Lost) {
        let outcome = session.apply(Arc::clone(plan)).await;
        let lost = self.applied(owner, id, plan, outcome.as_ref());
        (outcome, lost)
    }

    /// Takes in whether a queue whose plan fits can be consumed.
    pub(super) fn consumed(&self, owner: &PlanOf, session: SessionId, outcome: Result<(), &BrokerError>) {
        // It has made nothing, so nothing can have been lost.
        let nothing = Findings::default();
        self.applied(owner, session, &Plan::default(), outcome.map(|()| &nothing));
    }

    /// True for the first time that a plan is asked about in a session.
    pub(super) fn is_first(&self, owner: &PlanOf, session: SessionId) -> bool {
        self.state().told.insert(owner.clone(), session) != Some(session)
    }

    /// What is known of the delay slots.
    pub(super) fn slots(&self) -> MutexGuard<'_, Slots> {
        self.0.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes in what a part of a plan has found and made, which says nothing of the whole.
    pub(super) fn made(&self, owner: &PlanOf, session: SessionId, part: &Plan, findings: &Findings) {
        let lost = self.state().found(owner, session, part, findings);
        self.ring_for(lost);
    }

    /// Waits until nobody else makes the place for a copy.
    pub(super) async fn mending(&self) -> tokio::sync::MutexGuard<'_, ()> {
        self.0.mending.lock().await
    }

    /// Lets the keeper look at everything.
    pub(super) fn look_at_everything(&self) {
        self.0.everything.notify_one();
    }

    fn ring_for(&self, lost: Lost) {
        match lost {
            Lost::Exchange => self.look_at_everything(),
            Lost::NoExchange => {}
        }
    }

    /// Takes the outcome of a plan in.
    fn applied(
        &self,
        owner: &PlanOf,
        session: SessionId,
        plan: &Plan,
        outcome: Result<&Findings, &BrokerError>,
    ) -> Lost {
        let mut state = self.state();
        match outcome {
            Ok(findings) => {
                state.fits(owner);
                return state.found(owner, session, plan, findings);
            }
            Err(error) if error.is_about_an_object() => {
                state.does_not_fit(owner, error);
                drop(state);
                self.0.trouble.notify_waiters();
            }
            // Nothing is known of the objects.
            Err(_) => {}
        }
        Lost::NoExchange
    }

    /// Nobody wants it any more.
    pub(super) fn forget(&self, owner: &PlanOf) {
        let mut state = self.state();
        let Some(trouble) = state.troubles.remove(owner) else { return };
        if trouble.is_told && state.former.len() < FORMER_MAX {
            state.former.insert(owner.clone(), trouble.error);
        }
        state.count();
    }

    /// Waits until everything has to be looked at: an exchange was made again, say. The bindings of all subscriptions went
    /// with it, and whoever made it made its own only. Cancel-safe; a ring that comes while nobody waits is told to the
    /// next one.
    pub(super) async fn everything_is_due(&self) {
        self.0.everything.notified().await;
    }

    /// Whose plans do not fit now. Consumers try again by themselves.
    pub(super) fn troubled(&self) -> Vec<PlanOf> {
        let is_plan = |owner: &&PlanOf| !matches!(owner, PlanOf::Consumer(_));
        self.state().troubles.keys().filter(is_plan).cloned().collect()
    }

    /// Waits until there is a plan that does not fit. Cancel-safe.
    pub(super) async fn trouble(&self) {
        loop {
            // Made before looking, so that what comes in between rings.
            let rings = self.0.trouble.notified();
            if !self.troubled().is_empty() {
                return;
            }
            rings.await;
        }
    }
}

impl State {
    fn fits(&mut self, owner: &PlanOf) {
        self.former.remove(owner);
        if let Some(trouble) = self.troubles.remove(owner) {
            if trouble.is_told {
                info!(plan = %owner, "the topology fits again");
            }
            self.count();
        }
    }

    /// What a plan has found and made.
    fn found(&mut self, owner: &PlanOf, session: SessionId, plan: &Plan, findings: &Findings) -> Lost {
        if self.session.is_none_or(|known| known < session) {
            self.session = Some(session);
            self.adopted.clear();
        }
        findings.adopted.iter().for_each(|adopted| self.adopt(owner, adopted));
        findings.remarks.iter().for_each(|remark| self.remark(owner, remark));
        self.look_for_losses(plan, findings)
    }

    fn does_not_fit(&mut self, owner: &PlanOf, trouble: &BrokerError) {
        if !self.is_news(owner, trouble) {
            return;
        }
        error!(
            plan = %owner, error = %trouble, hint = trouble.hint(),
            "the topology does not fit: whatever needs it waits until it is mended, and is looked at again by itself"
        );
    }

    /// Remembers a trouble; true when it is time to tell of it and nobody has. An exclusive queue whose connection has
    /// just gone, ours at a rotation say, is locked for a moment longer (seen on 4.3.6 after the answer to the close), so
    /// a lock is told once a second look finds it too.
    fn is_news(&mut self, owner: &PlanOf, error: &BrokerError) -> bool {
        let known = self.troubles.remove(owner).filter(|trouble| trouble.error == *error);
        let was_told = self.former.remove(owner).as_ref() == Some(error) || known.as_ref().is_some_and(|it| it.is_told);
        let (is_new, may_pass) = (known.is_none(), matches!(error, BrokerError::Locked { .. }));
        let is_news = !was_told && (!is_new || !may_pass);
        self.troubles.insert(owner.clone(), Trouble { error: error.clone(), is_told: was_told || is_news });
        if is_new {
            self.count();
        }
        is_news
    }

    /// Objects that differ, each once however many plans it stops.
    fn count(&self) {
        let objects: BTreeSet<&str> =
            self.troubles.values().filter_map(|trouble| trouble.error.differing_object()).collect();
        for kind in [ObjectKind::Exchange, ObjectKind::Queue, ObjectKind::Binding] {
            let count = objects.iter().filter(|object| ObjectKind::of(object) == Some(kind)).count();
            metrics::topology_differences(kind.as_str(), count);
        }
    }

    fn adopt(&mut self, owner: &PlanOf, adopted: &Adopted) {
        let Adopted { object, lacks, unknown, delivery_limit: _ } = adopted;
        if lacks.is_empty() && unknown.is_none() {
            return;
        }
        let drops = lacks.iter().any(drops);
        let lacks = lacks.iter().map(Difference::to_string).collect::<Vec<_>>().join("; ");
        // What was made again otherwise is news.
        if self.adopted.len() >= SEEN_MAX || !self.adopted.insert(format!("{object} {lacks}")) {
            return;
        }
        if drops {
            error!(
                plan = %owner, %object, %lacks,
                "adopted: it exists and is used as it is, and it gives up or refuses messages where ours would keep them"
            );
        } else if let Some(reason) = unknown {
            warn!(
                plan = %owner, %object, %lacks, %reason,
                "adopted: it exists and is used as it is; it cannot be seen whether it is as named"
            );
        } else {
            warn!(plan = %owner, %object, %lacks, "adopted: it exists and is used without these defaults");
        }
    }

    fn remark(&mut self, owner: &PlanOf, remark: &str) {
        if self.adopted.len() < SEEN_MAX && self.adopted.insert(remark.to_owned()) {
            warn!(plan = %owner, %remark, "the broker is not quite as the settings want it");
        }
    }

    /// A queue that was there before and had to be made now has lost what it held; an exchange, every binding.
    fn look_for_losses(&mut self, plan: &Plan, findings: &Findings) -> Lost {
        let mut lost = Lost::NoExchange;
        for step in &plan.steps {
            let (object, kind) = match step {
                // The others go with their consumer or their connection, and nothing waits in them.
                Step::Queue(queue) if !queue.exclusive && !queue.auto_delete => {
                    (format!("queue {}", queue.name), ObjectKind::Queue)
                }
                Step::Exchange(exchange) if !exchange.auto_delete => {
                    (format!("exchange {}", exchange.name), ObjectKind::Exchange)
                }
                Step::Queue(_) | Step::Exchange(_) | Step::Bind { .. } | Step::Unbind { .. } => continue,
            };
            let is_lost = self.seen.contains(&object) && findings.created.contains(&object);
            match kind {
                ObjectKind::Queue if is_lost => {
                    metrics::queue_recreated();
                    error!(%object, "it was there before and was gone: it was made again, and the messages that it held are lost");
                }
                ObjectKind::Exchange if is_lost => {
                    lost = Lost::Exchange;
                    error!(%object, "it was there before and was gone with all its bindings: it was made again, and so are ours");
                }
                ObjectKind::Queue | ObjectKind::Exchange | ObjectKind::Binding => {
                    if self.seen.len() < SEEN_MAX && plan.mode != TopologyMode::Off {
                        self.seen.insert(object);
                    }
                }
            }
        }
        lost
    }
}

#[cfg(test)]
mod tests;
