//! Order, windows and settlement: what was settled is gone, what was not comes back. Knows no backend.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::Lab;
use super::scene::{Kind, Scene, Tap, bodies, distinct_bodies, receipts, texts};
use crate::broker::{Settled, Settlement};

pub(super) async fn first_deliveries_keep_their_order(lab: Arc<dyn Lab>) {
    let mut scene = Scene::open(lab).await;
    for kind in Kind::BOTH {
        let queue = scene.queue("order", kind, &[]).await;
        scene.fill(&queue, 0..300).await;
        let mut tap = scene.consume(&queue, 50).await;
        let mut seen = Vec::new();
        while seen.len() < 300 {
            let taken = tap.take(50.min(300 - seen.len())).await;
            assert!(taken.iter().all(|delivery| !delivery.redelivered));
            seen.extend(bodies(&taken));
            tap.ack(taken).await;
        }
        assert_eq!(seen, texts(0..300), "{kind:?}");
    }
}

pub(super) async fn prefetch_bounds_the_unsettled_and_settling_refills(lab: Arc<dyn Lab>) {
    let mut scene = Scene::open(lab).await;
    for kind in Kind::BOTH {
        let queue = scene.queue("bounded", kind, &[]).await;
        scene.fill(&queue, 0..10).await;
        let mut small = scene.consume(&queue, 3).await;
        let mut first = small.take(3).await;
        // The rest can only come to the second consumer if the first was not sent more than its three.
        let mut large = scene.consume(&queue, 7).await;
        let rest = large.take(7).await;
        assert_eq!(bodies(&first), texts(0..3), "{kind:?}");
        assert_eq!(bodies(&rest), texts(3..10), "{kind:?}");

        // The second is full, so what comes now must be what the two settlements made room for.
        let held = first.pop();
        assert_eq!(small.ack(first).await, [Settled::Applied; 2]);
        scene.fill(&queue, 10..12).await;
        assert_eq!(bodies(&small.take(2).await), texts(10..12), "{kind:?}");
        drop(held);
    }
}

pub(super) async fn prefetch_may_be_larger_than_the_queue(lab: Arc<dyn Lab>) {
    let mut scene = Scene::open(lab).await;
    for kind in Kind::BOTH {
        let queue = scene.queue("roomy", kind, &[]).await;
        scene.fill(&queue, 0..3).await;
        let mut tap = scene.consume(&queue, 2_000).await;
        let taken = tap.take(3).await;
        assert_eq!(bodies(&taken), texts(0..3), "{kind:?}");
        assert_eq!(tap.ack(taken).await, [Settled::Applied; 3]);
        scene.assert_nothing_else(&queue, &mut tap).await;
    }
}

pub(super) async fn the_acked_is_gone_after_its_session(lab: Arc<dyn Lab>) {
    let mut scene = Scene::open(lab).await;
    for kind in Kind::BOTH {
        let queue = scene.queue("acked", kind, &[]).await;
        scene.fill(&queue, 0..5).await;
        let mut tap = scene.consume(&queue, 10).await;
        let taken = tap.take(5).await;
        assert_eq!(tap.ack(taken).await, [Settled::Applied; 5]);
        scene.cut().await;
        scene.assert_empty(&queue).await;
    }
}

pub(super) async fn the_unsettled_comes_back_as_redelivered_after_a_cut(lab: Arc<dyn Lab>) {
    let mut scene = Scene::open(lab).await;
    for kind in Kind::BOTH {
        let queue = scene.queue("unsettled", kind, &[]).await;
        scene.fill(&queue, 0..5).await;
        let mut tap = scene.consume(&queue, 3).await;
        let taken = tap.take(3).await;
        scene.cut().await;
        drop(taken);

        let mut again = scene.consume(&queue, 10).await;
        let back = again.take(5).await;
        assert_eq!(distinct_bodies(&back), texts(0..5).into_iter().collect());
        for delivery in &back {
            let was_out = ["0", "1", "2"].contains(&super::scene::body(&delivery.message).as_str());
            assert_eq!(delivery.redelivered, was_out, "{kind:?} {delivery:?}");
        }
        assert_eq!(again.ack(back).await, [Settled::Applied; 5]);
        scene.assert_nothing_else(&queue, &mut again).await;
    }
}

