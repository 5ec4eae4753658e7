//! The absences of `ARCHITECTURE.md` as functions from sources to problems. Reads no file itself.

use super::source::{Name, Source};

/// Where a rule is broken, and how: `src/domain/name.rs:12: …`.
pub(crate) type Problems = Vec<String>;

/// A room and the rooms that it may name. What is not here may name nothing.
const ARROWS: &[(&str, &[&str])] = &[
    ("main", &["app", "cli", "config", "runtime", "telemetry"]),
    ("cli", &["app", "broker", "config", "domain", "grpc", "runtime", "telemetry"]),
    (
        "app",
        &[
            "admin",
            "bridge",
            "broker",
            "broker::amqp",
            "broker::memory",
            "config",
            "domain",
            "grpc",
            "runtime",
            "telemetry",
        ],
    ),
    ("grpc", &["bridge", "broker", "domain", "runtime", "telemetry"]),
    ("admin", &["bridge", "broker", "domain", "runtime", "telemetry"]),
    ("bridge", &["broker", "domain", "runtime", "telemetry"]),
    ("broker", &["domain"]),
    ("broker::amqp", &["broker", "domain", "runtime", "telemetry"]),
    ("broker::memory", &["broker", "domain", "runtime", "telemetry"]),
    ("broker::conformance", &["broker", "domain"]),
    ("config", &["domain"]),
    ("domain", &[]),
    ("runtime", &[]),
    ("telemetry", &[]),
];

/// Parts of the broker's room that are rooms of their own.
const BACKENDS: &[&str] = &["amqp", "memory", "conformance"];

/// The room of a file; `lib.rs` is the map and belongs to none.
pub(crate) fn room(path: &str) -> Option<String> {
    let inner = path.strip_prefix("src/")?.trim_end_matches(".rs");
    let mut parts = inner.split('/');
    let first = parts.next()?;
    match (first, parts.next()) {
        ("lib", None) => None,
        ("broker", Some(part)) if BACKENDS.contains(&part) => Some(format!("broker::{part}")),
        (room, _) => Some(room.to_owned()),
    }
}

/// The room that a name leads to, if it leads to one.
fn target(name: &Name) -> Option<String> {
    let mut segments = name.segments.iter().map(String::as_str);
    if segments.next() != Some("crate") {
        return None;
    }
    let room = segments.next()?;
    // What stands in `lib.rs` itself belongs to no room.
    if name.segments.len() == 2 && !ARROWS.iter().any(|(known, _)| *known == room) {
        return None;
    }
    match segments.next() {
        Some(part) if room == "broker" && BACKENDS.contains(&part) => Some(format!("broker::{part}")),
        _ => Some(room.to_owned()),
    }
}

/// Arrows that are not on the map.
pub(crate) fn arrows(sources: &[Source]) -> Problems {
    let judge = |source: &Source| {
        let Some(from) = room(&source.path) else { return Vec::new() };
        let allowed = ARROWS.iter().find(|(room, _)| *room == from).map_or(&[][..], |(_, rooms)| rooms);
        let strangers = source.names.iter().filter_map(|name| Some((name.line, target(name)?)));
        let strangers = strangers.filter(|(_, to)| *to != from && !allowed.contains(&to.as_str()));
        strangers.map(|(line, to)| problem(source, line, &format!("{from} must not know {to}"))).collect::<Vec<_>>()
    };
    sources.iter().flat_map(judge).collect()
}

