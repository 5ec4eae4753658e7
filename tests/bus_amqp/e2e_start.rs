//! A sidecar that cannot begin says why, keeps trying and begins by itself once it can.

use sidebus::grpc::proto::sidebus::v1;

use crate::support::handler::{Handler, number};
use crate::support::nodes;
use crate::support::rabbitmq;
use crate::support::scene::{Scene, Sidecar};
use crate::support::wait::until;

const SECRET: &str = "canary-5318";
/// Waits in milliseconds that the settings below allow.
const BACKOFF_MAX_MS: u64 = 500;
/// With every try in the log.
const BACKOFF: &str = "[log]\nfilter = \"info,sidebus::bridge::keeper=debug\"\n[bus.amqp.reconnect]\nmin_backoff = \"100ms\"\nmax_backoff = \"500ms\"\n";

/// The waits that it has told, oldest first.
fn waits(sidecar: &Sidecar) -> Vec<u64> {
    let wait = |line: String| serde_json::from_str::<serde_json::Value>(&line).ok()?.get("wait_ms")?.as_u64();
    sidecar.process.log().into_iter().filter_map(wait).collect()
}

/// Waits until it has failed several times in a row; answers what it says of its readiness.
async fn refused(sidecar: &Sidecar) -> String {
    until("it tries again and again", async || (waits(sidecar).len() >= 6).then_some(())).await;
    let (status, text) = sidecar.probe("/readyz").await;
    assert_eq!(status, 503, "{text}");
    assert_eq!(sidecar.probe("/livez").await.0, 200);
    assert!(waits(sidecar).iter().all(|wait| *wait <= BACKOFF_MAX_MS), "{:?}", waits(sidecar));
    assert!(!sidecar.process.said().contains(SECRET) && !text.contains(SECRET));
    text
}

#[tokio::test]
async fn without_a_broker_it_begins_as_soon_as_one_is_there() {
    let mut node = nodes::mortal().await;
    let scene = Scene::on(node.url(("guest", "guest"), "/"));
    node.kill();
    let sidecar = scene.sidecar_not_ready(&[BACKOFF, &scene.work("")].concat()).await;
    let text = refused(&sidecar).await;
    assert!(text.contains("cannot reach the broker at amqp://127.0.0.1"), "{text}");
    let mut handler = sidecar.handler().await;
    assert_eq!(handler.statuses[0].state, i32::from(v1::SubscriptionState::BrokerDown));

    node.restart().await;

    sidecar.ready().await;
    handler.state(v1::SubscriptionState::Active, 0).await;
    sidecar.publisher().await.publish_numbers(0..3).await;
    let deliveries = handler.deliveries(3).await;
    assert_eq!(deliveries.iter().map(number).collect::<Vec<_>>(), [0, 1, 2]);
    handler.ack(&deliveries).await;
    handler.leave().await;
}

/// failures.md L11.
#[tokio::test]
async fn a_wrong_password_is_told_without_the_password_and_tried_until_it_is_right() {
    let node = nodes::managed().await;
    let user = rabbitmq::prefix();
    node.ctl(&["add_user", &user, "another"]).await;
    node.ctl(&["set_permissions", "-p", "/", &user, ".*", ".*", ".*"]).await;
    let scene = Scene::on(node.url((&user, SECRET), "/"));
    let sidecar = scene.sidecar_not_ready(&[BACKOFF, &scene.work("")].concat()).await;

    let text = refused(&sidecar).await;
    assert!(text.contains(&format!("refused the login of user {user}")), "{text}");
    node.ctl(&["change_password", &user, SECRET]).await;

    sidecar.ready().await;
    Handler::open(sidecar.channel().await, Handler::of("work")).await.state(v1::SubscriptionState::Active, 0).await;
    assert!(!sidecar.process.said().contains(SECRET));
}

/// failures.md L11.
#[tokio::test]
async fn a_missing_virtual_host_is_named_and_used_once_it_is_there() {
    let node = nodes::managed().await;
    let vhost = rabbitmq::prefix();
    let scene = Scene::on(node.url(("guest", "guest"), &vhost));
    let sidecar = scene.sidecar_not_ready(&[BACKOFF, &scene.work("")].concat()).await;

    let text = refused(&sidecar).await;
    assert!(text.contains(&format!("refused virtual host {vhost:?}")) && text.contains("add_vhost"), "{text}");
    node.ctl(&["add_vhost", &vhost]).await;
    node.ctl(&["set_permissions", "-p", &vhost, "guest", ".*", ".*", ".*"]).await;

    sidecar.ready().await;
}

/// failures.md L11.
#[tokio::test]
async fn a_user_who_may_not_declare_is_told_so_and_goes_on_once_it_may() {
    let node = nodes::managed().await;
    let user = rabbitmq::prefix();
    node.ctl(&["add_user", &user, SECRET]).await;
    node.ctl(&["set_permissions", "-p", "/", &user, "^$", ".*", ".*"]).await;
    let scene = Scene::on(node.url((&user, SECRET), "/"));
    // It has a session, and so it is ready: the missing right stops those who need the objects and nobody else.
    let sidecar = scene.sidecar(&[BACKOFF, &scene.work("")].concat()).await;
    let mut handler = sidecar.handler().await;

    let exchange = scene.name("events");
    let is_told = |handler: &Handler| {
        let words = ["the broker refused", &exchange, "set_permissions"];
        handler.statuses.iter().any(|status| words.iter().all(|word| status.description.contains(word)))
    };
    handler.until("the missing right is told", is_told).await;
    let seen = handler.statuses.len();
    node.ctl(&["set_permissions", "-p", "/", &user, ".*", ".*", ".*"]).await;

    handler.state(v1::SubscriptionState::Active, seen).await;
}

/// lapin's room for frames, eight MiB a connection, must not be written to before it is used.
#[cfg(target_os = "linux")]
#[tokio::test]
async fn a_session_takes_no_memory_before_it_uses_it() {
    let sidecar = Scene::new().await.sidecar("").await;
    let status = std::fs::read_to_string(format!("/proc/{}/status", sidecar.process.pid())).expect("it runs");
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).expect("the kernel tells it");
    let kib: u32 = line.trim().trim_end_matches(" kB").parse().expect("a number");
    assert!(kib < 16 * 1_024, "{kib} KiB of its own memory, for three connections");
}
