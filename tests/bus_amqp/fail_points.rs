//! A sidecar that dies at a point on the way of a delivery, on real queues: a sample of the whole matrix.

use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt as _;
use sidebus::domain::subscription::QueueType;

use crate::lab::RabbitLab;
use crate::support::fail_points::{self, Case};
use crate::support::lives;

/// Cases that are drawn beside one for each point and fault, together 48.
const DRAWN: usize = 18;
const AT_ONCE: usize = 16;
/// After so long nothing more is on its way: twenty times what an idle broker takes.
const QUIET: Duration = Duration::from_millis(700);

/// One for each point and fault, and some more: which verdict and which type of queue is drawn.
fn sample(random: &mut fastrand::Rng) -> Vec<(Case, QueueType)> {
    let (mut cases, _) = fail_points::matrix();
    random.shuffle(&mut cases);
    let mut first: Vec<Case> = Vec::new();
    let is_new =
        |chosen: &[Case], case: &Case| !chosen.iter().any(|one| (one.point, one.fault) == (case.point, case.fault));
    for case in &cases {
        if is_new(&first, case) {
            first.push(*case);
        }
    }
    let more: Vec<Case> = cases.iter().filter(|case| !first.contains(case)).take(DRAWN).copied().collect();
    let types = [QueueType::Quorum, QueueType::Classic];
    first.into_iter().chain(more).map(|case| (case, types[random.usize(0..2)])).collect()
}

/// failures.md S1, S4, L2.
#[tokio::test]
async fn at_48_points_at_which_a_sidecar_dies_nothing_is_lost() {
    let seed = fastrand::u64(..);
    println!("seed {seed}");
    let cases = sample(&mut fastrand::Rng::with_seed(seed));
    assert_eq!(cases.len(), 48);
    let lives = cases.into_iter().map(|(case, queue_type)| async move {
        let lab = RabbitLab::new().await;
        lives::run(case, queue_type, Arc::new(lab), QUIET).await;
    });
    futures_util::stream::iter(lives).for_each_concurrent(AT_ONCE, |life| life).await;
}
