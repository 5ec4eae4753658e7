//! Outcomes of publishing: each message gets its own, and only its own. Knows no backend.

use std::sync::Arc;

use super::Lab;
use super::scene::{Kind, Pace, Scene, bodies, texts, within};
use crate::broker::{BrokerError, Confirm, InOrder, Publication, Routing, Settled};
use crate::domain::message::Value;
use crate::domain::topology::{Exchange, ExchangeKind, Step, TopologyMode};

pub(super) async fn a_stored_batch_arrives_whole_and_in_order(lab: Arc<dyn Lab>) {
    let mut scene = Scene::open(lab).await;
    for kind in Kind::BOTH {
        let queue = scene.queue("batch", kind, &[]).await;
        scene.fill(&queue, 0..1_000).await;
        let mut tap = scene.consume(&queue, 1_000).await;
        let taken = tap.take(1_000).await;
        assert_eq!(bodies(&taken), texts(0..1_000), "{kind:?}");
        assert_eq!(tap.ack(taken).await, vec![Settled::Applied; 1_000]);
    }
}

pub(super) async fn only_the_unroutable_of_a_batch_are_reported_so(lab: Arc<dyn Lab>) {
    let mut scene = Scene::open(lab).await;
    let queue = scene.queue("routable", Kind::Classic, &[]).await;
    let exchange = scene.exchange("routable-x", ExchangeKind::Direct).await;
    scene.bind(&queue, &exchange, "here", &[]).await;
    for round in 0..3 {
        let lost = |index: usize| index % 8 == round;
        let batch = (0..256).map(|index| {
            let key = if lost(index) { "nowhere" } else { "here" };
            scene.message(&exchange, key, index.to_string())
        });
        let batch = batch.collect();
        let confirms = scene.publish(batch, Routing::Required).await;
        for (index, confirm) in confirms.iter().enumerate() {
            let expected = if lost(index) { Confirm::Unroutable } else { Confirm::Stored };
            assert_eq!(*confirm, expected, "message {index} of round {round}");
        }
        assert_eq!(confirms.len(), 256);
    }
    assert!(scene.lane.is_open());
    let mut tap = scene.consume(&queue, 2_000).await;
    let taken = tap.take(3 * 224).await;
    tap.ack(taken).await;
    scene.assert_nothing_else(&queue, &mut tap).await;
}

pub(super) async fn each_message_of_batches_that_overlap_has_its_own_outcome(lab: Arc<dyn Lab>) {
    const BATCHES: usize = 40;
    const BATCH: usize = 128;
    let mut scene = Scene::open(lab).await;
    for (kind, name) in [(Kind::Classic, "overlap-c"), (Kind::Quorum, "overlap-q")] {
        let queue = scene.queue(name, kind, &[]).await;
        let exchange = scene.exchange(&format!("{name}-x"), ExchangeKind::Direct).await;
        scene.bind(&queue, &exchange, "here", &[]).await;
        let is_lost = |number: usize| number % 8 == 3;
        let (mut written, mut told) = (0, InOrder::default());
        while told.known() < BATCHES * BATCH {
            while written < BATCHES && scene.lane.has_room() {
                let numbers = written * BATCH..(written + 1) * BATCH;
                let message = |number| scene.message(&exchange, if is_lost(number) { "nowhere" } else { "here" }, "");
                let messages: Vec<_> = numbers.map(message).collect();
                let batch = messages.into_iter().map(|message| Publication { message, routing: Routing::Required });
                within("a batch is written", scene.lane.write(batch.collect())).await;
                written += 1;
                assert!(written > 1 || scene.lane.has_room(), "a second batch may be on its way");
            }
            told.add(within("answers", scene.lane.answers()).await);
        }
        for (number, confirm) in told.into_confirms().into_iter().enumerate() {
            let expected = if is_lost(number) { Confirm::Unroutable } else { Confirm::Stored };
            assert_eq!(confirm, expected, "message {number}, {kind:?}");
        }
    }
}

pub(super) async fn an_optional_message_that_nobody_takes_counts_as_stored(lab: Arc<dyn Lab>) {
    let mut scene = Scene::open(lab).await;
    let exchange = scene.exchange("deaf", ExchangeKind::Topic).await;
    let batch = vec![scene.message(&exchange, "any.thing", "a"), scene.message(&exchange, "", "b")];
    assert_eq!(scene.publish(batch, Routing::Optional).await, [Confirm::Stored, Confirm::Stored]);
}

pub(super) async fn a_missing_exchange_hurts_no_neighbour(lab: Arc<dyn Lab>) {
    let mut scene = Scene::open(lab).await;
    let queue = scene.queue("neighbour", Kind::Classic, &[]).await;
    let missing = scene.exchange_name("missing-x");
    for routing in [Routing::Required, Routing::Optional] {
        let batch = vec![
            scene.message_to(&queue, "first"),
            scene.message(&missing, "any", "lost"),
            scene.message_to(&queue, "last"),
        ];
        let confirms = scene.publish(batch, routing).await;
        let expected = [Confirm::Stored, Confirm::ExchangeMissing(missing.clone()), Confirm::Stored];
        assert_eq!(confirms, expected, "{routing:?}");
        if !scene.lane.is_open() {
            scene.reconnect().await;
        }
    }
    let mut tap = scene.consume(&queue, 10).await;
    let taken = tap.take(4).await;
    assert_eq!(bodies(&taken), ["first", "last", "first", "last"]);
    tap.ack(taken).await;
    scene.assert_nothing_else(&queue, &mut tap).await;
}

