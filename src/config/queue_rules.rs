//! Rules between the keys of one queue that need no broker: what contradicts itself, and what may surprise.

use super::problem::{Fault, Problems, Warning};
use super::values::Section;
use crate::domain::message::Headers;
use crate::domain::name::ExchangeName;
use crate::domain::subscription::{DeadLetterSettings, QueueSettings, QueueType};
use crate::domain::topology;

/// Releases turn into copies this many deliveries before the broker gives a message up.
const DELIVERY_LIMIT_MIN: i64 = 6;
/// More priorities than this cost memory and time on the broker.
const PRIORITIES_ADVISED: i64 = 10;

/// Holds a queue's keys against each other.
pub(super) fn check(entry: &Section<'_>, queue: &QueueSettings, problems: &mut Problems, warnings: &mut Vec<Warning>) {
    refuse_contradictions(entry, queue, problems);
    check_delivery_limit(entry, &queue.arguments, problems, warnings);
    warn(entry, queue, warnings);
}

/// Each of these is answered with 406 by a quorum queue (tried on RabbitMQ 3.10.8).
fn refuse_contradictions(entry: &Section<'_>, queue: &QueueSettings, problems: &mut Problems) {
    let type_key = if entry.given("queue_type").is_some() { "queue_type" } else { "arguments.x-queue-type" };
    match topology::queue_type(queue) {
        QueueType::Quorum => {
            let contradictions = [
                ("exclusive", queue.exclusive, ""),
                ("auto_delete", queue.auto_delete, ""),
                ("durable", queue.durable == Some(false), ""),
                ("arguments", queue.arguments.contains_key("x-max-priority"), "x-max-priority "),
            ];
            for (key, _, name) in contradictions.into_iter().filter(|(_, is_asked, _)| *is_asked) {
                let fault = Fault::new(format!("{name}contradicts {} = \"quorum\"", entry.path(type_key)));
                problems.push(entry.problem(key, fault.hint(format!("leave {type_key} out"))));
            }
        }
        QueueType::Classic => {
            let is_at_least_once = queue
                .arguments
                .get("x-dead-letter-strategy")
                .is_some_and(|value| value.as_text() == Some("at-least-once"));
            let refused = [
                ("x-delivery-limit", queue.arguments.contains_key("x-delivery-limit")),
                ("x-dead-letter-strategy = \"at-least-once\"", is_at_least_once),
            ];
            for (name, _) in refused.into_iter().filter(|(_, is_asked)| *is_asked) {
                let fault = Fault::new(format!("{name} is for quorum queues; these keys make a classic one"));
                problems.push(entry.problem("arguments", fault.hint("leave the argument out")));
            }
        }
    }
}

fn check_delivery_limit(
    entry: &Section<'_>,
    arguments: &Headers,
    problems: &mut Problems,
    warnings: &mut Vec<Warning>,
) {
    let Some(value) = arguments.get("x-delivery-limit") else { return };
    match value.as_integer() {
        Some(limit) if limit < 0 => {
            let fault = Fault::new("x-delivery-limit must not be below 0");
            problems
                .push(entry.problem("arguments", fault.hint("without a limit one bad message can go round for ever")));
        }
        Some(limit) if limit < DELIVERY_LIMIT_MIN => {
            let what =
                format!("x-delivery-limit below {DELIVERY_LIMIT_MIN}: the broker may give up what was only released");
            warnings.push(Warning::new(entry.path("arguments"), entry.origin("arguments"), what));
        }
        Some(_) => {}
        None => problems.push(entry.problem("arguments", Fault::new("x-delivery-limit must be a whole number"))),
    }
}

fn warn(entry: &Section<'_>, queue: &QueueSettings, warnings: &mut Vec<Warning>) {
    let mut tell = |key: &str, what: &str| warnings.push(Warning::new(entry.path(key), entry.origin(key), what));
    if queue.queue_type == Some(QueueType::Classic) {
        let key = if entry.given("queue_type").is_some() { "queue_type" } else { "arguments" };
        tell(key, "a classic queue counts no deliveries: a message that kills its handler stalls it");
    }
    if queue.durable == Some(false) && !queue.exclusive {
        tell("durable", "the queue and its messages are gone when the broker restarts");
    }
    if queue.auto_delete {
        tell("auto_delete", "the queue and its backlog go with the last consumer, also when the link is lost");
    }
    let integer = |name: &str| queue.arguments.get(name).and_then(crate::domain::message::Value::as_integer);
    if integer("x-max-priority").is_some_and(|levels| levels > PRIORITIES_ADVISED) {
        tell("arguments", "more than 10 priorities cost memory and time on the broker");
    }
    if queue.arguments.get("x-overflow").is_some_and(|value| value.as_text() == Some("drop-head")) {
        tell("arguments", "with drop-head a full queue gives up its oldest messages");
    }
}

/// Where given-up messages of a queue go: its keys, or `x-dead-letter-exchange`, which is the same under the broker's
/// name, else the common ones.
pub(super) fn dead_letter(
    entry: &Section<'_>,
    arguments: &Headers,
    common: &DeadLetterSettings,
    problems: &mut Problems,
) -> DeadLetterSettings {
    let typed: Option<ExchangeName> = entry.optional("dead_letter.exchange");
    let exchange = match arguments.get("x-dead-letter-exchange") {
        None => typed,
        Some(_) if typed.is_some() => {
            let fault = Fault::new("is also in arguments as x-dead-letter-exchange").hint("keep one of the two");
            problems.push(entry.problem("dead_letter.exchange", fault));
            typed
        }
        Some(value) => match value.as_text().map(ExchangeName::parse) {
            Some(Ok(name)) => Some(name),
            Some(Err(error)) => {
                problems.push(entry.problem("arguments", Fault::new(format!("x-dead-letter-exchange {error}"))));
                None
            }
            None => {
                problems.push(entry.problem("arguments", Fault::new("x-dead-letter-exchange must be text")));
                None
            }
        },
    };
    DeadLetterSettings {
        exchange: exchange.unwrap_or_else(|| common.exchange.clone()),
        queue: entry.value_or("dead_letter.queue", common.queue.clone()),
    }
}
