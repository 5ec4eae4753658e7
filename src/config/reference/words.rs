//! A row of the table in words: its type, its default, how it is spelled. Knows no format.

use super::super::keys::{Key, Kind, State};
use super::super::path::KeyPath;
use super::super::value::{write_duration, write_size};
use super::super::{environment, render, typed};

/// Stands for the name of a queue, an exchange or an identity.
pub(super) const NAME: &str = "<name>";

/// What it takes, bounds included.
pub(super) fn kind_of(key: &Key) -> String {
    let texts = |words: &[&str]| words.join(", ");
    match key.kind {
        Kind::Bool => "true or false".to_owned(),
        Kind::Integer { min, max: i64::MAX } => format!("whole number, at least {min}"),
        Kind::Integer { min, max } => format!("whole number, {min} to {max}"),
        Kind::Fraction { min, max } => format!("number, {min} to {max}"),
        Kind::Duration { min, max } => format!("duration, {} to {}", write_duration(min), write_duration(max)),
        Kind::Size { min, max } => format!("size, {} to {}", write_size(min), write_size(max)),
        Kind::Address => "host:port, or off".to_owned(),
        Kind::Text => "text".to_owned(),
        Kind::Name | Kind::BoundExchange => "name, 1 to 255 bytes".to_owned(),
        Kind::Path => "path".to_owned(),
        Kind::Secret => "secret".to_owned(),
        Kind::Words { now, later: [] } => texts(now),
        Kind::Words { now, later } => {
            let later: Vec<&str> = later.iter().map(|(word, _)| *word).collect();
            format!("{} ({} later)", texts(now), texts(&later))
        }
        Kind::List => "list of texts".to_owned(),
        Kind::SecretList => "list of secrets".to_owned(),
        Kind::Bindings => "list of patterns, or of tables { exchange, routing_key, arguments }".to_owned(),
        Kind::Arguments => "table".to_owned(),
    }
}

/// Its default: a value, words, or `none`.
pub(super) fn default_of(key: &Key) -> String {
    match (key.default, key.note().default) {
        (Some(value), _) => value.to_owned(),
        (None, "") => "none".to_owned(),
        (None, words) => words.to_owned(),
    }
}

/// Its variable; the promised one before the general one.
pub(super) fn variable_of(key: &Key) -> String {
    let words = |name: &str| key.path.replace('*', name).split('.').map(str::to_owned).collect::<KeyPath>();
    // The name must survive the upper case of variables.
    environment::variable_of(&words(NAME))
}

/// What is not done yet, and what to do instead; `None` = it is done.
pub(super) fn later_of(key: &Key) -> Option<String> {
    let (what, instead) = match key.state {
        State::Supported => return None,
        State::Later(instead) => ("not in this release".to_owned(), instead),
        State::OnlyDefault(instead) => (format!("only {} in this release", default_of(key)), instead),
    };
    Some(if instead.is_empty() { what } else { format!("{what}: {instead}") })
}

/// A value as a file would hold it: the default, else one that fits.
pub(super) fn example_of(key: &Key) -> String {
    if let Some(default) = key.default.filter(|_| !key.is_secret()) {
        return render::toml(&typed::from_text(key.kind, default, "default").kind);
    }
    match key.kind {
        Kind::Bool => "true".to_owned(),
        Kind::Integer { min, .. } => min.max(1).to_string(),
        Kind::Fraction { min, .. } => min.to_string(),
        Kind::Duration { min, .. } => format!("{:?}", write_duration(min.max(std::time::Duration::from_secs(10)))),
        Kind::Size { .. } => "\"16MiB\"".to_owned(),
        Kind::Address => "\"127.0.0.1:7672\"".to_owned(),
        Kind::Text | Kind::Name | Kind::BoundExchange | Kind::Secret => "\"…\"".to_owned(),
        Kind::Path => "\"/path/to/file\"".to_owned(),
        Kind::Words { now, .. } => format!("{:?}", now.first().copied().unwrap_or_default()),
        Kind::List | Kind::SecretList => "[\"…\"]".to_owned(),
        Kind::Bindings => "[\"player.#\"]".to_owned(),
        Kind::Arguments => "{ x-name = \"value\" }".to_owned(),
    }
}
