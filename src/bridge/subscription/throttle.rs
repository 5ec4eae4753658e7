//! A queue in front of a bucket of tokens: who waits longest goes next.

use tokio::sync::Mutex;
use tokio::time::{Instant, sleep_until};

use crate::domain::token_bucket::TokenBucket;

/// See the module.
#[derive(Debug)]
pub(super) struct Throttle(Mutex<TokenBucket>);

impl Throttle {
    pub(super) fn new(per_second: u32) -> Self {
        Self(Mutex::new(TokenBucket::new(per_second)))
    }

    /// Waits for a token. Whoever stops waiting has taken none and holds nobody up: the lock is fair and let go.
    pub(super) async fn pass(&self) {
        let mut bucket = self.0.lock().await;
        while !bucket.take(Instant::now().into_std()) {
            let ready_at = bucket.ready_at(Instant::now().into_std());
            sleep_until(Instant::from_std(ready_at)).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use futures_util::FutureExt as _;
    use futures_util::StreamExt as _;
    use futures_util::stream::FuturesUnordered;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn those_who_wait_pass_at_the_rate_and_in_their_order() {
        let (throttle, begun) = (Throttle::new(10), Instant::now());
        let passing = |number: u64| throttle.pass().map(move |()| number);
        let mut waiting: FuturesUnordered<_> = (0..20).map(passing).collect();
        for number in 0..20 {
            assert_eq!(waiting.next().await, Some(number));
            assert_eq!(begun.elapsed().as_millis() / 100, u128::from(number));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn one_that_stops_waiting_takes_no_token() {
        let (throttle, begun) = (Throttle::new(1), Instant::now());
        throttle.pass().await;
        let (given_up, waits) = (throttle.pass(), throttle.pass());
        tokio::pin!(given_up, waits);
        assert!(futures_util::poll!(&mut given_up).is_pending() && futures_util::poll!(&mut waits).is_pending());
        assert!(tokio::time::timeout(Duration::from_millis(500), given_up.as_mut()).await.is_err());
        given_up.set(throttle.pass());
        waits.await;
        assert_eq!(begun.elapsed().as_secs(), 1);
    }
}
