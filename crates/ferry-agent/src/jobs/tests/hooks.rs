//! A machine is told of its moves by its hooks, whatever happens meanwhile, and its move ends as it would without them.

use ferry_api::{Desired, Hook, HookName, HookRun, Hooks, Job, JobState, MoveMode, OnHookFailure};
use ferry_crossing::{Hydrated, Prepared};
use serde::de::DeserializeOwned;

use super::faults::{Worker, play};
use super::world::Fault;

/// A machine with all hooks, of which `failing` fail; those that may ask to give up the move for that.
async fn worker(desired: Desired, failing: &[HookName], faults: &[(u64, Fault)]) -> Worker {
    let worker = Worker::new(desired, faults).await;
    {
        let hook = Hook::new(vec!["true".to_owned()]);
        let asking = Hook { on_failure: OnHookFailure::Abort, ..hook.clone() };
        let mut state = worker.world.state();
        state.failing = failing.to_vec();
        state.hooks = Hooks {
            before_move: Some(asking.clone()),
            quiesce: Some(asking),
            resume: Some(hook.clone()),
            after_move: Some(hook),
        };
    }
    worker
}

/// A whole move; answers the job, which hooks were run, and how many points it passed.
async fn moved(mut worker: Worker, mode: MoveMode) -> (Job, Vec<HookName>, u64) {
    let job = play(&mut worker, mode).await;
    let state = worker.world.state();
    (job, state.told.clone(), state.points)
}

fn memo<T: DeserializeOwned>(job: &Job, step: &str) -> T {
    let step = job.steps.iter().find(|other| other.step == step).unwrap();
    serde_json::from_value(step.memo.clone().unwrap()).unwrap()
}

#[tokio::test]
async fn a_machine_is_told_before_and_after_its_move_and_the_journal_says_what_came_of_it() {
    for mode in [MoveMode::Cold, MoveMode::Warm] {
        let (job, told, _) = moved(worker(Desired::Running, &[], &[]).await, mode).await;
        assert_eq!(job.state, JobState::Succeeded);
        assert_eq!(told, [HookName::BeforeMove, HookName::Quiesce, HookName::AfterMove]);
        let run = |hook| HookRun { hook, took_ms: 1, failure: None };
        let prepared: Prepared = memo(&job, "Prepare");
        assert_eq!(prepared.hooks, [run(HookName::BeforeMove), run(HookName::Quiesce)]);
        let hydrated: Hydrated = memo(&job, "Hydrate");
        assert_eq!(hydrated.after_move, Some(run(HookName::AfterMove)));
    }
}

#[tokio::test]
async fn a_hook_that_fails_and_asks_for_it_gives_up_the_move_and_the_machine_is_told_that_it_stays() {
    for (hook, told_before) in [(HookName::BeforeMove, 1), (HookName::Quiesce, 2)] {
        let (job, told, _) = moved(worker(Desired::Running, &[hook], &[]).await, MoveMode::Warm).await;
        assert_eq!(job.state, JobState::Failed);
        let reason = job.reason.clone().unwrap_or_default();
        assert!(
            reason.contains(&format!("the {hook} hook of machine db did not succeed: it is busy")),
            "{reason}"
        );
        let all = [HookName::BeforeMove, HookName::Quiesce];
        assert_eq!(told, [&all[..told_before], &[HookName::Resume]].concat());
    }
}

#[tokio::test]
async fn a_hook_that_fails_on_the_target_is_told_and_holds_nothing_up() {
    let (job, _, _) =
        moved(worker(Desired::Running, &[HookName::AfterMove], &[]).await, MoveMode::Cold).await;
    assert_eq!(job.state, JobState::Succeeded);
    let hydrated: Hydrated = memo(&job, "Hydrate");
    assert_eq!(hydrated.after_move.unwrap().failure.as_deref(), Some("it is busy"));
}

#[tokio::test]
async fn a_machine_that_does_not_run_is_told_nothing() {
    let (job, told, _) = moved(worker(Desired::Stopped, &[], &[]).await, MoveMode::Cold).await;
    assert_eq!((job.state, told), (JobState::Succeeded, Vec::new()));
}

#[tokio::test]
async fn a_machine_is_quiesced_before_it_stops_also_after_agent_or_host_went_down_at_any_point() {
    let (_, _, points) = moved(worker(Desired::Running, &[], &[]).await, MoveMode::Cold).await;
    for point in 0..points {
        for fault in [Fault::AgentDies, Fault::HostDies] {
            let (job, told, _) =
                moved(worker(Desired::Running, &[], &[(point, fault)]).await, MoveMode::Cold).await;
            assert_eq!(job.state, JobState::Succeeded, "{fault:?} at point {point}");
            assert_eq!(told.first(), Some(&HookName::BeforeMove), "{fault:?} at point {point}: {told:?}");
            let quiesced = told.iter().filter(|told| **told == HookName::Quiesce).count();
            assert!((1..=2).contains(&quiesced), "{fault:?} at point {point}: {told:?}");
            assert_eq!(told.last(), Some(&HookName::AfterMove), "{fault:?} at point {point}: {told:?}");
        }
    }
}

#[tokio::test]
async fn a_machine_whose_move_is_cancelled_at_any_point_is_told_in_the_end_that_it_stays() {
    let (_, _, points) = moved(worker(Desired::Running, &[], &[]).await, MoveMode::Warm).await;
    let mut stays = 0;
    // Nobody can cancel what was not begun.
    for point in 2..points {
        let worker = worker(Desired::Running, &[], &[(point, Fault::Cancel)]).await;
        let (job, told, _) = moved(worker, MoveMode::Warm).await;
        let last = told.last();
        if job.state == JobState::Cancelled {
            assert!(matches!(last, None | Some(HookName::Resume)), "cancelled at point {point}: {told:?}");
            stays += u32::from(last.is_some());
        } else {
            assert_eq!(last, Some(&HookName::AfterMove), "cancelled at point {point}: {told:?}");
        }
    }
    assert!(stays > 0, "no cancel came between");
}
