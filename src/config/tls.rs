//! `bus.amqp.tls.*`: whom we trust and who we are. Reads no certificate: whoever connects does, each time anew.

use std::path::{Path, PathBuf};

use super::problem::{Fault, Problems, unreadable_why};
use super::settings::TlsSettings;
use super::values::Section;

/// Keys that mean nothing in plain AMQP.
const KEYS: [&str; 4] = ["tls.ca_file", "tls.cert_file", "tls.key_file", "tls.server_name"];

/// True when a key is given that means nothing without TLS.
pub(super) fn is_asked(amqp: &Section<'_>) -> bool {
    KEYS.iter().any(|key| amqp.given(key).is_some())
}

/// The settings for an address with TLS; for one without, every key that would be passed over is a problem.
pub(super) fn read(
    amqp: &Section<'_>,
    working_dir: &Path,
    is_on: bool,
    problems: &mut Problems,
) -> Option<TlsSettings> {
    if !is_on {
        for key in KEYS.into_iter().filter(|key| amqp.given(key).is_some()) {
            let fault = Fault::new("is not used: the address is plain AMQP");
            problems.push(amqp.problem(key, fault.hint("write amqps://, or set bus.amqp.tls.require beside the host")));
        }
        return None;
    }
    let mut file = |key: &str| readable(amqp, key, working_dir, problems);
    let (ca_file, cert_file, key_file) = (file("tls.ca_file"), file("tls.cert_file"), file("tls.key_file"));
    for (key, other) in [("tls.cert_file", "tls.key_file"), ("tls.key_file", "tls.cert_file")] {
        if amqp.given(key).is_some() && amqp.given(other).is_none() {
            problems.push(
                amqp.problem(key, Fault::new("is half of a client certificate").hint(format!("set bus.amqp.{other}"))),
            );
        }
    }
    let server_name: Option<String> = amqp.optional("tls.server_name");
    if let Some(name) = &server_name {
        let is_address = name.parse::<std::net::IpAddr>().is_ok();
        let is_name = name.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_'));
        if !is_address && !is_name {
            problems
                .push(amqp.problem("tls.server_name", Fault::new("not a host name").hint("without scheme and port")));
        }
    }
    Some(TlsSettings { ca_file, identity: cert_file.zip(key_file), server_name })
}

/// The path of a file that is there now: a wrong path is told at the start and not by the first handshake.
fn readable(amqp: &Section<'_>, key: &str, working_dir: &Path, problems: &mut Problems) -> Option<PathBuf> {
    let path = working_dir.join(amqp.optional::<String>(key)?);
    if let Err(error) = std::fs::File::open(&path) {
        let fault = Fault::new(format!("the file cannot be read: {}", unreadable_why(&error)));
        problems.push_unreadable(amqp.problem(key, fault.hint("mount the file, or correct the path")));
    }
    Some(path)
}
