//! A queue that confirms nothing, beside others: whoever publishes to it waits for it, and nobody else does.

use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::future::join_all;
use futures_util::stream::FuturesUnordered;
use sidebus::grpc::proto::sidebus::v1;
use tokio::sync::watch;
use tokio::time::{Instant, interval};
use tonic::Code;

use crate::support::nodes;
use crate::support::publisher::{Publisher, Publishing, numbered, reason};
use crate::support::scene::{Scene, Sidecar};
use crate::support::wait::until;

/// What a publish waits for its confirm.
const CONFIRM_TIMEOUT: Duration = Duration::from_secs(5);
/// What somebody else may wait meanwhile: a quarter of a second, and slack for a busy machine.
const HELD_UP_MAX: Duration = Duration::from_millis(2_500);

fn to(topic: &str, number: usize) -> v1::Message {
    // Two of one id are never on their way at once.
    let (routing_key, message_id) = (format!("{topic}.{number}"), format!("{topic}-{number}"));
    v1::Message { routing_key, message_id, ..numbered(number) }
}

/// A queue for each topic.
fn tables(scene: &Scene, queue_type: &str) -> String {
    let queue = |name: &str| {
        let queue = scene.name(name);
        format!("[queues.{name}]\nqueue = \"{queue}\"\nqueue_type = \"{queue_type}\"\nbindings = [\"{name}.#\"]\n")
    };
    let publish = format!("[bus.amqp.publish]\nconfirm_timeout = \"{}s\"\n", CONFIRM_TIMEOUT.as_secs());
    [queue("good"), queue("kept"), queue("mute"), publish].concat()
}

/// A sidecar with these queues, each in use.
async fn sidecar(scene: &Scene, queue_type: &str) -> Sidecar {
    let sidecar = scene.sidecar(&tables(scene, queue_type)).await;
    sidecar.publisher().await.publish(vec![to("good", 0), to("mute", 0)]).await.expect("both are well");
    sidecar
}

/// Publishes so often to the mute queue, and hears each time that there was no confirm in time.
async fn publish_to_mute(publisher: &Publisher, (count, every): (usize, Duration)) {
    let (mut turns, mut answers, mut sent) = (interval(every), FuturesUnordered::new(), 0);
    while sent < count || !answers.is_empty() {
        tokio::select! {
            _ = turns.tick(), if sent < count => {
                answers.push(publisher.publish(vec![to("mute", sent)]));
                sent += 1;
            }
            Some(answer) = answers.next(), if !answers.is_empty() => {
                let refused = answer.expect_err("nobody confirms it");
                assert_eq!(reason(&refused), (Code::DeadlineExceeded, "CONFIRM_TIMEOUT".to_owned()), "{refused:?}");
            }
        }
    }
}

/// Publishes one after the other until it is over; answers how many, and the longest wait.
async fn publish_to_good(publisher: &Publisher, mut over: watch::Receiver<bool>) -> (usize, Duration) {
    let (mut number, mut longest) = (0, Duration::ZERO);
    while !*over.borrow_and_update() {
        number += 1;
        let asked = Instant::now();
        let answer = publisher.publish(vec![to("good", number)]).await;
        assert!(answer.is_ok(), "number {number} after {:?}: {answer:?}", asked.elapsed());
        longest = longest.max(asked.elapsed());
    }
    (number, longest)
}

/// What a stream has seen.
#[derive(Debug, Default)]
struct Streamed {
    messages: usize,
    longest: Duration,
    /// Times that it was held up for longer than others may be.
    stalls: usize,
}

/// The same, a hundred at once on a stream.
async fn stream_to_good(mut stream: Publishing, mut over: watch::Receiver<bool>) -> Streamed {
    let mut streamed = Streamed::default();
    while !*over.borrow_and_update() {
        let asked = Instant::now();
        stream.publish((0..100).map(|number| to("good", number))).await;
        stream.until("a hundred are answered", Publishing::is_answered).await;
        assert_eq!(stream.failures, []);
        streamed.messages += 100;
        streamed.longest = streamed.longest.max(asked.elapsed());
        streamed.stalls += usize::from(asked.elapsed() >= HELD_UP_MAX);
    }
    streamed
}

