//! From what is wanted on the broker to an ordered list of steps. Knows no broker: backends carry the steps out.

use std::collections::BTreeSet;
use std::fmt;

use super::message::{Headers, Value};
use super::name::{ExchangeName, QueueName};
use super::subscription::{
    Binding, DELIVERY_LIMIT_DEFAULT, DeadLetterSettings, QueueSettings, QueueType, Subscription,
};

/// Kinds of exchanges.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExchangeKind {
    /// By pattern over dotted words.
    Topic,
    /// By equal routing key.
    Direct,
    /// To every queue.
    Fanout,
    /// By headers.
    Headers,
}

impl ExchangeKind {
    /// The broker's word.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Topic => "topic",
            Self::Direct => "direct",
            Self::Fanout => "fanout",
            Self::Headers => "headers",
        }
    }
}

/// An exchange as it is declared when it is missing.
#[derive(Debug, Clone, PartialEq)]
pub struct Exchange {
    /// Its name, never the nameless one.
    pub name: ExchangeName,
    /// Its kind.
    pub kind: ExchangeKind,
    /// Survives a restart of the broker.
    pub durable: bool,
    /// Deleted with its last binding.
    pub auto_delete: bool,
    /// Cannot be published to.
    pub internal: bool,
    /// Further arguments.
    pub arguments: Headers,
    /// What somebody has named; see [`Named`].
    pub named: Named,
}

/// The properties and arguments that settings or a handler name, under the broker's words (`type`, `durable`,
/// `x-message-ttl`): an existing object must have them as they are. All else are our defaults, which apply only to what
/// we create.
pub type Named = BTreeSet<String>;

impl Exchange {
    /// A durable exchange without options.
    pub fn durable(name: ExchangeName, kind: ExchangeKind) -> Self {
        Self {
            name,
            kind,
            durable: true,
            auto_delete: false,
            internal: false,
            arguments: Headers::new(),
            named: Named::new(),
        }
    }
}

/// A queue as it is declared when it is missing.
#[derive(Debug, Clone, PartialEq)]
pub struct Queue {
    /// Its name.
    pub name: QueueName,
    /// Survives a restart of the broker.
    pub durable: bool,
    /// Deleted with its last consumer.
    pub auto_delete: bool,
    /// For one connection only: the one that consumes.
    pub exclusive: bool,
    /// Every argument, the queue type included.
    pub arguments: Headers,
    /// What somebody has named; see [`Named`].
    pub named: Named,
}

impl Queue {
    /// What would be asked for to have exactly this queue.
    pub fn as_settings(&self) -> QueueSettings {
        let kind = self.arguments.get("x-queue-type").and_then(Value::as_text);
        let queue_type = if kind == Some("quorum") { QueueType::Quorum } else { QueueType::Classic };
        QueueSettings {
            name: self.name.clone(),
            queue_type: Some(queue_type),
            durable: Some(self.durable),
            auto_delete: Some(self.auto_delete),
            exclusive: Some(self.exclusive),
            arguments: self.arguments.clone(),
        }
    }
}

/// One step of a plan.
#[derive(Debug, Clone, PartialEq)]
pub enum Step {
    /// Look for the exchange; declare it if it is missing.
    Exchange(Exchange),
    /// Look for the queue; declare it if it is missing.
    Queue(Queue),
    /// Bind the queue; repeating a binding is harmless.
    Bind {
        /// The queue that is fed.
        queue: QueueName,
        /// True = the queue belongs to the connection that consumes, so it must be bound there.
        exclusive: bool,
        /// What feeds it.
        binding: Binding,
    },
    /// Take a binding away; one that is not there is no error.
    Unbind {
        /// The queue that is fed.
        queue: QueueName,
        /// True = the queue belongs to the connection that consumes.
        exclusive: bool,
        /// What feeds it.
        binding: Binding,
    },
}

/// Whether missing objects are declared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum TopologyMode {
    /// Look first, take what exists, declare what is missing.
    #[default]
    Create,
    /// Look only; what is missing is an error.
    Verify,
    /// Ask nothing.
    Off,
}

impl TopologyMode {
    /// The word of the settings.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Create => "create",
            Self::Verify => "verify",
            Self::Off => "off",
        }
    }
}

/// Steps in the order in which they must be done.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Plan {
    /// Whether missing objects are declared.
    pub mode: TopologyMode,
    /// In order: exchanges, queues, bindings.
    pub steps: Vec<Step>,
}

impl Plan {
    /// The same with each binding taken away before it is made. RabbitMQ 4.3.6 can have a binding that routes nothing, after
    /// an exchange or a binding has gone under load (measured): to make it once more changes nothing then.
    #[must_use]
    pub fn bound_anew(&self) -> Self {
        let steps = self.steps.iter().flat_map(|step| {
            let before = match step {
                Step::Bind { queue, exclusive, binding } => {
                    Some(Step::Unbind { queue: queue.clone(), exclusive: *exclusive, binding: binding.clone() })
                }
                Step::Exchange(_) | Step::Queue(_) | Step::Unbind { .. } => None,
            };
            before.into_iter().chain([step.clone()])
        });
        Self { mode: self.mode, steps: steps.collect() }
    }
}

