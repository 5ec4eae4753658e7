//! The ledger's laws against random histories, beside a model that is as plain as can be.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use proptest::test_runner::TestCaseResult;

use super::tests::{LEASE, size, terms};
use super::*;

mod clocks;

use clocks::{Clocks, limit};

/// Window in bytes of every stream.
const BYTES: u64 = 3_000;

#[derive(Debug, Clone, Copy)]
enum Step {
    Arrive(u64, Suspicion),
    Dispatch,
    Verdict(u8, VerdictKind),
    Settled(u8),
    SetAside(u8),
    Extend(u8, u16),
    Observe(u8),
    TakeBack(u8),
    Shed,
    Pass(u16),
    Attach(u8, u32),
    Resize(u8, u32),
    Leave(u8),
    Detach(u8),
    /// As detach, and what it held comes again as suspects.
    Crash(u8),
    /// Of two sessions one: the even loads, or the odd ones.
    SessionLost(bool),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let kind = prop_oneof![Just(VerdictKind::Ack), Just(VerdictKind::Retry), Just(VerdictKind::Release)];
    let suspicion =
        prop_oneof![6 => Just(Suspicion::None), 2 => Just(Suspicion::Suspect), 1 => Just(Suspicion::Charged)];
    let step = prop_oneof![
        6 => (0_u64..2_000, suspicion).prop_map(|(body, suspicion)| Step::Arrive(body, suspicion)),
        6 => Just(Step::Dispatch),
        6 => (any::<u8>(), kind).prop_map(|(pick, kind)| Step::Verdict(pick, kind)),
        6 => any::<u8>().prop_map(Step::Settled),
        2 => any::<u8>().prop_map(Step::SetAside),
        2 => (any::<u8>(), 0_u16..2_000).prop_map(|(pick, seconds)| Step::Extend(pick, seconds)),
        1 => (0_u8..8).prop_map(Step::Observe),
        1 => any::<u8>().prop_map(Step::TakeBack),
        1 => Just(Step::Shed),
        1 => (0_u16..2_000).prop_map(Step::Pass),
        2 => (0_u16..90).prop_map(Step::Pass),
        2 => (0_u8..8, 0_u32..5).prop_map(|(stream, window)| Step::Attach(stream, window)),
        1 => (0_u8..8, 0_u32..5).prop_map(|(stream, window)| Step::Resize(stream, window)),
        1 => (0_u8..8).prop_map(Step::Leave),
        1 => (0_u8..8).prop_map(Step::Detach),
        1 => (0_u8..8).prop_map(Step::Crash),
        1 => any::<bool>().prop_map(Step::SessionLost),
    ];
    prop::collection::vec(step, 1..120)
}

/// Where each load is. Loads are numbers from 0.
#[derive(Default)]
struct Model {
    bodies: Vec<u64>,
    suspicions: Vec<Suspicion>,
    /// Suspects that may go together.
    group: usize,
    arrived: Vec<Instant>,
    waiting: Vec<u32>,
    /// Held by whom, and whether that is being settled.
    held: BTreeMap<i64, (StreamId, u32, bool)>,
    /// Of these, what no window counts.
    aside: BTreeSet<i64>,
    ended: usize,
    clocks: Clocks,
    /// Windows in messages of the streams that are connected; whether they leave.
    streams: BTreeMap<StreamId, (u32, bool)>,
}

impl Model {
    /// Messages and bytes that a stream's window counts.
    fn window(&self, stream: StreamId) -> (u32, u64) {
        let counts = |id: &i64, holder: StreamId| holder == stream && !self.aside.contains(id);
        let held = self.held.iter().filter(|(id, (holder, ..))| counts(id, *holder));
        held.fold((0, 0), |(count, bytes), (_, (_, load, _))| (count + 1, bytes + self.bodies[*load as usize]))
    }

    fn grant(&mut self, stream: StreamId, id: DeliveryId, load: u32) -> TestCaseResult {
        let (count, bytes) = self.window(stream);
        let (level, leaves) = self.streams[&stream];
        prop_assert!(!leaves && count < level);
        prop_assert!(count == 0 || bytes + self.bodies[load as usize] <= BYTES);
        prop_assert!(self.held.keys().all(|other| *other < id.0), "numbers rise");
        let held: Vec<Suspicion> =
            self.held.values().filter(|held| held.0 == stream && !held.2).map(|held| self.suspicion(held.1)).collect();
        match self.suspicion(load) {
            Suspicion::None => prop_assert!(held.iter().all(|held| *held == Suspicion::None), "suspects are apart"),
            Suspicion::Suspect => prop_assert!(
                held.is_empty() || held.len() < self.group && held.iter().all(|held| *held == Suspicion::Suspect)
            ),
            Suspicion::Charged => prop_assert!(held.is_empty(), "it goes alone"),
        }
        self.waiting.retain(|waiting| *waiting != load);
        self.held.insert(id.0, (stream, load, false));
        Ok(())
    }

