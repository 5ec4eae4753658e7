//! The rules of Sidebus as plain values and functions.
//!
//! Knows nothing of async, clocks, randomness, logging or I/O: time comes in as `now`, jitter as a number. It does not
//! know which broker or which wire it serves.

pub mod backoff;
pub mod breaker;
pub mod coalesce;
pub mod dead_letter;
pub mod delay;
pub mod delivery_id;
pub mod desired;
pub mod difference;
pub mod failure;
pub mod giving_up;
pub mod kill_switch;
pub mod lane_batch;
pub mod late_acks;
pub mod ledger;
pub mod letter;
pub mod masking;
pub mod message;
pub mod name;
pub mod pace;
pub mod prefetch;
pub mod probation;
pub mod queue_keys;
pub mod queue_rules;
pub mod readiness;
pub mod record;
pub mod retry;
pub mod silence;
pub mod subscription;
pub mod token_bucket;
pub mod topology;
pub mod verdict;
pub mod version;
pub mod window;
