//! The life of a consumer: prefetch changes, cancelling, waiting in vain, a queue that goes away. Knows no backend.

use std::collections::BTreeSet;
use std::sync::Arc;

use futures_util::FutureExt as _;

use super::Lab;
use super::scene::{Kind, Pace, Scene, Tap, bodies, distinct_bodies, texts, within};
use crate::broker::{BrokerError, ConsumeOptions, Prefetch, Settled};
use crate::domain::topology::{Step, TopologyMode};

pub(super) async fn a_missing_queue_cannot_be_consumed(lab: Arc<dyn Lab>) {
    let mut scene = Scene::open(lab).await;
    let missing = scene.queue_name("nowhere");
    let options = ConsumeOptions { prefetch: Prefetch::new(1), exclusive: false, own_connection: false };
    let refusal = within("a refusal", scene.session.consume(missing.clone(), options)).await;
    assert!(matches!(refusal, Err(BrokerError::Missing { .. })), "{refusal:?}");

    // The session has not been hurt.
    let queue = scene.queue("somewhere", Kind::Classic, &[]).await;
    scene.assert_empty(&queue).await;
}

pub(super) async fn changing_the_prefetch_loses_and_doubles_nothing(lab: Arc<dyn Lab>) {
    let mut scene = Scene::open(lab).await;
    for kind in Kind::BOTH {
        let queue = scene.queue("elastic", kind, &[]).await;
        scene.fill(&queue, 0..20).await;
        let mut tap = scene.consume(&queue, 2).await;
        let mut in_flight = tap.take(2).await;

        tap.arrivals.set_prefetch(Prefetch::new(5)).await.expect("the prefetch rises");
        in_flight.extend(tap.take(3).await);
        tap.arrivals.set_prefetch(Prefetch::new(1)).await.expect("the prefetch falls");

        let mut seen = distinct_bodies(&in_flight);
        assert_eq!(tap.ack(in_flight).await, [Settled::Applied; 5], "{kind:?}: what was in flight stays settleable");
        while seen.len() < 20 {
            let next = tap.take(1).await;
            assert!(seen.insert(bodies(&next).remove(0)), "{kind:?}: {next:?} came twice");
            assert_eq!(tap.ack(next).await, [Settled::Applied]);
        }
        assert_eq!(seen, texts(0..20).into_iter().collect());
        scene.assert_nothing_else(&queue, &mut tap).await;
    }
}

pub(super) async fn a_lowered_prefetch_bounds_what_comes_next(lab: Arc<dyn Lab>) {
    let mut scene = Scene::open(lab).await;
    for kind in Kind::BOTH {
        let queue = scene.queue("lowered", kind, &[]).await;
        let mut small = scene.consume(&queue, 50).await;
        scene.fill(&queue, 0..5).await;
        let all = small.take(5).await;
        small.arrivals.set_prefetch(Prefetch::new(1)).await.expect("the prefetch falls");
        assert_eq!(small.ack(all).await, [Settled::Applied; 5]);

        scene.fill(&queue, 5..10).await;
        let first = small.take(1).await;
        // The others can only come to the second consumer if the first was sent no more than its one.
        let mut large = scene.consume(&queue, 4).await;
        let mut all = large.take(4).await;
        all.extend(first);
        assert_eq!(distinct_bodies(&all), texts(5..10).into_iter().collect(), "{kind:?}");
    }
}

pub(super) async fn cancel_keeps_receipts_good_and_hands_out_the_untaken(lab: Arc<dyn Lab>) {
    let mut scene = Scene::open(lab).await;
    for kind in Kind::BOTH {
        let queue = scene.queue("cancelled", kind, &[]).await;
        scene.fill(&queue, 0..10).await;
        let mut tap = scene.consume(&queue, 6).await;
        let taken = tap.take(2).await;
        let expected: BTreeSet<String> = texts(2..10).into_iter().collect();
        let untaken = tap.arrivals.cancel().await.expect("the consumer is cancelled");
        assert!(distinct_bodies(&untaken).is_subset(&expected), "{kind:?}");
        tap.give_back(untaken).await;

        let mut other = scene.consume(&queue, 20).await;
        let rest = other.take(8).await;
        assert_eq!(distinct_bodies(&rest), expected, "{kind:?}");
        assert_eq!(tap.ack(taken).await, [Settled::Applied; 2], "{kind:?}");
        assert_eq!(other.ack(rest).await, [Settled::Applied; 8]);
        let ended = within("the end of a cancelled consumer", tap.arrivals.next_batch(1)).await;
        assert!(ended.is_err(), "{kind:?}: {ended:?}");

        scene.cut().await;
        scene.assert_empty(&queue).await;
    }
}

