//! The breaker of publishing: what callers hear while the broker is away, and how publishing begins again.

use std::sync::Arc;
use std::time::Duration;

use sidebus::broker::{BrokerError, Confirm};
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::bench::{Bench, until};

/// Publishes of this many callers at once.
const CALLERS: usize = 64;

async fn all_at_once(bench: &Arc<Bench>, round: usize) -> Vec<Confirm> {
    let mut callers = JoinSet::new();
    for caller in 0..CALLERS {
        let bench = Arc::clone(bench);
        callers.spawn(async move { bench.try_publish(&format!("{round}-{caller}")).await });
    }
    callers.join_all().await
}

/// failures.md P9.
#[tokio::test(start_paused = true)]
async fn callers_hear_at_once_that_the_broker_is_away_and_are_all_served_once_it_is_back() {
    let bench = Arc::new(Bench::start());
    bench.connected().await;
    let gone = BrokerError::SessionLost { reason: "gone".to_owned() };
    bench.broker.faults().refuse_connects(gone);
    bench.broker.faults().break_sessions("gone");
    until("the end of the session", || bench.bridge.link.live().is_none()).await;

    let asked = Instant::now();
    let refused = all_at_once(&bench, 0).await;
    assert_eq!(asked.elapsed(), Duration::ZERO, "nobody waits");
    assert!(refused.iter().all(|confirm| matches!(confirm, Confirm::NotSent(_))), "{refused:?}");

    bench.broker.faults().accept_connects();
    bench.connected().await;
    assert_eq!(all_at_once(&bench, 1).await, vec![Confirm::Stored; CALLERS]);
}
