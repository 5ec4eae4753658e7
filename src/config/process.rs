//! `[grpc]`, `[admin]`, `[health]`, `[log]`, `[shutdown]`, `[limits]`: what the process itself keeps to.

use std::path::Path;
use std::time::Duration;

use tracing_subscriber::EnvFilter;

use super::problem::{Fault, Problems, Warning};
use super::settings::{
    AdminSettings, GrpcSettings, HealthSettings, LimitSettings, ListenAddress, LogFormat, LogSettings, PublishSettings,
    Readiness, ShutdownSettings, SocketSettings,
};
use super::value::write_duration;
use super::values::{Section, Values};

/// Room for a path in `sockaddr_un`, the zero at its end not counted: 108 bytes on Linux, 104 on macOS.
const SOCKET_PATH_BYTES_MAX: usize = if cfg!(target_os = "linux") { 107 } else { 103 };
/// Read, write and execute for owner, group and others.
const SOCKET_MODE_MAX: u32 = 0o777;

/// `bus.amqp.publish.*`
pub(super) fn publish(values: &Values) -> PublishSettings {
    let publish = values.section("bus.amqp.publish");
    PublishSettings {
        lanes: publish.value("lanes"),
        batch_max: publish.value("batch_max"),
        confirm_timeout: publish.value("confirm_timeout"),
        window: publish.value("window"),
        window_bytes: publish.value("window_bytes"),
    }
}

/// `[grpc]`
pub(super) fn grpc(
    values: &Values,
    working_dir: &Path,
    problems: &mut Problems,
    warnings: &mut Vec<Warning>,
) -> GrpcSettings {
    let grpc = values.section("grpc");
    let listen: Option<ListenAddress> = grpc.value("listen");
    let unix_socket = socket(&grpc, working_dir, problems);
    if listen.is_none() && unix_socket.is_none() {
        let fault = Fault::new("is off, and there is no socket: handlers have no door");
        problems.push(grpc.problem("listen", fault.hint("set grpc.unix_socket, or an address")));
    }
    if let Some(listen) = &listen {
        guard(&grpc, listen, problems, warnings);
    }
    // Whoever is on this machine is trusted; one door that others reach ends that.
    let is_local = listen.as_ref().is_none_or(ListenAddress::is_loopback);
    GrpcSettings {
        message_bytes_max: grpc.value("max_message_bytes"),
        window_bytes: grpc.value("window_bytes"),
        handlers_may_declare: grpc.value_or("handlers_may_declare", is_local),
        reflection: grpc.value_or("reflection", is_local),
        allowed_authorities: authorities(&grpc, listen.as_ref()),
        keepalive_interval: grpc.value("keepalive_interval"),
        keepalive_timeout: grpc.value("keepalive_timeout"),
        listen,
        unix_socket,
    }
}

/// The names under which a door on loopback may be addressed: a page in a browser must not reach it through a name of its
/// own that leads here (DNS rebinding). Beyond loopback callers use names that only the operator knows.
fn authorities(grpc: &Section<'_>, listen: Option<&ListenAddress>) -> Option<Vec<String>> {
    let given: Option<Vec<String>> = grpc.optional("allowed_authorities");
    let listen = listen.filter(|listen| listen.is_loopback());
    let own = |listen: &ListenAddress| {
        vec!["localhost".to_owned(), "127.0.0.1".to_owned(), "[::1]".to_owned(), listen.to_string()]
    };
    given.or_else(|| listen.map(own))
}

/// `grpc.unix_socket*`; what belongs to a socket and finds none is a problem.
fn socket(grpc: &Section<'_>, working_dir: &Path, problems: &mut Problems) -> Option<SocketSettings> {
    let mode: String = grpc.value("unix_socket_mode");
    let mode = u32::from_str_radix(&mode, 8).ok().filter(|mode| *mode <= SOCKET_MODE_MAX);
    if mode.is_none() {
        let fault = Fault::new("not the mode of a socket").hint("write it in octal, such as \"0660\"");
        problems.push(grpc.problem("unix_socket_mode", fault));
    }
    let given: Vec<String> = grpc.value_or("unix_socket_uids", Vec::new());
    let uids: Result<Vec<u32>, _> = given.iter().map(|uid| uid.parse()).collect();
    if uids.is_err() || (given.is_empty() && grpc.given("unix_socket_uids").is_some()) {
        let fault = Fault::new("must be numbers of users").hint("write [1000]; leave it out for any user");
        problems.push(grpc.problem("unix_socket_uids", fault));
    }
    let Some(path) = grpc.optional::<String>("unix_socket") else {
        for key in ["unix_socket_mode", "unix_socket_uids"].into_iter().filter(|key| grpc.given(key).is_some()) {
            let fault = Fault::new("is not used: there is no socket").hint("set grpc.unix_socket");
            problems.push(grpc.problem(key, fault));
        }
        return None;
    };
    let path = working_dir.join(path);
    if path.as_os_str().len() > SOCKET_PATH_BYTES_MAX {
        let fault = Fault::new(format!("{} is longer than {SOCKET_PATH_BYTES_MAX} bytes", path.display()));
        problems.push(grpc.problem("unix_socket", fault.hint("the system takes no longer path of a socket")));
    }
    Some(SocketSettings { path, mode: mode.unwrap_or_default(), uids: uids.unwrap_or_default() })
}

