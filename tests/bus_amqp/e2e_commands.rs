//! `sidebus topology apply`, `diff` and `export` against a real broker: what they say, what they touch, how they end.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Stdio;

use lapin::types::{AMQPValue, FieldTable};
use serde_json::Value as Json;
use sidebus::domain::message::Value;
use sidebus::domain::name::QueueName;
use tempfile::TempDir;

use crate::support::handler::number;
use crate::support::management::{ManagedNode, managed};
use crate::support::rabbitmq::{BrokerHandle, prefix};
use crate::support::scene::{Scene, Sidecar};

/// One subscription whose settings name nothing but its bindings, and one that insists on a length.
const QUEUES: &str = "[queues.plain]\nbindings = [\"a.#\", \"b.#\"]\n\
                      [queues.strict]\nbindings = [\"#\"]\narguments = { x-max-length = 7 }\n";

/// A virtual host of a test's own, and settings for it.
struct Place {
    managed: &'static ManagedNode,
    vhost: String,
    folder: TempDir,
}

/// How a command has ended.
#[derive(Debug)]
struct Said {
    code: Option<i32>,
    out: String,
    words: String,
}

impl Place {
    async fn new() -> Self {
        let managed = managed().await;
        let vhost = managed.node.virtual_host().await;
        Self { managed, vhost, folder: tempfile::tempdir().expect("a folder") }
    }

    fn url(&self, (user, password): (&str, &str)) -> String {
        self.managed.node.url((user, password), &self.vhost)
    }

    /// A sidecar that only looks and can see everything.
    fn seeing(&self, tables: &str) -> String {
        self.settings(&format!("management = {{ url = \"{}\" }}", self.managed.url()), tables)
    }

    fn settings(&self, amqp: &str, tables: &str) -> String {
        self.settings_as(("guest", "guest"), amqp, tables)
    }

    fn settings_as(&self, login: (&str, &str), amqp: &str, tables: &str) -> String {
        format!("[bus.amqp]\nurl = \"{}\"\n{amqp}\n{tables}", self.url(login))
    }

    /// `sidebus topology …`
    async fn topology(&self, settings: &str, args: &[&str]) -> Said {
        let file = self.folder.path().join(format!("{}.toml", prefix()));
        std::fs::write(&file, settings).expect("a settings file");
        let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_sidebus"));
        command.arg("topology").args(args).arg("-c").arg(&file).env_clear().stdin(Stdio::null());
        let output = command.output().await.expect("the command runs");
        let text = |bytes| String::from_utf8(bytes).expect("UTF-8");
        Said { code: output.status.code(), out: text(output.stdout), words: text(output.stderr) }
    }

    /// States of a diff by kind and name.
    async fn states(&self, settings: &str) -> (Option<i32>, BTreeMap<String, Json>) {
        let said = self.topology(settings, &["diff", "-o", "json"]).await;
        let shown: Json = serde_json::from_str(&said.out).unwrap_or_else(|error| panic!("{error}: {said:?}"));
        let objects = shown["objects"].as_array().expect("a list").iter();
        let key = |it: &Json| format!("{} {}", it["kind"].as_str().expect("text"), it["name"].as_str().expect("text"));
        (said.code, objects.map(|it| (key(it), it.clone())).collect())
    }

    async fn amqp(&self) -> crate::support::scene::Amqp {
        Scene::on(self.url(("guest", "guest"))).amqp().await
    }
}

fn table(entries: &[(&str, AMQPValue)]) -> FieldTable {
    let mut table = FieldTable::default();
    for (name, value) in entries {
        table.insert((*name).into(), value.clone());
    }
    table
}

/// Word, kind and name of a line that is about an object.
fn cells(line: &str) -> Option<(&str, &str, &str)> {
    let mut cells = line.split("  ").filter(|cell| !cell.is_empty()).map(str::trim);
    Some((cells.next()?, cells.next()?, cells.next()?))
}

fn end<'a>(out: &'a str, kind: &str, name: &str) -> &'a str {
    let mut lines = out.lines().filter_map(cells);
    let found = lines.find(|(_, its_kind, its_name)| *its_kind == kind && *its_name == name);
    found.unwrap_or_else(|| panic!("no {kind} {name} in\n{out}")).0
}

