//! The keys of a queue, as settings and handlers write them → the queue with every argument under the broker's name.
//!
//! The one place that both go through, so that they cannot drift. Knows no settings file and no wire: what is wrong is a
//! [`Finding`], whose place each of them names in its own way.

use std::fmt;
use std::time::Duration;

use super::message::{Headers, Value};
use super::name::QueueName;
use super::queue_rules;
use super::subscription::{QueueSettings, QueueType};

/// What is asked of a queue, word for word; `None` = not said.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct QueueKeys {
    /// `queue_type`
    pub queue_type: Option<QueueType>,
    /// `durable`
    pub durable: Option<bool>,
    /// `auto_delete`
    pub auto_delete: Option<bool>,
    /// `exclusive`
    pub exclusive: Option<bool>,
    /// `max_priority`: the highest priority; 0 is the same as not said.
    pub max_priority: Option<u8>,
    /// `message_ttl`, cut to whole milliseconds.
    pub message_ttl: Option<Duration>,
    /// `max_length`, in messages.
    pub max_length: Option<u64>,
    /// `max_length_bytes`
    pub max_length_bytes: Option<u64>,
    /// `overflow`
    pub overflow: Option<Overflow>,
    /// `delivery_limit`, in requeues.
    pub delivery_limit: Option<u32>,
    /// `single_active_consumer`; false is the same as not said.
    pub single_active_consumer: Option<bool>,
    /// `arguments`: further ones, passed as they are.
    pub arguments: Headers,
}

/// What a full queue does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Overflow {
    /// Refuses what is published to it.
    RejectPublish,
    /// Gives up its oldest messages.
    DropHead,
}

impl Overflow {
    /// The broker's word.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::RejectPublish => "reject-publish",
            Self::DropHead => "drop-head",
        }
    }
}

/// Where something was said.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Place {
    /// A key of the queue, such as `max_length` or `dead_letter.queue`.
    Key(&'static str),
    /// An argument under the broker's name.
    Argument(String),
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Key(key) => f.write_str(key),
            Self::Argument(name) => write!(f, "arguments.{name}"),
        }
    }
}

/// How much a finding matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Weight {
    /// It cannot work, or the broker would refuse it.
    Problem,
    /// It works and may surprise.
    Warning,
}

/// Something to say about what is asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// Whether it stops the subscription.
    pub weight: Weight,
    /// Where it was said.
    pub place: Place,
    /// What is wrong, beginning with a verb: the place stands before it.
    pub what: String,
    /// What to do; empty where `what` says it.
    pub hint: String,
}

impl Finding {
    /// What cannot work.
    pub fn problem(place: Place, what: impl Into<String>, hint: impl Into<String>) -> Self {
        Self { weight: Weight::Problem, place, what: what.into(), hint: hint.into() }
    }

    /// What may surprise.
    pub fn warning(place: Place, what: impl Into<String>) -> Self {
        Self { weight: Weight::Warning, place, what: what.into(), hint: String::new() }
    }
}

impl fmt::Display for Finding {
    /// In the words of settings: place, what is wrong, what to do.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { place, what, hint, .. } = self;
        write!(f, "{place} {what}")?;
        if hint.is_empty() { Ok(()) } else { write!(f, ": {hint}") }
    }
}

/// Typed keys and the arguments that they stand for.
const TYPED: [(&str, &str); 8] = [
    ("queue_type", "x-queue-type"),
    ("max_priority", "x-max-priority"),
    ("message_ttl", "x-message-ttl"),
    ("max_length", "x-max-length"),
    ("max_length_bytes", "x-max-length-bytes"),
    ("overflow", "x-overflow"),
    ("delivery_limit", "x-delivery-limit"),
    ("single_active_consumer", "x-single-active-consumer"),
];

impl QueueKeys {
    /// The queue that is asked for, and everything there is to say about it without knowing the broker.
    pub fn resolve(self, name: QueueName) -> (QueueSettings, Vec<Finding>) {
        let mut findings = Vec::new();
        let asked = Asked { keys: self.keys_given() };
        let mut arguments = self.typed_arguments();
        for (argument, value) in self.arguments {
            if let Some(key) = asked.key_of(&argument) {
                let what = format!("is also given as {}", Place::Argument(argument));
                findings.push(Finding::problem(Place::Key(key), what, "keep one of the two"));
            } else {
                arguments.insert(argument, value);
            }
        }
        let queue_type = match arguments.remove("x-queue-type") {
            None => self.queue_type,
            Some(value) => type_of(&value, &mut findings).or(self.queue_type),
        };
        let queue = QueueSettings {
            name,
            queue_type,
            durable: self.durable,
            auto_delete: self.auto_delete,
            exclusive: self.exclusive,
            arguments,
        };
        queue_rules::check(&queue, &asked, &mut findings);
        (queue, findings)
    }

    fn keys_given(&self) -> Vec<&'static str> {
        let given = [
            self.queue_type.is_some(),
            self.max_priority.is_some(),
            self.message_ttl.is_some(),
            self.max_length.is_some(),
            self.max_length_bytes.is_some(),
            self.overflow.is_some(),
            self.delivery_limit.is_some(),
            self.single_active_consumer.is_some(),
        ];
        TYPED.iter().zip(given).filter(|(_, is_given)| *is_given).map(|((key, _), _)| *key).collect()
    }

    fn typed_arguments(&self) -> Headers {
        let count = |number: u64| Value::Int64(i64::try_from(number).unwrap_or(i64::MAX));
        let milliseconds = |ttl: Duration| count(u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX));
        let values = [
            ("x-max-priority", self.max_priority.filter(|levels| *levels > 0).map(|levels| count(levels.into()))),
            ("x-message-ttl", self.message_ttl.map(milliseconds)),
            ("x-max-length", self.max_length.map(count)),
            ("x-max-length-bytes", self.max_length_bytes.map(count)),
            ("x-overflow", self.overflow.map(|overflow| Value::text(overflow.as_str()))),
            ("x-delivery-limit", self.delivery_limit.map(|limit| count(limit.into()))),
            ("x-single-active-consumer", self.single_active_consumer.filter(|single| *single).map(Value::Bool)),
        ];
        values.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?))).collect()
    }
}

