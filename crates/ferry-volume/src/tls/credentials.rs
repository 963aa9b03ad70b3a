//! What a worker proves itself with, and whom it believes: a directory of PEM files named as QEMU, nbdkit and libnbd
//! name them, so that one directory serves all.
//!
//! ```text
//!  ca-cert.pem                           whoever it has signed is believed
//!  server-cert.pem  server-key.pem       shown to those who read from here
//!  client-cert.pem  client-key.pem       shown to those who are read from
//! ```
//!
//! Certificates are renewed while servers run: files that were replaced are read again before the next connection is made.

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{ClientConfig, RootCertStore, ServerConfig, version};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, RwLock};

/// Why a directory of certificates cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum CredentialsError {
    /// A file is not there, or holds nothing of its kind.
    #[error("cannot read {}; a directory for TLS holds ca-cert.pem, server-cert.pem, server-key.pem, client-cert.pem and client-key.pem", path.display())]
    Pem {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        #[source]
        cause: rustls::pki_types::pem::Error,
    },
    /// The certificate authority is none.
    #[error("{} is no certificate authority to believe in; give the CA's own certificate", path.display())]
    Authority {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        #[source]
        cause: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A certificate and its key do not belong together, or cannot be used.
    #[error("{} and {} cannot be used together", certificate.display(), key.display())]
    Pair {
        /// The certificate's file.
        certificate: PathBuf,
        /// The key's file.
        key: PathBuf,
        /// What is wrong.
        #[source]
        cause: rustls::Error,
    },
}

/// Certificates and keys as the files of a directory have them. Cheap to clone; keys are nowhere but in memory and in their own
/// files.
#[derive(Clone, Debug)]
pub struct Credentials {
    dir: Arc<Path>,
    read: Arc<RwLock<Read>>,
}

/// What the files held when they were read.
#[derive(Clone, Debug)]
struct Read {
    files: Files,
    server: Arc<ServerConfig>,
    client: Arc<ClientConfig>,
    /// Who the client's certificate says this is.
    identity: Option<String>,
}

/// What tells whether files were replaced: the number and the time of each.
type Files = Vec<(u64, i64, i64)>;

/// The files of a directory.
const FILES: [&str; 5] =
    ["ca-cert.pem", "server-cert.pem", "server-key.pem", "client-cert.pem", "client-key.pem"];

impl Credentials {
    /// Reads the files of a directory.
    ///
    /// # Errors
    /// A file is missing, or what it holds cannot be used.
    pub fn load(dir: &Path) -> Result<Self, CredentialsError> {
        Ok(Self { dir: dir.into(), read: Arc::new(RwLock::new(Read::all(dir)?)) })
    }

    /// The directory.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    pub(super) fn as_server(&self) -> Arc<ServerConfig> {
        self.now().server
    }

    pub(super) fn as_client(&self) -> Arc<ClientConfig> {
        self.now().client
    }

    /// Who the certificate that is shown to those who are read from says this is: its first URI. None if it names none.
    #[must_use]
    pub fn identity(&self) -> Option<String> {
        self.now().identity
    }

    /// What the files hold now. What cannot be used, like a certificate whose key is still to be replaced, changes nothing.
    fn now(&self) -> Read {
        let read = self.read.read().expect(UNBROKEN).clone();
        let files = files(&self.dir);
        if files == read.files {
            return read;
        }
        match Read::all(&self.dir) {
            Ok(anew) => {
                self.read.write().expect(UNBROKEN).clone_from(&anew);
                anew
            }
            Err(error) => {
                tracing::warn!(%error, dir = %self.dir.display(), "certificates that were replaced cannot be used yet");
                read
            }
        }
    }
}

/// Nothing that is done under the lock can panic.
const UNBROKEN: &str = "nobody panics while he holds it";

fn files(dir: &Path) -> Files {
    let about = |name| std::fs::metadata(dir.join(name)).map(|it| (it.ino(), it.mtime(), it.mtime_nsec()));
    FILES.iter().map(|name| about(name).unwrap_or_default()).collect()
}

/// Who a certificate says its owner is: its first URI.
pub(crate) fn identity(certificate: &CertificateDer<'_>) -> Option<String> {
    let certificate = webpki::EndEntityCert::try_from(certificate).ok()?;
    certificate.valid_uri_names().next().map(str::to_owned)
}

impl Read {
    fn all(dir: &Path) -> Result<Self, CredentialsError> {
        // What is replaced while it is read is read again.
        let files = files(dir);
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let authority = dir.join("ca-cert.pem");
        let bad_authority = |cause| CredentialsError::Authority { path: authority.clone(), cause };
        let mut roots = RootCertStore::empty();
        for certificate in certificates(&authority)? {
            roots.add(certificate).map_err(|e| bad_authority(e.into()))?;
        }
        let roots = Arc::new(roots);
        let verifier = WebPkiClientVerifier::builder_with_provider(Arc::clone(&roots), Arc::clone(&provider));
        let verifier = verifier.build().map_err(|e| bad_authority(e.into()))?;

        let server = ServerConfig::builder_with_provider(Arc::clone(&provider));
        let server = server.with_protocol_versions(&[&version::TLS13]).expect("the provider has TLS 1.3");
        let server = server.with_client_cert_verifier(verifier);
        let pair = Pair::read(dir, "server")?;
        let server = server.with_single_cert(pair.chain.clone(), pair.key.clone_key());
        let mut server = server.map_err(|cause| pair.refused(cause))?;
        // Connections last as long as the volume is read: nobody resumes one.
        server.send_tls13_tickets = 0;

        let client = ClientConfig::builder_with_provider(provider);
        let client = client.with_protocol_versions(&[&version::TLS13]).expect("the provider has TLS 1.3");
        let client = client.with_root_certificates(roots);
        let pair = Pair::read(dir, "client")?;
        let client = client.with_client_auth_cert(pair.chain.clone(), pair.key.clone_key());
        let client = client.map_err(|cause| pair.refused(cause))?;
        let identity = pair.chain.first().and_then(identity);
        Ok(Self { files, server: Arc::new(server), client: Arc::new(client), identity })
    }
}

/// A certificate with those that signed it, and its key.
struct Pair {
    certificate: PathBuf,
    key_path: PathBuf,
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
}

impl Pair {
    fn read(dir: &Path, side: &str) -> Result<Self, CredentialsError> {
        let (certificate, key_path) =
            (dir.join(format!("{side}-cert.pem")), dir.join(format!("{side}-key.pem")));
        let chain = certificates(&certificate)?;
        let key = PrivateKeyDer::from_pem_file(&key_path)
            .map_err(|cause| CredentialsError::Pem { path: key_path.clone(), cause })?;
        Ok(Self { certificate, key_path, chain, key })
    }

    fn refused(&self, cause: rustls::Error) -> CredentialsError {
        let (certificate, key) = (self.certificate.clone(), self.key_path.clone());
        CredentialsError::Pair { certificate, key, cause }
    }
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, CredentialsError> {
    let unreadable = |cause| CredentialsError::Pem { path: path.to_owned(), cause };
    let all: Result<Vec<_>, _> = CertificateDer::pem_file_iter(path).map_err(unreadable)?.collect();
    let all = all.map_err(unreadable)?;
    match all.is_empty() {
        true => Err(unreadable(rustls::pki_types::pem::Error::NoItemsFound)),
        false => Ok(all),
    }
}
