//! How much a handler gets, and which handler: windows, frames, large messages, shared work, copies.

use sidebus::grpc::proto::sidebus::v1;

use super::WORK;
use crate::support::eventually;
use crate::support::sidecar::Sidecar;
use crate::support::words::{ack, body, message, open, open_window, settle, window_bytes};

fn numbered(count: usize) -> Vec<v1::Message> {
    (0..count).map(|number| message("work.A", number.to_string())).collect()
}

fn ids(deliveries: &[v1::Delivery]) -> Vec<i64> {
    deliveries.iter().map(|delivery| delivery.id).collect()
}

#[tokio::test]
async fn messages_arrive_in_batches_and_in_order() {
    let sidecar = Sidecar::start(WORK).await;
    sidecar.publish(numbered(100)).await;
    let mut handler = sidecar.handler(open("work")).await;

    let deliveries = handler.deliveries(100).await;

    let bodies: Vec<String> = deliveries.iter().map(body).collect();
    assert_eq!(bodies, (0..100).map(|number| number.to_string()).collect::<Vec<_>>());
    assert!(deliveries.windows(2).all(|pair| pair[0].id < pair[1].id), "ids rise");
    assert!(deliveries.iter().all(|delivery| delivery.id < 1 << 53 && delivery.attempt == 1 && !delivery.redelivered));
    assert_eq!(handler.frames[0], 1, "frames begin with one message");

    // They grow with what the handler settles.
    sidecar.publish(numbered(100)).await;
    handler.say(settle(ids(&deliveries), ack())).await;
    handler.frames.clear();
    let more = handler.deliveries(100).await;
    assert_eq!(more.len(), 100);
    assert!(handler.frames.iter().all(|count| *count <= 64), "{:?}", handler.frames);
    assert!(handler.frames.len() < 10, "many in a frame: {:?}", handler.frames);
}

#[tokio::test]
async fn a_handler_may_ask_for_one_delivery_in_each_frame() {
    let sidecar = Sidecar::start(WORK).await;
    sidecar.publish(numbered(10)).await;
    let batch = Some(v1::BatchLimits { max_messages: 1, ..Default::default() });
    let mut handler = sidecar.handler(v1::SubscribeOpen { batch, ..open("work") }).await;
    handler.deliveries(10).await;
    assert_eq!(handler.frames, [1; 10]);
}

#[tokio::test]
async fn the_window_bounds_what_is_unsettled_and_what_the_broker_sends_ahead() {
    let sidecar = Sidecar::start(WORK).await;
    sidecar.publish(numbered(5)).await;
    let mut handler = sidecar.handler(open_window("work", 2)).await;

    let first = handler.deliveries(2).await;
    sidecar.holds("work", 3, 2).await;
    assert_eq!(handler.pending().await, []);

    handler.say(settle(ids(&first), ack())).await;
    handler.deliveries(2).await;
    sidecar.holds("work", 1, 2).await;
    assert_eq!(handler.pending().await, []);
}

#[tokio::test]
async fn the_window_in_bytes_bounds_what_is_unsettled() {
    let sidecar = Sidecar::start(WORK).await;
    sidecar.publish((0..4).map(|_| message("work.A", vec![b'x'; 400]))).await;
    let mut handler = sidecar.handler(v1::SubscribeOpen { flow: Some(window_bytes(1_000)), ..open("work") }).await;

    let first = handler.deliveries(2).await;
    // One came alone, and when its size was known one more.
    sidecar.holds("work", 2, 2).await;
    assert_eq!(handler.pending().await, []);

    handler.say(settle([first[0].id], ack())).await;
    handler.delivery().await;
    assert_eq!(handler.pending().await, []);
}

#[tokio::test]
async fn one_message_of_any_size_passes_an_empty_window() {
    let sidecar = Sidecar::start(WORK).await;
    sidecar.publish([message("work.A", vec![b'x'; 100_000]), message("work.A", "small")]).await;
    let mut handler = sidecar.handler(v1::SubscribeOpen { flow: Some(window_bytes(10)), ..open("work") }).await;
    let large = handler.delivery().await;
    sidecar.holds("work", 1, 1).await;
    assert_eq!(handler.pending().await, []);
    handler.say(settle([large.id], ack())).await;
    assert_eq!(body(&handler.delivery().await), "small");
}

#[tokio::test]
async fn a_window_of_zero_pauses_and_raising_it_resumes() {
    let sidecar = Sidecar::start(WORK).await;
    let mut handler = sidecar.handler(open_window("work", 0)).await;
    sidecar.publish(numbered(3)).await;
    assert_eq!(handler.pending().await, []);
    // Nobody wants anything, so the broker keeps everything.
    sidecar.holds("work", 3, 0).await;
    handler.resize(2).await;
    handler.deliveries(2).await;
    handler.resize(3).await;
    handler.delivery().await;
}

