//! An AMQP address in its parts, decoded. Its faults never quote it: it holds the password.

use std::time::Duration;

use secrecy::{ExposeSecret as _, SecretString};
use url::Url;

use super::problem::Fault;

const FORM: &str = "write amqp://user:password@host:5672/vhost";
const ENCODE: &str = "percent-encode special characters of user and password, or set them apart from the address";
/// Bounds of `bus.amqp.heartbeat`.
const HEARTBEAT_SECONDS: std::ops::RangeInclusive<u64> = 1..=60;

/// The parts of an address; `None` = not in it.
#[derive(Debug, Clone)]
pub(super) struct AmqpUrl {
    pub(super) tls: bool,
    pub(super) host: String,
    pub(super) port: Option<u16>,
    pub(super) vhost: Option<String>,
    pub(super) username: Option<SecretString>,
    pub(super) password: Option<SecretString>,
    /// `?heartbeat=`, in seconds.
    pub(super) heartbeat: Option<Duration>,
    /// `?connection_timeout=`, in milliseconds.
    pub(super) connect_timeout: Option<Duration>,
}

impl AmqpUrl {
    /// The parts, besides host and port, in which another address is not the same.
    pub(super) fn differences(&self, other: &Self) -> Vec<&'static str> {
        let text = |secret: &Option<SecretString>| secret.as_ref().map(|secret| secret.expose_secret().to_owned());
        let parts = [
            ("scheme", self.tls == other.tls),
            ("user", text(&self.username) == text(&other.username)),
            ("password", text(&self.password) == text(&other.password)),
            ("vhost", self.vhost == other.vhost),
            ("heartbeat", self.heartbeat == other.heartbeat),
            ("connection_timeout", self.connect_timeout == other.connect_timeout),
        ];
        parts.into_iter().filter(|(_, is_same)| !is_same).map(|(part, _)| part).collect()
    }
}

/// Takes an address apart.
pub(super) fn parse(text: &str) -> Result<AmqpUrl, Fault> {
    if text.chars().any(|c| c.is_whitespace() || c.is_control()) {
        return Err(Fault::new("holds white space").hint(FORM));
    }
    let url = Url::parse(text).map_err(fault_of)?;
    let tls = match url.scheme() {
        "amqp" => false,
        "amqps" => true,
        _ => return Err(Fault::new("must begin with amqp:// or amqps://").hint(FORM)),
    };
    if url.fragment().is_some() {
        return Err(Fault::new("holds a #").hint("write %23"));
    }
    refuse_late_at(&url)?;
    let host = url.host_str().filter(|host| !host.is_empty()).ok_or_else(|| Fault::new("has no host").hint(FORM))?;
    let host = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(host);
    let mut parts = AmqpUrl {
        tls,
        host: decode(host)?,
        port: url.port(),
        vhost: vhost(&url)?,
        username: Some(url.username()).filter(|user| !user.is_empty()).map(decode).transpose()?.map(SecretString::from),
        password: url.password().map(decode).transpose()?.map(SecretString::from),
        heartbeat: None,
        connect_timeout: None,
    };
    if parts.port == Some(0) {
        return Err(Fault::new("has the port 0").hint(FORM));
    }
    read_query(&url, &mut parts)?;
    Ok(parts)
}

/// A "/" or "?" in the password ends the host early: then a part of the password would be shown as port or virtual host.
pub(super) fn refuse_late_at(url: &Url) -> Result<(), Fault> {
    if url.path().contains('@') || url.query().is_some_and(|query| query.contains('@')) {
        let hint = "percent-encode special characters of user and password; an @ that belongs behind the host is %40";
        return Err(Fault::new("holds an @ behind its host").hint(hint));
    }
    Ok(())
}

fn fault_of(error: url::ParseError) -> Fault {
    if error == url::ParseError::InvalidPort {
        // A "/" or "?" in the password ends the address early, and its rest looks like a port.
        return Fault::new("has a port that is no number").hint(ENCODE);
    }
    Fault::new("not an address").hint(FORM)
}

fn vhost(url: &Url) -> Result<Option<String>, Fault> {
    match url.path() {
        "" => Ok(None),
        path => {
            let name = path.strip_prefix('/').unwrap_or(path);
            if name.contains('/') {
                return Err(Fault::new("has a vhost with a / in it").hint("write %2f"));
            }
            decode(name).map(Some)
        }
    }
}

