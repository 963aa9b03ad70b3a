//! The authority of a cluster: a key and a certificate that says so. It signs workers' certificates, rosters and API tokens.
//!
//! Keys are ECDSA P-256: what rustls, GnuTLS (QEMU, libnbd) and OpenSSL all take.

use crate::encoding::{bytes_of, text_of};
use crate::fingerprint::Fingerprint;
use crate::identity::{ClusterId, worker_uri};
use crate::roster::host_of;
use aws_lc_rs::rand;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1, UnparsedPublicKey};
use ferry_api::WorkerName;
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, PublicKeyData,
    SanType, SigningKey, date_time_ymd,
};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use std::time::Duration;
use x509_parser::prelude::{FromDer, X509Certificate};

const DAY_MS: u64 = 24 * 60 * 60 * 1000;
/// How long a worker's certificate is good, in milliseconds.
pub const CERTIFICATE_MS: u64 = 7 * DAY_MS;
/// By how much the clock of whoever looks may be behind, in milliseconds.
const SKEW_MS: u64 = DAY_MS;
/// How long the authority's own is good, in milliseconds.
const AUTHORITY_MS: u64 = 10 * 365 * DAY_MS;
/// Longest request for a certificate, in bytes.
const REQUEST_BYTES_MAX: usize = 8192;

/// A key cannot be made or used.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// The library refuses.
    #[error("a key or certificate cannot be made or read")]
    Certificates(#[from] rcgen::Error),
    /// There is no randomness.
    #[error("this host gives no random numbers")]
    Random,
}

/// The authority cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum AuthorityError {
    /// A key cannot be made or used.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// The certificate is none of an authority.
    #[error(
        "ca-cert.pem is not the certificate of a cluster's authority; restore it from another worker of the cluster"
    )]
    Certificate,
    /// Key and certificate do not belong together.
    #[error("ca-key.pem is not the key of ca-cert.pem; restore both from one backup")]
    Pair,
    /// The request for a certificate is none.
    #[error("the request for a certificate is none, or not one of an ECDSA P-256 key that signed it")]
    Request,
    /// The URL is none that a certificate can be for.
    #[error(
        "'{0}' is not an address like https://10.0.0.1:7433; see `advertise` in the worker's configuration"
    )]
    Url(String),
}

impl From<rcgen::Error> for AuthorityError {
    fn from(cause: rcgen::Error) -> Self {
        Self::Key(cause.into())
    }
}

/// Bytes that nobody can guess.
///
/// # Errors
/// The system gives none.
pub(crate) fn random<const N: usize>() -> Result<[u8; N], KeyError> {
    let mut bytes = [0; N];
    rand::fill(&mut bytes).map_err(|_| KeyError::Random)?;
    Ok(bytes)
}

/// The moment from which a certificate should be replaced: two thirds of its time have passed.
#[must_use]
pub fn renew_at_ms(from_ms: u64, until_ms: u64) -> u64 {
    let begins_ms = from_ms.saturating_add(SKEW_MS).min(until_ms);
    begins_ms + (until_ms - begins_ms) / 3 * 2
}

/// The key of a worker.
pub struct WorkerKey(KeyPair);

impl WorkerKey {
    /// A fresh one.
    ///
    /// # Errors
    /// The system gives no randomness.
    pub fn fresh() -> Result<Self, KeyError> {
        Ok(Self(KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?))
    }

    /// One that was kept.
    ///
    /// # Errors
    /// It is none.
    pub fn from_pem(pem: &str) -> Result<Self, KeyError> {
        Ok(Self(KeyPair::from_pem(pem)?))
    }

    /// As it is kept.
    #[must_use]
    pub fn pem(&self) -> String {
        self.0.serialize_pem()
    }

    /// By what it is known again.
    #[must_use]
    pub fn fingerprint(&self) -> Fingerprint {
        Fingerprint::of(&self.0.subject_public_key_info())
    }

    /// A request for a certificate of it (PEM). It proves that whoever asks has the key.
    ///
    /// # Errors
    /// The library refuses.
    pub fn request(&self) -> Result<String, KeyError> {
        Ok(CertificateParams::default().serialize_request(&self.0)?.pem()?)
    }
}

/// What is needed to check what the authority has signed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuthorityKey {
    /// The fingerprint of its certificate.
    pub fingerprint: Fingerprint,
    certificate: CertificateDer<'static>,
    point: Vec<u8>,
}

impl AuthorityKey {
    /// That of a certificate (PEM).
    ///
    /// # Errors
    /// It is none of an authority.
    pub fn from_pem(pem: &str) -> Result<Self, AuthorityError> {
        let wrong = |_| AuthorityError::Certificate;
        let certificate = CertificateDer::from_pem_slice(pem.as_bytes()).map_err(wrong)?;
        Self::from_der(certificate)
    }

