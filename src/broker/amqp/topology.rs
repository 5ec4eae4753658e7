//! Carries out a plan: looks, adopts what exists, declares what is missing, binds. Knows no frame and no settings.

use super::exchanges::Exchanges;
use super::scratch::Scratch;
use crate::broker::{BrokerError, Findings};
use crate::domain::topology::{Exchange, Plan, Queue, Step, TopologyMode};

/// Where the steps are done.
#[derive(Debug)]
pub(super) struct Site<'a> {
    /// For what everybody shares.
    pub(super) admin: &'a Scratch,
    /// For exclusive queues, which exist for the connection that declares them and for no other.
    pub(super) consume: &'a Scratch,
    /// Learns which exchanges exist.
    pub(super) exchanges: &'a Exchanges,
}

impl Site<'_> {
    /// Step by step, in order; earlier ones stand when one fails.
    pub(super) async fn apply(&self, plan: &Plan) -> Result<Findings, BrokerError> {
        let mut findings = Findings::default();
        if plan.mode == TopologyMode::Off {
            return Ok(findings);
        }
        for step in &plan.steps {
            match step {
                Step::Exchange(exchange) => self.exchange(exchange, plan.mode, &mut findings).await?,
                Step::Queue(queue) if queue.exclusive => self.exclusive(queue, &mut findings).await?,
                Step::Queue(queue) => self.queue(queue, plan.mode, &mut findings).await?,
                // Nobody else can have bound an exclusive queue, so it is bound in every mode.
                Step::Bind { queue, exclusive: true, binding } => self.consume.bind(queue, binding).await?,
                Step::Bind { queue, exclusive: false, binding } if plan.mode == TopologyMode::Create => {
                    self.admin.bind(queue, binding).await?;
                }
                Step::Bind { .. } => {}
            }
        }
        Ok(findings)
    }

    async fn exchange(
        &self,
        wanted: &Exchange,
        mode: TopologyMode,
        findings: &mut Findings,
    ) -> Result<(), BrokerError> {
        let object = format!("exchange {}", wanted.name);
        match self.admin.look_for_exchange(&wanted.name).await {
            Ok(()) => findings.adopted.push(object),
            Err(BrokerError::Missing { .. }) if mode == TopologyMode::Create => {
                record(self.admin.declare_exchange(wanted).await, object, findings)?;
            }
            Err(error) => return Err(error),
        }
        self.exchanges.note(&wanted.name);
        Ok(())
    }

    async fn queue(&self, wanted: &Queue, mode: TopologyMode, findings: &mut Findings) -> Result<(), BrokerError> {
        let object = format!("queue {}", wanted.name);
        match self.admin.look_for_queue(&wanted.name).await {
            Ok(()) => findings.adopted.push(object),
            Err(BrokerError::Missing { .. }) if mode == TopologyMode::Create => {
                record(self.admin.declare_queue(wanted).await, object, findings)?;
            }
            Err(error) => return Err(error),
        }
        Ok(())
    }

    /// An exclusive queue cannot exist before: it is declared, never looked for and never adopted. A second declare by
    /// the same connection changes nothing, one by another is refused with 405.
    async fn exclusive(&self, wanted: &Queue, findings: &mut Findings) -> Result<(), BrokerError> {
        self.consume.declare_queue(wanted).await?;
        findings.created.push(format!("queue {}", wanted.name));
        Ok(())
    }
}

/// The end of an active declare of something that had been missing a moment ago.
fn record(declared: Result<(), BrokerError>, object: String, findings: &mut Findings) -> Result<(), BrokerError> {
    match declared {
        Ok(()) => findings.created.push(object),
        // Another sidecar was faster and has other defaults: what exists is used.
        Err(BrokerError::Mismatch { .. }) => findings.adopted.push(object),
        Err(error) => return Err(error),
    }
    Ok(())
}
