//! From settings to what is wanted on the broker. Opens nothing.

use crate::config::Settings;
use crate::domain::desired::Desired;
use crate::domain::subscription::Subscription;
use crate::domain::topology::{self, Plan};

/// Everything that a sidecar with these settings wants on its broker.
pub fn desired(settings: &Settings) -> Desired {
    let own = |subscription: &Subscription| {
        (subscription.name.clone(), topology::subscription(settings.topology, subscription))
    };
    Desired::new(shared(settings), settings.subscriptions.iter().map(own))
}

/// What all subscriptions share.
pub(super) fn shared(settings: &Settings) -> Plan {
    topology::shared(settings.topology, settings.exchange.clone(), &settings.exchanges, &settings.dead_letter)
}
