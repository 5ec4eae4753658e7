//! A RabbitMQ node with the management plugin, for tests that see what AMQP does not show.

use std::time::Duration;

use secrecy::SecretString;
use sidebus::broker::amqp::{Management, ManagementOptions};
use tokio::sync::OnceCell;

use super::identity::Identity;
use super::ports;
use super::rabbitmq::BrokerHandle;

/// A node and where its management API listens.
#[derive(Debug)]
pub(crate) struct ManagedNode {
    pub(crate) node: BrokerHandle,
    pub(crate) port: u16,
    pub(crate) tls_port: u16,
    /// Who signs the certificate of the TLS listener.
    pub(crate) identity: Identity,
}

/// The node of this test process; it is started when the first test asks for it.
pub(crate) async fn managed() -> &'static ManagedNode {
    static MANAGED: OnceCell<ManagedNode> = OnceCell::const_new();
    MANAGED.get_or_init(ManagedNode::start).await
}

impl ManagedNode {
    async fn start() -> Self {
        let node = BrokerHandle::start().await;
        let identity = Identity::for_loopback();
        let [port, tls_port] = switch_on(&node, &identity).await;
        Self { node, port, tls_port, identity }
    }

    /// For asking it, as `guest`.
    pub(crate) fn options(&self) -> ManagementOptions {
        ManagementOptions {
            tls: false,
            host: "127.0.0.1".to_owned(),
            port: self.port,
            base_path: String::new(),
            username: SecretString::from("guest"),
            password: SecretString::from("guest"),
            ca_file: None,
            timeout: Duration::from_secs(20),
        }
    }

    /// A client for a virtual host, as `guest`.
    pub(crate) fn client(&self, vhost: &str) -> Management {
        Management::new(self.options(), vhost.to_owned())
    }

    /// `http://…` as settings name it.
    pub(crate) fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }
}

/// Switches the plugin on beside those that the node has; the ports of plain HTTP and of TLS.
pub(crate) async fn switch_on(node: &BrokerHandle, identity: &Identity) -> [u16; 2] {
    let [port, tls_port] = ports::free();
    let listen = |port: u16| format!("{{port, {port}}}, {{ip, \"127.0.0.1\"}}");
    let (certificate, key) = (der(&identity.certificate), der(&identity.key));
    let configs = [
        ("tcp_config", listen(port)),
        (
            "ssl_config",
            format!(
                "{}, {{verify, verify_none}}, {{cert, {certificate}}}, {{key, {{'PrivateKeyInfo', {key}}}}}",
                listen(tls_port)
            ),
        ),
    ];
    for (name, config) in configs {
        let set = format!("application:set_env(rabbitmq_management, {name}, [{config}], [{{persistent, true}}]).");
        node.ctl(&["eval", &set]).await;
    }
    let enable = "{ok, F} = application:get_env(rabbit, enabled_plugins_file), {ok, [Old]} = file:consult(F), \
                  ok = file:write_file(F, io_lib:format(\"~p.\", [[rabbitmq_management | Old]])), \
                  {ok, _, _} = rabbit_plugins:ensure(F).";
    node.ctl(&["eval", enable]).await;
    [port, tls_port]
}

/// The binary of a PEM text as an Erlang term.
fn der(pem: &str) -> String {
    let base64: String = pem.lines().filter(|line| !line.starts_with("-----")).collect();
    format!("base64:decode(\"{base64}\")")
}
