//! Which part of the topology concerns whom: a subscription needs the exchanges that feed it and its dead letters, and
//! nothing else. Knows no broker; pure.

use std::sync::Arc;

use crate::domain::topology::{self, Plan, Step};

/// What all share, in parts that do not need each other: each exchange alone, and the dead letters together. A part that
/// does not fit stops only those who use it.
pub(super) fn parts(shared: &Plan) -> Vec<Arc<Plan>> {
    let part = |steps: Vec<Step>| Arc::new(Plan { mode: shared.mode, steps });
    let is_bound = |step: &Step| {
        let Step::Exchange(exchange) = step else { return true };
        shared
            .steps
            .iter()
            .any(|other| matches!(other, Step::Bind { binding, .. } if binding.exchange == exchange.name))
    };
    let (together, alone): (Vec<Step>, Vec<Step>) = shared.steps.iter().cloned().partition(is_bound);
    let alone = alone.into_iter().map(|step| part(vec![step]));
    alone.chain((!together.is_empty()).then(|| part(together))).collect()
}

/// The own part of a subscription, behind the shared exchanges that feed it.
pub(super) fn with_exchanges(shared: &Plan, own: Plan) -> Plan {
    let mut steps: Vec<Step> = topology::feeding(&shared.steps, &own.steps).cloned().collect();
    steps.extend(own.steps);
    Plan { mode: own.mode, steps }
}

/// A plan without the steps that were done a moment ago.
pub(super) fn without(plan: &Plan, done: &[Step]) -> Arc<Plan> {
    let steps = plan.steps.iter().filter(|step| !done.contains(step)).cloned().collect();
    Arc::new(Plan { mode: plan.mode, steps })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::message::Headers;
    use crate::domain::name::{ExchangeName, QueueName};
    use crate::domain::subscription::{
        Binding, DeadLetterSettings, DeliverySettings, QueueSettings, RetrySettings, Subscription,
    };
    use crate::domain::topology::{Exchange, ExchangeKind, TopologyMode};

    fn exchange(name: &str) -> Exchange {
        Exchange::durable(ExchangeName::parse(name).unwrap(), ExchangeKind::Topic)
    }

    fn dead_letter() -> DeadLetterSettings {
        DeadLetterSettings::shared(ExchangeName::parse("dlx").unwrap(), QueueName::parse("dlq").unwrap())
    }

    fn shared() -> Plan {
        topology::shared(TopologyMode::Create, exchange("events"), &[exchange("commands")], &dead_letter())
    }

    fn own(exchanges: &[&str]) -> Plan {
        let bindings = exchanges.iter().map(|name| Binding {
            exchange: ExchangeName::parse(name).unwrap(),
            routing_key: "#".to_owned(),
            arguments: Headers::new(),
        });
        let queue = QueueSettings {
            name: QueueName::parse("work").unwrap(),
            queue_type: None,
            durable: None,
            auto_delete: None,
            exclusive: None,
            arguments: Headers::new(),
        };
        let subscription = Subscription {
            name: crate::domain::name::SubscriptionName::parse("work").unwrap(),
            queue,
            exchange: ExchangeName::parse("events").unwrap(),
            bindings: bindings.collect(),
            unbind: Vec::new(),
            delivery: DeliverySettings::default(),
            retry: RetrySettings::default(),
            dead_letter: dead_letter(),
        };
        topology::subscription(TopologyMode::Create, &subscription)
    }

    fn exchanges(plan: &Plan) -> Vec<String> {
        let name = |step: &'_ Step| match step {
            Step::Exchange(Exchange { name, .. }) => Some(name.to_string()),
            Step::Queue(_) | Step::Bind { .. } | Step::Unbind { .. } => None,
        };
        plan.steps.iter().filter_map(name).collect()
    }

    #[test]
    fn exchanges_stand_alone_and_dead_letters_together() {
        let shared = shared();
        let parts = parts(&shared);
        let of: Vec<Vec<String>> = parts.iter().map(|part| exchanges(part)).collect();
        assert_eq!(of, [vec!["events"], vec!["commands"], vec!["dlx"]]);
        assert_eq!(parts.iter().map(|part| part.steps.len()).sum::<usize>(), shared.steps.len());
    }

    #[test]
    fn a_subscription_needs_the_exchanges_that_feed_it() {
        for (bound, expected) in [
            (vec!["commands"], vec!["commands", "dlx"]),
            (vec!["events", "elsewhere", "events"], vec!["events", "dlx"]),
            (vec![], vec!["dlx"]),
        ] {
            assert_eq!(exchanges(&with_exchanges(&shared(), own(&bound))), expected, "{bound:?}");
        }
    }

    #[test]
    fn what_was_done_a_moment_ago_is_left_out() {
        let whole = with_exchanges(&shared(), own(&["events"]));
        let rest = without(&whole, &shared().steps);
        assert_eq!(exchanges(&rest), Vec::<String>::new());
        assert_eq!(rest.steps.len(), 2, "{:?}", rest.steps);
    }
}
