//! The settings in the words of the RabbitMQ backend. Knows no door.

use std::sync::Arc;
use std::time::Duration;

use super::CLOSE_WITHIN;
use crate::broker::BrokerError;
use crate::broker::amqp::{
    AmqpBroker, AmqpOptions, Changes, IdentityFiles, Login, Management, ManagementInspector, ManagementOptions, Node,
    TlsOptions, Transport, WatchedFile,
};
use crate::config::{self, AmqpSettings, ManagementSettings, Problems, Settings};

/// With logins and addresses that lie in files read again at every connect.
pub(super) fn broker(amqp: &AmqpSettings, settings: &Settings) -> AmqpBroker {
    let broker = blind(amqp, settings).watching(watched(amqp));
    match &amqp.management {
        Some(management) => broker.inspected_by(Arc::new(inspector(management, amqp))),
        None => broker,
    }
}

/// Every file that a connect reads.
fn watched(amqp: &AmqpSettings) -> Vec<WatchedFile> {
    let mut files = amqp.files.as_ref().map(config::AccessFiles::files).unwrap_or_default();
    if let Some(tls) = &amqp.tls {
        let (certificate, key) = tls.identity.clone().unzip();
        let named = [("ca_file", tls.ca_file.clone()), ("cert_file", certificate), ("key_file", key)];
        let named = named.into_iter().filter_map(|(name, path)| Some((format!("bus.amqp.tls.{name}"), path?)));
        files.extend(named);
    }
    files.into_iter().map(|(key, path)| WatchedFile { key, path }).collect()
}

/// The eyes for what AMQP does not show, with the login and address that their files hold when they look.
fn inspector(first: &ManagementSettings, amqp: &AmqpSettings) -> ManagementInspector {
    let timeout = amqp.operation_timeout;
    let Some(files) = amqp.files.clone() else {
        return ManagementInspector::new(management(first, amqp.vhost.clone(), timeout));
    };
    let now = move || match files.management() {
        Ok(Some((settings, vhost))) => Ok(management(&settings, vhost, timeout)),
        // Files take no key away.
        Ok(None) => Err("bus.amqp.management.url is not given any more".to_owned()),
        Err(problems) => Err(told(&problems)),
    };
    ManagementInspector::rereading(Arc::new(now))
}

fn management(settings: &ManagementSettings, vhost: String, timeout: Duration) -> Management {
    let options = ManagementOptions {
        tls: settings.tls,
        host: settings.host.clone(),
        port: settings.port,
        base_path: settings.base_path.clone(),
        username: settings.username.clone(),
        password: settings.password.clone(),
        ca_file: settings.ca_file.clone(),
        timeout,
    };
    Management::new(options, vhost)
}

fn blind(amqp: &AmqpSettings, settings: &Settings) -> AmqpBroker {
    let (name, confirm_timeout) = (format!("sidebus {}", settings.instance), settings.publish.confirm_timeout);
    let first = options(amqp, &name, confirm_timeout);
    let Some(files) = amqp.files.clone() else { return AmqpBroker::new(first) };
    let now = move || match files.read() {
        Ok(amqp) => Ok(options(&amqp, &name, confirm_timeout)),
        Err(problems) => Err(BrokerError::Unreadable { reason: told(&problems) }),
    };
    AmqpBroker::with_changes(first, Changes::Reread(Arc::new(now)))
}

fn told(problems: &Problems) -> String {
    let told: Vec<String> = problems.iter().map(|problem| format!("{}: {}", problem.key, problem.why)).collect();
    told.join("; ")
}

fn options(amqp: &AmqpSettings, name: &str, confirm_timeout: Duration) -> AmqpOptions {
    let node = |node: &config::Node| Node { host: node.host.clone(), port: node.port };
    AmqpOptions {
        nodes: amqp.nodes.iter().map(node).collect(),
        transport: match &amqp.tls {
            None => Transport::Plain,
            Some(tls) => Transport::Tls(TlsOptions {
                ca_file: tls.ca_file.clone(),
                identity: tls.identity.clone().map(|(cert_file, key_file)| IdentityFiles { cert_file, key_file }),
                server_name: tls.server_name.clone(),
            }),
        },
        login: match &amqp.login {
            config::Login::Password { username, password } => {
                Login::Password { username: username.clone(), password: password.clone() }
            }
            config::Login::Certificate => Login::Certificate,
            config::Login::Token(token) => Login::Token(token.clone()),
        },
        vhost: amqp.vhost.clone(),
        connection_name: name.to_owned(),
        heartbeat: amqp.heartbeat,
        preflight_timeout: amqp.preflight_timeout,
        connect_timeout: amqp.connect_timeout,
        operation_timeout: amqp.operation_timeout,
        confirm_timeout,
        close_timeout: CLOSE_WITHIN,
        pool_size_max: amqp.pool_size_max,
        pool_wait_timeout: amqp.pool_wait_timeout,
    }
}
