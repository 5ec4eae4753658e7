//! What somebody may have meant by a key that we do not know: a common word for it, or the nearest spelling.

use super::keys::{self, Key, Place, State};
use super::path::KeyPath;

/// Words that people try, the table where they try them (empty = anywhere, `*` = any name), and the key.
/// A key that begins with a dot is taken below that table.
const TRIED: &[(&str, &str, &str)] = &[
    ("queues.*", "type", ".queue_type"),
    ("queues.*", "ordering", ".ordering_mode"),
    ("queues.*", "name", ".queue"),
    ("queues.*", "routing_key", ".bindings"),
    ("queues.*", "routing_keys", ".bindings"),
    ("queues.*", "prefetch", ".prefetch_count"),
    ("queues.*", "ttl", ".message_ttl"),
    ("queues.*", "args", ".arguments"),
    ("queues.*", "retries", ".retry.max_attempts"),
    ("queues.*", "max_retries", ".retry.max_attempts"),
    ("queues.*", "dlx", ".dead_letter.exchange"),
    ("queues.*", "dlq", ".dead_letter.queue"),
    ("exchanges.*", "kind", ".type"),
    ("exchanges.*", "exchange_type", ".type"),
    ("retry", "kind", ".backoff"),
    ("queues.*.retry", "kind", ".backoff"),
    ("bus.amqp", "prefetch", ".prefetch_count"),
    ("bus.amqp", "user", ".username"),
    ("bus.amqp", "pass", ".password"),
    ("bus.amqp", "virtual_host", ".vhost"),
    ("grpc", "address", ".listen"),
    ("grpc", "port", ".listen"),
    ("admin", "address", ".listen"),
    ("admin", "port", ".listen"),
    ("health", "port", ".listen"),
    ("", "retries", "retry.max_attempts"),
    ("", "max_retries", "retry.max_attempts"),
    ("", "attempts", "retry.max_attempts"),
    ("", "dlx", "dead_letter.exchange"),
    ("", "dlq", "dead_letter.queue"),
    ("", "uri", "bus.amqp.url"),
];

/// A spelling this near (0 to 1) is offered; below it the guess confuses more than it helps.
const NEAR_ENOUGH: f64 = 0.6;

/// The key or table that an unknown path may have meant.
pub(super) fn suggest(unknown: &KeyPath) -> Option<KeyPath> {
    let (parent, word) = unknown.split_last()?;
    tried(&parent, word).or_else(|| nearest_sibling(&parent, word)).or_else(|| same_word_elsewhere(word))
}

fn tried(parent: &KeyPath, word: &str) -> Option<KeyPath> {
    let (_, _, target) = TRIED
        .iter()
        .find(|(place, tried, _)| *tried == word && (place.is_empty() || matches_pattern(place, parent)))?;
    Some(target.strip_prefix('.').map_or_else(|| KeyPath::of(target), |below| parent.join(below)))
}

fn matches_pattern(pattern: &str, path: &KeyPath) -> bool {
    let mut words = path.words().iter();
    pattern.split('.').all(|p| words.next().is_some_and(|word| p == "*" || p == word)) && words.next().is_none()
}

/// The nearest word of the same table; one that this release supports before one that it does not.
fn nearest_sibling(parent: &KeyPath, word: &str) -> Option<KeyPath> {
    if keys::place(parent) != Place::Table {
        return None;
    }
    let siblings = |is_offered: fn(&Key) -> bool| {
        let below = |key: &&Key| {
            let mut pattern = key.path.split('.');
            parent.words().iter().all(|word| pattern.next().is_some_and(|p| p == "*" || p == word))
        };
        let depth = parent.words().len();
        let words = keys::all().filter(below).filter(move |key| is_offered(key));
        let nearness = |sibling: &&str| strsim::normalized_damerau_levenshtein(sibling, word);
        let best = words
            .filter_map(|key| key.path.split('.').nth(depth))
            // Of two that are as near, the first of the table.
            .reduce(|best, next| if nearness(&next) > nearness(&best) { next } else { best })?;
        (nearness(&best) >= NEAR_ENOUGH).then_some(best)
    };
    let best = siblings(|key| key.state == State::Supported).or_else(|| siblings(|_| true))?;
    Some(parent.child(best))
}

fn same_word_elsewhere(word: &str) -> Option<KeyPath> {
    keys::all().filter(|key| !key.path.contains('*')).find_map(|key| {
        let words: Vec<&str> = key.path.split('.').collect();
        let position = words.iter().position(|w| *w == word)?;
        Some(words[..=position].iter().map(|w| (*w).to_owned()).collect())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_key_is_given_the_key_that_was_meant() {
        for (unknown, meant) in [
            ("bus.amqp.urll", "bus.amqp.url"),
            ("bus.amqp.uri", "bus.amqp.url"),
            ("bus.prefetch_count", "bus.amqp.prefetch_count"),
            ("amqp", "bus.amqp"),
            ("queus", "queues"),
            ("queues.a.type", "queues.a.queue_type"),
            ("queues.a.ordering", "queues.a.ordering_mode"),
            ("queues.a.dlx", "queues.a.dead_letter.exchange"),
            ("queues.a.retry.kind", "queues.a.retry.backoff"),
            ("retry.kind", "retry.backoff"),
            ("retries", "retry.max_attempts"),
            ("dlq", "dead_letter.queue"),
        ] {
            let found = suggest(&KeyPath::of(unknown)).map(|path| path.to_string());
            assert_eq!(found.as_deref(), Some(meant), "{unknown}");
        }
        assert_eq!(suggest(&KeyPath::of("bus.amqp.zzzzzz")), None);
    }

    #[test]
    fn every_tried_word_leads_to_a_key_and_is_none_itself() {
        for (place, word, target) in TRIED {
            let parent = KeyPath::of(&place.replace('*', "a"));
            let meant = suggest(&parent.child(word)).unwrap();
            assert!(keys::find(&meant).is_some(), "{place} {word} {target}");
            assert!(keys::find(&parent.child(word)).is_none(), "{place} {word} is a key");
        }
    }
}
