//! Which machine is where: what this worker's records say, and what other workers have told.
//!
//! Invariants: of all that is told of a machine the highest generation is right, and of the same generation the owner's own
//! word goes first. What a worker tells replaces all that it told before, or changes it (see [`crate::feed`]), so that nothing
//! outlives whoever told it, except for the last word of one that has handed a machine over: it stays until the new owner has told
//! of that machine, for [`VALID_MS`] at most. What was not told again for long is collected. It is a cache: whoever acts on it
//! asks the owner.

use crate::records::{MachineRecord, Standing};
use ferry_api::{
    Desired, Generation, JobId, MachineId, MachineRef, Mapping, Network, Presence, Service, WorkerName,
};
use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::num::NonZeroU16;

/// For how long what a worker tells may be taken for right without asking it again, in milliseconds. Workers ask each other
/// anew well before that.
pub const VALID_MS: u64 = 60_000;
/// For how long a worker that says nothing is remembered all the same, in milliseconds: its machines may be back with it.
pub const SILENT_MS_MAX: u64 = 60 * 60 * 1000;

/// What this worker tells of a machine in its records; nothing of one that is being destroyed. Of one that it handed over it
/// tells only while the move is under way: until then its new owner may not know yet, and later that knows best, also when it
/// has destroyed the machine.
#[must_use]
pub fn told_of(
    record: &MachineRecord,
    me: &WorkerName,
    is_under_way: impl Fn(JobId) -> bool,
) -> Option<Mapping> {
    let (owner, generation) = match &record.standing {
        Standing::Ours if record.doomed => return None,
        Standing::Ours => (me, record.generation),
        Standing::HandedOver { to, job } if is_under_way(*job) => (to, record.generation.next()),
        Standing::HandedOver { .. } => return None,
    };
    let presence = match (&record.standing, &record.process, record.desired) {
        (Standing::Ours, Some(process), _) => Presence::Runs { since_ms: process.started_at_ms },
        // Also while a job keeps it down: it is to run again, here or elsewhere.
        (_, _, Desired::Running) => Presence::Comes,
        (_, _, Desired::Stopped) => Presence::Stopped,
    };
    Some(Mapping {
        machine: record.id,
        name: record.name.clone(),
        generation,
        owner: owner.clone(),
        services: record.spec.services.clone(),
        network: record.spec.network(),
        presence,
    })
}

/// What is known of a machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Known {
    /// Where it is.
    pub mapping: Mapping,
    /// Who told that.
    pub told_by: WorkerName,
    /// How old that is, in milliseconds; nothing, if this worker's own records say so.
    pub heard_ms_ago: u64,
    /// Whether its owner has said so, not too long ago. Else it is better asked.
    pub is_certain: bool,
}

impl Known {
    /// Refuses, on a worker that does not have it, what is asked of the machine: says who has.
    #[must_use]
    pub fn elsewhere(&self) -> String {
        let Mapping { name, owner, .. } = &self.mapping;
        let heard = self.heard_ms_ago / 1000;
        let doubt = if self.is_certain { "" } else { "; that may be old" };
        format!(
            "machine {name} is not here but on worker {owner}, as was heard {heard} s ago{doubt}; ask the agent of {owner} \
             (--agent), and start it there if it does not answer"
        )
    }
}

/// Who has told something.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Teller {
    /// The worker.
    pub name: WorkerName,
    /// How long ago it last did, in milliseconds.
    pub heard_ms_ago: u64,
    /// Whether that may still be taken for right.
    pub is_fresh: bool,
    /// How many machines it has, by all that is known.
    pub machines: usize,
}

/// Who may listen at a port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claim {
    /// The machine whose service it is.
    pub machine: MachineId,
    /// The service.
    pub service: Service,
    /// Where the machine listens for it.
    pub network: Network,
    /// Another machine that has the port already.
    pub lost_to: Option<MachineId>,
}

/// Which of several tellings of a machine is right.
fn best(tellers: &BTreeMap<WorkerName, Mapping>) -> Option<(&WorkerName, &Mapping)> {
    tellers.iter().max_by_key(|(teller, told)| (told.generation, **teller == told.owner))
}

#[derive(Clone, Copy, Debug)]
struct Heard {
    at_ms: u64,
    valid_until_ms: u64,
}

/// Where machines are, as one worker knows it. Times are in milliseconds by any clock that only goes forward.
#[derive(Clone, Debug)]
pub struct Directory {
    me: WorkerName,
    /// What each worker tells of a machine.
    told: BTreeMap<MachineId, BTreeMap<WorkerName, Mapping>>,
    /// What of that is said no more, and until when it stays all the same.
    parting: BTreeMap<(MachineId, WorkerName), u64>,
    /// When each worker last told something.
    heard: BTreeMap<WorkerName, Heard>,
}

