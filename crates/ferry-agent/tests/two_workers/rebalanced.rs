//! Workers that become alike: planned by any of them, done by those that give machines.

use crate::house::{Worker, create, end, fill, gated, is_up, runs_on, sleeper, until, workers};
use ferry_api::{
    AgentApi, AskCordon, AskRebalance, DestroyMachine, DeviationKind, ErrorCode, Job, JobId, JobState,
    MachineState, MoveMode, RebalancePlan, RebalanceStarted, StartMove, StartRebalance,
};
use std::num::NonZeroU32;

/// Room for twelve of the disks below.
const ROOM: &str = "room_bytes = 201326592";
const USED: u64 = 16 << 20;

async fn create_filled(worker: &Worker, name: &str) {
    create(worker, sleeper(name)).await;
    fill(worker, name, USED).await;
}

fn cold(max_parallel: Option<u32>) -> AskRebalance {
    let max_parallel = max_parallel.and_then(NonZeroU32::new);
    AskRebalance { mode: MoveMode::Cold, max_parallel, ..AskRebalance::default() }
}

async fn plan(worker: &Worker, ask: AskRebalance) -> RebalancePlan {
    worker.door().rebalance_plan(ask).await.unwrap()
}

async fn start(worker: &Worker, plan: &RebalancePlan) -> RebalanceStarted {
    let start = StartRebalance { plan: plan.clone(), retention_hours: None, only_check: false };
    worker.door().rebalance_start(start).await.unwrap()
}

/// So many machines run on each worker.
async fn running<const N: usize>(workers: &[Worker; N]) -> Vec<usize> {
    let mut counts = Vec::new();
    for worker in workers {
        let machines = worker.door().machines().await.unwrap();
        counts.push(machines.iter().filter(|one| matches!(one.state, MachineState::Running { .. })).count());
    }
    counts
}

async fn job_when(worker: &Worker, job: &Job, is: impl Fn(&Job) -> bool) -> Job {
    until(async || Some(worker.door().job(job.id).await.unwrap()).filter(&is)).await
}

