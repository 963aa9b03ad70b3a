//! A live move, undisturbed and cut off at every point: before the hand-over whatever goes wrong leaves the machine running at
//! home with its memory, and behind it the machine runs at the target, with its memory or started anew.

use ferry_api::{Arrival, Desired, DriverInfo, Job, JobState, MoveMode};

use super::ahead::memo;
use super::faults::{Worker, play};
use super::world::{Fault, facts};
use ferry_crossing::live::Memory;
use ferry_crossing::{Booted, Prepared, Sealed, Stopped};

/// A worker with a VM that can move with its memory.
async fn vm(desired: Desired, faults: &[(u64, Fault)]) -> Worker {
    let worker = Worker::new(desired, faults).await;
    {
        let mut state = worker.world.state();
        state.is_vm = true;
        state.drivers = vec![DriverInfo {
            name: "qemu".to_owned(),
            found: None,
            limits: Vec::new(),
            error: None,
            live: Some(facts()),
            models: None,
        }];
    }
    worker
}

/// A whole live move with these faults.
async fn moved(faults: &[(u64, Fault)]) -> (Worker, Job) {
    let mut worker = vm(Desired::Running, faults).await;
    let job = play(&mut worker, MoveMode::Live).await;
    (worker, job)
}

async fn calm_points() -> u64 {
    let (worker, job) = moved(&[]).await;
    assert_eq!(job.state, JobState::Succeeded);
    worker.world.state().points
}

fn reason(job: &Job) -> String {
    job.steps.iter().filter_map(|step| step.error.clone()).collect()
}

#[tokio::test]
async fn a_machine_moves_with_its_memory_and_its_disks_were_copied_ahead() {
    let (worker, job) = moved(&[]).await;
    assert!(memo::<Stopped>(&job, "Stop").memory.is_some());
    assert_eq!(memo::<Booted>(&job, "Boot").arrival, Some(Arrival::Live));
    assert!(memo::<Sealed>(&job, "Seal").adopted.is_some(), "{job:?}");
    assert_eq!(worker.world.state().reboots, 0);
}

#[tokio::test]
async fn what_a_machine_writes_to_its_disks_while_its_memory_crosses_is_copied_then() {
    let (_, job) = moved(&[]).await;
    let prepared = memo::<Prepared>(&job, "Prepare").ahead.unwrap();
    let kept_up = memo::<Stopped>(&job, "Stop").kept_up.unwrap();
    // One at each look but the last, which finds it paused.
    assert_eq!((kept_up.rounds, kept_up.ended.as_ref()), (2, None), "{kept_up:?}");
    assert!(kept_up.marks.iter().zip(&prepared.marks).all(|(last, first)| last > first), "{kept_up:?}");
}

#[tokio::test]
async fn a_target_that_loses_what_was_copied_while_the_memory_crosses_gets_all_of_the_disks_later() {
    let mut worker = vm(Desired::Running, &[]).await;
    worker.world.state().loses_what_was_copied_beside = true;
    let job = play(&mut worker, MoveMode::Live).await;
    assert_eq!((job.state, worker.world.state().reboots), (JobState::Succeeded, 0), "{job:?}");
    let kept_up = memo::<Stopped>(&job, "Stop").kept_up.unwrap();
    assert!(kept_up.marks.is_empty() && kept_up.ended.unwrap().contains("does not hold"), "{job:?}");
    assert_eq!(memo::<Sealed>(&job, "Seal"), Sealed::default());
    let state = worker.world.state();
    assert!(state.home.values().all(|volume| volume.marks.is_empty()), "{state:?}");
}

#[tokio::test]
async fn a_live_move_keeps_the_memory_also_when_its_agent_dies_or_a_call_is_lost_at_any_point() {
    for point in 0..calm_points().await {
        for fault in [Fault::AgentDies, Fault::Unreachable] {
            let (worker, job) = moved(&[(point, fault)]).await;
            assert_eq!(job.state, JobState::Succeeded, "{fault:?} at point {point}: {job:?}");
            assert_eq!(worker.world.state().reboots, 0, "{fault:?} at point {point}: {job:?}");
        }
    }
}

