//! Where machines go: what workers offer, who is chosen, and who takes nothing.

use crate::house::{Worker, machine, workers};
use ferry_api::{
    AgentApi, AskCordon, CreateMachine, ErrorCode, Fit, JobState, MachineState, MoveTo, StartMove, UndoMove,
};

fn to(name: &str, worker: &str) -> StartMove {
    StartMove::new(name.parse().unwrap(), worker.parse().unwrap())
}

fn sleeper(name: &str) -> CreateMachine {
    machine(name, "exec sleep 1000")
}

async fn cordon(worker: &Worker, reason: &str) {
    worker.door().worker_cordon(AskCordon { reason: Some(reason.to_owned()) }).await.unwrap();
}

async fn end<const N: usize>(workers: [Worker; N]) {
    for worker in workers {
        worker.end().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_machine_goes_to_the_worker_that_fits_best_and_to_the_next_one_if_that_refuses() {
    let workers = workers(["", "cpu_millis = 64000", "cpu_millis = 1000"]).await;
    let [w1, w2, w3] = &workers;
    for name in ["web", "db"] {
        w1.door().machine_create(sleeper(name)).await.unwrap();
    }
    // Its bid says nothing of that: only who is asked to keep room knows.
    w2.door().machine_create(sleeper("db")).await.unwrap();
    for (name, there) in [("web", w2), ("db", w3)] {
        let job = w1.door().move_start(to(name, MoveTo::AUTO)).await.unwrap();
        assert_eq!(w1.finished(job.id).await.state, JobState::Succeeded);
        assert!(matches!(there.machine(name).await.state, MachineState::Running { .. }));
    }
    cordon(w3, "it is full").await;
    w1.door().machine_create(sleeper("db")).await.unwrap();
    let refusal = w1.door().move_start(to("db", MoveTo::AUTO)).await.unwrap_err();
    assert_eq!(refusal.code, ErrorCode::Conflict);
    for part in ["no worker takes it", "worker w3 is cordoned (it is full)", "w2", "already on"] {
        assert!(refusal.message.contains(part), "{part}: {refusal}");
    }
    end(workers).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_worker_that_does_not_take_a_machine_has_its_reasons_told() {
    let mut workers = workers(["", "region = \"south\"", "", ""]).await;
    let mut web = sleeper("web");
    web.spec.placement.region = Some("north".parse().unwrap());
    web.spec.placement.labels.insert("disk".parse().unwrap(), "nvme".parse().unwrap());
    workers[0].door().machine_create(web).await.unwrap();
    workers[3].kill().await;
    let explained = workers[0].door().machine_placement(&"web".parse().unwrap()).await.unwrap();
    let said = |name: &str| match &explained.workers.iter().find(|judged| judged.worker.as_str() == name) {
        Some(judged) => match &judged.fit {
            Fit::Yes(score) => panic!("{score:?}"),
            Fit::No { reasons } => reasons.join(" | "),
            Fit::Silent { reason } => format!("silent: {reason}"),
        },
        None => panic!("{name} is not told of"),
    };
    for (worker, part) in [
        ("w1", "already on worker w1"),
        ("w2", "lacks the label disk = nvme"),
        ("w2", "is in region south and the machine belongs to north"),
        ("w3", "is in no region"),
        ("w4", "silent: the agent at"),
    ] {
        assert!(said(worker).contains(part), "{worker}: {part}: {}", said(worker));
    }
    workers[3].start().await;
    end(workers).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cordoned_worker_takes_nothing_but_what_left_it_with_its_last_move() {
    let mut workers = workers(["", ""]).await;
    let door = workers[0].door().clone();
    door.machine_create(sleeper("web")).await.unwrap();
    workers[1].door().machine_create(sleeper("db")).await.unwrap();
    cordon(&workers[0], "a bad fan").await;
    workers[0].kill().await;
    workers[0].start().await;
    let cordoned = door.worker().await.unwrap().cordon.unwrap();
    assert_eq!(cordoned.reason.as_deref(), Some("a bad fan"));
    // What is there may leave.
    let job = door.move_start(to("web", "w2")).await.unwrap();
    assert_eq!(workers[0].finished(job.id).await.state, JobState::Succeeded);
    // What would be new may not come, by which way ever.
    let refusal = door.machine_create(sleeper("new")).await.unwrap_err();
    assert!(refusal.message.contains("worker w1 is cordoned (a bad fan)"), "{refusal}");
    for name in ["db", "web"] {
        let job = workers[1].door().move_start(to(name, "w1")).await.unwrap();
        let job = workers[1].finished(job.id).await;
        assert_eq!(job.state, JobState::Failed);
        assert!(job.reason.as_ref().unwrap().contains("is cordoned (a bad fan)"), "{:?}", job.reason);
    }
    // What left it may be taken back.
    let back = UndoMove { machine: "web".parse().unwrap(), of: None, retention_hours: None };
    let job = workers[1].door().move_undo(back).await.unwrap();
    assert_eq!(workers[1].finished(job.id).await.state, JobState::Succeeded);
    assert!(matches!(workers[0].machine("web").await.state, MachineState::Running { .. }));
    door.worker_uncordon().await.unwrap();
    let job = workers[1].door().move_start(to("db", "w1")).await.unwrap();
    assert_eq!(workers[1].finished(job.id).await.state, JobState::Succeeded);
    end(workers).await;
}