pub(super) async fn what_is_given_back_comes_again_as_redelivered(lab: Arc<dyn Lab>) {
    let mut scene = Scene::open(lab).await;
    for kind in Kind::BOTH {
        let queue = scene.queue("given-back", kind, &[]).await;
        scene.fill(&queue, ["only"]).await;
        let mut tap = scene.consume(&queue, 10).await;
        let taken = tap.take(1).await;
        assert!(!taken[0].redelivered);
        let before = taken[0].message.clone();
        assert_eq!(tap.give_back(taken).await, [Settled::Applied]);

        let again = tap.take(1).await;
        assert!(again[0].redelivered, "{kind:?}");
        assert_eq!(again[0].message.body, before.body);
        assert_eq!(again[0].message.properties.message_id, before.properties.message_id);
        assert_eq!(tap.ack(again).await, [Settled::Applied]);
        scene.assert_nothing_else(&queue, &mut tap).await;
    }
}

pub(super) async fn a_batch_with_holes_settles_what_it_names_and_nothing_else(lab: Arc<dyn Lab>) {
    let mut scene = Scene::open(lab).await;
    for kind in Kind::BOTH {
        let queue = scene.queue("holes", kind, &[]).await;
        scene.fill(&queue, 0..20).await;
        let mut tap = scene.consume(&queue, 20).await;
        let mut taken: Vec<Option<_>> = tap.take(20).await.into_iter().map(Some).collect();
        // A prefix, a middle run and single ones, named from the back to the front, in two batches.
        for named in [&[11, 2, 10, 0, 1][..], &[19, 4, 12, 7][..]] {
            let batch: Vec<_> = named.iter().filter_map(|n: &usize| taken[*n].take()).collect();
            let count = named.len();
            assert_eq!(tap.settle(receipts(batch, Settlement::Ack)).await, vec![Settled::Applied; count]);
        }
        let holes: BTreeSet<String> = bodies(&taken.into_iter().flatten().collect::<Vec<_>>()).into_iter().collect();
        assert_eq!(holes.len(), 11);

        scene.cut().await;
        let mut again = scene.consume(&queue, 20).await;
        let back = again.take(11).await;
        assert_eq!(distinct_bodies(&back), holes, "{kind:?}");
        again.ack(back).await;
        scene.assert_nothing_else(&queue, &mut again).await;
    }
}

pub(super) async fn a_mixed_batch_acks_and_gives_back_as_named(lab: Arc<dyn Lab>) {
    let mut scene = Scene::open(lab).await;
    for kind in Kind::BOTH {
        let queue = scene.queue("mixed", kind, &[]).await;
        scene.fill(&queue, 0..8).await;
        let mut tap = scene.consume(&queue, 8).await;
        let batch = tap.take(8).await.into_iter().enumerate().map(|(index, delivery)| {
            (delivery.receipt, if index % 2 == 0 { Settlement::Ack } else { Settlement::GiveBack })
        });
        let batch = batch.collect();
        assert_eq!(tap.settle(batch).await, [Settled::Applied; 8]);

        let back = tap.take(4).await;
        assert_eq!(distinct_bodies(&back), texts([1, 3, 5, 7]).into_iter().collect(), "{kind:?}");
        assert!(back.iter().all(|delivery| delivery.redelivered));
        tap.ack(back).await;
        scene.assert_nothing_else(&queue, &mut tap).await;
    }
}

pub(super) async fn two_consumers_share_a_queue_without_doubling(lab: Arc<dyn Lab>) {
    let mut scene = Scene::open(lab).await;
    for kind in Kind::BOTH {
        let queue = scene.queue("shared", kind, &[]).await;
        let mut one = scene.consume(&queue, 10).await;
        let other_session = scene.another_session().await;
        let mut two = Tap::on(&other_session, &queue, 10).await;
        scene.fill(&queue, 0..20).await;

        let (mut all, second) = tokio::join!(one.take(10), two.take(10));
        all.extend(second);
        assert_eq!(distinct_bodies(&all), texts(0..20).into_iter().collect(), "{kind:?}");
    }
}
