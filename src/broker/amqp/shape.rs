//! Objects as they are sent in a declaration, and what is remembered of those that exist. Knows no channel.
//!
//! A declaration that the broker accepts for an existing object tells what that object is: it compares every argument
//! that the type of the object knows. Accepted ones are remembered, so that asking again costs one call and leaves no
//! error in the broker's log.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use super::inequivalent::Current;
use crate::domain::difference::{Comparison, FoundExchange, FoundQueue, compare_exchange, compare_queue};
use crate::domain::message::{Headers, Value};
use crate::domain::topology::{Exchange, Queue};

/// Objects that are remembered; then all are forgotten, which costs some calls.
const REMEMBERED_MAX: usize = 4_096;

/// For people, where the broker has not told the value.
const UNTOLD: &str = "another value, which the broker does not tell";

/// What is wanted of one object.
#[derive(Debug, Clone, Copy)]
pub(super) enum Wanted<'a> {
    Exchange(&'a Exchange),
    Queue(&'a Queue),
}

impl Wanted<'_> {
    /// For findings and errors.
    pub(super) fn object(self) -> String {
        match self {
            Self::Exchange(exchange) => format!("exchange {}", exchange.name),
            Self::Queue(queue) => format!("queue {}", queue.name),
        }
    }

    /// Whether anything was named.
    pub(super) fn is_named(self) -> bool {
        match self {
            Self::Exchange(exchange) => !exchange.named.is_empty(),
            Self::Queue(queue) => !queue.named.is_empty(),
        }
    }

    /// As it is declared when it is missing.
    pub(super) fn shape(self) -> Shape {
        match self {
            Self::Exchange(exchange) => Shape::Exchange(FoundExchange {
                kind: exchange.kind.as_str().to_owned(),
                durable: exchange.durable,
                auto_delete: exchange.auto_delete,
                internal: exchange.internal,
                arguments: exchange.arguments.clone(),
            }),
            Self::Queue(queue) => Shape::Queue(FoundQueue {
                durable: queue.durable,
                auto_delete: queue.auto_delete,
                exclusive: queue.exclusive,
                arguments: queue.arguments.clone(),
            }),
        }
    }

    /// What differs.
    pub(super) fn compare(self, found: &Shape) -> Comparison {
        match (self, found) {
            (Self::Exchange(wanted), Shape::Exchange(found)) => compare_exchange(wanted, found),
            (Self::Queue(wanted), Shape::Queue(found)) => compare_queue(wanted, found),
            // An exchange is never found as a queue.
            (Self::Exchange(_), Shape::Queue(_)) | (Self::Queue(_), Shape::Exchange(_)) => Comparison::default(),
        }
    }
}

/// An object with all its properties.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Shape {
    Exchange(FoundExchange),
    Queue(FoundQueue),
}

impl Shape {
    /// What is sent for a key of the broker.
    pub(super) fn value(&self, key: &str) -> Option<Value> {
        let flag = |flag: bool| Some(Value::Bool(flag));
        match (self, key) {
            (Self::Exchange(exchange), "type") => Some(Value::text(exchange.kind.as_str())),
            (Self::Exchange(exchange), "internal") => flag(exchange.internal),
            (Self::Exchange(exchange), "durable") => flag(exchange.durable),
            (Self::Exchange(exchange), "auto_delete") => flag(exchange.auto_delete),
            (Self::Queue(queue), "durable") => flag(queue.durable),
            (Self::Queue(queue), "auto_delete") => flag(queue.auto_delete),
            (Self::Exchange(FoundExchange { arguments, .. }) | Self::Queue(FoundQueue { arguments, .. }), _) => {
                arguments.get(key).cloned()
            }
        }
    }

