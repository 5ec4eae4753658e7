//! No key is missing: not in the table, not in the reference, not in the schema. And none is there that nobody promised.

use std::collections::BTreeSet;

use serde_json::Value as Json;
use sidebus::config::{explain, schema};

use super::*;

/// Every key that users were promised, by table; `*` is a name.
const PROMISED: &[(&str, &str)] = &[
    ("bus", "backend instance state_dir memory.max_bytes"),
    (
        "bus.amqp",
        "url url_file urls host port vhost username username_file password password_file sasl oauth2.token_file \
         tls.ca_file tls.cert_file tls.key_file tls.server_name tls.require exchange exchange_type topology namespace \
         prefetch_count prefetch_max heartbeat preflight_timeout connect_timeout operation_timeout \
         reconnect.min_backoff reconnect.max_backoff pool.max_size pool.wait_timeout publish.lanes publish.batch_max \
         publish.confirm_timeout publish.window publish.window_bytes management.url management.url_file \
         management.username management.password management.password_file management.ca_file",
    ),
    ("exchanges.*", "name type durable auto_delete internal arguments"),
    (
        "queues.*",
        "kind queue exchange bindings unbind queue_type durable auto_delete exclusive arguments max_priority \
         message_ttl max_length max_length_bytes overflow delivery_limit single_active_consumer ordering_mode \
         partition_count prefetch_count prefetch_max settle_timeout max_lease max_message_bytes max_handlers",
    ),
    ("queues.*.retry", RETRY),
    ("retry", RETRY),
    ("retry", "allow_lossy_delay history_key_file"),
    ("queues.*.dead_letter", LETTERS),
    ("dead_letter", LETTERS),
    (
        "grpc",
        "listen allowed_authorities unix_socket unix_socket_mode unix_socket_uids tls.cert_file tls.key_file \
         tls.client_ca_file identities.*.token_file identities.*.san identities.*.uid identities.*.subscribe \
         identities.*.publish identities.*.declare insecure max_message_bytes window_bytes handlers_may_declare \
         reflection keepalive_interval keepalive_timeout",
    ),
    ("admin", "listen unix_socket token token_file tls.cert_file tls.key_file tls.client_ca_file insecure console"),
    ("client", "endpoint admin_endpoint token_file ca_file"),
    ("health", "listen readiness"),
    ("log", "level filter format"),
    ("telemetry", "otlp.endpoint otlp.headers_file otlp.service_name sample parent redact_topology"),
    ("shutdown", "budget notice intake drain return close exit_when_idle"),
    (
        "limits",
        "memory_budget header_bytes header_depth connections_per_peer streams_per_connection publishes_in_flight \
         publish_bytes open_timeout",
    ),
];
const RETRY: &str = "backoff max_attempts min_backoff max_backoff multiplier jitter crash_limit max_per_second \
                     kill_switch.enabled kill_switch.share kill_switch.sample kill_switch.min_pause \
                     kill_switch.max_pause";
const LETTERS: &str = "enabled exchange queue scope archive_queue message_ttl max_length";

/// Keys that nobody was promised and that are there, with their reason.
const FURTHER: &[&str] = &[
    // A secret that the platform mounts holds the user as well, and every other user has a file of its own.
    "bus.amqp.management.username_file",
];

fn promised() -> BTreeSet<String> {
    let all =
        PROMISED.iter().flat_map(|(table, keys)| keys.split_whitespace().map(move |key| format!("{table}.{key}")));
    all.chain(FURTHER.iter().map(|key| (*key).to_owned())).collect()
}

#[test]
fn the_table_has_every_promised_key_and_explains_it() {
    for key in promised() {
        let explained = explain(&key.replace('*', "<name>"));
        assert!(explained.is_ok_and(|text| text.contains("  type ")), "{key} is not in the table");
    }
}

#[test]
fn the_schema_has_the_promised_keys_and_no_others() {
    let mut found = BTreeSet::new();
    walk(&schema(), "", &mut found);
    assert_eq!(found, promised());
}

