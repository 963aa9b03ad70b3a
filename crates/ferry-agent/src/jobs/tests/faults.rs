//! A move that is cut off, at every point and in every way, ends as the rules of the crossing say.

use std::sync::Arc;

use ferry_api::{AskJobs, CrossingState, Desired, EventsAfter, Job, JobId, JobState, MoveMode, Ownership};
use ferry_fsm::Terms;
use proptest::prelude::*;
use tempfile::TempDir;

use super::records::{FaultyJournal, Hourglass, furnish};
use super::world::{Alpha, Fault, World, fresh_keys, worker};
use crate::jobs::{Executor, MOVES, MoveInput, Mover, Office, Queues, begin_move};
use crate::records::{Records, RecordsError, Standing};

/// Moves at once.
const MOVES_AT_ONCE: usize = 1;
/// More points than any move of these tests passes.
const POINTS_MAX: u64 = 400;
/// How often a test looks for the end of a job before it gives up.
const LOOKS_MAX: u32 = 1_000;

pub(super) type Moves = Executor<FaultyJournal, Hourglass, Mover<Alpha, Hourglass>>;
type Jobs = Office<FaultyJournal, Hourglass, Alpha>;

/// A worker that can be killed and comes back with what is durable.
pub(super) struct Worker {
    pub(super) world: Arc<World>,
    pub(super) records: Records,
    jobs: Option<Jobs>,
    state_dir: TempDir,
}

impl Worker {
    pub(super) async fn new(desired: Desired, faults: &[(u64, Fault)]) -> Self {
        let state_dir = memory_dir();
        let world = World::new(&fresh_keys(2), desired);
        world.state().faults = faults.to_vec();
        let records = Records::open(state_dir.path()).unwrap();
        furnish(&records, &world).await;
        let jobs = start(&records, &world).await;
        Self { world, records, jobs: Some(jobs), state_dir }
    }

    pub(super) async fn begin(&self) -> Result<Job, RecordsError> {
        self.begin_as(MoveMode::Cold).await
    }

    pub(super) async fn begin_as(&self, mode: MoveMode) -> Result<Job, RecordsError> {
        begin_move(self.moves(), MoveInput { mode, ..self.input("beta") }, Terms::default()).await
    }

    pub(super) fn input(&self, to: &str) -> MoveInput {
        MoveInput {
            machine: self.world.machine,
            machine_name: "db".parse().unwrap(),
            from: worker("alpha"),
            to: worker(to),
            retention_ms: 1_000,
            mode: MoveMode::Cold,
            undo_unhealthy: false,
            way_back: false,
            force: false,
        }
    }

    pub(super) fn moves(&self) -> &Moves {
        &self.jobs().moves
    }

    pub(super) fn jobs(&self) -> &Jobs {
        self.jobs.as_ref().expect("an agent is only missing while it restarts")
    }

    /// Kills the agent where it stands and starts another one from what is durable.
    pub(super) async fn restart(&mut self) {
        drop(self.jobs.take());
        // What the dead agent had asked to be written is written before the next one reads, as the lock of its directory sees to.
        let _ = self.records.unfinished_jobs().await;
        self.records = Records::open(self.state_dir.path()).unwrap();
        self.world.come_back(&self.records).await;
        self.jobs = Some(start(&self.records, &self.world).await);
    }