    /// Takes over what the object has.
    pub(super) fn take_over(&mut self, key: &str, current: &Current) {
        let flag = match current {
            Current::Value(Value::Bool(flag)) => Some(*flag),
            Current::Absent | Current::Value(_) | Current::Untold => None,
        };
        match (self, key) {
            (Self::Exchange(exchange), "type") => {
                // An untold type stays as it is and is refused again, which ends the comparison.
                if let Current::Value(kind) = current {
                    kind.as_text().unwrap_or_default().clone_into(&mut exchange.kind);
                }
            }
            // An untold flag can only be the other one.
            (Self::Exchange(it), "internal") => it.internal = flag.unwrap_or(!it.internal),
            (Self::Exchange(it), "durable") => it.durable = flag.unwrap_or(!it.durable),
            (Self::Exchange(it), "auto_delete") => it.auto_delete = flag.unwrap_or(!it.auto_delete),
            (Self::Queue(it), "durable") => it.durable = flag.unwrap_or(!it.durable),
            (Self::Queue(it), "auto_delete") => it.auto_delete = flag.unwrap_or(!it.auto_delete),
            (Self::Exchange(FoundExchange { arguments, .. }) | Self::Queue(FoundQueue { arguments, .. }), _) => {
                let value = match current {
                    Current::Absent => None,
                    Current::Value(value) => Some(value.clone()),
                    Current::Untold => Some(Value::text(UNTOLD)),
                };
                arguments.remove(key);
                arguments.extend(value.map(|value| (key.to_owned(), value)));
            }
        }
    }

    /// Takes out what the broker has not looked at because an object of this type can never have it.
    pub(super) fn without_the_impossible(mut self) -> Self {
        if let Self::Queue(queue) = &mut self {
            let impossible = impossible_for(&queue.arguments);
            queue.arguments.retain(|key, _| !impossible.contains(&key.as_str()));
        }
        self
    }

    /// The next guard. A broker that has told a key compares it, so that it guards no longer.
    pub(super) fn guard(&self, told: &[String]) -> Guard {
        let (keys, value): (&[&str], _) = match self {
            Self::Queue(queue) => (impossible_for(&queue.arguments), Value::Int64(1)),
            // No name reads like a number of this type, so that what the broker tells beside it is read as a text.
            Self::Exchange(_) => (&[ALTERNATE], Value::Double(1.0)),
        };
        let mut left = keys.iter().filter(|key| !told.iter().any(|told| told == *key));
        left.next().map_or(Guard::Spent, |key| Guard::With(key, value))
    }

    /// The declaration with this argument, whatever it has for it.
    pub(super) fn with(mut self, key: &str, value: Value) -> Self {
        match &mut self {
            Self::Exchange(FoundExchange { arguments, .. }) | Self::Queue(FoundQueue { arguments, .. }) => {
                arguments.insert(key.to_owned(), value);
            }
        }
        self
    }
}

/// What keeps a comparison from making something.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Guard {
    /// An argument that the broker refuses when it would have to make the object: a comparison that carries it creates
    /// nothing, even when the object was deleted a moment ago. Where a queue of that type exists it is ignored; an
    /// exchange is compared with it last of all (`bus_amqp::inequivalent`).
    With(&'static str, Value),
    /// There is none left. Of an exchange everything was told then.
    Spent,
}

/// The one argument of an exchange that the broker compares. One that is no text is refused when an exchange is made.
const ALTERNATE: &str = "alternate-exchange";

/// Arguments that RabbitMQ refuses for a queue of this type when it is made, and does not compare when it exists
/// (measured on 3.10.8; the lists of arguments by type in its source).
fn impossible_for(arguments: &Headers) -> &'static [&'static str] {
    match arguments.get("x-queue-type").and_then(Value::as_text) {
        Some("quorum") => &["x-max-priority", "x-queue-mode"],
        Some("stream") => &[
            "x-max-priority",
            "x-queue-mode",
            "x-delivery-limit",
            "x-dead-letter-strategy",
            "x-dead-letter-exchange",
            "x-dead-letter-routing-key",
            "x-overflow",
            "x-message-ttl",
            "x-max-length",
            "x-single-active-consumer",
        ],
        _ => &["x-delivery-limit", "x-dead-letter-strategy", "x-quorum-initial-group-size"],
    }
}

/// What this process knows of objects that exist. A memory of earlier answers and never the truth: the broker is asked
/// each time.
#[derive(Debug, Default)]
pub(super) struct Shapes(Mutex<HashMap<String, Shape>>);

impl Shapes {
    /// As it was when it was last seen.
    pub(super) fn last_seen(&self, object: &str) -> Option<Shape> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get(object).cloned()
    }

    /// It was seen so.
    pub(super) fn remember(&self, object: String, shape: Shape) {
        let mut shapes = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if shapes.len() >= REMEMBERED_MAX {
            shapes.clear();
        }
        shapes.insert(object, shape);
    }
}
