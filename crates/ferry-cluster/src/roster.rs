//! The roster: who belongs to the cluster, and who no longer. A value; only its keeper makes a next version, and signs it.
//!
//! Invariants: at most one entry of a name is that of a member; no key is in two entries; an entry that was revoked stays for
//! ever, so that its key never belongs again; versions only rise.

use crate::fingerprint::Fingerprint;
use crate::identity::ClusterId;
use ferry_api::{TokenName, WorkerName};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;

/// Most workers that a roster has, those that were revoked included.
const WORKERS_MAX: usize = 10_000;
/// How long a token that was revoked is remembered after its end, in milliseconds: clocks differ.
const TOKEN_GRACE_MS: u64 = 2 * 24 * 60 * 60 * 1000;
/// Longest URL of a worker, in bytes.
const URL_BYTES_MAX: usize = 300;

/// Who belongs to a cluster.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Roster {
    /// The cluster.
    pub cluster: ClusterId,
    /// Which roster of the cluster it is, from 1.
    pub version: u64,
    /// The worker that has the authority's key.
    pub keeper: WorkerName,
    /// The workers, in the order in which they joined.
    pub workers: Vec<WorkerEntry>,
    /// API tokens that are good no longer.
    pub tokens_revoked: Vec<TokenRevoked>,
}

/// A worker, as it joined once.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WorkerEntry {
    /// Its name.
    pub name: WorkerName,
    /// Where its agent listens.
    pub url: String,
    /// The fingerprint of its key (of its SubjectPublicKeyInfo).
    pub key: Fingerprint,
    /// When it joined, by the keeper's clock, in milliseconds since 1970.
    pub joined_ms: u64,
    /// Whether it still belongs to the cluster.
    pub standing: Standing,
}

/// Whether a worker belongs to the cluster.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Standing {
    /// It does.
    Member,
    /// It does no longer.
    Revoked {
        /// Since when, by the keeper's clock, in milliseconds since 1970.
        since_ms: u64,
        /// Why, in the words of whoever did it.
        reason: Option<String>,
    },
}

/// API tokens of a name that were made until then are good no longer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TokenRevoked {
    /// What they are called.
    pub name: TokenName,
    /// Those that were made until then, in milliseconds since 1970.
    pub until_ms: u64,
    /// When the last of them expires, in milliseconds since 1970.
    pub expire_ms: u64,
}

/// Why a text is no roster.
#[derive(Debug, thiserror::Error)]
pub enum RosterError {
    /// It is not understood.
    #[error("the roster is not understood; use the same version of ferry on all workers")]
    Text(#[from] serde_json::Error),
    /// It contradicts itself.
    #[error("the roster contradicts itself: {0}")]
    Contradiction(String),
}

/// Why a worker does not join.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum JoinRefusal {
    /// There is one of that name.
    #[error(
        "there is a worker {name} in the cluster already, at {url}; give this one another name, or if that one is gone for good, \
         `ferry cluster revoke {name}` and then `ferry cluster token --worker {name} --again`"
    )]
    NameTaken {
        /// The name.
        name: WorkerName,
        /// Where the one that has it is.
        url: String,
    },
    /// One of that name was revoked.
    #[error(
        "a worker {name} was revoked; if this is meant to be its successor, join with a token of \
         `ferry cluster token --worker {name} --again`"
    )]
    NameRevoked {
        /// The name.
        name: WorkerName,
    },
    /// The key was revoked.
    #[error(
        "the key of this worker was revoked as {name}'s; remove its directory `cluster-joining`, so that it makes a new one"
    )]
    KeyRevoked {
        /// Whose it was.
        name: WorkerName,
    },
    /// The key is another worker's.
    #[error(
        "the key of this worker is that of {name}; each worker makes its own: was its state directory copied?"
    )]
    KeyTaken {
        /// Whose it is.
        name: WorkerName,
    },
    /// The address cannot be given to others.
    #[error(
        "'{url}' is not an address at which other workers can reach this one; see `advertise` in its configuration"
    )]
    BadUrl {
        /// The address.
        url: String,
    },
    /// There are too many.
    #[error("the cluster has had {WORKERS_MAX} workers, which is the most")]
    Full,
}

