//! Machines of one group on several workers, which are never down for a move at the same time, whoever asks and whoever dies.

use crate::house::{Worker, create, end, gated, is_up, runs_on, sleeper, until, workers};
use ferry_api::{
    AgentApi, AskDrain, CreateMachine, DrainPlan, Job, JobState, MachineState, StartDrain, StartMove,
};
use std::path::Path;

fn of_group(mut machine: CreateMachine) -> CreateMachine {
    machine.spec.placement.group = Some("pg".parse().unwrap());
    machine
}

async fn begin(worker: &Worker, name: &str, to: &str) -> Job {
    let start = StartMove::new(name.parse().unwrap(), to.parse().unwrap());
    worker.door().move_start(start).await.unwrap()
}

/// Waits until a job says this of what it waits for.
async fn waits_for(worker: &Worker, job: &Job, part: &str) {
    let says = |job: &Job| job.reason.as_ref().is_some_and(|reason| reason.contains(part));
    until(async || {
        let job = worker.door().job(job.id).await.unwrap();
        assert!(!job.state.is_final(), "{job:#?}");
        says(&job).then_some(())
    })
    .await;
}

/// Waits until the machine of a move has been told to stop.
async fn is_told_to_stop(worker: &Worker, job: &Job) {
    until(async || {
        let job = worker.door().job(job.id).await.unwrap();
        job.steps.iter().any(|step| step.step == "Stop" && step.attempts > 0).then_some(())
    })
    .await;
}

async fn is_still_up(worker: &Worker, name: &str) {
    let state = worker.machine(name).await.state;
    assert!(matches!(state, MachineState::Running { .. }), "{state:?}");
}

/// From when to when the machine of a move was down, in milliseconds since 1970.
fn gap(job: &Job) -> (u64, u64) {
    let step = |name: &str| job.steps.iter().find(|step| step.step == name).unwrap();
    (step("Stop").started_at_ms.unwrap(), step("Boot").finished_at_ms.unwrap())
}

/// Four workers, of which the first has a machine `pg-1` that has been told to stop by its move and waits for `gate`, and the
/// second `pg-2`, whose move waits for that.
async fn one_down_and_one_that_waits(gate: &Path) -> ([Worker; 4], Job, Job) {
    let workers = workers(["", "", "", ""]).await;
    create(&workers[0], of_group(gated("pg-1", gate))).await;
    is_up(&workers[0], "pg-1", 1).await;
    create(&workers[1], of_group(sleeper("pg-2"))).await;
    let first = begin(&workers[0], "pg-1", "w3").await;
    is_told_to_stop(&workers[0], &first).await;
    let second = begin(&workers[1], "pg-2", "w3").await;
    waits_for(&workers[1], &second, "machine pg-1 of its group pg moves from worker w1").await;
    (workers, first, second)
}

async fn both_move_one_after_the_other(workers: &[Worker; 4], first: &Job, second: &Job) {
    let first = workers[0].finished(first.id).await;
    let second = workers[1].finished(second.id).await;
    assert_eq!((first.state, second.state), (JobState::Succeeded, JobState::Succeeded), "{second:#?}");
    let ((_, up), (down, _)) = (gap(&first), gap(&second));
    assert!(up <= down, "the second one was told to stop {} ms too early", up.saturating_sub(down));
    assert!(runs_on(&workers[2], "pg-1").await && runs_on(&workers[2], "pg-2").await);
}

