//! The metrics by name: one constant each, and handles that are looked up once and not for every message.

use std::collections::BTreeSet;
use std::sync::{Mutex, PoisonError};

use metrics::{
    Counter, Gauge, Histogram, counter, describe_counter, describe_gauge, describe_histogram, gauge, histogram,
};
use metrics_exporter_prometheus::{BuildError, Matcher, PrometheusBuilder, PrometheusHandle};

/// 1, with version and revision as labels.
pub const BUILD_INFO: &str = "sidebus_build_info";
/// The readiness answer.
pub const READY: &str = "sidebus_ready";
/// 1 while a session is live.
pub const BROKER_CONNECTED: &str = "sidebus_broker_connected";
/// 1 while the broker takes no publishes.
pub const BROKER_BLOCKED: &str = "sidebus_broker_blocked";
/// Sessions ended and tries failed, by reason.
pub const BROKER_RECONNECTS: &str = "sidebus_broker_reconnects_total";
/// Moves to a session with a new address, login or certificate, by result.
pub const SECRET_RELOADS: &str = "sidebus_secret_reloads_total";
/// Publishes by exchange and result.
pub const PUBLISHED: &str = "sidebus_published_messages_total";
/// Publishes of handlers without an answer.
pub const PUBLISHES_IN_FLIGHT: &str = "sidebus_publishes_in_flight";
/// 1 while publishes are refused for the broker's sake.
pub const PUBLISH_BREAKER: &str = "sidebus_publish_breaker_open";
/// From the lane's write to its confirms.
pub const PUBLISH_CONFIRM_SECONDS: &str = "sidebus_publish_confirm_seconds";
/// Messages that a lane wrote together.
pub const PUBLISH_BATCH_MESSAGES: &str = "sidebus_publish_batch_messages";
/// Deliveries handed to handlers.
pub const DELIVERIES: &str = "sidebus_deliveries_total";
/// Of these with the broker's redelivered flag.
pub const REDELIVERIES: &str = "sidebus_redeliveries_total";
/// What became true on the broker, or came too late.
pub const SETTLEMENTS: &str = "sidebus_settlements_total";
/// Verdicts that were refused.
pub const SETTLEMENTS_REFUSED: &str = "sidebus_settlements_refused_total";
/// From handing out to the verdict.
pub const HANDLER_SECONDS: &str = "sidebus_handler_seconds";
/// Unsettled deliveries.
pub const IN_FLIGHT: &str = "sidebus_in_flight_messages";
/// What the broker may send ahead.
pub const PREFETCH: &str = "sidebus_prefetch_messages";
/// Waiting deliveries that no connected stream may receive.
pub const HELD: &str = "sidebus_held_messages";
/// 1 while nothing is handed out, by reason.
pub const PAUSED: &str = "sidebus_subscription_paused";
/// Age of the oldest unsettled delivery.
pub const OLDEST: &str = "sidebus_oldest_unsettled_seconds";
/// Connected handlers.
pub const HANDLERS: &str = "sidebus_handlers_connected";
/// Streams that ended, by reason.
pub const STREAMS_ENDED: &str = "sidebus_streams_ended_total";
/// Retry copies stored, by attempt.
pub const RETRIES: &str = "sidebus_retries_total";
/// Copies in place of their originals, by purpose and result.
pub const COPIES: &str = "sidebus_copies_total";
/// Dead letters stored, by cause.
pub const DEAD_LETTERS: &str = "sidebus_dead_letters_total";
/// Deliveries of lost handlers, by whether a crash was charged to them.
pub const CRASHES: &str = "sidebus_crashes_total";
/// Redeliveries that were done already and acked without a handler.
pub const ACKED_AGAIN: &str = "sidebus_acked_again_total";
/// Objects that are not as named, by kind.
pub const TOPOLOGY_DIFFERENCES: &str = "sidebus_topology_differences";
/// Queues that were gone and were made again.
pub const QUEUES_RECREATED: &str = "sidebus_queues_recreated_total";
/// Headers of ours that came another way than our copies.
pub const HEADERS_DISTRUSTED: &str = "sidebus_headers_distrusted_total";

