//! Which queues an exchange sends a message to. Pure; knows no queue but its number.

use super::QueueId;
use crate::domain::difference::FoundExchange;
use crate::domain::message::{Headers, Value};
use crate::domain::topology::ExchangeKind;

/// An exchange and its bindings.
#[derive(Debug)]
pub(crate) struct Router {
    pub(crate) kind: ExchangeKind,
    pub(crate) internal: bool,
    pub(crate) auto_delete: bool,
    /// Told to whoever compares; everything lasts as long as the broker object.
    pub(crate) durable: bool,
    /// Told to whoever compares; none of them is honoured.
    pub(crate) arguments: Headers,
    bindings: Vec<Route>,
}

#[derive(Debug)]
struct Route {
    queue: QueueId,
    routing_key: String,
    pattern: Pattern,
    arguments: Headers,
}

impl Router {
    pub(crate) fn new(kind: ExchangeKind, internal: bool, auto_delete: bool) -> Self {
        Self { kind, internal, auto_delete, durable: true, arguments: Headers::new(), bindings: Vec::new() }
    }

    /// As whoever compares sees it.
    pub(crate) fn found(&self) -> FoundExchange {
        FoundExchange {
            kind: self.kind.as_str().to_owned(),
            durable: self.durable,
            auto_delete: self.auto_delete,
            internal: self.internal,
            arguments: self.arguments.clone(),
        }
    }

    /// True if this binding is there.
    pub(crate) fn has(&self, queue: QueueId, routing_key: &str, arguments: &Headers) -> bool {
        let same =
            |route: &Route| route.queue == queue && route.routing_key == routing_key && route.arguments == *arguments;
        self.bindings.iter().any(same)
    }

    /// Adds a binding; the same one again changes nothing.
    pub(crate) fn bind(&mut self, queue: QueueId, routing_key: &str, arguments: &Headers) {
        if !self.has(queue, routing_key, arguments) {
            let pattern = Pattern::parse(routing_key);
            let arguments = arguments.clone();
            self.bindings.push(Route { queue, routing_key: routing_key.to_owned(), pattern, arguments });
        }
    }

    /// Takes one binding away; true if that was the last one.
    pub(crate) fn unbind(&mut self, queue: QueueId, routing_key: &str, arguments: &Headers) -> bool {
        let before = self.bindings.len();
        self.bindings
            .retain(|route| route.queue != queue || route.routing_key != routing_key || route.arguments != *arguments);
        self.bindings.is_empty() && before > 0
    }

    /// Forgets a queue; true if that took the last binding.
    pub(crate) fn forget(&mut self, queue: QueueId) -> bool {
        let before = self.bindings.len();
        self.bindings.retain(|route| route.queue != queue);
        self.bindings.is_empty() && before > 0
    }

    /// The queues for a message, each once, in the order of their creation.
    pub(crate) fn route(&self, routing_key: &str, headers: &Headers) -> Vec<QueueId> {
        let takes = |route: &&Route| match self.kind {
            ExchangeKind::Topic => route.pattern.matches(routing_key),
            ExchangeKind::Direct => route.routing_key == routing_key,
            ExchangeKind::Fanout => true,
            ExchangeKind::Headers => headers_match(&route.arguments, headers),
        };
        let mut queues: Vec<QueueId> = self.bindings.iter().filter(takes).map(|route| route.queue).collect();
        queues.sort_unstable();
        queues.dedup();
        queues
    }
}

/// A topic pattern over dotted words: `*` is one word, `#` any number of them, none included.
#[derive(Debug)]
pub(crate) struct Pattern(Vec<Word>);

#[derive(Debug, PartialEq, Eq)]
enum Word {
    Exactly(String),
    AnyOne,
    AnyMany,
}

impl Pattern {
    pub(crate) fn parse(pattern: &str) -> Self {
        let word = |text: &str| match text {
            "*" => Word::AnyOne,
            "#" => Word::AnyMany,
            other => Word::Exactly(other.to_owned()),
        };
        Self(words(pattern).into_iter().map(word).collect())
    }

    /// Walks both sides once. After a mismatch it goes back to the last `#` and lets it take one word more: every other
    /// word takes exactly one, so an earlier `#` never has to be tried again.
    pub(crate) fn matches(&self, routing_key: &str) -> bool {
        let key = words(routing_key);
        let (mut at_word, mut at_key) = (0, 0);
        let mut last_many: Option<(usize, usize)> = None;
        while at_key < key.len() {
            let fits = match self.0.get(at_word) {
                Some(Word::AnyMany) => {
                    last_many = Some((at_word, at_key));
                    at_word += 1;
                    continue;
                }
                Some(Word::AnyOne) => true,
                Some(Word::Exactly(text)) => text == key[at_key],
                None => false,
            };
            if fits {
                at_word += 1;
                at_key += 1;
            } else if let Some((many, from)) = last_many {
                last_many = Some((many, from + 1));
                at_word = many + 1;
                at_key = from + 1;
            } else {
                return false;
            }
        }
        self.0[at_word..].iter().all(|word| *word == Word::AnyMany)
    }
}

