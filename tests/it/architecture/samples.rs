//! The checks on small samples: each finds what it is for, and lets the allowed through.

use super::rules::{self, Problems};
use super::source::Source;

type Rule = fn(&[Source]) -> Problems;

/// The rule finds something in each of these texts, if they stand at `path`.
#[track_caller]
fn finds(rule: Rule, path: &str, texts: &[&str]) {
    for text in texts {
        assert!(!rule(&[Source::new(path, text)]).is_empty(), "found nothing at {path} in: {text}");
    }
}

/// The rule finds nothing in any of these texts, if they stand at `path`.
#[track_caller]
fn passes(rule: Rule, path: &str, texts: &[&str]) {
    for text in texts {
        let problems = rule(&[Source::new(path, text)]);
        assert!(problems.is_empty(), "{path}: {text}\n{}", problems.join("\n"));
    }
}

#[test]
fn the_sources_are_really_read() {
    let sources = Source::all(&["src", "tests"]);
    let message = sources.iter().find(|source| source.path == "src/domain/message.rs").expect("a known file");
    let here = sources.iter().find(|source| source.path == "tests/it/architecture/samples.rs").expect("this file");

    assert!(sources.len() >= 10, "{} files", sources.len());
    assert!(message.names.iter().any(|name| name.segments.join("::") == "bytes::Bytes"), "{:?}", message.names);
    assert!(!here.tokens.is_empty());
}

#[test]
fn comments_texts_and_test_modules_do_not_count() {
    passes(
        rules::impurities,
        "src/domain/name.rs",
        &[
            "// tokio /* nested */",
            "/* tokio /* tokio */ tokio */ struct A;",
            "/// await\nfn f() {}",
            r##"const A: &str = "tokio \" tokio"; const B: &str = r#"say " tokio"#; const C: &[u8] = b"tokio"; fn f<'a>(c: &'a char) -> bool { *c == '"' || *c == '\'' } "##,
            "#[cfg(test)]\nmod tests { fn f() { tokio::spawn(async {}) } }",
            "#[cfg(test)]\nmod tests;",
        ],
    );
    finds(
        rules::impurities,
        "src/domain/name.rs",
        &[
            "#[cfg(test)]\nmod tests { fn f() {} }\nuse tokio::sync;",
            r#"const A: &str = "a"; use tokio::sync;"#,
            "fn f<'a>() {} use tokio::sync; fn g<'b>() {}",
            "#[cfg(not(test))] mod a { use tokio::sync; }",
        ],
    );
}

#[test]
fn files_of_test_modules_do_not_count_and_others_do() {
    let clock = "use std::time::Instant; fn f() { Instant::now(); }";
    let tree = |declaration: &str| {
        let files = [("src/domain/ledger.rs", declaration), ("src/domain/ledger/steps.rs", clock)];
        Source::tree(&files.map(|(path, text)| (path.to_owned(), text.to_owned())))
    };

    for declaration in ["#[cfg(test)]\nmod steps;", "mod a;\n#[cfg(test)]\npub(crate) mod steps;"] {
        assert_eq!(rules::impurities(&tree(declaration)), [""; 0], "{declaration}");
    }
    for declaration in ["mod steps;", "#[cfg(test)]\nmod tests {}\nmod steps;", "// #[cfg(test)]\nmod steps;"] {
        assert_eq!(rules::impurities(&tree(declaration)).len(), 1, "{declaration}");
    }
}

#[test]
fn a_problem_names_its_line() {
    let source = Source::new("src/domain/name.rs", "//! Names.\n\n/* two\nlines */ use tokio::sync;\n");

    assert_eq!(rules::impurities(&[source]), ["src/domain/name.rs:4: must not say tokio"]);
}

