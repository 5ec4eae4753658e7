//! The table of keys as a JSON Schema (draft 2020-12), for editors and pipelines. Reads no source.
//!
//! It holds what one value can be held against: types, bounds, words. What one key says of another is `config::load`'s.

use serde_json::{Map, Value as Json, json};

use super::super::keys::{self, Key, Kind, State};
use super::super::value::{write_duration, write_size};
use super::super::{render, typed};
use super::words::{later_of, variable_of};
use crate::domain::name::{NAME_BYTES_MAX, SUBSCRIPTION_BYTES_MAX};

/// The schema of a settings file; unknown keys and keys of later releases are refused.
pub fn schema() -> Json {
    let mut root = table();
    for key in keys::all() {
        insert(&mut root, &key.path.split('.').collect::<Vec<_>>(), key);
    }
    root["$schema"] = json!("https://json-schema.org/draft/2020-12/schema");
    root["title"] = json!("Settings of Sidebus");
    root["description"] =
        json!("What sidebus.toml may hold; `sidebus validate` also holds the keys against each other.");
    root
}

fn table() -> Json {
    json!({ "type": "object", "additionalProperties": false, "properties": {} })
}

fn insert(place: &mut Json, words: &[&str], key: &Key) {
    let Some((word, below)) = words.split_first() else { return };
    if *word == "*" {
        let is_subscription = key.path.starts_with("queues.");
        if !place["additionalProperties"].is_object() {
            place["additionalProperties"] = table();
            place["propertyNames"] = names(is_subscription);
        }
        insert(&mut place["additionalProperties"], below, key);
        return;
    }
    let properties = &mut place["properties"];
    if below.is_empty() {
        properties[*word] = value(key);
        return;
    }
    if !properties[*word].is_object() {
        properties[*word] = table();
    }
    insert(&mut properties[*word], below, key);
}

/// Names in `[queues]` are subscriptions, and identities are written like them; those of exchanges are the broker's.
fn names(is_subscription: bool) -> Json {
    if is_subscription {
        json!({ "minLength": 1, "maxLength": SUBSCRIPTION_BYTES_MAX, "pattern": "^[A-Za-z0-9._-]+$" })
    } else {
        json!({ "minLength": 1, "maxLength": NAME_BYTES_MAX, "pattern": NO_CONTROL })
    }
}

const NO_CONTROL: &str = "^[^\\u0000-\\u001f\\u007f-\\u009f]*$";

fn value(key: &Key) -> Json {
    let mut described = kind(key.kind);
    let mut description = capitalised(key.doc);
    let note = key.note();
    if !note.rule.is_empty() {
        description = format!("{description}; {}", note.rule);
    }
    if let Some(later) = later_of(key) {
        description = format!("{description} ({later})");
    }
    described["description"] = json!(format!("{description}. Variable: {}", variable_of(key)));
    if let Some(default) = key.default.filter(|_| !key.is_secret()) {
        described["default"] = render::json(&typed::from_text(key.kind, default, "default").kind);
    }
    match key.state {
        State::Supported => {}
        State::OnlyDefault(_) => described["const"] = described["default"].clone(),
        // Known, and nothing satisfies it: the refusal of `sidebus validate`.
        State::Later(_) => described["not"] = json!({}),
    }
    described
}

fn capitalised(text: &str) -> String {
    let mut letters = text.chars();
    letters.next().map(|first| first.to_uppercase().chain(letters).collect()).unwrap_or_default()
}

fn kind(kind: Kind) -> Json {
    match kind {
        Kind::Bool => json!({ "type": "boolean" }),
        Kind::Integer { min, max: i64::MAX } => json!({ "type": "integer", "minimum": min }),
        Kind::Integer { min, max } => json!({ "type": "integer", "minimum": min, "maximum": max }),
        Kind::Fraction { min, max } => json!({ "type": "number", "minimum": min, "maximum": max }),
        Kind::Duration { min, max } => json!({
            "type": "string", "minLength": 2,
            "pattern": "^([0-9]+d)?([0-9]+h)?([0-9]+m)?([0-9]+s)?([0-9]+ms)?$",
            "$comment": format!("{} to {}", write_duration(min), write_duration(max)),
        }),
        Kind::Size { min, max } => json!({ "anyOf": [
            { "type": "integer", "minimum": min, "maximum": max },
            { "type": "string", "pattern": "^[0-9]+(B|KiB|MiB|GiB|TiB)?$" },
        ], "$comment": format!("{} to {}", write_size(min), write_size(max)) }),
        Kind::Address => json!({ "type": "string", "pattern": "^off$|^.+:[0-9]+$" }),
        Kind::Text | Kind::Path => text(),
        Kind::Name => name(),
        Kind::BoundExchange => bound_exchange(),
        Kind::Secret => json!({ "type": "string", "minLength": 1, "writeOnly": true }),
        Kind::Words { now, .. } => json!({ "enum": now }),
        // Numbers of users are written as numbers.
        Kind::List => json!({ "type": "array", "items": { "anyOf": [text(), { "type": "integer" }] } }),
        Kind::SecretList => json!({ "type": "array", "items": text(), "writeOnly": true }),
        Kind::Bindings => json!({ "type": "array", "items": binding() }),
        Kind::Arguments => json!({ "type": "object" }),
    }
}

fn text() -> Json {
    json!({ "type": "string", "minLength": 1 })
}

/// Lengths are counted in characters here and in bytes by the broker; the looser bound is enough for an editor.
fn name() -> Json {
    let mut name = bound_exchange();
    name["not"] = json!({ "pattern": "^amq\\." });
    name
}

fn bound_exchange() -> Json {
    json!({ "type": "string", "minLength": 1, "maxLength": NAME_BYTES_MAX, "pattern": NO_CONTROL })
}

fn binding() -> Json {
    let pattern = json!({ "type": "string", "maxLength": NAME_BYTES_MAX });
    let mut properties = Map::new();
    properties.insert("exchange".to_owned(), bound_exchange());
    properties.insert("routing_key".to_owned(), pattern.clone());
    properties.insert("arguments".to_owned(), json!({ "type": "object" }));
    json!({ "anyOf": [pattern, { "type": "object", "additionalProperties": false, "properties": properties }] })
}
