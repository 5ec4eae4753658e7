//! What a sidecar has in memory: bounded by the windows in bytes, whatever waits in the queue and whoever does not read.
//!
//! Each test prints what it has measured.

use std::process::Command;
use std::time::Duration;

use futures_util::future::join_all;
use lapin::BasicProperties;
use lapin::options::{BasicPublishOptions, ConfirmSelectOptions};
use sidebus::grpc::proto::sidebus::v1;
use tokio::time::{Instant, timeout};

use crate::support::handler::{Handler, Shared};
use crate::support::process::Process;
use crate::support::publisher::numbered;
use crate::support::scene::{Scene, Sidecar};
use crate::support::wait::until;

const MIB: u64 = 1024 * 1024;
const SMALL: usize = 64 * 1024;

/// Stores so many bodies of this size behind the sidecar's back, so that its memory shows nothing of it.
async fn store(scene: &Scene, count: usize, bytes: usize) {
    let (amqp, queue) = (scene.amqp().await, scene.name("work"));
    amqp.channel.confirm_select(ConfirmSelectOptions { nowait: false }).await.expect("confirms");
    let body = vec![0; bytes];
    let options = BasicPublishOptions { mandatory: true, immediate: false };
    for _ in 0..count {
        let sent =
            amqp.channel.basic_publish("".into(), queue.as_str().into(), options, &body, BasicProperties::default());
        let confirm = sent.await.expect("sent").await.expect("an answer");
        assert!(confirm.is_ack());
    }
}

/// A handler that may receive anything.
async fn wide(sidecar: &Sidecar) -> Handler {
    let open = v1::SubscribeOpen { max_message_bytes: 64 << 20, ..Handler::of("work") };
    Handler::open(sidecar.channel().await, open).await
}

/// Takes and acks so many; answers how many that are in a second.
async fn rate(handler: &mut Handler, count: usize) -> f64 {
    let begun = Instant::now();
    for _ in 0..count {
        let delivery = handler.delivery().await;
        handler.ack(&[delivery]).await;
    }
    f64::from(u32::try_from(count).expect("few")) / begun.elapsed().as_secs_f64()
}

/// What it has at most had in memory, which must be below the bound.
fn stays_below(sidecar: &Sidecar, what: &str, before: u64, bound: u64) -> String {
    let (now, peak) = (sidecar.process.memory("VmRSS"), sidecar.process.memory("VmHWM"));
    let [before, now, peak] = [before, now, peak].map(|bytes| bytes / MIB);
    let found = format!("{what}: {before} MiB before, {now} MiB now, {peak} MiB at most; bound {} MiB", bound / MIB);
    assert!(peak < bound / MIB, "{found}");
    found
}

/// failures.md H5: one handler does not read from its socket any more, the other one keeps its rate.
#[tokio::test]
async fn a_handler_that_does_not_read_its_stream_costs_its_window_and_slows_nobody_down() {
    let scene = Scene::new().await;
    let mut sidecar = scene.sidecar(&scene.work("")).await;
    let mut handler = sidecar.handler().await;
    store(&scene, 500, SMALL).await;
    let alone = rate(&mut handler, 500).await;
    let before = sidecar.process.memory("VmRSS");

    let mut command = Command::new(env!("CARGO_BIN_EXE_sidebus"));
    command.args(["sub", "--subscription", "work", "--endpoint", &sidecar.grpc]);
    let mut deaf = Process::start("deaf handler", command, &[]);
    sidecar.metric_becomes("sidebus_handlers_connected{subscription=\"work\"}", 2.0).await;
    deaf.signal("STOP");
    // 256 MiB; each handler has a window of 8.
    store(&scene, 4_096, SMALL).await;
    let beside = rate(&mut handler, 3_900).await;
    println!(
        "{}",
        stays_below(&sidecar, "4,096 bodies of 64 KiB for two handlers, one deaf", before, before + 96 * MIB)
    );
    println!("{alone:.0} messages of 64 KiB in a second alone, {beside:.0} beside a handler that does not read");
    assert!(beside > alone / 4.0, "the other one keeps its rate");

    deaf.kill().await;
    rate(&mut handler, 4_096 - 3_900).await;
    handler.leave().await;
    assert_eq!(sidecar.process.stop().await, Some(0));
    scene.amqp().await.wait_for_depth(&scene.name("work"), 0).await;
}

