//! Reads what RabbitMQ says when a declaration does not fit what exists (406). Knows no channel and no plan.
//!
//! The text is the only place where AMQP tells an argument of an existing object. It has three forms (measured on 3.10.8;
//! each has a test on the real broker in `bus_amqp::inequivalent`):
//!
//! ```text
//! inequivalent arg 'K' for queue 'Q' in vhost 'V': received the value 'R' of type 'T' but current is none
//! inequivalent arg 'K' for queue 'Q' in vhost 'V': received none but current is the value 'C' of type 'T'
//! inequivalent arg 'K' for queue 'Q' in vhost 'V': received 'R' but current is 'C'
//! ```
//!
//! Names and values stand there as they are, quotes included, and the whole is cut at 255 bytes.

use crate::domain::message::Value;

/// An argument that differs, as the broker tells it.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Inequivalent {
    /// `type`, `durable`, `x-message-ttl` …
    pub(super) key: String,
    /// What the object has.
    pub(super) current: Current,
}

/// What an existing object has for an argument.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Current {
    /// Not there.
    Absent,
    /// This.
    Value(Value),
    /// Something else than was sent; the text was cut before it, or has it in a form that nobody can send back.
    Untold,
}

/// What stands where the broker has cut its text to the length of an AMQP short string.
const CUT: &str = "...";
const BUT: &str = " but current is ";

/// Reads the text about an object such as `queue player-projector`; `sent` answers what was sent for a key. `None` for
/// any other text.
pub(super) fn parse(reason: &str, object: &str, sent: impl Fn(&str) -> Option<Value>) -> Option<Inequivalent> {
    let (kind, name) = object.split_once(' ')?;
    let (_, rest) = reason.split_once("inequivalent arg '")?;
    let (key, rest) = rest.split_once(&format!("' for {kind} '"))?;
    let sent = sent(key);
    let current = match current_part(rest, name, sent.as_ref()) {
        Some(text) => read(text, sent.as_ref()),
        None if reason.ends_with(CUT) => Some(Current::Untold),
        None => None,
    };
    // A text that ends early and one that ends in dots by itself cannot be told apart, and need not be.
    let current = current.or_else(|| reason.ends_with(CUT).then_some(Current::Untold))?;
    Some(Inequivalent { key: key.to_owned(), current })
}

/// What follows "but current is". A value may hold those words itself: what was sent says where the first part ends.
fn current_part<'a>(rest: &'a str, name: &str, sent: Option<&Value>) -> Option<&'a str> {
    let rest = rest.strip_prefix(name)?.strip_prefix("' in vhost '")?;
    let (_, values) = rest.split_once("': received ")?;
    let sent = sent.map_or_else(|| "none".to_owned(), bare);
    let mut splits = values.match_indices(BUT).map(|(at, _)| (&values[..at], &values[at + BUT.len()..]));
    let fits = |received: &str| received == sent || quoted(received).is_some_and(|text| text == sent);
    let first = splits.clone().next().map(|(_, current)| current);
    splits.find(|(received, _)| fits(received)).map(|(_, current)| current).or(first)
}

/// The value in either of its two forms.
fn quoted(text: &str) -> Option<&str> {
    let typed = text.strip_prefix("the value '").and_then(|rest| rest.rsplit_once("' of type '"));
    typed.map(|(value, _)| value).or_else(|| text.strip_prefix('\'')?.strip_suffix('\''))
}

fn read(text: &str, sent: Option<&Value>) -> Option<Current> {
    if text == "none" {
        return Some(Current::Absent);
    }
    if let Some(rest) = text.strip_prefix("the value '") {
        let (value, kind) = rest.strip_suffix('\'')?.rsplit_once("' of type '")?;
        return Some(typed(value, kind).map_or(Current::Untold, Current::Value));
    }
    let value = text.strip_prefix('\'')?.strip_suffix('\'')?;
    // Without a type: the broker compares within a kind of values, so it is most likely of the kind that was sent.
    Some(Current::Value(like(value, sent)))
}

/// A value of one of the types that the broker names, those that arguments of queues and exchanges have.
fn typed(value: &str, kind: &str) -> Option<Value> {
    match kind {
        "longstr" => Some(Value::text(value)),
        "bool" => value.parse().ok().map(Value::Bool),
        "signedint" | "long" | "short" | "byte" | "unsignedbyte" | "unsignedshort" | "unsignedint" => {
            value.parse().ok().map(Value::Int64)
        }
        _ => None,
    }
}

