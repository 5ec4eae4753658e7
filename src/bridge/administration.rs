//! What an administrator may see and change of the topology while we run. Knows no wire and no backend.

use std::sync::Arc;

use thiserror::Error;
use tracing::info;

use super::link::{LinkWatch, Live};
use super::objects::PlanOf;
use super::registry::{KnownSubscription, Registry};
use super::scope;
use super::subscription::Kept;
use super::wish::{ADDED_MAX, BindingSource, Known};
use crate::broker::{BrokerError, Findings, SessionId};
use crate::domain::difference::Examined;
use crate::domain::name::SubscriptionName;
use crate::domain::subscription::{Binding, Subscription};
use crate::domain::topology::{Plan, Step, TopologyMode};

/// Sees and changes the topology. Clones share it.
#[derive(Debug, Clone)]
pub struct Administration {
    registry: Registry,
    link: LinkWatch,
    mode: TopologyMode,
    shared: Arc<Plan>,
}

/// A subscription as it runs, and what it wants.
#[derive(Debug, Clone)]
pub struct Wanted {
    /// As it was started.
    pub subscription: Arc<Subscription>,
    /// Who brought it.
    pub owner: Owner,
    /// What feeds its queue now.
    pub bindings: Vec<(Binding, BindingSource)>,
}

/// Who brought a subscription.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Owner {
    /// The settings.
    Settings,
    /// A handler's declaration.
    Handler,
}

/// Whether something is done or only checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rehearsal {
    /// Done.
    Real,
    /// Checked only: the broker is not asked.
    Dry,
}

/// One step of a plan, and what became of it.
#[derive(Debug, Clone, PartialEq)]
pub struct StepDone {
    /// Whose plan.
    pub subscription: PlanOwner,
    /// The step.
    pub step: Step,
    /// What became of it.
    pub outcome: StepOutcome,
}

/// What became of a step.
#[derive(Debug, Clone, PartialEq)]
pub enum StepOutcome {
    /// Only planned.
    Planned,
    /// The broker carried it out; it tells what was there before.
    Done(Findings),
    /// It failed, and the steps of the same plan behind it were not tried.
    Failed(BrokerError),
}

/// The subscription that a plan belongs to; `None` = what all share.
pub type PlanOwner = Option<SubscriptionName>;

/// Why an order was not carried out. Nothing is remembered then.
#[derive(Debug, Clone, PartialEq, Error)]
pub enum AdministrationError {
    /// There is no such subscription here.
    #[error("subscription {0} does not exist")]
    NotFound(SubscriptionName),
    /// The settings forbid changes of the topology.
    #[error("bus.amqp.topology is {}, so the topology is not changed from here", .0.as_str())]
    ReadOnly(TopologyMode),
    /// Nobody here made this binding or wants it.
    #[error("the binding is unknown here")]
    NotKnown,
    /// Too many bindings were made at run time.
    #[error("too many bindings were made for subscription {name} while it ran, at most {limit} are remembered")]
    TooMany {
        /// Of this subscription.
        name: SubscriptionName,
        /// How many may be made.
        limit: usize,
    },
    /// There is no session to the broker; nothing was sent.
    #[error("no session to the broker: {0}")]
    Down(BrokerError),
    /// The broker refused.
    #[error(transparent)]
    Broker(BrokerError),
}

impl Administration {
    pub(super) fn new(registry: Registry, link: LinkWatch, (mode, shared): (TopologyMode, Arc<Plan>)) -> Self {
        Self { registry, link, mode, shared }
    }

    /// The subscriptions by name, or the named one.
    ///
    /// # Errors
    /// There is none of this name.
    pub fn wanted(&self, only: Option<&SubscriptionName>) -> Result<Vec<Wanted>, AdministrationError> {
        Ok(self.known(only)?.into_iter().map(wanted).collect())
    }

    /// A running one, by its name.
    ///
    /// # Errors
    /// There is none.
    pub fn subscription(&self, name: &SubscriptionName) -> Result<Arc<Subscription>, AdministrationError> {
        self.one(name).map(|known| known.subscription)
    }

    fn known(&self, only: Option<&SubscriptionName>) -> Result<Vec<KnownSubscription>, AdministrationError> {
        let all = self.registry.known().into_iter();
        let known: Vec<_> = all.filter(|one| only.is_none_or(|name| one.subscription.name == *name)).collect();
        match only {
            Some(name) if known.is_empty() => Err(AdministrationError::NotFound(name.clone())),
            Some(_) | None => Ok(known),
        }
    }

    fn one(&self, name: &SubscriptionName) -> Result<KnownSubscription, AdministrationError> {
        self.known(Some(name))?.pop().ok_or_else(|| AdministrationError::NotFound(name.clone()))
    }

    fn live(&self) -> Result<Live, AdministrationError> {
        self.link.live().ok_or_else(|| AdministrationError::Down(self.link.now().why_down()))
    }

