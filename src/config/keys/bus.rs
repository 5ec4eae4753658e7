//! Rows of `[bus]` and `[bus.amqp]`.

use std::time::Duration;

use super::{BYTES, EXCHANGE_KINDS, Key, Kind, PREFETCH, WAIT, key};

const BACKENDS: Kind = Kind::Words { now: &["amqp", "memory"], later: &[("kafka", "not in this build")] };
const TOPOLOGY: Kind = Kind::Words { now: &["create", "verify", "off"], later: &[] };
const SASL: Kind = Kind::Words { now: &["plain", "external", "oauth2"], later: &[] };
const PORT: Kind = Kind::Integer { min: 1, max: 65_535 };
const HEARTBEAT: Kind = Kind::Duration { min: Duration::from_secs(1), max: Duration::from_mins(1) };

pub(super) const KEYS: &[Key] = &[
    key("bus.backend", BACKENDS, "which broker").variable("BUS_BACKEND"),
    key("bus.instance", Kind::Name, "this sidecar in connection names, logs and dead letters"),
    key("bus.state_dir", Kind::Path, "folder for the note of the last start; it must be there"),
    key("bus.memory.max_bytes", BYTES, "bodies that the memory backend holds, then it refuses publishes")
        .default("256MiB"),
    key("bus.amqp.url", Kind::Secret, "amqp:// or amqps:// address").variable("AMQP_URL"),
    key("bus.amqp.url_file", Kind::Path, "file that holds the address, watched").variable("AMQP_URL_FILE"),
    key("bus.amqp.urls", Kind::SecretList, "addresses of several nodes; a session goes to one that answers"),
    key("bus.amqp.host", Kind::Text, "host, instead of an address"),
    key("bus.amqp.port", PORT, "port beside the host; 5672, or 5671 with TLS"),
    key("bus.amqp.vhost", Kind::Text, "virtual host").default("/"),
    key("bus.amqp.username", Kind::Secret, "user").default("guest"),
    key("bus.amqp.username_file", Kind::Path, "file that holds the user, watched"),
    key("bus.amqp.password", Kind::Secret, "password").default("guest"),
    key("bus.amqp.password_file", Kind::Path, "file that holds the password, watched"),
    key("bus.amqp.sasl", SASL, "how to log in").default("plain"),
    key("bus.amqp.oauth2.token_file", Kind::Path, "file that holds the token, read again"),
    key("bus.amqp.tls.ca_file", Kind::Path, "authorities that are trusted, instead of this host's; watched"),
    key("bus.amqp.tls.cert_file", Kind::Path, "client certificate, in PEM; watched"),
    key("bus.amqp.tls.key_file", Kind::Path, "key of the client certificate, in PEM; watched"),
    key("bus.amqp.tls.server_name", Kind::Text, "name that the broker's certificate must carry, instead of the host"),
    key("bus.amqp.tls.require", Kind::Bool, "refuse amqp://; with a host: use TLS").default("false"),
    key("bus.amqp.exchange", Kind::Name, "exchange of publishes and bindings that name none").default("angzarr.events"),
    key("bus.amqp.exchange_type", EXCHANGE_KINDS, "its type").default("topic"),
    key("bus.amqp.topology", TOPOLOGY, "whether missing exchanges and queues are declared").default("create"),
    key("bus.amqp.namespace", Kind::Name, "prefix of our own delay slots and locks").default("sidebus"),
    key("bus.amqp.prefetch_count", PREFETCH, "window of one handler, in messages")
        .default("100")
        .hint("100 suits most handlers"),
    key(
        "bus.amqp.prefetch_max",
        PREFETCH,
        "cap of the sum of the effective windows of a subscription, which is what the broker sends ahead",
    )
    .default("2000")
    .hint("2000 is what a quorum queue hands out at most"),
    key(
        "bus.amqp.heartbeat",
        HEARTBEAT,
        "half-open links are noticed within twice this, 2.5 s at least; the broker is asked for four fifths of it in whole seconds, 1 at least",
    )
    .default("10s"),
    key("bus.amqp.preflight_timeout", WAIT, "our own probe: TCP, TLS, greeting").default("5s"),
    key("bus.amqp.connect_timeout", WAIT, "connect and login").default("10s"),
    key("bus.amqp.operation_timeout", WAIT, "any other wait on the broker").default("10s"),
    key("bus.amqp.reconnect.min_backoff", WAIT, "shortest wait between two tries").default("200ms"),
    key("bus.amqp.reconnect.max_backoff", WAIT, "longest wait between two tries").default("10s"),
    key("bus.amqp.pool.max_size", Kind::Integer { min: 1, max: 64 }, "connections for publishing and admin work")
        .default("2"),
    key("bus.amqp.pool.wait_timeout", WAIT, "wait for one of them").default("5s"),
    key("bus.amqp.publish.lanes", Kind::Integer { min: 1, max: 64 }, "confirm channels for unary publishes, and as many for streams and ordering keys").default("4"),
    key("bus.amqp.publish.batch_max", Kind::Integer { min: 1, max: 4096 }, "messages of one batch, of which two are out at a time; with more than 100 a queue that falls silent may stop what other lanes publish").default("100"),
    key("bus.amqp.publish.confirm_timeout", WAIT, "then a publish fails with CONFIRM_TIMEOUT").default("10s"),
    key("bus.amqp.publish.window", Kind::Integer { min: 1, max: 1 << 24 }, "messages offered to one publish stream")
        .default("4096"),
    key("bus.amqp.publish.window_bytes", BYTES, "bytes offered to one publish stream").default("16MiB"),
    key("bus.amqp.management.url", Kind::Secret, "management API: sees arguments, bindings, policies and rights"),
    key("bus.amqp.management.url_file", Kind::Path, "file that holds its address, read for each call"),
    key("bus.amqp.management.username", Kind::Secret, "user of the management API; that of AMQP unless given"),
    key("bus.amqp.management.username_file", Kind::Path, "file that holds that user, read for each call"),
    key("bus.amqp.management.password", Kind::Secret, "password of the management API; that of AMQP unless given"),
    key("bus.amqp.management.password_file", Kind::Path, "file that holds that password, read for each call"),
    key(
        "bus.amqp.management.ca_file",
        Kind::Path,
        "authorities of the management API; those of bus.amqp.tls.ca_file unless given",
    ),
];
