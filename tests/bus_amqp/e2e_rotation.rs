//! The daemon whose login is rotated under load: a new user comes, the files change, the old user goes.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::time::Duration;

use sidebus::grpc::proto::sidebus::v1;
use tokio::time::{Instant, timeout};

use crate::support::handler::{Handler, number};
use crate::support::mount::Mount;
use crate::support::nodes;
use crate::support::publisher::{Publisher, numbered};
use crate::support::rabbitmq::{self, BrokerHandle};
use crate::support::scene::{Scene, Sidecar};
use crate::support::wait::until;

/// Messages of one publish.
const BATCH: usize = 20;
/// What the handler may hold.
const WINDOW: usize = 50;

const LOOK_EVERY: Duration = Duration::from_millis(100);

/// A user with all rights.
async fn user(node: &BrokerHandle, password: &str) -> String {
    let user = rabbitmq::prefix();
    node.ctl(&["add_user", &user, password]).await;
    node.ctl(&["set_permissions", "-p", "/", &user, ".*", ".*", ".*"]).await;
    user
}

/// Connections of a user.
async fn connections(node: &BrokerHandle, user: &str) -> usize {
    node.ctl(&["list_connections", "user"]).await.lines().filter(|line| line.trim() == user).count()
}

/// Publishes batch by batch until it is asked to stop; answers how many were confirmed.
async fn publish(publisher: &Publisher, is_over: &Cell<bool>) -> usize {
    let mut next = 0;
    while !is_over.get() {
        let messages = (next..next + BATCH).map(numbered).collect();
        publisher.publish(messages).await.expect("every publish is confirmed");
        next += BATCH;
    }
    next
}

/// Handles until everything that was published has come; answers how often each number came.
async fn handle(handler: &mut Handler, published: &Cell<Option<usize>>) -> BTreeMap<usize, usize> {
    let mut taken = BTreeMap::new();
    while published.get() != Some(taken.len()) {
        // The last publish may be answered after its delivery was taken.
        let _ = timeout(LOOK_EVERY, handler.take_frame()).await;
        assert!(handler.ended.is_none(), "{:?}", handler.ended);
        let deliveries = handler.take_deliveries();
        for delivery in &deliveries {
            *taken.entry(number(delivery)).or_default() += 1;
        }
        if !deliveries.is_empty() {
            handler.ack(&deliveries).await;
        }
    }
    taken
}

/// A sidecar whose login is in files; its queue has these further keys.
async fn with_login_in_files((mount, node): (&Mount, &BrokerHandle), user: &str, keys: &str) -> (Scene, Sidecar) {
    let way = format!(
        "host = \"127.0.0.1\"\nport = {}\nusername_file = \"{}\"\npassword_file = \"{}\"\nprefetch_count = {WINDOW}\n",
        node.port,
        mount.file("username", user).display(),
        mount.file("password", "canary-old\n").display(),
    );
    let scene = Scene::on(node.url(("guest", "guest"), "/"));
    let url = format!("url = \"{}\"\n", scene.url);
    let sidecar = Sidecar::from_file(&scene.settings(&scene.work(keys)).replace(&url, &way), &scene).await;
    sidecar.ready().await;
    (scene, sidecar)
}

/// failures.md L12.
#[tokio::test]
async fn a_rotated_login_moves_a_busy_sidecar_over_without_a_loss() {
    let (mount, node) = (Mount::new(), nodes::managed().await);
    let (old, new) = (user(node, "canary-old").await, user(node, "canary-new").await);
    let (scene, sidecar) = with_login_in_files((&mount, node), &old, "").await;
    let mut handler = sidecar.handler().await;
    handler.state(v1::SubscriptionState::Active, 0).await;
    let publisher = sidecar.publisher().await;

    let (is_over, total) = (Cell::new(false), Cell::new(None));
    let rotating = async {
        assert!(connections(node, &old).await >= 3);
        let began = Instant::now();
        mount.file("password", "canary-new\n");
        mount.file("username", &new);
        until("it has moved", async || sidecar.process.said().contains("moving to a new session").then_some(())).await;
        let moved = began.elapsed();
        until("the old user has nothing open", async || (connections(node, &old).await == 0).then_some(())).await;
        println!("moved after {} ms, all closed after {} ms", moved.as_millis(), began.elapsed().as_millis());
        node.ctl(&["delete_user", &old]).await;
        assert!(connections(node, &new).await >= 3);
        is_over.set(true);
    };
    let publishing = async { total.set(Some(publish(&publisher, &is_over).await)) };
    let ((), (), taken) = tokio::join!(rotating, publishing, handle(&mut handler, &total));

    let twice: usize = taken.values().map(|times| times - 1).sum();
    println!("{} published and confirmed, {} handled, {twice} of them again", total.get().unwrap(), taken.len());
    assert!(taken.keys().copied().eq(0..taken.len()), "nothing is lost and nothing is invented");
    assert!(twice <= WINDOW, "{twice} came again");
    let down = i32::from(v1::SubscriptionState::BrokerDown);
    assert!(handler.statuses.iter().all(|status| status.state != down), "{:?}", handler.statuses);
    assert!(!sidecar.process.said().contains("canary"), "a secret is told");
    let said = sidecar.process.said();
    assert!(said.contains("bus.amqp.username_file, bus.amqp.password_file"), "the settings are named");
    sidecar.metric_becomes("sidebus_secret_reloads_total{result=\"ok\"}", 1.0).await;
    handler.leave().await;
    scene.amqp().await.wait_for_depth(&scene.name("work"), 0).await;
}

