//! `[bus.amqp.management]`: where the management API is and who we are there. Knows no HTTP client.

use std::path::{Path, PathBuf};

use secrecy::{ExposeSecret as _, SecretString};
use url::Url;

use super::address::is_local;
use super::amqp_url::{decode, refuse_late_at};
use super::problem::{Fault, Problems, Warning, shown_text, unreadable_why};
use super::settings::{Login, ManagementSettings, TlsSettings};
use super::values::{Section, Values};

const FORM: &str = "write http://host:15672 or https://host:15671";
const ENCODE: &str = "percent-encode special characters of user and password, or set them apart from the address";
const SECTION: &str = "bus.amqp.management";

/// The settings of the management API, which takes its login and its roots from AMQP where nothing else is given; `None` = it
/// is not to be asked.
pub(super) fn read(
    values: &Values,
    (working_dir, login, tls): (&Path, &Login, Option<&TlsSettings>),
    problems: &mut Problems,
    warnings: &mut Vec<Warning>,
) -> Option<ManagementSettings> {
    let section = values.section(SECTION);
    let Some(key) = ["url", "url_file"].into_iter().find(|key| section.given(key).is_some()) else {
        refuse_lonely_keys(&section, problems);
        return None;
    };
    let text = section.secret("url", working_dir, problems)?;
    let url = match parse(text.expose_secret()) {
        Ok(url) => url,
        Err(fault) => {
            problems.push(section.problem(key, fault));
            return None;
        }
    };
    let mut part = |name: &str, in_url: Option<SecretString>, otherwise: Option<&SecretString>| {
        let twin = format!("{name}_file");
        let given = [name, &twin].into_iter().find(|name| section.given(name).is_some());
        if let (Some(_), Some(given)) = (&in_url, given) {
            let fault = Fault::new(format!("is also in {SECTION}.{key}")).hint("keep one of the two");
            problems.push(section.problem(given, fault));
        }
        let found = in_url.or_else(|| section.secret(name, working_dir, problems)).or_else(|| otherwise.cloned());
        // What is given and could not be read was told.
        if found.is_none() && given.is_none() {
            let fault = Fault::new("is needed: AMQP logs in without a password");
            problems.push(section.problem(name, fault.hint("name a user with the tag management")));
        }
        found.unwrap_or_default()
    };
    let (username, password) = match login {
        Login::Password { username, password } => (Some(username), Some(password)),
        Login::Certificate | Login::Token(_) => (None, None),
    };
    let username = part("username", url.username, username);
    let password = part("password", url.password, password);
    let ca_file = section.optional("ca_file");
    let ca_file = ca_file.map(|file: String| ca_file_at(&section, &working_dir.join(file), problems));
    let ca_file = ca_file.or_else(|| tls.and_then(|tls| tls.ca_file.clone()));
    let settings = ManagementSettings { username, password, ca_file, ..url.settings };
    warn(&settings, (&section, key), warnings);
    Some(settings)
}

/// A login without an address would be taken in silence.
fn refuse_lonely_keys(section: &Section<'_>, problems: &mut Problems) {
    for key in ["username", "username_file", "password", "password_file", "ca_file"] {
        if section.given(key).is_some() {
            let fault = Fault::new(format!("goes with {SECTION}.url only")).hint(FORM);
            problems.push(section.problem(key, fault));
        }
    }
}

fn ca_file_at(section: &Section<'_>, file: &Path, problems: &mut Problems) -> PathBuf {
    if let Err(error) = std::fs::File::open(file) {
        let fault = Fault::new(format!("the file cannot be read: {}", unreadable_why(&error)));
        problems.push_unreadable(section.problem("ca_file", fault.hint("mount the certificate, or correct the path")));
    }
    file.to_owned()
}

