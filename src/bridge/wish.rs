//! What a subscription wants on the broker now: its own part, with what was bound and unbound while we run. Knows no
//! broker; whoever applies the plan does.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{OwnedRwLockReadGuard, OwnedRwLockWriteGuard, RwLock};

use super::scope;
use crate::domain::subscription::{Binding, Subscription};
use crate::domain::topology::{self, Plan, TopologyMode};

/// Bindings that may be made at run time for one subscription; the settings may hold more.
pub(super) const ADDED_MAX: usize = 1_000;

/// Who asked for a binding.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BindingSource {
    /// The subscription itself: settings or a handler's declaration.
    Subscription,
    /// An administrator, while we run.
    Admin,
}

/// What an unbind found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Known {
    /// Nobody here wanted this binding.
    No,
    /// An administrator had made it.
    Added,
    /// The subscription itself names it: it comes back with the next start.
    Own,
}

/// The wish of one subscription. Clones share it.
#[derive(Debug, Clone)]
pub(super) struct Wish {
    shared: Arc<Mutex<State>>,
    /// Held for reading while a plan is carried out, for writing while a binding is made or taken away: a plan of a moment
    /// ago would make a binding again that nobody wants any more.
    gate: Arc<RwLock<()>>,
}

/// The plan of the moment, which stays the wish for as long as this lives.
#[derive(Debug)]
pub(super) struct HeldPlan {
    pub(super) plan: Arc<Plan>,
    _gate: OwnedRwLockReadGuard<()>,
}

/// The right to change a wish: no plan is being carried out while this lives.
#[derive(Debug)]
pub(super) struct Change {
    _gate: OwnedRwLockWriteGuard<()>,
}

#[derive(Debug)]
struct State {
    mode: TopologyMode,
    /// As it was started; never changed.
    subscription: Arc<Subscription>,
    /// Own bindings that an administrator has taken away. They stay away over reconnects, and come back with a restart.
    withdrawn: Vec<Binding>,
    added: Vec<Binding>,
    /// What all subscriptions share.
    everybodys: Arc<Plan>,
    plan: Arc<Plan>,
    whole: Arc<Plan>,
}

