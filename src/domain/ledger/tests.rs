//! The ledger's rules as facts, and its laws against random histories.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::*;

const ONE: StreamId = StreamId(1);
const TWO: StreamId = StreamId(2);
const MINUTE: Duration = Duration::from_mins(1);
const LEASE: Duration = Duration::from_mins(25);

fn terms() -> Terms {
    Terms { settle_timeout: MINUTE, frame_bytes_max: 1_000 }
}

fn size(body: u64) -> Size {
    Size { body, encoded: body + 10 }
}

/// A ledger with one stream of the given window, and a counter for ids.
struct Bench {
    ledger: Ledger<&'static str>,
    now: Instant,
    next: i64,
}

impl Bench {
    fn with_window(messages: u32) -> Self {
        let mut ledger = Ledger::new(LEASE);
        ledger.attach(ONE, Window::new(messages, 10_000), terms());
        #[expect(clippy::disallowed_methods, reason = "a test has to begin somewhere in time")]
        Self { ledger, now: Instant::now(), next: 0 }
    }

    fn arrive(&mut self, loads: &[&'static str]) {
        for load in loads {
            self.ledger.arrive(self.now, load, size(1));
        }
    }

    fn dispatch(&mut self) -> Vec<(StreamId, i64)> {
        let next = &mut self.next;
        let granted = self.ledger.dispatch(self.now, || {
            *next += 1;
            Some(DeliveryId(*next))
        });
        granted.into_iter().map(|(stream, id)| (stream, id.0)).collect()
    }

    fn verdict(&mut self, stream: StreamId, id: i64, kind: VerdictKind) -> Answer<&'static str> {
        self.ledger.verdict(self.now, stream, DeliveryId(id), kind)
    }

    fn pass(&mut self, time: Duration) -> Vec<Due<&'static str>> {
        self.now += time;
        self.ledger.due(self.now)
    }
}

#[test]
fn nothing_beyond_the_window_is_handed_out_until_something_is_settled() {
    let mut bench = Bench::with_window(2);
    bench.arrive(&["a", "b", "c"]);
    assert_eq!(bench.dispatch(), [(ONE, 1), (ONE, 2)]);
    assert_eq!(bench.verdict(ONE, 1, VerdictKind::Ack), Answer::Act("a"));
    assert_eq!(bench.dispatch(), [], "the verdict alone frees nothing: the broker has not heard of it");
    bench.ledger.settled(DeliveryId(1), Outcome::Acked);
    assert_eq!(bench.dispatch(), [(ONE, 3)]);
}

#[test]
fn the_stream_with_the_largest_free_share_is_served_first() {
    let mut bench = Bench::with_window(2);
    bench.ledger.attach(TWO, Window::new(10, 10_000), terms());
    bench.arrive(&["a", "b", "c", "d"]);
    assert_eq!(bench.dispatch(), [(ONE, 1), (TWO, 2), (TWO, 3), (TWO, 4)]);
}

#[test]
fn the_same_verdict_again_is_harmless_and_another_one_is_too_late() {
    let mut bench = Bench::with_window(2);
    bench.arrive(&["a"]);
    bench.dispatch();
    assert_eq!(bench.verdict(ONE, 1, VerdictKind::Ack), Answer::Act("a"));
    assert_eq!(bench.verdict(ONE, 1, VerdictKind::Ack), Answer::Pending);
    assert_eq!(bench.verdict(ONE, 1, VerdictKind::Retry), Answer::Already(None));
    bench.ledger.settled(DeliveryId(1), Outcome::Acked);
    assert_eq!(bench.verdict(ONE, 1, VerdictKind::Ack), Answer::Result(Outcome::Acked));
    assert_eq!(bench.verdict(ONE, 1, VerdictKind::Retry), Answer::Already(Some(Outcome::Acked)));
}

#[test]
fn a_foreign_or_invented_id_is_unknown_and_leaves_the_holder_alone() {
    let mut bench = Bench::with_window(2);
    bench.ledger.attach(TWO, Window::new(0, 0), terms());
    bench.arrive(&["a"]);
    bench.dispatch();
    assert_eq!(bench.verdict(TWO, 1, VerdictKind::Ack), Answer::Result(Outcome::UnknownDelivery));
    assert_eq!(bench.verdict(ONE, 99, VerdictKind::Ack), Answer::Result(Outcome::UnknownDelivery));
    assert_eq!(bench.verdict(ONE, 1, VerdictKind::Ack), Answer::Act("a"));
}

