//! From the first frame of a Subscribe stream to checked terms, and the windows of later frames.
//!
//! Knows no subscription: what depends on one is checked when it is found.

use std::time::Duration;

use super::time;
use super::violations::Violations;
use crate::domain::name::SubscriptionName;
use crate::domain::subscription::DeliverySettings;
use crate::grpc::problem::{FieldViolation, Problem};
use crate::grpc::proto::sidebus::v1;

const HANDLER_BYTES_MAX: usize = 128;
const BATCH_MESSAGES_DEFAULT: usize = 64;
const BATCH_MESSAGES_MAX: usize = 1024;
const BATCH_BYTES_DEFAULT: usize = 256 * 1024;
const LINGER_MAX: Duration = Duration::from_millis(100);
const SETTLE_TIMEOUT_MIN: Duration = Duration::from_secs(1);
/// What gRPC clients receive unless told otherwise.
const MESSAGE_BYTES_DEFAULT: usize = 4 * 1024 * 1024;

/// How a handler wants to work.
#[derive(Debug, Clone, PartialEq)]
pub struct OpenRequest {
    /// `None` = the only one configured.
    pub subscription: Option<SubscriptionName>,
    /// Label of at most 128 bytes; `None` = the peer address.
    pub handler: Option<String>,
    /// The wanted window; `None` in it = the defaults of the subscription.
    pub window: WindowChange,
    /// At least one second; `None` = the subscription's. See [`OpenRequest::settle_timeout_within`].
    pub settle_timeout: Option<Duration>,
    /// Limits of one response frame.
    pub batch: BatchTerms,
    /// Which results are reported.
    pub result_mode: ResultMode,
    /// Largest encoded frame that the client receives.
    pub frame_bytes_max: usize,
    /// The subscription as the handler brings it, unchecked: the rules need its name.
    pub declare: Option<v1::SubscriptionSpec>,
}

/// A new level of the window; `None` = unchanged, 0 = pause.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct WindowChange {
    /// Unsettled deliveries.
    pub messages: Option<u16>,
    /// Sum of unsettled bodies.
    pub bytes: Option<u64>,
}

/// Limits of one response frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BatchTerms {
    /// Deliveries, 1 to 1024.
    pub messages_max: usize,
    /// Sum of encoded deliveries; a single larger one still travels, alone.
    pub bytes_max: usize,
    /// Wait for more beyond the refill rule, at most 100 ms.
    pub linger: Duration,
}

/// Which settlement results are reported.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ResultMode {
    /// What did not take effect, and verdicts that became another.
    Failures,
    /// Every one, after the broker has it.
    All,
}

impl OpenRequest {
    /// The clock of this stream: the wanted one, or the subscription's.
    ///
    /// # Errors
    /// It is longer than the longest lease of the subscription.
    pub fn settle_timeout_within(&self, settings: &DeliverySettings) -> Result<Duration, Problem> {
        let Some(wanted) = self.settle_timeout else { return Ok(settings.settle_timeout) };
        if wanted <= settings.max_lease {
            return Ok(wanted);
        }
        Err(Problem::InvalidRequest(vec![FieldViolation {
            field: "open.settle_timeout".to_owned(),
            description: format!(
                "is {} s, longer than max_lease ({} s)",
                wanted.as_secs(),
                settings.max_lease.as_secs()
            ),
        }]))
    }
}

