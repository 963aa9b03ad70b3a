//! Disks past the page cache, and disks of machines on block devices.

use crate::house::{Worker, machine, pid, workers, workers_below};
use ferry_api::{
    AgentApi, CreateMachine, DestroyMachine, ErrorCode, ForkVolume, JobState, StartMove, Volume, VolumeOrigin,
};
use ferry_volume::client::BlockClient;
use ferry_volume::directory::VolumeConfig;
use std::path::{Path, PathBuf};
use std::process::Command;

const SIZE_BYTES: u64 = 8 << 20;

fn disk(name: &str, store: Option<PathBuf>, direct: bool) -> CreateMachine {
    let mut create = machine(name, "exec sleep 1000");
    create.volumes[0].origin =
        VolumeOrigin::Empty { size_bytes: SIZE_BYTES, region_bytes: None, store, direct };
    create
}

fn move_to(worker: &str) -> StartMove {
    StartMove::new("web".parse().unwrap(), worker.parse().unwrap())
}

fn described(worker: &Worker, volume: &Volume) -> VolumeConfig {
    let key = ferry_api::VolumeKey { id: volume.id, generation: volume.generation };
    VolumeConfig::read(&ferry_agent::config::volume_dir(&worker.config().state_dir, key)).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_past_the_page_cache_stays_so_where_it_moves_and_where_it_is_forked() {
    let [w1, w2] = workers(["", ""]).await;
    w1.door().machine_create(disk("web", None, true)).await.unwrap();
    assert!(described(&w1, &w1.volume("data").await).store.direct);
    let job = w1.door().move_start(move_to("w2")).await.unwrap();
    assert_eq!(w1.finished(job.id).await.state, JobState::Succeeded);
    let moved = w2.volume("data").await;
    assert!(moved.direct && described(&w2, &moved).store.direct);
    let fork = ForkVolume { name: "copy".parse().unwrap(), to: Some("w1".parse().unwrap()) };
    let fork = w2.door().volume_fork(&"data".parse().unwrap(), fork).await.unwrap();
    assert!(fork.direct && described(&w1, &fork).store.direct);
    w1.end().await;
    w2.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_target_whose_filesystem_has_no_direct_io_is_refused_before_anything_stops() {
    if !Path::new("/dev/shm").is_dir() {
        return skip("no filesystem in memory at /dev/shm");
    }
    let [w1, w2] = workers_below([("/tmp", ""), ("/dev/shm", "")]).await;
    let made = w1.door().machine_create(disk("web", None, true)).await.unwrap();
    let job = w1.door().move_start(move_to("w2")).await.unwrap();
    let job = w1.finished(job.id).await;
    assert_eq!(job.state, JobState::Failed);
    let reason = job.reason.unwrap();
    assert!(reason.contains("volume data uses direct I/O") && reason.contains("w2"), "{reason}");
    assert_eq!(pid(&w1.machine("web").await), pid(&made));
    let refusal = w2.door().machine_create(disk("db", None, true)).await.unwrap_err();
    assert!(refusal.message.contains("no direct I/O; leave direct I/O off"), "{refusal}");
    assert_eq!(w2.door().volumes().await.unwrap(), []);
    assert_eq!(w2.door().machines().await.unwrap(), []);
    w2.door().machine_create(disk("db", None, false)).await.unwrap();
    w1.end().await;
    w2.end().await;
}

/// A loop device on a file full of garbage; none, loudly, where this host gives us none.
struct Loop(PathBuf);

impl Loop {
    fn new(file: &Path, bytes: u64) -> Option<Self> {
        std::fs::write(file, vec![0xEE; bytes as usize]).unwrap();
        match Command::new("losetup").args(["--find", "--show"]).arg(file).output() {
            Ok(made) if made.status.success() => {
                Some(Self(String::from_utf8(made.stdout).unwrap().trim().into()))
            }
            Ok(made) => {
                skip(&String::from_utf8_lossy(&made.stderr));
                None
            }
            Err(e) => {
                skip(&e.to_string());
                None
            }
        }
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        let _ = Command::new("losetup").arg("--detach").arg(&self.0).status();
    }
}

#[allow(clippy::print_stderr, reason = "who runs the tests is told what was not tested")]
fn skip(why: &str) {
    assert!(std::env::var_os("CI").is_none(), "{why}");
    eprintln!("SKIPPED: {why}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_empty_disk_of_a_machine_lies_on_a_device_that_is_its_own() {
    let tmp = tempfile::tempdir().unwrap();
    let Some(device) = Loop::new(&tmp.path().join("device"), SIZE_BYTES) else { return };
    // What lies on a device needs none of the room.
    let [w1, w2] = workers(["room_bytes = 4194304", ""]).await;
    let create = |name| disk(name, Some(device.0.clone()), true);
    let mut twice = create("twice");
    twice.volumes.push(twice.volumes[0].clone());
    twice.volumes[1].name = "log".parse().unwrap();
    let refusal = w1.door().machine_create(twice).await.unwrap_err();
    assert!(refusal.message.contains("named for two disks"), "{refusal}");
    let mut larger = create("larger");
    larger.volumes[0].origin = VolumeOrigin::Empty {
        size_bytes: 2 * SIZE_BYTES,
        region_bytes: None,
        store: Some(device.0.clone()),
        direct: false,
    };
    let refusal = w1.door().machine_create(larger).await.unwrap_err();
    assert!(refusal.message.contains("choose or make a larger one"), "{refusal}");
    w1.door().machine_create(create("web")).await.unwrap();
    let volume = w1.volume("data").await;
    assert_eq!(volume.store.as_ref(), Some(&device.0));
    assert_eq!(described(&w1, &volume).store.device.as_ref(), Some(&device.0));
    let refusal = w1.door().machine_create(create("db")).await.unwrap_err();
    assert_eq!(refusal.code, ErrorCode::AlreadyExists, "{refusal}");
    assert!(refusal.message.contains("holds volume"), "{refusal}");
    // Another agent of this host does not know of it, but the kernel does.
    let refusal = w2.door().machine_create(create("db")).await.unwrap_err();
    assert!(refusal.message.contains("something else uses it"), "{refusal}");
    assert_eq!(w2.door().volumes().await.unwrap(), []);
    assert_eq!(volume.store_bytes_allocated, Some(SIZE_BYTES));
    let file = tmp.path().join("device");
    let mut guest = BlockClient::connect_text(&volume.guest_uri).unwrap();
    guest.write_at(0, &[7; 1 << 20]).unwrap();
    guest.flush().unwrap();
    drop(guest);
    assert_eq!(&std::fs::read(&file).unwrap()[..1 << 20], &[7; 1 << 20]);
    w1.door().machine_destroy(&"web".parse().unwrap(), DestroyMachine { stop: true }).await.unwrap();
    assert!(std::fs::read(&file).unwrap().iter().all(|&byte| byte == 0), "nothing stale stays");
    w2.door().machine_create(create("db")).await.unwrap();
    w1.end().await;
    w2.end().await;
}
