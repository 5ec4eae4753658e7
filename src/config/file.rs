//! Settings files: which ones, and TOML to values that know their line. Knows no key.

use std::path::{Path, PathBuf};

use config::{Map, Value, ValueKind};
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::load::{Command, LoadRequest};
use super::problem::{Fault, Problem, Problems, unreadable_why};
use super::{tree, worked_example};
use crate::domain::masking::masked;

/// Where the worked example comes from, in origins.
const EXAMPLE: &str = "sidebus.toml of sidebus dev";
/// The variable that names a file or directory.
const FILE_VARIABLE: &str = "BUS_CONFIG";

/// True for the origin of a value of the worked example, which nobody chose.
pub(super) fn is_example(origin: &str) -> bool {
    origin.starts_with(EXAMPLE)
}

/// Reads every settings file of a request, in order. A file with a fault of syntax is left out.
pub(super) fn read(request: &LoadRequest, problems: &mut Problems) -> Vec<Value> {
    let files = find(request, problems);
    if files.is_empty() && request.command == Command::Dev && problems.is_empty() {
        return parse(worked_example(), EXAMPLE, problems).into_iter().collect();
    }
    let mut trees = Vec::new();
    for label in files {
        match std::fs::read_to_string(request.working_dir.join(&label)) {
            Ok(text) => trees.extend(parse(&text, &masked(&label.display().to_string()), problems)),
            Err(error) => problems.push(unreadable(&label, "", &error)),
        }
    }
    trees
}

fn unreadable(label: &Path, origin: &str, error: &std::io::Error) -> Problem {
    Problem::new(label.display().to_string(), origin, Fault::new(format!("cannot be read: {}", unreadable_why(error))))
}

/// The files by the names that messages use for them.
fn find(request: &LoadRequest, problems: &mut Problems) -> Vec<PathBuf> {
    let from_variable = request.environment.get(FILE_VARIABLE).filter(|value| !value.is_empty());
    if !request.files.is_empty() {
        return request.files.iter().flat_map(|file| expand(request, file, "-c", problems)).collect();
    }
    if let Some(file) = from_variable {
        return expand(request, Path::new(file), FILE_VARIABLE, problems);
    }
    let defaults = [PathBuf::from("sidebus.toml"), request.system_file.clone()];
    defaults.into_iter().find(|file| request.working_dir.join(file).exists()).into_iter().collect()
}

/// A file as it is; a directory as its `*.toml` by name.
fn expand(request: &LoadRequest, file: &Path, origin: &str, problems: &mut Problems) -> Vec<PathBuf> {
    let path = request.working_dir.join(file);
    let entries = match std::fs::metadata(&path) {
        Ok(found) if !found.is_dir() => return vec![file.to_owned()],
        Ok(_) => std::fs::read_dir(&path),
        Err(error) => Err(error),
    };
    let entries = match entries {
        Ok(entries) => entries,
        Err(error) => {
            problems.push(unreadable(file, origin, &error));
            return Vec::new();
        }
    };
    let mut files: Vec<PathBuf> = entries
        .flatten()
        .map(|entry| file.join(entry.file_name()))
        .filter(|path| path.extension().is_some_and(|extension| extension == "toml"))
        .collect();
    files.sort();
    if files.is_empty() {
        problems.push(Problem::new(file.display().to_string(), origin, Fault::new("a directory without any *.toml")));
    }
    files
}

/// TOML to a tree whose origins are `label:line`. Every fault of syntax is a problem, one a line.
fn parse(text: &str, label: &str, problems: &mut Problems) -> Option<Value> {
    let (table, errors) = DeTable::parse_recoverable(text);
    if errors.is_empty() {
        let origin = |offset: usize| format!("{label}:{}", line_and_column(text, offset).0);
        return Some(Value::new(None, table_of(table.into_inner(), &origin)));
    }
    let mut line_told = 0;
    for error in errors {
        let (line, column) = line_and_column(text, error.span().map_or(0, |span| span.start));
        if line != line_told {
            // Only the parser's own words: its full message quotes the line, which may hold a secret.
            let fault = Fault::new(format!("not TOML: {}", error.message()));
            problems.push(Problem::new(label, format!("{label}:{line}:{column}"), fault));
        }
        line_told = line;
    }
    None
}

/// A single TOML value such as `{ a = 1 }` or `["x"]`, from a variable or a flag.
pub(super) fn parse_fragment(text: &str, origin: &str) -> Option<Value> {
    let document = format!("v = {text}");
    let mut entries = DeTable::parse(&document).ok()?.into_inner().into_iter();
    let (_, value) = entries.next()?;
    // A line break could smuggle in a second key.
    if entries.next().is_some() {
        return None;
    }
    Some(value_of(value, &|_| origin.to_owned()))
}

