//! RabbitMQ is named and not there: the process stays, says why, and tells nobody the password.
#![cfg(feature = "amqp")]

use sidebus::grpc::proto::sidebus::v1;
use sidebus::grpc::proto::sidebus::v1::publisher_service_client::PublisherServiceClient;
use tokio::net::TcpListener;
use tonic::Code;

use super::WORK;
use crate::support::errors::refused;
use crate::support::eventually;
use crate::support::handler::Handler;
use crate::support::process::Place;
use crate::support::sidecar::channel;
use crate::support::words::{message, open};

const CANARY: &str = "canary-4711";

/// An address where nobody listens.
async fn nobody() -> String {
    let free = TcpListener::bind("127.0.0.1:0").await.unwrap();
    free.local_addr().unwrap().to_string()
}

#[tokio::test]
async fn without_a_broker_the_process_stays_and_says_why() {
    let address = nobody().await;
    let place = Place::free_ports().file("sidebus.toml", WORK).with("BUS_BACKEND", "amqp");
    let place = place.with("AMQP_URL", &format!("amqp://app:{CANARY}@{address}"));
    let mut daemon = place.daemon(&[]).await;
    eventually("it has tried again and again", async || {
        let (_, page) = daemon.get("/metrics").await;
        let tries =
            page.lines().find_map(|line| line.strip_prefix("sidebus_broker_reconnects_total{")?.rsplit(' ').next());
        tries.and_then(|tries| tries.parse::<u32>().ok()).filter(|tries| *tries >= 3).map(drop)
    })
    .await;

    assert_eq!(daemon.get("/livez").await.0, 200);
    assert_eq!(daemon.get("/startupz").await.0, 200);
    let (status, why) = daemon.get("/readyz").await;
    assert_eq!(status, 503);
    assert!(why.contains(&address) && why.contains("hint:"), "{why}");
    let said = place.run(&["healthcheck", "--admin-endpoint", &daemon.admin]).await;
    assert_eq!(said.code, 10, "{said:?}");
    assert!(said.stderr.contains("hint:"), "{said:?}");

    let mut publisher = PublisherServiceClient::new(channel(daemon.port()).await);
    let request = v1::PublishRequest { messages: vec![message("work.A", "1")], options: None };
    let unavailable = refused(publisher.publish(request).await, Code::Unavailable, "BROKER_UNAVAILABLE");
    assert!(unavailable.retry_after.is_some(), "{unavailable:?}");
    assert_eq!(place.run(&["pub", "work.A", "1", "--endpoint", &daemon.grpc]).await.code, 5);

    let mut handler = Handler::join(daemon.port(), open("work")).await.unwrap();
    let down = handler.state(v1::SubscriptionState::BrokerDown).await;
    assert!(down.description.contains(&address), "{down:?}");
    assert_eq!(handler.pending().await, [], "the stream is open");

    let (_, metrics) = daemon.get("/metrics").await;
    daemon.process.signal("TERM").await;
    handler.end().await.unwrap();
    let said = daemon.process.end().await;
    assert_eq!(said.code, 0, "{said:?}");
    assert_eq!(said.stderr.matches("no session to the broker").count(), 1, "the same reason is said once a minute");
    for (place, text) in [("logs", &said.stderr), ("metrics", &metrics), ("readyz", &why)] {
        assert!(!text.contains(CANARY), "{place}: {text}");
    }
    assert!(!unavailable.text.contains(CANARY) && !down.description.contains(CANARY));
}

#[tokio::test]
async fn a_password_from_anywhere_is_in_no_output() {
    let url = format!("amqp://app:{CANARY}@{}", nobody().await);
    let (host, port) = url.rsplit('@').next().unwrap().split_once(':').unwrap();
    let file = format!("[bus.amqp]\nurl = \"{url}\"\n");
    let base = || Place::free_ports().with("BUS_BACKEND", "amqp").with("BUS__LOG__LEVEL", "trace");
    let address = || base().with("BUS__AMQP__HOST", host).with("BUS__AMQP__PORT", port);
    for place in [
        base().file("sidebus.toml", &file),
        base().file("url", &url).with("AMQP_URL_FILE", "url"),
        address().with("BUS__AMQP__PASSWORD", CANARY),
        address().file("password", CANARY).with("BUS__AMQP__PASSWORD_FILE", "password"),
        base().with("AMQP_URL", &url).with("BUS__LOG__FILTER", "trace,lapin=trace"),
    ] {
        let mut daemon = place.daemon(&[]).await;
        daemon.process.stderr.find("\"failures\":1").await;
        let pages = [daemon.get("/readyz").await.1, daemon.get("/metrics").await.1];
        daemon.process.signal("TERM").await;
        let said = daemon.process.end().await;
        assert_eq!(said.code, 0, "{said:?}");
        let all = [said.stdout, said.stderr, pages.concat()].concat();
        let line = all.lines().find(|line| line.contains(CANARY));
        assert_eq!(line, None, "{place:?}");
    }
}

#[tokio::test]
async fn a_password_in_broken_settings_is_in_no_problem() {
    for (variable, value) in [
        ("AMQP_URL", format!("ampq://app:{CANARY}@localhost")),
        ("AMQP_URL", format!("amqp://app:{CANARY}@local host:no-port/%zz")),
        ("BUS__AMQP__PASWORD", CANARY.to_owned()),
    ] {
        let place = Place::free_ports().with("BUS_BACKEND", "amqp").with(variable, &value);
        let said = place.run(&["run"]).await;
        assert_eq!(said.code, 4, "{said:?}");
        assert!(!said.stderr.contains(CANARY) && !said.stdout.contains(CANARY), "{said:?}");
    }
}
