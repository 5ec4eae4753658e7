//! The phases of a process's life, told to every task. Knows nothing of what a task does in them.

use tokio::sync::watch;

/// Phases in their order; there is no way back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Phase {
    /// All doors open.
    Running,
    /// Readiness is off; nothing else has changed.
    Notice,
    /// Consumers are cancelled, new streams refused; publishes still go.
    Intake,
    /// Handlers finish what they hold.
    Drain,
    /// What is unsettled goes back to the broker.
    GiveBack,
    /// Confirms, connections, servers.
    Close,
}

/// Moves the phase forward. One owner: the composition root.
#[derive(Debug)]
pub struct Phases(watch::Sender<Phase>);

/// Sees the phase. Clones are cheap.
#[derive(Debug, Clone)]
pub struct PhaseWatch(watch::Receiver<Phase>);

impl Default for Phases {
    fn default() -> Self {
        Self(watch::Sender::new(Phase::Running))
    }
}

impl Phases {
    /// Enters a phase; an earlier one than the present changes nothing.
    pub fn enter(&self, phase: Phase) {
        self.0.send_if_modified(|now| {
            let forward = phase > *now;
            if forward {
                *now = phase;
            }
            forward
        });
    }

    /// A watcher of the phase.
    pub fn watch(&self) -> PhaseWatch {
        PhaseWatch(self.0.subscribe())
    }
}

impl PhaseWatch {
    /// The phase now.
    pub fn now(&self) -> Phase {
        *self.0.borrow()
    }

    /// Waits for another phase than the one last seen here; for ever if nobody can move it any more. Cancel-safe.
    pub async fn changed(&mut self) -> Phase {
        if self.0.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
        *self.0.borrow_and_update()
    }

    /// Waits until the phase is this one or a later one. Cancel-safe.
    pub async fn reached(&mut self, phase: Phase) {
        if self.0.wait_for(|now| *now >= phase).await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn phases_go_forward_only() {
        let phases = Phases::default();
        let mut watch = phases.watch();
        phases.enter(Phase::Drain);
        phases.enter(Phase::Intake);
        assert_eq!(watch.changed().await, Phase::Drain);
        watch.reached(Phase::Notice).await;
        assert_eq!(watch.now(), Phase::Drain);
    }
}
