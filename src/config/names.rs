//! Rules between names on the broker: ours stay ours, and one exchange has one type.

use super::problem::{Fault, Problem, Problems};
use super::settings::Settings;
use super::values::Values;
use crate::domain::topology::ExchangeKind;

/// Holds every name against the namespace, and the dead-letter exchanges against all others.
pub(super) fn check(settings: &Settings, values: &Values, problems: &mut Problems) {
    refuse_our_own(settings, values, problems);
    refuse_circles(settings, problems);
    let mut dead_letters = vec![("dead_letter.exchange".to_owned(), &settings.dead_letter.exchange)];
    dead_letters.extend(
        settings
            .subscriptions
            .iter()
            .filter(|subscription| subscription.dead_letter.exchange != settings.dead_letter.exchange)
            .map(|subscription| (format!("queues.{}", subscription.name), &subscription.dead_letter.exchange)),
    );
    for (key, name) in dead_letters {
        if *name == settings.exchange.name {
            let fault =
                Fault::new(format!("{name} is the exchange of events; dead letters need a fanout of their own"));
            problems.push(Problem::new(&key, "", fault));
        }
        let other = settings.exchanges.iter().find(|exchange| exchange.name == *name);
        if let Some(other) = other.filter(|other| other.kind != ExchangeKind::Fanout) {
            let fault = Fault::new(format!("{name} must be a fanout, [exchanges] says {}", other.kind.as_str()));
            problems.push(Problem::new(&key, "", fault));
        }
    }
}

/// A subscription on a dead-letter queue would dead-letter its failures into itself, for ever.
fn refuse_circles(settings: &Settings, problems: &mut Problems) {
    for subscription in &settings.subscriptions {
        let queue = &subscription.queue.name;
        if *queue == subscription.dead_letter.queue || *queue == settings.dead_letter.queue {
            let fault = Fault::new(format!("{queue} is a dead-letter queue: its failures would turn in a circle"));
            let hint = "give dead_letter.queue another name, or read the letters with another tool";
            problems.push(Problem::new(format!("queues.{}", subscription.name), "", fault.hint(hint)));
        }
    }
}

/// Names that begin with the namespace are our own delay slots and locks.
fn refuse_our_own(settings: &Settings, values: &Values, problems: &mut Problems) {
    let prefix = format!("{}.", settings.namespace);
    let mut names = vec![
        ("bus.amqp.exchange".to_owned(), settings.exchange.name.as_str()),
        ("dead_letter.exchange".to_owned(), settings.dead_letter.exchange.as_str()),
        ("dead_letter.queue".to_owned(), settings.dead_letter.queue.as_str()),
    ];
    names.extend(
        settings.exchanges.iter().map(|exchange| (format!("exchanges.{}", exchange.name), exchange.name.as_str())),
    );
    for subscription in &settings.subscriptions {
        let key = format!("queues.{}", subscription.name);
        names.push((format!("{key}.queue"), subscription.queue.name.as_str()));
        names.push((format!("{key}.dead_letter.exchange"), subscription.dead_letter.exchange.as_str()));
        names.push((format!("{key}.dead_letter.queue"), subscription.dead_letter.queue.as_str()));
    }
    let origins = values.origins();
    for (key, name) in names.into_iter().filter(|(_, name)| name.starts_with(&prefix)) {
        let fault = Fault::new(format!("{name} begins with {prefix:?}, which is ours"))
            .hint("set bus.amqp.namespace or another name");
        let origin = origins.get(&key).cloned().unwrap_or_default();
        problems.push(Problem::new(key, origin, fault));
    }
}
