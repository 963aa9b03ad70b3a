//! What is forgotten of jobs that ended, and what never is.

use std::sync::Mutex;

use ferry_api::{
    ApiError, AskJobs, CrossingState, Desired, ErrorCode, Generation, JobId, JobState, MachineId,
    MachineSpec, Ownership, Reserve, VolumeKey, WorkerName,
};
use ferry_crossing::history::Keep;
use ferry_crossing::{Fence, Subject};

use super::faults::Worker;
use crate::fences::Fences;
use crate::jobs::history::{forget_arrivals_once, forget_once};
use crate::jobs::{Guests, Targets};
use crate::records::{Change, ChangeRefused, CrossingRecord, Records, RecordsError, Standing};

/// Nothing is kept for its own sake.
const NOTHING: Keep = Keep { for_ms: 0, jobs: 0 };

/// Targets that know of a move that was undone as long as they are away.
#[derive(Default)]
struct Others {
    away: bool,
    asked: Mutex<Vec<JobId>>,
}

impl Targets for Others {
    async fn is_free_of(&self, _: &WorkerName, job: JobId) -> bool {
        self.asked.lock().unwrap().push(job);
        !self.away
    }
}

async fn forget(worker: &Worker, others: &Others, keep: Keep, now_ms: u64) -> u64 {
    forget_once(&worker.records, others, keep, now_ms).await.unwrap()
}

/// A worker whose machine is there with a move that failed before anything was asked of its target.
async fn with_failed_moves(count: usize) -> (Worker, Vec<JobId>) {
    let mut worker = Worker::new(Desired::Running, &[]).await;
    worker.world.state().room_bytes = 1;
    let mut ids = Vec::new();
    for _ in 0..count {
        let id = worker.begin().await.unwrap().id;
        assert_eq!(worker.run_to_the_end(id).await.state, JobState::Failed);
        ids.push(id);
    }
    (worker, ids)
}

async fn kept(worker: &Worker) -> Vec<JobId> {
    worker.records.ended_from(None, 1_000).await.unwrap().into_iter().map(|job| job.id).collect()
}

#[tokio::test]
async fn a_job_is_forgotten_when_its_time_is_over_with_all_its_entries() {
    let (worker, ids) = with_failed_moves(3).await;
    let ended_ms = worker.moves().job(ids[2]).await.unwrap().finished_at_ms.unwrap();
    let keep = Keep { for_ms: 1_000, jobs: 100 };
    assert_eq!(forget(&worker, &Others::default(), keep, ended_ms).await, 0);
    assert_eq!(forget(&worker, &Others::default(), keep, ended_ms + 1_001).await, 3);
    assert_eq!(kept(&worker).await, []);
    assert_eq!(worker.records.journal(ids[0], 0).await.unwrap(), []);
    assert_eq!(worker.moves().job(ids[0]).await.unwrap_err().code, ErrorCode::NotFound);
}

#[tokio::test]
async fn only_the_latest_jobs_are_kept_however_young_they_are() {
    let (worker, ids) = with_failed_moves(5).await;
    let keep = Keep { for_ms: u64::MAX, jobs: 2 };
    assert_eq!(forget(&worker, &Others::default(), keep, 0).await, 3);
    assert_eq!(kept(&worker).await, ids[3..]);
}

#[tokio::test]
async fn a_job_that_has_not_ended_is_never_forgotten() {
    let worker = Worker::new(Desired::Running, &[]).await;
    worker.world.state().does_not_boot = true;
    let id = worker.begin().await.unwrap().id;
    assert_eq!(forget(&worker, &Others::default(), NOTHING, u64::MAX).await, 0);
    let refused = worker.records.change(vec![Change::ForgetJob(id)]).await.unwrap_err();
    assert!(matches!(refused, RecordsError::Refused(ChangeRefused::JobNotOver(job)) if job == id));
}

#[tokio::test]
async fn a_move_is_kept_as_long_as_its_machine_or_a_copy_it_left_is_here() {
    let mut worker = Worker::new(Desired::Running, &[]).await;
    let id = worker.begin().await.unwrap().id;
    assert_eq!(worker.run_to_the_end(id).await.state, JobState::Succeeded);
    let others = Others::default();
    assert_eq!(forget(&worker, &others, NOTHING, u64::MAX).await, 0);
    // The machine has come back and left with another move; copies of this one are still kept.
    let machine = worker.records.machine(worker.world.machine).await.unwrap().unwrap();
    assert!(matches!(machine.standing, Standing::HandedOver { job, .. } if job == id));
    worker.records.change(vec![Change::RemoveMachine(machine.id)]).await.unwrap();
    let volumes = worker.records.volumes().await.unwrap();
    assert!(volumes.iter().all(|volume| matches!(volume.ownership, Ownership::Retired { .. })));
    for VolumeKey { id: volume, generation } in volumes.iter().map(crate::records::VolumeRecord::key) {
        assert_eq!(forget(&worker, &others, NOTHING, u64::MAX).await, 0, "{volume} is here");
        let gone = Change::RemoveVolume(VolumeKey { id: volume, generation });
        worker.records.change(vec![gone]).await.unwrap();
    }
    assert_eq!(forget(&worker, &others, NOTHING, u64::MAX).await, 1);
    assert_eq!(*others.asked.lock().unwrap(), [], "a target that owns what moved asks nobody");
}

