//! Least rights: which operation needs which, and a sidecar with no more than `docs/rights.md` gives it.

use std::collections::BTreeSet;
use std::path::Path;

use lapin::options::{BasicPublishOptions, ConfirmSelectOptions, ExchangeDeclareOptions, QueueDeclareOptions};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{BasicProperties, Channel, Connection, ConnectionProperties, ExchangeKind};
use sidebus::domain::version::Version;
use sidebus::grpc::proto::sidebus::v1;

use crate::support::handler::{Handler, message, number};
use crate::support::nodes;
use crate::support::rabbitmq::{self, BrokerHandle};
use crate::support::scene::{Scene, Sidecar};

const SECRET: &str = "canary-7142";

/// A step that needs rights.
#[derive(Debug, Clone, Copy)]
enum Operation {
    LookForQueue,
    LookForExchange,
    CompareQueue,
    CompareExchange,
    MakeExchange,
    MakeExchangeWithAlternate,
    MakeQueueWithDeadLetters,
    MakeSlotQueue,
    Bind,
    Unbind,
    Consume,
    Publish,
    PublishByName,
}

/// The table of the page: the objects that each operation needs to configure, write and read.
const NEEDS: [(Operation, [&str; 3]); 13] = [
    (Operation::LookForQueue, ["", "", ""]),
    (Operation::LookForExchange, ["", "", ""]),
    (Operation::CompareQueue, ["queue", "", ""]),
    (Operation::CompareExchange, ["events", "", ""]),
    (Operation::MakeExchange, ["new", "", ""]),
    (Operation::MakeExchangeWithAlternate, ["new", "dlx", "new"]),
    (Operation::MakeQueueWithDeadLetters, ["new", "dlx", "new"]),
    (Operation::MakeSlotQueue, ["new", "amq.default", "new"]),
    (Operation::Bind, ["", "queue", "events"]),
    (Operation::Unbind, ["", "queue", "events"]),
    (Operation::Consume, ["", "", "queue"]),
    (Operation::Publish, ["", "events", ""]),
    (Operation::PublishByName, ["", "amq.default", ""]),
];

const fn queue_options(passive: bool) -> QueueDeclareOptions {
    QueueDeclareOptions { passive, durable: true, exclusive: false, auto_delete: false, nowait: false }
}

const fn exchange_options(passive: bool) -> ExchangeDeclareOptions {
    ExchangeDeclareOptions { passive, durable: true, auto_delete: false, internal: false, nowait: false }
}

fn argument(key: &str, text: &str) -> FieldTable {
    let mut table = FieldTable::default();
    table.insert(key.into(), AMQPValue::LongString(text.into()));
    table
}

async fn publish(channel: &Channel, exchange: &str, key: &str) -> lapin::Result<()> {
    channel.confirm_select(ConfirmSelectOptions { nowait: false }).await?;
    let options = BasicPublishOptions { mandatory: true, immediate: false };
    let sent = channel.basic_publish(exchange.into(), key.into(), options, b"", BasicProperties::default());
    sent.await?.await.map(drop)
}

async fn carry_out(channel: &Channel, operation: Operation) -> lapin::Result<()> {
    let none = FieldTable::default;
    let (fanout, topic) = (ExchangeKind::Fanout, ExchangeKind::Topic);
    let bind = lapin::options::QueueBindOptions { nowait: false };
    let make_queue = |arguments| channel.queue_declare("new".into(), queue_options(false), arguments);
    let make_exchange = |arguments| channel.exchange_declare("new".into(), fanout, exchange_options(false), arguments);
    match operation {
        Operation::LookForQueue => channel.queue_declare("queue".into(), queue_options(true), none()).await.map(drop),
        Operation::LookForExchange => {
            channel.exchange_declare("events".into(), topic, exchange_options(true), none()).await
        }
        Operation::CompareQueue => channel.queue_declare("queue".into(), queue_options(false), none()).await.map(drop),
        Operation::CompareExchange => {
            channel.exchange_declare("events".into(), topic, exchange_options(false), none()).await
        }
        Operation::MakeExchange => make_exchange(none()).await,
        Operation::MakeExchangeWithAlternate => make_exchange(argument("alternate-exchange", "dlx")).await,
        Operation::MakeQueueWithDeadLetters => make_queue(argument("x-dead-letter-exchange", "dlx")).await.map(drop),
        Operation::MakeSlotQueue => make_queue(argument("x-dead-letter-exchange", "")).await.map(drop),
        Operation::Bind => channel.queue_bind("queue".into(), "events".into(), "k".into(), bind, none()).await,
        Operation::Unbind => channel.queue_unbind("queue".into(), "events".into(), "k".into(), none()).await,
        Operation::Consume => {
            let options = lapin::options::BasicConsumeOptions::default();
            channel.basic_consume("queue".into(), "".into(), options, none()).await.map(drop)
        }
        Operation::Publish => publish(channel, "events", "k").await,
        Operation::PublishByName => publish(channel, "", "queue").await,
    }
}