#[test]
fn a_lost_stream_gives_back_what_it_worked_on_and_nothing_that_is_being_settled() {
    let mut bench = Bench::with_window(3);
    bench.arrive(&["a", "b", "c"]);
    bench.dispatch();
    bench.verdict(ONE, 2, VerdictKind::Ack);
    let given_back = bench.ledger.detach(ONE);
    assert_eq!(given_back, [(DeliveryId(1), "a"), (DeliveryId(3), "c")]);
    assert_eq!(bench.ledger.open_count(), 1);
    assert_eq!(bench.ledger.settled(DeliveryId(2), Outcome::Acked), None);
    assert_eq!(bench.ledger.open_count(), 0);
}

#[test]
fn what_never_reached_a_handler_goes_to_another_one_in_order() {
    let mut bench = Bench::with_window(3);
    bench.arrive(&["a", "b", "c"]);
    bench.dispatch();
    bench.ledger.leave(ONE);
    bench.ledger.take_back(bench.now, &[DeliveryId(2), DeliveryId(3)]);
    assert_eq!(bench.ledger.in_flight(ONE), Some(1));
    bench.ledger.attach(TWO, Window::new(5, 10_000), terms());
    assert_eq!(bench.dispatch(), [(TWO, 4), (TWO, 5)]);
    assert_eq!((bench.ledger.load(DeliveryId(4)), bench.ledger.load(DeliveryId(5))), (Some(&"b"), Some(&"c")));
}

#[test]
fn a_stream_that_leaves_gets_nothing_more_and_may_settle_what_it_holds() {
    let mut bench = Bench::with_window(2);
    bench.arrive(&["a"]);
    bench.dispatch();
    bench.ledger.leave(ONE);
    bench.arrive(&["b"]);
    assert_eq!(bench.dispatch(), []);
    assert_eq!(bench.verdict(ONE, 1, VerdictKind::Ack), Answer::Act("a"));
    assert_eq!(bench.ledger.take_waiting(), ["b"]);
}

#[test]
fn a_lost_session_revokes_all_work_and_later_verdicts_hear_of_it() {
    let mut bench = Bench::with_window(3);
    bench.arrive(&["a", "b", "c", "d"]);
    bench.dispatch();
    bench.verdict(ONE, 1, VerdictKind::Ack);
    assert_eq!(bench.ledger.lose(|_| true), [(ONE, vec![(DeliveryId(2), "b"), (DeliveryId(3), "c")])]);
    assert_eq!(bench.verdict(ONE, 2, VerdictKind::Ack), Answer::Result(Outcome::LeaseLost));
    assert_eq!(bench.ledger.in_flight(ONE), Some(1), "the one being settled still counts");
    assert_eq!(bench.ledger.settled(DeliveryId(1), Outcome::LeaseLost), Some(ONE));
    assert_eq!((bench.ledger.in_flight(ONE), bench.ledger.waiting_count()), (Some(0), 0));
}

#[test]
fn only_the_oldest_delivery_has_a_running_clock() {
    let mut bench = Bench::with_window(3);
    bench.arrive(&["a", "b"]);
    bench.dispatch();
    assert_eq!(bench.ledger.next_wake(), Some(bench.now + MINUTE));
    let due = bench.pass(MINUTE);
    assert_eq!(due, [Due { holder: Some((ONE, DeliveryId(1))), load: "a", clock: Clock::SettleTimeout }]);
    assert_eq!(bench.verdict(ONE, 1, VerdictKind::Ack), Answer::Result(Outcome::LeaseExpired));
    assert_eq!(bench.ledger.next_wake(), Some(bench.now + MINUTE), "the clock of the second begins now");
}

#[test]
fn a_slow_handler_with_a_full_window_loses_nothing() {
    let mut bench = Bench::with_window(100);
    bench.arrive(&["x"; 100]);
    bench.dispatch();
    for id in 1..=100 {
        assert_eq!(bench.pass(Duration::from_secs(10)), []);
        assert_eq!(bench.verdict(ONE, id, VerdictKind::Ack), Answer::Act("x"));
        bench.ledger.settled(DeliveryId(id), Outcome::Acked);
    }
}

#[test]
fn an_extension_sets_the_clock_and_the_longest_lease_stays() {
    let mut bench = Bench::with_window(1);
    bench.arrive(&["a"]);
    bench.dispatch();
    assert_eq!(bench.pass(MINUTE / 2), []);
    assert_eq!(bench.ledger.extend(bench.now, ONE, DeliveryId(1), LEASE * 2), Outcome::Extended);
    assert_eq!(bench.pass(MINUTE * 20), []);
    let due = bench.pass(MINUTE * 4);
    assert_eq!(due, [Due { holder: Some((ONE, DeliveryId(1))), load: "a", clock: Clock::LeaseUsedUp }]);
    assert_eq!(bench.ledger.extend(bench.now, ONE, DeliveryId(1), MINUTE), Outcome::LeaseExpired);
}

