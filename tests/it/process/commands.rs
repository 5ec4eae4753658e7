//! `pub` and `sub` against a running sidecar: data on standard output, words on standard error, a code for each end.

use super::WORK;
use crate::support::process::{Daemon, Place};

async fn daemon() -> (Place, Daemon) {
    let place = Place::memory().file("sidebus.toml", WORK);
    let daemon = place.daemon(&[]).await;
    daemon.ready().await;
    (place, daemon)
}

#[tokio::test]
async fn what_pub_publishes_sub_prints() {
    let (place, daemon) = daemon().await;
    let at = ["--endpoint", daemon.grpc.as_str()];
    let published = place.run(&[&["pub", "work.A", "hello", "-n", "3"], &at[..]].concat()).await;
    assert_eq!((published.code, published.stdout.lines().count()), (0, 3), "{published:?}");
    assert!(
        published.stdout.lines().all(|id| uuid::Uuid::parse_str(id).is_ok()),
        "ids and nothing else: {published:?}"
    );

    let received = place.run(&[&["sub", "--subscription", "work", "-n", "3"], &at[..]].concat()).await;
    assert_eq!((received.code, received.stdout.as_str()), (0, "hello\nhello\nhello\n"), "{received:?}");
    // What was printed is acked: nothing is left.
    let empty = place.run(&[&["sub", "--subscription", "work", "--exit-on-empty=100ms"], &at[..]].concat()).await;
    assert_eq!((empty.code, empty.stdout.as_str()), (0, ""), "{empty:?}");
}

#[tokio::test]
async fn lines_of_json_go_through_both_ways() {
    let (place, daemon) = daemon().await;
    let at = ["--endpoint", daemon.grpc.as_str()];
    let line = r#"{"routing_key":"work.B","message_id":"m-1","headers":{"n":7},"body":"text"}"#;
    let published = place.run_with_input(&[&["pub", "--jsonl"], &at[..]].concat(), &format!("{line}\n")).await;
    assert_eq!((published.code, published.stdout.as_str()), (0, "m-1\n"), "{published:?}");
    let received = place.run(&[&["sub", "--subscription", "work", "-n", "1", "-o", "json"], &at[..]].concat()).await;
    let received: serde_json::Value = serde_json::from_str(received.stdout.trim_end()).unwrap();
    let sent: serde_json::Value = serde_json::from_str(line).unwrap();
    for key in ["routing_key", "message_id", "headers", "body"] {
        assert_eq!(received[key], sent[key], "{key}");
    }
    assert_eq!(received["attempt"], 1);
}

#[tokio::test]
async fn a_pattern_gets_copies_and_takes_nothing_from_others() {
    let (place, daemon) = daemon().await;
    let at = ["--endpoint", daemon.grpc.as_str()];
    let mut tap = place.start(&[&["sub", "work.#"], &at[..]].concat());
    // The tap is there when something reaches it.
    crate::support::eventually("a copy", async || {
        place.run(&[&["pub", "work.A", "seen"], &at[..]].concat()).await;
        (!tap.stdout.all().is_empty()).then_some(())
    })
    .await;
    let own = place.run(&[&["sub", "--subscription", "work", "-n", "1"], &at[..]].concat()).await;
    assert_eq!((own.code, own.stdout.as_str()), (0, "seen\n"));
    tap.signal("INT").await;
    let said = tap.end().await;
    assert_eq!(said.code, 0, "an interrupt is how it ends: {said:?}");
    assert!(said.stdout.lines().all(|line| line == "seen"), "data and nothing else: {said:?}");
}

#[tokio::test]
async fn each_failure_has_its_code_and_its_words() {
    let (place, daemon) = daemon().await;
    for (args, code, words) in [
        (&["pub", "work.A", "1", "--exchange", "nowhere"][..], 8, "EXCHANGE_NOT_FOUND"),
        (&["pub", "nobody.A", "1"], 1, "UNROUTABLE"),
        (&["sub", "--subscription", "wrok"], 8, "SUBSCRIPTION_NOT_FOUND"),
        (&["sub", "--subscription", "work", "--timeout", "50ms"], 124, "TIMEOUT"),
    ] {
        let said = place.run(&[args, &["--endpoint", &daemon.grpc]].concat()).await;
        assert_eq!((said.code, said.stdout.as_str()), (code, ""), "{args:?}: {said:?}");
        assert!(said.stderr.contains(words), "{args:?}: {said:?}");
    }
    let partly = "{\"routing_key\":\"work.A\",\"body\":\"1\"}\nnonsense\n";
    let said = place.run_with_input(&["pub", "--jsonl", "--endpoint", &daemon.grpc], partly).await;
    assert_eq!((said.code, said.stdout.lines().count()), (3, 1), "{said:?}");
    assert!(said.stderr.contains("line 2"), "{said:?}");
}

#[tokio::test]
async fn without_a_sidecar_both_say_so() {
    let place = Place::new();
    // The port was free a moment ago, and nobody listens on it now.
    let free = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = free.local_addr().unwrap().to_string();
    drop(free);
    for args in [&["pub", "work.A", "1"][..], &["sub", "work.#"]] {
        let said = place.run(&[args, &["--endpoint", &address]].concat()).await;
        assert_eq!((said.code, said.stdout.as_str()), (5, ""), "{said:?}");
        assert!(said.stderr.contains(&address), "{said:?}");
    }
    assert_eq!(place.run(&["pub", "work.A", "1", "--endpoint", "no address"]).await.code, 2);
}
