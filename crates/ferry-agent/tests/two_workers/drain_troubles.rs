//! Drains on bad days: too late, stuck, cancelled in the middle, with targets that die and workers that are drained themselves.

use crate::house::{Worker, create, end, gated, is_up, runs_on, sleeper, until, workers};
use ferry_api::{
    AgentApi, AskCordon, AskDrain, CreateMachine, Job, JobId, JobState, MachineState, PauseDrain, StartDrain,
};
use std::num::NonZeroU32;
use std::path::Path;

/// It goes to the workers with that label alone.
fn only_where(mut machine: CreateMachine, zone: &str) -> CreateMachine {
    machine.spec.placement.labels.insert("zone".parse().unwrap(), zone.parse().unwrap());
    machine
}

async fn create_up(worker: &Worker, machine: CreateMachine) {
    let name = machine.name.to_string();
    create(worker, machine).await;
    is_up(worker, &name, 1).await;
}

async fn drain(worker: &Worker, ask: AskDrain) -> JobId {
    let start = StartDrain { ask, ..StartDrain::default() };
    worker.door().drain_start(start).await.unwrap().job.unwrap().id
}

/// Waits until the drain is so.
async fn drain_when(worker: &Worker, drain: JobId, is: impl Fn(&Job) -> bool) -> Job {
    until(async || Some(worker.door().job(drain).await.unwrap()).filter(&is)).await
}

/// Waits until the move of a machine by a drain is so.
async fn child_when(worker: &Worker, drain: JobId, machine: &str, is: impl Fn(&Job) -> bool) -> Job {
    until(async || {
        let drain = worker.door().job(drain).await.unwrap();
        let child = drain.children.iter().rev().find(|child| child.machine_name.as_str() == machine)?;
        Some(worker.door().job(child.job).await.unwrap()).filter(&is)
    })
    .await
}

/// Whether that step was begun.
fn is_at(step: &str) -> impl Fn(&Job) -> bool + '_ {
    move |job| job.steps.iter().any(|found| found.step == step && found.attempts > 0)
}

fn is_parked(job: &Job) -> bool {
    job.state == JobState::Parked
}

async fn runs_at_home(worker: &Worker, name: &str) {
    worker
        .machine_when(name, |one| matches!(one.state, MachineState::Running { .. }) && one.job.is_none())
        .await;
}

