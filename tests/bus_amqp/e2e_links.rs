//! The daemon over the links of production: TLS with mounted files, logins that are changed while it runs, a socket.

use sidebus::grpc::proto::sidebus::v1;

use crate::support::examples::{handled, python, rust_handler};
use crate::support::handler::number;
use crate::support::identity::{Pair, Valid};
use crate::support::mount::Mount;
use crate::support::nodes::{self, SECURED_NAME};
use crate::support::rabbitmq::{self, BrokerHandle};
use crate::support::scene::{Scene, Sidecar};
use crate::support::wait::until;

/// A user with all rights.
async fn user(node: &BrokerHandle, password: &str) -> String {
    let user = rabbitmq::prefix();
    node.ctl(&["add_user", &user, password]).await;
    node.ctl(&["set_permissions", "-p", "/", &user, ".*", ".*", ".*"]).await;
    user
}

/// Settings of a scene with another way to the broker than a URL.
fn settings(scene: &Scene, way: &str) -> String {
    let whole = scene.settings(&scene.work(""));
    let url = format!("url = \"{}\"\n", scene.url);
    assert!(whole.contains(&url));
    whole.replace(&url, way)
}

/// Five messages through a sidecar.
async fn works(sidecar: &Sidecar) {
    sidecar.ready().await;
    let mut handler = sidecar.handler().await;
    handler.state(v1::SubscriptionState::Active, 0).await;
    sidecar.publisher().await.publish_numbers(0..5).await;
    let deliveries = handler.deliveries(5).await;
    assert_eq!(deliveries.iter().map(number).collect::<Vec<_>>(), [0, 1, 2, 3, 4]);
    handler.ack(&deliveries).await;
    handler.leave().await;
}

#[tokio::test]
async fn a_sidecar_works_over_tls_with_mounted_files() {
    let (mount, secured) = (Mount::new(), nodes::secured().await);
    let user = user(&secured.node, "canary-2217").await;
    let Pair { certificate, key } = secured.authority.client("app", Valid::Now);
    let way = format!(
        "host = \"127.0.0.1\"\nport = {}\nusername_file = {:?}\npassword_file = {:?}\n\
         tls = {{ require = true, ca_file = {:?}, cert_file = {:?}, key_file = {:?}, server_name = {SECURED_NAME:?} }}\n",
        secured.node.tls_port,
        mount.file("username", &format!("{user}\n")),
        mount.file("password", "canary-2217\n"),
        mount.file("ca.crt", &secured.authority.certificate),
        mount.file("tls.crt", &certificate),
        mount.file("tls.key", &key),
    );
    let scene = Scene::on(secured.node.url(("guest", "guest"), "/"));
    let sidecar = Sidecar::from_file(&settings(&scene, &way), &scene).await;
    works(&sidecar).await;
    assert!(sidecar.process.said().contains("amqps://127.0.0.1"));
    assert!(!sidecar.process.said().contains("canary"));
    // Everything that it has with the broker is encrypted.
    let connections = secured.node.ctl(&["list_connections", "user", "ssl"]).await;
    let own: Vec<&str> = connections.lines().filter(|line| line.starts_with(&user)).collect();
    assert!(own.len() >= 3 && own.iter().all(|line| line.ends_with("true")), "{connections}");
}

#[tokio::test]
async fn a_sidecar_is_who_its_certificate_says() {
    let (mount, secured) = (Mount::new(), nodes::secured().await);
    let user = user(&secured.node, "never used").await;
    let Pair { certificate, key } = secured.authority.client(&user, Valid::Now);
    let way = format!(
        "url = \"amqps://127.0.0.1:{}\"\nsasl = \"external\"\n\
         tls = {{ ca_file = {:?}, cert_file = {:?}, key_file = {:?}, server_name = {SECURED_NAME:?} }}\n",
        secured.node.tls_port,
        mount.file("ca.crt", &secured.authority.certificate),
        mount.file("tls.crt", &certificate),
        mount.file("tls.key", &key),
    );
    let scene = Scene::on(secured.node.url(("guest", "guest"), "/"));
    let sidecar = Sidecar::from_file(&settings(&scene, &way), &scene).await;
    works(&sidecar).await;
    let connections = secured.node.ctl(&["list_connections", "user", "auth_mechanism"]).await;
    assert!(connections.contains(&format!("{user}\tEXTERNAL")), "{connections}");
}