impl Wish {
    pub(super) fn new(mode: TopologyMode, subscription: Arc<Subscription>, everybodys: Arc<Plan>) -> Self {
        let (withdrawn, added) = (Vec::new(), Vec::new());
        let (plan, whole) = (Arc::default(), Arc::default());
        let mut state = State { mode, subscription, withdrawn, added, everybodys, plan, whole };
        state.renew();
        Self { shared: Arc::new(Mutex::new(state)), gate: Arc::default() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The plan now, as [`Self::whole`], to be carried out: nobody changes the wish meanwhile. Waits while it is being
    /// changed, which the broker's deadlines bound. Cancel-safe.
    pub(super) async fn hold(&self) -> HeldPlan {
        let gate = Arc::clone(&self.gate).read_owned().await;
        HeldPlan { plan: self.whole(), _gate: gate }
    }

    /// Waits until no plan is being carried out, and keeps it so. Cancel-safe.
    pub(super) async fn change(&self) -> Change {
        Change { _gate: Arc::clone(&self.gate).write_owned().await }
    }

    /// The plan now, with the shared exchanges that feed it: whatever must be there and fit before it is consumed.
    pub(super) fn whole(&self) -> Arc<Plan> {
        Arc::clone(&self.state().whole)
    }

    /// The own part now.
    pub(super) fn plan(&self) -> Arc<Plan> {
        Arc::clone(&self.state().plan)
    }

    /// Every binding that is wanted now, and who asked for it.
    pub(super) fn bindings(&self) -> Vec<(Binding, BindingSource)> {
        self.state().wanted().map(|(binding, source)| (binding.clone(), source)).collect()
    }

    /// True when one more may be added, or this one is there already.
    pub(super) fn has_room_for(&self, binding: &Binding) -> bool {
        let state = self.state();
        state.added.len() < ADDED_MAX || state.wants(binding)
    }

    /// Remembers a binding that was made. Remembering it again changes nothing. Answers who asked for it first.
    pub(super) fn remember(&self, binding: Binding) -> BindingSource {
        let mut state = self.state();
        state.withdrawn.retain(|other| *other != binding);
        let is_own = state.subscription.bindings.contains(&binding);
        if !state.wants(&binding) {
            state.added.push(binding);
        }
        state.renew();
        if is_own { BindingSource::Subscription } else { BindingSource::Admin }
    }

    /// Who wants this binding.
    pub(super) fn knows(&self, binding: &Binding) -> Known {
        let state = self.state();
        if state.subscription.bindings.contains(binding) {
            Known::Own
        } else if state.added.contains(binding) {
            Known::Added
        } else {
            Known::No
        }
    }

    /// Forgets a binding that was taken away, over reconnects too.
    pub(super) fn forget(&self, binding: &Binding) {
        let mut state = self.state();
        state.added.retain(|other| other != binding);
        if state.subscription.bindings.contains(binding) && !state.withdrawn.contains(binding) {
            state.withdrawn.push(binding.clone());
        }
        state.renew();
    }
}

impl State {
    /// The bindings now: the own ones that nobody has taken away, then those that were added.
    fn wanted(&self) -> impl Iterator<Item = (&Binding, BindingSource)> {
        let own = self.subscription.bindings.iter().filter(|binding| !self.withdrawn.contains(binding));
        let own = own.map(|binding| (binding, BindingSource::Subscription));
        own.chain(self.added.iter().map(|binding| (binding, BindingSource::Admin)))
    }

    fn wants(&self, binding: &Binding) -> bool {
        self.wanted().any(|(wanted, _)| wanted == binding)
    }

    fn renew(&mut self) {
        let mut now = (*self.subscription).clone();
        now.bindings = self.wanted().map(|(binding, _)| binding.clone()).collect();
        // What an administrator has made wins over the list of the settings until the next start.
        now.unbind.retain(|binding| !self.added.contains(binding));
        let own = topology::subscription(self.mode, &now);
        self.plan = Arc::new(own.clone());
        self.whole = Arc::new(scope::with_exchanges(&self.everybodys, own));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::message::Headers;
    use crate::domain::name::{ExchangeName, QueueName, SubscriptionName};
    use crate::domain::subscription::{DeadLetterSettings, DeliverySettings, QueueSettings, RetrySettings};
    use crate::domain::topology::Step;

    fn binding(key: &str) -> Binding {
        let exchange = ExchangeName::parse("events").unwrap();
        Binding { exchange, routing_key: key.to_owned(), arguments: Headers::new() }
    }

    fn wish() -> Wish {
        let queue = QueueName::parse("work").unwrap();
        let subscription = Subscription {
            name: SubscriptionName::parse("work").unwrap(),
            queue: QueueSettings {
                name: queue,
                queue_type: None,
                durable: None,
                auto_delete: None,
                exclusive: None,
                arguments: Headers::new(),
            },
            exchange: ExchangeName::parse("events").unwrap(),
            bindings: vec![binding("own")],
            unbind: vec![binding("old")],
            delivery: DeliverySettings::default(),
            retry: RetrySettings::default(),
            dead_letter: DeadLetterSettings::shared(
                ExchangeName::parse("dlx").unwrap(),
                QueueName::parse("dlq").unwrap(),
            ),
        };
        Wish::new(TopologyMode::Create, Arc::new(subscription), Arc::default())
    }

    /// Routing keys that the plan binds, and those that it unbinds, of the work queue.
    fn keys(wish: &Wish) -> (Vec<String>, Vec<String>) {
        let (mut bound, mut unbound) = (Vec::new(), Vec::new());
        for step in &wish.plan().steps {
            match step {
                Step::Bind { queue, binding, .. } if queue.as_str() == "work" => {
                    bound.push(binding.routing_key.clone());
                }
                Step::Unbind { binding, .. } => unbound.push(binding.routing_key.clone()),
                Step::Bind { .. } | Step::Exchange(_) | Step::Queue(_) => {}
            }
        }
        (bound, unbound)
    }

    #[test]
    fn what_was_bound_is_in_every_later_plan_once() {
        let wish = wish();
        assert_eq!(wish.remember(binding("new")), BindingSource::Admin);
        assert_eq!(wish.remember(binding("new")), BindingSource::Admin);
        assert_eq!(wish.remember(binding("own")), BindingSource::Subscription);
        assert_eq!(keys(&wish).0, ["own", "new"]);
        assert_eq!(wish.knows(&binding("new")), Known::Added);
    }

    #[test]
    fn what_was_unbound_stays_away_until_it_is_bound_again() {
        let wish = wish();
        wish.remember(binding("new"));
        assert_eq!(wish.knows(&binding("own")), Known::Own);
        wish.forget(&binding("own"));
        wish.forget(&binding("new"));
        assert_eq!(keys(&wish).0, Vec::<String>::new());
        assert!(wish.bindings().is_empty());
        // The settings still name it.
        assert_eq!(wish.knows(&binding("own")), Known::Own);
        wish.remember(binding("own"));
        assert_eq!(keys(&wish).0, ["own"]);
    }

    #[test]
    fn an_administrator_wins_over_the_unbind_list_until_the_next_start() {
        let wish = wish();
        assert_eq!(keys(&wish).1, ["old"]);
        wish.remember(binding("old"));
        assert_eq!(keys(&wish), (vec!["own".to_owned(), "old".to_owned()], Vec::new()));
    }

    #[test]
    fn the_number_of_bindings_made_at_run_time_has_a_bound() {
        let wish = wish();
        for number in 0..ADDED_MAX {
            wish.remember(binding(&number.to_string()));
        }
        assert!(!wish.has_room_for(&binding("one more")));
        assert!(wish.has_room_for(&binding("own")) && wish.has_room_for(&binding("0")));
    }
}
