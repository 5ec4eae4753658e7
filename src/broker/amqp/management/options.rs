//! Where the management API is and who we are there. Knows no settings file.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use secrecy::{ExposeSecret as _, SecretString};

use super::super::options::scrub;

/// Where the management API is, who we are there, and how long a call may take.
#[derive(Clone)]
pub struct ManagementOptions {
    /// True for `https://`.
    pub tls: bool,
    /// Host name or address; with TLS also the name that the certificate must carry.
    pub host: String,
    /// Such as 15672, or 15671 with TLS.
    pub port: u16,
    /// What stands before `/api`, such as `/rabbit` behind a proxy; usually empty. No slash at the end.
    pub base_path: String,
    /// Decoded.
    pub username: SecretString,
    /// Decoded.
    pub password: SecretString,
    /// PEM file of the only roots that are trusted; `None` = the system's, or those of `SSL_CERT_FILE`.
    pub ca_file: Option<PathBuf>,
    /// One call, from the name of the host to the last byte of the answer.
    pub timeout: Duration,
}

impl ManagementOptions {
    /// Scheme, host and port for people, without credentials.
    pub fn endpoint(&self) -> String {
        let scheme = if self.tls { "https" } else { "http" };
        format!("{scheme}://{}", self.authority())
    }

    /// Host and port as a request names them.
    pub(super) fn authority(&self) -> String {
        if self.host.contains(':') {
            return format!("[{}]:{}", self.host, self.port);
        }
        format!("{}:{}", self.host, self.port)
    }

    /// Who asks.
    pub(super) fn user(&self) -> &str {
        self.username.expose_secret()
    }

    /// A text without anything that could be the password.
    pub(super) fn scrub(&self, text: &str) -> String {
        scrub(text, self.username.expose_secret(), self.password.expose_secret())
    }
}

impl fmt::Debug for ManagementOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ManagementOptions")
            .field("endpoint", &self.endpoint())
            .field("base_path", &self.base_path)
            .field("ca_file", &self.ca_file)
            .field("timeout", &self.timeout)
            .finish_non_exhaustive()
    }
}
