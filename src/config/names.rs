//! Rules between names on the broker: ours stay ours, and one exchange has one type.

use std::collections::{BTreeMap, BTreeSet};

use super::keys::{self, Kind};
use super::path::KeyPath;
use super::problem::{Fault, Problem, Problems};
use super::settings::Settings;
use super::typed::Typed;
use super::values::Values;
use crate::domain::delay::Slot;
use crate::domain::message::Value;
use crate::domain::name::{NAME_BYTES_MAX, QueueName, SubscriptionName};
use crate::domain::subscription::{ArchiveSettings, Clash, Subscription};
use crate::domain::topology::ExchangeKind;

/// Holds every name against the namespace, and the dead-letter exchanges against all others.
pub(super) fn check(settings: &Settings, values: &Values, problems: &mut Problems) {
    refuse_a_long_namespace(settings, values, problems);
    refuse_our_own(settings, values, problems);
    refuse_circles(settings, values, problems);
    refuse_clashes(settings, values, problems);
    refuse_quarrels(settings, values, problems);
    let of_all = values.section("dead_letter");
    let of_all = (of_all.path("exchange"), of_all.origin("exchange"));
    let mut dead_letters = vec![(of_all, &settings.dead_letter.exchange)];
    dead_letters.extend(
        settings
            .subscriptions
            .iter()
            .filter(|subscription| subscription.dead_letter.exchange != settings.dead_letter.exchange)
            .map(|subscription| (place(values, subscription), &subscription.dead_letter.exchange)),
    );
    for ((key, origin), name) in dead_letters {
        if *name == settings.exchange.name {
            let fault =
                Fault::new(format!("{name} is the exchange of events; dead letters need a fanout of their own"));
            problems.push(Problem::new(&key, &origin, fault));
        }
        let other = settings.exchanges.iter().find(|exchange| exchange.name == *name);
        if let Some(other) = other.filter(|other| other.kind != ExchangeKind::Fanout) {
            let fault = Fault::new(format!("{name} must be a fanout, [exchanges] says {}", other.kind.as_str()));
            problems.push(Problem::new(&key, origin, fault));
        }
    }
}

/// Where a subscription stands in the settings.
fn place(values: &Values, subscription: &Subscription) -> (KeyPath, String) {
    let entry = values.section("queues").below(subscription.name.as_str());
    (entry.path(""), entry.origin_of_any())
}

/// A subscription on a dead-letter queue or an archive would dead-letter its failures into itself, for ever.
fn refuse_circles(settings: &Settings, values: &Values, problems: &mut Problems) {
    let letters: BTreeSet<&QueueName> = settings.letter_queues().collect();
    for subscription in &settings.subscriptions {
        let queue = &subscription.queue.name;
        if letters.contains(queue) {
            let fault = Fault::new(format!("{queue} is a dead-letter queue: its failures would turn in a circle"));
            let hint = "give dead_letter.queue another name, or read the letters with another tool";
            let (key, origin) = place(values, subscription);
            problems.push(Problem::new(key, origin, fault.hint(hint)));
        }
    }
}

/// Subscriptions side by side, by the rule that holds for those of handlers too.
fn refuse_clashes(settings: &Settings, values: &Values, problems: &mut Problems) {
    for (index, one) in settings.subscriptions.iter().enumerate() {
        let entry = |one: &Subscription| values.section("queues").below(one.name.as_str());
        let earlier = settings.subscriptions.iter().take(index);
        for (other, clash) in earlier.filter_map(|other| Some((other, one.clash(other)?))) {
            match clash {
                Clash::Queue => {
                    let (queue, name) = (&other.queue.name, &other.name);
                    let fault = Fault::new(format!("the queue {queue} belongs to queues.{name} already"));
                    let fault = fault.hint("handlers that share work share one subscription");
                    problems.push(entry(one).problem("queue", fault));
                    // One is enough: what belongs to three is no other fault.
                    break;
                }
                Clash::Archive => {
                    let (first, second) = ((one, other), (other, one));
                    let found = [first, second].into_iter();
                    let found = found.filter_map(|(of, with)| Some((of, with, of.archive_among_letters(with)?)));
                    for (of, with, queue) in found {
                        let fault = Fault::new(format!("{queue} takes the letters of queues.{}", with.name));
                        let fault = fault.hint("an archive is a queue of its own");
                        problems.push(entry(of).problem("dead_letter.archive_queue", fault));
                    }
                }
                // Letters that are worked on are told by `refuse_circles`, which knows those of all as well. The others
                // whoever writes the settings may want, unlike a handler: `refuse_quarrels`.
                Clash::Letters | Clash::OwnLetters | Clash::Listening => {}
            }
        }
    }
}

