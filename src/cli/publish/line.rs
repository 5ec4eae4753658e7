//! One line of `--jsonl` as a message. Knows no console.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::Value as Json;

use crate::grpc::client::Outgoing;

/// What a line may say. Another field is refused: a misspelt `body` would publish nothing in silence.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Line {
    routing_key: Option<String>,
    exchange: Option<String>,
    content_type: Option<String>,
    message_id: Option<String>,
    #[serde(default)]
    headers: BTreeMap<String, Json>,
    body: Option<Json>,
    body_base64: Option<String>,
    /// What `sidebus sub -o json` prints of a delivery besides its message is passed over, so that it can be published again.
    #[serde(rename = "queue")]
    _queue: Option<IgnoredAny>,
    #[serde(rename = "attempt")]
    _attempt: Option<IgnoredAny>,
    #[serde(rename = "redelivered")]
    _redelivered: Option<IgnoredAny>,
}

/// Reads a line; `None` for an empty one. What the line leaves out comes from the template.
///
/// # Errors
/// What is wrong with it.
pub(super) fn parse(text: &str, template: &Outgoing) -> Result<Option<Outgoing>, String> {
    if text.trim().is_empty() {
        return Ok(None);
    }
    let line: Line = serde_json::from_str(text).map_err(|error| fault(&error))?;
    let body = match (line.body, line.body_base64) {
        (Some(_), Some(_)) => return Err("body and body_base64 exclude each other".to_owned()),
        (Some(Json::String(text)), None) => Bytes::from(text),
        (Some(other), None) => Bytes::from(other.to_string()),
        (None, Some(encoded)) => {
            Bytes::from(STANDARD.decode(encoded).map_err(|error| format!("body_base64: {error}"))?)
        }
        (None, None) => Bytes::new(),
    };
    let mut headers = template.headers.clone();
    headers.extend(line.headers);
    Ok(Some(Outgoing {
        exchange: line.exchange.unwrap_or_else(|| template.exchange.clone()),
        routing_key: line.routing_key.unwrap_or_else(|| template.routing_key.clone()),
        content_type: line.content_type.unwrap_or_else(|| template.content_type.clone()),
        message_id: line.message_id.unwrap_or_default(),
        headers,
        body,
    }))
}

/// The parser's words. It counts the lines of its own text, which is always one: only the place in it says something.
fn fault(error: &serde_json::Error) -> String {
    let place = format!(" at line {} column {}", error.line(), error.column());
    let words = error.to_string();
    let words = words.strip_suffix(&place).unwrap_or(&words);
    format!("not a message: {words} (at byte {})", error.column())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn template() -> Outgoing {
        let headers = BTreeMap::from([("a".to_owned(), Json::from("flag")), ("b".to_owned(), Json::from("flag"))]);
        Outgoing { routing_key: "default".to_owned(), headers, ..Outgoing::default() }
    }

    #[test]
    fn a_line_wins_over_the_flags() {
        let line = r#"{"routing_key":"k","body":"text","headers":{"b":2},"attempt":1,"queue":"q","redelivered":true}"#;
        let message = parse(line, &template()).expect("legal").expect("a message");
        assert_eq!((message.routing_key.as_str(), &message.body[..]), ("k", &b"text"[..]));
        assert_eq!((&message.headers["a"], &message.headers["b"]), (&Json::from("flag"), &Json::from(2)));
        let message = parse("{}", &template()).expect("legal").expect("a message");
        assert_eq!((message.routing_key.as_str(), message.body.len()), ("default", 0));
    }

    #[test]
    fn a_field_that_is_none_is_named() {
        let told = parse(r#"{"routing_key":"k","foo":2}"#, &template()).expect_err("no such field");
        assert!(told.starts_with("not a message: unknown field `foo`, expected one of `routing_key`, "), "{told}");
        assert!(told.ends_with("(at byte 24)"), "{told}");
        let told = parse("nonsense", &template()).expect_err("no JSON");
        assert!(told.contains("expected ident (at byte") && !told.contains("line 1"), "{told}");
    }

    #[test]
    fn a_body_is_text_any_json_or_base64() {
        for (line, body) in [
            (r#"{"body":{"n":1}}"#, &b"{\"n\":1}"[..]),
            (r#"{"body_base64":"/w=="}"#, &b"\xff"[..]),
            (r#"{"body":null}"#, &b""[..]),
        ] {
            assert_eq!(parse(line, &template()).expect("legal").expect("a message").body, body, "{line}");
        }
        for line in ["[]", "x", r#"{"body_base64":"?"}"#, r#"{"body":"a","body_base64":"YQ=="}"#] {
            assert!(parse(line, &template()).is_err(), "{line}");
        }
        assert_eq!(parse("  ", &template()), Ok(None));
    }
}
