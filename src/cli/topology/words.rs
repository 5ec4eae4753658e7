//! Objects and steps of a topology as words for people. Knows no command.

use std::fmt::Write as _;

use crate::domain::desired::Objects;
use crate::domain::difference::{Difference, value_text};
use crate::domain::message::Headers;
use crate::domain::name::QueueName;
use crate::domain::subscription::Binding;
use crate::domain::topology::{Exchange, Named, Queue, Step};

/// Behind what somebody has named.
const NAMED: &str = "*";

/// Kind and name of what a step is about.
pub(super) fn subject(step: &Step) -> (&'static str, String) {
    match step {
        Step::Exchange(exchange) => ("exchange", printable(exchange.name.as_str())),
        Step::Queue(queue) => ("queue", printable(queue.name.as_str())),
        Step::Bind { queue, binding, .. } => ("bind", route(queue, binding)),
        Step::Unbind { queue, binding, .. } => ("unbind", route(queue, binding)),
    }
}

/// What the object of a step is like; what somebody has named is marked.
pub(super) fn details(step: &Step) -> String {
    match step {
        Step::Exchange(exchange) => exchange_details(exchange),
        Step::Queue(queue) => queue_details(queue),
        Step::Bind { binding, .. } | Step::Unbind { binding, .. } => {
            arguments(&binding.arguments, &Named::new()).join(", ")
        }
    }
}

pub(super) fn exchange_details(exchange: &Exchange) -> String {
    let named = &exchange.named;
    let mut words = vec![marked(exchange.kind.as_str(), named.contains("type"))];
    words.push(lasting(exchange.durable, named));
    words.extend(flag("auto_delete", exchange.auto_delete, named));
    words.extend(flag("internal", exchange.internal, named));
    words.extend(arguments(&exchange.arguments, named));
    words.join(", ")
}

pub(super) fn queue_details(queue: &Queue) -> String {
    let named = &queue.named;
    let mut words = vec![lasting(queue.durable, named)];
    words.extend(flag("auto_delete", queue.auto_delete, named));
    words.extend(flag("exclusive", queue.exclusive, named));
    words.extend(arguments(&queue.arguments, named));
    words.join(", ")
}

/// Where a binding leads from and to.
pub(super) fn route(queue: &QueueName, binding: &Binding) -> String {
    printable(&binding.describe(queue))
}

fn marked(word: &str, is_named: bool) -> String {
    format!("{word}{}", if is_named { NAMED } else { "" })
}

fn lasting(is_durable: bool, named: &Named) -> String {
    marked(if is_durable { "durable" } else { "transient" }, named.contains("durable"))
}

/// A flag that is off is shown only where somebody insists on it.
fn flag(word: &str, is_on: bool, named: &Named) -> Option<String> {
    let is_named = named.contains(word);
    match (is_on, is_named) {
        (true, _) => Some(marked(word, is_named)),
        (false, true) => Some(marked(&format!("not {word}"), is_named)),
        (false, false) => None,
    }
}

fn arguments(arguments: &Headers, named: &Named) -> Vec<String> {
    let one = |(name, value): (&String, _)| {
        let text = format!("{} = {}", printable(name), printable(&value_text(value)));
        marked(&text, named.contains(name))
    };
    arguments.iter().map(one).collect()
}

/// Differences in one line.
pub(super) fn listed(differences: &[Difference]) -> String {
    printable(&differences.iter().map(Difference::to_string).collect::<Vec<_>>().join("; "))
}

/// Control characters as escapes: a name from a file must not move the cursor of a terminal.
pub(super) fn printable(text: &str) -> String {
    let mut clean = String::with_capacity(text.len());
    for character in text.chars() {
        if character.is_control() { clean.extend(character.escape_default()) } else { clean.push(character) }
    }
    clean
}

/// Rows in aligned columns, without white space at the end.
pub(super) fn columns(rows: &[Vec<String>]) -> String {
    let count = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| {
        rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..count).map(width).collect();
    let mut text = String::new();
    for row in rows {
        let mut line = String::new();
        for (cell, width) in row.iter().zip(&widths) {
            // Writing to a String cannot fail.
            let _ = write!(line, "{cell:<width$}  ");
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

/// The objects, one a line.
pub(super) fn objects(objects: &Objects) -> String {
    let mut rows = Vec::new();
    let mut row = |kind: &str, name: String, details: String| rows.push(vec![kind.to_owned(), name, details]);
    for exchange in &objects.exchanges {
        row("exchange", printable(exchange.name.as_str()), exchange_details(exchange));
    }
    for queue in &objects.queues {
        row("queue", printable(queue.name.as_str()), queue_details(queue));
    }
    for (queue, binding) in &objects.bindings {
        row("binding", route(queue, binding), arguments(&binding.arguments, &Named::new()).join(", "));
    }
    columns(&rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_characters_are_shown_and_not_obeyed() {
        assert_eq!(printable("a\u{1b}[2Jb\nc ö"), "a\\u{1b}[2Jb\\nc ö");
    }

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let rows = [
            vec!["a".to_owned(), "bb".to_owned(), String::new()],
            vec!["ccc".to_owned(), "d".to_owned(), "e".to_owned()],
        ];
        assert_eq!(columns(&rows), "a    bb\nccc  d   e\n");
    }
}