/// Values of one label before further ones share `other`.
const LABEL_VALUES_MAX: usize = 256;
/// Upper bounds in seconds, as OpenTelemetry's messaging conventions have them.
const SECONDS: [f64; 14] = [0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0];
/// The same for handlers, which may take a whole `max_lease`.
const HANDLER: [f64; 15] = [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 1_500.0];
/// Upper bounds of batches in messages.
const BATCH: [f64; 9] = [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0];

/// Installs the recorder of this process; the handle renders the page. Without buckets a histogram would be rendered
/// as a summary, which cannot be added up over instances.
///
/// # Errors
/// A recorder is already installed.
pub fn install(version: &'static str) -> Result<PrometheusHandle, BuildError> {
    let handle = PrometheusBuilder::new()
        .set_buckets_for_metric(Matcher::Suffix("_seconds".to_owned()), &SECONDS)?
        .set_buckets_for_metric(Matcher::Full(HANDLER_SECONDS.to_owned()), &HANDLER)?
        .set_buckets_for_metric(Matcher::Suffix("_batch_messages".to_owned()), &BATCH)?
        .install_recorder()?;
    describe();
    gauge!(BUILD_INFO, "version" => version).set(1.0);
    gauge!(READY).set(0.0);
    gauge!(BROKER_CONNECTED).set(0.0);
    gauge!(BROKER_BLOCKED).set(0.0);
    gauge!(PUBLISHES_IN_FLIGHT).set(0.0);
    gauge!(PUBLISH_BREAKER).set(1.0);
    Ok(handle)
}

fn describe() {
    describe_gauge!(BUILD_INFO, "1; the version as a label");
    describe_gauge!(READY, "1 = ready, as /readyz answers");
    describe_gauge!(BROKER_CONNECTED, "1 while a session to the broker is live");
    describe_gauge!(BROKER_BLOCKED, "1 while the broker takes no publishes (memory or disk alarm)");
    describe_counter!(BROKER_RECONNECTS, "sessions ended and connects failed, by reason");
    describe_counter!(SECRET_RELOADS, "tries to move to a session with new secrets, by result: ok, failed");
    describe_counter!(PUBLISHED, "publishes by exchange and result, each once");
    describe_gauge!(PUBLISHES_IN_FLIGHT, "publishes of handlers that have no answer yet");
    describe_gauge!(
        PUBLISH_BREAKER,
        "1 while publishes are refused: the broker is down or blocked; half-open counts as closed"
    );
    describe_histogram!(
        PUBLISH_CONFIRM_SECONDS,
        "from writing a batch to its last confirm; what is not confirmed for long counts for itself"
    );
    describe_histogram!(PUBLISH_BATCH_MESSAGES, "messages written together by a lane");
    describe_counter!(DELIVERIES, "deliveries handed to handlers");
    describe_counter!(REDELIVERIES, "deliveries handed out that carry the broker's redelivered flag");
    describe_counter!(SETTLEMENTS, "settlements by verdict, source and outcome");
    describe_counter!(SETTLEMENTS_REFUSED, "verdicts and extensions that did not take effect");
    describe_histogram!(HANDLER_SECONDS, "from handing a delivery out to its verdict");
    describe_gauge!(IN_FLIGHT, "unsettled deliveries");
    describe_gauge!(PREFETCH, "deliveries that the broker may send ahead");
    describe_gauge!(HELD, "deliveries too large for every connected stream");
    describe_gauge!(PAUSED, "1 while nothing is handed out but probes, by reason: kill_switch, dead_letters, parser");
    describe_gauge!(OLDEST, "since the broker's delivery of the oldest unsettled one; looked at every 10 seconds");
    describe_gauge!(HANDLERS, "connected handlers");
    describe_counter!(STREAMS_ENDED, "handler streams that ended, by reason");
    describe_counter!(RETRIES, "retry copies stored, by the attempt that failed");
    describe_counter!(
        COPIES,
        "copies in place of their originals, by purpose (retry, wait, dead_letter, release) and result: stored; failed, which is \
         tried again; dropped, the original comes again; impossible, it goes back"
    );
    describe_counter!(DEAD_LETTERS, "dead letters stored, by cause");
    describe_counter!(CRASHES, "deliveries of lost handlers, by whether a crash was charged to them");
    describe_counter!(ACKED_AGAIN, "redeliveries that were done when their session was lost, acked without a handler");
    describe_gauge!(
        TOPOLOGY_DIFFERENCES,
        "objects that are not as named, or missing where nothing is created, by kind"
    );
    describe_counter!(QUEUES_RECREATED, "queues that were gone and were made again; what they held is lost");
    describe_counter!(HEADERS_DISTRUSTED, "x-sidebus headers that did not come the way of our copies");
}