/// Subscriptions may share a queue for their letters, but then they say the same of it: the first to come would decide.
fn refuse_quarrels(settings: &Settings, values: &Values, problems: &mut Problems) {
    let mut seen: BTreeMap<&QueueName, (&SubscriptionName, Option<&ArchiveSettings>)> = BTreeMap::new();
    for subscription in &settings.subscriptions {
        let letters = &subscription.dead_letter;
        let archive = letters.own.as_ref().map_or(&letters.archive, |own| &own.archive).as_ref();
        let (first, other) = seen.entry(letters.letters()).or_insert((&subscription.name, archive));
        if *other != archive {
            let queue = letters.letters();
            let fault = Fault::new(format!("queues.{first} gives the letters in {queue} other bounds"));
            let (key, origin) = place(values, subscription);
            let fault = fault.hint("give both the same archive_queue, message_ttl and max_length");
            problems.push(Problem::new(key.child("dead_letter"), origin, fault));
        }
    }
}

/// Retries would wait for ever for slots that cannot be named.
fn refuse_a_long_namespace(settings: &Settings, values: &Values, problems: &mut Problems) {
    let made = Slot::longest().exchange(&settings.namespace).as_str().len() - settings.namespace.len();
    let most = NAME_BYTES_MAX - made;
    let found = settings.namespace.len();
    if found > most {
        let fault = Fault::new(format!("has {found} bytes, at most {most} leave room for the names of delay slots"));
        problems.push(values.section("bus.amqp").problem("namespace", fault));
    }
}

/// Names that begin with the namespace are our own delay slots and locks.
fn refuse_our_own(settings: &Settings, values: &Values, problems: &mut Problems) {
    let prefix = format!("{}.", settings.namespace);
    for (path, origin, name) in names(settings, values).into_iter().filter(|(.., name)| name.starts_with(&prefix)) {
        let fault = Fault::new(format!("{name} begins with {prefix:?}, which is ours"))
            .hint("set bus.amqp.namespace or another name");
        problems.push(Problem::new(path, origin, fault));
    }
}

/// Every name on the broker that the settings say or imply, with the key that says it and where that was given.
fn names(settings: &Settings, values: &Values) -> Vec<(KeyPath, String, String)> {
    let mut found = Vec::new();
    for (path, given) in values.all() {
        let row = |name: &str| (path.clone(), given.origin.clone(), name.to_owned());
        if let Typed::Bindings(bindings) = &given.value {
            let exchanges = bindings.iter().filter_map(|binding| binding.exchange.as_ref());
            found.extend(exchanges.map(|exchange| row(exchange.as_str())));
        }
        if let Typed::Text(name) = &given.value
            && is_on_the_broker(path)
        {
            found.push(row(name));
        }
    }
    for key in ["bus.amqp.exchange", "dead_letter.exchange", "dead_letter.queue"].map(KeyPath::of) {
        // A default may lie in a namespace that somebody chose.
        let default = keys::find(&key).and_then(|row| row.default).filter(|_| values.at(&key).is_none());
        found.extend(default.map(|name| (key, String::new(), name.to_owned())));
    }
    for (table, key) in [("exchanges", "name"), ("queues", "queue")] {
        let unnamed = values.entries(table).into_iter().filter(|(_, entry)| entry.given(key).is_none());
        found.extend(unnamed.map(|(name, entry)| (entry.path(""), entry.origin_of_any(), name.to_owned())));
    }
    for subscription in &settings.subscriptions {
        let argument = subscription.queue.arguments.get("x-dead-letter-exchange").and_then(Value::as_text);
        let entry = values.section("queues").below(subscription.name.as_str());
        let row = |name: &str| (entry.path("arguments"), entry.origin("arguments"), name.to_owned());
        found.extend(argument.map(row));
    }
    found
}

/// True for a name of an exchange or a queue; the namespace itself and this sidecar's name are none.
fn is_on_the_broker(path: &KeyPath) -> bool {
    let row = keys::find(path).filter(|row| matches!(row.kind, Kind::Name | Kind::BoundExchange));
    row.is_some_and(|row| !["bus.amqp.namespace", "bus.instance"].contains(&row.path))
}