fn walk(node: &Json, path: &str, found: &mut BTreeSet<String>) {
    let below = |word: &str| if path.is_empty() { word.to_owned() } else { format!("{path}.{word}") };
    if node["additionalProperties"].is_object() {
        walk(&node["additionalProperties"], &below("*"), found);
    }
    for (word, inner) in node["properties"].as_object().into_iter().flatten() {
        // An object without a description is a table of keys.
        if inner["description"].is_string() {
            found.insert(below(word));
        } else {
            walk(inner, &below(word), found);
        }
    }
}

#[test]
fn the_reference_has_the_promised_keys_and_no_others() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/configuration.md");
    let reference = fs::read_to_string(path).unwrap();
    let mut found = BTreeSet::new();
    let mut table = "";
    for line in reference.lines() {
        if let Some(title) = line.strip_prefix("### `[") {
            table = title.trim_end_matches("]`");
        }
        let word = line.strip_prefix("| `").and_then(|rest| rest.split('`').next());
        if let Some(word) = word.filter(|_| !table.is_empty()) {
            found.insert(format!("{table}.{word}").replace("<name>", "*"));
        }
    }
    assert_eq!(found, promised());
}

fn compiled() -> (boon::Schemas, boon::SchemaIndex) {
    let (mut schemas, mut compiler) = (boon::Schemas::new(), boon::Compiler::new());
    compiler.add_resource("sidebus.json", schema()).unwrap();
    let index = compiler.compile("sidebus.json", &mut schemas).unwrap();
    (schemas, index)
}

/// What the schema says of a file, as text; empty = it holds.
fn faults(file: &str) -> String {
    let (schemas, index) = compiled();
    let document: Json = serde_json::to_value(toml::from_str::<toml::Table>(file).unwrap()).unwrap();
    schemas.validate(&document, index).err().map(|error| error.to_string()).unwrap_or_default()
}

#[test]
fn the_examples_hold_against_the_schema() {
    for file in [worked_example(), PRODUCTION] {
        assert_eq!(faults(file), "", "{file}");
    }
}

#[test]
fn the_schema_refuses_what_the_program_refuses() {
    for file in [
        "[bus]\nbackend = \"kafka\"",
        "[bus]\nbackned = \"amqp\"",
        "[bus.amqp]\nprefetch_count = 0",
        "[bus.amqp]\nprefetch_count = 65536",
        "[bus.amqp]\nprefetch_count = \"5\"",
        "[bus.amqp]\nheartbeat = 10",
        "[bus.amqp]\nheartbeat = \"10 s\"",
        "[bus.amqp]\nexchange = \"amq.topic\"",
        "[bus.amqp]\nexchange = \"\"",
        "[bus.amqp]\nexchange = \"a\\u0001b\"",
        "[bus.amqp]\nurl = 5",
        "[queues.\"a b\"]\ndurable = true",
        "[queues.a]\ndurable = \"yes\"",
        "[queues.a]\nbindings = \"x\"",
        "[queues.a]\nbindings = [{ routingkey = \"x\" }]",
        "[queues.a]\narguments = [1]",
        "[queues.a.retry]\nmax_attempts = 0",
        "[queues.a.retry]\nmax_attempt = 1",
        "[exchanges.a]\ntype = \"x-delayed\"",
        "[grpc]\nlisten = \"nowhere\"",
        "[grpc]\nmax_message_bytes = \"16MB\"",
        "[grpc]\nallowed_authorities = [true]",
        "[admin]\nconsole = true",
        "[telemetry]\nsample = 0.5",
        "[nonsense]\na = 1",
        "[shutdown]\nbudget = \"\"",
    ] {
        assert_ne!(faults(file), "", "the schema takes {file}");
        let loaded = Scene::new(file).with(&[MEMORY]).load();
        assert!(loaded.is_err() || file.contains("backend"), "the program takes {file}");
    }
}
