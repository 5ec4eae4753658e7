//! Holds one layer against the table of keys: what is unknown, not supported yet, or a table where none may be.

use config::{Map, Value, ValueKind};

use super::keys::{self, Key, Place, State};
use super::path::KeyPath;
use super::problem::{Fault, Problem, Problems, shown};
use super::{environment, tree, typed, words};
use crate::domain::masking::{MASK, masked};
use crate::domain::name::SubscriptionName;

/// What is said of a key that is in no row.
pub(super) const UNKNOWN: &str = "unknown key";
/// What is said of a key whose feature comes later.
pub(super) const LATER: &str = "not supported in this release";

/// Which layer a value came from; later ones win.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum LayerKind {
    /// All settings files.
    Files,
    /// The environment.
    Environment,
    /// The command line.
    Flags,
}

/// The layer without what is wrong with its shape, so that each fault is told once.
pub(super) fn check(layer: &Value, kind: LayerKind, problems: &mut Problems) -> Value {
    node(layer, &KeyPath::default(), kind, problems).unwrap_or_else(tree::empty)
}

fn node(value: &Value, path: &KeyPath, kind: LayerKind, problems: &mut Problems) -> Option<Value> {
    let mut tell = |fault: Fault| {
        problems.push(Problem::new(path, tree::origin(value), fault));
        None
    };
    match keys::place(path) {
        Place::Key(key) => key_of_this_release(key, value, path, problems).then(|| value.clone()),
        // The value is not shown: a URL or a password may have slipped in.
        Place::Table | Place::Names if !tree::is_table(value) => tell(Fault::new("must be a table of keys")),
        Place::Table => Some(children(value, path, kind, problems)),
        Place::Names => {
            names(value, path, problems);
            Some(children(value, path, kind, problems))
        }
        Place::Unknown => tell(unknown(value, path, kind)),
    }
}

/// False for a key that does nothing yet, which is told; so is a value that it will not take when it does.
fn key_of_this_release(key: &Key, value: &Value, path: &KeyPath, problems: &mut Problems) -> bool {
    let instead = match key.state {
        State::Supported => return true,
        State::OnlyDefault(_) if key.default.is_some_and(|default| typed::is_same(key, value, default)) => return true,
        State::OnlyDefault(instead) | State::Later(instead) => instead,
    };
    let origin = tree::origin(value);
    if let Err(fault) = typed::read(key, value) {
        let shown = if key.is_secret() { MASK.to_owned() } else { shown(value) };
        problems.push(Problem::new(path, &origin, fault).found(shown));
    }
    let hint = if instead.is_empty() { "leave it out" } else { instead };
    problems.push(Problem::new(path, origin, Fault::new(LATER).hint(hint)));
    false
}

fn children(value: &Value, path: &KeyPath, kind: LayerKind, problems: &mut Problems) -> Value {
    let mut kept = Map::new();
    for (word, below) in tree::entries(value) {
        if let Some(below) = node(below, &path.child(word), kind, problems) {
            kept.insert(word.clone(), below);
        }
    }
    Value::new(Some(&tree::origin(value)), ValueKind::Table(kept))
}

/// The names of subscriptions, and of identities; an exchange's own name is checked where it becomes one.
fn names(value: &Value, path: &KeyPath, problems: &mut Problems) {
    if path.words() == ["exchanges"] {
        return;
    }
    for (name, below) in tree::entries(value) {
        if let Err(error) = SubscriptionName::parse(name) {
            let hint = "choose a plain name here, and set `queue` to the queue's own";
            problems.push(Problem::new(
                path.child(name),
                tree::origin(below),
                Fault::new(error.to_string()).hint(hint),
            ));
        }
    }
}

fn unknown(value: &Value, path: &KeyPath, kind: LayerKind) -> Fault {
    let fault = Fault::new(UNKNOWN);
    let Some(mut meant) = words::suggest(path) else { return fault };
    // `bus.ampq.url` fails at `ampq`; what follows belongs to the guess as well.
    let mut rest = value;
    while let [(word, below)] = tree::entries(rest).as_slice() {
        meant = meant.child(word);
        rest = below;
    }
    let spelled = match kind {
        LayerKind::Environment => environment::variable_of(&meant),
        LayerKind::Files | LayerKind::Flags => meant.to_string(),
    };
    fault.hint(format!("did you mean {}?", masked(&spelled)))
}
