//! Rows of `[exchanges.<name>]`, `[queues.<name>]`, `[retry]` and `[dead_letter]`.

use std::time::Duration;

use super::{BYTES, COUNT, EXCHANGE_KINDS, Key, Kind, PREFETCH, WAIT, WAIT_MAX, key};
use crate::domain::queue_rules::{DELIVERY_LIMIT_MIN, TTL_MS_MAX};

const NOT_YET: &str = "not supported in this release";
const KINDS: Kind = Kind::Words { now: &["shared"], later: &[("broadcast", NOT_YET), ("stream", NOT_YET)] };
const QUEUE_TYPES: Kind = Kind::Words { now: &["quorum", "classic"], later: &[("stream", NOT_YET)] };
const OVERFLOWS: Kind = Kind::Words { now: &["reject_publish", "drop_head"], later: &[] };
const ORDERS: Kind = Kind::Words { now: &["none"], later: &[("key", NOT_YET), ("strict", NOT_YET)] };
const BACKOFFS: Kind = Kind::Words { now: &["exponential", "linear", "constant"], later: &[] };
const SCOPES: Kind = Kind::Words { now: &["shared", "per_queue"], later: &[] };
const ATTEMPTS: Kind = Kind::Integer { min: 1, max: 1_000_000 };
const BACKOFF: Kind = Kind::Duration { min: Duration::from_millis(100), max: WAIT_MAX };
const FACTOR: Kind = Kind::Fraction { min: 1.0, max: 100.0 };
const SHARE: Kind = Kind::Fraction { min: 0.0, max: 1.0 };
const RATE: Kind = Kind::Integer { min: 1, max: 1_000_000 };
const SAMPLE: Kind = Kind::Integer { min: 1, max: 100_000 };
const SETTLE: Kind = Kind::Duration { min: Duration::from_secs(1), max: WAIT_MAX };
const LEASE: Kind = Kind::Duration { min: Duration::from_mins(2), max: WAIT_MAX };
/// Frames of less than this hold no message worth the name.
const FRAME: Kind = Kind::Size { min: 1 << 10, max: 1 << 40 };
const TTL: Kind = Kind::Duration { min: Duration::from_millis(1), max: Duration::from_millis(TTL_MS_MAX) };
const DELIVERIES: Kind = Kind::Integer { min: DELIVERY_LIMIT_MIN as i64, max: i32::MAX as i64 };

