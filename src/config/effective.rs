//! The values in effect, each with where it came from and no secret in it, for `sidebus config show`.
//!
//! What is shown comes from the checked settings wherever a rule between keys decides; the rest from the table.

use std::fmt;

use config::ValueKind;
use secrecy::ExposeSecret as _;

use super::choices::Dropped;
use super::keys::{self, Key, Kind, State};
use super::load::{LoadRequest, with_values};
use super::path::KeyPath;
use super::problem::{Problems, Warning};
use super::settings::{AmqpSettings, Backend, Login, Settings};
use super::value::write_duration;
use super::values::Values;
use super::{address, render, typed};
use crate::domain::masking::{MASK, masked};
use crate::domain::subscription::{QueueType, Subscription};
use crate::domain::topology;

/// One key and its value in effect. Keys without any value are not shown.
#[derive(Debug, Clone, PartialEq)]
pub struct Effective {
    /// Its path, such as `queues.hand-saga.bindings`.
    pub key: String,
    /// The value as one line of TOML; secrets are `***`, and so is the login of an address in whatever text.
    pub toml: String,
    /// The same as JSON.
    pub json: serde_json::Value,
    /// Where it came from.
    pub origin: Origin,
}

/// All that there is to show.
#[derive(Debug, Clone)]
pub struct Shown {
    /// In the order of the reference.
    pub rows: Vec<Effective>,
    /// What works and may surprise.
    pub warnings: Vec<Warning>,
}

/// Where a value in effect came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// File and line, variable or flag.
    Given(String),
    /// Nobody said anything.
    Default,
    /// It follows from another key, or from what is named here.
    From(String),
    /// It was given and is not in effect: a higher layer has given another key that excludes it.
    Dropped {
        /// Where it was given.
        given: String,
        /// The key that is in effect instead.
        winner: String,
    },
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Given(origin) => f.write_str(origin),
            Self::Default => f.write_str("default"),
            Self::From(other) => write!(f, "from {other}"),
            Self::Dropped { given, winner } => write!(f, "{given}, dropped: {winner} is in effect"),
        }
    }
}

/// Loads the settings and shows every value in effect, and every key that was dropped for another, in the order of the
/// reference.
///
/// # Errors
/// Every fault of every source.
pub fn show(request: &LoadRequest) -> Result<Shown, Problems> {
    let (loaded, values) = with_values(request)?;
    let view = View { settings: &loaded.settings, values: &values };
    let mut rows = Vec::new();
    let mut done: Vec<&str> = Vec::new();
    for key in keys::all() {
        let Some((table, _)) = key.path.split_once(".*.") else {
            rows.extend(view.row(key, &KeyPath::of(key.path)));
            continue;
        };
        // All keys of one name together, at the place of the first of them.
        if done.contains(&table) {
            continue;
        }
        done.push(table);
        for (name, _) in values.entries(table) {
            let below = keys::all().filter_map(|key| Some((key, key.path.strip_prefix(table)?.strip_prefix(".*.")?)));
            rows.extend(below.filter_map(|(key, word)| view.row(key, &KeyPath::of(table).child(name).join(word))));
        }
    }
    rows.extend(values.dropped().iter().map(dropped));
    rows.extend(view.beaten().iter().map(dropped));
    Ok(Shown { rows, warnings: loaded.warnings })
}

/// Its value is not shown: it says nothing any more.
fn dropped(dropped: &Dropped) -> Effective {
    Effective {
        key: dropped.key.to_string(),
        toml: "-".to_owned(),
        json: serde_json::Value::Null,
        origin: Origin::Dropped { given: dropped.origin.clone(), winner: dropped.winner.to_string() },
    }
}

struct View<'a> {
    settings: &'a Settings,
    values: &'a Values,
}

