//! Each rule of the switch alone, and all of them against a plain model.

use proptest::prelude::*;

use super::*;

const PAUSE: Duration = Duration::from_secs(10);

#[expect(clippy::disallowed_methods, reason = "a test has to begin somewhere in time")]
fn start() -> Instant {
    Instant::now()
}

fn default() -> KillSwitch {
    KillSwitch::new(KillSwitchSettings::default()).unwrap()
}

/// Attempts that were handed out one after the other; answers the first change.
fn run(switch: &mut KillSwitch, now: Instant, first: i64, attempts: &[Attempt]) -> Option<Change> {
    attempts.iter().zip(first..).find_map(|(attempt, id)| switch.ended(now, DeliveryId(id), *attempt))
}

/// A switch that has opened just now.
fn opened(now: Instant) -> KillSwitch {
    let mut switch = default();
    assert_eq!(run(&mut switch, now, 0, &[Attempt::Failed; 101]), Some(Change::Opened(PAUSE)));
    switch
}

/// Hands a probe out, which must be allowed.
fn probe(switch: &mut KillSwitch, now: Instant, id: i64) -> DeliveryId {
    assert_eq!(switch.allowance(now, |_| true), Some(1));
    switch.handed(DeliveryId(id));
    assert_eq!(switch.allowance(now, |_| true), Some(0), "one at a time");
    DeliveryId(id)
}

#[test]
fn it_opens_with_the_first_failure_above_its_share() {
    let (mut switch, now) = (default(), start());
    assert_eq!(run(&mut switch, now, 0, &[Attempt::Failed; 100]), None);
    assert_eq!(switch.allowance(now, |_| true), None);
    assert_eq!(run(&mut switch, now, 100, &[Attempt::Succeeded; 99]), None);
    assert_eq!(run(&mut switch, now, 199, &[Attempt::Failed]), Some(Change::Opened(PAUSE)));
    assert_eq!(switch.allowance(now, |_| true), Some(0));
    // With 100 successes behind them the oldest failures are forgotten as new ones come: half of them is not too much.
    let mut switch = default();
    let half = [Attempt::Succeeded, Attempt::Failed].repeat(5_000);
    assert_eq!(run(&mut switch, now, 0, &half), None);
}

#[test]
fn what_was_given_up_or_given_back_counts_neither_way() {
    let (mut switch, now) = (default(), start());
    assert_eq!(run(&mut switch, now, 0, &[Attempt::Neither; 1_000]), None);
    assert_eq!(run(&mut switch, now, 1_000, &[Attempt::Failed; 100]), None);
    assert_eq!(run(&mut switch, now, 2_000, &[Attempt::Neither; 1_000]), None);
    assert_eq!(run(&mut switch, now, 3_000, &[Attempt::Failed]), Some(Change::Opened(PAUSE)));
}

#[test]
fn each_probe_that_fails_doubles_the_pause_up_to_the_longest_and_a_success_closes_it() {
    let mut now = start();
    let mut switch = opened(now);
    let mut pauses = Vec::new();
    let mut pause = PAUSE;
    for id in 1_000..1_005 {
        assert_eq!(switch.position(), Position::Open(now + pause));
        assert_eq!(switch.allowance((now + pause).checked_sub(Duration::from_millis(1)).unwrap(), |_| true), Some(0));
        now += pause;
        let id = probe(&mut switch, now, id);
        let Some(Change::Opened(next)) = switch.ended(now, id, Attempt::Failed) else { panic!("it stays closed") };
        pauses.push(next.as_secs());
        pause = next;
    }
    assert_eq!(pauses, [20, 40, 60, 60, 60]);
    now += pause;
    let id = probe(&mut switch, now, 2_000);
    assert_eq!(switch.ended(now, id, Attempt::Succeeded), Some(Change::Closed));
    assert_eq!((switch.allowance(now, |_| true), switch.position()), (None, Position::Closed));
    assert_eq!(run(&mut switch, now, 3_000, &[Attempt::Failed; 100]), None, "it begins anew");
    assert_eq!(run(&mut switch, now, 4_000, &[Attempt::Failed]), Some(Change::Opened(PAUSE)), "with the first pause");
}

#[test]
fn what_was_tried_before_says_nothing_about_a_probe_nor_about_the_time_after_it() {
    let now = start();
    let mut switch = opened(now);
    assert_eq!(run(&mut switch, now, 101, &[Attempt::Succeeded; 100]), None, "it is open");
    let id = probe(&mut switch, now + PAUSE, 1_000);
    assert_eq!(run(&mut switch, now + PAUSE, 201, &[Attempt::Succeeded, Attempt::Failed]), None);
    assert_eq!(switch.ended(now + PAUSE, id, Attempt::Succeeded), Some(Change::Closed));
    assert_eq!(run(&mut switch, now + PAUSE, 300, &[Attempt::Failed; 200]), None, "handed out before the probe");
    assert_eq!(run(&mut switch, now + PAUSE, 2_000, &[Attempt::Failed; 101]), Some(Change::Opened(PAUSE)));
}

