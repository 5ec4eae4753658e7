//! Plans against what is there already, and with few rights.

use std::collections::BTreeMap;
use std::sync::Arc;

use futures_util::future::{BoxFuture, FutureExt as _};
use secrecy::SecretString;
use sidebus::broker::amqp::{AmqpBroker, AmqpOptions, Inspect, Login, QueueReport};
use sidebus::broker::{Broker, BrokerError, Session, SessionId};
use sidebus::domain::difference::{FoundExchange, FoundQueue, ObjectState};
use sidebus::domain::message::Value;
use sidebus::domain::name::{ExchangeName, QueueName};
use sidebus::domain::subscription::Binding;
use sidebus::domain::topology::{Exchange, ExchangeKind, Plan, Queue, Step, TopologyMode};
use sidebus::domain::version::Version;

use crate::lab::{RabbitLab, declare};
use crate::support::rabbitmq;
use crate::support::scene::Scene;

/// A plan for one quorum queue.
fn quorum(lab: &RabbitLab, mode: TopologyMode) -> Arc<Plan> {
    let arguments = BTreeMap::from([("x-queue-type".to_owned(), Value::text("quorum"))]);
    let queue = Queue {
        name: lab.queue("work"),
        durable: true,
        auto_delete: false,
        exclusive: false,
        arguments,
        named: std::collections::BTreeSet::new(),
    };
    Arc::new(Plan { mode, steps: vec![Step::Queue(queue)] })
}

#[tokio::test]
async fn a_promised_queue_that_exists_as_classic_is_adopted() {
    let lab = RabbitLab::new().await;
    let session = lab.session().await;
    declare(&*session, &lab.queue("work")).await;
    let found = session.apply(quorum(&lab, TopologyMode::Create)).await.expect("it is adopted");
    assert_eq!(found.created, Vec::<String>::new());
    assert_eq!(found.adopted[0].object, format!("queue {}", lab.queue("work")));
}

#[tokio::test]
async fn of_sidecars_that_start_at_once_each_has_the_queue() {
    let lab = RabbitLab::new().await;
    let (one, two) = tokio::join!(lab.session(), lab.session());
    declare(&*one, &lab.queue("other")).await;
    let plan = quorum(&lab, TopologyMode::Create);
    let both = tokio::join!(one.apply(Arc::clone(&plan)), two.apply(plan));
    assert!(both.0.is_ok() && both.1.is_ok(), "{both:?}");
}

#[tokio::test]
async fn an_exchange_that_is_deleted_while_it_is_compared_is_never_made_again_as_it_was() {
    let lab = RabbitLab::new().await;
    let session = lab.session().await;
    let scene = Scene::new().await;
    let amqp = scene.amqp().await;
    for number in 0..200_usize {
        let name = scene.name(&format!("deleted-{number}"));
        amqp.exchange(&name, lapin::ExchangeKind::Direct).await;
        let mut wish = Exchange::durable(ExchangeName::from_broker(&name), ExchangeKind::Fanout);
        wish.named.insert("type".to_owned());
        let plan = Arc::new(Plan { mode: TopologyMode::Create, steps: vec![Step::Exchange(wish)] });
        let delete = async {
            // Round trips, so that it falls between other steps of the look each time.
            for _ in 0..number % 12 {
                assert_eq!(amqp.depth(&scene.name("none")).await, None);
            }
            amqp.delete_exchange(&name).await;
        };
        let _ = tokio::join!(session.apply(Arc::clone(&plan)), delete);
        let after = session.apply(plan).await;
        assert!(after.is_ok(), "{number}: {after:?}");
        amqp.delete_exchange(&name).await;
    }
}