    /// Only `create` changes anything: whoever set the other modes wants this sidecar to change nothing.
    fn may_change(&self) -> Result<(), AdministrationError> {
        match self.mode {
            TopologyMode::Create => Ok(()),
            TopologyMode::Verify | TopologyMode::Off => Err(AdministrationError::ReadOnly(self.mode)),
        }
    }

    /// Binds the queue of a subscription, and remembers it over reconnects. Repeating it is harmless. The binding of a
    /// shared queue stays on the broker until somebody takes it away, whichever process stops.
    ///
    /// Not cancel-safe in effect: a caller that goes away may have bound.
    ///
    /// # Errors
    /// Nothing is remembered: no such subscription, no session, refused.
    pub async fn bind(
        &self,
        name: &SubscriptionName,
        binding: Binding,
        rehearsal: Rehearsal,
    ) -> Result<(Owner, BindingSource), AdministrationError> {
        self.may_change()?;
        let known = self.one(name)?;
        if !known.wish.has_room_for(&binding) {
            return Err(AdministrationError::TooMany { name: name.clone(), limit: ADDED_MAX });
        }
        if rehearsal == Rehearsal::Dry {
            let is_own = known.wish.knows(&binding) == Known::Own;
            return Ok((owner(&known), if is_own { BindingSource::Subscription } else { BindingSource::Admin }));
        }
        let step = Step::Bind {
            queue: known.subscription.queue.name.clone(),
            exclusive: known.subscription.queue.is_exclusive(),
            binding: binding.clone(),
        };
        let change = known.wish.change().await;
        let session = self.carry_out(step).await?;
        info!(subscription = %name, exchange = %binding.exchange, routing_key = %binding.routing_key, "bound by an administrator");
        let source = known.wish.remember(binding);
        drop(change);
        self.follow(&known, session).await;
        Ok((owner(&known), source))
    }

    /// Unbinds the queue of a subscription; it stays unbound over reconnects. Answers whether the subscription itself
    /// still names the binding, so that it comes back with the next start.
    ///
    /// # Errors
    /// Nothing has changed: no such subscription or binding, no session, refused.
    pub async fn unbind(
        &self,
        name: &SubscriptionName,
        binding: &Binding,
        missing: Missing,
    ) -> Result<Known, AdministrationError> {
        self.may_change()?;
        let known = self.one(name)?;
        let who = known.wish.knows(binding);
        if who == Known::No && missing == Missing::IsAnError {
            return Err(AdministrationError::NotKnown);
        }
        let step = Step::Unbind {
            queue: known.subscription.queue.name.clone(),
            exclusive: known.subscription.queue.is_exclusive(),
            binding: binding.clone(),
        };
        // A plan of a moment ago would make it again.
        let _change = known.wish.change().await;
        self.carry_out(step).await?;
        info!(subscription = %name, exchange = %binding.exchange, routing_key = %binding.routing_key, "unbound by an administrator");
        known.wish.forget(binding);
        Ok(who)
    }

    /// Carries one step out; answers in which session.
    async fn carry_out(&self, step: Step) -> Result<SessionId, AdministrationError> {
        let plan = Arc::new(Plan { mode: self.mode, steps: vec![step] });
        let live = self.live()?;
        live.session.apply(plan).await.map_err(AdministrationError::Broker)?;
        Ok(live.id)
    }

    /// A session that has begun meanwhile was prepared without the new binding, which an exclusive queue needs anew.
    async fn follow(&self, known: &KnownSubscription, session: SessionId) {
        let Some(live) = self.link.live().filter(|live| live.id != session) else { return };
        let held = known.wish.hold().await;
        // What fails here is told there, and looked at again.
        let _ = self.registry.objects().apply(&known.owner(), live.parts(), &held.plan).await;
    }

    /// Carries out the plan of everything, or of one subscription, step by step: a plan ends with its first failure,
    /// the others go on.
    ///
    /// # Errors
    /// No such subscription, or no session.
    pub async fn apply(
        &self,
        only: Option<&SubscriptionName>,
        rehearsal: Rehearsal,
    ) -> Result<Vec<StepDone>, AdministrationError> {
        if rehearsal == Rehearsal::Dry {
            let plans = self.plans(only)?;
            let planned = |owner: &PlanOwner, step: &Step| step_done(owner, step, StepOutcome::Planned);
            let steps = plans.iter().flat_map(|(owner, plan)| plan.steps.iter().map(move |step| planned(owner, step)));
            return Ok(steps.collect());
        }
        let known = self.known(only)?;
        self.may_change()?;
        let live = self.live()?;
        let mut done = Vec::new();
        for part in self.shared_parts(only) {
            self.apply_steps(&live, (&None, &PlanOf::shared(&part)), &part, &mut done).await;
        }
        for one in known {
            // A plan of a moment ago would make what has been taken away meanwhile.
            let held = one.wish.hold().await;
            let name = Some(one.subscription.name.clone());
            self.apply_steps(&live, (&name, &one.owner()), &own_plan(&one, only), &mut done).await;
            drop(held);
        }
        Ok(done)
    }