#[tokio::test(flavor = "multi_thread")]
async fn moves_by_hand_on_two_workers_wait_for_each_others_machines() {
    let place = tempfile::tempdir().unwrap();
    let gate = place.path().join("gate");
    let (workers, first, second) = one_down_and_one_that_waits(&gate).await;
    is_still_up(&workers[1], "pg-2").await;
    // One of another group, or none, is not kept.
    create(&workers[1], sleeper("web")).await;
    let other = begin(&workers[1], "web", "w4").await;
    assert_eq!(workers[1].finished(other.id).await.state, JobState::Succeeded);
    std::fs::write(&gate, "").unwrap();
    both_move_one_after_the_other(&workers, &first, &second).await;
    end(workers).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_promised_outlives_every_agent() {
    let place = tempfile::tempdir().unwrap();
    let gate = place.path().join("gate");
    let (mut workers, first, second) = one_down_and_one_that_waits(&gate).await;
    for worker in &mut workers {
        worker.kill().await;
        worker.start().await;
    }
    waits_for(&workers[1], &second, "machine pg-1 of its group pg").await;
    // The one that is down is led by an agent that is away: that changes nothing.
    workers[0].kill().await;
    waits_for(&workers[1], &second, "and does not answer").await;
    is_still_up(&workers[1], "pg-2").await;
    workers[0].start().await;
    std::fs::write(&gate, "").unwrap();
    both_move_one_after_the_other(&workers, &first, &second).await;
    end(workers).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_move_that_is_cancelled_lets_the_next_one_go_when_its_machine_runs_at_home() {
    let place = tempfile::tempdir().unwrap();
    let gate = place.path().join("gate");
    let (workers, first, second) = one_down_and_one_that_waits(&gate).await;
    workers[0].door().job_cancel(first.id).await.unwrap();
    is_still_up(&workers[1], "pg-2").await;
    std::fs::write(&gate, "").unwrap();
    assert_eq!(workers[0].finished(first.id).await.state, JobState::Cancelled);
    assert_eq!(workers[1].finished(second.id).await.state, JobState::Succeeded);
    // One that waits can be cancelled, too, and then nobody waits for it.
    std::fs::remove_file(&gate).unwrap();
    is_up(&workers[0], "pg-1", 2).await;
    let again = begin(&workers[0], "pg-1", "w4").await;
    is_told_to_stop(&workers[0], &again).await;
    let back = begin(&workers[2], "pg-2", "w2").await;
    waits_for(&workers[2], &back, "machine pg-1 of its group pg").await;
    workers[2].door().job_cancel(back.id).await.unwrap();
    assert_eq!(workers[2].finished(back.id).await.state, JobState::Cancelled);
    is_still_up(&workers[2], "pg-2").await;
    std::fs::write(&gate, "").unwrap();
    assert_eq!(workers[0].finished(again.id).await.state, JobState::Succeeded);
    end(workers).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_does_not_answer_is_waited_for_or_passed_by_force() {
    let mut workers = workers(["", "", ""]).await;
    for name in ["pg-1", "pg-2"] {
        create(&workers[0], of_group(sleeper(name))).await;
    }
    workers[2].kill().await;
    let silent = "worker w3 may have a machine of its group pg that is down for a move";
    let refused = workers[0].door().drain_start(StartDrain::default()).await.unwrap_err();
    assert!(refused.message.contains(silent), "{refused}");
    let plan: DrainPlan = workers[0].door().drain_plan(AskDrain::default()).await.unwrap();
    assert_eq!(plan.blocked().count(), 2, "{plan:#?}");
    let patient = begin(&workers[0], "pg-1", "w2").await;
    waits_for(&workers[0], &patient, silent).await;
    is_still_up(&workers[0], "pg-1").await;
    let start = StartMove::new("pg-2".parse().unwrap(), "w2".parse().unwrap());
    let forced = workers[0].door().move_start(StartMove { force: true, ..start }).await.unwrap();
    // It asks in the same order, and so stands behind the one that waits.
    waits_for(&workers[0], &forced, "machine pg-1 of its group pg").await;
    workers[0].door().job_cancel(patient.id).await.unwrap();
    assert_eq!(workers[0].finished(forced.id).await.state, JobState::Succeeded);
    assert_eq!(workers[0].finished(patient.id).await.state, JobState::Cancelled);
    // The other one waits until the worker is there again.
    let patient = begin(&workers[0], "pg-1", "w2").await;
    waits_for(&workers[0], &patient, silent).await;
    workers[2].start().await;
    assert_eq!(workers[0].finished(patient.id).await.state, JobState::Succeeded);
    end(workers).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn drains_of_two_workers_at_once_keep_the_rule() {
    let workers = workers(["", "", "", ""]).await;
    for (worker, names) in [(0, ["pg-1", "pg-2"]), (1, ["pg-3", "pg-4"])] {
        for name in names {
            create(&workers[worker], of_group(sleeper(name))).await;
        }
    }
    let mut drains = Vec::new();
    for worker in &workers[..2] {
        drains.push(worker.door().drain_start(StartDrain::default()).await.unwrap().job.unwrap());
    }
    let mut gaps = Vec::new();
    for (worker, drain) in workers.iter().zip(&drains) {
        let ended = worker.finished(drain.id).await;
        assert_eq!(ended.state, JobState::Succeeded, "{ended:#?}");
        for child in worker.door().job(drain.id).await.unwrap().children {
            // What the other one did not take any more has gone elsewhere.
            if child.state == Some(JobState::Succeeded) {
                gaps.push(gap(&worker.door().job(child.job).await.unwrap()));
            }
        }
    }
    gaps.sort_unstable();
    // One that went to the other worker before that was drained has moved twice.
    assert!(gaps.len() >= 4, "{gaps:?}");
    assert!(gaps.windows(2).all(|two| two[0].1 <= two[1].0), "{gaps:?}");
    end(workers).await;
}
