//! A cluster: who belongs to it, how one joins, and who is let in no longer.

use crate::{Role, TokenName, WorkerName};
use serde::{Deserialize, Serialize};
use std::fmt;

/// The list of all workers as the cluster's authority has signed it. What it says is for `ferry-cluster` to read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SignedRoster {
    /// Its form; see docs/formats.md.
    pub form: u32,
    /// The list, as JSON; exactly these bytes are signed.
    pub body: String,
    /// The signature, in base64 for URLs.
    pub signature: String,
}

/// A key by which members seal what they whisper to each other.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GossipKey {
    /// The version of the roster at which it was made.
    pub version: u64,
    /// The key, in base64 for URLs.
    pub key: String,
}

impl fmt::Debug for GossipKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the gossip key of version {}", self.version)
    }
}

/// What members tell each other of the cluster.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Membership {
    /// The newest roster that the worker has.
    pub roster: SignedRoster,
    /// The newest keys that it has, the newest first.
    #[serde(default)]
    pub gossip_keys: Vec<GossipKey>,
    /// What its clock says, in milliseconds since 1970.
    #[serde(default)]
    pub now_ms: u64,
}

/// Asks for a token by which a worker may join.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AskJoinToken {
    /// For how long it is good, in milliseconds; an hour if nothing is said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ttl_ms: Option<u64>,
    /// Only for the worker of this name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub worker: Option<WorkerName>,
    /// Also if a worker of that name was revoked.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub again: bool,
}

/// A token by which a worker may join, once.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct JoinTokenMade {
    /// What is to be given to `ferry agent join`. Nobody can tell it again.
    pub token: String,
    /// Until when it is good, in milliseconds since 1970.
    pub expires_ms: u64,
    /// Only for the worker of this name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub worker: Option<WorkerName>,
}

/// Asks for a token for people and programs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AskApiToken {
    /// What it is called.
    pub name: TokenName,
    /// What it is good for.
    pub role: Role,
    /// For how long, in milliseconds; 90 days if nothing is said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ttl_ms: Option<u64>,
}

/// A token for people and programs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ApiTokenMade {
    /// What is to be presented. Nobody can tell it again.
    pub token: String,
    /// What is told of it.
    #[serde(flatten)]
    pub told: ApiTokenTold,
}

/// What is told of a token for people and programs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ApiTokenTold {
    /// What it is called.
    pub name: TokenName,
    /// What it is good for.
    pub role: Role,
    /// When it was made, in milliseconds since 1970.
    pub made_ms: u64,
    /// Until when it is good, in milliseconds since 1970.
    pub expires_ms: u64,
}

/// Asks for a worker or a token to be let in no longer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Revoke {
    /// Who.
    pub what: Revoked,
    /// Why, for those who meet it; at most [`Revoke::REASON_BYTES_MAX`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

impl Revoke {
    /// The longest reason, in bytes.
    pub const REASON_BYTES_MAX: usize = 200;
}

/// Who is let in no longer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Revoked {
    /// A worker.
    Worker(WorkerName),
    /// All tokens of a name.
    ApiToken(TokenName),
}

/// Somebody is let in no longer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RevokeDone {
    /// How the cluster stands now.
    pub status: ClusterStatus,
    /// The members that could not be told yet; they hear of it as soon as they reach another.
    pub unreached: Vec<WorkerName>,
}

/// Asks to belong to the cluster.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Join {
    /// The secret of a token.
    pub secret: String,
    /// The worker's name.
    pub worker: WorkerName,
    /// Where its agent will listen.
    pub url: String,
    /// A request for a certificate (PKCS #10, PEM) of the key that the worker made. Of what it says only the key counts.
    pub request: String,
}

impl fmt::Debug for Join {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} asks to join at {}", self.worker, self.url)
    }
}

/// A worker belongs to the cluster.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Joined {
    /// The authority's certificate, PEM.
    pub authority: String,
    /// The worker's certificate, PEM.
    pub certificate: String,
    /// Who belongs to the cluster.
    pub membership: Membership,
}

/// Asks for a new certificate of the same key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Renew {
    /// The worker's name.
    pub worker: WorkerName,
    /// A request for a certificate (PKCS #10, PEM) of the key that the roster has for it.
    pub request: String,
}

/// A new certificate.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Renewed {
    /// The certificate, PEM.
    pub certificate: String,
}

/// A cluster as one of its workers sees it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClusterStatus {
    /// The cluster's id.
    pub cluster: String,
    /// The worker that tells this.
    pub worker: WorkerName,
    /// The worker that has the authority's key: it gives out tokens and certificates.
    pub keeper: WorkerName,
    /// The fingerprint (SHA-256) of the authority's certificate.
    pub authority: String,
    /// The version of the newest roster that the worker has.
    pub roster_version: u64,
    /// Since when the worker's certificate is good, in milliseconds since 1970.
    pub certificate_from_ms: u64,
    /// Until when it is.
    pub certificate_until_ms: u64,
    /// What is wrong with this worker's part in the cluster, for people.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub troubles: Vec<String>,
    /// All workers that belong to the cluster, or once did.
    pub workers: Vec<ClusterWorker>,
    /// The API tokens that can still be used; only the keeper knows them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub api_tokens: Vec<ApiTokenTold>,
}

/// A worker of a cluster.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClusterWorker {
    /// Its name.
    pub name: WorkerName,
    /// Where its agent listens.
    pub url: String,
    /// The fingerprint (SHA-256) of its key.
    pub key: String,
    /// When it joined, in milliseconds since 1970.
    pub joined_ms: u64,
    /// When it was revoked, if it was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revoked_ms: Option<u64>,
    /// Why.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}
