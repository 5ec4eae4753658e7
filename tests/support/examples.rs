//! The handlers and the publisher of `examples/`, started as users start them.

use std::path::{Path, PathBuf};
use std::process::Command;

use tokio::sync::OnceCell;

use super::process::Process;

/// What a handler of the examples has handled: the numbers of the publisher, in its order.
pub(crate) fn handled(handler: &Process) -> Vec<usize> {
    handler.output().iter().map(|line| number(line)).collect()
}

fn number(line: &str) -> usize {
    let digits: String = line.chars().rev().skip_while(|c| *c == '}').take_while(char::is_ascii_digit).collect();
    digits.chars().rev().collect::<String>().parse().unwrap_or_else(|_| panic!("no number in {line:?}"))
}

/// A Python program of the examples, with its stubs.
pub(crate) fn python(program: &str, arguments: &[&str], endpoint: &str) -> Process {
    run_python("examples/python", program, arguments, endpoint)
}

/// A handler in Python that dies of some messages.
pub(crate) fn mortal(subscription: &str, hold: usize, endpoint: &str) -> Process {
    run_python("tests/handlers", "mortal.py", &[subscription, &hold.to_string()], endpoint)
}

/// A handler in Python with gRPC's defaults, that tells the size of each body and the attempt, and acks.
pub(crate) fn measuring(subscription: &str, endpoint: &str) -> Process {
    run_python("tests/handlers", "measuring.py", &[subscription], endpoint)
}

fn run_python(folder: &str, program: &str, arguments: &[&str], endpoint: &str) -> Process {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let interpreter = root.join("examples/python/.venv/bin/python");
    assert!(interpreter.exists(), "no Python with the generated stubs: run scripts/setup.sh");
    let mut command = Command::new(interpreter);
    command.arg(root.join(folder).join(program)).args(arguments);
    Process::start(program, command, &[("SIDEBUS_ENDPOINT", endpoint)])
}

/// The handler in Rust, built as these tests are.
pub(crate) async fn rust_handler(arguments: &[&str], endpoint: &str) -> Process {
    static BUILT: OnceCell<PathBuf> = OnceCell::const_new();
    let mut command = Command::new(BUILT.get_or_init(build).await);
    command.args(arguments);
    Process::start("rust_handler", command, &[("SIDEBUS_ENDPOINT", endpoint)])
}

/// Cargo builds examples only with all tests; asked for this test binary alone it leaves them as they are.
async fn build() -> PathBuf {
    let own = std::env::current_exe().expect("this binary");
    let profile = own.parent().and_then(Path::parent).expect("<target>/<profile>/deps");
    let target = profile.parent().expect("a target folder");
    let mut command = tokio::process::Command::new(env!("CARGO"));
    command.current_dir(env!("CARGO_MANIFEST_DIR")).args(["build", "--quiet", "--locked", "--example", "rust_handler"]);
    command.arg("--target-dir").arg(target);
    for name in told_by_cargo() {
        command.env_remove(name);
    }
    if profile.ends_with("release") {
        command.arg("--release");
    }
    let output = command.output().await.expect("cargo runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    profile.join("examples/rust_handler")
}

/// What cargo tells these tests and does not tell a build of somebody's: build scripts that look at it (that of ring) would be run
/// again, here and then by the next build, and everything above them compiled anew.
#[expect(clippy::disallowed_methods, reason = "only config reads the environment of the product; this is not it")]
fn told_by_cargo() -> impl Iterator<Item = std::ffi::OsString> {
    let is_told =
        |name: &str| name == "OUT_DIR" || name.starts_with("CARGO_PKG_") || name.starts_with("CARGO_MANIFEST_");
    std::env::vars_os().map(|(name, _)| name).filter(move |name| name.to_str().is_some_and(is_told))
}
