//! `[client]`: where commands find a running sidecar. Knows no transport.

use super::settings::{ClientSettings, ListenAddress};
use super::values::Values;

/// What is named, else the doors that a sidecar with these settings opens.
pub(super) fn read(values: &Values) -> ClientSettings {
    let client = values.section("client");
    let grpc = values.section("grpc");
    let listen = |section: &str| values.section(section).value::<Option<ListenAddress>>("listen");
    let endpoint = || grpc.optional("unix_socket").or_else(|| listen("grpc").as_ref().and_then(reachable));
    let admin = || listen("admin").or_else(|| listen("health")).as_ref().and_then(reachable);
    ClientSettings {
        endpoint: client.optional("endpoint").or_else(endpoint),
        admin_endpoint: client.optional("admin_endpoint").or_else(admin),
    }
}

/// The address to call for one that is listened on: "every address" is reached through loopback, and a port that the
/// system chose is known to nobody.
fn reachable(listen: &ListenAddress) -> Option<String> {
    let host = match listen.host.as_str() {
        "0.0.0.0" => "127.0.0.1",
        "::" => "::1",
        host => host,
    };
    (listen.port != 0).then(|| ListenAddress { host: host.to_owned(), port: listen.port }.to_string())
}
