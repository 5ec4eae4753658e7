//! What each release of RabbitMQ answers to a declaration: the ground of `domain::queue_rules::on_release`, whose rules are neither
//! stricter than the broker nor blind to what costs a connection.

use lapin::ErrorKind;
use lapin::options::QueueDeclareOptions;
use lapin::types::{AMQPValue, FieldTable};
use sidebus::domain::name::QueueName;
use sidebus::domain::queue_keys::{QueueKeys, Weight};
use sidebus::domain::queue_rules::on_release;
use sidebus::domain::subscription::QueueType;
use sidebus::domain::version::Version;

use crate::support::rabbitmq::{self, BrokerHandle};

/// How a broker answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Answer {
    Taken,
    /// 406; the channel is closed.
    Refused,
    /// 541; the connection is closed.
    Denied,
}
use Answer::{Denied, Refused, Taken};

/// One of a durable queue's three properties otherwise.
#[derive(Debug, Clone, Copy, Default)]
struct Properties {
    transient: bool,
    auto_delete: bool,
    exclusive: bool,
}

const DURABLE: Properties = Properties { transient: false, auto_delete: false, exclusive: false };

/// Declares a queue that nobody else has, on a connection of its own, and looks which of the two outlives it.
async fn answer(
    url: &str,
    properties: Properties,
    queue_type: QueueType,
    argument: Option<(&str, AMQPValue)>,
) -> Answer {
    let connection = lapin::Connection::connect(url, lapin::ConnectionProperties::default()).await.expect("a broker");
    let channel = connection.create_channel().await.expect("a channel");
    let Properties { transient, auto_delete, exclusive } = properties;
    let options = QueueDeclareOptions { passive: false, durable: !transient, exclusive, auto_delete, nowait: false };
    let kind = if queue_type == QueueType::Quorum { "quorum" } else { "classic" };
    let mut table = FieldTable::default();
    table.insert("x-queue-type".into(), AMQPValue::LongString(kind.into()));
    if let Some((name, value)) = argument {
        table.insert(name.into(), value);
    }
    let name = rabbitmq::prefix();
    let declared = channel.queue_declare(name.as_str().into(), options, table).await;
    let is_open = connection.create_channel().await.is_ok();
    let code = declared.as_ref().err().map(|error| {
        let ErrorKind::ProtocolError(amqp) = error.kind() else { panic!("{error:?}") };
        amqp.kind().get_id()
    });
    match (code, is_open) {
        (None, true) => Taken,
        (Some(406), true) => Refused,
        (Some(541), false) => Denied,
        other => panic!("{other:?}: {declared:?}"),
    }
}

/// The same wish in the words of the settings.
fn problems(properties: Properties, queue_type: QueueType, argument: Option<&str>, release: Version) -> usize {
    let value = || sidebus::domain::message::Value::text("any");
    let Properties { transient, auto_delete, exclusive } = properties;
    let keys = QueueKeys {
        queue_type: Some(queue_type),
        durable: Some(!transient),
        auto_delete: Some(auto_delete),
        exclusive: Some(exclusive),
        arguments: argument.map(|name| (name.to_owned(), value())).into_iter().collect(),
        ..QueueKeys::default()
    };
    let (queue, _) = keys.resolve(QueueName::parse("q").expect("a name"));
    on_release(&queue, release).iter().filter(|finding| finding.weight == Weight::Problem).count()
}

/// Column of the tables below.
fn series(release: Version) -> usize {
    match release {
        Version { major: ..4, .. } => 0,
        Version { major: 4, minor: ..3, .. } => 1,
        Version { .. } => 2,
    }
}

