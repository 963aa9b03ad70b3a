//! What a person may ask of moves, and what they are told.

use ferry_api::{
    AskJobs, Capacity, CrossingState, Desired, DriverInfo, ErrorCode, EventsAfter, JobEventKind, JobState,
    StepState, VmModels,
};
use ferry_fsm::{Entry, Event, Terms};
use std::sync::Arc;

use super::faults::Worker;
use super::records::Hourglass;
use super::world::{Alpha, Gone};
use crate::jobs::mover::Mover;
use crate::jobs::{Receipt, begin_move};
use crate::records::{ChangeRefused, RecordsError};

/// Waits until the job is as wanted.
async fn until(
    worker: &Worker,
    id: ferry_api::JobId,
    wanted: impl Fn(&ferry_api::Job) -> bool,
) -> ferry_api::Job {
    loop {
        let job = worker.moves().job(id).await.unwrap();
        if wanted(&job) {
            return job;
        }
        let next = EventsAfter { after: job.last_seq, wait_ms: 1_000 };
        tokio::select! {
            told = worker.moves().events(id, next) => drop(told.unwrap()),
            reason = worker.moves().failure() => panic!("{reason}"),
        }
    }
}

#[tokio::test]
async fn a_move_whose_source_is_lost_and_given_up_ends_with_a_receipt_that_says_so() {
    let mut worker = Worker::new(Desired::Running, &[]).await;
    worker.world.state().abandoned_bytes = 4096;
    let id = worker.begin().await.unwrap().id;
    let job = worker.run_to_the_end(id).await;
    assert_eq!(job.state, JobState::Succeeded);
    let verify = job.steps.iter().find(|step| step.step == "Verify").unwrap();
    let receipt: Receipt = serde_json::from_value(verify.memo.clone().unwrap()).unwrap();
    assert!(receipt.volumes.iter().all(|volume| volume.counted.unwrap().bytes_abandoned == 4096));
}

#[tokio::test]
async fn a_move_shows_its_steps_its_progress_and_a_receipt() {
    let mut worker = Worker::new(Desired::Running, &[]).await;
    let id = worker.begin().await.unwrap().id;
    let job = worker.run_to_the_end(id).await;
    assert!(job.steps.iter().all(|step| step.state == StepState::Done && step.attempts == 1), "{job:?}");
    assert_eq!(job.reason, None);
    let verify = job.steps.iter().find(|step| step.step == "Verify").unwrap();
    let receipt: Receipt = serde_json::from_value(verify.memo.clone().unwrap()).unwrap();
    assert!(receipt.volumes.iter().all(|volume| volume.counted.unwrap().bytes_verified == 1 << 20));
    assert!(receipt.volumes.iter().all(|volume| volume.proof.as_ref().unwrap().agreed_root().is_some()));
    let told = worker.moves().events(id, EventsAfter::default()).await.unwrap();
    let finished = JobEventKind::Finished { outcome: JobState::Succeeded };
    assert_eq!(told.events.last().unwrap().what, finished);
    assert_eq!(told.events.last().unwrap().seq, job.last_seq);
    assert_eq!(worker.jobs().jobs(AskJobs::default()).await.unwrap(), [job]);
}

#[tokio::test]
async fn a_machine_that_moves_already_is_not_moved_again() {
    let worker = Worker::new(Desired::Running, &[]).await;
    let id = worker.begin().await.unwrap().id;
    let refused = worker.begin().await.unwrap_err();
    let RecordsError::Refused(ChangeRefused::Held { job, .. }) = refused else { panic!("{refused}") };
    assert_eq!(job, id);
    assert_eq!(worker.jobs().unfinished().await.unwrap().len(), 1);
}

#[tokio::test]
async fn a_machine_that_failed_to_move_can_be_moved_again() {
    let mut worker = Worker::new(Desired::Running, &[]).await;
    worker.world.state().room_bytes = 1;
    let first = worker.begin().await.unwrap().id;
    let job = worker.run_to_the_end(first).await;
    assert_eq!(job.state, JobState::Failed);
    assert!(job.reason.as_ref().is_some_and(|reason| reason.contains("room for 1 bytes")), "{job:?}");
    worker.check_the_end(&job).await;
    worker.world.state().room_bytes = u64::MAX;
    let second = worker.begin().await.unwrap().id;
    assert_eq!(worker.run_to_the_end(second).await.state, JobState::Succeeded);
}