/// A backend may serve a larger prefetch by several consumers: each may hold something then.
pub(super) async fn a_cancel_after_the_prefetch_has_grown_hands_out_all_that_nobody_took(lab: Arc<dyn Lab>) {
    let mut scene = Scene::open(lab).await;
    for kind in Kind::BOTH {
        let queue = scene.queue("grown", kind, &[]).await;
        let mut tap = scene.consume(&queue, 1).await;
        for prefetch in [4, 10] {
            tap.arrivals.set_prefetch(Prefetch::new(prefetch)).await.expect("the prefetch rises");
        }
        scene.fill(&queue, 0..11).await;
        // It is the eleventh's turn once ten are on their way to the first.
        let mut other = scene.consume(&queue, 1).await;
        let last = other.take(1).await;
        assert_eq!(bodies(&last), ["10"], "{kind:?}");
        let untaken = tap.arrivals.cancel().await.expect("the consumer is cancelled");
        assert_eq!(bodies(&untaken), texts(0..10), "{kind:?}: in their order");
        assert_eq!(tap.ack(untaken).await, [Settled::Applied; 10]);
        assert_eq!(other.ack(last).await, [Settled::Applied]);

        scene.cut().await;
        scene.assert_empty(&queue).await;
    }
}

pub(super) async fn a_deleted_queue_ends_arrivals_with_an_error(lab: Arc<dyn Lab>) {
    let mut scene = Scene::open(lab).await;
    for kind in Kind::BOTH {
        let queue = scene.queue("deleted", kind, &[]).await;
        scene.fill(&queue, 0..2).await;
        let mut tap = scene.consume(&queue, 10).await;
        let taken = tap.take(2).await;
        scene.lab.delete_queue(&queue).await;
        let error = tap.end().await;
        assert!(matches!(error, BrokerError::ConsumerCancelled { .. }), "{kind:?}: {error:?}");
        drop(taken);

        // The session lives on; the queue declared again is another one, and empty.
        let again = scene.queue("deleted", kind, &[]).await;
        assert_eq!(again, queue);
        scene.assert_empty(&queue).await;
    }
}

pub(super) async fn waiting_in_vain_loses_nothing(lab: Arc<dyn Lab>) {
    let mut scene = Scene::open(lab).await;
    let queue = scene.queue("patient", Kind::Classic, &[]).await;
    let mut tap = scene.consume(&queue, 100).await;
    let mut seen = Vec::new();
    for number in 0..30 {
        // Polled once and dropped, before and after something came.
        if let Some(batch) = tap.arrivals.next_batch(2).now_or_never() {
            seen.extend(bodies(&batch.expect("the consumer lives")));
        }
        scene.fill(&queue, [number]).await;
        if let Some(batch) = tap.arrivals.next_batch(2).now_or_never() {
            seen.extend(bodies(&batch.expect("the consumer lives")));
        }
    }
    // And dropped again and again while a publish is under way.
    for number in 30..60 {
        let looking = async {
            for _ in 0..5 {
                if let Some(batch) = tap.arrivals.next_batch(2).now_or_never() {
                    seen.extend(bodies(&batch.expect("the consumer lives")));
                }
                tokio::task::yield_now().await;
            }
        };
        tokio::join!(scene.fill(&queue, [number]), looking);
    }
    let rest = tap.take(60 - seen.len()).await;
    seen.extend(bodies(&rest));
    assert_eq!(seen, texts(0..60));
}

