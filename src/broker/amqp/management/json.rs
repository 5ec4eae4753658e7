//! What the management API's JSON says, in words of the domain. Knows no HTTP.

use serde::Deserialize;
use serde_json::Value as Json;

use crate::broker::amqp::inspect::{Policy, QueueReport};
use crate::domain::difference::{FoundExchange, FoundQueue};
use crate::domain::message::{Headers, Value};
use crate::domain::name::ExchangeName;
use crate::domain::subscription::Binding;

const QUEUE_TYPE: &str = "x-queue-type";

#[derive(Deserialize)]
struct ExchangeJson {
    #[serde(rename = "type")]
    kind: String,
    durable: bool,
    auto_delete: bool,
    internal: bool,
    #[serde(default)]
    arguments: Json,
}

#[derive(Deserialize)]
struct QueueJson {
    durable: bool,
    auto_delete: bool,
    #[serde(default)]
    exclusive: bool,
    #[serde(rename = "type")]
    kind: Option<String>,
    #[serde(default)]
    arguments: Json,
    policy: Option<String>,
    operator_policy: Option<String>,
    #[serde(default)]
    effective_policy_definition: Json,
}

#[derive(Deserialize)]
struct BindingJson {
    source: String,
    destination_type: String,
    routing_key: String,
    #[serde(default)]
    arguments: Json,
}

#[derive(Deserialize)]
struct ErrorJson {
    error: String,
    reason: Option<Json>,
}

pub(super) fn exchange(body: &[u8]) -> Result<FoundExchange, serde_json::Error> {
    let found: ExchangeJson = serde_json::from_slice(body)?;
    Ok(FoundExchange {
        kind: found.kind,
        durable: found.durable,
        auto_delete: found.auto_delete,
        internal: found.internal,
        arguments: table(found.arguments),
    })
}

pub(super) fn queue(body: &[u8]) -> Result<QueueReport, serde_json::Error> {
    let found: QueueJson = serde_json::from_slice(body)?;
    let mut arguments = table(found.arguments);
    if let Some(kind) = found.kind {
        // A queue that was declared without a type has one all the same.
        arguments.entry(QUEUE_TYPE.to_owned()).or_insert_with(|| Value::text(kind));
    }
    let QueueJson { durable, auto_delete, exclusive, .. } = found;
    let names: Vec<String> = [found.policy, found.operator_policy].into_iter().flatten().collect();
    let names: Vec<String> = names.into_iter().filter(|name| !name.is_empty()).collect();
    let definition = table(found.effective_policy_definition);
    let policy = (!definition.is_empty()).then(|| Policy { name: names.join(" and "), definition });
    Ok(QueueReport { queue: FoundQueue { durable, auto_delete, exclusive, arguments }, policy })
}

pub(super) fn bindings(body: &[u8]) -> Result<Vec<Binding>, serde_json::Error> {
    let found: Vec<BindingJson> = serde_json::from_slice(body)?;
    let named = found.into_iter().filter(|binding| binding.destination_type == "queue" && !binding.source.is_empty());
    let binding = |found: BindingJson| Binding {
        exchange: ExchangeName::from_broker(&found.source),
        routing_key: found.routing_key,
        arguments: table(found.arguments),
    };
    Ok(named.map(binding).collect())
}

/// The words of a refusal; `None` if this is none of the management API's.
pub(super) fn reason(body: &[u8]) -> Option<String> {
    let error: ErrorJson = serde_json::from_slice(body).ok()?;
    Some(match error.reason {
        Some(Json::String(reason)) => reason,
        Some(_) | None => error.error,
    })
}

/// A table. The broker's encoder writes an empty one as a list at times.
fn table(json: Json) -> Headers {
    match json {
        Json::Object(entries) => entries.into_iter().map(|(name, entry)| (name, value(entry))).collect(),
        Json::Array(_) | Json::Null | Json::Bool(_) | Json::Number(_) | Json::String(_) => Headers::new(),
    }
}