#[tokio::test]
async fn an_unknown_worker_is_refused_before_anything_stops() {
    let mut worker = Worker::new(Desired::Running, &[]).await;
    let id = begin_move(worker.moves(), worker.input("gamma"), Terms::default()).await.unwrap().id;
    let job = worker.run_to_the_end(id).await;
    assert_eq!(job.state, JobState::Failed);
    assert_eq!(job.steps[0].attempts, 1, "a refusal is not repeated");
    assert!(job.steps[1..].iter().all(|step| step.state == StepState::Waiting));
}

#[tokio::test]
async fn a_target_that_is_away_fails_the_move_with_the_machine_at_home() {
    let mut worker = Worker::new(Desired::Running, &[]).await;
    worker.world.state().target_away = true;
    let id = worker.begin().await.unwrap().id;
    let job = worker.run_to_the_end(id).await;
    assert_eq!((job.state, job.steps[0].attempts), (JobState::Failed, 3));
    worker.check_the_end(&job).await;
}

#[tokio::test]
async fn a_stopped_machine_moves_and_stays_stopped() {
    let mut worker = Worker::new(Desired::Stopped, &[]).await;
    let id = worker.begin().await.unwrap().id;
    let job = worker.run_to_the_end(id).await;
    assert_eq!(job.state, JobState::Succeeded);
    worker.check_the_end(&job).await;
}

#[tokio::test]
async fn a_machine_that_does_not_boot_waits_for_a_person_and_then_goes_on() {
    let mut worker = Worker::new(Desired::Running, &[]).await;
    worker.world.state().does_not_boot = true;
    let id = worker.begin().await.unwrap().id;
    let parked = until(&worker, id, |job| job.state == JobState::Parked).await;
    assert!(parked.reason.unwrap().contains("there is no program sleep"));
    worker.restart().await;
    assert_eq!(worker.moves().job(id).await.unwrap().state, JobState::Parked, "a restart resumes nothing");
    let refused = worker.moves().cancel(id).await.unwrap_err();
    assert_eq!(refused.code, ErrorCode::Conflict);
    worker.world.state().does_not_boot = false;
    worker.moves().resume(id).await.unwrap();
    let job = worker.run_to_the_end(id).await;
    assert_eq!(job.state, JobState::Succeeded);
    worker.check_the_end(&job).await;
}

#[tokio::test]
async fn a_target_that_is_lost_after_the_hand_over_is_waited_for() {
    let mut worker = Worker::new(Desired::Running, &[]).await;
    worker.world.state().does_not_boot = true;
    let id = worker.begin().await.unwrap().id;
    until(&worker, id, |job| job.state == JobState::Parked).await;
    {
        let mut state = worker.world.state();
        (state.target_away, state.does_not_boot) = (true, false);
    }
    worker.moves().resume(id).await.unwrap();
    until(&worker, id, |job| job.state == JobState::Parked).await;
    assert!(!worker.world.state().home_runs, "what was handed over never runs at home again");
    worker.world.state().target_away = false;
    worker.moves().resume(id).await.unwrap();
    assert_eq!(worker.run_to_the_end(id).await.state, JobState::Succeeded);
}

#[tokio::test]
async fn bytes_that_arrived_unchecked_keep_the_source_from_being_retired() {
    let worker = Worker::new(Desired::Running, &[]).await;
    worker.world.state().unchecked_bytes = 512;
    let id = worker.begin().await.unwrap().id;
    let job = until(&worker, id, |job| job.state == JobState::Parked).await;
    assert!(job.reason.unwrap().contains("were checked against the source"));
    let state = worker.world.state();
    assert!(state.home.values().all(|volume| volume.exported && !volume.retired));
    assert_eq!(state.crossing, Some(CrossingState::Booted));
}

#[tokio::test]
async fn a_region_that_arrived_otherwise_than_it_was_sealed_is_named_and_a_person_is_asked() {
    for wrong in [0, 6, 15] {
        let mut worker = Worker::new(Desired::Running, &[]).await;
        worker.world.state().wrong_region = Some(wrong);
        let id = worker.begin().await.unwrap().id;
        let job = until(&worker, id, |job| job.state == JobState::Parked).await;
        let bytes = format!("bytes {}..{} differ", wrong << 16, (wrong + 1) << 16);
        assert!(job.reason.as_ref().unwrap().contains(&bytes), "{:?}", job.reason);
        assert!(worker.world.state().home.values().all(|volume| volume.exported && !volume.retired));
        worker.world.state().wrong_region = None;
        worker.moves().resume(id).await.unwrap();
        assert_eq!(worker.run_to_the_end(id).await.state, JobState::Succeeded);
    }
}

