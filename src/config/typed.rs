//! One value by the kind of its key: in bounds, or a fault that says what would be. Knows no source.

use config::{Value, ValueKind};
use secrecy::SecretString;

use super::arguments::{self, BindingEntry};
use super::file;
use super::keys::{Key, Kind};
use super::problem::Fault;
use super::settings::ListenAddress;
use super::value::{parse_address, parse_duration, parse_size, write_duration, write_size};
use crate::domain::message::Headers;
use crate::domain::name::{ExchangeName, NameError};

/// A value that is what its key wants.
#[derive(Debug, Clone)]
pub(crate) enum Typed {
    Bool(bool),
    Integer(i64),
    Fraction(f64),
    Duration(std::time::Duration),
    Size(u64),
    Address(Option<ListenAddress>),
    Text(String),
    Secret(SecretString),
    Secrets(Vec<SecretString>),
    Word(&'static str),
    List(Vec<String>),
    Bindings(Vec<BindingEntry>),
    Arguments(Headers),
}

/// A text of a variable or flag as the value that a file would hold for this kind. What does not fit stays text, so
/// that [`read`] finds fault with it.
pub(super) fn from_text(kind: Kind, text: &str, origin: &str) -> Value {
    let as_text = || ValueKind::String(text.to_owned());
    let kind = match kind {
        Kind::Bool => match text.to_ascii_lowercase().as_str() {
            "true" => ValueKind::Boolean(true),
            "false" => ValueKind::Boolean(false),
            _ => as_text(),
        },
        Kind::Integer { .. } => text.parse().map_or_else(|_| as_text(), ValueKind::I64),
        Kind::Fraction { .. } => text.parse().map_or_else(|_| as_text(), ValueKind::Float),
        Kind::List | Kind::SecretList | Kind::Bindings => {
            if text.starts_with('[') {
                return file::parse_fragment(text, origin)
                    .unwrap_or_else(|| Value::new(Some(&origin.to_owned()), as_text()));
            }
            let items = text.split(',').map(str::trim).filter(|item| !item.is_empty());
            ValueKind::Array(items.map(|item| Value::new(Some(&origin.to_owned()), item)).collect())
        }
        Kind::Arguments => {
            return file::parse_fragment(text, origin)
                .unwrap_or_else(|| Value::new(Some(&origin.to_owned()), as_text()));
        }
        Kind::Duration { .. }
        | Kind::Size { .. }
        | Kind::Address
        | Kind::Text
        | Kind::Name
        | Kind::BoundExchange
        | Kind::Path
        | Kind::Secret
        | Kind::Words { .. } => as_text(),
    };
    Value::new(Some(&origin.to_owned()), kind)
}

/// A text for a key, as a default is written.
pub(super) fn read_text(key: &Key, text: &str) -> Result<Typed, Fault> {
    read(key, &from_text(key.kind, text, "default"))
}

/// A value for a key.
pub(super) fn read(key: &Key, value: &Value) -> Result<Typed, Fault> {
    read_kind(key.kind, value).map_err(|fault| advised(fault, key))
}

/// True if a value is what `text` means for this key.
pub(super) fn is_same(key: &Key, value: &Value, text: &str) -> bool {
    from_text(key.kind, text, "default").kind == value.kind
}

fn read_kind(kind: Kind, value: &Value) -> Result<Typed, Fault> {
    match kind {
        Kind::Bool => read_bool(value),
        Kind::Integer { min, max } => read_integer(value, min, max),
        Kind::Fraction { min, max } => read_fraction(value, min, max),
        Kind::Duration { min, max } => {
            let duration = text_or(value, "a duration", "10s").and_then(parse_duration)?;
            let span = || format!("must be {} to {}", write_duration(min), write_duration(max));
            in_bounds(duration, min, max, span).map(Typed::Duration)
        }
        Kind::Size { min, max } => {
            let bytes = if let ValueKind::I64(bytes) = value.kind {
                u64::try_from(bytes).map_err(|_| Fault::new("must not be below 0"))?
            } else {
                text_or(value, "a size", "16MiB").and_then(parse_size)?
            };
            in_bounds(bytes, min, max, || format!("must be {} to {}", write_size(min), write_size(max)))
                .map(Typed::Size)
        }
        Kind::Address => text_or(value, "an address", "127.0.0.1:7672").and_then(parse_address).map(Typed::Address),
        Kind::Text | Kind::Path => Ok(Typed::Text(text(value)?.to_owned())),
        Kind::Secret => Ok(Typed::Secret(text(value)?.into())),
        Kind::Name => read_name(value, ExchangeName::parse),
        Kind::BoundExchange => read_name(value, ExchangeName::parse_bound),
        Kind::Words { now, later } => read_word(value, now, later),
        Kind::List => read_list(value),
        Kind::SecretList => Ok(Typed::Secrets(texts(value)?.into_iter().map(SecretString::from).collect())),
        Kind::Bindings => arguments::read_bindings(value).map(Typed::Bindings),
        Kind::Arguments => arguments::read_arguments(value).map(Typed::Arguments),
    }
}

/// The key's own advice where the fault has none.
fn advised(mut fault: Fault, key: &Key) -> Fault {
    let shows_by_example = matches!(key.kind, Kind::Duration { .. } | Kind::Size { .. });
    let from_default = || key.default.filter(|_| shows_by_example).map(|default| format!("write {default:?}"));
    let advice = || key.hint.map(str::to_owned).or_else(from_default);
    fault.hint = fault.hint.or_else(advice);
    fault
}

fn in_bounds<T: PartialOrd + Copy>(found: T, min: T, max: T, bounds: impl Fn() -> String) -> Result<T, Fault> {
    if found < min || found > max { Err(Fault::new(bounds())) } else { Ok(found) }
}

/// The text of a value that is written as one, and is not empty.
pub(super) fn text(value: &Value) -> Result<&str, Fault> {
    text_or(value, "text", "…")
}

fn text_or<'a>(value: &'a Value, what: &str, example: &str) -> Result<&'a str, Fault> {
    let ValueKind::String(text) = &value.kind else {
        let is_number = matches!(value.kind, ValueKind::I64(_) | ValueKind::Float(_));
        let fault = Fault::new(format!("must be {what}, in quotes"));
        let needs_unit = what == "a duration" && is_number;
        return Err(if needs_unit {
            Fault::new("a duration needs a unit").hint(format!("write \"{0}s\" or \"{0}ms\"", value.kind))
        } else if example == "…" {
            fault
        } else {
            fault.hint(format!("write {example:?}"))
        });
    };
    if text.is_empty() { Err(Fault::new("must not be empty").hint("leave the key out")) } else { Ok(text) }
}

