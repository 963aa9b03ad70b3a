//! An authority of one test, and what it has signed.

use crate::http::{ClientTls, ServerTls};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{ClientConfig, RootCertStore, ServerConfig, version};
use std::sync::Arc;

pub struct Authority(CertifiedIssuer<'static, KeyPair>);

/// A certificate for 127.0.0.1, and its key.
pub struct Signed {
    pub certificate: CertificateDer<'static>,
    key: KeyPair,
}

impl Signed {
    fn chain(&self) -> (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>) {
        let key = PrivatePkcs8KeyDer::from(self.key.serialize_der());
        (vec![self.certificate.clone()], key.into())
    }
}

impl Authority {
    pub fn new() -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        Self(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    pub fn sign(&self) -> Signed {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap();
        Signed { certificate: params.signed_by(&key, &self.0).unwrap().der().clone(), key }
    }

    fn roots(&self) -> Arc<RootCertStore> {
        let mut roots = RootCertStore::empty();
        roots.add(self.0.der().clone()).unwrap();
        Arc::new(roots)
    }

    /// A server that takes callers with and without certificates.
    pub fn server(&self, shown: &Signed) -> ServerConfig {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let verifier = WebPkiClientVerifier::builder_with_provider(self.roots(), Arc::clone(&provider));
        let verifier = verifier.allow_unauthenticated().build().unwrap();
        let config = ServerConfig::builder_with_provider(provider);
        let config = config.with_protocol_versions(&[&version::TLS13]).unwrap();
        let (chain, key) = shown.chain();
        config.with_client_cert_verifier(verifier).with_single_cert(chain, key).unwrap()
    }

    pub fn client(&self, shown: Option<&Signed>) -> ClientConfig {
        let config =
            ClientConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()));
        let config = config.with_protocol_versions(&[&version::TLS13]).unwrap();
        let config = config.with_root_certificates(self.roots());
        match shown.map(Signed::chain) {
            Some((chain, key)) => config.with_client_auth_cert(chain, key).unwrap(),
            None => config.with_no_client_auth(),
        }
    }

    pub fn server_tls(&self, shown: &Signed) -> ServerTls {
        ServerTls::new(self.server(shown))
    }

    pub fn client_tls(&self, shown: Option<&Signed>) -> ClientTls {
        ClientTls::new(self.client(shown))
    }
}
