//! `config` and the settings that commands and the end of the process follow.

use serde_json::Value as Json;

use super::WORK;
use crate::support::process::Place;

#[tokio::test]
async fn show_prints_what_is_in_effect_with_origins_and_without_secrets() {
    let place = Place::new()
        .file("sidebus.toml", &format!("[bus.amqp]\nhost = \"low\"\nprefetch_count = 7\n{WORK}"))
        .with("AMQP_URL", "amqp://canary:canary@rabbit/v")
        .with("BUS__AMQP__HEARTBEAT", "5s");
    let said = place.run(&["config", "show", "--origin", "--set", "retry.max_attempts=3"]).await;
    assert_eq!((said.code, said.stderr.lines().count()), (0, 1), "{said:?}");
    assert!(said.stderr.contains("bus.amqp.url") && said.stderr.contains("plain"), "the warning of a start: {said:?}");
    assert!(!said.stdout.contains("canary") && !said.stderr.contains("canary"), "{said:?}");
    let squeezed: Vec<String> =
        said.stdout.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect();
    for line in [
        "bus.amqp.url = \"amqp://***@rabbit/v\" AMQP_URL",
        "bus.amqp.prefetch_count = 7 sidebus.toml:3",
        "bus.amqp.heartbeat = \"5s\" BUS__AMQP__HEARTBEAT",
        "bus.amqp.topology = \"create\" default",
        "retry.max_attempts = 3 --set retry.max_attempts",
        "queues.work.bindings = [\"work.#\"] sidebus.toml:5",
        "bus.amqp.host = - sidebus.toml:2, dropped: bus.amqp.url is in effect",
    ] {
        assert!(squeezed.iter().any(|found| found == line), "{line} not in {}", said.stdout);
    }

    let said = place.run(&["config", "show"]).await;
    assert!(said.stdout.lines().any(|line| line == "bus.amqp.prefetch_count = 7"), "{said:?}");
    assert!(!said.stdout.contains("dropped"), "{said:?}");

    let said = place.run(&["config", "show", "-o", "json"]).await;
    assert!(!said.stdout.contains("canary"), "{said:?}");
    let rows: Vec<Json> = serde_json::from_str(&said.stdout).unwrap();
    let row = |key: &str, source: &str| {
        rows.iter().find(|row| row["key"] == key && row["source"] == source).unwrap_or_else(|| panic!("{key} {source}"))
    };
    assert_eq!(row("bus.amqp.prefetch_count", "given")["value"], 7);
    assert_eq!(row("bus.amqp.prefetch_count", "given")["origin"], "sidebus.toml:3");
    assert_eq!(row("bus.amqp.host", "dropped")["winner"], "bus.amqp.url");
    assert_eq!(row("bus.amqp.port", "derived")["value"], 5672);
    assert_eq!(row("queues.work.bindings", "given")["value"], serde_json::json!(["work.#"]));
}

#[tokio::test]
async fn show_names_every_problem_and_ends_with_the_code_of_settings() {
    let place = Place::new().file("sidebus.toml", "[bus]\nbackned = \"amqp\"\n[grpc]\nlisten = \"x\"\n");
    let said = place.run(&["config", "show"]).await;
    assert_eq!((said.code, said.stdout.as_str()), (4, ""), "{said:?}");
    assert!(said.stderr.contains("bus.backend") && said.stderr.contains("grpc.listen"), "{said:?}");
}

#[tokio::test]
async fn explain_tells_a_key_or_the_nearest_one() {
    let place = Place::new();
    let said = place.run(&["config", "explain", "BUS__AMQP__PREFETCH_COUNT"]).await;
    assert_eq!((said.code, said.stderr.as_str()), (0, ""), "{said:?}");
    assert!(said.stdout.contains("bus.amqp.prefetch_count") && said.stdout.contains("1 to 65535"), "{said:?}");
    let said = place.run(&["config", "explain", "bus.amqp.prefech_count"]).await;
    assert_eq!((said.code, said.stdout.as_str()), (8, ""), "{said:?}");
    assert!(said.stderr.contains("did you mean bus.amqp.prefetch_count?"), "{said:?}");
}

#[tokio::test]
async fn schema_and_reference_are_documents() {
    let place = Place::new();
    let said = place.run(&["config", "schema"]).await;
    let schema: Json = serde_json::from_str(&said.stdout).unwrap();
    assert_eq!(schema["$schema"], "https://json-schema.org/draft/2020-12/schema");
    let said = place.run(&["config", "reference"]).await;
    assert_eq!(said.code, 0, "{said:?}");
    assert!(said.stdout.starts_with("# Settings\n"), "{said:?}");
}

