//! What the documents say of the repository is true: links lead somewhere, shown programs are the real ones, every dependency has
//! its reason.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use sidebus::config::{Command, LoadRequest, load};

use crate::architecture::source::Source;

const DOCUMENTS: [&str; 6] =
    ["README.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "CHANGELOG.md", "docs/rights.md", "docs/failures.md"];

#[test]
fn links_lead_to_files_that_are_there() {
    let mut seen = 0;
    for document in DOCUMENTS {
        for target in file(document).split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            let is_outside = target.starts_with("https://") || target.starts_with('#');
            assert!(is_outside || top().join(target).exists(), "{document} links to {target}");
            seen += 1;
        }
    }
    assert!(seen > 5, "the links are not found any more");
}

#[test]
fn paths_named_in_the_documents_are_there() {
    let folders = ["scripts/", "examples/", "deploy/", "proto/", "config/", "docs/"];
    for document in DOCUMENTS {
        let text = file(document);
        let words = text.split(|c: char| c.is_whitespace() || "`()[]\"'|,;:".contains(c));
        for word in words.map(|word| word.trim_start_matches("./").trim_end_matches('.')) {
            let is_path = folders.iter().any(|folder| word.starts_with(folder) && word != *folder);
            // Made by scripts/setup.sh.
            let is_made = word.contains("/.venv");
            assert!(!is_path || is_made || top().join(word).exists(), "{document} names {word}");
        }
    }
}

#[test]
fn the_handler_in_the_readme_is_the_real_one() {
    let readme = file("README.md");
    let (_, rest) = readme.split_once("```python\n").expect("a Python block");
    let (shown, _) = rest.split_once("```").expect("its end");

    assert_eq!(shown, file("examples/python/handler.py"));
}

#[test]
fn the_settings_in_the_readme_are_accepted() {
    let readme = file("README.md");
    let (_, rest) = readme.split_once("```toml\n").expect("a TOML block");
    let (shown, _) = rest.split_once("```").expect("its end");
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("sidebus.toml"), shown).unwrap();

    let loaded = load(&LoadRequest::new(Command::Run, BTreeMap::new(), folder.path().to_owned()));

    let settings = loaded.unwrap_or_else(|problems| panic!("{problems}")).settings;
    assert_eq!(settings.subscriptions.len(), 4);
}

#[test]
fn the_readme_names_the_commands_that_ci_runs() {
    let readme = file("README.md");

    assert!(file(".ci/run").lines().any(|line| line.starts_with("./scripts/test.sh")));
    for command in ["\ncargo run -- dev", "\n./scripts/test.sh", "cargo test --test bus_amqp --features amqp"] {
        assert!(readme.contains(command), "the README does not say {command}");
    }
}

#[test]
fn every_dependency_has_its_reason() {
    let manifest = file("Cargo.toml");
    let reasons = file("CONTRIBUTING.md");
    let mut seen = 0;
    for section in ["[dependencies]", "[build-dependencies]", "[dev-dependencies]"] {
        let (_, rest) = manifest.split_once(&format!("\n{section}\n")).expect(section);
        let entries = rest.lines().take_while(|line| !line.starts_with('[')).filter(|line| !line.starts_with('#'));
        for name in entries.filter_map(|line| line.split_once(" = ")).map(|(name, _)| name) {
            let has_reason = reasons.contains(&format!("| {name} |")) || reasons.contains(&format!("**{name}**"));
            assert!(has_reason, "CONTRIBUTING.md does not say why {name} is in {section}");
            seen += 1;
        }
    }
    assert!(seen > 20, "only {seen} dependencies were found");
}

#[test]
fn reasons_are_given_for_what_is_there() {
    let manifest = file("Cargo.toml");
    let document = file("CONTRIBUTING.md");
    let (_, table) = document.split_once("| crate | why |\n").expect("the table");

    let rows = table.lines().take_while(|line| line.starts_with('|')).skip(1);
    for name in rows.filter_map(|line| line.split('|').nth(1)).map(str::trim) {
        assert!(manifest.contains(&format!("\n{name} = ")), "{name} has a reason and is no dependency");
    }
}

#[test]
fn every_failure_that_a_comment_names_has_its_row() {
    let page = file("docs/failures.md");
    let mut seen = 0;
    for (path, source) in sources() {
        for said in source.split("failures.md ").skip(1) {
            let words = said.split(|c: char| !c.is_alphanumeric()).filter(|word| !word.is_empty() && *word != "and");
            for id in words.take_while(|word| is_id(word)) {
                assert!(
                    page.contains(&format!("\n| {id} | ")),
                    "{path} names {id}, and docs/failures.md has no such row"
                );
                seen += 1;
            }
        }
    }
    assert!(seen > 50, "only {seen} names of failures were found");
}

#[test]
fn each_failure_has_one_row_and_the_tests_of_it_are_there() {
    let (page, sources) = (file("docs/failures.md"), sources());
    let rows: Vec<Vec<&str>> = page.lines().map(|line| line.split(" | ").collect()).collect();
    let rows: Vec<(&str, &str)> = rows.iter().filter_map(|row| failure(row)).collect();
    assert!(rows.len() > 30, "only {} rows were found", rows.len());
    for (position, (id, tests)) in rows.iter().enumerate() {
        assert!(rows[..position].iter().all(|(before, _)| before != id), "{id} has two rows");
        let named: Vec<&str> = tests.split('`').skip(1).step_by(2).collect();
        assert!(!named.is_empty() || tests.contains("no test yet"), "{id} names no test and does not say so");
        for test in named {
            let (module, name) = test.rsplit_once("::").unwrap_or_else(|| panic!("{id}: {test} is no path"));
            let file = module.replace("::", "/");
            let folder = if ["it", "bus_amqp", "chaos"].iter().any(|binary| test.starts_with(&format!("{binary}::"))) {
                "tests"
            } else {
                "src"
            };
            let places = [format!("{folder}/{file}.rs"), format!("{folder}/{file}/mod.rs")];
            let head = format!("fn {name}(");
            let is_there = places.iter().any(|place| sources.get(place).is_some_and(|text| text.contains(&head)));
            assert!(is_there, "{id}: there is no {test}");
        }
    }
}

/// Id and tests of a row of failures; `None` for any other line.
fn failure<'a>(row: &[&'a str]) -> Option<(&'a str, &'a str)> {
    let [id, _, _, tests] = row else { return None };
    let id = id.strip_prefix("| ").filter(|id| is_id(id))?;
    Some((id, tests))
}

/// A letter and a number, such as L3.
fn is_id(word: &str) -> bool {
    let mut rest = word.chars();
    let is_row = rest.next().is_some_and(|first| first.is_ascii_uppercase());
    is_row && word.len() > 1 && rest.all(|digit| digit.is_ascii_digit())
}

/// Texts of all sources by their path from the top.
fn sources() -> BTreeMap<String, String> {
    let all = Source::all(&["src", "tests"]);
    all.into_iter().map(|source| (source.path, source.text)).collect()
}

fn top() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).to_owned()
}

fn file(path: &str) -> String {
    fs::read_to_string(top().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}
