//! Rules between the keys of one queue: what contradicts itself, what may surprise, what a release of RabbitMQ refuses.
//!
//! Knows no broker: its release comes in as numbers. What quorum and classic queues refuse was tried on 3.10.8.

use super::message::Value;
use super::queue_keys::{Asked, Finding, Overflow, Place, Weight};
use super::subscription::{QueueSettings, QueueType};
use super::topology;
use super::version::Version;

/// Releases turn into copies five requeues before the broker gives a message up, so less than this leaves none.
pub const DELIVERY_LIMIT_MIN: u32 = 6;
/// Longest life time in milliseconds that RabbitMQ takes: ten years (3.10.8 refuses one more).
pub const TTL_MS_MAX: u64 = 315_360_000_000;
/// More priorities than this cost memory and time on the broker.
const PRIORITIES_ADVISED: i64 = 10;
/// From here on quorum queues hold back what was returned; before, they take the arguments without effect.
const DELAYED_RETRY_FROM: Version = Version::new(4, 3, 0);
const DELAYED_RETRY: [&str; 3] = ["x-delayed-retry-max", "x-delayed-retry-min", "x-delayed-retry-type"];

/// What is wrong with the queue, or may surprise, whatever the broker.
pub(super) fn check(queue: &QueueSettings, asked: &Asked, findings: &mut Vec<Finding>) {
    contradictions(queue, asked, findings);
    findings.extend(BOUNDS.iter().filter_map(|bounds| out_of_bounds(queue, asked, *bounds)));
    words(queue, asked, findings);
    surprises(queue, asked, findings);
}

/// The keys that only a classic queue can have: quorum answers each with 406.
fn classic_only(queue: &QueueSettings, asked: &Asked) -> Vec<(Place, &'static str)> {
    let keys = [
        (Place::Key("exclusive"), "exclusive = true", queue.is_exclusive()),
        (Place::Key("auto_delete"), "auto_delete = true", queue.is_auto_delete()),
        (Place::Key("durable"), "durable = false", queue.durable == Some(false)),
        (asked.place_of("x-max-priority"), "max_priority", queue.arguments.contains_key("x-max-priority")),
    ];
    keys.into_iter().filter(|(_, _, is_asked)| *is_asked).map(|(place, word, _)| (place, word)).collect()
}

fn contradictions(queue: &QueueSettings, asked: &Asked, findings: &mut Vec<Finding>) {
    let type_place = asked.place_of("x-queue-type");
    let classic_only = classic_only(queue, asked);
    match topology::queue_type(queue) {
        QueueType::Quorum => {
            for (place, word) in classic_only {
                let is_priority = word == "max_priority";
                let also = if is_priority {
                    "; quorum queues have priorities 0 to 31 without it from RabbitMQ 4.3 on"
                } else {
                    ""
                };
                let hint = format!("leave {type_place} out{also}");
                findings.push(Finding::problem(place, format!("contradicts {type_place} = \"quorum\""), hint));
            }
        }
        QueueType::Classic => {
            let reason = match (queue.queue_type, classic_only.first()) {
                (None, Some((_, word))) => (*word).to_owned(),
                (Some(_), _) | (None, None) => format!("{type_place} = \"classic\""),
            };
            for name in ["x-delivery-limit", "x-dead-letter-strategy"] {
                if queue.arguments.contains_key(name) {
                    let what = format!("is for quorum queues, and {reason} makes this a classic one");
                    findings.push(Finding::problem(asked.place_of(name), what, "leave one of the two out"));
                }
            }
        }
    }
}

/// Arguments that are whole numbers, with the span that RabbitMQ takes.
const BOUNDS: [(&str, i64, i64); 6] = [
    ("x-max-priority", 0, 255),
    ("x-message-ttl", 0, TTL_MS_MAX.cast_signed()),
    ("x-expires", 1, TTL_MS_MAX.cast_signed()),
    ("x-max-length", 0, i64::MAX),
    ("x-max-length-bytes", 0, i64::MAX),
    // Below 0 is "no limit" from 4.0 on, and drops at the first requeue before.
    ("x-delivery-limit", 0, i64::MAX),
];

fn out_of_bounds(queue: &QueueSettings, asked: &Asked, (name, min, max): (&str, i64, i64)) -> Option<Finding> {
    let value = queue.arguments.get(name)?;
    let bounds = if max == i64::MAX { format!("of at least {min}") } else { format!("from {min} to {max}") };
    let is_in = value.as_integer().is_some_and(|number| (min..=max).contains(&number));
    let hint = if name == "x-delivery-limit" { "without a limit one bad message can go round for ever" } else { "" };
    (!is_in).then(|| Finding::problem(asked.place_of(name), format!("must be a whole number {bounds}"), hint))
}

