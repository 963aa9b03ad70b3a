//! TLS among the members of a cluster, and between them and those who come with tokens: 1.3 only, by the cluster's authority.
//!
//! A worker's certificate is shown through a [`Badge`], so that one that is renewed is shown from the next connection on. Whom
//! a client expects is a worker by name: which host that is on proves nothing about it.

use crate::authority::AuthorityKey;
use crate::fingerprint::Fingerprint;
use crate::identity::Identity;
use ferry_api::WorkerName;
use rustls::client::ResolvesClientCert;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{verify_server_cert_signed_by_trust_anchor, verify_server_name};
use rustls::crypto::{CryptoProvider, aws_lc_rs, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::{ClientHello, ParsedCertificate, ResolvesServerCert, WebPkiClientVerifier};
use rustls::sign::CertifiedKey;
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, Error, RootCertStore, ServerConfig,
    SignatureScheme, version,
};
use std::sync::{Arc, RwLock};

/// Certificates cannot be used for TLS.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// What is in the files is no certificate or key.
    #[error("the worker's certificate or key cannot be read; restore its `cluster` directory, or join again")]
    Pem(#[from] rustls::pki_types::pem::Error),
    /// They cannot be used.
    #[error("the worker's certificate cannot be used; restore its `cluster` directory, or join again")]
    Unusable(#[source] Box<dyn std::error::Error + Send + Sync>),
}

impl From<Error> for TlsError {
    fn from(cause: Error) -> Self {
        Self::Unusable(cause.into())
    }
}

/// Whom a client expects at the other end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Whom {
    /// The worker of this name, wherever it is.
    Worker(WorkerName),
    /// Whichever worker was certified for the host that is called.
    AtHost,
}

/// What a worker shows. Clones share it.
#[derive(Clone, Debug)]
pub struct Badge(Arc<Shown>);

#[derive(Debug)]
struct Shown(RwLock<Arc<CertifiedKey>>);

impl Badge {
    /// A certificate with those that signed it, and its key (PEM).
    ///
    /// # Errors
    /// They are none, or do not belong together.
    pub fn new(certificate: &str, key: &str) -> Result<Self, TlsError> {
        Ok(Self(Arc::new(Shown(RwLock::new(certified(certificate, key)?)))))
    }

    /// From now on this one is shown.
    ///
    /// # Errors
    /// They are none, or do not belong together.
    pub fn replace(&self, certificate: &str, key: &str) -> Result<(), TlsError> {
        let fresh = certified(certificate, key)?;
        *self.0.0.write().expect(UNBROKEN) = fresh;
        Ok(())
    }
}

const UNBROKEN: &str = "nobody panics while it is held";

impl Shown {
    fn now(&self) -> Arc<CertifiedKey> {
        Arc::clone(&self.0.read().expect(UNBROKEN))
    }
}

impl ResolvesServerCert for Shown {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.now())
    }
}

impl ResolvesClientCert for Shown {
    fn resolve(&self, _issuers: &[&[u8]], _schemes: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        Some(self.now())
    }

    fn has_certs(&self) -> bool {
        true
    }
}

fn certified(certificate: &str, key: &str) -> Result<Arc<CertifiedKey>, TlsError> {
    let chain = CertificateDer::pem_slice_iter(certificate.as_bytes()).collect::<Result<Vec<_>, _>>()?;
    let key = PrivateKeyDer::from_pem_slice(key.as_bytes())?;
    let key = aws_lc_rs::sign::any_supported_type(&key)?;
    let certified = CertifiedKey::new(chain, key);
    certified.keys_match()?;
    Ok(Arc::new(certified))
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(aws_lc_rs::default_provider())
}

fn roots(authority: &AuthorityKey) -> Result<RootCertStore, Error> {
    let mut roots = RootCertStore::empty();
    roots.add(authority.certificate().clone())?;
    Ok(roots)
}

