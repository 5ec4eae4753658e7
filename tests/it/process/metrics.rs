//! The page that Prometheus reads: names, values and labels after known traffic.

use std::collections::{BTreeMap, BTreeSet};

use sidebus::telemetry::metrics as names;

use super::WORK;
use crate::support::eventually;
use crate::support::handler::Handler;
use crate::support::process::{Daemon, Place};
use crate::support::words::{ack, dead_letter, open, retry, settle};

/// One sample of a page.
#[derive(Debug, Clone, PartialEq)]
struct Sample {
    name: String,
    labels: BTreeMap<String, String>,
    value: f64,
}

/// Name, labels, value.
type Expected<'a> = (&'a str, &'a [(&'a str, &'a str)], f64);

/// Reads a page; label values here hold neither commas nor quotes.
fn parse(page: &str) -> Vec<Sample> {
    let sample = |line: &str| {
        let (series, value) = line.rsplit_once(' ').unwrap();
        let (name, labels) = series.split_once('{').unwrap_or((series, "}"));
        let labels = labels.strip_suffix('}').unwrap().split(',').filter(|label| !label.is_empty());
        let label = |label: &str| {
            let (key, value) = label.split_once('=').unwrap();
            (key.to_owned(), value.trim_matches('"').to_owned())
        };
        Sample { name: name.to_owned(), labels: labels.map(label).collect(), value: value.parse().unwrap() }
    };
    page.lines().filter(|line| !line.is_empty() && !line.starts_with('#')).map(sample).collect()
}

/// The sum of the samples of this name that carry these labels; `None` = there are none.
fn value(samples: &[Sample], name: &str, labels: &[(&str, &str)]) -> Option<f64> {
    let fits = |sample: &&Sample| {
        let has = |(key, value): &(&str, &str)| sample.labels.get(*key).is_some_and(|found| found == value);
        sample.name == name && labels.iter().all(has)
    };
    let found: Vec<f64> = samples.iter().filter(fits).map(|sample| sample.value).collect();
    (!found.is_empty()).then(|| found.iter().sum())
}

async fn scrape(daemon: &Daemon) -> (String, Vec<Sample>) {
    let (status, page) = daemon.get("/metrics").await;
    assert_eq!(status, 200);
    let samples = parse(&page);
    (page, samples)
}

/// Publishes four messages and one that nobody takes; acks two, retries one, gives one up.
async fn traffic(place: &Place, daemon: &Daemon) -> Handler {
    place.run(&["pub", "work.A", "1", "-n", "4", "--endpoint", &daemon.grpc]).await;
    place.run(&["pub", "nobody.A", "1", "--endpoint", &daemon.grpc]).await;
    let mut handler = Handler::join(daemon.port(), open("work")).await.unwrap();
    let held = handler.deliveries(4).await;
    handler.say(settle([held[0].id, held[1].id], ack())).await;
    handler.say(settle([held[2].id], retry("AGAIN", Some(0)))).await;
    handler.say(settle([held[3].id], dead_letter("NEVER"))).await;
    handler.say(settle([12], ack())).await;
    handler.say(settle([], ack())).await;
    assert_eq!(handler.delivery().await.attempt, 2);
    handler
}

