//! Bad input of every kind: wrong types, unknown keys in every table, names that are none, sources that contradict.

use super::*;

/// What is wrong with one key of a file, without place and hint.
fn why(file: &str, key: &str) -> Vec<String> {
    let problems = Scene::new(file).with(&[MEMORY]).problems();
    problems.iter().filter(|problem| problem.key == key).map(|problem| problem.why.clone()).collect()
}

#[test]
fn a_value_of_another_type_is_told_for_every_kind_of_key() {
    for (table, key, values, expected) in [
        ("grpc", "insecure", &["1", "\"true\"", "[true]", "{}"][..], "must be true or false"),
        ("bus.amqp", "port", &["\"5\"", "5.5", "true", "[5]"], "must be a whole number"),
        ("bus.amqp.publish", "lanes", &["{ a = 1 }", "1979-05-27"], "must be a whole number"),
        ("telemetry", "sample", &["\"1\"", "true", "nan"], "must be a number"),
        ("bus.amqp", "heartbeat", &["true", "[\"5s\"]", "{}"], "must be a duration, in quotes"),
        ("bus.amqp", "heartbeat", &["10", "0.5"], "a duration needs a unit"),
        ("grpc", "window_bytes", &["true", "[1]", "0.5"], "must be a size, in quotes"),
        ("grpc", "window_bytes", &["\"much\"", "\"-1\""], "not a size"),
        ("admin", "listen", &["17672", "true", "[]"], "must be an address, in quotes"),
        ("log", "filter", &["5", "true", "[\"x\"]", "{}"], "must be text, in quotes"),
        ("log", "format", &["5", "true"], "must be text, in quotes"),
        ("log", "format", &["\"xml\""], "must be one of auto, human, json"),
        ("bus.amqp", "exchange", &["5", "[]"], "must be text, in quotes"),
        ("bus.amqp", "url", &["5", "[\"x\"]", "{ a = 1 }"], "must be text, in quotes"),
        ("bus.amqp", "password_file", &["5", "[\"x\"]"], "must be text, in quotes"),
        ("grpc", "allowed_authorities", &["\"localhost\"", "5", "{}"], "must be a list"),
        ("grpc", "allowed_authorities", &["[true]", "[[]]"], "must be text, in quotes"),
        ("queues.a", "bindings", &["\"player.#\"", "5", "{}"], "must be a list"),
        ("queues.a", "bindings", &["[5]", "[[\"x\"]]"], "item 1: must be a pattern or a table"),
        ("queues.a", "bindings", &["[{ routing_key = 5 }]"], "item 1: routing_key must be text, in quotes"),
        (
            "queues.a",
            "bindings",
            &["[\"x\", { exchange = \"a\\u0007b\" }]"],
            "item 2: exchange contains the control character U+0007",
        ),
        ("queues.a", "arguments", &["\"x\"", "5", "[]"], "must be a table"),
        ("exchanges.a", "arguments", &["true"], "must be a table"),
    ] {
        for value in values {
            let file = format!("[{table}]\n{key} = {value}\n");
            let key = format!("{table}.{key}");
            let told = why(&file, &key);
            assert!(told.iter().any(|why| why == expected), "{file}{told:?}");
        }
    }
}

#[test]
fn a_wrong_type_in_a_variable_is_told_like_one_in_a_file() {
    for (variable, value, expected) in [
        ("BUS__GRPC__INSECURE", "yes", "must be true or false"),
        ("BUS__AMQP__PREFETCH_COUNT", "many", "must be a whole number"),
        ("BUS__AMQP__PREFETCH_COUNT", "70000", "must be 1 to 65535"),
        ("BUS__AMQP__HEARTBEAT", "10", "a duration needs a unit"),
        ("BUS__QUEUES__A__ARGUMENTS", "x", "must be a table"),
        ("BUS__QUEUES__A__BINDINGS", "[5]", "item 1: must be a pattern or a table"),
        ("BUS__QUEUES__A__BINDINGS", "[broken", "must be a list"),
        ("BUS__QUEUES__A", "x", "is a table of keys"),
        ("BUS__QUEUES", "x", "is a table of keys"),
    ] {
        let problems = Scene::bare().with(&[MEMORY, (variable, value)]).problems();
        let told = problems.iter().any(|problem| problem.origin == variable && problem.why == expected);
        assert!(told, "{variable}={value}: {problems}");
    }
}