fn texts(value: &Value) -> Result<Vec<&str>, Fault> {
    let ValueKind::Array(items) = &value.kind else { return Err(Fault::new("must be a list").hint("write [\"…\"]")) };
    items.iter().map(text).collect()
}

/// Texts, and whole numbers such as those of users.
fn read_list(value: &Value) -> Result<Typed, Fault> {
    let ValueKind::Array(items) = &value.kind else { return texts(value).map(|_| Typed::List(Vec::new())) };
    let item = |item: &Value| {
        if let ValueKind::I64(number) = item.kind { Ok(number.to_string()) } else { text(item).map(str::to_owned) }
    };
    items.iter().map(item).collect::<Result<_, _>>().map(Typed::List)
}

fn read_bool(value: &Value) -> Result<Typed, Fault> {
    let ValueKind::Boolean(value) = value.kind else {
        let in_quotes = matches!(&value.kind, ValueKind::String(text) if text == "true" || text == "false");
        let fault = Fault::new("must be true or false");
        return Err(if in_quotes { fault.hint("without quotes") } else { fault });
    };
    Ok(Typed::Bool(value))
}

fn read_integer(value: &Value, min: i64, max: i64) -> Result<Typed, Fault> {
    let ValueKind::I64(number) = value.kind else {
        let fault = Fault::new("must be a whole number");
        let in_quotes = matches!(&value.kind, ValueKind::String(text) if text.parse::<i64>().is_ok());
        return Err(if in_quotes { fault.hint("without quotes") } else { fault });
    };
    let bounds = || if max == i64::MAX { format!("must be at least {min}") } else { format!("must be {min} to {max}") };
    in_bounds(number, min, max, bounds).map(Typed::Integer)
}

#[expect(clippy::cast_precision_loss, reason = "bounds are small; a number beyond them stays beyond them")]
fn read_fraction(value: &Value, min: f64, max: f64) -> Result<Typed, Fault> {
    let number = if let ValueKind::I64(number) = value.kind { Some(number as f64) } else { None };
    let number = if let ValueKind::Float(number) = value.kind { Some(number) } else { number };
    let number = number.filter(|number| !number.is_nan()).ok_or_else(|| Fault::new("must be a number"))?;
    in_bounds(number, min, max, || format!("must be {min} to {max}")).map(Typed::Fraction)
}

fn read_name(value: &Value, parse: impl Fn(&str) -> Result<ExchangeName, NameError>) -> Result<Typed, Fault> {
    let name = text(value)?;
    // Queues and exchanges have the same rules.
    parse(name).map_err(|error| Fault::new(error.to_string()))?;
    Ok(Typed::Text(name.to_owned()))
}

fn read_word(value: &Value, now: &[&'static str], later: &[(&str, &str)]) -> Result<Typed, Fault> {
    let found = text(value)?;
    if let Some(word) = now.iter().find(|word| **word == found) {
        return Ok(Typed::Word(word));
    }
    let allowed = now.join(", ");
    if let Some((_, why)) = later.iter().find(|(word, _)| *word == found) {
        return Err(Fault::new(*why).hint(format!("one of {allowed}")));
    }
    let near = now.iter().find(|word| strsim::damerau_levenshtein(word, &found.to_lowercase()) <= 2);
    let fault = Fault::new(format!("must be one of {allowed}"));
    Err(match near {
        Some(word) => fault.hint(format!("did you mean {word:?}?")),
        None => fault,
    })
}