#[tokio::test]
async fn apply_makes_everything_once_and_then_finds_it() {
    let place = Place::new().await;
    let settings = place.seeing(QUEUES);
    let (code, before) = place.states(&settings).await;
    assert_eq!(code, Some(7), "{before:#?}");
    assert_eq!(before["queue plain"]["state"], "missing");

    let said = place.topology(&settings, &["apply"]).await;
    assert_eq!(said.code, Some(0), "{said:?}");
    for (kind, name) in [("exchange", "angzarr.events"), ("queue", "angzarr.dlq"), ("queue", "strict")] {
        assert_eq!(end(&said.out, kind, name), "created", "{said:?}");
    }
    assert_eq!(end(&said.out, "bind", "angzarr.events -> plain a.#"), "bound", "{said:?}");
    assert!(said.words.contains("RabbitMQ 3.") || said.words.contains("RabbitMQ 4."), "{said:?}");

    let again = place.topology(&settings, &["apply"]).await;
    assert_eq!(again.code, Some(0), "{again:?}");
    assert_eq!(end(&again.out, "queue", "strict"), "found", "{again:?}");
    let (code, after) = place.states(&settings).await;
    assert_eq!(code, Some(0), "{after:#?}");
    assert!(after.values().all(|it| it["state"] == "same"), "{after:#?}");
}

#[tokio::test]
async fn one_mismatch_does_not_stop_the_others_and_is_left_untouched() {
    let place = Place::new().await;
    let amqp = place.amqp().await;
    amqp.declare("strict", table(&[("x-max-length", AMQPValue::LongInt(9))])).await;
    let settings = place.settings("", QUEUES);

    let said = place.topology(&settings, &["apply"]).await;
    assert_eq!(said.code, Some(3), "{said:?}");
    assert_eq!(end(&said.out, "queue", "plain"), "created", "{said:?}");
    assert_eq!(end(&said.out, "queue", "strict"), "mismatch", "{said:?}");
    assert_eq!(end(&said.out, "bind", "angzarr.events -> strict #"), "skipped", "{said:?}");
    let line = said.out.lines().find(|line| line.starts_with("mismatch")).expect("a line");
    assert!(line.contains("x-max-length") && line.contains('9') && line.contains('7'), "{line}");
    assert!(said.words.contains("hint"), "{said:?}");

    let alone = place.topology(&settings, &["apply", "--subscription", "strict"]).await;
    assert_eq!(alone.code, Some(7), "{alone:?}");
    let json = place.topology(&settings, &["apply", "-o", "json"]).await;
    let json: Json = serde_json::from_str(&json.out).expect("JSON");
    let step = json["steps"].as_array().expect("steps").iter().find(|it| it["outcome"] == "mismatch").expect("one");
    assert_eq!(step["differences"], serde_json::json!([{"key": "x-max-length", "wanted": "7", "found": "9"}]));
    let found = place
        .managed
        .client(&place.vhost)
        .queue(&QueueName::parse("strict").expect("a good name"))
        .await
        .expect("it is there");
    assert_eq!(found.queue.arguments.get("x-max-length").and_then(Value::as_integer), Some(9));
}

#[tokio::test]
async fn diff_sees_what_differs_what_is_adopted_and_what_nobody_asked_for() {
    let place = Place::new().await;
    let settings = place.seeing(&format!("{QUEUES}[queues.gone]\n"));
    assert_eq!(place.topology(&place.seeing("[queues.plain]\nbindings = [\"a.#\"]\n"), &["apply"]).await.code, Some(0));
    let amqp = place.amqp().await;
    // Classic and without our defaults, and with another length than the settings name.
    amqp.declare("strict", table(&[("x-max-length", AMQPValue::LongInt(9))])).await;
    let bind = |key: &'static str| {
        let options = lapin::options::QueueBindOptions::default();
        amqp.channel.queue_bind("plain".into(), "angzarr.events".into(), key.into(), options, FieldTable::default())
    };
    bind("made.at.run.time").await.expect("a binding");

    let (code, states) = place.states(&settings).await;
    assert_eq!(code, Some(7), "{states:#?}");
    let state = |name: &str| states.get(name).unwrap_or_else(|| panic!("no {name} in {states:#?}"))["state"].clone();
    assert_eq!(state("queue plain"), "same");
    assert_eq!(state("queue gone"), "missing");
    assert_eq!(state("binding angzarr.events -> plain a.#"), "same");
    assert_eq!(state("binding angzarr.events -> plain b.#"), "missing");
    assert_eq!(state("binding angzarr.events -> plain made.at.run.time"), "extra");
    assert_eq!(state("queue strict"), "different");
    assert_eq!(states["queue strict"]["differences"][0]["key"], "x-max-length");

    let relaxed = place.seeing("[queues.strict]\nbindings = []\n");
    let (code, states) = place.states(&relaxed).await;
    assert_eq!((code, states["queue strict"]["state"].as_str()), (Some(0), Some("adopted")), "{states:#?}");
}