/// Checks the first frame.
///
/// # Errors
/// `PROTOCOL_VIOLATION` for a negative limit, else `INVALID_REQUEST` with every field that breaks a rule.
pub fn open_from_proto(open: v1::SubscribeOpen) -> Result<OpenRequest, Problem> {
    let window = open.flow.map(|flow| flow_from_proto(&flow)).transpose()?.unwrap_or_default();
    let frame_bytes_max = limit(open.max_message_bytes, "open.max_message_bytes", MESSAGE_BYTES_DEFAULT)?;
    let mut violations = Violations::default();
    let batch = batch_from_proto(open.batch.unwrap_or_default(), &mut violations)?;
    let subscription = subscription_from_proto(&open.subscription, &mut violations);
    violations.at_most("open.handler", &open.handler, HANDLER_BYTES_MAX);
    let settle_timeout = open.settle_timeout.and_then(|timeout| settle_timeout_from_proto(timeout, &mut violations));
    let result_mode = match v1::ResultMode::try_from(open.result_mode) {
        Ok(v1::ResultMode::Unspecified | v1::ResultMode::Failures) => ResultMode::Failures,
        Ok(v1::ResultMode::All) => ResultMode::All,
        Err(_) => {
            violations.add("open.result_mode", format_args!("{} is not known to this release", open.result_mode));
            ResultMode::Failures
        }
    };
    if !violations.is_empty() {
        return Err(Problem::InvalidRequest(violations.into_vec()));
    }
    let handler = (!open.handler.is_empty()).then_some(open.handler);
    let declare = open.declare;
    Ok(OpenRequest { subscription, handler, window, settle_timeout, batch, result_mode, frame_bytes_max, declare })
}

/// Checks a window.
///
/// # Errors
/// `PROTOCOL_VIOLATION` for a negative level, `INVALID_REQUEST` for more than 65,535 messages.
pub fn flow_from_proto(flow: &v1::FlowControl) -> Result<WindowChange, Problem> {
    let messages = match flow.max_in_flight_messages {
        None => None,
        Some(negative @ ..0) => return Err(negative_limit("flow.max_in_flight_messages", negative)),
        Some(count) => Some(u16::try_from(count).map_err(|_| {
            let description = format!("is {count}, at most {} is allowed", u16::MAX);
            Problem::InvalidRequest(vec![FieldViolation {
                field: "flow.max_in_flight_messages".to_owned(),
                description,
            }])
        })?),
    };
    let bytes = match flow.max_in_flight_bytes {
        None => None,
        Some(bytes) => Some(u64::try_from(bytes).map_err(|_| negative_limit("flow.max_in_flight_bytes", bytes))?),
    };
    Ok(WindowChange { messages, bytes })
}

fn negative_limit(field: &str, found: impl std::fmt::Display) -> Problem {
    Problem::ProtocolViolation(format!("{field} is {found}, and a limit cannot be negative"))
}

/// A limit where 0 stands for the default.
fn limit(value: i32, field: &str, default: usize) -> Result<usize, Problem> {
    match usize::try_from(value) {
        Ok(0) => Ok(default),
        Ok(limit) => Ok(limit),
        Err(_) => Err(negative_limit(field, value)),
    }
}

fn batch_from_proto(batch: v1::BatchLimits, violations: &mut Violations) -> Result<BatchTerms, Problem> {
    let messages_max = limit(batch.max_messages, "open.batch.max_messages", BATCH_MESSAGES_DEFAULT)?;
    let bytes_max = limit(batch.max_bytes, "open.batch.max_bytes", BATCH_BYTES_DEFAULT)?;
    if messages_max > BATCH_MESSAGES_MAX {
        let rule = format_args!("is {messages_max}, at most {BATCH_MESSAGES_MAX} is allowed");
        violations.add("open.batch.max_messages", rule);
    }
    let linger = match batch.linger.as_ref().map(time::duration_from_proto) {
        None => Duration::ZERO,
        Some(Ok(linger)) => linger,
        Some(Err(rule)) => {
            violations.add("open.batch.linger", rule);
            Duration::ZERO
        }
    };
    if linger > LINGER_MAX {
        violations.add("open.batch.linger", "is longer than 100 ms");
    }
    Ok(BatchTerms { messages_max, bytes_max, linger })
}

fn subscription_from_proto(name: &str, violations: &mut Violations) -> Option<SubscriptionName> {
    if name.is_empty() {
        return None;
    }
    SubscriptionName::parse(name).map_err(|error| violations.add("open.subscription", error)).ok()
}

