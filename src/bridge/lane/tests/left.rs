//! Messages that the broker does not confirm for long.

use super::*;

fn silent_destination(silences: &Silences) -> bool {
    silences.has_any([Destination::of("events", "")].into_iter())
}

/// Of a batch of three the second is left behind.
fn but_the_second(number: u64) -> Answers {
    Answers { batches: vec![vec![Ok(Confirm::Stored), Err(number), Ok(Confirm::Refused)]], ..Answers::default() }
}

fn of_left(number: u64, confirm: Confirm) -> Answers {
    Answers { left: vec![(number, confirm)], ..Answers::default() }
}

/// failures.md P3.
#[tokio::test(start_paused = true)]
async fn a_message_that_is_left_behind_holds_up_no_neighbour_and_keeps_its_id() {
    let mut play = Play::begin(None, 1);
    play.up(1);
    let mut first = play.ask(0, 3).await;
    play.say(but_the_second(0)).await;
    assert_eq!(known(&mut first), [Confirm::Stored, Confirm::Refused]);
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert!(!play.lanes[0].is_stuck() && play.lanes[0].load() == 1);

    let mut others = play.ask(0, 2).await;
    play.answer(1, Confirm::Stored).await;
    assert_eq!(known(&mut others), vec![Confirm::Stored; 2]);
    assert_eq!(play.written(), [3, 2]);
    // A return is recognised by the id, so two of them must not be out.
    let mut again = play.ask_with(0, ["1".to_owned()]).await;
    assert!(play.written().is_empty() && play.lanes[0].is_stuck(), "what is behind it waits, too");
    play.say(of_left(0, Confirm::Unroutable)).await;
    assert_eq!(known(&mut first), [Confirm::Unroutable]);
    assert_eq!(play.written(), [1]);
    play.answer(1, Confirm::Stored).await;
    assert_eq!(known(&mut again), [Confirm::Stored]);
    assert_eq!(play.lanes[0].load(), 0);
}

/// Streams would leave it, and others not come.
#[tokio::test(start_paused = true)]
async fn a_lane_that_moves_is_not_stuck_whatever_was_left_behind_on_it() {
    let mut play = Play::begin(None, 1);
    play.up(1);
    play.ask(0, 3).await;
    play.say(but_the_second(0)).await;
    tokio::time::sleep(Duration::from_secs(5)).await;
    play.ask(0, 20).await;
    for _ in 0..3 {
        // They wait for the batch that is out, since they are few.
        play.ask(0, 20).await;
        play.answer(1, Confirm::Stored).await;
        assert!(!play.lanes[0].was_stuck_lately());
    }
}

/// failures.md P3: what comes later on another channel would overtake what is left on this one.
#[tokio::test(start_paused = true)]
async fn a_lane_whose_channel_is_given_up_waits_for_all_that_was_left_behind_on_it() {
    let mut play = Play::begin(None, 2);
    play.up(1);
    let lanes = Lanes::new(play.lanes.clone(), 256);
    let mut left = play.ask(0, 3).await;
    play.say(but_the_second(0)).await;
    let mut more = play.ask(0, 3).await;
    play.say(but_the_second(1)).await;
    assert_eq!(play.written(), [3, 3]);
    assert!(!lanes.next().is_stuck() && known(&mut left).len() == 2 && known(&mut more).len() == 2);

    play.say(of_left(0, Confirm::TimedOut)).await;
    assert_eq!(known(&mut left), [Confirm::TimedOut]);
    assert!(play.lanes[0].is_stuck(), "others go elsewhere at once");
    tokio::time::sleep(Duration::from_secs(3)).await;
    let mut waits = play.ask(0, 1).await;
    assert!(play.written().is_empty());
    play.say(of_left(1, Confirm::TimedOut)).await;
    assert_eq!((known(&mut more), play.written()), (vec![Confirm::TimedOut], vec![1]));
    play.answer(1, Confirm::Stored).await;
    assert_eq!(known(&mut waits), [Confirm::Stored]);
    assert!(!play.lanes[0].is_stuck() && play.lanes[0].was_stuck_lately());
    for _ in 0..2 {
        assert!(!lanes.next().was_stuck_lately(), "a stream begins on the other");
    }
}

/// failures.md P3.
#[tokio::test(start_paused = true)]
async fn a_destination_is_silent_until_a_message_there_is_stored() {
    let silences: Arc<Silences> = Arc::default();
    let mut play = Play::listening(None, 1, Some(Arc::clone(&silences)));
    play.up(1);
    for number in 0..2 {
        let _all = play.ask(0, 3).await;
        play.say(Answers { silent: vec![number], ..but_the_second(number) }).await;
        assert!(silent_destination(&silences));
        if number == 0 {
            play.say(of_left(0, Confirm::Stored)).await;
        } else {
            let _one = play.ask(0, 1).await;
            play.answer(1, Confirm::Refused).await;
            assert!(silent_destination(&silences), "it may be refused for its silence");
            let _one = play.ask(0, 1).await;
            play.answer(1, Confirm::Stored).await;
        }
        assert!(!silent_destination(&silences));
    }
}

/// failures.md P9: it says nothing about the broker yet.
#[tokio::test(start_paused = true)]
async fn a_probe_that_is_left_behind_closes_the_breaker_once_it_is_answered() {
    let gate = Gate::default();
    let mut play = Play::begin(Some(gate), 1);
    play.down();
    settled().await;
    play.up(1);
    let mut all = play.ask(0, 5).await;
    assert_eq!(play.written(), [1]);
    play.say(Answers { batches: vec![vec![Err(0)]], ..Answers::default() }).await;
    assert!(play.written().is_empty(), "one at a time");
    play.say(of_left(0, Confirm::Stored)).await;
    assert_eq!(play.written(), [1]);
    play.answer(1, Confirm::Stored).await;
    play.answer(1, Confirm::Stored).await;
    assert_eq!(play.written(), [1, 2], "three were answered");
    play.answer(1, Confirm::Stored).await;
    assert_eq!(known(&mut all).len(), 5);
}
