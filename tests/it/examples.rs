//! The handlers in `examples/` keep what the README says of them: short, and nothing but generated stubs.

use std::fs;
use std::path::Path;

/// Lines of an example that are not blank.
const LINES_MAX: usize = 25;

#[test]
fn python_examples_fit_into_25_lines() {
    for name in ["handler.py", "publisher.py"] {
        let lines = example(name).lines().filter(|line| !line.trim().is_empty()).count();
        assert!((10..=LINES_MAX).contains(&lines), "{name} has {lines} lines");
    }
}

#[test]
fn python_examples_need_nothing_but_stubs() {
    let allowed = ["itertools", "os", "queue", "signal", "sys", "time", "uuid", "grpc"];
    for name in ["handler.py", "publisher.py"] {
        let text = example(name);
        for line in text.lines().filter(|line| line.starts_with("import ") || line.starts_with("from ")) {
            let modules = line.strip_prefix("import ").map(|modules| modules.split(", ").collect::<Vec<_>>());
            match modules {
                Some(modules) => assert!(modules.iter().all(|module| allowed.contains(module)), "{name}: {line}"),
                None => assert!(line.starts_with("from sidebus.v1 import "), "{name}: {line}"),
            }
        }
    }
}

#[test]
fn the_handler_leaves_on_sigterm() {
    let text = example("handler.py");

    assert!(text.contains("signal.SIGTERM") && text.contains("leave=True"), "{text}");
}

fn example(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/python").join(name);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}
