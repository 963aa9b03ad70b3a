//! The records as the rest of the agent sees them, on a real file.

use super::*;
use crate::ballast::Ballast;
use ferry_api::{
    Cordon, Desired, Generation, JobKind, MachineId, MachineSpec, MachineVolume, Ownership, VolumeId,
    VolumeKey, WorkerName,
};
use ferry_fsm::{Count, Counted};
use serde_json::json;
use std::time::Duration;

fn worker(name: &str) -> WorkerName {
    name.parse().unwrap()
}

fn volume(machine: Option<MachineId>) -> VolumeRecord {
    VolumeRecord {
        id: VolumeId::fresh(),
        generation: Generation::FIRST,
        name: "data".parse().unwrap(),
        machine,
        size_bytes: 1 << 30,
        region_bytes: 1 << 20,
        ownership: Ownership::Ours,
        source: None,
        base: None,
        rests: false,
        made: false,
        bytes_expected: 0,
        store: None,
        direct: false,
        filesystem: None,
        forks: Vec::new(),
        created_at_ms: 1,
    }
}

fn machine(name: &str) -> (MachineRecord, VolumeRecord) {
    let id = MachineId::fresh();
    let volume = volume(Some(id));
    let disk = MachineVolume { name: volume.name.clone(), volume: volume.id, generation: volume.generation };
    let machine = MachineRecord {
        id,
        name: name.parse().unwrap(),
        spec: MachineSpec::process("sleep", ["1000"]),
        volumes: vec![disk],
        desired: Desired::Running,
        generation: Generation::FIRST,
        standing: Standing::Ours,
        job: None,
        halted: false,
        doomed: false,
        process: None,
        memory: None,
        last_exit: None,
        start_ms: None,
        created_at_ms: 1,
    };
    (machine, volume)
}

fn job(machine: &MachineRecord) -> JobRecord {
    let kind = JobKind::Move {
        machine: machine.id,
        machine_name: machine.name.clone(),
        from: worker("w1"),
        to: worker("w2"),
    };
    JobRecord { id: JobId::fresh(), kind, parent: None, created_at_ms: 2, finished: false }
}

struct Book {
    dir: tempfile::TempDir,
    records: Records,
    machine: MachineRecord,
    volume: VolumeRecord,
    job: JobRecord,
}

/// Records with a machine, its volume, and a job that holds it.
async fn book() -> Book {
    let dir = tempfile::tempdir().unwrap();
    let records = Records::open(dir.path()).unwrap();
    let (machine, volume) = machine("web");
    let job = job(&machine);
    let changes =
        vec![Change::AddMachine(Box::new(machine.clone())), Change::AddVolume(Box::new(volume.clone()))];
    records.change(changes).await.unwrap();
    let changes =
        vec![Change::AddJob(Box::new(job.clone())), Change::Claim { machine: machine.id, job: job.id }];
    records.append(job.id, 1, &[json!({"event": "started"})], Vec::new(), changes).await.unwrap();
    Book { dir, records, machine, volume, job }
}

fn refused(result: Result<(), RecordsError>) -> ChangeRefused {
    match result {
        Err(RecordsError::Refused(refused)) => refused,
        other => panic!("{other:?} is not a refusal"),
    }
}

impl Book {
    fn halt(&self) -> Change {
        Change::Halt { machine: self.machine.id, job: self.job.id, halted: true }
    }

    fn own(&self, ownership: Ownership) -> Change {
        Change::Own { key: self.volume.key(), ownership }
    }

    fn hand_over(&self) -> Change {
        Change::HandOver { job: self.job.id, machine: self.machine.id, to: worker("w2") }
    }

    async fn handed_over(&self) {
        let seal = self.own(Ownership::Sealed { job: self.job.id });
        let changes = vec![self.halt(), seal, self.hand_over()];
        self.records.append(self.job.id, 2, &[json!("handed over")], Vec::new(), changes).await.unwrap();
    }
}

#[tokio::test]
async fn what_was_answered_is_there_after_reopening() {
    let book = book().await;
    let Book { dir, records, machine, volume, job } = book;
    drop(records);
    let records = Records::open(dir.path()).unwrap();
    let found = records.machine(machine.id).await.unwrap().unwrap();
    assert_eq!(found, MachineRecord { job: Some(job.id), ..machine });
    assert_eq!(records.volume(volume.key()).await.unwrap(), Some(volume));
    assert_eq!(records.unfinished_jobs().await.unwrap(), std::slice::from_ref(&job));
    let journal = records.journal(job.id, 0).await.unwrap();
    assert_eq!(journal, [JournalRow { job: job.id, seq: 1, entry: json!({"event": "started"}) }]);
}

