//! Everything that a sidecar wants on its broker: in parts that are carried out apart, and as a set of objects.
//!
//! Knows no broker and no format; `topology` makes the steps.

use std::collections::BTreeSet;
use std::fmt;

use super::delay::Slot;
use super::name::{ExchangeName, NameError, QueueName, SubscriptionName};
use super::subscription::Binding;
use super::topology::{self, Exchange, Plan, Queue, Step};

/// Who wants a part.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Owner {
    /// Every subscription.
    Shared,
    /// One subscription.
    Subscription(SubscriptionName),
    /// Retries: the delay slots, which are otherwise made on first need.
    DelaySlots,
}

impl fmt::Display for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Shared => f.write_str("shared"),
            Self::Subscription(name) => write!(f, "subscription {name}"),
            Self::DelaySlots => f.write_str("delay slots"),
        }
    }
}

/// Steps that belong together, in the order in which they must be done.
#[derive(Debug, Clone, PartialEq)]
pub struct Part {
    /// Who wants it.
    pub owner: Owner,
    /// In order.
    pub steps: Vec<Step>,
}

/// Everything that a sidecar wants, in order.
#[derive(Debug, Clone, PartialEq)]
pub struct Desired {
    /// What all share, then each subscription.
    pub parts: Vec<Part>,
}

impl Desired {
    /// From the plan of what all share and those of the subscriptions.
    pub fn new(shared: Plan, subscriptions: impl IntoIterator<Item = (SubscriptionName, Plan)>) -> Self {
        let own = |(name, plan): (SubscriptionName, Plan)| Part { owner: Owner::Subscription(name), steps: plan.steps };
        let shared = Part { owner: Owner::Shared, steps: shared.steps };
        Self { parts: std::iter::once(shared).chain(subscriptions.into_iter().map(own)).collect() }
    }

    /// The same and every delay slot: a sidecar that may not declare needs them there.
    ///
    /// # Errors
    /// The namespace is too long for a queue's name.
    pub fn with_delay_slots(mut self, namespace: &str) -> Result<Self, NameError> {
        let mut steps = Vec::new();
        for slot in Slot::all() {
            steps.extend(slot.plan(namespace)?.steps);
        }
        self.parts.push(Part { owner: Owner::DelaySlots, steps });
        Ok(self)
    }

    /// What one subscription wants, the exchanges that feed it and all else that it shares with others included; `None` if
    /// there is none of this name.
    pub fn only(self, wanted: &str) -> Option<Self> {
        let is_wanted = |part: &Part| matches!(&part.owner, Owner::Subscription(name) if name.as_str() == wanted);
        let own = self.parts.iter().find(|part| is_wanted(part))?;
        let others = self.parts.iter().filter(|part| !is_wanted(part)).flat_map(|part| &part.steps);
        let steps = topology::feeding(others, &own.steps).chain(&own.steps).cloned().collect();
        Some(Self { parts: vec![Part { owner: own.owner.clone(), steps }] })
    }

    /// Names of the subscriptions, in order.
    pub fn subscriptions(&self) -> Vec<&SubscriptionName> {
        let names = self.parts.iter().map(|part| match &part.owner {
            Owner::Subscription(name) => Some(name),
            Owner::Shared | Owner::DelaySlots => None,
        });
        names.flatten().collect()
    }

    /// Every step once, in the part that wants it first.
    pub fn steps(&self) -> Vec<(&Owner, &Step)> {
        let mut once: Vec<(&Owner, &Step)> = Vec::new();
        for (owner, step) in self.parts.iter().flat_map(|part| part.steps.iter().map(move |step| (&part.owner, step))) {
            if !once.iter().any(|(_, known)| *known == step) {
                once.push((owner, step));
            }
        }
        once
    }

    /// The objects that are there when all is done.
    pub fn objects(&self) -> Objects {
        let mut objects = Objects::default();
        for (_, step) in self.steps() {
            match step {
                Step::Exchange(wanted) if !objects.exchanges.iter().any(|known| known.name == wanted.name) => {
                    objects.exchanges.push(wanted.clone());
                }
                Step::Queue(wanted) if !objects.queues.iter().any(|known| known.name == wanted.name) => {
                    objects.queues.push(wanted.clone());
                }
                Step::Bind { queue, binding, .. } => objects.bindings.push((queue.clone(), binding.clone())),
                Step::Exchange(_) | Step::Queue(_) | Step::Unbind { .. } => {}
            }
        }
        let is_ours = |name: &ExchangeName| objects.exchanges.iter().any(|exchange| exchange.name == *name);
        let sources = objects.bindings.iter().map(|(_, binding)| &binding.exchange);
        objects.foreign = sources.filter(|name| !is_ours(name)).cloned().collect();
        objects
    }
}