#[test]
fn an_unknown_key_is_told_in_every_table() {
    let tables = [
        "bus",
        "bus.memory",
        "bus.amqp",
        "bus.amqp.oauth2",
        "bus.amqp.tls",
        "bus.amqp.reconnect",
        "bus.amqp.pool",
        "bus.amqp.publish",
        "bus.amqp.management",
        "exchanges.a",
        "queues.a",
        "queues.a.retry",
        "queues.a.retry.kill_switch",
        "queues.a.dead_letter",
        "retry",
        "retry.kill_switch",
        "dead_letter",
        "grpc",
        "grpc.tls",
        "grpc.identities.a",
        "admin",
        "admin.tls",
        "client",
        "health",
        "log",
        "telemetry",
        "telemetry.otlp",
        "shutdown",
        "limits",
    ];
    let file = tables.map(|table| format!("[{table}]\nzzzzzzzz = 1\n")).concat();
    let problems = Scene::new(&format!("zzzzzzzz = 1\n{file}")).with(&[MEMORY]).problems();
    let mut told: Vec<&str> = problems.iter().map(|problem| problem.key.as_str()).collect();
    let mut expected: Vec<String> = tables.iter().map(|table| format!("{table}.zzzzzzzz")).collect();
    expected.push("zzzzzzzz".to_owned());
    expected.sort();
    told.sort_unstable();
    assert_eq!(told, expected);
    assert!(problems.iter().all(|problem| problem.why == "unknown key"));
}

#[test]
fn names_of_the_broker_are_checked_wherever_they_stand() {
    let long = "x".repeat(256);
    for (name, expected) in [
        ("amq.topic", "begins with \"amq.\", which the broker keeps for itself"),
        (long.as_str(), "has 256 bytes, at most 255 are allowed"),
        ("a\\u0007b", "contains the control character U+0007"),
        ("a\\u0085b", "contains the control character U+0085"),
        ("", "must not be empty"),
    ] {
        for key in [
            "bus.instance",
            "bus.amqp.exchange",
            "bus.amqp.namespace",
            "queues.a.queue",
            "queues.a.dead_letter.exchange",
            "queues.a.dead_letter.queue",
            "queues.a.dead_letter.archive_queue",
            "dead_letter.exchange",
            "dead_letter.queue",
            "dead_letter.archive_queue",
            "exchanges.a.name",
        ] {
            let (table, word) = key.rsplit_once('.').unwrap();
            let told = why(&format!("[{table}]\n{word} = \"{name}\"\n"), key);
            assert_eq!(told, [expected], "{key} = {name:?}");
        }
    }
    let bytes = "ü".repeat(128);
    assert_eq!(
        why(&format!("[queues.a]\nqueue = \"{bytes}\"\n"), "queues.a.queue")[0],
        "has 256 bytes, at most 255 are allowed"
    );
    for (table, key, expected) in [
        ("[queues.\"\"]", "queues.\"\"", "must not be empty"),
        (
            &format!("[queues.{}]", "x".repeat(129)),
            &format!("queues.{}", "x".repeat(129)),
            "has 129 bytes, at most 128 are allowed",
        ),
        (
            "[queues.\"a/b\"]",
            "queues.\"a/b\"",
            "contains '/'; letters from a to z, digits, '-', '_' and '.' are allowed",
        ),
        ("[queues.\"amq.x\"]", "queues.\"amq.x\"", "the name begins with \"amq.\", which the broker keeps for itself"),
        (
            "[exchanges.\"amq.x\"]",
            "exchanges.\"amq.x\"",
            "the name begins with \"amq.\", which the broker keeps for itself",
        ),
        (
            "[grpc.identities.\"a b\"]",
            "grpc.identities.\"a b\"",
            "contains ' '; letters from a to z, digits, '-', '_' and '.' are allowed",
        ),
    ] {
        assert_eq!(why(&format!("{table}\n"), key), [expected], "{table}");
    }
}

#[test]
fn names_of_exchanges_that_are_bound_to_are_checked_as_well() {
    let long = "x".repeat(256);
    for (name, expected) in [
        (long.as_str(), "has 256 bytes, at most 255 are allowed"),
        ("a\\u0007b", "contains the control character U+0007"),
        ("", "must not be empty"),
    ] {
        assert_eq!(why(&format!("[queues.a]\nexchange = \"{name}\"\n"), "queues.a.exchange"), [expected], "{name:?}");
        for list in ["bindings", "unbind"] {
            let told =
                why(&format!("[queues.a]\n{list} = [{{ exchange = \"{name}\" }}]\n"), &format!("queues.a.{list}"));
            let expected = if name.is_empty() { "item 1: must not be empty" } else { expected };
            assert!(
                told.len() == 1 && told[0].starts_with("item 1: ") && told[0].ends_with(expected),
                "{list}: {told:?}"
            );
        }
    }
}