/// Whatever its window holds is more than the transport takes for one stream of this size of bodies: 2 MiB by default.
async fn until_its_window_is_full(sidecar: &Sidecar) {
    let held = async || sidecar.metric("sidebus_in_flight_messages{subscription=\"work\"}").await;
    until("its window is full", async || held().await.filter(|held| *held >= 100.0)).await;
}

/// failures.md H5: two streams of one connection, as clients have them; what one of them does not read is in the way of none.
#[tokio::test]
async fn a_stream_that_is_not_read_leaves_the_others_of_its_connection_their_share() {
    const COUNT: usize = 2_000;
    let scene = Scene::new().await;
    let mut sidecar = scene.sidecar(&scene.work("")).await;
    let connection = sidecar.channel().await;
    let mut deaf = Handler::open(connection.clone(), Handler::of("work")).await;
    store(&scene, 100, SMALL).await;
    until_its_window_is_full(&sidecar).await;
    let mut beside = Handler::open(connection, Handler::of("work")).await;
    // On a connection of its own: both feel alike whatever else the machine does.
    let mut apart = sidecar.handler().await;
    let work = Shared::of(COUNT);
    let (by_beside, by_apart, ()) =
        tokio::join!(beside.share(&work, |_| ()), apart.share(&work, |_| ()), store(&scene, COUNT, SMALL),);
    let (by_beside, by_apart) = (by_beside.len(), by_apart.len());
    println!("{by_beside} messages of 64 KiB beside a stream that is not read, {by_apart} apart from it");
    assert!(by_beside >= COUNT / 3, "{by_beside} and {by_apart}");

    assert!(deaf.ended.is_none());
    let late = deaf.deliveries(100).await;
    assert!(late.iter().all(|delivery| delivery.attempt == 1), "late reading loses nothing");
    deaf.ack(&late).await;
    for mut handler in [deaf, beside, apart] {
        handler.leave().await;
    }
    assert_eq!(sidecar.process.stop().await, Some(0));
    scene.amqp().await.wait_for_depth(&scene.name("work"), 0).await;
}

/// failures.md H5: it reads nothing because it works, and says so.
#[tokio::test]
async fn a_handler_that_works_long_while_its_stream_is_full_is_not_ended() {
    const TIMEOUT: Duration = Duration::from_secs(2);
    let scene = Scene::new().await;
    let mut sidecar = scene.sidecar(&scene.work("settle_timeout = \"2s\"")).await;
    let shared = sidecar.channel().await;
    let mut busy = Handler::open(shared.clone(), Handler::of("work")).await;
    store(&scene, 100, SMALL).await;
    let first = busy.delivery().await;
    until_its_window_is_full(&sidecar).await;
    busy.extend(std::slice::from_ref(&first), 20).await;

    let mut handler = Handler::open(shared, Handler::of("work")).await;
    let begun = Instant::now();
    while begun.elapsed() < TIMEOUT * 3 {
        // At once: what comes first must not wait for the last to be stored.
        tokio::join!(store(&scene, 100, SMALL), rate(&mut handler, 100));
    }
    busy.ack(&[first]).await;
    let rest = busy.deliveries(99).await;
    assert!(rest.iter().all(|delivery| delivery.attempt == 1), "nothing is charged");
    busy.ack(&rest).await;
    for mut handler in [busy, handler] {
        assert!(handler.revocations.is_empty(), "{:?}", handler.revocations);
        handler.leave().await;
    }
    assert_eq!(sidecar.process.stop().await, Some(0));
    scene.amqp().await.wait_for_depth(&scene.name("work"), 0).await;
}

