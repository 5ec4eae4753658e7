//! The policy of retries: failures so far → how long to wait, and in which slot. Knows no message and no clock;
//! randomness comes in as numbers.

use std::time::Duration;

use super::delay::Slot;
use super::subscription::{RetryBackoff, RetrySettings};

/// Two random numbers, each at least 0 and below 1.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Draw {
    /// Where in the span of the jitter the delay lies.
    pub spread: f64,
    /// Which of the two slots around that delay serves it.
    pub pick: f64,
}

/// The delay of the policy after `failures` failures (from 1), without jitter; never above `max_backoff`.
fn delay(settings: &RetrySettings, failures: u32) -> Duration {
    let steps = failures.max(1);
    let min = settings.min_backoff.as_secs_f64();
    let grown = match settings.backoff {
        RetryBackoff::Exponential => min * settings.multiplier.powf(f64::from(steps - 1)),
        RetryBackoff::Linear => min * f64::from(steps),
        RetryBackoff::Constant => min,
    };
    // Beyond the cap before it is a duration: a large power is more than one can hold.
    if grown >= settings.max_backoff.as_secs_f64() { settings.max_backoff } else { Duration::from_secs_f64(grown) }
}

/// The slot in which attempt `failures` + 1 waits.
///
/// The jitter picks between different slots: a herd that waits in one slot comes back together, whatever life time each
/// message has. Of the two slots around the drawn delay the nearer one is the likelier, so that the mean is that delay.
/// Without jitter it is the slot that is not too short. Beyond the ends of the ladder (0.1 s, 29.1 h) its end serves.
pub fn slot(settings: &RetrySettings, failures: u32, draw: Draw) -> Slot {
    let planned = delay(settings, failures);
    if settings.jitter <= 0.0 {
        return Slot::at_least(planned).unwrap_or_else(Slot::longest);
    }
    let share = settings.jitter.min(1.0) * (2.0 * draw.spread.clamp(0.0, 1.0) - 1.0);
    Slot::around(planned.mul_f64(1.0 + share), draw.pick)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn policy(backoff: RetryBackoff) -> RetrySettings {
        RetrySettings { backoff, ..RetrySettings::default() }
    }

    #[test]
    fn delays_grow_as_their_kind_says_up_to_the_cap() {
        for (kind, expected) in [
            (RetryBackoff::Exponential, [1, 2, 4, 8, 256, 300, 300]),
            (RetryBackoff::Linear, [1, 2, 3, 4, 9, 300, 300]),
            (RetryBackoff::Constant, [1, 1, 1, 1, 1, 1, 1]),
        ] {
            let found = [1, 2, 3, 4, 9, 301, u32::MAX].map(|failures| delay(&policy(kind), failures).as_secs());
            assert_eq!(found, expected, "{kind:?}");
        }
        assert_eq!(delay(&policy(RetryBackoff::Linear), 0), SECOND, "no failure counts as the first");
        let steep = RetrySettings { multiplier: 100.0, ..RetrySettings::default() };
        assert_eq!(delay(&steep, u32::MAX), steep.max_backoff);
    }

    #[test]
    fn without_jitter_the_slot_is_the_one_that_is_not_too_short() {
        let exact = RetrySettings { jitter: 0.0, ..RetrySettings::default() };
        for pick in [0.0, 0.999] {
            let slot = slot(&exact, 1, Draw { spread: pick, pick });
            assert_eq!(slot.ttl(), Duration::from_millis(1_131));
        }
    }

    #[test]
    fn the_mean_of_all_draws_is_the_planned_delay() {
        for (failures, jitter) in [(1, 0.2), (3, 0.2), (6, 1.0), (9, 0.01)] {
            let settings = RetrySettings { jitter, ..RetrySettings::default() };
            let steps = 200_u32;
            let at = |step: u32| (f64::from(step) + 0.5) / f64::from(steps);
            let draws = (0..steps).flat_map(|a| (0..steps).map(move |b| Draw { spread: at(a), pick: at(b) }));
            let sum: f64 = draws.map(|draw| slot(&settings, failures, draw).ttl().as_secs_f64()).sum();
            let mean = sum / f64::from(steps * steps);
            let planned = delay(&settings, failures).as_secs_f64();
            assert!((mean / planned - 1.0).abs() < 0.01, "{failures} {jitter}: {mean} instead of {planned}");
        }
    }

    #[test]
    fn a_herd_is_spread_over_several_slots() {
        let draws = (0..20).map(|step| Draw { spread: f64::from(step) / 20.0, pick: 0.5 });
        let slots: std::collections::BTreeSet<Slot> =
            draws.map(|draw| slot(&RetrySettings::default(), 4, draw)).collect();
        assert!(slots.len() >= 3, "{slots:?}");
    }

    fn policies() -> impl Strategy<Value = RetrySettings> {
        let kinds =
            prop_oneof![Just(RetryBackoff::Exponential), Just(RetryBackoff::Linear), Just(RetryBackoff::Constant)];
        (kinds, 100_u64..60_000, 1_u64..10_000, 1.0_f64..100.0, 0.0_f64..=1.0).prop_map(
            |(backoff, min, times, multiplier, jitter)| RetrySettings {
                backoff,
                min_backoff: Duration::from_millis(min),
                max_backoff: Duration::from_millis((min * times).min(50_000_000)),
                multiplier,
                jitter,
                ..RetrySettings::default()
            },
        )
    }

    proptest! {
        #[test]
        fn a_slot_lies_within_the_jitter_and_one_slot(
            settings in policies(), failures in any::<u32>(), spread in 0.0_f64..1.0, pick in 0.0_f64..1.0,
        ) {
            let planned = delay(&settings, failures);
            prop_assert!(planned >= settings.min_backoff && planned <= settings.max_backoff);
            let found = slot(&settings, failures, Draw { spread, pick }).ttl().as_secs_f64();
            // A step of the ladder is at most 19 %, and its rounding below a millisecond.
            let least = planned.as_secs_f64() * (1.0 - settings.jitter) / 1.19 - 0.001;
            let most = (planned.as_secs_f64() * (1.0 + settings.jitter) * 1.19 + 0.001).max(0.1);
            prop_assert!((least..=most).contains(&found), "{found} is not in {least}..{most}");
        }

        #[test]
        fn delays_never_shrink(settings in policies(), failures in 1_u32..1_000) {
            prop_assert!(delay(&settings, failures) <= delay(&settings, failures + 1));
        }
    }
}
