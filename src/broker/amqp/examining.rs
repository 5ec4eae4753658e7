//! Looks at everything that a plan names and touches nothing. Knows no frame and no settings.

use std::collections::{HashMap, HashSet};
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::comparing::{Eyes, Look, Sight, UNKNOWN_THERE, UNSEEN};
use super::shape::Wanted;
use crate::broker::BrokerError;
use crate::domain::difference::{Examined, ObjectKind, ObjectState, is_same_binding};
use crate::domain::name::QueueName;
use crate::domain::subscription::Binding;
use crate::domain::topology::{Plan, Queue, Step};

/// Whether a binding should be there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Should {
    Be,
    NotBe,
}

/// Queues that are remembered; then all are forgotten, which costs some calls.
const VERIFIED_MAX: usize = 10_000;

/// The queues whose bindings were looked at in this session: what is amiss is told once, and each look is a call.
#[derive(Debug, Default)]
pub(super) struct Verified(Mutex<HashSet<QueueName>>);

impl Verified {
    fn has(&self, queue: &QueueName) -> bool {
        self.queues().contains(queue)
    }

    fn queues(&self) -> MutexGuard<'_, HashSet<QueueName>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Those that could be seen.
    fn note(&self, seen: impl Iterator<Item = QueueName>) {
        let mut queues = self.queues();
        if queues.len() >= VERIFIED_MAX {
            queues.clear();
        }
        queues.extend(seen);
    }
}

/// One answer for each step, in their order; then what feeds the queues of the plan and is wanted by none of its steps.
///
/// # Errors
/// The session is gone, or a look had no answer in time.
pub(super) async fn examine(eyes: Eyes<'_>, plan: &Plan) -> Result<Vec<Examined>, BrokerError> {
    let mut seen = Vec::with_capacity(plan.steps.len());
    let mut bindings = Bindings::new(eyes);
    for step in &plan.steps {
        seen.push(match step {
            Step::Exchange(wanted) => Examined {
                kind: ObjectKind::Exchange,
                name: wanted.name.to_string(),
                state: object(eyes, Wanted::Exchange(wanted)).await?,
            },
            Step::Queue(wanted) => Examined {
                kind: ObjectKind::Queue,
                name: wanted.name.to_string(),
                state: object(eyes, Wanted::Queue(wanted)).await?,
            },
            Step::Bind { queue, binding, .. } => bindings.look(queue, binding, Should::Be).await,
            Step::Unbind { queue, binding, .. } => bindings.look(queue, binding, Should::NotBe).await,
        });
    }
    seen.extend(bindings.extra(plan).await);
    Ok(seen)
}

/// What a plan that is only verified finds amiss among bindings, which nobody makes or takes away then: one sentence for
/// each. Nothing where they cannot be seen, or were seen before in this session.
pub(super) async fn unverified_bindings(eyes: Eyes<'_>, plan: &Plan, verified: &Verified) -> Vec<String> {
    let mut remarks = Vec::new();
    if eyes.inspect.is_none() {
        return remarks;
    }
    let mut bindings = Bindings::new(eyes);
    for step in &plan.steps {
        let (examined, what) = match step {
            Step::Bind { queue, .. } | Step::Unbind { queue, .. } if verified.has(queue) => continue,
            Step::Bind { queue, exclusive: false, binding } => {
                (bindings.look(queue, binding, Should::Be).await, "is not there, and in verify nobody makes it")
            }
            Step::Unbind { queue, exclusive: false, binding } => (
                bindings.look(queue, binding, Should::NotBe).await,
                "is still there, and in verify nobody takes it away",
            ),
            Step::Exchange(_) | Step::Queue(_) | Step::Bind { .. } | Step::Unbind { .. } => continue,
        };
        if matches!(examined.state, ObjectState::Missing | ObjectState::Extra) {
            remarks.push(format!("binding {} {what}", examined.name));
        }
    }
    verified.note(bindings.seen());
    remarks
}

/// What feeds queues; each queue is asked for once.
pub(super) struct Bindings<'a> {
    eyes: Eyes<'a>,
    known: HashMap<QueueName, Result<Vec<Binding>, String>>,
}

impl<'a> Bindings<'a> {
    pub(super) fn new(eyes: Eyes<'a>) -> Self {
        Self { eyes, known: HashMap::new() }
    }