#[tokio::test]
async fn the_page_tells_what_has_happened() {
    // So small that a whole window of them may come at once.
    let place = Place::memory().file("sidebus.toml", &format!("{WORK}max_message_bytes = \"64KiB\"\n"));
    let daemon = place.daemon(&[]).await;
    daemon.ready().await;
    let _handler = traffic(&place, &daemon).await;
    let work = ("subscription", "work");
    let expected: &[Expected] = &[
        (names::BUILD_INFO, &[("version", env!("CARGO_PKG_VERSION"))], 1.0),
        (names::READY, &[], 1.0),
        (names::BROKER_CONNECTED, &[], 1.0),
        (names::BROKER_BLOCKED, &[], 0.0),
        (names::PUBLISHES_IN_FLIGHT, &[], 0.0),
        (names::PUBLISH_BREAKER, &[], 0.0),
        (names::PUBLISHED, &[("exchange", "angzarr.events"), ("result", "stored")], 4.0),
        (names::PUBLISHED, &[("exchange", "angzarr.events"), ("result", "unroutable")], 1.0),
        (names::DELIVERIES, &[work], 5.0),
        (names::SETTLEMENTS, &[work, ("verdict", "ack"), ("source", "handler"), ("outcome", "applied")], 2.0),
        (names::SETTLEMENTS, &[work, ("verdict", "retry"), ("source", "handler"), ("outcome", "applied")], 1.0),
        (names::SETTLEMENTS, &[work, ("verdict", "dead_letter"), ("source", "handler"), ("outcome", "applied")], 1.0),
        (names::SETTLEMENTS_REFUSED, &[work, ("outcome", "unknown_delivery")], 1.0),
        // A verdict that names no delivery has no answer.
        (names::SETTLEMENTS_REFUSED, &[work, ("outcome", "invalid")], 1.0),
        (names::RETRIES, &[work, ("attempt", "1")], 1.0),
        (names::DEAD_LETTERS, &[work, ("cause", "rejected_by_handler")], 1.0),
        (names::HANDLERS, &[work], 1.0),
        (names::IN_FLIGHT, &[work], 1.0),
        (names::PREFETCH, &[work], 100.0),
        (names::PAUSED, &[work, ("reason", "kill_switch")], 0.0),
        (names::PAUSED, &[work, ("reason", "parser")], 0.0),
        ("sidebus_handler_seconds_count", &[work], 4.0),
        ("sidebus_handler_seconds_bucket", &[work, ("le", "1500")], 4.0),
        ("sidebus_publish_confirm_seconds_count", &[("role", "publish")], 2.0),
        ("sidebus_publish_batch_messages_sum", &[("role", "publish")], 5.0),
    ];
    eventually("the numbers", async || {
        let (_, samples) = scrape(&daemon).await;
        let is_told = |(name, labels, wanted): &Expected| {
            value(&samples, name, labels).is_some_and(|found| (found - wanted).abs() < 0.5)
        };
        expected.iter().all(is_told).then_some(())
    })
    .await;
}

#[tokio::test]
async fn names_have_one_prefix_and_labels_are_closed_sets() {
    let place = Place::memory().file("sidebus.toml", WORK);
    let daemon = place.daemon(&[]).await;
    daemon.ready().await;
    let mut handler = traffic(&place, &daemon).await;
    handler.half_close();
    handler.end().await.unwrap();
    let (page, samples) = scrape(&daemon).await;
    let allowed: BTreeMap<&str, &[&str]> = BTreeMap::from([
        ("version", &[env!("CARGO_PKG_VERSION")][..]),
        ("subscription", &["work"]),
        ("exchange", &["angzarr.events"]),
        ("result", &["stored", "unroutable", "failed", "dropped", "impossible"]),
        ("verdict", &["ack", "retry", "dead_letter", "release"]),
        ("source", &["handler", "deadline", "sidecar"]),
        ("role", &["publish", "settle"]),
        ("attempt", &["1", "2", "3_5", "6_up"]),
        ("cause", &["rejected_by_handler", "max_attempts", "settle_timeout", "expired"]),
        ("purpose", &["retry", "wait", "dead_letter", "release"]),
        (
            "reason",
            &[
                "left",
                "lost",
                "slow_reader",
                "protocol",
                "draining",
                "mismatch",
                "bug",
                "kill_switch",
                "dead_letters",
                "parser",
            ],
        ),
        ("kind", &["exchange", "queue", "binding"]),
        ("outcome", &["applied", "stale", "unknown_delivery", "invalid"]),
    ]);
    for sample in &samples {
        assert!(sample.name.starts_with("sidebus_"), "{sample:?}");
        for (key, value) in sample.labels.iter().filter(|(key, _)| *key != "le") {
            let words = allowed.get(key.as_str()).copied().unwrap_or_default();
            assert!(words.contains(&value.as_str()), "{key}={value} in {sample:?}");
        }
    }
    let described: BTreeSet<&str> =
        page.lines().filter_map(|line| line.strip_prefix("# HELP ")?.split(' ').next()).collect();
    let types: BTreeMap<&str, &str> =
        page.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split_once(' ')).collect();
    for (name, kind) in types {
        assert!(described.contains(name), "{name} is not described");
        assert_eq!(name.ends_with("_total"), kind == "counter", "{name} is a {kind}");
        assert_ne!(kind, "summary", "{name}: summaries cannot be added up");
    }
}
