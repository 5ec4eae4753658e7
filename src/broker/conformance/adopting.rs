//! What exists already: compared with what was named, adopted with what it lacks, never harmed. Knows no backend.

use std::sync::Arc;

use super::Lab;
use super::scene::{Kind, Scene, bodies, within};
use crate::broker::{BrokerError, Confirm, Findings, Routing, Session};
use crate::domain::difference::{Difference, Examined, ObjectKind, ObjectState};
use crate::domain::message::{Headers, Value};
use crate::domain::name::{ExchangeName, QueueName};
use crate::domain::subscription::Binding;
use crate::domain::topology::{Exchange, ExchangeKind, Plan, Queue, Step, TopologyMode};

fn named(mut queue: Queue, keys: &[&str]) -> Queue {
    queue.named = keys.iter().map(|key| (*key).to_owned()).collect();
    queue
}

/// The classic queue of a lab under the name that a quorum one would have.
async fn premade(scene: &mut Scene, stem: &str, arguments: &[(&str, Value)]) -> QueueName {
    let mut queue = scene.described(stem, Kind::Classic, arguments);
    queue.name = scene.queue_name(stem);
    let name = queue.name.clone();
    scene.apply(TopologyMode::Create, vec![Step::Queue(queue)]).await.expect("the older queue");
    name
}

fn wanted(scene: &Scene, stem: &str, kind: Kind, arguments: &[(&str, Value)]) -> Queue {
    let name = scene.queue_name(stem);
    Queue { name, ..scene.described(stem, kind, arguments) }
}

async fn create(scene: &mut Scene, queue: &Queue) -> Result<Findings, BrokerError> {
    scene.apply(TopologyMode::Create, vec![Step::Queue(queue.clone())]).await
}

/// Keys of the differences of a mismatch, sorted.
fn mismatch(found: Result<Findings, BrokerError>, object: &str) -> Vec<Difference> {
    match found {
        Err(BrokerError::Mismatch { object: found, mut differences, reason: _ }) if found == object => {
            differences.sort_by(|a, b| a.key.cmp(&b.key));
            differences
        }
        other => panic!("expected a mismatch of {object}: {other:?}"),
    }
}

fn keys(differences: &[Difference]) -> Vec<&str> {
    let mut keys: Vec<&str> = differences.iter().map(|difference| difference.key.as_str()).collect();
    keys.sort_unstable();
    keys
}

/// All that a first plan adopts, which must be one object.
fn lacked(findings: Result<Findings, BrokerError>) -> Vec<Difference> {
    let findings = findings.expect("it is adopted");
    assert_eq!(findings.created, Vec::<String>::new());
    let [adopted] = findings.adopted.as_slice() else { panic!("one object: {findings}") };
    assert_eq!(adopted.unknown, None);
    adopted.lacks.clone()
}

pub(super) async fn a_queue_with_other_arguments_is_adopted_with_all_that_it_lacks(lab: Arc<dyn Lab>) {
    let mut scene = Scene::open(lab).await;
    let name = premade(&mut scene, "older", &[("x-message-ttl", Value::Int32(600_000))]).await;
    scene.fill(&name, ["kept"]).await;
    let defaults = [
        ("x-overflow", Value::text("reject-publish")),
        ("x-delivery-limit", Value::Int64(20)),
        ("x-dead-letter-exchange", Value::text("it's \"dlx\" but current is none")),
        ("x-dead-letter-strategy", Value::text("at-least-once")),
    ];
    let wish = wanted(&scene, "older", Kind::Quorum, &defaults);
    for _ in 0..2 {
        let lacks = lacked(create(&mut scene, &wish).await);
        let expected = [
            "x-dead-letter-exchange",
            "x-dead-letter-strategy",
            "x-delivery-limit",
            "x-message-ttl",
            "x-overflow",
            "x-queue-type",
        ];
        assert_eq!(keys(&lacks), expected);
        let ttl = lacks.iter().find(|difference| difference.key == "x-message-ttl").expect("told");
        assert_eq!((ttl.wanted.as_str(), ttl.found.as_str()), ("", "600000"));
    }
    let mut tap = scene.consume(&name, 10).await;
    assert_eq!(bodies(&tap.take(1).await), ["kept"]);
}

pub(super) async fn integers_of_another_width_and_an_absent_default_are_no_differences(lab: Arc<dyn Lab>) {
    let mut scene = Scene::open(lab).await;
    let mut older = wanted(&scene, "wide", Kind::Classic, &[("x-message-ttl", Value::Int32(600_000))]);
    older.arguments.remove("x-queue-type");
    create(&mut scene, &older).await.expect("the older queue");
    let arguments = [
        ("x-message-ttl", Value::Int64(600_000)),
        ("x-overflow", Value::text("drop-head")),
        ("x-single-active-consumer", Value::Bool(false)),
    ];
    let wish = wanted(&scene, "wide", Kind::Classic, &arguments);
    let all = ["x-message-ttl", "x-overflow", "x-single-active-consumer", "x-queue-type", "durable", "auto_delete"];
    assert_eq!(lacked(create(&mut scene, &named(wish, &all)).await), []);
}

