//! Handlers in two languages share the work of one subscription: each message once, through real RabbitMQ.

use std::collections::BTreeSet;

use tokio::time::Instant;

use crate::support::examples::{handled, python, rust_handler};
use crate::support::process::Process;
use crate::support::proxy::Proxy;
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
