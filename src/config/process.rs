//! `[grpc]`, `[admin]`, `[health]`, `[log]`, `[shutdown]`, `[limits]`: what the process itself keeps to.

use std::time::Duration;

use super::problem::{Fault, Problems, Warning};
use super::settings::{
    AdminSettings, GrpcSettings, HealthSettings, LimitSettings, ListenAddress, LogFormat, LogSettings, PublishSettings,
    Readiness, ShutdownSettings,
};
use super::value::write_duration;
use super::values::{Section, Values};

/// `bus.amqp.publish.*`
pub(super) fn publish(values: &Values) -> PublishSettings {
    let publish = values.section("bus.amqp.publish");
    PublishSettings {
        lanes: publish.value("lanes"),
        batch_max: publish.value("batch_max"),
        confirm_timeout: publish.value("confirm_timeout"),
    }
}

/// `[grpc]`
pub(super) fn grpc(values: &Values, problems: &mut Problems, warnings: &mut Vec<Warning>) -> GrpcSettings {
    let grpc = values.section("grpc");
    let listen = grpc.value::<Option<ListenAddress>>("listen").unwrap_or_else(|| {
        let fault = Fault::new("without it handlers have no door: a Unix socket is not supported in this release");
        problems.push(grpc.problem("listen", fault));
        ListenAddress { host: "127.0.0.1".to_owned(), port: 0 }
    });
    guard(&grpc, &listen, problems, warnings);
    GrpcSettings {
        message_bytes_max: grpc.value("max_message_bytes"),
        window_bytes: grpc.value("window_bytes"),
        handlers_may_declare: grpc.value_or("handlers_may_declare", listen.is_loopback()),
        reflection: grpc.value_or("reflection", listen.is_loopback()),
        listen,
    }
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

/// Two doors cannot share an address; port 0 is a free one each time.
pub(super) fn refuse_shared_addresses(values: &Values, problems: &mut Problems) {
    let mut taken: Vec<(&str, ListenAddress)> = Vec::new();
    for name in ["grpc", "admin", "health"] {
        let door = values.section(name);
        let Some(listen) = door.value::<Option<ListenAddress>>("listen").filter(|listen| listen.port != 0) else {
            continue;
        };
        if let Some((other, _)) = taken.iter().find(|(_, other)| *other == listen) {
            problems
                .push(door.problem("listen", Fault::new(format!("{other}.listen has the address {listen} already"))));
        }
        taken.push((name, listen));
    }
}

/// `[log]`
pub(super) fn log(values: &Values) -> LogSettings {
    let log = values.section("log");
    let level: &'static str = log.value("level");
    let format = match log.value("format") {
        "human" => LogFormat::Human,
        "json" => LogFormat::Json,
        _ => LogFormat::Auto,
    };
    LogSettings { filter: log.value_or("filter", level.to_owned()), format }
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
        publishes_in_flight: limits.value("publishes_in_flight"),
        publish_bytes: limits.value("publish_bytes"),
    }
}
