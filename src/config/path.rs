//! The path of a key, such as `queues.player-projector.bindings`. Knows no key and no source.

use std::fmt;

/// The words of a key from the outside in. Names may hold dots, so it is a list and not a text.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub(crate) struct KeyPath(Vec<String>);

impl KeyPath {
    /// From a path without names, such as `bus.amqp`: split at its dots.
    pub(super) fn of(dotted: &str) -> Self {
        Self(dotted.split('.').filter(|word| !word.is_empty()).map(str::to_owned).collect())
    }

    /// One word deeper; the word is taken as it is.
    pub(super) fn child(&self, word: &str) -> Self {
        let mut words = self.0.clone();
        words.push(word.to_owned());
        Self(words)
    }

    /// Several words deeper, split at the dots.
    pub(super) fn join(&self, dotted: &str) -> Self {
        let mut words = self.0.clone();
        words.extend(Self::of(dotted).0);
        Self(words)
    }

    /// The words.
    pub(super) fn words(&self) -> &[String] {
        &self.0
    }

    /// Everything but the last word, and the last word.
    pub(super) fn split_last(&self) -> Option<(Self, &str)> {
        let (last, parents) = self.0.split_last()?;
        Some((Self(parents.to_vec()), last))
    }
}

impl FromIterator<String> for KeyPath {
    fn from_iter<I: IntoIterator<Item = String>>(words: I) -> Self {
        Self(words.into_iter().collect())
    }
}

impl From<KeyPath> for String {
    fn from(path: KeyPath) -> Self {
        path.to_string()
    }
}

impl From<&KeyPath> for String {
    fn from(path: &KeyPath) -> Self {
        path.to_string()
    }
}

impl fmt::Display for KeyPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (position, word) in self.0.iter().enumerate() {
            if position > 0 {
                f.write_str(".")?;
            }
            let is_bare = !word.is_empty() && word.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_'));
            if is_bare {
                f.write_str(word)?;
            } else {
                write!(f, "{word:?}")?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_with_dots_are_quoted() {
        let path = KeyPath::of("exchanges").child("billing.commands").child("type");
        assert_eq!(path.to_string(), "exchanges.\"billing.commands\".type");
        assert_eq!(KeyPath::of("bus.amqp").join("pool.max_size").to_string(), "bus.amqp.pool.max_size");
    }
}
