//! The example of a service in production, as written: only what the platform mounts, and where, is the test's own.

use std::path::{Path, PathBuf};

use sidebus::grpc::proto::sidebus::v1;
use tempfile::TempDir;

use crate::support::handler::{Handler, message};
use crate::support::identity::{Identity, Pair, Peers, Valid};
use crate::support::management;
use crate::support::nodes::{self, SECURED_NAME, Secured};
use crate::support::publisher::numbered;
use crate::support::rabbitmq;
use crate::support::scene::{Scene, Sidecar};
use crate::support::wait::until;

/// What the example says, and what it is here.
struct Replaced(String);

impl Replaced {
    fn written() -> Self {
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("config/production.toml");
        Self(std::fs::read_to_string(file).expect("the example"))
    }

    fn with(self, written: &str, here: &str) -> Self {
        assert!(self.0.contains(written), "the example does not say {written}");
        Self(self.0.replace(written, here))
    }
}

/// Files as the platform mounts them.
fn mount(folder: &TempDir, name: &str, text: &str) -> PathBuf {
    let path = folder.path().join(name);
    std::fs::write(&path, text).expect("a file");
    path
}

async fn settings(secured: &Secured, vhost: &str, folder: &TempDir) -> String {
    let user = rabbitmq::prefix();
    secured.node.ctl(&["add_user", &user, "canary-4711"]).await;
    secured.node.ctl(&["set_user_tags", &user, "management"]).await;
    secured.node.ctl(&["set_permissions", "-p", vhost, &user, ".*", ".*", ".*"]).await;
    let Pair { certificate, key } = secured.authority.client("app", Valid::Now);
    // This node asks for a certificate of the client, and has no name in the network.
    let tls = format!(
        "tls = {{ require = true, ca_file = {:?}, cert_file = {:?}, key_file = {:?}, server_name = {SECURED_NAME:?} }}",
        mount(folder, "ca.crt", &secured.authority.certificate).display().to_string(),
        mount(folder, "tls.crt", &certificate).display().to_string(),
        mount(folder, "tls.key", &key).display().to_string(),
    );
    let state = folder.path().join("state");
    std::fs::create_dir_all(&state).expect("a folder");
    let quoted = |path: PathBuf| format!("{:?}", path.display().to_string());
    Replaced::written()
        .with("\"/var/lib/sidebus\"", &quoted(state))
        .with("host = \"rabbit.prod.svc\"", &format!("host = \"127.0.0.1\"\nport = {}", secured.node.tls_port))
        .with("\"orders\"", &format!("{vhost:?}"))
        .with("\"/etc/sidebus/broker/username\"", &quoted(mount(folder, "username", &format!("{user}\n"))))
        .with("\"/etc/sidebus/broker/password\"", &quoted(mount(folder, "password", "canary-4711\n")))
        .with("tls = { require = true, ca_file = \"/etc/sidebus/ca.crt\" }", &tls)
        .with("https://rabbit.prod.svc:15671", &format!("https://127.0.0.1:{}", management_port(secured).await))
        .with("\"/run/sidebus/sidebus.sock\"", &quoted(folder.path().join("sidebus.sock")))
        .0
}

/// Where the management API is, under a certificate of the authority that signed the broker's.
async fn management_port(secured: &Secured) -> u16 {
    let identity = Identity::of(&secured.authority, &["127.0.0.1"], Peers::Anyone);
    management::switch_on(&secured.node, &identity).await[1]
}

#[tokio::test]
async fn the_production_example_runs_as_written() {
    let (secured, folder) = (nodes::secured().await, tempfile::tempdir().expect("a folder"));
    let vhost = secured.node.virtual_host().await;
    let scene = Scene::on(secured.node.url(("guest", "guest"), &vhost));
    let written = settings(secured, &vhost, &folder).await;
    // Others make what a service in verify mode only looks at; here that is the same file in create mode, once.
    let maker = written.replace("topology = \"verify\"", "topology = \"create\"");
    let mut maker = Sidecar::from_file(&maker, &scene).await;
    maker.ready().await;
    maker.process.stop().await;

    let mut sidecar = Sidecar::from_file(&written, &scene).await;
    sidecar.ready().await;
    let mut handler = Handler::open(sidecar.channel().await, Handler::of("player-projector")).await;
    handler.state(v1::SubscriptionState::Active, 0).await;
    let event = |exchange: &str, key: &str| v1::Message {
        exchange: exchange.to_owned(),
        routing_key: key.to_owned(),
        message_id: String::new(),
        ..numbered(0)
    };
    let events = vec![event("", "player.PlayerRegistered"), event("billing.commands", "player.credit")];
    sidecar.publisher().await.publish(events).await.expect("both have a queue");
    let deliveries = handler.deliveries(2).await;
    let mut keys: Vec<&str> = deliveries.iter().map(|delivery| message(delivery).routing_key.as_str()).collect();
    keys.sort_unstable();
    assert_eq!(keys, ["player.PlayerRegistered", "player.credit"]);
    handler.dead_letter(&deliveries[0]).await;
    handler.ack(&deliveries[1..]).await;
    handler.leave().await;
    scene.amqp().await.wait_for_depth("prod.player-projector.dlq", 1).await;
    let said = sidecar.process.said();
    assert!(!said.contains("canary"));
    // Verify mode sees arguments through the management API alone; what it could not see would be told of each object.
    assert!(!said.contains("management API") && !said.contains("cannot be seen"), "{said}");
    assert_eq!(sidecar.process.stop().await, Some(0));

    // And it does look: what is named otherwise is told.
    let other = written.replace("[queues.player-projector]\n", "[queues.player-projector]\nmax_length = 7\n");
    let sidecar = Sidecar::from_file(&other, &scene).await;
    let told = "x-max-length is nothing, wanted is 7";
    until("the difference is told", async || sidecar.process.said().contains(told).then_some(())).await;
}
