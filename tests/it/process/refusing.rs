//! What ends a process before it serves: usage, settings, ports. Each with its code and words that help.

use tokio::net::TcpListener;
use tokio::time::{Duration, Instant};

use super::WORK;
use crate::support::process::Place;

/// failures.md S8.
#[tokio::test]
async fn a_taken_port_ends_the_process_within_a_second_and_is_named() {
    let taken = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = taken.local_addr().unwrap().to_string();
    for (variable, key) in [("BUS__GRPC__LISTEN", "grpc.listen"), ("BUS__ADMIN__LISTEN", "admin.listen")] {
        let place = Place::memory().with(variable, &address);
        // What starting any process takes on this machine now is not what is promised here.
        let begun = Instant::now();
        place.run(&["--version"]).await;
        let start = begun.elapsed();
        let begun = Instant::now();
        let said = place.run(&["run"]).await;
        let took = begun.elapsed();
        assert!(took < Duration::from_secs(1) + 10 * start, "{key}: {took:?}, a bare start {start:?}");
        assert_eq!(said.code, 1, "{said:?}");
        assert!(said.stderr.contains(&address) && said.stderr.contains(key), "{said:?}");
    }
}

#[tokio::test]
async fn a_file_that_is_no_toml_is_named_with_its_line_before_any_socket() {
    let taken = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = taken.local_addr().unwrap().to_string();
    // A socket would be refused with another code: the port is taken.
    let place = Place::memory().with("BUS__GRPC__LISTEN", &address);
    let place = place.file("sidebus.toml", "[bus]\nbackend = \"memory\"\n[queues.work\n");
    for command in ["run", "validate", "dev"] {
        let said = place.run(&[command]).await;
        assert_eq!((said.code, said.stdout.as_str()), (4, ""), "{command}: {said:?}");
        assert!(said.stderr.contains("sidebus.toml:3"), "{command}: {said:?}");
    }
}

#[tokio::test]
async fn five_faults_are_named_at_once_each_with_its_place() {
    let file = "\
[bus.amqp]
prefetch_count = 0
heartbeat = \"10 parsecs\"
exchnage = \"x\"
[queues.work]
bindings = [\"work.#\"]
queue_type = \"stream\"
";
    let place = Place::memory().file("sidebus.toml", file).with("BUS__GRPC__MAX_MESSAGE_BYTES", "much");
    for command in ["run", "validate"] {
        let said = place.run(&[command]).await;
        assert_eq!(said.code, 4, "{command}: {said:?}");
        for (key, place) in [
            ("bus.amqp.prefetch_count", "sidebus.toml:2"),
            ("bus.amqp.heartbeat", "sidebus.toml:3"),
            ("bus.amqp.exchnage", "sidebus.toml:4"),
            ("queues.work.queue_type", "sidebus.toml:7"),
            ("grpc.max_message_bytes", "BUS__GRPC__MAX_MESSAGE_BYTES"),
        ] {
            let found = said.stderr.lines().any(|line| line.contains(key) && line.contains(place));
            assert!(found, "{command}: {key} at {place} not in {}", said.stderr);
        }
        assert!(said.stderr.contains("did you mean bus.amqp.exchange?"), "{said:?}");
    }
}

#[tokio::test]
async fn validate_tells_good_settings_from_surprising_ones() {
    let good = Place::memory().file("sidebus.toml", WORK);
    for args in [&["validate"][..], &["validate", "--deny-warnings"]] {
        let said = good.run(args).await;
        assert_eq!(said.code, 0, "{said:?}");
        let words = "settings are valid: 1 subscription, 4 values given, 0 warnings";
        assert!(said.stderr.contains(words), "{said:?}");
    }
    let surprising = Place::memory().file("sidebus.toml", &format!("{WORK}auto_delete = true\n"));
    let said = surprising.run(&["validate"]).await;
    assert_eq!(said.code, 0, "{said:?}");
    assert!(said.stderr.contains("warning: queues.work.auto_delete"), "{said:?}");
    assert_eq!(surprising.run(&["validate", "--deny-warnings"]).await.code, 4);
}

#[tokio::test]
async fn nothing_configured_is_told_with_the_way_to_try_it_without_a_broker() {
    let said = Place::new().run(&["run"]).await;
    assert_eq!(said.code, 4, "{said:?}");
    for word in ["BUS_BACKEND", "sidebus dev"] {
        assert!(said.stderr.contains(word), "{word}: {said:?}");
    }
}

#[tokio::test]
async fn a_bad_log_filter_is_a_setting_that_does_not_hold() {
    let said = Place::memory().run(&["run", "--set", "log.filter=info,=,x"]).await;
    assert_eq!(said.code, 4, "{said:?}");
}

#[tokio::test]
async fn usage_errors_differ_from_answers() {
    let place = Place::new();
    for args in [&["fly"][..], &["run", "--fly"], &[], &["pub"], &["run", "--set", "no-value"]] {
        let said = place.run(args).await;
        assert_eq!((said.code, said.stdout.as_str()), (2, ""), "{args:?}: {said:?}");
        assert!(!said.stderr.is_empty(), "{args:?}");
    }
    let version = place.run(&["--version"]).await;
    assert_eq!((version.code, version.stdout.as_str()), (0, concat!("sidebus ", env!("CARGO_PKG_VERSION"), "\n")));
    let help = place.run(&["--help"]).await;
    assert_eq!(help.code, 0);
    for command in ["run", "dev", "validate", "pub", "sub", "healthcheck"] {
        assert!(help.stdout.contains(command), "{command}: {}", help.stdout);
    }
}

#[tokio::test]
async fn an_address_in_the_wrong_place_of_a_command_line_is_not_shown_with_its_login() {
    const STRAY: &str = "amqp://u:canary@127.0.0.1:1";
    for args in [
        &["run", "--set", STRAY][..],
        &["run", "-c", STRAY],
        &["validate", "--backend", STRAY],
        &["pub", "k", "body", "--endpoint", STRAY],
        &["pub", "k", "-H", STRAY],
        &["sub", "k", "--timeout", STRAY],
        &["healthcheck", "--admin-endpoint", STRAY],
        &["healthcheck", "--probe", STRAY],
        &["config", "explain", STRAY],
        &["config", "explain", "exchanges.\"amqp://u:canary@127.0.0.1:1\".type"],
        &["topology", "plan", "--subscription", STRAY],
    ] {
        let said = Place::memory().run(args).await;
        assert!(!said.stdout.contains("canary") && !said.stderr.contains("canary"), "{args:?}: {said:?}");
        assert!(format!("{said:?}").contains("***"), "{args:?}: {said:?}");
    }
}
