//! Where given-up messages go: from keys to checked settings, the steps that make the place, and the address of a letter.
//!
//! Knows no settings file and no broker. What is wrong is a [`Finding`], whose place the caller names in its own way.

use std::time::Duration;

use super::message::{Headers, Value};
use super::name::{ExchangeName, QueueName};
use super::queue_keys::{Finding, Place};
use super::subscription::{ArchiveSettings, Binding, DeadLetterScope, DeadLetterSettings, OwnLetters};
use super::topology::{Exchange, ExchangeKind, Named, Queue, Step};

/// Requeues that a dead-letter queue allows: an absent limit becomes 20 after an upgrade to RabbitMQ 4, and peeking
/// would then delete letters. The broker refuses a later change of the value (406), so it is a constant.
const DELIVERY_LIMIT: i64 = 2_000_000_000;

/// How the scope of one queue names its dead-letter queue, behind the name of the work queue.
pub const OWN_LETTERS_SUFFIX: &str = ".dlq";

/// What one subscription says itself; `None` = it takes what all have in common.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DeadLetterKeys {
    /// `dead_letter.enabled`
    pub is_enabled: Option<bool>,
    /// `dead_letter.exchange`, or the argument `x-dead-letter-exchange`.
    pub exchange: Option<ExchangeName>,
    /// `dead_letter.queue`
    pub queue: Option<QueueName>,
    /// `dead_letter.scope`
    pub scope: Option<DeadLetterScope>,
    /// Bounds of its letters.
    pub bounds: Bounds,
}

/// What bounds letters, as asked for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Bounds {
    /// `dead_letter.archive_queue`
    pub archive_queue: Option<QueueName>,
    /// `dead_letter.message_ttl`
    pub message_ttl: Option<Duration>,
    /// `dead_letter.max_length`
    pub max_length: Option<u64>,
}

impl Bounds {
    fn first_key(&self) -> Option<&'static str> {
        let keys = [
            ("dead_letter.archive_queue", self.archive_queue.is_some()),
            ("dead_letter.message_ttl", self.message_ttl.is_some()),
            ("dead_letter.max_length", self.max_length.is_some()),
        ];
        keys.into_iter().find(|(_, is_given)| *is_given).map(|(key, _)| key)
    }

    fn archive(self, letters: &QueueName, findings: &mut Vec<Finding>) -> Option<ArchiveSettings> {
        let Self { archive_queue, message_ttl, max_length } = self;
        let Some(queue) = archive_queue else {
            for (key, is_given) in
                [("dead_letter.message_ttl", message_ttl.is_some()), ("dead_letter.max_length", max_length.is_some())]
            {
                if is_given {
                    let what = "needs dead_letter.archive_queue: letters that must go have to go somewhere";
                    findings.push(Finding::problem(Place::Key(key), what, "name an archive queue, or leave it out"));
                }
            }
            return None;
        };
        let place = Place::Key("dead_letter.archive_queue");
        if queue == *letters {
            let what = "is the dead-letter queue itself: letters would turn in a circle";
            findings.push(Finding::problem(place, what, "give it another name"));
        } else if message_ttl.is_none() && max_length.is_none() {
            let what = "nothing goes there without dead_letter.message_ttl or dead_letter.max_length";
            findings.push(Finding::warning(place, what));
        }
        Some(ArchiveSettings { queue, message_ttl, max_length })
    }
}

/// What all subscriptions have in common.
pub fn common(
    (exchange, queue): (ExchangeName, QueueName),
    scope: DeadLetterScope,
    bounds: Bounds,
) -> (DeadLetterSettings, Vec<Finding>) {
    let mut findings = Vec::new();
    let archive = bounds.archive(&queue, &mut findings);
    if scope == DeadLetterScope::Shared {
        refuse_length(archive.as_ref(), &queue, &mut findings);
    }
    let is_enabled = true;
    (DeadLetterSettings { is_enabled, exchange, is_exchange_named: false, queue, scope, archive, own: None }, findings)
}

/// Why no queue that the broker writes to has a length. Measured on 3.10.8: a full one that refuses moves nothing to its
/// target; the broker's letters from quorum queues then wait in those, where nobody sees them; from classic queues they
/// pass the limit of a quorum queue, and are lost at a classic one.
fn refuse_length(archive: Option<&ArchiveSettings>, queue: &QueueName, findings: &mut Vec<Finding>) {
    if archive.is_some_and(|archive| archive.max_length.is_some()) {
        let what = format!("would make {queue} refuse the broker's own letters, which then wait unseen or get lost");
        let hint =
            "set dead_letter.scope = \"per_queue\", whose queues take Sidebus's letters only, or use message_ttl";
        findings.push(Finding::problem(Place::Key("dead_letter.max_length"), what, hint));
    }
}

