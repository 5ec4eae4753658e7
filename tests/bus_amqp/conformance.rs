//! The suite that every backend passes, on RabbitMQ.

use std::sync::Arc;

use sidebus::broker::conformance::Lab;

use crate::lab::RabbitLab;

async fn lab() -> Arc<dyn Lab> {
    Arc::new(RabbitLab::new().await)
}

sidebus::conformance_cases!(lab);