#[test]
fn what_became_the_oldest_lately_is_given_back_at_the_lease_limit() {
    let mut bench = Bench::with_window(2);
    bench.arrive(&["a", "b"]);
    bench.dispatch();
    bench.ledger.extend(bench.now, ONE, DeliveryId(1), LEASE);
    assert_eq!(bench.pass(Duration::from_secs(1_439)), []);
    bench.verdict(ONE, 1, VerdictKind::Ack);
    let due = bench.pass(Duration::from_secs(1));
    assert_eq!(due, [Due { holder: Some((ONE, DeliveryId(2))), load: "b", clock: Clock::LeaseLimit }]);
}

#[test]
fn the_effective_window_follows_bodies_and_leaving() {
    let mut bench = Bench::with_window(100);
    assert_eq!(bench.ledger.effective_window(ONE), 100);
    bench.ledger.arrive(bench.now, "a", size(5_000));
    assert_eq!(bench.ledger.effective_window(ONE), 2, "10,000 bytes hold two of them");
    for _ in 0..600 {
        bench.ledger.arrive(bench.now, "b", size(100));
    }
    assert!(bench.ledger.effective_window(ONE) > 90, "the small ones that came since count more");
    bench.ledger.leave(ONE);
    assert_eq!(bench.ledger.effective_window(ONE), 0);
}

#[test]
fn what_waits_too_long_for_a_handler_goes_back() {
    let mut bench = Bench::with_window(0);
    bench.arrive(&["a"]);
    assert_eq!(bench.ledger.next_wake(), Some(bench.now + Duration::from_mins(24)));
    let due = bench.pass(Duration::from_mins(24));
    assert_eq!(due, [Due { holder: None, load: "a", clock: Clock::LeaseLimit }]);
}

#[test]
fn a_frame_too_large_for_one_stream_goes_to_another_or_is_held() {
    let mut bench = Bench::with_window(5);
    bench.ledger.arrive(bench.now, "large", Size { body: 2_000, encoded: 2_010 });
    bench.arrive(&["small"]);
    assert_eq!(bench.dispatch(), [(ONE, 1)], "the small one passes the held one");
    assert_eq!((bench.ledger.load(DeliveryId(1)), bench.ledger.held_count()), (Some(&"small"), 1));
    bench.ledger.attach(TWO, Window::new(1, 10), Terms { frame_bytes_max: 5_000, ..terms() });
    assert_eq!(bench.dispatch(), [(TWO, 2)]);
    assert_eq!(bench.ledger.held_count(), 0);
}

#[test]
fn a_large_message_is_not_starved_by_small_ones() {
    let mut bench = Bench::with_window(10);
    bench.ledger.resize(ONE, None, Some(100));
    bench.arrive(&["small"]);
    assert_eq!(bench.dispatch(), [(ONE, 1)]);
    bench.ledger.arrive(bench.now, "large", size(900));
    bench.arrive(&["later"]);
    assert_eq!(bench.dispatch(), [], "the stream is kept free for the large one");
    assert_eq!(bench.verdict(ONE, 1, VerdictKind::Ack), Answer::Act("small"));
    bench.ledger.settled(DeliveryId(1), Outcome::Acked);
    assert_eq!(bench.dispatch(), [(ONE, 2)]);
    assert_eq!(bench.ledger.load(DeliveryId(2)), Some(&"large"));
}

#[test]
fn what_waits_beyond_all_windows_is_shed_newest_first() {
    let mut bench = Bench::with_window(2);
    bench.arrive(&["a", "b", "c", "d", "e"]);
    assert_eq!(bench.dispatch().len(), 2);
    assert_eq!(bench.ledger.shed(), ["e", "d", "c"]);
    bench.arrive(&["f"]);
    bench.ledger.resize(ONE, Some(5), None);
    assert_eq!(bench.ledger.shed(), Vec::<&str>::new());
}

#[test]
fn only_what_is_lost_is_revoked() {
    let mut bench = Bench::with_window(3);
    bench.arrive(&["a", "b", "a2", "b2"]);
    bench.dispatch();
    let revoked = bench.ledger.lose(|load| load.starts_with('b'));
    assert_eq!(revoked, [(ONE, vec![(DeliveryId(2), "b")])]);
    assert_eq!((bench.ledger.waiting_count(), bench.ledger.in_flight(ONE)), (0, Some(2)));
    assert_eq!(bench.verdict(ONE, 1, VerdictKind::Ack), Answer::Act("a"));
}