    /// Lets a job run to its end, with all that comes in between.
    pub(super) async fn run_to_the_end(&mut self, id: JobId) -> Job {
        for _ in 0..LOOKS_MAX {
            let now = self.moves().job(id).await.unwrap();
            if now.state.is_final() {
                return now;
            }
            // Behind all there will be: answered at the end, and nothing of the journal is read again for each entry.
            let next = EventsAfter { after: i64::MAX as u64, wait_ms: EventsAfter::WAIT_MS_MAX };
            tokio::select! {
                biased;
                () = self.world.died.notified() => {}
                reason = self.moves().failure() => assert!(reason.contains("cannot be kept"), "{reason}"),
                () = self.world.cancel.notified() => {
                    // Polled once the question is put. The answer may come after the next one is due.
                    tokio::select! {
                        biased;
                        // Refused behind the hand-over.
                        _ = self.moves().cancel(id) => {}
                        () = std::future::ready(()) => {}
                    }
                    self.world.cancel_asked.notify_one();
                    continue;
                }
                _ = self.moves().events(id, next) => continue,
            }
            self.restart().await;
        }
        panic!("the job does not end: {:?}", self.moves().job(id).await);
    }

    /// The records and the world after the end of a move tell the same story.
    pub(super) async fn check_the_end(&self, job: &Job) {
        let machine = self.records.machine(self.world.machine).await.unwrap().unwrap();
        let volumes = self.records.volumes().await.unwrap();
        let state = self.world.state();
        let shall_run = state.desired == Some(Desired::Running);
        assert_eq!((machine.job, machine.halted), (None, false));
        if job.state == JobState::Succeeded {
            assert_eq!(machine.standing, Standing::HandedOver { to: worker("beta"), job: job.id });
            assert!(volumes.iter().all(|v| matches!(v.ownership, Ownership::Retired { .. })), "{volumes:?}");
            assert!(
                state.home.values().all(|v| v.sealed && v.fenced && v.retired && !v.exported),
                "{state:?}"
            );
            assert_eq!(state.crossing, Some(CrossingState::Settled));
            assert_eq!((state.home_runs, state.target_runs), (false, shall_run));
        } else {
            assert_eq!(machine.standing, Standing::Ours);
            assert!(volumes.iter().all(|volume| volume.ownership == Ownership::Ours), "{volumes:?}");
            assert!(
                state.home.values().all(|v| !(v.sealed || v.fenced || v.retired || v.exported)),
                "{state:?}"
            );
            assert!(state.home.values().all(|v| v.marks.is_empty()), "{state:?}");
            assert_eq!((state.home_runs, state.target_runs), (shall_run, false));
        }
    }
}

/// A directory that costs no disk writes where the host has one: here agents die, not hosts' disks.
fn memory_dir() -> TempDir {
    tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap()
}

async fn start(records: &Records, world: &Arc<World>) -> Jobs {
    let journal = FaultyJournal { records: records.clone(), world: world.clone() };
    let clock = Hourglass(world.clone());
    let queues = Queues::new([(MOVES.to_owned(), MOVES_AT_ONCE)]);
    Office::open(Arc::new(journal), clock, Arc::new(Alpha(world.clone())), queues).await.unwrap()
}

/// One whole cold move with these faults; answers how it ended and how many points it passed.
async fn story(desired: Desired, faults: &[(u64, Fault)]) -> (JobState, u64) {
    story_of(MoveMode::Cold, desired, faults).await
}

/// One whole move with these faults; answers how it ended and how many points it passed.
pub(super) async fn story_of(mode: MoveMode, desired: Desired, faults: &[(u64, Fault)]) -> (JobState, u64) {
    let mut worker = Worker::new(desired, faults).await;
    let job = play(&mut worker, mode).await;
    (job.state, worker.world.state().points)
}

/// One whole move of a worker.
pub(super) async fn play(worker: &mut Worker, mode: MoveMode) -> Job {
    let begun = tokio::select! {
        biased;
        () = worker.world.died.notified() => None,
        begun = worker.begin_as(mode) => begun.ok(),
    };
    let id = match begun {
        Some(job) => job.id,
        // Nobody was told of the job. It may be durable all the same, and even have ended: it runs before its answer.
        None => {
            worker.restart().await;
            match worker.jobs().jobs(AskJobs::default()).await.unwrap().first() {
                Some(job) => job.id,
                None => worker.begin_as(mode).await.unwrap().id,
            }
        }
    };
    let job = worker.run_to_the_end(id).await;
    worker.check_the_end(&job).await;
    job
}