#[tokio::test(flavor = "multi_thread")]
async fn three_lopsided_workers_become_alike_and_then_nothing_is_to_be_done() {
    let workers = workers([ROOM, ROOM, ROOM]).await;
    let [w1, w2, _] = &workers;
    for name in ["a", "b", "c", "d", "e", "f"] {
        create_filled(w1, name).await;
    }
    // Whoever is asked says the same.
    let made = plan(w2, cold(None)).await;
    assert_eq!((made.parts.len(), made.moves().count()), (1, 4), "{made:#?}");
    let (before, after) = made.gaps_permille();
    assert!(before >= 490 && after <= made.ask.tolerance_permille, "{made:#?}");
    let check = StartRebalance { plan: made.clone(), retention_hours: None, only_check: true };
    let checked = w1.door().rebalance_start(check).await.unwrap();
    assert_eq!(checked, RebalanceStarted { job: None, deviations: Vec::new() });
    let job = start(w1, &made).await.job.unwrap();
    assert_eq!(job.id, made.parts[0].job);
    let again = start(w1, &made).await.job.unwrap();
    assert_eq!(again.id, job.id, "asked twice it is one");
    let ended = w1.finished(job.id).await;
    assert_eq!(ended.state, JobState::Succeeded, "{ended:#?}");
    assert_eq!(w1.door().job(job.id).await.unwrap().children.len(), 4);
    assert_eq!(running(&workers).await, [2, 2, 2]);
    assert_eq!(start(w1, &made).await.job.unwrap().state, JobState::Succeeded, "also when it is over");
    let second = plan(w1, cold(None)).await;
    assert_eq!((second.moves().count(), second.gaps_permille().0 < 100), (0, true), "{second:#?}");
    let elsewhere = StartRebalance { plan: made, retention_hours: None, only_check: false };
    let refusal = w2.door().rebalance_start(elsewhere).await.unwrap_err();
    assert!(refusal.message.contains("moves nothing from worker w2"), "{refusal}");
    end(workers).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plan_of_which_a_machine_has_left_begins_nothing() {
    let workers = workers([ROOM, ROOM, ROOM]).await;
    let [w1, ..] = &workers;
    for name in ["a", "b", "c", "d"] {
        create_filled(w1, name).await;
    }
    let made = plan(w1, cold(None)).await;
    let left = made.moves().next().unwrap().1.machine_name.clone();
    let by_hand = StartMove::new(left.as_str().parse().unwrap(), "w2".parse().unwrap());
    let by_hand = w1.door().move_start(by_hand).await.unwrap();
    assert_eq!(w1.finished(by_hand.id).await.state, JobState::Succeeded);
    let refused = start(w1, &made).await;
    assert_eq!(refused.job, None);
    assert_eq!(refused.deviations[0].kind, DeviationKind::Gone, "{refused:#?}");
    assert!(refused.deviations[0].what.contains("not on worker w1 any more"), "{refused:#?}");
    assert_eq!(running(&workers).await, [3, 1, 0]);
    let unknown = AskRebalance { only: vec!["nobody".parse().unwrap()], ..cold(None) };
    assert_eq!(w1.door().rebalance_plan(unknown).await.unwrap_err().code, ErrorCode::NotFound);
    end(workers).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn it_goes_on_after_both_agents_were_killed_and_moves_each_machine_once() {
    let mut workers = workers([ROOM, ROOM]).await;
    let place = tempfile::tempdir().unwrap();
    let gate = place.path().join("gate");
    create(&workers[0], gated("a-slow", &gate)).await;
    fill(&workers[0], "a-slow", USED).await;
    for name in ["b", "c", "d"] {
        create_filled(&workers[0], name).await;
    }
    is_up(&workers[0], "a-slow", 1).await;
    let made = plan(&workers[0], cold(Some(1))).await;
    let planned: Vec<&str> = made.moves().map(|(_, planned)| planned.machine_name.as_str()).collect();
    assert_eq!(planned, ["a-slow", "b"]);
    let job = start(&workers[0], &made).await.job.unwrap();
    job_when(&workers[0], &job, |job| job.children.len() == 1).await;
    // Another plan waits until this one is done.
    let mut other = StartRebalance { plan: made.clone(), retention_hours: None, only_check: false };
    other.plan.parts[0].job = JobId::fresh();
    assert_eq!(workers[0].door().rebalance_start(other).await.unwrap_err().code, ErrorCode::Busy);
    for index in [0, 1] {
        workers[index].kill().await;
        workers[index].start().await;
    }
    assert_eq!(start(&workers[0], &made).await.job.unwrap().id, job.id);
    std::fs::write(&gate, "").unwrap();
    let ended = workers[0].finished(job.id).await;
    assert_eq!(ended.state, JobState::Succeeded, "{ended:#?}");
    assert_eq!(workers[0].door().job(job.id).await.unwrap().children.len(), 2, "each machine moved once");
    assert!(runs_on(&workers[1], "a-slow").await && runs_on(&workers[1], "b").await);
    assert_eq!(running(&workers).await, [2, 2]);
    end(workers).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn cancelled_it_leaves_each_machine_at_home_or_across() {
    let workers = workers([ROOM, ROOM]).await;
    let [w1, w2] = &workers;
    let place = tempfile::tempdir().unwrap();
    let gate = place.path().join("gate");
    create(w1, gated("b-slow", &gate)).await;
    fill(w1, "b-slow", USED).await;
    for name in ["a", "c", "d"] {
        create_filled(w1, name).await;
    }
    is_up(w1, "b-slow", 1).await;
    let made = plan(w1, cold(Some(1))).await;
    let job = start(w1, &made).await.job.unwrap();
    job_when(w1, &job, |job| job.children.len() == 2).await;
    w1.door().job_cancel(job.id).await.unwrap();
    std::fs::write(&gate, "").unwrap();
    let ended = w1.finished(job.id).await;
    assert_eq!(ended.state, JobState::Cancelled, "{ended:#?}");
    until(async || (running(&workers).await == [3, 1]).then_some(())).await;
    assert!(runs_on(w2, "a").await && runs_on(w1, "b-slow").await);
    end(workers).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_gone_or_refused_when_its_turn_comes_is_named_and_keeps_no_other() {
    let workers = workers([ROOM, ROOM]).await;
    let [w1, w2] = &workers;
    let place = tempfile::tempdir().unwrap();
    let gate = place.path().join("gate");
    create(w1, gated("a-slow", &gate)).await;
    fill(w1, "a-slow", USED).await;
    for name in ["b", "c", "d", "e", "f"] {
        create_filled(w1, name).await;
    }
    is_up(w1, "a-slow", 1).await;
    let made = plan(w1, cold(Some(1))).await;
    let planned: Vec<&str> = made.moves().map(|(_, planned)| planned.machine_name.as_str()).collect();
    assert_eq!(planned, ["a-slow", "b", "c"]);
    let job = start(w1, &made).await.job.unwrap();
    job_when(w1, &job, |job| job.children.len() == 1).await;
    let destroy = DestroyMachine { stop: true };
    w1.door().machine_destroy(&"b".parse().unwrap(), destroy).await.unwrap();
    w2.door().worker_cordon(AskCordon::default()).await.unwrap();
    std::fs::write(&gate, "").unwrap();
    let ended = w1.finished(job.id).await;
    let why = ended.reason.unwrap();
    assert_eq!(ended.state, JobState::Failed, "{why}");
    assert!(why.contains("2 of 3 machines did not move"), "{why}");
    assert!(why.contains("b: machine b is not here any more"), "{why}");
    assert!(why.contains("c: worker w2 is cordoned"), "{why}");
    assert!(runs_on(w2, "a-slow").await && runs_on(w1, "c").await);
    assert_eq!(running(&workers).await, [4, 1]);
    end(workers).await;
}
