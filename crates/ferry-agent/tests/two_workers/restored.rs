//! Records that come back from a backup, on workers that have handed over what the backup says is theirs.

use crate::house::{Worker, machine, pid, workers};
use ferry_api::{
    API_VERSION, AgentApi, CreateMachine, ErrorCode, Generation, JobId, JobState, Machine, MachineState,
    Reserve, ReserveVolume, StartMove,
};
use std::fs;
use std::path::PathBuf;

/// The files of a worker's records, with what is in each.
type Backup = Vec<(PathBuf, Vec<u8>)>;

/// A backup of a worker's records as they are now.
async fn backup(worker: &mut Worker) -> Backup {
    kill(worker).await;
    let files =
        record_files(worker).into_iter().map(|path| (path.clone(), fs::read(path).unwrap())).collect();
    worker.start().await;
    files
}

/// Puts a backup in the place of a worker's records.
async fn restore(worker: &mut Worker, backup: Backup) {
    kill(worker).await;
    record_files(worker).into_iter().for_each(|path| fs::remove_file(path).unwrap());
    backup.into_iter().for_each(|(path, content)| fs::write(path, content).unwrap());
    worker.start().await;
}

/// Kills an agent and waits until its records are closed, which is a thread's work: the last one to close them removes
/// their log.
async fn kill(worker: &mut Worker) {
    worker.kill().await;
    while worker.config().state_dir.join("records.db-wal").exists() {
        tokio::task::yield_now().await;
    }
}

fn record_files(worker: &Worker) -> Vec<PathBuf> {
    let entries = fs::read_dir(&worker.config().state_dir).unwrap().map(|entry| entry.unwrap().path());
    entries.filter(|path| path.file_name().unwrap().to_str().unwrap().starts_with("records.db")).collect()
}

async fn moves(from: &Worker, to: &str) {
    let start =
        StartMove { retention_hours: Some(0), ..StartMove::new("web".parse().unwrap(), to.parse().unwrap()) };
    let job = from.door().move_start(start).await.unwrap().id;
    let ended = from.finished(job).await;
    assert_eq!(ended.state, JobState::Succeeded, "{ended:?}");
}

fn runs(machine: &Machine) -> bool {
    matches!(machine.state, MachineState::Running { .. })
}

/// Moves a machine away from a worker whose records then know nothing of that.
async fn is_started_once(made: CreateMachine) {
    let [mut w1, w2] = workers(["", ""]).await;
    w1.door().machine_create(made).await.unwrap();
    let before = backup(&mut w1).await;
    let home = pid(&w1.machine("web").await);
    moves(&w1, "w2").await;
    let there = pid(&w2.machine_when("web", runs).await);
    restore(&mut w1, before).await;
    let barred = |machine: &Machine| match &machine.state {
        MachineState::Starting { waits_for } => {
            waits_for.contains("is never started here again: generation 1")
        }
        MachineState::Running { pid, .. } => {
            assert_eq!(*pid, home, "it was started again");
            false
        }
        MachineState::HandedOver { .. } => panic!("the records are not those of before"),
        MachineState::Stopped | MachineState::Halted { .. } | MachineState::Restarting { .. } => false,
    };
    w1.machine_when("web", barred).await;
    assert_eq!(pid(&w2.machine("web").await), there);
    w1.end().await;
    w2.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_machine_is_not_started_twice_by_records_from_a_backup() {
    is_started_once(machine("web", "exec sleep 1000")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_machine_without_volumes_is_not_started_twice_by_records_from_a_backup() {
    is_started_once(CreateMachine { volumes: Vec::new(), ..machine("web", "exec sleep 1000") }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_forgot_what_it_handed_over_takes_it_in_at_a_later_generation_only() {
    let [w1, mut w2] = workers(["", ""]).await;
    let before = backup(&mut w2).await;
    w1.door().machine_create(machine("web", "exec sleep 1000")).await.unwrap();
    moves(&w1, "w2").await;
    moves(&w2, "w1").await;
    // Its copy is deleted at once, and its records are of before it had one.
    while !w2.door().volumes().await.unwrap().is_empty() {
        tokio::task::yield_now().await;
    }
    restore(&mut w2, before).await;
    let here = w1.machine_when("web", runs).await;
    assert_eq!(here.generation, Generation(3));
    let volume = w1.volume("data").await;
    // The call of the first move comes again.
    let late = Reserve {
        job: JobId::fresh(),
        from: "w1".parse().unwrap(),
        api_version: API_VERSION,
        machine: here.id,
        machine_name: here.name.clone(),
        machine_generation: Generation(2),
        spec: here.spec.clone(),
        created_at_ms: here.created_at_ms,
        volumes: vec![ReserveVolume {
            id: volume.id,
            name: volume.name.clone(),
            generation: Generation(2),
            size_bytes: volume.size_bytes,
            region_bytes: volume.region_bytes,
            bytes_in_use: 0,
            direct: false,
            born_from: None,
            origin: None,
        }],
    };
    let refused = w2.door().peer_reserve(late).await.unwrap_err();
    assert_eq!(refused.code, ErrorCode::HandedOver, "{refused}");
    assert_eq!(w2.door().volumes().await.unwrap(), []);
    moves(&w1, "w2").await;
    w2.machine_when("web", runs).await;
    w1.end().await;
    w2.end().await;
}
