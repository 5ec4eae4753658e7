//! The table of every key: path, type, bounds, default, words for the reference. A new key is a new row.
//!
//! Knows no source and no value; `shape`, `typed` and `words` read the table.

use std::time::Duration;

use super::path::KeyPath;

mod bus;
mod notes;
mod process;
mod queues;

pub(crate) use notes::Note;

/// One key, or with `*` in its path one key of every queue, exchange or identity.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Key {
    /// Path with `*` where a name stands.
    pub(crate) path: &'static str,
    /// What it takes.
    pub(crate) kind: Kind,
    /// As a file or variable would write it; `None` = unset, or taken from another key.
    pub(crate) default: Option<&'static str>,
    /// Its promised variable, beside the `BUS__…` one.
    pub(crate) variable: Option<&'static str>,
    /// Whether this release does it.
    pub(crate) state: State,
    /// Advice for a value out of bounds.
    pub(crate) hint: Option<&'static str>,
    /// One line for the reference.
    pub(crate) doc: &'static str,
}

/// Whether this release does what a key asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum State {
    /// It does.
    Supported,
    /// Known, and refused when used: a setting that is silently ignored is worse than none. With what to do instead,
    /// which may be empty.
    Later(&'static str),
    /// Its default is what this release does, so naming it is fine; every other value is refused like [`State::Later`].
    OnlyDefault(&'static str),
}

/// What a key takes.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Kind {
    /// `true` or `false`.
    Bool,
    /// A whole number.
    Integer { min: i64, max: i64 },
    /// A number with a point.
    Fraction { min: f64, max: f64 },
    /// Such as `10s`.
    Duration { min: Duration, max: Duration },
    /// Such as `16MiB`.
    Size { min: u64, max: u64 },
    /// `host:port` or `off`.
    Address,
    /// Any text but the empty one.
    Text,
    /// A name on the broker.
    Name,
    /// An exchange that is bound to and not declared: the broker's own (`amq.topic`) included.
    BoundExchange,
    /// A file.
    Path,
    /// A text that no output ever shows.
    Secret,
    /// One of `now`; those of `later` are known and refused, each with the reason.
    Words { now: &'static [&'static str], later: &'static [(&'static str, &'static str)] },
    /// Texts.
    List,
    /// Secrets.
    SecretList,
    /// `"player.#"` or `{ exchange, routing_key, arguments }`.
    Bindings,
    /// AMQP arguments: a table of anything.
    Arguments,
}

/// No longer than this makes sense for any wait of ours.
pub(super) const WAIT_MAX: Duration = Duration::from_hours(24);
/// Any wait that is there at all.
pub(super) const WAIT: Kind = Kind::Duration { min: Duration::from_millis(1), max: WAIT_MAX };
/// A wait that may be none.
pub(super) const WAIT_OR_NONE: Kind = Kind::Duration { min: Duration::ZERO, max: WAIT_MAX };
/// Any size but nothing.
pub(super) const BYTES: Kind = Kind::Size { min: 1, max: 1 << 40 };
/// Any count but nothing.
pub(super) const COUNT: Kind = Kind::Integer { min: 1, max: i64::MAX };
/// Kinds of exchanges.
pub(super) const EXCHANGE_KINDS: Kind = Kind::Words { now: &["topic", "direct", "fanout", "headers"], later: &[] };
/// What AMQP's basic.qos takes; 0 would be "no limit".
pub(super) const PREFETCH: Kind = Kind::Integer { min: 1, max: 65_535 };

/// A row.
pub(super) const fn key(path: &'static str, kind: Kind, doc: &'static str) -> Key {
    Key { path, kind, default: None, variable: None, state: State::Supported, hint: None, doc }
}

impl Key {
    pub(super) const fn default(self, default: &'static str) -> Self {
        Self { default: Some(default), ..self }
    }

    pub(super) const fn variable(self, variable: &'static str) -> Self {
        Self { variable: Some(variable), ..self }
    }

    pub(super) const fn hint(self, hint: &'static str) -> Self {
        Self { hint: Some(hint), ..self }
    }

    pub(super) const fn later(self, instead: &'static str) -> Self {
        Self { state: State::Later(instead), ..self }
    }

    pub(super) const fn only_default(self, instead: &'static str) -> Self {
        Self { state: State::OnlyDefault(instead), ..self }
    }

    /// The default in words where it is no value of its own, and the rules that bind it to other keys.
    pub(super) fn note(&self) -> Note {
        notes::of(self.path)
    }

    /// True for what no output may show.
    pub(super) fn is_secret(&self) -> bool {
        matches!(self.kind, Kind::Secret | Kind::SecretList)
    }
}

/// Every key.
pub(super) fn all() -> impl Iterator<Item = &'static Key> {
    [bus::KEYS, queues::KEYS, process::KEYS].into_iter().flatten()
}

/// What stands at a path.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Place {
    /// A key.
    Key(&'static Key),
    /// A table of keys.
    Table,
    /// A table whose entries are named by the operator.
    Names,
    /// Nothing that we know.
    Unknown,
}

/// What stands at a path.
pub(super) fn place(path: &KeyPath) -> Place {
    let words = path.words();
    let mut place = Place::Unknown;
    for key in all() {
        let mut pattern = key.path.split('.');
        let is_prefix = words.iter().all(|word| pattern.next().is_some_and(|p| p == "*" || p == word));
        if !is_prefix {
            continue;
        }
        match pattern.next() {
            None => return Place::Key(key),
            Some("*") => place = Place::Names,
            Some(_) => place = Place::Table,
        }
    }
    place
}