    fn suspicion(&self, load: u32) -> Suspicion {
        self.suspicions[load as usize]
    }

    /// A suspect comes; where no other is, the group begins anew.
    fn suspect(&mut self) {
        let held = self.held.values().filter(|held| !held.2).map(|held| held.1);
        if self.waiting.iter().copied().chain(held).all(|load| self.suspicion(load) == Suspicion::None) {
            self.group = 1;
        }
    }

    fn picked(&self, pick: u8, settling: bool) -> Option<i64> {
        let ids: Vec<i64> = self.held.iter().filter(|(_, (.., is))| *is == settling).map(|(id, _)| *id).collect();
        (!ids.is_empty()).then(|| ids[usize::from(pick) % ids.len()])
    }

    fn end(&mut self, id: i64) {
        self.held.remove(&id);
        self.aside.remove(&id);
        self.ended += 1;
    }

    fn agrees(&self, ledger: &Ledger<u32>) -> TestCaseResult {
        prop_assert_eq!(ledger.waiting_count(), self.waiting.len());
        prop_assert_eq!(ledger.open_count(), self.held.len());
        prop_assert_eq!(self.waiting.len() + self.held.len() + self.ended, self.bodies.len());
        for (stream, (level, leaves)) in &self.streams {
            prop_assert_eq!(ledger.in_flight(*stream), Some(self.window(*stream).0));
            let effective = ledger.effective_window(*stream);
            prop_assert!(effective <= *level);
            prop_assert_eq!(effective == 0, *leaves || *level == 0);
            let working = self.held.values().filter(|(holder, _, settling)| holder == stream && !settling).count();
            prop_assert_eq!(ledger.working_count(*stream), working);
        }
        Ok(())
    }
}

/// A ledger, its model and a clock.
struct Pair {
    ledger: Ledger<u32>,
    model: Model,
    now: Instant,
    next: i64,
    /// Numbers of streams are never used again, as in the shell.
    used: BTreeSet<StreamId>,
}

impl Pair {
    fn dispatch(&mut self) -> TestCaseResult {
        let granted = self.ledger.dispatch(self.now, || {
            self.next += 1;
            Some(DeliveryId(self.next))
        });
        for (stream, id) in granted {
            let load = *self.ledger.load(id).expect("it is with a handler");
            self.model.grant(stream, id, load)?;
        }
        Ok(())
    }