pub(super) async fn a_waiting_consumer_wakes_for_what_comes(lab: Arc<dyn Lab>) {
    let mut scene = Scene::open(lab).await;
    for kind in Kind::BOTH {
        let queue = scene.queue("waking", kind, &[]).await;
        let mut tap = scene.consume(&queue, 10).await;
        let message = scene.message_to(&queue, "late");
        let (taken, ()) = tokio::join!(tap.take(1), scene.send(message));
        assert_eq!(bodies(&taken), ["late"], "{kind:?}");
    }
}

pub(super) async fn a_batch_takes_all_that_is_there_within_its_room(lab: Arc<dyn Lab>) {
    let mut scene = Scene::open(lab).await;
    let queue = scene.queue("roomful", Kind::Classic, &[]).await;
    scene.fill(&queue, 0..40).await;
    let mut tap = scene.consume(&queue, 40).await;
    let mut sizes = Vec::new();
    let mut seen = Vec::new();
    while seen.len() < 40 {
        let batch = within("a batch", tap.arrivals.next_batch(7)).await.expect("the consumer lives");
        sizes.push(batch.len());
        seen.extend(bodies(&batch));
    }
    assert!(sizes.iter().all(|size| (1..=7).contains(size)), "{sizes:?}");
    assert_eq!(seen, texts(0..40));
}

pub(super) async fn an_auto_delete_queue_goes_with_its_last_consumer(lab: Arc<dyn Lab>) {
    let mut scene = Scene::open(lab).await;
    let mut queue = scene.described("fleeting", Kind::Classic, &[]);
    queue.auto_delete = true;
    let name = queue.name.clone();
    scene.apply(TopologyMode::Create, vec![Step::Queue(queue.clone())]).await.expect("the queue is declared");
    scene.fill(&name, ["kept while nobody has come"]).await;
    let mut tap = scene.consume(&name, 10).await;
    tap.take(1).await;
    drop(tap.arrivals.cancel().await.expect("the consumer is cancelled"));

    let mut pace = Pace::until("the queue is gone");
    while scene.apply(TopologyMode::Verify, vec![Step::Queue(queue.clone())]).await.is_ok() {
        pace.again().await;
    }
}

pub(super) async fn a_dropped_consumer_gives_back_what_it_held(lab: Arc<dyn Lab>) {
    let mut scene = Scene::open(lab).await;
    for kind in Kind::BOTH {
        let queue = scene.queue("dropped", kind, &[]).await;
        scene.fill(&queue, 0..6).await;
        let mut tap = scene.consume(&queue, 4).await;
        let taken = tap.take(2).await;
        drop(tap);
        drop(taken);

        let mut other = scene.consume(&queue, 10).await;
        let all = other.take(6).await;
        assert_eq!(distinct_bodies(&all), texts(0..6).into_iter().collect(), "{kind:?}");
    }
}

pub(super) async fn a_connection_of_its_own_makes_no_difference(lab: Arc<dyn Lab>) {
    let mut scene = Scene::open(lab).await;
    for kind in Kind::BOTH {
        let queue = scene.queue("apart", kind, &[]).await;
        scene.fill(&queue, 0..4).await;
        let options = ConsumeOptions { prefetch: Prefetch::new(1), exclusive: false, own_connection: true };
        let mut alone = Tap::with(&scene.session, &queue, options).await;
        let first = alone.take(1).await;
        alone.arrivals.set_prefetch(Prefetch::new(10)).await.expect("the prefetch rises");
        let mut others = scene.consume(&queue, 10).await;
        let mut rest = alone.take(3).await;
        assert_eq!(alone.ack(first).await, [Settled::Applied]);
        alone.arrivals.cancel().await.expect("a cancel");
        let one = rest.pop().expect("three came");
        assert_eq!(alone.give_back(vec![one]).await, [Settled::Applied]);
        assert_eq!(alone.ack(rest).await, [Settled::Applied; 2]);
        let last = others.take(1).await;
        assert!(last[0].redelivered, "{kind:?}: {last:?}");
        assert_eq!(others.ack(last).await, [Settled::Applied]);
        drop(others);
        scene.assert_empty(&queue).await;
    }
}
