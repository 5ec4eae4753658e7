//! The environment as a layer of settings: `BUS__…` for every key, a few promised names, and what is passed over.
//!
//! The only file that reads the process's environment; everything else is handed a map.

use std::collections::BTreeMap;

use config::{Value, ValueKind};

use super::keys::{self, Kind, Place, State};
use super::path::KeyPath;
use super::problem::{Fault, Problem, Problems, Warning};
use super::{file, tree, typed};
use crate::domain::masking::masked;

/// Begins a variable that is a key.
const PREFIX: &str = "BUS__";
/// First levels that are tables of their own; any other first level lies in `[bus]`.
pub(super) const ROOTS: [&str; 12] = [
    "queues",
    "exchanges",
    "retry",
    "dead_letter",
    "grpc",
    "admin",
    "client",
    "health",
    "log",
    "telemetry",
    "shutdown",
    "limits",
];
/// Names that are no keys: the settings file, and what belongs to the tests.
const OTHER_NAMES: [&str; 2] = ["BUS_CONFIG", "BUS_TEST_AMQP_URL"];

/// OpenTelemetry's variable that is no key of ours.
const RESOURCE_ATTRIBUTES: &str = "OTEL_RESOURCE_ATTRIBUTES";

/// The environment of this process; what is not UTF-8 in it is replaced, so that it is a problem of its key.
#[expect(clippy::disallowed_methods, reason = "the one place that reads the environment")]
pub fn environment() -> BTreeMap<String, String> {
    std::env::vars_os()
        // Left out it would be as good as unset.
        .map(|(name, value)| (name.to_string_lossy().into_owned(), value.to_string_lossy().into_owned()))
        .collect()
}

/// Why a variable has no key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Unplaced {
    /// Two entries are spelled like this in variables.
    Ambiguous { path: KeyPath, first: String, second: String },
    /// A level without a name, as in `BUS____URL`.
    EmptyLevel,
}

/// The variables as a tree. `below` is what files hold: a name that they know keeps its spelling.
pub(super) fn read(
    environment: &BTreeMap<String, String>,
    below: &Value,
    problems: &mut Problems,
    warnings: &mut Vec<Warning>,
) -> Value {
    let mut layer = tree::empty();
    for (name, value) in environment.iter().filter(|(_, value)| !value.is_empty()) {
        let promised = keys::all().find(|key| key.variable == Some(name));
        if promised.is_some_and(|key| key.state != State::Supported) || name == RESOURCE_ATTRIBUTES {
            // Set for whole clusters: nobody asked Sidebus in particular, so it is no problem; it is not silent either.
            warnings.push(Warning::new(name, name, "is not used in this release: no traces are exported yet"));
            continue;
        }
        if promised.is_none() && !has_prefix(name) {
            warnings.extend(misspelt(name, value));
            continue;
        }
        match path_of(name, below) {
            Ok(path) => set(&mut layer, &path, &masked(name), value, problems),
            Err(Unplaced::EmptyLevel) => {
                problems.push(Problem::new(
                    name,
                    name,
                    Fault::new("unknown key").hint("levels are joined by two underscores"),
                ));
            }
            Err(Unplaced::Ambiguous { path, first, second }) => {
                let fault = Fault::new(format!("could mean {first:?} and {second:?}"));
                problems.push(Problem::new(path, name, fault.hint("set this key in the file")));
            }
        }
    }
    layer
}

fn has_prefix(name: &str) -> bool {
    name.get(..PREFIX.len()).is_some_and(|start| start.eq_ignore_ascii_case(PREFIX))
}

/// The path that a variable stands for, known or not.
pub(super) fn path_of(name: &str, below: &Value) -> Result<KeyPath, Unplaced> {
    if let Some(key) = keys::all().find(|key| key.variable == Some(name)) {
        return Ok(KeyPath::of(key.path));
    }
    let rest = name.get(PREFIX.len()..).unwrap_or_default().to_ascii_lowercase();
    let mut levels = rest.split("__").peekable();
    let is_root = levels.peek().is_some_and(|first| ROOTS.contains(first));
    let mut path = if is_root { KeyPath::default() } else { KeyPath::of("bus") };
    for level in levels {
        if level.is_empty() {
            return Err(Unplaced::EmptyLevel);
        }
        path = match keys::place(&path) {
            Place::Names => path.child(&entry_name(&path, level, below)?),
            Place::Key(key) if key.kind == Kind::Arguments => path.child(&level.replace('_', "-")),
            Place::Key(_) | Place::Table | Place::Unknown => path.child(level),
        };
    }
    Ok(path)
}

