//! The source's real records in the world made of memory, and its clock.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use ferry_api::{Desired, Generation, JobId, MachineSpec, MachineVolume, Ownership};
use ferry_fsm::Count;
use serde_json::Value;

use super::world::{SIZE_BYTES, World};
use crate::jobs::{Clock, Journal};
use crate::records::{
    Change, JobRecord, JournalRow, MachineRecord, Records, RecordsError, Standing, VolumeRecord,
};

/// Real records, with a point before and after every append.
#[derive(Debug)]
pub(super) struct FaultyJournal {
    pub(super) records: Records,
    pub(super) world: Arc<World>,
}

impl FaultyJournal {
    async fn point(&self) -> Result<(), RecordsError> {
        self.world.point().await.map_err(|_| RecordsError::Lost { reason: "the disk is gone".to_owned() })
    }
}

impl Journal for FaultyJournal {
    async fn append(
        &self,
        job: JobId,
        seq: u64,
        entries: &[Value],
        counts: Vec<Count>,
        changes: Vec<Change>,
    ) -> Result<(), RecordsError> {
        self.point().await?;
        self.records.append(job, seq, entries, counts, changes).await?;
        {
            let mut state = self.world.state();
            for entry in entries {
                state.handed_over |= entry["entry"] == "done" && entry["step"] == "HandOver";
                state.hold_the_rules();
                if entry["entry"] == "finished" {
                    assert!(
                        state.handed_over || state.home_runs == (state.desired == Some(Desired::Running))
                    );
                }
            }
        }
        self.point().await
    }

    async fn journal(&self, job: JobId, after: u64) -> Result<Vec<JournalRow>, RecordsError> {
        self.records.journal(job, after).await
    }

    async fn children(&self, parent: JobId) -> Result<Vec<JobRecord>, RecordsError> {
        self.records.children(parent).await
    }

    async fn unfinished_jobs(&self) -> Result<Vec<JobRecord>, RecordsError> {
        self.records.unfinished_jobs().await
    }

    async fn ended_before(
        &self,
        before: Option<JobId>,
        jobs_max: u64,
    ) -> Result<Vec<JobRecord>, RecordsError> {
        self.records.ended_before(before, jobs_max).await
    }

    async fn job(&self, id: JobId) -> Result<Option<JobRecord>, RecordsError> {
        self.records.job(id).await
    }
}

/// A clock that is moved by those who wait for it.
#[derive(Debug, Clone)]
pub(super) struct Hourglass(pub(super) Arc<World>);

impl Clock for Hourglass {
    fn now_ms(&self) -> u64 {
        self.0.now_ms.load(Ordering::SeqCst)
    }

    async fn sleep_until(&self, at_ms: u64) {
        // Whoever else is ready goes first, as in a real pause.
        tokio::task::yield_now().await;
        self.0.now_ms.fetch_max(at_ms, Ordering::SeqCst);
    }
}

/// The records of the source before the move.
pub(super) async fn furnish(records: &Records, world: &World) {
    let (keys, desired) = {
        let state = world.state();
        (state.home.keys().copied().collect::<Vec<_>>(), state.desired.unwrap())
    };
    let disks = keys.iter().map(|key| MachineVolume {
        name: "data".parse().unwrap(),
        volume: key.id,
        generation: key.generation,
    });
    let machine = MachineRecord {
        id: world.machine,
        name: "db".parse().unwrap(),
        spec: MachineSpec::process("sleep", ["1"]),
        volumes: disks.collect(),
        desired,
        generation: Generation::FIRST,
        standing: Standing::Ours,
        job: None,
        halted: false,
        doomed: false,
        process: None,
        memory: None,
        last_exit: None,
        start_ms: None,
        created_at_ms: 1,
    };
    let mut changes = vec![Change::AddMachine(Box::new(machine))];
    for key in keys {
        changes.push(Change::AddVolume(Box::new(VolumeRecord {
            id: key.id,
            generation: key.generation,
            name: "data".parse().unwrap(),
            machine: Some(world.machine),
            size_bytes: SIZE_BYTES,
            region_bytes: 1 << 16,
            ownership: Ownership::Ours,
            source: None,
            base: None,
            rests: false,
            bytes_expected: 0,
            store: None,
            direct: false,
            filesystem: None,
            forks: Vec::new(),
            made: true,
            created_at_ms: 1,
        })));
    }
    records.change(changes).await.unwrap();
}
