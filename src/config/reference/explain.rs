//! One key explained, for `sidebus config explain`. Reads no source.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use super::super::keys::{self, Key, Place};
use super::super::path::KeyPath;
use super::super::{environment, file, tree, words as meant};
use super::words::{NAME, default_of, example_of, kind_of, later_of, variable_of};
use crate::domain::masking::masked;

/// There is no such key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{asked:?} is no key{}", nearest.as_ref().map(|key| format!("; did you mean {key}?")).unwrap_or_default())]
pub struct NoSuchKey {
    /// What was asked for, without the login of an address.
    pub asked: String,
    /// What may have been meant.
    pub nearest: Option<String>,
}

/// What a key means, takes and defaults to, how it is spelled in each source, and what rules it; of a table, its keys.
/// The key may be written as a file would (`queues.hand-saga.bindings`, `queues.<name>.bindings`) or as a variable.
///
/// # Errors
/// The key is not in the table.
pub fn explain(asked: &str) -> Result<String, NoSuchKey> {
    let shown = |text: &str| masked(text).into_owned();
    let unknown = |nearest: Option<String>| NoSuchKey { asked: shown(asked), nearest: nearest.as_deref().map(shown) };
    let path = path_of(asked).ok_or_else(|| unknown(None))?;
    // A name in it may be an address; the row of its key is the same for every name.
    let path: KeyPath = path.words().iter().map(|word| shown(word)).collect();
    match keys::place(&path) {
        Place::Key(key) => Ok(key_in_words(key, &path)),
        Place::Table | Place::Names if !path.words().is_empty() => Ok(table_in_words(&path)),
        Place::Table | Place::Names | Place::Unknown => {
            Err(unknown(meant::suggest(&path).map(|path| path.to_string())))
        }
    }
}

fn path_of(asked: &str) -> Option<KeyPath> {
    let asked = asked.trim();
    let is_variable = asked.to_ascii_uppercase().starts_with("BUS__");
    if is_variable || keys::all().any(|key| key.variable == Some(asked)) {
        return environment::path_of(asked, &tree::empty()).ok();
    }
    // A placeholder is no bare key of TOML.
    let plain = asked.replace(NAME, "\"<name>\"").replace(".*", ".\"<name>\"");
    file::parse_key(&plain).map(|words| words.into_iter().collect())
}

fn key_in_words(key: &Key, path: &KeyPath) -> String {
    let shown = path.to_string().replace("\"<name>\"", NAME);
    let (table, word) = shown.rsplit_once('.').unwrap_or(("", &shown));
    let mut text = String::new();
    let mut line = |label: &str, words: &str| {
        // Writing to a String cannot fail.
        let _ = writeln!(text, "  {label:<9} {words}");
    };
    line("type", &kind_of(key));
    line("default", &default_of(key));
    line("file", &format!("[{table}]"));
    line("", &format!("{word} = {}", example_of(key)));
    line("variable", &variable_of_path(key, path));
    if !key.is_secret() {
        line("flag", &format!("--set {shown}=…"));
    }
    let note = key.note();
    if !note.rule.is_empty() {
        line("rule", note.rule);
    }
    if let Some(hint) = key.hint {
        line("hint", hint);
    }
    if let Some(later) = later_of(key) {
        line("release", &later);
    }
    format!("{shown}\n  {}\n\n{}", key.doc, text.trim_end())
}

fn variable_of_path(key: &Key, path: &KeyPath) -> String {
    let own =
        if path.words().iter().any(|word| word == NAME) { variable_of(key) } else { environment::variable_of(path) };
    let general = environment::general_variable_of(path);
    if key.variable.is_some() { format!("{own}, or {general}") } else { own }
}

