//! Callers that do not wait for what they asked.

use super::super::super::permits::{Counted, Permits};
use super::*;

/// failures.md P4: a storm of callers that give up would else fill the memory with what nobody counts.
#[tokio::test(start_paused = true)]
async fn a_caller_that_goes_away_frees_no_room_before_the_broker_has_answered() {
    let play = Play::begin(None, 1);
    play.up(1);
    let room = Arc::new(Semaphore::new(3));
    for id in ["a", "b", "c"] {
        let permit = Arc::clone(&room).acquire_owned().await.ok();
        let permits = Arc::new(Permits::new(permit, None, Counted::new(::metrics::Gauge::noop(), 1)));
        drop(play.lanes[0].submit(publication(id), Some(permits), None).await);
    }
    settled().await;
    assert_eq!((room.available_permits(), play.lanes[0].load()), (0, 3));
    play.answer(3, Confirm::Stored).await;
    assert_eq!((room.available_permits(), play.lanes[0].load()), (3, 0));
}
