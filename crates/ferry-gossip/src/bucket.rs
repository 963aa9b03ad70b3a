//! The same facts in a bucket of keys and values that somebody else keeps: one worker's part in that.
//!
//! ```text
//!   what is read there (key, value) ─▶ Sealer ─▶ Bucket ─▶ Seen: somebody came, went, has news
//! ```
//!
//! Each worker has one key, `CLUSTER.WORKER`, and puts its sealed [`Fact`] there: when that changes, and every [`RENEW_PAUSE`], so that
//! whoever is silent is missed.
//!
//! Invariant: whatever lies in the bucket, only a member's own word about itself is taken, and each only once. That a key is gone says
//! nothing: whoever may write there may delete, too.

use crate::{Digest, Fact, Facts, GossipKey, Medium, SealError, Sealer};
use ferry_api::WorkerName;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// How often a worker says again what it has said.
pub const RENEW_PAUSE: Duration = Duration::from_secs(10);
/// After how long a worker is missed of which nothing new is read, in milliseconds: two renewals may be lost.
pub const SILENT_MS_MAX: u64 = 25_000;
/// Largest value that is looked at, in bytes: none that a worker puts there is larger.
const VALUE_BYTES_MAX: usize = Fact::BYTES_MAX + crate::sealed::SEAL_BYTES_MAX;
/// How many values of a key a bucket is to keep.
const HISTORY: u64 = 1;
/// How long a bucket is to keep a value at least.
const KEEP_MIN: Duration = Duration::from_secs(60);

/// What was read of another worker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Seen {
    /// It is there.
    Up(WorkerName),
    /// It has been silent for long, or is no member any more.
    Down(WorkerName),
    /// Its map of machines is in a state that was not known here.
    News(Fact),
}

/// Why a value is not taken. Nothing has changed by it, but the count of such.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotTaken {
    /// It is larger than any that a worker puts there.
    #[error("it has {0} bytes, and at most {VALUE_BYTES_MAX} are looked at")]
    Large(usize),
    /// It was not sealed by a member.
    #[error(transparent)]
    Seal(SealError),
    /// It was sealed by another worker than the one whose key it lies at, or says something of another one.
    #[error("it is by worker {0}, whose key is another one")]
    Elsewhere(WorkerName),
    /// It is by somebody who is no member.
    #[error("worker {0} is no member")]
    Stranger(WorkerName),
    /// A member has sealed what this version does not understand.
    #[error("it is none of this version")]
    NotUnderstood,
}

/// How a bucket keeps its values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kept {
    /// How many of each key.
    pub history: u64,
    /// For how long; for ever if zero.
    pub for_at_most: Duration,
    /// The largest value that it takes, in bytes; none: any.
    pub value_bytes_max: Option<u64>,
}

/// Why a bucket is not fit for a directory.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unfit {
    /// It would keep every renewal.
    #[error("it keeps {0} values of each key and is to keep {HISTORY} (history)")]
    History(u64),
    /// What a worker said would be gone before it is said again.
    #[error("it keeps a value for {0:?} and is to keep it for at least {KEEP_MIN:?} (ttl)")]
    Short(Duration),
    /// It would take nothing.
    #[error("it takes values of at most {0} bytes and is to take {VALUE_BYTES_MAX} (max-value-size)")]
    Small(u64),
}

impl Kept {
    /// Whether facts can be kept so.
    ///
    /// # Errors
    /// Why not.
    pub fn check(self) -> Result<(), Unfit> {
        if self.history != HISTORY {
            return Err(Unfit::History(self.history));
        }
        if !self.for_at_most.is_zero() && self.for_at_most < KEEP_MIN {
            return Err(Unfit::Short(self.for_at_most));
        }
        match self.value_bytes_max {
            Some(most) if most < VALUE_BYTES_MAX as u64 => Err(Unfit::Small(most)),
            Some(_) | None => Ok(()),
        }
    }
}

/// Who belongs together, and by which keys they know each other.
#[derive(Clone, Debug)]
pub struct Fleet {
    /// The members.
    pub members: BTreeSet<WorkerName>,
    /// Their keys.
    pub keys: Vec<GossipKey>,
}

/// One worker's part.
pub struct Bucket {
    me: WorkerName,
    epoch: u64,
    /// What the keys of this fleet begin with.
    fleet: String,
    sealer: Sealer,
    members: BTreeSet<WorkerName>,
    facts: Facts,
    /// When each of those that are there was last heard, in milliseconds of the caller's clock.
    there: BTreeMap<WorkerName, u64>,
    ignored: u64,
}