/// The settings of one subscription, whose queue is `work`.
pub fn of_queue(
    keys: DeadLetterKeys,
    common: &DeadLetterSettings,
    work: &QueueName,
) -> (DeadLetterSettings, Vec<Finding>) {
    let mut findings = Vec::new();
    let scope = keys.scope.unwrap_or(common.scope);
    let is_exchange_named = keys.exchange.is_some();
    let exchange = keys.exchange.unwrap_or_else(|| common.exchange.clone());
    let has_exchange = exchange != common.exchange;
    let bound = match scope {
        DeadLetterScope::Shared => keys.queue.clone(),
        // The exchange of all keeps its queue: what is named is the queue of our letters.
        DeadLetterScope::PerQueue => keys.queue.clone().filter(|_| has_exchange),
    };
    let queue = bound.unwrap_or_else(|| common.queue.clone());
    if queue != common.queue && !has_exchange {
        let what = format!("needs an exchange of its own: through {exchange} the letters of all would go there too");
        let hint = "name dead_letter.exchange as well, or set dead_letter.scope = \"per_queue\"";
        findings.push(Finding::problem(Place::Key("dead_letter.queue"), what, hint));
    }
    let own = match scope {
        DeadLetterScope::Shared => None,
        DeadLetterScope::PerQueue => own_queue(keys.queue, common, work, &mut findings),
    };
    let letters = own.as_ref().unwrap_or(&queue);
    let archive = archive_of(keys.bounds, common, letters, &mut findings);
    if own.as_ref().is_none_or(|own| *own == queue) && *letters != common.queue {
        refuse_length(archive.as_ref(), letters, &mut findings);
    }
    if common.archive.is_some() && archive.as_ref().is_some_and(|archive| archive.queue == common.queue) {
        let what = format!("{} is the dead-letter queue of all, which has an archive itself", common.queue);
        findings.push(Finding::problem(Place::Key("dead_letter.archive_queue"), what, "give it another name"));
    }
    let bound_archive = if queue == common.queue { common.archive.clone() } else { archive.clone() };
    let own = own.map(|queue| OwnLetters { queue, archive });
    let is_enabled = keys.is_enabled.unwrap_or(common.is_enabled);
    let archive = bound_archive;
    (DeadLetterSettings { is_enabled, exchange, is_exchange_named, queue, scope, archive, own }, findings)
}

fn own_queue(
    named: Option<QueueName>,
    common: &DeadLetterSettings,
    work: &QueueName,
    findings: &mut Vec<Finding>,
) -> Option<QueueName> {
    if let Some(named) = named.or_else(|| common.own.as_ref().map(|own| own.queue.clone())) {
        return Some(named);
    }
    let name = QueueName::parse(&format!("{work}{OWN_LETTERS_SUFFIX}"));
    let tell = |error| {
        let what = format!("per_queue makes the name {work}{OWN_LETTERS_SUFFIX}, which {error}");
        findings.push(Finding::problem(Place::Key("dead_letter.scope"), what, "name a shorter dead_letter.queue"));
    };
    name.map_err(tell).ok()
}

/// The bounds of the letters of one subscription: its own words over those of all.
fn archive_of(
    bounds: Bounds,
    common: &DeadLetterSettings,
    letters: &QueueName,
    findings: &mut Vec<Finding>,
) -> Option<ArchiveSettings> {
    let inherited = common.own.as_ref().map_or(&common.archive, |own| &own.archive).as_ref();
    if *letters == common.queue {
        if let Some(key) = bounds.first_key() {
            let what = format!("cannot be had for one subscription: its letters lie in {letters} with those of others");
            findings.push(Finding::problem(Place::Key(key), what, "set dead_letter.scope = \"per_queue\""));
        }
        return inherited.cloned();
    }
    if bounds.first_key().is_none() {
        return inherited.cloned();
    }
    let bounds = Bounds {
        archive_queue: bounds.archive_queue.or_else(|| inherited.map(|archive| archive.queue.clone())),
        message_ttl: bounds.message_ttl.or_else(|| inherited?.message_ttl),
        max_length: bounds.max_length.or_else(|| inherited?.max_length),
    };
    bounds.archive(letters, findings)
}

impl DeadLetterSettings {
    /// One exchange and one queue for all, without bounds.
    pub fn shared(exchange: ExchangeName, queue: QueueName) -> Self {
        let scope = DeadLetterScope::Shared;
        Self { is_enabled: true, exchange, is_exchange_named: false, queue, scope, archive: None, own: None }
    }

    /// The queue in which our letters lie; those that the broker makes itself lie in `queue`.
    pub fn letters(&self) -> &QueueName {
        self.own.as_ref().map_or(&self.queue, |own| &own.queue)
    }

    /// Exchange and routing key of a letter from the queue `work`.
    pub fn address(&self, work: &QueueName) -> (ExchangeName, String) {
        match &self.own {
            Some(own) => (ExchangeName::nameless(), own.queue.as_str().to_owned()),
            None => (self.exchange.clone(), work.as_str().to_owned()),
        }
    }