/// The words of a dotted key such as `queues."a.b".bindings`.
pub(super) fn parse_key(text: &str) -> Option<Vec<String>> {
    if text.contains(['\n', '\r', '=', '#']) {
        return None;
    }
    let document = format!("{text} = 0");
    let mut table = DeTable::parse(&document).ok()?.into_inner();
    let mut words = Vec::new();
    loop {
        let (word, value) = table.into_iter().next()?;
        words.push(word.into_inner().into_owned());
        let DeValue::Table(below) = value.into_inner() else { return Some(words) };
        table = below;
    }
}

fn line_and_column(text: &str, offset: usize) -> (usize, usize) {
    let before = text.get(..offset).unwrap_or(text);
    let line_start = before.rfind('\n').map_or(0, |position| position + 1);
    (before.matches('\n').count() + 1, before[line_start..].chars().count() + 1)
}

fn table_of(table: DeTable<'_>, origin: &dyn Fn(usize) -> String) -> Map<String, Value> {
    table
        .into_iter()
        .map(|(word, value)| {
            // A table that dotted keys or headers made has no place of its own: it takes its name's.
            let start = word.span().start;
            let mut value = value_of(value, origin);
            if tree::is_table(&value) {
                value = Value::new(Some(&origin(start)), value.kind);
            }
            (word.into_inner().into_owned(), value)
        })
        .collect()
}

fn value_of(value: Spanned<DeValue<'_>>, origin: &dyn Fn(usize) -> String) -> Value {
    let place = origin(value.span().start);
    let kind = match value.into_inner() {
        DeValue::String(text) => ValueKind::String(text.into_owned()),
        DeValue::Integer(number) => i64::from_str_radix(number.as_str(), number.radix())
            .map_or_else(|_| ValueKind::String(number.as_str().to_owned()), ValueKind::I64),
        DeValue::Float(number) => ValueKind::Float(number.as_str().parse().unwrap_or(f64::NAN)),
        DeValue::Boolean(value) => ValueKind::Boolean(value),
        DeValue::Datetime(time) => ValueKind::String(time.to_string()),
        DeValue::Array(items) => ValueKind::Array(items.into_iter().map(|item| value_of(item, origin)).collect()),
        DeValue::Table(table) => ValueKind::Table(table_of(table, origin)),
    };
    Value::new(Some(&place), kind)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::path::KeyPath;

    #[test]
    fn every_leaf_knows_its_line() {
        let mut problems = Problems::default();
        let text = "[bus]\nbackend = \"amqp\"\n\n[bus.amqp]\nport = 5\n[queues.\"a.b\"]\nbindings = [\n  \"x\",\n]\n";
        let parsed = parse(text, "s.toml", &mut problems).unwrap();
        let origin = |path: &KeyPath| tree::origin(tree::get(&parsed, path).unwrap());
        assert_eq!(origin(&KeyPath::of("bus.backend")), "s.toml:2");
        assert_eq!(origin(&KeyPath::of("bus.amqp.port")), "s.toml:5");
        assert_eq!(origin(&KeyPath::of("queues").child("a.b").child("bindings")), "s.toml:7");
    }

    #[test]
    fn faults_of_syntax_are_told_with_line_and_column_and_without_the_text() {
        let mut problems = Problems::default();
        let parsed = parse("[bus]\nbackend = \n\n[bus.amqp]\npassword = canary\n", "s.toml", &mut problems);
        assert!(parsed.is_none());
        insta::assert_snapshot!(problems, @r"
        settings: 2 problems
          s.toml    s.toml:2:11    not TOML: string values must be quoted, expected literal string
          s.toml    s.toml:5:12    not TOML: string values must be quoted, expected literal string
        ");
        assert!(!problems.to_string().contains("canary"));
    }

    #[test]
    fn keys_of_flags_may_quote_names() {
        assert_eq!(parse_key("bus.amqp.port").unwrap(), ["bus", "amqp", "port"]);
        assert_eq!(parse_key("queues.\"a.b\".durable").unwrap(), ["queues", "a.b", "durable"]);
        for text in ["", "a..b", "a=1\nb", "a b", ".a"] {
            assert_eq!(parse_key(text), None, "{text:?}");
        }
    }

    #[test]
    fn a_fragment_is_one_value() {
        assert!(parse_fragment("[\"a\", 1]", "X").is_some());
        assert!(parse_fragment("[\n  \"a\", # why\n  1,\n]", "X").is_some());
        for smuggling in ["1\nw = 2", "1\r\nw = 2", "{ a = 1 }\n[w]", "{ a = 1 }\nv.b = 2", "1\n[[v]]"] {
            assert!(parse_fragment(smuggling, "X").is_none(), "{smuggling:?}");
        }
        assert!(parse_fragment("[", "X").is_none());
    }
}