#[test]
fn exchanges_of_the_broker_are_bound_to_and_never_declared() {
    let file = "[queues.a]\nexchange = \"amq.topic\"\nbindings = [\"x\", { exchange = \"amq.headers\" }]\n";
    let loaded = Scene::new(file).with(&[MEMORY]).loaded();
    let bound: Vec<&str> =
        subscription(&loaded, "a").bindings.iter().map(|binding| binding.exchange.as_str()).collect();
    assert_eq!(bound, ["amq.topic", "amq.headers"]);
    for table in ["[exchanges.\"amq.topic\"]", "[bus.amqp]\nexchange = \"amq.topic\""] {
        assert!(Scene::new(&format!("{table}\n")).with(&[MEMORY]).problems().to_string().contains("amq."), "{table}");
    }
}

#[test]
fn our_own_names_are_refused_wherever_they_stand() {
    for (file, key) in [
        ("[bus.amqp]\nexchange = \"sidebus.x\"", "bus.amqp.exchange"),
        ("[queues.\"sidebus.q\"]", "queues.\"sidebus.q\""),
        ("[queues.a]\nexchange = \"sidebus.x\"", "queues.a.exchange"),
        ("[queues.a]\nbindings = [\"x\", { exchange = \"sidebus.x\" }]", "queues.a.bindings"),
        ("[exchanges.\"sidebus.x\"]", "exchanges.\"sidebus.x\""),
        ("[dead_letter]\nqueue = \"sidebus.x\"", "dead_letter.queue"),
        ("[queues.a.dead_letter]\nqueue = \"sidebus.x\"", "queues.a.dead_letter.queue"),
        ("[bus.amqp]\nnamespace = \"angzarr\"", "bus.amqp.exchange"),
    ] {
        let told = why(file, key);
        let of_namespace = told.iter().filter(|why| why.ends_with("which is ours"));
        assert_eq!(of_namespace.count(), 1, "{file}: {told:?}");
    }
}