/// The entry of a table of names that a level means: `_` stands for `-`, `.` and itself.
fn entry_name(table: &KeyPath, level: &str, below: &Value) -> Result<String, Unplaced> {
    let spelled = |name: &str| name.to_lowercase().replace(['-', '.'], "_");
    let entries = tree::get(below, table).map(tree::entries).unwrap_or_default();
    // Some shells and every manifest take a dash in the variable, too.
    let wanted = spelled(level);
    let mut matching = entries.into_iter().map(|(name, _)| name).filter(|name| spelled(name) == wanted);
    match (matching.next(), matching.next()) {
        (Some(first), Some(second)) => {
            Err(Unplaced::Ambiguous { path: table.child(level), first: first.clone(), second: second.clone() })
        }
        (Some(only), None) => Ok(only.clone()),
        (None, _) => Ok(level.replace('_', "-")),
    }
}

/// The variable of a path: the promised name if it has one.
pub(super) fn variable_of(path: &KeyPath) -> String {
    keys::find(path).and_then(|key| key.variable).map_or_else(|| general_variable_of(path), str::to_owned)
}

/// The `BUS__…` variable of a path, which every key has.
pub(super) fn general_variable_of(path: &KeyPath) -> String {
    let words = path.words();
    let words = words.strip_prefix(&["bus".to_owned()]).unwrap_or(words);
    let levels: Vec<String> = words.iter().map(|word| word.to_uppercase().replace(['-', '.'], "_")).collect();
    format!("{PREFIX}{}", levels.join("__"))
}

/// Puts the text of a variable or flag at its path, read by the key's kind.
pub(super) fn set(layer: &mut Value, path: &KeyPath, origin: &str, text: &str, problems: &mut Problems) {
    let is_table = text.starts_with('{');
    let value = match keys::place(path) {
        Place::Key(key) => Some(typed::from_text(key.kind, text, origin)),
        Place::Table | Place::Names if is_table => file::parse_fragment(text, origin),
        Place::Table | Place::Names => None,
        Place::Unknown if is_argument(path) => Some(argument(text, origin)),
        // `shape` tells that it is unknown.
        Place::Unknown => Some(tree::leaf(origin, text)),
    };
    let Some(value) = value else {
        let fault = Fault::new("is a table of keys").hint("set its keys one by one, or write TOML in { }, on one line");
        problems.push(Problem::new(path, origin, fault));
        return;
    };
    if let Err(other) = tree::insert(layer, path.words(), value) {
        let fault = Fault::new(format!("is also set by {other}")).hint("keep one of the two");
        problems.push(Problem::new(path, origin, fault));
    }
}

fn is_argument(path: &KeyPath) -> bool {
    let parent = path.split_last().map(|(parent, _)| parent);
    parent.and_then(|parent| keys::find(&parent)).is_some_and(|key| key.kind == Kind::Arguments)
}

/// An argument's value: true, false or an integer, else text; quotes force text.
fn argument(text: &str, origin: &str) -> Value {
    let quoted = text.strip_prefix('"').and_then(|rest| rest.strip_suffix('"'));
    let kind = match (quoted, text) {
        (Some(inner), _) => ValueKind::String(inner.to_owned()),
        (None, "true") => ValueKind::Boolean(true),
        (None, "false") => ValueKind::Boolean(false),
        (None, text) => text.parse().map_or_else(|_| ValueKind::String(text.to_owned()), ValueKind::I64),
    };
    tree::leaf(origin, kind)
}

/// A name with single underscores that looks like a key. Kubernetes sets names such as `BUS_PORT` for a service that
/// is called `bus`; their values begin with a protocol, or they end in `_SERVICE_HOST` and the like.
fn misspelt(name: &str, value: &str) -> Option<Warning> {
    let is_link = value.starts_with("tcp://") || value.starts_with("udp://") || name.contains("_SERVICE_");
    if !name.starts_with("BUS_") || is_link || OTHER_NAMES.contains(&name) {
        return None;
    }
    let right = keys::all().find_map(|key| respelled(key.path, name))?;
    Some(Warning::new(name, name, format!("is not read; did you mean {right}?")))
}