#[tokio::test]
async fn an_entry_and_its_changes_stand_or_fall_together() {
    let book = book().await;
    // The volume is not sealed, so the deed does not fit.
    let refused = refused(
        book.records
            .append(book.job.id, 2, &[json!("deed")], Vec::new(), vec![book.halt(), book.hand_over()])
            .await,
    );
    assert!(matches!(refused, ChangeRefused::Ownership { .. }), "{refused:?}");
    assert_eq!(book.records.journal(book.job.id, 1).await.unwrap(), []);
    let machine = book.records.machine(book.machine.id).await.unwrap().unwrap();
    assert_eq!((machine.standing, machine.halted), (Standing::Ours, false));
}

#[tokio::test]
async fn what_is_counted_stands_or_falls_with_its_entry_and_stays_when_the_job_is_forgotten() {
    let Book { dir, records, machine, volume: _, job } = book().await;
    let count = |what| Count { line: "move", step: Some("Boot".to_owned()), what };
    let counts = || vec![count(Counted::Done { took_ms: 7 }), count(Counted::StepFailed)];
    let taken = Change::Claim { machine: machine.id, job: JobId::fresh() };
    refused(records.append(job.id, 2, &[json!("x")], counts(), vec![taken]).await);
    assert_eq!(records.counts().await.unwrap(), []);
    records.append(job.id, 2, &[json!("x")], counts(), Vec::new()).await.unwrap();
    let ended = vec![Change::FinishJob(job.id)];
    records.append(job.id, 3, &[json!("y")], vec![count(Counted::Done { took_ms: 9 })], ended).await.unwrap();
    records.change(vec![Change::ForgetJob(job.id)]).await.unwrap();
    drop(records);
    let records = Records::open(dir.path()).unwrap();
    let rows = records.counts().await.unwrap();
    let rows: Vec<(&str, u64)> = rows.iter().map(|row| (row.what.as_str(), row.value)).collect();
    assert_eq!(rows, [("done_ms", 16), ("done_within_ms:10", 2), ("step_failed", 1)]);
}

#[tokio::test]
async fn an_entry_out_of_order_is_refused() {
    let book = book().await;
    for seq in [1, 3] {
        let result = book.records.append(book.job.id, seq, &[json!("x")], Vec::new(), Vec::new()).await;
        assert!(matches!(refused(result), ChangeRefused::EntryOutOfOrder { last: 1, .. }));
    }
}

#[tokio::test]
async fn a_machine_is_held_by_one_job_at_a_time() {
    let book = book().await;
    let other = JobId::fresh();
    let claim = Change::Claim { machine: book.machine.id, job: other };
    let refusal = refused(book.records.change(vec![claim.clone()]).await);
    assert_eq!(refusal.code(), ErrorCode::Busy);
    assert!(refusal.to_string().contains("already moving"), "{refusal}");
    let desire = Change::Desire { machine: book.machine.id, desired: Desired::Stopped };
    assert_eq!(refused(book.records.change(vec![desire]).await).code(), ErrorCode::Busy);
    // Another job cannot let go of it either.
    book.records.change(vec![Change::Unclaim { machine: book.machine.id, job: other }]).await.unwrap();
    assert_eq!(refused(book.records.change(vec![claim.clone()]).await).code(), ErrorCode::Busy);
    book.records.change(vec![Change::Unclaim { machine: book.machine.id, job: book.job.id }]).await.unwrap();
    book.records.change(vec![claim]).await.unwrap();
}

#[tokio::test]
async fn a_machine_with_a_process_is_not_handed_over() {
    let book = book().await;
    let process = ProcessMark { pid: 7, start_ticks: 1, boot_id: "boot".to_owned(), started_at_ms: 1 };
    let starts = Change::ProcessStarts { machine: book.machine.id, process, took_ms: 7 };
    book.records.change(vec![starts.clone()]).await.unwrap();
    assert!(matches!(refused(book.records.change(vec![starts]).await), ChangeRefused::MayNotStart(_)));
    let seal = book.own(Ownership::Sealed { job: book.job.id });
    let result = book.records.change(vec![book.halt(), seal, book.hand_over()]).await;
    assert!(matches!(refused(result), ChangeRefused::StillRuns(_)));
}