/// The points of a move that nothing disturbs.
async fn calm_points() -> u64 {
    let (state, points) = story(Desired::Running, &[]).await;
    assert_eq!(state, JobState::Succeeded);
    assert!(points < POINTS_MAX);
    points
}

#[tokio::test]
async fn a_move_goes_on_after_its_agent_was_killed_at_any_point() {
    for point in 0..calm_points().await {
        let (state, _) = story(Desired::Running, &[(point, Fault::AgentDies)]).await;
        assert_eq!(state, JobState::Succeeded, "killed at point {point}");
    }
}

#[tokio::test]
async fn a_move_goes_on_after_its_host_went_down_at_any_point() {
    for point in 0..calm_points().await {
        let (state, _) = story(Desired::Running, &[(point, Fault::HostDies)]).await;
        assert_eq!(state, JobState::Succeeded, "down at point {point}");
    }
}

#[tokio::test]
async fn a_call_that_is_lost_once_or_whose_answer_is_lost_does_not_fail_a_move() {
    for point in 0..calm_points().await {
        let (state, _) = story(Desired::Running, &[(point, Fault::Unreachable)]).await;
        assert_eq!(state, JobState::Succeeded, "lost at point {point}");
    }
}

#[tokio::test]
async fn a_move_whose_machine_came_back_and_was_destroyed_ends_also_when_a_call_is_lost() {
    for point in 2..calm_points().await {
        let mut worker = Worker::new(Desired::Running, &[(point, Fault::Unreachable)]).await;
        worker.world.state().destroyed_at_home = true;
        let job = worker.begin().await.unwrap();
        let job = worker.run_to_the_end(job.id).await;
        assert_eq!(job.state, JobState::Succeeded, "lost at point {point}");
    }
}

#[tokio::test]
async fn a_move_that_is_cancelled_at_any_point_is_undone_or_done_but_nothing_between() {
    let mut ends = Vec::new();
    for point in 2..calm_points().await {
        let (state, _) = story(Desired::Running, &[(point, Fault::Cancel)]).await;
        assert!(matches!(state, JobState::Succeeded | JobState::Cancelled), "cancelled at point {point}");
        ends.push(state);
    }
    assert_eq!(ends.first(), Some(&JobState::Cancelled));
    assert_eq!(ends.last(), Some(&JobState::Succeeded));
}

#[tokio::test]
async fn a_cancelled_move_is_undone_also_when_its_agent_is_killed_meanwhile() {
    let points = calm_points().await;
    for cancel in [8, points / 3] {
        for point in cancel + 1..points {
            let faults = [(cancel, Fault::Cancel), (point, Fault::HostDies)];
            let (state, _) = story(Desired::Running, &faults).await;
            assert!(matches!(state, JobState::Succeeded | JobState::Cancelled), "{faults:?}");
        }
    }
}

#[tokio::test]
async fn a_copy_that_was_opened_again_behind_the_records_is_sealed_before_the_target_owns_it() {
    for point in 0..calm_points().await {
        let (state, _) = story(Desired::Running, &[(point, Fault::OlderRecords)]).await;
        assert_eq!(state, JobState::Succeeded, "point {point}");
    }
}

fn fault() -> impl Strategy<Value = Fault> {
    prop_oneof![
        1 => Just(Fault::AgentDies),
        1 => Just(Fault::HostDies),
        3 => Just(Fault::Unreachable),
        1 => Just(Fault::Cancel),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn a_move_ends_by_the_rules_whatever_happens_to_it(
        faults in proptest::collection::vec((2..POINTS_MAX / 2, fault()), 0..12),
        runs in any::<bool>(),
    ) {
        let desired = if runs { Desired::Running } else { Desired::Stopped };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let (state, _) = runtime.block_on(story(desired, &faults));
        prop_assert!(state.is_final());
    }
}