pub(super) async fn every_named_key_that_differs_is_told_at_once(lab: Arc<dyn Lab>) {
    let mut scene = Scene::open(lab).await;
    let name = premade(&mut scene, "named", &[("x-message-ttl", Value::Int32(1_000))]).await;
    let arguments = [
        ("x-message-ttl", Value::Int64(2_000)),
        ("x-dead-letter-exchange", Value::text("dlx")),
        ("x-delivery-limit", Value::Int64(7)),
    ];
    let wish = wanted(&scene, "named", Kind::Quorum, &arguments);
    let all = ["x-queue-type", "x-message-ttl", "x-delivery-limit", "durable"];
    let differences = mismatch(create(&mut scene, &named(wish, &all)).await, &format!("queue {name}"));
    assert_eq!(keys(&differences), ["x-delivery-limit", "x-message-ttl", "x-queue-type"]);
    let ttl = &differences[1];
    assert_eq!((ttl.wanted.as_str(), ttl.found.as_str()), ("2000", "1000"));
}

pub(super) async fn a_mismatch_harms_nothing_and_is_over_when_it_is_mended(lab: Arc<dyn Lab>) {
    let mut scene = Scene::open(lab).await;
    let name = premade(&mut scene, "mended", &[]).await;
    scene.fill(&name, ["kept"]).await;
    let wish = named(wanted(&scene, "mended", Kind::Quorum, &[]), &["x-queue-type"]);
    for _ in 0..2 {
        mismatch(create(&mut scene, &wish).await, &format!("queue {name}"));
    }
    let mut tap = scene.consume(&name, 10).await;
    let taken = tap.take(1).await;
    assert_eq!(bodies(&taken), ["kept"]);
    tap.ack(taken).await;
    drop(tap);
    scene.lab.delete_queue(&name).await;
    let findings = create(&mut scene, &wish).await;
    assert_eq!(findings, Ok(Findings { created: vec![format!("queue {name}")], ..Findings::default() }));
    assert_eq!(lacked(create(&mut scene, &wish).await), []);
}

pub(super) async fn an_exchange_of_another_type_is_adopted_unless_its_type_is_named(lab: Arc<dyn Lab>) {
    let mut scene = Scene::open(lab).await;
    let name = scene.exchange("typed", ExchangeKind::Fanout).await;
    let mut wish = Exchange::durable(name.clone(), ExchangeKind::Topic);
    let found = scene.apply(TopologyMode::Create, vec![Step::Exchange(wish.clone())]).await;
    assert_eq!(keys(&lacked(found)), ["type"]);
    wish.named.insert("type".to_owned());
    let found = scene.apply(TopologyMode::Create, vec![Step::Exchange(wish)]).await;
    let [difference] = mismatch(found, &format!("exchange {name}")).try_into().expect("one difference");
    assert_eq!((difference.wanted.as_str(), difference.found.as_str()), ("\"topic\"", "\"fanout\""));
    // It takes publishes all the same.
    let message = scene.message(&name, "key", "optional");
    assert_eq!(scene.publish(vec![message], Routing::Optional).await, [Confirm::Stored]);
}

pub(super) async fn an_argument_of_an_exchange_is_compared(lab: Arc<dyn Lab>) {
    let mut scene = Scene::open(lab).await;
    let name = scene.exchange("argued", ExchangeKind::Direct).await;
    let mut wish = Exchange::durable(name.clone(), ExchangeKind::Fanout);
    wish.arguments.insert("alternate-exchange".to_owned(), Value::text("spare"));
    wish.durable = false;
    wish.named.extend(["alternate-exchange".to_owned(), "durable".to_owned()]);
    let found = scene.apply(TopologyMode::Create, vec![Step::Exchange(wish)]).await;
    assert_eq!(keys(&mismatch(found, &format!("exchange {name}"))), ["alternate-exchange", "durable"]);
}

pub(super) async fn a_queue_made_again_otherwise_is_compared_as_it_is_now(lab: Arc<dyn Lab>) {
    let mut scene = Scene::open(lab).await;
    let wish = wanted(&scene, "again", Kind::Quorum, &[("x-delivery-limit", Value::Int64(20))]);
    create(&mut scene, &wish).await.expect("made");
    assert_eq!(lacked(create(&mut scene, &wish).await), []);
    scene.lab.delete_queue(&wish.name).await;
    let name = premade(&mut scene, "again", &[]).await;
    assert_eq!(keys(&lacked(create(&mut scene, &wish).await)), ["x-delivery-limit", "x-queue-type"]);
    scene.lab.delete_queue(&name).await;
    create(&mut scene, &wish).await.expect("made as wished");
    assert_eq!(lacked(create(&mut scene, &wish).await), []);
}