impl Directory {
    /// What the worker `me` knows before anybody told it anything.
    #[must_use]
    pub fn new(me: WorkerName) -> Self {
        Self { me, told: BTreeMap::new(), parting: BTreeMap::new(), heard: BTreeMap::new() }
    }

    /// Takes over what `from` tells, in the place of all it told before; also what this worker's own records say. It may be
    /// taken for right for `valid_ms`. Tells whether there was anything new.
    pub fn learn(&mut self, from: &WorkerName, mappings: Vec<Mapping>, now_ms: u64, valid_ms: u64) -> bool {
        let heard = Heard { at_ms: now_ms, valid_until_ms: now_ms.saturating_add(valid_ms) };
        self.heard.insert(from.clone(), heard);
        let fresh: BTreeMap<MachineId, Mapping> =
            mappings.into_iter().map(|told| (told.machine, told)).collect();
        let by_from = self.told.iter().filter(|(_, tellers)| tellers.contains_key(from));
        let gone: Vec<MachineId> =
            by_from.map(|(machine, _)| *machine).filter(|machine| !fresh.contains_key(machine)).collect();
        self.change(from, (fresh.into_values(), &gone), now_ms)
    }

    /// Takes over what has changed of what `from` told before: what it tells now, and of which machines it tells nothing any more.
    /// It all may be taken for right for `valid_ms`. Tells whether there was anything new.
    pub fn learn_changes(
        &mut self,
        from: &WorkerName,
        (mappings, gone): (Vec<Mapping>, &[MachineId]),
        now_ms: u64,
        valid_ms: u64,
    ) -> bool {
        let heard = Heard { at_ms: now_ms, valid_until_ms: now_ms.saturating_add(valid_ms) };
        self.heard.insert(from.clone(), heard);
        self.change(from, (mappings.into_iter(), gone), now_ms)
    }

    fn change(
        &mut self,
        from: &WorkerName,
        (mappings, gone): (impl Iterator<Item = Mapping>, &[MachineId]),
        now_ms: u64,
    ) -> bool {
        let mut is_new = false;
        for machine in gone {
            is_new |= self.withdraw(from, *machine, now_ms);
        }
        for told in mappings {
            let (machine, generation) = (told.machine, told.generation);
            self.parting.remove(&(machine, from.clone()));
            let tellers = self.told.entry(machine).or_default();
            is_new |= tellers.insert(from.clone(), told.clone()) != Some(told);
            // Whoever has it now has told so; those who have left it need not stand in any more.
            let parting = &mut self.parting;
            tellers.retain(|teller, told| {
                let is_over = told.owner == *from && told.generation <= generation;
                !(is_over && parting.remove(&(machine, teller.clone())).is_some())
            });
        }
        is_new
    }

    /// `from` tells nothing of a machine any more. If it has handed it over, and the new owner has not told of it yet, that stays for a while.
    /// Tells whether anything has changed.
    fn withdraw(&mut self, from: &WorkerName, machine: MachineId, now_ms: u64) -> bool {
        let Some(tellers) = self.told.get_mut(&machine) else { return false };
        let Some(last) = tellers.get(from) else { return false };
        let is_told = |own: &Mapping| own.generation >= last.generation;
        if last.owner != *from && !tellers.get(&last.owner).is_some_and(is_told) {
            let until_ms = now_ms.saturating_add(VALID_MS);
            self.parting.entry((machine, from.clone())).or_insert(until_ms);
            return false;
        }
        tellers.remove(from);
        if tellers.is_empty() {
            self.told.remove(&machine);
        }
        true
    }

    /// Takes over what `from` has answered when it was asked for one machine: who owns it, or that it knows nothing of it.
    pub fn correct(
        &mut self,
        from: &WorkerName,
        machine: MachineId,
        owned: Option<(Generation, WorkerName)>,
    ) {
        let Some(known) = self.told.get(&machine).and_then(best).map(|(_, told)| told.clone()) else {
            return;
        };
        let tellers = self.told.entry(machine).or_default();
        match owned {
            Some((generation, owner)) => {
                let told = Mapping { generation, owner, presence: Presence::Comes, ..known };
                tellers.insert(from.clone(), told);
            }
            None => {
                // Nor does it count any more that somebody left the machine to it.
                let parting = &mut self.parting;
                tellers.retain(|teller, told| {
                    let has_left =
                        told.owner == *from && parting.remove(&(machine, teller.clone())).is_some();
                    teller != from && !has_left
                });
                self.told.retain(|_, tellers| !tellers.is_empty());
            }
        }
    }

