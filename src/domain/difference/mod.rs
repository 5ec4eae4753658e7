//! What exists on the broker beside what is wanted there. Knows no broker: backends tell what they found.

use std::fmt;

use super::message::{Headers, Value};

mod compare;

pub use compare::{Comparison, compare_exchange, compare_queue, is_same_binding};

/// What an operator can try where an object of this kind exists and these are not as named.
pub fn hint(kind: ObjectKind, differences: &[Difference]) -> &'static str {
    let wanted = |key: &str| differences.iter().find(|one| one.key == key).map(|one| one.wanted.as_str());
    match (kind, wanted("type"), wanted("internal")) {
        // Of dead letters, or any other.
        (ObjectKind::Exchange, Some("\"fanout\""), _) => {
            "set exchanges.<name>.type, or bus.amqp.exchange_type for the exchange of events, to the type that exists; or \
             delete the exchange, which holds no messages, and let Sidebus create it; the exchange of dead letters must be \
             a fanout: name another one (dead_letter.exchange) where this one has to stay"
        }
        (ObjectKind::Exchange, Some(_), _) => {
            "set exchanges.<name>.type, or bus.amqp.exchange_type for the exchange of events, to the type that exists; or \
             delete the exchange, which holds no messages, and let Sidebus create it"
        }
        (ObjectKind::Exchange, None, Some("false")) => {
            "set exchanges.<name>.internal to what exists; or delete the exchange, which holds no messages, and let Sidebus \
             create it; the exchange of dead letters must be a fanout that takes publishes: name another one \
             (dead_letter.exchange) where this one has to stay"
        }
        (ObjectKind::Exchange, None, Some(_)) => {
            "set exchanges.<name>.internal to what exists; or delete the exchange, which holds no messages, and let Sidebus \
             create it"
        }
        (ObjectKind::Exchange, None, None) | (ObjectKind::Queue | ObjectKind::Binding, ..) => {
            "name what exists, or leave the key out and use it as it is; or delete the object when it is empty and let Sidebus \
             create it"
        }
    }
}

/// One property or argument that is not as wanted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Difference {
    /// The broker's word: `type`, `durable`, `x-message-ttl` …
    pub key: String,
    /// As wanted, as text. Empty = not wanted.
    pub wanted: String,
    /// As found, as text. Empty = not there.
    pub found: String,
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown = |text: &str| if text.is_empty() { "nothing".to_owned() } else { text.to_owned() };
        write!(f, "{} is {}, wanted is {}", self.key, shown(&self.found), shown(&self.wanted))
    }
}

/// An exchange as it exists.
#[derive(Debug, Clone, PartialEq)]
pub struct FoundExchange {
    /// Its type, in the broker's word.
    pub kind: String,
    /// Survives a restart of the broker.
    pub durable: bool,
    /// Deleted with its last binding.
    pub auto_delete: bool,
    /// Cannot be published to.
    pub internal: bool,
    /// Its arguments.
    pub arguments: Headers,
}

/// A queue as it exists.
#[derive(Debug, Clone, PartialEq)]
pub struct FoundQueue {
    /// Survives a restart of the broker.
    pub durable: bool,
    /// Deleted with its last consumer.
    pub auto_delete: bool,
    /// For one connection only.
    pub exclusive: bool,
    /// Its arguments, the type included.
    pub arguments: Headers,
}

/// Kinds of objects on the broker.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum ObjectKind {
    /// An exchange.
    Exchange,
    /// A queue.
    Queue,
    /// A binding of a queue to an exchange.
    Binding,
}

impl ObjectKind {
    /// The kind of an object that findings and errors name, such as `queue player-projector`.
    pub fn of(object: &str) -> Option<Self> {
        let word = object.split(' ').next()?;
        [Self::Exchange, Self::Queue, Self::Binding].into_iter().find(|kind| kind.as_str() == word)
    }

    /// The word for people and labels.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Exchange => "exchange",
            Self::Queue => "queue",
            Self::Binding => "binding",
        }
    }
}

/// A wanted object compared with the broker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ObjectState {
    /// As wanted.
    Same,
    /// Not there.
    Missing,
    /// There, and something that was named differs: a mismatch.
    Different(Vec<Difference>),
    /// There and used as it is, without these defaults of ours.
    Adopted(Vec<Difference>),
    /// It cannot be seen whether it is as wanted, and why.
    Unknown(String),
    /// There, and not wanted.
    Extra,
}

/// One object that was looked at and not touched.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Examined {
    /// What it is.
    pub kind: ObjectKind,
    /// Its name; of a binding `{exchange} -> {queue} {routing key}`.
    pub name: String,
    /// How it compares.
    pub state: ObjectState,
}

/// A value for people: integers of any width are one, since clients differ in the width that they write.
pub fn value_text(value: &Value) -> String {
    match (value, value.as_text(), value.as_integer()) {
        (Value::Bool(flag), ..) => flag.to_string(),
        (_, Some(text), _) => format!("{text:?}"),
        (_, None, Some(number)) => number.to_string(),
        (_, None, None) => format!("{value:?}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hint_names_the_keys_and_dead_letters_only_where_it_may_be_their_exchange() {
        const TYPE: &str = "exchanges.<name>.type, or bus.amqp.exchange_type";
        const INTERNAL: &str = "exchanges.<name>.internal";
        for (kind, key, wanted, names, may_hold_letters) in [
            (ObjectKind::Exchange, "type", "\"topic\"", TYPE, false),
            (ObjectKind::Exchange, "type", "\"fanout\"", TYPE, true),
            (ObjectKind::Exchange, "internal", "false", INTERNAL, true),
            (ObjectKind::Exchange, "internal", "true", INTERNAL, false),
            (ObjectKind::Exchange, "durable", "true", "leave the key out", false),
            (ObjectKind::Queue, "type", "\"fanout\"", "leave the key out", false),
        ] {
            let difference = Difference { key: key.to_owned(), wanted: wanted.to_owned(), found: "other".to_owned() };
            let told = hint(kind, &[difference]);
            assert!(told.contains(names), "{kind:?} {key}: {told}");
            assert_eq!(told.contains("dead_letter.exchange"), may_hold_letters, "{kind:?} {key} {wanted}: {told}");
        }
    }
}
