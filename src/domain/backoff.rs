//! How long to wait before the next try. Knows no clock; randomness comes in as a number.

use std::time::Duration;

/// The wait after `failures` failures in a row (from 1): exponential from `min` to `max` with full jitter, where
/// `random` lies in 0..1. Full jitter spreads a herd of sidecars that lost the same broker at the same moment; never
/// under a fifth of the ceiling, so that a dead broker is not hammered.
pub fn full_jitter(failures: u32, (min, max): (Duration, Duration), random: f64) -> Duration {
    let doubled = min.saturating_mul(2_u32.saturating_pow(failures.saturating_sub(1).min(20)));
    let ceiling = doubled.clamp(min, max.max(min));
    ceiling.mul_f64(0.2 + 0.8 * random.clamp(0.0, 1.0))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const BOUNDS: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(10));

    #[test]
    fn the_ceiling_doubles_up_to_the_maximum() {
        for (failures, expected_ms) in [(1, 200), (2, 400), (3, 800), (7, 10_000), (1_000, 10_000)] {
            assert_eq!(full_jitter(failures, BOUNDS, 1.0), Duration::from_millis(expected_ms), "{failures}");
        }
    }

    proptest! {
        #[test]
        fn no_wait_is_zero_or_beyond_the_maximum(failures in any::<u32>(), random in 0.0_f64..1.0) {
            let wait = full_jitter(failures, BOUNDS, random);
            prop_assert!(wait >= Duration::from_millis(40) && wait <= BOUNDS.1);
        }
    }
}
