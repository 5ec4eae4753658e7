//! From what is wanted on the broker to an ordered list of steps. Knows no broker: backends carry the steps out.

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
}

impl Exchange {
    /// A durable exchange without options.
    pub fn durable(name: ExchangeName, kind: ExchangeKind) -> Self {
        Self { name, kind, durable: true, auto_delete: false, internal: false, arguments: Headers::new() }
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

/// Steps in the order in which they must be done.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Plan {
    /// Whether missing objects are declared.
    pub mode: TopologyMode,
    /// In order: exchanges, queues, bindings.
    pub steps: Vec<Step>,
}

/// Requeues that a dead-letter queue allows: an absent limit becomes 20 after an upgrade to RabbitMQ 4, and peeking
/// would then delete letters. The broker refuses a later change of the value (406), so it is a constant.
const DEAD_LETTER_DELIVERY_LIMIT: i64 = 2_000_000_000;

/// What every sidecar of the vhost shares: the exchange for events and the dead letters.
pub fn shared(mode: TopologyMode, events: Exchange, others: &[Exchange], dead_letter: &DeadLetterSettings) -> Plan {
    let mut steps = vec![Step::Exchange(events)];
    steps.extend(others.iter().cloned().map(Step::Exchange));
    steps.extend(dead_letters(dead_letter));
    Plan { mode, steps }
}

/// The queue of a subscription, its bindings and its dead letters.
pub fn subscription(mode: TopologyMode, wanted: &Subscription) -> Plan {
    let mut steps = dead_letters(&wanted.dead_letter);
    let queue = work_queue(&wanted.queue, &wanted.dead_letter.exchange);
    let exclusive = queue.exclusive;
    steps.push(Step::Queue(queue));
    steps.extend(wanted.bindings.iter().map(|binding| Step::Bind {
        queue: wanted.queue.name.clone(),
        exclusive,
        binding: binding.clone(),
    }));
    Plan { mode, steps }
}

fn dead_letters(target: &DeadLetterSettings) -> Vec<Step> {
    let arguments = Headers::from([
        ("x-queue-type".to_owned(), Value::text("quorum")),
        ("x-delivery-limit".to_owned(), Value::Int64(DEAD_LETTER_DELIVERY_LIMIT)),
    ]);
    vec![
        Step::Exchange(Exchange::durable(target.exchange.clone(), ExchangeKind::Fanout)),
        Step::Queue(Queue {
            name: target.queue.clone(),
            durable: true,
            auto_delete: false,
            exclusive: false,
            arguments,
        }),
        Step::Bind {
            queue: target.queue.clone(),
            exclusive: false,
            binding: Binding {
                exchange: target.exchange.clone(),
                routing_key: String::new(),
                arguments: Headers::new(),
            },
        },
    ]
}

/// The type that the keys ask for: quorum, unless the queue is one that quorum refuses (406 for each on 3.10.8).
pub fn queue_type(wanted: &QueueSettings) -> QueueType {
    let classic_only = wanted.exclusive
        || wanted.auto_delete
        || wanted.durable == Some(false)
        || wanted.arguments.contains_key("x-max-priority");
    match (wanted.queue_type, classic_only) {
        (Some(named), _) => named,
        (None, true) => QueueType::Classic,
        (None, false) => QueueType::Quorum,
    }
}

fn work_queue(wanted: &QueueSettings, dead_letter_exchange: &ExchangeName) -> Queue {
    let mut arguments = Headers::new();
    // The backstop behind the delivery limit: without a target the broker drops what it gives up.
    arguments.insert("x-dead-letter-exchange".to_owned(), Value::text(dead_letter_exchange.as_str()));
    arguments.insert("x-overflow".to_owned(), Value::text("reject-publish"));
    match queue_type(wanted) {
        QueueType::Quorum => {
            arguments.insert("x-queue-type".to_owned(), Value::text("quorum"));
            arguments.insert("x-dead-letter-strategy".to_owned(), Value::text("at-least-once"));
            arguments.insert("x-delivery-limit".to_owned(), Value::Int64(i64::from(DELIVERY_LIMIT_DEFAULT)));
        }
        QueueType::Classic => {
            arguments.insert("x-queue-type".to_owned(), Value::text("classic"));
        }
    }
    arguments.extend(wanted.arguments.clone());
    Queue {
        name: wanted.name.clone(),
        durable: wanted.durable.unwrap_or(true),
        auto_delete: wanted.auto_delete,
        exclusive: wanted.exclusive,
        arguments,
    }
}
