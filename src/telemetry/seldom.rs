//! What happens again and again and must not fill the log: said at once, then once a minute at most.

use std::time::Duration;

use tokio::time::Instant;

/// From one time that it is said to the next.
pub const TELL_EVERY: Duration = Duration::from_mins(1);

/// When something was said last.
#[derive(Debug, Default)]
pub struct Seldom(Option<Instant>);

impl Seldom {
    /// It has happened; true if that is to be said.
    pub fn is_due(&mut self, now: Instant) -> bool {
        let is_due = self.0.is_none_or(|told| now.duration_since(told) >= TELL_EVERY);
        if is_due {
            self.0 = Some(now);
        }
        is_due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_flood_is_told_once_a_minute() {
        let (begin, mut seldom) = (Instant::now(), Seldom::default());
        assert_eq!((0..1_000).filter(|_| seldom.is_due(begin)).count(), 1);
        assert!(!seldom.is_due(begin + TELL_EVERY.saturating_sub(Duration::from_millis(1))));
        assert!(seldom.is_due(begin + TELL_EVERY));
    }
}
