//! The daemon and `dev`: begin, serve, stop.

use sidebus::grpc::proto::sidebus::v1;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;

use super::WORK;
use crate::support::handler::Handler;
use crate::support::process::Place;
use crate::support::sidecar::channel;
use crate::support::words::{ack, dead_letter, open, settle};
use crate::support::{http, within};

#[tokio::test]
async fn dev_serves_its_sample_traffic_and_ends_well_on_a_signal() {
    let place = Place::new();
    let mut dev = place.start(&["dev", "--port", "0", "--admin-port", "0"]);
    let door = dev.stdout.find("grpc://").await;
    let address = door.split("grpc://").nth(1).unwrap().split_whitespace().next().unwrap().to_owned();
    let probes = dev.stdout.find("/readyz").await;
    let admin = probes.split("http://").nth(1).unwrap().split('/').next().unwrap().to_owned();
    dev.stdout.find("topology-tracker <- player.PlayerRegistered").await;
    assert_eq!(http::get(&admin, "/readyz").await.unwrap().0, 200);

    // The samples wait for a handler of the reader's own, too.
    let port = address.rsplit(':').next().unwrap().parse().unwrap();
    let mut own = Handler::join(port, open("player-projector")).await.unwrap();
    assert_eq!(own.delivery().await.message.unwrap().routing_key, "player.PlayerRegistered");
    own.half_close();
    own.end().await.unwrap();

    dev.signal("TERM").await;
    let said = dev.end().await;
    assert_eq!(said.code, 0, "{said:?}");
    assert!(!said.stderr.contains("panicked"), "{said:?}");
}

#[tokio::test]
async fn dev_without_traffic_publishes_nothing() {
    let place = Place::new();
    let mut dev = place.start(&["dev", "--no-traffic", "--port", "0", "--admin-port", "0"]);
    dev.stdout.find("stop with Ctrl-C").await;
    dev.signal("INT").await;
    let said = dev.end().await;
    assert_eq!(said.code, 0, "{said:?}");
    assert!(!said.stdout.contains("<-"), "{said:?}");
}

#[tokio::test]
async fn run_becomes_ready_and_a_signal_drains_it() {
    let place = Place::memory().file("sidebus.toml", WORK);
    let mut daemon = place.daemon(&[]).await;
    daemon.ready().await;
    for (probe, text) in [("/livez", "ok\n"), ("/startupz", "started\n"), ("/readyz", "ready\n")] {
        assert_eq!(daemon.get(probe).await, (200, text.to_owned()), "{probe}");
    }
    let mut health = HealthClient::new(channel(daemon.port()).await);
    let answer = health.check(HealthCheckRequest::default()).await.unwrap();
    assert_eq!(answer.into_inner().status, 1);
    place.run(&["pub", "work.A", "1", "--endpoint", &daemon.grpc]).await;
    let mut handler = Handler::join(daemon.port(), open("work")).await.unwrap();
    let delivery = handler.delivery().await;

    daemon.process.signal("TERM").await;

    assert_eq!(handler.drain().await.reason(), v1::DrainReason::Shutdown);
    assert_eq!(daemon.get("/readyz").await, (503, "not ready: stopping\n".to_owned()));
    assert_eq!(daemon.get("/livez").await.0, 200);
    handler.say(settle([delivery.id], ack())).await;
    handler.end().await.unwrap();
    let said = daemon.process.end().await;
    assert_eq!(said.code, 0, "{said:?}");
}

/// failures.md S2.
#[tokio::test]
async fn a_second_signal_ends_a_stuck_drain_at_once() {
    let place = Place::memory().file("sidebus.toml", WORK);
    let mut daemon = place.daemon(&[]).await;
    daemon.ready().await;
    place.run(&["pub", "work.A", "1", "--endpoint", &daemon.grpc]).await;
    let mut handler = Handler::join(daemon.port(), open("work")).await.unwrap();
    handler.delivery().await;
    daemon.process.signal("TERM").await;
    handler.drain().await;

    daemon.process.signal("TERM").await;

    let said = within("an end at once", daemon.process.end()).await;
    assert_eq!(said.code, 130, "{said:?}");
}

#[tokio::test]
async fn every_log_line_is_json_where_nobody_looks_and_tells_no_contents() {
    let place = Place::memory().file("sidebus.toml", WORK);
    let mut daemon = place.daemon(&["--log-level", "debug"]).await;
    daemon.ready().await;
    place.run(&["pub", "work.A", "canary-body", "-H", "h=canary-header", "--endpoint", &daemon.grpc]).await;
    let mut handler = Handler::join(daemon.port(), open("work")).await.unwrap();
    let delivery = handler.delivery().await;
    handler.say(settle([delivery.id], dead_letter("NEVER"))).await;
    handler.half_close();
    handler.end().await.unwrap();
    daemon.process.signal("TERM").await;
    let said = daemon.process.end().await;
    assert_eq!((said.code, said.stdout.as_str()), (0, ""));
    assert!(said.stderr.lines().count() > 3, "{said:?}");
    assert!(said.stderr.contains("dead-lettered"), "{said:?}");
    assert!(!said.stderr.contains("canary"), "a body or a header was logged: {said:?}");
    for line in said.stderr.lines() {
        let line: serde_json::Value = serde_json::from_str(line).unwrap();
        for field in ["timestamp", "level", "message"] {
            assert!(line[field].is_string(), "{field} in {line}");
        }
    }
}

#[tokio::test]
async fn healthcheck_asks_the_probe_and_answers_with_its_code() {
    let place = Place::memory();
    let mut daemon = place.daemon(&[]).await;
    daemon.ready().await;
    let admin = daemon.admin.clone();
    let at = ["--admin-endpoint", admin.as_str()];
    for probe in ["readyz", "livez", "startupz"] {
        let said = place.run(&[&["healthcheck", "--probe", probe], &at[..]].concat()).await;
        assert_eq!(said.code, 0, "{probe}: {said:?}");
    }
    let configured = Place::memory().with("BUS__ADMIN__LISTEN", &daemon.admin);
    assert_eq!(configured.run(&["healthcheck"]).await.code, 0, "the address comes from the settings");
    daemon.process.signal("TERM").await;
    assert_eq!(daemon.process.end().await.code, 0);
    let said = place.run(&[&["healthcheck"], &at[..]].concat()).await;
    assert_eq!(said.code, 10, "{said:?}");
    assert!(said.stderr.contains(at[1]), "{said:?}");
}
