//! Makes a socket a TLS stream: whom we trust, who we are, and why a handshake failed. Knows no AMQP.
//!
//! The files are read at every handshake. Checking the broker cannot be switched off.

use std::io;
use std::path::Path;

use lapin::tcp::{AsyncTcpStream, RustlsConnector, RustlsConnectorConfig};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{AlertDescription, CertificateError};

use super::link::Stream;
use super::options::{IdentityFiles, TlsOptions};
use crate::broker::{BrokerError, TlsFault};

/// What is wrong, before it is said of which endpoint.
#[derive(Debug)]
pub(super) struct Failure {
    fault: TlsFault,
    reason: String,
}

impl Failure {
    fn new(fault: TlsFault, reason: impl Into<String>) -> Self {
        Self { fault, reason: reason.into() }
    }

    /// In words.
    pub(super) fn into_reason(self) -> String {
        self.reason
    }

    /// The error of an endpoint.
    pub(super) fn at(self, endpoint: String) -> BrokerError {
        BrokerError::Tls { endpoint, reason: self.reason, fault: self.fault }
    }
}

/// The handshake. `host` is the name that is checked where no other is set; the files are keys of `section`.
pub(super) async fn secure(
    plain: Stream,
    (host, section): (&str, &str),
    options: &TlsOptions,
) -> Result<Stream, Failure> {
    let connector = connector(options, section).await?;
    let name = options.server_name.as_deref().unwrap_or(host);
    let shaken = plain.into_rustls(&connector, name).await.map_err(|error| handshake(&error, name))?;
    // Built without a TLS feature, lapin hands a plain stream back and would send the password over it. The variant
    // exists only with the feature, so such a build fails here, and at run time nothing else passes.
    if matches!(shaken, AsyncTcpStream::Rustls(_)) {
        Ok(shaken)
    } else {
        Err(Failure::new(TlsFault::Other, "the stream is not encrypted"))
    }
}

async fn connector(options: &TlsOptions, section: &str) -> Result<RustlsConnector, Failure> {
    let config = match &options.ca_file {
        Some(file) => {
            let mut trusted = RustlsConnectorConfig::default();
            trusted.add_parsable_certificates(certificates(file, &format!("{section}.ca_file")).await?);
            trusted
        }
        // The platform's roots, or those that SSL_CERT_FILE names.
        None => RustlsConnectorConfig::new_with_native_certs().map_err(|error| {
            Failure::new(TlsFault::UnknownAuthority, format!("this host trusts no authority at all: {error}"))
        })?,
    };
    let built = match &options.identity {
        Some(files) => {
            let (chain, key) = identity(files, section).await?;
            config.connector_with_single_cert(chain, key)
        }
        None => config.connector_with_no_client_auth(),
    };
    built.map_err(|error| Failure::new(TlsFault::OwnFiles, format!("the TLS files do not go together: {error}")))
}

/// Whether the files could be used now.
pub(super) async fn reads_well(options: &TlsOptions) -> bool {
    connector(options, "").await.is_ok()
}

async fn identity(
    files: &IdentityFiles,
    section: &str,
) -> Result<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>), Failure> {
    let chain = certificates(&files.cert_file, &format!("{section}.cert_file")).await?;
    let key = format!("{section}.key_file");
    let text = read(&files.key_file, &key).await?;
    // Without the library's text: it may quote the key.
    let parsed = PrivateKeyDer::from_pem_slice(&text).map_err(|_| {
        let shown = files.key_file.display();
        Failure::new(TlsFault::OwnFiles, format!("{key} ({shown}) holds no private key in PEM that is not encrypted"))
    })?;
    Ok((chain, parsed))
}

async fn certificates(file: &Path, key: &str) -> Result<Vec<CertificateDer<'static>>, Failure> {
    let text = read(file, key).await?;
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&text).collect();
    match found {
        Ok(found) if !found.is_empty() => Ok(found),
        Ok(_) | Err(_) => {
            Err(Failure::new(TlsFault::OwnFiles, format!("{key} ({}) holds no certificate in PEM", file.display())))
        }
    }
}

async fn read(file: &Path, key: &str) -> Result<Vec<u8>, Failure> {
    tokio::fs::read(file).await.map_err(|error| {
        Failure::new(TlsFault::OwnFiles, format!("{key} ({}) cannot be read: {error}", file.display()))
    })
}

fn handshake(error: &io::Error, name: &str) -> Failure {
    let Some(told) = told(error) else { return Failure::new(TlsFault::Other, error.to_string()) };
    failure(told, name)
}

/// TLS's own word in an error of a stream. With TLS 1.3 a client certificate that is missing or bad is refused only
/// after the handshake, at the first read.
pub(super) fn told(error: &io::Error) -> Option<&rustls::Error> {
    error.get_ref()?.downcast_ref()
}

/// What TLS has told of a stream towards `name`.
pub(super) fn failure(error: &rustls::Error, name: &str) -> Failure {
    if let rustls::Error::InvalidCertificate(why) = error {
        return of_the_broker(why, name);
    }
    if let rustls::Error::AlertReceived(alert) = error {
        return of_ours(*alert);
    }
    if let rustls::Error::InvalidMessage(_) = error {
        return Failure::new(TlsFault::NoTls, format!("what answers does not speak TLS: {error}"));
    }
    Failure::new(TlsFault::Other, error.to_string())
}

/// The library's lists are open for more; what is not named here keeps its words.
fn of_the_broker(why: &CertificateError, name: &str) -> Failure {
    let is_expired = matches!(why, CertificateError::Expired | CertificateError::ExpiredContext { .. });
    let is_early = matches!(why, CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. });
    let is_other = matches!(why, CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. });
    if is_expired {
        Failure::new(TlsFault::Expired, format!("the broker's certificate has expired ({why})"))
    } else if is_early {
        Failure::new(TlsFault::Expired, format!("the broker's certificate is not valid yet ({why})"))
    } else if is_other {
        Failure::new(TlsFault::WrongName, format!("the broker's certificate is not for {name:?} ({why})"))
    } else if matches!(why, CertificateError::UnknownIssuer | CertificateError::BadSignature) {
        Failure::new(
            TlsFault::UnknownAuthority,
            format!("the broker's certificate is by no authority that is trusted ({why})"),
        )
    } else {
        Failure::new(TlsFault::Other, format!("the broker's certificate is refused ({why})"))
    }
}

/// Alerts that a broker sends about the certificate of a client. Their list is another's, open for more; what is not
/// named here keeps its word.
fn of_ours(alert: AlertDescription) -> Failure {
    let words = [
        (AlertDescription::CertificateRequired, "wants a client certificate and got none"),
        (AlertDescription::CertificateExpired, "says that our client certificate has expired"),
        (AlertDescription::UnknownCA, "does not trust the authority of our client certificate"),
        (AlertDescription::CertificateRevoked, "says that our client certificate is revoked"),
        (AlertDescription::BadCertificate, "refuses our client certificate"),
        (AlertDescription::CertificateUnknown, "refuses our client certificate"),
        (AlertDescription::UnsupportedCertificate, "cannot use our client certificate"),
        // With TLS 1.2 the answer to a missing client certificate; there are other reasons for it, too.
        (AlertDescription::HandshakeFailure, "refused the handshake: perhaps it wants a client certificate"),
    ];
    match words.into_iter().find(|(known, _)| *known == alert) {
        Some((_, what)) => Failure::new(TlsFault::ClientCertificate, format!("the broker {what}")),
        None => Failure::new(TlsFault::Other, format!("the broker ended the handshake: {alert:?}")),
    }
}