#[tokio::test]
async fn one_subscription_is_made_with_all_that_it_needs_and_unbinds_what_is_listed() {
    let place = Place::new().await;
    let settings = place.seeing(QUEUES);
    let said = place.topology(&settings, &["apply", "--subscription", "plain"]).await;
    assert_eq!(said.code, Some(0), "{said:?}");
    assert_eq!(end(&said.out, "exchange", "angzarr.events"), "created", "{said:?}");
    let (_, states) = place.states(&settings).await;
    assert_eq!(states["queue strict"]["state"], "missing", "{states:#?}");

    let listed = place.seeing("[queues.plain]\nbindings = [\"a.#\"]\nunbind = [\"b.#\"]\n");
    let (code, states) = place.states(&listed).await;
    let state = states["binding angzarr.events -> plain b.#"]["state"].as_str();
    assert_eq!((code, state), (Some(7), Some("extra")), "{states:#?}");
    let said = place.topology(&listed, &["apply"]).await;
    assert_eq!(said.code, Some(0), "{said:?}");
    assert_eq!(end(&said.out, "unbind", "angzarr.events -> plain b.#"), "unbound", "{said:?}");
    let (code, states) = place.states(&listed).await;
    assert_eq!(code, Some(0), "{states:#?}");
}

#[tokio::test]
async fn without_the_management_api_what_cannot_be_seen_is_unknown_and_fails_only_where_it_is_configured() {
    let place = Place::new().await;
    let blind = place.settings("", QUEUES);
    assert_eq!(place.topology(&blind, &["apply"]).await.code, Some(0));

    let said = place.topology(&blind, &["diff"]).await;
    assert_eq!(said.code, Some(0), "{said:?}");
    assert_eq!(end(&said.out, "binding", "angzarr.events -> plain a.#"), "unknown", "{said:?}");
    assert_eq!(end(&said.out, "queue", "strict"), "unknown", "{said:?}");
    assert!(said.words.contains("bus.amqp.management.url"), "{said:?}");

    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    let port = listener.local_addr().expect("a bound port").port();
    drop(listener);
    let away = place.settings(&format!("management = {{ url = \"http://127.0.0.1:{port}\" }}"), QUEUES);
    let said = place.topology(&away, &["diff"]).await;
    assert_eq!(said.code, Some(3), "whoever configures the API counts on it: {said:?}");
    assert!(said.out.contains("cannot reach the management API"), "{said:?}");
}

