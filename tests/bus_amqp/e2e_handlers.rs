//! Handlers in two languages share the work of one subscription: each message once, through real RabbitMQ.

use std::collections::BTreeSet;

use futures_util::future::join_all;
use sidebus::grpc::proto::sidebus::v1;
use tokio::time::Instant;

use crate::support::examples::{handled, measuring, python, rust_handler};
use crate::support::handler::{Handler, Shared, message};
use crate::support::process::Process;
use crate::support::proxy::Proxy;
use crate::support::publisher::numbered;
use crate::support::scene::{Scene, Sidecar};
use crate::support::wait::until;

const MESSAGES: usize = 10_000;

/// Waits until so many handlers have joined.
async fn joined(sidecar: &Sidecar, count: usize) {
    let is_join = |line: &&String| line.contains("\"handler joined\"");
    let look = async || (sidecar.process.log().iter().filter(is_join).count() >= count).then_some(());
    until(&format!("{count} handlers have joined"), look).await;
}

/// Everything that handlers have handled, each number as often as it was.
fn all_handled(handlers: &[&Process]) -> Vec<usize> {
    let mut numbers: Vec<usize> = handlers.iter().flat_map(|handler| handled(handler)).collect();
    numbers.sort_unstable();
    numbers
}

#[tokio::test]
async fn of_10_000_messages_a_python_and_a_rust_handler_handle_each_one_once() {
    let scene = Scene::new().await;
    let mut sidecar = scene.sidecar(&scene.work("")).await;
    let mut in_rust = rust_handler(&["work"], &sidecar.grpc).await;
    let mut in_python = python("handler.py", &["work"], &sidecar.grpc);
    joined(&sidecar, 2).await;

    let begun = Instant::now();
    let mut publisher = python("publisher.py", &[&MESSAGES.to_string()], &sidecar.grpc);
    assert_eq!(publisher.end().await.code(), Some(0));
    assert_eq!(publisher.output(), [format!("{MESSAGES} published and confirmed")]);
    let publishing = begun.elapsed();
    until("every message is handled", async || {
        (in_python.output().len() + in_rust.output().len() >= MESSAGES).then_some(())
    })
    .await;
    let elapsed = begun.elapsed();

    assert_eq!((in_python.stop().await, in_rust.stop().await), (Some(0), Some(0)));
    let (by_python, by_rust) = (handled(&in_python), handled(&in_rust));
    println!(
        "{MESSAGES} messages: {} by Python, {} by Rust; published in {:.1} s, handled in {:.1} s",
        by_python.len(),
        by_rust.len(),
        publishing.as_secs_f64(),
        elapsed.as_secs_f64()
    );
    assert!(!by_python.is_empty() && !by_rust.is_empty(), "both have worked");
    let union: BTreeSet<usize> = by_python.iter().chain(&by_rust).copied().collect();
    assert!(union.into_iter().eq(0..MESSAGES), "every message was handled");
    assert_eq!(by_python.len() + by_rust.len(), MESSAGES, "and none twice");
    // What was unacked would be ready again once the sidecar is gone.
    assert_eq!(sidecar.process.stop().await, Some(0));
    scene.amqp().await.wait_for_depth(&scene.name("work"), 0).await;
}

#[tokio::test]
async fn the_examples_survive_sigterm_under_load_and_a_restart_of_the_sidecar() {
    let scene = Scene::new().await;
    let tables = scene.work("");
    let mut sidecar = scene.sidecar(&tables).await;
    let port = |sidecar: &Sidecar| sidecar.grpc.rsplit(':').next().and_then(|port| port.parse().ok()).expect("a port");
    let proxy = Proxy::to("127.0.0.1", port(&sidecar)).await;
    let endpoint = format!("127.0.0.1:{}", proxy.port);
    sidecar.publisher().await.publish_numbers(0..3_000).await;

    let worked = async |handler: &Process, count: usize| {
        until("a handler works", async || (handler.output().len() >= count).then_some(())).await;
    };
    let mut first = python("handler.py", &["work"], &endpoint);
    worked(&first, 200).await;
    assert_eq!(first.stop().await, Some(0));
    let mut second = rust_handler(&["work"], &endpoint).await;
    worked(&second, 200).await;
    assert_eq!(second.stop().await, Some(0));

    let mut third = python("handler.py", &["work"], &endpoint);
    let mut fourth = rust_handler(&["work"], &endpoint).await;
    worked(&third, 1).await;
    worked(&fourth, 1).await;
    assert_eq!(sidecar.process.stop().await, Some(0));
    let sidecar = scene.sidecar(&tables).await;
    proxy.lead_to(port(&sidecar));
    joined(&sidecar, 2).await;
    sidecar.publisher().await.publish_numbers(3_000..3_200).await;
    until("every message is handled", async || {
        (all_handled(&[&first, &second, &third, &fourth]).len() >= 3_200).then_some(())
    })
    .await;
    assert_eq!((third.stop().await, fourth.stop().await), (Some(0), Some(0)));

    // What was in flight at each SIGTERM was acked, so nothing came twice.
    let found = all_handled(&[&first, &second, &third, &fourth]);
    let twice: Vec<_> = found.windows(2).filter(|pair| pair[0] == pair[1]).map(|pair| pair[0]).collect();
    assert_eq!(twice, [] as [usize; 0]);
    assert!(found.into_iter().eq(0..3_200));
}