/// The login of a user with these rights on everything: configure, write, read; `None` = users can be made on a private
/// broker only.
async fn user(rights: [&str; 3]) -> Option<AmqpOptions> {
    let shared = rabbitmq::shared().await;
    let node = shared.node.as_ref()?;
    let user = rabbitmq::prefix();
    node.ctl(&["add_user", &user, "secret"]).await;
    let [configure, write, read] = rights;
    node.ctl(&["set_permissions", &user, configure, write, read]).await;
    let (username, password) = (SecretString::from(user), SecretString::from("secret"));
    Some(AmqpOptions { login: Login::Password { username, password }, ..shared.options() })
}

const SKIPPED: &str = "skipped: users can be made on a private broker only";

#[tokio::test]
async fn without_a_right_to_configure_verify_finds_what_exists_and_create_makes_nothing() {
    let Some(options) = user(["^$", ".*", ".*"]).await else {
        println!("{SKIPPED}");
        return;
    };
    let lab = RabbitLab::new().await;
    let session = AmqpBroker::new(options).connect(SessionId(1)).await.expect("a session");
    let verified = session.apply(quorum(&lab, TopologyMode::Verify)).await;
    assert!(matches!(verified, Err(BrokerError::Missing { .. })), "{verified:?}");
    let created = session.apply(quorum(&lab, TopologyMode::Create)).await;
    assert!(matches!(created, Err(BrokerError::AccessRefused { .. })), "{created:?}");
    declare(&*lab.session().await, &lab.queue("work")).await;
    let found = session.apply(quorum(&lab, TopologyMode::Verify)).await.expect("it exists now");
    assert_eq!(found.adopted[0].object, format!("queue {}", lab.queue("work")));
}

#[tokio::test]
async fn what_a_user_may_not_look_for_counts_as_unknown_and_is_used() {
    let Some(options) = user(["^$", "^$", "^$"]).await else {
        println!("{SKIPPED}");
        return;
    };
    if rabbitmq::shared().await.version().await < Version::new(4, 3, 0) {
        println!("skipped: this release lets everybody look");
        return;
    }
    let lab = RabbitLab::new().await;
    let session = AmqpBroker::new(options).connect(SessionId(1)).await.expect("a session");
    for mode in [TopologyMode::Verify, TopologyMode::Create] {
        let found = session.apply(quorum(&lab, mode)).await;
        let adopted = found.expect("nobody can tell that it is missing").adopted;
        let unknown = adopted[0].unknown.as_deref().expect("it was not seen");
        assert!(unknown.contains("it may be missing") && unknown.contains("configure access"), "{unknown}");
    }
}

#[tokio::test]
async fn without_any_right_the_management_api_tells_what_is_missing_and_what_differs() {
    let Some(options) = user(["^$", "^$", "^$"]).await else {
        println!("{SKIPPED}");
        return;
    };
    let lab = RabbitLab::new().await;
    let seeing = async |queue| {
        let told = Told { queue: Ok(queue), bindings: Ok(None) };
        let broker = AmqpBroker::new(options.clone()).inspected_by(Arc::new(told));
        broker.connect(SessionId(1)).await.expect("a session")
    };

    let session = seeing(None).await;
    let verified = session.apply(quorum(&lab, TopologyMode::Verify)).await;
    assert!(matches!(verified, Err(BrokerError::Missing { .. })), "{verified:?}");
    let created = session.apply(quorum(&lab, TopologyMode::Create)).await;
    assert!(matches!(created, Err(BrokerError::AccessRefused { .. })), "{created:?}");
    let seen = session.examine(quorum(&lab, TopologyMode::Verify)).await.expect("a look");
    assert_eq!(seen[0].state, ObjectState::Missing);

    declare(&*lab.session().await, &lab.queue("work")).await;
    let classic = FoundQueue { durable: true, auto_delete: false, exclusive: false, arguments: BTreeMap::new() };
    let session = seeing(Some(classic)).await;
    for mode in [TopologyMode::Verify, TopologyMode::Create] {
        let adopted = session.apply(quorum(&lab, mode)).await.expect("it is adopted").adopted;
        assert_eq!((adopted[0].lacks[0].key.as_str(), adopted[0].unknown.as_deref()), ("x-queue-type", None));
    }
}