#[tokio::test]
async fn a_policy_that_limits_the_dead_letters_is_told() {
    let place = Place::new().await;
    let settings = place.seeing("");
    assert_eq!(place.topology(&settings, &["apply"]).await.code, Some(0));
    let policy = ["set_operator_policy", "-p", &place.vhost, "tidy", "dlq$", r#"{"max-length":5}"#];
    place.managed.node.ctl(&policy).await;

    let states = crate::support::wait::until("the policy is seen", async || {
        let (code, states) = place.states(&settings).await;
        assert_eq!(code, Some(0), "{states:#?}");
        (states["queue angzarr.dlq"]["state"] == "adopted").then_some(states)
    })
    .await;

    let difference = &states["queue angzarr.dlq"]["differences"][0];
    assert_eq!(
        (difference["key"].as_str(), difference["found"].as_str()),
        (Some("policy tidy: max-length"), Some("5"))
    );
}

/// Lets `rabbitmqctl` read a file that lies where the node can see it.
async fn import(node: &BrokerHandle, definitions: &str) {
    let below = node.root().map_or_else(std::env::temp_dir, |root| root.join("tmp"));
    let folder = tempfile::tempdir_in(below).expect("a folder");
    let file = folder.path().join("definitions.json");
    std::fs::write(&file, definitions).expect("a file");
    let seen = match node.root() {
        Some(root) => Path::new("/").join(file.strip_prefix(root).expect("a path below the root")),
        None => file,
    };
    node.ctl(&["import_definitions", seen.to_str().expect("UTF-8")]).await;
}

#[tokio::test]
async fn exported_definitions_make_a_broker_on_which_a_sidecar_without_rights_to_configure_works() {
    let place = Place::new().await;
    let settings = place.seeing(QUEUES);
    let said = place.topology(&settings, &["export", "--format", "definitions", "--delay-slots"]).await;
    assert_eq!(said.code, Some(0), "{said:?}");
    import(&place.managed.node, &said.out).await;

    let (code, states) = place.states(&settings).await;
    assert_eq!(code, Some(0), "{states:#?}");
    assert!(states.values().all(|it| it["state"] == "same"), "{states:#?}");

    let user = prefix();
    place.managed.node.ctl(&["add_user", &user, "secret"]).await;
    place.managed.node.ctl(&["set_permissions", "-p", &place.vhost, &user, "^$", ".*", ".*"]).await;
    let verify = place.settings_as((&user, "secret"), "topology = \"verify\"", QUEUES);
    let scene = Scene::on(place.url((&user, "secret")));
    let mut sidecar = Sidecar::from_file(&verify, &scene).await;
    sidecar.ready().await;
    let open = crate::support::handler::Handler::of("strict");
    let mut handler = crate::support::handler::Handler::open(sidecar.channel().await, open).await;
    sidecar.publisher().await.publish_numbers(0..1).await;
    let delivery = handler.delivery().await;
    assert_eq!(number(&delivery), 0);
    handler.ack(&[delivery]).await;
    handler.leave().await;
    assert_eq!(sidecar.process.stop().await, Some(0));
}

#[tokio::test]
async fn a_verifying_sidecar_compares_through_the_management_api_and_starts_without_it() {
    let place = Place::new().await;
    assert_eq!(place.topology(&place.settings("", QUEUES), &["apply"]).await.code, Some(0));
    let other = QUEUES.replace("x-max-length = 7", "x-max-length = 8");
    let seeing = format!("topology = \"verify\"\nmanagement = {{ url = \"{}\" }}", place.managed.url());
    let scene = Scene::on(place.url(("guest", "guest")));
    let sidecar = Sidecar::from_file(&place.settings(&seeing, &other), &scene).await;
    crate::support::wait::until("the difference is told", async || {
        let said = sidecar.process.said();
        (said.contains("x-max-length") && said.contains('7') && said.contains('8')).then_some(())
    })
    .await;

    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    let port = listener.local_addr().expect("a bound port").port();
    drop(listener);
    let away = format!("topology = \"verify\"\nmanagement = {{ url = \"http://127.0.0.1:{port}\" }}");
    let scene = Scene::on(place.url(("guest", "guest")));
    let sidecar = Sidecar::from_file(&place.settings(&away, &other), &scene).await;
    sidecar.ready().await;
    let said = sidecar.process.said();
    assert!(said.contains("cannot reach the management API"), "{said}");
}

#[tokio::test]
async fn login_virtual_host_and_rights_are_refused_with_their_code() {
    let place = Place::new().await;
    let wrong = place.settings_as(("guest", "canary-19"), "", QUEUES);
    let nowhere = wrong.replace("canary-19", "guest").replace(&place.vhost, &prefix());
    let user = prefix();
    place.managed.node.ctl(&["add_user", &user, "secret"]).await;
    place.managed.node.ctl(&["set_permissions", "-p", &place.vhost, &user, "^$", ".*", ".*"]).await;
    let powerless = place.settings_as((&user, "secret"), "", QUEUES);
    for (settings, command) in
        [(&wrong, "apply"), (&wrong, "diff"), (&nowhere, "apply"), (&nowhere, "diff"), (&powerless, "apply")]
    {
        let said = place.topology(settings, &[command]).await;
        assert_eq!(said.code, Some(6), "{command}: {said:?}");
        assert!(said.words.contains("hint") && !said.words.contains("canary"), "{said:?}");
    }
    let said = place.topology(&powerless, &["diff"]).await;
    assert_eq!(said.code, Some(7), "looking needs no right to configure: {said:?}");
}