fn like(text: &str, sent: Option<&Value>) -> Value {
    let number = || text.parse().ok().map(Value::Int64);
    let flag = || text.parse().ok().map(Value::Bool);
    let value = match sent {
        Some(Value::Bool(_)) => flag(),
        Some(sent) if sent.as_integer().is_some() => number(),
        Some(_) | None => None,
    };
    value.unwrap_or_else(|| Value::text(text))
}

/// A value as the broker writes it.
fn bare(value: &Value) -> String {
    match (value, value.as_text(), value.as_integer()) {
        (Value::Bool(flag), ..) => flag.to_string(),
        (_, Some(text), _) => text.to_owned(),
        (.., Some(number)) => number.to_string(),
        (_, None, None) => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn spoken(key: &str, values: &str) -> String {
        format!("PRECONDITION_FAILED - inequivalent arg '{key}' for queue 'it's q' in vhost '/': received {values}")
    }

    fn current(key: &str, values: &str, sent: Option<&Value>) -> Option<Current> {
        let found = parse(&spoken(key, values), "queue it's q", |_| sent.cloned())?;
        assert_eq!(found.key, key);
        Some(found.current)
    }

    #[test]
    fn every_form_is_read() {
        let ttl = Some(Value::Int32(1_000));
        for (values, sent, expected) in [
            ("the value '1000' of type 'signedint' but current is none", ttl.clone(), Current::Absent),
            ("none but current is the value '9' of type 'signedint'", None, Current::Value(Value::Int64(9))),
            ("none but current is the value 'true' of type 'bool'", None, Current::Value(Value::Bool(true))),
            ("none but current is the value 'd' of type 'longstr'", None, Current::Value(Value::text("d"))),
            ("none but current is the value '[]' of type 'array'", None, Current::Untold),
            ("'1000' but current is '2000'", ttl, Current::Value(Value::Int64(2_000))),
            ("'true' but current is 'false'", Some(Value::Bool(true)), Current::Value(Value::Bool(false))),
            ("'d' but current is ''", Some(Value::text("d")), Current::Value(Value::text(""))),
            ("'1' but current is 'x'", Some(Value::Int8(1)), Current::Value(Value::text("x"))),
        ] {
            assert_eq!(current("k", values, sent.as_ref()), Some(expected), "{values}");
        }
    }

    #[test]
    fn other_texts_are_not_read() {
        for reason in [
            "PRECONDITION_FAILED - invalid arg 'x-max-priority' for queue 'q' in vhost '/' of queue type rabbit_quorum_queue",
            "PRECONDITION_FAILED - inequivalent arg 'k' for queue 'q' in vhost '/': something new",
            "PRECONDITION_FAILED - inequivalent arg 'k' for queue 'other' in vhost '/': received none but current is 'a'",
            "",
        ] {
            assert_eq!(parse(reason, "queue q", |_| None), None, "{reason}");
        }
    }

    #[test]
    fn a_cut_text_still_tells_the_key() {
        let name = "q".repeat(200);
        let whole =
            format!("PRECONDITION_FAILED - inequivalent arg 'k' for queue '{name}' in vhost '/': received none");
        for end in [120, 240, 251] {
            let reason = format!("{}...", &whole[..end.min(whole.len())]);
            let found = parse(&reason, &format!("queue {name}"), |_| None).expect("the key is there");
            assert_eq!((found.key.as_str(), found.current), ("k", Current::Untold));
        }
    }

    proptest! {
        #[test]
        fn no_text_makes_the_reader_fail(text in ".{0,200}", object in "[a-z]{0,5} [a-z]{0,5}") {
            let _ = parse(&text, &object, |_| None);
            let _ = parse(&format!("inequivalent arg '{text}"), &object, |_| Some(Value::text("a")));
        }

        #[test]
        fn names_and_values_may_hold_every_word_of_the_text(
            words in prop::collection::vec(prop::sample::select(
                vec!["'", " but current is ", "none", " of type ", "the value '", "a", "'longstr'", " in vhost ", "..."]), 0..5),
            sent in prop::collection::vec(prop::sample::select(vec!["'", " but current is ", "none", "b"]), 1..5),
        ) {
            let (found, sent) = (words.concat(), sent.concat());
            prop_assume!(found != sent);
            let values = format!("'{sent}' but current is '{found}'");
            prop_assert_eq!(current("k", &values, Some(&Value::text(sent))), Some(Current::Value(Value::text(found))));
        }
    }
}
