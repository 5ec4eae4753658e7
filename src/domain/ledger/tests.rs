//! The ledger's rules as facts.

use super::*;

mod suspects;

const ONE: StreamId = StreamId(1);
const TWO: StreamId = StreamId(2);
const MINUTE: Duration = Duration::from_mins(1);
pub(super) const LEASE: Duration = Duration::from_mins(25);

pub(super) fn terms() -> Terms {
    Terms { settle_timeout: MINUTE, frame_bytes_max: 1_000 }
}

pub(super) fn size(body: u64) -> Size {
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
            self.ledger.arrive(self.now, load, size(1), Suspicion::None);
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
    assert_eq!(
        bench.ledger.lose(bench.now, |_| true).revoked,
        [(ONE, vec![(DeliveryId(2), "b"), (DeliveryId(3), "c")])]
    );
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
    bench.ledger.arrive(bench.now, "a", size(900), Suspicion::None);
    assert_eq!(bench.ledger.effective_window(ONE), 11, "10,000 bytes hold eleven of them");
    for _ in 0..2_000 {
        bench.ledger.arrive(bench.now, "b", size(50), Suspicion::None);
    }
    assert!(bench.ledger.effective_window(ONE) > 90, "the small ones that came since count more");
    bench.ledger.leave(ONE);
    assert_eq!(bench.ledger.effective_window(ONE), 0);
}

#[test]
fn what_is_sent_ahead_is_trusted_by_what_has_come() {
    let mut bench = Bench::with_window(100);
    assert_eq!(bench.ledger.trusted(2_500), 4, "10,000 bytes hold four of the largest");
    bench.arrive(&["a"; 2]);
    assert_eq!(bench.ledger.trusted(2_500), 32);
    assert_eq!(bench.ledger.trusted(10), 100);
    // The small ones came first and weigh no more than it.
    bench.ledger.arrive(bench.now, "b", size(900), Suspicion::None);
    assert_eq!((bench.ledger.effective_window(ONE), bench.ledger.fitting(50)), (33, 33));
    bench.ledger.leave(ONE);
    assert_eq!(bench.ledger.trusted(2_500), 48);
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
    bench.ledger.arrive(bench.now, "large", Size { body: 2_000, encoded: 2_010 }, Suspicion::None);
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
    bench.ledger.arrive(bench.now, "large", size(900), Suspicion::None);
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
    let revoked = bench.ledger.lose(bench.now, |load| load.starts_with('b')).revoked;
    assert_eq!(revoked, [(ONE, vec![(DeliveryId(2), "b")])]);
    assert_eq!((bench.ledger.waiting_count(), bench.ledger.in_flight(ONE)), (0, Some(2)));
    assert_eq!(bench.verdict(ONE, 1, VerdictKind::Ack), Answer::Act("a"));
}

#[test]
fn what_becomes_the_oldest_by_a_loss_has_its_whole_time() {
    let mut bench = Bench::with_window(2);
    bench.arrive(&["old", "new"]);
    bench.dispatch();
    bench.ledger.extend(bench.now, ONE, DeliveryId(1), MINUTE * 20);
    assert_eq!(bench.pass(MINUTE * 15), []);
    bench.ledger.lose(bench.now, |load| *load == "old");
    assert_eq!(bench.pass(Duration::from_secs(59)), []);
    assert_eq!(bench.pass(Duration::from_secs(1)).len(), 1);
}