/// The row of a path.
pub(super) fn find(path: &KeyPath) -> Option<&'static Key> {
    let Place::Key(key) = place(path) else { return None };
    Some(key)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::config::value::write_duration;
    use crate::config::{environment, typed};
    use crate::domain::subscription;

    #[test]
    fn paths_are_unique_and_every_row_has_a_doc_line() {
        let mut seen = BTreeSet::new();
        for key in all() {
            assert!(seen.insert(key.path), "{} is there twice", key.path);
            assert!(!key.doc.is_empty() && !key.doc.ends_with('.'), "{}", key.path);
        }
    }

    #[test]
    fn a_queue_has_every_key_of_retry_and_dead_letter_that_is_not_global() {
        let paths: BTreeSet<&str> = all().map(|key| key.path).collect();
        for key in all().filter(|key| key.path.starts_with("retry.") || key.path.starts_with("dead_letter.")) {
            let is_global = ["retry.allow_lossy_delay", "retry.history_key_file"].contains(&key.path);
            assert_ne!(paths.contains(format!("queues.*.{}", key.path).as_str()), is_global, "{}", key.path);
        }
    }

    #[test]
    fn defaults_are_those_of_the_domain() {
        let is = |path: &str, text: String| {
            let row = all().find(|key| key.path == path).unwrap();
            assert_eq!(row.default, Some(text.as_str()), "{path}");
        };
        is("bus.amqp.prefetch_count", subscription::PREFETCH_COUNT_DEFAULT.to_string());
        is("bus.amqp.prefetch_max", subscription::PREFETCH_MAX_DEFAULT.to_string());
        is("queues.*.max_handlers", subscription::MAX_HANDLERS_DEFAULT.to_string());
        is("queues.*.settle_timeout", write_duration(subscription::SETTLE_TIMEOUT_DEFAULT));
        is("queues.*.max_lease", write_duration(subscription::MAX_LEASE_DEFAULT));
        is("retry.max_attempts", subscription::RetrySettings::default().max_attempts.to_string());
        let retry = subscription::RetrySettings::default();
        is("retry.min_backoff", write_duration(retry.min_backoff));
        is("retry.max_backoff", write_duration(retry.max_backoff));
        is("retry.multiplier", retry.multiplier.to_string());
        is("retry.jitter", retry.jitter.to_string());
        is("retry.max_per_second", retry.max_per_second.to_string());
        is("retry.kill_switch.enabled", retry.kill_switch.enabled.to_string());
        is("retry.kill_switch.share", retry.kill_switch.share.to_string());
        is("retry.kill_switch.sample", retry.kill_switch.sample.to_string());
        is("retry.kill_switch.min_pause", write_duration(retry.kill_switch.min_pause));
        is("retry.kill_switch.max_pause", write_duration(retry.kill_switch.max_pause));
    }

    #[test]
    fn every_default_is_in_the_bounds_of_its_key() {
        for key in all() {
            let Some(default) = key.default else { continue };
            assert!(typed::read_text(key, default).is_ok(), "{} = {default}", key.path);
        }
    }

    #[test]
    fn notes_speak_of_keys_and_never_of_a_default_that_is_a_value() {
        let mut seen = BTreeSet::new();
        for note in notes::ALL {
            let row = all().find(|key| key.path == note.path);
            let row = row.unwrap_or_else(|| panic!("{} is no key", note.path));
            assert!(note.default.is_empty() || row.default.is_none(), "{} has two defaults", note.path);
            assert!(seen.insert(note.path), "{} has two notes", note.path);
        }
    }

    #[test]
    fn a_key_that_takes_its_default_only_has_one() {
        for key in all().filter(|key| matches!(key.state, State::OnlyDefault(_))) {
            assert!(key.default.is_some(), "{}", key.path);
        }
    }

    #[test]
    fn no_table_of_bus_is_called_like_a_root() {
        for key in bus::KEYS {
            let second = key.path.split('.').nth(1).unwrap();
            assert!(!environment::ROOTS.contains(&second), "{} hides a root from BUS__…", key.path);
        }
    }

    #[test]
    fn every_key_is_reached_by_its_variable() {
        for key in all() {
            let path: KeyPath = key.path.replace('*', "a-name").split('.').map(str::to_owned).collect();
            let variable = environment::variable_of(&path);
            let below = config::Value::new(None, config::ValueKind::Table(config::Map::new()));
            assert_eq!(environment::path_of(&variable, &below), Ok(path), "{variable}");
        }
    }

    #[test]
    fn a_place_is_a_key_a_table_names_or_unknown() {
        assert_eq!(place(&KeyPath::of("bus.amqp")), Place::Table);
        assert_eq!(place(&KeyPath::of("queues")), Place::Names);
        assert_eq!(place(&KeyPath::of("queues.x.retry")), Place::Table);
        assert!(matches!(place(&KeyPath::of("queues.x.retry.max_attempts")), Place::Key(_)));
        assert_eq!(place(&KeyPath::of("bus.amqp.url.more")), Place::Unknown);
        assert_eq!(place(&KeyPath::of("")), Place::Table);
    }
}
