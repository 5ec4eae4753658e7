//! Deliveries that stay unsettled: the oldest one's age as a gauge, and one word about each that is too old.

use std::io::{self, Write};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use metrics_exporter_prometheus::PrometheusBuilder;
use sidebus::bridge::{Handout, Said};

use super::bench::{Bench, Handler, ids, pass};

/// Lines of the log.
#[derive(Debug, Clone, Default)]
struct Lines(Arc<Mutex<Vec<u8>>>);

impl Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Lines {
    /// Those about something that is unsettled for long.
    fn told(&self) -> Vec<String> {
        let text = String::from_utf8(self.0.lock().unwrap().clone()).unwrap();
        text.lines().filter(|line| line.contains("unsettled for long")).map(str::to_owned).collect()
    }
}

/// The handler asks for more time again and again.
async fn keeps(handler: &Handler, held: &[Handout], time: Duration) {
    let step = Duration::from_secs(20);
    for _ in 0..time.as_secs() / step.as_secs() {
        let extensions = vec![(ids(held), Ok(step * 2))];
        assert!(handler.attached.voice.say(Said { extensions, ..Said::default() }).await);
        pass(step).await;
    }
}

/// failures.md L8.
#[tokio::test(start_paused = true)]
async fn what_is_unsettled_for_ten_minutes_is_told_once_and_its_age_is_a_gauge() {
    // Everything of this test runs on its own thread.
    let recorder = PrometheusBuilder::new().build_recorder();
    let page = recorder.handle();
    let _recorder = metrics::set_default_local_recorder(&recorder);
    let lines = Lines::default();
    let writer = lines.clone();
    let log = tracing_subscriber::fmt().with_ansi(false).with_writer(move || writer.clone()).finish();
    let _log = tracing::subscriber::set_default(log);
    let oldest = || {
        let page = page.render();
        let sample = |line: &str| {
            line.strip_prefix("sidebus_oldest_unsettled_seconds{subscription=\"work\"} ").map(str::to_owned)
        };
        page.lines().find_map(sample).map(|value| value.parse::<f64>().unwrap())
    };

    let bench = Bench::start();
    bench.publish(&["first"]).await;
    let mut handler = bench.join(10).await;
    let mut held = handler.receive(1).await;
    keeps(&handler, &held, Duration::from_mins(5)).await;
    assert!(oldest().is_some_and(|seconds| (285.0..=305.0).contains(&seconds)), "{:?}", oldest());
    bench.publish(&["second"]).await;
    held.extend(handler.receive(1).await);
    keeps(&handler, &held, Duration::from_secs(320)).await;

    let told = lines.told();
    assert_eq!(told.len(), 1, "{told:?}");
    assert!(told[0].contains("message.id=\"first\"") && told[0].contains("handler=\"h\""), "{told:?}");
    handler.ack(&ids(&held)).await;
    bench.depth_becomes("work", 0, 0).await;
    pass(Duration::from_secs(11)).await;
    assert_eq!(oldest(), Some(0.0));
    assert_eq!(lines.told().len(), 1, "what is settled is told no more");
}