/// `[admin]`
pub(super) fn admin(values: &Values, problems: &mut Problems, warnings: &mut Vec<Warning>) -> AdminSettings {
    let admin = values.section("admin");
    let listen: Option<ListenAddress> = admin.value("listen");
    if let Some(listen) = &listen {
        guard(&admin, listen, problems, warnings);
    }
    AdminSettings { listen }
}

/// Beyond loopback a door needs TLS and an identity, which come later, or the word of the operator.
fn guard(door: &Section<'_>, listen: &ListenAddress, problems: &mut Problems, warnings: &mut Vec<Warning>) {
    if listen.is_loopback() {
        return;
    }
    if door.value("insecure") {
        let what = format!("{listen} is open to everybody who reaches it, in plaintext and without identity");
        warnings.push(Warning::new(door.path("insecure"), door.origin("insecure"), what));
        return;
    }
    let fault = Fault::new("beyond loopback a door needs TLS, which is not supported in this release");
    let hint = format!("listen on 127.0.0.1, or set {} = true where the network is trusted", door.path("insecure"));
    problems.push(door.problem("listen", fault.hint(hint)));
}

/// `[health]`
pub(super) fn health(values: &Values) -> HealthSettings {
    let health = values.section("health");
    let readiness = match health.value("readiness") {
        "broker" => Readiness::Broker,
        "process" => Readiness::Process,
        _ => Readiness::ConnectedOnce,
    };
    HealthSettings { listen: health.value("listen"), readiness }
}

/// Two doors cannot share an address.
pub(super) fn refuse_shared_addresses(values: &Values, problems: &mut Problems) {
    let mut taken: Vec<(&str, ListenAddress)> = Vec::new();
    for name in ["grpc", "admin", "health"] {
        let door = values.section(name);
        let Some(listen) = door.value::<Option<ListenAddress>>("listen") else { continue };
        if let Some((other, address)) = taken.iter().find(|(_, other)| other.clashes_with(&listen)) {
            problems
                .push(door.problem("listen", Fault::new(format!("{other}.listen has the address {address} already"))));
        }
        taken.push((name, listen));
    }
}

/// `[log]`
pub(super) fn log(values: &Values, problems: &mut Problems) -> LogSettings {
    let log = values.section("log");
    let level: &'static str = log.value("level");
    let format = match log.value("format") {
        "human" => LogFormat::Human,
        "json" => LogFormat::Json,
        _ => LogFormat::Auto,
    };
    let filter = log.value_or("filter", level.to_owned());
    if let Err(error) = EnvFilter::try_new(&filter) {
        let fault = Fault::new(format!("is not a log filter: {error}"));
        problems.push(log.problem("filter", fault.hint("write levels, or target=level, joined by commas")));
    }
    LogSettings { filter, format }
}

/// `[shutdown]`: the drain is what the other phases leave of the budget, unless it is given.
pub(super) fn shutdown(values: &Values, problems: &mut Problems) -> ShutdownSettings {
    let shutdown = values.section("shutdown");
    let budget: Duration = shutdown.value("budget");
    let mut phases = ShutdownSettings {
        notice: shutdown.value("notice"),
        intake: shutdown.value("intake"),
        drain: Duration::ZERO,
        give_back: shutdown.value("return"),
        close: shutdown.value("close"),
        exit_when_idle: shutdown.value("exit_when_idle"),
    };
    let others = phases.notice + phases.intake + phases.give_back + phases.close;
    phases.drain = shutdown.value_or("drain", budget.saturating_sub(others));
    let sum = others + phases.drain;
    if sum > budget {
        let (sum, budget) = (write_duration(sum), write_duration(budget));
        let fault = Fault::new(format!("the phases add up to {sum}, the budget is {budget}"));
        problems
            .push(shutdown.problem("budget", fault.hint("shorten shutdown.notice, intake, drain, return or close")));
    }
    phases
}

/// `[limits]`
pub(super) fn limits(values: &Values) -> LimitSettings {
    let limits = values.section("limits");
    LimitSettings {
        header_bytes: limits.value("header_bytes"),
        header_depth: limits.value("header_depth"),
        open_timeout: limits.value("open_timeout"),
        connections_per_peer: limits.value("connections_per_peer"),
        streams_per_connection: limits.value("streams_per_connection"),
        publishes_in_flight: limits.value("publishes_in_flight"),
        publish_bytes: limits.value("publish_bytes"),
    }
}
