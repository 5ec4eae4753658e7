//! From a handler's settlement or extension to the domain's verdict. Knows no ledger.

use std::time::Duration;

use super::time;
use crate::domain::verdict::{DESCRIPTION_BYTES_MAX, REASON_BYTES_MAX, RETRY_DELAY_MAX, Verdict, cut, is_reason};
use crate::grpc::proto::sidebus::v1;

/// Most delivery ids of one settlement or extension.
pub const IDS_MAX: usize = 10_000;

/// A settlement or extension that cannot be taken: the outcome `INVALID`, and the leases stay.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InvalidVerdict {
    /// Whom the answer names; at most [`IDS_MAX`].
    pub delivery_ids: Vec<i64>,
    /// The rule that it breaks, for people.
    pub description: String,
}

/// Converts a settlement.
///
/// # Errors
/// No verdict or one that this release does not know, a field of a later release, a bad field, none or too many ids.
pub fn settlement_from_proto(settlement: v1::Settlement) -> Result<(Vec<i64>, Verdict), InvalidVerdict> {
    let (ids, verdict) = (settlement.delivery_ids, settlement.verdict);
    match check_ids(&ids).and_then(|()| verdict_from_proto(verdict)) {
        Ok(verdict) => Ok((ids, verdict)),
        Err(description) => Err(invalid(ids, description)),
    }
}

/// Converts an extension to its ids and the time that each gets.
///
/// # Errors
/// No positive timeout, none or too many ids.
pub fn extension_from_proto(extension: v1::Extension) -> Result<(Vec<i64>, Duration), InvalidVerdict> {
    let ids = extension.delivery_ids;
    match check_ids(&ids).and_then(|()| timeout_from_proto(extension.timeout)) {
        Ok(timeout) => Ok((ids, timeout)),
        Err(description) => Err(invalid(ids, description)),
    }
}

fn invalid(mut delivery_ids: Vec<i64>, description: String) -> InvalidVerdict {
    delivery_ids.truncate(IDS_MAX);
    InvalidVerdict { delivery_ids, description }
}

fn check_ids(ids: &[i64]) -> Result<(), String> {
    match ids.len() {
        0 => Err("delivery_ids is empty".to_owned()),
        1..=IDS_MAX => Ok(()),
        count => Err(format!("delivery_ids holds {count} ids, at most {IDS_MAX} are allowed")),
    }
}

fn verdict_from_proto(verdict: Option<v1::settlement::Verdict>) -> Result<Verdict, String> {
    use v1::settlement::Verdict as Wire;
    match verdict {
        None => {
            Err("no verdict, or one that this release does not know: set ack, retry, dead_letter or release".to_owned())
        }
        Some(Wire::Ack(ack)) if ack.reply.is_some() => {
            Err("ack.reply belongs to a later release: publish the reply, then ack".to_owned())
        }
        Some(Wire::Ack(ack)) if !ack.outputs.is_empty() => {
            Err("ack.outputs belongs to a later release: publish the outputs, then ack".to_owned())
        }
        Some(Wire::Ack(_)) => Ok(Verdict::Ack),
        Some(Wire::Retry(retry)) => Ok(Verdict::Retry {
            delay: retry.delay.as_ref().map(delay_from_proto).transpose()?,
            reason: reason_from_proto(retry.reason, "retry")?,
            description: cut(retry.description, DESCRIPTION_BYTES_MAX),
        }),
        Some(Wire::DeadLetter(dead_letter)) => Ok(Verdict::DeadLetter {
            reason: reason_from_proto(dead_letter.reason, "dead_letter")?,
            description: cut(dead_letter.description, DESCRIPTION_BYTES_MAX),
        }),
        Some(Wire::Release(_)) => Ok(Verdict::Release),
    }
}

fn delay_from_proto(delay: &prost_types::Duration) -> Result<Duration, String> {
    let delay = time::duration_from_proto(delay).map_err(|rule| format!("retry.delay {rule}"))?;
    if delay > RETRY_DELAY_MAX { Err("retry.delay is longer than 30 days".to_owned()) } else { Ok(delay) }
}

fn reason_from_proto(reason: String, verdict: &str) -> Result<String, String> {
    if is_reason(&reason) {
        return Ok(reason);
    }
    Err(format!(
        "{verdict}.reason must be UPPER_SNAKE of at most {REASON_BYTES_MAX} bytes; put other text in description"
    ))
}