    async fn apply_steps(
        &self,
        live: &Live,
        (name, owner): (&PlanOwner, &PlanOf),
        plan: &Plan,
        done: &mut Vec<StepDone>,
    ) {
        for step in &plan.steps {
            let single = Arc::new(Plan { mode: plan.mode, steps: vec![step.clone()] });
            let outcome = live.session.apply(Arc::clone(&single)).await;
            if let Ok(findings) = &outcome {
                self.registry.objects().made(owner, live.id, &single, findings);
            }
            let has_failed = outcome.is_err();
            done.push(step_done(name, step, outcome.map_or_else(StepOutcome::Failed, StepOutcome::Done)));
            if has_failed {
                return;
            }
        }
    }

    /// Looks at everything that is wanted, of all or of one subscription, and touches nothing; each object once.
    ///
    /// # Errors
    /// No such subscription, no session, or the broker did not answer.
    pub async fn examine(
        &self,
        only: Option<&SubscriptionName>,
    ) -> Result<Vec<(PlanOwner, Examined)>, AdministrationError> {
        let plans = self.plans(only)?;
        let live = self.live()?;
        // In one: what one subscription wants is nothing extra because another one does not, and what all share is told once.
        let (mut owners, mut steps) = (Vec::new(), Vec::new());
        for (owner, plan) in &plans {
            for step in plan.steps.iter().filter(|step| !matches!(step, Step::Unbind { .. })) {
                if !steps.contains(step) {
                    owners.push(owner.clone());
                    steps.push(step.clone());
                }
            }
        }
        let joined = Arc::new(Plan { mode: self.mode, steps });
        let examined = live.session.examine(joined).await.map_err(AdministrationError::Broker)?;
        // One answer for each step, in their order; then what nobody here wants.
        let owners = owners.into_iter().chain(std::iter::repeat(None));
        Ok(owners.zip(examined).collect())
    }

    /// What the broker has bound to the queues of these subscriptions, whoever did it; `None` = it cannot be seen of each of
    /// them now.
    pub async fn found_bindings(&self, wanted: &[Wanted]) -> Option<Vec<(SubscriptionName, Binding)>> {
        let live = self.link.live()?;
        let mut found = Vec::new();
        for Wanted { subscription, .. } in wanted {
            let bindings = live.session.bindings(subscription.queue.name.clone()).await?;
            found.extend(bindings.into_iter().map(|binding| (subscription.name.clone(), binding)));
        }
        Some(found)
    }

    /// Whether somebody tells more than AMQP does: a management API that answers now, asked for a queue that all share.
    pub async fn sees_bindings(&self) -> bool {
        let queue = self.shared.steps.iter().find_map(|step| match step {
            Step::Queue(queue) => Some(queue.name.clone()),
            Step::Exchange(_) | Step::Bind { .. } | Step::Unbind { .. } => None,
        });
        match (queue, self.link.live()) {
            (Some(queue), Some(live)) => live.session.bindings(queue).await.is_some(),
            (None, _) | (_, None) => false,
        }
    }

    /// What all share, then the own part of each subscription.
    fn plans(&self, only: Option<&SubscriptionName>) -> Result<Vec<(PlanOwner, Arc<Plan>)>, AdministrationError> {
        let known = self.known(only)?.into_iter();
        let own = known.map(|one| (Some(one.subscription.name.clone()), own_plan(&one, only)));
        Ok(self.shared_parts(only).into_iter().map(|part| (None, part)).chain(own).collect())
    }

    fn shared_parts(&self, only: Option<&SubscriptionName>) -> Vec<Arc<Plan>> {
        if only.is_none() { scope::parts(&self.shared) } else { Vec::new() }
    }
}

/// What it means that a binding is not known here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Missing {
    /// Somebody may have made a mistake.
    IsAnError,
    /// It is taken away all the same: another process may have made it.
    IsFine,
}

/// Asked for alone, it comes with the exchanges that feed it.
fn own_plan(known: &KnownSubscription, only: Option<&SubscriptionName>) -> Arc<Plan> {
    if only.is_none() { known.wish.plan() } else { known.wish.whole() }
}

fn step_done(owner: &PlanOwner, step: &Step, outcome: StepOutcome) -> StepDone {
    StepDone { subscription: owner.clone(), step: step.clone(), outcome }
}

fn owner(known: &KnownSubscription) -> Owner {
    match known.kept {
        Kept::Always => Owner::Settings,
        Kept::WhileUsed => Owner::Handler,
    }
}

fn wanted(known: KnownSubscription) -> Wanted {
    Wanted { owner: owner(&known), bindings: known.wish.bindings(), subscription: known.subscription }
}

#[cfg(test)]
mod tests;
