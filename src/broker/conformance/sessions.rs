//! The end of sessions: who hears of it, what becomes of receipts, lanes and deliveries. Knows no backend.

use std::sync::Arc;
use std::time::Duration;

use futures_util::{FutureExt as _, StreamExt as _};

use super::Lab;
use super::scene::{Kind, PATIENCE, Scene, bodies, closed, distinct_bodies, texts, within};
use crate::broker::{Confirm, LaneRole, Publication, Routing, SessionEvent, Settled};

pub(super) async fn events_tell_of_the_end_and_of_nothing_before(lab: Arc<dyn Lab>) {
    let scene = Scene::open(lab).await;
    let mut early = scene.session.events();
    let other = scene.session.events();
    let before = early.next().now_or_never();
    assert!(!matches!(before, Some(None | Some(SessionEvent::Closed(_)))), "{before:?}");

    scene.lab.break_sessions().await;
    closed(early).await;
    closed(other).await;
    closed(scene.session.events()).await;
}

/// failures.md L2.
pub(super) async fn a_new_session_works_after_a_cut(lab: Arc<dyn Lab>) {
    let mut scene = Scene::open(lab).await;
    let queue = scene.queue("reborn", Kind::Quorum, &[]).await;
    scene.fill(&queue, ["before"]).await;
    for _ in 0..3 {
        scene.cut().await;
    }
    scene.fill(&queue, ["after"]).await;
    let mut tap = scene.consume(&queue, 10).await;
    let taken = tap.take(2).await;
    assert_eq!(bodies(&taken), ["before", "after"]);
    assert_eq!(tap.ack(taken).await, [Settled::Applied; 2]);
}

/// failures.md L2.
pub(super) async fn receipts_of_a_lost_session_are_stale(lab: Arc<dyn Lab>) {
    let mut scene = Scene::open(lab).await;
    for kind in Kind::BOTH {
        let queue = scene.queue("stale", kind, &[]).await;
        scene.fill(&queue, 0..4).await;
        let mut old = scene.consume(&queue, 10).await;
        let mut taken = old.take(4).await;
        let given_back = taken.split_off(2);
        scene.cut().await;
        assert_eq!(old.ack(taken).await, [Settled::Stale; 2], "{kind:?}");
        assert_eq!(old.give_back(given_back).await, [Settled::Stale; 2], "{kind:?}");

        let mut new = scene.consume(&queue, 10).await;
        let back = new.take(4).await;
        assert_eq!(distinct_bodies(&back), texts(0..4).into_iter().collect(), "{kind:?}");
    }
}

/// failures.md L2.
pub(super) async fn a_cut_ends_arrivals_with_an_error(lab: Arc<dyn Lab>) {
    let mut scene = Scene::open(lab).await;
    let queue = scene.queue("cut", Kind::Classic, &[]).await;
    let mut tap = scene.consume(&queue, 10).await;
    scene.cut().await;
    tap.end().await;
    // Asked again, it says so again and does not hang.
    tap.end().await;
}

/// failures.md L2.
pub(super) async fn a_lane_of_a_lost_session_stores_nothing(lab: Arc<dyn Lab>) {
    let mut scene = Scene::open(lab).await;
    let queue = scene.queue("lost", Kind::Classic, &[]).await;
    let mut old = scene.session.lane(LaneRole::Settle).await.expect("a lane");
    assert!(old.is_open());
    scene.cut().await;

    let message = scene.message_to(&queue, "late");
    let confirms = within("a verdict", old.publish(vec![Publication { message, routing: Routing::Required }])).await;
    assert!(matches!(confirms[..], [Confirm::Lost | Confirm::NotSent(_)]), "{confirms:?}");
    assert!(!old.is_open());
    scene.assert_empty(&queue).await;
}

pub(super) async fn a_lost_session_refuses_new_work(lab: Arc<dyn Lab>) {
    let mut scene = Scene::open(lab).await;
    let queue = scene.queue("refusing", Kind::Classic, &[]).await;
    let lost = Arc::clone(&scene.session);
    scene.cut().await;
    let options = crate::broker::ConsumeOptions {
        prefetch: crate::broker::Prefetch::new(1),
        exclusive: false,
        own_connection: false,
    };
    assert!(within("a refusal", lost.consume(queue, options)).await.is_err());
    assert!(within("a refusal", lost.lane(LaneRole::Publish)).await.is_err());
}

pub(super) async fn close_gives_back_what_is_unsettled(lab: Arc<dyn Lab>) {
    let mut scene = Scene::open(lab).await;
    for kind in Kind::BOTH {
        let queue = scene.queue("closing", kind, &[]).await;
        scene.fill(&queue, 0..5).await;
        let mut tap = scene.consume(&queue, 4).await;
        let mut taken = tap.take(3).await;
        let first = vec![taken.remove(0)];
        assert_eq!(tap.ack(first).await, [Settled::Applied]);

        let events = scene.session.events();
        tokio::time::timeout(PATIENCE, scene.session.close(Duration::from_secs(5))).await.expect("close has a bound");
        closed(events).await;
        assert_eq!(tap.ack(taken).await, [Settled::Stale; 2], "{kind:?}");

        scene.reconnect().await;
        let mut again = scene.consume(&queue, 10).await;
        let back = again.take(4).await;
        assert_eq!(distinct_bodies(&back), texts(1..5).into_iter().collect(), "{kind:?}");
        assert_eq!(again.ack(back).await, [Settled::Applied; 4]);
        scene.assert_nothing_else(&queue, &mut again).await;
    }
}