fn timeout_from_proto(timeout: Option<prost_types::Duration>) -> Result<Duration, String> {
    let timeout = timeout.ok_or("timeout is missing")?;
    let timeout = time::duration_from_proto(&timeout).map_err(|rule| format!("timeout {rule}"))?;
    if timeout.is_zero() { Err("timeout must be positive".to_owned()) } else { Ok(timeout) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use v1::settlement::Verdict as Wire;

    fn settle(verdict: Option<Wire>) -> Result<Verdict, String> {
        let settlement = v1::Settlement { delivery_ids: vec![7], verdict };
        match settlement_from_proto(settlement) {
            Ok((ids, verdict)) => {
                assert_eq!(ids, [7]);
                Ok(verdict)
            }
            Err(invalid) => {
                assert_eq!(invalid.delivery_ids, [7], "the answer must name its delivery");
                Err(invalid.description)
            }
        }
    }

    fn retry(delay: Option<(i64, i32)>, reason: &str) -> Wire {
        let delay = delay.map(|(seconds, nanos)| prost_types::Duration { seconds, nanos });
        Wire::Retry(v1::Retry { delay, reason: reason.to_owned(), description: "x".to_owned() })
    }

    #[test]
    fn silence_is_never_an_ack() {
        assert!(settle(None).expect_err("invalid").contains("no verdict"));
        assert_eq!(settle(Some(Wire::Ack(v1::Ack::default()))), Ok(Verdict::Ack));
        assert_eq!(settle(Some(Wire::Release(v1::Release {}))), Ok(Verdict::Release));
    }

    #[test]
    fn what_belongs_to_a_later_release_is_not_dropped_in_silence() {
        let reply = v1::Ack { reply: Some(Box::default()), outputs: Vec::new() };
        let outputs = v1::Ack { reply: None, outputs: vec![v1::Message::default()] };
        for ack in [reply, outputs] {
            assert!(settle(Some(Wire::Ack(ack))).expect_err("invalid").contains("later release"));
        }
    }

    #[test]
    fn a_delay_lies_between_nothing_and_30_days() {
        for delay in [None, Some((0, 0)), Some((1, 500_000_000)), Some((30 * 86_400, 0))] {
            let expected =
                delay.map(|(seconds, nanos): (i64, i32)| Duration::new(seconds.unsigned_abs(), nanos.unsigned_abs()));
            let verdict = settle(Some(retry(delay, "DB_TIMEOUT")));
            assert_eq!(
                verdict,
                Ok(Verdict::Retry { delay: expected, reason: "DB_TIMEOUT".to_owned(), description: "x".to_owned() })
            );
        }
        for delay in [(-1, 0), (0, -1), (30 * 86_400, 1), (i64::MAX, 0), (i64::MIN, i32::MIN), (0, i32::MAX)] {
            assert!(settle(Some(retry(Some(delay), ""))).is_err(), "{delay:?}");
        }
    }

    #[test]
    fn a_reason_is_checked_and_a_description_cut() {
        assert!(settle(Some(retry(None, "not a code"))).is_err());
        let wordy = v1::DeadLetter { reason: "INVALID".to_owned(), description: "é".repeat(4096) };
        let Ok(Verdict::DeadLetter { description, .. }) = settle(Some(Wire::DeadLetter(wordy))) else {
            panic!("a long description is cut, not refused");
        };
        assert_eq!(description.len(), 4096);
        assert!(
            settle(Some(Wire::DeadLetter(v1::DeadLetter { reason: "x".to_owned(), ..Default::default() }))).is_err()
        );
    }

    #[test]
    fn ids_are_at_least_one_and_at_most_10000() {
        let ack = || Some(Wire::Ack(v1::Ack::default()));
        let of =
            |count: i64| settlement_from_proto(v1::Settlement { delivery_ids: (0..count).collect(), verdict: ack() });
        assert!(of(10_000).is_ok());
        assert!(of(0).is_err());
        assert_eq!(of(10_001).expect_err("too many").delivery_ids.len(), 10_000);
    }

    #[test]
    fn an_extension_needs_a_positive_timeout() {
        let of = |timeout: Option<(i64, i32)>| {
            let timeout = timeout.map(|(seconds, nanos)| prost_types::Duration { seconds, nanos });
            extension_from_proto(v1::Extension { delivery_ids: vec![1, 2], timeout })
        };
        assert_eq!(of(Some((60, 0))), Ok((vec![1, 2], Duration::from_mins(1))));
        for bad in [None, Some((0, 0)), Some((-1, 0))] {
            assert_eq!(of(bad).expect_err("invalid").delivery_ids, [1, 2]);
        }
    }
}
