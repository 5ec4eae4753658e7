//! The exchange of events and `[exchanges.<name>]`. Knows no source.

use super::problem::{Fault, Problems};
use super::values::{Section, Values};
use crate::domain::message::Headers;
use crate::domain::name::ExchangeName;
use crate::domain::topology::{Exchange, ExchangeKind, Named};

/// The exchange of events with its options, and all others by name.
pub(super) fn read(values: &Values, problems: &mut Problems) -> (Exchange, Vec<Exchange>) {
    let amqp = values.section("bus.amqp");
    let mut events = Exchange::durable(amqp.value("exchange"), kind_of(amqp.value("exchange_type")));
    events.named.extend(amqp.given("exchange_type").map(|_| "type".to_owned()));
    let mut others: Vec<Exchange> = Vec::new();
    let mut is_events_told = false;
    for (entry_name, entry) in values.entries("exchanges") {
        let Some(name) = name_of(entry_name, &entry, problems) else { continue };
        let is_events = name == events.name;
        if others.iter().any(|other| other.name == name) || (is_events && is_events_told) {
            let fault = Fault::new(format!("the exchange {name} has another table already"));
            problems.push(entry.problem("name", fault.hint("keep one table per exchange")));
        } else if is_events {
            is_events_told = true;
            events = with_options(&entry, events, problems);
        } else {
            others.push(declared(&entry, name));
        }
    }
    others.sort_by(|a, b| a.name.cmp(&b.name));
    (events, others)
}

/// The kind for a word of the table.
pub(super) fn kind_of(word: &str) -> ExchangeKind {
    match word {
        "direct" => ExchangeKind::Direct,
        "fanout" => ExchangeKind::Fanout,
        "headers" => ExchangeKind::Headers,
        _ => ExchangeKind::Topic,
    }
}

fn name_of(entry_name: &str, entry: &Section<'_>, problems: &mut Problems) -> Option<ExchangeName> {
    if let Some(name) = entry.optional("name") {
        return Some(name);
    }
    match ExchangeName::parse(entry_name) {
        Ok(name) => Some(name),
        Err(error) => {
            problems.push(entry.problem("", Fault::new(format!("the name {error}"))));
            None
        }
    }
}

fn declared(entry: &Section<'_>, name: ExchangeName) -> Exchange {
    Exchange {
        name,
        kind: kind_of(entry.value_or("type", "topic")),
        durable: entry.value("durable"),
        auto_delete: entry.value("auto_delete"),
        internal: entry.value("internal"),
        named: named(entry),
        arguments: entry.optional("arguments").unwrap_or_default(),
    }
}

/// What the table names: an exchange that exists must have it so.
fn named(entry: &Section<'_>) -> Named {
    let keys = ["type", "durable", "auto_delete", "internal"].into_iter().filter(|key| entry.given(key).is_some());
    let arguments: Headers = entry.optional("arguments").unwrap_or_default();
    keys.map(str::to_owned).chain(arguments.into_keys()).collect()
}

fn with_options(entry: &Section<'_>, events: Exchange, problems: &mut Problems) -> Exchange {
    let kind = entry.value_or("type", events.kind.as_str());
    if kind != events.kind.as_str() {
        let fault = Fault::new(format!("bus.amqp.exchange_type says {} for this exchange", events.kind.as_str()));
        problems.push(entry.problem("type", fault.hint("give both the same type")));
    }
    if entry.value("internal") {
        let fault = Fault::new("the exchange of bus.amqp.exchange must take publishes");
        problems.push(entry.problem("internal", fault.hint("name another exchange there")));
    }
    let mut exchange = Exchange { kind: events.kind, ..declared(entry, events.name) };
    exchange.named.extend(events.named);
    exchange
}
