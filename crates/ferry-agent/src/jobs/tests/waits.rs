//! Jobs that wait: for a time, for their turn, against a deadline; with a clock that stands until it is set.

use std::sync::{Arc, Mutex};

use ferry_api::{Desired, EventsAfter, Job, JobId, JobKind, JobState, Progress, StepState};
use ferry_fsm::{Backoff, Body, Event, OnFailure, Policy, Step, StepError, Terms, Undo};
use serde_json::Value;
use tempfile::TempDir;
use tokio::sync::{Semaphore, watch};

use super::faults::Worker;
use crate::jobs::{Clock, Executor, Queues, StepContext, Work, begin_move};
use crate::records::{Change, Records};

/// Jobs of a queue that work at once.
const AT_ONCE: usize = 2;
const NOON_MS: u64 = 43_200_000;

/// One step that takes until somebody opens the door.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Visit;

impl Step for Visit {
    const NAME: &'static str = "visit";
    const VERSION: u16 = 1;
    const LINE: &'static [Self] = &[Self];

    fn name(self) -> &'static str {
        "stay"
    }

    fn policy(self) -> Policy {
        let backoff = Backoff { first_ms: 1, cap_ms: 1 };
        let failure = OnFailure::Unwind { attempts: 1 };
        Policy { body: Body::Work, failure, undo: Undo::Nothing, backoff }
    }
}

#[derive(Debug)]
struct House {
    door: Semaphore,
    came: Mutex<Vec<JobId>>,
    /// Of whom nothing can go on.
    held_up: watch::Sender<Option<JobId>>,
}

impl Work for House {
    type Step = Visit;

    fn is_about(_: &JobKind) -> bool {
        true
    }

    async fn perform(&self, _: Visit, context: &StepContext<Visit>) -> Result<Value, StepError> {
        self.came.lock().unwrap().push(context.job);
        let mut held_up = self.held_up.subscribe();
        loop {
            let held_up_now = *held_up.borrow_and_update() == Some(context.job);
            context.show(Progress { held_up: held_up_now, ..Progress::default() });
            tokio::select! {
                permit = self.door.acquire() => {
                    permit.unwrap().forget();
                    return Ok(Value::Null);
                }
                changed = held_up.changed() => changed.unwrap(),
            }
        }
    }

    async fn undo(&self, _: Visit, _: &StepContext<Visit>) -> Result<(), StepError> {
        Ok(())
    }

    fn deed(&self, _: Visit, _: &StepContext<Visit>) -> Result<Value, StepError> {
        unreachable!("a visit has no deed")
    }

    fn changes(&self, context: &StepContext<Visit>, event: &Event) -> Vec<Change> {
        let is_over = matches!(event, Event::Finished { .. });
        is_over.then_some(Change::FinishJob(context.job)).into_iter().collect()
    }
}

/// Shows a time until it is set to another.
#[derive(Debug, Clone)]
struct Sundial(Arc<watch::Sender<u64>>);

impl Sundial {
    fn new(now_ms: u64) -> Self {
        Self(Arc::new(watch::channel(now_ms).0))
    }

    fn set(&self, now_ms: u64) {
        self.0.send_replace(now_ms);
    }
}

impl Clock for Sundial {
    fn now_ms(&self) -> u64 {
        *self.0.borrow()
    }

    async fn sleep_until(&self, at_ms: u64) {
        let mut shown = self.0.subscribe();
        shown.wait_for(|now_ms| *now_ms >= at_ms).await.unwrap();
    }
}

struct Inn {
    visits: Option<Executor<Records, Sundial, House>>,
    house: Arc<House>,
    clock: Sundial,
    dir: TempDir,
}

impl Inn {
    async fn open() -> Self {
        let (dir, clock) = (tempfile::tempdir().unwrap(), Sundial::new(NOON_MS));
        let mut inn = Self { visits: None, house: Self::house(), clock, dir };
        inn.restart().await;
        inn
    }

    fn house() -> Arc<House> {
        Arc::new(House { door: Semaphore::new(0), came: Mutex::default(), held_up: watch::Sender::new(None) })
    }

    async fn restart(&mut self) {
        drop(self.visits.take());
        self.house = Self::house();
        let records = Arc::new(Records::open(self.dir.path()).unwrap());
        let queues = Arc::new(Queues::new([("visits".to_owned(), AT_ONCE)]));
        let started = Executor::start(records, self.clock.clone(), self.house.clone(), queues).await;
        self.visits = Some(started.unwrap());
    }

