//! Rows of `[grpc]`, `[admin]`, `[client]`, `[health]`, `[log]`, `[telemetry]`, `[shutdown]` and `[limits]`.

use std::time::Duration;

use super::{BYTES, COUNT, Key, Kind, WAIT, WAIT_MAX, WAIT_OR_NONE, key};

const READINESS: Kind = Kind::Words { now: &["connected-once", "broker", "process"], later: &[] };
const FORMATS: Kind = Kind::Words { now: &["auto", "human", "json"], later: &[] };
const LEVELS: Kind = Kind::Words { now: &["error", "warn", "info", "debug", "trace", "off"], later: &[] };
const PARENTS: Kind = Kind::Words { now: &["link", "child"], later: &[] };
const KEEPALIVE: Kind = Kind::Duration { min: Duration::from_mins(1), max: WAIT_MAX };
const STREAMS: Kind = Kind::Integer { min: 1, max: 65_535 };
const BODY: Kind = Kind::Size { min: 1, max: 512 << 20 };
const SOCKET_LATER: &str = "listen on a loopback address";
const TLS_LATER: &str = "listen on a loopback address, or set insecure where the network is trusted";
const CLIENT_LATER: &str = "the doors of this release take neither tokens nor TLS";

pub(super) const KEYS: &[Key] = &[
    key("grpc.listen", Kind::Address, "where handlers and publishers come in").default("127.0.0.1:7672"),
    key("grpc.allowed_authorities", Kind::List, "values of :authority (host, or host:port) that are taken on TCP"),
    key("grpc.unix_socket", Kind::Path, "Unix socket beside the address, or instead of it"),
    key("grpc.unix_socket_mode", Kind::Text, "its mode, in octal and in quotes").default("0660"),
    key("grpc.unix_socket_uids", Kind::List, "numbers of the users that may connect; any, unless given"),
    key("grpc.tls.cert_file", Kind::Path, "certificate").later(TLS_LATER),
    key("grpc.tls.key_file", Kind::Path, "its key").later(TLS_LATER),
    key("grpc.tls.client_ca_file", Kind::Path, "roots of client certificates").later(TLS_LATER),
    key("grpc.identities.*.token_file", Kind::Path, "file that holds a bearer token").later(TLS_LATER),
    key("grpc.identities.*.san", Kind::Text, "name in the client certificate").later(TLS_LATER),
    key("grpc.identities.*.uid", Kind::Integer { min: 0, max: 4_294_967_295 }, "user on the socket").later(TLS_LATER),
    key("grpc.identities.*.subscribe", Kind::List, "names that it may consume").later(TLS_LATER),
    key("grpc.identities.*.publish", Kind::List, "exchange:key patterns that it may publish").later(TLS_LATER),
    key("grpc.identities.*.declare", Kind::Bool, "whether it may declare").later(TLS_LATER),
    key("grpc.insecure", Kind::Bool, "plaintext without identity beyond loopback").default("false"),
    key("grpc.max_message_bytes", BODY, "largest body; the decode limit is 1 MiB more").default("16MiB"),
    key("grpc.window_bytes", BYTES, "window in bytes of a handler that asks for none").default("8MiB"),
    key(
        "grpc.handlers_may_declare",
        Kind::Bool,
        "handlers bring their subscription; true on loopback and sockets only",
    ),
    key("grpc.reflection", Kind::Bool, "gRPC reflection; true on loopback and sockets only"),
    key("grpc.keepalive_interval", KEEPALIVE, "time between pings to peers beyond this host").default("60s"),
    key("grpc.keepalive_timeout", KEEPALIVE, "wait for the answer to a ping").default("60s"),
    key("admin.listen", Kind::Address, "probes, metrics and tools").default("127.0.0.1:17672"),
    key("admin.unix_socket", Kind::Path, "socket beside the address").later(SOCKET_LATER),
    key("admin.token", Kind::Secret, "token of changing calls").later(TLS_LATER),
    key("admin.token_file", Kind::Path, "file that holds the token").later(TLS_LATER),
    key("admin.tls.cert_file", Kind::Path, "certificate").later(TLS_LATER),
    key("admin.tls.key_file", Kind::Path, "its key").later(TLS_LATER),
    key("admin.tls.client_ca_file", Kind::Path, "roots of client certificates").later(TLS_LATER),
    key("admin.insecure", Kind::Bool, "plaintext without token beyond loopback").default("false"),
    key("admin.console", Kind::Bool, "pages for eyes").default("false").only_default(""),
    key("client.endpoint", Kind::Text, "where pub, sub and other commands find the gRPC door"),
    key("client.admin_endpoint", Kind::Text, "where healthcheck and other commands find the admin door"),
    key("client.token_file", Kind::Path, "file that holds their token").later(CLIENT_LATER),
    key("client.ca_file", Kind::Path, "roots that they trust").later(CLIENT_LATER),
    key("health.listen", Kind::Address, "probes and metrics for kubelet and Prometheus").default("off"),
    key("health.readiness", READINESS, "what readiness means").default("connected-once"),
    key("log.level", LEVELS, "how much is logged").default("info"),
    key("log.filter", Kind::Text, "directives such as info,sidebus::bridge=debug; replaces the level"),
    key("log.format", FORMATS, "auto = human on a terminal, JSON otherwise").default("auto"),
    key("telemetry.otlp.endpoint", Kind::Text, "where traces go").variable("OTEL_EXPORTER_OTLP_ENDPOINT").later(""),
    key("telemetry.otlp.headers_file", Kind::Path, "file that holds the headers of that call").later(""),
    key("telemetry.otlp.service_name", Kind::Text, "name of this service")
        .default("sidebus")
        .variable("OTEL_SERVICE_NAME")
        .later(""),
    key("telemetry.sample", Kind::Fraction { min: 0.0, max: 1.0 }, "share of traces").default("1").later(""),
    key("telemetry.parent", PARENTS, "how our span relates to the producer's").default("link").later(""),
    key("telemetry.redact_topology", Kind::Bool, "no host and no vhost in metrics and health").default("false"),
    key("shutdown.budget", WAIT, "all phases together; below the pod's grace period").default("25s"),
    key("shutdown.notice", WAIT_OR_NONE, "readiness is off, nothing else has changed").default("0s"),
    key("shutdown.intake", WAIT_OR_NONE, "consumers are cancelled, new streams refused").default("2s"),
    key("shutdown.drain", WAIT_OR_NONE, "handlers finish; the rest of the budget"),
    key("shutdown.return", WAIT_OR_NONE, "what is unsettled goes back").default("2s"),
    key("shutdown.close", WAIT_OR_NONE, "confirms (they may also use what earlier phases left), connections, servers")
        .default("3s"),
    key("shutdown.exit_when_idle", Kind::Bool, "stop after the last handler left").default("false"),
    key("limits.memory_budget", BYTES, "most bytes that the windows of all configured queues may add up to"),
    key("limits.header_bytes", Kind::Size { min: 1, max: 16 << 20 }, "AMQP headers of one message").default("64KiB"),
    key("limits.header_depth", Kind::Integer { min: 1, max: 64 }, "levels of nested headers").default("8"),
    key("limits.connections_per_peer", COUNT, "connections of one peer beyond loopback").default("16"),
    key("limits.streams_per_connection", STREAMS, "calls at a time on one connection").default("256"),
    key("limits.publishes_in_flight", Kind::Integer { min: 1, max: 1 << 24 }, "unconfirmed publishes of all callers")
        .default("16384"),
    key("limits.publish_bytes", BYTES, "sum of their bodies").default("64MiB"),
    key("limits.open_timeout", WAIT, "first frame of a stream").default("5s"),
];
