//! The comparison of what is wanted with what exists. Knows no broker: what was found comes in as values.
//!
//! What somebody has named must be as it is named; everything else is a default of ours, which applies only to what we
//! create, so that an object without it is used as it is.

use super::{Difference, FoundExchange, FoundQueue, value_text};
use crate::domain::message::{Headers, Value};
use crate::domain::subscription::Binding;
use crate::domain::topology::{Exchange, Named, Queue};

/// What differs, told apart by who asked for it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Comparison {
    /// Somebody has named it: a mismatch.
    pub named: Vec<Difference>,
    /// Nobody has: the object is used without it.
    pub lacks: Vec<Difference>,
    /// Requeues that a queue allows as it exists, differing or not; `None` = it has no such argument, or is no queue.
    pub delivery_limit: Option<i64>,
}

impl Comparison {
    /// Takes one property or argument in; `None` = not wanted, or not there. What is the same leaves no trace.
    fn note(&mut self, named: &Named, key: &str, (wanted, found): (Option<&Value>, Option<&Value>)) {
        if is_same(key, wanted, found) {
            return;
        }
        let text = |value: Option<&Value>| value.map(value_text).unwrap_or_default();
        let difference = Difference { key: key.to_owned(), wanted: text(wanted), found: text(found) };
        self.add(named, difference);
    }

    /// A policy rules the limit too: the broker takes the smaller one. A number below 0 is smaller than any: what it means
    /// hangs on the release, and nothing is lost by taking it for the least.
    pub fn limit_deliveries(&mut self, other: Option<i64>) {
        self.delivery_limit = self.delivery_limit.into_iter().chain(other).min();
    }

    /// Takes in a difference whose values are texts already.
    fn add(&mut self, named: &Named, difference: Difference) {
        let list = if named.contains(&difference.key) { &mut self.named } else { &mut self.lacks };
        list.push(difference);
    }
}

/// A wanted queue beside the one that exists.
pub fn compare_queue(wanted: &Queue, found: &FoundQueue) -> Comparison {
    let delivery_limit = found.arguments.get("x-delivery-limit").and_then(Value::as_integer);
    let mut comparison = Comparison { delivery_limit, ..Comparison::default() };
    let flags = [
        ("durable", wanted.durable, found.durable),
        ("auto_delete", wanted.auto_delete, found.auto_delete),
        ("exclusive", wanted.exclusive, found.exclusive),
    ];
    compare_flags(&mut comparison, &wanted.named, flags);
    compare_arguments(&mut comparison, &wanted.named, (&wanted.arguments, &found.arguments));
    comparison
}

/// A wanted exchange beside the one that exists.
pub fn compare_exchange(wanted: &Exchange, found: &FoundExchange) -> Comparison {
    let mut comparison = Comparison::default();
    let named = &wanted.named;
    let kinds = (Value::text(wanted.kind.as_str()), Value::text(found.kind.as_str()));
    comparison.note(named, "type", (Some(&kinds.0), Some(&kinds.1)));
    let flags = [
        ("durable", wanted.durable, found.durable),
        ("auto_delete", wanted.auto_delete, found.auto_delete),
        ("internal", wanted.internal, found.internal),
    ];
    compare_flags(&mut comparison, named, flags);
    compare_arguments(&mut comparison, named, (&wanted.arguments, &found.arguments));
    comparison
}

/// Whether a broker takes both for the same binding of one queue: arguments by value, whatever the width of a number.
pub fn is_same_binding(one: &Binding, other: &Binding) -> bool {
    let keys = one.arguments.keys().chain(other.arguments.keys());
    one.exchange == other.exchange
        && one.routing_key == other.routing_key
        && keys.into_iter().all(|key| match (one.arguments.get(key), other.arguments.get(key)) {
            (Some(one), Some(other)) => one.is_like(other),
            (Some(_) | None, None) | (None, Some(_)) => false,
        })
}

fn compare_flags(comparison: &mut Comparison, named: &Named, flags: [(&str, bool, bool); 3]) {
    for (key, wanted, found) in flags {
        comparison.note(named, key, (Some(&Value::Bool(wanted)), Some(&Value::Bool(found))));
    }
}

/// The wanted ones first, then those that nobody asked for.
fn compare_arguments(comparison: &mut Comparison, named: &Named, (wanted, found): (&Headers, &Headers)) {
    for (key, value) in wanted {
        comparison.note(named, key, (Some(value), found.get(key)));
    }
    for (key, value) in found.iter().filter(|(key, _)| !wanted.contains_key(*key)) {
        comparison.note(named, key, (None, Some(value)));
    }
}