fn read_query(url: &Url, parts: &mut AmqpUrl) -> Result<(), Fault> {
    for (name, value) in url.query_pairs() {
        let number: Option<u64> = value.parse().ok();
        match name.as_ref() {
            "heartbeat" => {
                let seconds = number.filter(|seconds| HEARTBEAT_SECONDS.contains(seconds));
                let seconds = seconds.ok_or_else(|| Fault::new("has a heartbeat that is not 1 to 60 seconds"))?;
                parts.heartbeat = Some(Duration::from_secs(seconds));
            }
            "connection_timeout" => {
                let millis = number.filter(|millis| (1..=86_400_000).contains(millis));
                let millis = millis
                    .ok_or_else(|| Fault::new("has a connection_timeout that is not 1 to 86400000 milliseconds"))?;
                parts.connect_timeout = Some(Duration::from_millis(millis));
            }
            // Its name is not shown: an unencoded "?" in a password begins a query.
            _ => {
                return Err(Fault::new("has a query key that is not known")
                    .hint("heartbeat and connection_timeout are taken; write a ? in user or password as %3f"));
            }
        }
    }
    Ok(())
}

/// Percent-decoding, strict: a stray `%` is a fault, since the login would fail without saying why.
pub(super) fn decode(text: &str) -> Result<String, Fault> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, after)) = rest.split_first() {
        rest = after;
        if first != b'%' {
            bytes.push(first);
            continue;
        }
        let digits = rest.get(..2).and_then(|two| std::str::from_utf8(two).ok()).filter(|two| !two.contains('+'));
        let byte = digits.and_then(|two| u8::from_str_radix(two, 16).ok());
        bytes.push(byte.ok_or_else(|| Fault::new("holds a % that begins no code").hint("write %25"))?);
        rest = &rest[2..];
    }
    String::from_utf8(bytes).map_err(|_| Fault::new("holds codes that are not UTF-8").hint(ENCODE))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn login(url: &AmqpUrl) -> (Option<&str>, Option<&str>) {
        (url.username.as_ref().map(SecretString::expose_secret), url.password.as_ref().map(SecretString::expose_secret))
    }

    #[test]
    fn an_address_is_decoded() {
        let url =
            parse("amqps://us%40er:p%2fss%25@rabbit.prod:5700/ord%2fers?heartbeat=30&connection_timeout=1500").unwrap();
        assert_eq!((url.tls, url.host.as_str(), url.port), (true, "rabbit.prod", Some(5700)));
        assert_eq!(login(&url), (Some("us@er"), Some("p/ss%")));
        assert_eq!(url.vhost.as_deref(), Some("ord/ers"));
        assert_eq!(url.heartbeat, Some(Duration::from_secs(30)));
        assert_eq!(url.connect_timeout, Some(Duration::from_millis(1500)));
    }

    #[test]
    fn what_is_not_in_an_address_stays_open() {
        let url = parse("amqp://rabbit").unwrap();
        assert_eq!((url.tls, url.port, url.vhost.clone()), (false, None, None));
        assert_eq!(login(&url), (None, None));
        assert_eq!(parse("amqp://[::1]:5672").unwrap().host, "::1");
    }

    #[test]
    fn a_bare_trailing_slash_is_the_empty_vhost() {
        for (text, vhost) in [
            ("amqp://h", None),
            ("amqp://h/", Some("")),
            ("amqp://h/%2f", Some("/")),
            ("amqp://h/v", Some("v")),
            ("amqp://h/a%40b", Some("a@b")),
        ] {
            assert_eq!(parse(text).unwrap().vhost.as_deref(), vhost, "{text}");
        }
    }

    #[test]
    fn faults_of_an_address_do_not_quote_it() {
        for (text, why) in [
            ("", "not an address"),
            ("rabbit:5672", "must begin with amqp:// or amqps://"),
            ("http://canary@h", "must begin with amqp:// or amqps://"),
            ("amqp://u:can/ary@h", "has a port that is no number"),
            ("amqp://u:canary@h:x", "has a port that is no number"),
            ("amqp://u:can%zzary@h", "holds a % that begins no code"),
            ("amqp://u:canary%@h", "holds a % that begins no code"),
            ("amqp://u:canary%ff@h", "holds codes that are not UTF-8"),
            ("amqp://canary:1234/canary@h", "holds an @ behind its host"),
            ("amqp://can/ary:word@h", "holds an @ behind its host"),
            ("amqp://canary?heartbeat=30@h", "holds an @ behind its host"),
            ("amqp://u:canary@h/a/b", "has a vhost with a / in it"),
            ("amqp://u:canary@h#x", "holds a #"),
            ("amqp://u:canary@h?canary=1", "has a query key that is not known"),
            ("amqp://u:canary@h?heartbeat=0", "has a heartbeat that is not 1 to 60 seconds"),
            (
                "amqp://u:canary@h?connection_timeout=x",
                "has a connection_timeout that is not 1 to 86400000 milliseconds",
            ),
            ("amqp://u:canary@h:0", "has the port 0"),
            ("amqp://u:ca nary@h", "holds white space"),
            ("amqp:///v", "has no host"),
        ] {
            let fault = parse(text).unwrap_err();
            assert_eq!(fault.why, why, "{text}");
            assert!(!format!("{fault:?}").contains("canary"), "{fault:?}");
        }
    }
}
