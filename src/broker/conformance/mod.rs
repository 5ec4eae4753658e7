//! What every backend must do, as cases that run against any of them.
//!
//! Knows the port and nothing of a backend: a [`Lab`] brings the broker and the accidents that can befall it. A backend's
//! tests expand [`conformance_cases!`](crate::conformance_cases) into one test for each case.
#![expect(clippy::panic, clippy::expect_used, reason = "the suite is test code that other crates' tests link to")]

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;

use super::Broker;
use crate::domain::name::QueueName;

mod consuming;
mod exclusive;
mod expiry;
mod fidelity;
mod publishing;
mod routing;
mod scene;
mod sessions;
mod settling;
mod topology;

/// A place to try a backend in: its broker, names of its own, and the accidents that a broker has.
pub trait Lab: Send + Sync + 'static {
    /// The backend to be tried.
    fn broker(&self) -> Arc<dyn Broker>;

    /// A name nobody else uses: the stem with this lab's unique prefix (e.g. "t-1a2b-work").
    fn name(&self, stem: &str) -> String;

    /// Cuts the link of every session of this lab's broker, as a broker restart would.
    fn break_sessions(&self) -> BoxFuture<'_, ()>;

    /// Deletes a queue behind the backend's back, with all that it holds.
    fn delete_queue(&self, queue: &QueueName) -> BoxFuture<'_, ()>;
}

/// One case: panics when the backend fails it.
pub type Case = fn(Arc<dyn Lab>) -> BoxFuture<'static, ()>;

/// Most time that one case may take, so that a hang fails. Far above any case's need: brokers share slow machines.
pub const CASE_DEADLINE: Duration = Duration::from_mins(1);

/// The list of the cases as `module::name`, handed to another macro: the only place that names them.
#[doc(hidden)]
#[macro_export]
macro_rules! __conformance_list {
    ($callback:path $(, $make_lab:path)?) => {
        $callback! {
            $($make_lab;)?
            settling::first_deliveries_keep_their_order,
            settling::prefetch_bounds_the_unsettled_and_settling_refills,
            settling::prefetch_may_be_larger_than_the_queue,
            settling::the_acked_is_gone_after_its_session,
            settling::the_unsettled_comes_back_as_redelivered_after_a_cut,
            settling::what_is_given_back_comes_again_as_redelivered,
            settling::a_batch_with_holes_settles_what_it_names_and_nothing_else,
            settling::a_mixed_batch_acks_and_gives_back_as_named,
            settling::two_consumers_share_a_queue_without_doubling,
            sessions::events_tell_of_the_end_and_of_nothing_before,
            sessions::a_new_session_works_after_a_cut,
            sessions::receipts_of_a_lost_session_are_stale,
            sessions::a_cut_ends_arrivals_with_an_error,
            sessions::a_lane_of_a_lost_session_stores_nothing,
            sessions::a_lost_session_refuses_new_work,
            sessions::close_gives_back_what_is_unsettled,
            publishing::a_stored_batch_arrives_whole_and_in_order,
            publishing::only_the_unroutable_of_a_batch_are_reported_so,
            publishing::an_optional_message_that_nobody_takes_counts_as_stored,
            publishing::a_missing_exchange_hurts_no_neighbour,
            publishing::a_full_queue_refuses_and_keeps_what_it_confirmed,
            publishing::a_refusal_by_one_queue_is_the_outcome_of_the_message,
            publishing::an_empty_batch_has_no_outcomes,
        }
    };
}

/// Expands to one `#[tokio::test]` for each case of the conformance suite, so that each is seen by name.
///
/// Takes the path of an `async fn() -> Arc<dyn Lab>`, called once for every case.
#[macro_export]
macro_rules! conformance_cases {
    ($make_lab:path) => {
        $crate::__conformance_list!($crate::__conformance_tests, $make_lab);
    };
}

#[doc(hidden)]
#[macro_export]
macro_rules! __conformance_tests {
    ($make_lab:path; $($module:ident::$name:ident,)*) => {
        $(
            #[tokio::test]
            async fn $name() {
                $crate::broker::conformance::run(stringify!($name), $make_lab().await).await;
            }
        )*
    };
}

macro_rules! table {
    ($($module:ident::$name:ident,)*) => {
        /// Every case and its name.
        pub const CASES: &[(&str, Case)] = &[$((stringify!($name), |lab| Box::pin($module::$name(lab)))),*];
    };
}

__conformance_list!(table);

/// Runs the case of that name.
///
/// # Panics
/// When the backend fails it or takes longer than [`CASE_DEADLINE`], and when there is no such case.
pub async fn run(name: &str, lab: Arc<dyn Lab>) {
    let (_, case) = CASES.iter().find(|(known, _)| *known == name).expect("the case is in the list");
    let ended = tokio::time::timeout(CASE_DEADLINE, case(lab)).await;
    assert!(ended.is_ok(), "{name} did not end within {} s", CASE_DEADLINE.as_secs());
}
