//! What the broker may send ahead, and when it is told a change of it. Knows no clock: time comes in.

use std::time::{Duration, Instant};

/// Changes of the windows are gathered so long before the broker is told: each telling is three round trips.
pub const GATHERED_FOR: Duration = Duration::from_millis(200);

/// What the broker may send ahead: the sum of the effective windows, at most the cap; `None` = nobody wants anything.
pub fn prefetch(windows: impl Iterator<Item = u32>, cap: u16) -> Option<u16> {
    let sum: u64 = windows.map(u64::from).sum();
    let capped = sum.min(u64::from(cap));
    u16::try_from(capped).ok().filter(|count| *count > 0)
}

/// Decides when the broker is told a change. It lives as long as what it was told last.
#[derive(Debug)]
pub struct Gathering {
    told: u16,
    /// Differs enough, and is told then.
    due: Option<Instant>,
}

impl Gathering {
    /// The broker was told this.
    pub fn new(told: u16) -> Self {
        Self { told, due: None }
    }

    /// What the broker knows.
    pub fn told(&self) -> u16 {
        self.told
    }

    /// When to ask again, if nothing else happens.
    pub fn due(&self) -> Option<Instant> {
        self.due
    }

    /// Answers true when the broker is to be told `wanted` now. A difference of less than a quarter of what it knows is not
    /// worth the round trips: the windows bound what is handed out anyway. A larger one is told [`GATHERED_FOR`] after it
    /// began, with what is wanted then, and at once if it is urgent; an urgent one may be as small as it likes.
    pub fn is_told(&mut self, now: Instant, wanted: u16, is_urgent: bool) -> bool {
        let difference = self.told.abs_diff(wanted);
        if difference == 0 || !is_urgent && difference < self.told.div_ceil(4) {
            self.due = None;
            return false;
        }
        let due = *self.due.get_or_insert(now + GATHERED_FOR);
        is_urgent || now >= due
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn prefetch_is_the_capped_sum_of_the_effective_windows() {
        assert_eq!(prefetch([100, 0, 50].into_iter(), 2_000), Some(150));
        assert_eq!(prefetch([100].into_iter(), 20), Some(20));
        assert_eq!(prefetch([0].into_iter(), 20), None);
        assert_eq!(prefetch([u32::MAX; 3].into_iter(), u16::MAX), Some(u16::MAX));
    }

    #[expect(clippy::disallowed_methods, reason = "a test has to begin somewhere in time")]
    fn begin() -> Instant {
        Instant::now()
    }

    #[test]
    fn a_change_is_told_once_the_handlers_that_come_together_have_come() {
        let begun = begin();
        let at = |ms| begun + Duration::from_millis(ms);
        let mut gathering = Gathering::new(100);
        assert!(!gathering.is_told(at(0), 200, false));
        assert!(!gathering.is_told(at(199), 800, false));
        assert_eq!(gathering.due(), Some(at(200)), "counted from the first of them");
        assert!(gathering.is_told(at(200), 800, false));
    }

    #[test]
    fn what_is_urgent_is_told_at_once_however_small_and_what_is_told_already_never() {
        let begun = begin();
        let mut gathering = Gathering::new(100);
        assert!(gathering.is_told(begun, 101, true));
        assert!(!gathering.is_told(begun, 100, true));
        assert_eq!(gathering.due(), None);
    }

    #[test]
    fn a_difference_of_less_than_a_quarter_waits_until_it_has_grown_and_delays_no_larger_one() {
        let begun = begin();
        let at = |ms| begun + Duration::from_millis(ms);
        let mut gathering = Gathering::new(100);
        assert!(!gathering.is_told(at(0), 76, false));
        assert_eq!(gathering.due(), None, "nothing to look at again: the next change of a window asks");
        assert!(!gathering.is_told(at(1_000), 75, false));
        assert!(gathering.is_told(at(1_200), 75, false), "two hundred milliseconds after it was large enough");
        let mut alone = Gathering::new(1);
        assert!(!alone.is_told(at(0), 2, false));
        assert!(alone.is_told(at(200), 2, false), "of one, each difference is large");
    }

    #[test]
    fn a_change_that_is_taken_back_in_time_is_never_told() {
        let begun = begin();
        let at = |ms| begun + Duration::from_millis(ms);
        let mut gathering = Gathering::new(100);
        assert!(!gathering.is_told(at(0), 200, false));
        assert!(!gathering.is_told(at(100), 100, false));
        assert!(!gathering.is_told(at(250), 200, false), "a new change, with a new beginning");
        assert_eq!(gathering.due(), Some(at(450)));
    }

    proptest! {
        /// Whatever is wanted when: the broker never stays a quarter behind for longer than the gathering, it is told nothing
        /// that it knows, and not told more often than once in that time.
        #[test]
        fn the_broker_is_never_far_behind_for_long_and_never_told_more_often(
            told in 1_u16..2_000,
            steps in prop::collection::vec((0_u64..150, 1_u16..2_000), 1..200),
        ) {
            let mut now = begin();
            let mut gathering = Gathering::new(told);
            let (mut behind_since, mut told_at): (Option<(Instant, u16)>, Option<Instant>) = (None, None);
            for (wait, wanted) in steps {
                // The owner asks again when it is due.
                let then = now + Duration::from_millis(wait);
                let asked = gathering.due().zip(behind_since).filter(|(due, _)| *due <= then);
                let asked = asked.map(|(due, (_, wanted))| (due, wanted));
                for (at, wanted) in asked.into_iter().chain([(then, wanted)]) {
                    now = at;
                    let far = gathering.told().abs_diff(wanted) >= gathering.told().div_ceil(4);
                    if gathering.is_told(now, wanted, false) {
                        prop_assert!(far);
                        prop_assert!(told_at.is_none_or(|told_at| now.duration_since(told_at) >= GATHERED_FOR));
                        (told_at, behind_since) = (Some(now), None);
                        gathering = Gathering::new(wanted);
                    } else {
                        let since = behind_since.map_or(now, |(since, _)| since);
                        behind_since = far.then_some((since, wanted));
                        prop_assert!(!far || now.duration_since(since) < GATHERED_FOR);
                        prop_assert_eq!(gathering.due(), far.then_some(since + GATHERED_FOR));
                    }
                }
            }
        }
    }
}