/// Signs of async, clocks, randomness, logging or I/O in the domain.
pub(crate) fn impurities(sources: &[Source]) -> Problems {
    let words = [
        "async",
        "await",
        "tokio",
        "futures_util",
        "spawn",
        "sleep",
        "rand",
        "getrandom",
        "fastrand",
        "new_v4",
        "now_v7",
    ];
    let logging = ["tracing", "log", "metrics", "println", "eprintln", "print", "eprint", "dbg"];
    let domain: Vec<&Source> =
        sources.iter().filter(|source| room(&source.path).as_deref() == Some("domain")).collect();
    let mut problems = Vec::new();
    for source in domain {
        for word in words {
            problems.extend(at_lines(source, &source.lines_with(word, ""), word));
        }
        for name in &source.names {
            let logs = logging.contains(&name.segments[0].as_str()) && name.segments.len() > 1;
            let reads_clock = name.segments.last().is_some_and(|last| last == "now") && name.segments.len() > 1;
            let std_part = name.segments.get(1).map_or("", String::as_str);
            let does_io =
                name.segments[0] == "std" && ["io", "fs", "net", "env", "process", "thread", "os"].contains(&std_part);
            if logs || reads_clock || does_io {
                problems.push(problem(
                    source,
                    name.line,
                    &format!("the domain must not name {}", name.segments.join("::")),
                ));
            }
        }
        for word in logging {
            problems.extend(at_lines(source, &source.lines_with(word, "!"), word));
        }
        // An instant's own `elapsed` reads the clock without naming it.
        problems.extend(at_lines(source, &source.lines_with("elapsed", "("), "elapsed"));
    }
    problems
}

/// Crates named outside the rooms that own them.
pub(crate) fn strange_crates(sources: &[Source]) -> Problems {
    let owners: [(&[&str], &[&str]); 3] = [
        (&["lapin", "deadpool", "amq_protocol"], &["broker::amqp"]),
        (&["tonic", "prost"], &["grpc", "admin"]),
        (&["config"], &["config"]),
    ];
    let judge = |source: &Source, name: &Name| {
        let first = name.segments[0].as_str();
        // `config` alone is a word like any other; with a path behind it, it is the crate.
        let owner = owners.iter().find(|(crates, _)| {
            crates
                .iter()
                .any(|own| first == *own && (name.segments.len() > 1 || *own != "config") || is_family(first, own))
        });
        let home = room(&source.path).unwrap_or_default();
        let (_, rooms) = owner?;
        (!rooms.contains(&home.as_str()))
            .then(|| problem(source, name.line, &format!("{first} belongs to {}", rooms.join(", "))))
    };
    sources.iter().flat_map(|source| source.names.iter().filter_map(move |name| judge(source, name))).collect()
}

/// `tonic_health` is of the family of `tonic`; `config_file` is nobody's.
fn is_family(name: &str, family: &str) -> bool {
    family != "config" && name.strip_prefix(family).is_some_and(|rest| rest.starts_with('_'))
}

/// Words of a backend or of a wire in the bridge.
pub(crate) fn partial_bridge(sources: &[Source]) -> Problems {
    let foreign = ["amqp", "lapin", "rabbit", "kafka", "grpc", "tonic", "prost", "proto"];
    let bridge = sources.iter().filter(|source| room(&source.path).as_deref() == Some("bridge"));
    let judge = |source: &Source| {
        let words = source.tokens.iter().map(|token| (token.line, token.text.to_lowercase()));
        let is_foreign = |word: &str| {
            word.split('_').any(|part| foreign.iter().any(|own| part.starts_with(own) && part != "protocol"))
        };
        let strangers = words.filter(|(_, word)| is_foreign(word));
        strangers
            .map(|(line, word)| problem(source, line, &format!("the bridge must not say {word}")))
            .collect::<Vec<_>>()
    };
    bridge.flat_map(judge).collect()
}

/// Readers of the environment outside `config`.
pub(crate) fn environment_readers(sources: &[Source]) -> Problems {
    let functions = ["var", "vars", "var_os", "vars_os", "set_var", "remove_var"];
    let hidden = ["from_default_env", "try_from_default_env", "from_env", "try_from_env", "from_env_lossy"];
    let judge = |source: &Source, name: &Name| {
        let last = name.segments.last()?.as_str();
        let reads = functions.contains(&last) && name.segments.iter().any(|part| part == "env");
        (reads || hidden.contains(&last))
            .then(|| problem(source, name.line, &format!("only config reads the environment ({last})")))
    };
    let others = sources.iter().filter(|source| room(&source.path).as_deref() != Some("config"));
    others.flat_map(|source| source.names.iter().filter_map(move |name| judge(source, name))).collect()
}

