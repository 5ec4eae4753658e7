//! A RabbitMQ in a container, where an engine answers and no server is installed. Removed when this process ends.

use std::path::Path;
use std::process::{Command, Stdio};

use testcontainers::core::{IntoContainerPort as _, WaitFor};
use testcontainers::runners::AsyncRunner as _;
use testcontainers::{ContainerAsync, GenericImage};

/// The newest series; tests of single versions start their own.
const IMAGE: (&str, &str) = ("rabbitmq", "4");
/// Where engines listen unless `DOCKER_HOST` says otherwise.
const SOCKETS: [&str; 2] = ["/var/run/docker.sock", "/run/podman/podman.sock"];
/// Waits for the end of its input, which is the end of the test process, then removes the container.
const WATCHDOG: &str = r#"read -r _; docker rm -f "$0" || podman rm -f "$0""#;

/// A started broker.
#[derive(Debug)]
pub(crate) struct BrokerContainer {
    pub(crate) port: u16,
    _container: ContainerAsync<GenericImage>,
    _watchdog: std::process::Child,
}

/// True if an engine can be asked.
#[expect(clippy::disallowed_methods, reason = "DOCKER_HOST is the engines' own way to name their socket")]
pub(crate) fn engine_is_there() -> bool {
    std::env::var_os("DOCKER_HOST").is_some() || SOCKETS.iter().any(|socket| Path::new(socket).exists())
}

/// Starts one and waits until it is ready.
pub(crate) async fn start() -> BrokerContainer {
    let image = GenericImage::new(IMAGE.0, IMAGE.1)
        .with_exposed_port(5672.tcp())
        .with_wait_for(WaitFor::message_on_stdout("Server startup complete"));
    let container = image.start().await.expect("the engine starts a RabbitMQ");
    let port = container.get_host_port_ipv4(5672).await.expect("the port of the container");
    // A static is never dropped, so the container would outlive the tests.
    let watchdog = Command::new("sh")
        .args(["-c", WATCHDOG, container.id()])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("a shell");
    BrokerContainer { port, _container: container, _watchdog: watchdog }
}
