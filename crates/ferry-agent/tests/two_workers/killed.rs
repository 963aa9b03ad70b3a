//! Real agents that die while a machine moves: whichever it is and wherever the move stands, it goes on.

use crate::house::{Worker, machine, workers};
use ferry_api::{
    AgentApi, Desired, EventsAfter, JobEventKind, JobId, JobState, MachineState, Ownership, StartMove,
    VolumePhase,
};

const STEPS: [&str; 11] = [
    "Plan", "Reserve", "Prepare", "Stop", "Seal", "HandOver", "Activate", "Boot", "Hydrate", "Verify",
    "Retire",
];

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
