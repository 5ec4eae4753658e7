//! A sidecar that dies at every point on the way of a delivery, on the embedded broker, which outlives it.

use std::sync::Arc;
use std::time::Duration;

use sidebus::broker::memory::{MemoryBroker, MemoryOptions};
use sidebus::domain::subscription::QueueType;

use crate::conformance_memory::MemoryLab;
use crate::support::{deadly, fail_points, lives};

const QUIET: Duration = Duration::from_secs(10);

/// failures.md S1, S4, L2.
#[tokio::test(start_paused = true)]
async fn whatever_point_a_sidecar_dies_at_nothing_is_lost_and_only_what_failed_has_failed() {
    let (cases, never) = fail_points::matrix();
    assert_eq!((cases.len(), never.len()), (44, 15), "{never:?}");
    for case in cases {
        for queue_type in [QueueType::Quorum, QueueType::Classic] {
            let lab = MemoryLab(MemoryBroker::new(MemoryOptions { bytes_max: 1 << 20 }));
            lives::run(case, queue_type, Arc::new(lab), QUIET).await;
        }
    }
}

/// failures.md S1, H14.
#[tokio::test(start_paused = true)]
async fn whatever_point_a_sidecar_dies_at_a_release_that_is_a_copy_is_not_lost() {
    for case in fail_points::guards() {
        let lab = MemoryLab(MemoryBroker::new(MemoryOptions { bytes_max: 1 << 20 }));
        lives::run(case, QueueType::Quorum, Arc::new(lab), QUIET).await;
    }
}

/// failures.md M3.
#[tokio::test(start_paused = true)]
async fn a_message_that_ends_every_sidecar_that_reads_it_becomes_a_letter_and_its_neighbours_do_not() {
    for before in [0, 25] {
        let lab = MemoryLab(MemoryBroker::new(MemoryOptions { bytes_max: 1 << 20 }));
        deadly::run(Arc::new(lab), before).await;
    }
}