/// Always some at once, with rising numbers from 1 on; answers how many, and the longest time without an answer.
async fn stream_in_order(mut stream: Publishing, mut over: watch::Receiver<bool>) -> (usize, Duration) {
    let (mut sent, mut longest) = (0, Duration::ZERO);
    while !*over.borrow_and_update() {
        stream.publish((sent + 1..=sent + 50).map(|number| to("kept", number))).await;
        sent += 50;
        let asked = Instant::now();
        stream.until("some are answered", |it| it.unanswered() <= 200).await;
        longest = longest.max(asked.elapsed());
    }
    stream.until("all are answered", Publishing::is_answered).await;
    assert_eq!(stream.failures, []);
    (sent, longest)
}

/// failures.md P3.
#[tokio::test]
async fn whoever_publishes_to_a_quorum_queue_that_does_not_answer_waits_for_it_and_nobody_else_does() {
    nobody_else_waits("quorum").await;
}

/// failures.md P3.
#[tokio::test]
async fn whoever_publishes_to_a_classic_queue_that_does_not_answer_waits_for_it_and_nobody_else_does() {
    nobody_else_waits("classic").await;
}

async fn nobody_else_waits(queue_type: &str) {
    let node = nodes::managed().await;
    let (scene, _proxy) = Scene::linked(node).await;
    let sidecar = sidecar(&scene, queue_type).await;
    node.mute_queue(&scene.name("mute"), true).await;
    let publisher = sidecar.publisher().await;
    // On each lane one.
    let streams = [publisher.open().await, publisher.open().await, publisher.open().await, publisher.open().await];
    let (over, is_over) = watch::channel(false);
    let to_mute = async {
        // For so long that lanes are given up, and others begin anew.
        publish_to_mute(&publisher, (60, Duration::from_millis(200))).await;
        over.send_replace(true);
    };
    let streaming = join_all(streams.map(|stream| stream_to_good(stream, is_over.clone())));
    let ((), good, streamed) = tokio::join!(to_mute, publish_to_good(&publisher, is_over.clone()), streaming);
    let (count, longest) = good;
    assert!(count > 100 && longest < HELD_UP_MAX, "{count}, longest {longest:?}");
    for streamed in streamed {
        assert!(streamed.messages > 100 && streamed.stalls == 0, "{streamed:?}");
    }
    node.mute_queue(&scene.name("mute"), false).await;
    let again = async || publisher.publish(vec![to("mute", 0)]).await.ok();
    until("it takes messages again", again).await;
}

/// failures.md P3: it would be held up again and again.
#[tokio::test]
async fn a_stream_beside_one_that_waits_for_a_queue_takes_another_lane() {
    let node = nodes::managed().await;
    let (scene, _proxy) = Scene::linked(node).await;
    // On a channel that comes to a silent quorum queue for the first time neighbours may be late, too.
    let sidecar = sidecar(&scene, "classic").await;
    let publisher = sidecar.publisher().await;
    let (mut first, mut streams) = (publisher.open().await, Vec::new());
    for _ in 0..4 {
        streams.push(publisher.open().await);
    }
    node.mute_queue(&scene.name("mute"), true).await;
    let (over, is_over) = watch::channel(false);
    let to_mute = async {
        // Each time more than are left behind, until the lane is given up.
        for round in 1..=3 {
            first.publish((0..20).map(|number| to("mute", number))).await;
            first.until("all have failed", |it| it.failures.len() == 20 * round).await;
        }
        over.send_replace(true);
    };
    // On the lane of the first.
    let last = stream_in_order(streams.pop().expect("four"), is_over.clone());
    let streaming = join_all(streams.into_iter().map(|stream| stream_to_good(stream, is_over.clone())));
    let ((), (sent, longest), streamed) = tokio::join!(to_mute, last, streaming);
    assert!(streamed.iter().all(|streamed| streamed.stalls == 0), "{streamed:?}");
    // As many as the others have in a second or two: it was held up once.
    assert!(sent > 5_000 && longest < CONFIRM_TIMEOUT + HELD_UP_MAX, "{sent}, {longest:?}");
    let stored = scene.amqp().await.drain(&scene.name("kept")).await;
    assert!(stored.into_iter().eq(1..=sent), "each once, in the order of the stream");
    node.mute_queue(&scene.name("mute"), false).await;
}

