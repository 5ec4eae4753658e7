//! From a typed value to the Rust type that a setting has; `None` = the table says another kind, which is a bug.

use std::time::Duration;

use secrecy::SecretString;

use super::arguments::BindingEntry;
use super::settings::ListenAddress;
use super::typed::Typed;
use crate::domain::message::Headers;
use crate::domain::name::{ExchangeName, QueueName};

/// Types that a key's value can be taken as.
pub(super) trait FromTyped: Sized {
    /// The value as this type.
    fn from_typed(value: &Typed) -> Option<Self>;
}

impl FromTyped for usize {
    fn from_typed(value: &Typed) -> Option<Self> {
        if let Typed::Size(bytes) = value {
            return Self::try_from(*bytes).ok();
        }
        let Typed::Integer(number) = value else { return None };
        Self::try_from(*number).ok()
    }
}

impl FromTyped for bool {
    fn from_typed(value: &Typed) -> Option<Self> {
        let Typed::Bool(value) = value else { return None };
        Some(*value)
    }
}

impl FromTyped for u8 {
    fn from_typed(value: &Typed) -> Option<Self> {
        let Typed::Integer(number) = value else { return None };
        Self::try_from(*number).ok()
    }
}

impl FromTyped for u16 {
    fn from_typed(value: &Typed) -> Option<Self> {
        let Typed::Integer(number) = value else { return None };
        Self::try_from(*number).ok()
    }
}

impl FromTyped for u32 {
    fn from_typed(value: &Typed) -> Option<Self> {
        let Typed::Integer(number) = value else { return None };
        Self::try_from(*number).ok()
    }
}

impl FromTyped for Duration {
    fn from_typed(value: &Typed) -> Option<Self> {
        let Typed::Duration(duration) = value else { return None };
        Some(*duration)
    }
}

impl FromTyped for u64 {
    fn from_typed(value: &Typed) -> Option<Self> {
        if let Typed::Integer(number) = value {
            return Self::try_from(*number).ok();
        }
        let Typed::Size(bytes) = value else { return None };
        Some(*bytes)
    }
}

impl FromTyped for Option<ListenAddress> {
    fn from_typed(value: &Typed) -> Option<Self> {
        let Typed::Address(address) = value else { return None };
        Some(address.clone())
    }
}

impl FromTyped for SecretString {
    fn from_typed(value: &Typed) -> Option<Self> {
        let Typed::Secret(secret) = value else { return None };
        Some(secret.clone())
    }
}

impl FromTyped for &'static str {
    fn from_typed(value: &Typed) -> Option<Self> {
        let Typed::Word(word) = value else { return None };
        Some(word)
    }
}

impl FromTyped for Vec<BindingEntry> {
    fn from_typed(value: &Typed) -> Option<Self> {
        let Typed::Bindings(bindings) = value else { return None };
        Some(bindings.clone())
    }
}

impl FromTyped for Headers {
    fn from_typed(value: &Typed) -> Option<Self> {
        let Typed::Arguments(arguments) = value else { return None };
        Some(arguments.clone())
    }
}

impl FromTyped for String {
    fn from_typed(value: &Typed) -> Option<Self> {
        let Typed::Text(text) = value else { return None };
        Some(text.clone())
    }
}

impl FromTyped for QueueName {
    fn from_typed(value: &Typed) -> Option<Self> {
        let Typed::Text(text) = value else { return None };
        Self::parse(text).ok()
    }
}

impl FromTyped for ExchangeName {
    fn from_typed(value: &Typed) -> Option<Self> {
        let Typed::Text(text) = value else { return None };
        // Which keys may name the broker's own was told when the value was read.
        Self::parse_bound(text).ok()
    }
}

impl FromTyped for f64 {
    fn from_typed(value: &Typed) -> Option<Self> {
        let Typed::Fraction(number) = value else { return None };
        Some(*number)
    }
}

impl FromTyped for Vec<String> {
    fn from_typed(value: &Typed) -> Option<Self> {
        let Typed::List(texts) = value else { return None };
        Some(texts.clone())
    }
}

impl FromTyped for Vec<SecretString> {
    fn from_typed(value: &Typed) -> Option<Self> {
        let Typed::Secrets(secrets) = value else { return None };
        Some(secrets.clone())
    }
}
