//! Plans: what is missing is declared, what exists is taken, and nothing that holds messages is harmed. Knows no backend.

use std::sync::Arc;

use super::Lab;
use super::scene::{Kind, Scene, bodies};
use crate::broker::{Adopted, BrokerError, Findings};
use crate::domain::message::Headers;
use crate::domain::subscription::Binding;
use crate::domain::topology::{Exchange, ExchangeKind, Step, TopologyMode};

/// An exchange, a queue and the binding between them; also what they are called in findings.
fn whole_plan(scene: &Scene, stem: &str) -> (Vec<Step>, Vec<String>) {
    let exchange = Exchange::durable(scene.exchange_name(&format!("{stem}-x")), ExchangeKind::Topic);
    let queue = scene.described(stem, Kind::Quorum, &[]);
    let objects = vec![format!("exchange {}", exchange.name), format!("queue {}", queue.name)];
    let binding = Binding { exchange: exchange.name.clone(), routing_key: "a.#".to_owned(), arguments: Headers::new() };
    let bind = Step::Bind { queue: queue.name.clone(), exclusive: false, binding };
    (vec![Step::Exchange(exchange), Step::Queue(queue), bind], objects)
}

pub(super) async fn a_plan_creates_once_and_adopts_ever_after(lab: Arc<dyn Lab>) {
    let mut scene = Scene::open(lab).await;
    let (steps, objects) = whole_plan(&scene, "planned");
    let first = scene.apply(TopologyMode::Create, steps.clone()).await;
    assert_eq!(first, Ok(Findings { created: objects.clone(), ..Findings::default() }));

    let exchange = scene.exchange_name("planned-x");
    let message = scene.message(&exchange, "a.b", "kept");
    scene.send(message).await;
    for _ in 0..2 {
        let again = scene.apply(TopologyMode::Create, steps.clone()).await;
        let adopted = objects.iter().cloned().map(Adopted::same).collect();
        assert_eq!(again, Ok(Findings { adopted, ..Findings::default() }));
    }
    scene.reconnect().await;
    let verified = scene.apply(TopologyMode::Verify, steps).await.expect("all is there");
    assert_eq!(verified.created, Vec::<String>::new());

    let queue = scene.described("planned", Kind::Quorum, &[]).name;
    let mut tap = scene.consume(&queue, 10).await;
    assert_eq!(bodies(&tap.take(1).await), ["kept"]);
}

pub(super) async fn verify_reports_what_is_missing_and_creates_nothing(lab: Arc<dyn Lab>) {
    let mut scene = Scene::open(lab).await;
    let (steps, objects) = whole_plan(&scene, "verified");
    for _ in 0..2 {
        for (step, object) in steps.iter().zip(&objects) {
            let found = scene.apply(TopologyMode::Verify, vec![step.clone()]).await;
            assert_eq!(found, Err(BrokerError::Missing { object: object.clone() }));
        }
    }
    // A failed look hurts neither the session nor the next plan.
    scene.apply(TopologyMode::Create, steps.clone()).await.expect("all is declared");
    scene.apply(TopologyMode::Verify, steps).await.expect("all is there");
}

pub(super) async fn off_asks_nothing(lab: Arc<dyn Lab>) {
    let mut scene = Scene::open(lab).await;
    let (steps, objects) = whole_plan(&scene, "unasked");
    assert_eq!(scene.apply(TopologyMode::Off, steps.clone()).await, Ok(Findings::default()));
    let found = scene.apply(TopologyMode::Verify, steps).await;
    assert_eq!(found, Err(BrokerError::Missing { object: objects[0].clone() }));
}

pub(super) async fn binding_what_is_missing_is_an_error_that_names_it(lab: Arc<dyn Lab>) {
    let mut scene = Scene::open(lab).await;
    let queue = scene.queue("bound", Kind::Classic, &[]).await;
    let exchange = scene.exchange_name("bound-to-nothing");
    let binding = Binding { exchange: exchange.clone(), routing_key: "a".to_owned(), arguments: Headers::new() };
    let step = Step::Bind { queue: queue.clone(), exclusive: false, binding };
    let refusal = scene.apply(TopologyMode::Create, vec![step.clone()]).await;
    assert_eq!(refusal, Err(BrokerError::Missing { object: format!("exchange {exchange}") }));

    let declared = Exchange::durable(exchange, ExchangeKind::Direct);
    let both = vec![Step::Exchange(declared), step];
    scene.apply(TopologyMode::Create, both).await.expect("the same binding, with its exchange before it");
}

pub(super) async fn binding_again_changes_nothing(lab: Arc<dyn Lab>) {
    let mut scene = Scene::open(lab).await;
    let exchange = scene.exchange("rebound-x", ExchangeKind::Direct).await;
    let queue = scene.queue("rebound", Kind::Classic, &[]).await;
    for _ in 0..3 {
        scene.bind(&queue, &exchange, "key", &[]).await;
    }
    let message = scene.message(&exchange, "key", "once");
    scene.send(message).await;
    let mut tap = scene.consume(&queue, 10).await;
    let taken = tap.take(1).await;
    tap.ack(taken).await;
    scene.assert_nothing_else(&queue, &mut tap).await;
}