#[derive(Debug, Clone)]
enum Step {
    Arrive(u64),
    Dispatch,
    Verdict(u8, VerdictKind),
    Settled(u8),
    Pass(u16),
    Attach(u8, u32),
    Resize(u8, u32),
    Leave(u8),
    Detach(u8),
    SessionLost,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let kind = prop_oneof![Just(VerdictKind::Ack), Just(VerdictKind::Retry), Just(VerdictKind::Release)];
    let step = prop_oneof![
        6 => (0_u64..2_000).prop_map(Step::Arrive),
        6 => Just(Step::Dispatch),
        6 => (any::<u8>(), kind).prop_map(|(pick, kind)| Step::Verdict(pick, kind)),
        6 => any::<u8>().prop_map(Step::Settled),
        2 => any::<u16>().prop_map(Step::Pass),
        2 => (0_u8..8, 0_u32..5).prop_map(|(stream, window)| Step::Attach(stream, window)),
        1 => (0_u8..8, 0_u32..5).prop_map(|(stream, window)| Step::Resize(stream, window)),
        1 => (0_u8..8).prop_map(Step::Leave),
        1 => (0_u8..8).prop_map(Step::Detach),
        1 => Just(Step::SessionLost),
    ];
    prop::collection::vec(step, 1..120)
}

/// Where each load is, kept beside the ledger in the plainest way.
#[derive(Default)]
struct Model {
    waiting: Vec<u32>,
    working: BTreeMap<i64, u32>,
    settling: Vec<i64>,
    ended: usize,
}

proptest! {
    #[test]
    fn every_load_is_in_exactly_one_place(steps in steps()) {
        #[expect(clippy::disallowed_methods, reason = "a test has to begin somewhere in time")]
        let mut now = Instant::now();
        let mut ledger = Ledger::new(LEASE);
        let mut model = Model::default();
        let mut used = BTreeSet::new();
        let (mut loads, mut next) = (0_u32, 0_i64);
        for step in steps {
            match step {
                Step::Arrive(body) => {
                    ledger.arrive(now, loads, size(body));
                    model.waiting.push(loads);
                    loads += 1;
                }
                Step::Dispatch => {
                    let granted = ledger.dispatch(now, || { next += 1; Some(DeliveryId(next)) });
                    for (stream, id) in granted {
                        let load = *ledger.load(id).unwrap();
                        prop_assert!(!ledger.is_leaving(stream));
                        model.waiting.retain(|waiting| *waiting != load);
                        model.working.insert(id.0, load);
                    }
                }
                Step::Verdict(pick, kind) => {
                    let id = i64::from(pick) % (next + 2);
                    let stream = StreamId(u64::from(pick) % 8);
                    if let Answer::Act(load) = ledger.verdict(now, stream, DeliveryId(id), kind) {
                        prop_assert_eq!(model.working.remove(&id), Some(load));
                        model.settling.push(id);
                    }
                }
                Step::Settled(pick) => {
                    if !model.settling.is_empty() {
                        let id = model.settling.swap_remove(usize::from(pick) % model.settling.len());
                        ledger.settled(DeliveryId(id), Outcome::Acked);
                        model.ended += 1;
                    }
                }
                Step::Pass(seconds) => {
                    now += Duration::from_secs(u64::from(seconds) % 2_000);
                    for due in ledger.due(now) {
                        if let Some((_, id)) = due.holder {
                            prop_assert_eq!(model.working.remove(&id.0), Some(due.load));
                            model.settling.push(id.0);
                        } else {
                            model.waiting.retain(|waiting| *waiting != due.load);
                            model.ended += 1;
                        }
                    }
                    if let Some(wake) = ledger.next_wake() {
                        prop_assert!(wake > now, "what is due has been taken out");
                    }
                }
                Step::Attach(stream, window) => {
                    // Numbers of streams are never used again, as in the shell.
                    let stream = StreamId(u64::from(stream));
                    if used.insert(stream) {
                        ledger.attach(stream, Window::new(window, 3_000), terms());
                    }
                }
                Step::Resize(stream, window) => ledger.resize(StreamId(u64::from(stream)), Some(window), None),
                Step::Leave(stream) => ledger.leave(StreamId(u64::from(stream))),
                Step::Detach(stream) => {
                    for (id, load) in ledger.detach(StreamId(u64::from(stream))) {
                        prop_assert_eq!(model.working.remove(&id.0), Some(load));
                        model.ended += 1;
                    }
                }
                Step::SessionLost => {
                    ledger.lose(|_| true);
                    model.ended += model.waiting.len() + model.working.len();
                    model.waiting.clear();
                    model.working.clear();
                }
            }
            prop_assert_eq!(ledger.waiting_count(), model.waiting.len());
            prop_assert_eq!(ledger.open_count(), model.working.len() + model.settling.len());
            let placed = model.waiting.len() + model.working.len() + model.settling.len() + model.ended;
            prop_assert_eq!(placed, loads as usize);
        }
    }
}
