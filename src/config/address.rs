//! Where the broker is: one address or host and port, and the login that fits. Knows no client library.

use std::path::Path;
use std::time::Duration;

use secrecy::{ExposeSecret as _, SecretString};

use super::amqp_url::{self, AmqpUrl};
use super::problem::{Fault, Problems, Warning, shown_text};
use super::settings::AmqpSettings;
use super::shape::LayerKind;
use super::values::{Section, Values};

/// Keys that each name the broker; the highest layer that has one decides.
pub(super) const ADDRESS_KEYS: [&str; 4] = ["url", "url_file", "urls", "host"];

/// Where a broker is that nobody has named.
const LOCAL: &str = "localhost";

/// The key of `bus.amqp` that says where the broker is, if any does.
pub(super) fn key(values: &Values) -> Option<&'static str> {
    let amqp = values.section("bus.amqp");
    ADDRESS_KEYS.into_iter().find(|key| amqp.given(key).is_some())
}

/// Reads `[bus.amqp]` as far as it tells how to reach the broker.
pub(super) fn read(
    values: &Values,
    working_dir: &Path,
    problems: &mut Problems,
    warnings: &mut Vec<Warning>,
) -> AmqpSettings {
    let amqp = values.section("bus.amqp");
    let reader = Reader { amqp: &amqp, working_dir };
    let target = reader.target(problems, warnings);
    let login = reader.login(&target, problems, warnings);
    let vhost = reader.vhost(&target, problems, warnings);
    let settings = AmqpSettings {
        tls: target.tls,
        port: target.port.unwrap_or(if target.tls { 5671 } else { 5672 }),
        host: target.host.clone(),
        vhost,
        username: login.0,
        password: login.1,
        heartbeat: reader.timing("heartbeat", target.url.as_ref().and_then(|url| url.heartbeat), problems),
        preflight_timeout: amqp.value("preflight_timeout"),
        connect_timeout: reader.timing(
            "connect_timeout",
            target.url.as_ref().and_then(|url| url.connect_timeout),
            problems,
        ),
        operation_timeout: amqp.value("operation_timeout"),
        reconnect_min: amqp.value("reconnect.min_backoff"),
        reconnect_max: amqp.value("reconnect.max_backoff"),
        pool_size_max: amqp.value("pool.max_size"),
        pool_wait_timeout: amqp.value("pool.wait_timeout"),
    };
    if settings.reconnect_min > settings.reconnect_max {
        let fault = Fault::new("must not be above bus.amqp.reconnect.max_backoff");
        let key = if amqp.given("reconnect.min_backoff").is_some() {
            "reconnect.min_backoff"
        } else {
            "reconnect.max_backoff"
        };
        problems.push(amqp.problem(key, fault));
    }
    warn(&settings, &target, warnings);
    settings
}

/// What the address key said.
struct Target {
    key: &'static str,
    origin: String,
    layer: LayerKind,
    tls: bool,
    host: String,
    port: Option<u16>,
    url: Option<AmqpUrl>,
}

struct Reader<'a> {
    amqp: &'a Section<'a>,
    working_dir: &'a Path,
}