/// Whether a broker behaves the same with both: integers and floats of any width are one, and an argument that is not
/// there is as good as the value that the broker takes then.
fn is_same(key: &str, wanted: Option<&Value>, found: Option<&Value>) -> bool {
    let default = absent_means(key);
    match (wanted.or(default.as_ref()), found.or(default.as_ref())) {
        (None, None) => true,
        (Some(wanted), Some(found)) => wanted.is_like(found),
        (Some(_), None) | (None, Some(_)) => false,
    }
}

/// What the broker does when a queue has not this argument (RabbitMQ's documentation of queues; that it takes an absent
/// `x-queue-type` and `classic` for one is measured on 3.10.8). It compares the others by the letter, which would make a
/// mismatch of a queue that does what was asked for.
fn absent_means(key: &str) -> Option<Value> {
    match key {
        "x-queue-type" => Some(Value::text("classic")),
        "x-overflow" => Some(Value::text("drop-head")),
        "x-dead-letter-strategy" => Some(Value::text("at-most-once")),
        "x-queue-mode" => Some(Value::text("default")),
        "x-single-active-consumer" => Some(Value::Bool(false)),
        "x-max-priority" => Some(Value::Int64(0)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::domain::name::{ExchangeName, QueueName};
    use crate::domain::topology::ExchangeKind;

    #[test]
    fn bindings_are_one_when_exchange_key_and_arguments_are() {
        let binding = |key: &str, arguments: &[(&str, Value)]| Binding {
            exchange: ExchangeName::parse("x").unwrap(),
            routing_key: key.to_owned(),
            arguments: arguments.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect(),
        };
        let one = binding("a", &[("n", Value::Int32(7))]);
        assert!(is_same_binding(&one, &binding("a", &[("n", Value::Int64(7))])));
        assert!(!is_same_binding(&one, &binding("b", &[("n", Value::Int64(7))])));
        assert!(!is_same_binding(&one, &binding("a", &[])));
        assert!(!is_same_binding(&one, &binding("a", &[("m", Value::Int64(7))])));
        assert!(!is_same_binding(&one, &binding("a", &[("n", Value::Int64(8))])));
    }

    fn queue(arguments: Headers, named: &[&str]) -> Queue {
        Queue {
            name: QueueName::parse("q").unwrap(),
            durable: true,
            auto_delete: false,
            exclusive: false,
            arguments,
            named: named.iter().map(|name| (*name).to_owned()).collect(),
        }
    }

    fn found(arguments: Headers) -> FoundQueue {
        FoundQueue { durable: true, auto_delete: false, exclusive: false, arguments }
    }

    fn arguments(pairs: &[(&str, Value)]) -> Headers {
        pairs.iter().map(|(key, value)| ((*key).to_owned(), value.clone())).collect()
    }

    fn keys(differences: &[Difference]) -> Vec<&str> {
        differences.iter().map(|difference| difference.key.as_str()).collect()
    }

    #[test]
    fn a_default_that_is_not_there_is_lacked_and_a_named_one_is_a_mismatch() {
        let wish = arguments(&[("x-queue-type", Value::text("quorum")), ("x-message-ttl", Value::Int64(1_000))]);
        let wanted = queue(wish, &["x-message-ttl"]);
        let comparison = compare_queue(&wanted, &found(arguments(&[("x-message-ttl", Value::Int32(2_000))])));
        assert_eq!(keys(&comparison.named), ["x-message-ttl"]);
        assert_eq!(keys(&comparison.lacks), ["x-queue-type"]);
        assert_eq!(comparison.named[0].to_string(), "x-message-ttl is 2000, wanted is 1000");
    }

    #[test]
    fn the_delivery_limit_is_the_one_that_is_there_and_the_smaller_one_under_a_policy() {
        for (found_limit, policy, expected) in [
            (Some(2), None, Some(2)),
            (None, None, None),
            (None, Some(7), Some(7)),
            (Some(20), Some(7), Some(7)),
            (Some(3), Some(7), Some(3)),
            (Some(-1), Some(7), Some(-1)),
        ] {
            let there = found_limit.map(|limit| ("x-delivery-limit", Value::Int32(limit)));
            let wanted = queue(arguments(&[("x-delivery-limit", Value::Int64(20))]), &[]);
            let mut comparison = compare_queue(&wanted, &found(arguments(there.as_slice())));
            comparison.limit_deliveries(policy);
            assert_eq!(comparison.delivery_limit, expected, "{found_limit:?} {policy:?}");
        }
    }

    #[test]
    fn what_nobody_asked_for_is_told_too() {
        let comparison =
            compare_queue(&queue(Headers::new(), &[]), &found(arguments(&[("x-expires", Value::Int8(9))])));
        assert_eq!(comparison.named, []);
        assert_eq!(comparison.lacks[0].to_string(), "x-expires is 9, wanted is nothing");
    }

    #[test]
    fn an_argument_that_is_not_there_is_as_good_as_what_the_broker_does_then() {
        for (key, value) in [
            ("x-queue-type", Value::text("classic")),
            ("x-overflow", Value::text("drop-head")),
            ("x-single-active-consumer", Value::Bool(false)),
            ("x-max-priority", Value::UInt8(0)),
        ] {
            assert!(is_same(key, Some(&value), None) && is_same(key, None, Some(&value)), "{key}");
            assert!(!is_same("x-other", Some(&value), None), "{key}");
        }
    }

    #[test]
    fn the_type_of_an_exchange_is_a_default_until_it_is_named() {
        let mut wanted = Exchange::durable(ExchangeName::parse("x").unwrap(), ExchangeKind::Topic);
        let found = FoundExchange {
            kind: "fanout".to_owned(),
            durable: true,
            auto_delete: false,
            internal: false,
            arguments: Headers::new(),
        };
        assert_eq!(keys(&compare_exchange(&wanted, &found).lacks), ["type"]);
        wanted.named.insert("type".to_owned());
        assert_eq!(keys(&compare_exchange(&wanted, &found).named), ["type"]);
    }

    fn value() -> impl Strategy<Value = Value> {
        prop_oneof![
            any::<bool>().prop_map(Value::Bool),
            (0..4_i8).prop_map(Value::Int8),
            (0..4_i64).prop_map(Value::Int64),
            (0..4_u32).prop_map(Value::UInt32),
            "[ab]{0,2}".prop_map(Value::text),
        ]
    }

    fn some_arguments() -> impl Strategy<Value = Headers> {
        let key = prop::sample::select(vec!["x-queue-type", "x-overflow", "x-message-ttl", "x-max-priority", "x-a"]);
        prop::collection::btree_map(key.prop_map(str::to_owned), value(), 0..5)
    }

    fn names() -> impl Strategy<Value = Vec<&'static str>> {
        let key = prop::sample::select(vec!["x-queue-type", "x-overflow", "x-message-ttl", "durable", "x-a"]);
        prop::collection::vec(key, 0..4)
    }

    proptest! {
        #[test]
        fn an_object_is_the_same_as_itself(arguments in some_arguments(), named in names()) {
            let comparison = compare_queue(&queue(arguments.clone(), &named), &found(arguments));
            prop_assert_eq!(comparison, Comparison::default());
        }

        #[test]
        fn names_move_differences_and_neither_make_nor_hide_them(
            one in some_arguments(), other in some_arguments(), named in names(), durable: bool,
        ) {
            let mut wanted = queue(one, &named);
            wanted.durable = durable;
            let comparison = compare_queue(&wanted, &found(other.clone()));
            wanted.named.clear();
            let unnamed = compare_queue(&wanted, &found(other));
            let mut all = keys(&comparison.named);
            all.extend(keys(&comparison.lacks));
            all.sort_unstable();
            let mut expected = keys(&unnamed.lacks);
            expected.sort_unstable();
            prop_assert_eq!(all, expected);
            prop_assert!(comparison.named.iter().all(|difference| named.contains(&difference.key.as_str())));
            prop_assert!(!comparison.lacks.iter().any(|difference| named.contains(&difference.key.as_str())));
        }

        #[test]
        fn whether_two_are_the_same_does_not_hang_on_their_order(one in some_arguments(), other in some_arguments()) {
            let forth = compare_queue(&queue(one.clone(), &[]), &found(other.clone()));
            let back = compare_queue(&queue(other, &[]), &found(one));
            let sorted = |comparison: &Comparison| {
                let mut sorted: Vec<String> = keys(&comparison.lacks).into_iter().map(str::to_owned).collect();
                sorted.sort_unstable();
                sorted
            };
            prop_assert_eq!(sorted(&forth), sorted(&back));
        }
    }
}
