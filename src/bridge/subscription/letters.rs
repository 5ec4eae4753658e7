//! When dead letters pause their subscription: they cannot be stored, and each attempt would only add to what waits; or there are
//! none, and what is given up would come again and again.

/// Tries in vain, of all letters together and with none stored in between, that pause it.
const FAILURES: u32 = 10;

/// The letters of one subscription that were tried in vain.
#[derive(Debug, Default)]
pub(super) struct Letters {
    /// Failed tries since one was stored.
    failures: u32,
    /// Letters that were tried in vain and wait for their next try.
    waiting: usize,
    /// Why the last one was not stored; `Some` = paused.
    paused: Option<String>,
    /// What was given up first where letters are switched off; `Some` = paused for good.
    given_up: Option<String>,
}

impl Letters {
    /// A try has failed; true if that is the one that pauses.
    pub(super) fn failed(&mut self, is_first_try: bool, problem: &str) -> bool {
        self.waiting += usize::from(is_first_try);
        self.failures = self.failures.saturating_add(1);
        let was_paused = self.paused.is_some();
        if self.failures >= FAILURES {
            self.paused = Some(problem.to_owned());
        }
        self.paused.is_some() && !was_paused
    }

    /// A letter is stored, or its message went back to its queue; true if that ends the pause. With no letter left to try
    /// the next one is the probe: a single failure pauses again.
    pub(super) fn ended(&mut self, was_tried_before: bool, is_stored: bool) -> bool {
        self.waiting = self.waiting.saturating_sub(usize::from(was_tried_before));
        if is_stored {
            self.failures = 0;
        }
        self.paused.take_if(|_| is_stored || self.waiting == 0).is_some()
    }

    /// A message was given up, and there are no letters; true if nothing was before.
    pub(super) fn give_up(&mut self, what: String) -> bool {
        let is_first = self.given_up.is_none();
        self.given_up.get_or_insert(what);
        is_first
    }

    /// Why nothing is consumed: letters are not stored.
    pub(super) fn pause(&self) -> Option<&str> {
        self.paused.as_deref()
    }

    /// Why nothing is consumed: a message was given up.
    pub(super) fn given_up(&self) -> Option<&str> {
        self.given_up.as_deref()
    }

    /// True if nothing is consumed.
    pub(super) fn is_paused(&self) -> bool {
        self.paused.is_some() || self.given_up.is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ten_failures_in_a_row_pause_and_the_first_letter_that_is_stored_ends_it() {
        let mut letters = Letters::default();
        for try_number in 0..9 {
            assert!(!letters.failed(try_number < 3, "full"));
        }
        assert!(!letters.ended(true, true), "one was stored in between");
        for _ in 0..9 {
            assert!(!letters.failed(false, "full"));
        }
        assert!(letters.failed(false, "full") && !letters.failed(false, "gone"), "told once");
        assert_eq!(letters.pause(), Some("gone"));
        assert!(letters.ended(true, true));
        assert_eq!(letters.pause(), None);
    }

    #[test]
    fn when_no_letter_is_left_to_try_one_failure_pauses_again() {
        let mut letters = Letters::default();
        assert!((0..10).any(|_| letters.failed(true, "full")));
        for _ in 0..9 {
            assert!(!letters.ended(true, false), "others wait");
        }
        assert!(letters.ended(true, false));
        assert!(letters.failed(true, "full"));
        assert!(letters.ended(true, true));
        assert!(!letters.failed(true, "full"));
    }
}
