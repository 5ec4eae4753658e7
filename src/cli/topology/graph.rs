//! Exchanges, queues and bindings as graphs for Graphviz and Mermaid. Names may hold anything: only labels carry them.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use super::words::printable;
use crate::domain::desired::Objects;
use crate::domain::difference::value_text;
use crate::domain::message::Value;
use crate::domain::subscription::Binding;
use crate::domain::topology::Queue;

/// What a node stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Shape {
    Exchange,
    /// One that the settings bind to and do not make.
    Foreign,
    Queue,
}

/// What an edge stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Line {
    Binding,
    DeadLetters,
}

struct Node {
    id: String,
    label: String,
    shape: Shape,
}

struct Edge {
    from: String,
    to: String,
    label: String,
    line: Line,
}

struct Graph {
    nodes: Vec<Node>,
    edges: Vec<Edge>,
}

/// For Graphviz.
pub(super) fn dot(objects: &Objects) -> String {
    let graph = Graph::of(objects);
    let mut text = "digraph topology {\n  rankdir = LR;\n  node [fontname = \"sans-serif\"];\n".to_owned();
    for node in &graph.nodes {
        let style = match node.shape {
            Shape::Exchange => "shape = ellipse",
            Shape::Foreign => "shape = ellipse, style = dashed",
            Shape::Queue => "shape = box",
        };
        // Writing to a String cannot fail.
        let _ = writeln!(text, "  {} [label = {}, {style}];", node.id, dot_text(&node.label));
    }
    for edge in &graph.edges {
        let style = match edge.line {
            Line::Binding => "",
            Line::DeadLetters => ", style = dashed",
        };
        let _ = writeln!(text, "  {} -> {} [label = {}{style}];", edge.from, edge.to, dot_text(&edge.label));
    }
    text.push_str("}\n");
    text
}

/// For Mermaid.
pub(super) fn mermaid(objects: &Objects) -> String {
    let graph = Graph::of(objects);
    let mut text = "flowchart LR\n".to_owned();
    for node in &graph.nodes {
        let label = mermaid_text(&node.label);
        let drawn = match node.shape {
            Shape::Exchange | Shape::Foreign => format!("([{label}])"),
            Shape::Queue => format!("[{label}]"),
        };
        let _ = writeln!(text, "  {}{drawn}", node.id);
    }
    for edge in &graph.edges {
        let line = match edge.line {
            Line::Binding => "-->",
            Line::DeadLetters => "-.->",
        };
        let label = if edge.label.is_empty() { String::new() } else { format!("|{}|", mermaid_text(&edge.label)) };
        let _ = writeln!(text, "  {} {line}{label} {}", edge.from, edge.to);
    }
    text
}

impl Graph {
    fn of(objects: &Objects) -> Self {
        let mut graph = Self { nodes: Vec::new(), edges: Vec::new() };
        let mut exchanges = BTreeMap::new();
        for exchange in &objects.exchanges {
            let label = format!("{}\n{}", printable(exchange.name.as_str()), exchange.kind.as_str());
            exchanges.insert(exchange.name.as_str(), graph.node("e", label, Shape::Exchange));
        }
        for name in &objects.foreign {
            let label = if name.is_nameless() { "(nameless)".to_owned() } else { printable(name.as_str()) };
            exchanges.insert(name.as_str(), graph.node("e", label, Shape::Foreign));
        }
        let mut queues = BTreeMap::new();
        for queue in &objects.queues {
            queues.insert(queue.name.as_str(), graph.node("q", printable(queue.name.as_str()), Shape::Queue));
        }
        for (queue, binding) in &objects.bindings {
            if let (Some(from), Some(to)) = (exchanges.get(binding.exchange.as_str()), queues.get(queue.as_str())) {
                graph.edge((from, to), key(binding), Line::Binding);
            }
        }
        for queue in &objects.queues {
            let target = match dead_letter_target(queue) {
                Some(("", Some(home))) => queues.get(home),
                Some((exchange, _)) => exchanges.get(exchange),
                None => None,
            };
            if let (Some(from), Some(to)) = (queues.get(queue.name.as_str()), target) {
                graph.edge((from, to), "dead letters".to_owned(), Line::DeadLetters);
            }
        }
        graph
    }

    fn node(&mut self, kind: &str, label: String, shape: Shape) -> String {
        let id = format!("{kind}{}", self.nodes.len());
        self.nodes.push(Node { id: id.clone(), label, shape });
        id
    }

    fn edge(&mut self, (from, to): (&String, &String), label: String, line: Line) {
        self.edges.push(Edge { from: from.clone(), to: to.clone(), label, line });
    }
}

/// The routing key, and what a headers exchange matches.
fn key(binding: &Binding) -> String {
    let arguments = binding.arguments.iter().map(|(name, value)| format!("{name} = {}", value_text(value)));
    let routing_key = Some(binding.routing_key.clone()).filter(|key| !key.is_empty());
    printable(&routing_key.into_iter().chain(arguments).collect::<Vec<_>>().join(", "))
}

/// Exchange and key of what the broker gives up.
fn dead_letter_target(queue: &Queue) -> Option<(&str, Option<&str>)> {
    let text = |name: &str| queue.arguments.get(name).and_then(Value::as_text);
    Some((text("x-dead-letter-exchange")?, text("x-dead-letter-routing-key")))
}

/// A quoted string. Backslashes begin escapes in labels, a line break is one, and entities are read as in HTML (Graphviz
/// 2.43).
fn dot_text(text: &str) -> String {
    let escaped = text.replace('\\', "\\\\").replace('"', "\\\"").replace('&', "&amp;").replace('\n', "\\n");
    format!("\"{escaped}\"")
}

/// A quoted string. Mermaid reads HTML, Markdown and entities in it, so all that could begin one is an entity.
fn mermaid_text(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '\n' => escaped.push_str("<br/>"),
            '"' | '#' | '&' | '<' | '>' | '`' | '\\' | '*' | '_' | ';' | '~' => {
                let _ = write!(escaped, "#{};", u32::from(character));
            }
            _ => escaped.push(character),
        }
    }
    format!("\"{escaped}\"")
}