#[tokio::test]
async fn what_was_handed_over_is_never_taken_back() {
    let book = book().await;
    book.handed_over().await;
    let job = book.job.id;
    for ownership in
        [Ownership::Ours, Ownership::Sealed { job }, Ownership::Prepared { job, from: worker("w2") }]
    {
        assert!(matches!(
            refused(book.records.change(vec![book.own(ownership)]).await),
            ChangeRefused::Ownership { .. }
        ));
    }
    let machine = book.machine.id;
    let process = ProcessMark { pid: 7, start_ticks: 1, boot_id: "boot".to_owned(), started_at_ms: 1 };
    let stale = [
        Change::Desire { machine, desired: Desired::Running },
        Change::Claim { machine, job: JobId::fresh() },
        Change::Halt { machine, job, halted: false },
        Change::ProcessStarts { machine, process, took_ms: 7 },
    ];
    for change in stale {
        let refusal = refused(book.records.change(vec![change]).await);
        assert_eq!(refusal.code(), ErrorCode::HandedOver, "{refusal}");
    }
    let retired = Ownership::Retired { to: worker("w2"), until_ms: 9 };
    book.records.change(vec![book.own(retired.clone())]).await.unwrap();
    assert!(
        refused(book.records.change(vec![book.own(Ownership::Ours)]).await).code() == ErrorCode::Conflict
    );
    assert_eq!(book.records.volume(book.volume.key()).await.unwrap().unwrap().ownership, retired);
}

#[tokio::test]
async fn a_machine_comes_back_only_at_a_higher_generation() {
    let book = book().await;
    book.handed_over().await;
    let again = |generation| {
        let record = MachineRecord { generation, ..book.machine.clone() };
        book.records.change(vec![Change::AddMachine(Box::new(record))])
    };
    assert!(matches!(refused(again(Generation(1)).await), ChangeRefused::MachineHere(_)));
    again(Generation(3)).await.unwrap();
    let back = book.records.machine(book.machine.id).await.unwrap().unwrap();
    assert_eq!((back.standing, back.generation), (Standing::Ours, Generation(3)));
    // The job that took it away ends later and has no hold on it any more.
    book.records.change(vec![Change::Unclaim { machine: book.machine.id, job: book.job.id }]).await.unwrap();
}

#[tokio::test]
async fn a_name_is_free_again_once_its_machine_was_handed_over() {
    let book = book().await;
    let (other, _) = machine("web");
    let add = Change::AddMachine(Box::new(other));
    let refusal = refused(book.records.change(vec![add.clone()]).await);
    assert_eq!(refusal.code(), ErrorCode::AlreadyExists);
    book.handed_over().await;
    book.records.change(vec![add]).await.unwrap();
}

#[tokio::test]
async fn after_a_failed_write_nothing_is_written_any_more() {
    let book = book().await;
    // Somebody takes the table away under the agent: the next append cannot be written.
    let saboteur = Connection::open(book.dir.path().join(FILE)).unwrap();
    saboteur.execute_batch("ALTER TABLE journal RENAME TO stolen").unwrap();
    let lost = book.records.append(book.job.id, 2, &[json!("x")], Vec::new(), Vec::new()).await;
    assert!(matches!(lost, Err(RecordsError::Read(_) | RecordsError::Lost { .. })), "{lost:?}");
    saboteur.execute_batch("DROP TABLE machines").unwrap();
    let lost = book.records.change(vec![Change::RemoveMachine(book.machine.id)]).await;
    assert!(matches!(lost, Err(RecordsError::Lost { .. })), "{lost:?}");
    assert!(!book.records.failure().await.is_empty());
    let after = book.records.change(vec![Change::RemoveVolume(book.volume.key())]).await;
    assert!(matches!(after, Err(RecordsError::Lost { .. })), "{after:?}");
    assert!(book.records.volume(book.volume.key()).await.unwrap().is_some());
}