/// Exchanges, queues and bindings, each once.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Objects {
    /// In the order in which they are made.
    pub exchanges: Vec<Exchange>,
    /// In the order in which they are made.
    pub queues: Vec<Queue>,
    /// What feeds which queue.
    pub bindings: Vec<(QueueName, Binding)>,
    /// Exchanges that bindings name and nobody here makes: they must be there.
    pub foreign: BTreeSet<ExchangeName>,
}

impl Objects {
    /// What exists apart from any connection, and the names of the exclusive queues that do not.
    pub fn lasting(mut self) -> (Self, Vec<QueueName>) {
        let exclusive: Vec<QueueName> =
            self.queues.iter().filter(|queue| queue.exclusive).map(|queue| queue.name.clone()).collect();
        self.queues.retain(|queue| !queue.exclusive);
        self.bindings.retain(|(queue, _)| !exclusive.contains(queue));
        (self, exclusive)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::message::Headers;
    use crate::domain::topology::{ExchangeKind, Named, TopologyMode};

    fn exchange(name: &str) -> Step {
        Step::Exchange(Exchange::durable(ExchangeName::parse(name).unwrap(), ExchangeKind::Topic))
    }

    fn queue(name: &str, exclusive: bool) -> Step {
        let (arguments, named) = (Headers::new(), Named::new());
        let name = QueueName::parse(name).unwrap();
        Step::Queue(Queue { name, durable: true, auto_delete: false, exclusive, arguments, named })
    }

    fn bind(name: &str, source: &str) -> Step {
        let exchange = ExchangeName::parse(source).unwrap();
        let binding = Binding { exchange, routing_key: "a.#".to_owned(), arguments: Headers::new() };
        Step::Bind { queue: QueueName::parse(name).unwrap(), exclusive: false, binding }
    }

    fn plan(steps: Vec<Step>) -> Plan {
        Plan { mode: TopologyMode::Create, steps }
    }

    fn desired() -> Desired {
        let name = |text| SubscriptionName::parse(text).unwrap();
        Desired::new(
            plan(vec![exchange("x")]),
            [
                (name("one"), plan(vec![exchange("x"), queue("q1", false), bind("q1", "x"), bind("q1", "far")])),
                (name("two"), plan(vec![exchange("x"), queue("q2", true), bind("q2", "x")])),
            ],
        )
    }

    #[test]
    fn a_step_that_several_want_is_shown_with_the_first() {
        let desired = desired();
        let owners: Vec<String> = desired.steps().iter().map(|(owner, _)| owner.to_string()).collect();
        let (one, two) = ("subscription one", "subscription two");
        assert_eq!(owners, ["shared", one, one, one, two, two]);
    }

    #[test]
    fn one_subscription_brings_the_exchanges_that_feed_it() {
        let name = |text| SubscriptionName::parse(text).unwrap();
        let shared = plan(vec![exchange("other"), exchange("x")]);
        let own = plan(vec![queue("q", false), bind("q", "x")]);
        let one = Desired::new(shared, [(name("one"), own)]).only("one").unwrap();
        assert_eq!(one.parts[0].steps, [exchange("x"), queue("q", false), bind("q", "x")]);
        assert_eq!(desired().only("two").unwrap().steps().len(), 3);
        assert_eq!(desired().only("three"), None);
        assert_eq!(desired().subscriptions().iter().map(|name| name.as_str()).collect::<Vec<_>>(), ["one", "two"]);
    }

    #[test]
    fn an_exchange_that_nobody_makes_is_told() {
        let objects = desired().objects();
        assert_eq!((objects.exchanges.len(), objects.queues.len(), objects.bindings.len()), (1, 2, 3));
        assert_eq!(objects.foreign.iter().map(ExchangeName::as_str).collect::<Vec<_>>(), ["far"]);
    }

    #[test]
    fn exclusive_queues_do_not_last() {
        let (lasting, exclusive) = desired().objects().lasting();
        assert_eq!(exclusive.iter().map(QueueName::as_str).collect::<Vec<_>>(), ["q2"]);
        assert_eq!((lasting.queues.len(), lasting.bindings.len()), (1, 2));
    }

    #[test]
    fn all_slots_come_last() {
        let desired = desired().with_delay_slots("ns").unwrap();
        let last = desired.parts.last().unwrap();
        assert_eq!((last.owner.clone(), last.steps.len()), (Owner::DelaySlots, 81 * 3));
        assert!(self::desired().with_delay_slots(&"x".repeat(250)).is_err());
    }
}
