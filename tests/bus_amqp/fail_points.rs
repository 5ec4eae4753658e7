//! A sidecar that dies at a point on the way of a delivery, on real queues: a sample of the whole matrix.

use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt as _;
use sidebus::domain::subscription::QueueType;

use crate::lab::RabbitLab;
use crate::support::fail_points::{self, Case};
use crate::support::{deadly, lives};

/// Cases of one run.
const SAMPLE: usize = 48;
const AT_ONCE: usize = 8;
/// Names the seed of a run that is to be had again.
const SEED: &str = "BUS_TEST_SEED";
/// After so long nothing more is on its way: twenty times what an idle broker takes.
const QUIET: Duration = Duration::from_millis(700);

/// One for each place and fault, and others to make up the number.
fn sample(random: &mut fastrand::Rng) -> Vec<(Case, QueueType)> {
    let (cases, _) = fail_points::matrix();
    let types = [QueueType::Quorum, QueueType::Classic];
    let mut pairs: Vec<(Case, QueueType)> =
        cases.into_iter().flat_map(|case| types.map(|queue_type| (case, queue_type))).collect();
    random.shuffle(&mut pairs);
    let is_first = |at: usize| {
        let (case, _) = pairs[at];
        !pairs[..at].iter().any(|(other, _)| (other.place, other.fault) == (case.place, case.fault))
    };
    let (first, more): (Vec<usize>, Vec<usize>) = (0..pairs.len()).partition(|at| is_first(*at));
    first.into_iter().chain(more).take(SAMPLE).map(|at| pairs[at]).collect()
}

#[expect(clippy::disallowed_methods, reason = "only config reads the environment of the product; this is not it")]
fn seed() -> u64 {
    std::env::var(SEED).ok().and_then(|seed| seed.parse().ok()).unwrap_or_else(|| fastrand::u64(..))
}

/// failures.md S1, S4, L2.
#[tokio::test]
async fn at_48_points_at_which_a_sidecar_dies_nothing_is_lost() {
    let seed = seed();
    println!("seed {seed}, to be had again with {SEED}");
    let cases = sample(&mut fastrand::Rng::with_seed(seed));
    assert_eq!(cases.len(), SAMPLE);
    let lives = cases.into_iter().map(|(case, queue_type)| async move {
        let lab = RabbitLab::new().await;
        lives::run(case, queue_type, Arc::new(lab), QUIET).await;
    });
    futures_util::stream::iter(lives).for_each_concurrent(AT_ONCE, |life| life).await;
}

/// failures.md S1, H14.
#[tokio::test]
async fn at_every_point_at_which_a_sidecar_dies_a_release_that_is_a_copy_is_not_lost() {
    let lives = fail_points::guards().into_iter().map(|case| async move {
        lives::run(case, QueueType::Quorum, Arc::new(RabbitLab::new().await), QUIET).await;
    });
    futures_util::stream::iter(lives).for_each_concurrent(AT_ONCE, |life| life).await;
}

/// failures.md M3.
#[tokio::test]
async fn a_message_that_ends_every_sidecar_that_reads_it_becomes_a_letter_and_its_neighbours_do_not() {
    for before in [0, 25] {
        deadly::run(Arc::new(RabbitLab::new().await), before).await;
    }
}
