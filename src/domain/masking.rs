//! Texts for people without the logins that addresses carry. Knows no setting and no parser of addresses.

use std::borrow::Cow;

/// What stands for a secret.
pub const MASK: &str = "***";

/// A text whose login in an address, as in `amqp://user:password@host`, is [`MASK`].
///
/// Of several addresses all that lies between the scheme of the first and the host of the last is masked: an unencoded
/// password may hold any sign, and too little that is shown harms nobody. An `@` without an address before it is no login.
pub fn masked(text: &str) -> Cow<'_, str> {
    let Some((scheme, rest)) = text.split_once("://") else { return Cow::Borrowed(text) };
    let Some((_login, host)) = rest.rsplit_once('@') else { return Cow::Borrowed(text) };
    Cow::Owned(format!("{scheme}://{MASK}@{host}"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_login_is_masked_and_nothing_else() {
        for (text, shown) in [
            ("amqp://u:s3cr3t@h:5672/v", "amqp://***@h:5672/v"),
            ("no file amqp://u@h", "no file amqp://***@h"),
            ("amqp://u:p@ss/w?rd@h", "amqp://***@h"),
            ("amqp://u:p@h,amqp://u:p@i", "amqp://***@i"),
            ("amqp://rabbit:5672", "amqp://rabbit:5672"),
            ("orders.#.a@b", "orders.#.a@b"),
            ("me@host and http://host", "me@host and http://host"),
            ("", ""),
        ] {
            assert_eq!(masked(text), shown, "{text}");
        }
    }

    proptest! {
        #[test]
        fn no_password_survives_and_masking_twice_changes_nothing(password in "[ -~]*canary[ -~]*") {
            let shown = masked(&format!("amqp://u:{password}@h")).into_owned();
            prop_assert_eq!(&shown, "amqp://***@h");
            prop_assert_eq!(masked(&shown), shown.as_str());
        }
    }
}
