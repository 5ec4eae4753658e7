//! The absences that `ARCHITECTURE.md` promises, each checked in the sources, and the checks themselves on bad samples.

mod mask;
mod rules;
mod samples;
pub(crate) mod source;

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use rules::Problems;
use source::Source;

/// The rooms.
fn rooms() -> Vec<Source> {
    Source::all(&["src"])
}

/// Every Rust file.
fn everything() -> Vec<Source> {
    Source::all(&["build.rs", "benches", "examples", "src", "tests"])
}

#[track_caller]
fn none(problems: &Problems) {
    assert!(problems.is_empty(), "{} problems\n{}", problems.len(), problems.join("\n"));
}

#[test]
fn rooms_know_only_whom_the_map_allows() {
    none(&rules::arrows(&rooms()));
}

#[test]
fn the_domain_is_pure() {
    none(&rules::impurities(&rooms()));
}

#[test]
fn wire_and_client_crates_stay_in_their_rooms() {
    none(&rules::strange_crates(&rooms()));
}

#[test]
fn the_bridge_names_no_backend_and_no_wire() {
    none(&rules::partial_bridge(&rooms()));
}

#[test]
fn only_config_reads_the_environment() {
    none(&rules::environment_readers(&rooms()));
}

#[test]
fn only_runtime_starts_tasks() {
    none(&rules::spawners(&rooms()));
}

#[test]
fn there_are_no_globals() {
    none(&rules::globals(&rooms()));
}

#[test]
fn the_command_line_library_does_not_read_the_environment() {
    let manifest = read("Cargo.toml");
    let line = manifest.lines().find(|line| line.starts_with("clap ")).expect("a dependency on clap");
    assert!(line.contains("default-features = false"), "{line}");
    assert!(!line.contains("\"env\""), "{line}");
}

#[test]
fn files_begin_with_their_duty_and_stay_short() {
    none(&rules::shapeless_files(&everything()));
}

#[test]
fn nothing_is_left_unfinished_or_ignored() {
    none(&rules::unfinished(&everything()));
}

#[test]
fn tests_do_not_sleep() {
    none(&rules::sleeps(&everything()));
}

/// Each check above stands in the document as `architecture::its_name`, and each one there is above.
#[test]
fn the_document_lists_these_checks() {
    let document = read("ARCHITECTURE.md");
    let promised: BTreeSet<&str> = document
        .split("`architecture::")
        .skip(1)
        .filter_map(|rest| rest.split('`').next())
        .filter(|name| *name != "samples")
        .collect();
    let own = read("tests/it/architecture.rs");
    let checked: BTreeSet<&str> = own
        .split("#[test]\nfn ")
        .skip(1)
        .filter_map(|rest| rest.split('(').next())
        .filter(|name| !name.starts_with("the_document"))
        .collect();
    assert!(checked.len() >= 11, "the checks are not found any more: {checked:?}");
    assert_eq!(promised, checked);
}

fn read(path: &str) -> String {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
    fs::read_to_string(&file).unwrap_or_else(|error| panic!("{path}: {error}"))
}