/// The right spelling of `name`, if it is the key `pattern` with single underscores somewhere.
fn respelled(pattern: &str, name: &str) -> Option<String> {
    let path: KeyPath = pattern.split('.').map(str::to_owned).collect();
    let (wrong, general) = (name.replace("__", "_"), general_variable_of(&path));
    let single = |part: &str| part.replace("__", "_");
    let Some((before, after)) = general.split_once('*') else {
        let right = variable_of(&path);
        return (single(&general) == wrong && right != name).then_some(right);
    };
    let entry = wrong.strip_prefix(&single(before))?.strip_suffix(&single(after))?;
    (!entry.is_empty()).then(|| format!("{before}{entry}{after}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn below() -> Value {
        let mut below = tree::empty();
        for name in ["player-projector", "Real.Name", "a-b", "a.b"] {
            let path = KeyPath::of("queues").child(name).child("durable");
            tree::insert(&mut below, path.words(), tree::leaf("s.toml:1", true)).unwrap();
        }
        below
    }

    #[test]
    fn variables_reach_keys_and_known_names() {
        for (name, path) in [
            ("BUS_BACKEND", "bus.backend"),
            ("AMQP_URL", "bus.amqp.url"),
            ("BUS__AMQP__PREFETCH_COUNT", "bus.amqp.prefetch_count"),
            ("bus__amqp__prefetch_count", "bus.amqp.prefetch_count"),
            ("BUS__GRPC__LISTEN", "grpc.listen"),
            ("BUS__QUEUES__PLAYER_PROJECTOR__BINDINGS", "queues.player-projector.bindings"),
            ("BUS__QUEUES__REAL_NAME__DURABLE", "queues.\"Real.Name\".durable"),
            ("BUS__QUEUES__player-projector__DURABLE", "queues.player-projector.durable"),
            ("BUS__QUEUES__real.name__DURABLE", "queues.\"Real.Name\".durable"),
            ("BUS__QUEUES__NEW_ONE__RETRY__MAX_ATTEMPTS", "queues.new-one.retry.max_attempts"),
            ("BUS__QUEUES__X__ARGUMENTS__X_MESSAGE_TTL", "queues.x.arguments.x-message-ttl"),
        ] {
            assert_eq!(path_of(name, &below()).map(|path| path.to_string()), Ok(path.to_owned()), "{name}");
        }
    }

    #[test]
    fn a_name_that_two_entries_share_is_ambiguous() {
        assert!(matches!(path_of("BUS__QUEUES__A_B__DURABLE", &below()), Err(Unplaced::Ambiguous { .. })));
        assert_eq!(path_of("BUS__AMQP____URL", &below()), Err(Unplaced::EmptyLevel));
    }

    #[test]
    fn single_underscores_are_warned_and_service_links_passed_over() {
        let warning = |name, value| misspelt(name, value).map(|warning| warning.to_string());
        assert_eq!(
            warning("BUS_AMQP_PREFETCH_COUNT", "5").as_deref(),
            Some("BUS_AMQP_PREFETCH_COUNT: is not read; did you mean BUS__AMQP__PREFETCH_COUNT?")
        );
        assert_eq!(
            warning("BUS_QUEUES_HAND_SAGA_BINDINGS", "x").as_deref(),
            Some("BUS_QUEUES_HAND_SAGA_BINDINGS: is not read; did you mean BUS__QUEUES__HAND_SAGA__BINDINGS?")
        );
        assert_eq!(
            warning("BUS_AMQP_URL", "amqp://h").as_deref(),
            Some("BUS_AMQP_URL: is not read; did you mean AMQP_URL?")
        );
        assert_eq!(
            warning("BUS_AMQP__HEARTBEAT", "5s").as_deref(),
            Some("BUS_AMQP__HEARTBEAT: is not read; did you mean BUS__AMQP__HEARTBEAT?")
        );
        for (name, value) in [
            ("BUS_BACKEND", "amqp"),
            ("BUS_PORT", "tcp://10.0.0.1:80"),
            ("BUS_SERVICE_HOST", "10.0.0.1"),
            ("BUS_PORT_80_TCP_ADDR", "10.0.0.1"),
            ("BUS_AMQP_PORT", "tcp://10.0.0.1:5672"),
            ("BUS_CONFIG", "x"),
            ("PATH", "/bin"),
        ] {
            assert_eq!(warning(name, value), None, "{name}");
        }
    }

    #[test]
    fn arguments_are_typed_by_their_looks_and_quotes_force_text() {
        let kind = |text| argument(text, "X").kind;
        assert_eq!(kind("true"), ValueKind::Boolean(true));
        assert_eq!(kind("60000"), ValueKind::I64(60_000));
        assert_eq!(kind("\"60000\""), ValueKind::String("60000".to_owned()));
        assert_eq!(kind("angzarr.dlx"), ValueKind::String("angzarr.dlx".to_owned()));
    }
}