fn warn(settings: &ManagementSettings, (section, key): (&Section<'_>, &str), warnings: &mut Vec<Warning>) {
    if settings.tls || is_local(&settings.host) {
        return;
    }
    let host = shown_text(&settings.host);
    let what = format!("plain HTTP to {host}: the password can be read on the way; write https://");
    warnings.push(Warning::new(section.path(key), section.origin(key), what));
}

/// The parts of an address; the login of `settings` is filled in later.
struct Parsed {
    settings: ManagementSettings,
    username: Option<SecretString>,
    password: Option<SecretString>,
}

/// Takes an address apart. Its faults never quote it: it may hold the password.
fn parse(text: &str) -> Result<Parsed, Fault> {
    if text.chars().any(|c| c.is_whitespace() || c.is_control()) {
        return Err(Fault::new("holds white space").hint(FORM));
    }
    let fault_of = |error| {
        // A "/" or "?" in the password ends the address early, and its rest looks like a port.
        let is_port = error == url::ParseError::InvalidPort;
        if is_port {
            Fault::new("has a port that is no number").hint(ENCODE)
        } else {
            Fault::new("not an address").hint(FORM)
        }
    };
    let url = Url::parse(text).map_err(fault_of)?;
    let tls = match url.scheme() {
        "http" => false,
        "https" => true,
        _ => return Err(Fault::new("must begin with http:// or https://").hint(FORM)),
    };
    refuse_late_at(&url)?;
    if url.query().is_some() || url.fragment().is_some() {
        return Err(Fault::new("holds a ? or a #").hint(FORM));
    }
    let host = url.host_str().filter(|host| !host.is_empty()).ok_or_else(|| Fault::new("has no host").hint(FORM))?;
    let host = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(host).to_owned();
    let port = url.port_or_known_default().filter(|port| *port != 0);
    let port = port.ok_or_else(|| Fault::new("has the port 0").hint(FORM))?;
    let base_path = url.path().trim_end_matches('/');
    // People paste the address of the API as well as that of its console.
    let base_path = base_path.strip_suffix("/api").unwrap_or(base_path).to_owned();
    let (username, password) = (SecretString::default(), SecretString::default());
    Ok(Parsed {
        settings: ManagementSettings { tls, host, port, base_path, username, password, ca_file: None },
        username: Some(url.username()).filter(|user| !user.is_empty()).map(decode).transpose()?.map(SecretString::from),
        password: url.password().map(decode).transpose()?.map(SecretString::from),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_taken_apart() {
        for (text, expected) in [
            ("http://localhost:15672", (false, "localhost", 15_672, "")),
            ("https://rabbit.prod.svc:15671/", (true, "rabbit.prod.svc", 15_671, "")),
            ("https://[::1]/rabbit/api", (true, "::1", 443, "/rabbit")),
            ("http://h/api/", (false, "h", 80, "")),
        ] {
            let found = parse(text).unwrap().settings;
            assert_eq!((found.tls, found.host.as_str(), found.port, found.base_path.as_str()), expected, "{text}");
        }
        let found = parse("http://us%40er:p%2fss@h").unwrap();
        assert_eq!(found.username.unwrap().expose_secret(), "us@er");
        assert_eq!(found.password.unwrap().expose_secret(), "p/ss");
    }

    #[test]
    fn faults_of_an_address_do_not_quote_it() {
        for (text, why) in [
            ("", "not an address"),
            ("rabbit:15672", "must begin with http:// or https://"),
            ("amqp://canary@h", "must begin with http:// or https://"),
            ("http://u:can/ary@h", "has a port that is no number"),
            ("http://u:can%zzary@h", "holds a % that begins no code"),
            ("http://u:canary@h?x=1", "holds a ? or a #"),
            ("http://canary:1234/canary@h", "holds an @ behind its host"),
            ("http://canary:1234\\canary@h", "holds an @ behind its host"),
            ("http://canary?canary@h", "holds an @ behind its host"),
            ("http://u:canary@h:0", "has the port 0"),
            ("http://u:ca nary@h", "holds white space"),
        ] {
            let Err(fault) = parse(text) else { panic!("{text} was taken") };
            assert_eq!(fault.why, why, "{text}");
            assert!(!format!("{fault:?}").contains("canary"), "{fault:?}");
        }
    }
}
