//! Records that come back from a backup, on workers that have handed over what the backup says is theirs.

use crate::house::{Worker, a_moment, machine, pid, workers};
use ferry_agent::{StateDir, truth_at_rest};
use ferry_api::{
    API_VERSION, AgentApi, CreateMachine, ErrorCode, Evidence, Generation, JobId, JobState, Machine,
    MachineState, Reserve, ReserveVolume, StartMove, Truth, Verdict, Worth,
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
        a_moment().await;
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

fn owner(truth: &Truth) -> (&str, u64) {
    match &truth.subjects[0].verdict {
        Verdict::Known { owner, generation, .. } | Verdict::Likely { owner, generation, .. } => {
            (owner.as_str(), generation.0)
        }
        Verdict::Disputed { .. } | Verdict::Nobody => panic!("nobody owns it: {truth:#?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_asks_is_told_the_real_one_also_by_records_from_a_backup_and_what_is_missing() {
    let [mut w1, mut w2] = workers(["", ""]).await;
    w1.door().machine_create(machine("web", "exec sleep 1000")).await.unwrap();
    let before = backup(&mut w1).await;
    moves(&w1, "w2").await;
    let web = "web".parse().unwrap();
    for door in [w1.door(), w2.door()] {
        let truth = door.truth(&web).await.unwrap();
        assert!(truth.is_certain() && truth.silent.is_empty(), "{truth:#?}");
        assert_eq!((owner(&truth), truth.subjects.len()), (("w2", 2), 2));
        let by = truth.subjects[1].by.as_ref().unwrap();
        assert!(matches!(by.evidence, Evidence::Journal { .. }), "{by:?}");
    }
    restore(&mut w1, before).await;
    let truth = w1.door().truth(&web).await.unwrap();
    assert!(truth.is_certain() && owner(&truth) == ("w2", 2), "{truth:#?}");
    let of_disk = &truth.subjects[1];
    assert!(of_disk.gaps[0].contains("they are from a backup"), "{of_disk:#?}");
    // It was kept for no time at all, which these records do not know either.
    assert_eq!(of_disk.copies.last().unwrap().worth, Worth::Missing);
    // Only w2 knows whether it has handed the machine on.
    w2.kill().await;
    let truth = w1.door().truth(&web).await.unwrap();
    assert!(!truth.is_certain() && owner(&truth) == ("w2", 2), "{truth:#?}");
    assert_eq!(truth.silent[0].worker.as_str(), "w2");
    assert!(truth.subjects[0].advice[0].starts_with("do not start it on any other worker"), "{truth:#?}");
    // With the files of w2 alone it is known again.
    let dirs = [&w1, &w2].map(|worker| StateDir { worker: None, dir: worker.config().state_dir.clone() });
    let truth = truth_at_rest(&dirs, &web).unwrap();
    assert!(truth.is_certain() && owner(&truth) == ("w2", 2), "{truth:#?}");
    w2.start().await;
    w1.end().await;
    w2.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn files_that_were_copied_while_an_agent_ran_tell_the_truth_as_well() {
    let [mut w1] = workers([""]).await;
    w1.door().machine_create(machine("web", "exec sleep 1000")).await.unwrap();
    let copied = tempfile::tempdir().unwrap();
    let state_dir = w1.config().state_dir.clone();
    for name in ["records.db", "records.db-wal"] {
        fs::copy(state_dir.join(name), copied.path().join(name)).unwrap();
    }
    let dir = StateDir { worker: Some("w1".parse().unwrap()), dir: copied.path().to_owned() };
    let truth = truth_at_rest(&[dir], &"web".parse().unwrap()).unwrap();
    assert_eq!(owner(&truth), ("w1", 1));
    let left: Vec<_> = fs::read_dir(copied.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(left.len(), 2, "{left:?}");
    w1.kill().await;
    w1.start().await;
    w1.end().await;
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
        a_moment().await;
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
        undo_unhealthy: false,
    };
    let refused = w2.door().peer_reserve(late).await.unwrap_err();
    assert_eq!(refused.code, ErrorCode::HandedOver, "{refused}");
    assert_eq!(w2.door().volumes().await.unwrap(), []);
    moves(&w1, "w2").await;
    w2.machine_when("web", runs).await;
    w1.end().await;
    w2.end().await;
}
