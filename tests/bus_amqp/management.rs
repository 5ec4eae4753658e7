//! The management API of a real broker, and what happens when something else answers.

use std::sync::Arc;
use std::time::Duration;

use lapin::ExchangeKind;
use lapin::options::{ExchangeDeclareOptions, QueueBindOptions, QueueDeclareOptions};
use lapin::types::{AMQPValue, FieldTable, LongString};
use secrecy::SecretString;
use sidebus::broker::amqp::{
    AmqpBroker, AmqpOptions, Management, ManagementError, ManagementInspector, ManagementOptions,
};
use sidebus::broker::{Broker as _, SessionId};
use sidebus::domain::message::{Headers, Value};
use sidebus::domain::name::{ExchangeName, QueueName};
use sidebus::domain::subscription::Binding;
use sidebus::domain::topology::{Plan, Step, TopologyMode};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::lab::PATIENCE;
use crate::support::management::managed;
use crate::support::rabbitmq::{options, prefix};
use crate::support::scene::Scene;

const SECRET: &str = "canary-8842";

fn exchange(name: &str) -> ExchangeName {
    ExchangeName::parse(name).expect("a good name")
}

fn queue(name: &str) -> QueueName {
    QueueName::parse(name).expect("a good name")
}

/// Names that a path must encode.
fn hostile(stem: &str) -> String {
    format!("{}/{stem} %2f?x=1#ö&é😀", prefix())
}

#[tokio::test]
async fn an_exchange_a_queue_and_its_bindings_are_told_with_their_arguments_under_hostile_names() {
    let managed = managed().await;
    let vhost = hostile("vhost");
    managed.node.ctl(&["add_vhost", &vhost]).await;
    managed.node.ctl(&["set_permissions", "-p", &vhost, "guest", ".*", ".*", ".*"]).await;
    let encoded: String = vhost.bytes().fold(String::new(), |text, byte| format!("{text}%{byte:02x}"));
    let amqp = Scene::on(managed.node.url(("guest", "guest"), &encoded)).amqp().await;
    let (source, target) = (hostile("exchange"), hostile("queue"));
    let text = |text: &str| AMQPValue::LongString(LongString::from(text));
    let table = |entries: &[(&str, AMQPValue)]| {
        let mut table = FieldTable::default();
        for (name, value) in entries {
            table.insert((*name).into(), value.clone());
        }
        table
    };
    let options = ExchangeDeclareOptions { durable: true, internal: true, ..ExchangeDeclareOptions::default() };
    let arguments = table(&[("alternate-exchange", text("other"))]);
    let declared = amqp.channel.exchange_declare(source.as_str().into(), ExchangeKind::Headers, options, arguments);
    declared.await.expect("an exchange");
    let options = QueueDeclareOptions { durable: true, ..QueueDeclareOptions::default() };
    let arguments = table(&[("x-max-length", AMQPValue::LongInt(7)), ("x-queue-type", text("quorum"))]);
    amqp.channel.queue_declare(target.as_str().into(), options, arguments).await.expect("a queue");
    let matches =
        table(&[("x-match", text("all")), ("level", AMQPValue::LongInt(3)), ("on", AMQPValue::Boolean(true))]);
    let key = "a/b %c".to_owned();
    let bound = amqp.channel.queue_bind(
        target.as_str().into(),
        source.as_str().into(),
        key.as_str().into(),
        QueueBindOptions::default(),
        matches,
    );
    bound.await.expect("a binding");

    let client = managed.client(&vhost);
    let found = client.exchange(&exchange(&source)).await.expect("it is there");
    assert_eq!((found.kind.as_str(), found.durable, found.auto_delete, found.internal), ("headers", true, false, true));
    assert_eq!(found.arguments.get("alternate-exchange"), Some(&Value::text("other")));
    let found = client.queue(&queue(&target)).await.expect("it is there");
    assert_eq!((found.queue.durable, found.queue.auto_delete, found.queue.exclusive), (true, false, false));
    assert_eq!(found.queue.arguments.get("x-max-length"), Some(&Value::Int64(7)));
    assert_eq!(found.queue.arguments.get("x-queue-type"), Some(&Value::text("quorum")));
    assert_eq!(found.policy, None);
    let found = client.bindings(&queue(&target)).await.expect("it is there");
    assert_eq!(found.len(), 1, "the nameless exchange is left out: {found:?}");
    assert_eq!((found[0].exchange.as_str(), found[0].routing_key.as_str()), (source.as_str(), key.as_str()));
    assert_eq!(found[0].arguments.get("level"), Some(&Value::Int64(3)));
    assert_eq!(found[0].arguments.get("on"), Some(&Value::Bool(true)));
}

