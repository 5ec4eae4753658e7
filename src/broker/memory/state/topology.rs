//! Declaring and binding: what exists is compared and taken as it is, what is missing is declared. Knows nothing of
//! messages.

use super::queue::{Limits, Queue};
use super::routing::Router;
use super::{QueueId, SessionKey, State};
use crate::broker::{Adopted, BrokerError, Findings};
use crate::domain::difference::{Comparison, Examined, ObjectKind, ObjectState, compare_exchange, compare_queue};
use crate::domain::name::QueueName;
use crate::domain::subscription::Binding;
use crate::domain::topology::{self, Exchange, Plan, Step, TopologyMode};

/// What was done for one step.
enum Outcome {
    Created(String),
    Adopted(Adopted),
    Nothing,
}

impl State {
    /// Carries out a plan; the first step that fails ends it, and earlier ones stand.
    pub(in crate::broker::memory) fn apply(
        &mut self,
        session: SessionKey,
        plan: &Plan,
    ) -> Result<Findings, BrokerError> {
        self.check_session(session)?;
        let mut findings = Findings::default();
        for step in &plan.steps {
            let outcome = match plan.mode {
                TopologyMode::Create => self.create(session, step)?,
                TopologyMode::Verify => self.verify(session, step)?,
                TopologyMode::Off => Outcome::Nothing,
            };
            match outcome {
                Outcome::Created(object) => findings.created.push(object),
                Outcome::Adopted(adopted) => findings.adopted.push(adopted),
                Outcome::Nothing => {}
            }
        }
        Ok(findings)
    }

    /// Looks at what each step names; nothing is touched.
    pub(in crate::broker::memory) fn examine(
        &self,
        session: SessionKey,
        plan: &Plan,
    ) -> Result<Vec<Examined>, BrokerError> {
        self.check_session(session)?;
        Ok(plan.steps.iter().map(|step| self.look(step)).collect())
    }

    fn look(&self, step: &Step) -> Examined {
        match step {
            Step::Exchange(wanted) => {
                let found = self.exchanges.get(wanted.name.as_str());
                let state = state_of(found.map(|router| compare_exchange(wanted, &router.found())));
                Examined { kind: ObjectKind::Exchange, name: wanted.name.to_string(), state }
            }
            Step::Queue(wanted) => {
                let id = self.queue_ids.get(wanted.name.as_str());
                let found = id.and_then(|id| self.queues.get(id));
                let state = state_of(found.map(|queue| compare_queue(wanted, &queue.found())));
                Examined { kind: ObjectKind::Queue, name: wanted.name.to_string(), state }
            }
            Step::Bind { queue, binding, exclusive: _ } => {
                let state = if self.is_bound(queue, binding) { ObjectState::Same } else { ObjectState::Missing };
                Examined { kind: ObjectKind::Binding, name: binding.describe(queue), state }
            }
            Step::Unbind { queue, binding, exclusive: _ } => {
                let state = if self.is_bound(queue, binding) { ObjectState::Extra } else { ObjectState::Same };
                Examined { kind: ObjectKind::Binding, name: binding.describe(queue), state }
            }
        }
    }

    fn is_bound(&self, queue: &QueueName, binding: &Binding) -> bool {
        let Some(id) = self.queue_ids.get(queue.as_str()) else { return false };
        let router = self.exchanges.get(binding.exchange.as_str());
        router.is_some_and(|router| router.has(*id, &binding.routing_key, &binding.arguments))
    }

    fn create(&mut self, session: SessionKey, step: &Step) -> Result<Outcome, BrokerError> {
        match step {
            Step::Exchange(wanted) => self.create_exchange(wanted),
            Step::Queue(wanted) => self.create_queue(session, wanted),
            Step::Bind { queue, exclusive: _, binding } => self.bind(session, queue, binding),
            Step::Unbind { queue, exclusive: _, binding } => self.unbind(session, queue, binding),
        }
    }

    /// Looks only, but for exclusive queues, which nobody else can have made or bound. Bindings cannot be looked up over
    /// AMQP, so nothing is asked about them here either.
    fn verify(&mut self, session: SessionKey, step: &Step) -> Result<Outcome, BrokerError> {
        match step {
            Step::Exchange(wanted) => match self.exchanges.get(wanted.name.as_str()) {
                Some(found) => adopt_exchange(wanted, found),
                None => Err(BrokerError::Missing { object: exchange_object(wanted.name.as_str()) }),
            },
            Step::Queue(wanted) if wanted.exclusive => self.create_queue(session, wanted),
            Step::Queue(wanted) => {
                let id = self.find_queue(session, &wanted.name)?;
                self.adopt_queue(wanted, id)
            }
            Step::Bind { queue, exclusive: true, binding } => self.bind(session, queue, binding),
            Step::Unbind { queue, exclusive: true, binding } => self.unbind(session, queue, binding),
            Step::Bind { exclusive: false, .. } | Step::Unbind { exclusive: false, .. } => Ok(Outcome::Nothing),
        }
    }

