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

/// How much a change is needed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Need {
    /// Not now, whatever it is.
    None,
    /// If it is large. What is sent ahead too much is bounded by the windows anyway, and what is sent too little comes as soon
    /// as something is settled.
    Usual,
    /// However small it is: nothing will be settled soon.
    Exact,
    /// The same, and at once.
    Urgent,
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

    /// Answers true when the broker is to be told `wanted` now. A difference of less than a quarter of what it knows is usually
    /// not worth the round trips. What is worth them is told [`GATHERED_FOR`] after it began to be, with what is wanted then. To
    /// be called whenever anything may have changed, also where nothing is needed: a moment that has passed and that nobody
    /// acts on would wake its owner without end.
    pub fn tells(&mut self, now: Instant, wanted: u16, need: Need) -> bool {
        let difference = self.told.abs_diff(wanted);
        let least = match need {
            Need::None => u16::MAX,
            Need::Usual => self.told.div_ceil(4),
            Need::Exact | Need::Urgent => 1,
        };
        if difference == 0 || difference < least {
            self.due = None;
            return false;
        }
        let due = *self.due.get_or_insert(now + GATHERED_FOR);
        need == Need::Urgent || now >= due
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

    /// Moments, in milliseconds from the beginning of a test.
    fn clock() -> impl Fn(u64) -> Instant {
        let begun = begin();
        move |ms| begun + Duration::from_millis(ms)
    }

    #[test]
    fn a_change_is_told_once_the_handlers_that_come_together_have_come() {
        let (at, mut gathering) = (clock(), Gathering::new(100));
        assert!(!gathering.tells(at(0), 200, Need::Usual));
        assert!(!gathering.tells(at(199), 800, Need::Usual));
        assert_eq!(gathering.due(), Some(at(200)), "counted from the first of them");
        assert!(gathering.tells(at(200), 800, Need::Usual));
    }

    #[test]
    fn what_is_urgent_is_told_at_once_however_small_and_what_is_told_already_never() {
        let begun = begin();
        let mut gathering = Gathering::new(100);
        assert!(gathering.tells(begun, 101, Need::Urgent));
        assert!(!gathering.tells(begun, 100, Need::Urgent));
        assert_eq!(gathering.due(), None);
    }

    #[test]
    fn a_difference_of_less_than_a_quarter_waits_until_it_has_grown_and_delays_no_larger_one() {
        let (at, mut gathering) = (clock(), Gathering::new(100));
        assert!(!gathering.tells(at(0), 76, Need::Usual));
        assert_eq!(gathering.due(), None, "nothing to look at again: the next change of a window asks");
        assert!(!gathering.tells(at(1_000), 75, Need::Usual));
        assert!(gathering.tells(at(1_200), 75, Need::Usual), "two hundred milliseconds after it was large enough");
        let mut alone = Gathering::new(1);
        assert!(!alone.tells(at(0), 2, Need::Usual));
        assert!(alone.tells(at(200), 2, Need::Usual), "of one, each difference is large");
    }

    #[test]
    fn a_change_that_is_taken_back_in_time_is_never_told() {
        let (at, mut gathering) = (clock(), Gathering::new(100));
        assert!(!gathering.tells(at(0), 200, Need::Usual));
        assert!(!gathering.tells(at(100), 100, Need::Usual));
        assert!(!gathering.tells(at(250), 200, Need::Usual), "a new change, with a new beginning");
        assert_eq!(gathering.due(), Some(at(450)));
    }

    #[test]
    fn where_it_counts_each_one_is_told_after_the_same_time() {
        let (at, mut gathering) = (clock(), Gathering::new(100));
        assert!(!gathering.tells(at(0), 99, Need::Exact));
        assert!(gathering.tells(at(200), 98, Need::Exact));
    }

    #[test]
    fn what_is_not_needed_any_more_when_it_is_due_wakes_nobody() {
        let (at, mut gathering) = (clock(), Gathering::new(16));
        assert!(!gathering.tells(at(0), 33, Need::Usual));
        assert!(!gathering.tells(at(200), 32, Need::None));
        assert_eq!(gathering.due(), None);
    }

    fn need() -> impl Strategy<Value = Need> {
        prop_oneof![1 => Just(Need::None), 6 => Just(Need::Usual), 1 => Just(Need::Exact), 1 => Just(Need::Urgent)]
    }

    proptest! {
        /// Whatever is wanted when: the broker never stays far behind for longer than the gathering, it is told nothing that
        /// it knows or that nobody needs, and nobody is woken for a moment that has passed.
        #[test]
        fn the_broker_is_never_far_behind_for_long(
            told in 1_u16..2_000,
            steps in prop::collection::vec((0_u64..150, 1_u16..2_000, need()), 1..200),
        ) {
            let mut now = begin();
            let mut gathering = Gathering::new(told);
            let mut behind: Option<(Instant, (u16, Need))> = None;
            for (wait, wanted, need) in steps {
                // The owner asks again when it is due.
                let then = now + Duration::from_millis(wait);
                let asked = gathering.due().zip(behind).filter(|(due, _)| *due <= then);
                let asked = asked.map(|(due, (_, wanted))| (due, wanted));
                for (at, (wanted, need)) in asked.into_iter().chain([(then, (wanted, need))]) {
                    now = at;
                    let difference = gathering.told().abs_diff(wanted);
                    let is_far = match need {
                        Need::None => false,
                        Need::Usual => difference > 0 && difference * 4 >= gathering.told(),
                        Need::Exact | Need::Urgent => difference > 0,
                    };
                    let since = behind.map_or(now, |(since, _)| since);
                    let is_due = is_far && (need == Need::Urgent || now.duration_since(since) >= GATHERED_FOR);
                    prop_assert_eq!(gathering.tells(now, wanted, need), is_due);
                    if is_due {
                        gathering = Gathering::new(wanted);
                    } else {
                        prop_assert_eq!(gathering.due(), is_far.then_some(since + GATHERED_FOR));
                        prop_assert!(gathering.due().is_none_or(|due| due > now));
                    }
                    behind = (is_far && !is_due).then_some((since, (wanted, need)));
                }
            }
        }
    }
}