impl Bucket {
    /// Takes part as the worker `me`, in a life that no earlier one of it had, in the fleet of that id (letters and digits).
    #[must_use]
    pub fn new((me, epoch): (WorkerName, u64), id: &str, fleet: Fleet) -> Self {
        let Fleet { members, keys } = fleet;
        let sealer = Sealer::new(Medium::Bucket, me.clone(), epoch, keys);
        let (facts, there) = (Facts::default(), BTreeMap::new());
        Self { me, epoch, fleet: format!("{id}."), sealer, members, facts, there, ignored: 0 }
    }

    /// The key of this worker.
    #[must_use]
    pub fn key(&self) -> String {
        format!("{}{}", self.fleet, self.me)
    }

    /// The keys of all workers of the fleet, as a pattern.
    #[must_use]
    pub fn keys(&self) -> String {
        format!("{}*", self.fleet)
    }

    /// What is to be put at this worker's key when its map of machines is in the state `revision`; nothing without a key of the fleet.
    pub fn say(&mut self, revision: u64) -> Option<Vec<u8>> {
        let fact = Fact { worker: self.me.clone(), epoch: self.epoch, revision };
        let bytes = postcard::to_allocvec(&fact).expect("a fact is plain data and always encodes");
        self.facts.learn(&fact);
        self.sealer.seal(&bytes)
    }

    /// Takes what lies at a key. What was taken before is nothing new.
    ///
    /// # Errors
    /// It is no member's word about itself.
    pub fn read(&mut self, key: &str, value: &[u8], now_ms: u64) -> Result<Vec<Seen>, NotTaken> {
        if key == self.key() {
            // Whatever it is, it is replaced by the next renewal.
            return Ok(Vec::new());
        }
        match self.understood(key, value) {
            Ok(fact) => Ok(self.hear(fact, now_ms)),
            Err(NotTaken::Seal(SealError::Repeated)) => Ok(Vec::new()),
            Err(why) => {
                self.ignored = self.ignored.saturating_add(1);
                Err(why)
            }
        }
    }

    fn understood(&mut self, key: &str, value: &[u8]) -> Result<Fact, NotTaken> {
        if value.len() > VALUE_BYTES_MAX {
            return Err(NotTaken::Large(value.len()));
        }
        let (by, plain) = self.sealer.open(value).map_err(NotTaken::Seal)?;
        if !self.members.contains(&by) {
            return Err(NotTaken::Stranger(by));
        }
        let fact: Fact = postcard::from_bytes(&plain).map_err(|_| NotTaken::NotUnderstood)?;
        match key.strip_prefix(&self.fleet) == Some(by.as_str()) && fact.worker == by {
            true => Ok(fact),
            false => Err(NotTaken::Elsewhere(by)),
        }
    }

    fn hear(&mut self, fact: Fact, now_ms: u64) -> Vec<Seen> {
        let came = self.there.insert(fact.worker.clone(), now_ms).is_none();
        let is_news = self.facts.learn(&fact);
        let came = came.then(|| Seen::Up(fact.worker.clone()));
        came.into_iter().chain(is_news.then_some(Seen::News(fact))).collect()
    }

    /// The bucket is read again after a while in which it was not: nobody has been silent meanwhile.
    pub fn begin(&mut self, now_ms: u64) {
        self.there.values_mut().for_each(|heard_ms| *heard_ms = now_ms);
    }

    /// Misses those that have been silent for long.
    pub fn look(&mut self, now_ms: u64) -> Vec<Seen> {
        let silent = |heard_ms: &u64| now_ms.saturating_sub(*heard_ms) > SILENT_MS_MAX;
        self.there.extract_if(.., |_, heard_ms| silent(heard_ms)).map(|(name, _)| Seen::Down(name)).collect()
    }

    /// Takes another fleet: those that belong to it no longer are gone.
    pub fn follow(&mut self, fleet: Fleet) -> Vec<Seen> {
        let Fleet { members, keys } = fleet;
        self.sealer.rekey(keys);
        let gone: Vec<WorkerName> = self.members.difference(&members).cloned().collect();
        self.members = members;
        for name in &gone {
            self.sealer.forget(name);
            self.facts.forget(name);
            self.there.remove(name);
        }
        gone.into_iter().map(Seen::Down).collect()
    }

    /// What is known here of whose maps are in which state.
    #[must_use]
    pub fn digest(&self) -> Digest {
        self.facts.digest()
    }

    /// How many values were not taken.
    #[must_use]
    pub fn ignored(&self) -> u64 {
        self.ignored
    }
}

#[cfg(test)]
mod tests;
