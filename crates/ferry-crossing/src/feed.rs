//! What a worker tells of its machines, as a feed: whoever knows one state of it is told what has changed since.
//!
//! Invariant: what is told since a revision, put upon what was told at that revision, is what is told now. A revision is one of
//! this feed alone: it begins at the time when the feed began, so that no agent before this one has told it.

use ferry_api::{MachineId, Mapping};
use std::collections::{BTreeMap, VecDeque};

/// What somebody is told who knows an earlier state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Told {
    /// It is still that.
    Same,
    /// This has changed.
    Changes {
        /// What is new, or another than it was.
        mappings: Vec<Mapping>,
        /// What is not told any more.
        gone: Vec<MachineId>,
    },
    /// The state that is known is none of this feed, or too long ago: all of it.
    All(Vec<Mapping>),
}

/// What a worker tells.
#[derive(Clone, Debug)]
pub struct Feed {
    revision: u64,
    now: BTreeMap<MachineId, Mapping>,
    /// Which machine changed at which revision, oldest first, without holes.
    changes: VecDeque<(u64, MachineId)>,
}

impl Feed {
    /// How many changes are remembered; whoever knows a state before that is told all.
    pub const CHANGES_MAX: usize = 4_096;

    /// A feed that tells nothing yet, which begins at that time.
    #[must_use]
    pub fn new(began_ms: u64) -> Self {
        Self { revision: began_ms, now: BTreeMap::new(), changes: VecDeque::new() }
    }

    /// The state that it is in.
    #[must_use]
    pub fn revision(&self) -> u64 {
        self.revision
    }

    /// Tells this from now on, in the place of all it told before. Says whether that is another state.
    pub fn tell(&mut self, mappings: Vec<Mapping>) -> bool {
        let after: BTreeMap<MachineId, Mapping> =
            mappings.into_iter().map(|told| (told.machine, told)).collect();
        let new = after.iter().filter(|(machine, told)| self.now.get(machine) != Some(told));
        let gone = self.now.keys().filter(|machine| !after.contains_key(machine));
        let changed: Vec<MachineId> = new.map(|(machine, _)| *machine).chain(gone.copied()).collect();
        if changed.is_empty() {
            return false;
        }
        self.revision += 1;
        self.changes.extend(changed.into_iter().map(|machine| (self.revision, machine)));
        let excess = self.changes.len().saturating_sub(Self::CHANGES_MAX);
        // A revision is remembered whole or not at all.
        let last =
            excess.checked_sub(1).and_then(|last| self.changes.get(last)).map(|(revision, _)| *revision);
        while last.is_some_and(|last| self.changes.front().is_some_and(|(revision, _)| *revision <= last)) {
            self.changes.pop_front();
        }
        self.now = after;
        true
    }

    /// All that it tells.
    #[must_use]
    pub fn all(&self) -> Vec<Mapping> {
        self.now.values().cloned().collect()
    }

    /// What to tell somebody who knows the state `known`, or 0 for none.
    #[must_use]
    pub fn since(&self, known: u64) -> Told {
        if known == self.revision {
            return Told::Same;
        }
        let oldest = self.changes.front().map(|(revision, _)| *revision);
        if known > self.revision || oldest.is_none_or(|oldest| known.saturating_add(1) < oldest) {
            return Told::All(self.all());
        }
        let since = self.changes.iter().rev().take_while(|(revision, _)| *revision > known);
        let mut machines: Vec<MachineId> = since.map(|(_, machine)| *machine).collect();
        machines.sort_unstable();
        machines.dedup();
        let (here, gone): (Vec<_>, Vec<_>) =
            machines.into_iter().partition(|machine| self.now.contains_key(machine));
        let mappings = here.iter().filter_map(|machine| self.now.get(machine).cloned()).collect();
        Told::Changes { mappings, gone }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ferry_api::{Generation, Network, Presence};
    use proptest::prelude::*;

    fn told(machine: MachineId, generation: u64) -> Mapping {
        Mapping {
            machine,
            name: "db".parse().unwrap(),
            generation: Generation(generation),
            owner: "w1".parse().unwrap(),
            network: Network::Host,
            services: Vec::new(),
            presence: Presence::Comes,
        }
    }

    /// A reader, as the directory is one.
    #[derive(Default)]
    struct Reader {
        known: u64,
        has: BTreeMap<MachineId, Mapping>,
    }

    impl Reader {
        fn follow(&mut self, feed: &Feed) {
            match feed.since(self.known) {
                Told::Same => {}
                Told::Changes { mappings, gone } => {
                    gone.iter().for_each(|machine| drop(self.has.remove(machine)));
                    self.has.extend(mappings.into_iter().map(|told| (told.machine, told)));
                }
                Told::All(mappings) => {
                    self.has = mappings.into_iter().map(|told| (told.machine, told)).collect()
                }
            }
            self.known = feed.revision();
        }
    }

    #[test]
    fn whoever_knows_the_last_state_is_told_only_what_has_changed() {
        let (a, b) = (MachineId::fresh(), MachineId::fresh());
        let mut feed = Feed::new(1_000);
        assert_eq!(feed.since(0), Told::All(vec![]));
        assert!(feed.tell(vec![told(a, 1), told(b, 1)]) && !feed.tell(vec![told(a, 1), told(b, 1)]));
        let known = feed.revision();
        assert_eq!(feed.since(known), Told::Same);
        assert!(feed.tell(vec![told(a, 2)]));
        assert_eq!(feed.since(known), Told::Changes { mappings: vec![told(a, 2)], gone: vec![b] });
        assert_eq!(feed.since(17), Told::All(vec![told(a, 2)]), "no agent of this life has told that");
        assert_eq!(feed.since(known + 99), Told::All(vec![told(a, 2)]), "it is of a later one");
    }

    #[test]
    fn of_a_state_that_is_long_past_all_is_told() {
        let a = MachineId::fresh();
        let mut feed = Feed::new(1);
        feed.tell(vec![told(a, 0)]);
        let known = feed.revision();
        for generation in 1..=u64::try_from(Feed::CHANGES_MAX).unwrap() {
            feed.tell(vec![told(a, generation)]);
        }
        assert!(matches!(feed.since(known), Told::Changes { .. }));
        feed.tell(vec![]);
        assert_eq!(feed.since(known), Told::All(vec![]));
        assert!(feed.changes.len() <= Feed::CHANGES_MAX);
    }

    proptest! {
        #[test]
        fn whoever_follows_now_and_then_has_what_is_told(
            steps in proptest::collection::vec((proptest::collection::vec((0_usize..6, 0_u64..3), 0..6), any::<bool>()), 1..40),
        ) {
            let machines: Vec<MachineId> = (0..6).map(|_| MachineId::fresh()).collect();
            let (mut feed, mut reader) = (Feed::new(1_000), Reader::default());
            for (tells, follows) in steps {
                feed.tell(tells.into_iter().map(|(at, generation)| told(machines[at], generation)).collect());
                if follows {
                    reader.follow(&feed);
                    prop_assert_eq!(&reader.has, &feed.now);
                }
            }
        }
    }
}
