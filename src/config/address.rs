//! Where the broker is: addresses, or host and port, and what goes with them. Knows no client library.

use std::path::Path;
use std::time::Duration;

use secrecy::{ExposeSecret as _, SecretString};

use super::access::AccessFiles;
use super::amqp_url::{self, AmqpUrl};
use super::problem::{Fault, Problems, Warning, shown_text};
use super::settings::{AmqpSettings, Login, Node};
use super::shape::LayerKind;
use super::values::{Section, Values};
use super::{login, tls};

/// Keys that each name the broker; the highest layer that has one decides.
pub(super) const ADDRESS_KEYS: [&str; 4] = ["url", "url_file", "urls", "host"];

/// Where a broker is that nobody has named.
const LOCAL: &str = "localhost";

/// The key of `bus.amqp` that says where the broker is, if any does.
pub(super) fn key(values: &Values) -> Option<&'static str> {
    let amqp = values.section("bus.amqp");
    ADDRESS_KEYS.into_iter().find(|key| amqp.given(key).is_some())
}

/// Reads `[bus.amqp]` as far as it tells how to reach the broker over AMQP; the management API is left out.
pub(super) fn read(
    values: &Values,
    working_dir: &Path,
    problems: &mut Problems,
    warnings: &mut Vec<Warning>,
) -> AmqpSettings {
    let amqp = values.section("bus.amqp");
    let reader = Reader { amqp: &amqp, working_dir };
    let target = reader.target(problems, warnings);
    let port = if target.tls { 5671 } else { 5672 };
    let node = |(host, given): &(String, Option<u16>)| Node { host: host.clone(), port: given.unwrap_or(port) };
    let tls = tls::read(&amqp, working_dir, target.tls, problems);
    let login = login::read(&reader, &target, tls.as_ref(), (problems, warnings));
    let settings = AmqpSettings {
        nodes: target.nodes.iter().map(node).collect(),
        login,
        tls,
        vhost: reader.vhost(&target, problems, warnings),
        files: AccessFiles::new(values, working_dir),
        beaten: reader.beaten(&target),
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
        management: None,
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
pub(super) struct Target {
    pub(super) key: &'static str,
    origin: String,
    layer: LayerKind,
    pub(super) tls: bool,
    nodes: Vec<(String, Option<u16>)>,
    /// What all addresses say alike, in the words of the first.
    pub(super) url: Option<AmqpUrl>,
}

pub(super) struct Reader<'a> {
    pub(super) amqp: &'a Section<'a>,
    pub(super) working_dir: &'a Path,
}

impl Reader<'_> {
    fn target(&self, problems: &mut Problems, warnings: &mut Vec<Warning>) -> Target {
        let amqp = self.amqp;
        let key = ADDRESS_KEYS.into_iter().find(|key| amqp.given(key).is_some());
        let given = key.and_then(|key| amqp.given(key));
        let requires_tls = amqp.value("tls.require");
        let mut target = Target {
            key: key.unwrap_or("url"),
            origin: given.map(|given| given.origin.clone()).unwrap_or_default(),
            layer: given.map_or(LayerKind::Files, |given| given.layer),
            tls: requires_tls,
            nodes: vec![(LOCAL.to_owned(), amqp.optional("port"))],
            url: None,
        };
        match key {
            Some("host") => target.nodes = vec![(self.host(problems), amqp.optional("port"))],
            Some(key) => {
                let urls = self.urls(key, problems);
                self.refuse_port(Some(target.layer), problems);
                if let Some(first) = urls.first() {
                    target.tls = first.tls;
                    target.nodes = urls.iter().map(|url| (url.host.clone(), url.port)).collect();
                    target.url = Some(first.clone());
                } else {
                    // An address that cannot be read is no reason to call the keys of TLS superfluous.
                    target.tls = requires_tls || tls::is_asked(amqp);
                }
                if requires_tls && !target.tls && target.url.is_some() {
                    let fault = Fault::new("is amqp://, and bus.amqp.tls.require is true").hint("write amqps://");
                    problems.push(amqp.problem(key, fault));
                }
            }
            None => {
                self.refuse_port(None, problems);
                let (scheme, port) = if requires_tls { ("amqps", 5671) } else { ("amqp", 5672) };
                let what = format!(
                    "no address is given; {scheme}://localhost:{port} is tried, set AMQP_URL to say where the broker is"
                );
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

    /// The addresses of the key; none after a fault.
    fn urls(&self, key: &str, problems: &mut Problems) -> Vec<AmqpUrl> {
        let texts: Vec<SecretString> = if key == "urls" {
            self.amqp.value_or(key, Vec::new())
        } else {
            self.amqp.secret("url", self.working_dir, problems).into_iter().collect()
        };
        if key == "urls" && texts.is_empty() {
            problems.push(self.amqp.problem(key, Fault::new("names no address")));
        }
        let mut urls = Vec::new();
        for (position, text) in texts.iter().enumerate() {
            match amqp_url::parse(text.expose_secret()) {
                Ok(url) => urls.push(url),
                Err(fault) if texts.len() > 1 => {
                    let why = format!("address {} of {}: {}", position + 1, texts.len(), fault.why);
                    problems.push(self.amqp.problem(key, Fault { why, ..fault }));
                }
                Err(fault) => problems.push(self.amqp.problem(key, fault)),
            }
        }
        let parts = urls.first().into_iter().flat_map(|first| urls.iter().flat_map(|other| first.differences(other)));
        // Each once, in a stable order.
        let parts: std::collections::BTreeSet<&str> = parts.collect();
        if !parts.is_empty() {
            let parts: Vec<&str> = parts.into_iter().collect();
            let fault = Fault::new(format!("the addresses differ in their {}", parts.join(" and ")));
            problems.push(self.amqp.problem(key, fault.hint("only host and port may differ")));
        }
        urls
    }

    /// A part of the address or the key of the same meaning: the higher layer wins, both in one layer is a problem.
    pub(super) fn address_wins(&self, key: &str, target: &Target, problems: &mut Problems) -> bool {
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

    /// The keys of lower layers that the address has replaced.
    fn beaten(&self, target: &Target) -> Vec<&'static str> {
        let Some(url) = &target.url else { return Vec::new() };
        let parts: [(bool, &[&'static str]); 6] = [
            // Even where it names none: the port belongs to another host.
            (true, &["port"]),
            (url.vhost.is_some(), &["vhost"]),
            (url.username.is_some(), &["username", "username_file"]),
            (url.password.is_some(), &["password", "password_file"]),
            (url.heartbeat.is_some(), &["heartbeat"]),
            (url.connect_timeout.is_some(), &["connect_timeout"]),
        ];
        let is_lower = |key: &&'static str| self.amqp.given(key).is_some_and(|given| given.layer < target.layer);
        let keys = parts.into_iter().filter(|(is_there, _)| *is_there).flat_map(|(_, keys)| keys.iter().copied());
        keys.filter(is_lower).collect()
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
    let Some(node) = settings.nodes.iter().find(|node| !is_local(&node.host)) else { return };
    let key = format!("bus.amqp.{}", target.key);
    let host = shown_text(&node.host);
    if matches!(&settings.login, Login::Password { username, .. } if username.expose_secret() == "guest") {
        let what = format!("brokers refuse the user guest from anywhere but their own host, and {host} is another");
        warnings.push(Warning::new(&key, &target.origin, what));
    }
    if settings.tls.is_none() {
        let what = format!("plain AMQP to {host}: password and messages can be read on the way; write amqps://");
        warnings.push(Warning::new(&key, &target.origin, what));
    }
}

pub(super) fn is_local(host: &str) -> bool {
    host.eq_ignore_ascii_case(LOCAL) || host.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback())
}