/// Values of one label that have been seen; further ones share `other`, so that names that callers invent do not grow
/// the page without end.
#[derive(Debug, Default)]
pub struct CappedLabel(Mutex<BTreeSet<String>>);

impl CappedLabel {
    /// The value itself while there are few, else `other`.
    pub fn of<'a>(&self, value: &'a str) -> &'a str {
        let mut seen = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let is_known = seen.contains(value) || (seen.len() < LABEL_VALUES_MAX && seen.insert(value.to_owned()));
        if is_known { value } else { "other" }
    }
}

/// The handles of one subscription.
#[derive(Clone)]
pub struct SubscriptionMetrics {
    subscription: String,
    /// See [`DELIVERIES`].
    pub deliveries: Counter,
    /// See [`REDELIVERIES`].
    pub redeliveries: Counter,
    /// See [`IN_FLIGHT`].
    pub in_flight: Gauge,
    /// See [`PREFETCH`].
    pub prefetch: Gauge,
    /// See [`HELD`].
    pub held: Gauge,
    /// See [`OLDEST`].
    pub oldest: Gauge,
    /// See [`HANDLERS`].
    pub handlers: Gauge,
}

impl std::fmt::Debug for SubscriptionMetrics {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SubscriptionMetrics").field("subscription", &self.subscription).finish_non_exhaustive()
    }
}

impl SubscriptionMetrics {
    /// Looks the handles up.
    pub fn new(subscription: &str) -> Self {
        let name = subscription.to_owned();
        Self {
            deliveries: counter!(DELIVERIES, "subscription" => name.clone()),
            redeliveries: counter!(REDELIVERIES, "subscription" => name.clone()),
            in_flight: gauge!(IN_FLIGHT, "subscription" => name.clone()),
            prefetch: gauge!(PREFETCH, "subscription" => name.clone()),
            held: gauge!(HELD, "subscription" => name.clone()),
            oldest: gauge!(OLDEST, "subscription" => name.clone()),
            handlers: gauge!(HANDLERS, "subscription" => name.clone()),
            subscription: name,
        }
    }

    /// The counter of settlements with these labels; keep it, looking it up costs.
    pub fn settlements(&self, verdict: &'static str, source: &'static str, outcome: &'static str) -> Counter {
        let name = self.subscription.clone();
        counter!(SETTLEMENTS, "subscription" => name, "verdict" => verdict, "source" => source, "outcome" => outcome)
    }

    /// The histogram of handling time for this verdict; keep it.
    pub fn handler_seconds(&self, verdict: &'static str) -> Histogram {
        histogram!(HANDLER_SECONDS, "subscription" => self.subscription.clone(), "verdict" => verdict)
    }

    /// Whether nothing is handed out, for this reason; keep it.
    pub fn paused(&self, reason: &'static str) -> Gauge {
        let gauge = gauge!(PAUSED, "subscription" => self.subscription.clone(), "reason" => reason);
        gauge.set(0.0);
        gauge
    }

    /// A verdict or an extension did not take effect.
    pub fn refused(&self, outcome: &'static str) {
        counter!(SETTLEMENTS_REFUSED, "subscription" => self.subscription.clone(), "outcome" => outcome).increment(1);
    }

    /// A retry copy was stored.
    pub fn retried(&self, attempt: u32) {
        let label = match attempt {
            0 | 1 => "1",
            2 => "2",
            3..=5 => "3_5",
            6.. => "6_up",
        };
        counter!(RETRIES, "subscription" => self.subscription.clone(), "attempt" => label).increment(1);
    }

