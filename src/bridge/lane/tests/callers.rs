//! Callers that do not wait for what they asked.

use super::super::super::permits::{Counted, Permits, Room};
use super::*;

/// failures.md P4: a storm of callers that give up would else fill the memory with what nobody counts.
#[tokio::test(start_paused = true)]
async fn a_caller_that_goes_away_frees_no_room_before_the_broker_has_answered() {
    let play = Play::begin(None, 1);
    play.up(1);
    let room = Room::new(3, 3);
    for id in ["a", "b", "c"] {
        let counted = Counted::new(::metrics::Gauge::noop(), 1);
        let permits = Arc::new(Permits::new(room.try_take(1, 1), None, counted));
        drop(play.lanes[0].submit(publication(id), Some(permits), None).await);
    }
    settled().await;
    assert!(room.try_take(1, 0).is_none() && play.lanes[0].load() == 3);
    play.answer(3, Confirm::Stored).await;
    assert!(room.try_take(3, 3).is_some() && play.lanes[0].load() == 0);
}