    fn visits(&self) -> &Executor<Records, Sundial, House> {
        self.visits.as_ref().unwrap()
    }

    async fn begin(&self, terms: Terms) -> JobId {
        let id = JobId::fresh();
        let kind = JobKind::Move {
            machine: ferry_api::MachineId::fresh(),
            machine_name: "web".parse().unwrap(),
            from: "w1".parse().unwrap(),
            to: "w2".parse().unwrap(),
        };
        self.visits().begin(id, kind, Value::Null, terms, Vec::new()).await.unwrap();
        id
    }

    async fn queued(&self) -> JobId {
        self.begin(Terms { queue: Some("visits".to_owned()), ..Terms::default() }).await
    }

    async fn until(&self, id: JobId, wanted: impl Fn(&Job) -> bool) -> Job {
        loop {
            let job = self.visits().job(id).await.unwrap();
            if wanted(&job) {
                return job;
            }
            let next = EventsAfter { after: job.last_seq, wait_ms: EventsAfter::WAIT_MS_MAX };
            self.visits().events(id, next).await.unwrap();
        }
    }

    async fn place(&self, id: JobId) -> Option<u64> {
        self.visits().job(id).await.unwrap().waiting.and_then(|waiting| waiting.place)
    }
}

fn runs(job: &Job) -> bool {
    job.state == JobState::Running
}

#[tokio::test]
async fn so_many_jobs_work_at_once_and_the_others_come_in_order_also_after_a_restart() {
    let mut inn = Inn::open().await;
    let mut ids = Vec::new();
    for minute in 0..5 {
        inn.clock.set(NOON_MS + minute * 60_000);
        ids.push(inn.queued().await);
    }
    inn.until(ids[1], runs).await;
    for _ in 0..2 {
        let mut places = Vec::new();
        for id in &ids {
            places.push(inn.place(*id).await);
        }
        assert_eq!(places, [None, None, Some(1), Some(2), Some(3)]);
        inn.restart().await;
    }
    inn.until(ids[0], runs).await;
    inn.house.door.add_permits(1);
    inn.until(ids[2], runs).await;
    inn.visits().cancel(ids[3]).await.unwrap();
    assert_eq!(inn.until(ids[3], |job| job.state.is_final()).await.state, JobState::Cancelled);
    inn.house.door.add_permits(3);
    for id in [ids[0], ids[1], ids[2], ids[4]] {
        assert_eq!(inn.until(id, |job| job.state.is_final()).await.state, JobState::Succeeded);
    }
    let came = inn.house.came.lock().unwrap().clone();
    assert_eq!(came[2..], [ids[2], ids[4]], "{came:?}");
}

#[tokio::test]
async fn a_job_of_which_nothing_can_go_on_lets_the_next_one_in_and_counts_again_once_it_goes_on() {
    let inn = Inn::open().await;
    let mut ids = Vec::new();
    for minute in 0..4 {
        inn.clock.set(NOON_MS + minute * 60_000);
        ids.push(inn.queued().await);
    }
    inn.until(ids[1], runs).await;
    inn.house.held_up.send_replace(Some(ids[0]));
    inn.until(ids[2], runs).await;
    assert_eq!(inn.place(ids[3]).await, Some(1));
    inn.house.held_up.send_replace(None);
    while inn.visits().job(ids[0]).await.unwrap().progress.is_none_or(|progress| progress.held_up) {
        tokio::task::yield_now().await;
    }
    // Three are at work now, one more than there may be: the next one waits until two of them are gone.
    inn.house.door.add_permits(1);
    let is_over = async |id| inn.visits().job(id).await.unwrap().state.is_final();
    while !(is_over(ids[0]).await || is_over(ids[1]).await || is_over(ids[2]).await) {
        tokio::task::yield_now().await;
    }
    assert_eq!(inn.place(ids[3]).await, Some(1));
    inn.house.door.add_permits(3);
    for id in ids {
        assert_eq!(inn.until(id, |job| job.state.is_final()).await.state, JobState::Succeeded);
    }
}

