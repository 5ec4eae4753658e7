//! The merged values by key, typed: what was given, else the default of the table. Knows no meaning of any key.

use std::collections::BTreeMap;
use std::path::Path;

use config::Value;
use secrecy::SecretString;

use super::convert::FromTyped;
use super::keys::{self, Place};
use super::path::KeyPath;
use super::problem::{Fault, MASK, Problem, Problems, shown};
use super::shape::LayerKind;
use super::tree;
use super::typed::{self, Typed};

/// What was given for one key.
#[derive(Debug, Clone)]
pub(super) struct Given {
    pub(super) value: Typed,
    pub(super) origin: String,
    pub(super) layer: LayerKind,
    /// For messages: secrets masked.
    pub(super) shown: String,
}

/// Every value that was given and is sound.
#[derive(Debug)]
pub(super) struct Values {
    given: BTreeMap<KeyPath, Given>,
    names: BTreeMap<KeyPath, Vec<String>>,
}

impl Values {
    /// Types the merged tree; what does not fit is a problem and then counts as not given.
    pub(super) fn read(merged: &Value, layers: &[(LayerKind, Value)], problems: &mut Problems) -> Self {
        let mut values = Self { given: BTreeMap::new(), names: BTreeMap::new() };
        values.collect(merged, &KeyPath::default(), layers, problems);
        values
    }

    fn collect(&mut self, node: &Value, path: &KeyPath, layers: &[(LayerKind, Value)], problems: &mut Problems) {
        let place = keys::place(path);
        if let Place::Key(key) = place {
            let origin = tree::origin(node);
            let layer = layers.iter().rev().find(|(_, layer)| tree::get(layer, path).is_some());
            let shown = if key.is_secret() { MASK.to_owned() } else { shown(node) };
            match typed::read(key, node) {
                Ok(value) => {
                    let layer = layer.map_or(LayerKind::Files, |(kind, _)| *kind);
                    self.given.insert(path.clone(), Given { value, origin, layer, shown });
                }
                Err(fault) => problems.push(Problem::new(path, origin, fault).found(shown)),
            }
            return;
        }
        let entries = tree::entries(node);
        if place == Place::Names {
            self.names.insert(path.clone(), entries.iter().map(|(name, _)| (*name).clone()).collect());
        }
        for (word, below) in entries {
            self.collect(below, &path.child(word), layers, problems);
        }
    }

    /// A table such as `bus.amqp`.
    pub(super) fn section(&self, dotted: &str) -> Section<'_> {
        Section { values: self, path: KeyPath::of(dotted) }
    }

    /// The entries of a table of names such as `queues`, by name.
    pub(super) fn entries(&self, dotted: &str) -> Vec<(&str, Section<'_>)> {
        let path = KeyPath::of(dotted);
        let names = self.names.get(&path).map(Vec::as_slice).unwrap_or_default();
        names.iter().map(|name| (name.as_str(), Section { values: self, path: path.child(name) })).collect()
    }

    /// Where every given value came from, by key.
    pub(super) fn origins(&self) -> BTreeMap<String, String> {
        self.given.iter().map(|(path, given)| (path.to_string(), given.origin.clone())).collect()
    }
}

/// One table of the merged values.
#[derive(Debug, Clone)]
pub(super) struct Section<'a> {
    values: &'a Values,
    path: KeyPath,
}

impl Section<'_> {
    /// The path of a key of this table.
    pub(super) fn path(&self, key: &str) -> KeyPath {
        self.path.join(key)
    }

    /// What was given, with its origin.
    pub(super) fn given(&self, key: &str) -> Option<&Given> {
        self.values.given.get(&self.path(key))
    }

    /// What was given, as `T`.
    pub(super) fn optional<T: FromTyped>(&self, key: &str) -> Option<T> {
        T::from_typed(&self.given(key)?.value)
    }

    /// What was given, else the table's default.
    ///
    /// # Panics
    /// For a key without a default, or of another type: a bug, which any load of settings would show.
    #[expect(clippy::expect_used, reason = "the rows that are asked for have defaults of their type; every load asks")]
    pub(super) fn value<T: FromTyped>(&self, key: &str) -> T {
        let default = || {
            let row = keys::find(&self.path(key))?;
            T::from_typed(&typed::read_text(row, row.default?).ok()?)
        };
        self.optional(key).or_else(default).expect("the row has a default of this type")
    }

    /// What was given, else `fallback`: for keys whose default is another key's value.
    pub(super) fn value_or<T: FromTyped>(&self, key: &str, fallback: T) -> T {
        self.optional(key).unwrap_or(fallback)
    }

    /// A problem of one key, with what was found and where.
    pub(super) fn problem(&self, key: &str, fault: Fault) -> Problem {
        let problem = Problem::new(self.path(key), self.origin(key), fault);
        match self.given(key) {
            Some(given) => problem.found(given.shown.clone()),
            None => problem,
        }
    }

    /// Where a key was given; empty if it was not.
    pub(super) fn origin(&self, key: &str) -> String {
        self.given(key).map(|given| given.origin.clone()).unwrap_or_default()
    }

    /// A secret: given itself, or in the file that its twin `key_file` names, without the newline at the end.
    pub(super) fn secret(&self, key: &str, working_dir: &Path, problems: &mut Problems) -> Option<SecretString> {
        if let Some(secret) = self.optional(key) {
            return Some(secret);
        }
        let twin = format!("{key}_file");
        let file: String = self.optional(&twin)?;
        match std::fs::read_to_string(working_dir.join(file)) {
            Ok(text) => {
                let text = text.strip_suffix('\n').unwrap_or(&text);
                let text = text.strip_suffix('\r').unwrap_or(text);
                if text.is_empty() {
                    problems.push(self.problem(&twin, Fault::new("the file is empty")));
                }
                Some(text.into())
            }
            Err(error) => {
                let fault = Fault::new(format!("the file cannot be read: {}", error.kind()));
                problems.push(self.problem(&twin, fault.hint("mount the secret, or correct the path")));
                None
            }
        }
    }
}
