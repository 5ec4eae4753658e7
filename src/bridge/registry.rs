//! The subscriptions of this sidecar: configured ones and those that handlers bring. Knows no wire.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::mpsc;

use super::link::LinkWatch;
use super::subscription::{self, AttachError, AttachRequest, Attached, Context, Parts, SubscriptionHandle};
use crate::domain::name::SubscriptionName;
use crate::domain::subscription::Subscription;
use crate::runtime::{PhaseWatch, Tasks};

/// Subscriptions that handlers may bring beside the configured ones.
const DECLARED_MAX: usize = 1_000;

/// A running subscription and whether the settings name it.
#[derive(Debug, Clone)]
pub struct Known {
    /// What it was started with.
    pub subscription: Arc<Subscription>,
    /// False = a handler brought it.
    pub is_configured: bool,
}

/// Why a subscription was not started.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeclareError {
    /// Too many were brought already.
    TooMany,
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
    running: Mutex<BTreeMap<SubscriptionName, (SubscriptionHandle, bool)>>,
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

    /// Starts a subscription of the settings.
    pub(super) fn configure(&self, subscription: Subscription) {
        self.start(subscription, true);
    }

    fn start(&self, subscription: Subscription, is_configured: bool) -> Option<SubscriptionHandle> {
        let shared = &self.shared;
        let alive = shared.alive.lock().unwrap_or_else(PoisonError::into_inner).clone()?;
        let mut running = shared.running.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((handle, _)) = running.get(&subscription.name) {
            return Some(handle.clone());
        }
        let parts = Parts {
            context: Arc::clone(&shared.context),
            link: shared.link.clone(),
            phase: shared.phase.clone(),
            alive,
        };
        let name = subscription.name.clone();
        let handle = subscription::start(&shared.tasks, subscription, parts);
        running.insert(name, (handle.clone(), is_configured));
        Some(handle)
    }

    /// The subscription of this name.
    pub fn find(&self, name: &SubscriptionName) -> Option<Known> {
        let running = self.shared.running.lock().unwrap_or_else(PoisonError::into_inner);
        let (handle, is_configured) = running.get(name)?;
        Some(Known { subscription: Arc::clone(&handle.subscription), is_configured: *is_configured })
    }

    /// The names of all subscriptions.
    pub fn names(&self) -> Vec<SubscriptionName> {
        self.shared.running.lock().unwrap_or_else(PoisonError::into_inner).keys().cloned().collect()
    }

    /// Starts a subscription that a handler brings. If one of this name is there meanwhile, it stays.
    ///
    /// # Errors
    /// Handlers have brought too many.
    pub fn declare(&self, subscription: Subscription) -> Result<(), DeclareError> {
        let declared = {
            let running = self.shared.running.lock().unwrap_or_else(PoisonError::into_inner);
            running.values().filter(|(_, is_configured)| !is_configured).count()
        };
        if declared >= DECLARED_MAX {
            return Err(DeclareError::TooMany);
        }
        self.start(subscription, false);
        Ok(())
    }

    /// Joins a subscription; `None` = there is none of this name.
    pub async fn attach(
        &self,
        name: &SubscriptionName,
        request: AttachRequest,
    ) -> Option<Result<Attached, AttachError>> {
        let handle = {
            let running = self.shared.running.lock().unwrap_or_else(PoisonError::into_inner);
            running.get(name)?.0.clone()
        };
        Some(handle.attach(request).await)
    }

    /// Starts no further subscription, so that their end can be waited for.
    pub fn close(&self) {
        self.shared.alive.lock().unwrap_or_else(PoisonError::into_inner).take();
    }
}