/// failures.md P3: with more on a channel than RabbitMQ takes in while a quorum queue is silent, it reads no more of the whole
/// connection.
#[tokio::test]
async fn a_quorum_queue_that_falls_silent_in_full_flow_stops_nothing_on_other_lanes() {
    let node = nodes::managed().await;
    let (scene, _proxy) = Scene::linked(node).await;
    let (sidecar, mute) = (sidecar(&scene, "quorum").await, scene.name("mute"));
    let publisher = sidecar.publisher().await;
    let (mut first, mut streams) = (publisher.open().await, Vec::new());
    for _ in 0..3 {
        streams.push(publisher.open().await);
    }
    let (over, is_over) = watch::channel(false);
    let to_mute = async {
        let mut sent = 0;
        // What comes after the first failures goes to a queue that has been silent for long, on another channel.
        while first.failures.len() < 400 {
            first.publish((sent..sent + 500).map(|number| to("mute", number))).await;
            sent += 500;
            first.until("there is room", |it| it.unanswered() <= 1_000 || it.failures.len() >= 400).await;
        }
        over.send_replace(true);
    };
    let streaming = join_all(streams.into_iter().map(|stream| stream_to_good(stream, is_over.clone())));
    let ((), (), streamed) = tokio::join!(to_mute, node.mute_queue(&mute, true), streaming);
    assert!(
        first.failures.iter().all(|it| it.kind() == v1::PublishFailureKind::ConfirmTimeout),
        "{:?}",
        first.failures
    );
    for streamed in streamed {
        assert!(streamed.messages > 100 && streamed.stalls == 0, "{streamed:?}");
    }
    node.mute_queue(&mute, false).await;
    let again = async || publisher.publish(vec![to("mute", 0), to("good", 0)]).await.ok();
    until("both take messages again", again).await;
}

/// failures.md P3: whoever wishes larger batches has that risk, and not for ever.
#[tokio::test]
async fn a_connection_that_rabbitmq_reads_no_more_is_left_for_another() {
    let node = nodes::managed().await;
    let (scene, _proxy) = Scene::linked(node).await;
    let tables = format!("{}batch_max = 4096\n[bus.amqp.pool]\nmax_size = 1\n", tables(&scene, "quorum"));
    let soon = "[bus.amqp]\noperation_timeout = \"2s\"\n";
    let sidecar = Sidecar::from_file(&scene.settings(&tables).replacen("[bus.amqp]\n", soon, 1), &scene).await;
    let mute = scene.name("mute");
    sidecar.ready().await;
    let publisher = sidecar.publisher().await;
    publisher.publish(vec![to("good", 0), to("mute", 0)]).await.expect("both are well");
    node.mute_queue(&mute, true).await;
    let mut stream = publisher.open().await;
    stream.publish((0..4_000).map(|number| to("mute", number))).await;
    let stops = async || publisher.publish(vec![to("good", 1)]).await.is_err().then_some(());
    until("the whole connection stands", stops).await;
    let again = async || publisher.publish(vec![to("good", 2)]).await.ok();
    until("others publish on another connection", again).await;
    node.mute_queue(&mute, false).await;
}

/// failures.md P3.
#[tokio::test]
async fn what_waits_for_a_silent_queue_takes_a_quarter_of_the_room_of_all_and_no_more() {
    let node = nodes::managed().await;
    let (scene, _proxy) = Scene::linked(node).await;
    let limits = "[limits]\npublishes_in_flight = 40\n";
    let sidecar = scene.sidecar(&[&tables(&scene, "classic"), limits].concat()).await;
    let publisher = sidecar.publisher().await;
    publisher.publish(vec![to("good", 0), to("mute", 0)]).await.expect("both are well");
    node.mute_queue(&scene.name("mute"), true).await;
    // Two keys of one place.
    publish_to_mute(&publisher, (2, Duration::from_millis(1))).await;

    let calls = (10..40).map(|number| publisher.publish(vec![to("mute", number)]));
    let others = publisher.publish((100..125).map(|number| to("good", number)).collect());
    let (answers, others) = tokio::join!(join_all(calls), others);
    assert!(others.is_ok(), "{others:?}");
    let reasons: Vec<String> =
        answers.iter().map(|it| reason(it.as_ref().expect_err("nobody confirms it")).1).collect();
    let count = |word: &str| reasons.iter().filter(|reason| *reason == word).count();
    assert_eq!((count("CONFIRM_TIMEOUT"), count("HANDLER_LIMIT")), (10, 20), "{reasons:?}");
    node.mute_queue(&scene.name("mute"), false).await;
}
