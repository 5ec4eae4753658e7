//! Durations and points in time between protobuf and plain numbers. Knows no field.

use std::time::Duration;

/// Last second of the year 9999: protobuf's timestamps end there.
pub(super) const SECONDS_MAX: u64 = 253_402_300_799;
/// Longest duration of protobuf: 10,000 years.
const DURATION_SECONDS_MAX: u64 = 315_576_000_000;
const NANOS_OF_SECOND: i32 = 1_000_000_000;

/// Seconds since 1970 as a timestamp; `None` beyond the year 9999.
pub(super) fn seconds_to_proto(seconds: u64) -> Option<prost_types::Timestamp> {
    let within = seconds <= SECONDS_MAX;
    i64::try_from(seconds).ok().filter(|_| within).map(|seconds| prost_types::Timestamp { seconds, nanos: 0 })
}

/// Milliseconds since 1970 as a timestamp; `None` beyond the year 9999.
pub(super) fn millis_to_proto(millis: u64) -> Option<prost_types::Timestamp> {
    let nanos = i32::try_from(millis % 1_000 * 1_000_000).ok()?;
    seconds_to_proto(millis / 1_000).map(|whole| prost_types::Timestamp { nanos, ..whole })
}

/// Whole seconds since 1970 of a timestamp, its fraction cut.
///
/// # Errors
/// The rule that it breaks.
pub(super) fn seconds_from_proto(time: &prost_types::Timestamp) -> Result<u64, &'static str> {
    if !(0..NANOS_OF_SECOND).contains(&time.nanos) {
        return Err("has nanos outside 0 to 999,999,999");
    }
    let seconds = u64::try_from(time.seconds).map_err(|_| "is before 1970, which AMQP cannot carry")?;
    if seconds > SECONDS_MAX { Err("is beyond the year 9999") } else { Ok(seconds) }
}

/// A duration for the wire; what is longer than 10,000 years becomes that.
pub fn duration_to_proto(duration: Duration) -> prost_types::Duration {
    let seconds = i64::try_from(duration.as_secs().min(DURATION_SECONDS_MAX)).unwrap_or(i64::MAX);
    prost_types::Duration { seconds, nanos: i32::try_from(duration.subsec_nanos()).unwrap_or(0) }
}

/// Milliseconds as a duration; `None` beyond what protobuf allows.
pub(super) fn millis_to_duration(millis: u64) -> Option<prost_types::Duration> {
    (millis / 1_000 <= DURATION_SECONDS_MAX).then(|| duration_to_proto(Duration::from_millis(millis)))
}

/// A duration of a caller.
///
/// # Errors
/// It is negative or malformed.
pub(super) fn duration_from_proto(duration: &prost_types::Duration) -> Result<Duration, &'static str> {
    if duration.seconds < 0 || duration.nanos < 0 {
        return Err("is negative");
    }
    if duration.nanos >= NANOS_OF_SECOND {
        return Err("has nanos above 999,999,999");
    }
    let seconds = u64::try_from(duration.seconds).unwrap_or(0);
    let nanos = u32::try_from(duration.nanos).unwrap_or(0);
    if seconds > DURATION_SECONDS_MAX { Err("is longer than 10,000 years") } else { Ok(Duration::new(seconds, nanos)) }
}
