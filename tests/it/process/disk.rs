//! A state directory that cannot be written to while the process runs.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::SystemTime;

use super::WORK;
use crate::support::eventually;
use crate::support::handler::Handler;
use crate::support::process::Place;
use crate::support::words::{ack, open, settle};

/// A file system of two blocks of its own, for as long as this lives.
struct TinyDisk(PathBuf);

impl TinyDisk {
    /// `None` = this process may not mount.
    fn mount(at: &Path) -> Option<Self> {
        std::fs::create_dir(at).unwrap();
        let mount = Command::new("mount").args(["-t", "tmpfs", "-o", "size=8k", "tmpfs"]).arg(at).status();
        mount.is_ok_and(|status| status.success()).then(|| Self(at.to_owned()))
    }
}

impl Drop for TinyDisk {
    fn drop(&mut self) {
        // What cannot be unmounted makes the folder of the test fail to go.
        let _ = Command::new("umount").arg("--lazy").arg(&self.0).status();
    }
}

fn written(note: &Path) -> SystemTime {
    std::fs::metadata(note).and_then(|found| found.modified()).unwrap()
}

/// Runs a daemon whose state directory breaks at work and is mended before the stop.
async fn a_note_that_fails_is_told_and_settling_goes_on(place: &Place, broken: impl FnOnce(), mended: impl FnOnce()) {
    let note = place.path().join("state").join("last-start");
    let mut daemon = place.daemon(&[]).await;
    daemon.ready().await;
    let mut handler = Handler::join(daemon.port(), open("work")).await.unwrap();
    let publish = ["pub", "work.A", "1", "-n", "2", "--endpoint", &daemon.grpc];
    assert_eq!(place.run(&publish).await.code, 0);
    let held = handler.deliveries(2).await;
    let noted = written(&note);

    broken();
    let told = daemon.process.stderr.find("is not noted").await;
    assert!(told.contains("\"WARN\"") && told.contains("bus.state_dir") && told.contains("state\""), "{told}");
    handler.say(settle(held.iter().map(|delivery| delivery.id).collect::<Vec<_>>(), ack())).await;
    assert_eq!(place.run(&publish).await.code, 0);
    let held = handler.deliveries(2).await;
    handler.say(settle(held.iter().map(|delivery| delivery.id).collect::<Vec<_>>(), ack())).await;
    eventually("four acks", async || {
        let (_, page) = daemon.get("/metrics").await;
        let acks = |line: &&str| line.starts_with("sidebus_settlements_total") && line.ends_with(" 4");
        page.lines().find(acks).map(drop)
    })
    .await;

    mended();
    handler.half_close();
    handler.end().await.unwrap();
    daemon.process.signal("TERM").await;
    let said = daemon.process.end().await;
    assert_eq!(said.code, 0, "{said:?}");
    assert!(written(&note) > noted, "once it can, it notes what its ids have reached");
}

/// failures.md S7.
#[tokio::test]
async fn a_state_directory_that_is_replaced_while_it_runs_is_a_warning() {
    let place = Place::memory().with("BUS__STATE_DIR", "state").file("sidebus.toml", WORK);
    let (state, aside) = (place.path().join("state"), place.path().join("aside"));
    std::fs::create_dir(&state).unwrap();
    let broken = || {
        std::fs::rename(&state, &aside).unwrap();
        std::fs::write(&state, "no directory").unwrap();
    };
    let mended = || {
        std::fs::remove_file(&state).unwrap();
        std::fs::rename(&aside, &state).unwrap();
    };
    a_note_that_fails_is_told_and_settling_goes_on(&place, broken, mended).await;
}

/// failures.md S7.
#[tokio::test]
async fn a_full_disk_below_the_state_directory_is_a_warning() {
    let place = Place::memory().with("BUS__STATE_DIR", "state").file("sidebus.toml", WORK);
    let state = place.path().join("state");
    let Some(_disk) = TinyDisk::mount(&state) else {
        println!("skipped: this user may not mount a file system");
        return;
    };
    let filler = state.join("filler");
    let broken = || std::fs::write(&filler, [0; 4_096]).unwrap();
    let mended = || std::fs::remove_file(&filler).unwrap();
    a_note_that_fails_is_told_and_settling_goes_on(&place, broken, mended).await;
}