#[tokio::test]
async fn a_live_move_ends_also_when_the_host_goes_down_with_the_memory_at_any_point() {
    for point in 0..calm_points().await {
        for fault in [Fault::HostDies, Fault::OlderRecords] {
            let (worker, job) = moved(&[(point, fault)]).await;
            assert_eq!(job.state, JobState::Succeeded, "{fault:?} at point {point}: {job:?}");
            assert!(worker.world.state().reboots <= 1, "{fault:?} at point {point}: {job:?}");
        }
    }
}

#[tokio::test]
async fn a_live_move_that_is_cancelled_at_any_point_leaves_the_machine_running_with_its_memory() {
    let mut ends = Vec::new();
    for point in 2..calm_points().await {
        let (worker, job) = moved(&[(point, Fault::Cancel)]).await;
        assert!(matches!(job.state, JobState::Succeeded | JobState::Cancelled), "cancelled at point {point}");
        assert_eq!(worker.world.state().reboots, 0, "cancelled at point {point}: {job:?}");
        ends.push(job.state);
    }
    assert_eq!(ends.first(), Some(&JobState::Cancelled));
    assert_eq!(ends.last(), Some(&JobState::Succeeded));
}

#[tokio::test]
async fn a_cancelled_live_move_keeps_the_memory_also_when_its_agent_dies_while_it_is_undone() {
    let points = calm_points().await;
    for point in points / 2..points {
        let (worker, job) = moved(&[(points / 2, Fault::Cancel), (point, Fault::AgentDies)]).await;
        assert!(matches!(job.state, JobState::Succeeded | JobState::Cancelled), "point {point}");
        assert_eq!(worker.world.state().reboots, 0, "point {point}: {job:?}");
    }
}

#[tokio::test]
async fn memory_that_is_lost_behind_the_hand_over_costs_a_start_and_is_told() {
    let mut worker = vm(Desired::Running, &[]).await;
    worker.world.state().rest_is_lost = true;
    let job = play(&mut worker, MoveMode::Live).await;
    assert_eq!(job.state, JobState::Succeeded);
    assert_eq!(memo::<Booted>(&job, "Boot").arrival, Some(Arrival::Rebooted));
    assert_eq!(worker.world.state().reboots, 1);
}

#[tokio::test]
async fn a_machine_whose_memory_nobody_awaits_any_more_is_not_handed_over() {
    let mut worker = vm(Desired::Running, &[]).await;
    worker.world.state().nobody_awaits = true;
    let job = play(&mut worker, MoveMode::Live).await;
    assert_eq!(job.state, JobState::Failed);
    assert!(reason(&job).contains("that was copied to the target is lost"), "{job:?}");
    let state = worker.world.state();
    assert!(
        state.home_runs && state.reboots == 0 && matches!(state.memory, Some(Memory::Failed { .. })),
        "{state:?}"
    );
}

#[tokio::test]
async fn a_machine_that_writes_as_fast_as_its_memory_crosses_stays() {
    let mut worker = vm(Desired::Running, &[]).await;
    worker.world.state().writes_fast = true;
    let job = play(&mut worker, MoveMode::Live).await;
    assert_eq!(job.state, JobState::Failed);
    assert!(reason(&job).contains("as fast as it crosses"), "{job:?}");
    assert_eq!(worker.world.state().reboots, 0);
}

#[tokio::test]
async fn a_machine_without_memory_that_could_move_is_refused_while_it_runs() {
    let mut worker = Worker::new(Desired::Running, &[]).await;
    let job = play(&mut worker, MoveMode::Live).await;
    assert_eq!(job.state, JobState::Failed);
    assert!(reason(&job).contains("driver process cannot be moved"), "{job:?}");

    let mut worker = vm(Desired::Stopped, &[]).await;
    let job = play(&mut worker, MoveMode::Live).await;
    assert_eq!(job.state, JobState::Failed);
    assert!(reason(&job).contains("does not run"), "{job:?}");
}
