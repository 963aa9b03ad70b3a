//! One worker: machines, volumes, refusals, and an agent that dies.

use crate::house::{a_moment, machine, pid, server_pid, workers};
use ferry_api::{
    AgentApi, CreateMachine, DestroyMachine, ErrorCode, ImportVolume, MachineState, NewVolume, PaceVolume,
    RestartPolicy, ServerState, VolumeOrigin, VolumePhase,
};
use rustix::process::{Pid, Signal, kill_process};
use std::num::NonZeroU64;

fn kill(pid: u32) {
    kill_process(Pid::from_raw(pid.try_into().unwrap()).unwrap(), Signal::KILL).unwrap();
}

fn import(name: &str, source: &str) -> ImportVolume {
    let source = source.to_owned();
    let name = name.parse().unwrap();
    ImportVolume { id: None, name, source, size_bytes: None, region_bytes: None, store: None, direct: false }
}

#[tokio::test]
async fn a_machine_finds_its_volume_in_its_environment_and_stops_when_asked() {
    let [w1] = workers([""]).await;
    let script = "echo $FERRY_MACHINE_NAME $FERRY_VOLUME_DATA; exec sleep 1000";
    let made = w1.door().machine_create(machine("web", script)).await.unwrap();
    assert!(matches!(made.state, MachineState::Running { .. }), "{made:?}");
    let volume = w1.volume("data").await;
    assert_eq!(volume.phase, Some(VolumePhase::Open));
    let said = loop {
        let log = std::fs::read_to_string(&made.log).unwrap_or_default();
        if log.ends_with('\n') {
            break log;
        }
        a_moment().await;
    };
    assert_eq!(said, format!("web {}\n", volume.guest_uri));
    let stopped = w1.door().machine_stop(&"web".parse().unwrap()).await.unwrap();
    assert_eq!(stopped.state, MachineState::Stopped);
    w1.end().await;
}

#[tokio::test]
async fn a_new_agent_finds_machines_and_volume_servers_again() {
    let [mut w1] = workers([""]).await;
    let made = w1.door().machine_create(machine("web", "exec sleep 1000")).await.unwrap();
    let server = server_pid(&w1.volume("data").await);
    w1.kill().await;
    w1.start().await;
    assert_eq!(pid(&w1.machine("web").await), pid(&made));
    assert_eq!(server_pid(&w1.volume("data").await), server);
    // It is minded again: its end is noticed although it is not a child of anything the agent waits for.
    kill(pid(&made));
    let again = w1
        .machine_when("web", |m| matches!(m.state, MachineState::Running { pid: p, .. } if p != pid(&made)));
    assert_ne!(pid(&again.await), pid(&made));
    w1.end().await;
}

#[tokio::test]
async fn a_killed_volume_server_serves_again_while_its_machine_goes_on() {
    let [w1] = workers([""]).await;
    let made = w1.door().machine_create(machine("web", "exec sleep 1000")).await.unwrap();
    let before = server_pid(&w1.volume("data").await);
    kill(before);
    let after =
        w1.volume_when("data", |v| matches!(v.server, ServerState::Running { pid } if pid != before)).await;
    assert_eq!(after.phase, Some(VolumePhase::Open));
    assert_eq!(pid(&w1.machine("web").await), pid(&made));
    w1.end().await;
}

#[tokio::test]
async fn a_machine_that_shall_not_come_back_stays_down() {
    let [w1] = workers([""]).await;
    let mut create = machine("once", "exit 3");
    create.spec.restart = RestartPolicy::Never;
    w1.door().machine_create(create).await.unwrap();
    let ended = w1.machine_when("once", |m| m.state == MachineState::Stopped).await;
    assert_eq!(ended.last_exit.unwrap().code, Some(3));
    w1.end().await;
}

#[tokio::test]
async fn a_destroyed_machine_leaves_nothing_behind() {
    let [w1] = workers([""]).await;
    let made = w1.door().machine_create(machine("web", "exec sleep 1000")).await.unwrap();
    let web = "web".parse().unwrap();
    let refusal = w1.door().machine_destroy(&web, DestroyMachine::default()).await.unwrap_err();
    assert_eq!(refusal.code, ErrorCode::Conflict);
    w1.door().machine_destroy(&web, DestroyMachine { stop: true }).await.unwrap();
    assert_eq!(w1.door().machine(&made.id.into()).await.unwrap_err().code, ErrorCode::NotFound);
    assert_eq!(w1.door().volumes().await.unwrap(), []);
    let left: Vec<_> = std::fs::read_dir(w1.config().state_dir.join("volumes")).unwrap().collect();
    assert!(left.is_empty(), "{left:?}");
    w1.end().await;
}