/// JSON has one kind of number: whole ones are the widest integer, and comparing knows no widths.
fn value(json: Json) -> Value {
    match json {
        Json::Null => Value::Void,
        Json::Bool(truth) => Value::Bool(truth),
        Json::Number(number) => match (number.as_i64(), number.as_f64()) {
            (Some(whole), _) => Value::Int64(whole),
            (None, Some(fraction)) => Value::Double(fraction),
            (None, None) => Value::text(number.to_string()),
        },
        Json::String(text) => Value::text(text),
        Json::Array(items) => Value::Array(items.into_iter().map(value).collect()),
        Json::Object(_) => Value::Table(table(json)),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn bytes(json: &Json) -> Vec<u8> {
        serde_json::to_vec(json).unwrap()
    }

    #[test]
    fn an_exchange_is_read_with_its_arguments() {
        let body = json!({"name": "x", "type": "headers", "durable": true, "auto_delete": false, "internal": true,
            "arguments": {"alternate-exchange": "y", "n": 7, "f": 1.5, "on": true, "list": [1, "a", null],
            "deep": {"k": -1}}, "vhost": "/", "message_stats": {}});
        let found = exchange(&bytes(&body)).unwrap();
        assert_eq!(
            (found.kind.as_str(), found.durable, found.auto_delete, found.internal),
            ("headers", true, false, true)
        );
        let expected = Headers::from([
            ("alternate-exchange".to_owned(), Value::text("y")),
            ("n".to_owned(), Value::Int64(7)),
            ("f".to_owned(), Value::Double(1.5)),
            ("on".to_owned(), Value::Bool(true)),
            ("list".to_owned(), Value::Array(vec![Value::Int64(1), Value::text("a"), Value::Void])),
            ("deep".to_owned(), Value::Table(Headers::from([("k".to_owned(), Value::Int64(-1))]))),
        ]);
        assert_eq!(found.arguments, expected);
    }

    #[test]
    fn a_queue_without_a_declared_type_has_the_one_that_the_broker_tells() {
        let body =
            json!({"durable": true, "auto_delete": false, "exclusive": false, "type": "classic", "arguments": []});
        let found = queue(&bytes(&body)).unwrap();
        assert_eq!(found.queue.arguments, Headers::from([(QUEUE_TYPE.to_owned(), Value::text("classic"))]));
        assert_eq!(found.policy, None);
    }

    #[test]
    fn both_policies_are_named() {
        let body = json!({"durable": true, "auto_delete": false, "arguments": {}, "policy": "ours",
            "operator_policy": "theirs", "effective_policy_definition": {"message-ttl": 60_000}});
        let policy = queue(&bytes(&body)).unwrap().policy.unwrap();
        assert_eq!(policy.name, "ours and theirs");
        assert_eq!(policy.definition, Headers::from([("message-ttl".to_owned(), Value::Int64(60_000))]));
    }

    #[test]
    fn bindings_of_the_nameless_exchange_are_left_out() {
        let body = json!([
            {"source": "", "destination_type": "queue", "routing_key": "q", "arguments": {}},
            {"source": "x", "destination_type": "queue", "routing_key": "a.#", "arguments": {"x-match": "any"}},
        ]);
        let found = bindings(&bytes(&body)).unwrap();
        assert_eq!(found.len(), 1);
        assert_eq!((found[0].exchange.as_str(), found[0].routing_key.as_str()), ("x", "a.#"));
        assert_eq!(found[0].arguments.get("x-match"), Some(&Value::text("any")));
    }

    #[test]
    fn a_refusal_is_told_in_the_brokers_words() {
        let told = |json: &Json| reason(&bytes(json));
        assert_eq!(
            told(&json!({"error": "not_authorised", "reason": "Login failed"})).as_deref(),
            Some("Login failed")
        );
        assert_eq!(
            told(&json!({"error": "Object Not Found", "reason": {"x": 1}})).as_deref(),
            Some("Object Not Found")
        );
        assert_eq!(told(&json!({"message": "hello"})), None);
        assert_eq!(reason(b"<html>"), None);
    }

    proptest! {
        #[test]
        fn nonsense_is_an_error_and_never_more(text in "\\PC{0,80}") {
            prop_assert!(exchange(text.as_bytes()).is_err());
            prop_assert!(queue(text.as_bytes()).is_err());
        }
    }
}