pub(super) const KEYS: &[Key] = &[
    key("exchanges.*.name", Kind::Name, "name on the broker, if it is not the table's"),
    key("exchanges.*.type", EXCHANGE_KINDS, "its type; topic, or bus.amqp.exchange_type for that exchange"),
    key("exchanges.*.durable", Kind::Bool, "survives a restart of the broker").default("true"),
    key("exchanges.*.auto_delete", Kind::Bool, "goes with its last binding").default("false"),
    key("exchanges.*.internal", Kind::Bool, "cannot be published to").default("false"),
    key("exchanges.*.arguments", Kind::Arguments, "such as alternate-exchange"),
    key("queues.*.kind", KINDS, "how sidecars share the subscription").default("shared"),
    key("queues.*.queue", Kind::Name, "name on the broker, if it is not the table's"),
    key("queues.*.exchange", Kind::BoundExchange, "exchange of bindings that name none; bus.amqp.exchange"),
    key("queues.*.bindings", Kind::Bindings, "patterns, or tables of exchange, routing_key and arguments"),
    key("queues.*.unbind", Kind::Bindings, "bindings that are removed at start, where there are such"),
    key("queues.*.queue_type", QUEUE_TYPES, "quorum, unless another key rules that out"),
    key("queues.*.durable", Kind::Bool, "survives a restart of the broker; true"),
    key("queues.*.auto_delete", Kind::Bool, "queue and backlog go with the last consumer").default("false"),
    key("queues.*.exclusive", Kind::Bool, "for this sidecar alone").default("false"),
    key("queues.*.arguments", Kind::Arguments, "passed to the broker as they are"),
    key("queues.*.max_priority", Kind::Integer { min: 0, max: 255 }, "priorities of a classic queue; 0 = none"),
    key("queues.*.message_ttl", TTL, "waiting longer goes to the dead letters"),
    key("queues.*.max_length", COUNT, "messages that the queue holds"),
    key("queues.*.max_length_bytes", BYTES, "bytes that the queue holds"),
    key("queues.*.overflow", OVERFLOWS, "what a full queue does; reject_publish"),
    key("queues.*.delivery_limit", DELIVERIES, "requeues of a message before a quorum queue gives it up; 20"),
    key("queues.*.single_active_consumer", Kind::Bool, "one consumer at a time; its prefetch stays as it began")
        .default("false"),
    key("queues.*.ordering_mode", ORDERS, "what order is kept").default("none"),
    key("queues.*.partition_count", Kind::Integer { min: 0, max: 65_535 }, "partitions of an ordered queue")
        .default("0")
        .only_default(""),
    key("queues.*.prefetch_count", PREFETCH, "window of one handler; bus.amqp.prefetch_count")
        .hint("100 suits most handlers"),
    key("queues.*.prefetch_max", PREFETCH, "cap of the sum of windows; bus.amqp.prefetch_max"),
    key("queues.*.settle_timeout", SETTLE, "clock of the oldest unsettled delivery of a stream").default("1m"),
    key(
        "queues.*.max_lease",
        LEASE,
        "no lease lasts longer; what only extensions have kept so long has failed an attempt",
    )
    .default("25m"),
    key("queues.*.max_message_bytes", FRAME, "largest encoded delivery; grpc.max_message_bytes and 1MiB"),
    key("queues.*.max_handlers", Kind::Integer { min: 1, max: 65_535 }, "streams of this sidecar").default("64"),
    key("queues.*.retry.backoff", BACKOFFS, "how delays grow"),
    key("queues.*.retry.max_attempts", ATTEMPTS, "failed attempts, the first included; retry.max_attempts"),
    key("queues.*.retry.min_backoff", BACKOFF, "shortest delay"),
    key("queues.*.retry.max_backoff", BACKOFF, "longest delay"),
    key("queues.*.retry.multiplier", FACTOR, "growth of delays"),
    key("queues.*.retry.jitter", SHARE, "share of a delay that is random"),
    key("queues.*.retry.crash_limit", ATTEMPTS, "handlers that one message may take down, each holding nothing else"),
    key("queues.*.retry.max_per_second", RATE, "retry copies of this subscription in a second"),
    key("queues.*.retry.kill_switch.enabled", Kind::Bool, "pause when too much fails"),
    key("queues.*.retry.kill_switch.share", SHARE, "share of failures that pauses"),
    key("queues.*.retry.kill_switch.sample", SAMPLE, "attempts that are looked at"),
    key("queues.*.retry.kill_switch.min_pause", WAIT, "shortest pause"),
    key("queues.*.retry.kill_switch.max_pause", WAIT, "longest pause"),
    key("queues.*.dead_letter.enabled", Kind::Bool, "give messages up at all"),
    key("queues.*.dead_letter.exchange", Kind::Name, "fanout exchange; dead_letter.exchange"),
    key("queues.*.dead_letter.queue", Kind::Name, "queue bound to it; dead_letter.queue"),
    key("queues.*.dead_letter.scope", SCOPES, "whose dead-letter queue"),
    key("queues.*.dead_letter.archive_queue", Kind::Name, "where letters beyond their bounds go"),
    key("queues.*.dead_letter.message_ttl", TTL, "life of a letter before it goes to the archive"),
    key("queues.*.dead_letter.max_length", COUNT, "letters that stay; more go to the archive"),
    key("retry.backoff", BACKOFFS, "how delays grow").default("exponential"),
    key("retry.max_attempts", ATTEMPTS, "failed attempts, the first included").default("5").hint("1 = never retry"),
    key("retry.min_backoff", BACKOFF, "shortest delay").default("1s"),
    key("retry.max_backoff", BACKOFF, "longest delay").default("5m"),
    key("retry.multiplier", FACTOR, "growth of delays").default("2"),
    key("retry.jitter", SHARE, "share of a delay that is random").default("0.2"),
    key("retry.crash_limit", ATTEMPTS, "handlers that one message may take down, each holding nothing else")
        .default("5"),
    key("retry.max_per_second", RATE, "retry copies of a subscription in a second; more wait, held").default("1000"),
    key("retry.kill_switch.enabled", Kind::Bool, "pause a subscription when too much fails").default("true"),
    key("retry.kill_switch.share", SHARE, "share of failures that pauses").default("0.5"),
    key("retry.kill_switch.sample", SAMPLE, "attempts that are looked at").default("200"),
    key("retry.kill_switch.min_pause", WAIT, "shortest pause").default("10s"),
    key("retry.kill_switch.max_pause", WAIT, "longest pause").default("1m"),
    key("retry.allow_lossy_delay", Kind::Bool, "delay slots of brokers without at-least-once")
        .default("false")
        .only_default(""),
    key("retry.history_key_file", Kind::Path, "key that signs our headers").later(""),
    key("dead_letter.enabled", Kind::Bool, "give messages up at all").default("true"),
    key("dead_letter.exchange", Kind::Name, "fanout exchange of given-up messages").default("angzarr.dlx"),
    key("dead_letter.queue", Kind::Name, "queue bound to it").default("angzarr.dlq"),
    key("dead_letter.scope", SCOPES, "whose dead-letter queue").default("shared"),
    key("dead_letter.archive_queue", Kind::Name, "where letters beyond their bounds go"),
    key("dead_letter.message_ttl", TTL, "life of a letter before it goes to the archive"),
    key("dead_letter.max_length", COUNT, "letters that stay; more go to the archive"),
];
