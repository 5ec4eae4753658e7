//! What Sidebus has made for retries and dead letters goes while messages fail, and what a queue does by itself: nothing is lost.

use std::collections::BTreeSet;

use lapin::BasicProperties;
use lapin::options::{BasicPublishOptions, ConfirmSelectOptions, QueueBindOptions};
use lapin::types::FieldTable;
use sidebus::grpc::proto::sidebus::v1;

use crate::support::handler::{Handler, number};
use crate::support::publisher::numbered;
use crate::support::scene::{Amqp, Scene, Sidecar};
use crate::support::wait::until;

const COUNT: usize = 60;

/// What is taken away from the place for letters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Piece {
    Exchange,
    Binding,
    Queue,
}

async fn unbind(amqp: &Amqp, queue: &str, exchange: &str) {
    let unbound = amqp.channel.queue_unbind(queue.into(), exchange.into(), "".into(), FieldTable::default());
    unbound.await.expect("the binding goes");
}

async fn bind(amqp: &Amqp, queue: &str, exchange: &str) {
    let options = QueueBindOptions::default();
    let bound = amqp.channel.queue_bind(queue.into(), exchange.into(), "".into(), options, FieldTable::default());
    bound.await.expect("bound");
}

/// failures.md T4.
#[tokio::test]
async fn each_piece_of_the_place_for_letters_is_made_again_while_messages_fail() {
    for piece in [Piece::Exchange, Piece::Binding, Piece::Queue] {
        let scene = Scene::new().await;
        let mut sidecar = scene.sidecar(&scene.work("")).await;
        let (amqp, mut handler) = (scene.amqp().await, sidecar.handler().await);
        let (exchange, queue) = (scene.name("dlx"), scene.name("dlq"));
        sidecar.publisher().await.publish_numbers(0..COUNT).await;
        let mut letters = Vec::new();
        for given_up in 0..COUNT {
            if given_up == COUNT / 3 {
                match piece {
                    Piece::Exchange => amqp.delete_exchange(&exchange).await,
                    Piece::Binding => unbind(&amqp, &queue, &exchange).await,
                    Piece::Queue => {
                        // A queue that goes takes along what lies in it.
                        amqp.wait_for_depth(&queue, u32::try_from(given_up).expect("a small number")).await;
                        letters.extend(amqp.numbers(&queue).await);
                        amqp.delete(&queue).await;
                    }
                }
            }
            let delivery = handler.delivery().await;
            handler.dead_letter(&delivery).await;
        }
        // A letter whose confirm was lost with its channel is written once more; what was lost with a whole connection comes
        // again (lapin may write on a channel that has just been closed, ARCHITECTURE.md).
        let all_are_letters = until("every message is a letter", async || {
            if amqp.depth(&queue).await.is_some() {
                letters.extend(amqp.numbers(&queue).await);
            }
            let found: BTreeSet<usize> = letters.iter().copied().collect();
            let is_empty = amqp.depth(&scene.name("work")).await == Some(0);
            (is_empty && found == (0..COUNT).collect()).then_some(())
        });
        tokio::select! {
            () = all_are_letters => {}
            () = gives_up_all(&mut handler) => {}
        }
        handler.leave_at_last().await;
        assert_eq!(sidecar.process.stop().await, Some(0), "{piece:?}");
        assert_eq!(amqp.depth(&scene.name("work")).await, Some(0), "{piece:?}");
    }
}

/// Until this is dropped.
async fn gives_up_all(handler: &mut Handler) {
    loop {
        let delivery = handler.delivery().await;
        handler.dead_letter(&delivery).await;
    }
}