/// Why somebody with a certificate of the cluster's authority is not believed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Stranger {
    /// It was revoked.
    #[error("worker {name} was revoked{}; it belongs to this cluster no longer", because(reason.as_deref()))]
    Revoked {
        /// Who.
        name: WorkerName,
        /// Why.
        reason: Option<String>,
    },
    /// Another worker has that name.
    #[error("this is not the worker {name} that belongs to the cluster, but another one of that name")]
    Other {
        /// The name.
        name: WorkerName,
    },
    /// Nobody has that name yet.
    #[error(
        "worker {name} is not in version {version} of the cluster's roster; if it has just joined, it will be within a minute"
    )]
    Unknown {
        /// Who.
        name: WorkerName,
        /// Where it was looked for.
        version: u64,
    },
}

fn because(reason: Option<&str>) -> String {
    reason.map(|reason| format!(" ({reason})")).unwrap_or_default()
}

/// What becomes of a joiner.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Admission {
    /// It belongs to the cluster already: it asks again.
    Already,
    /// It belongs to the cluster with this roster.
    With(Roster),
}

/// What a roster is worth to one who has another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Offered {
    /// It is newer.
    Newer,
    /// It is the same.
    Same,
    /// It is older.
    Older,
    /// It is another one of the same version: two workers have made rosters, which must not be.
    Fork,
    /// It is of another cluster.
    Foreign,
}

impl Roster {
    /// The first one.
    #[must_use]
    pub fn first(cluster: ClusterId, keeper: WorkerName, url: String, key: Fingerprint, now_ms: u64) -> Self {
        let entry =
            WorkerEntry { name: keeper.clone(), url, key, joined_ms: now_ms, standing: Standing::Member };
        Self { cluster, version: 1, keeper, workers: vec![entry], tokens_revoked: Vec::new() }
    }

    /// Reads one.
    ///
    /// # Errors
    /// It is none, or contradicts itself.
    pub fn parse(text: &str) -> Result<Self, RosterError> {
        let roster: Self = serde_json::from_str(text)?;
        roster.check().map_err(RosterError::Contradiction)?;
        Ok(roster)
    }

    /// As it is signed.
    #[must_use]
    pub fn text(&self) -> String {
        serde_json::to_string(self).expect("a roster is plain data and always encodes")
    }

    fn check(&self) -> Result<(), String> {
        let (mut keys, mut members) = (BTreeSet::new(), BTreeSet::new());
        if self.workers.len() > WORKERS_MAX {
            return Err("it has too many workers".to_owned());
        }
        for entry in &self.workers {
            if !keys.insert(entry.key) {
                return Err(format!("the key of {} is there twice", entry.name));
            }
            if entry.is_member() && !members.insert(&entry.name) {
                return Err(format!("there are two workers {}", entry.name));
            }
        }
        match members.contains(&self.keeper) && self.version > 0 {
            true => Ok(()),
            false => Err(format!("{} keeps it and does not belong to it", self.keeper)),
        }
    }

    /// The worker of that name that belongs to the cluster.
    #[must_use]
    pub fn member(&self, name: &WorkerName) -> Option<&WorkerEntry> {
        self.workers.iter().find(|entry| entry.is_member() && entry.name == *name)
    }

    /// All that belong to the cluster.
    pub fn members(&self) -> impl Iterator<Item = &WorkerEntry> {
        self.workers.iter().filter(|entry| entry.is_member())
    }

    /// Whether the worker of that name and that key belongs to the cluster.
    ///
    /// # Errors
    /// It does not, and why.
    pub fn believe(&self, name: &WorkerName, key: Fingerprint) -> Result<&WorkerEntry, Stranger> {
        // A key that was revoked is told so, whoever has its name today.
        let same_key = self.workers.iter().find(|entry| entry.key == key && entry.name == *name);
        match same_key.map(|entry| (&entry.standing, entry)) {
            Some((Standing::Member, entry)) => Ok(entry),
            Some((Standing::Revoked { reason, .. }, _)) => {
                Err(Stranger::Revoked { name: name.clone(), reason: reason.clone() })
            }
            None => Err(match self.workers.iter().any(|entry| entry.name == *name) {
                true => Stranger::Other { name: name.clone() },
                false => Stranger::Unknown { name: name.clone(), version: self.version },
            }),
        }
    }