/// The empty key has no words; elsewhere an empty text between dots is one.
fn words(text: &str) -> Vec<&str> {
    if text.is_empty() { Vec::new() } else { text.split('.').collect() }
}

/// RabbitMQ's rule: `x-match` is `all` (also when absent) or `any`, over the arguments whose names do not begin with
/// `x-`; `all-with-x` and `any-with-x` look at those too. A void argument asks for presence only.
fn headers_match(arguments: &Headers, headers: &Headers) -> bool {
    let mode = arguments.get("x-match").and_then(Value::as_text).unwrap_or("all");
    let with_x = mode.ends_with("-with-x");
    let looked_at = |name: &String| name != "x-match" && (with_x || !name.starts_with("x-"));
    let mut found = arguments
        .iter()
        .filter(|(name, _)| looked_at(name))
        .map(|(name, wanted)| headers.get(name).is_some_and(|value| *wanted == Value::Void || wanted.is_like(value)));
    if mode.starts_with("any") { found.any(|fits| fits) } else { found.all(|fits| fits) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The definition, word by word, without any cleverness.
    fn naive(pattern: &[&str], key: &[&str]) -> bool {
        match (pattern, key) {
            ([], []) => true,
            (["#", rest @ ..], _) => (0..=key.len()).any(|taken| naive(rest, &key[taken..])),
            (["*", rest @ ..], [_, key @ ..]) => naive(rest, key),
            ([word, rest @ ..], [first, key @ ..]) => word == first && naive(rest, key),
            ([], [_, ..]) | ([_, ..], []) => false,
        }
    }

    proptest! {
        #[test]
        fn patterns_match_as_defined(
            pattern in prop::collection::vec(prop::sample::select(vec!["a", "b", "", "*", "#"]), 0..7),
            key in prop::collection::vec(prop::sample::select(vec!["a", "b", ""]), 0..8),
        ) {
            // A single empty word cannot be told from no word at all.
            prop_assume!(pattern != [""] && key != [""]);
            let got = Pattern::parse(&pattern.join(".")).matches(&key.join("."));
            prop_assert_eq!(got, naive(&pattern, &key));
        }
    }

    #[test]
    fn the_promised_patterns_match() {
        for (pattern, key, expected) in [
            ("player.#", "player.PlayerRegistered", true),
            ("player.#", "player", true),
            ("player.#", "hand.CardsDealt", false),
            ("*.#", "hand.CardsDealt", true),
            ("*.#", "hand", true),
            ("*.#", "", false),
            ("#", "", true),
            ("*", "a.b", false),
            ("", "", true),
            ("#.b.#", "a.b.c", true),
        ] {
            assert_eq!(Pattern::parse(pattern).matches(key), expected, "{pattern:?} {key:?}");
        }
    }

    fn check_headers(mode: Option<&str>, arguments: &[(&str, Value)], expected: bool) {
        let owned = |pairs: &[(&str, Value)]| -> Headers {
            pairs.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect()
        };
        let mut wanted = owned(arguments);
        wanted.extend(mode.map(|mode| ("x-match".to_owned(), Value::text(mode))));
        let headers = owned(&[("a", Value::Int32(1)), ("b", Value::text("two")), ("x-c", Value::Bool(true))]);
        assert_eq!(headers_match(&wanted, &headers), expected, "{mode:?} {arguments:?}");
    }

    #[test]
    fn headers_match_by_all_or_any() {
        let (a, b) = (("a", Value::Int64(1)), ("b", Value::text("two")));
        let wrong = ("b", Value::text("three"));
        check_headers(None, &[a.clone(), b.clone()], true);
        check_headers(Some("all"), &[a.clone(), wrong.clone()], false);
        check_headers(Some("any"), &[a.clone(), wrong.clone()], true);
        check_headers(Some("any"), &[wrong], false);
        check_headers(Some("any"), &[], false);
        check_headers(Some("all"), &[], true);
        check_headers(Some("all"), &[("b", Value::Void)], true);
        check_headers(Some("all"), &[("missing", Value::Void)], false);
    }

    #[test]
    fn headers_with_x_count_only_when_asked() {
        let x_wrong = ("x-c", Value::Bool(false));
        check_headers(Some("all"), std::slice::from_ref(&x_wrong), true);
        check_headers(Some("all-with-x"), std::slice::from_ref(&x_wrong), false);
        check_headers(Some("any"), &[("x-c", Value::Bool(true))], false);
        check_headers(Some("any-with-x"), &[x_wrong, ("x-c", Value::Bool(true))], true);
    }

    #[test]
    fn a_queue_with_several_fitting_bindings_is_named_once() {
        let mut router = Router::new(ExchangeKind::Topic, false, false);
        for (queue, key) in [(2, "a.#"), (2, "#"), (1, "a.b"), (1, "a.b")] {
            router.bind(QueueId(queue), key, &Headers::new());
        }
        assert_eq!(router.route("a.b", &Headers::new()), [QueueId(1), QueueId(2)]);
        assert!(!router.forget(QueueId(2)));
        assert!(router.forget(QueueId(1)));
    }
}