fn open(gate: &Path) {
    std::fs::write(gate, "").unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_handed_over_at_the_deadline_stays_and_what_has_moved_stays_there() {
    let workers = workers(["", ""]).await;
    let [w1, w2] = &workers;
    let place = tempfile::tempdir().unwrap();
    let gate = place.path().join("gate");
    create_up(w1, gated("slow", &gate)).await;
    create(w1, sleeper("web")).await;
    let late = drain(w1, AskDrain { deadline_ms: Some(3_000), ..AskDrain::default() }).await;
    drain_when(w1, late, |job| job.state == JobState::Unwinding).await;
    open(&gate);
    let late = w1.finished(late).await;
    assert_eq!(late.state, JobState::Failed, "{late:#?}");
    assert!(late.reason.as_ref().unwrap().contains("was to be done within 3 s"), "{late:#?}");
    runs_at_home(w1, "slow").await;
    assert!(!runs_on(w2, "slow").await);
    for child in w1.door().job(late.id).await.unwrap().children {
        let is_there = child.state == Some(JobState::Succeeded);
        assert_eq!(runs_on(w2, child.machine_name.as_str()).await, is_there, "{child:?}");
        assert_ne!(runs_on(w1, child.machine_name.as_str()).await, is_there, "{child:?}");
    }
    assert!(w1.door().worker().await.unwrap().cordon.is_none(), "it is not empty, and takes machines again");
    end(workers).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drain_that_is_stuck_waits_for_a_person_over_restarts_and_goes_on_when_told_so() {
    let mut workers = workers(["", ""]).await;
    let place = tempfile::tempdir().unwrap();
    let gate = place.path().join("gate");
    create_up(&workers[0], gated("a", &gate)).await;
    create(&workers[0], sleeper("b")).await;
    let one = AskDrain { max_parallel: NonZeroU32::new(1), ..AskDrain::default() };
    let job = drain(&workers[0], one).await;
    child_when(&workers[0], job, "a", is_at("Stop")).await;
    workers[1].door().worker_cordon(AskCordon::default()).await.unwrap();
    open(&gate);
    let parked = drain_when(&workers[0], job, is_parked).await;
    let reason = parked.reason.unwrap();
    for part in ["machine b", "worker w2 is cordoned"] {
        assert!(reason.contains(part), "{part}: {reason}");
    }
    assert!(runs_on(&workers[1], "a").await && runs_on(&workers[0], "b").await);
    for worker in &mut workers {
        worker.kill().await;
        worker.start().await;
    }
    let again = drain_when(&workers[0], job, is_parked).await;
    assert_eq!(again.reason, Some(reason), "it waits as before");
    assert!(workers[0].door().worker().await.unwrap().cordon.is_some());
    // Told to go on too soon it is stuck again.
    workers[0].door().drain_pause(PauseDrain { paused: false }).await.unwrap();
    drain_when(&workers[0], job, |job| is_parked(job) && job.last_seq > again.last_seq).await;
    workers[1].door().worker_uncordon().await.unwrap();
    workers[0].door().drain_pause(PauseDrain { paused: false }).await.unwrap();
    assert_eq!(workers[0].finished(job).await.state, JobState::Succeeded);
    assert!(runs_on(&workers[1], "b").await);
    end(workers).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_target_that_dies_before_a_machine_stops_for_it_costs_nothing_but_another_choice() {
    // One move at a time: the second one waits in line, with room kept for it, while its target dies.
    let line = "moves_at_once = 1";
    let mut workers = workers([line, "cpu_millis = 64000", "labels = { zone = \"x\" }"]).await;
    let place = tempfile::tempdir().unwrap();
    let gate = place.path().join("gate");
    create_up(&workers[0], only_where(gated("a", &gate), "x")).await;
    create(&workers[0], sleeper("b")).await;
    let job = drain(&workers[0], AskDrain::default()).await;
    child_when(&workers[0], job, "a", is_at("Stop")).await;
    let second = child_when(&workers[0], job, "b", |_| true).await;
    assert_eq!(second.state, JobState::Waiting, "{second:#?}");
    workers[1].kill().await;
    open(&gate);
    let ended = workers[0].finished(job).await;
    assert_eq!(ended.state, JobState::Succeeded, "{ended:#?}");
    let failed = workers[0].door().job(second.id).await.unwrap();
    assert_eq!(failed.state, JobState::Failed, "{failed:#?}");
    assert!(!is_at("Stop")(&failed), "it ran at home all the time");
    assert!(runs_on(&workers[2], "a").await && runs_on(&workers[2], "b").await);
    workers[1].start().await;
    assert!(!runs_on(&workers[1], "b").await);
    end(workers).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_target_that_dies_while_a_machine_is_down_for_it_is_waited_for_and_others_go_elsewhere() {
    let labelled = "labels = { zone = \"x\" }";
    let mut workers = workers(["", labelled, ""]).await;
    let place = tempfile::tempdir().unwrap();
    let gate = place.path().join("gate");
    create_up(&workers[0], only_where(gated("db", &gate), "x")).await;
    create(&workers[0], sleeper("web")).await;
    let one = AskDrain { max_parallel: NonZeroU32::new(1), ..AskDrain::default() };
    let job = drain(&workers[0], one).await;
    child_when(&workers[0], job, "db", is_at("Stop")).await;
    workers[1].kill().await;
    open(&gate);
    // Behind its hand-over a move only goes forward.
    child_when(&workers[0], job, "db", is_at("Activate")).await;
    workers[0].kill().await;
    workers[0].start().await;
    let down = child_when(&workers[0], job, "db", is_at("Activate")).await;
    assert!(!down.state.is_final(), "{down:#?}");
    workers[1].start().await;
    assert_eq!(workers[0].finished(job).await.state, JobState::Succeeded);
    assert_eq!(workers[0].door().job(down.id).await.unwrap().state, JobState::Succeeded);
    assert!(runs_on(&workers[1], "db").await);
    assert!(runs_on(&workers[1], "web").await || runs_on(&workers[2], "web").await);
    end(workers).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancelled_drain_leaves_some_across_some_on_their_way_and_some_at_home() {
    let labels = |zone: &str| format!("labels = {{ zone = {zone:?} }}");
    let (x, y) = (labels("x"), labels("y"));
    let mut workers = workers(["", x.as_str(), y.as_str()]).await;
    let place = tempfile::tempdir().unwrap();
    let (gate, other) = (place.path().join("gate"), place.path().join("other"));
    create(&workers[0], only_where(sleeper("across"), "x")).await;
    create_up(&workers[0], only_where(gated("past", &gate), "y")).await;
    create_up(&workers[0], only_where(gated("stopping", &other), "x")).await;
    let job = drain(&workers[0], AskDrain::default()).await;
    child_when(&workers[0], job, "across", |child| child.state == JobState::Succeeded).await;
    child_when(&workers[0], job, "stopping", is_at("Stop")).await;
    child_when(&workers[0], job, "past", is_at("Stop")).await;
    workers[2].kill().await;
    open(&gate);
    let past = child_when(&workers[0], job, "past", is_at("Activate")).await;
    workers[0].door().drain_cancel().await.unwrap();
    // Who dies meanwhile changes nothing.
    workers[0].kill().await;
    workers[0].start().await;
    open(&other);
    assert_eq!(workers[0].finished(job).await.state, JobState::Cancelled);
    let stopping = child_when(&workers[0], job, "stopping", |child| child.state.is_final()).await;
    assert_eq!(stopping.state, JobState::Cancelled);
    runs_at_home(&workers[0], "stopping").await;
    assert!(runs_on(&workers[1], "across").await && !runs_on(&workers[1], "stopping").await);
    // The one that is past its hand-over is a job of its own from now on.
    let under_way = workers[0].door().job(past.id).await.unwrap();
    assert_eq!(under_way.state, JobState::Running, "{under_way:#?}");
    assert!(workers[0].door().worker().await.unwrap().cordon.is_none());
    workers[2].start().await;
    assert_eq!(workers[0].finished(past.id).await.state, JobState::Succeeded);
    assert!(runs_on(&workers[2], "past").await);
    let children = workers[0].door().job(job).await.unwrap().children;
    assert_eq!(children.len(), 3, "nothing was begun again: {children:#?}");
    end(workers).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_is_drained_while_a_drain_sends_it_a_machine_sends_that_on() {
    let workers = workers(["", "cpu_millis = 64000", ""]).await;
    let [w1, w2, w3] = &workers;
    let place = tempfile::tempdir().unwrap();
    let gate = place.path().join("gate");
    create_up(w1, gated("db", &gate)).await;
    create(w2, sleeper("web")).await;
    let first = drain(w1, AskDrain::default()).await;
    let moving = child_when(w1, first, "db", is_at("Stop")).await;
    let ferry_api::JobKind::Move { to, .. } = &moving.kind else { panic!("{moving:#?}") };
    assert_eq!(to.as_str(), "w2", "the one with the most left");
    let second = drain(w2, AskDrain::default()).await;
    child_when(w2, second, "web", |child| child.state == JobState::Succeeded).await;
    assert_eq!(w2.door().job(second).await.unwrap().state, JobState::Running, "it waits for what arrives");
    open(&gate);
    for (worker, job) in [(w1, first), (w2, second)] {
        let ended = worker.finished(job).await;
        assert_eq!(ended.state, JobState::Succeeded, "{ended:#?}");
        assert!(worker.door().worker_safe_to_stop().await.unwrap().reasons.is_empty());
    }
    assert!(runs_on(w3, "db").await && runs_on(w3, "web").await);
    end(workers).await;
}
