//! Certificates for brokers of tests, made anew for each.

use std::fs;
use std::path::Path;

/// What a TLS listener shows; everything in PEM.
#[derive(Debug)]
pub(crate) struct Identity {
    pub(crate) authority: String,
    pub(crate) certificate: String,
    pub(crate) key: String,
}

impl Identity {
    /// For 127.0.0.1 and localhost, by an authority that nobody else trusts.
    pub(crate) fn for_loopback() -> Self {
        let authority_key = rcgen::KeyPair::generate().expect("a key");
        let mut authority = rcgen::CertificateParams::new(Vec::new()).expect("an authority without names");
        authority.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        authority.distinguished_name.push(rcgen::DnType::CommonName, "tests");
        let authority_text = authority.self_signed(&authority_key).expect("an authority").pem();
        let issuer = rcgen::Issuer::new(authority, authority_key);
        let key = rcgen::KeyPair::generate().expect("a key");
        let names = ["127.0.0.1", "localhost"].map(str::to_owned);
        let leaf = rcgen::CertificateParams::new(names).expect("good names").signed_by(&key, &issuer);
        Self { authority: authority_text, certificate: leaf.expect("a certificate").pem(), key: key.serialize_pem() }
    }

    /// Lines of the broker's settings file for a TLS listener; writes the files that they name.
    pub(crate) fn settings(&self, folder: &Path, port: u16) -> String {
        let files = [("cacertfile", &self.authority), ("certfile", &self.certificate), ("keyfile", &self.key)];
        let lines = files.map(|(name, text)| {
            let path = folder.join(format!("{name}.pem"));
            fs::write(&path, text).expect("a PEM file");
            format!("ssl_options.{name} = {}\n", path.display())
        });
        format!("listeners.ssl.1 = 127.0.0.1:{port}\nssl_options.verify = verify_none\n{}", lines.concat())
    }
}