#[tokio::test]
async fn what_is_set_for_the_worker_outlives_its_agent_and_comes_to_older_records() {
    let dir = tempfile::tempdir().unwrap();
    drop(Records::open(dir.path()).unwrap());
    // As before there was such a table.
    let earlier = Connection::open(dir.path().join(FILE)).unwrap();
    let later = "DROP TABLE worker; DROP INDEX jobs_finished; DROP TABLE counts; DROP INDEX crossings_is_over; \
                 DROP INDEX crossings_machine; ALTER TABLE crossings DROP COLUMN is_over; \
                 ALTER TABLE crossings DROP COLUMN machine; DROP INDEX jobs_parent; \
                 ALTER TABLE jobs DROP COLUMN parent; PRAGMA user_version = 1";
    earlier.execute_batch(later).unwrap();
    drop(earlier);
    let records = Records::open(dir.path()).unwrap();
    assert_eq!(records.worker().await.unwrap(), WorkerRecord::default());
    for budget in [7, 8].map(std::num::NonZeroU64::new) {
        let cordon = Some(Cordon { since_ms: 1, reason: None });
        let set =
            WorkerRecord { budget_bytes_per_s: budget, cordon: cordon.clone(), ..WorkerRecord::default() };
        records.change(vec![Change::Budget(budget), Change::Cordon(cordon)]).await.unwrap();
        assert_eq!(Records::open(dir.path()).unwrap().worker().await.unwrap(), set);
    }
}

#[tokio::test]
async fn records_of_a_later_version_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    drop(Records::open(dir.path()).unwrap());
    let later = Connection::open(dir.path().join(FILE)).unwrap();
    later.pragma_update(None, "user_version", 99).unwrap();
    assert!(matches!(Records::open(dir.path()), Err(RecordsError::TooNew { found: 99, .. })));
}

#[test]
fn a_state_directory_is_held_by_one_agent_and_names_it() {
    let dir = tempfile::tempdir().unwrap();
    let held = StateLock::take(dir.path()).unwrap();
    let refusal = StateLock::take(dir.path()).unwrap_err().to_string();
    assert!(refusal.contains(&format!("process {}", std::process::id())), "{refusal}");
    assert!(refusal.contains("agent.lock"), "{refusal}");
    drop(held);
    StateLock::take(dir.path()).unwrap();
}

#[tokio::test]
async fn a_state_directory_is_given_back_when_the_last_write_is_over() {
    let dir = tempfile::tempdir().unwrap();
    let lock = StateLock::take(dir.path()).unwrap();
    let records = Records::open_held(dir.path(), lock, Ballast::of(dir.path())).unwrap();
    let (end, busy) = std::sync::mpsc::channel::<()>();
    let reads = records.look(move |_| {
        // Until the other end is dropped.
        let _ = busy.recv();
        Ok(())
    });
    // Asked for, and nobody waits for the answer.
    tokio::time::timeout(Duration::ZERO, reads).await.unwrap_err();
    let budget = std::num::NonZeroU64::new(7);
    let set = WorkerRecord { budget_bytes_per_s: budget, ..WorkerRecord::default() };
    let write = records.change(vec![Change::Budget(budget)]);
    tokio::time::timeout(Duration::ZERO, write).await.unwrap_err();
    drop(records);
    assert!(StateLock::take(dir.path()).is_err(), "a write may still come");
    drop(end);
    let lock = StateLock::take(dir.path()).unwrap();
    let next = Records::open_held(dir.path(), lock, Ballast::of(dir.path())).unwrap();
    assert_eq!(next.worker().await.unwrap(), set);
}

#[tokio::test]
async fn changes_are_told_after_they_are_durable() {
    let book = book().await;
    let mut touched = book.records.touched();
    book.handed_over().await;
    let mut told = Vec::new();
    while let Ok(what) = touched.try_recv() {
        told.push(what);
    }
    let machine = book.machine.id;
    assert_eq!(
        told,
        [Touched::Machine(machine), Touched::Volume(book.volume.key()), Touched::MachineWithVolumes(machine)]
    );
}

#[tokio::test]
async fn a_machine_that_is_being_destroyed_is_neither_moved_nor_started() {
    let Book { records, machine, job, .. } = &book().await;
    let doom = || vec![Change::Doom(machine.id)];
    assert!(matches!(refused(records.change(doom()).await), ChangeRefused::Held { .. }));
    records.change(vec![Change::Unclaim { machine: machine.id, job: job.id }]).await.unwrap();
    records.change(doom()).await.unwrap();
    let claim = Change::Claim { machine: machine.id, job: JobId::fresh() };
    let start = Change::Desire { machine: machine.id, desired: Desired::Running };
    for change in [claim, start] {
        assert!(matches!(refused(records.change(vec![change]).await), ChangeRefused::Doomed(_)));
    }
    assert!(!records.machine(machine.id).await.unwrap().unwrap().shall_run());
    // Asked for again, for example after the agent died on the way.
    records.change(doom()).await.unwrap();
}

