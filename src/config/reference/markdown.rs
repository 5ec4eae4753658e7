//! The reference of all settings as Markdown, for `docs/configuration.md`. Reads no source.

use std::fmt::Write as _;

use super::super::keys::{self, Key};
use super::words::{default_of, kind_of, later_of, variable_of};

/// Tables of the reference: the prefix of their keys, their title, and a sentence.
const TABLES: &[(&str, &str, &str)] = &[
    ("bus.amqp.", "[bus.amqp]", "RabbitMQ: where it is, how to log in, what is declared."),
    ("bus.", "[bus]", "Which broker, and who this sidecar is."),
    (
        "exchanges.*.",
        "[exchanges.<name>]",
        "Further exchanges, and further options of `bus.amqp.exchange`. The table's name is the exchange.",
    ),
    (
        "queues.*.",
        "[queues.<name>]",
        "One table for each subscription. The table's name is the subscription (1 to 128 letters, digits, `-`, `_`, `.`).",
    ),
    ("retry.", "[retry]", "What becomes of failed attempts; `queues.<name>.retry.…` says it for one subscription."),
    (
        "dead_letter.",
        "[dead_letter]",
        "Where given-up messages go; `queues.<name>.dead_letter.…` says it for one subscription.",
    ),
    ("grpc.", "[grpc]", "The door for handlers and publishers."),
    ("admin.", "[admin]", "Probes, metrics and tools."),
    ("client.", "[client]", "Where the commands that talk to a running sidecar go."),
    ("health.", "[health]", "Probes and metrics for those who cannot reach loopback."),
    ("log.", "[log]", "Lines on standard error."),
    ("telemetry.", "[telemetry]", "What is told to others."),
    ("shutdown.", "[shutdown]", "The phases of stopping."),
    ("limits.", "[limits]", "What the sidecar takes at most."),
];

/// The whole document.
pub fn markdown() -> String {
    let mut text = include_str!("intro.md").to_owned();
    let mut tables: Vec<_> = TABLES.iter().collect();
    // The longer prefix is listed first, since `bus.` would take its keys; readers begin with the short one.
    tables.sort_by_key(|(_, title, _)| usize::from(*title != "[bus]"));
    for (prefix, title, sentence) in tables {
        // Writing to a String cannot fail.
        let _ = write!(text, "\n### `{title}`\n\n{sentence}\n\n");
        text.push_str("| Key | Takes | Default | Variable | Meaning |\n|---|---|---|---|---|\n");
        for key in keys::all().filter(|key| prefix_of(key) == *prefix) {
            text.push_str(&row(key, prefix));
        }
    }
    text
}

fn prefix_of(key: &Key) -> &'static str {
    TABLES.iter().find(|(prefix, ..)| key.path.starts_with(prefix)).map_or("", |(prefix, ..)| *prefix)
}

fn row(key: &Key, prefix: &str) -> String {
    let word = key.path.strip_prefix(prefix).unwrap_or(key.path).replace('*', "<name>");
    let default = default_of(key);
    let default = if key.default.is_some() { format!("`{default}`") } else { cell(&default) };
    let mut meaning = cell(key.doc);
    let rule = key.note().rule;
    if !rule.is_empty() {
        meaning = format!("{meaning}; {}", cell(rule));
    }
    if let Some(later) = later_of(key) {
        meaning = format!("{meaning}. **{}**", cell(&later));
    }
    format!("| `{word}` | {} | {default} | `{}` | {meaning} |\n", cell(&kind_of(key)), variable_of(key))
}

/// A text that breaks no table, and in which nothing is taken for markup.
fn cell(text: &str) -> String {
    text.replace('|', "\\|").replace('*', "\\*").replace('<', "\\<").replace('_', "\\_")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_key_is_in_one_table() {
        for key in keys::all() {
            assert_ne!(prefix_of(key), "", "{} has no table in the reference", key.path);
        }
        for (prefix, title, _) in TABLES {
            assert!(keys::all().any(|key| prefix_of(key) == *prefix), "{title} is empty");
        }
    }

    #[test]
    fn the_document_is_that_of_the_repository() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/configuration.md");
        let written = std::fs::read_to_string(path).unwrap();
        assert!(written == markdown(), "{path} is stale: cargo run -- config reference > docs/configuration.md");
    }
}
