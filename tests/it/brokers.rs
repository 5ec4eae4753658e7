//! The script that brings the brokers: what it leaves out it names, and it works in no folder that could be the machine's own. Starts none.

use std::path::Path;
use std::process::{Command, Output};

/// A folder that nobody has.
const NOWHERE: &str = "/nowhere/sidebus-brokers";

#[test]
fn brokers_that_are_not_there_are_skipped_by_name_with_the_reason() {
    let output = script(NOWHERE, &["run", "others"]);

    assert!(output.status.success(), "{output:?}");
    for name in ["trixie", "sid"] {
        assert!(said(&output).contains(&format!("{name}: SKIPPED, it is not unpacked")), "{output:?}");
    }
}

#[test]
fn a_broker_that_was_asked_for_by_name_is_not_skipped_in_silence() {
    let output = script(NOWHERE, &["run", "sid"]);

    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert!(said(&output).contains("sid: SKIPPED"), "{output:?}");
}

#[test]
fn an_unknown_broker_is_refused_with_the_known_ones() {
    let output = script(NOWHERE, &["run", "woody"]);

    assert_eq!(output.status.code(), Some(2), "{output:?}");
    assert!(said(&output).contains("distribution trixie sid"), "{output:?}");
}

#[test]
fn a_folder_that_could_be_the_machines_own_is_refused() {
    for folder in
        ["/", "/var", "/var/", "here/and/there", "/var/cache/../..", "/var/../x", "/var/./x", "/var/ca che", "/var//x"]
    {
        let output = script(folder, &["list"]);
        assert_eq!(output.status.code(), Some(2), "{folder}: {output:?}");
    }
}

#[test]
fn ci_brings_every_broker() {
    let run = std::fs::read_to_string(top().join(".ci/run")).unwrap();
    let verify = std::fs::read_to_string(top().join("scripts/verify.sh")).unwrap();

    assert!(run.lines().any(|line| line.starts_with("./scripts/test.sh") && line.contains("--brokers")), "{run}");
    assert!(verify.lines().any(|line| line.contains("tests/brokers.sh run others")), "{verify}");
}

fn script(folder: &str, arguments: &[&str]) -> Output {
    let mut command = Command::new(top().join("tests/brokers.sh"));
    command.args(arguments).env("SIDEBUS_BROKERS", folder).output().unwrap()
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn top() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}
