//! A message that ends every sidecar that reads it, among neighbours that must not pay for it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt as _;
use sidebus::bridge::Said;
use sidebus::broker::conformance::Lab;
use sidebus::domain::message::Value;
use sidebus::domain::subscription::{QueueType, Subscription};
use sidebus::domain::verdict::Verdict;

use super::fail_points::{Fault, Fuse, Fused};
use super::lives::{Life, active, deliveries, subscription, take_all};

/// Requeues that the queue allows.
const LIMIT: i64 = 8;
/// The end of a life that does not end by itself: nothing more comes.
const QUIET: Duration = Duration::from_secs(3);
/// The one of 51 that is deadly.
const DEADLY: &str = "deadly";
const NEIGHBOURS: usize = 50;

fn limited(lab: &dyn Lab) -> Subscription {
    let mut work = subscription(lab, QueueType::Quorum);
    work.queue.arguments.insert("x-delivery-limit".to_owned(), Value::Int64(LIMIT));
    work
}

/// One life after another on a queue that has the deadly message behind so many others, until nothing is left in it.
pub(crate) async fn run(lab: Arc<dyn Lab>, before: usize) {
    let numbers: Vec<String> = (0..NEIGHBOURS).map(|number| number.to_string()).collect();
    let mut bodies: Vec<&str> = numbers.iter().map(String::as_str).collect();
    bodies.insert(before, DEADLY);
    let first = Life::begin(&*lab, lab.broker(), limited(&*lab));
    first.connected(None).await;
    first.publish(&*lab, &bodies).await;
    // The queue is there with its first handler only.
    first.stop().await;

    let mut handled: BTreeMap<String, Vec<u32>> = BTreeMap::new();
    let mut deaths = 0;
    while is_killed(&lab, &mut handled).await {
        deaths += 1;
        assert!(deaths <= 3 * LIMIT, "{deaths} deaths, and {} of {NEIGHBOURS} are handled", handled.len());
    }
    // The broker gives it up with the requeue that is one too many.
    assert!(deaths > LIMIT, "{deaths} deaths");
    assert_eq!(handled.len(), NEIGHBOURS, "behind {before}: {handled:?}");
    assert!(handled.values().flatten().all(|attempt| *attempt == 1), "behind {before}: {handled:?}");
    assert_eq!(take_all(&*lab, "dlq", QUIET).await, [DEADLY], "behind {before}: only the culprit is a letter");
}

/// A life that acks what it gets. True = it has read the deadly message.
async fn is_killed(lab: &Arc<dyn Lab>, handled: &mut BTreeMap<String, Vec<u32>>) -> bool {
    let cut = {
        let lab = Arc::clone(lab);
        move || lab.break_sessions().now_or_never().expect("a cut takes no time")
    };
    let fuse = Fuse::deadly(DEADLY, cut);
    let life = Life::begin(&**lab, Arc::new(Fused::new(lab.broker(), Arc::clone(&fuse))), limited(&**lab));
    life.connected(None).await;
    let attached = life.join().await;
    let working = async {
        // Until its queue is consumed nothing can come.
        let mut got = active(&attached).await;
        loop {
            if got.is_empty() {
                got = deliveries(&attached, QUIET).await;
            }
            if got.is_empty() {
                return;
            }
            for handout in &got {
                let body = super::lives::body(&handout.seen.message);
                handled.entry(body).or_default().push(handout.seen.record.attempt());
            }
            let ids = std::mem::take(&mut got).iter().map(|handout| handout.id).collect();
            assert!(attached.voice.say(Said { verdicts: vec![(ids, Ok(Verdict::Ack))], ..Said::default() }).await);
        }
    };
    let is_killed = tokio::select! {
        () = working => false,
        () = fuse.blown() => true,
    };
    if is_killed {
        drop(attached);
        life.bury(Fault::Kill).await;
    } else {
        assert!(attached.voice.say(Said { leave: true, ..Said::default() }).await);
        life.stop().await;
    }
    is_killed
}