/// failures.md H12: a Python client as everybody makes it, which receives 4 MiB and breaks its stream for more.
#[tokio::test]
async fn a_default_python_client_gets_what_it_can_receive_and_what_is_larger_is_held_for_another() {
    const LIMIT: usize = 4 << 20;
    // Around the limit the frame decides, which is a little larger than the body.
    let near = (0..16).map(|step| LIMIT - step * 64);
    let large: Vec<usize> = [5 << 20].into_iter().chain(near).chain([LIMIT - 4_096]).collect();
    let sizes: Vec<usize> = large.iter().flat_map(|size| [*size, 10]).collect();
    let scene = Scene::new().await;
    let mut sidecar = scene.sidecar(&scene.work("")).await;
    let mut in_python = measuring("work", &sidecar.grpc);
    joined(&sidecar, 1).await;
    let publisher = sidecar.publisher().await;
    for (number, size) in sizes.iter().enumerate() {
        let event = v1::Message { body: vec![0; *size].into(), ..numbered(number) };
        publisher.publish(vec![event]).await.expect("confirmed");
    }

    let held = "sidebus_held_messages{subscription=\"work\"}";
    let is_done = async || {
        let left = sizes.len() - in_python.output_count();
        (sidecar.metric(held).await == u32::try_from(left).ok().map(f64::from)).then_some(left)
    };
    let held = until("each was received or is held", is_done).await;
    assert!(in_python.is_running(), "{}", in_python.said());
    let mut received: Vec<usize> = in_python
        .output()
        .iter()
        .map(|line| line.strip_suffix(" 1").and_then(|size| size.parse().ok()).expect("a size, at the first attempt"))
        .collect();
    received.sort_unstable();
    println!(
        "{held} are held; the largest that was received has {:?} bytes less than 4 MiB",
        received.last().map(|it| LIMIT - it)
    );
    assert_eq!(received.iter().filter(|size| **size == 10).count(), large.len());
    assert!(received.contains(&(LIMIT - 4_096)), "what fits is not held: {received:?}");
    assert!(received.iter().all(|size| *size < LIMIT), "{received:?}");

    let open = v1::SubscribeOpen { max_message_bytes: 64 << 20, ..Handler::of("work") };
    let mut wide = Handler::open(sidecar.channel().await, open).await;
    let mut rest = Vec::new();
    for _ in 0..held {
        // One by one, since few fit its window.
        let delivery = wide.delivery().await;
        wide.ack(std::slice::from_ref(&delivery)).await;
        rest.push(delivery);
    }
    assert!(rest.iter().all(|delivery| delivery.attempt == 1), "nothing is charged");
    let size = |delivery: &v1::Delivery| message(delivery).body.len();
    let mut all: Vec<usize> = received.into_iter().chain(rest.iter().map(size)).collect();
    all.sort_unstable();
    let mut expected = sizes;
    expected.sort_unstable();
    assert!(all == expected, "each once: {} of {}", all.len(), expected.len());
    wide.leave().await;
    assert_eq!((in_python.stop().await, sidecar.process.stop().await), (Some(0), Some(0)));
    scene.amqp().await.wait_for_depth(&scene.name("work"), 0).await;
}

/// The prefetch of one sidecar has grown with each of its handlers, which is a consumer more each time; the other one has one
/// consumer, for as many messages.
#[tokio::test]
async fn two_sidecars_share_a_backlog_by_their_windows_however_many_consumers_each_has() {
    const COUNT: usize = 20_000;
    const WINDOW: u32 = 80;
    let scene = Scene::new().await;
    let tables = scene.work("queue_type = \"classic\"");
    let (mut grown, mut whole) = (scene.sidecar(&tables).await, scene.sidecar(&tables).await);
    let open = async |sidecar: &Sidecar, messages: u32| {
        let flow =
            v1::FlowControl { max_in_flight_messages: i32::try_from(messages).ok(), ..v1::FlowControl::default() };
        Handler::open(sidecar.channel().await, v1::SubscribeOpen { flow: Some(flow), ..Handler::of("work") }).await
    };
    let (mut single, mut first) = (open(&whole, WINDOW).await, open(&grown, WINDOW / 4).await);
    // Both are trusted with all that their windows take once they know what comes.
    let (known, publisher) = (Shared::of(1_000), grown.publisher().await);
    tokio::join!(single.share(&known, |_| ()), first.share(&known, |_| ()), publisher.publish_numbers(0..1_000));
    let prefetch = "sidebus_prefetch_messages{subscription=\"work\"}";
    whole.metric_becomes(prefetch, f64::from(WINDOW)).await;
    let mut several = vec![first];
    for count in 1..=4 {
        grown.metric_becomes(prefetch, f64::from(WINDOW / 4 * count)).await;
        if count < 4 {
            several.push(open(&grown, WINDOW / 4).await);
        }
    }
    let (_, consumers) = scene.amqp().await.look(&scene.name("work")).await.expect("the queue is there");

    let work = Shared::of(COUNT);
    let by_several = join_all(several.iter_mut().map(|handler| handler.share(&work, |_| ())));
    let (by_single, by_several, ()) =
        tokio::join!(single.share(&work, |_| ()), by_several, publisher.publish_numbers(0..COUNT));
    let (by_single, by_several) = (by_single.len(), by_several.iter().map(Vec::len).sum::<usize>());
    println!(
        "{consumers} consumers; {by_several} of {COUNT} by four handlers of one sidecar, {by_single} by one of the other"
    );
    assert!(by_single.min(by_several) >= COUNT / 5, "{by_single} and {by_several}");
    for mut handler in several.into_iter().chain([single]) {
        handler.leave().await;
    }
    assert_eq!((grown.process.stop().await, whole.process.stop().await), (Some(0), Some(0)));
    scene.amqp().await.wait_for_depth(&scene.name("work"), 0).await;
}
