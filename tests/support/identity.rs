//! Certificates for brokers and clients of tests, made anew for each.

use std::fs;
use std::path::Path;

use rcgen::{CertificateParams, DnType, Issuer, KeyPair};

use super::tokens::TokenIssuer;

/// Signs certificates. Nobody else trusts it.
#[derive(Debug)]
pub(crate) struct Authority {
    /// In PEM.
    pub(crate) certificate: String,
    issuer: Issuer<'static, KeyPair>,
}

/// A certificate and its key, in PEM.
#[derive(Debug, Clone)]
pub(crate) struct Pair {
    pub(crate) certificate: String,
    pub(crate) key: String,
}

/// Until when a certificate is good.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Valid {
    Now,
    InThePast,
}

impl Authority {
    pub(crate) fn new() -> Self {
        let key = KeyPair::generate().expect("a key");
        let mut params = CertificateParams::new(Vec::new()).expect("an authority without names");
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, "tests");
        let certificate = params.self_signed(&key).expect("an authority").pem();
        Self { certificate, issuer: Issuer::new(params, key) }
    }

    /// For a listener with these names.
    pub(crate) fn server(&self, names: &[&str], valid: Valid) -> Pair {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        self.sign(CertificateParams::new(names).expect("good names"), valid)
    }

    /// For a client whose common name is its user at the broker.
    pub(crate) fn client(&self, user: &str, valid: Valid) -> Pair {
        let mut params = CertificateParams::new(Vec::new()).expect("no names");
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, user);
        params.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::ClientAuth];
        self.sign(params, valid)
    }

    fn sign(&self, mut params: CertificateParams, valid: Valid) -> Pair {
        if valid == Valid::InThePast {
            params.not_before = rcgen::date_time_ymd(2001, 1, 1);
            params.not_after = rcgen::date_time_ymd(2002, 1, 1);
        }
        let key = KeyPair::generate().expect("a key");
        let certificate = params.signed_by(&key, &self.issuer).expect("a certificate").pem();
        Pair { certificate, key: key.serialize_pem() }
    }
}

/// Whom a TLS listener lets in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Peers {
    Anyone,
    /// Who shows a certificate of the same authority; it may be the login, too.
    Certified,
}

/// What a TLS listener shows; everything in PEM.
#[derive(Debug)]
pub(crate) struct Identity {
    pub(crate) authority: String,
    pub(crate) certificate: String,
    pub(crate) key: String,
    pub(crate) peers: Peers,
    /// Key of an issuer whose tokens the broker takes, in PEM.
    pub(crate) token_key: Option<String>,
}

impl Identity {
    /// For 127.0.0.1 and localhost, by an authority that nobody else trusts.
    pub(crate) fn for_loopback() -> Self {
        Self::of(&Authority::new(), &["127.0.0.1", "localhost"], Peers::Anyone)
    }

    /// For these names.
    pub(crate) fn of(authority: &Authority, names: &[&str], peers: Peers) -> Self {
        let Pair { certificate, key } = authority.server(names, Valid::Now);
        Self { authority: authority.certificate.clone(), certificate, key, peers, token_key: None }
    }

    /// Lines of the broker's settings file for a TLS listener; writes the files that they name. The folder comes as this process sees
    /// it and as the broker does.
    pub(crate) fn settings(&self, (folder, seen): (&Path, &Path), port: u16) -> String {
        let files = [("cacertfile", &self.authority), ("certfile", &self.certificate), ("keyfile", &self.key)];
        let lines = files.map(|(name, text)| {
            let file = format!("{name}.pem");
            fs::write(folder.join(&file), text).expect("a PEM file");
            format!("ssl_options.{name} = {}\n", seen.join(file).display())
        });
        let peers = match self.peers {
            Peers::Anyone => "ssl_options.verify = verify_none\n",
            Peers::Certified => {
                "ssl_options.verify = verify_peer\nssl_options.fail_if_no_peer_cert = true\n\
                 auth_mechanisms.1 = PLAIN\nauth_mechanisms.2 = EXTERNAL\nssl_cert_login_from = common_name\n"
            }
        };
        let tokens = self.token_key.as_ref().map_or_else(String::new, |key| {
            let file = "token-key.pem";
            fs::write(folder.join(file), key).expect("a PEM file");
            TokenIssuer::settings(&seen.join(file))
        });
        format!("listeners.ssl.1 = 127.0.0.1:{port}\n{peers}{tokens}{}", lines.concat())
    }

    /// Plugins that the broker needs for it, as its file of them lists them.
    pub(crate) fn plugins(&self) -> String {
        let certificates = (self.peers == Peers::Certified).then_some("rabbitmq_auth_mechanism_ssl");
        let tokens = self.token_key.as_ref().map(|_| "rabbitmq_auth_backend_oauth2");
        certificates.into_iter().chain(tokens).collect::<Vec<_>>().join(",")
    }
}
