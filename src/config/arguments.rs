//! AMQP arguments and bindings out of tables and lists. Knows no source and no broker.

use config::{Value, ValueKind};

use super::problem::Fault;
use super::tree;
use super::typed::text;
use crate::domain::message::{Headers, Value as Argument};
use crate::domain::name::{ExchangeName, NAME_BYTES_MAX};
use crate::domain::subscription::match_fault;

/// A binding as written: the exchange may be left to the queue's.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct BindingEntry {
    pub(crate) exchange: Option<ExchangeName>,
    pub(crate) routing_key: String,
    pub(crate) arguments: Headers,
}

/// Tables nest no deeper; the broker itself knows no use for more.
const DEPTH_MAX: usize = 8;

/// A table of arguments, with AMQP's types for TOML's.
pub(super) fn read_arguments(value: &Value) -> Result<Headers, Fault> {
    if !tree::is_table(value) {
        return Err(Fault::new("must be a table").hint("write { x-name = \"value\" }"));
    }
    headers(value, DEPTH_MAX)
}

fn headers(table: &Value, depth: usize) -> Result<Headers, Fault> {
    let mut found = Headers::new();
    for (name, value) in tree::entries(table) {
        if name.is_empty() || name.len() > NAME_BYTES_MAX {
            return Err(Fault::new("an argument's name must have 1 to 255 bytes"));
        }
        found.insert(name.clone(), argument(value, depth)?);
    }
    Ok(found)
}

fn argument(value: &Value, depth: usize) -> Result<Argument, Fault> {
    let Some(below) = depth.checked_sub(1) else {
        return Err(Fault::new(format!("nests deeper than {DEPTH_MAX} tables")));
    };
    match &value.kind {
        ValueKind::Boolean(value) => Ok(Argument::Bool(*value)),
        ValueKind::I64(number) => Ok(Argument::Int64(*number)),
        // RabbitMQ closes the connection for it (3.10.8), again in every session.
        ValueKind::Float(number) if !number.is_finite() => {
            Err(Fault::new("must be a finite number").hint("the broker has none for nan and inf"))
        }
        ValueKind::Float(number) => Ok(Argument::Double(*number)),
        ValueKind::String(text) => Ok(Argument::text(text.clone())),
        ValueKind::Table(_) => headers(value, below).map(Argument::Table),
        ValueKind::Array(items) => {
            items.iter().map(|item| argument(item, below)).collect::<Result<_, _>>().map(Argument::Array)
        }
        // TOML and the variables make none of these.
        ValueKind::Nil | ValueKind::I128(_) | ValueKind::U64(_) | ValueKind::U128(_) => {
            Err(Fault::new("has a type that no argument has"))
        }
    }
}

/// A list of bindings: each a pattern, or a table of `exchange`, `routing_key` and `arguments`.
pub(super) fn read_bindings(value: &Value) -> Result<Vec<BindingEntry>, Fault> {
    let ValueKind::Array(items) = &value.kind else {
        return Err(Fault::new("must be a list").hint("write [\"player.#\"]"));
    };
    let (mut found, mut faults) = (Vec::new(), Vec::new());
    for (position, item) in items.iter().enumerate() {
        match binding(item) {
            Ok(entry) => found.push(entry),
            Err(fault) => faults.push(Fault { why: format!("item {}: {}", position + 1, fault.why), ..fault }),
        }
    }
    joined(faults).map_or(Ok(found), Err)
}

/// Faults of one list as one: each is named, the first advice stands for all.
fn joined(faults: Vec<Fault>) -> Option<Fault> {
    let hint = faults.iter().find_map(|fault| fault.hint.clone());
    let why = faults.into_iter().map(|fault| fault.why).reduce(|all, one| format!("{all}; {one}"))?;
    Some(Fault { why, hint })
}

fn binding(item: &Value) -> Result<BindingEntry, Fault> {
    const FORM: &str = "write \"player.#\" or { exchange = \"…\", routing_key = \"…\" }";
    let mut entry = BindingEntry { exchange: None, routing_key: String::new(), arguments: Headers::new() };
    if let ValueKind::String(pattern) = &item.kind {
        entry.routing_key.clone_from(pattern);
        return checked(entry);
    }
    if !tree::is_table(item) {
        return Err(Fault::new("must be a pattern or a table").hint(FORM));
    }
    for (word, value) in tree::entries(item) {
        match word.as_str() {
            "exchange" => {
                // Binding to an exchange of the broker's own is legal; only declaring it is not.
                let name = ExchangeName::parse_bound(text(value)?);
                entry.exchange = Some(name.map_err(|error| Fault::new(format!("exchange {error}")))?);
            }
            "routing_key" => {
                let ValueKind::String(pattern) = &value.kind else {
                    return Err(Fault::new("routing_key must be text, in quotes"));
                };
                entry.routing_key.clone_from(pattern);
            }
            "arguments" => entry.arguments = read_arguments(value)?,
            unknown => return Err(Fault::new(format!("unknown key {unknown}")).hint(FORM)),
        }
    }
    checked(entry)
}

fn checked(entry: BindingEntry) -> Result<BindingEntry, Fault> {
    if let Some(fault) = match_fault(&entry.arguments) {
        return Err(Fault::new(fault).hint("leave it out for all"));
    }
    let bytes = entry.routing_key.len();
    if bytes > NAME_BYTES_MAX {
        return Err(Fault::new(format!("the routing key has {bytes} bytes, at most {NAME_BYTES_MAX} are allowed")));
    }
    Ok(entry)
}
