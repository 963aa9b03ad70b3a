//! What lies on one worker's disk: its records, the marks of what it handed over, and the directories of copies.

use crate::fences::Fences;
use crate::records::{CrossingRecord, MachineRecord, RecordsError, Standing, VolumeRecord, about};
use ferry_api::{
    AskTestimony, JobId, OnDisk, Ownership, Subject, Testimony, TruthRef, VolumeKey, WorkerName,
};
use ferry_crossing::Fence;
use ferry_crossing::truth::{OnOneDisk, testimony};
use ferry_volume::{LastState, StoreError};
use rusqlite::Connection;
use std::collections::{BTreeMap, BTreeSet};
use std::io;

/// Where what lies beside the records is looked at.
pub(super) trait Disk {
    /// What was handed over.
    fn fences(&self) -> &Fences;
    /// The copies that have directories.
    fn copies(&self) -> io::Result<Vec<VolumeKey>>;
    /// What a copy last was.
    fn last_state(&self, copy: VolumeKey) -> Result<Option<LastState>, StoreError>;
}

/// What is asked for.
#[derive(Clone, Debug)]
pub(super) struct Wanted {
    named: Option<TruthRef>,
    subjects: BTreeSet<Subject>,
}

impl From<AskTestimony> for Wanted {
    fn from(ask: AskTestimony) -> Self {
        let mut subjects: BTreeSet<Subject> = ask.subjects.into_iter().collect();
        // Of what no record tells any more a mark or a directory may still have the id.
        if let Some(named) = &ask.named {
            if let ferry_api::MachineRef::Id(id) = named.machine() {
                subjects.insert(Subject::Machine(*id));
            }
            if let ferry_api::VolumeRef::Id(id) = named.volume() {
                subjects.insert(Subject::Volume(*id));
            }
        }
        Self { named: ask.named, subjects }
    }
}

impl Wanted {
    /// Those whose ids are known.
    pub(super) fn subjects(&self) -> &BTreeSet<Subject> {
        &self.subjects
    }

    /// The records about it.
    pub(super) fn found_in(&self, connection: &Connection) -> Result<Found, RecordsError> {
        let everything = about::everything(connection)?;
        let mut found = Found::default();
        let mut volumes = self.subjects.clone();
        for record in everything.machines {
            let is_asked = self.subjects.contains(&Subject::Machine(record.id))
                || self.named.as_ref().is_some_and(|named| named.is_machine(record.id, &record.name));
            if is_asked {
                volumes.extend(record.volumes.iter().map(|disk| Subject::Volume(disk.volume)));
            }
            let has_it =
                record.volumes.iter().any(|disk| self.subjects.contains(&Subject::Volume(disk.volume)));
            found.machines.extend((is_asked || has_it).then_some(record));
        }
        found.volumes = everything.volumes;
        found.volumes.retain(|record| {
            let is_named = self.named.as_ref().is_some_and(|named| named.is_volume(record.id, &record.name));
            is_named || volumes.contains(&Subject::Volume(record.id))
        });
        found.crossings = everything.crossings;
        found.crossings.retain(|record| {
            record.reserve.as_ref().is_some_and(|reserve| {
                let is_named = self
                    .named
                    .as_ref()
                    .is_some_and(|named| named.is_machine(reserve.machine, &reserve.machine_name));
                let brings =
                    |volume: &ferry_api::ReserveVolume| volumes.contains(&Subject::Volume(volume.id));
                is_named
                    || self.subjects.contains(&Subject::Machine(reserve.machine))
                    || reserve.volumes.iter().any(brings)
            })
        });
        Ok(found)
    }
}

/// The records about what is asked.
#[derive(Debug, Default)]
pub(super) struct Found {
    machines: Vec<MachineRecord>,
    volumes: Vec<VolumeRecord>,
    crossings: Vec<CrossingRecord>,
}

impl Found {
    /// What they are about.
    pub(super) fn subjects(&self, wanted: &Wanted) -> BTreeSet<Subject> {
        let machines = self.machines.iter().map(|record| Subject::Machine(record.id));
        let disks = self.machines.iter().flat_map(|record| record.volumes.iter().map(|disk| disk.volume));
        let volumes = self.volumes.iter().map(|record| record.id);
        let volumes = volumes.chain(disks).map(Subject::Volume);
        machines.chain(volumes).chain(wanted.subjects.iter().copied()).collect()
    }

