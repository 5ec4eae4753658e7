//! The shell around the domain: sessions, subscriptions, publishing. Knows neither which backend nor which wire it
//! serves.

use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::broker::{Broker, LaneRole};
use crate::domain::delivery_id::{ClockTooEarly, DeliveryIds};
use crate::domain::subscription::Subscription;
use crate::domain::topology::{self, Plan, TopologyMode};
use crate::runtime::{PhaseWatch, TaskKind, Tasks, unix_ms};
use crate::telemetry::metrics::CappedLabel;

mod keeper;
mod lane;
mod link;
mod outbox;
mod publisher;
mod registry;
mod subscription;

pub use link::{LinkState, LinkWatch, Live};
pub use outbox::{
    Frame, FrameLimits, Handout, Outbox, RevocationReason, Status, StreamEnd, SubscriptionState, VerdictResult,
};
pub use publisher::{PublishLimits, Publisher, Refusal};
pub use registry::{AllEnded, DeclareError, Registry};
pub use subscription::{AttachError, AttachRequest, Attached, Hangup, Opened, Results, Said, Voice};

/// What a bridge needs.
#[derive(Debug)]
pub struct BridgeSettings {
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
    /// The end of all subscriptions.
    pub all_ended: AllEnded,
}

impl Bridge {
    /// Starts the tasks: keeper, lanes, subscriptions.
    ///
    /// # Errors
    /// The clock is wrong, so delivery ids could repeat.
    pub fn start(settings: BridgeSettings, tasks: &Tasks, phase: &PhaseWatch) -> Result<Self, ClockTooEarly> {
        let ids = DeliveryIds::begin(unix_ms())?;
        let (tell, link) = link::link();
        let shared = Arc::new(settings.shared);
        let own_part = |subscription: &Subscription| {
            let plan = topology::subscription(settings.topology, subscription);
            (subscription.name.clone(), Arc::new(plan))
        };
        let own_parts: Vec<_> = settings.subscriptions.iter().map(own_part).collect();
        let everything: Vec<Arc<Plan>> =
            std::iter::once(Arc::clone(&shared)).chain(own_parts.iter().map(|(_, plan)| Arc::clone(plan))).collect();
        let keeper = keeper::Keeper {
            broker: settings.broker,
            shared: Arc::clone(&shared),
            subscriptions: own_parts.clone(),
            backoff: settings.reconnect,
            close_within: settings.close_within,
        };
        let terms = lane::LaneTerms { role: LaneRole::Settle, batch_max: settings.publish.batch_max };
        let copies = lane::start(tasks, link.clone(), phase.clone(), terms);
        let context = Arc::new(subscription::Context {
            ids: Mutex::new(ids),
            streams: AtomicU64::new(1),
            copies,
            namespace: settings.namespace,
            by: settings.by,
            topology: settings.topology,
            shared: Arc::clone(&shared),
            drain_grace: settings.drain_grace,
            labels: CappedLabel::default(),
        });
        let (registry, all_ended) = Registry::new(tasks.clone(), context, link.clone(), phase.clone());
        for subscription in settings.subscriptions {
            registry.configure(subscription);
        }
        let publisher = Publisher::start(tasks, &link, phase.clone(), (settings.publish, everything));
        tasks.spawn(TaskKind::Keeper, "broker", keeper.run(tell, phase.clone()));
        Ok(Self { link, registry, publisher, all_ended })
    }
}
