//! A warm move, undisturbed and cut off at every point: it ends as a cold one does, and what was copied ahead is used or not.

use ferry_api::{Desired, Job, JobState, MoveMode};
use serde::de::DeserializeOwned;

use super::faults::{Worker, story_of};
use super::world::Fault;
use ferry_crossing::{Ahead, Prepared, Sealed};

pub(super) fn memo<T: DeserializeOwned>(job: &Job, step: &str) -> T {
    let step = job.steps.iter().find(|other| other.step == step).unwrap();
    serde_json::from_value(step.memo.clone().unwrap()).unwrap()
}

async fn moved(worker: &mut Worker) -> (Ahead, Sealed) {
    let id = worker.begin_as(MoveMode::Warm).await.unwrap().id;
    let job = worker.run_to_the_end(id).await;
    assert_eq!(job.state, JobState::Succeeded);
    worker.check_the_end(&job).await;
    let prepared: Prepared = memo(&job, "Prepare");
    (prepared.ahead.unwrap(), memo(&job, "Seal"))
}

async fn calm_points() -> u64 {
    let (state, points) = story_of(MoveMode::Warm, Desired::Running, &[]).await;
    assert_eq!(state, JobState::Succeeded);
    points
}

#[tokio::test]
async fn a_warm_move_copies_in_rounds_until_little_is_left_and_keeps_what_is_right() {
    let mut worker = Worker::new(Desired::Running, &[]).await;
    let (ahead, sealed) = moved(&mut worker).await;
    assert!(ahead.rounds.len() > 3, "{ahead:?}");
    assert!(ahead.rounds.is_sorted_by(|a, b| a.bytes_left > b.bytes_left), "{ahead:?}");
    assert!(ahead.ended.contains("which is little"), "{ahead:?}");
    assert_eq!(ahead.marks.len(), 2);
    assert!(sealed.adopted.unwrap().iter().all(|adopted| adopted.bytes_remote == 4096));
}

#[tokio::test]
async fn a_warm_move_of_a_machine_that_does_not_run_is_a_cold_one_and_says_so() {
    let mut worker = Worker::new(Desired::Stopped, &[]).await;
    let (ahead, sealed) = moved(&mut worker).await;
    assert!(ahead.rounds.is_empty() && ahead.marks.is_empty());
    assert!(ahead.ended.contains("does not run"), "{ahead:?}");
    assert_eq!(sealed, Sealed::default());
}

#[tokio::test]
async fn a_warm_move_to_a_worker_that_keeps_nothing_is_a_cold_one_and_says_so() {
    let mut worker = Worker::new(Desired::Running, &[]).await;
    worker.world.state().forgets_what_was_copied = true;
    let (ahead, sealed) = moved(&mut worker).await;
    assert!(ahead.marks.is_empty());
    assert!(ahead.ended.contains("was started again"), "{ahead:?}");
    assert_eq!(sealed, Sealed::default());
    let state = worker.world.state();
    assert!(state.home.values().all(|volume| volume.marks.is_empty()), "{state:?}");
}

#[tokio::test]
async fn a_warm_move_goes_on_after_agent_or_host_went_down_or_a_call_was_lost_at_any_point() {
    for point in 0..calm_points().await {
        for fault in [Fault::AgentDies, Fault::HostDies, Fault::Unreachable] {
            let (state, _) = story_of(MoveMode::Warm, Desired::Running, &[(point, fault)]).await;
            assert_eq!(state, JobState::Succeeded, "{fault:?} at point {point}");
        }
    }
}

#[tokio::test]
async fn what_was_kept_of_a_copy_that_was_opened_again_behind_the_records_is_given_up() {
    for point in 0..calm_points().await {
        let (state, _) = story_of(MoveMode::Warm, Desired::Running, &[(point, Fault::OlderRecords)]).await;
        assert_eq!(state, JobState::Succeeded, "point {point}");
    }
}

#[tokio::test]
async fn a_warm_move_that_is_cancelled_at_any_point_is_undone_or_done_but_nothing_between() {
    let mut ends = Vec::new();
    for point in 2..calm_points().await {
        let (state, _) = story_of(MoveMode::Warm, Desired::Running, &[(point, Fault::Cancel)]).await;
        assert!(matches!(state, JobState::Succeeded | JobState::Cancelled), "cancelled at point {point}");
        ends.push(state);
    }
    assert_eq!(ends.first(), Some(&JobState::Cancelled));
    assert_eq!(ends.last(), Some(&JobState::Succeeded));
}