    /// Forgets the workers that have told nothing for long, and what has stayed for long enough. Tells whether there was anything.
    pub fn collect(&mut self, now_ms: u64) -> bool {
        let (me, before) = (&self.me, self.heard.len() + self.parting.len());
        let told = &mut self.told;
        self.parting.retain(|(machine, teller), until_ms| {
            let stays = now_ms < *until_ms;
            if let Some(tellers) = told.get_mut(machine).filter(|_| !stays) {
                tellers.remove(teller);
            }
            stays
        });
        let is_alive = |heard: &Heard| now_ms.saturating_sub(heard.at_ms) < SILENT_MS_MAX;
        self.heard.retain(|worker, heard| worker == me || is_alive(heard));
        for tellers in self.told.values_mut() {
            tellers.retain(|teller, _| self.heard.contains_key(teller));
        }
        self.told.retain(|_, tellers| !tellers.is_empty());
        self.parting.retain(|(_, teller), _| self.heard.contains_key(teller));
        self.heard.len() + self.parting.len() != before
    }

    /// What is known of a machine.
    #[must_use]
    pub fn find(&self, machine: MachineId, now_ms: u64) -> Option<Known> {
        let (teller, told) = best(self.told.get(&machine)?)?;
        Some(self.known(teller, told, now_ms))
    }

    /// What is known of all machines, in the order of their ids.
    #[must_use]
    pub fn all(&self, now_ms: u64) -> Vec<Known> {
        let best = self.told.values().filter_map(best);
        best.map(|(teller, told)| self.known(teller, told, now_ms)).collect()
    }

    /// What is known of the machine that a person means. Of two that bear one name, the one whose owner has said so.
    #[must_use]
    pub fn meant(&self, machine: &MachineRef, now_ms: u64) -> Option<Known> {
        let name = match machine {
            MachineRef::Id(id) => return self.find(*id, now_ms),
            MachineRef::Name(name) => name,
        };
        let named = self.all(now_ms).into_iter().filter(|known| known.mapping.name == *name);
        named.max_by_key(|known| (known.is_certain, Reverse(known.heard_ms_ago)))
    }

    /// Who has told something, by name; this worker, too.
    #[must_use]
    pub fn tellers(&self, now_ms: u64) -> Vec<Teller> {
        let mut machines: BTreeMap<&WorkerName, usize> = BTreeMap::new();
        for (_, told) in self.told.values().filter_map(best) {
            *machines.entry(&told.owner).or_default() += 1;
        }
        let tellers = self.heard.iter().map(|(name, heard)| Teller {
            name: name.clone(),
            heard_ms_ago: self.age_ms(name, now_ms),
            is_fresh: *name == self.me || now_ms < heard.valid_until_ms,
            machines: machines.get(name).copied().unwrap_or_default(),
        });
        tellers.collect()
    }

    fn age_ms(&self, teller: &WorkerName, now_ms: u64) -> u64 {
        match self.heard.get(teller).filter(|_| *teller != self.me) {
            Some(heard) => now_ms.saturating_sub(heard.at_ms),
            None => 0,
        }
    }

    fn known(&self, teller: &WorkerName, told: &Mapping, now_ms: u64) -> Known {
        let is_fresh = || self.heard.get(teller).is_some_and(|heard| now_ms < heard.valid_until_ms);
        let is_certain = *teller == told.owner && (*teller == self.me || is_fresh());
        let heard_ms_ago = self.age_ms(teller, now_ms);
        Known { mapping: told.clone(), told_by: teller.clone(), heard_ms_ago, is_certain }
    }