/// The server's end of a worker. Those who call may show a certificate of the authority, or none (and then a token, or a
/// joiner's secret): who may do what is not for TLS to say.
///
/// # Errors
/// The authority's certificate cannot be used.
pub fn server(authority: &AuthorityKey, badge: &Badge) -> Result<ServerConfig, TlsError> {
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots(authority)?), provider());
    let verifier = verifier.allow_unauthenticated().build();
    let verifier = verifier.map_err(|cause| TlsError::Unusable(cause.into()))?;
    let config = ServerConfig::builder_with_provider(provider());
    let config = config.with_protocol_versions(&[&version::TLS13])?;
    let mut config =
        config.with_client_cert_verifier(verifier).with_cert_resolver(Arc::clone(&badge.0) as Arc<_>);
    // A session that is resumed would show a former certificate.
    config.send_tls13_tickets = 0;
    Ok(config)
}

/// The client's end of a worker that calls another; without a badge it shows no certificate.
///
/// # Errors
/// The authority's certificate cannot be used.
pub fn client(authority: &AuthorityKey, badge: Option<&Badge>, whom: Whom) -> Result<ClientConfig, TlsError> {
    let verifier = Verifier { trust: Trust::Authority(roots(authority)?), whom, provider: provider() };
    let config = begin_client(verifier)?;
    let mut config = match badge {
        Some(badge) => config.with_client_cert_resolver(Arc::clone(&badge.0) as Arc<_>),
        None => config.with_no_client_auth(),
    };
    config.resumption = rustls::client::Resumption::disabled();
    Ok(config)
}

/// The client's end of somebody who shows no certificate, and knows the authority by its fingerprint.
///
/// # Errors
/// None that is known.
pub fn client_with_token(authority: Fingerprint) -> Result<ClientConfig, TlsError> {
    let verifier = Verifier { trust: Trust::Pinned(authority), whom: Whom::AtHost, provider: provider() };
    Ok(begin_client(verifier)?.with_no_client_auth())
}

fn begin_client(
    verifier: Verifier,
) -> Result<rustls::ConfigBuilder<ClientConfig, rustls::client::WantsClientCert>, TlsError> {
    let config = ClientConfig::builder_with_provider(provider());
    let config = config.with_protocol_versions(&[&version::TLS13])?;
    Ok(config.dangerous().with_custom_certificate_verifier(Arc::new(verifier)))
}

/// What is wrong with the time of a certificate, for people: one of two clocks is, most often.
fn in_words(error: Error) -> Error {
    let hours = |later: UnixTime, earlier: UnixTime| later.as_secs().saturating_sub(earlier.as_secs()) / 3600;
    let Error::InvalidCertificate(why) = &error else { return error };
    let what = if let CertificateError::ExpiredContext { time, not_after } = why {
        format!("its certificate expired {} hours ago", hours(*time, *not_after))
    } else if let CertificateError::NotValidYetContext { time, not_before } = why {
        format!("its certificate is good only in {} hours", hours(*not_before, *time))
    } else {
        return error;
    };
    Error::General(format!("{what}, by the clock of this host; set the clocks of both hosts"))
}

/// Whom a client believes.
#[derive(Debug)]
enum Trust {
    /// Those that this authority has certified.
    Authority(RootCertStore),
    /// Those that the authority has certified whose own certificate, which they show too, has this fingerprint.
    Pinned(Fingerprint),
}

#[derive(Debug)]
struct Verifier {
    trust: Trust,
    whom: Whom,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let certificate = ParsedCertificate::try_from(end_entity)?;
        let pinned;
        let roots = match &self.trust {
            Trust::Authority(roots) => roots,
            Trust::Pinned(fingerprint) => {
                let authority = intermediates.iter().find(|shown| Fingerprint::of(shown) == *fingerprint);
                let authority =
                    authority.ok_or(Error::InvalidCertificate(CertificateError::UnknownIssuer))?;
                let mut roots = RootCertStore::empty();
                roots.add(authority.clone().into_owned())?;
                pinned = roots;
                &pinned
            }
        };
        let algorithms = self.provider.signature_verification_algorithms.all;
        let signed = verify_server_cert_signed_by_trust_anchor(&certificate, roots, &[], now, algorithms);
        signed.map_err(in_words)?;
        match &self.whom {
            Whom::AtHost => verify_server_name(&certificate, server_name)?,
            Whom::Worker(expected) => {
                let found = Identity::of(end_entity).map_err(|error| Error::General(error.to_string()))?;
                if found.worker != *expected {
                    let what = format!("worker {} answers where {expected} should", found.worker);
                    return Err(Error::General(what));
                }
            }
        }
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls12_signature(message, certificate, signed, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signed, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests;
