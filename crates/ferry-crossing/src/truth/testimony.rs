//! What one worker's disk tells: its records, its marks, its directories and the deeds in its journal, as claims.
//!
//! Invariant: a claim says what was so once. None is made from a record that the mark of its generation contradicts.

use crate::fence::Fence;
use crate::line::HandedOver;
use crate::records::{CrossingRecord, MachineRecord, Standing, VolumeRecord};
use ferry_api::{
    Claim, CopyTold, CrossingState, Evidence, Generation, JobId, MachineId, MachineStanding, MachineTold,
    OnDisk, Ownership, Reserve, Subject, Testimony, VolumeKey, VolumePhase, WorkerName,
};
use std::collections::{BTreeMap, BTreeSet};

/// What lies on one worker's disk about what is asked.
#[derive(Debug, Default)]
pub struct OnOneDisk<'a> {
    /// Its records of machines.
    pub machines: Vec<&'a MachineRecord>,
    /// Its records of copies.
    pub volumes: Vec<&'a VolumeRecord>,
    /// Its records of moves to it.
    pub crossings: Vec<&'a CrossingRecord>,
    /// The hand-overs in its journal.
    pub deeds: Vec<Deed>,
    /// What it remembers to have handed over.
    pub fences: BTreeMap<Subject, Fence>,
    /// Of what it remembers something that cannot be understood: all of it counts as handed over.
    pub mistrusted: BTreeSet<Subject>,
    /// The directories of copies.
    pub directories: BTreeMap<VolumeKey, OnDisk>,
    /// What cannot be read, in one sentence each.
    pub troubles: Vec<String>,
}

/// A hand-over as it stands in the journal.
#[derive(Clone, Debug)]
pub struct Deed {
    /// The move.
    pub job: JobId,
    /// Number of the entry.
    pub seq: u64,
    /// When, in milliseconds since 1970.
    pub at_ms: u64,
    /// The machine.
    pub machine: MachineId,
    /// Who owns what from then on.
    pub memo: HandedOver,
}

/// What a worker tells of what lies on its disk.
#[must_use]
pub fn testimony(worker: &WorkerName, disk: &OnOneDisk<'_>) -> Testimony {
    let teller = Teller { worker, disk };
    let mut claims = Vec::new();
    disk.fences.iter().for_each(|(subject, fence)| claims.push(teller.of_fence(*subject, fence)));
    disk.deeds.iter().for_each(|deed| claims.extend(teller.of_deed(deed)));
    disk.volumes.iter().for_each(|record| claims.extend(teller.of_volume(record)));
    disk.machines.iter().for_each(|record| claims.extend(teller.of_machine(record)));
    disk.crossings.iter().for_each(|record| claims.extend(teller.of_crossing(record)));
    claims.extend(disk.directories.iter().filter_map(|(key, on_disk)| teller.of_directory(*key, *on_disk)));
    Testimony {
        worker: worker.clone(),
        machines: teller.machines(),
        copies: teller.copies(),
        claims,
        troubles: disk.troubles.clone(),
    }
}

struct Teller<'a> {
    worker: &'a WorkerName,
    disk: &'a OnOneDisk<'a>,
}