/// Tasks and threads started outside `runtime`.
pub(crate) fn spawners(sources: &[Source]) -> Problems {
    let functions = ["spawn", "spawn_blocking", "spawn_local", "block_in_place"];
    let owners = ["JoinSet", "TaskTracker", "LocalSet"];
    let judge = |source: &Source, name: &Name| {
        let starts = |word: &String| functions.contains(&word.as_str()) && name.segments.len() > 1;
        let from_outside = ["tokio", "tokio_util", "std", "task", "thread"].contains(&name.segments[0].as_str());
        let thread_builder = name.segments.windows(2).any(|pair| pair == ["thread", "Builder"]);
        let last = name.segments.last()?;
        let found = from_outside && starts(last) || owners.contains(&last.as_str()) || thread_builder;
        found.then(|| problem(source, name.line, &format!("only runtime starts tasks ({})", name.segments.join("::"))))
    };
    let others = sources.iter().filter(|source| room(&source.path).as_deref() != Some("runtime"));
    others.flat_map(|source| source.names.iter().filter_map(move |name| judge(source, name))).collect()
}

/// Globals outside `main` and `telemetry`.
pub(crate) fn globals(sources: &[Source]) -> Problems {
    let words = ["static", "LazyLock", "OnceLock", "thread_local", "task_local", "lazy_static"];
    let bound = |source: &&Source| !matches!(room(&source.path).as_deref(), Some("main" | "telemetry"));
    let judge = |source: &Source| {
        let lines = words.iter().flat_map(|word| at_lines(source, &source.lines_with(word, ""), word));
        lines.collect::<Vec<_>>()
    };
    sources.iter().filter(bound).flat_map(judge).collect()
}

/// Files that do not begin with their duty, or are too long.
pub(crate) fn shapeless_files(sources: &[Source]) -> Problems {
    let lines_max = 400;
    let mut problems = Vec::new();
    for source in sources {
        let lines = source.text.lines().count();
        if !source.text.starts_with("//!") {
            problems.push(problem(source, 1, "begins without its duty (//!)"));
        }
        if lines > lines_max {
            problems.push(problem(source, lines, &format!("has {lines} lines, more than {lines_max}")));
        }
    }
    problems
}

/// What must not be handed in: unfinished marks, tests ignored without a reason.
pub(crate) fn unfinished(sources: &[Source]) -> Problems {
    let mark = ["FIX", "ME"].concat();
    let mut problems = Vec::new();
    for source in sources {
        for word in ["todo", "unimplemented"] {
            problems.extend(at_lines(source, &source.lines_with(word, "!"), word));
        }
        problems.extend(at_lines(source, &source.lines_with("ignore", "]"), "ignore without a reason"));
        let marked = source.text.lines().enumerate().filter(|(_, line)| line.contains(&mark));
        problems.extend(marked.map(|(index, _)| problem(source, index + 1, &mark)));
    }
    problems
}

/// Sleeps: in tests any, elsewhere those that block a thread.
pub(crate) fn sleeps(sources: &[Source]) -> Problems {
    let judge = |source: &Source| {
        let is_sleep = |name: &&Name| name.segments.last().is_some_and(|last| last == "sleep" || last == "sleep_until");
        let in_test = source.path.starts_with("tests/");
        let blocking = |name: &&Name| name.segments.iter().any(|part| part == "thread");
        let found = source.names.iter().filter(is_sleep).filter(|name| in_test || blocking(name));
        found
            .map(|name| problem(source, name.line, "sleeps; poll with a deadline, or pause the clock"))
            .collect::<Vec<_>>()
    };
    sources.iter().flat_map(judge).collect()
}

fn at_lines(source: &Source, lines: &[usize], word: &str) -> Problems {
    lines.iter().map(|line| problem(source, *line, &format!("must not say {word}"))).collect()
}

fn problem(source: &Source, line: usize, what: &str) -> String {
    format!("{}:{line}: {what}", source.path)
}
