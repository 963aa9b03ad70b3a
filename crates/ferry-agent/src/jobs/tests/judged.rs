//! Moves that are undone if their machine is not well: the source waits for what the target decides, and keeps it.

use ferry_api::{Desired, Job, JobState, MoveMode};
use ferry_fsm::Terms;

use super::faults::Worker;
use super::world::{Fault, taken_back};
use crate::jobs::{Hydrated, MoveInput, begin_move};

fn input(worker: &Worker) -> MoveInput {
    MoveInput { undo_unhealthy: true, mode: MoveMode::Cold, ..worker.input("beta") }
}

fn hydrated(job: &Job) -> Hydrated {
    let step = job.steps.iter().find(|step| step.step == "Hydrate").unwrap();
    serde_json::from_value(step.memo.clone().unwrap()).unwrap()
}

/// A move whose machine is judged, with these faults after it was taken on; and the points that it passed until then and in all.
async fn story(faults: &[(u64, Fault)]) -> (Job, u64, u64) {
    let mut worker = Worker::new(Desired::Running, &[]).await;
    worker.world.state().is_judged = true;
    let begun = {
        worker.world.state().faults = faults.to_vec();
        begin_move(worker.moves(), input(&worker), Terms::default()).await.unwrap()
    };
    let from = worker.world.state().points;
    let job = worker.run_to_the_end(begun.id).await;
    worker.check_the_end(&job).await;
    let points = worker.world.state().points;
    (job, from, points)
}

#[tokio::test]
async fn what_the_target_decides_is_kept_whenever_the_agent_dies_or_a_call_is_lost() {
    let (calm, from, points) = story(&[]).await;
    assert_eq!((calm.state, hydrated(&calm).judged), (JobState::Succeeded, Some(taken_back())));
    for fault in [Fault::AgentDies, Fault::HostDies, Fault::Unreachable] {
        for point in from..points {
            let (job, ..) = story(&[(point, fault)]).await;
            assert_eq!(job.state, JobState::Succeeded, "{fault:?} at point {point}");
            assert_eq!(hydrated(&job).judged, Some(taken_back()), "{fault:?} at point {point}");
        }
    }
}

#[tokio::test]
async fn a_move_of_what_nobody_can_judge_is_refused_before_anything_stops() {
    let mut worker = Worker::new(Desired::Running, &[]).await;
    let begun = begin_move(worker.moves(), input(&worker), Terms::default()).await.unwrap();
    let job = worker.run_to_the_end(begun.id).await;
    worker.check_the_end(&job).await;
    assert_eq!(job.state, JobState::Failed);
    assert!(job.reason.as_ref().unwrap().contains("has no health check"), "{job:?}");
}