    fn create_exchange(&mut self, wanted: &Exchange) -> Result<Outcome, BrokerError> {
        if let Some(found) = self.exchanges.get(wanted.name.as_str()) {
            return adopt_exchange(wanted, found);
        }
        let Exchange { name, kind, durable, auto_delete, internal, arguments, named: _ } = wanted;
        let mut router = Router::new(*kind, *internal, *auto_delete);
        router.durable = *durable;
        router.arguments.clone_from(arguments);
        self.exchanges.insert(name.as_str().to_owned(), router);
        Ok(Outcome::Created(exchange_object(name.as_str())))
    }

    fn create_queue(&mut self, session: SessionKey, wanted: &topology::Queue) -> Result<Outcome, BrokerError> {
        let topology::Queue { name, durable, auto_delete, exclusive, arguments, named: _ } = wanted;
        if self.queue_ids.contains_key(name.as_str()) {
            let id = self.find_queue(session, name)?;
            return self.adopt_queue(wanted, id);
        }
        let limits = Limits::read(arguments)?;
        let id = QueueId(self.next_number());
        let exclusive_to = exclusive.then_some(session);
        let mut queue = Queue::new(name.clone(), exclusive_to, *auto_delete, limits);
        queue.durable = *durable;
        queue.arguments.clone_from(arguments);
        self.queue_ids.insert(name.as_str().to_owned(), id);
        self.queues.insert(id, queue);
        Ok(Outcome::Created(queue_object(name)))
    }

    fn adopt_queue(&self, wanted: &topology::Queue, id: QueueId) -> Result<Outcome, BrokerError> {
        let object = queue_object(&wanted.name);
        let Some(queue) = self.queues.get(&id) else { return Err(BrokerError::Missing { object }) };
        let mut comparison = compare_queue(wanted, &queue.found());
        // A queue that everybody shares cannot serve as one's own, whoever asked for that.
        if wanted.exclusive
            && let Some(at) = comparison.lacks.iter().position(|difference| difference.key == "exclusive")
        {
            comparison.named.push(comparison.lacks.swap_remove(at));
        }
        adopt(object, comparison)
    }

    fn bind(&mut self, session: SessionKey, queue: &QueueName, binding: &Binding) -> Result<Outcome, BrokerError> {
        let id = self.find_queue(session, queue)?;
        let Binding { exchange, routing_key, arguments } = binding;
        if exchange.is_nameless() {
            let (action, reason) =
                (format!("bind {}", queue_object(queue)), "the nameless exchange binds all by itself");
            return Err(BrokerError::AccessRefused { action, reason: reason.to_owned() });
        }
        let Some(router) = self.exchanges.get_mut(exchange.as_str()) else {
            return Err(BrokerError::Missing { object: exchange_object(exchange.as_str()) });
        };
        router.bind(id, routing_key, arguments);
        Ok(Outcome::Nothing)
    }

    /// What is not there need not be taken away.
    fn unbind(&mut self, session: SessionKey, queue: &QueueName, binding: &Binding) -> Result<Outcome, BrokerError> {
        let id = match self.find_queue(session, queue) {
            Err(BrokerError::Missing { .. }) => return Ok(Outcome::Nothing),
            found => found?,
        };
        let Binding { exchange, routing_key, arguments } = binding;
        if let Some(router) = self.exchanges.get_mut(exchange.as_str())
            && router.unbind(id, routing_key, arguments)
            && router.auto_delete
        {
            self.exchanges.remove(exchange.as_str());
        }
        Ok(Outcome::Nothing)
    }

    /// The queue of that name, if this session may use it.
    pub(super) fn find_queue(&self, session: SessionKey, name: &QueueName) -> Result<QueueId, BrokerError> {
        let missing = || BrokerError::Missing { object: queue_object(name) };
        let id = *self.queue_ids.get(name.as_str()).ok_or_else(missing)?;
        let queue = self.queues.get(&id).ok_or_else(missing)?;
        if queue.exclusive_to.is_some_and(|owner| owner != session) {
            return Err(BrokerError::Locked { object: queue_object(name) });
        }
        Ok(id)
    }
}

fn adopt_exchange(wanted: &Exchange, found: &Router) -> Result<Outcome, BrokerError> {
    adopt(exchange_object(wanted.name.as_str()), compare_exchange(wanted, &found.found()))
}

/// Something that was named differs: a mismatch. Else it is used as it is.
fn adopt(object: String, comparison: Comparison) -> Result<Outcome, BrokerError> {
    if comparison.named.is_empty() {
        return Ok(Outcome::Adopted(Adopted::compared(object, comparison)));
    }
    Err(BrokerError::Mismatch { object, differences: comparison.named, reason: String::new() })
}

fn state_of(comparison: Option<Comparison>) -> ObjectState {
    match comparison {
        None => ObjectState::Missing,
        Some(Comparison { named, .. }) if !named.is_empty() => ObjectState::Different(named),
        Some(Comparison { lacks, .. }) if !lacks.is_empty() => ObjectState::Adopted(lacks),
        Some(Comparison { .. }) => ObjectState::Same,
    }
}

fn queue_object(name: &QueueName) -> String {
    format!("queue {name}")
}

fn exchange_object(name: &str) -> String {
    format!("exchange {name}")
}