#[tokio::test]
async fn a_root_that_is_not_known_is_said_in_the_receipt_and_holds_nobody_up() {
    let mut worker = Worker::new(Desired::Running, &[]).await;
    worker.world.state().root_is_lost = true;
    let id = worker.begin().await.unwrap().id;
    let job = worker.run_to_the_end(id).await;
    let verify = job.steps.iter().find(|step| step.step == "Verify").unwrap();
    let receipt: Receipt = serde_json::from_value(verify.memo.clone().unwrap()).unwrap();
    for volume in receipt.volumes {
        let proof = volume.proof.unwrap();
        assert_eq!((proof.agreed_root(), proof.root_on_target.as_deref()), (None, None));
        assert_eq!(proof.unproven.unwrap(), "the root of the target is not known: it is lost");
    }
}

#[tokio::test]
async fn a_volume_that_moved_on_or_was_destroyed_before_anybody_saw_it_whole_ends_the_move() {
    for gone in [Gone::Retired, Gone::Destroyed] {
        let mut worker = Worker::new(Desired::Running, &[]).await;
        worker.world.state().gone = Some(gone);
        let id = worker.begin().await.unwrap().id;
        let job = worker.run_to_the_end(id).await;
        assert_eq!(job.state, JobState::Succeeded, "{gone:?}: {job:?}");
        assert!(worker.world.state().home.values().all(|volume| volume.retired));
    }
}

#[tokio::test]
async fn what_has_ended_can_be_neither_cancelled_nor_resumed() {
    let mut worker = Worker::new(Desired::Running, &[]).await;
    let id = worker.begin().await.unwrap().id;
    worker.run_to_the_end(id).await;
    for refused in [worker.moves().cancel(id).await, worker.moves().resume(id).await] {
        assert_eq!(refused.unwrap_err().code, ErrorCode::Conflict);
    }
    let nobody = worker.moves().cancel(ferry_api::JobId::fresh()).await.unwrap_err();
    assert_eq!(nobody.code, ErrorCode::NotFound);
}

#[tokio::test]
async fn a_journal_that_cannot_be_replayed_is_shown_and_left_alone() {
    let mut worker = Worker::new(Desired::Running, &[]).await;
    worker.world.state().does_not_boot = true;
    let id = worker.begin().await.unwrap().id;
    let parked = until(&worker, id, |job| job.state == JobState::Parked).await;
    let illegal = Entry::new(0, Event::Undone { step: "Seal".to_owned() });
    let illegal = serde_json::to_value(illegal).unwrap();
    worker.records.append(id, parked.last_seq + 1, &[illegal], Vec::new(), Vec::new()).await.unwrap();
    worker.restart().await;
    let job = worker.moves().job(id).await.unwrap();
    assert_eq!(job.state, JobState::Parked);
    assert!(job.reason.unwrap().contains("is illegal"));
    assert_eq!(worker.moves().resume(id).await.unwrap_err().code, ErrorCode::Internal);
}

#[tokio::test]
async fn a_step_of_another_version_parks_the_move() {
    let mut worker = Worker::new(Desired::Running, &[]).await;
    worker.world.state().does_not_boot = true;
    let id = worker.begin().await.unwrap().id;
    let parked = until(&worker, id, |job| job.state == JobState::Parked).await;
    let later = serde_json::json!({"v": 9, "at_ms": 5, "entry": "beamed", "step": "Teleport"});
    worker.records.append(id, parked.last_seq + 1, &[later], Vec::new(), Vec::new()).await.unwrap();
    worker.restart().await;
    worker.moves().resume(id).await.unwrap();
    let job = until(&worker, id, |job| job.state == JobState::Parked).await;
    assert!(job.reason.unwrap().contains("another version"));
}