/// failures.md H4.
#[tokio::test]
async fn before_a_stuck_handler_the_backlog_stays_in_the_broker() {
    let scene = Scene::new().await;
    let mut sidecar = scene.sidecar(&scene.work("")).await;
    let mut handler = sidecar.handler().await;
    store(&scene, 100, SMALL).await;
    let first = handler.deliveries(100).await;
    let before = sidecar.process.memory("VmRSS");
    store(&scene, 3_000, SMALL).await;

    // It goes on and gets stuck, again and again, each time with its whole window.
    handler.ack(&first).await;
    for _ in 0..5 {
        let held = handler.deliveries(100).await;
        let waiting = scene.amqp().await.depth(&scene.name("work")).await.expect("the queue is there");
        println!("{waiting} wait in the broker while 100 are held");
        assert!(waiting >= 3_000 - 5 * 100 - 100, "nothing is taken ahead of the window");
        handler.ack(&held).await;
    }
    println!("{}", stays_below(&sidecar, "3,000 bodies of 64 KiB behind a stuck handler", before, before + 64 * MIB));
    rate(&mut handler, 2_500).await;
    handler.leave().await;
    assert_eq!(sidecar.process.stop().await, Some(0));
}

/// failures.md S3: nothing is known of the bodies when the first ones come.
#[tokio::test]
async fn large_bodies_that_wait_for_the_first_handler_come_a_few_at_a_time() {
    let scene = Scene::new().await;
    let mut sidecar = scene.sidecar(&scene.work("queue_type = \"classic\"")).await;
    store(&scene, 100, 8 << 20).await;
    let before = sidecar.process.memory("VmRSS");
    let mut handler = wide(&sidecar).await;
    let rate = rate(&mut handler, 100).await;
    println!("{rate:.0} messages of 8 MiB in a second");
    println!("{}", stays_below(&sidecar, "100 bodies of 8 MiB", before, before + 160 * MIB));
    handler.leave().await;
    assert_eq!(sidecar.process.stop().await, Some(0));
    scene.amqp().await.wait_for_depth(&scene.name("work"), 0).await;
}

/// Each change of a prefetch that grows is one consumer more, which operators see.
#[tokio::test]
async fn on_a_queue_that_trickles_a_sidecar_has_few_consumers() {
    let scene = Scene::new().await;
    let sidecar = scene.sidecar(&scene.work("")).await;
    let (mut handler, publisher) = (sidecar.handler().await, sidecar.publisher().await);
    // Slower than changes of a prefetch are gathered.
    let mut pace = tokio::time::interval(Duration::from_millis(250));
    for number in 0..14 {
        pace.tick().await;
        publisher.publish_numbers(number..number + 1).await;
        let delivery = handler.delivery().await;
        handler.ack(&[delivery]).await;
    }
    let (_, consumers) = scene.amqp().await.look(&scene.name("work")).await.expect("the queue is there");
    println!("{consumers} consumers");
    assert!((1..=4).contains(&consumers), "{consumers}");
    handler.leave().await;
}

/// failures.md P4: each call ends a moment after it was made, so the frames of many are out and nobody waits for the confirms.
#[tokio::test]
async fn a_storm_of_callers_that_give_up_leaves_nothing_in_memory() {
    const ROUNDS: u64 = 150;
    let scene = Scene::new().await;
    // What is stored is not kept in the broker's memory either.
    let sidecar = scene
        .sidecar(
            &scene.work("queue_type = \"classic\"\narguments = { x-max-length = 100, x-overflow = \"drop-head\" }"),
        )
        .await;
    let publisher = sidecar.publisher().await;
    publisher.publish_numbers(0..1).await;
    let before = sidecar.process.memory("VmRSS");
    let message = v1::Message { body: vec![0; 16 * 1024].into(), message_id: String::new(), ..numbered(0) };
    let mut given_up = 0;
    for round in 0..ROUNDS {
        let calls = (0..64).map(|call| {
            let patience = Duration::from_micros(500 + 100 * ((round + call) % 50));
            timeout(patience, publisher.publish(vec![message.clone(); 5]))
        });
        given_up += join_all(calls).await.iter().filter(|answer| answer.is_err()).count();
    }
    println!("{given_up} of {} calls were given up", ROUNDS * 64);
    assert!(given_up > 1_000, "{given_up}");
    println!("{}", stays_below(&sidecar, "48,000 bodies of 16 KiB", before, before + 100 * MIB));
    sidecar.metric_becomes("sidebus_publishes_in_flight", 0.0).await;
    publisher.publish_numbers(1..2).await;
}