    /// Who may listen at which port: of several machines that claim it the one that was made first. The others are told
    /// after it, in the order of their ids.
    #[must_use]
    pub fn claims(&self, now_ms: u64) -> BTreeMap<NonZeroU16, Vec<Claim>> {
        let mut claims: BTreeMap<NonZeroU16, Vec<Claim>> = BTreeMap::new();
        // The order of ids is that of the times when they were made.
        for Known { mapping, .. } in self.all(now_ms) {
            for service in mapping.services {
                let claimed = claims.entry(service.listens_on()).or_default();
                let lost_to = claimed.first().map(|first| first.machine);
                let (machine, network) = (mapping.machine, mapping.network);
                claimed.push(Claim { machine, service, network, lost_to });
            }
        }
        claims
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn worker(name: &str) -> WorkerName {
        name.parse().unwrap()
    }

    fn told(machine: MachineId, owner: &str, generation: u64, presence: Presence) -> Mapping {
        Mapping {
            machine,
            name: "db".parse().unwrap(),
            generation: Generation(generation),
            owner: worker(owner),
            network: ferry_api::Network::Host,
            services: vec![serde_json::from_str(r#"{"port": 5432}"#).unwrap()],
            presence,
        }
    }

    const RUNS: Presence = Presence::Runs { since_ms: 1 };

    #[test]
    fn a_machine_is_found_by_its_name_with_the_worker_that_says_that_it_has_it() {
        let (old, db) = (MachineId::fresh(), MachineId::fresh());
        let mut directory = Directory::new(worker("w4"));
        let name = |name: &str| name.parse::<MachineRef>().unwrap();
        assert_eq!(directory.meant(&name("db"), 0), None);
        // Another of that name was last heard of on a worker that says nothing any more.
        directory.learn(&worker("w1"), vec![told(old, "w1", 7, RUNS)], 0, VALID_MS);
        directory.learn(&worker("w2"), vec![told(db, "w2", 1, RUNS)], VALID_MS, VALID_MS);
        let now_ms = VALID_MS + 3_000;
        for meant in [name("db"), MachineRef::Id(db)] {
            let known = directory.meant(&meant, now_ms).unwrap();
            assert_eq!(known.mapping.owner, worker("w2"));
            assert!(
                known.elsewhere().contains("on worker w2, as was heard 3 s ago; ask"),
                "{}",
                known.elsewhere()
            );
        }
        let known = directory.meant(&MachineRef::Id(old), now_ms).unwrap();
        assert!(
            known.elsewhere().contains("w1, as was heard 63 s ago; that may be old"),
            "{}",
            known.elsewhere()
        );
        assert_eq!(directory.meant(&name("web"), now_ms), None);
    }

    #[test]
    fn the_highest_generation_is_right_and_of_it_the_owners_own_word_in_every_order() {
        let machine = MachineId::fresh();
        let words = [
            ("w1", told(machine, "w2", 2, Presence::Comes)),
            ("w2", told(machine, "w2", 2, RUNS)),
            ("w3", told(machine, "w3", 1, RUNS)),
        ];
        for order in [[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]] {
            let mut directory = Directory::new(worker("w4"));
            for at in order {
                let (from, word) = &words[at];
                assert!(directory.learn(&worker(from), vec![word.clone()], 0, VALID_MS));
                assert!(
                    !directory.learn(&worker(from), vec![word.clone()], 0, VALID_MS),
                    "it is nothing new"
                );
            }
            let known = directory.find(machine, 0).unwrap();
            assert_eq!((known.mapping, known.is_certain), (words[1].1.clone(), true));
            assert_eq!(directory.all(0).len(), 1);
        }
    }

    #[test]
    fn what_only_others_say_or_what_is_old_is_not_certain_and_who_is_silent_is_forgotten() {
        let machine = MachineId::fresh();
        let mut directory = Directory::new(worker("me"));
        directory.learn(&worker("w1"), vec![told(machine, "w2", 2, Presence::Comes)], 0, VALID_MS);
        assert!(!directory.find(machine, 0).unwrap().is_certain);
        directory.learn(&worker("w2"), vec![told(machine, "w2", 2, RUNS)], 5, VALID_MS);
        assert!(directory.find(machine, VALID_MS).unwrap().is_certain);
        assert!(!directory.find(machine, VALID_MS + 5).unwrap().is_certain);
        assert!(!directory.collect(SILENT_MS_MAX - 1));
        assert!(directory.collect(SILENT_MS_MAX) && directory.find(machine, 0).is_some());
        assert!(directory.collect(SILENT_MS_MAX + 5) && directory.find(machine, 0).is_none());
        directory.learn(&worker("me"), vec![told(machine, "me", 3, RUNS)], 0, VALID_MS);
        assert!(!directory.collect(u64::MAX) && directory.find(machine, u64::MAX).unwrap().is_certain);
    }

    #[test]
    fn a_machine_that_was_handed_over_is_known_until_its_new_owner_has_told_of_it() {
        let (machine, w1, w2) = (MachineId::fresh(), worker("w1"), worker("w2"));
        let left = || {
            let mut directory = Directory::new(worker("me"));
            directory.learn(&w1, vec![told(machine, "w2", 2, Presence::Comes)], 0, VALID_MS);
            // The move is done, and w2 has not been heard since: its agent was started again, say.
            assert!(!directory.learn_changes(&w1, (Vec::new(), &[machine]), 10, VALID_MS));
            assert!(!directory.learn(&w1, Vec::new(), 20, VALID_MS), "also when it tells all anew");
            directory
        };
        let mut directory = left();
        let known = directory.find(machine, 20).unwrap();
        assert_eq!((known.mapping.owner.clone(), known.is_certain), (w2.clone(), false));
        assert_eq!(directory.claims(20).len(), 1);
        // What the new owner told before it had the machine changes nothing.
        assert!(!directory.learn(&w2, Vec::new(), 25, VALID_MS));
        assert!(directory.learn_changes(&w2, (vec![told(machine, "w2", 2, RUNS)], &[]), 30, VALID_MS));
        assert!(directory.find(machine, 30).unwrap().is_certain);
        assert!(directory.learn_changes(&w2, (Vec::new(), &[machine]), 40, VALID_MS));
        assert_eq!(directory.find(machine, 40), None, "it was destroyed there, and nobody stands in");

        let mut denied = left();
        denied.correct(&w2, machine, None);
        assert_eq!(denied.find(machine, 20), None);

        let mut old = left();
        assert!(!old.collect(9 + VALID_MS) && old.find(machine, 0).is_some());
        assert!(old.collect(10 + VALID_MS));
        assert_eq!(old.find(machine, 0), None);
    }

    #[test]
    fn changes_come_upon_what_was_told_and_the_age_of_what_is_known_is_told() {
        let (a, b) = (MachineId::fresh(), MachineId::fresh());
        let mut directory = Directory::new(worker("me"));
        directory.learn(&worker("w1"), vec![told(a, "w1", 1, RUNS)], 10, VALID_MS);
        let news = (vec![told(b, "w1", 1, RUNS)], &[a][..]);
        assert!(directory.learn_changes(&worker("w1"), news, 20, VALID_MS));
        assert!(directory.find(a, 20).is_none());
        let known = directory.find(b, 50).unwrap();
        assert_eq!((known.told_by, known.heard_ms_ago, known.is_certain), (worker("w1"), 30, true));
        assert!(!directory.learn_changes(&worker("w1"), (vec![], &[]), 60, VALID_MS), "nothing is new");
        let expected =
            Teller { name: worker("w1"), heard_ms_ago: 40 + VALID_MS, is_fresh: false, machines: 1 };
        assert_eq!(directory.tellers(100 + VALID_MS), [expected]);
    }

    #[test]
    fn what_a_worker_no_longer_tells_is_gone() {
        let (one, two) = (MachineId::fresh(), MachineId::fresh());
        let mut directory = Directory::new(worker("me"));
        directory.learn(&worker("w1"), vec![told(one, "w1", 1, RUNS), told(two, "w1", 1, RUNS)], 0, VALID_MS);
        assert!(directory.learn(&worker("w1"), vec![told(two, "w1", 1, RUNS)], 0, VALID_MS));
        assert_eq!((directory.find(one, 0), directory.all(0).len()), (None, 1));
        directory.correct(&worker("w1"), two, None);
        assert_eq!(directory.all(0), []);
    }

    #[test]
    fn a_worker_that_is_asked_in_vain_names_the_one_to_ask() {
        let machine = MachineId::fresh();
        let mut directory = Directory::new(worker("me"));
        directory.learn(&worker("w1"), vec![told(machine, "w1", 1, RUNS)], 0, VALID_MS);
        directory.correct(&worker("w1"), machine, Some((Generation(2), worker("w2"))));
        let known = directory.find(machine, 0).unwrap();
        assert_eq!((known.mapping.owner, known.is_certain), (worker("w2"), false));
        // Who was wrong about it changes nothing.
        directory.correct(&worker("w2"), machine, Some((Generation(1), worker("w1"))));
        assert_eq!(directory.find(machine, 0).unwrap().mapping.owner, worker("w2"));
    }

    #[test]
    fn a_port_that_two_machines_claim_is_that_of_the_older_one() {
        let (older, younger) = (MachineId::fresh(), MachineId::fresh());
        let (older, younger) = (older.min(younger), older.max(younger));
        let mut directory = Directory::new(worker("me"));
        directory.learn(&worker("w1"), vec![told(younger, "w1", 1, RUNS)], 0, VALID_MS);
        directory.learn(&worker("w2"), vec![told(older, "w2", 1, RUNS)], 0, VALID_MS);
        let claims: Vec<Claim> = directory.claims(0).into_values().flatten().collect();
        let claims: Vec<_> = claims.into_iter().map(|claim| (claim.machine, claim.lost_to)).collect();
        assert_eq!(claims, [(older, None), (younger, Some(older))]);
    }
}