fn type_of(value: &Value, findings: &mut Vec<Finding>) -> Option<QueueType> {
    match value.as_text() {
        Some("quorum") => Some(QueueType::Quorum),
        Some("classic") => Some(QueueType::Classic),
        found => {
            let why = match found {
                Some("stream") => "streams are not supported in this release",
                Some(_) | None => "must be one of quorum, classic",
            };
            let place = Place::Argument("x-queue-type".to_owned());
            findings.push(Finding::problem(place, why, "leave it out for quorum"));
            None
        }
    }
}

/// Which typed keys were given, to say where an argument comes from.
#[derive(Debug)]
pub(super) struct Asked {
    keys: Vec<&'static str>,
}

impl Asked {
    /// The typed key that gave this argument.
    pub(super) fn key_of(&self, argument: &str) -> Option<&'static str> {
        let (key, _) = TYPED.iter().find(|(_, name)| *name == argument)?;
        self.keys.contains(key).then_some(*key)
    }

    /// Where an argument was said.
    pub(super) fn place_of(&self, argument: &str) -> Place {
        self.key_of(argument).map_or_else(|| Place::Argument(argument.to_owned()), Place::Key)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resolve(keys: QueueKeys) -> (QueueSettings, Vec<Finding>) {
        keys.resolve(QueueName::parse("q").unwrap())
    }

    fn headers<const N: usize>(entries: [(&str, Value); N]) -> Headers {
        entries.map(|(name, value)| (name.to_owned(), value)).into()
    }

    #[test]
    fn every_typed_key_is_an_argument_of_the_broker() {
        let (queue, findings) = resolve(QueueKeys {
            queue_type: Some(QueueType::Classic),
            max_priority: Some(5),
            message_ttl: Some(Duration::from_micros(1_500_999)),
            max_length: Some(u64::MAX),
            max_length_bytes: Some(7),
            overflow: Some(Overflow::DropHead),
            single_active_consumer: Some(true),
            ..QueueKeys::default()
        });
        let expected = headers([
            ("x-max-priority", Value::Int64(5)),
            ("x-message-ttl", Value::Int64(1_500)),
            ("x-max-length", Value::Int64(i64::MAX)),
            ("x-max-length-bytes", Value::Int64(7)),
            ("x-overflow", Value::text("drop-head")),
            ("x-single-active-consumer", Value::Bool(true)),
        ]);
        assert_eq!((queue.arguments, queue.queue_type), (expected, Some(QueueType::Classic)));
        assert!(findings.iter().all(|finding| finding.weight == Weight::Warning), "{findings:?}");
        let (queue, _) = resolve(QueueKeys { delivery_limit: Some(50), ..QueueKeys::default() });
        assert_eq!(queue.arguments, headers([("x-delivery-limit", Value::Int64(50))]));
    }

    #[test]
    fn no_priority_and_no_single_consumer_are_no_arguments() {
        let keys = QueueKeys { max_priority: Some(0), single_active_consumer: Some(false), ..QueueKeys::default() };
        let (queue, findings) = resolve(keys);
        assert_eq!((queue.arguments, findings), (Headers::new(), Vec::new()));
    }

    #[test]
    fn a_key_that_is_also_an_argument_is_a_problem_even_when_both_agree() {
        let same = [
            QueueKeys { queue_type: Some(QueueType::Quorum), ..QueueKeys::default() },
            QueueKeys { max_priority: Some(3), ..QueueKeys::default() },
            QueueKeys { message_ttl: Some(Duration::from_secs(1)), ..QueueKeys::default() },
            QueueKeys { max_length: Some(3), ..QueueKeys::default() },
            QueueKeys { max_length_bytes: Some(3), ..QueueKeys::default() },
            QueueKeys { overflow: Some(Overflow::RejectPublish), ..QueueKeys::default() },
            QueueKeys { delivery_limit: Some(30), ..QueueKeys::default() },
            QueueKeys { single_active_consumer: Some(true), ..QueueKeys::default() },
        ];
        for (keys, (key, argument)) in same.into_iter().zip(TYPED) {
            let alone = keys.typed_arguments();
            let value = alone.get(argument).cloned().unwrap_or_else(|| Value::text("quorum"));
            let (queue, findings) = resolve(QueueKeys { arguments: headers([(argument, value)]), ..keys });
            let expected = Finding::problem(
                Place::Key(key),
                format!("is also given as arguments.{argument}"),
                "keep one of the two",
            );
            let problems: Vec<Finding> =
                findings.into_iter().filter(|finding| finding.weight == Weight::Problem).collect();
            assert_eq!(problems, [expected]);
            assert_eq!(queue.arguments, alone);
        }
    }

    #[test]
    fn a_type_in_the_arguments_is_the_type() {
        let with =
            |word| QueueKeys { arguments: headers([("x-queue-type", Value::text(word))]), ..QueueKeys::default() };
        let (queue, _) = resolve(with("classic"));
        assert_eq!((queue.queue_type, queue.arguments.len()), (Some(QueueType::Classic), 0));
        let (_, findings) = resolve(with("stream"));
        assert_eq!(findings[0].place, Place::Argument("x-queue-type".to_owned()));
    }
}
