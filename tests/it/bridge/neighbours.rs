//! What a handler that does not work costs the others of its subscription, its window and no time; and what a queue that does
//! not confirm costs other subscriptions. The clock is paused, so whatever anybody waits for is seen, and how fast this machine
//! is, is not.

use std::sync::Arc;
use std::time::Duration;

use sidebus::broker::Broker;
use sidebus::domain::verdict::Verdict;

use tokio::time::Instant;

use super::bench::{Bench, Handler, broker, ids, subscription};
use crate::support::fail_points::{Fault, Fuse, Fused, Place};

const MESSAGES: usize = 2_000;
const WINDOW: u32 = 50;

/// Why a handler settles nothing.
#[derive(Debug, Clone, Copy)]
enum Idle {
    /// It takes what comes, and then it hangs.
    Stuck,
    /// It does not even read its stream.
    Deaf,
}

/// Handles so many; answers how long they took on the paused clock.
async fn handle(handler: &mut Handler, count: usize) -> Duration {
    let begun = Instant::now();
    let mut done = 0;
    while done < count {
        handler.next().await.expect("the stream goes on");
        let got = handler.take();
        handler.ack(&ids(&got)).await;
        done += got.len();
    }
    assert_eq!(done, count);
    begun.elapsed()
}

/// Messages with these numbers.
async fn publish(bench: &Bench, range: std::ops::Range<usize>) {
    let numbers: Vec<String> = range.map(|number| number.to_string()).collect();
    bench.publish(&numbers.iter().map(String::as_str).collect::<Vec<_>>()).await;
}

/// failures.md H4 and H5.
#[tokio::test(start_paused = true)]
async fn beside_handlers_that_settle_nothing_another_one_handles_all_the_rest_and_waits_for_nothing() {
    let bench = Bench::start();
    let mut handler = bench.join(WINDOW).await;
    let mut idle = Vec::new();
    for kind in [Idle::Stuck, Idle::Deaf] {
        let mut one = bench.join(WINDOW).await;
        publish(&bench, 0..MESSAGES).await;
        let held = WINDOW as usize;
        if let Idle::Stuck = kind {
            one.receive(held).await;
        }
        idle.push(one);
        let beside = handle(&mut handler, MESSAGES - held).await;
        // The prefetch follows the windows within less.
        assert!(beside < Duration::from_millis(500), "beside one that is {kind:?}: {beside:?}");
        bench.depth_becomes("work", 0, held * idle.len()).await;
    }
}

/// failures.md H4: five long tasks are all that the broker may send ahead, and one more is less than a quarter of it.
#[tokio::test(start_paused = true)]
async fn a_handler_with_a_small_window_has_its_share_beside_many_that_work_long() {
    let bench = Bench::start();
    publish(&bench, 0..100).await;
    let mut busy = Vec::new();
    for _ in 0..5 {
        let mut handler = bench.join(1).await;
        handler.receive(1).await;
        busy.push(handler);
    }
    let asked = Instant::now();
    let mut another = bench.join(1).await;
    another.receive(1).await;
    assert!(asked.elapsed() < Duration::from_millis(500), "{:?}", asked.elapsed());
    bench.depth_becomes("work", 94, 6).await;
}

/// failures.md L3.
#[tokio::test(start_paused = true)]
async fn copies_of_one_subscription_that_get_no_confirm_hold_up_nobody_elses() {
    let (memory, fuse) = (broker(), Fuse::new(|| {}));
    let fused = Fused::new(Arc::new(memory.clone()) as Arc<dyn Broker>, Arc::clone(&fuse));
    let subscriptions = vec![subscription("one", "#"), subscription("two", "#")];
    let bench = Bench::through(Arc::new(fused), memory, (subscriptions, &[]));
    bench.publish(&["a"]).await;
    let (mut one, mut two) = (bench.join_as("one", 10).await, bench.join_as("two", 10).await);
    let (stuck, other) = (one.receive(1).await, two.receive(1).await);
    let retry = || Verdict::Retry {
        delay: Some(Duration::from_secs(1)),
        reason: "BUSY".to_owned(),
        description: String::new(),
    };
    fuse.arm(Place::Written, Fault::Hang);
    one.say(&ids(&stuck), retry()).await;
    fuse.blown().await;
    let asked = Instant::now();
    two.say(&ids(&other), retry()).await;
    let again = two.receive(1).await;
    assert_eq!(again[0].seen.record.attempt(), 2);
    assert!(asked.elapsed() < Duration::from_secs(5), "{:?}", asked.elapsed());
    // Nothing is lost: the stuck one is unsettled still.
    bench.depth_becomes("one", 0, 1).await;
}