/// failures.md L12.
#[tokio::test]
async fn a_new_password_that_the_broker_refuses_leaves_the_sidecar_as_it_is_until_it_fits() {
    let (mount, node) = (Mount::new(), nodes::managed().await);
    let user = user(node, "first").await;
    let way = format!(
        "host = \"127.0.0.1\"\nport = {}\nusername = {user:?}\npassword_file = {:?}\n\
         reconnect = {{ min_backoff = \"100ms\", max_backoff = \"500ms\" }}\n",
        node.port,
        mount.file("password", "first\n"),
    );
    let scene = Scene::on(node.url(("guest", "guest"), "/"));
    let url = format!("url = \"{}\"\n", scene.url);
    let sidecar = Sidecar::from_file(&scene.settings(&scene.work("")).replace(&url, &way), &scene).await;
    sidecar.ready().await;
    let mut handler = sidecar.handler().await;
    handler.state(v1::SubscriptionState::Active, 0).await;

    mount.file("password", "canary-early\n");
    until("the refusal is told", async || {
        sidecar.process.said().contains("the session goes on with the old ones").then_some(())
    })
    .await;
    sidecar.publisher().await.publish_numbers(0..5).await;
    let deliveries = handler.deliveries(5).await;
    handler.ack(&deliveries).await;

    sidecar.metric_becomes("sidebus_secret_reloads_total{result=\"failed\"}", 2.0).await;
    let warnings = sidecar.process.log().iter().filter(|line| line.contains("goes on with the old ones")).count();
    assert_eq!(warnings, 1, "the same refusal is told once");

    node.ctl(&["change_password", &user, "canary-early"]).await;
    until("it has moved", async || sidecar.process.said().contains("moving to a new session").then_some(())).await;
    sidecar.publisher().await.publish_numbers(5..10).await;
    let deliveries = handler.deliveries(5).await;
    let mut numbers = deliveries.iter().map(number).collect::<Vec<_>>();
    // For the moment of the move both sessions consume, so the order is nobody's promise.
    numbers.sort_unstable();
    assert_eq!(numbers, [5, 6, 7, 8, 9]);
    handler.ack(&deliveries).await;
    let down = i32::from(v1::SubscriptionState::BrokerDown);
    assert!(handler.statuses.iter().all(|status| status.state != down), "{:?}", handler.statuses);
    handler.leave().await;
    assert!(!sidecar.process.said().contains("canary"), "a secret is told");
}

#[tokio::test]
async fn an_exclusive_queue_moves_with_the_login_and_is_never_asked_for_in_vain() {
    let (mount, node) = (Mount::new(), nodes::managed().await);
    let (old, new) = (user(node, "canary-old").await, user(node, "canary-new").await);
    let (_scene, sidecar) = with_login_in_files((&mount, node), &old, "exclusive = true\n").await;
    let mut handler = sidecar.handler().await;
    handler.state(v1::SubscriptionState::Active, 0).await;
    let publisher = sidecar.publisher().await;

    mount.file("password", "canary-new\n");
    mount.file("username", &new);
    until("it has moved", async || sidecar.process.said().contains("moving to a new session").then_some(())).await;
    publisher.publish(vec![numbered(1)]).await.expect("the queue is there");
    let delivery = handler.delivery().await;
    assert_eq!(number(&delivery), 1, "it is served while the old session lasts");
    handler.ack(&[delivery]).await;
    until("the old user has nothing open", async || (connections(node, &old).await == 0).then_some(())).await;
    until("the queue is there again", async || publisher.publish(vec![numbered(2)]).await.is_ok().then_some(())).await;
    assert_eq!(number(&handler.delivery().await), 2);
    let said = sidecar.process.said();
    assert!(!said.contains("exclusive to another connection"), "{said}");
}

#[tokio::test]
async fn a_login_file_that_goes_away_is_told_once_while_the_session_goes_on() {
    let (mount, node) = (Mount::new(), nodes::managed().await);
    let old = user(node, "canary-old").await;
    let (_scene, sidecar) = with_login_in_files((&mount, node), &old, "").await;
    std::fs::remove_file(mount.file("password", "")).expect("it is there");
    let warnings = || {
        sidecar.process.log().into_iter().filter(|line| line.contains("cannot be used any more")).collect::<Vec<_>>()
    };
    let warning = until("it is told", async || warnings().pop()).await;
    assert!(warning.contains("bus.amqp.password_file"), "{warning}");
    sidecar.publisher().await.publish_numbers(0..1).await;
    mount.file("password", "canary-old\n");
    sidecar.publisher().await.publish_numbers(1..2).await;
    assert_eq!(warnings().len(), 1);
    assert!(!sidecar.process.said().contains("canary"), "a secret is told");
}
