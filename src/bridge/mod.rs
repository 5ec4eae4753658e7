//! The shell around the domain: sessions, subscriptions, publishing. Knows neither which backend nor which wire it
//! serves.

use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::broker::Broker;
use crate::domain::delivery_id::DeliveryIds;
use crate::domain::subscription::Subscription;
use crate::domain::topology::{Plan, TopologyMode};
use crate::runtime::{PhaseWatch, TaskKind, Tasks};
use crate::telemetry::metrics::CappedLabel;

mod administration;
mod gate;
mod keeper;
mod lane;
mod link;
mod objects;
mod outbox;
mod permits;
mod pipe;
mod publisher;
mod registry;
mod renewal;
mod scope;
mod subscription;
mod wish;

pub use administration::{
    Administration, AdministrationError, Missing, Owner, PlanOwner, Rehearsal, StepDone, StepOutcome, Wanted,
};
pub use link::{LinkState, LinkWatch, Live};
pub use outbox::{
    Frame, FrameLimits, Handout, Outbox, RevocationReason, Status, StreamEnd, SubscriptionState, VerdictResult,
};
pub use pipe::{Answer, Outcome, PipeInput, PipeOutput, PipeWindow, PublisherState, PublisherWatch};
pub use publisher::{PublishLimits, Publisher, Refusal};
pub use registry::{AllEnded, DeclareError, Idle, Registry};
pub use subscription::{AttachError, AttachRequest, Attached, Hangup, Opened, Results, Said, Voice};
pub use wish::{BindingSource, Known};

/// What a bridge needs.
#[derive(Debug)]
pub struct BridgeSettings {
    /// The numbers of this run's deliveries.
    pub ids: Arc<Mutex<DeliveryIds>>,
    /// The broker.
    pub broker: Arc<dyn Broker>,
    /// What all subscriptions share on it.
    pub shared: Plan,
    /// Whether missing objects are declared.
    pub topology: TopologyMode,
    /// Prefix of the delay slots.
    pub namespace: String,
    /// This sidecar and its version, for dead letters.
    pub by: String,
    /// The wall clock, in milliseconds since 1970.
    pub now_ms: fn() -> u64,
    /// Configured subscriptions.
    pub subscriptions: Vec<Subscription>,
    /// Shortest and longest wait between two connects.
    pub reconnect: (Duration, Duration),
    /// How long a session may take to close.
    pub close_within: Duration,
    /// What is left for handlers when we stop.
    pub drain_grace: Duration,
    /// Limits of publishing.
    pub publish: PublishLimits,
}

/// A running bridge.
#[derive(Debug)]
pub struct Bridge {
    /// The link to the broker.
    pub link: LinkWatch,
    /// The subscriptions.
    pub registry: Registry,
    /// Publishing.
    pub publisher: Publisher,
    /// What an administrator may see and change.
    pub administration: Administration,
    /// The end of all subscriptions.
    pub all_ended: AllEnded,
}

impl Bridge {
    /// Starts the tasks: keeper, lanes, subscriptions.
    pub fn start(settings: BridgeSettings, tasks: &Tasks, phase: &PhaseWatch) -> Self {
        let (tell, link) = link::link();
        let shared = Arc::new(settings.shared);
        let objects = objects::Objects::default();
        let context = Arc::new(subscription::Context {
            ids: settings.ids,
            streams: AtomicU64::new(1),
            copies_max: settings.publish.batch_max,
            namespace: settings.namespace,
            by: settings.by,
            now_ms: settings.now_ms,
            topology: settings.topology,
            shared: Arc::clone(&shared),
            objects: objects.clone(),
            drain_grace: settings.drain_grace,
            labels: CappedLabel::default(),
        });
        let (registry, all_ended) = Registry::new(tasks.clone(), context, link.clone(), phase.clone());
        for subscription in settings.subscriptions {
            registry.configure(subscription);
        }
        let keeper = keeper::Keeper {
            broker: settings.broker,
            shared: Arc::clone(&shared),
            registry: registry.clone(),
            objects,
            backoff: settings.reconnect,
            close_within: settings.close_within,
            tasks: tasks.clone(),
        };
        let topology = (Arc::clone(&shared), registry.clone());
        let publisher = Publisher::start(tasks, &link, phase, (settings.publish, topology));
        let administration = Administration::new(registry.clone(), link.clone(), (settings.topology, shared));
        tasks.spawn(TaskKind::Keeper, "broker", keeper.run(tell, phase.clone()));
        Self { link, registry, publisher, administration, all_ended }
    }
}
