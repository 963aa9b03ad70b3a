//! Who somebody is, as a certificate says: `spiffe://CLUSTER/worker/NAME`, and the fingerprint of the key.

use crate::fingerprint::Fingerprint;
use ferry_api::WorkerName;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer, X509Certificate};

const SCHEME: &str = "spiffe://";
const WORKER: &str = "/worker/";

/// A certificate names no worker of a cluster.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotAnIdentity {
    /// It is no certificate.
    #[error("this is not a certificate")]
    NotOne,
    /// It names nobody, or several.
    #[error("the certificate is not that of a worker; `ferry agent join` gets one")]
    Nobody,
    /// The text is no cluster's id.
    #[error("'{0}' is not the id of a cluster; one has 32 hexadecimal digits")]
    Cluster(String),
}

/// The id of a cluster, which never changes.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ClusterId(String);

impl ClusterId {
    const BYTES: usize = 16;

    /// The id of these bytes.
    #[must_use]
    pub fn of(bytes: [u8; Self::BYTES]) -> Self {
        Self(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
    }
}

impl FromStr for ClusterId {
    type Err = NotAnIdentity;

    fn from_str(text: &str) -> Result<Self, NotAnIdentity> {
        let good =
            text.len() == 2 * Self::BYTES && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        good.then(|| Self(text.to_owned())).ok_or_else(|| NotAnIdentity::Cluster(text.to_owned()))
    }
}

impl TryFrom<String> for ClusterId {
    type Error = NotAnIdentity;

    fn try_from(text: String) -> Result<Self, NotAnIdentity> {
        text.parse()
    }
}

impl From<ClusterId> for String {
    fn from(id: ClusterId) -> Self {
        id.0
    }
}

impl fmt::Display for ClusterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A worker, as its certificate says. That the authority has signed that is for TLS to check.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The cluster.
    pub cluster: ClusterId,
    /// The worker's name.
    pub worker: WorkerName,
    /// The fingerprint of its key (of its SubjectPublicKeyInfo).
    pub key: Fingerprint,
    /// Since when the certificate is good, in milliseconds since 1970.
    pub from_ms: u64,
    /// Until when it is.
    pub until_ms: u64,
}

impl Identity {
    /// Reads a certificate (DER).
    ///
    /// # Errors
    /// It is none, or none of a worker.
    pub fn of(certificate: &[u8]) -> Result<Self, NotAnIdentity> {
        let (rest, certificate) =
            X509Certificate::from_der(certificate).map_err(|_| NotAnIdentity::NotOne)?;
        if !rest.is_empty() {
            return Err(NotAnIdentity::NotOne);
        }
        let names = certificate.subject_alternative_name().map_err(|_| NotAnIdentity::NotOne)?;
        let names = names.map(|names| &names.value.general_names[..]).unwrap_or_default();
        let mut uris =
            names.iter().filter_map(|name| if let GeneralName::URI(uri) = name { Some(*uri) } else { None });
        // One that names two is nobody's: it must not depend on who looks first.
        let (Some(uri), None) = (uris.next(), uris.next()) else { return Err(NotAnIdentity::Nobody) };
        let (cluster, worker) = read_uri(uri).ok_or(NotAnIdentity::Nobody)?;
        let validity = certificate.validity();
        let ms = |seconds: i64| u64::try_from(seconds).unwrap_or_default().saturating_mul(1000);
        Ok(Self {
            cluster,
            worker,
            key: Fingerprint::of(certificate.public_key().raw),
            from_ms: ms(validity.not_before.timestamp()),
            until_ms: ms(validity.not_after.timestamp()),
        })
    }
}

/// The name of a worker as certificates bear it.
#[must_use]
pub fn worker_uri(cluster: &ClusterId, worker: &WorkerName) -> String {
    format!("{SCHEME}{cluster}{WORKER}{worker}")
}

fn read_uri(uri: &str) -> Option<(ClusterId, WorkerName)> {
    let (cluster, worker) = uri.strip_prefix(SCHEME)?.split_once(WORKER)?;
    Some((cluster.parse().ok()?, worker.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_read_as_it_is_written_and_no_other() {
        let (cluster, worker) = (ClusterId::of([7; 16]), "w_1".parse().unwrap());
        let uri = worker_uri(&cluster, &worker);
        assert_eq!(read_uri(&uri), Some((cluster, worker)));
        for wrong in [
            String::new(),
            uri.replace("spiffe", "https"),
            uri.replace("/worker/", "/token/"),
            uri.replace("0707", "07"),
            format!("{uri}/x"),
            format!("{uri}?x"),
            uri.replace("w_1", ""),
        ] {
            assert_eq!(read_uri(&wrong), None, "{wrong}");
        }
    }
}
