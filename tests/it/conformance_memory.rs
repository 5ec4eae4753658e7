//! The embedded broker passes the conformance suite, on paused time: what has to wait costs nothing, and a hang ends at
//! once.

use std::sync::Arc;

use futures_util::future::BoxFuture;
use sidebus::broker::Broker;
use sidebus::broker::conformance::Lab;
use sidebus::broker::memory::{MemoryBroker, MemoryOptions};
use sidebus::domain::name::QueueName;

pub(crate) struct MemoryLab(pub(crate) MemoryBroker);

impl Lab for MemoryLab {
    fn broker(&self) -> Arc<dyn Broker> {
        Arc::new(self.0.clone())
    }

    fn name(&self, stem: &str) -> String {
        // Every lab has a broker of its own, so nobody else can use a name.
        format!("t-{stem}")
    }

    fn break_sessions(&self) -> BoxFuture<'_, ()> {
        Box::pin(async { self.0.faults().break_sessions("cut by the lab") })
    }

    fn delete_queue(&self, queue: &QueueName) -> BoxFuture<'_, ()> {
        let queue = queue.clone();
        Box::pin(async move { assert!(self.0.faults().delete_queue(&queue), "there is no queue {queue}") })
    }
}

async fn make_lab() -> Arc<dyn Lab> {
    tokio::time::pause();
    Arc::new(MemoryLab(MemoryBroker::new(MemoryOptions { bytes_max: 256 << 20 })))
}

sidebus::conformance_cases!(make_lab);