    /// Where a letter goes when its queue is full. A full queue that refuses moves nothing by itself, so whoever writes
    /// the letter sends it on.
    pub fn when_full(&self) -> Option<&QueueName> {
        let archive = self.own.as_ref()?.archive.as_ref()?;
        archive.max_length.map(|_| &archive.queue)
    }

    /// What there is to say of a queue with these bindings: one may listen at the exchange of letters, its own included.
    pub fn listening(&self, bindings: &[Binding]) -> Option<Finding> {
        let is_bound = bindings.iter().any(|binding| binding.exchange == self.exchange);
        let what =
            format!("{} is also its dead-letter exchange: what it gives up comes back to it at once", self.exchange);
        is_bound.then(|| Finding::warning(Place::Key("bindings"), what))
    }

    /// Every queue that holds letters: nobody may work on them, or failures would turn in a circle.
    pub fn queues(&self) -> impl Iterator<Item = &QueueName> {
        let letters = [Some(&self.queue), self.own.as_ref().map(|own| &own.queue)];
        letters.into_iter().flatten().chain(self.archives())
    }

    /// Where letters go that leave their queue.
    pub fn archives(&self) -> impl Iterator<Item = &QueueName> {
        let archives = self.archive.iter().chain(self.own.iter().filter_map(|own| own.archive.as_ref()));
        archives.map(|archive| &archive.queue)
    }

    /// The steps that make the place: archives before the queues that need them.
    pub fn steps(&self) -> Vec<Step> {
        let mut steps = Vec::new();
        steps.extend(self.archive.iter().map(|archive| plain_queue(&archive.queue)));
        steps.push(Step::Exchange(self.fanout()));
        // The broker writes here, so no length bounds it.
        let bounds = self.archive.clone().map(|archive| ArchiveSettings { max_length: None, ..archive });
        steps.push(bounded_queue(&self.queue, bounds.as_ref()));
        steps.push(Step::Bind {
            queue: self.queue.clone(),
            exclusive: false,
            binding: Binding { exchange: self.exchange.clone(), routing_key: String::new(), arguments: Headers::new() },
        });
        if let Some(own) = self.own.as_ref().filter(|own| own.queue != self.queue) {
            let archive = own.archive.as_ref();
            let is_new =
                |archive: &&ArchiveSettings| self.archive.as_ref().is_none_or(|all| all.queue != archive.queue);
            steps.extend(archive.filter(is_new).map(|archive| plain_queue(&archive.queue)));
            steps.push(bounded_queue(&own.queue, archive));
        }
        steps
    }
}

impl DeadLetterSettings {
    /// The exchange of letters. It must be a fanout that takes publishes, whoever made it: letters come with any key, the
    /// broker's own with that of their message, so that another type would drop them in silence.
    fn fanout(&self) -> Exchange {
        let named = ["type", "internal"].map(str::to_owned).into();
        Exchange { named, ..Exchange::durable(self.exchange.clone(), ExchangeKind::Fanout) }
    }
}

fn plain_queue(name: &QueueName) -> Step {
    bounded_queue(name, None)
}

/// A queue for letters. Its bounds move letters at-least-once: a letter is given up only when the archive has it, which
/// RabbitMQ grants only together with reject-publish.
fn bounded_queue(name: &QueueName, bounds: Option<&ArchiveSettings>) -> Step {
    let mut arguments = Headers::from([
        ("x-queue-type".to_owned(), Value::text("quorum")),
        ("x-delivery-limit".to_owned(), Value::Int64(DELIVERY_LIMIT)),
    ]);
    let mut named = Named::new();
    if let Some(ArchiveSettings { queue, message_ttl, max_length }) = bounds
        && (message_ttl.is_some() || max_length.is_some())
    {
        let count = |number: u64| Value::Int64(i64::try_from(number).unwrap_or(i64::MAX));
        let ttl = message_ttl.map(|ttl| count(u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX)));
        let asked = [
            ("x-message-ttl", ttl),
            ("x-max-length", max_length.map(count)),
            ("x-dead-letter-routing-key", Some(Value::text(queue.as_str()))),
        ];
        for (name, value) in asked {
            let Some(value) = value else { continue };
            named.insert(name.to_owned());
            arguments.insert(name.to_owned(), value);
        }
        for (name, word) in [
            ("x-dead-letter-exchange", ""),
            ("x-dead-letter-strategy", "at-least-once"),
            ("x-overflow", "reject-publish"),
        ] {
            arguments.insert(name.to_owned(), Value::text(word));
        }
    }
    let name = name.clone();
    Step::Queue(Queue { name, durable: true, auto_delete: false, exclusive: false, arguments, named })
}

#[cfg(test)]
mod tests;