/// failures.md T4: where nothing may be made, the subscription pauses until somebody has made it.
#[tokio::test]
async fn a_sidecar_that_may_make_nothing_pauses_while_the_place_for_letters_is_gone() {
    const LETTERS: usize = 12;
    let scene = Scene::new().await;
    let mut maker = scene.sidecar(&scene.work("")).await;
    maker.handler().await.leave().await;
    assert_eq!(maker.process.stop().await, Some(0));
    let verify = scene.settings(&scene.work("")).replace("namespace", "topology = \"verify\"\nnamespace");
    let mut sidecar = Sidecar::from_file(&verify, &scene).await;
    sidecar.ready().await;
    let (amqp, mut handler) = (scene.amqp().await, sidecar.handler().await);
    let (exchange, queue) = (scene.name("dlx"), scene.name("dlq"));
    handler.state(v1::SubscriptionState::Active, 0).await;
    amqp.delete_exchange(&exchange).await;
    sidecar.publisher().await.publish_numbers(0..LETTERS).await;
    for delivery in handler.deliveries(LETTERS).await {
        handler.dead_letter(&delivery).await;
    }
    let is_pause = |status: &v1::SubscriptionStatus| status.description.contains("dead letters are not stored");
    handler.until("the pause", |handler| handler.statuses.last().is_some_and(is_pause)).await;
    let told = &handler.statuses.last().expect("a status").description;
    assert!(told.contains(&queue) && told.contains(&exchange), "{told}");
    let seen = handler.statuses.len();
    amqp.exchange(&exchange, lapin::ExchangeKind::Fanout).await;
    bind(&amqp, &queue, &exchange).await;
    handler.state(v1::SubscriptionState::Active, seen).await;
    amqp.wait_for_depth(&queue, u32::try_from(LETTERS).expect("a small number")).await;
    handler.leave().await;
    assert_eq!(sidecar.process.stop().await, Some(0));
    assert_eq!(amqp.depth(&scene.name("work")).await, Some(0));
}

/// failures.md T6.
#[tokio::test]
async fn a_delay_slot_that_is_taken_apart_while_messages_are_retried_is_made_again() {
    let scene = Scene::new().await;
    // More fails here than the switch would let pass.
    let tables = format!("{}[retry.kill_switch]\nenabled = false\n", scene.work(""));
    let mut sidecar = scene.sidecar(&tables).await;
    let (amqp, mut handler) = (scene.amqp().await, sidecar.handler().await);
    let slot = format!("{}.delay.000000100", scene.prefix);
    sidecar.publisher().await.publish_numbers(0..COUNT).await;
    // The slot is made by the first retry; all others lie at their handler when its queue goes, so that nothing goes with it.
    let mut held = handler.deliveries(COUNT).await;
    let first = held.pop().expect("a delivery");
    handler.retry(&first).await;
    held.extend(handler.deliveries(1).await);
    amqp.delete(&slot).await;
    let (mut done, mut retries) = (BTreeSet::new(), 0);
    while done.len() < COUNT {
        for delivery in std::mem::take(&mut held) {
            if delivery.attempt == 4 {
                // A copy whose confirm was lost with its channel is written once more.
                done.insert(number(&delivery));
                handler.ack(&[delivery]).await;
                continue;
            }
            retries += 1;
            handler.retry(&delivery).await;
            if retries == COUNT + 10 {
                amqp.delete_exchange(&slot).await;
            } else if retries == 2 * COUNT {
                unbind(&amqp, &slot, &slot).await;
            }
        }
        if done.len() < COUNT {
            held.push(handler.delivery().await);
        }
    }
    handler.leave_at_last().await;
    assert_eq!(sidecar.process.stop().await, Some(0));
    for queue in [scene.name("work"), scene.name("dlq"), slot] {
        assert_eq!(amqp.depth(&queue).await, Some(0), "{queue}");
    }
}

/// failures.md T6.
#[tokio::test]
async fn a_queue_that_has_the_name_of_a_slot_and_sends_nothing_home_gets_no_message() {
    let scene = Scene::new().await;
    let amqp = scene.amqp().await;
    let slot = format!("{}.delay.000000100", scene.prefix);
    amqp.exchange(&slot, lapin::ExchangeKind::Fanout).await;
    amqp.declare(&slot, FieldTable::default()).await;
    bind(&amqp, &slot, &slot).await;
    let mut sidecar = scene.sidecar(&scene.work("")).await;
    let mut handler = sidecar.handler().await;
    sidecar.publisher().await.publish_numbers(0..1).await;
    let delivery = handler.delivery().await;
    handler.retry(&delivery).await;
    let is_told = |line: &String| line.contains("copy not stored") && line.contains("x-message-ttl");
    until("what differs is named", async || sidecar.process.log().iter().any(is_told).then_some(())).await;
    assert_eq!(amqp.depth(&slot).await, Some(0));
    // Once it is gone the retry goes its way.
    amqp.delete(&slot).await;
    let again = handler.delivery().await;
    assert_eq!(again.attempt, 2);
    handler.ack(&[again]).await;
    handler.leave().await;
    assert_eq!(sidecar.process.stop().await, Some(0));
}

