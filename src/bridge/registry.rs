//! The subscriptions of this sidecar: configured ones and those that handlers bring. Knows no wire.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::mpsc;

use super::link::LinkWatch;
use super::subscription::{self, AttachError, AttachRequest, Attached, Context, Kept, Parts, SubscriptionHandle};
use crate::domain::name::SubscriptionName;
use crate::domain::subscription::Subscription;
use crate::runtime::{PhaseWatch, Tasks};

/// Subscriptions that handlers may bring beside the configured ones.
const DECLARED_MAX: usize = 1_000;

/// Why a subscription was not started.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeclareError {
    /// Too many are there already.
    TooMany {
        /// How many may be there.
        limit: usize,
    },
}

/// The subscriptions of this process. Clones share them.
#[derive(Debug, Clone)]
pub struct Registry {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    tasks: Tasks,
    context: Arc<Context>,
    link: LinkWatch,
    phase: PhaseWatch,
    alive: Mutex<Option<mpsc::Sender<std::convert::Infallible>>>,
    running: Mutex<BTreeMap<SubscriptionName, (SubscriptionHandle, Kept)>>,
}

/// Waits for the end of all subscriptions.
#[derive(Debug)]
pub struct AllEnded(mpsc::Receiver<std::convert::Infallible>);

impl AllEnded {
    /// Waits until every subscription has ended. Cancel-safe.
    pub async fn wait(&mut self) {
        while self.0.recv().await.is_some() {}
    }
}

impl Registry {
    pub(super) fn new(tasks: Tasks, context: Arc<Context>, link: LinkWatch, phase: PhaseWatch) -> (Self, AllEnded) {
        let (alive, ended) = mpsc::channel(1);
        let (alive, running) = (Mutex::new(Some(alive)), Mutex::new(BTreeMap::new()));
        let shared = Arc::new(Shared { tasks, context, link, phase, alive, running });
        (Self { shared }, AllEnded(ended))
    }

    fn running(&self) -> MutexGuard<'_, BTreeMap<SubscriptionName, (SubscriptionHandle, Kept)>> {
        let mut running = self.shared.running.lock().unwrap_or_else(PoisonError::into_inner);
        running.retain(|_, (handle, _)| !handle.has_ended());
        running
    }

    /// Starts a subscription of the settings.
    pub(super) fn configure(&self, subscription: Subscription) {
        let mut running = self.running();
        self.start(&mut running, subscription, Kept::Always);
    }

    fn start(
        &self,
        running: &mut BTreeMap<SubscriptionName, (SubscriptionHandle, Kept)>,
        subscription: Subscription,
        kept: Kept,
    ) {
        let shared = &self.shared;
        let Some(alive) = shared.alive.lock().unwrap_or_else(PoisonError::into_inner).clone() else { return };
        if running.contains_key(&subscription.name) {
            return;
        }
        let parts = Parts {
            context: Arc::clone(&shared.context),
            link: shared.link.clone(),
            phase: shared.phase.clone(),
            kept,
            alive,
        };
        let name = subscription.name.clone();
        running.insert(name, (subscription::start(&shared.tasks, subscription, parts), kept));
    }

    /// The running subscription of this name, as it was started.
    pub fn find(&self, name: &SubscriptionName) -> Option<Arc<Subscription>> {
        self.running().get(name).map(|(handle, _)| Arc::clone(&handle.subscription))
    }

    /// The names of the subscriptions that the settings name.
    pub fn configured(&self) -> Vec<SubscriptionName> {
        let running = self.running();
        running.iter().filter(|(_, (_, kept))| *kept == Kept::Always).map(|(name, _)| name.clone()).collect()
    }

    /// Starts a subscription that a handler brings; it ends with its last handler. If one of this name is there
    /// meanwhile, that one stays.
    ///
    /// # Errors
    /// Handlers have brought too many.
    pub fn declare(&self, subscription: Subscription) -> Result<(), DeclareError> {
        let mut running = self.running();
        if running.values().filter(|(_, kept)| *kept == Kept::WhileUsed).count() >= DECLARED_MAX {
            return Err(DeclareError::TooMany { limit: DECLARED_MAX });
        }
        self.start(&mut running, subscription, Kept::WhileUsed);
        Ok(())
    }

    /// Joins a subscription.
    ///
    /// # Errors
    /// It takes no more handlers, the sidecar stops, or there is none of this name (any more).
    pub async fn attach(&self, name: &SubscriptionName, request: AttachRequest) -> Result<Attached, AttachError> {
        let handle = self.running().get(name).map(|(handle, _)| handle.clone());
        match handle {
            Some(handle) => handle.attach(request).await,
            None => Err(AttachError::Gone),
        }
    }

    /// Starts no further subscription, so that their end can be waited for.
    pub fn close(&self) {
        self.shared.alive.lock().unwrap_or_else(PoisonError::into_inner).take();
    }
}