#[tokio::test]
async fn a_move_that_was_undone_is_kept_until_its_target_expects_nothing_of_it() {
    let mut worker = Worker::new(Desired::Running, &[(20, super::world::Fault::Cancel)]).await;
    let id = worker.begin().await.unwrap().id;
    assert_eq!(worker.run_to_the_end(id).await.state, JobState::Cancelled);
    let away = Others { away: true, ..Others::default() };
    assert_eq!(forget(&worker, &away, NOTHING, u64::MAX).await, 0);
    assert_eq!(*away.asked.lock().unwrap(), [id]);
    assert_eq!(forget(&worker, &Others::default(), NOTHING, u64::MAX).await, 1);
}

#[tokio::test]
async fn jobs_are_listed_in_pages() {
    let (worker, mut ids) = with_failed_moves(5).await;
    ids.reverse();
    let page = |ended_max, before| {
        let office = worker.jobs();
        async move {
            let jobs = office.jobs(AskJobs { ended_max, before }).await.unwrap();
            jobs.into_iter().map(|job| job.id).collect::<Vec<_>>()
        }
    };
    assert_eq!(page(2, None).await, ids[..2]);
    assert_eq!(page(2, Some(ids[1])).await, ids[2..4]);
    assert_eq!(page(2, Some(ids[3])).await, ids[4..]);
    assert_eq!(page(1_000, None).await, ids);
}

/// The sources of moves to here; what they say of each.
struct Sources(Result<JobState, ErrorCode>);

impl Guests for Sources {
    async fn expected(&self) -> Result<Vec<(JobId, WorkerName)>, ApiError> {
        Ok(Vec::new())
    }

    async fn asked(&self, _: &WorkerName, _: JobId) -> Result<JobState, ApiError> {
        self.0.map_err(|code| ApiError::new(code, "as the source says"))
    }

    async fn release(&self, _: JobId) -> Result<(), ApiError> {
        Ok(())
    }

    async fn clean_up(&self) -> Result<(), ApiError> {
        Ok(())
    }
}

/// Moves of a machine without disks to here, each settled, at the generations 2, 4, 6 and so on.
struct Inn {
    _dir: tempfile::TempDir,
    records: Records,
    fences: Fences,
    machine: MachineId,
}

impl Inn {
    async fn with_arrivals(arrivals: u64) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let (records, fences) = (Records::open(dir.path()).unwrap(), Fences::open(dir.path()).unwrap());
        let inn = Self { _dir: dir, records, fences, machine: MachineId::fresh() };
        for arrival in 1..=arrivals {
            // Taken on one after the other.
            let job: JobId = format!("{arrival:026}").parse().unwrap();
            let reserve = Reserve {
                job,
                from: "w1".parse().unwrap(),
                api_version: 1,
                machine: inn.machine,
                machine_name: "web".parse().unwrap(),
                machine_generation: Generation(2 * arrival),
                spec: MachineSpec::process("sleep", ["1000"]),
                created_at_ms: 1,
                volumes: Vec::new(),
                undo_unhealthy: false,
            };
            let state = CrossingState::Settled;
            let crossing = CrossingRecord {
                job,
                state,
                reserve: Some(reserve),
                activated_at_ms: Some(1),
                booted_at_ms: None,
                judged: None,
                awaited: None,
                after_move: None,
            };
            inn.records.change(vec![Change::Crossing(Box::new(crossing))]).await.unwrap();
        }
        inn
    }

    /// The machine has gone on from here at this generation.
    async fn went_at(&self, generation: u64) {
        let (to, job) = ("w3".parse().unwrap(), JobId::fresh());
        let fence = Fence { generation: Generation(generation), to, job };
        self.fences.raise(Subject::Machine(self.machine), fence).await.unwrap();
    }

    async fn forget(&self, keep: Keep, sources: Sources) -> u64 {
        forget_arrivals_once(&self.records, &self.fences, &sources, keep, u64::MAX).await.unwrap()
    }

    async fn left(&self) -> Vec<u64> {
        let left = self.records.crossings_of(self.machine).await.unwrap();
        left.into_iter().map(|crossing| crossing.reserve.unwrap().machine_generation.0).collect()
    }
}

#[tokio::test]
async fn a_move_to_here_is_forgotten_when_all_it_brought_has_gone_on_and_its_source_has_ended_it() {
    let inn = Inn::with_arrivals(250).await;
    inn.went_at(498).await;
    assert_eq!(inn.forget(NOTHING, Sources(Ok(JobState::Succeeded))).await, 249);
    assert_eq!(inn.left().await, [500], "the one that brought the machine that is here");
    inn.went_at(500).await;
    assert_eq!(inn.forget(NOTHING, Sources(Err(ErrorCode::NotFound))).await, 1);
    assert_eq!(inn.left().await, [0_u64; 0]);
}

#[tokio::test]
async fn a_move_to_here_is_remembered_while_its_source_may_still_ask_and_while_it_is_not_old() {
    let inn = Inn::with_arrivals(3).await;
    inn.went_at(6).await;
    for may_ask in [Ok(JobState::Running), Ok(JobState::Parked), Err(ErrorCode::Unreachable)] {
        assert_eq!(inn.forget(NOTHING, Sources(may_ask)).await, 0, "{may_ask:?}");
    }
    let keep = Keep { for_ms: u64::MAX, jobs: 2 };
    assert_eq!(inn.forget(keep, Sources(Ok(JobState::Succeeded))).await, 1);
    assert_eq!(inn.left().await, [4, 6], "the latest two");
}

#[tokio::test]
async fn a_move_to_here_whose_machine_was_destroyed_is_remembered_for_ever() {
    let inn = Inn::with_arrivals(1).await;
    assert_eq!(inn.forget(NOTHING, Sources(Ok(JobState::Succeeded))).await, 0);
    assert_eq!(inn.left().await, [2]);
}