impl Reader<'_> {
    fn target(&self, problems: &mut Problems, warnings: &mut Vec<Warning>) -> Target {
        let amqp = self.amqp;
        let key = ADDRESS_KEYS.into_iter().find(|key| amqp.given(key).is_some());
        let given = key.and_then(|key| amqp.given(key));
        let mut target = Target {
            key: key.unwrap_or("url"),
            origin: given.map(|given| given.origin.clone()).unwrap_or_default(),
            layer: given.map_or(LayerKind::Files, |given| given.layer),
            tls: false,
            host: LOCAL.to_owned(),
            port: amqp.optional("port"),
            url: None,
        };
        match key {
            Some("host") => target.host = self.host(problems),
            Some(_) => {
                if let Some(url) = self.url(target.key, problems) {
                    (target.tls, target.host, target.port) = (url.tls, url.host.clone(), url.port);
                    target.url = Some(url);
                }
                self.refuse_port(Some(target.layer), problems);
            }
            None => {
                self.refuse_port(None, problems);
                let what = "no address is given; amqp://guest:guest@localhost:5672 is tried, set AMQP_URL to say where the broker is";
                warnings.push(Warning::new(amqp.path("url"), "", what));
            }
        }
        target
    }

    /// Below the layer of the address a port belongs to a host that the address has replaced.
    fn refuse_port(&self, address: Option<LayerKind>, problems: &mut Problems) {
        if self.amqp.given("port").is_some_and(|port| Some(port.layer) >= address) {
            let fault = Fault::new("goes with bus.amqp.host only").hint("write the port into the address");
            problems.push(self.amqp.problem("port", fault));
        }
    }

    fn host(&self, problems: &mut Problems) -> String {
        let host: String = self.amqp.value_or("host", LOCAL.to_owned());
        let bare = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(&host);
        if bare.parse::<std::net::Ipv6Addr>().is_ok() {
            return bare.to_owned();
        }
        if host.contains("://") || host.contains('@') {
            problems.push(self.amqp.problem("host", Fault::new("is an address").hint("set bus.amqp.url (AMQP_URL)")));
        } else if host.contains(':') {
            let fault = Fault::new("holds a port").hint("set bus.amqp.port beside it");
            problems.push(self.amqp.problem("host", fault));
        } else if host.chars().any(|c| c.is_whitespace() || c.is_control() || c == '/') {
            problems.push(self.amqp.problem("host", Fault::new("not a host name")));
        }
        host
    }

    fn url(&self, key: &str, problems: &mut Problems) -> Option<AmqpUrl> {
        let text = self.amqp.secret("url", self.working_dir, problems)?;
        match amqp_url::parse(text.expose_secret()) {
            Ok(url) => Some(url),
            Err(fault) => {
                problems.push(self.amqp.problem(key, fault));
                None
            }
        }
    }

    /// A part of the address or the key of the same meaning: the higher layer wins, both in one layer is a problem.
    fn address_wins(&self, key: &str, target: &Target, problems: &mut Problems) -> bool {
        let twin = format!("{key}_file");
        let Some((name, given)) = [key, &twin].into_iter().find_map(|name| Some((name, self.amqp.given(name)?))) else {
            return true;
        };
        if given.layer == target.layer {
            let fault = Fault::new(format!("is also in bus.amqp.{} ({})", target.key, target.origin));
            problems.push(self.amqp.problem(name, fault.hint("keep one of the two")));
        }
        target.layer >= given.layer
    }

    fn login(
        &self,
        target: &Target,
        problems: &mut Problems,
        warnings: &mut Vec<Warning>,
    ) -> (SecretString, SecretString) {
        let mut part = |key: &str, in_url: Option<&SecretString>| match in_url {
            Some(secret) if self.address_wins(key, target, problems) => Some(secret.clone()),
            _ => self.amqp.secret(key, self.working_dir, problems),
        };
        let username = part("username", target.url.as_ref().and_then(|url| url.username.as_ref()));
        let password = part("password", target.url.as_ref().and_then(|url| url.password.as_ref()));
        if username.is_some() && password.is_none() {
            let what = "a user without a password: \"guest\" is tried as its password";
            warnings.push(Warning::new(self.amqp.path("password"), "", what));
        }
        let guest = || SecretString::from("guest");
        (username.unwrap_or_else(guest), password.unwrap_or_else(guest))
    }

    fn vhost(&self, target: &Target, problems: &mut Problems, warnings: &mut Vec<Warning>) -> String {
        let in_url = target.url.as_ref().and_then(|url| url.vhost.clone());
        match in_url {
            Some(vhost) if self.address_wins("vhost", target, problems) => {
                if vhost.is_empty() {
                    let what = "the address ends in a slash, which is the vhost with the empty name; leave the slash out for \"/\"";
                    warnings.push(Warning::new(self.amqp.path(target.key), &target.origin, what));
                }
                vhost
            }
            _ => self.amqp.value("vhost"),
        }
    }

    fn timing(&self, key: &str, in_url: Option<Duration>, problems: &mut Problems) -> Duration {
        // Only a part that is in the address can clash with the key.
        let Some(in_url) = in_url else { return self.amqp.value(key) };
        let amqp = self.amqp;
        let layer = ADDRESS_KEYS.iter().find_map(|key| amqp.given(key)).map(|given| given.layer);
        match amqp.given(key) {
            Some(given) if Some(given.layer) > layer => amqp.value(key),
            Some(given) if Some(given.layer) == layer => {
                let fault = Fault::new("is also in the query of the address").hint("keep one of the two");
                problems.push(amqp.problem(key, fault));
                in_url
            }
            Some(_) | None => in_url,
        }
    }
}

fn warn(settings: &AmqpSettings, target: &Target, warnings: &mut Vec<Warning>) {
    if is_local(&settings.host) {
        return;
    }
    let key = format!("bus.amqp.{}", target.key);
    let host = shown_text(&settings.host);
    if settings.username.expose_secret() == "guest" {
        let what = format!("brokers refuse the user guest from anywhere but their own host, and {host} is another");
        warnings.push(Warning::new(&key, &target.origin, what));
    }
    if !settings.tls {
        let what = format!("plain AMQP to {host}: password and messages can be read on the way; write amqps://");
        warnings.push(Warning::new(&key, &target.origin, what));
    }
}

fn is_local(host: &str) -> bool {
    host.eq_ignore_ascii_case(LOCAL) || host.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback())
}