/// A move that its target refuses in Plan: foreseen, not repeated, and before anything stops. Answers why.
async fn refused_in_plan(worker: &mut Worker) -> String {
    let mover = Mover::new(Arc::new(Alpha(worker.world.clone())), Hourglass(worker.world.clone()));
    let foreseen = mover.foresee(&worker.input("beta")).await.unwrap();
    let id = worker.begin().await.unwrap().id;
    let job = worker.run_to_the_end(id).await;
    assert_eq!((job.state, job.steps[0].attempts), (JobState::Failed, 1));
    let reason = job.reason.clone().unwrap();
    assert!(reason.contains(&foreseen.blockers[0]), "what stops it was foreseen: {:?}", foreseen.blockers);
    assert!(job.steps[1..].iter().all(|step| step.state == StepState::Waiting));
    worker.check_the_end(&job).await;
    reason
}

/// What a worker tells of a driver that runs machines there.
fn runs(name: &str) -> DriverInfo {
    DriverInfo {
        name: name.to_owned(),
        found: None,
        limits: Vec::new(),
        error: None,
        live: None,
        models: None,
    }
}

#[tokio::test]
async fn a_target_that_cannot_limit_the_machine_is_refused_before_anything_stops() {
    let mut worker = Worker::new(Desired::Running, &[]).await;
    worker.world.state().limits.memory_bytes = (1 << 20).try_into().ok();
    let reason = refused_in_plan(&mut worker).await;
    assert!(reason.contains("worker beta cannot limit the memory of the machine"), "{reason}");
}

#[tokio::test]
async fn a_target_that_has_less_than_the_machine_may_take_is_refused_before_anything_stops() {
    let mut worker = Worker::new(Desired::Running, &[]).await;
    {
        let mut state = worker.world.state();
        state.limits.memory_bytes = (1 << 20).try_into().ok();
        state.drivers = vec![DriverInfo { limits: vec!["memory".to_owned()], ..runs("process") }];
        state.has = Some(Capacity { cpu_millis: 1000, memory_bytes: (1 << 20) - 1 });
    }
    let reason = refused_in_plan(&mut worker).await;
    let less = "worker beta has 1048575 bytes of memory and the machine is to have 1048576 at most; lower that limit";
    assert!(reason.contains(less), "{reason}");
    worker.world.state().has = Some(Capacity { cpu_millis: 1000, memory_bytes: 1 << 20 });
    let id = worker.begin().await.unwrap().id;
    assert_eq!(worker.run_to_the_end(id).await.state, JobState::Succeeded);
}

#[tokio::test]
async fn a_target_that_lacks_the_machines_driver_is_refused_before_anything_stops() {
    let mut worker = Worker::new(Desired::Running, &[]).await;
    let error = Some("its programs are locked away; unlock them".to_owned());
    worker.world.state().drivers = vec![DriverInfo { error, ..runs("process") }];
    let reason = refused_in_plan(&mut worker).await;
    assert!(
        reason.contains("worker beta cannot run the machine, whose driver is process: its programs"),
        "{reason}"
    );
}

#[tokio::test]
async fn a_target_whose_qemu_does_not_know_what_the_vm_is_is_refused_before_anything_stops() {
    for (machines, cpus, lacks) in [("pc", "max", "machine q35"), ("q35", "qemu64", "cpu Haswell")] {
        let mut worker = Worker::new(Desired::Running, &[]).await;
        {
            let mut state = worker.world.state();
            state.is_vm = true;
            let models = Some(VmModels { machines: vec![machines.to_owned()], cpus: vec![cpus.to_owned()] });
            state.drivers = vec![DriverInfo { models, ..runs("qemu") }];
        }
        let reason = refused_in_plan(&mut worker).await;
        let unknown = format!("the QEMU of worker beta knows no {lacks}; bring it to a version that does");
        assert!(reason.contains(&unknown), "{reason}");
    }
}

#[tokio::test]
async fn a_machine_that_has_just_arrived_may_leave_once_its_copy_has_reached_its_source() {
    let worker = Worker::new(Desired::Running, &[]).await;
    let mover = Mover::new(Arc::new(Alpha(worker.world.clone())), Hourglass(worker.world.clone()));
    worker.world.state().looks_until_connected = 3;
    let foreseen = mover.foresee(&worker.input("beta")).await.unwrap();
    assert_eq!(foreseen.blockers, Vec::<String>::new());
    worker.world.state().looks_until_connected = u32::MAX;
    let foreseen = mover.foresee(&worker.input("beta")).await.unwrap();
    assert!(foreseen.blockers[0].contains("is not connected yet"), "{:?}", foreseen.blockers);
}