/// Sees what a test tells it.
#[derive(Debug)]
struct Told {
    queue: Result<Option<FoundQueue>, String>,
    bindings: Result<Option<Vec<Binding>>, String>,
}

impl Inspect for Told {
    fn exchange<'a>(&'a self, _: &'a ExchangeName) -> BoxFuture<'a, Result<Option<FoundExchange>, String>> {
        std::future::ready(Err("nobody asked".to_owned())).boxed()
    }

    fn queue<'a>(&'a self, _: &'a QueueName) -> BoxFuture<'a, Result<Option<QueueReport>, String>> {
        let report = |queue| QueueReport { queue, policy: None };
        std::future::ready(self.queue.clone().map(|found| found.map(report))).boxed()
    }

    fn bindings<'a>(&'a self, _: &'a QueueName) -> BoxFuture<'a, Result<Option<Vec<Binding>>, String>> {
        std::future::ready(self.bindings.clone()).boxed()
    }
}

#[tokio::test]
async fn whoever_sees_objects_whole_is_believed_and_else_the_broker_is_asked() {
    let lab = RabbitLab::new().await;
    declare(&*lab.session().await, &lab.queue("work")).await;
    let named = |mode| {
        let mut plan = Arc::unwrap_or_clone(quorum(&lab, mode));
        if let Some(Step::Queue(queue)) = plan.steps.first_mut() {
            queue.named.insert("x-queue-type".to_owned());
        }
        let exchange = ExchangeName::from_broker("amq.topic");
        let key =
            |key: &str| Binding { exchange: exchange.clone(), routing_key: key.to_owned(), arguments: BTreeMap::new() };
        let queue = lab.queue("work");
        plan.steps.push(Step::Unbind { queue: queue.clone(), exclusive: false, binding: key("old") });
        plan.steps.push(Step::Bind { queue, exclusive: false, binding: key("new") });
        (Arc::new(plan), key("old"))
    };
    let (verify, old) = named(TopologyMode::Verify);
    let (create, _) = named(TopologyMode::Create);
    let arguments = BTreeMap::from([("x-queue-type".to_owned(), Value::text("quorum"))]);
    let quorum = FoundQueue { durable: true, auto_delete: false, exclusive: false, arguments };
    let classic = FoundQueue { arguments: BTreeMap::new(), ..quorum.clone() };
    let with = async |queue| with(Told { queue, bindings: Ok(Some(vec![old.clone()])) }).await;

    let session = with(Ok(Some(classic))).await;
    let found = session.apply(Arc::clone(&verify)).await;
    assert!(matches!(&found, Err(BrokerError::Mismatch { differences, .. }) if differences.len() == 1), "{found:?}");
    let states: Vec<ObjectState> =
        session.examine(Arc::clone(&verify)).await.expect("a look").into_iter().map(|one| one.state).collect();
    assert!(matches!(&states[0], ObjectState::Different(_)), "{states:?}");
    assert_eq!(states[1..], [ObjectState::Extra, ObjectState::Missing]);

    let session = with(Ok(Some(quorum))).await;
    assert_eq!(session.apply(Arc::clone(&verify)).await.expect("as named").adopted[0].unknown, None);

    // Nobody can tell: unknown where nothing may be declared, found out by a declaration where it may.
    let session = with(Err("no answer".to_owned())).await;
    let adopted = session.apply(verify).await.expect("adopted").adopted;
    assert_eq!(adopted[0].unknown.as_deref(), Some("no answer"));
    let found = session.apply(create).await;
    assert!(matches!(found, Err(BrokerError::Mismatch { .. })), "{found:?}");
}

/// A session of a broker of its own, with eyes that see what a test tells them.
async fn with(told: Told) -> Arc<dyn Session> {
    let broker = AmqpBroker::new(rabbitmq::shared().await.options()).inspected_by(Arc::new(told));
    broker.connect(SessionId(1)).await.expect("a session")
}