    /// The queues whose bindings could be seen.
    fn seen(self) -> impl Iterator<Item = QueueName> {
        self.known.into_iter().filter(|(_, found)| found.is_ok()).map(|(queue, _)| queue)
    }

    /// Those of a queue, but for the nameless exchange. A queue that is not there has none.
    ///
    /// # Errors
    /// Why they cannot be seen.
    pub(super) async fn of(&mut self, queue: &QueueName) -> Result<Vec<Binding>, String> {
        if let Some(known) = self.known.get(queue) {
            return known.clone();
        }
        let found = match self.eyes.inspect {
            Some(inspect) => match inspect.bindings(queue).await {
                Ok(None) => self.of_unknown(queue).await,
                Ok(Some(found)) => Ok(found),
                Err(reason) => Err(reason),
            },
            None => Err("AMQP does not show bindings; bus.amqp.management.url would".to_owned()),
        };
        self.known.insert(queue.clone(), found.clone());
        found
    }

    /// What is not there is fed by nothing; AMQP has the last word on that.
    async fn of_unknown(&self, queue: &QueueName) -> Result<Vec<Binding>, String> {
        match self.eyes.admin.look_for_queue(queue).await {
            // Who may not look has the word of the management API alone.
            Err(BrokerError::Missing { .. } | BrokerError::AccessRefused { .. }) => Ok(Vec::new()),
            Err(error) => Err(error.to_string()),
            Ok(()) => Err(UNKNOWN_THERE.to_owned()),
        }
    }

    async fn look(&mut self, queue: &QueueName, binding: &Binding, should: Should) -> Examined {
        let found = self.of(queue).await;
        let is_there = found.map(|found| found.iter().any(|found| is_same_binding(found, binding)));
        let state = match is_there.map(|is_there| (is_there, should)) {
            Ok((true, Should::Be) | (false, Should::NotBe)) => ObjectState::Same,
            Ok((false, Should::Be)) => ObjectState::Missing,
            Ok((true, Should::NotBe)) => ObjectState::Extra,
            Err(reason) => ObjectState::Unknown(reason),
        };
        Examined { kind: ObjectKind::Binding, name: binding.describe(queue), state }
    }

    /// Where it cannot be seen, the steps have said so.
    async fn extra(&mut self, plan: &Plan) -> Vec<Examined> {
        let mut extra = Vec::new();
        for step in &plan.steps {
            let Step::Queue(Queue { name, exclusive: false, .. }) = step else { continue };
            let is_wanted = |found: &Binding| {
                plan.steps.iter().any(|step| match step {
                    Step::Bind { queue, binding, .. } | Step::Unbind { queue, binding, .. } => {
                        queue == name && is_same_binding(found, binding)
                    }
                    Step::Exchange(_) | Step::Queue(_) => false,
                })
            };
            let found = self.of(name).await.unwrap_or_default().into_iter().filter(|found| !is_wanted(found));
            extra.extend(found.map(|found| Examined {
                kind: ObjectKind::Binding,
                name: found.describe(name),
                state: ObjectState::Extra,
            }));
        }
        extra
    }
}

async fn object(eyes: Eyes<'_>, wanted: Wanted<'_>) -> Result<ObjectState, BrokerError> {
    let sight = match eyes.look(wanted).await {
        Ok(Look::Told(sight)) => sight,
        Ok(Look::There) if eyes.inspect.is_none() => Sight::unknown(UNSEEN.to_owned()),
        Ok(Look::There) => eyes.compare_passively(wanted).await,
        Err(BrokerError::Missing { .. }) => return Ok(ObjectState::Missing),
        Err(error @ BrokerError::Locked { .. }) => return Ok(ObjectState::Unknown(error.to_string())),
        Err(error) => return Err(error),
    };
    Ok(match sight {
        Sight { unknown: Some(reason), .. } => ObjectState::Unknown(reason),
        Sight { comparison, unknown: None } if !comparison.named.is_empty() => ObjectState::Different(comparison.named),
        Sight { comparison, unknown: None } if !comparison.lacks.is_empty() => ObjectState::Adopted(comparison.lacks),
        Sight { .. } => ObjectState::Same,
    })
}
