//! A token as the login of one connection: sent at its start, and again when its file holds a new one. Knows no file.

use std::fmt;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use lapin::auth::AuthProvider;
use lapin::types::{LongString, ShortString};
use lapin::uri::SASLMechanism;
use secrecy::{ExposeSecret as _, SecretString};

use super::options::{Changes, Login};

/// How often the file is looked at: tokens live for minutes, and whoever renews them does it well before their end.
const LOOK_EVERY: Duration = Duration::from_secs(15);

/// lapin asks it for the token, and then again and again whether there is a new one.
pub(super) struct TokenLogin {
    sent: Mutex<SecretString>,
    changes: Changes,
}

impl fmt::Debug for TokenLogin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TokenLogin").finish_non_exhaustive()
    }
}

impl TokenLogin {
    pub(super) fn new(token: SecretString, changes: Changes) -> Self {
        Self { sent: Mutex::new(token), changes }
    }

    /// The token of the file, if it is another than the broker has.
    fn renewed(&self) -> Result<SecretString, String> {
        let Changes::Reread(now) = &self.changes else { return Err("the token does not change".to_owned()) };
        let Login::Token(token) = now().map_err(|error| error.to_string())?.login else {
            return Err("the login is no token any more".to_owned());
        };
        let mut sent = self.sent.lock().unwrap_or_else(PoisonError::into_inner);
        if sent.expose_secret() == token.expose_secret() {
            return Err("the token is the same".to_owned());
        }
        *sent = token.clone();
        Ok(token)
    }
}

impl AuthProvider for TokenLogin {
    fn mechanism(&self) -> ShortString {
        SASLMechanism::Plain.name().into()
    }

    fn auth_starter(&self) -> Result<LongString, String> {
        let token = self.sent.lock().unwrap_or_else(PoisonError::into_inner);
        // RabbitMQ takes the user from the token and passes over the name.
        Ok(LongString::from(format!("\0\0{}", token.expose_secret())))
    }

    fn valid_for(&self) -> Option<Duration> {
        Some(LOOK_EVERY)
    }

    /// An error means that nothing is sent: so also for a token that the broker has already. lapin logs it, where its
    /// log is asked for.
    fn refresh(&self) -> Result<LongString, String> {
        Ok(LongString::from(self.renewed()?.expose_secret()))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::broker::amqp::options::tests::sample;
    use crate::broker::amqp::{AmqpOptions, Node};

    #[test]
    fn a_token_is_sent_at_the_start_and_again_only_when_it_is_a_new_one() {
        let file = Arc::new(Mutex::new("first"));
        let read = Arc::clone(&file);
        let now = move || {
            let login = Login::Token(SecretString::from(*read.lock().unwrap()));
            Ok(AmqpOptions { login, nodes: vec![Node { host: "h".into(), port: 1 }], ..sample(1) })
        };
        let login = TokenLogin::new(SecretString::from("first"), Changes::Reread(Arc::new(now)));
        assert_eq!(login.auth_starter().unwrap().as_bytes(), b"\0\0first");
        assert!(login.refresh().is_err());
        *file.lock().unwrap() = "second";
        assert_eq!(login.refresh().unwrap().as_bytes(), b"second");
        assert!(login.refresh().is_err());
        assert!(!format!("{login:?}").contains("second"));
    }
}
