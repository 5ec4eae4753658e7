//! What the table's rows leave unsaid: defaults that are no value of their own, and rules between keys.
//!
//! For people only: `sidebus config explain` and the reference print them; what enforces a rule stands elsewhere.

/// Words on one key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Note {
    /// The key, as its row writes it.
    pub(crate) path: &'static str,
    /// Its default in words; empty = the row's, or none.
    pub(crate) default: &'static str,
    /// What else rules it; may be empty.
    pub(crate) rule: &'static str,
}

/// The note of a key; an empty one where nothing is to be said.
pub(super) fn of(path: &'static str) -> Note {
    ALL.iter().find(|note| note.path == path).copied().unwrap_or(Note { path, default: "", rule: "" })
}

const fn note(path: &'static str, default: &'static str, rule: &'static str) -> Note {
    Note { path, default, rule }
}

const ONE_ADDRESS: &str = "one of url, url_file, urls and host; the highest layer that has any decides";
const FILE_TWIN: &str = "the secret itself or its file, never both in one layer";
const FROM_ADDRESS: &str = "fills what the address lacks; both in one layer is a problem";
const DOOR: &str = "beyond loopback a door must be told to be insecure in this release";

/// Every note.
pub(super) const ALL: &[Note] = &[
    note("bus.backend", "amqp where an address is known", "an explicit backend wins over an address"),
    note("bus.instance", "$POD_NAMESPACE/$POD_NAME, else the host name", ""),
    note("bus.state_dir", "none", ""),
    note("bus.amqp.url", "amqp://guest:guest@localhost:5672 with backend amqp", ONE_ADDRESS),
    note("bus.amqp.url_file", "none", ONE_ADDRESS),
    note("bus.amqp.urls", "none", ONE_ADDRESS),
    note("bus.amqp.host", "none", ONE_ADDRESS),
    note("bus.amqp.port", "5672, or 5671 with TLS", ""),
    note("bus.amqp.vhost", "", FROM_ADDRESS),
    note("bus.amqp.username", "", FROM_ADDRESS),
    note("bus.amqp.username_file", "none", FILE_TWIN),
    note("bus.amqp.password", "", FROM_ADDRESS),
    note("bus.amqp.password_file", "none", FILE_TWIN),
    note("bus.amqp.oauth2.token_file", "none", "required with bus.amqp.sasl = \"oauth2\""),
    note("bus.amqp.tls.ca_file", "the roots of this host, or those of SSL_CERT_FILE", ""),
    note("bus.amqp.tls.cert_file", "none", "together with bus.amqp.tls.key_file"),
    note("bus.amqp.tls.key_file", "none", "together with bus.amqp.tls.cert_file"),
    note("bus.amqp.tls.server_name", "the host", "checking the certificate cannot be turned off"),
    note("bus.amqp.tls.require", "", "with bus.amqp.host it means amqps"),
    note("bus.amqp.exchange", "", "declared durable; further options in [exchanges]"),
    note("bus.amqp.exchange_type", "", "the same as in [exchanges] where that names this exchange"),
    note(
        "bus.amqp.topology",
        "",
        "create adopts what exists and declares what is missing; verify only looks, and what is missing is a mismatch; off asks \
         nothing and takes everything as it is",
    ),
    note("bus.amqp.namespace", "", "no other name may begin with it and a dot"),
    note("bus.amqp.heartbeat", "", "also as heartbeat (seconds) in the query of the address, never both in one layer"),
    note(
        "bus.amqp.connect_timeout",
        "",
        "also as connection_timeout (milliseconds) in the query of the address, never both in one layer",
    ),
    note("bus.amqp.reconnect.min_backoff", "", "not above bus.amqp.reconnect.max_backoff"),
    note("bus.amqp.management.url", "none", "without it, arguments, bindings, policies and rights are unknown"),
    note("bus.amqp.management.url_file", "none", FILE_TWIN),
    note("bus.amqp.management.username", "as AMQP", ""),
    note("bus.amqp.management.username_file", "none", FILE_TWIN),
    note("bus.amqp.management.password", "as AMQP", ""),
    note("bus.amqp.management.password_file", "none", FILE_TWIN),
    note("bus.amqp.management.ca_file", "as AMQP", ""),
    note("exchanges.*.name", "the table's name", "two tables cannot name one exchange"),
    note("exchanges.*.type", "topic", "bus.amqp.exchange_type says it for bus.amqp.exchange"),
    note("exchanges.*.internal", "", "not for bus.amqp.exchange, which takes publishes"),
    note("exchanges.*.arguments", "none", ""),
    note("queues.*.queue", "the table's name", "two subscriptions cannot share a queue"),
    note("queues.*.exchange", "bus.amqp.exchange", ""),
    note("queues.*.bindings", "none: fed from elsewhere", ""),
    note(
        "queues.*.unbind",
        "none",
        "in create mode alone; sidebus topology diff reports those still there, with the management API",
    ),
    note(
        "queues.*.queue_type",
        "quorum, or classic where another key asks for it",
        "quorum excludes durable = false, auto_delete, exclusive and max_priority; an existing queue keeps its type",
    ),
    note("queues.*.durable", "true", "false makes a classic queue, gone with the broker"),
    note("queues.*.auto_delete", "", "makes a classic queue"),
    note("queues.*.exclusive", "", "makes a classic queue"),
    note("queues.*.arguments", "none", "the typed keys under the broker's names: both for one thing is a problem"),
    note("queues.*.max_priority", "none", "makes a classic queue; more than 10 cost memory and time"),
    note("queues.*.message_ttl", "none", ""),
    note("queues.*.max_length", "none", ""),
    note("queues.*.max_length_bytes", "none", ""),
    note("queues.*.overflow", "reject_publish", "drop_head gives up the oldest messages of a full queue"),
    note("queues.*.delivery_limit", "20", "on quorum queues only"),
    note("queues.*.prefetch_count", "bus.amqp.prefetch_count", ""),
    note("queues.*.prefetch_max", "bus.amqp.prefetch_max", ""),
    note("queues.*.settle_timeout", "", "at least 1m below max_lease"),
    note("queues.*.max_lease", "", "below the broker's consumer timeout, which is 30m unless it was raised"),
    note("queues.*.max_message_bytes", "grpc.max_message_bytes and 1MiB", "above it MESSAGE_TOO_LARGE"),
    note("queues.*.retry.backoff", "retry.backoff", ""),
    note("queues.*.retry.max_attempts", "retry.max_attempts", ""),
    note("queues.*.retry.min_backoff", "retry.min_backoff", ""),
    note("queues.*.retry.max_backoff", "retry.max_backoff", ""),
    note("queues.*.retry.multiplier", "retry.multiplier", ""),
    note("queues.*.retry.jitter", "retry.jitter", ""),
    note("queues.*.retry.crash_limit", "retry.crash_limit", ""),
    note("queues.*.retry.max_per_second", "retry.max_per_second", ""),
    note("queues.*.retry.kill_switch.enabled", "retry.kill_switch.enabled", ""),
    note("queues.*.retry.kill_switch.share", "retry.kill_switch.share", ""),
    note("queues.*.retry.kill_switch.sample", "retry.kill_switch.sample", ""),
    note("queues.*.retry.kill_switch.min_pause", "retry.kill_switch.min_pause", ""),
    note("queues.*.retry.kill_switch.max_pause", "retry.kill_switch.max_pause", ""),
    note(
        "queues.*.dead_letter.exchange",
        "dead_letter.exchange",
        "a fanout bound to this subscription's dead_letter.queue; x-dead-letter-exchange in arguments says the same",
    ),
    note("queues.*.dead_letter.enabled", "dead_letter.enabled", ""),
    note("queues.*.dead_letter.queue", "dead_letter.queue", ""),
    note("queues.*.dead_letter.scope", "dead_letter.scope", ""),
    note("queues.*.dead_letter.archive_queue", "dead_letter.archive_queue", ""),
    note("queues.*.dead_letter.message_ttl", "dead_letter.message_ttl", "only with an archive_queue"),
    note("queues.*.dead_letter.max_length", "dead_letter.max_length", "only with an archive_queue"),
    note("retry.history_key_file", "none", "shared by all sidecars of the vhost"),
    note(
        "dead_letter.enabled",
        "",
        "false: a message that is given up goes back to its queue, and its subscription pauses until the next start",
    ),
    note("dead_letter.exchange", "", "a fanout, never bus.amqp.exchange"),
    note("dead_letter.queue", "", "no subscription may read it: its failures would turn in a circle"),
    note("dead_letter.scope", "", "per_queue = {queue}.dlq; advised where many services share a vhost"),
    note("dead_letter.archive_queue", "none", "declared like a dead-letter queue"),
    note("dead_letter.message_ttl", "none", "only with archive_queue"),
    note("dead_letter.max_length", "none", "only with archive_queue"),
    note("grpc.listen", "", DOOR),
    note(
        "grpc.allowed_authorities",
        "localhost, 127.0.0.1, [::1] and the listen address on loopback; any beyond",
        "on TCP only: a page in a browser must not reach the door under a name of its own",
    ),
    note("grpc.unix_socket", "none", "may stand beside grpc.listen"),
    note("grpc.unix_socket_uids", "any", "peers that may connect"),
    note("grpc.tls.cert_file", "none", ""),
    note("grpc.tls.key_file", "none", ""),
    note("grpc.tls.client_ca_file", "none", "makes it mutual TLS"),
    note("grpc.identities.*.token_file", "none", ""),
    note("grpc.identities.*.san", "none", ""),
    note("grpc.identities.*.uid", "none", ""),
    note("grpc.identities.*.subscribe", "none", ""),
    note("grpc.identities.*.publish", "none", ""),
    note("grpc.identities.*.declare", "none", ""),
    note("grpc.insecure", "", "told loudly at every start"),
    note("grpc.handlers_may_declare", "true on loopback and sockets, else false", ""),
    note("grpc.reflection", "true on loopback and sockets, else false", ""),
    note("grpc.keepalive_interval", "", "never on loopback and sockets, where the kernel tells who has gone"),
    note("grpc.keepalive_timeout", "", "never on loopback and sockets, where the kernel tells who has gone"),
    note("admin.listen", "", DOOR),
    note("admin.unix_socket", "none", ""),
    note("admin.token", "none", FILE_TWIN),
    note("admin.token_file", "none", FILE_TWIN),
    note("admin.tls.cert_file", "none", ""),
    note("admin.tls.key_file", "none", ""),
    note("admin.tls.client_ca_file", "none", ""),
    note("client.endpoint", "grpc.unix_socket, else grpc.listen", "host:port or the path of a socket; --endpoint wins"),
    note("client.admin_endpoint", "admin.listen, else health.listen for healthcheck", "--admin-endpoint wins"),
    note("client.token_file", "none", ""),
    note("client.ca_file", "the roots of this host", ""),
    note("log.filter", "log.level", "replaces log.level"),
    note("telemetry.otlp.endpoint", "none: no traces", ""),
    note("telemetry.otlp.headers_file", "none", ""),
    note("shutdown.budget", "", "below the pod's grace period, which is 30s unless it says otherwise"),
    note("shutdown.drain", "the rest of shutdown.budget", "the phases together are not above shutdown.budget"),
    note(
        "limits.memory_budget",
        "none",
        "settings whose sum of prefetch_max × max_message_bytes over [queues] is above it are refused",
    ),
    note("limits.connections_per_peer", "", "not on loopback and sockets, where all handlers are one peer"),
    note("limits.publishes_in_flight", "", "of all callers; above it HANDLER_LIMIT with a hint when to try again"),
    note("limits.publish_bytes", "", "of all callers; above it HANDLER_LIMIT with a hint when to try again"),
];