#[test]
fn forbidden_arrows_are_found_however_they_are_written() {
    finds(
        rules::arrows,
        "src/bridge/keeper.rs",
        &[
            "use crate::grpc::wire;",
            "use crate::{domain, config};",
            "use crate::broker::{self, memory::Memory};",
            "use crate::broker::{Broker, amqp as backend};",
            "fn f() { crate::app::go() }",
            "use super::super::admin;",
            "use crate::broker; fn f() { broker::memory::go() }",
            "use crate::broker::*; use crate::cli::*;",
            "use crate::stranger; fn f() { stranger::go() }",
            "use crate::grpc;",
        ],
    );
    finds(rules::arrows, "src/domain/name.rs", &["use crate::runtime::Tasks;", "use crate::broker::Receipt;"]);
    finds(rules::arrows, "src/broker/mod.rs", &["mod amqp; pub use amqp::Amqp;", "pub use self::memory::Memory;"]);
    finds(rules::arrows, "src/runtime/tasks.rs", &["use crate::domain::name;"]);
    finds(rules::arrows, "src/stranger.rs", &["use crate::domain::name;"]);
}

#[test]
fn arrows_on_the_map_pass() {
    passes(
        rules::arrows,
        "src/bridge/keeper.rs",
        &[
            "use crate::broker::{self, Session}; use super::pump; use crate::domain::name; fn f() -> broker::Prefetch {}",
        ],
    );
    passes(rules::arrows, "src/broker/amqp/mod.rs", &["use crate::broker::Broker; mod consume; use consume::A;"]);
    passes(rules::arrows, "src/broker/mod.rs", &["pub mod amqp; mod error; pub use error::BrokerError;"]);
    passes(rules::arrows, "src/grpc/wire.rs", &["use super::super::bridge::Bridge; use super::proto::sidebus::v1;"]);
    passes(rules::arrows, "src/broker/conformance/mod.rs", &["fn f() { $crate::list!($crate::tests) }"]);
    passes(rules::arrows, "src/main.rs", &["use sidebus::app::App; fn f() { sidebus::install() }"]);
    passes(rules::arrows, "src/lib.rs", &["pub mod app; pub use app::App;"]);
}

#[test]
fn impure_words_in_the_domain_are_found() {
    finds(
        rules::impurities,
        "src/domain/ledger/mod.rs",
        &[
            "async fn f() {}",
            "fn f(now: Instant) { let late = Instant::now(); }",
            "use std::time::SystemTime; fn f() { SystemTime::now() }",
            "fn f(at: Instant) { at.elapsed() }",
            "fn f() { tracing::info!(\"x\") }",
            "fn f() { println!() }",
            "use std::fs;",
            "use std::{fmt, net::IpAddr};",
            "fn f() { Uuid::now_v7() }",
            "use metrics::counter;",
        ],
    );
    passes(
        rules::impurities,
        "src/domain/ledger/mod.rs",
        &["use std::time::{Duration, Instant}; fn f(now: Instant, log: &str, metrics: u8) { now + Duration::ZERO }"],
    );
    passes(rules::impurities, "src/bridge/pump.rs", &["async fn f() { Instant::now() }"]);
}

#[test]
fn strange_crates_are_found() {
    finds(
        rules::strange_crates,
        "src/bridge/lanes.rs",
        &[
            "use lapin::Channel;",
            "use deadpool_lapin::Pool;",
            "use tonic::Status;",
            "use prost_types::Timestamp;",
            "fn f() { config::Config::new() }",
        ],
    );
    finds(rules::strange_crates, "src/broker/memory/mod.rs", &["use lapin::Channel;"]);
    finds(rules::strange_crates, "src/app.rs", &["use tonic_health::server;", "use config::Config;"]);
    passes(rules::strange_crates, "src/broker/amqp/lane.rs", &["use lapin::Channel; use deadpool_lapin::Pool;"]);
    passes(rules::strange_crates, "src/grpc/status.rs", &["use tonic::Status; use tonic_types::ErrorDetails;"]);
    passes(rules::strange_crates, "src/config/load.rs", &["use config::Config;"]);
    passes(rules::strange_crates, "src/app.rs", &["use crate::config; fn f(config: u8) { config::load() }"]);
    passes(rules::strange_crates, "src/lib.rs", &["pub mod config;"]);
}