fn settle_timeout_from_proto(timeout: prost_types::Duration, violations: &mut Violations) -> Option<Duration> {
    match time::duration_from_proto(&timeout) {
        Ok(timeout) if timeout >= SETTLE_TIMEOUT_MIN => return Some(timeout),
        Ok(_) => violations.add("open.settle_timeout", "is shorter than 1 s"),
        Err(rule) => violations.add("open.settle_timeout", rule),
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::grpc::status::row;

    fn reason(open: v1::SubscribeOpen) -> &'static str {
        row(&open_from_proto(open).expect_err("must be refused")).reason
    }

    #[test]
    fn an_empty_open_means_the_defaults() {
        let open = open_from_proto(v1::SubscribeOpen::default()).expect("legal");
        assert_eq!((open.subscription, open.handler, open.settle_timeout), (None, None, None));
        assert_eq!(open.window, WindowChange::default());
        assert_eq!(open.batch, BatchTerms { messages_max: 64, bytes_max: 262_144, linger: Duration::ZERO });
        assert_eq!((open.result_mode, open.frame_bytes_max), (ResultMode::Failures, 4_194_304));
    }

    #[test]
    fn a_negative_limit_breaks_the_protocol() {
        let flow = |messages, bytes| v1::FlowControl { max_in_flight_messages: messages, max_in_flight_bytes: bytes };
        for open in [
            v1::SubscribeOpen { flow: Some(flow(Some(-1), None)), ..Default::default() },
            v1::SubscribeOpen { flow: Some(flow(None, Some(i64::MIN))), ..Default::default() },
            v1::SubscribeOpen { max_message_bytes: -1, ..Default::default() },
            v1::SubscribeOpen {
                batch: Some(v1::BatchLimits { max_messages: -1, ..Default::default() }),
                ..Default::default()
            },
        ] {
            assert_eq!(reason(open), "PROTOCOL_VIOLATION");
        }
        assert_eq!(
            flow_from_proto(&flow(Some(0), Some(0))),
            Ok(WindowChange { messages: Some(0), bytes: Some(0) }),
            "0 pauses"
        );
        assert!(flow_from_proto(&flow(Some(65_535), None)).is_ok());
        assert!(flow_from_proto(&flow(Some(65_536), None)).is_err());
    }

    #[test]
    fn every_bad_field_of_an_open_is_named() {
        let problem = open_from_proto(v1::SubscribeOpen {
            subscription: "a b".to_owned(),
            handler: "x".repeat(129),
            settle_timeout: Some(prost_types::Duration { seconds: 0, nanos: 999_999_999 }),
            batch: Some(v1::BatchLimits {
                max_messages: 1025,
                max_bytes: 0,
                linger: Some(prost_types::Duration { seconds: 0, nanos: 100_000_001 }),
            }),
            result_mode: 9,
            ..Default::default()
        })
        .expect_err("must be refused");
        let Problem::InvalidRequest(violations) = problem else { panic!("{problem:?}") };
        let mut fields: Vec<_> = violations.iter().map(|violation| violation.field.as_str()).collect();
        fields.sort_unstable();
        assert_eq!(
            fields,
            [
                "open.batch.linger",
                "open.batch.max_messages",
                "open.handler",
                "open.result_mode",
                "open.settle_timeout",
                "open.subscription"
            ]
        );
    }

    #[test]
    fn a_stream_cannot_wait_longer_than_a_lease_lasts() {
        let settings = DeliverySettings::default();
        let with = |seconds| OpenRequest {
            settle_timeout: Some(Duration::from_secs(seconds)),
            ..open_from_proto(v1::SubscribeOpen::default()).expect("legal")
        };
        assert_eq!(with(1500).settle_timeout_within(&settings), Ok(Duration::from_mins(25)));
        assert!(with(1501).settle_timeout_within(&settings).is_err());
    }
}