#[tokio::test]
async fn commands_go_where_the_settings_say_and_flags_win() {
    let place = Place::memory().file("sidebus.toml", WORK);
    let daemon = place.daemon(&[]).await;
    daemon.ready().await;
    let client = Place::new()
        .file("there.toml", &format!("[client]\nendpoint = {:?}\nadmin_endpoint = {:?}\n", daemon.grpc, daemon.admin))
        .file("listens.toml", &format!("[grpc]\nlisten = {:?}\n[admin]\nlisten = {:?}\n", daemon.grpc, daemon.admin))
        .file("nobody.toml", "[client]\nendpoint = \"127.0.0.1:1\"\nadmin_endpoint = \"127.0.0.1:1\"\n")
        .file("open.toml", "[grpc]\nlisten = \"127.0.0.1:0\"\n[admin]\nlisten = \"off\"\n")
        .file("wrong.toml", "[client]\nendpiont = \"x\"\n");
    for (file, published, healthy) in [
        ("there.toml", 0, 0),
        ("listens.toml", 0, 0),
        ("nobody.toml", 5, 10),
        ("open.toml", 5, 10),
        ("wrong.toml", 4, 4),
    ] {
        let said = client.run(&["pub", "work.A", "1", "-c", file]).await;
        assert_eq!(said.code, published, "{file}: {said:?}");
        let said = client.run(&["sub", "--subscription", "work", "-n", "1", "-c", file]).await;
        assert_eq!(said.code, published, "{file}: {said:?}");
        let said = client.run(&["healthcheck", "-c", file]).await;
        assert_eq!(said.code, healthy, "{file}: {said:?}");
    }
    let said = client.run(&["pub", "work.A", "1", "-c", "nobody.toml", "--endpoint", &daemon.grpc]).await;
    assert_eq!(said.code, 0, "{said:?}");
    let said = client.run(&["healthcheck", "-c", "nobody.toml", "--admin-endpoint", &daemon.admin]).await;
    assert_eq!(said.code, 0, "{said:?}");
}

#[tokio::test]
async fn a_sidecar_of_a_job_stops_after_its_last_handler_has_left() {
    let place = Place::memory().file("sidebus.toml", &format!("{WORK}[shutdown]\nexit_when_idle = true\n"));
    let mut daemon = place.daemon(&[]).await;
    daemon.ready().await;
    let at = ["--endpoint", daemon.grpc.as_str()];
    assert_eq!(place.run(&[&["pub", "work.A", "1", "-n", "2"], &at[..]].concat()).await.code, 0);
    let said = place.run(&[&["sub", "--subscription", "work", "-n", "2"], &at[..]].concat()).await;
    assert_eq!(said.code, 0, "{said:?}");
    let ended = daemon.process.end().await;
    assert_eq!(ended.code, 0, "{ended:?}");
    assert!(ended.stderr.contains("the last handler has left"), "{ended:?}");
}

#[tokio::test]
async fn after_its_last_handler_has_left_the_first_signal_is_not_taken_for_the_second() {
    let shutdown = "[shutdown]\nexit_when_idle = true\nbudget = \"60s\"\n";
    for (notice, signals, code) in [("3s", 1, 0), ("30s", 2, 130)] {
        let place = Place::memory().file("sidebus.toml", &format!("{WORK}{shutdown}notice = \"{notice}\"\n"));
        let mut daemon = place.daemon(&[]).await;
        daemon.ready().await;
        let at = ["--endpoint", daemon.grpc.as_str()];
        assert_eq!(place.run(&[&["pub", "work.A", "1"], &at[..]].concat()).await.code, 0);
        let said = place.run(&[&["sub", "--subscription", "work", "-n", "1"], &at[..]].concat()).await;
        assert_eq!(said.code, 0, "{said:?}");
        daemon.process.stderr.find("\"stopping\"").await;
        for name in ["TERM", "INT"].into_iter().take(signals) {
            daemon.process.signal(name).await;
            daemon.process.stderr.find(&format!("\"signal\":\"SIG{name}\"")).await;
        }
        let ended = daemon.process.end().await;
        assert_eq!(ended.code, code, "{ended:?}");
    }
}