    #[expect(clippy::too_many_lines, reason = "one arm for each kind of step")]
    fn step(&mut self, step: Step) -> TestCaseResult {
        let Self { ledger, model, now, next, used } = self;
        match step {
            Step::Arrive(body, suspicion) => {
                let load = u32::try_from(model.bodies.len()).expect("few");
                ledger.arrive(*now, load, size(body), suspicion);
                if suspicion != Suspicion::None {
                    model.suspect();
                }
                model.bodies.push(body);
                model.suspicions.push(suspicion);
                model.arrived.push(*now);
                model.waiting.push(load);
            }
            Step::Dispatch => self.dispatch()?,
            Step::Verdict(pick, kind) => {
                let (stream, id) = (StreamId(u64::from(pick) % 8), i64::from(pick) % (*next + 2));
                if let Answer::Act(load) = ledger.verdict(*now, stream, DeliveryId(id), kind) {
                    prop_assert_eq!(model.held.insert(id, (stream, load, true)), Some((stream, load, false)));
                    if model.suspicion(load) != Suspicion::None {
                        model.group *= 2;
                    }
                }
            }
            Step::Settled(pick) => {
                if let Some(id) = model.picked(pick, true) {
                    ledger.settled(DeliveryId(id), Outcome::Acked);
                    model.end(id);
                }
            }
            Step::SetAside(pick) => {
                if let Some(id) = model.picked(pick, true) {
                    ledger.set_aside(DeliveryId(id));
                    model.aside.insert(id);
                }
            }
            Step::Extend(pick, seconds) => {
                if let Some(id) = model.picked(pick, false) {
                    let ((stream, ..), timeout) = (model.held[&id], Duration::from_secs(seconds.into()));
                    prop_assert_eq!(ledger.extend(*now, stream, DeliveryId(id), timeout), Outcome::Extended);
                    model.clocks.extend(*now, stream, id, timeout);
                }
            }
            Step::Observe(stream) => {
                ledger.observe(*now, StreamId(stream.into()), 1);
            }
            Step::TakeBack(pick) => {
                if let Some(id) = model.picked(pick, false) {
                    ledger.take_back(*now, &[DeliveryId(id)]);
                    let (_, load, _) = model.held.remove(&id).expect("it was picked");
                    model.waiting.push(load);
                }
            }
            Step::Shed => {
                for load in ledger.shed() {
                    model.waiting.retain(|waiting| *waiting != load);
                    model.ended += 1;
                }
            }
            Step::Pass(seconds) => {
                *now += Duration::from_secs(seconds.into());
                let mut expected = model.clocks.due(*now, &model.held, &model.arrived);
                for due in ledger.due(*now) {
                    if let Some((stream, id)) = due.holder {
                        prop_assert_eq!(expected.remove(&id.0), Some(due.clock));
                        let held = model.held.insert(id.0, (stream, due.load, true));
                        prop_assert_eq!(held, Some((stream, due.load, false)));
                    } else {
                        prop_assert!(limit(model.arrived[due.load as usize]) <= *now, "its lease is over");
                        model.waiting.retain(|waiting| *waiting != due.load);
                        model.ended += 1;
                    }
                }
                let is_over = |load: &u32| limit(model.arrived[*load as usize]) <= *now;
                prop_assert!(!model.waiting.iter().any(is_over), "nothing waits beyond its lease");
                prop_assert!(expected.is_empty(), "{:?} are due as well", expected);
                let working = model.held.values().filter(|(.., settling)| !settling);
                prop_assert!(!working.map(|(_, load, _)| load).any(is_over), "nobody keeps anything beyond its lease");
                self.dispatch()?;
                let wake = self.ledger.next_wake();
                prop_assert!(wake.is_none_or(|wake| wake > self.now), "nobody is woken for what has been looked at");
            }
            Step::Attach(stream, window) => {
                let stream = StreamId(stream.into());
                if used.insert(stream) {
                    ledger.attach(stream, Window::new(window, BYTES), terms());
                    model.streams.insert(stream, (window, false));
                }
            }
            Step::Resize(stream, window) => {
                let stream = StreamId(stream.into());
                ledger.resize(stream, Some(window), None);
                model.streams.entry(stream).and_modify(|(level, _)| *level = window);
            }
            Step::Leave(stream) => {
                ledger.leave(StreamId(stream.into()));
                model.streams.entry(StreamId(stream.into())).and_modify(|(_, leaves)| *leaves = true);
            }
            Step::Detach(stream) => {
                model.streams.remove(&StreamId(stream.into()));
                for (id, load) in ledger.detach(StreamId(stream.into())) {
                    prop_assert_eq!(model.held.get(&id.0), Some(&(StreamId(stream.into()), load, false)));
                    model.end(id.0);
                }
            }
            Step::Crash(stream) => {
                let stream = StreamId(stream.into());
                model.streams.remove(&stream);
                let held = ledger.detach(stream);
                ledger.suspects_go_alone();
                for (id, load) in held {
                    prop_assert_eq!(model.held.remove(&id.0), Some((stream, load, false)));
                    model.suspect();
                    model.suspicions[load as usize] = Suspicion::Suspect;
                    let (arrived, body) = (model.arrived[load as usize], model.bodies[load as usize]);
                    ledger.wait_again(arrived, load, size(body), Suspicion::Suspect);
                    model.waiting.push(load);
                }
                model.group = 1;
            }
            Step::SessionLost(odd) => {
                let is_lost = |load: u32| load.is_multiple_of(2) != odd;
                let lost = ledger.lose(*now, |load| is_lost(*load)).waiting;
                let before = model.waiting.len();
                model.waiting.retain(|load| !is_lost(*load));
                prop_assert_eq!(lost.len(), before - model.waiting.len());
                model.ended += lost.len();
                let held = model.held.iter().filter(|(_, (_, load, settling))| is_lost(*load) && !settling);
                for id in held.map(|(id, _)| *id).collect::<Vec<_>>() {
                    model.end(id);
                }
            }
        }
        Ok(())
    }
}

proptest! {
    /// Nothing is in two places or in none, no window is passed, and nobody settles what another one holds.
    #[test]
    fn every_load_is_in_exactly_one_place_and_no_window_is_passed(steps in steps()) {
        #[expect(clippy::disallowed_methods, reason = "a test has to begin somewhere in time")]
        let now = Instant::now();
        let (ledger, model, used) = (Ledger::new(LEASE), Model::default(), BTreeSet::new());
        let mut pair = Pair { ledger, model, now, next: 0, used };
        for step in steps {
            pair.step(step)?;
            pair.model.clocks.follow(pair.now, &pair.model.held);
            if let Some(next) = pair.model.clocks.next(&pair.model.held, &pair.model.arrived) {
                prop_assert!(pair.ledger.next_wake().is_some_and(|wake| wake <= next), "it is seen in time");
            }
            pair.model.agrees(&pair.ledger)?;
        }
    }
}
