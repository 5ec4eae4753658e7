//! Finds out what an existing object is, and creates nothing. Knows no plan: `topology` decides what follows.
//!
//! Over AMQP there is one way: declare it, and read what the broker does not like. What it tells is taken over and the
//! declaration repeated until it is accepted, so that all differences are found in one go.

use super::inspect::{Inspect, Policy, QueueReport};
use super::probing::{Next, Probe};
use super::scratch::Scratch;
use super::shape::{Shape, Shapes, Wanted};
use crate::broker::BrokerError;
use crate::domain::difference::Comparison;

/// Most declarations of one comparison. RabbitMQ 3.10 compares fewer than twenty arguments of a queue, each is told once.
const ROUNDS_MAX: usize = 32;

/// Why an object is unknown where nobody can be asked.
pub(super) const UNSEEN: &str =
    "AMQP does not show the properties of an existing object; bus.amqp.management.url would";

/// What AMQP shows and the management API does not know: it is of another cluster, has no such virtual host, or is late.
pub(super) const UNKNOWN_THERE: &str = "the management API does not know it although it exists: check the address and \
                                        the virtual host of bus.amqp.management.url";

/// What could be seen of an object that exists.
#[derive(Debug, Default)]
pub(super) struct Sight {
    /// This differs.
    pub(super) comparison: Comparison,
    /// Why there may be more.
    pub(super) unknown: Option<String>,
}

impl Sight {
    pub(super) fn unknown(reason: String) -> Self {
        Self { comparison: Comparison::default(), unknown: Some(reason) }
    }
}

/// What a look tells.
#[derive(Debug)]
pub(super) enum Look {
    /// It is there.
    There,
    /// The user may not look: from RabbitMQ 4.3 on that takes a right on the object, any of the three (measured on 4.3.6).
    /// This is what somebody else could tell of it.
    Told(Sight),
}

/// What became of an object while it was compared.
#[derive(Debug)]
pub(super) enum Seen {
    /// It is there.
    There(Sight),
    /// It was there a moment ago.
    Vanished,
}

/// How a comparison is done.
#[derive(Debug, Clone, Copy)]
pub(super) struct Eyes<'a> {
    /// For what everybody shares.
    pub(super) admin: &'a Scratch,
    /// For exclusive queues, which exist for the connection that declares them and for no other.
    pub(super) consume: &'a Scratch,
    pub(super) shapes: &'a Shapes,
    pub(super) inspect: Option<&'a dyn Inspect>,
}

