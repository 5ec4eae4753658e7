//! Signs JSON web tokens as an identity provider does, for brokers of tests.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use rcgen::{KeyPair, SigningKey as _};

/// Bytes of each half of a signature with the curve P-256.
const HALF_BYTES: usize = 32;

/// Whoever trusts its key takes its tokens.
#[derive(Debug)]
pub(crate) struct TokenIssuer(KeyPair);

/// Seconds since 1970.
pub(crate) fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).expect("a clock after 1970").as_secs()
}

impl TokenIssuer {
    pub(crate) fn new() -> Self {
        Self(KeyPair::generate().expect("a key"))
    }

    /// Lines of the broker's settings file that make it take these tokens; `file` holds [`TokenIssuer::key`].
    pub(crate) fn settings(file: &std::path::Path) -> String {
        format!(
            "auth_backends.1 = internal\nauth_backends.2 = rabbit_auth_backend_oauth2\n\
             auth_oauth2.resource_server_id = rabbitmq\nauth_oauth2.default_key = tests\n\
             auth_oauth2.signing_keys.tests = {}\nauth_oauth2.algorithms.1 = ES256\n",
            file.display()
        )
    }

    /// In PEM.
    pub(crate) fn key(&self) -> String {
        self.0.public_key_pem()
    }

    /// A token with all rights, good for so long. Two of them are never the same.
    pub(crate) fn token(&self, good_for: Duration) -> String {
        let exp = now() + good_for.as_secs();
        let claims = format!(
            r#"{{"sub":"app","aud":["rabbitmq"],"exp":{exp},"jti":"{}","scope":["rabbitmq.configure:*/*","rabbitmq.read:*/*","rabbitmq.write:*/*"]}}"#,
            super::rabbitmq::prefix()
        );
        let head = r#"{"alg":"ES256","typ":"JWT","kid":"tests"}"#;
        let signed = format!("{}.{}", URL_SAFE_NO_PAD.encode(head), URL_SAFE_NO_PAD.encode(claims));
        let signature = raw(&self.0.sign(signed.as_bytes()).expect("a signature"));
        format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature))
    }
}

/// The two numbers of a signature side by side, from their list in DER.
fn raw(der: &[u8]) -> Vec<u8> {
    let (mut raw, mut rest) = (Vec::new(), &der[2..]);
    for _ in 0..2 {
        let length = usize::from(rest[1]);
        let number = &rest[2..2 + length];
        let number = &number[number.len().saturating_sub(HALF_BYTES)..];
        raw.extend(std::iter::repeat_n(0, HALF_BYTES - number.len()));
        raw.extend(number);
        rest = &rest[2 + length..];
    }
    raw
}