    /// Takes a worker in; `again`: also if one of its name was revoked.
    ///
    /// # Errors
    /// It cannot belong to the cluster.
    pub fn admit(
        &self,
        name: &WorkerName,
        url: &str,
        key: Fingerprint,
        again: bool,
        now_ms: u64,
    ) -> Result<Admission, JoinRefusal> {
        let name = name.clone();
        if let Some(entry) = self.workers.iter().find(|entry| entry.key == key) {
            return match (&entry.standing, entry.name == name) {
                (Standing::Member, true) => Ok(Admission::Already),
                (Standing::Member, false) => Err(JoinRefusal::KeyTaken { name: entry.name.clone() }),
                (Standing::Revoked { .. }, _) => Err(JoinRefusal::KeyRevoked { name: entry.name.clone() }),
            };
        }
        if let Some(entry) = self.member(&name) {
            return Err(JoinRefusal::NameTaken { name, url: entry.url.clone() });
        }
        if !again && self.workers.iter().any(|entry| entry.name == name) {
            return Err(JoinRefusal::NameRevoked { name });
        }
        if host_of(url).is_none() {
            return Err(JoinRefusal::BadUrl { url: url.to_owned() });
        }
        if self.workers.len() >= WORKERS_MAX {
            return Err(JoinRefusal::Full);
        }
        let mut next = self.next(now_ms);
        let (url, standing) = (url.to_owned(), Standing::Member);
        next.workers.push(WorkerEntry { name, url, key, joined_ms: now_ms, standing });
        Ok(Admission::With(next))
    }

    /// Lets a worker in no longer. None if none of that name belongs to the cluster; never asked of the keeper.
    #[must_use]
    pub fn revoke(&self, name: &WorkerName, reason: Option<String>, now_ms: u64) -> Option<Self> {
        let mut next = self.next(now_ms);
        let entry = next.workers.iter_mut().find(|entry| entry.is_member() && entry.name == *name)?;
        entry.standing = Standing::Revoked { since_ms: now_ms, reason };
        (next.keeper != *name).then_some(next)
    }

    /// Lets in no longer who comes with a token of that name that was made until now.
    #[must_use]
    pub fn revoke_token(&self, name: &TokenName, expire_ms: u64, now_ms: u64) -> Self {
        let mut next = self.next(now_ms);
        next.tokens_revoked.retain(|revoked| revoked.name != *name);
        next.tokens_revoked.push(TokenRevoked { name: name.clone(), until_ms: now_ms, expire_ms });
        next
    }

    /// Whether a token of that name, made then, was revoked.
    #[must_use]
    pub fn is_token_revoked(&self, name: &TokenName, made_ms: u64) -> bool {
        self.tokens_revoked.iter().any(|revoked| revoked.name == *name && made_ms <= revoked.until_ms)
    }

    /// What `other` is worth to one who has this one.
    #[must_use]
    pub fn judge(&self, other: &Self) -> Offered {
        match other.version.cmp(&self.version) {
            _ if other.cluster != self.cluster => Offered::Foreign,
            std::cmp::Ordering::Less => Offered::Older,
            std::cmp::Ordering::Greater => Offered::Newer,
            std::cmp::Ordering::Equal if self == other => Offered::Same,
            std::cmp::Ordering::Equal => Offered::Fork,
        }
    }

    /// The next version of the same, without what time has settled.
    fn next(&self, now_ms: u64) -> Self {
        let mut next = self.clone();
        next.version += 1;
        next.tokens_revoked.retain(|revoked| revoked.expire_ms.saturating_add(TOKEN_GRACE_MS) > now_ms);
        next
    }
}

impl WorkerEntry {
    /// Whether it belongs to the cluster.
    #[must_use]
    pub fn is_member(&self) -> bool {
        matches!(self.standing, Standing::Member)
    }
}

/// The host of `https://HOST:PORT`, an IPv6 address without its brackets.
pub(crate) fn host_of(url: &str) -> Option<&str> {
    let (host, port) = url.strip_prefix("https://")?.rsplit_once(':')?;
    port.parse::<u16>().ok().filter(|port| *port != 0)?;
    let host = match host.strip_prefix('[') {
        Some(rest) => rest.strip_suffix(']').filter(|host| host.parse::<std::net::Ipv6Addr>().is_ok())?,
        None => {
            let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-');
            Some(host).filter(|host| !host.is_empty() && host.chars().all(plain))?
        }
    };
    (url.len() <= URL_BYTES_MAX).then_some(host)
}

#[cfg(test)]
mod tests;
