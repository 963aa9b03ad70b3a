//! Real agents that die while a machine moves: whichever it is and wherever the move stands, it goes on.

use crate::house::{Worker, machine, until, workers};
use ferry_agent::drivers::mark_of;
use ferry_agent::records::{AwaitedMachine, Change, CrossingRecord, Records};
use ferry_api::{
    API_VERSION, AgentApi, CrossingState, Desired, Driver, EventsAfter, Generation, JobEventKind, JobId,
    JobState, MachineId, MachineSpec, MachineState, Ownership, QemuSpec, Reserve, StartMove, VolumePhase,
};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

const STEPS: [&str; 11] = [
    "Plan", "Reserve", "Prepare", "Stop", "Seal", "HandOver", "Activate", "Boot", "Hydrate", "Verify",
    "Retire",
];

#[tokio::test(flavor = "multi_thread")]
async fn what_waits_for_the_memory_of_a_vm_without_volumes_ends_with_the_agent_after_one_that_died_releasing_it()
 {
    let [mut w1] = workers([""]).await;
    let state_dir = w1.config().state_dir.clone();
    kill_to_the_end(&mut w1).await;
    let mut waits = Command::new("sleep").arg("1000000").process_group(0).spawn().unwrap();
    let process = mark_of(waits.id()).unwrap().unwrap();
    let (job, id) = (JobId::fresh(), MachineId::fresh());
    let reserve = Reserve {
        job,
        from: "w2".parse().unwrap(),
        api_version: API_VERSION,
        machine: id,
        machine_name: "vm".parse().unwrap(),
        machine_generation: Generation(2),
        spec: MachineSpec { driver: Driver::Qemu(QemuSpec::default()), ..MachineSpec::process("x", ["y"]) },
        created_at_ms: 1,
        volumes: Vec::new(),
        undo_unhealthy: false,
    };
    let released = CrossingRecord {
        job,
        state: CrossingState::Released,
        reserve: Some(reserve),
        activated_at_ms: None,
        booted_at_ms: None,
        judged: None,
        awaited: Some(AwaitedMachine { process, at: None, arrival: None }),
        after_move: None,
    };
    let dir = state_dir.join("machines").join(id.to_string());
    std::fs::create_dir_all(&dir).unwrap();
    let records = Records::open(&state_dir).unwrap();
    records.change(vec![Change::Crossing(Box::new(released))]).await.unwrap();
    drop(records);
    closed(&state_dir).await;

    w1.start().await;
    // The agent, which is in this process, may be the one who hears of its end.
    until(async || (!matches!(waits.try_wait(), Ok(None))).then_some(())).await;
    until(async || (!dir.exists()).then_some(())).await;
    // One that dies before it has noted that leaves it to the next one.
    until(async || {
        kill_to_the_end(&mut w1).await;
        let records = Records::open(&state_dir).unwrap();
        let known = records.crossing(job).await.unwrap().unwrap();
        assert_eq!(known.state, CrossingState::Released);
        drop(records);
        closed(&state_dir).await;
        if known.awaited.is_some() {
            w1.start().await;
        }
        known.awaited.is_none().then_some(())
    })
    .await;
}

/// Kills an agent and waits until its records are closed.
async fn kill_to_the_end(worker: &mut Worker) {
    worker.kill().await;
    closed(&worker.config().state_dir).await;
}

/// The last one to close records removes their log.
async fn closed(state_dir: &Path) {
    until(async || (!state_dir.join("records.db-wal").exists()).then_some(())).await;
}

/// Waits until a step was begun, or is already over.
async fn begun(worker: &Worker, job: JobId, wanted: &str) {
    let mut asked = EventsAfter { after: 0, wait_ms: EventsAfter::WAIT_MS_MAX };
    loop {
        let told = worker.door().job_events(job, asked).await.unwrap();
        let seen = told.events.iter().any(|event| match &event.what {
            JobEventKind::Begun { step, .. } | JobEventKind::Done { step, .. } => step == wanted,
            JobEventKind::Finished { .. } => true,
            JobEventKind::Started
            | JobEventKind::Admitted
            | JobEventKind::Failed { .. }
            | JobEventKind::UnwindBegun { .. }
            | JobEventKind::Undone { .. }
            | JobEventKind::UndoFailed { .. }
            | JobEventKind::CancelAsked
            | JobEventKind::Parked { .. }
            | JobEventKind::Resumed => false,
        });
        if seen {
            return;
        }
        asked.after = told.job.last_seq;
    }
}

/// The machine runs on the worker that the end of the move says, and only there.
async fn check(workers: &[Worker; 2], state: JobState) {
    let there = usize::from(state == JobState::Succeeded);
    let here = workers[there].machine_when("web", |m| matches!(m.state, MachineState::Running { .. })).await;
    assert_eq!((here.desired, here.job), (Desired::Running, None));
    let volume = workers[there].volume("data").await;
    assert_eq!((volume.ownership, volume.phase), (Ownership::Ours, Some(VolumePhase::Open)));
    match state {
        JobState::Succeeded => {
            let left = workers[0].machine("web").await;
            assert!(matches!(left.state, MachineState::HandedOver { .. }), "{left:?}");
            assert!(matches!(workers[0].volume("data").await.ownership, Ownership::Retired { .. }));
        }
        JobState::Failed => assert_eq!(workers[1].door().machines().await.unwrap(), []),
        JobState::Waiting
        | JobState::Running
        | JobState::Unwinding
        | JobState::Parked
        | JobState::Cancelled => {
            panic!("the move ended as {state:?}")
        }
    }
}

async fn a_move_goes_on_after(victim: usize) {
    for step in STEPS {
        let mut workers = workers(["", ""]).await;
        workers[0].door().machine_create(machine("web", "exec sleep 1000")).await.unwrap();
        let start = StartMove::new("web".parse().unwrap(), "w2".parse().unwrap());
        let job = workers[0].door().move_start(start).await.unwrap().id;
        begun(&workers[0], job, step).await;
        workers[victim].kill().await;
        workers[victim].start().await;
        let ended = workers[0].finished(job).await;
        // An agent that comes back is a lucky call later; one that stays away longer fails the move at home.
        assert!(ended.state == JobState::Succeeded || victim == 1, "killed at {step}: {ended:?}");
        check(&workers, ended.state).await;
        for worker in workers {
            worker.end().await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_move_goes_on_after_the_source_agent_was_killed_at_any_step() {
    a_move_goes_on_after(0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_move_goes_on_after_the_target_agent_was_killed_at_any_step() {
    a_move_goes_on_after(1).await;
}