pub(super) async fn of_two_sidecars_that_start_at_once_both_have_the_queue(lab: Arc<dyn Lab>) {
    let mut scene = Scene::open(lab).await;
    let other = scene.another_session().await;
    let one = wanted(&scene, "raced", Kind::Quorum, &[]);
    let two = wanted(&scene, "raced", Kind::Quorum, &[("x-message-ttl", Value::Int64(60_000))]);
    let plan = |queue: &Queue| Arc::new(Plan { mode: TopologyMode::Create, steps: vec![Step::Queue(queue.clone())] });
    let both = async { tokio::join!(scene.session.apply(plan(&one)), other.apply(plan(&two))) };
    let (one, two) = within("both plans", both).await;
    let (one, two) = (one.expect("it has the queue"), two.expect("it has the queue"));
    assert_eq!(one.created.len() + two.created.len(), 1, "{one}; {two}");
    assert_eq!(one.adopted.len() + two.adopted.len(), 1, "{one}; {two}");
    let adopted = one.adopted.first().or_else(|| two.adopted.first()).expect("one was later");
    assert_eq!(keys(&adopted.lacks), ["x-message-ttl"]);
}

fn binding(exchange: &ExchangeName, key: &str) -> Binding {
    Binding { exchange: exchange.clone(), routing_key: key.to_owned(), arguments: Headers::new() }
}

fn unbind(queue: &QueueName, exchange: &ExchangeName, key: &str) -> Step {
    Step::Unbind { queue: queue.clone(), exclusive: false, binding: binding(exchange, key) }
}

pub(super) async fn unbinding_takes_one_binding_away_and_needs_none(lab: Arc<dyn Lab>) {
    let mut scene = Scene::open(lab).await;
    let exchange = scene.exchange("unbound-x", ExchangeKind::Direct).await;
    let queue = scene.queue("unbound", Kind::Classic, &[]).await;
    scene.bind(&queue, &exchange, "old", &[]).await;
    scene.bind(&queue, &exchange, "new", &[]).await;
    let missing = scene.exchange_name("unbound-from-nothing");
    for exchange in [&exchange, &exchange, &missing] {
        let step = unbind(&queue, exchange, "old");
        scene.apply(TopologyMode::Create, vec![step]).await.expect("unbinding again is harmless");
    }
    let old = scene.message(&exchange, "old", "unrouted");
    let new = scene.message(&exchange, "new", "routed");
    let confirms = scene.publish(vec![old, new], Routing::Required).await;
    assert_eq!(confirms, [Confirm::Unroutable, Confirm::Stored]);
}

pub(super) async fn examining_tells_what_is_missing_and_touches_nothing(lab: Arc<dyn Lab>) {
    let mut scene = Scene::open(lab).await;
    let exchange = Exchange::durable(scene.exchange_name("looked-x"), ExchangeKind::Topic);
    let queue = scene.described("looked", Kind::Quorum, &[]);
    let bind = Step::Bind { queue: queue.name.clone(), exclusive: false, binding: binding(&exchange.name, "a.#") };
    let steps = vec![Step::Exchange(exchange.clone()), Step::Queue(queue.clone()), bind];
    let plan = Arc::new(Plan { mode: TopologyMode::Create, steps: steps.clone() });
    for _ in 0..2 {
        let seen = examine(&scene.session, &plan).await;
        assert_eq!(seen[..2].iter().map(|object| &object.state).collect::<Vec<_>>(), [&ObjectState::Missing; 2]);
        assert_eq!(seen[0].name, exchange.name.to_string());
        assert_eq!(
            seen.iter().map(|it| it.kind).collect::<Vec<_>>(),
            [ObjectKind::Exchange, ObjectKind::Queue, ObjectKind::Binding]
        );
        assert!(matches!(seen[2].state, ObjectState::Missing | ObjectState::Unknown(_)), "{:?}", seen[2]);
    }
    scene.apply(TopologyMode::Create, steps).await.expect("all is made");
    for object in examine(&scene.session, &plan).await {
        assert!(matches!(object.state, ObjectState::Same | ObjectState::Unknown(_)), "{object:?}");
    }
}

async fn examine(session: &Arc<dyn Session>, plan: &Arc<Plan>) -> Vec<Examined> {
    within("a look", session.examine(Arc::clone(plan))).await.expect("a look at everything")
}
