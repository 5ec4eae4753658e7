//! Names of queues, exchanges and subscriptions, checked once and then carried as types. Knows no broker.

use std::fmt;
use std::sync::Arc;

use thiserror::Error;

/// Longest name on the wire in bytes (AMQP 0-9-1 short string).
pub const NAME_BYTES_MAX: usize = 255;
/// Longest name of a subscription in bytes.
pub const SUBSCRIPTION_BYTES_MAX: usize = 128;

/// Why a text is not a name.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum NameError {
    /// Nothing was given.
    #[error("must not be empty")]
    Empty,
    /// AMQP's short strings end at 255 bytes.
    #[error("has {found} bytes, at most {max} are allowed")]
    TooLong {
        /// Bytes of the text.
        found: usize,
        /// Most bytes allowed.
        max: usize,
    },
    /// A control character, by its code point.
    #[error("contains the control character U+{0:04X}")]
    Control(u32),
    /// The broker keeps this prefix for itself: declaring such a name is refused with 403.
    #[error("begins with \"amq.\", which the broker keeps for itself")]
    Reserved,
    /// A subscription's name takes ASCII letters, digits, `-`, `_` and `.` only.
    #[error("contains {0:?}; letters from a to z, digits, '-', '_' and '.' are allowed")]
    Character(char),
}

fn check(text: &str) -> Result<(), NameError> {
    if text.is_empty() {
        return Err(NameError::Empty);
    }
    if text.len() > NAME_BYTES_MAX {
        return Err(NameError::TooLong { found: text.len(), max: NAME_BYTES_MAX });
    }
    if let Some(control) = text.chars().find(|c| c.is_control()) {
        return Err(NameError::Control(u32::from(control)));
    }
    if text.starts_with("amq.") {
        return Err(NameError::Reserved);
    }
    Ok(())
}

/// A queue of the broker: 1 to 255 bytes without control characters, not `amq.…`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct QueueName(Arc<str>);

impl QueueName {
    /// Checks a name.
    ///
    /// # Errors
    /// The first rule that the text breaks.
    pub fn parse(text: &str) -> Result<Self, NameError> {
        check(text)?;
        Ok(Self(text.into()))
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for QueueName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// An exchange of the broker. The empty name is AMQP's nameless default exchange, which reaches every queue by its name.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ExchangeName(Arc<str>);

impl ExchangeName {
    /// Checks a name that we may declare.
    ///
    /// # Errors
    /// The first rule that the text breaks.
    pub fn parse(text: &str) -> Result<Self, NameError> {
        check(text)?;
        Ok(Self(text.into()))
    }

    /// Checks a name that is only bound to: the broker's own exchanges (`amq.topic`) included, the nameless one not.
    ///
    /// # Errors
    /// The first rule that the text breaks.
    pub fn parse_bound(text: &str) -> Result<Self, NameError> {
        match check(text) {
            Ok(()) | Err(NameError::Reserved) => Ok(Self(text.into())),
            Err(error) => Err(error),
        }
    }

    /// A name as the broker told it: any text, `amq.topic` and the empty name included.
    pub fn from_broker(text: &str) -> Self {
        Self(text.into())
    }

    /// AMQP's nameless exchange.
    pub fn nameless() -> Self {
        Self("".into())
    }

    /// True for AMQP's nameless exchange.
    pub fn is_nameless(&self) -> bool {
        self.0.is_empty()
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ExchangeName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A named consumer group: 1 to 128 of ASCII letters, digits, `-`, `_` and `.`, which variables can spell, too.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SubscriptionName(Arc<str>);

impl SubscriptionName {
    /// Checks a name.
    ///
    /// # Errors
    /// The first rule that the text breaks.
    pub fn parse(text: &str) -> Result<Self, NameError> {
        if text.is_empty() {
            return Err(NameError::Empty);
        }
        if text.len() > SUBSCRIPTION_BYTES_MAX {
            return Err(NameError::TooLong { found: text.len(), max: SUBSCRIPTION_BYTES_MAX });
        }
        let allowed = |c: &char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
        if let Some(bad) = text.chars().find(|c| !allowed(c)) {
            return Err(NameError::Character(bad));
        }
        Ok(Self(text.into()))
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for SubscriptionName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queue_names_follow_the_rules_of_the_broker() {
        for (text, expected) in [
            ("player-projector", Ok(())),
            ("", Err(NameError::Empty)),
            ("amq.gen-x", Err(NameError::Reserved)),
            ("a\tb", Err(NameError::Control(9))),
        ] {
            assert_eq!(QueueName::parse(text).map(|_| ()), expected, "{text:?}");
        }
        assert!(QueueName::parse(&"x".repeat(255)).is_ok());
        assert!(matches!(QueueName::parse(&"x".repeat(256)), Err(NameError::TooLong { found: 256, max: 255 })));
    }

    #[test]
    fn subscription_names_take_few_characters() {
        assert!(SubscriptionName::parse("prod.player_projector-1").is_ok());
        assert_eq!(SubscriptionName::parse("a b"), Err(NameError::Character(' ')));
        assert_eq!(SubscriptionName::parse("grüße"), Err(NameError::Character('ü')));
        assert!(SubscriptionName::parse(&"x".repeat(129)).is_err());
    }
}
