//! The subscriptions of this sidecar: configured ones and those that handlers bring. Knows no wire.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::mpsc;

use super::lane::{self, LaneTerms};
use super::link::LinkWatch;
use super::objects::{Objects, PlanOf};
use super::subscription::{self, AttachError, AttachRequest, Attached, Context, Kept, Parts, SubscriptionHandle};
use super::wish::{HeldPlan, Wish};
use crate::broker::LaneRole;
use crate::domain::name::SubscriptionName;
use crate::domain::subscription::{Clash, Subscription};
use crate::runtime::{PhaseWatch, Tasks};

/// Why nothing is handed out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Idle {
    /// No handler is connected.
    NoHandler,
    /// It is paused, for this reason.
    Paused(String),
}

/// Subscriptions that handlers may bring beside the configured ones.
const DECLARED_MAX: usize = 1_000;

/// Why a subscription was not started.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DeclareError {
    /// Too many are there already.
    TooMany {
        /// How many may be there.
        limit: usize,
    },
    /// Another subscription here uses one of its queues.
    Clash {
        /// Which one.
        other: SubscriptionName,
        /// How.
        clash: Clash,
    },
}

/// A running subscription, who brought it and what it wants.
#[derive(Debug, Clone)]
pub(super) struct KnownSubscription {
    pub(super) subscription: Arc<Subscription>,
    pub(super) kept: Kept,
    pub(super) wish: Wish,
}

impl KnownSubscription {
    /// Whose plan its wish is.
    pub(super) fn owner(&self) -> PlanOf {
        PlanOf::Subscription(self.subscription.name.clone())
    }
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
        let subscription = Arc::new(subscription);
        let terms =
            LaneTerms { role: LaneRole::Settle, batch_max: shared.context.copies_max, gate: None, silences: None };
        let parts = Parts {
            lane: lane::start(&shared.tasks, shared.link.clone(), shared.phase.clone(), terms),
            wish: Wish::new(shared.context.topology, Arc::clone(&subscription), Arc::clone(&shared.context.shared)),
            context: Arc::clone(&shared.context),
            link: shared.link.clone(),
            phase: shared.phase.clone(),
            kept,
            told: Arc::default(),
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

    /// Those without a handler, for which nothing is consumed, and those that are paused, with the reason.
    pub fn idle(&self) -> Vec<(SubscriptionName, Idle)> {
        let why = |handle: &SubscriptionHandle| {
            let pause = handle.told.pause.lock().unwrap_or_else(PoisonError::into_inner).clone();
            let is_alone = handle.told.handlers.load(Ordering::Relaxed) == 0;
            pause.map(Idle::Paused).or_else(|| is_alone.then_some(Idle::NoHandler))
        };
        self.running().iter().filter_map(|(name, (handle, _))| Some((name.clone(), why(handle)?))).collect()
    }

    /// Its plan, to be carried out again; `None` = it has ended, or its queue still belongs to the session that was
    /// replaced.
    pub(super) async fn hold(&self, known: &KnownSubscription) -> Option<HeldPlan> {
        let held = known.wish.hold().await;
        let is_locked = known.subscription.queue.is_exclusive() && self.shared.link.is_closing_former();
        (!is_locked && self.find(&known.subscription.name).is_some()).then_some(held)
    }

    /// What is known of the objects on the broker.
    pub(super) fn objects(&self) -> &Objects {
        &self.shared.context.objects
    }

    /// What every subscription is and wants now, by name.
    pub(super) fn known(&self) -> Vec<KnownSubscription> {
        let known = |(handle, kept): &(SubscriptionHandle, Kept)| KnownSubscription {
            subscription: Arc::clone(&handle.subscription),
            kept: *kept,
            wish: handle.wish.clone(),
        };
        self.running().values().map(known).collect()
    }

    /// Starts a subscription that a handler brings; it ends with its last handler. If one of this name is there
    /// meanwhile, that one stays.
    ///
    /// # Errors
    /// Handlers have brought too many, or it would use a queue of another.
    pub fn declare(&self, subscription: Subscription) -> Result<(), DeclareError> {
        let mut running = self.running();
        if running.values().filter(|(_, kept)| *kept == Kept::WhileUsed).count() >= DECLARED_MAX {
            return Err(DeclareError::TooMany { limit: DECLARED_MAX });
        }
        let others = running.values().map(|(handle, _)| &handle.subscription);
        for other in others.filter(|other| other.name != subscription.name) {
            if let Some(clash) = subscription.clash(other) {
                return Err(DeclareError::Clash { other: other.name.clone(), clash });
            }
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