fn words(queue: &QueueSettings, asked: &Asked, findings: &mut Vec<Finding>) {
    let overflows = [Overflow::RejectPublish.as_str(), Overflow::DropHead.as_str(), "reject-publish-dlx"];
    let strategies = ["at-most-once", "at-least-once"];
    for (name, words) in [("x-overflow", overflows.as_slice()), ("x-dead-letter-strategy", strategies.as_slice())] {
        let Some(value) = queue.arguments.get(name) else { continue };
        if !value.as_text().is_some_and(|word| words.contains(&word)) {
            let what = format!("must be one of {}", words.join(", "));
            findings.push(Finding::problem(asked.place_of(name), what, ""));
        }
    }
    let single = queue.arguments.get("x-single-active-consumer");
    if single.is_some_and(|value| !matches!(value, Value::Bool(_))) {
        let place = asked.place_of("x-single-active-consumer");
        findings.push(Finding::problem(place, "must be true or false", ""));
    }
}

fn surprises(queue: &QueueSettings, asked: &Asked, findings: &mut Vec<Finding>) {
    let mut tell = |place: Place, what: &str| findings.push(Finding::warning(place, what));
    let queue_type = topology::queue_type(queue);
    if queue.queue_type == Some(QueueType::Classic) {
        let what = "a classic queue counts no deliveries: a message that kills its handler stalls it";
        tell(asked.place_of("x-queue-type"), what);
    }
    if queue.durable == Some(false) && !queue.is_exclusive() {
        tell(Place::Key("durable"), "the queue and its messages are gone when the broker restarts");
    }
    if queue.is_auto_delete() {
        let what = "the queue and its backlog go with the last consumer, also when the link is lost";
        tell(Place::Key("auto_delete"), what);
    }
    let integer = |name: &str| queue.arguments.get(name).and_then(Value::as_integer);
    if integer("x-max-priority").is_some_and(|levels| levels > PRIORITIES_ADVISED) {
        tell(asked.place_of("x-max-priority"), "more than 10 priorities cost memory and time on the broker");
    }
    if integer("x-delivery-limit").is_some_and(|limit| (0..i64::from(DELIVERY_LIMIT_MIN)).contains(&limit)) {
        let what = "below 6 the broker may give up what was only released";
        tell(asked.place_of("x-delivery-limit"), what);
    }
    if integer("x-message-ttl").is_some() {
        let what = "the broker itself gives up what waits longer, to the dead letters: nobody has tried it, and no attempt is \
                    counted";
        tell(asked.place_of("x-message-ttl"), what);
    }
    if integer("x-expires").is_some() {
        tell(asked.place_of("x-expires"), "an unused queue is deleted with its messages, which are not dead-lettered");
    }
    match (queue.arguments.get("x-overflow").and_then(Value::as_text), queue_type) {
        (Some("drop-head"), QueueType::Quorum) => {
            let what = "a full queue gives up its oldest messages, and the broker's own dead letters may get lost on \
                        their way (at-most-once)";
            tell(asked.place_of("x-overflow"), what);
        }
        (Some("drop-head"), QueueType::Classic) => {
            tell(asked.place_of("x-overflow"), "a full queue gives up its oldest messages");
        }
        (Some("reject-publish-dlx"), QueueType::Quorum) => {
            tell(asked.place_of("x-overflow"), "reject-publish-dlx has no effect on a quorum queue");
        }
        (Some(_) | None, _) => {}
    }
    for name in queue.arguments.keys() {
        if let Some(what) = without_effect(name, queue_type) {
            tell(asked.place_of(name), what);
        }
    }
}

/// Whom an argument serves.
#[derive(Clone, Copy, PartialEq)]
enum Serves {
    Both,
    Quorum,
    Classic,
    Neither,
}

/// The arguments that RabbitMQ 3.10 to 4.3 knows for queues.
const KNOWN: [(&str, Serves); 26] = [
    ("x-cancel-on-ha-failover", Serves::Neither),
    // On a classic queue 3.10.8 takes it without effect.
    ("x-consumer-timeout", Serves::Quorum),
    ("x-dead-letter-exchange", Serves::Both),
    ("x-dead-letter-routing-key", Serves::Both),
    ("x-dead-letter-strategy", Serves::Quorum),
    ("x-delayed-retry-max", Serves::Quorum),
    ("x-delayed-retry-min", Serves::Quorum),
    ("x-delayed-retry-type", Serves::Quorum),
    ("x-delivery-limit", Serves::Quorum),
    ("x-expires", Serves::Both),
    ("x-ha-policy", Serves::Neither),
    ("x-max-age", Serves::Neither),
    ("x-max-in-memory-bytes", Serves::Quorum),
    ("x-max-in-memory-length", Serves::Quorum),
    ("x-max-length", Serves::Both),
    ("x-max-length-bytes", Serves::Both),
    ("x-max-priority", Serves::Classic),
    ("x-message-ttl", Serves::Both),
    ("x-overflow", Serves::Both),
    ("x-queue-leader-locator", Serves::Both),
    ("x-queue-master-locator", Serves::Classic),
    ("x-queue-mode", Serves::Classic),
    ("x-queue-version", Serves::Classic),
    ("x-quorum-initial-group-size", Serves::Quorum),
    ("x-quorum-target-group-size", Serves::Quorum),
    ("x-single-active-consumer", Serves::Both),
];

