//! Two workers: machines that move, and the target's side of it.

use crate::house::{Worker, machine, pid, until, workers};
use ferry_api::{
    API_VERSION, Activate, ActivateVolume, AgentApi, CrossingState, Desired, ErrorCode, Generation, Job,
    JobId, JobState, Machine, MachineId, MachineSpec, MachineState, Ownership, PaceVolume, Prepare,
    PrepareVolume, Reserve, ReserveVolume, Signal, StartMove, VolumeId, VolumeKey,
};
use rustix::process::{Pid, kill_process};
use std::num::NonZeroU64;

fn to(name: &str, worker: &str) -> StartMove {
    StartMove::new(name.parse().unwrap(), worker.parse().unwrap())
}

fn reserve(name: &str) -> Reserve {
    let volume = ReserveVolume {
        id: VolumeId::fresh(),
        name: "data".parse().unwrap(),
        generation: Generation(2),
        size_bytes: 1 << 20,
        region_bytes: 1 << 20,
        bytes_in_use: 4096,
        direct: false,
        born_from: None,
        origin: None,
    };
    Reserve {
        job: JobId::fresh(),
        from: "w2".parse().unwrap(),
        api_version: API_VERSION,
        machine: MachineId::fresh(),
        machine_name: name.parse().unwrap(),
        machine_generation: Generation(2),
        spec: MachineSpec::process("sleep", ["1000"]),
        created_at_ms: 1,
        volumes: vec![volume],
        undo_unhealthy: false,
    }
}

/// Where the disk of a machine can be read once it is sealed.
async fn export(worker: &Worker, machine: &Machine) -> String {
    let disk = &machine.volumes[0];
    let key = VolumeKey { id: disk.volume, generation: disk.generation };
    worker.door().peer_export(key, None).await.unwrap().uri
}

