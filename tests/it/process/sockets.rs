//! The Unix socket and the state directory of the daemon: made, guarded, left clean.

use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt as _};
use std::os::unix::net::UnixListener;
use std::path::PathBuf;

use super::WORK;
use crate::support::process::{Daemon, Place};
use crate::support::within;

/// A place whose daemon listens on a socket, beside TCP.
fn with_socket() -> (Place, PathBuf) {
    let place = Place::memory().file("sidebus.toml", WORK);
    let path = place.path().join("bus.sock");
    (place.with("BUS__GRPC__UNIX_SOCKET", path.to_str().unwrap()), path)
}

async fn stop(mut daemon: Daemon) {
    daemon.process.signal("TERM").await;
    let said = daemon.process.end().await;
    assert_eq!(said.code, 0, "{said:?}");
}

#[tokio::test]
async fn messages_pass_through_a_socket_that_is_gone_after_the_stop() {
    let (place, path) = with_socket();
    let place = place.with("BUS__GRPC__LISTEN", "off").with("BUS__GRPC__UNIX_SOCKET_MODE", "0600");
    let daemon = place.daemon(&[]).await;
    daemon.ready().await;
    assert_eq!(daemon.grpc, "off");
    let found = std::fs::symlink_metadata(&path).unwrap();
    assert!(found.file_type().is_socket());
    assert_eq!(found.permissions().mode() & 0o777, 0o600);

    for endpoint in [path.to_str().unwrap().to_owned(), format!("unix:{}", path.display())] {
        let said = place.run(&["pub", "work.A", "hello", "--endpoint", &endpoint]).await;
        assert_eq!(said.code, 0, "{said:?}");
        let said = place.run(&["sub", "--subscription", "work", "-n", "1", "--endpoint", &endpoint]).await;
        assert!(said.code == 0 && said.stdout.contains("hello"), "{said:?}");
    }

    stop(daemon).await;
    assert!(!path.exists(), "the socket is removed at a clean stop");
}

/// failures.md S8.
#[tokio::test]
async fn the_socket_of_a_dead_process_is_replaced() {
    let (place, path) = with_socket();
    let mut daemon = place.daemon(&[]).await;
    daemon.process.signal("KILL").await;
    // Until it is gone its socket takes connections.
    daemon.process.end().await;
    assert!(path.exists(), "nobody cleans up after a kill");
    let daemon = place.daemon(&[]).await;
    let endpoint = path.to_str().unwrap();
    daemon.ready().await;
    assert_eq!(place.run(&["pub", "work.A", "1", "--endpoint", endpoint]).await.code, 0);
    stop(daemon).await;
}

/// failures.md S8.
#[tokio::test]
async fn a_socket_that_somebody_listens_on_is_refused_and_left_alone() {
    let (place, path) = with_socket();
    let other = UnixListener::bind(&path).unwrap();
    let said = place.run(&["run"]).await;
    assert_eq!(said.code, 1, "{said:?}");
    for word in [path.to_str().unwrap(), "grpc.unix_socket", "another process listens there"] {
        assert!(said.stderr.contains(word), "{word}: {said:?}");
    }
    drop(other);
    std::fs::remove_file(&path).unwrap();

    std::fs::write(&path, "precious").unwrap();
    let said = place.run(&["run"]).await;
    assert_eq!(said.code, 1, "{said:?}");
    assert!(said.stderr.contains("something else than a socket is there"), "{said:?}");
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "precious");
}

#[tokio::test]
async fn a_daemon_whose_socket_was_taken_over_leaves_the_new_one() {
    let (place, path) = with_socket();
    let daemon = place.daemon(&[]).await;
    std::fs::remove_file(&path).unwrap();
    let _other = UnixListener::bind(&path).unwrap();
    stop(daemon).await;
    assert!(path.exists(), "it belongs to somebody else");
}

#[tokio::test]
async fn a_folder_that_is_not_there_is_told() {
    let place = Place::memory().with("BUS__GRPC__UNIX_SOCKET", "gone/bus.sock");
    let said = place.run(&["run"]).await;
    assert_eq!(said.code, 1, "{said:?}");
    assert!(said.stderr.contains("gone/bus.sock") && said.stderr.contains("its folder does not exist"), "{said:?}");
}

#[tokio::test]
async fn only_users_on_the_list_are_let_in_and_others_are_counted() {
    let (place, path) = with_socket();
    let own = std::fs::metadata(place.path()).unwrap().uid();
    let endpoint = path.to_str().unwrap().to_owned();
    let daemon = place.with("BUS__GRPC__UNIX_SOCKET_UIDS", &(own + 1).to_string());
    let place = daemon;
    let daemon = place.daemon(&[]).await;
    daemon.ready().await;
    let said = place.run(&["pub", "work.A", "1", "--endpoint", &endpoint]).await;
    assert_ne!(said.code, 0, "{said:?}");
    let line = within("a line of the log", daemon.process.stderr.find("were refused")).await;
    let line: serde_json::Value = serde_json::from_str(&line).unwrap();
    assert_eq!(line["why"].as_str().unwrap(), format!("user {own} is not admitted"));
    assert!(line["refused"].as_u64().unwrap() >= 1, "{line}");
    // The address beside it is as open as ever.
    assert_eq!(place.run(&["pub", "work.A", "1", "--endpoint", &daemon.grpc]).await.code, 0);
    stop(daemon).await;

    let place = place.with("BUS__GRPC__UNIX_SOCKET_UIDS", &format!("{},{own}", own + 1));
    let daemon = place.daemon(&[]).await;
    daemon.ready().await;
    assert_eq!(place.run(&["pub", "work.A", "1", "--endpoint", &endpoint]).await.code, 0);
    stop(daemon).await;
}

#[tokio::test]
async fn a_clock_behind_the_last_start_hands_out_nothing_and_says_so() {
    let place = Place::memory();
    let state = place.path().join("state");
    let place = place.with("BUS__STATE_DIR", "state");
    for command in ["run", "validate"] {
        let said = place.run(&[command]).await;
        assert_eq!(said.code, 4, "{command}: {said:?}");
        assert!(said.stderr.contains("bus.state_dir") && said.stderr.contains("is no directory"), "{said:?}");
    }

    std::fs::create_dir(&state).unwrap();
    stop(place.daemon(&[]).await).await;
    let noted: u64 = std::fs::read_to_string(state.join("last-start")).unwrap().trim().parse().unwrap();

    std::fs::write(state.join("last-start"), format!("{}\n", noted + 3_600_000)).unwrap();
    let said = place.run(&["run"]).await;
    assert_eq!(said.code, 1, "{said:?}");
    assert!(said.stderr.contains("the last run has noted") && said.stderr.contains("set the clock"), "{said:?}");

    std::fs::write(state.join("last-start"), format!("{noted}\n")).unwrap();
    stop(place.daemon(&[]).await).await;
}
