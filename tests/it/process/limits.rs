//! A process that has no room for more.

use std::process::Command;

use tokio::net::TcpStream;

use super::WORK;
use crate::support::eventually;
use crate::support::handler::Handler;
use crate::support::process::{Daemon, Place};
use crate::support::words::{ack, open, settle};

/// Sets how many descriptors a process may have, as the soft limit.
fn descriptors(daemon: &Daemon, count: usize) {
    let (pid, limit) = (daemon.process.pid().to_string(), format!("--nofile={count}:"));
    let set = Command::new("prlimit").args(["--pid", &pid, &limit]).status();
    assert!(set.is_ok_and(|status| status.success()), "prlimit of util-linux");
}

/// failures.md S9.
#[tokio::test]
async fn without_descriptors_for_more_those_who_are_in_go_on_and_others_get_in_later() {
    let place = Place::memory().file("sidebus.toml", WORK);
    let daemon = place.daemon(&[]).await;
    daemon.ready().await;
    let mut handler = Handler::join(daemon.port(), open("work")).await.unwrap();
    place.run(&["pub", "work.A", "1", "-n", "3", "--endpoint", &daemon.grpc]).await;
    let held = handler.deliveries(3).await;

    let used = std::fs::read_dir(format!("/proc/{}/fd", daemon.process.pid())).expect("a process of ours").count();
    descriptors(&daemon, used + 4);
    let mut crowd = Vec::new();
    let refused = eventually("a connection finds no room", async || {
        crowd.push(TcpStream::connect(("127.0.0.1", daemon.port())).await.expect("the kernel takes it"));
        daemon.process.stderr.all().into_iter().find(|line| line.contains("a connection could not be accepted"))
    })
    .await;
    assert!(refused.contains("Too many open files"), "{refused}");
    handler.say(settle(held.iter().map(|delivery| delivery.id).collect::<Vec<_>>(), ack())).await;

    descriptors(&daemon, used + 1_000);
    drop(crowd);
    place.run(&["pub", "work.A", "2", "--endpoint", &daemon.grpc]).await;
    assert_eq!(handler.delivery().await.attempt, 1, "it was there all the time");
    let lines = daemon.process.stderr.all();
    assert_eq!(lines.iter().filter(|line| line.contains("could not be accepted")).count(), 1, "said once");
}
