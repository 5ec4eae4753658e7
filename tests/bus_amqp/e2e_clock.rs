//! A wall clock that jumps under a running sidecar.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use sidebus::grpc::proto::sidebus::v1;
use sidebus::grpc::proto::sidebus::v1::settlement::Verdict;
use tokio::time::Instant;

use crate::support::handler::{Handler, number};
use crate::support::mount::Mount;
use crate::support::process::Process;
use crate::support::scene::{FREE_PORTS, Scene, Sidecar};

/// Debian's package `faketime`, by kind of machine.
const LIBRARIES: [&str; 2] =
    ["/usr/lib/x86_64-linux-gnu/faketime/libfaketimeMT.so.1", "/usr/lib/aarch64-linux-gnu/faketime/libfaketimeMT.so.1"];
const DELAY: Duration = Duration::from_secs(2);
const SETTLE_TIMEOUT: Duration = Duration::from_secs(4);
/// Nothing is late by this; a day is more.
const SLACK: Duration = Duration::from_secs(15);

/// A sidecar whose wall clock differs by what a file says.
async fn under_another_clock(scene: &Scene, library: &str, offset: &Path) -> Sidecar {
    let mut command = Command::new(env!("CARGO_BIN_EXE_sidebus"));
    command.args(["run", "-c"]).arg(scene.file(&scene.settings(&scene.work(""))));
    let clock = [
        ("LD_PRELOAD", library),
        ("FAKETIME_TIMESTAMP_FILE", offset.to_str().expect("plain letters")),
        ("FAKETIME_NO_CACHE", "1"),
        ("FAKETIME_DONT_FAKE_MONOTONIC", "1"),
    ];
    Sidecar::listening(Process::start("sidecar", command, &[&clock[..], &FREE_PORTS].concat())).await
}

/// The day of its newest line.
fn day(sidecar: &Sidecar) -> String {
    let line = sidecar.process.log().pop().expect("it has said something");
    let line: serde_json::Value = serde_json::from_str(&line).expect("a JSON line");
    line["timestamp"].as_str().expect("a time")[..10].to_owned()
}

/// One delivery that is retried, one that is acked and one whose time runs out, while the clock jumps.
async fn jump(sidecar: &Sidecar, handler: &mut Handler, jump: impl FnOnce()) -> Vec<i64> {
    sidecar.publisher().await.publish_numbers(0..3).await;
    let held = handler.deliveries(3).await;
    let retry = v1::Retry { delay: Some(seconds(DELAY)), ..v1::Retry::default() };
    let (retried, revoked) = (Instant::now(), handler.revocations.len());
    handler.settle(&held[..1], Verdict::Retry(retry)).await;
    jump();
    let again = handler.delivery().await;
    let took = retried.elapsed();
    assert!(again.attempt == 2 && number(&again) == 0);
    assert!(took >= DELAY && took < DELAY + SLACK, "a delay is as long as it is: {took:?}");
    assert_eq!(handler.revocations.len(), revoked, "no lease ends with the jump");

    // From now on the last one is the oldest.
    let alone = Instant::now();
    handler.ack(&[held[1].clone(), again.clone()]).await;
    handler.until("its time is over", |it| it.revocations.len() > revoked).await;
    let took = alone.elapsed();
    assert!(took >= SETTLE_TIMEOUT && took < SETTLE_TIMEOUT + SLACK, "a lease is as long as it is: {took:?}");
    let last = handler.delivery().await;
    assert!(last.attempt == 2 && number(&last) == 2);
    handler.ack(std::slice::from_ref(&last)).await;
    held.iter().chain([&again, &last]).map(|delivery| delivery.id).collect()
}

fn seconds(duration: Duration) -> prost_types::Duration {
    prost_types::Duration { seconds: i64::try_from(duration.as_secs()).expect("few"), nanos: 0 }
}

/// failures.md S6.
#[tokio::test]
async fn a_clock_that_jumps_by_a_day_touches_no_delay_no_lease_and_no_id() {
    let Some(library) = LIBRARIES.into_iter().find(|path| Path::new(path).exists()) else {
        println!("skipped: no faketime here (Debian's package of that name)");
        return;
    };
    let (scene, mount) = (Scene::new().await, Mount::new());
    let offset = mount.file("offset", "+0\n");
    let mut sidecar = under_another_clock(&scene, library, &offset).await;
    sidecar.ready().await;
    let open = v1::SubscribeOpen { settle_timeout: Some(seconds(SETTLE_TIMEOUT)), ..Handler::of("work") };
    let mut handler = Handler::open(sidecar.channel().await, open).await;

    let (mut ids, mut days) = (Vec::new(), vec![day(&sidecar)]);
    for by in ["+1d", "-1d"] {
        // Into another file first: half a line would be another time.
        let set = || {
            let next = mount.file("next", &format!("{by}\n"));
            std::fs::rename(next, &offset).expect("a new offset");
        };
        ids.extend(jump(&sidecar, &mut handler, set).await);
        days.push(day(&sidecar));
    }
    println!("days of its log: {days:?}");
    assert!(days[1] > days[0] && days[2] < days[0], "it has seen the jumps: {days:?}");
    assert!(ids.windows(2).all(|pair| pair[0] < pair[1]), "ids rise: {ids:?}");
    handler.leave().await;
    assert_eq!(sidecar.process.stop().await, Some(0));
    scene.amqp().await.wait_for_depth(&scene.name("work"), 0).await;
}