#[tokio::test]
async fn a_job_for_later_begins_at_its_time_also_after_a_restart() {
    let mut inn = Inn::open().await;
    let terms = Terms { not_before_ms: Some(NOON_MS + 1_000), ..Terms::default() };
    let id = inn.begin(terms).await;
    inn.clock.set(NOON_MS + 999);
    inn.restart().await;
    let waits = inn.visits().job(id).await.unwrap();
    assert_eq!((waits.state, waits.waiting.unwrap().until_ms), (JobState::Waiting, Some(NOON_MS + 1_000)));
    assert_eq!(inn.house.came.lock().unwrap().len(), 0);
    inn.clock.set(NOON_MS + 1_000);
    inn.until(id, runs).await;
}

#[tokio::test]
async fn a_job_for_later_can_be_cancelled_or_begun_at_once_while_it_waits() {
    let inn = Inn::open().await;
    let later = Terms { not_before_ms: Some(u64::MAX), ..Terms::default() };
    let (given_up, hurried) = (inn.begin(later.clone()).await, inn.begin(later).await);
    inn.visits().cancel(given_up).await.unwrap();
    assert_eq!(inn.until(given_up, |job| job.state.is_final()).await.state, JobState::Cancelled);
    inn.visits().resume(hurried).await.unwrap();
    inn.until(hurried, runs).await;
    assert_eq!(*inn.house.came.lock().unwrap(), [hurried]);
}

#[tokio::test]
async fn a_clock_that_jumps_changes_only_when_a_job_begins_or_gives_up() {
    let inn = Inn::open().await;
    let not_before_ms = Some(NOON_MS + 60_000);
    let id = inn.begin(Terms { not_before_ms, within_ms: Some(60_000), ..Terms::default() }).await;
    inn.clock.set(1);
    let job = inn.visits().job(id).await.unwrap();
    assert_eq!((job.state, job.deadline_at_ms), (JobState::Waiting, Some(NOON_MS + 120_000)));
    // Years ahead: it is due, and too late as well. It ends with nothing begun.
    inn.clock.set(NOON_MS * 1_000);
    let job = inn.until(id, |job| job.state.is_final()).await;
    assert_eq!((job.state, inn.house.came.lock().unwrap().len()), (JobState::Failed, 0));
}

#[tokio::test]
async fn a_job_that_waits_too_long_for_its_turn_gives_up() {
    let inn = Inn::open().await;
    let working = [inn.queued().await, inn.queued().await];
    let queue = Some("visits".to_owned());
    let late = inn.begin(Terms { queue, within_ms: Some(5_000), ..Terms::default() }).await;
    inn.clock.set(NOON_MS + 5_000);
    let job = inn.until(late, |job| job.state.is_final()).await;
    assert_eq!(job.reason.unwrap(), "stay: the job was to be done within 5 s and was not");
    inn.until(working[1], runs).await;
}

#[tokio::test]
async fn a_move_for_later_fails_with_nothing_begun_when_its_machine_is_gone_by_then() {
    let mut worker = Worker::new(Desired::Running, &[]).await;
    let terms = Terms { not_before_ms: Some(NOON_MS), ..Terms::default() };
    let first = worker.begin().await.unwrap().id;
    assert_eq!(worker.run_to_the_end(first).await.state, JobState::Succeeded);
    let later = begin_move(worker.moves(), worker.input("beta"), terms).await.unwrap().id;
    let job = worker.run_to_the_end(later).await;
    assert_eq!(job.state, JobState::Failed);
    assert!(job.reason.as_ref().unwrap().contains("machine db was handed over to worker beta"), "{job:?}");
    assert!(job.steps.iter().all(|step| step.state == StepState::Waiting), "{job:?}");
}

#[tokio::test]
async fn a_move_that_is_not_handed_over_in_time_is_undone_with_the_machine_at_home() {
    let mut worker = Worker::new(Desired::Running, &[]).await;
    worker.world.state().target_away = true;
    let terms = Terms { within_ms: Some(100), ..Terms::default() };
    let id = begin_move(worker.moves(), worker.input("beta"), terms).await.unwrap().id;
    let job = worker.run_to_the_end(id).await;
    assert_eq!(job.state, JobState::Failed);
    let reason = job.reason.clone().unwrap();
    assert!(
        reason.starts_with("Plan: the job was to be past HandOver within 100 ms and was not"),
        "{reason}"
    );
    worker.check_the_end(&job).await;
}