/// failures.md T10.
#[tokio::test]
async fn what_once_expired_in_its_queue_and_was_moved_back_survives_its_retries() {
    for queue_type in ["quorum", "classic"] {
        let scene = Scene::new().await;
        let work = scene.work(&format!("queue_type = \"{queue_type}\"\nmessage_ttl = \"2s\""));
        let mut sidecar = scene.sidecar(&work).await;
        let amqp = scene.amqp().await;
        let warned = sidecar.process.log().into_iter().filter(|line| line.contains("message_ttl")).count();
        assert_eq!(warned, 1, "a life time of the queue's own is warned of");
        sidecar.handler().await.leave().await;
        sidecar.publisher().await.publish(vec![numbered(1)]).await.expect("confirmed");
        // Nobody takes it, and the broker gives it up; somebody moves it back with what the broker has written on it.
        let letter = amqp.get(&scene.name("dlq")).await.delivery;
        let headers = letter.properties.headers().clone().expect("the broker's headers");
        assert!(headers.contains_key("x-death"), "{headers:?}");
        let mut handler = sidecar.handler().await;
        amqp.channel.confirm_select(ConfirmSelectOptions::default()).await.expect("confirms");
        let properties = BasicProperties::default().with_headers(headers).with_message_id("1".into());
        let work = scene.name("work");
        let options = BasicPublishOptions { mandatory: true, ..BasicPublishOptions::default() };
        let written = amqp.channel.basic_publish("".into(), work.as_str().into(), options, &letter.data, properties);
        assert!(written.await.expect("written").await.expect("answered").is_ack());
        for attempt in 1..=4 {
            let delivery = handler.delivery().await;
            assert_eq!((delivery.attempt, number(&delivery)), (attempt, 1), "{queue_type}");
            if attempt == 4 {
                handler.ack(&[delivery]).await;
            } else {
                handler.retry(&delivery).await;
            }
        }
        handler.leave().await;
        assert_eq!(sidecar.process.stop().await, Some(0));
        amqp.wait_for_depth(&work, 0).await;
        assert_eq!(amqp.depth(&scene.name("dlq")).await, Some(0), "{queue_type}");
    }
}

/// failures.md M6.
#[tokio::test]
async fn messages_with_one_id_are_each_handled_for_themselves() {
    const TWINS: usize = 20;
    let scene = Scene::new().await;
    let mut sidecar = scene.sidecar(&scene.work("")).await;
    let amqp = scene.amqp().await;
    let twins = (0..TWINS).map(|number| {
        let mut message = numbered(number);
        // Half of them have one id, half have none.
        message.message_id = if number % 2 == 0 { "twin".to_owned() } else { String::new() };
        message
    });
    let publisher = sidecar.publisher().await;
    for twin in twins {
        publisher.publish(vec![twin]).await.expect("confirmed");
    }
    let mut handler = sidecar.handler().await;
    let mut seen: BTreeSet<(usize, i32)> = BTreeSet::new();
    while seen.len() < 2 * TWINS {
        let delivery = handler.delivery().await;
        let (number, attempt) = (number(&delivery), delivery.attempt);
        assert!(seen.insert((number, attempt)), "{number} came twice as attempt {attempt}");
        match (attempt, number % 4) {
            (1, _) => handler.retry(&delivery).await,
            (_, 0 | 1) => handler.ack(&[delivery]).await,
            _ => handler.dead_letter(&delivery).await,
        }
    }
    handler.leave().await;
    assert_eq!(sidecar.process.stop().await, Some(0));
    let mut letters = amqp.numbers(&scene.name("dlq")).await;
    letters.sort_unstable();
    let expected: Vec<usize> = (0..TWINS).filter(|number| number % 4 > 1).collect();
    assert_eq!(letters, expected);
    until("the queue is empty", async || (amqp.depth(&scene.name("work")).await == Some(0)).then_some(())).await;
}
