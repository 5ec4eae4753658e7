//! So many in a second, and a few at once. Knows no clock.

use std::time::{Duration, Instant};

const SECOND: Duration = Duration::from_secs(1);
/// What may go at once after a rest: the tokens of so much of a second, so that a second never sees much more than its rate.
const BURSTS_IN_A_SECOND: u32 = 10;

/// A bucket of tokens. Begins full.
#[derive(Debug)]
pub struct TokenBucket {
    /// From one token to the next.
    interval: Duration,
    /// How far `full_at` may lie ahead when one is taken.
    slack: Duration,
    /// When it is full again; `None` = it has always been.
    full_at: Option<Instant>,
}

impl TokenBucket {
    /// At least one token a second.
    pub fn new(per_second: u32) -> Self {
        let per_second = per_second.max(1);
        let interval = SECOND / per_second;
        Self { interval, slack: interval * (per_second / BURSTS_IN_A_SECOND).saturating_sub(1), full_at: None }
    }

    /// When there is a token, now or later.
    pub fn ready_at(&self, now: Instant) -> Instant {
        // An instant so early that it cannot be told has passed.
        self.full_at.and_then(|at| at.checked_sub(self.slack)).map_or(now, |at| at.max(now))
    }

    /// Takes a token; false = there is none yet.
    pub fn take(&mut self, now: Instant) -> bool {
        let is_ready = self.ready_at(now) <= now;
        if is_ready {
            self.full_at = Some(self.full_at.map_or(now, |at| at.max(now)) + self.interval);
        }
        is_ready
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[expect(clippy::disallowed_methods, reason = "a test has to begin somewhere in time")]
    fn start() -> Instant {
        Instant::now()
    }

    #[test]
    fn after_a_rest_a_tenth_of_a_second_goes_at_once_and_then_the_rate() {
        let (mut bucket, now) = (TokenBucket::new(1_000), start());
        assert_eq!((0..1_000).filter(|_| bucket.take(now)).count(), 100);
        assert_eq!(bucket.ready_at(now), now + Duration::from_millis(1));
        assert_eq!((0..1_000).filter(|_| bucket.take(now + Duration::from_millis(50))).count(), 50);
        assert_eq!((0..1_000).filter(|_| bucket.take(now + SECOND)).count(), 100);
    }

    #[test]
    fn a_slow_one_gives_one_at_a_time() {
        let (mut bucket, now) = (TokenBucket::new(2), start());
        assert!(bucket.take(now) && !bucket.take(now) && !bucket.take(now + Duration::from_millis(499)));
        assert!(bucket.take(now + Duration::from_millis(500)));
    }

    proptest! {
        #[test]
        fn who_takes_all_there_is_gets_the_rate_and_no_more(
            per_second in 1_u32..2_000,
            waits in prop::collection::vec(0_u64..1_000_000, 1..30),
        ) {
            let (mut bucket, begin) = (TokenBucket::new(per_second), start());
            let mut now = begin;
            let mut taken = 0_u32;
            let at_once = (per_second / 10).max(1);
            for micros in waits {
                now += Duration::from_micros(micros);
                let before = taken;
                while bucket.take(now) {
                    taken += 1;
                }
                prop_assert!(bucket.ready_at(now) > now, "nothing is left");
                prop_assert!(taken - before <= at_once, "{} at once", taken - before);
                let due = (now - begin).as_secs_f64() * f64::from(per_second);
                // A nanosecond is lost where the rate does not divide the second.
                prop_assert!(f64::from(taken) <= due * 1.000_1 + f64::from(at_once) + 0.01, "{taken} and not {due}");
            }
            let soonest = bucket.ready_at(now);
            prop_assert!(soonest <= now + SECOND / per_second, "the next one is due after one interval");
        }
    }
}
