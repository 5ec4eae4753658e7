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

/// The clock is earlier than any build of this program: its ids could repeat those of an earlier run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the clock says {now_ms} ms since 1970, which is before this program was built; set the clock")]
pub struct ClockTooEarly {
    /// What it said.
    pub now_ms: u64,
}

impl DeliveryIds {
    /// Begins at the wall clock, in milliseconds since 1970.
    ///
    /// # Errors
    /// The clock is wrong: no id is handed out rather than one twice.
    pub fn begin(now_ms: u64) -> Result<Self, ClockTooEarly> {
        if now_ms < CLOCK_MIN_MS {
            return Err(ClockTooEarly { now_ms });
        }
        let start = i64::try_from(now_ms << BITS_BELOW_MILLISECOND).unwrap_or(ID_MAX);
        Ok(Self { next: start.min(ID_MAX) })
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

    #[test]
    fn a_restart_one_millisecond_later_repeats_nothing() {
        let (mut first, mut second) =
            (DeliveryIds::begin(1_800_000_000_000).unwrap(), DeliveryIds::begin(1_800_000_000_001).unwrap());
        let last = (0..2_048).filter_map(|_| first.take(1)).last().unwrap();
        assert!(last < second.take(1).unwrap());
    }

    #[test]
    fn a_wrong_clock_hands_out_nothing() {
        assert_eq!(DeliveryIds::begin(5).unwrap_err(), ClockTooEarly { now_ms: 5 });
    }

    #[test]
    fn ids_stay_exact_in_javascript() {
        let mut ids = DeliveryIds { next: ID_MAX - 1 };
        assert_eq!(ids.take(1), Some(DeliveryId(ID_MAX - 1)));
        assert_eq!(ids.take(1), None);
    }
}
