//! How often a broker is tried that cannot be had.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::future::BoxFuture;
use sidebus::broker::{Broker, BrokerError, Session, SessionId};
use tokio::time::Instant;

use super::bench::{Bench, broker, pass, subscription};

/// What is promised while a port refuses or cannot be reached.
const SECOND: Duration = Duration::from_secs(1);
/// `reconnect.max_backoff` of the bench.
const LONGEST: Duration = Duration::from_secs(10);
/// Of the clock of a runtime, which has whole milliseconds.
const TICK: Duration = Duration::from_millis(2);

/// A broker that refuses each connect, and when that was.
#[derive(Debug)]
struct Refusing {
    error: BrokerError,
    tries: Mutex<Vec<Instant>>,
}

impl Broker for Refusing {
    fn connect(&self, _id: SessionId) -> BoxFuture<'_, Result<Arc<dyn Session>, BrokerError>> {
        self.tries.lock().unwrap().push(Instant::now());
        Box::pin(async { Err(self.error.clone()) })
    }

    fn endpoint(&self) -> String {
        "nowhere".to_owned()
    }
}

/// The longest wait between two of the tries of five minutes.
async fn longest_wait(error: BrokerError) -> Duration {
    let refusing = Arc::new(Refusing { error, tries: Mutex::default() });
    let _bench =
        Bench::through(Arc::clone(&refusing) as Arc<dyn Broker>, broker(), (vec![subscription("work", "#")], &[]));
    pass(Duration::from_mins(5)).await;
    let tries = refusing.tries.lock().unwrap();
    assert!(tries.len() > 20, "it never gives up: {}", tries.len());
    tries.windows(2).map(|pair| pair[1] - pair[0]).max().expect("some")
}

fn text(text: &str) -> String {
    text.to_owned()
}

/// failures.md L1.
#[tokio::test(start_paused = true)]
async fn a_port_that_refuses_or_that_nobody_reaches_is_tried_at_least_every_second() {
    let unreachable = BrokerError::Unreachable { endpoint: text("amqp://broker:5672"), reason: text("refused") };
    for error in [unreachable, BrokerError::SessionLost { reason: text("CONNECTION_FORCED") }] {
        let longest = longest_wait(error.clone()).await;
        assert!(longest <= SECOND + TICK, "{error}: {longest:?}");
        assert!(longest > SECOND / 2, "{error}: and not hammered: {longest:?}");
    }
}

/// failures.md L1 and L11.
#[tokio::test(start_paused = true)]
async fn a_broker_that_was_reached_and_lets_nobody_in_is_tried_at_up_to_the_longest_wait() {
    let refused =
        BrokerError::LoginRefused { endpoint: text("amqp://broker:5672"), user: text("mia"), reason: text("no") };
    let late = BrokerError::TimedOut { operation: text("the greeting"), within: Duration::from_secs(5) };
    for error in [refused, late] {
        let longest = longest_wait(error.clone()).await;
        assert!(longest > SECOND * 2 && longest <= LONGEST + TICK, "{error}: {longest:?}");
    }
}