async fn end<const N: usize>(workers: [Worker; N]) {
    for worker in workers {
        worker.end().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_machine_moves_there_and_back_and_there_again() {
    let mut workers = workers(["", ""]).await;
    let made = workers[0].door().machine_create(machine("web", "exec sleep 1000")).await.unwrap();
    for (generation, from, other) in [(2, 0, 1), (3, 1, 0), (4, 0, 1)] {
        let start = to("web", &format!("w{}", other + 1));
        let job = workers[from].door().move_start(start).await.unwrap();
        let job = workers[from].finished(job.id).await;
        assert_eq!(job.state, JobState::Succeeded, "{job:#?}");
        let there = workers[other].machine("web").await;
        assert_eq!((there.id, there.generation), (made.id, Generation(generation)));
        assert_ne!(pid(&there), pid(&made));
        let here = workers[from].machine("web").await;
        assert_eq!(here.state, MachineState::HandedOver { to: format!("w{}", other + 1).parse().unwrap() });
        let volume = workers[from].volume("data").await;
        assert!(matches!(volume.ownership, Ownership::Retired { .. }), "{volume:?}");
        // And a new agent knows it too.
        workers[from].kill().await;
        workers[from].start().await;
    }
    end(workers).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_move_that_cannot_be_is_refused_and_the_machine_goes_on() {
    let workers = workers(["", "room_bytes = 33554432"]).await;
    let [w1, w2] = &workers;
    let made = w1.door().machine_create(machine("web", "exec sleep 1000")).await.unwrap();
    let refusal = w1.door().move_start(to("web", "w9")).await.unwrap_err();
    assert_eq!(refusal.code, ErrorCode::UnknownWorker);
    assert!(refusal.message.contains("known: w2"), "{refusal}");
    assert_eq!(w1.door().move_start(to("nobody", "w2")).await.unwrap_err().code, ErrorCode::NotFound);
    let job = w1.door().move_start(to("web", "w2")).await.unwrap();
    let job = w1.finished(job.id).await;
    assert_eq!(job.state, JobState::Failed);
    assert!(job.reason.as_ref().unwrap().contains("larger than the 33554432 bytes"), "{:?}", job.reason);
    assert_eq!(pid(&w1.machine("web").await), pid(&made));
    assert_eq!(w2.door().volumes().await.unwrap(), []);
    end(workers).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_machine_that_is_already_moving_is_refused() {
    let workers = workers(["", ""]).await;
    // The first time it does not hear that it is to stop, so the first move waits for it.
    let place = tempfile::tempdir().unwrap();
    let once = place.path().join("once");
    let script = "2>/dev/null && trap '' TERM; echo up; while :; do sleep 0.02; done";
    let mut deaf = machine("web", &format!("mkdir {} {script}", once.display()));
    (deaf.spec.stop_signal, deaf.spec.stop_grace_ms) = (Signal::TERM, 24 * 3_600_000);
    let made = workers[0].door().machine_create(deaf).await.unwrap();
    until(async || std::fs::read_to_string(&made.log).ok().filter(|said| said.contains("up"))).await;
    let job = workers[0].door().move_start(to("web", "w2")).await.unwrap();
    let web = "web".parse().unwrap();
    let refusal = workers[0].door().move_start(to("web", "w2")).await.unwrap_err();
    assert_eq!(refusal.code, ErrorCode::Busy);
    assert!(refusal.message.contains("already moving"), "{refusal}");
    assert_eq!(workers[0].door().machine_stop(&web).await.unwrap_err().code, ErrorCode::Busy);
    let is_asked = |job: &Job| job.steps.iter().any(|step| step.step == "Stop" && step.attempts > 0);
    until(async || Some(workers[0].door().job(job.id).await.unwrap()).filter(is_asked)).await;
    kill_process(Pid::from_raw(pid(&made).cast_signed()).unwrap(), rustix::process::Signal::KILL).unwrap();
    assert_eq!(workers[0].finished(job.id).await.state, JobState::Succeeded);
    end(workers).await;
}

#[tokio::test]
async fn what_was_released_is_never_activated() {
    let workers = workers(["", ""]).await;
    let door = workers[0].door();
    let unknown = JobId::fresh();
    let activate = Activate { job: unknown, desired: Desired::Running, volumes: Vec::new() };
    assert_eq!(door.peer_activate(activate).await.unwrap_err().code, ErrorCode::NotFound);
    let wish = reserve("web");
    door.peer_release(wish.job).await.unwrap();
    assert_eq!(door.peer_reserve(wish).await.unwrap_err().code, ErrorCode::Conflict);
    let wish = reserve("web");
    door.peer_reserve(wish.clone()).await.unwrap();
    door.peer_release(wish.job).await.unwrap();
    door.peer_release(wish.job).await.unwrap();
    let prepare = Prepare { job: wish.job, volumes: Vec::new() };
    assert_eq!(door.peer_prepare(prepare).await.unwrap_err().code, ErrorCode::Conflict);
    assert_eq!(door.volumes().await.unwrap(), []);
    end(workers).await;
}

#[tokio::test]
async fn a_reservation_keeps_the_name_and_the_room_until_it_is_released() {
    let workers = workers(["room_bytes = 104857600", ""]).await;
    let door = workers[0].door();
    let mut wish = reserve("web");
    wish.volumes[0].size_bytes = 64 << 20;
    wish.volumes[0].bytes_in_use = 60 << 20;
    let first = door.peer_reserve(wish.clone()).await.unwrap();
    assert_eq!(first.state, CrossingState::Reserved);
    assert_eq!(door.peer_reserve(wish.clone()).await.unwrap(), first);
    assert_eq!(door.worker().await.unwrap().room.promised_bytes, 60 << 20);
    let refusal = door.machine_create(machine("web", "true")).await.unwrap_err();
    assert_eq!(refusal.code, ErrorCode::AlreadyExists);
    let mut second = reserve("db");
    second.volumes[0].size_bytes = 64 << 20;
    second.volumes[0].bytes_in_use = 60 << 20;
    assert_eq!(door.peer_reserve(second.clone()).await.unwrap_err().code, ErrorCode::NoRoom);
    door.peer_release(wish.job).await.unwrap();
    door.peer_reserve(second.clone()).await.unwrap();
    door.peer_release(second.job).await.unwrap();
    end(workers).await;
}

#[tokio::test]
async fn a_source_that_cannot_be_reached_is_told_before_anything_stops() {
    let workers = workers(["", ""]).await;
    let made = workers[1].door().machine_create(machine("web", "exec sleep 1000")).await.unwrap();
    let mut wish = reserve("web");
    (wish.volumes[0].id, wish.volumes[0].size_bytes) = (made.volumes[0].volume, 64 << 20);
    let door = workers[0].door();
    door.peer_reserve(wish.clone()).await.unwrap();
    let nobody = "nbd://127.0.0.1:1/nothing".to_owned();
    let other = export(&workers[1], &made).await.replace("@1", "@7");
    for source in [nobody, other] {
        let volumes = vec![PrepareVolume { id: made.volumes[0].volume, source, pace: PaceVolume::default() }];
        let refusal = door.peer_prepare(Prepare { job: wish.job, volumes }).await.unwrap_err();
        assert_eq!(refusal.code, ErrorCode::Unreachable);
        assert!(refusal.message.contains("cannot come to the volume of worker w2"), "{refusal}");
    }
    door.peer_release(wish.job).await.unwrap();
    end(workers).await;
}

#[tokio::test]
async fn a_prepared_clone_stands_by_and_goes_without_trace() {
    let mut workers = workers(["", ""]).await;
    let made = workers[1].door().machine_create(machine("web", "exec sleep 1000")).await.unwrap();
    let mut wish = reserve("web");
    (wish.volumes[0].id, wish.volumes[0].size_bytes) = (made.volumes[0].volume, 64 << 20);
    workers[0].door().peer_reserve(wish.clone()).await.unwrap();
    let source = export(&workers[1], &made).await;
    let prepare = Prepare {
        job: wish.job,
        volumes: vec![PrepareVolume { id: wish.volumes[0].id, source, pace: PaceVolume::default() }],
    };
    let prepared = workers[0].door().peer_prepare(prepare.clone()).await.unwrap();
    assert_eq!(prepared.state, CrossingState::Prepared);
    let clone = prepared.volumes[0].volume.clone().unwrap();
    assert_eq!(clone.phase, Some(ferry_api::VolumePhase::Standby));
    workers[0].kill().await;
    workers[0].start().await;
    let again = workers[0].door().peer_prepare(prepare).await.unwrap();
    assert_eq!(again.volumes[0].volume.as_ref().unwrap().server, clone.server);
    workers[0].door().peer_release(wish.job).await.unwrap();
    assert_eq!(workers[0].door().volumes().await.unwrap(), []);
    end(workers).await;
}

#[tokio::test]
async fn what_was_activated_boots_by_itself_and_finds_a_source_that_moved() {
    let mut workers = workers(["", ""]).await;
    let made = workers[1].door().machine_create(machine("web", "exec sleep 1000")).await.unwrap();
    let disk = &made.volumes[0];
    let mut wish = reserve("web");
    (wish.machine, wish.spec) = (made.id, made.spec.clone());
    (wish.volumes[0].id, wish.volumes[0].size_bytes) = (disk.volume, 64 << 20);
    let stale = format!("nbd://127.0.0.1:1/{}@1", disk.volume);
    let volumes = vec![PrepareVolume {
        id: disk.volume,
        source: export(&workers[1], &made).await,
        pace: PaceVolume::default(),
    }];
    let volume =
        ActivateVolume { id: disk.volume, generation: Generation(2), source: stale.clone(), holds: false };
    let activate = Activate { job: wish.job, desired: Desired::Running, volumes: vec![volume] };
    let door = workers[0].door();
    door.peer_reserve(wish.clone()).await.unwrap();
    assert_eq!(door.peer_activate(activate.clone()).await.unwrap_err().code, ErrorCode::Conflict);
    door.peer_prepare(Prepare { job: wish.job, volumes }).await.unwrap();
    let activated = door.peer_activate(activate.clone()).await.unwrap();
    assert_eq!(activated.state, CrossingState::Activated);
    // Nobody asks it to boot, and its agent dies.
    workers[0].kill().await;
    workers[0].start().await;
    workers[0].machine_when("web", |m| matches!(m.state, MachineState::Running { .. })).await;
    let again = workers[0].door().peer_activate(activate).await.unwrap();
    assert_eq!(again.activated_at_ms, activated.activated_at_ms);
    assert_eq!(workers[0].door().peer_release(wish.job).await.unwrap_err().code, ErrorCode::Conflict);
    let found = workers[0].volume_when("data", |v| v.source.as_ref().is_some_and(|s| s.uri != stale)).await;
    assert_eq!(found.source.unwrap().uri, workers[1].volume("data").await.export_uri.unwrap());
    let unsettled = workers[0].door().peer_settle(wish.job).await.unwrap_err();
    assert_eq!(unsettled.code, ErrorCode::Conflict);
    end(workers).await;
}

#[tokio::test]
async fn a_machine_that_ended_for_good_on_the_way_is_not_started_on_the_target() {
    let workers = workers(["", ""]).await;
    let made = workers[1].door().machine_create(machine("once", "exec sleep 1000")).await.unwrap();
    let disk = made.volumes[0].volume;
    let mut wish = reserve("once");
    (wish.volumes[0].id, wish.volumes[0].size_bytes) = (disk, 64 << 20);
    let source = export(&workers[1], &made).await;
    let door = workers[0].door();
    door.peer_reserve(wish.clone()).await.unwrap();
    let volumes = vec![PrepareVolume { id: disk, source: source.clone(), pace: PaceVolume::default() }];
    door.peer_prepare(Prepare { job: wish.job, volumes }).await.unwrap();
    let volumes = vec![ActivateVolume { id: disk, generation: Generation(2), source, holds: false }];
    door.peer_activate(Activate { job: wish.job, desired: Desired::Stopped, volumes }).await.unwrap();
    let booted = door.peer_boot(wish.job).await.unwrap();
    assert_eq!(booted.booted_at_ms, None);
    assert_eq!(booted.machine_now.unwrap().state, MachineState::Stopped);
    end(workers).await;
}

#[tokio::test]
async fn a_number_beyond_all_there_is_does_not_end_an_agent() {
    let workers = workers(["", ""]).await;
    let door = workers[0].door();
    let key = VolumeKey { id: VolumeId::fresh(), generation: Generation(u64::MAX) };
    assert_eq!(door.peer_export(key, None).await.unwrap_err().code, ErrorCode::NotFound);
    assert_eq!(door.machines().await.unwrap(), []);
    end(workers).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_pace_of_a_volume_moves_with_it() {
    let workers = workers(["", ""]).await;
    workers[0].door().machine_create(machine("web", "exec sleep 1000")).await.unwrap();
    let (budget, guard) = (NonZeroU64::new(500 << 20), NonZeroU64::new(7_000));
    let pace = PaceVolume { budget_bytes_per_s: Some(budget), guard_us: Some(guard), finish_by_ms: None };
    workers[0].door().volume_pace(&"data".parse().unwrap(), pace).await.unwrap();
    let job = workers[0].door().move_start(to("web", "w2")).await.unwrap();
    assert_eq!(workers[0].finished(job.id).await.state, JobState::Succeeded);
    let there = workers[1].volume("data").await.pace;
    assert_eq!((there.budget_bytes_per_s, there.guard_us), (budget, guard));
    end(workers).await;
}