#[tokio::test]
async fn a_machine_that_lost_its_memory_on_the_way_is_not_started_before_somebody_says_that_it_runs_nowhere_else()
 {
    let Book { records, .. } = &book().await;
    let process = ProcessMark { pid: 7, start_ticks: 7, boot_id: "boot".to_owned(), started_at_ms: 7 };
    let says: [fn(MachineId) -> Change; 2] = [
        |machine| Change::MemoryArrived { machine, at_ms: 8 },
        |machine| Change::Desire { machine, desired: Desired::Running },
    ];
    for (name, says) in ["a", "b"].into_iter().zip(says) {
        let arriving = MachineRecord {
            process: Some(process.clone()),
            memory: Some(MemoryMoves::Here),
            volumes: Vec::new(),
            ..machine(name).0
        };
        let id = arriving.id;
        let ended = Change::ProcessEnded { machine: id, exit: None, stays_down: false };
        records.change(vec![Change::AddMachine(Box::new(arriving)), ended]).await.unwrap();
        let starts = || Change::ProcessStarts { machine: id, process: process.clone(), took_ms: 7 };
        assert!(matches!(refused(records.change(vec![starts()]).await), ChangeRefused::MayNotStart(_)));
        records.change(vec![says(id), starts()]).await.unwrap();
        let started = records.machine(id).await.unwrap().unwrap();
        assert_eq!((started.process.as_ref(), started.memory), (Some(&process), None));
    }
}

#[tokio::test]
async fn who_stops_a_machine_and_starts_it_does_not_say_that_it_runs_nowhere_else() {
    let Book { records, .. } = &book().await;
    let process = ProcessMark { pid: 7, start_ticks: 7, boot_id: "boot".to_owned(), started_at_ms: 7 };
    let arriving = MachineRecord { memory: Some(MemoryMoves::Here), volumes: Vec::new(), ..machine("a").0 };
    let id = arriving.id;
    let desire = |desired| Change::Desire { machine: id, desired };
    let starts = || Change::ProcessStarts { machine: id, process: process.clone(), took_ms: 7 };
    let lost =
        vec![Change::AddMachine(Box::new(arriving)), desire(Desired::Stopped), desire(Desired::Running)];
    records.change(lost).await.unwrap();
    assert!(matches!(refused(records.change(vec![starts()]).await), ChangeRefused::MayNotStart(_)));
    records.change(vec![desire(Desired::Running), starts()]).await.unwrap();
}

#[tokio::test]
async fn a_machine_whose_memory_is_still_to_arrive_is_held_by_no_job() {
    let Book { records, job, .. } = &book().await;
    let process = ProcessMark { pid: 7, start_ticks: 7, boot_id: "boot".to_owned(), started_at_ms: 7 };
    let arriving =
        MachineRecord { process: Some(process), memory: Some(MemoryMoves::Here), ..machine("a").0 };
    let id = arriving.id;
    let claim = || Change::Claim { machine: id, job: job.id };
    let arriving = MachineRecord { volumes: Vec::new(), ..arriving };
    records.change(vec![Change::AddMachine(Box::new(arriving))]).await.unwrap();
    assert!(matches!(refused(records.change(vec![claim()]).await), ChangeRefused::Arriving(_)));
    records.change(vec![Change::ProcessEnded { machine: id, exit: None, stays_down: false }]).await.unwrap();
    assert!(matches!(refused(records.change(vec![claim()]).await), ChangeRefused::Arriving(_)));
    records.change(vec![Change::MemoryArrived { machine: id, at_ms: 8 }, claim()]).await.unwrap();
}

#[tokio::test]
async fn numbers_beyond_all_there_is_find_nothing_and_harm_nothing() {
    let Book { records, volume, job, .. } = &book().await;
    assert_eq!(records.journal(job.id, u64::MAX).await.unwrap(), []);
    let key = VolumeKey { id: volume.id, generation: Generation(u64::MAX) };
    assert_eq!(records.volume(key).await.unwrap(), None);
    assert!(records.job(job.id).await.unwrap().is_some());
}