#[tokio::test]
async fn a_queue_that_the_management_api_does_not_know_is_asked_for_over_amqp_and_else_unknown() {
    let lab = RabbitLab::new().await;
    declare(&*lab.session().await, &lab.queue("work")).await;
    // As where its address is another cluster's, or has no such virtual host.
    let session = with(Told { queue: Ok(None), bindings: Ok(None) }).await;
    let (unnamed, named) = (quorum(&lab, TopologyMode::Create), |mode| {
        let mut plan = Arc::unwrap_or_clone(quorum(&lab, mode));
        let Some(Step::Queue(queue)) = plan.steps.first_mut() else { panic!("a queue") };
        queue.named.insert("x-queue-type".to_owned());
        let exchange = ExchangeName::from_broker("amq.topic");
        let binding = Binding { exchange, routing_key: "new".to_owned(), arguments: BTreeMap::new() };
        plan.steps.push(Step::Bind { queue: lab.queue("work"), exclusive: false, binding });
        Arc::new(plan)
    });

    let found = session.apply(unnamed).await.expect("it is adopted as it is");
    assert_eq!(found.adopted[0].lacks[0].key, "x-queue-type");
    let refused = session.apply(named(TopologyMode::Create)).await;
    assert!(
        matches!(&refused, Err(BrokerError::Mismatch { differences, .. }) if differences.len() == 1),
        "{refused:?}"
    );
    let found = session.apply(named(TopologyMode::Verify)).await.expect("it is there");
    let reason = found.adopted[0].unknown.as_deref().expect("nobody could tell");
    assert!(reason.contains("management API"), "{reason}");
    let seen = session.examine(named(TopologyMode::Verify)).await.expect("a look");
    for state in seen.iter().map(|one| &one.state) {
        assert!(matches!(state, ObjectState::Unknown(reason) if reason.contains("management API")), "{state:?}");
    }
    assert_eq!(seen.len(), 2);
}

#[tokio::test]
async fn what_is_not_there_is_missing_with_all_its_bindings() {
    let lab = RabbitLab::new().await;
    let session = with(Told { queue: Ok(None), bindings: Ok(None) }).await;
    let mut plan = Arc::unwrap_or_clone(quorum(&lab, TopologyMode::Verify));
    let exchange = ExchangeName::from_broker("amq.topic");
    let binding = Binding { exchange, routing_key: "new".to_owned(), arguments: BTreeMap::new() };
    plan.steps.push(Step::Bind { queue: lab.queue("work"), exclusive: false, binding });
    let seen = session.examine(Arc::new(plan)).await.expect("a look");
    assert_eq!(seen.into_iter().map(|one| one.state).collect::<Vec<_>>(), [ObjectState::Missing, ObjectState::Missing]);
}

#[tokio::test]
async fn an_exclusive_queue_is_examined_where_it_belongs_and_elsewhere_it_is_anothers() {
    let lab = RabbitLab::new().await;
    let arguments = BTreeMap::new();
    let own = FoundQueue { durable: true, auto_delete: false, exclusive: true, arguments: arguments.clone() };
    let told = || Told { queue: Ok(Some(own.clone())), bindings: Ok(Some(Vec::new())) };
    let (owner, other) = (with(told()).await, with(told()).await);
    let queue = Queue {
        name: lab.queue("own"),
        durable: true,
        auto_delete: false,
        exclusive: true,
        arguments,
        named: std::collections::BTreeSet::new(),
    };
    let plan = Arc::new(Plan { mode: TopologyMode::Create, steps: vec![Step::Queue(queue)] });
    owner.apply(Arc::clone(&plan)).await.expect("it is declared");
    assert_eq!(owner.examine(Arc::clone(&plan)).await.expect("a look")[0].state, ObjectState::Same);
    let seen = &other.examine(plan).await.expect("a look")[0].state;
    assert!(matches!(seen, ObjectState::Unknown(_)), "{seen:?}");
}