impl Eyes<'_> {
    /// Whether it is there. Passive; needs no right at all before RabbitMQ 4.3 (measured on 3.10.8 and 4.0.5).
    ///
    /// # Errors
    /// `Missing`; `Locked` for an exclusive queue of another connection; the session is gone, or there was no answer.
    pub(super) async fn look(self, wanted: Wanted<'_>) -> Result<Look, BrokerError> {
        let look = match wanted {
            Wanted::Exchange(exchange) => self.admin.look_for_exchange(&exchange.name).await,
            Wanted::Queue(queue) if queue.exclusive => self.consume.look_for_queue(&queue.name).await,
            Wanted::Queue(queue) => self.admin.look_for_queue(&queue.name).await,
        };
        match look {
            Ok(()) => Ok(Look::There),
            Err(BrokerError::AccessRefused { reason, .. }) => self.told(wanted, &reason).await.map(Look::Told),
            Err(error) => Err(error),
        }
    }

    async fn told(self, wanted: Wanted<'_>, refusal: &str) -> Result<Sight, BrokerError> {
        let unseen = format!("it may be missing: the user may not even look for it ({refusal})");
        match self.asked(wanted).await {
            Some(Ok(Some(found))) => Ok(against(wanted, found)),
            Some(Ok(None)) => Err(BrokerError::Missing { object: wanted.object() }),
            Some(Err(reason)) => Ok(Sight::unknown(format!("{unseen}; {reason}"))),
            None => Ok(Sight::unknown(unseen)),
        }
    }

    /// By declaring it; where the broker can be asked, by asking.
    ///
    /// # Errors
    /// The session is gone, or the object is exclusive to another connection.
    pub(super) async fn compare(self, wanted: Wanted<'_>) -> Result<Seen, BrokerError> {
        // Whoever does not know it has not told anything: AMQP has just shown it.
        if let Some(Ok(Some(found))) = self.asked(wanted).await {
            return Ok(Seen::There(against(wanted, found)));
        }
        let object = wanted.object();
        match self.shapes.last_seen(&object) {
            // What is remembered may be of a queue that was deleted since: then once more, from the wish.
            Some(shape) => match self.probe(wanted, shape).await? {
                Seen::There(Sight { unknown: Some(_), .. }) => self.probe(wanted, wanted.shape()).await,
                seen @ (Seen::There(_) | Seen::Vanished) => Ok(seen),
            },
            None => self.probe(wanted, wanted.shape()).await,
        }
    }

    /// Without any right to configure, so only where the broker can be asked.
    pub(super) async fn compare_passively(self, wanted: Wanted<'_>) -> Sight {
        match self.asked(wanted).await {
            Some(Ok(Some(found))) => against(wanted, found),
            Some(Ok(None)) => Sight::unknown(UNKNOWN_THERE.to_owned()),
            Some(Err(reason)) => Sight::unknown(reason),
            None if wanted.is_named() => Sight::unknown(UNSEEN.to_owned()),
            None => Sight::default(),
        }
    }

    /// `None` = there is nobody to ask.
    async fn asked(self, wanted: Wanted<'_>) -> Option<Result<Option<Asked>, String>> {
        let inspect = self.inspect?;
        Some(match wanted {
            Wanted::Exchange(it) => inspect
                .exchange(&it.name)
                .await
                .map(|found| found.map(|found| Asked { shape: Shape::Exchange(found), policy: None })),
            Wanted::Queue(it) => inspect
                .queue(&it.name)
                .await
                .map(|found| found.map(|QueueReport { queue, policy }| Asked { shape: Shape::Queue(queue), policy })),
        })
    }

    async fn probe(self, wanted: Wanted<'_>, shape: Shape) -> Result<Seen, BrokerError> {
        let fits = wanted.compare(&shape).named.is_empty();
        let probe = Probe::new(wanted.object(), shape);
        let mut probe = if fits { probe.may_make() } else { probe };
        for _ in 0..ROUNDS_MAX {
            let reason = match self.admin.declare(wanted, &probe.declared()).await {
                Ok(()) => return Ok(self.known(wanted, &probe)),
                Err(BrokerError::Mismatch { reason, .. }) => reason,
                Err(BrokerError::AccessRefused { reason, .. }) => return Ok(Seen::There(Sight::unknown(reason))),
                Err(error) => return Err(error),
            };
            match probe.heed(reason) {
                Next::Again => {}
                Next::Vanished => return Ok(Seen::Vanished),
                Next::Known => return Ok(self.known(wanted, &probe)),
                Next::Unknown(reason) => {
                    let comparison = wanted.compare(probe.shape());
                    return Ok(Seen::There(Sight { comparison, unknown: Some(reason) }));
                }
            }
        }
        let reason = format!("more than {ROUNDS_MAX} differences were told one by one");
        Ok(Seen::There(Sight::unknown(reason)))
    }

    fn known(self, wanted: Wanted<'_>, probe: &Probe) -> Seen {
        let shape = probe.shape().clone().without_the_impossible();
        let comparison = wanted.compare(&shape);
        self.shapes.remember(wanted.object(), shape);
        Seen::There(Sight { comparison, unknown: None })
    }
}

/// What somebody who sees objects whole has told.
struct Asked {
    shape: Shape,
    /// What policies rule; nobody has named it in the settings.
    policy: Option<Policy>,
}

fn against(wanted: Wanted<'_>, Asked { shape, policy }: Asked) -> Sight {
    let mut comparison = wanted.compare(&shape);
    if let Some(policy) = policy {
        comparison.limit_deliveries(policy.delivery_limit());
        comparison.lacks.extend(policy.differences());
    }
    Sight { comparison, unknown: None }
}
