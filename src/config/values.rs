//! The merged values by key, typed: what was given, else the default of the table. Knows no meaning of any key.

use std::collections::BTreeMap;
use std::path::Path;

use config::{Value, ValueKind};
use secrecy::{ExposeSecret as _, SecretString};

use super::choices::Dropped;
use super::convert::FromTyped;
use super::keys::{self, Key, Place};
use super::path::KeyPath;
use super::problem::{Fault, Problem, Problems, shown, unreadable_why};
use super::shape::LayerKind;
use super::tree;
use super::typed::{self, Typed};
use crate::domain::masking::MASK;

/// What was given for one key.
#[derive(Debug, Clone)]
pub(super) struct Given {
    pub(super) value: Typed,
    pub(super) origin: String,
    pub(super) layer: LayerKind,
    /// For messages: secrets masked.
    pub(super) shown: String,
    /// As the source wrote it; of a secret never more than an address without its login.
    pub(super) for_eyes: ValueKind,
}

fn for_eyes(key: &Key, value: &Typed, node: &Value) -> ValueKind {
    let is_address = matches!(key.path.rsplit('.').next(), Some("url" | "urls"));
    let masked = |secret: &SecretString| {
        if is_address { without_login(secret.expose_secret()) } else { MASK.to_owned() }
    };
    match value {
        Typed::Secret(secret) => ValueKind::String(masked(secret)),
        Typed::Secrets(secrets) => ValueKind::Array(secrets.iter().map(|secret| masked(secret).into()).collect()),
        Typed::Bool(_)
        | Typed::Integer(_)
        | Typed::Fraction(_)
        | Typed::Duration(_)
        | Typed::Size(_)
        | Typed::Address(_)
        | Typed::Text(_)
        | Typed::Word(_)
        | Typed::List(_)
        | Typed::Bindings(_)
        | Typed::Arguments(_) => node.kind.clone(),
    }
}

/// An address without its login, its query and its fragment; nothing of what is no address.
fn without_login(secret: &str) -> String {
    let Ok(mut url) = url::Url::parse(secret) else { return MASK.to_owned() };
    if !url.has_host() {
        return MASK.to_owned();
    }
    let has_login = !url.username().is_empty() || url.password().is_some();
    url.set_query(None);
    url.set_fragment(None);
    let is_set = url.set_password(None).is_ok() && url.set_username(if has_login { MASK } else { "" }).is_ok();
    if is_set { url.into() } else { MASK.to_owned() }
}

/// Every value that was given and is sound.
#[derive(Debug, Clone)]
pub(super) struct Values {
    given: BTreeMap<KeyPath, Given>,
    names: BTreeMap<KeyPath, Vec<String>>,
    dropped: Vec<Dropped>,
}

impl Values {
    /// Types the merged tree; what does not fit is a problem and then counts as not given.
    pub(super) fn read(merged: &Value, layers: &[(LayerKind, Value)], problems: &mut Problems) -> Self {
        let mut values = Self { given: BTreeMap::new(), names: BTreeMap::new(), dropped: Vec::new() };
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
                    let for_eyes = for_eyes(key, &value, node);
                    self.given.insert(path.clone(), Given { value, origin, layer, shown, for_eyes });
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

    /// With the keys that a higher layer has replaced by another of their group.
    pub(super) fn with_dropped(self, dropped: Vec<Dropped>) -> Self {
        Self { dropped, ..self }
    }

    /// The keys that a higher layer has replaced by another of their group.
    pub(super) fn dropped(&self) -> &[Dropped] {
        &self.dropped
    }

    /// Everything that was given.
    pub(super) fn all(&self) -> impl Iterator<Item = (&KeyPath, &Given)> {
        self.given.iter()
    }

    /// What was given at a path.
    pub(super) fn at(&self, path: &KeyPath) -> Option<&Given> {
        self.given.get(path)
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
    /// The table of one name; the name is taken as it is.
    pub(super) fn below(&self, name: &str) -> Self {
        Self { values: self.values, path: self.path.child(name) }
    }

    /// Where the first of its keys was given; empty if none was.
    pub(super) fn origin_of_any(&self) -> String {
        let below = |path: &KeyPath| path.words().starts_with(self.path.words());
        self.values.all().find(|(path, _)| below(path)).map(|(_, given)| given.origin.clone()).unwrap_or_default()
    }

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
                    return None;
                }
                Some(text.into())
            }
            Err(error) => {
                let fault = Fault::new(format!("the file cannot be read: {}", unreadable_why(&error)));
                problems.push_unreadable(self.problem(&twin, fault.hint("mount the secret, or correct the path")));
                None
            }
        }
    }
}
