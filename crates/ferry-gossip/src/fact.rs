//! What a worker tells everybody, and what is known of all.

use ferry_api::{Digest, WorkerName};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

/// What a worker tells everybody of itself: in which state its map of machines is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fact {
    /// The worker.
    pub worker: WorkerName,
    /// In which of its lives it says so.
    pub epoch: u64,
    /// In which state what it tells of its machines is. Rises with every change, within an epoch.
    pub revision: u64,
}

impl Fact {
    /// Most bytes of one on the wire: a name and two numbers.
    pub const BYTES_MAX: usize = WorkerName::BYTES_MAX + 1 + 2 * 10;

    fn since(&self) -> (u64, u64) {
        (self.epoch, self.revision)
    }
}

/// The newest fact of each worker.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Facts {
    newest: BTreeMap<WorkerName, Fact>,
}

impl Facts {
    /// Most workers of which facts are kept.
    pub const WORKERS_MAX: usize = 10_000;

    /// Takes over a fact. Tells whether it is news.
    pub fn learn(&mut self, fact: &Fact) -> bool {
        let full = self.newest.len() >= Self::WORKERS_MAX;
        match self.newest.entry(fact.worker.clone()) {
            Entry::Occupied(mut known) if known.get().since() < fact.since() => {
                known.insert(fact.clone());
                true
            }
            Entry::Vacant(free) if !full => {
                free.insert(fact.clone());
                true
            }
            Entry::Occupied(_) | Entry::Vacant(_) => false,
        }
    }

    /// Forgets a worker.
    pub fn forget(&mut self, worker: &WorkerName) {
        self.newest.remove(worker);
    }

    /// The newest fact of a worker.
    #[must_use]
    pub fn of(&self, worker: &WorkerName) -> Option<&Fact> {
        self.newest.get(worker)
    }

    /// What is known, for somebody else to compare.
    #[must_use]
    pub fn digest(&self) -> Digest {
        self.newest.values().map(|fact| (fact.worker.clone(), fact.since())).collect()
    }

    /// What somebody else knows and is not known here.
    #[must_use]
    pub fn lacking(&self, theirs: &Digest) -> Vec<Fact> {
        let lacks = |worker: &WorkerName, since| self.of(worker).is_none_or(|fact| fact.since() < since);
        let news = theirs.iter().filter(|(worker, since)| lacks(worker, **since));
        news.map(|(worker, (epoch, revision))| Fact {
            worker: worker.clone(),
            epoch: *epoch,
            revision: *revision,
        })
        .collect()
    }
}

/// What a fact replaces while it is on its way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Supersedes(pub(crate) Fact);

impl foca::Invalidates for Supersedes {
    fn invalidates(&self, other: &Self) -> bool {
        self.0.worker == other.0.worker && self.0.since() >= other.0.since()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fact(worker: &str, epoch: u64, revision: u64) -> Fact {
        Fact { worker: worker.parse().unwrap(), epoch, revision }
    }

    #[test]
    fn only_what_is_newer_is_news_and_a_new_life_begins_anew() {
        let mut facts = Facts::default();
        assert!(facts.learn(&fact("w1", 1, 5)));
        assert!(!facts.learn(&fact("w1", 1, 5)) && !facts.learn(&fact("w1", 1, 4)));
        assert!(facts.learn(&fact("w1", 2, 1)) && !facts.learn(&fact("w1", 1, 9)));
        assert_eq!(facts.of(&"w1".parse().unwrap()), Some(&fact("w1", 2, 1)));
    }

    #[test]
    fn what_two_workers_compare_tells_each_what_it_lacks() {
        let (mut here, mut there) = (Facts::default(), Facts::default());
        here.learn(&fact("w1", 1, 5));
        there.learn(&fact("w1", 1, 4));
        there.learn(&fact("w2", 7, 1));
        assert_eq!(here.lacking(&there.digest()), [fact("w2", 7, 1)]);
        assert_eq!(there.lacking(&here.digest()), [fact("w1", 1, 5)]);
    }

    #[test]
    fn a_fact_on_the_wire_is_as_small_as_is_said() {
        let longest = "w".repeat(WorkerName::BYTES_MAX);
        let bytes = postcard::to_allocvec(&fact(&longest, u64::MAX, u64::MAX)).unwrap();
        assert_eq!(bytes.len(), Fact::BYTES_MAX);
    }
}