/// The rights of the table, and the same with one of them taken away, each for a user of its own. From 4.3 on a look wants
/// any right on what it looks for.
fn users(version: Version) -> Vec<(Operation, [&'static str; 3], bool)> {
    let mut users = Vec::new();
    let looks_want_a_right = version >= Version::new(4, 3, 0);
    for (operation, rights) in NEEDS {
        if looks_want_a_right && matches!(operation, Operation::LookForQueue | Operation::LookForExchange) {
            let object = if matches!(operation, Operation::LookForQueue) { "queue" } else { "events" };
            users.extend([[object, "", ""], ["", object, ""], ["", "", object]].map(|any| (operation, any, true)));
            users.push((operation, ["", "", ""], false));
            continue;
        }
        users.push((operation, rights, true));
        for at in (0..3).filter(|at| !rights[*at].is_empty()) {
            let mut less = rights;
            less[at] = "";
            users.push((operation, less, false));
        }
    }
    users
}

/// Makes all users in one call: each call of `rabbitmqctl` starts a whole runtime.
async fn make_users(node: &BrokerHandle, vhost: &str, users: &[(Operation, [&str; 3], bool)]) {
    let made = users.iter().enumerate().map(|(number, (_, rights, _))| {
        let [configure, write, read] = rights.map(|name| format!("<<\"^{}$\">>", name.replace('.', "[.]")));
        let name = format!("<<\"{vhost}-{number}\">>");
        format!(
            "rabbit_auth_backend_internal:add_user({name}, <<\"{SECRET}\">>, <<\"test\">>), \
             rabbit_auth_backend_internal:set_permissions({name}, <<\"{vhost}\">>, {configure}, {write}, {read}, <<\"test\">>)"
        )
    });
    node.ctl(&["eval", &format!("{}.", made.collect::<Vec<_>>().join(", "))]).await;
}

fn page() -> String {
    std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/rights.md")).expect("the page")
}

impl Operation {
    /// Its row on the page, and what the page calls the objects of [`NEEDS`] there.
    const fn row(self) -> (&'static str, &'static [(&'static str, &'static str)]) {
        const EXCHANGE: (&str, &str) = ("events", "the exchange");
        const QUEUE: (&str, &str) = ("queue", "the queue");
        const BY_NAME: (&str, &str) = ("amq.default", "`amq.default`");
        match self {
            Self::LookForQueue | Self::LookForExchange => ("look whether a queue or an exchange is there", &[]),
            Self::CompareQueue => ("compare an existing queue or exchange (`create`)", &[("queue", "the object")]),
            Self::CompareExchange => ("compare an existing queue or exchange (`create`)", &[("events", "the object")]),
            Self::MakeExchange => ("make an exchange", &[("new", "the exchange")]),
            Self::MakeExchangeWithAlternate => (
                "make an exchange with an alternate exchange",
                &[("new", "the exchange"), ("dlx", "the alternate exchange")],
            ),
            Self::MakeQueueWithDeadLetters => (
                "make a queue with a dead-letter exchange, as Sidebus always does",
                &[("new", "the queue"), ("dlx", "the dead-letter exchange")],
            ),
            Self::MakeSlotQueue => ("make a delay slot", &[("new", "the slot"), BY_NAME]),
            Self::Bind | Self::Unbind => ("bind or unbind a queue", &[QUEUE, EXCHANGE]),
            Self::Consume => ("consume a queue", &[QUEUE]),
            Self::Publish => ("publish, also retries and dead letters", &[EXCHANGE]),
            Self::PublishByName => ("publish to a queue by its name", &[BY_NAME]),
        }
    }
}

#[test]
fn the_table_of_the_page_is_the_one_that_is_tried() {
    let tried: BTreeSet<String> = NEEDS
        .into_iter()
        .map(|(operation, rights)| {
            let (row, words) = operation.row();
            let word = |name: &str| match words.iter().find(|(object, _)| *object == name) {
                Some((_, word)) => *word,
                None if name.is_empty() => "–",
                None => panic!("no word for {name}"),
            };
            format!("| {row} | {} |", rights.map(word).join(" | "))
        })
        .collect();
    let page = page();
    let written: BTreeSet<String> =
        page.lines().filter(|line| line.starts_with("| ")).skip(1).map(str::to_owned).collect();
    assert_eq!(written, tried);
}

#[tokio::test]
async fn each_operation_needs_the_rights_of_the_table_and_no_others() {
    let node = nodes::managed().await;
    let vhost = node.virtual_host().await;
    let amqp = Scene::on(node.url(("guest", "guest"), &vhost)).amqp().await;
    amqp.exchange("events", ExchangeKind::Topic).await;
    amqp.exchange("dlx", ExchangeKind::Fanout).await;
    amqp.declare("queue", FieldTable::default()).await;
    let bind = lapin::options::QueueBindOptions { nowait: false };
    let users = users(rabbitmq::shared().await.version().await);
    make_users(node, &vhost, &users).await;
    for (number, (operation, rights, is_enough)) in users.into_iter().enumerate() {
        let bound = amqp.channel.queue_bind("queue".into(), "events".into(), "k".into(), bind, FieldTable::default());
        bound.await.expect("a route for what is published");
        let url = node.url((&format!("{vhost}-{number}"), SECRET), &vhost);
        let connection = Connection::connect(&url, ConnectionProperties::default()).await.expect("a login");
        let channel = connection.create_channel().await.expect("a channel");
        let done = carry_out(&channel, operation).await;
        let refused = done.as_ref().is_err_and(|error| error.to_string().contains("ACCESS_REFUSED"));
        assert_eq!((done.is_ok(), refused), (is_enough, !is_enough), "{operation:?} {rights:?}: {done:?}");
        let _ = connection.close(200, "done".into()).await;
        let _ = amqp.channel.queue_delete("new".into(), lapin::options::QueueDeleteOptions::default()).await;
        let _ = amqp.channel.exchange_delete("new".into(), lapin::options::ExchangeDeleteOptions::default()).await;
    }
}

/// Where each stands among the commands of the page.
const CREATE: usize = 0;
const VERIFY: usize = 1;
const PUBLISH_ONLY: usize = 2;
const CONSUME_ONLY: usize = 3;
const ROUTING_KEYS: usize = 4;

/// The commands of the page, for a user and a virtual host of this test.
fn commands(user: &str, vhost: &str) -> Vec<Vec<String>> {
    let page = page();
    let command = |line: &str| {
        let words = line.strip_prefix("rabbitmqctl ")?.replace(" -p orders app ", &format!(" -p {vhost} {user} "));
        Some(words.split(' ').map(|word| word.trim_matches('\'').to_owned()).collect())
    };
    page.lines().filter_map(command).collect()
}

async fn run(node: &BrokerHandle, command: &[String]) {
    node.ctl(&command.iter().map(String::as_str).collect::<Vec<_>>()).await;
}

const SETTINGS: &str = "[queues.work]\nqueue = \"billing.work\"\nbindings = [\"player.#\"]\n";

async fn sidecar(url: &str, topology: &str, scene: &Scene) -> Sidecar {
    let settings = format!("[bus.amqp]\nurl = \"{url}\"\ntopology = \"{topology}\"\n{SETTINGS}");
    let sidecar = Sidecar::from_file(&settings, scene).await;
    sidecar.ready().await;
    sidecar
}

/// Publishing, consuming, a retry and a dead letter.
async fn work(sidecar: &Sidecar) {
    let mut handler = sidecar.handler().await;
    handler.state(v1::SubscriptionState::Active, 0).await;
    let event = |id| v1::Message { routing_key: "player.Moved".to_owned(), ..crate::support::publisher::numbered(id) };
    sidecar.publisher().await.publish(vec![event(0), event(1)]).await.expect("both are stored");
    let deliveries = handler.deliveries(2).await;
    handler.retry(&deliveries[0]).await;
    handler.dead_letter(&deliveries[1]).await;
    let again = handler.delivery().await;
    assert_eq!((number(&again), again.attempt), (0, 2));
    assert_eq!(message(&again).exchange, "angzarr.events");
    handler.ack(&[again]).await;
    handler.leave().await;
}

/// Whatever everybody shares, and what only more rights can make.
async fn premade(node: &BrokerHandle, vhost: &str, scene: &Scene) {
    let mut maker = sidecar(&node.url(("guest", "guest"), vhost), "create", scene).await;
    work(&maker).await;
    assert_eq!(maker.process.stop().await, Some(0));
}

#[tokio::test]
async fn a_user_who_may_configure_its_own_names_only_can_do_everything() {
    let node = nodes::managed().await;
    let (vhost, user) = (node.virtual_host().await, rabbitmq::prefix());
    let scene = Scene::on(node.url(("guest", "guest"), &vhost));
    let amqp = scene.amqp().await;
    amqp.exchange("angzarr.events", ExchangeKind::Topic).await;
    amqp.exchange("angzarr.dlx", ExchangeKind::Fanout).await;
    amqp.declare("angzarr.dlq", FieldTable::default()).await;
    node.ctl(&["add_user", &user, SECRET]).await;
    let commands = commands(&user, &vhost);
    assert_eq!(commands.len(), 5, "{commands:?}");
    run(node, &commands[CREATE]).await;
    run(node, &commands[ROUTING_KEYS]).await;

    let mut sidecar = sidecar(&node.url((&user, SECRET), &vhost), "create", &scene).await;
    work(&sidecar).await;
    amqp.wait_for_depth("angzarr.dlq", 1).await;
    amqp.wait_for_depth("billing.work", 0).await;
    let unseen = |line: &&String| line.contains("adopted: ") && line.contains("it cannot be seen");
    let log = sidecar.process.log();
    let unseen: Vec<&String> = log.iter().filter(unseen).collect();
    for object in ["exchange angzarr.events", "exchange angzarr.dlx", "queue angzarr.dlq"] {
        assert_eq!(
            unseen.iter().filter(|line| line.contains(&format!("\"object\":\"{object}\""))).count(),
            1,
            "{object}: {unseen:?}"
        );
    }
    assert_eq!(sidecar.process.stop().await, Some(0));
}

#[tokio::test]
async fn a_user_without_any_right_to_configure_can_work_where_all_was_made_before() {
    let node = nodes::managed().await;
    let (vhost, user) = (node.virtual_host().await, rabbitmq::prefix());
    let scene = Scene::on(node.url(("guest", "guest"), &vhost));
    premade(node, &vhost, &scene).await;
    node.ctl(&["add_user", &user, SECRET]).await;
    run(node, &commands(&user, &vhost)[VERIFY]).await;

    let mut sidecar = sidecar(&node.url((&user, SECRET), &vhost), "verify", &scene).await;
    work(&sidecar).await;
    scene.amqp().await.wait_for_depth("angzarr.dlq", 2).await;
    assert_eq!(sidecar.process.stop().await, Some(0));
}

#[tokio::test]
async fn who_only_publishes_needs_write_on_the_exchange_of_events_alone() {
    let node = nodes::managed().await;
    let (vhost, user) = (node.virtual_host().await, rabbitmq::prefix());
    let scene = Scene::on(node.url(("guest", "guest"), &vhost));
    premade(node, &vhost, &scene).await;
    node.ctl(&["add_user", &user, SECRET]).await;
    run(node, &commands(&user, &vhost)[PUBLISH_ONLY]).await;

    let settings = format!("[bus.amqp]\nurl = \"{}\"\ntopology = \"verify\"\n", node.url((&user, SECRET), &vhost));
    let mut sidecar = Sidecar::from_file(&settings, &scene).await;
    sidecar.ready().await;
    let event = v1::Message { routing_key: "player.Moved".to_owned(), ..crate::support::publisher::numbered(7) };
    sidecar.publisher().await.publish(vec![event]).await.expect("it is stored");
    scene.amqp().await.wait_for_depth("billing.work", 1).await;
    assert_eq!(sidecar.process.stop().await, Some(0));
}

#[tokio::test]
async fn who_only_consumes_needs_no_right_on_the_exchange_of_events() {
    let node = nodes::managed().await;
    let (vhost, user) = (node.virtual_host().await, rabbitmq::prefix());
    let scene = Scene::on(node.url(("guest", "guest"), &vhost));
    premade(node, &vhost, &scene).await;
    let amqp = scene.amqp().await;
    for _ in 0..2 {
        publish(&amqp.channel, "angzarr.events", "player.Moved").await.expect("it is stored");
    }
    node.ctl(&["add_user", &user, SECRET]).await;
    run(node, &commands(&user, &vhost)[CONSUME_ONLY]).await;

    let mut sidecar = sidecar(&node.url((&user, SECRET), &vhost), "verify", &scene).await;
    let mut handler = sidecar.handler().await;
    let deliveries = handler.deliveries(2).await;
    handler.retry(&deliveries[0]).await;
    handler.dead_letter(&deliveries[1]).await;
    let again = handler.delivery().await;
    assert_eq!(again.attempt, 2);
    handler.ack(&[again]).await;
    handler.leave().await;
    // One of those who made everything before, and this one.
    amqp.wait_for_depth("angzarr.dlq", 2).await;
    assert_eq!(sidecar.process.stop().await, Some(0));
}

#[tokio::test]
async fn a_right_that_is_missing_is_told_and_used_once_it_is_given() {
    let node = nodes::managed().await;
    let (vhost, user) = (node.virtual_host().await, rabbitmq::prefix());
    let scene = Scene::on(node.url(("guest", "guest"), &vhost));
    premade(node, &vhost, &scene).await;
    node.ctl(&["add_user", &user, SECRET]).await;
    let all = ".*";
    for (rights, expected) in [
        // To bind: write on the queue, read on the exchange. To consume: read on the queue.
        ([all, "^angzarr", all], "binding of queue billing.work"),
        ([all, all, "^(billing[.]|angzarr[.]dlx)"], "angzarr.events"),
        ([all, all, "^angzarr[.]"], "queue billing.work"),
    ] {
        node.ctl(&["set_permissions", "-p", &vhost, &user, rights[0], rights[1], rights[2]]).await;
        let mut sidecar = sidecar(&node.url((&user, SECRET), &vhost), "create", &scene).await;
        let mut handler = sidecar.handler().await;
        let is_told = |handler: &Handler| {
            handler.statuses.iter().any(|status| {
                status.state == i32::from(v1::SubscriptionState::Paused)
                    && status.description.contains("the broker refused")
                    && status.description.contains(expected)
            })
        };
        handler.until("the missing right is told", is_told).await;
        let seen = handler.statuses.len();
        node.ctl(&["set_permissions", "-p", &vhost, &user, all, all, all]).await;
        handler.state(v1::SubscriptionState::Active, seen).await;
        let said = sidecar.process.log().into_iter().filter(|line| line.contains("the topology does not fit")).count();
        assert_eq!(said, 1, "{rights:?}: {}", sidecar.process.said());
        assert_eq!(sidecar.process.stop().await, Some(0));
    }
}
