//! Nodes that tests may change or kill, each started when the first test asks for it.

use tokio::sync::{Mutex, MutexGuard, OnceCell};

use super::rabbitmq::{BrokerHandle, shared};

/// A node that tests may ask and change with `rabbitmqctl`: the shared one if it is ours, else a private one beside it.
pub(crate) async fn managed() -> &'static BrokerHandle {
    static BESIDE: OnceCell<BrokerHandle> = OnceCell::const_new();
    match &shared().await.node {
        Some(node) => node,
        None => BESIDE.get_or_init(BrokerHandle::start).await,
    }
}

/// A node for one test at a time, which may kill it; it is running when the next test gets it.
pub(crate) async fn mortal() -> MutexGuard<'static, BrokerHandle> {
    static MORTAL: OnceCell<Mutex<BrokerHandle>> = OnceCell::const_new();
    let node = MORTAL.get_or_init(async || Mutex::new(BrokerHandle::start().await)).await;
    let mut node = node.lock().await;
    if !node.is_running() {
        node.restart().await;
    }
    node
}