/// Known to be internal by the plan that made it, by a comparison, or only by what the broker says of it.
pub(super) async fn an_internal_exchange_costs_its_neighbours_one_batch_at_most(lab: Arc<dyn Lab>) {
    let mut scene = Scene::open(lab).await;
    let queue = scene.queue("beside-internal", Kind::Classic, &[]).await;
    let name = scene.exchange_name("internal-x");
    let open = Exchange::durable(name.clone(), ExchangeKind::Fanout);
    let internal = Exchange { internal: true, ..open.clone() };
    for plan in [vec![Step::Exchange(internal)], vec![Step::Exchange(open)], Vec::new()] {
        let is_known = !plan.is_empty();
        scene.apply(TopologyMode::Create, plan).await.expect("an exchange like any other");
        for round in 0..3 {
            let text = format!("{is_known} {round}");
            let batch = vec![
                scene.message_to(&queue, format!("first {text}")),
                scene.message(&name, "any", "refused"),
                scene.message_to(&queue, format!("last {text}")),
            ];
            let confirms = scene.publish(batch, Routing::Optional).await;
            assert!(matches!(confirms[1], Confirm::NotSent(BrokerError::AccessRefused { .. })), "{text}: {confirms:?}");
            if is_known || round > 0 {
                assert_eq!((&confirms[0], &confirms[2]), (&Confirm::Stored, &Confirm::Stored), "{text}");
                assert!(scene.lane.is_open(), "{text}");
            }
            if !scene.lane.is_open() {
                scene.reopen_lane().await;
            }
        }
        scene.reconnect().await;
    }
}

pub(super) async fn a_full_queue_refuses_and_keeps_what_it_confirmed(lab: Arc<dyn Lab>) {
    let mut scene = Scene::open(lab).await;
    for kind in Kind::BOTH {
        let limits = [("x-max-length", Value::Int64(3)), ("x-overflow", Value::text("reject-publish"))];
        let queue = scene.queue("full", kind, &limits).await;
        // A quorum queue notices late that it is full: it may take a few more, but not for ever.
        let mut stored = Vec::new();
        let mut refused = 0;
        for number in 0..200 {
            let message = scene.message_to(&queue, number.to_string());
            match scene.publish(vec![message], Routing::Required).await.remove(0) {
                Confirm::Stored => stored.push(number.to_string()),
                Confirm::Refused => refused += 1,
                other @ (Confirm::Unroutable
                | Confirm::Lost
                | Confirm::TimedOut
                | Confirm::ExchangeMissing(_)
                | Confirm::NotSent(_)) => panic!("{other:?}"),
            }
            if refused == 5 {
                break;
            }
        }
        assert_eq!(refused, 5, "{kind:?} is never full");
        assert!(stored.len() >= 3, "{kind:?}");
        assert!(scene.lane.is_open(), "a refusal is no failure of the lane");

        let mut tap = scene.consume(&queue, 300).await;
        let taken = tap.take(stored.len()).await;
        assert_eq!(bodies(&taken), stored, "{kind:?}");
        tap.ack(taken).await;
        // And a quorum queue notices late that there is room again.
        let mut pace = Pace::until("there is room again");
        loop {
            let message = scene.message_to(&queue, "after");
            if scene.publish(vec![message], Routing::Required).await == [Confirm::Stored] {
                break;
            }
            pace.again().await;
        }
        assert_eq!(bodies(&tap.take(1).await), ["after"], "{kind:?}: a refused message was kept");
    }
}

pub(super) async fn a_refusal_by_one_queue_is_the_outcome_of_the_message(lab: Arc<dyn Lab>) {
    let mut scene = Scene::open(lab).await;
    let limits = [("x-max-length", Value::Int64(1)), ("x-overflow", Value::text("reject-publish"))];
    let full = scene.queue("one-full", Kind::Classic, &limits).await;
    let open = scene.queue("one-open", Kind::Classic, &[]).await;
    let exchange = scene.exchange("one-x", ExchangeKind::Fanout).await;
    scene.bind(&full, &exchange, "", &[]).await;
    scene.bind(&open, &exchange, "", &[]).await;
    let batch = (0..2).map(|n| scene.message(&exchange, "", n.to_string())).collect();
    assert_eq!(scene.publish(batch, Routing::Required).await, [Confirm::Stored, Confirm::Refused]);

    // The other queue may have it all the same: nothing undoes that.
    let mut tap = scene.consume(&open, 10).await;
    let taken = tap.take(2).await;
    assert_eq!(bodies(&taken), ["0", "1"]);
    tap.ack(taken).await;
}

pub(super) async fn an_empty_batch_has_no_outcomes(lab: Arc<dyn Lab>) {
    let mut scene = Scene::open(lab).await;
    assert_eq!(scene.publish(Vec::new(), Routing::Required).await, []);
    assert!(scene.lane.is_open());
}