#[test]
fn a_probe_without_a_verdict_makes_room_for_another() {
    let now = start();
    let mut switch = opened(now);
    let refused = probe(&mut switch, now + PAUSE, 1_000);
    assert_eq!(switch.ended(now + PAUSE, refused, Attempt::Neither), None);
    let lost = probe(&mut switch, now + PAUSE, 1_001);
    assert_eq!(switch.allowance(now + PAUSE, |id| id != lost), Some(1));
    let id = probe(&mut switch, now + PAUSE, 1_002);
    assert_eq!(switch.ended(now + PAUSE, lost, Attempt::Failed), None, "it is not the probe any more");
    assert_eq!(switch.ended(now + PAUSE, id, Attempt::Succeeded), Some(Change::Closed));
}

#[test]
fn there_is_none_where_it_is_switched_off() {
    assert!(KillSwitch::new(KillSwitchSettings { enabled: false, ..KillSwitchSettings::default() }).is_none());
}

/// What the switch should do, written down as it is told to people.
struct Model {
    settings: KillSwitchSettings,
    /// Every attempt that counts since it closed.
    attempts: Vec<bool>,
    pause: Duration,
    /// Not closed, and until when nothing is handed out.
    open_until: Option<Instant>,
    /// Handed out and without an end, and whether the switch may listen to it.
    out: Vec<(DeliveryId, bool)>,
    probe: Option<DeliveryId>,
}

impl Model {
    fn allowance(&self, now: Instant) -> Option<usize> {
        let until = self.open_until?;
        Some(usize::from(now >= until && self.probe.is_none()))
    }

    fn ended(&mut self, now: Instant, (id, is_heard): (DeliveryId, bool), attempt: Attempt) -> Option<Change> {
        if self.open_until.is_some() {
            if self.probe != Some(id) {
                return None;
            }
            self.probe = None;
            match attempt {
                Attempt::Neither => return None,
                Attempt::Succeeded => {
                    self.open_until = None;
                    for (_, is_heard) in &mut self.out {
                        *is_heard = false;
                    }
                    return Some(Change::Closed);
                }
                Attempt::Failed => self.pause = (self.pause * 2).min(self.settings.max_pause),
            }
        } else {
            if !is_heard || attempt == Attempt::Neither {
                return None;
            }
            self.attempts.push(attempt == Attempt::Failed);
            let newest = self.attempts.iter().rev().take(usize::try_from(self.settings.sample).unwrap());
            let failed = newest.filter(|failed| **failed).count();
            if f64::from(u32::try_from(failed).unwrap()) <= self.settings.share * f64::from(self.settings.sample) {
                return None;
            }
            self.pause = self.settings.min_pause;
        }
        self.attempts.clear();
        self.open_until = Some(now + self.pause);
        Some(Change::Opened(self.pause))
    }
}

proptest! {
    #[test]
    fn it_does_what_people_are_told(
        (share, sample) in (0.0_f64..1.0, 1_u32..12),
        steps in prop::collection::vec((0_u8..12, 0_usize..8, 0_u64..30), 0..400),
    ) {
        let settings = KillSwitchSettings { share, sample, ..KillSwitchSettings::default() };
        let mut switch = KillSwitch::new(settings).unwrap();
        let mut model = Model {
            settings, attempts: Vec::new(), pause: settings.min_pause, open_until: None, out: Vec::new(), probe: None,
        };
        let (mut now, mut next) = (start(), 0);
        for (step, which, seconds) in steps {
            match step {
                0..4 => {
                    let allowed = switch.allowance(now, |id| model.out.iter().any(|(out, _)| *out == id));
                    prop_assert_eq!(allowed, model.allowance(now));
                    for _ in 0..allowed.unwrap_or(3) {
                        switch.handed(DeliveryId(next));
                        if model.open_until.is_some() {
                            model.probe = Some(DeliveryId(next));
                        }
                        model.out.push((DeliveryId(next), true));
                        next += 1;
                    }
                }
                4 => now += Duration::from_secs(seconds),
                // Lost, or taken back.
                5 => if !model.out.is_empty() {
                    let (id, _) = model.out.remove(which % model.out.len());
                    model.probe.take_if(|probe| *probe == id);
                }
                _ => if !model.out.is_empty() {
                    let out = model.out.remove(which % model.out.len());
                    let attempt = match step {
                        6 => Attempt::Neither,
                        7 | 8 => Attempt::Succeeded,
                        _ => Attempt::Failed,
                    };
                    prop_assert_eq!(switch.ended(now, out.0, attempt), model.ended(now, out, attempt));
                }
            }
        }
    }
}