fn table_in_words(path: &KeyPath) -> String {
    let depth = path.words().len();
    let below = keys::all().filter(|key| {
        let mut pattern = key.path.split('.');
        path.words().iter().all(|word| pattern.next().is_some_and(|p| p == "*" || p == word))
    });
    let rows: BTreeMap<usize, (String, &Key)> = below
        .enumerate()
        .map(|(position, key)| {
            let rest: Vec<&str> = key.path.split('.').skip(depth).collect();
            (position, (rest.join(".").replace('*', NAME), key))
        })
        .collect();
    let width = rows.values().map(|(rest, _)| rest.chars().count()).max().unwrap_or(0);
    let mut text = format!("{}\n", path.to_string().replace("\"<name>\"", NAME));
    for (rest, key) in rows.values() {
        let later = later_of(key).map(|_| " (later)").unwrap_or_default();
        // Writing to a String cannot fail.
        let _ = writeln!(text, "  {rest:<width$}  {}{later}", key.doc);
    }
    text.trim_end().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_explained_with_its_spelling_in_every_source() {
        insta::assert_snapshot!(explain("BUS__AMQP__PREFETCH_COUNT").unwrap(), @r"
        bus.amqp.prefetch_count
          window of one handler, in messages

          type      whole number, 1 to 65535
          default   100
          file      [bus.amqp]
                    prefetch_count = 100
          variable  BUS__AMQP__PREFETCH_COUNT
          flag      --set bus.amqp.prefetch_count=…
          hint      100 suits most handlers
        ");
        insta::assert_snapshot!(explain("queues.<name>.queue").unwrap(), @r#"
        queues.<name>.queue
          name on the broker, if it is not the table's

          type      name, 1 to 255 bytes
          default   the table's name
          file      [queues.<name>]
                    queue = "…"
          variable  BUS__QUEUES__<NAME>__QUEUE
          flag      --set queues.<name>.queue=…
          rule      two subscriptions cannot share a queue
        "#);
        insta::assert_snapshot!(explain("AMQP_URL").unwrap(), @r#"
        bus.amqp.url
          amqp:// or amqps:// address

          type      secret
          default   amqp://guest:guest@localhost:5672 with backend amqp
          file      [bus.amqp]
                    url = "…"
          variable  AMQP_URL, or BUS__AMQP__URL
          rule      one of url, url_file, urls and host; the highest layer that has any decides
        "#);
        insta::assert_snapshot!(explain("admin.console").unwrap(), @r"
        admin.console
          pages for eyes

          type      true or false
          default   false
          file      [admin]
                    console = false
          variable  BUS__ADMIN__CONSOLE
          flag      --set admin.console=…
          release   only false in this release
        ");
        let of_one = explain("BUS__QUEUES__HAND_SAGA__MAX_LEASE").unwrap();
        assert!(of_one.starts_with("queues.hand-saga.max_lease\n"), "{of_one}");
        assert!(of_one.contains("variable  BUS__QUEUES__HAND_SAGA__MAX_LEASE"), "{of_one}");
    }

    #[test]
    fn a_table_is_explained_by_its_keys() {
        insta::assert_snapshot!(explain("health").unwrap(), @r"
        health
          listen     probes and metrics for kubelet and Prometheus
          readiness  what readiness means
        ");
        assert!(explain("queues.a.retry").unwrap().contains("max_attempts"));
        assert!(explain("queues").unwrap().contains("<name>.bindings"));
    }

    #[test]
    fn what_is_no_key_is_told_with_the_nearest_one() {
        let unknown = |asked: &str| explain(asked).unwrap_err().to_string();
        assert_eq!(unknown("bus.amqp.urll"), "\"bus.amqp.urll\" is no key; did you mean bus.amqp.url?");
        assert_eq!(unknown("queues.x.type"), "\"queues.x.type\" is no key; did you mean queues.x.queue_type?");
        assert_eq!(unknown("zzzzzzzzzz"), "\"zzzzzzzzzz\" is no key");
        assert_eq!(unknown("a = b"), "\"a = b\" is no key");
        assert_eq!(unknown(""), "\"\" is no key");
    }

    #[test]
    fn every_key_is_explained() {
        for key in keys::all() {
            let spelled = key.path.replace('*', NAME);
            let text = explain(&spelled).unwrap();
            assert!(text.contains(key.doc) && text.contains(&spelled), "{text}");
        }
    }
}