#[tokio::test]
async fn a_password_changed_on_the_broker_and_in_its_file_is_used_without_a_restart() {
    let (mount, node) = (Mount::new(), nodes::managed().await);
    let user = user(node, "right").await;
    let way = format!(
        "host = \"127.0.0.1\"\nport = {}\nusername = {user:?}\npassword_file = {:?}\n\
         reconnect = {{ min_backoff = \"100ms\", max_backoff = \"500ms\" }}\n",
        node.port,
        mount.file("password", "wrong"),
    );
    let scene = Scene::on(node.url(("guest", "guest"), "/"));
    let sidecar = Sidecar::from_file(&settings(&scene, &way), &scene).await;
    until("the wrong password is refused", async || sidecar.process.said().contains("refused the login").then_some(()))
        .await;

    mount.file("password", "right\n");
    works(&sidecar).await;

    let mut handler = sidecar.handler().await;
    handler.state(v1::SubscriptionState::Active, 0).await;
    let seen = handler.statuses.len();
    node.ctl(&["change_password", &user, "rotated"]).await;
    std::fs::remove_file(mount.path("password")).expect("it was mounted");
    close_connections(node, &user).await;
    handler.state(v1::SubscriptionState::BrokerDown, seen).await;
    until("the missing file is told", async || {
        sidecar.process.said().contains("bus.amqp.password_file: the file cannot be read").then_some(())
    })
    .await;
    mount.file("password", "rotated\n");
    handler.state(v1::SubscriptionState::Active, seen).await;
    handler.leave().await;
    works(&sidecar).await;
}

async fn close_connections(node: &BrokerHandle, user: &str) {
    let listing = node.ctl(&["list_connections", "pid", "user"]).await;
    let own = listing.lines().filter_map(|line| line.split_once('\t')).filter(|(_, of)| *of == user);
    for (pid, _) in own {
        node.ctl(&["close_connection", pid, "rotation"]).await;
    }
}

#[tokio::test]
async fn a_token_that_the_broker_does_not_take_is_a_refused_login() {
    let (mount, node) = (Mount::new(), nodes::managed().await);
    let token = mount.file("token", "first\n");
    let way = format!(
        "host = \"127.0.0.1\"\nport = {}\nsasl = \"oauth2\"\noauth2 = {{ token_file = {token:?} }}\n",
        node.port,
    );
    let scene = Scene::on(node.url(("guest", "guest"), "/"));
    let sidecar = Sidecar::from_file(&settings(&scene, &way), &scene).await;
    // This broker reads no tokens: it takes the token for the password of a user without a name, and refuses it.
    until("the login of the token is refused", async || {
        sidecar.process.said().contains("refused the login of user of the token").then_some(())
    })
    .await;
    assert!(!sidecar.process.said().contains("first"));
}

#[tokio::test]
async fn handlers_in_two_languages_work_through_the_socket() {
    let (mount, scene) = (Mount::new(), Scene::new().await);
    let path = mount.path("bus.sock");
    let tables = format!("{}[grpc]\nunix_socket = {path:?}\n", scene.work(""));
    let mut sidecar = scene.sidecar(&tables).await;
    let endpoint = format!("unix:{}", path.display());
    let mut in_python = python("handler.py", &["work"], &endpoint);
    let mut in_rust = rust_handler(&["work"], &endpoint).await;
    let joined = async || {
        let joins = sidecar.process.log().iter().filter(|line| line.contains("\"handler joined\"")).count();
        (joins >= 2).then_some(())
    };
    until("both have joined", joined).await;

    let mut publisher = python("publisher.py", &["500"], &endpoint);
    assert_eq!(publisher.end().await.code(), Some(0));

    until("every message is handled", async || {
        (in_python.output().len() + in_rust.output().len() >= 500).then_some(())
    })
    .await;
    assert_eq!((in_python.stop().await, in_rust.stop().await), (Some(0), Some(0)));
    let mut numbers = [handled(&in_python), handled(&in_rust)].concat();
    numbers.sort_unstable();
    assert_eq!(numbers, (0..500).collect::<Vec<_>>());
    assert_eq!(sidecar.process.stop().await, Some(0));
    assert!(!path.exists());
}