impl Teller<'_> {
    fn bars(&self, subject: Subject, generation: Generation) -> bool {
        let fence = self.disk.fences.get(&subject);
        self.disk.mistrusted.contains(&subject) || fence.is_some_and(|fence| fence.bars(generation))
    }

    fn claim(
        &self,
        subject: Subject,
        generation: Generation,
        owner: &WorkerName,
        evidence: Evidence,
    ) -> Claim {
        Claim { subject, generation, owner: owner.clone(), told_by: self.worker.clone(), evidence }
    }

    fn own(&self, subject: Subject, generation: Generation, evidence: Evidence) -> Claim {
        self.claim(subject, generation, self.worker, evidence)
    }

    fn of_fence(&self, subject: Subject, fence: &Fence) -> Claim {
        self.claim(subject, fence.generation.next(), &fence.to, Evidence::Mark { job: fence.job })
    }

    fn of_deed(&self, deed: &Deed) -> Vec<Claim> {
        let Deed { job, seq, at_ms, machine, memo } = deed;
        let evidence = Evidence::Journal { job: *job, seq: *seq, at_ms: *at_ms };
        let volumes = memo.volumes.iter().map(|key| (Subject::Volume(key.id), key.generation));
        let all = [(Subject::Machine(*machine), memo.machine_generation)].into_iter().chain(volumes);
        all.map(|(subject, generation)| self.claim(subject, generation, &memo.to, evidence.clone())).collect()
    }

    fn of_volume(&self, record: &VolumeRecord) -> Option<Claim> {
        let (subject, generation) = (Subject::Volume(record.id), record.generation);
        let barred = self.bars(subject, generation);
        match &record.ownership {
            Ownership::Ours | Ownership::Sealed { .. } if barred => None,
            Ownership::Ours => {
                let evidence = Evidence::InUse { created_at_ms: record.created_at_ms };
                Some(self.own(subject, generation, evidence))
            }
            Ownership::Sealed { job } => Some(self.own(subject, generation, Evidence::Sealed { job: *job })),
            Ownership::HandedOver { to, job } => {
                Some(self.claim(subject, generation.next(), to, Evidence::HandedOver { job: Some(*job) }))
            }
            Ownership::Retired { to, .. } => {
                Some(self.claim(subject, generation.next(), to, Evidence::HandedOver { job: None }))
            }
            Ownership::Reserved { .. } | Ownership::Prepared { .. } => None,
        }
    }

    fn of_machine(&self, record: &MachineRecord) -> Vec<Claim> {
        let (subject, generation) = (Subject::Machine(record.id), record.generation);
        match &record.standing {
            Standing::Ours if self.bars(subject, generation) => Vec::new(),
            Standing::Ours => {
                let evidence = Evidence::InUse { created_at_ms: record.created_at_ms };
                vec![self.own(subject, generation, evidence)]
            }
            Standing::HandedOver { to, job } => {
                let disks = record.volume_keys().map(|key| (Subject::Volume(key.id), key.generation));
                let all = [(subject, generation)].into_iter().chain(disks);
                let evidence = Evidence::HandedOver { job: Some(*job) };
                all.map(|(subject, generation)| self.claim(subject, generation.next(), to, evidence.clone()))
                    .collect()
            }
        }
    }

    /// What was activated here was this worker's from then on, whatever became of it.
    fn of_crossing(&self, record: &CrossingRecord) -> Vec<Claim> {
        let (Some(reserve), Some(at_ms)) = (&record.reserve, record.activated_at_ms) else {
            return Vec::new();
        };
        let evidence = Evidence::Activated { job: record.job, at_ms };
        let all = crate::target::subjects_of(reserve).into_iter();
        all.map(|(subject, generation)| self.own(subject, generation, evidence.clone())).collect()
    }

    /// A copy that was ever open was this worker's when it was opened.
    fn of_directory(&self, key: VolumeKey, on_disk: OnDisk) -> Option<Claim> {
        match on_disk.phase {
            Some(VolumePhase::Open | VolumePhase::Sealed) => {
                Some(self.own(Subject::Volume(key.id), key.generation, Evidence::Directory))
            }
            Some(VolumePhase::Standby) | None => None,
        }
    }

    fn machines(&self) -> Vec<MachineTold> {
        let known = self.disk.machines.iter().map(|record| MachineTold {
            id: record.id,
            name: record.name.clone(),
            generation: record.generation,
            standing: match &record.standing {
                Standing::Ours => MachineStanding::Ours,
                Standing::HandedOver { to, job } => MachineStanding::HandedOver { to: to.clone(), job: *job },
            },
            barred: self.bars(Subject::Machine(record.id), record.generation),
            pid: record.process.as_ref().map(|process| process.pid),
            volumes: record.volume_keys().collect(),
        });
        let expected = self.disk.crossings.iter().filter_map(|record| self.expected(record));
        known.chain(expected).collect()
    }

    fn expected(&self, record: &CrossingRecord) -> Option<MachineTold> {
        let reserve: &Reserve = record.reserve.as_ref().filter(|_| crate::target::is_expected(record))?;
        let (from, job) = (reserve.from.clone(), record.job);
        Some(MachineTold {
            id: reserve.machine,
            name: reserve.machine_name.clone(),
            generation: reserve.machine_generation,
            standing: MachineStanding::Expected {
                from,
                job,
                prepared: record.state == CrossingState::Prepared,
            },
            barred: self.bars(Subject::Machine(reserve.machine), reserve.machine_generation),
            pid: None,
            volumes: crate::target::keys_of(reserve),
        })
    }

    fn copies(&self) -> Vec<CopyTold> {
        let recorded = self.disk.volumes.iter().map(|record| CopyTold {
            key: record.key(),
            name: Some(record.name.clone()),
            machine: record.machine,
            ownership: Some(record.ownership.clone()),
            barred: self.bars(Subject::Volume(record.id), record.generation),
            source: record.source.as_ref().and_then(|source| source.worker.clone()),
            made: record.made,
            on_disk: self.disk.directories.get(&record.key()).copied(),
        });
        let is_recorded = |key: &VolumeKey| self.disk.volumes.iter().any(|record| record.key() == *key);
        let unrecorded = self.disk.directories.iter().filter(|(key, _)| !is_recorded(key));
        let unrecorded = unrecorded.map(|(key, on_disk)| CopyTold {
            key: *key,
            name: None,
            machine: None,
            ownership: None,
            barred: self.bars(Subject::Volume(key.id), key.generation),
            source: None,
            made: true,
            on_disk: Some(*on_disk),
        });
        recorded.chain(unrecorded).collect()
    }
}
