//! Who is handed a suspect, and what goes on meanwhile.

use super::*;

impl Bench {
    fn suspect(&mut self, loads: &[&'static str], suspicion: Suspicion) {
        for load in loads {
            self.ledger.arrive(self.now, load, size(1), suspicion);
        }
    }

    fn settle(&mut self, stream: StreamId, id: i64) {
        assert!(matches!(self.verdict(stream, id, VerdictKind::Ack), Answer::Act(_)));
        self.ledger.settled(DeliveryId(id), Outcome::Acked);
    }
}

#[test]
fn suspects_go_first_and_alone_and_twice_as_many_with_each_that_is_settled() {
    let mut bench = Bench::with_window(8);
    bench.arrive(&["fresh"]);
    bench.suspect(&["a", "b", "c", "d", "e", "f"], Suspicion::Suspect);
    assert_eq!(bench.dispatch(), [(ONE, 1)]);
    assert_eq!(bench.ledger.load(DeliveryId(1)), Some(&"a"));
    assert_eq!(bench.dispatch(), [], "nothing joins it");
    bench.settle(ONE, 1);
    assert_eq!(bench.dispatch(), [(ONE, 2), (ONE, 3)]);
    bench.settle(ONE, 2);
    assert_eq!(bench.dispatch(), [(ONE, 4), (ONE, 5), (ONE, 6)]);
    for id in 3..=6 {
        assert_eq!(bench.dispatch(), [], "what is fresh waits until no suspect is there");
        bench.settle(ONE, id);
    }
    assert_eq!(bench.dispatch(), [(ONE, 7)]);
    assert_eq!(bench.ledger.load(DeliveryId(7)), Some(&"fresh"));
}

#[test]
fn what_took_a_handler_down_goes_alone_whatever_went_well_before() {
    let mut bench = Bench::with_window(8);
    bench.suspect(&["a"], Suspicion::Suspect);
    bench.suspect(&["culprit", "culprit2"], Suspicion::Charged);
    bench.suspect(&["b", "c"], Suspicion::Suspect);
    for id in 1..=3 {
        assert_eq!(bench.dispatch(), [(ONE, id)]);
        bench.settle(ONE, id);
    }
    assert_eq!(bench.dispatch(), [(ONE, 4), (ONE, 5)]);
}

#[test]
fn after_a_crash_suspects_go_alone_again() {
    let mut bench = Bench::with_window(8);
    bench.suspect(&["a", "b", "c"], Suspicion::Suspect);
    bench.dispatch();
    bench.settle(ONE, 1);
    assert_eq!(bench.dispatch(), [(ONE, 2), (ONE, 3)]);
    let held = bench.ledger.detach(ONE);
    bench.ledger.suspects_go_alone();
    for (_, load) in held {
        bench.suspect(&[load], Suspicion::Suspect);
    }
    bench.ledger.attach(TWO, Window::new(8, 10_000), terms());
    assert_eq!(bench.dispatch(), [(TWO, 4)]);
}

#[test]
fn one_of_several_streams_is_set_apart_for_suspects_and_the_others_go_on() {
    let mut bench = Bench::with_window(2);
    bench.ledger.attach(TWO, Window::new(2, 10_000), terms());
    bench.arrive(&["a", "b", "c", "d", "e", "f"]);
    assert_eq!(bench.dispatch(), [(ONE, 1), (TWO, 2), (ONE, 3), (TWO, 4)]);
    bench.suspect(&["suspect"], Suspicion::Suspect);
    bench.settle(ONE, 1);
    bench.settle(TWO, 2);
    assert_eq!(bench.dispatch(), [(TWO, 5)], "the first one is emptied");
    bench.settle(ONE, 3);
    bench.settle(TWO, 4);
    assert_eq!(bench.dispatch(), [(ONE, 6), (TWO, 7)]);
    assert_eq!(bench.ledger.load(DeliveryId(6)), Some(&"suspect"));
}

#[test]
fn a_suspect_that_no_stream_can_receive_holds_up_nobody() {
    let mut bench = Bench::with_window(2);
    bench.ledger.arrive(bench.now, "large", Size { body: 2_000, encoded: 2_010 }, Suspicion::Suspect);
    bench.suspect(&["suspect"], Suspicion::Suspect);
    bench.arrive(&["fresh"]);
    assert_eq!(bench.dispatch(), [(ONE, 1)]);
    assert_eq!(bench.ledger.load(DeliveryId(1)), Some(&"suspect"));
    bench.settle(ONE, 1);
    assert_eq!(bench.dispatch(), [(ONE, 2)]);
    assert_eq!(bench.ledger.held_count(), 1);
}

#[test]
fn suspects_do_not_wait_for_a_stream_that_hangs_where_another_one_moves() {
    let mut bench = Bench::with_window(2);
    bench.ledger.attach(TWO, Window::new(4, 10_000), terms());
    bench.arrive(&["long", "a"]);
    assert_eq!(bench.dispatch(), [(ONE, 1), (TWO, 2)]);
    bench.now += Duration::from_secs(6);
    bench.settle(TWO, 2);
    bench.arrive(&["b", "c"]);
    assert_eq!(bench.dispatch(), [(TWO, 3), (TWO, 4)]);
    bench.suspect(&["suspect"], Suspicion::Suspect);
    bench.arrive(&["d"]);
    assert_eq!(bench.dispatch(), [(ONE, 5)], "the one that moves is set apart");
    bench.settle(TWO, 3);
    bench.settle(TWO, 4);
    assert_eq!(bench.dispatch(), [(TWO, 6)]);
    assert_eq!(bench.ledger.load(DeliveryId(6)), Some(&"suspect"));
}

#[test]
fn one_long_task_does_not_keep_everything_waiting_for_a_suspect_before_a_minute_has_passed() {
    let mut bench = Bench::with_window(3);
    bench.arrive(&["long"]);
    assert_eq!(bench.dispatch(), [(ONE, 1)]);
    bench.now += Duration::from_secs(6);
    bench.suspect(&["suspect"], Suspicion::Suspect);
    bench.arrive(&["a", "b"]);
    assert_eq!(bench.dispatch(), [(ONE, 2), (ONE, 3)]);
    bench.settle(ONE, 2);
    bench.settle(ONE, 3);
    bench.now += Duration::from_mins(1);
    bench.arrive(&["c"]);
    assert_eq!(bench.dispatch(), [], "now it has its turn");
    bench.settle(ONE, 1);
    assert_eq!(bench.dispatch(), [(ONE, 4)]);
    assert_eq!(bench.ledger.load(DeliveryId(4)), Some(&"suspect"));
}

#[test]
fn what_changes_for_suspects_by_time_alone_is_looked_at_in_time_and_once() {
    let mut bench = Bench::with_window(3);
    bench.arrive(&["long"]);
    assert_eq!(bench.dispatch(), [(ONE, 1)]);
    bench.now += Duration::from_secs(1);
    bench.suspect(&["suspect"], Suspicion::Suspect);
    bench.arrive(&["a"]);
    assert_eq!(bench.dispatch(), [], "it may be done in a moment");
    assert_eq!(bench.ledger.next_wake(), Some(bench.now + Duration::from_secs(4)));
    bench.now += Duration::from_secs(4);
    assert_eq!(bench.dispatch(), [(ONE, 2)], "it does not move");
    assert_eq!(bench.ledger.next_wake(), Some(bench.now + Duration::from_secs(55)), "the clock of the long one");
}
