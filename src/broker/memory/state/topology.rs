//! Declaring and binding: what exists is taken as it is, what is missing is declared. Knows nothing of messages.

use super::queue::{Limits, Queue};
use super::routing::Router;
use super::{QueueId, SessionKey, State};
use crate::broker::{BrokerError, Findings};
use crate::domain::name::QueueName;
use crate::domain::subscription::Binding;
use crate::domain::topology::{self, Exchange, Plan, Step, TopologyMode};

/// What was done for one step.
enum Outcome {
    Created(String),
    Adopted(String),
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
                Outcome::Adopted(object) => findings.adopted.push(object),
                Outcome::Nothing => {}
            }
        }
        Ok(findings)
    }

    fn create(&mut self, session: SessionKey, step: &Step) -> Result<Outcome, BrokerError> {
        match step {
            Step::Exchange(wanted) => self.create_exchange(wanted),
            Step::Queue(wanted) => self.create_queue(session, wanted),
            Step::Bind { queue, exclusive: _, binding } => self.bind(session, queue, binding),
        }
    }

    /// Looks only. Bindings cannot be looked up over AMQP, so nothing is asked about them here either.
    fn verify(&self, session: SessionKey, step: &Step) -> Result<Outcome, BrokerError> {
        match step {
            Step::Exchange(wanted) => match self.exchanges.get(wanted.name.as_str()) {
                Some(found) => check_kind(wanted, found).map(Outcome::Adopted),
                None => Err(BrokerError::Missing { object: exchange_object(wanted.name.as_str()) }),
            },
            Step::Queue(wanted) => {
                self.find_queue(session, &wanted.name)?;
                Ok(Outcome::Adopted(queue_object(&wanted.name)))
            }
            Step::Bind { .. } => Ok(Outcome::Nothing),
        }
    }

    fn create_exchange(&mut self, wanted: &Exchange) -> Result<Outcome, BrokerError> {
        if let Some(found) = self.exchanges.get(wanted.name.as_str()) {
            return check_kind(wanted, found).map(Outcome::Adopted);
        }
        // Arguments of exchanges, such as an alternate exchange, are not honoured. Everything lasts as long as the broker
        // object, durable or not.
        let Exchange { name, kind, durable: _, auto_delete, internal, arguments: _ } = wanted;
        self.exchanges.insert(name.as_str().to_owned(), Router::new(*kind, *internal, *auto_delete));
        Ok(Outcome::Created(exchange_object(name.as_str())))
    }

    fn create_queue(&mut self, session: SessionKey, wanted: &topology::Queue) -> Result<Outcome, BrokerError> {
        let topology::Queue { name, durable: _, auto_delete, exclusive, arguments } = wanted;
        if self.queue_ids.contains_key(name.as_str()) {
            let id = self.find_queue(session, name)?;
            let is_exclusive = self.queues.get(&id).is_some_and(|queue| queue.exclusive_to.is_some());
            if *exclusive && !is_exclusive {
                let reason = "inequivalent arg 'exclusive': received true but current is false".to_owned();
                return Err(BrokerError::Mismatch { object: queue_object(name), reason });
            }
            return Ok(Outcome::Adopted(queue_object(name)));
        }
        let limits = Limits::read(arguments)?;
        let id = QueueId(self.next_number());
        let exclusive_to = exclusive.then_some(session);
        self.queue_ids.insert(name.as_str().to_owned(), id);
        self.queues.insert(id, Queue::new(name.clone(), exclusive_to, *auto_delete, limits));
        Ok(Outcome::Created(queue_object(name)))
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

fn check_kind(wanted: &Exchange, found: &Router) -> Result<String, BrokerError> {
    let object = exchange_object(wanted.name.as_str());
    if wanted.kind == found.kind {
        return Ok(object);
    }
    let (wanted, found) = (wanted.kind.as_str(), found.kind.as_str());
    let reason = format!("inequivalent arg 'type': received '{wanted}' but current is '{found}'");
    Err(BrokerError::Mismatch { object, reason })
}

fn queue_object(name: &QueueName) -> String {
    format!("queue {name}")
}

fn exchange_object(name: &str) -> String {
    format!("exchange {name}")
}