    /// That of a certificate (DER).
    ///
    /// # Errors
    /// It is none of an authority.
    pub fn from_der(certificate: CertificateDer<'static>) -> Result<Self, AuthorityError> {
        let (_, parsed) = X509Certificate::from_der(&certificate).map_err(|_| AuthorityError::Certificate)?;
        if !parsed.is_ca() {
            return Err(AuthorityError::Certificate);
        }
        let point = parsed.public_key().subject_public_key.data.to_vec();
        Ok(Self { fingerprint: Fingerprint::of(&certificate), certificate, point })
    }

    /// Its certificate.
    #[must_use]
    pub fn certificate(&self) -> &CertificateDer<'static> {
        &self.certificate
    }

    /// Whether the authority has signed `text` as a `purpose`, with the signature in that text.
    #[must_use]
    pub fn has_signed(&self, purpose: &str, text: &str, signature: &str) -> bool {
        let Some(signature) = bytes_of(signature) else { return false };
        let key = UnparsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, &self.point);
        key.verify(&signed_bytes(purpose, text), &signature).is_ok()
    }
}

/// What is signed says what it is for, so that nothing signed for one purpose is good for another.
fn signed_bytes(purpose: &str, text: &str) -> Vec<u8> {
    format!("{purpose}\0{text}").into_bytes()
}

/// An authority with its key.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
    key: AuthorityKey,
}

impl Authority {
    /// A fresh one.
    ///
    /// # Errors
    /// The system gives no randomness.
    pub fn fresh(cluster: &ClusterId, now_ms: u64) -> Result<Self, AuthorityError> {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, format!("ferry cluster {cluster}"));
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        date(&mut params, now_ms, AUTHORITY_MS);
        let pem = params.self_signed(&key)?.pem();
        Self::new(pem, key)
    }

    /// One that was kept.
    ///
    /// # Errors
    /// The certificate is none of an authority, or not that of the key.
    pub fn from_pem(certificate: &str, key: &str) -> Result<Self, AuthorityError> {
        Self::new(certificate.to_owned(), KeyPair::from_pem(key)?)
    }

    fn new(pem: String, pair: KeyPair) -> Result<Self, AuthorityError> {
        let key = AuthorityKey::from_pem(&pem)?;
        if pair.public_key_raw() != key.point {
            return Err(AuthorityError::Pair);
        }
        let issuer = Issuer::from_ca_cert_der(key.certificate(), pair)?;
        Ok(Self { issuer, pem, key })
    }

    /// Its certificate (PEM).
    #[must_use]
    pub fn pem(&self) -> &str {
        &self.pem
    }

    /// Its key (PEM), to be kept.
    #[must_use]
    pub fn key_pem(&self) -> String {
        self.issuer.key().serialize_pem()
    }

    /// What is needed to check what it has signed.
    #[must_use]
    pub fn key(&self) -> &AuthorityKey {
        &self.key
    }

    /// Signs `text` as a `purpose`.
    ///
    /// # Errors
    /// The library refuses.
    pub fn sign(&self, purpose: &str, text: &str) -> Result<String, AuthorityError> {
        Ok(text_of(&self.issuer.key().sign(&signed_bytes(purpose, text))?))
    }

    /// Certifies the key of a request (PEM) as that of a worker whose agent is at `url`; gives the certificate (PEM).
    ///
    /// # Errors
    /// The request is none; the URL has no host.
    pub fn certify(
        &self,
        request: &Request,
        cluster: &ClusterId,
        worker: &WorkerName,
        url: &str,
        now_ms: u64,
    ) -> Result<String, AuthorityError> {
        let host = host_of(url).ok_or_else(|| AuthorityError::Url(url.to_owned()))?;
        // Of the request only the key counts: what the certificate says is the authority's to say.
        let mut params = CertificateParams::new([host.to_owned()])?;
        let uri = worker_uri(cluster, worker).try_into()?;
        params.subject_alt_names.push(SanType::URI(uri));
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, worker.as_str());
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        params.use_authority_key_identifier_extension = true;
        date(&mut params, now_ms, CERTIFICATE_MS);
        let leaf = params.signed_by(&request.params.public_key, &self.issuer)?;
        // With the authority's, so that those find it who know only its fingerprint.
        Ok(leaf.pem() + &self.pem)
    }
}

/// A request for a certificate, signed with the key that it is about.
pub struct Request {
    params: CertificateSigningRequestParams,
}