#[test]
fn a_partial_bridge_is_found() {
    finds(
        rules::partial_bridge,
        "src/bridge/keeper.rs",
        &["struct AmqpKeeper;", "fn to_grpc() {}", "fn f(rabbitmq: u8) {}", "use crate::grpc::wire;"],
    );
    passes(rules::partial_bridge, "src/bridge/keeper.rs", &["//! Not AMQP.\nfn f(memory_bytes: u64, protocol: u8) {}"]);
    passes(rules::partial_bridge, "src/app.rs", &["fn amqp() {}"]);
}

#[test]
fn readers_of_the_environment_are_found() {
    finds(
        rules::environment_readers,
        "src/cli/run.rs",
        &[
            "fn f() { std::env::var(\"A\") }",
            "use std::env; fn f() { env::vars_os() }",
            "use std::env::var as read; fn f() { read(\"A\") }",
            "fn f() { EnvFilter::from_default_env() }",
        ],
    );
    passes(rules::environment_readers, "src/config/load.rs", &["fn f() { std::env::vars_os() }"]);
    passes(
        rules::environment_readers,
        "src/cli/run.rs",
        &["fn f(var: u8) { env!(\"CARGO_PKG_VERSION\"); std::env::args_os() }"],
    );
}

#[test]
fn spawners_are_found() {
    finds(
        rules::spawners,
        "src/bridge/pump.rs",
        &[
            "fn f() { tokio::spawn(g()) }",
            "use tokio::task; fn f() { task::spawn_blocking(g) }",
            "use std::thread; fn f() { thread::spawn(g) }",
            "fn f() { std::thread::Builder::new() }",
            "use tokio::spawn as go; fn f() { go(g()) }",
            "use tokio::task::JoinSet;",
            "use tokio_util::task::TaskTracker;",
        ],
    );
    passes(rules::spawners, "src/bridge/pump.rs", &["fn f(tasks: &Tasks) { tasks.spawn(Kind::Pump, g()) }"]);
    passes(rules::spawners, "src/runtime/tasks.rs", &["fn f() { tokio::spawn(g()) }"]);
}

#[test]
fn globals_are_found() {
    finds(
        rules::globals,
        "src/bridge/pump.rs",
        &[
            "static COUNT: AtomicU64 = AtomicU64::new(0);",
            "static mut A: u8 = 0;",
            "use std::sync::OnceLock;",
            "thread_local! {}",
        ],
    );
    passes(rules::globals, "src/bridge/pump.rs", &["fn f(name: &'static str) {} const A: u8 = 0;"]);
    passes(rules::globals, "src/telemetry/metrics.rs", &["static A: OnceLock<u8> = OnceLock::new();"]);
}

#[test]
fn shapeless_files_are_found() {
    let long = format!("//! Long.\n{}", "\n".repeat(400));
    let short = format!("//! Long enough.\n{}", "\n".repeat(399));

    finds(rules::shapeless_files, "tests/it/main.rs", &["mod a;", "// Duty.\n", &long]);
    passes(rules::shapeless_files, "tests/it/main.rs", &["//! Duty.\n", &short]);
}

#[test]
fn unfinished_work_is_found() {
    let mark = ["// FIX", "ME: later"].concat();

    finds(
        rules::unfinished,
        "src/app.rs",
        &["fn f() { todo!() }", "fn f() { unimplemented!() }", "#[test]\n#[ignore]\nfn f() {}", &mark],
    );
    passes(rules::unfinished, "src/app.rs", &["#[ignore = \"needs a broker\"] fn f(todo: u8) {}"]);
}

#[test]
fn sleeps_are_found() {
    finds(
        rules::sleeps,
        "tests/it/drain.rs",
        &["fn f() { std::thread::sleep(d) }", "use tokio::time; fn f() { time::sleep(d) }", "use tokio::time::sleep;"],
    );
    finds(rules::sleeps, "src/app.rs", &["fn f() { std::thread::sleep(d) }"]);
    passes(rules::sleeps, "src/bridge/keeper.rs", &["fn f() { tokio::time::sleep(d) }"]);
    passes(rules::sleeps, "tests/it/drain.rs", &["fn sleeps_are_over() { wait_until(deadline) }"]);
}