#[tokio::test]
async fn shrinking_never_revokes_and_stops_more_until_there_is_room() {
    let sidecar = Sidecar::start(WORK).await;
    let mut handler = sidecar.handler(open_window("work", 3)).await;
    sidecar.publish(numbered(6)).await;
    let held = handler.deliveries(3).await;

    handler.resize(1).await;
    handler.say(settle([held[0].id, held[1].id], ack())).await;
    // What the broker had sent ahead under the old window may wait in the sidecar, and not at the handler.
    eventually("two acks", async || {
        let depth = sidecar.depth("work");
        (depth.ready + depth.unacked == 4).then_some(())
    })
    .await;
    assert_eq!((handler.pending().await, handler.other_revocations()), (Vec::new(), 0));

    handler.say(settle([held[2].id], ack())).await;
    handler.delivery().await;
    assert_eq!(handler.pending().await, []);
    assert_eq!(handler.other_results(), [], "every ack took effect");
}

/// failures.md H12.
#[tokio::test]
async fn a_message_too_large_for_one_stream_goes_to_another() {
    let sidecar = Sidecar::start(WORK).await;
    let small = v1::SubscribeOpen { max_message_bytes: 20_000, ..open("work") };
    let mut small = sidecar.handler(small).await;
    let mut large = sidecar.handler(open("work")).await;
    sidecar.publish((0..3).map(|_| message("work.A", vec![b'x'; 50_000]))).await;
    large.deliveries(3).await;
    assert_eq!(small.pending().await, []);
}

/// failures.md H12.
#[tokio::test]
async fn a_message_too_large_for_every_stream_is_held_and_told() {
    let sidecar = Sidecar::start(WORK).await;
    let small = v1::SubscribeOpen { max_message_bytes: 20_000, ..open("work") };
    let mut small = sidecar.handler(small).await;
    sidecar.publish([message("work.A", vec![b'x'; 50_000]), message("work.A", "fits")]).await;

    assert_eq!(body(&small.delivery().await), "fits", "what is held holds up nobody");
    while small.status().await.held_count != 1 {}

    let mut large = sidecar.handler(open("work")).await;
    assert_eq!(large.delivery().await.message.unwrap().body.len(), 50_000);
    while small.status().await.held_count != 0 {}
}

/// failures.md H12: a warning and a frame for each message would hide what they say.
#[tokio::test]
async fn that_a_message_is_held_is_told_once_however_many_others_pass_it() {
    let sidecar = Sidecar::start(WORK).await;
    let small = v1::SubscribeOpen { max_message_bytes: 20_000, ..open_window("work", 1) };
    let mut small = sidecar.handler(small).await;
    sidecar.publish([message("work.A", vec![b'x'; 50_000])]).await;
    while small.status().await.held_count != 1 {}
    for _ in 0..50 {
        sidecar.publish([message("work.A", "fits")]).await;
        let delivery = small.delivery().await;
        small.say(settle([delivery.id], ack())).await;
    }
    assert_eq!(small.pending().await, []);
    let told: Vec<i32> = small.statuses().iter().map(|status| status.held_count).collect();
    assert!(told.iter().all(|held| *held == 1), "{told:?}");
}

/// failures.md H10.
#[tokio::test]
async fn two_handlers_share_the_work_without_doubling() {
    let sidecar = Sidecar::start(WORK).await;
    let (mut first, mut second) =
        (sidecar.handler(open_window("work", 10)).await, sidecar.handler(open_window("work", 10)).await);
    sidecar.publish(numbered(20)).await;
    // Nobody settles: each can only get what its own window takes.
    let mut bodies: Vec<usize> = [first.deliveries(10).await, second.deliveries(10).await]
        .concat()
        .iter()
        .map(|d| body(d).parse().unwrap())
        .collect();
    bodies.sort_unstable();
    assert_eq!(bodies, (0..20).collect::<Vec<_>>());
}

#[tokio::test]
async fn two_subscriptions_each_get_a_copy() {
    let sidecar = Sidecar::start(
        "[queues.work]\nbindings = [\"work.#\"]\n[queues.copy]\nbindings = [\"work.*\"]\n[queues.other]\nbindings = [\"other.#\"]\n",
    )
    .await;
    let mut handlers = Vec::new();
    for name in ["work", "copy"] {
        handlers.push(sidecar.handler(open(name)).await);
    }
    let assigned = sidecar.publish([message("work.A", "1")]).await;
    for handler in &mut handlers {
        let delivery = handler.delivery().await;
        assert_eq!(delivery.message.as_ref().unwrap().message_id, assigned[0]);
        handler.say(settle([delivery.id], ack())).await;
    }
    for queue in ["work", "copy", "other"] {
        sidecar.holds(queue, 0, 0).await;
    }
}
