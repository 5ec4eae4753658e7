//! Who we are at the broker: user and password from wherever they are, the client certificate, or a token. Knows no client
//! library.

use secrecy::SecretString;

use super::address::{Reader, Target};
use super::problem::{Fault, Problems, Warning};
use super::settings::{Login, TlsSettings};

/// Keys of a login by password.
const PASSWORD_KEYS: [&str; 4] = ["username", "username_file", "password", "password_file"];

/// `bus.amqp.sasl` and the keys that go with it.
pub(super) fn read(
    reader: &Reader<'_>,
    target: &Target,
    tls: Option<&TlsSettings>,
    (problems, warnings): (&mut Problems, &mut Vec<Warning>),
) -> Login {
    let amqp = reader.amqp;
    let sasl: &'static str = amqp.value("sasl");
    let token_is_given = amqp.given("oauth2.token_file").is_some();
    if token_is_given && sasl != "oauth2" {
        let fault = Fault::new(format!("is not used: bus.amqp.sasl is {sasl}")).hint("set bus.amqp.sasl = \"oauth2\"");
        problems.push(amqp.problem("oauth2.token_file", fault));
    }
    match sasl {
        "external" => {
            if tls.and_then(|tls| tls.identity.as_ref()).is_none() {
                let fault = Fault::new("is a login by client certificate, and there is none");
                let hint = "set bus.amqp.tls.cert_file and key_file, with amqps:// or bus.amqp.tls.require";
                problems.push(amqp.problem("sasl", fault.hint(hint)));
            }
            refuse_password(reader, target, sasl, problems);
            Login::Certificate
        }
        "oauth2" => {
            if !token_is_given {
                problems.push(amqp.problem("sasl", Fault::new("needs a token").hint("set bus.amqp.oauth2.token_file")));
            }
            refuse_password(reader, target, sasl, problems);
            let token = amqp.secret("oauth2.token", reader.working_dir, problems);
            Login::Token(token.unwrap_or_else(|| SecretString::from("")))
        }
        _ => password(reader, target, problems, warnings),
    }
}

/// What is given and would not be used: whoever wrote it believes in it.
fn refuse_password(reader: &Reader<'_>, target: &Target, sasl: &str, problems: &mut Problems) {
    let amqp = reader.amqp;
    for key in PASSWORD_KEYS.into_iter().filter(|key| amqp.given(key).is_some()) {
        problems
            .push(amqp.problem(key, Fault::new(format!("is not used: bus.amqp.sasl is {sasl}")).hint("leave it out")));
    }
    if target.url.as_ref().is_some_and(|url| url.username.is_some() || url.password.is_some()) {
        let fault = Fault::new(format!("holds a login, which is not used: bus.amqp.sasl is {sasl}"));
        problems.push(amqp.problem(target.key, fault.hint("write amqps://host:5671/vhost")));
    }
}

fn password(reader: &Reader<'_>, target: &Target, problems: &mut Problems, warnings: &mut Vec<Warning>) -> Login {
    let amqp = reader.amqp;
    let mut part = |key: &str, in_url: Option<&SecretString>| match in_url {
        Some(secret) if reader.address_wins(key, target, problems) => Some(secret.clone()),
        _ => amqp.secret(key, reader.working_dir, problems),
    };
    let username = part("username", target.url.as_ref().and_then(|url| url.username.as_ref()));
    let password = part("password", target.url.as_ref().and_then(|url| url.password.as_ref()));
    if username.is_some() && password.is_none() {
        let what = "a user without a password: \"guest\" is tried as its password";
        warnings.push(Warning::new(amqp.path("password"), "", what));
    }
    let guest = || SecretString::from("guest");
    Login::Password { username: username.unwrap_or_else(guest), password: password.unwrap_or_else(guest) }
}
