//! Numbers for deliveries: rising, never repeated, below 2^53. Knows no clock.

use super::ledger::DeliveryId;

/// Ids of one millisecond: 2^11.
const BITS_BELOW_MILLISECOND: u32 = 11;
/// 1 January 2024: no build is older, so a clock before this is wrong.
const CLOCK_MIN_MS: u64 = 1_704_067_200_000;
/// Largest integer that JavaScript holds exactly.
const ID_MAX: i64 = (1 << 53) - 1;

/// Hands out ids; one for the whole process. Begins at the clock, so a restart repeats nothing, and only counts from
/// there: within a run the clock going back changes nothing.
#[derive(Debug)]
pub struct DeliveryIds {
    next: i64,
}

/// The clock is earlier than it can be: its ids could repeat those of an earlier run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ClockTooEarly {
    /// Than any build of this program.
    #[error("the clock says {now_ms} ms since 1970, which is before this program was built; set the clock")]
    BeforeBuild {
        /// What it said.
        now_ms: u64,
    },
    /// Than what the last run has noted.
    #[error(
        "the clock says {now_ms} ms since 1970, and the last run has noted {noted_ms}: deliveries could carry the \
         numbers of earlier ones, so none is handed out; set the clock, or if the note is wrong delete it from \
         bus.state_dir"
    )]
    BehindLastRun {
        /// What it said.
        now_ms: u64,
        /// What the last run had noted.
        noted_ms: u64,
    },
}

impl DeliveryIds {
    /// Begins at the wall clock, in milliseconds since 1970; `noted_ms` is what the last run
    /// noted of its [`DeliveryIds::reached_ms`], where it did.
    ///
    /// # Errors
    /// The clock is wrong: no id is handed out rather than one twice.
    pub fn begin(now_ms: u64, noted_ms: Option<u64>) -> Result<Self, ClockTooEarly> {
        if now_ms < CLOCK_MIN_MS {
            return Err(ClockTooEarly::BeforeBuild { now_ms });
        }
        // In the same millisecond both runs would begin with the same number.
        if let Some(noted_ms) = noted_ms.filter(|noted| now_ms <= *noted) {
            return Err(ClockTooEarly::BehindLastRun { now_ms, noted_ms });
        }
        let start = i64::try_from(now_ms << BITS_BELOW_MILLISECOND).unwrap_or(ID_MAX);
        Ok(Self { next: start.min(ID_MAX) })
    }

    /// The millisecond since 1970 whose ids are being handed out: a run that begins at a later one repeats none of them.
    /// It is the clock's of the start, and falls behind the clock unless 2,048 are taken in every millisecond.
    pub fn reached_ms(&self) -> u64 {
        u64::try_from(self.next >> BITS_BELOW_MILLISECOND).unwrap_or_default()
    }

    /// Takes so many ids in a row; answers the first. `None` when the numbers are used up (in the year 2109).
    pub fn take(&mut self, count: u32) -> Option<DeliveryId> {
        let first = self.next;
        let after = first.checked_add(i64::from(count)).filter(|after| *after <= ID_MAX)?;
        self.next = after;
        Some(DeliveryId(first))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn begin(now_ms: u64, noted_ms: Option<u64>) -> Result<DeliveryIds, ClockTooEarly> {
        DeliveryIds::begin(now_ms, noted_ms)
    }

    #[test]
    fn a_restart_one_millisecond_later_repeats_nothing() {
        let (mut first, mut second) =
            (begin(1_800_000_000_000, None).unwrap(), begin(1_800_000_000_001, Some(1_800_000_000_000)).unwrap());
        let last = (0..2_048).filter_map(|_| first.take(1)).last().unwrap();
        assert!(last < second.take(1).unwrap());
    }

    #[test]
    fn a_wrong_clock_hands_out_nothing() {
        assert_eq!(begin(5, None).unwrap_err(), ClockTooEarly::BeforeBuild { now_ms: 5 });
    }

    #[test]
    fn a_clock_that_is_not_behind_the_last_start_hands_out_nothing() {
        let now_ms = 1_800_000_000_000;
        for noted_ms in [now_ms, now_ms + 1, u64::MAX] {
            let refused = begin(now_ms, Some(noted_ms)).unwrap_err();
            assert_eq!(refused, ClockTooEarly::BehindLastRun { now_ms, noted_ms });
        }
        assert!(begin(now_ms, Some(now_ms - 1)).is_ok());
    }

    #[test]
    fn a_run_that_begins_behind_what_was_reached_repeats_nothing() {
        let now_ms = 1_800_000_000_000;
        for taken in [0, 1, 2_047, 2_048, 2_049, 5_000_000] {
            let mut first = begin(now_ms, None).unwrap();
            let last = first.take(taken).map(|DeliveryId(id)| id + i64::from(taken) - 1).unwrap();
            let reached = first.reached_ms();
            assert!(begin(reached, Some(reached)).is_err());
            let DeliveryId(next) = begin(reached + 1, Some(reached)).unwrap().take(1).unwrap();
            assert!(last < next, "{taken}");
        }
    }

    #[test]
    fn ids_stay_exact_in_javascript() {
        let mut ids = DeliveryIds { next: ID_MAX - 1 };
        assert_eq!(ids.take(1), Some(DeliveryId(ID_MAX - 1)));
        assert_eq!(ids.take(1), None);
    }
}
