//! `config show`: every value in effect, where it came from, what was dropped, and no secret.

use super::*;

fn rows(scene: &Scene) -> Vec<(String, String, String)> {
    let shown = show(&scene.request).unwrap_or_else(|problems| panic!("{problems}"));
    shown.rows.into_iter().map(|row| (row.key, row.toml, row.origin.to_string())).collect()
}

fn row<'a>(rows: &'a [(String, String, String)], key: &str) -> (&'a str, &'a str) {
    let found = rows.iter().find(|(name, ..)| name == key).unwrap_or_else(|| panic!("{key} is not shown"));
    (&found.1, &found.2)
}

#[test]
fn every_value_is_shown_with_its_origin() {
    let file = "\
[bus.amqp]
host = \"from-file\"
exchange_type = \"direct\"
heartbeat = \"3s\"
[exchanges.\"angzarr.events\"]
durable = true
[exchanges.\"other one\"]
[queues.\"a.b\"]
bindings = [\"x\", { exchange = \"other one\", arguments = { n = 1 } }]
exclusive = true
arguments = { x-dead-letter-exchange = \"own.dlx\" }
prefetch_max = 7
";
    let scene = Scene::new(file)
        .with(&[("AMQP_URL", "amqps://app:canary@rabbit/v"), ("BUS__QUEUES__A_B__MAX_LEASE", "10m")])
        .set("retry.max_attempts", "9");
    let rows = rows(&scene);
    for (key, value, origin) in [
        ("bus.backend", "\"amqp\"", "from bus.amqp.url"),
        ("bus.instance", "\"host-1\"", "from the pod's name, or the host's"),
        ("bus.amqp.url", "\"amqps://***@rabbit/v\"", "AMQP_URL"),
        ("bus.amqp.port", "5671", "from bus.amqp.url"),
        ("bus.amqp.vhost", "\"v\"", "from bus.amqp.url"),
        ("bus.amqp.username", "\"***\"", "from bus.amqp.url"),
        ("bus.amqp.heartbeat", "\"3s\"", "sidebus.toml:4"),
        ("bus.amqp.connect_timeout", "\"10s\"", "default"),
        ("bus.amqp.prefetch_count", "100", "default"),
        ("exchanges.\"angzarr.events\".type", "\"direct\"", "from bus.amqp.exchange_type"),
        ("exchanges.\"other one\".name", "\"other one\"", "from the table's name"),
        ("exchanges.\"other one\".type", "\"topic\"", "default"),
        ("queues.\"a.b\".bindings", "[\"x\", { arguments = { n = 1 }, exchange = \"other one\" }]", "sidebus.toml:9"),
        ("queues.\"a.b\".queue", "\"a.b\"", "from the table's name"),
        ("queues.\"a.b\".queue_type", "\"classic\"", "from the queue's other keys"),
        ("queues.\"a.b\".prefetch_count", "100", "from bus.amqp.prefetch_count"),
        ("queues.\"a.b\".prefetch_max", "7", "sidebus.toml:12"),
        ("queues.\"a.b\".max_lease", "\"10m\"", "BUS__QUEUES__A_B__MAX_LEASE"),
        ("queues.\"a.b\".durable", "true", "default"),
        ("queues.\"a.b\".retry.max_attempts", "9", "from retry.max_attempts"),
        ("queues.\"a.b\".dead_letter.exchange", "\"own.dlx\"", "from queues.a.b.arguments"),
        ("retry.max_attempts", "9", "--set retry.max_attempts"),
        ("grpc.handlers_may_declare", "true", "from grpc.listen"),
        ("shutdown.drain", "\"18s\"", "from what shutdown.budget leaves"),
        ("log.filter", "\"info\"", "from log.level"),
    ] {
        assert_eq!(row(&rows, key), (value, origin), "{key}");
    }
    assert!(rows.contains(&(
        "bus.amqp.host".to_owned(),
        "-".to_owned(),
        "sidebus.toml:2, dropped: bus.amqp.url is in effect".to_owned()
    )));
    assert!(!rows.iter().any(|(key, ..)| key == "telemetry.sample"), "what does nothing is not in effect");
}

#[test]
fn a_lower_secret_is_dropped_for_the_file_above_it() {
    let scene = Scene::new("[bus.amqp]\nhost = \"localhost\"\nusername = \"app\"\npassword = \"low\"\n")
        .file("p", "high")
        .with(&[("BUS__AMQP__PASSWORD_FILE", "p")]);
    let rows = rows(&scene);
    assert_eq!(row(&rows, "bus.amqp.password_file"), ("\"p\"", "BUS__AMQP__PASSWORD_FILE"));
    let of_password: Vec<_> = rows.iter().filter(|(key, ..)| key == "bus.amqp.password").collect();
    assert!(of_password.iter().any(|(_, _, origin)| origin.contains("dropped: bus.amqp.password_file")));
}

#[test]
fn nothing_need_be_configured_to_be_shown() {
    let rows = rows(&Scene::bare().command(Command::Show));
    assert_eq!(row(&rows, "grpc.listen"), ("\"127.0.0.1:7672\"", "default"));
    assert!(!rows.iter().any(|(key, ..)| key == "bus.backend"), "no broker is named");
    assert!(show(&Scene::bare().command(Command::Show).set("grpc.listen", "x").request).is_err());
}

#[test]
fn no_secret_is_shown_whatever_it_looks_like() {
    for (key, value) in [
        ("AMQP_URL", "amqp://canary:canary@h:1/v?heartbeat=5"),
        ("AMQP_URL", "amqps://canary@h"),
        ("AMQP_URL", "amqp://:canary@h"),
        ("AMQP_URL", "amqp://u:c%61nary@h"),
        ("BUS__AMQP__PASSWORD", "canary"),
        ("BUS__AMQP__USERNAME", "canary"),
        ("BUS__AMQP__PASSWORD", "x://canary"),
    ] {
        let scene = Scene::bare().command(Command::Show).with(&[("BUS_BACKEND", "amqp"), (key, value)]);
        let rows = show(&scene.request).unwrap();
        let all = format!("{rows:?}");
        assert!(!all.contains("canary") && !all.contains("c%61nary"), "{key}={value}: {all}");
    }
}

#[test]
fn settings_can_be_looked_at_where_their_secrets_are_not() {
    let lines = "url_file = \"gone/url\"\ntls = { ca_file = \"gone/ca\" }\nmanagement = { url_file = \"gone/m\" }\n";
    let mut scene = Scene::new(&format!("[bus.amqp]\n{lines}"));
    for command in [Command::Run, Command::Validate] {
        scene.request.command = command;
        assert!(scene.problems().to_string().contains("the file cannot be read"));
    }
    scene.request.command = Command::Show;
    let warnings = scene.loaded().warnings;
    for key in ["bus.amqp.url_file", "bus.amqp.management.url_file"] {
        let is_told =
            |warning: &sidebus::config::Warning| warning.key == key && warning.what.contains("cannot be read");
        assert!(warnings.iter().any(is_told), "{key}: {warnings:?}");
    }
}

#[test]
fn what_means_nothing_for_a_queue_is_not_shown_and_its_own_letters_are() {
    let file = "\
[queues.own]
queue_type = \"classic\"
[queues.own.dead_letter]
scope = \"per_queue\"
[queues.strong]
";
    let rows = rows(&Scene::new(file).with(&[MEMORY]));
    assert!(!rows.iter().any(|(key, ..)| key == "queues.own.delivery_limit"), "a classic queue counts no deliveries");
    assert_eq!(row(&rows, "queues.strong.delivery_limit"), ("20", "default"));
    assert_eq!(row(&rows, "queues.own.dead_letter.queue"), ("\"own.dlq\"", "from the queue's name and its scope"));
    assert_eq!(row(&rows, "queues.strong.dead_letter.queue"), ("\"angzarr.dlq\"", "from dead_letter.queue"));
}

#[test]
fn warnings_come_along() {
    let scene = Scene::new("[queues.work]\noverflow = \"drop_head\"\n").with(&[MEMORY]);
    let shown = show(&scene.request).unwrap_or_else(|problems| panic!("{problems}"));
    let keys: Vec<&str> = shown.warnings.iter().map(|warning| warning.key.as_str()).collect();
    assert_eq!(keys, ["queues.work.overflow"]);
}

#[test]
fn what_an_address_from_a_higher_layer_has_replaced_is_shown_as_dropped_and_never_as_in_effect() {
    let lower = "\
[bus.amqp]
host = \"low\"
port = 5699
vhost = \"low\"
username = \"canary-low\"
password_file = \"password\"
heartbeat = \"7s\"
connect_timeout = \"8s\"
[queues.work]
bindings = [\"#\"]
";
    let url = "amqp://app:canary-high@127.0.0.1:5698/high?heartbeat=9";
    let scene = Scene::new(lower).file("password", "canary-file").with(&[("AMQP_URL", url)]);
    let rows = rows(&scene);
    for (key, value, origin) in [
        ("bus.amqp.port", "5698", "from bus.amqp.url"),
        ("bus.amqp.vhost", "\"high\"", "from bus.amqp.url"),
        ("bus.amqp.username", "\"***\"", "from bus.amqp.url"),
        ("bus.amqp.password", "\"***\"", "from bus.amqp.url"),
        ("bus.amqp.heartbeat", "\"9s\"", "from bus.amqp.url"),
        ("bus.amqp.connect_timeout", "\"8s\"", "sidebus.toml:8"),
    ] {
        assert_eq!(row(&rows, key), (value, origin), "{key}");
    }
    let dropped: Vec<(&str, &str)> = rows
        .iter()
        .filter(|(_, value, _)| value == "-")
        .map(|(key, _, origin)| (key.as_str(), origin.split_once(',').expect("a reason").0))
        .collect();
    let expected = [("host", 2), ("port", 3), ("vhost", 4), ("username", 5), ("password_file", 6), ("heartbeat", 7)]
        .map(|(key, line)| (format!("bus.amqp.{key}"), format!("sidebus.toml:{line}")));
    assert_eq!(dropped, expected.each_ref().map(|(key, origin)| (key.as_str(), origin.as_str())));
    assert!(rows.iter().all(|(_, value, _)| !value.contains("canary")), "{rows:?}");
}

#[test]
fn a_login_in_any_text_is_masked_and_an_at_alone_is_none() {
    let file = "\
[bus.amqp]
exchange = \"amqp://u:canary@h\"
[exchanges.\"amqp://u:canary@x\"]
arguments = { alternate-exchange = \"amqp://u:canary@h\" }
[queues.work]
bindings = [\"a.@b\", \"amqp://u:canary@h\"]
[grpc]
allowed_authorities = [\"amqp://u:canary@h\", \"me@host\"]
[client]
endpoint = \"amqp://u:canary@h\"
";
    let shown = show(&Scene::new(file).with(&[MEMORY]).request).unwrap();
    for row in &shown.rows {
        let seen = format!("{row:?} {} {}", row.toml, row.json);
        assert!(!seen.contains("canary"), "{seen}");
    }
    let rows = rows(&Scene::new(file).with(&[MEMORY]));
    assert_eq!(row(&rows, "bus.amqp.exchange"), ("\"amqp://***@h\"", "sidebus.toml:2"));
    assert_eq!(row(&rows, "queues.work.bindings").0, "[\"a.@b\", \"amqp://***@h\"]");
    assert_eq!(row(&rows, "grpc.allowed_authorities").0, "[\"amqp://***@h\", \"me@host\"]");
}