impl View<'_> {
    fn row(&self, key: &Key, path: &KeyPath) -> Option<Effective> {
        let is_shown = match key.state {
            State::Supported => true,
            State::OnlyDefault(_) => self.values.at(path).is_some(),
            State::Later(_) => false,
        };
        if !is_shown || self.is_void(key, path) {
            return None;
        }
        if key.path.ends_with("_file") && self.is_beaten(path) {
            // It is no value of its own, and what it would have held is not in effect.
            return None;
        }
        let (kind, origin) = self.derived(key, path).or_else(|| self.told(key, path))?;
        let key = masked(&path.to_string()).into_owned();
        Some(Effective { key, toml: render::toml(&kind), json: render::json(&kind), origin })
    }

    /// What is given and not in effect because the address, from a higher layer, says otherwise.
    fn beaten(&self) -> Vec<Dropped> {
        let Backend::Amqp(amqp) = &self.settings.backend else { return Vec::new() };
        let winner = KeyPath::of("bus.amqp").child(address::key(self.values).unwrap_or("url"));
        let beaten = amqp.beaten.iter().map(|word| KeyPath::of("bus.amqp").child(word));
        let given = beaten.filter_map(|key| Some((self.values.at(&key)?.origin.clone(), key)));
        given.map(|(origin, key)| Dropped { key, origin, winner: winner.clone() }).collect()
    }

    fn is_beaten(&self, path: &KeyPath) -> bool {
        let Backend::Amqp(amqp) = &self.settings.backend else { return false };
        matches!(path.words(), [bus, amqp_word, word] if bus == "bus" && amqp_word == "amqp" && amqp.beaten.contains(&word.as_str()))
    }

    /// True for a default that means nothing here: only quorum queues count deliveries.
    fn is_void(&self, key: &Key, path: &KeyPath) -> bool {
        let is_quorum = |name: &String| {
            let subscription = self.subscription(name);
            subscription.is_some_and(|one| topology::queue_type(&one.queue) == QueueType::Quorum)
        };
        key.path == "queues.*.delivery_limit"
            && self.values.at(path).is_none()
            && !path.words().get(1).is_some_and(is_quorum)
    }

    fn subscription(&self, name: &str) -> Option<&Subscription> {
        self.settings.subscriptions.iter().find(|one| one.name.as_str() == name)
    }

    /// What was given, else the default, else what the key takes from another one.
    fn told(&self, key: &Key, path: &KeyPath) -> Option<(ValueKind, Origin)> {
        if let Some(given) = self.values.at(path) {
            return Some((given.for_eyes.clone(), Origin::Given(given.origin.clone())));
        }
        let as_value = |text: &str| typed::from_text(key.kind, text, "default").kind;
        if let Some(default) = key.default {
            let kind = if key.is_secret() { ValueKind::from(MASK) } else { as_value(default) };
            return Some((kind, Origin::Default));
        }
        let words = key.note().default;
        let other = KeyPath::of(words);
        if let Some(row) = keys::find(&other).filter(|row| row.path == words) {
            let (kind, _) = self.told(row, &other)?;
            return Some((kind, Origin::From(words.to_owned())));
        }
        // Where the words are a value, they are the default: `true`, `20`, `topic`.
        let is_value = matches!(key.kind, Kind::Bool | Kind::Integer { .. } | Kind::Words { .. });
        (is_value && typed::read_text(key, words).is_ok()).then(|| (as_value(words), Origin::Default))
    }

    /// What a rule between keys has decided; `None` = the key speaks for itself.
    fn derived(&self, key: &Key, path: &KeyPath) -> Option<(ValueKind, Origin)> {
        let words: Vec<&str> = path.words().iter().map(String::as_str).collect();
        let (kind, from) = match words.as_slice() {
            ["queues", name, ..] => self.of_queue(name, key)?,
            ["exchanges", name, ..] => self.of_exchange(name, key)?,
            ["bus", "amqp", word] => self.of_broker(word)?,
            _ => self.of_process(key)?,
        };
        // Two secrets look alike, so it is asked who has won.
        let given = self.values.at(path).filter(|_| !self.is_beaten(path));
        if let Some(given) = given.filter(|given| given.for_eyes == kind) {
            return Some((kind, Origin::Given(given.origin.clone())));
        }
        let is_default = key.default.is_some_and(|text| typed::from_text(key.kind, text, "default").kind == kind);
        let origin = if is_default { Origin::Default } else { Origin::From(from) };
        Some((kind, origin))
    }

    fn of_queue(&self, name: &str, key: &Key) -> Option<(ValueKind, String)> {
        let Subscription { queue, dead_letter, .. } = self.subscription(name)?;
        match key.path {
            "queues.*.queue" => Some((queue.name.as_str().into(), "the table's name".to_owned())),
            "queues.*.queue_type" => {
                Some((topology::queue_type(queue).as_str().into(), "the queue's other keys".to_owned()))
            }
            "queues.*.dead_letter.exchange" if queue.arguments.contains_key("x-dead-letter-exchange") => {
                Some((dead_letter.exchange.as_str().into(), format!("queues.{name}.arguments")))
            }
            "queues.*.dead_letter.queue" => {
                let other =
                    if dead_letter.own.is_some() { "the queue's name and its scope" } else { "dead_letter.queue" };
                Some((dead_letter.letters().as_str().into(), other.to_owned()))
            }
            _ => None,
        }
    }

    fn of_exchange(&self, name: &str, key: &Key) -> Option<(ValueKind, String)> {
        let events = &self.settings.exchange;
        let path = KeyPath::of("exchanges").child(name);
        let own = self.values.at(&path.child("name")).map(|given| given.for_eyes.clone());
        let own = own.unwrap_or_else(|| name.into());
        match key.path {
            "exchanges.*.name" => Some((own, "the table's name".to_owned())),
            "exchanges.*.type" if own == ValueKind::from(events.name.as_str()) => {
                Some((events.kind.as_str().into(), "bus.amqp.exchange_type".to_owned()))
            }
            _ => None,
        }
    }

    /// The parts of an address.
    fn of_broker(&self, word: &str) -> Option<(ValueKind, String)> {
        let Backend::Amqp(amqp) = &self.settings.backend else { return None };
        let from = format!("bus.amqp.{}", address::key(self.values)?);
        let AmqpSettings { nodes, vhost, login, heartbeat, connect_timeout, .. } = &**amqp;
        let node = nodes.first().filter(|_| nodes.len() == 1);
        let secret = |text: &str| ValueKind::from(if text == "guest" { "guest" } else { MASK });
        let kind = match word {
            "host" => node?.host.as_str().into(),
            "port" => i64::from(node?.port).into(),
            "vhost" => vhost.as_str().into(),
            "username" | "password" => {
                let Login::Password { username, password } = login else { return None };
                secret(if word == "username" { username } else { password }.expose_secret())
            }
            "heartbeat" => write_duration(*heartbeat).into(),
            "connect_timeout" => write_duration(*connect_timeout).into(),
            _ => return None,
        };
        Some((kind, from))
    }

    fn of_process(&self, key: &Key) -> Option<(ValueKind, String)> {
        let settings = self.settings;
        let door = || "grpc.listen".to_owned();
        match key.path {
            "bus.backend" => {
                let word = match &settings.backend {
                    Backend::Amqp(_) => "amqp",
                    Backend::Memory { .. } if self.values.section("bus").given("backend").is_none() => return None,
                    Backend::Memory { .. } => "memory",
                };
                let from =
                    address::key(self.values).map_or_else(|| "the command".to_owned(), |key| format!("bus.amqp.{key}"));
                Some((word.into(), from))
            }
            "bus.instance" => Some((settings.instance.as_str().into(), "the pod's name, or the host's".to_owned())),
            "client.endpoint" => Some((settings.client.endpoint.as_deref()?.into(), "the doors".to_owned())),
            "client.admin_endpoint" => {
                Some((settings.client.admin_endpoint.as_deref()?.into(), "the doors".to_owned()))
            }
            "grpc.allowed_authorities" => Some((settings.grpc.allowed_authorities.clone()?.into(), door())),
            "grpc.handlers_may_declare" => Some((settings.grpc.handlers_may_declare.into(), door())),
            "grpc.reflection" => Some((settings.grpc.reflection.into(), door())),
            "log.filter" => Some((settings.log.filter.as_str().into(), "log.level".to_owned())),
            "shutdown.drain" => {
                Some((write_duration(settings.shutdown.drain).into(), "what shutdown.budget leaves".to_owned()))
            }
            _ => None,
        }
    }
}