#[tokio::test]
async fn a_policy_that_limits_a_queue_is_told() {
    let managed = managed().await;
    let vhost = managed.node.virtual_host().await;
    let amqp = Scene::on(managed.node.url(("guest", "guest"), &vhost)).amqp().await;
    amqp.declare("work", FieldTable::default()).await;
    let set = ["set_policy", "-p", &vhost, "ours", "^work$", r#"{"message-ttl":60000}"#, "--apply-to", "queues"];
    managed.node.ctl(&set).await;
    let set = ["set_operator_policy", "-p", &vhost, "theirs", ".*", r#"{"max-length":5}"#, "--apply-to", "queues"];
    managed.node.ctl(&set).await;

    let client = managed.client(&vhost);
    let policy = crate::support::wait::until("both policies are told", async || {
        client.queue(&queue("work")).await.expect("it is there").policy.filter(|policy| policy.definition.len() == 2)
    })
    .await;

    assert_eq!(policy.name, "ours and theirs");
    assert_eq!(policy.definition.get("message-ttl"), Some(&Value::Int64(60_000)));
    assert_eq!(policy.definition.get("max-length"), Some(&Value::Int64(5)));
}

#[tokio::test]
async fn bindings_that_nobody_makes_in_verify_are_told_by_the_first_look_of_a_session() {
    let managed = managed().await;
    let vhost = managed.node.virtual_host().await;
    let scene = Scene::on(managed.node.url(("guest", "guest"), &vhost));
    let (source, target) = (scene.name("events"), scene.name("work"));
    let amqp = scene.amqp().await;
    amqp.exchange(&source, ExchangeKind::Topic).await;
    amqp.declare(&target, FieldTable::default()).await;
    let (bind, table) = (QueueBindOptions::default(), FieldTable::default());
    let bound =
        amqp.channel.queue_bind(target.as_str().into(), source.as_str().into(), "old.#".into(), bind, table).await;
    bound.expect("a binding");
    let inspector = Arc::new(ManagementInspector::new(managed.client(&vhost)));
    let broker =
        AmqpBroker::new(AmqpOptions { vhost, ..options(("127.0.0.1", managed.node.port), ("guest", "guest")) })
            .inspected_by(inspector);
    let binding =
        |key: &str| Binding { exchange: exchange(&source), routing_key: key.to_owned(), arguments: Headers::new() };
    let (new, old) = (binding("new.#"), binding("old.#"));
    let steps = vec![
        Step::Bind { queue: queue(&target), exclusive: false, binding: new.clone() },
        Step::Unbind { queue: queue(&target), exclusive: false, binding: old.clone() },
    ];
    let plan = Arc::new(Plan { mode: TopologyMode::Verify, steps });

    let session = broker.connect(SessionId(1)).await.expect("a session");
    let told = session.apply(Arc::clone(&plan)).await.expect("only looked at").remarks;
    assert_eq!(
        told,
        [
            format!("binding {} is not there, and in verify nobody makes it", new.describe(&queue(&target))),
            format!("binding {} is still there, and in verify nobody takes it away", old.describe(&queue(&target))),
        ]
    );
    let told = session.apply(Arc::clone(&plan)).await.expect("only looked at").remarks;
    assert_eq!(told, Vec::<String>::new(), "nothing is asked twice");
    let next = broker.connect(SessionId(2)).await.expect("a session");
    assert_eq!(next.apply(plan).await.expect("only looked at").remarks.len(), 2);
    session.close(PATIENCE).await;
    next.close(PATIENCE).await;
}

#[tokio::test]
async fn refusals_are_told_and_the_tag_management_is_enough() {
    let managed = managed().await;
    let vhost = managed.node.virtual_host().await;
    let user = prefix();
    managed.node.ctl(&["add_user", &user, SECRET]).await;
    managed.node.ctl(&["set_permissions", "-p", &vhost, &user, "^own", "", ".*"]).await;

    let missing = managed.client(&vhost).queue(&queue("nowhere")).await;
    assert_eq!(missing, Err(ManagementError::NotThere { name: "nowhere".to_owned() }));

    let with = |user: &str, password: &str| ManagementOptions {
        username: SecretString::from(user.to_owned()),
        password: SecretString::from(password.to_owned()),
        ..managed.options()
    };
    for (options, why) in [(with("guest", SECRET), "a wrong password"), (with(&user, SECRET), "no tag management")] {
        let refused = Management::new(options, vhost.clone()).queue(&queue("work")).await;
        let Err(ManagementError::Refused { .. }) = &refused else { panic!("{why}: {refused:?}") };
        assert!(!format!("{refused:?}").contains(SECRET), "{refused:?}");
    }
    managed.node.ctl(&["set_user_tags", &user, "management"]).await;
    let allowed = Management::new(with(&user, SECRET), vhost.clone()).queue(&queue("work")).await;
    assert_eq!(allowed, Err(ManagementError::NotThere { name: "work".to_owned() }), "the tag is enough");
}

#[tokio::test]
async fn over_tls_only_the_named_roots_are_trusted() {
    let managed = managed().await;
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("ca.pem");
    std::fs::write(&file, &managed.identity.authority).expect("a file");
    let options = ManagementOptions { tls: true, port: managed.tls_port, ca_file: Some(file), ..managed.options() };
    let missing = Management::new(options.clone(), "/".to_owned()).queue(&queue("nowhere")).await;
    assert!(matches!(missing, Err(ManagementError::NotThere { .. })), "{missing:?}");

    let other = folder.path().join("other.pem");
    std::fs::write(&other, crate::support::identity::Identity::for_loopback().authority).expect("a file");
    let empty = folder.path().join("empty.pem");
    std::fs::write(&empty, "").expect("a file");
    for (ca_file, words) in [
        (None, "TLS"),
        (Some(other), "TLS"),
        (Some(empty), "holds no certificate"),
        (Some(folder.path().join("none.pem")), "ca_file"),
    ] {
        let options = ManagementOptions { ca_file, ..options.clone() };
        let refused = Management::new(options, "/".to_owned()).queue(&queue("nowhere")).await;
        let Err(ManagementError::Unreachable { reason, .. }) = &refused else { panic!("{words}: {refused:?}") };
        assert!(reason.contains(words), "{reason}");
    }
}

/// What a server of the test's own does with a call.
#[derive(Debug, Clone)]
enum Does {
    /// Says this and closes.
    Says(String),
    /// Says nothing and keeps the line.
    Hangs,
    /// Says more and more.
    Floods,
}

/// What a client makes of a server, and what the server heard.
async fn against(does: Does) -> (ManagementError, String) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let port = listener.local_addr().expect("a bound port").port();
    let mut server = JoinSet::new();
    server.spawn(async move {
        let (mut socket, _) = listener.accept().await.expect("a call");
        let mut heard = vec![0; 4096];
        let count = socket.read(&mut heard).await.expect("a request");
        match does {
            Does::Says(text) => socket.write_all(text.as_bytes()).await.expect("an answer"),
            Does::Hangs => std::future::pending().await,
            Does::Floods => {
                let begin = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n\r\n[";
                let mut sent = socket.write_all(begin.as_bytes()).await;
                while sent.is_ok() {
                    sent = socket.write_all(&[b' '; 8_192]).await;
                }
            }
        }
        String::from_utf8_lossy(&heard[..count]).into_owned()
    });
    let options = ManagementOptions {
        tls: false,
        host: "127.0.0.1".to_owned(),
        port,
        base_path: "/base".to_owned(),
        username: SecretString::from("mia"),
        password: SecretString::from(SECRET),
        ca_file: None,
        timeout: Duration::from_secs(2),
    };
    let answer = timeout(PATIENCE, Management::new(options, "/".to_owned()).queue(&queue("q"))).await;
    let error = answer.expect("a call has a deadline").expect_err("nothing was told");
    assert!(!format!("{error} {error:?}").contains(SECRET), "{error:?}");
    let heard = server.try_join_next().map_or_else(String::new, |heard| heard.expect("a server"));
    (error, heard)
}

fn answer(status: &str, headers: &str, body: &str) -> Does {
    Does::Says(format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\n{headers}\r\n{body}", body.len()))
}

#[tokio::test]
async fn what_is_no_management_api_is_told_so() {
    let not_management = |error: &ManagementError| matches!(error, ManagementError::NotManagement { .. });
    for does in [
        Does::Says("SSH-2.0-OpenSSH_9.2\r\n".to_owned()),
        answer("200 OK", "", "<html>hello</html>"),
        answer("200 OK", "", r#"{"durable":"perhaps"}"#),
        answer("200 OK", "", &format!("{{\"{SECRET}\": ")),
        answer("404 Not Found", "", "<html>nothing here</html>"),
        answer("302 Found", "Location: http://127.0.0.1:1/stolen\r\n", ""),
        Does::Says("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{".to_owned()),
        Does::Floods,
    ] {
        let what = format!("{does:?}");
        let (error, _) = against(does).await;
        assert!(not_management(&error), "{what}: {error:?}");
    }
}

#[tokio::test]
async fn a_server_that_fails_or_hangs_is_unreachable() {
    let words = format!(r#"{{"error":"internal","reason":"the password {SECRET} is in here"}}"#);
    for does in
        [answer("500 Internal Server Error", "", &words), answer("503 Service Unavailable", "", ""), Does::Hangs]
    {
        let what = format!("{does:?}");
        let (error, _) = against(does).await;
        assert!(matches!(error, ManagementError::Unreachable { .. }), "{what}: {error:?}");
    }
}

#[tokio::test]
async fn a_call_asks_for_one_encoded_path_below_the_base() {
    let (_, heard) = against(answer("404 Not Found", "", "")).await;
    assert!(heard.starts_with("GET /base/api/queues/%2F/q HTTP/1.1\r\n"), "{heard}");
}