#[tokio::test]
async fn what_cannot_be_made_is_refused_and_leaves_nothing_behind() {
    let [w1] = workers(["room_bytes = 33554432"]).await;
    let mut absent = machine("web", "true");
    absent.spec = ferry_api::MachineSpec::process("no-such-program", ["x"]);
    let mut odd = machine("web", "true");
    odd.volumes[0].origin =
        VolumeOrigin::Empty { size_bytes: 1000, region_bytes: None, store: None, direct: false };
    let mut twice = machine("web", "true");
    twice.volumes.push(twice.volumes[0].clone());
    let cases: [(CreateMachine, ErrorCode, &str); 4] = [
        (absent, ErrorCode::InvalidRequest, "no-such-program"),
        (odd, ErrorCode::InvalidRequest, "multiple of 512"),
        (twice, ErrorCode::InvalidRequest, "FERRY_VOLUME_DATA"),
        (machine("web", "true"), ErrorCode::NoRoom, "larger than the 33554432 bytes"),
    ];
    for (create, code, says) in cases {
        let refusal = w1.door().machine_create(create).await.unwrap_err();
        assert_eq!(refusal.code, code, "{refusal}");
        assert!(refusal.message.contains(says), "{refusal}");
    }
    assert_eq!(w1.door().machines().await.unwrap(), []);
    assert_eq!(w1.door().volumes().await.unwrap(), []);
    w1.end().await;
}

#[tokio::test]
async fn a_raw_file_becomes_a_volume_that_is_whole_by_and_by() {
    let [w1] = workers([""]).await;
    let image = w1.config().state_dir.join("image.raw");
    std::fs::write(&image, vec![7; 3 << 20]).unwrap();
    let made = w1.door().volume_import(import("files", image.to_str().unwrap())).await.unwrap();
    assert_eq!((made.size_bytes, made.phase), (3 << 20, Some(VolumePhase::Open)));
    let whole = w1.volume_when("files", |v| v.source.is_none()).await;
    assert!(whole.hydration.unwrap().complete, "{whole:?}");
    let mut create = machine("reader", "exec sleep 1000");
    let origin = VolumeOrigin::Existing { volume: "files".parse().unwrap() };
    create.volumes = vec![NewVolume { name: "disk".parse().unwrap(), origin }];
    let reader = w1.door().machine_create(create).await.unwrap();
    assert_eq!(w1.volume("disk").await.machine, Some(reader.id));
    w1.end().await;
}

#[tokio::test]
async fn the_pace_of_a_volume_can_be_set_while_it_is_in_use() {
    let [w1] = workers([""]).await;
    let image = w1.config().state_dir.join("image.raw");
    std::fs::write(&image, vec![7; 3 << 20]).unwrap();
    w1.door().volume_import(import("files", image.to_str().unwrap())).await.unwrap();
    let files = "files".parse().unwrap();
    let some = NonZeroU64::new(5_000);
    for (budget, guard, then) in [
        (Some(some), None, (some, None)),
        (None, Some(some), (some, some)),
        (Some(None), None, (None, some)),
        (None, Some(None), (None, None)),
    ] {
        let wanted = PaceVolume { budget_bytes_per_s: budget, guard_us: guard, finish_by_ms: None };
        let paced = w1.door().volume_pace(&files, wanted).await.unwrap().pace;
        assert_eq!((paced.budget_bytes_per_s, paced.guard_us), then);
        let shown = w1.volume("files").await.pace;
        assert_eq!((shown.budget_bytes_per_s, shown.guard_us), then);
    }
    w1.end().await;
}

#[tokio::test]
async fn an_import_that_cannot_be_is_refused_in_one_sentence() {
    let [w1] = workers([""]).await;
    let image = w1.config().state_dir.join("image.raw");
    std::fs::write(&image, vec![7; 1000]).unwrap();
    let image = image.to_str().unwrap();
    let larger = ImportVolume { size_bytes: Some(4096), ..import("files", image) };
    let cases = [
        (import("files", "/no/such/file"), "cannot read /no/such/file: "),
        (import("files", "nbd://127.0.0.1:1/x"), "cannot connect to nbd://127.0.0.1:1/x: "),
        (import("files", "gopher://x"), "is not a source"),
        (import("files", image), "no multiple of 512"),
        (larger, "less than the 4096"),
    ];
    for (import, says) in cases {
        let refusal = w1.door().volume_import(import).await.unwrap_err();
        assert_eq!(refusal.code, ErrorCode::BadSource, "{refusal}");
        assert!(refusal.message.contains(says), "{refusal}");
        assert_eq!(refusal.message.lines().count(), 1);
    }
    std::fs::write(image, vec![7; 4096]).unwrap();
    for (device, code, says) in [
        ("/dev/null", ErrorCode::InvalidRequest, "is no block device"),
        (image, ErrorCode::AlreadyExists, "holds the source itself"),
    ] {
        let import = ImportVolume { store: Some(device.into()), ..import("files", image) };
        let refusal = w1.door().volume_import(import).await.unwrap_err();
        assert!(refusal.code == code && refusal.message.contains(says), "{refusal}");
    }
    assert_eq!(w1.door().volumes().await.unwrap(), []);
    w1.end().await;
}

#[tokio::test]
async fn a_state_directory_in_use_is_refused() {
    let [w1] = workers([""]).await;
    let launcher = ferry_agent::drivers::Launcher::new("true");
    let refusal = ferry_agent::Agent::start(w1.config().clone(), launcher).await.err().unwrap();
    let said = refusal.to_string();
    assert!(
        said.contains("is in use by another agent") && said.contains(&std::process::id().to_string()),
        "{said}"
    );
    w1.end().await;
}
