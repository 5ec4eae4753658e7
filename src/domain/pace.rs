//! How fast a handler works, and what it may therefore hold: so that one that settles once a frame is never late, and
//! nothing in a window outlives its lease. Knows no stream and no clock.

use std::time::{Duration, Instant};

/// Weight that an older observation keeps for each newer message.
const MEMORY: f64 = 0.9;
/// Verdicts within this of each other were read together.
const TOGETHER: Duration = Duration::from_millis(1);
/// Largest frame in messages, whatever the pace.
const FRAME_MAX: u32 = 1_024;

/// The observed pace of one handler.
#[derive(Debug, Clone, PartialEq)]
pub struct Pace {
    seconds_per_message: Option<f64>,
    /// What it was before the last observation.
    before: Option<f64>,
    /// The last observation: seconds and messages.
    last: (f64, u32),
    /// The last verdict, or when work began after there was none.
    since: Option<Instant>,
    /// Doubles with what was settled; a new handler begins with one message a frame, since nothing is known of it.
    frame: u32,
    settled_since_doubling: u32,
}

impl Default for Pace {
    fn default() -> Self {
        Self {
            seconds_per_message: None,
            before: None,
            last: (0.0, 0),
            since: None,
            frame: 1,
            settled_since_doubling: 0,
        }
    }
}

impl Pace {
    /// Work was handed to a handler that had none.
    pub fn begin(&mut self, now: Instant) {
        self.since = Some(now);
    }

    /// So many verdicts came together.
    pub fn settled(&mut self, now: Instant, count: u32) {
        if count == 0 {
            return;
        }
        if let Some(since) = self.since.replace(now) {
            self.observe(now.saturating_duration_since(since), count);
        }
        self.settled_since_doubling = self.settled_since_doubling.saturating_add(count);
        while self.settled_since_doubling >= self.frame && self.frame < FRAME_MAX {
            self.settled_since_doubling -= self.frame;
            self.frame = (self.frame * 2).min(FRAME_MAX);
        }
    }

    fn observe(&mut self, elapsed: Duration, count: u32) {
        let mut observation = (elapsed.as_secs_f64(), count);
        if elapsed < TOGETHER {
            // Two frames of verdicts that were read together are one observation: apart, the second would look like no
            // time at all.
            observation = (self.last.0 + observation.0, self.last.1.saturating_add(count));
        } else {
            self.before = self.seconds_per_message;
        }
        self.last = observation;
        let observed = observation.0 / f64::from(observation.1);
        let kept = MEMORY.powi(i32::try_from(observation.1).unwrap_or(i32::MAX));
        self.seconds_per_message = Some(self.before.unwrap_or(observed) * kept + observed * (1.0 - kept));
    }

    /// Messages of one frame: a whole frame takes at most a quarter of the settle timeout; at least 1.
    pub fn frame_max(&self, settle_timeout: Duration) -> u32 {
        self.frame.min(self.fitting(settle_timeout / 4))
    }

    /// Messages that may be unsettled: a whole window takes at most half of the longest lease; at least 1.
    pub fn window_max(&self, lease_max: Duration) -> u32 {
        self.fitting(lease_max / 2)
    }

    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "clamped to the range before")]
    fn fitting(&self, time: Duration) -> u32 {
        match self.seconds_per_message {
            Some(seconds) if seconds > 0.0 => (time.as_secs_f64() / seconds).clamp(1.0, f64::from(u32::MAX)) as u32,
            Some(_) | None => u32::MAX,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const TIMEOUT: Duration = Duration::from_mins(1);
    const LEASE: Duration = Duration::from_mins(25);

    #[expect(clippy::disallowed_methods, reason = "a test has to begin somewhere in time")]
    fn begun() -> (Pace, Instant) {
        let (mut pace, now) = (Pace::default(), Instant::now());
        pace.begin(now);
        (pace, now)
    }

    #[test]
    fn frames_begin_with_one_message_and_double() {
        let (mut pace, now) = begun();
        let mut frames = Vec::new();
        for _ in 0..6 {
            let frame = pace.frame_max(TIMEOUT);
            frames.push(frame);
            pace.settled(now, frame);
        }
        assert_eq!(frames, [1, 2, 4, 8, 16, 32]);
    }

    #[test]
    fn a_handler_of_one_second_a_message_gets_frames_of_a_quarter_of_its_timeout() {
        let (mut pace, mut now) = begun();
        for _ in 0..20 {
            let frame = pace.frame_max(TIMEOUT);
            now += Duration::from_secs(u64::from(frame));
            pace.settled(now, frame);
        }
        assert_eq!(pace.frame_max(TIMEOUT), 15);
        assert_eq!(pace.window_max(LEASE), 750);
    }

    #[test]
    fn a_handler_of_twenty_seconds_holds_no_more_than_half_a_lease() {
        let (mut pace, mut now) = begun();
        for _ in 0..50 {
            now += Duration::from_secs(20);
            pace.settled(now, 1);
        }
        assert_eq!(pace.window_max(LEASE), 37);
        assert_eq!(pace.frame_max(TIMEOUT), 1);
    }

    #[test]
    fn verdicts_that_are_read_together_do_not_look_like_no_time() {
        let (mut pace, mut now) = begun();
        for _ in 0..20 {
            now += Duration::from_secs(2);
            pace.settled(now, 1);
            pace.settled(now, 1);
        }
        assert_eq!(pace.frame_max(TIMEOUT), 15);
    }

    proptest! {
        #[test]
        fn a_steady_handler_that_settles_once_a_frame_is_never_late(millis in 1_u64..15_000, frames in 1_usize..200) {
            let (mut pace, mut now) = begun();
            for _ in 0..frames {
                let frame = pace.frame_max(TIMEOUT);
                let takes = Duration::from_millis(millis) * frame;
                prop_assert!(frame == 1 || takes <= TIMEOUT, "a frame of {frame} takes {takes:?}");
                now += takes;
                pace.settled(now, frame);
            }
        }

        #[test]
        fn there_is_always_room_for_one(counts in prop::collection::vec((0_u64..100_000, 0_u32..2_000), 0..50)) {
            let (mut pace, mut now) = begun();
            for (millis, count) in counts {
                now += Duration::from_millis(millis);
                pace.settled(now, count);
                prop_assert!(pace.frame_max(TIMEOUT) >= 1 && pace.frame_max(TIMEOUT) <= FRAME_MAX);
                prop_assert!(pace.window_max(LEASE) >= 1);
            }
        }

        /// Whatever its pace has been: what a handler may hold it can settle within half of a lease, or it is one message.
        #[test]
        fn a_whole_window_takes_at_most_half_of_the_longest_lease(
            works in prop::collection::vec((0_u64..400_000, 1_u32..300), 1..50),
            lease_seconds in 1_u64..10_000,
        ) {
            let (mut pace, mut now) = begun();
            let lease = Duration::from_secs(lease_seconds);
            for (millis, count) in works {
                now += Duration::from_millis(millis);
                pace.settled(now, count);
                let (window, seconds) = (pace.window_max(lease), pace.seconds_per_message.expect("it was observed"));
                prop_assert!(window == 1 || seconds * f64::from(window) <= lease.as_secs_f64() / 2.0 * (1.0 + 1e-9));
                let more = f64::from(window.saturating_add(1));
                prop_assert!(window == u32::MAX || seconds * more > lease.as_secs_f64() / 2.0 * (1.0 - 1e-9), "and no less");
            }
        }
    }
}
