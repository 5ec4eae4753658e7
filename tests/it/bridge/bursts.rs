//! What comes first, before anybody knows how large the bodies of a queue are.

use sidebus::broker::memory::{MemoryBroker, MemoryOptions};
use sidebus::broker::{Confirm, Publication, Routing};
use sidebus::domain::message::{Message, Properties};
use sidebus::domain::name::ExchangeName;
use tokio::time::{Duration, Instant};

use super::bench::{Bench, ids, pass, subscription};

const MESSAGES: usize = 100;
/// A quarter of the window in bytes of the handlers here.
const LARGEST: usize = 256 << 10;

/// A bridge whose queue holds so many bodies of this size, and no handler yet.
async fn with_bodies(bytes: usize) -> Bench {
    let mut work = subscription("work", "#");
    work.delivery.message_bytes_max = LARGEST as u64;
    let bench = Bench::with(MemoryBroker::new(MemoryOptions { bytes_max: 64 << 20 }), vec![work], &[]);
    bench.publish(&["0"]).await;
    for _ in 1..MESSAGES {
        let message = Message {
            exchange: ExchangeName::parse("events").unwrap(),
            routing_key: "player.Drawn".to_owned(),
            properties: Properties::default(),
            body: vec![0; bytes].into(),
        };
        let publication = Publication { message, routing: Routing::Required };
        assert_eq!(bench.bridge.publisher.publish(vec![publication]).await.unwrap(), [Confirm::Stored]);
    }
    bench
}

/// failures.md S3: none has to be given back for having come too early.
#[tokio::test(start_paused = true)]
async fn large_bodies_come_no_faster_than_their_size_becomes_known() {
    let bench = with_bodies(LARGEST - 1_000).await;
    let mut handler = bench.join(100).await;
    // So long that nobody is in a hurry to give anything back.
    pass(Duration::from_secs(1)).await;
    let mut first = 0;
    let mut done = 0;
    while done < MESSAGES {
        handler.next().await.expect("the stream goes on");
        let got = handler.take();
        first = first.max(got.len());
        assert!(got.iter().all(|handout| !handout.redelivered), "more was sent ahead than the window in bytes holds");
        done += got.len();
        handler.ack(&ids(&got)).await;
    }
    assert!(first > 0 && first <= 5, "{first}");
    bench.depth_becomes("work", 0, 0).await;
}

#[tokio::test(start_paused = true)]
async fn a_whole_window_of_small_bodies_is_there_without_a_wait() {
    let bench = with_bodies(10).await;
    let joined = Instant::now();
    let mut handler = bench.join(100).await;
    handler.receive(MESSAGES).await;
    assert!(joined.elapsed() < Duration::from_millis(100), "{:?}", joined.elapsed());
}