/// What every sidecar of the vhost shares: the exchange for events and the dead letters.
pub fn shared(mode: TopologyMode, events: Exchange, others: &[Exchange], dead_letter: &DeadLetterSettings) -> Plan {
    let mut steps = vec![Step::Exchange(events)];
    steps.extend(others.iter().cloned().map(Step::Exchange));
    steps.extend(dead_letter.steps());
    Plan { mode, steps }
}

/// The exchanges of others that feed what these steps make, and that they do not make themselves.
pub fn feeding<'a>(others: impl IntoIterator<Item = &'a Step>, own: &'a [Step]) -> impl Iterator<Item = &'a Step> {
    others.into_iter().filter(|step| {
        let Step::Exchange(exchange) = step else { return false };
        let binds = |own: &Step| matches!(own, Step::Bind { binding, .. } if binding.exchange == exchange.name);
        !own.contains(*step) && own.iter().any(binds)
    })
}

/// The queue of a subscription, its bindings and its dead letters.
pub fn subscription(mode: TopologyMode, wanted: &Subscription) -> Plan {
    let mut steps = wanted.dead_letter.steps();
    let queue = work_queue(&wanted.queue, &wanted.dead_letter);
    let exclusive = queue.exclusive;
    steps.push(Step::Queue(queue));
    let queue = &wanted.queue.name;
    steps.extend(wanted.unbind.iter().map(|binding| Step::Unbind {
        queue: queue.clone(),
        exclusive,
        binding: binding.clone(),
    }));
    steps.extend(wanted.bindings.iter().map(|binding| Step::Bind {
        queue: queue.clone(),
        exclusive,
        binding: binding.clone(),
    }));
    Plan { mode, steps }
}

/// The type that the keys ask for: quorum, unless the queue is one that quorum refuses (406 for each on 3.10.8).
pub fn queue_type(wanted: &QueueSettings) -> QueueType {
    let classic_only = wanted.is_exclusive()
        || wanted.is_auto_delete()
        || wanted.durable == Some(false)
        || wanted.arguments.contains_key("x-max-priority");
    match (wanted.queue_type, classic_only) {
        (Some(named), _) => named,
        (None, true) => QueueType::Classic,
        (None, false) => QueueType::Quorum,
    }
}

fn work_queue(wanted: &QueueSettings, dead_letter: &DeadLetterSettings) -> Queue {
    let mut arguments = Headers::new();
    // The backstop behind the delivery limit: without a target the broker drops what it gives up.
    arguments.insert("x-dead-letter-exchange".to_owned(), Value::text(dead_letter.exchange.as_str()));
    arguments.insert("x-overflow".to_owned(), Value::text("reject-publish"));
    let queue_type = queue_type(wanted);
    arguments.insert("x-queue-type".to_owned(), Value::text(queue_type.as_str()));
    match queue_type {
        QueueType::Quorum => {
            arguments.insert("x-dead-letter-strategy".to_owned(), Value::text("at-least-once"));
            arguments.insert("x-delivery-limit".to_owned(), Value::Int64(i64::from(DELIVERY_LIMIT_DEFAULT)));
        }
        QueueType::Classic => {}
    }
    arguments.extend(wanted.arguments.clone());
    Queue {
        name: wanted.name.clone(),
        durable: wanted.is_durable(),
        auto_delete: wanted.is_auto_delete(),
        exclusive: wanted.is_exclusive(),
        arguments,
        named: named(wanted, dead_letter),
    }
}

fn named(wanted: &QueueSettings, dead_letter: &DeadLetterSettings) -> Named {
    let properties = [
        ("durable", wanted.durable.is_some()),
        ("auto_delete", wanted.auto_delete.is_some()),
        ("exclusive", wanted.exclusive.is_some()),
        ("x-queue-type", wanted.queue_type.is_some()),
        ("x-dead-letter-exchange", dead_letter.is_exchange_named),
    ];
    let properties = properties.into_iter().filter(|(_, is_named)| *is_named).map(|(name, _)| name.to_owned());
    properties.chain(wanted.arguments.keys().cloned()).collect()
}

impl fmt::Display for Step {
    /// For people, such as `declare quorum queue player-projector`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exchange(exchange) => write!(f, "declare {} exchange {}", exchange.kind.as_str(), exchange.name),
            Self::Queue(queue) => {
                let kind = queue.arguments.get("x-queue-type").and_then(Value::as_text).unwrap_or("classic");
                let exclusive = if queue.exclusive { "exclusive " } else { "" };
                write!(f, "declare {exclusive}{kind} queue {}", queue.name)
            }
            Self::Bind { queue, binding, .. } => write!(f, "bind {}", binding.describe(queue)),
            Self::Unbind { queue, binding, .. } => write!(f, "unbind {}", binding.describe(queue)),
        }
    }
}
