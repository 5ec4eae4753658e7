//! Values for the eye and for programs: one line of TOML, or JSON. Knows no key; who calls has masked the secrets, and a login
//! in an address, which may stand in any text, is masked here.

use config::{Value, ValueKind};
use serde_json::{Map, Number, Value as Json};

use super::tree;
use crate::domain::masking::masked;

/// As one line of TOML.
pub(super) fn toml(kind: &ValueKind) -> String {
    match kind {
        ValueKind::String(text) => quoted(&masked(text)),
        ValueKind::Array(items) => {
            let items: Vec<String> = items.iter().map(|item| toml(&item.kind)).collect();
            format!("[{}]", items.join(", "))
        }
        ValueKind::Table(_) => {
            let table = Value::new(None, kind.clone());
            let entries: Vec<String> = tree::entries(&table)
                .into_iter()
                .map(|(word, value)| format!("{} = {}", word_of(&masked(word)), toml(&value.kind)))
                .collect();
            if entries.is_empty() { "{}".to_owned() } else { format!("{{ {} }}", entries.join(", ")) }
        }
        ValueKind::Nil
        | ValueKind::Boolean(_)
        | ValueKind::I64(_)
        | ValueKind::I128(_)
        | ValueKind::U64(_)
        | ValueKind::U128(_)
        | ValueKind::Float(_) => kind.to_string(),
    }
}

/// A text in TOML's quotes; JSON's are the same but for the character U+007F.
fn quoted(text: &str) -> String {
    Json::from(text).to_string().replace('\u{7f}', "\\u007f")
}

fn word_of(word: &str) -> String {
    let is_bare = !word.is_empty() && word.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_'));
    if is_bare { word.to_owned() } else { quoted(word) }
}

/// As JSON; numbers that JSON does not know become texts.
pub(super) fn json(kind: &ValueKind) -> Json {
    match kind {
        ValueKind::Nil => Json::Null,
        ValueKind::Boolean(value) => Json::Bool(*value),
        ValueKind::I64(number) => Json::from(*number),
        ValueKind::U64(number) => Json::from(*number),
        ValueKind::Float(number) => Number::from_f64(*number).map_or_else(|| number.to_string().into(), Json::Number),
        ValueKind::I128(_) | ValueKind::U128(_) => Json::String(kind.to_string()),
        ValueKind::String(text) => Json::String(masked(text).into_owned()),
        ValueKind::Array(items) => Json::Array(items.iter().map(|item| json(&item.kind)).collect()),
        ValueKind::Table(table) => {
            let entries = table.iter().map(|(word, value)| (masked(word).into_owned(), json(&value.kind)));
            Json::Object(entries.collect::<Map<_, _>>())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::file;

    #[test]
    fn a_line_of_toml_reads_the_same() {
        for text in ["true", "-7", "0.5", "\"a \\\"b\\\" \\u007f\"", "[\"x\", { a = 1, \"b c\" = [true] }]", "{}", "[]"]
        {
            let value = file::parse_fragment(text, "X").unwrap();
            assert_eq!(toml(&value.kind), text);
        }
    }

    #[test]
    fn a_login_is_masked_wherever_it_stands_and_an_at_alone_is_none() {
        let text =
            "{ \"amqp://u:canary@h\" = [\"x\", \"amqp://u:canary@h\"], b = { c = \"http://canary@h\" }, d = \"a.@b\" }";
        let value = file::parse_fragment(text, "X").unwrap();
        for shown in [toml(&value.kind), json(&value.kind).to_string()] {
            assert!(!shown.contains("canary") && shown.contains("amqp://***@h") && shown.contains("a.@b"), "{shown}");
        }
    }

    #[test]
    fn json_has_the_types_of_toml() {
        let value = file::parse_fragment("{ a = [1, 0.5, true, \"x\"], b = nan }", "X").unwrap();
        assert_eq!(json(&value.kind), serde_json::json!({ "a": [1, 0.5, true, "x"], "b": "NaN" }));
    }
}
