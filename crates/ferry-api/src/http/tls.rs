//! What the two ends of a secured connection prove themselves with, and whom they believe.
//!
//! Certificates are renewed while an agent runs, so both can be replaced: what is connected later uses the later one.

use super::stream::Stream;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore, ServerConfig, version};
use std::error::Error;
use std::fmt;
use std::io;
use std::sync::{Arc, RwLock};
use tokio::net::TcpStream;
use tokio_rustls::{TlsAcceptor, TlsConnector, TlsStream};

/// What an agent shows to those who call it. Clones share it.
#[derive(Clone)]
pub struct ServerTls(Arc<RwLock<Arc<ServerConfig>>>);

impl ServerTls {
    /// As `config` says. Whether callers must show a certificate is its to say; one that is shown is for it to verify.
    #[must_use]
    pub fn new(config: ServerConfig) -> Self {
        Self(Arc::new(RwLock::new(Arc::new(config))))
    }

    /// What is connected from now on uses `config`.
    pub fn replace(&self, config: ServerConfig) {
        *self.0.write().expect(UNBROKEN) = Arc::new(config);
    }

    /// Secures a connection that was accepted. The certificate that its caller shows, if any, is one that the config
    /// believes; whose it is, is for a gate to say.
    ///
    /// # Errors
    /// The caller's certificate is not believed, or its bytes are no TLS.
    pub async fn secure(&self, stream: TcpStream) -> io::Result<Stream> {
        let config = Arc::clone(&self.0.read().expect(UNBROKEN));
        let stream = TlsAcceptor::from(config).accept(stream).await?;
        Ok(Stream::Tls(Box::new(TlsStream::Server(stream))))
    }
}

/// What a client shows to the agent that it calls. Clones share it.
#[derive(Clone)]
pub struct ClientTls(Arc<RwLock<Current>>);

struct Current {
    config: Arc<ClientConfig>,
    /// How often it was replaced: connections of a former one are not used again.
    replaced: u64,
}

/// Why a certificate authority cannot be believed.
#[derive(Debug, thiserror::Error)]
#[error("that is no certificate authority; give its own certificate as PEM")]
pub struct AuthorityError(#[source] Option<Box<dyn Error + Send + Sync>>);

impl ClientTls {
    /// Shows nothing, and believes whom the authorities in `pem` have signed.
    ///
    /// # Errors
    /// There are none in it.
    pub fn believing(pem: &[u8]) -> Result<Self, AuthorityError> {
        let refused = |cause: Box<dyn Error + Send + Sync>| AuthorityError(Some(cause));
        let mut roots = RootCertStore::empty();
        for certificate in CertificateDer::pem_slice_iter(pem) {
            roots.add(certificate.map_err(|e| refused(e.into()))?).map_err(|e| refused(e.into()))?;
        }
        if roots.is_empty() {
            return Err(AuthorityError(None));
        }
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = ClientConfig::builder_with_provider(provider);
        let config = config.with_protocol_versions(&[&version::TLS13]).expect("the provider has TLS 1.3");
        Ok(Self::new(config.with_root_certificates(roots).with_no_client_auth()))
    }

    /// As `config` says.
    #[must_use]
    pub fn new(config: ClientConfig) -> Self {
        Self(Arc::new(RwLock::new(Current { config: Arc::new(config), replaced: 0 })))
    }

    /// What is called from now on is connected anew, and uses `config`.
    pub fn replace(&self, config: ClientConfig) {
        let mut current = self.0.write().expect(UNBROKEN);
        *current = Current { config: Arc::new(config), replaced: current.replaced + 1 };
    }

    /// What is called from now on is connected anew: what the config shows has changed.
    pub fn renewed(&self) {
        self.0.write().expect(UNBROKEN).replaced += 1;
    }

    /// Secures a connection that was made to `host`, as a URL names it.
    ///
    /// # Errors
    /// Who answers there is not believed, or does not believe this one.
    pub async fn secure(&self, host: &str, stream: TcpStream) -> io::Result<Stream> {
        let name = ServerName::try_from(host.trim_matches(['[', ']']).to_owned());
        let name = name.map_err(|e| io::Error::new(io::ErrorKind::InvalidInput, e))?;
        let config = Arc::clone(&self.0.read().expect(UNBROKEN).config);
        let stream = TlsConnector::from(config).connect(name, stream).await?;
        Ok(Stream::Tls(Box::new(TlsStream::Client(stream))))
    }

    /// How often it was replaced.
    pub(super) fn replaced(&self) -> u64 {
        self.0.read().expect(UNBROKEN).replaced
    }
}

/// Nothing that is done under the locks can panic.
const UNBROKEN: &str = "nobody panics while he holds it";

impl fmt::Debug for ServerTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ServerTls")
    }
}

impl fmt::Debug for ClientTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ClientTls")
    }
}
