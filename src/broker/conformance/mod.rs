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

mod adopting;
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
            consuming::a_missing_queue_cannot_be_consumed,
            consuming::changing_the_prefetch_loses_and_doubles_nothing,
            consuming::a_lowered_prefetch_bounds_what_comes_next,
            consuming::cancel_keeps_receipts_good_and_hands_out_the_untaken,
            consuming::a_cancel_after_the_prefetch_has_grown_hands_out_all_that_nobody_took,
            consuming::a_deleted_queue_ends_arrivals_with_an_error,
            consuming::waiting_in_vain_loses_nothing,
            consuming::a_waiting_consumer_wakes_for_what_comes,
            consuming::a_batch_takes_all_that_is_there_within_its_room,
            consuming::an_auto_delete_queue_goes_with_its_last_consumer,
            consuming::a_dropped_consumer_gives_back_what_it_held,
            consuming::a_connection_of_its_own_makes_no_difference,
            sessions::events_tell_of_the_end_and_of_nothing_before,
            sessions::a_new_session_works_after_a_cut,
            sessions::receipts_of_a_lost_session_are_stale,
            sessions::a_cut_ends_arrivals_with_an_error,
            sessions::a_lane_of_a_lost_session_stores_nothing,
            sessions::a_lost_session_refuses_new_work,
            sessions::close_gives_back_what_is_unsettled,
            publishing::a_stored_batch_arrives_whole_and_in_order,
            publishing::only_the_unroutable_of_a_batch_are_reported_so,
            publishing::each_message_of_batches_that_overlap_has_its_own_outcome,
            publishing::an_optional_message_that_nobody_takes_counts_as_stored,
            publishing::a_missing_exchange_hurts_no_neighbour,
            publishing::an_internal_exchange_costs_its_neighbours_one_batch_at_most,
            publishing::a_full_queue_refuses_and_keeps_what_it_confirmed,
            publishing::a_refusal_by_one_queue_is_the_outcome_of_the_message,
            publishing::an_empty_batch_has_no_outcomes,
            fidelity::every_property_survives,
            fidelity::absent_properties_stay_absent,
            fidelity::every_type_of_header_survives,
            fidelity::nested_headers_survive,
            fidelity::bodies_of_every_size_survive,
            fidelity::long_routing_keys_survive,
            routing::topics_match_words,
            routing::direct_exchanges_match_the_whole_key,
            routing::fanout_exchanges_take_every_key,
            routing::the_nameless_exchange_reaches_every_queue_by_name,
            routing::headers_exchanges_match_all_or_any,
            routing::every_bound_queue_gets_one_copy,
            topology::a_plan_creates_once_and_adopts_ever_after,
            topology::verify_reports_what_is_missing_and_creates_nothing,
            topology::off_asks_nothing,
            topology::binding_what_is_missing_is_an_error_that_names_it,
            topology::binding_again_changes_nothing,
            adopting::a_queue_with_other_arguments_is_adopted_with_all_that_it_lacks,
            adopting::integers_of_another_width_and_an_absent_default_are_no_differences,
            adopting::every_named_key_that_differs_is_told_at_once,
            adopting::a_mismatch_harms_nothing_and_is_over_when_it_is_mended,
            adopting::an_exchange_of_another_type_is_adopted_unless_its_type_is_named,
            adopting::an_argument_of_an_exchange_is_compared,
            adopting::a_queue_made_again_otherwise_is_compared_as_it_is_now,
            adopting::of_two_sidecars_that_start_at_once_both_have_the_queue,
            adopting::unbinding_takes_one_binding_away_and_needs_none,
            adopting::examining_tells_what_is_missing_and_touches_nothing,
            exclusive::an_exclusive_queue_serves_its_own_session,
            exclusive::an_exclusive_queue_is_made_and_bound_where_others_are_only_verified,
            exclusive::an_exclusive_queue_is_locked_for_other_sessions,
            exclusive::an_exclusive_queue_goes_with_its_session,
            expiry::an_expired_message_goes_to_the_dead_letters,
            expiry::a_message_may_carry_its_own_expiry,
            expiry::a_delay_slot_brings_a_message_home,
            expiry::an_overfull_queue_drops_its_oldest_into_the_dead_letters,
            expiry::a_dead_letter_key_replaces_the_routing_key,
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

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::CASES;

    #[test]
    fn every_case_has_a_name_of_its_own() {
        let names: BTreeSet<&str> = CASES.iter().map(|(name, _)| *name).collect();
        assert_eq!(names.len(), CASES.len());
    }

    /// A case that is written and not in the list would never run.
    #[test]
    fn every_case_that_is_written_is_in_the_list() {
        let sources = [
            include_str!("adopting.rs"),
            include_str!("consuming.rs"),
            include_str!("exclusive.rs"),
            include_str!("expiry.rs"),
            include_str!("fidelity.rs"),
            include_str!("publishing.rs"),
            include_str!("routing.rs"),
            include_str!("sessions.rs"),
            include_str!("settling.rs"),
            include_str!("topology.rs"),
        ];
        let written =
            sources.iter().flat_map(|source| source.lines()).filter(|line| line.contains("(lab: Arc<dyn Lab>)"));
        assert_eq!(written.count(), CASES.len());
    }
}
