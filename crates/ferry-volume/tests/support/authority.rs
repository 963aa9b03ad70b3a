//! A certificate authority that exists for one run of a test or a benchmark, and workers that it has signed.

use std::path::Path;

/// What signs.
pub struct Authority(rcgen::CertifiedIssuer<'static, rcgen::KeyPair>);

impl Authority {
    /// One that nobody else believes.
    pub fn new() -> Self {
        let mut params = rcgen::CertificateParams::default();
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let key = rcgen::KeyPair::generate().expect("a key is made");
        Self(rcgen::CertifiedIssuer::self_signed(params, key).expect("an authority signs itself"))
    }

    /// Writes a directory of certificates for a worker at `host`.
    pub fn sign(&self, dir: &Path, host: &str) {
        self.sign_as(dir, host, None);
    }

    /// The same, and the certificates name the worker: by a URI, and by its last part.
    pub fn sign_as(&self, dir: &Path, host: &str, uri: Option<&str>) {
        let write =
            |name: &str, text: String| std::fs::write(dir.join(name), text).expect("a file is written");
        write("ca-cert.pem", self.0.pem());
        for side in ["server", "client"] {
            let key = rcgen::KeyPair::generate().expect("a key is made");
            let mut params =
                rcgen::CertificateParams::new(vec![host.to_owned()]).expect("the host is a name");
            if let Some((uri, (_, name))) = uri.and_then(|uri| Some((uri, uri.rsplit_once('/')?))) {
                params.subject_alt_names.push(rcgen::SanType::URI(uri.try_into().expect("a URI is ASCII")));
                params.distinguished_name = rcgen::DistinguishedName::new();
                params.distinguished_name.push(rcgen::DnType::CommonName, name);
            }
            let certificate = params.signed_by(&key, &self.0).expect("an authority signs");
            write(&format!("{side}-cert.pem"), certificate.pem());
            write(&format!("{side}-key.pem"), key.serialize_pem());
        }
    }
}