    /// The moves of which the journal may hold the deed.
    fn jobs(&self, lying: &Lying) -> BTreeSet<JobId> {
        let of_machine = self.machines.iter().filter_map(|record| match &record.standing {
            Standing::HandedOver { job, .. } => Some(*job),
            Standing::Ours => None,
        });
        let of_volume = self.volumes.iter().filter_map(|record| match &record.ownership {
            Ownership::HandedOver { job, .. } => Some(*job),
            Ownership::Reserved { .. }
            | Ownership::Prepared { .. }
            | Ownership::Ours
            | Ownership::Sealed { .. }
            | Ownership::Retired { .. } => None,
        });
        of_machine.chain(of_volume).chain(lying.fences.values().map(|fence| fence.job)).collect()
    }
}

/// What lies on the disk beside the records.
#[derive(Debug, Default)]
pub(super) struct Lying {
    fences: BTreeMap<Subject, Fence>,
    mistrusted: BTreeSet<Subject>,
    directories: BTreeMap<VolumeKey, OnDisk>,
    troubles: Vec<String>,
}

impl Lying {
    /// What lies there about these.
    pub(super) fn about(disk: &impl Disk, subjects: &BTreeSet<Subject>) -> Self {
        let mut lying = Self::default();
        for &subject in subjects {
            match disk.fences().of(subject) {
                Ok(fence) => lying.fences.extend(fence.map(|fence| (subject, fence))),
                Err(error) => {
                    lying.mistrusted.insert(subject);
                    lying.troubles.push(in_a_sentence(&error));
                }
            }
        }
        match disk.copies() {
            Ok(mut keys) => {
                keys.retain(|key| subjects.contains(&Subject::Volume(key.id)));
                keys.into_iter().for_each(|key| lying.look_at(disk, key));
            }
            Err(error) => {
                lying.troubles.push(format!("the directories of its volumes cannot be listed: {error}"))
            }
        }
        lying
    }

    fn look_at(&mut self, disk: &impl Disk, key: VolumeKey) {
        let on_disk = match disk.last_state(key) {
            Ok(None) => return,
            Ok(Some(last)) => OnDisk {
                phase: Some(crate::volumes::phase(last.phase)),
                bytes_total: last.size_bytes,
                bytes_remote: last.bytes_remote,
            },
            Err(error) => {
                self.troubles.push(in_a_sentence(&error));
                OnDisk { phase: None, bytes_total: 0, bytes_remote: 0 }
            }
        };
        self.directories.insert(key, on_disk);
    }

    /// That something of the worker cannot be read.
    pub(super) fn trouble(&mut self, sentence: String) {
        self.troubles.push(sentence);
    }

    /// What the worker tells with its records as they are now.
    pub(super) fn told_with(
        &self,
        worker: &WorkerName,
        wanted: &Wanted,
        connection: &Connection,
    ) -> Result<Testimony, RecordsError> {
        let found = wanted.found_in(connection)?;
        let jobs = found.jobs(self);
        let deeds = jobs.into_iter().map(|job| about::deed(connection, job));
        let deeds: Vec<_> = deeds.collect::<Result<_, _>>()?;
        let disk = OnOneDisk {
            machines: found.machines.iter().collect(),
            volumes: found.volumes.iter().collect(),
            crossings: found.crossings.iter().collect(),
            deeds: deeds.into_iter().flatten().collect(),
            ..self.without_records()
        };
        Ok(testimony(worker, &disk))
    }

    /// What the worker tells whose records cannot be read.
    pub(super) fn told_alone(&self, worker: &WorkerName) -> Testimony {
        testimony(worker, &self.without_records())
    }

    fn without_records(&self) -> OnOneDisk<'_> {
        OnOneDisk {
            fences: self.fences.clone(),
            mistrusted: self.mistrusted.clone(),
            directories: self.directories.clone(),
            troubles: self.troubles.clone(),
            ..OnOneDisk::default()
        }
    }
}

fn in_a_sentence(error: &dyn std::error::Error) -> String {
    ferry_api::ApiError::because(ferry_api::ErrorCode::Internal, error).message
}