#[tokio::test]
async fn every_argument_is_taken_refused_or_denied_as_the_rules_say() {
    let shared = rabbitmq::shared().await;
    let (url, release) = (shared.url(), shared.version().await);
    let text = |text: &str| AMQPValue::LongString(text.into());
    let number = AMQPValue::LongLongInt;
    let (classic, quorum) = (QueueType::Classic, QueueType::Quorum);
    // On 3.10.8, 4.0.5 and 4.3.6.
    for (queue_type, name, value, expected) in [
        (classic, "x-queue-master-locator", text("min-masters"), [Taken, Taken, Denied]),
        (quorum, "x-queue-master-locator", text("min-masters"), [Refused; 3]),
        (classic, "x-queue-leader-locator", text("balanced"), [Refused, Taken, Taken]),
        (quorum, "x-queue-leader-locator", text("balanced"), [Taken; 3]),
        (classic, "x-consumer-timeout", number(2_000_000), [Taken, Taken, Refused]),
        (quorum, "x-consumer-timeout", number(2_000_000), [Taken; 3]),
        (classic, "x-queue-mode", text("lazy"), [Taken; 3]),
        (quorum, "x-queue-mode", text("lazy"), [Refused; 3]),
        (classic, "x-max-in-memory-length", number(5), [Refused; 3]),
        (quorum, "x-max-in-memory-length", number(5), [Taken; 3]),
        (quorum, "x-max-in-memory-bytes", number(5), [Taken; 3]),
        (classic, "x-queue-version", number(1), [Taken, Taken, Refused]),
        (classic, "x-queue-version", number(2), [Taken; 3]),
    ] {
        let found = answer(&url, DURABLE, queue_type, Some((name, value))).await;
        assert_eq!(found, expected[series(release)], "{queue_type:?} {name} on {release}");
        let problems = problems(DURABLE, queue_type, Some(name), release);
        assert!(problems == 0 || found != Taken, "{queue_type:?} {name}: the rules refuse what {release} takes");
        assert!(problems > 0 || found != Denied, "{queue_type:?} {name}: the rules do not know what {release} denies");
    }
}

/// Every way not to last that a classic queue has.
const FLEETING: [(Properties, Answer); 6] = [
    (Properties { transient: true, auto_delete: false, exclusive: false }, Denied),
    (Properties { transient: true, auto_delete: true, exclusive: false }, Denied),
    (Properties { transient: true, auto_delete: false, exclusive: true }, Taken),
    (Properties { transient: true, auto_delete: true, exclusive: true }, Taken),
    (Properties { transient: false, auto_delete: true, exclusive: false }, Taken),
    (Properties { transient: false, auto_delete: false, exclusive: true }, Taken),
];

#[tokio::test]
async fn queues_that_do_not_last_are_taken_by_every_release_and_refused_by_no_rule() {
    let shared = rabbitmq::shared().await;
    let (url, release) = (shared.url(), shared.version().await);
    for (properties, _) in FLEETING {
        assert_eq!(answer(&url, properties, QueueType::Classic, None).await, Taken, "{properties:?} on {release}");
        assert_eq!(problems(properties, QueueType::Classic, None, release), 0, "{properties:?} on {release}");
    }
}

/// Settings of a broker that denies more than its release does by itself.
pub(crate) const DENYING: &str = "deprecated_features.permit.transient_nonexcl_queues = false\n\
                                  deprecated_features.permit.queue_master_locator = false\n";

/// True where brokers have such settings: from 4.0 on.
pub(crate) async fn can_deny() -> bool {
    rabbitmq::shared().await.version().await >= Version::new(4, 0, 0)
}

#[tokio::test]
async fn a_broker_whose_settings_deny_queues_that_do_not_last_closes_the_connection() {
    if !can_deny().await {
        println!("skipped: this release cannot deny deprecated features");
        return;
    }
    let node = BrokerHandle::start_set(DENYING).await;
    let url = node.url(("guest", "guest"), "/");
    for (properties, expected) in FLEETING {
        assert_eq!(answer(&url, properties, QueueType::Classic, None).await, expected, "{properties:?}");
    }
    let locator = ("x-queue-master-locator", AMQPValue::LongString("min-masters".into()));
    assert_eq!(answer(&url, DURABLE, QueueType::Classic, Some(locator)).await, Denied);
}