impl Request {
    /// Reads one (PEM).
    ///
    /// # Errors
    /// It is none, its signature is wrong, or the key is of another kind.
    pub fn parse(pem: &str) -> Result<Self, AuthorityError> {
        let params = (pem.len() <= REQUEST_BYTES_MAX)
            .then(|| CertificateSigningRequestParams::from_pem(pem).ok())
            .flatten()
            .filter(|params| *params.public_key.algorithm() == PKCS_ECDSA_P256_SHA256);
        Ok(Self { params: params.ok_or(AuthorityError::Request)? })
    }

    /// By what its key is known again.
    #[must_use]
    pub fn key(&self) -> Fingerprint {
        Fingerprint::of(&self.params.public_key.subject_public_key_info())
    }
}

/// Good from a moment before now on, for `good_ms`.
fn date(params: &mut CertificateParams, now_ms: u64, good_ms: u64) {
    let epoch = date_time_ymd(1970, 1, 1);
    params.not_before = epoch + Duration::from_millis(now_ms.saturating_sub(SKEW_MS));
    params.not_after = epoch + Duration::from_millis(now_ms.saturating_add(good_ms));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::Identity;

    const NOW_MS: u64 = 1_800_000_000_000;

    fn cluster() -> ClusterId {
        ClusterId::of([1; 16])
    }

    fn leaf(authority: &Authority, key: &WorkerKey) -> Vec<u8> {
        let request = Request::parse(&key.request().unwrap()).unwrap();
        let pem = authority
            .certify(&request, &cluster(), &"w1".parse().unwrap(), "https://10.0.0.1:7433", NOW_MS)
            .unwrap();
        assert_eq!(CertificateDer::pem_slice_iter(pem.as_bytes()).count(), 2);
        CertificateDer::from_pem_slice(pem.as_bytes()).unwrap().to_vec()
    }

    #[test]
    fn a_certificate_says_who_the_worker_is_and_which_key_it_has() {
        let authority = Authority::fresh(&cluster(), NOW_MS).unwrap();
        let key = WorkerKey::fresh().unwrap();
        let identity = Identity::of(&leaf(&authority, &key)).unwrap();
        assert_eq!(identity.cluster, cluster());
        assert_eq!(identity.worker.as_str(), "w1");
        assert_eq!(identity.key, key.fingerprint());
        assert_eq!(identity.from_ms, NOW_MS - SKEW_MS);
        assert_eq!(identity.until_ms, NOW_MS + CERTIFICATE_MS);
    }

    #[test]
    fn a_certificate_is_renewed_while_a_third_of_its_time_is_left() {
        let at_ms = renew_at_ms(NOW_MS - SKEW_MS, NOW_MS + CERTIFICATE_MS);
        assert_eq!(at_ms, NOW_MS + CERTIFICATE_MS / 3 * 2);
        assert_eq!(renew_at_ms(5, 5), 5);
    }

    #[test]
    fn an_authority_that_was_kept_signs_what_is_believed() {
        let fresh = Authority::fresh(&cluster(), NOW_MS).unwrap();
        let kept = Authority::from_pem(fresh.pem(), &fresh.key_pem()).unwrap();
        let signature = kept.sign("roster", "text").unwrap();
        assert!(fresh.key().has_signed("roster", "text", &signature));
        assert!(!fresh.key().has_signed("token", "text", &signature), "for another purpose");
        assert!(!fresh.key().has_signed("roster", "texT", &signature));
        assert!(!fresh.key().has_signed("roster", "text", "nonsense!"));
        let other = Authority::fresh(&cluster(), NOW_MS).unwrap();
        assert!(!other.key().has_signed("roster", "text", &signature));
        assert!(matches!(Authority::from_pem(other.pem(), &fresh.key_pem()), Err(AuthorityError::Pair)));
    }

    #[test]
    fn a_worker_certificate_is_no_authority() {
        let authority = Authority::fresh(&cluster(), NOW_MS).unwrap();
        let leaf = CertificateDer::from(leaf(&authority, &WorkerKey::fresh().unwrap()));
        assert!(matches!(AuthorityKey::from_der(leaf), Err(AuthorityError::Certificate)));
        assert!(Identity::of(authority.key().certificate()).is_err(), "an authority is no worker");
    }

    #[test]
    fn a_request_is_only_believed_with_the_signature_of_its_key() {
        let pem = WorkerKey::fresh().unwrap().request().unwrap();
        assert!(Request::parse(&pem).is_ok());
        let body = pem.lines().nth(2).unwrap().to_owned();
        let flipped =
            if body.starts_with('A') { body.replacen('A', "B", 1) } else { format!("A{}", &body[1..]) };
        assert!(Request::parse(&pem.replace(&body, &flipped)).is_err());
        assert!(Request::parse("").is_err());
    }
}
