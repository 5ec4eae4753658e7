//! What operators are promised of the settings: sources, precedence, problems in their words, and no secret anywhere.

#![expect(clippy::unwrap_used, clippy::panic, reason = "helpers of tests")]

use std::collections::BTreeMap;
use std::fs;
use std::time::Duration;

use secrecy::ExposeSecret as _;
use sidebus::config::{
    AmqpSettings, Backend, Command, ListenAddress, LoadRequest, Loaded, LogFormat, Login, Origin, Problems, Readiness,
    load, show, worked_example,
};
use sidebus::domain::message::{Headers, Value};
use sidebus::domain::name::{ExchangeName, QueueName};
use sidebus::domain::subscription::{Binding, DeadLetterSettings, QueueType, Subscription};
use sidebus::domain::topology::{Exchange, ExchangeKind, TopologyMode};
use tempfile::TempDir;

mod bad_input;
mod examples;
mod faults;
mod keys;
mod links;
mod management;
mod problems;
mod queues;
mod secrets;
mod showing;
mod sources;
mod values;

/// A directory of its own with its files, and what is asked for in it.
struct Scene {
    dir: TempDir,
    request: LoadRequest,
}

impl Scene {
    fn new(file: &str) -> Self {
        let dir = TempDir::new().unwrap();
        fs::write(dir.path().join("sidebus.toml"), file).unwrap();
        let mut request = LoadRequest::new(Command::Run, BTreeMap::new(), dir.path().to_owned());
        request.system_file = dir.path().join("no-system-file");
        "host-1".clone_into(&mut request.host_name);
        Self { dir, request }
    }

    /// Without any file.
    fn bare() -> Self {
        let scene = Self::new("");
        fs::remove_file(scene.dir.path().join("sidebus.toml")).unwrap();
        scene
    }

    fn with(mut self, variables: &[(&str, &str)]) -> Self {
        self.request
            .environment
            .extend(variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())));
        self
    }

    fn set(mut self, key: &str, value: &str) -> Self {
        self.request.overrides.push((key.to_owned(), value.to_owned()));
        self
    }

    fn command(mut self, command: Command) -> Self {
        self.request.command = command;
        self
    }

    fn file(self, name: &str, text: &str) -> Self {
        let path = self.dir.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
        self
    }

    fn load(&self) -> Result<Loaded, Problems> {
        load(&self.request)
    }

    fn loaded(&self) -> Loaded {
        self.load().unwrap_or_else(|problems| panic!("{problems}"))
    }

    fn problems(&self) -> Problems {
        self.load().map(|loaded| panic!("no problem in {loaded:?}")).unwrap_err()
    }
}

/// The example of a service in production.
const PRODUCTION: &str = include_str!("../../../config/production.toml");

const MEMORY: (&str, &str) = ("BUS_BACKEND", "memory");

fn amqp(loaded: &Loaded) -> &AmqpSettings {
    match &loaded.settings.backend {
        Backend::Amqp(amqp) => amqp,
        Backend::Memory { .. } => panic!("the memory backend was chosen"),
    }
}

fn login(amqp: &AmqpSettings) -> (&str, &str) {
    match &amqp.login {
        Login::Password { username, password } => (username.expose_secret(), password.expose_secret()),
        Login::Token(token) => ("", token.expose_secret()),
        Login::Certificate => ("", ""),
    }
}

/// The first node.
fn node(amqp: &AmqpSettings) -> (&str, u16) {
    (amqp.nodes[0].host.as_str(), amqp.nodes[0].port)
}

fn subscription<'a>(loaded: &'a Loaded, name: &str) -> &'a Subscription {
    loaded.settings.subscriptions.iter().find(|subscription| subscription.name.as_str() == name).unwrap()
}

fn exchange(name: &str) -> ExchangeName {
    ExchangeName::parse(name).unwrap()
}
