//! What the probes answer in each mode of readiness: before the first session, while it lives, after it is lost.

use sidebus::broker::BrokerError;
use sidebus::broker::memory::{MemoryBroker, MemoryOptions};

use super::WORK;
use crate::support::sidecar::Sidecar;
use crate::support::words::open;
use crate::support::{eventually, http};

const READY: u16 = 200;
const NOT_READY: u16 = 503;

fn down() -> BrokerError {
    BrokerError::Unreachable { endpoint: "memory".to_owned(), reason: "nobody is there".to_owned() }
}

async fn readyz(sidecar: &Sidecar) -> (u16, String) {
    http::get(&sidecar.addresses.health.unwrap().to_string(), "/readyz").await.unwrap()
}

/// Waits for this answer.
async fn answers(sidecar: &Sidecar, wanted: u16) {
    eventually(&format!("/readyz answers {wanted}"), async || (readyz(sidecar).await.0 == wanted).then_some(())).await;
}

/// Waits until the sidecar has seen that its session is over, by what publishing is told.
async fn sees_the_loss(sidecar: &Sidecar) {
    eventually("a refused publish", async || {
        let publish = sidecar.try_publish(vec![crate::support::words::message("work.A", "1")]).await;
        publish.err().filter(|status| status.message().contains("nobody is there"))
    })
    .await;
}

#[tokio::test]
async fn each_mode_of_readiness_follows_its_rule() {
    for (mode, before, after_the_loss) in
        [("connected-once", NOT_READY, READY), ("broker", NOT_READY, NOT_READY), ("process", READY, READY)]
    {
        let broker = MemoryBroker::new(MemoryOptions { bytes_max: 1 << 20 });
        let faults = broker.faults();
        faults.refuse_connects(down());
        let health = format!("[health]\nlisten = \"127.0.0.1:0\"\nreadiness = \"{mode}\"\n");
        let sidecar = Sidecar::start_over(broker, &format!("{WORK}{health}")).await;
        sees_the_loss(&sidecar).await;
        let (status, text) = readyz(&sidecar).await;
        assert_eq!(status, before, "{mode}: {text}");
        assert_eq!(text.contains("nobody is there") && text.contains("hint:"), before == NOT_READY, "{mode}: {text}");

        faults.accept_connects();
        answers(&sidecar, READY).await;

        faults.refuse_connects(down());
        faults.break_sessions("cut by the test");
        sees_the_loss(&sidecar).await;
        assert_eq!(readyz(&sidecar).await.0, after_the_loss, "{mode}");
        let livez = http::get(&sidecar.addresses.health.unwrap().to_string(), "/livez").await.unwrap();
        assert_eq!(livez.0, 200, "{mode}: liveness never looks at the broker");

        faults.accept_connects();
        answers(&sidecar, READY).await;
    }
}

#[tokio::test]
async fn the_health_listener_has_probes_and_metrics_and_nothing_else() {
    let sidecar = Sidecar::start(&format!("{WORK}[health]\nlisten = \"127.0.0.1:0\"\n")).await;
    let address = sidecar.addresses.health.unwrap().to_string();
    for (path, status) in [
        ("/livez", 200),
        ("/health", 200),
        ("/readyz", 200),
        ("/ready", 200),
        ("/startupz", 200),
        ("/metrics", 200),
        ("/", 404),
        ("/console", 404),
        ("/sidebus.admin.v1.RuntimeService/Drain", 404),
    ] {
        assert_eq!(http::get(&address, path).await.unwrap().0, status, "{path}");
    }
}

/// And failures.md H13: who has no handler is named.
#[tokio::test]
async fn no_answer_says_where_the_broker_is_if_that_is_asked_for() {
    for (redact, is_told) in [(false, true), (true, false)] {
        let broker = MemoryBroker::new(MemoryOptions { bytes_max: 1 << 20 });
        let endpoint = "amqp://rabbit.internal:5672/orders".to_owned();
        let faults = broker.faults();
        faults.refuse_connects(BrokerError::Unreachable { endpoint, reason: "nobody is there".to_owned() });
        let health = format!("[health]\nlisten = \"127.0.0.1:0\"\n[telemetry]\nredact_topology = {redact}\n");
        let sidecar = Sidecar::start_over(broker, &format!("{WORK}{health}")).await;
        sees_the_loss(&sidecar).await;
        let (status, text) = readyz(&sidecar).await;
        assert_eq!(status, NOT_READY);
        assert_eq!(text.contains("rabbit.internal") || text.contains("orders"), is_told, "{text}");
        assert!(text.starts_with("not ready: ") && text.contains("hint:"), "{text}");
        let address = sidecar.addresses.health.unwrap().to_string();
        let (status, verbose) = http::get(&address, "/readyz?verbose").await.unwrap();
        assert_eq!((status, verbose.ends_with(&text)), (NOT_READY, true), "{verbose}");
        assert_eq!(verbose.contains("rabbit.internal"), is_told, "{verbose}");
        assert!(verbose.starts_with("[+]process\n[-]broker: "), "{verbose}");

        faults.accept_connects();
        answers(&sidecar, READY).await;
        let (_, verbose) = http::get(&address, "/readyz?verbose").await.unwrap();
        let place = if is_told { " at memory" } else { "" };
        let version = env!("CARGO_PKG_VERSION");
        let well = format!("[+]process\n[+]broker: Sidebus memory {version}{place}\n");
        assert_eq!(verbose, format!("{well}[+]subscription work: no_handler\nready\n"));
        let _handler = sidecar.handler(open("work")).await;
        let (_, verbose) = http::get(&address, "/readyz?verbose").await.unwrap();
        assert_eq!(verbose, format!("{well}ready\n"), "one that has a handler is no news");
        let (_, metrics) = http::get(&sidecar.addresses.health.unwrap().to_string(), "/metrics").await.unwrap();
        assert!(!metrics.contains("rabbit.internal"), "{metrics}");
    }
}
