//! The records of a worker in memory: what the agent keeps in SQLite, with the same changes under the same conditions.
//!
//! Invariant: a transaction is made whole or not at all.

use ferry_api::{JobId, MachineId, MachineName, VolumeKey};
use ferry_crossing::{
    Change, ChangeRefused, CrossingRecord, JobRecord, MachineRecord, MoveStep, Rows, Standing, VolumeRecord,
    WorkerRecord,
};
use ferry_fsm::{Entry, replay};
use std::collections::BTreeMap;
use std::rc::Rc;

/// Records and journals.
#[derive(Clone, Debug, Default)]
pub(crate) struct Books {
    pub(crate) machines: BTreeMap<MachineId, MachineRecord>,
    pub(crate) volumes: BTreeMap<VolumeKey, VolumeRecord>,
    pub(crate) jobs: BTreeMap<JobId, JobRecord>,
    pub(crate) crossings: BTreeMap<JobId, CrossingRecord>,
    pub(crate) journals: BTreeMap<JobId, Vec<Entry>>,
}

impl Books {
    /// Makes changes and appends entries, all or nothing.
    pub(crate) fn transact(
        self: &Rc<Self>,
        changes: &[Change],
        entries: Option<(JobId, Vec<Entry>)>,
    ) -> Result<Rc<Self>, ChangeRefused> {
        let mut next = Self::clone(self);
        for change in changes {
            change.apply(&mut next)?;
        }
        if let Some((job, entries)) = entries {
            next.journals.entry(job).or_default().extend(entries);
        }
        Ok(Rc::new(next))
    }

    /// Where a job stands, computed from its journal as a starting agent does.
    pub(crate) fn standing(&self, job: JobId) -> Option<ferry_fsm::Standing<MoveStep>> {
        let journal = self.journals.get(&job)?;
        Some(replay(journal).expect("a journal that was appended to by the rules replays"))
    }
}

impl Rows for Books {
    type Error = ChangeRefused;

    fn machine(&self, id: MachineId) -> Result<Option<MachineRecord>, ChangeRefused> {
        Ok(self.machines.get(&id).cloned())
    }

    fn is_name_taken(&self, name: &MachineName) -> Result<bool, ChangeRefused> {
        Ok(self.machines.values().any(|machine| machine.standing == Standing::Ours && machine.name == *name))
    }

    fn volume(&self, key: VolumeKey) -> Result<Option<VolumeRecord>, ChangeRefused> {
        Ok(self.volumes.get(&key).cloned())
    }

    fn job(&self, id: JobId) -> Result<Option<JobRecord>, ChangeRefused> {
        Ok(self.jobs.get(&id).cloned())
    }

    fn worker(&self) -> Result<WorkerRecord, ChangeRefused> {
        Ok(WorkerRecord::default())
    }

    fn put_machine(&mut self, machine: &MachineRecord) -> Result<(), ChangeRefused> {
        // How long it took to start decides nothing: worlds that differ in that are the same.
        self.machines.insert(machine.id, MachineRecord { start_ms: None, ..machine.clone() });
        Ok(())
    }

    fn remove_machine(&mut self, id: MachineId) -> Result<(), ChangeRefused> {
        self.machines.remove(&id);
        Ok(())
    }

    fn put_volume(&mut self, volume: &VolumeRecord) -> Result<(), ChangeRefused> {
        self.volumes.insert(volume.key(), volume.clone());
        Ok(())
    }

    fn remove_volume(&mut self, key: VolumeKey) -> Result<(), ChangeRefused> {
        self.volumes.remove(&key);
        Ok(())
    }

    fn put_job(&mut self, job: &JobRecord) -> Result<(), ChangeRefused> {
        self.jobs.insert(job.id, job.clone());
        Ok(())
    }

    fn remove_job(&mut self, id: JobId) -> Result<(), ChangeRefused> {
        self.jobs.remove(&id);
        self.journals.remove(&id);
        Ok(())
    }

    fn put_crossing(&mut self, crossing: &CrossingRecord) -> Result<(), ChangeRefused> {
        self.crossings.insert(crossing.job, crossing.clone());
        Ok(())
    }

    fn remove_crossing(&mut self, job: JobId) -> Result<(), ChangeRefused> {
        self.crossings.remove(&job);
        Ok(())
    }

    fn put_worker(&mut self, _: &WorkerRecord) -> Result<(), ChangeRefused> {
        // What is set for a worker as a whole (its budget) has no part in the crossing.
        Ok(())
    }
}