    /// What came of a copy, or of a try to store one.
    pub fn copied(&self, purpose: &'static str, result: &'static str) {
        let name = self.subscription.clone();
        counter!(COPIES, "subscription" => name, "purpose" => purpose, "result" => result).increment(1);
    }

    /// A dead letter was stored.
    pub fn dead_lettered(&self, cause: &'static str) {
        counter!(DEAD_LETTERS, "subscription" => self.subscription.clone(), "cause" => cause).increment(1);
    }

    /// A delivery of a lost handler, and whether a crash was charged to it.
    pub fn crashed(&self, is_charged: bool) {
        let charged = if is_charged { "yes" } else { "no" };
        counter!(CRASHES, "subscription" => self.subscription.clone(), "charged" => charged).increment(1);
    }

    /// A redelivery was done already.
    pub fn acked_again(&self) {
        counter!(ACKED_AGAIN, "subscription" => self.subscription.clone()).increment(1);
    }
}

/// A publish has ended this way.
pub fn published(exchange: &str, result: &'static str, count: u64) {
    counter!(PUBLISHED, "exchange" => exchange.to_owned(), "result" => result).increment(count);
}

/// Publishes of handlers without an answer: a handle, for this is on the way of every publish.
pub fn publishes_in_flight() -> Gauge {
    gauge!(PUBLISHES_IN_FLIGHT)
}

/// Publishes are refused for the broker's sake, or not.
pub fn publish_breaker(open: bool) {
    gauge!(PUBLISH_BREAKER).set(f64::from(u8::from(open)));
}

/// A lane has had all answers of a batch.
pub fn batch_confirmed(role: &'static str, messages: usize, seconds: f64) {
    histogram!(PUBLISH_CONFIRM_SECONDS, "role" => role).record(seconds);
    #[expect(clippy::cast_precision_loss, reason = "a batch has at most 4,096 messages")]
    histogram!(PUBLISH_BATCH_MESSAGES, "role" => role).record(messages as f64);
}

/// A message that its batch had left behind was answered.
pub fn late_confirmed(role: &'static str, seconds: f64) {
    histogram!(PUBLISH_CONFIRM_SECONDS, "role" => role).record(seconds);
}

/// A stream has ended.
pub fn stream_ended(reason: &'static str) {
    counter!(STREAMS_ENDED, "reason" => reason).increment(1);
}

/// The session is live, or not.
pub fn broker_connected(connected: bool) {
    gauge!(BROKER_CONNECTED).set(f64::from(u8::from(connected)));
}

/// The broker takes no publishes, or does again.
pub fn broker_blocked(blocked: bool) {
    gauge!(BROKER_BLOCKED).set(f64::from(u8::from(blocked)));
}

/// A session has ended or could not begin.
pub fn reconnect(reason: &'static str) {
    counter!(BROKER_RECONNECTS, "reason" => reason).increment(1);
}

/// A try to move to a session with new secrets: `ok` or `failed`.
pub fn secret_reload(result: &'static str) {
    counter!(SECRET_RELOADS, "result" => result).increment(1);
}

/// The readiness answer.
pub fn ready(ready: bool) {
    gauge!(READY).set(f64::from(u8::from(ready)));
}

/// Objects of one kind that are not as named, or missing where nothing is created.
pub fn topology_differences(kind: &'static str, count: usize) {
    let count = u32::try_from(count).unwrap_or(u32::MAX);
    gauge!(TOPOLOGY_DIFFERENCES, "kind" => kind).set(f64::from(count));
}

/// A queue that was there before was gone and had to be made again.
pub fn queue_recreated() {
    counter!(QUEUES_RECREATED).increment(1);
}

/// Headers of ours on messages that did not come the way of our copies.
pub fn headers_distrusted(count: usize) {
    counter!(HEADERS_DISTRUSTED, "reason" => "origin").increment(u64::try_from(count).unwrap_or(u64::MAX));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn invented_names_share_a_label_when_there_are_many() {
        let label = CappedLabel::default();
        for number in 0..LABEL_VALUES_MAX {
            let name = format!("exchange-{number}");
            assert_eq!(label.of(&name), name);
        }
        assert_eq!(label.of("one-more"), "other");
        assert_eq!(label.of("exchange-0"), "exchange-0");
    }
}
