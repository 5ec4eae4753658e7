//! How publishing begins again after an outage: one publish at a time until three in a row had an answer. Knows no broker
//! and no clock.
//!
//! While the broker is down or blocked the link says so and nothing is asked here: the breaker is open. What waits here,
//! half-open, waits for a few answers of a broker that is there.

use std::time::{Duration, Instant};

/// Answers in a row that close it.
const SUCCESSES: u32 = 3;

/// How long one probe may hold up all others. A queue without a leader confirms nothing and says nothing about the broker.
const PROBE_PATIENCE: Duration = Duration::from_secs(1);

/// A breaker. Begins closed: nobody has waited for the broker yet.
#[derive(Debug)]
pub struct Breaker {
    /// The outage that it has seen last.
    outage: u64,
    successes: u32,
    /// Probes in a row that had no answer in time.
    silent: u32,
    /// Out, and when it holds up nobody any more.
    probe: Option<(Probe, Instant)>,
    probes: u64,
}

/// A publish that is tried alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Probe(u64);

/// What may go out now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Passage {
    /// Everything.
    Closed,
    /// One publish, whose outcome is to be told.
    Probe(Probe),
    /// Nothing before the probe that is out has its answer, or before then.
    Wait(Instant),
}

impl Default for Breaker {
    fn default() -> Self {
        Self { outage: 0, successes: SUCCESSES, silent: 0, probe: None, probes: 0 }
    }
}

impl Breaker {
    /// What may go out now, while the link is up and not blocked. `outages`: times that it was otherwise before.
    pub fn ask(&mut self, outages: u64, now: Instant) -> Passage {
        if outages != self.outage {
            (self.outage, self.successes, self.silent, self.probe) = (outages, 0, 0, None);
        }
        if self.probe.take_if(|(_, until)| now >= *until).is_some() {
            self.silent += 1;
            if self.silent >= SUCCESSES {
                // It is a queue that is stuck, not the broker: the session would be lost by now.
                self.successes = SUCCESSES;
            }
        }
        if self.successes >= SUCCESSES {
            return Passage::Closed;
        }
        if let Some((_, until)) = self.probe {
            return Passage::Wait(until);
        }
        self.probes += 1;
        let probe = Probe(self.probes);
        self.probe = Some((probe, now + PROBE_PATIENCE));
        Passage::Probe(probe)
    }

    /// The outcome of a probe: whether the broker has answered it, in whatever words. True if more may go out now; one
    /// that was given up changes nothing, and one of an earlier outage nothing that the next question would not begin anew.
    pub fn answered(&mut self, probe: Probe, by_broker: bool) -> bool {
        if self.probe.is_none_or(|(out, _)| out != probe) {
            return false;
        }
        self.probe = None;
        (self.successes, self.silent) = if by_broker { (self.successes + 1, 0) } else { (0, 0) };
        true
    }

    /// A probe that was not sent after all. True as in [`Self::answered`].
    pub fn withdraw(&mut self, probe: Probe) -> bool {
        let is_out = self.probe.is_some_and(|(out, _)| out == probe);
        if is_out {
            self.probe = None;
        }
        is_out
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

    fn probe(breaker: &mut Breaker, outages: u64, now: Instant) -> Probe {
        match breaker.ask(outages, now) {
            Passage::Probe(probe) => probe,
            other @ (Passage::Closed | Passage::Wait(_)) => panic!("{other:?}"),
        }
    }

    #[test]
    fn three_answers_in_a_row_close_it_and_a_failure_begins_anew() {
        let (mut breaker, now) = (Breaker::default(), start());
        for by_broker in [true, true, false, true, true, true] {
            let out = probe(&mut breaker, 1, now);
            assert_eq!(breaker.ask(1, now), Passage::Wait(now + PROBE_PATIENCE), "one at a time");
            assert!(breaker.answered(out, by_broker));
        }
        assert_eq!(breaker.ask(1, now), Passage::Closed);
        assert!(matches!(breaker.ask(2, now), Passage::Probe(_)), "another outage, another probation");
    }

    #[test]
    fn a_probe_without_an_answer_holds_others_up_for_a_second_and_changes_nothing_later() {
        let (mut breaker, now) = (Breaker::default(), start());
        let stuck = probe(&mut breaker, 1, now);
        let next = probe(&mut breaker, 1, now + PROBE_PATIENCE);
        assert!(!breaker.answered(stuck, false) && !breaker.withdraw(stuck));
        assert!(breaker.answered(next, true));
    }

    #[test]
    fn a_probe_that_was_not_sent_makes_room_for_another() {
        let (mut breaker, now) = (Breaker::default(), start());
        let unsent = probe(&mut breaker, 1, now);
        assert!(breaker.withdraw(unsent));
        let sent = probe(&mut breaker, 1, now);
        assert!(!breaker.answered(unsent, true) && breaker.answered(sent, true));
    }

    #[test]
    fn three_probes_in_a_row_without_an_answer_are_no_reason_to_hold_up_others_any_longer() {
        let (mut breaker, mut now) = (Breaker::default(), start());
        for _ in 0..3 {
            probe(&mut breaker, 1, now);
            now += PROBE_PATIENCE;
        }
        assert_eq!(breaker.ask(1, now), Passage::Closed);
        assert!(matches!(breaker.ask(2, now), Passage::Probe(_)));
    }

    /// What the breaker should know, in plain counts.
    #[derive(Default)]
    struct Model {
        outages: u64,
        answered: u32,
        silent: u32,
        is_closed: bool,
        /// Out: of which outage, until when, and which one.
        out: Option<(u64, Instant, Probe)>,
    }

    impl Model {
        fn look(&mut self, now: Instant) {
            if self
                .out
                .take_if(|(outages, until, _)| *outages != self.outages || now >= *until)
                .is_some_and(|out| out.0 == self.outages)
            {
                self.silent += 1;
            }
            self.is_closed |= self.answered >= SUCCESSES || self.silent >= SUCCESSES;
        }
    }

    proptest! {
        #[test]
        fn it_is_closed_exactly_after_three_answers_or_three_silences_in_a_row(
            steps in prop::collection::vec((0_u8..8, any::<bool>()), 0..200),
        ) {
            let (mut breaker, mut now) = (Breaker::default(), start());
            let mut model = Model { is_closed: true, ..Model::default() };
            for (step, flag) in steps {
                match step {
                    0 => model = Model { outages: model.outages + 1, out: model.out, ..Model::default() },
                    1 => now += PROBE_PATIENCE,
                    2..5 => {
                        model.look(now);
                        let passage = breaker.ask(model.outages, now);
                        prop_assert_eq!(passage == Passage::Closed, model.is_closed);
                        if let Passage::Probe(probe) = passage {
                            prop_assert!(model.out.is_none(), "one at a time");
                            model.out = Some((model.outages, now + PROBE_PATIENCE, probe));
                        }
                    }
                    _ => if let Some((of, _, probe)) = model.out.take() {
                        prop_assert!(breaker.answered(probe, flag));
                        // An answer of an earlier outage says nothing about this one.
                        if of == model.outages {
                            (model.answered, model.silent) = if flag { (model.answered + 1, 0) } else { (0, 0) };
                        }
                    }
                }
            }
        }
    }
}
