//! Which lane a stream takes.

use super::super::super::pipe::stream_lane::StreamLane;
use super::*;

/// A stream on the first lane, where another caller's message has no confirm for long and its own one for less.
async fn behind_another(play: &mut Play) -> (StreamLane, Vec<oneshot::Receiver<Confirm>>) {
    let stream = StreamLane::new(play.lanes[0].clone());
    play.ask(0, 1).await;
    tokio::time::sleep(Duration::from_secs(3)).await;
    let own = submit(&stream, "own").await;
    (stream, vec![own])
}

async fn submit(stream: &StreamLane, id: &str) -> oneshot::Receiver<Confirm> {
    let answer = stream.submit(publication(id), None).await;
    settled().await;
    answer
}

/// True if the stream knows within a moment which lane it takes.
async fn decides(stream: &mut StreamLane, other: &LaneHandle) -> bool {
    tokio::time::timeout(Duration::from_millis(1), stream.leave_if_held_up(|| other.clone())).await.is_ok()
}

fn loads(play: &Play) -> Vec<usize> {
    play.lanes.iter().map(LaneHandle::load).collect()
}

/// failures.md P3: what goes out on another channel may overtake what has no answer on this one.
#[tokio::test(start_paused = true)]
async fn a_stream_that_others_hold_up_takes_another_lane_once_all_of_its_own_is_answered() {
    let mut play = Play::begin(None, 2);
    play.up(1);
    let (mut stream, mut own) = behind_another(&mut play).await;
    let other = play.lanes[1].clone();
    assert!(!decides(&mut stream, &other).await, "one of its own has no answer");

    play.answer(2, Confirm::Stored).await;
    let answers = known(&mut own);
    assert!(answers == [Confirm::Stored] && !decides(&mut stream, &other).await, "nobody has taken the answer");
    stream.told().hear(answers.iter());
    assert!(decides(&mut stream, &other).await);
    let _answer = submit(&stream, "next").await;
    assert_eq!(loads(&play), [0, 1]);
}

/// Elsewhere it would hold up others, also some time after its last late one.
#[tokio::test(start_paused = true)]
async fn a_stream_whose_own_messages_are_late_keeps_its_lane_and_so_does_one_that_no_lane_serves_better() {
    let mut play = Play::begin(None, 2);
    play.up(1);
    let (mut stream, _own) = behind_another(&mut play).await;
    play.ask(1, 1).await;
    tokio::time::sleep(Duration::from_secs(3)).await;
    let other = play.lanes[1].clone();
    assert!(other.was_stuck_lately() && decides(&mut stream, &other).await);
    let _answer = submit(&stream, "second").await;
    assert_eq!(loads(&play), [3, 1]);

    tokio::time::sleep(Duration::from_secs(3)).await;
    play.answer(4, Confirm::TimedOut).await;
    tokio::time::sleep(Duration::from_secs(50)).await;
    stream.told().hear([Confirm::TimedOut].iter());
    stream.told().hear([Confirm::Stored].iter());
    play.ask(0, 1).await;
    tokio::time::sleep(Duration::from_secs(20)).await;
    assert!(play.lanes[0].was_stuck_lately() && !other.was_stuck_lately());
    assert!(decides(&mut stream, &other).await);
    let _answer = submit(&stream, "third").await;
    assert_eq!(loads(&play), [2, 0]);
}

/// Its own message may be the one that has no answer for long; then waiting for it would hold up the stream.
#[tokio::test(start_paused = true)]
async fn a_stream_on_a_lane_that_moves_again_waits_for_its_own_messages_for_a_second_only() {
    let mut play = Play::begin(None, 2);
    play.up(1);
    let (mut stream, _own) = behind_another(&mut play).await;
    play.answer(1, Confirm::Stored).await;
    let left = Answers { batches: vec![vec![Err(0)]], ..Answers::default() };
    play.say(left).await;
    assert!(!play.lanes[0].is_stuck() && play.lanes[0].was_stuck_lately());
    let other = play.lanes[1].clone();
    assert!(!decides(&mut stream, &other).await);
    let begun = Instant::now();
    stream.leave_if_held_up(|| other.clone()).await;
    assert_eq!(begun.elapsed().as_secs(), 1);
    let _answer = submit(&stream, "next").await;
    assert!(decides(&mut stream, &other).await, "it is late itself");
    assert_eq!(loads(&play), [2, 0]);
}
