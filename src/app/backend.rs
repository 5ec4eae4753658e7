//! From settings to the broker behind the port. Knows no door.

use std::sync::Arc;

use super::StartError;
use crate::broker::Broker;
use crate::broker::memory::{MemoryBroker, MemoryOptions};
use crate::config::{AmqpSettings, Backend, Settings};

/// The broker that the settings name; opens nothing yet.
///
/// # Errors
/// Its backend is not in this build.
pub fn broker(settings: &Settings) -> Result<Arc<dyn Broker>, StartError> {
    match &settings.backend {
        Backend::Memory { bytes_max } => Ok(Arc::new(MemoryBroker::new(MemoryOptions { bytes_max: *bytes_max }))),
        Backend::Amqp(amqp) => rabbitmq(amqp, settings),
    }
}

#[cfg(not(feature = "amqp"))]
fn rabbitmq(_: &AmqpSettings, _: &Settings) -> Result<Arc<dyn Broker>, StartError> {
    Err(StartError::NotBuilt("amqp"))
}

#[cfg(feature = "amqp")]
#[expect(clippy::unnecessary_wraps, reason = "builds without the feature answer with an error")]
fn rabbitmq(amqp: &AmqpSettings, settings: &Settings) -> Result<Arc<dyn Broker>, StartError> {
    Ok(Arc::new(super::rabbitmq::broker(amqp, settings)))
}
