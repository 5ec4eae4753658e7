//! The settling half of a consumer: receipts become frames, frames become answers. Knows no delivery.

use std::fmt;
use std::sync::Arc;

use futures_util::future::{BoxFuture, FutureExt};
use tokio::time::{Instant, timeout_at};

use super::channel::ConsumeChannel;
use super::started::Started;
use crate::broker::{Proof, Receipt, Settled, Settlement, Settler};
use crate::domain::coalesce::Outcome;

/// Settles on one channel.
pub(super) struct AmqpSettler(Arc<ConsumeChannel>);

impl AmqpSettler {
    pub(super) fn new(shared: Arc<ConsumeChannel>) -> Self {
        Self(shared)
    }
}

impl fmt::Debug for AmqpSettler {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AmqpSettler").field("queue", &self.0.queue).finish_non_exhaustive()
    }
}

impl Settler for AmqpSettler {
    fn channel(&self) -> u64 {
        self.0.number
    }

    fn settle(&mut self, batch: Vec<(Receipt, Settlement)>, proof: Proof) -> BoxFuture<'_, Vec<Settled>> {
        async move { settle(&self.0, batch, proof).await }.boxed()
    }
}

/// Settles a batch; answers in its order.
///
/// Where any frame failed nobody knows which ones the broker read, so the whole batch is stale: what was read all the
/// same never comes again, what was not does, and either is in order for whoever is told "stale". Whoever remembers one as
/// done must know that it may never come.
pub(super) async fn settle(shared: &ConsumeChannel, batch: Vec<(Receipt, Settlement)>, proof: Proof) -> Vec<Settled> {
    let ours = |receipt: &Receipt| receipt.session() == shared.session && receipt.channel() == shared.number;
    let wanted: Vec<(u64, Outcome)> = batch
        .iter()
        .filter(|(receipt, _)| ours(receipt))
        .map(|(receipt, settlement)| (receipt.tag(), outcome(*settlement)))
        .collect();
    if wanted.is_empty() || !shared.is_alive() {
        return vec![Settled::Stale; batch.len()];
    }
    let written = shared.write(&wanted, proof);
    let mut repeated = written.repeated;
    if !finish(shared, written.calls).await {
        return vec![Settled::Stale; batch.len()];
    }
    let mut answer = |receipt: &Receipt| {
        let again = repeated.iter().position(|tag| *tag == receipt.tag());
        match again {
            Some(index) => {
                repeated.swap_remove(index);
                Settled::Stale
            }
            None if ours(receipt) => Settled::Applied,
            None => Settled::Stale,
        }
    };
    batch.iter().map(|(receipt, _)| answer(receipt)).collect()
}

/// True if every call succeeded in time. After a passed deadline the connection is cut: frames that may still be
/// written later would settle what somebody else holds by then.
async fn finish(shared: &ConsumeChannel, mut calls: Vec<Started<'_, ()>>) -> bool {
    let deadline = Instant::now() + shared.operation_timeout;
    for call in &mut calls {
        if timeout_at(deadline, call.finish()).await.is_err() {
            shared.cut();
            return false;
        }
    }
    calls.into_iter().all(|call| matches!(call.result(), Some(Ok(()))))
}

fn outcome(settlement: Settlement) -> Outcome {
    match settlement {
        Settlement::Ack => Outcome::Ack,
        Settlement::GiveBack => Outcome::GiveBack,
    }
}