fn without_effect(name: &str, queue_type: QueueType) -> Option<&'static str> {
    // What a contradiction says better.
    if ["x-max-priority", "x-delivery-limit", "x-dead-letter-strategy"].contains(&name) {
        return None;
    }
    let serves = KNOWN.iter().find(|(known, _)| *known == name).map(|(_, serves)| *serves);
    match (serves, queue_type) {
        (Some(Serves::Both), _)
        | (Some(Serves::Quorum), QueueType::Quorum)
        | (Some(Serves::Classic), QueueType::Classic) => None,
        (Some(_), QueueType::Quorum) => Some("has no effect on a quorum queue, or makes the broker refuse it"),
        (Some(_), QueueType::Classic) => Some("has no effect on a classic queue, or makes the broker refuse it"),
        (None, _) => Some("is no argument that RabbitMQ is known to heed for queues"),
    }
}

/// What this release of RabbitMQ makes of the queue where it would be made: problems are refusals (a mismatch of that
/// subscription alone; a queue that exists is used all the same), and warnings are what it takes and gives up, or takes
/// without effect. Empty = nothing beyond the rules that hold for every release.
///
/// Each was tried on 3.10.8, 4.0.5 and 4.3.6 (`bus_amqp::releases`). Releases between those are taken for the older
/// neighbour: what they refuse beyond it, they say themselves.
pub fn on_release(queue: &QueueSettings, release: Version) -> Vec<Finding> {
    let queue_type = topology::queue_type(queue);
    let mut findings = Vec::new();
    if queue.durable == Some(false) && !queue.is_exclusive() && release.deprecates_transient_queues() {
        let what = "asks for a queue that is neither durable nor exclusive, which RabbitMQ is giving up: a later release \
                    or the broker's settings deny it";
        findings.push(Finding::warning(Place::Key("durable"), what));
    }
    let asked = RELEASE_RULES.iter().filter(|rule| rule.queue_type == queue_type && (rule.applies)(release));
    for rule in asked.filter(|rule| queue.arguments.contains_key(rule.argument)) {
        let place = Place::Argument(rule.argument.to_owned());
        findings.push(Finding { weight: rule.weight, place, what: rule.what.to_owned(), hint: rule.hint.to_owned() });
    }
    let has_argument = |name: &&str| queue.arguments.contains_key(*name);
    for name in DELAYED_RETRY.into_iter().filter(|name| release < DELAYED_RETRY_FROM && has_argument(name)) {
        findings.push(Finding::warning(Place::Argument(name.to_owned()), "has no effect before RabbitMQ 4.3"));
    }
    findings
}

/// An argument that some releases refuse, or take without effect.
struct ReleaseRule {
    argument: &'static str,
    /// The other type refuses it on every release, and says so.
    queue_type: QueueType,
    applies: fn(Version) -> bool,
    weight: Weight,
    what: &'static str,
    hint: &'static str,
}

const RELEASE_RULES: [ReleaseRule; 6] = [
    ReleaseRule {
        argument: "x-queue-master-locator",
        queue_type: QueueType::Classic,
        // 4.3.6 closes the whole connection (541), unless its settings permit it, which no client can see.
        applies: |release| release >= Version::new(4, 3, 0),
        weight: Weight::Problem,
        what: "is denied from RabbitMQ 4.3 on",
        hint: "x-queue-leader-locator took its place",
    },
    ReleaseRule {
        argument: "x-queue-leader-locator",
        queue_type: QueueType::Classic,
        applies: |release| release < Version::new(3, 11, 0),
        weight: Weight::Problem,
        what: "is refused for classic queues by RabbitMQ 3.10",
        hint: "x-queue-master-locator is its name there",
    },
    ReleaseRule {
        argument: "x-consumer-timeout",
        queue_type: QueueType::Classic,
        applies: |release| release >= Version::new(4, 3, 0),
        weight: Weight::Problem,
        what: "is refused for classic queues from RabbitMQ 4.3 on",
        hint: "leave it out, or let the queue be quorum",
    },
    ReleaseRule {
        argument: "x-queue-mode",
        queue_type: QueueType::Classic,
        applies: |release| release >= Version::new(3, 12, 0),
        weight: Weight::Warning,
        what: "has no effect from RabbitMQ 3.12 on",
        hint: "",
    },
    IN_MEMORY,
    ReleaseRule { argument: "x-max-in-memory-bytes", ..IN_MEMORY },
];

const IN_MEMORY: ReleaseRule = ReleaseRule {
    argument: "x-max-in-memory-length",
    queue_type: QueueType::Quorum,
    applies: |release| release >= Version::new(3, 10, 0),
    weight: Weight::Warning,
    what: "has no effect from RabbitMQ 3.10 on",
    hint: "",
};

#[cfg(test)]
mod tests;