#[test]
fn a_queue_is_reached_from_the_environment_whatever_its_name_holds() {
    let file = "\
[queues.player-projector]
[queues.\"Real.Name\"]
[queues.under_score]
";
    let scene = Scene::new(file).with(&[
        MEMORY,
        ("BUS__QUEUES__PLAYER_PROJECTOR__MAX_HANDLERS", "1"),
        ("BUS__QUEUES__REAL_NAME__MAX_HANDLERS", "2"),
        ("bus__queues__under_score__max_handlers", "3"),
        ("BUS__QUEUES__Brand_New__MAX_HANDLERS", "4"),
    ]);
    let loaded = scene.loaded();
    let names = ["player-projector", "Real.Name", "under_score", "brand-new"];
    let found = names.map(|name| subscription(&loaded, name).delivery.max_handlers);
    assert_eq!(found, [1, 2, 3, 4]);
    assert_eq!(loaded.settings.subscriptions.len(), 4);
}

#[test]
fn a_variable_that_could_mean_two_queues_is_told_with_both() {
    let scene = Scene::new("[queues.a-b]\n[queues.\"a.b\"]\n").with(&[MEMORY, ("BUS__QUEUES__A_B__MAX_HANDLERS", "1")]);
    insta::assert_snapshot!(scene.problems(), @r#"
    settings: 1 problem
      queues.a_b    BUS__QUEUES__A_B__MAX_HANDLERS    could mean "a-b" and "a.b"    hint: set this key in the file
    "#);
}

#[test]
fn one_variable_in_two_cases_is_a_conflict() {
    let scene = Scene::bare().with(&[
        MEMORY,
        ("BUS__AMQP__PREFETCH_COUNT", "1"),
        ("bus__amqp__prefetch_count", "1"),
        ("BUS__BACKEND", "memory"),
    ]);
    insta::assert_snapshot!(scene.problems(), @r"
    settings: 2 problems
      bus.amqp.prefetch_count    bus__amqp__prefetch_count    is also set by BUS__AMQP__PREFETCH_COUNT    hint: keep one of the two
      bus.backend                BUS__BACKEND                 is also set by BUS_BACKEND                  hint: keep one of the two
    ");
}

#[test]
fn an_address_in_two_forms_is_a_conflict_in_every_layer() {
    let in_environment = Scene::bare().with(&[("AMQP_URL", "amqp://h"), ("BUS__AMQP__HOST", "h")]);
    insta::assert_snapshot!(in_environment.problems(), @r"
    settings: 1 problem
      bus.amqp.host    BUS__AMQP__HOST    excludes bus.amqp.url (AMQP_URL)    hint: keep one of the two
    ");
    let with_file = Scene::bare().with(&[("AMQP_URL", "amqp://h"), ("AMQP_URL_FILE", "f")]);
    insta::assert_snapshot!(with_file.problems(), @r"
    settings: 1 problem
      bus.amqp.url_file    AMQP_URL_FILE    excludes bus.amqp.url (AMQP_URL)    hint: keep one of the two
    ");
}

#[test]
fn a_key_of_a_later_release_is_held_against_its_type_as_well() {
    let file = "\
[telemetry]
sample = 7
parent = \"aunt\"
otlp.endpoint = 5
[admin]
console = \"yes\"
token = 5
[grpc.identities.billing]
uid = -1
subscribe = \"all\"
";
    let problems = Scene::new(file).with(&[MEMORY]).problems();
    let of_types: Vec<String> = problems
        .iter()
        .filter(|problem| problem.why != "not supported in this release")
        .map(|problem| format!("{} = {}: {}", problem.key, problem.found.as_deref().unwrap_or_default(), problem.why))
        .collect();
    insta::assert_snapshot!(of_types.join("\n"), @r#"
    admin.console = "yes": must be true or false
    admin.token = ***: must be text, in quotes
    grpc.identities.billing.subscribe = "all": must be a list
    grpc.identities.billing.uid = -1: must be 0 to 4294967295
    telemetry.otlp.endpoint = 5: must be text, in quotes
    telemetry.parent = "aunt": must be one of link, child
    telemetry.sample = 7: must be 0 to 1
    "#);
    assert_eq!(problems.len(), 2 * of_types.len(), "each is refused by name as well: {problems}");
}

#[test]
fn a_key_may_say_what_this_release_does_anyway() {
    let file =
        "[admin]\nconsole = false\n[queues.a]\nkind = \"shared\"\nordering_mode = \"none\"\npartition_count = 0\n";
    assert!(Scene::new(file).with(&[MEMORY]).loaded().warnings.is_empty());
    let file =
        "[admin]\nconsole = true\n[queues.a]\nkind = \"broadcast\"\nordering_mode = \"key\"\npartition_count = 4\n";
    let problems = Scene::new(file).with(&[MEMORY]).problems();
    assert_eq!(problems.len(), 4, "{problems}");
    assert!(problems.iter().all(|problem| problem.why == "not supported in this release"), "{problems}");
}

#[test]
fn variables_of_opentelemetry_are_not_used_and_not_silent() {
    let names = ["OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_RESOURCE_ATTRIBUTES", "OTEL_SERVICE_NAME"];
    let variables = names.map(|name| (name, "http://canary:4317"));
    let loaded = Scene::bare().with(&[MEMORY]).with(&variables).loaded();
    let words: Vec<String> = loaded.warnings.iter().map(ToString::to_string).collect();
    assert_eq!(words, names.map(|name| format!("{name}: is not used in this release: no traces are exported yet")));
}

/// failures.md S3.
#[test]
fn windows_beyond_the_memory_budget_are_refused_before_any_socket() {
    let file = |budget: &str| {
        format!(
            "[grpc]\nmax_message_bytes = \"1MiB\"\n[queues.a]\nprefetch_max = 100\n[queues.b]\nprefetch_max = 300\n\
             [limits]\nmemory_budget = \"{budget}\"\n"
        )
    };
    assert!(Scene::new(&file("800MiB")).with(&[MEMORY]).load().is_ok());
    insta::assert_snapshot!(Scene::new(&file("799MiB")).with(&[MEMORY]).problems(), @r#"
    settings: 1 problem
      limits.memory_budget = "799MiB"    sidebus.toml:8    the windows of all queues could hold 800MiB    hint: lower prefetch_max, queues.<name>.max_message_bytes or grpc.max_message_bytes, or raise the budget
    "#);
}
