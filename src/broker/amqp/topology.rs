//! Carries out a plan: looks, adopts what exists, declares what is missing, binds. Knows no frame and no settings.

use super::comparing::{Eyes, Look, Seen, Sight};
use super::denied::Declaring;
use super::examining::{Verified, unverified_bindings};
use super::exchanges::Exchanges;
use super::shape::Wanted;
use crate::broker::{Adopted, BrokerError, Findings};
use crate::domain::queue_keys::Weight;
use crate::domain::queue_rules::on_release;
use crate::domain::topology::{Exchange, Plan, Queue, Step, TopologyMode};
use crate::domain::version::Version;

/// Looks at one object before giving up: it was deleted and made again between a look and the next step.
const LOOKS_MAX: usize = 5;

/// Where the steps are done.
#[derive(Debug)]
pub(super) struct Site<'a> {
    /// What is looked at, and over which connections.
    pub(super) eyes: Eyes<'a>,
    /// Learns which exchanges exist.
    pub(super) exchanges: &'a Exchanges,
    /// Whose bindings were looked at.
    pub(super) verified: &'a Verified,
    /// For whatever is missing.
    pub(super) declaring: Declaring<'a>,
    /// What the broker is; `None` = not told.
    pub(super) release: Option<Version>,
}

impl Site<'_> {
    /// Step by step, in order; earlier ones stand when one fails.
    pub(super) async fn apply(&self, plan: &Plan) -> Result<Findings, BrokerError> {
        let mut findings = Findings::default();
        if plan.mode == TopologyMode::Off {
            for step in &plan.steps {
                if let Step::Exchange(exchange) = step
                    && exchange.internal
                {
                    self.exchanges.compared(exchange, &[]);
                }
            }
            return Ok(findings);
        }
        for step in &plan.steps {
            findings.remarks.extend(self.remarks(step));
            match step {
                Step::Exchange(exchange) => self.exchange(exchange, plan.mode, &mut findings).await?,
                Step::Queue(queue) if queue.exclusive => self.exclusive(queue, &mut findings).await?,
                Step::Queue(queue) => self.shared(Wanted::Queue(queue), plan.mode, &mut findings).await?,
                // Nobody else can have bound an exclusive queue, so it is bound in every mode.
                Step::Bind { queue, exclusive: true, binding } => self.eyes.consume.bind(queue, binding).await?,
                Step::Bind { queue, exclusive: false, binding } if plan.mode == TopologyMode::Create => {
                    self.eyes.admin.bind(queue, binding).await?;
                }
                Step::Unbind { queue, exclusive: true, binding } => self.eyes.consume.unbind(queue, binding).await?,
                Step::Unbind { queue, exclusive: false, binding } if plan.mode == TopologyMode::Create => {
                    self.eyes.admin.unbind(queue, binding).await?;
                }
                Step::Bind { .. } | Step::Unbind { .. } => {}
            }
        }
        if plan.mode == TopologyMode::Verify {
            findings.remarks.extend(unverified_bindings(self.eyes, plan, self.verified).await);
        }
        Ok(findings)
    }

    async fn exchange(&self, wanted: &Exchange, mode: TopologyMode, found: &mut Findings) -> Result<(), BrokerError> {
        let before = found.adopted.len();
        let done = self.shared(Wanted::Exchange(wanted), mode, found).await;
        match &done {
            Ok(()) => match found.adopted.get(before) {
                Some(adopted) => self.exchanges.compared(wanted, &adopted.lacks),
                None => self.exchanges.created(wanted),
            },
            // One that is not as named exists all the same.
            Err(BrokerError::Mismatch { differences, .. }) if !differences.is_empty() => {
                self.exchanges.compared(wanted, differences);
            }
            Err(_) => {}
        }
        done
    }

    /// Looks first. What is there is compared and adopted, what is missing is declared with everything. Whoever is
    /// faster, deleting or making it, is found out by the next look.
    async fn shared(&self, wanted: Wanted<'_>, mode: TopologyMode, found: &mut Findings) -> Result<(), BrokerError> {
        let object = wanted.object();
        for _ in 0..LOOKS_MAX {
            let seen = match (self.eyes.look(wanted).await, mode) {
                (Ok(Look::Told(sight)), _) => Seen::There(sight),
                (Ok(Look::There), TopologyMode::Create) => self.eyes.compare(wanted).await?,
                (Ok(Look::There), TopologyMode::Verify | TopologyMode::Off) => {
                    Seen::There(self.eyes.compare_passively(wanted).await)
                }
                (Err(BrokerError::Missing { .. }), TopologyMode::Create) => {
                    match self.make(wanted).await {
                        Ok(()) => {
                            found.created.push(object);
                            return Ok(());
                        }
                        // The broker takes no such object at all, or another sidecar was faster.
                        Err(BrokerError::Mismatch { reason, .. }) if !reason.contains("inequivalent arg") => {
                            return Err(BrokerError::Mismatch { object, differences: Vec::new(), reason });
                        }
                        Err(BrokerError::Mismatch { .. }) => Seen::Vanished,
                        Err(error) => return Err(error),
                    }
                }
                (Err(error), _) => return Err(error),
            };
            match seen {
                Seen::Vanished => {}
                Seen::There(sight) => return adopt(object, sight, found),
            }
        }
        let reason = format!("it came and went {LOOKS_MAX} times while it was looked at");
        Err(BrokerError::Mismatch { object, differences: Vec::new(), reason })
    }

    async fn make(&self, wanted: Wanted<'_>) -> Result<(), BrokerError> {
        self.ask_release(wanted)?;
        self.declaring.shared(wanted, self.eyes.admin).await
    }

    /// What this release is known to refuse is not sent: it may close the whole connection for it.
    fn ask_release(&self, wanted: Wanted<'_>) -> Result<(), BrokerError> {
        let (Wanted::Queue(queue), Some(release)) = (wanted, self.release) else { return Ok(()) };
        let problems = on_release(&queue.as_settings(), release).into_iter();
        let problems: Vec<String> =
            problems.filter(|it| it.weight == Weight::Problem).map(|it| it.to_string()).collect();
        if problems.is_empty() {
            return Ok(());
        }
        let reason = format!("{} (the broker is RabbitMQ {release})", problems.join("; "));
        Err(BrokerError::Mismatch { object: wanted.object(), differences: Vec::new(), reason })
    }

    fn remarks(&self, step: &Step) -> Vec<String> {
        let (Step::Queue(queue), Some(release)) = (step, self.release) else { return Vec::new() };
        let findings = on_release(&queue.as_settings(), release).into_iter();
        let warnings = findings.filter(|it| it.weight == Weight::Warning);
        warnings.map(|it| format!("queue {}: {it}", queue.name)).collect()
    }

    /// An exclusive queue cannot exist before: it is declared, never looked for and never adopted. A second declare by
    /// the same connection changes nothing, one by another is refused with 405.
    async fn exclusive(&self, wanted: &Queue, findings: &mut Findings) -> Result<(), BrokerError> {
        self.ask_release(Wanted::Queue(wanted))?;
        self.declaring.exclusive(Wanted::Queue(wanted), self.eyes.consume).await?;
        findings.created.push(format!("queue {}", wanted.name));
        Ok(())
    }
}

/// Something that was named differs: a mismatch. Else it is used as it is.
fn adopt(object: String, sight: Sight, findings: &mut Findings) -> Result<(), BrokerError> {
    let Sight { comparison, unknown } = sight;
    if comparison.named.is_empty() {
        findings.adopted.push(Adopted { unknown, ..Adopted::compared(object, comparison) });
        return Ok(());
    }
    Err(BrokerError::Mismatch { object, differences: comparison.named, reason: String::new() })
}
