//! Machines with real input move between real workers, asked as people ask: by the command line. Afterwards every
//! byte, as software nobody here wrote reads it, is the one that was there.
#![allow(clippy::unwrap_used, reason = "a test ends at whatever it did not expect")]

mod support;

use ferry_api::{
    AttachedFrontend, Generation, Job, JobState, Machine, MachineState, Ownership, ServerState, StepState,
    Volume, VolumeKey, WorkerInfo,
};
use std::fs::File;
use std::num::NonZeroU64;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use support::cluster::{Cluster, Worker};
use support::devices::{in_private, loop_devices_below, mounts_below, needs_loop_devices};
use support::files::RealFiles;
use support::gated::Gated;
use support::image;
use support::peers::{Peer, path_text};
use support::{
    DEBUGFS, E2FSCK, FIO, MKE2FS, NBDCOPY, NBDINFO, NBDKIT, QEMU_IMG, QEMU_IO, QEMU_NBD, UNSHARE, needs,
    qemu_io, run, succeed, text, until,
};

const MIB: u64 = 1024 * 1024;
/// A machine that does nothing until it is asked to stop.
const IDLE: [&str; 3] = ["--", "sleep", "1000000"];

/// Creates a machine with these disks (`NAME=SIZE` or `NAME=VOLUME`) that does nothing.
fn create(worker: &Worker, name: &str, volumes: &[&str], more: &[&str]) -> Machine {
    let mut words = vec!["machine", "create", name];
    words.extend(volumes.iter().flat_map(|volume| ["--volume", volume]));
    words.extend_from_slice(more);
    words.extend(IDLE);
    worker.ask(&words)
}

/// Imports `from` as the volume `files` and gives it to a machine that does nothing.
fn import(worker: &Worker, machine: &str, from: &str) {
    let volume: Volume = worker.ask(&["volume", "import", machine, "--from", from]);
    assert_eq!(volume.generation, Generation(1));
    create(worker, machine, &[&format!("{machine}={machine}")], &[]);
}

/// What a guest does with its disk.
fn guest(volume: &Volume, commands: &[&str]) {
    qemu_io(&volume.guest_uri, commands);
}

/// Reads the whole disk as a guest does, into a file.
fn read_out(volume: &Volume, file: &Path) {
    succeed("nbdcopy", &[&volume.guest_uri, path_text(file)]);
}

fn key(volume: &Volume) -> VolumeKey {
    VolumeKey { id: volume.id, generation: volume.generation }
}

fn is_running(machine: &Machine) -> bool {
    matches!(machine.state, MachineState::Running { .. })
}

/// Starts a move and returns when the machine was booted on `to`; its disk may still follow.
fn move_until_booted(from: &Worker, machine: &str, to: &Worker) -> Job {
    let job: Job = from.ask(&["move", machine, "--to", &to.name, "--detach"]);
    until(&format!("{machine} is booted on {}", to.name), || {
        let job: Job = from.ask(&["job", "show", &job.id.to_string()]);
        // It waits for the moment between its being asked for and its queue's letting it in.
        let goes_on = matches!(job.state, JobState::Waiting | JobState::Running | JobState::Succeeded);
        assert!(goes_on, "{job:?}");
        job.steps.iter().any(|step| step.step == "Boot" && step.state == StepState::Done).then_some(job)
    })
}

/// Waits for the end of a job, which must be success.
fn follow(worker: &Worker, job: &Job) {
    let job = until("the move ends", || {
        let job: Job = worker.ask(&["job", "show", &job.id.to_string()]);
        job.state.is_final().then_some(job)
    });
    assert_eq!(job.state, JobState::Succeeded, "{job:?}");
}

#[test]
fn a_filesystem_on_a_block_device_crosses_with_its_machine() {
    needs!(UNSHARE, MKE2FS, E2FSCK);
    needs_loop_devices!();
    let cluster = Cluster::two();
    let (w1, w2) = cluster.pair();
    let original = cluster.dir().join("original");
    image::dense(&original, 24 * MIB, 70);
    create(w1, "web", &["data=64MiB"], &[]);
    let attach = |worker: &Worker| -> AttachedFrontend { worker.ask(&["volume", "attach", "data"]) };
    let device = attach(w1).address.unwrap();
    assert_eq!(w1.ferry(&["volume", "attach", "data"]).stdout.trim(), path_text(&device));
    succeed("mke2fs", &["-q", "-t", "ext4", path_text(&device)]);
    let copy = format!("mount $1 $2; cp {} $2/copy; umount $2", original.display());
    in_private(&copy, &device, cluster.dir());
    let held = File::options().read(true).custom_flags(libc::O_EXCL).open(&device).unwrap();
    let refusal = w1.refusal(&["volume", "detach", "data"], 1);
    assert!(refusal.contains("unmount it first"), "{refusal}");
    drop(held);
    // Also what nobody detached is gone when the volume has crossed.
    let job = move_until_booted(w1, "web", w2);
    assert_eq!(loop_devices_below(cluster.dir()), Vec::<std::path::PathBuf>::new());
    let arrived = attach(w2);
    let device = arrived.address.clone().unwrap();
    let compare = format!("mount $1 $2; cmp $2/copy {}; rm $2/copy; umount $2", original.display());
    in_private(&compare, &device, cluster.dir());
    follow(w1, &job);
    succeed("e2fsck", &["-fn", path_text(&device)]);
    assert_eq!(w2.volume("data").frontends, [arrived]);
    let refusal = w1.refusal(&["volume", "attach", "data"], 1);
    assert!(refusal.contains("cannot be attached"), "{refusal}");
    // A killed server leaves its mount behind; the volume can be deleted all the same.
    let ServerState::Running { pid } = w2.volume("data").server else { panic!("it is served") };
    w2.kill_process(pid);
    let destroyed = w2.ferry(&["machine", "destroy", "web", "--stop"]);
    assert_eq!(destroyed.code, Some(0), "{destroyed:?}");
    assert_eq!((loop_devices_below(cluster.dir()), mounts_below(cluster.dir())), (vec![], 0));
}

#[test]
fn a_filesystem_of_real_files_crosses_while_fio_writes_to_another_volume() {
    needs!(MKE2FS, E2FSCK, DEBUGFS, FIO, NBDCOPY);
    let cluster = Cluster::two();
    let (w1, w2) = cluster.pair();
    let files = RealFiles::gather(cluster.dir(), 240 * MIB, 384);
    let fio = "exec fio --name=pad --ioengine=nbd --uri=\"$FERRY_VOLUME_PAD\" --size=32M --rw=randrw \
               --bsrange=512-64k --iodepth=8 --verify=crc32c --verify_backlog=64 --verify_fatal=1 \
               --verify_state_save=0 --fsync=32 --time_based --runtime=24h";
    let words =
        ["--volume=pad=32MiB", "--stop-signal=INT", "--grace=10m", "--restart=never", "--", "sh", "-c", fio];
    let pad: Machine = w1.ask(&[&["machine", "create", "pad"], &words[..]].concat());
    w1.wait_for_volume("pad", "fio writes to it", |volume| volume.store_bytes_allocated > Some(4 * MIB));
    import(w1, "files", path_text(&files.image));

    let job = move_until_booted(w1, "files", w2);
    let copy = cluster.dir().join("copy");
    read_out(&w2.volume("files"), &copy);
    files.assert_all_in(&copy, cluster.dir());
    follow(w1, &job);
    // Now from the target's own disk.
    read_out(&w2.volume("files"), &copy);
    image::assert_same(&files.image, &copy);

    assert_eq!(w1.machine("pad").state, pad.state, "fio has not run all the time");
    let pad: Machine = w1.ask(&["machine", "stop", "pad"]);
    let said = std::fs::read_to_string(pad.log).unwrap();
    assert!(said.contains("err= 0") && !said.contains("verify:"), "{said}");
}

#[test]
fn a_qcow2_served_by_qemu_nbd_is_imported_and_crosses() {
    needs!(MKE2FS, E2FSCK, DEBUGFS, NBDCOPY, QEMU_IMG, QEMU_NBD);
    let cluster = Cluster::two();
    let files = RealFiles::gather(cluster.dir(), 24 * MIB, 64);
    let qcow2 = cluster.dir().join("qcow2");
    let convert = ["convert", "-f", "raw", "-O", "qcow2", "-c", path_text(&files.image), path_text(&qcow2)];
    succeed("qemu-img", &convert);
    let source = Peer::qemu_nbd(cluster.dir(), &qcow2, "qcow2");
    import_and_cross(&cluster, source, &files);
}

#[test]
fn what_nbdkit_serves_is_imported_and_crosses() {
    needs!(MKE2FS, E2FSCK, DEBUGFS, NBDCOPY, NBDKIT);
    let cluster = Cluster::two();
    let files = RealFiles::gather(cluster.dir(), 24 * MIB, 64);
    let source = Peer::nbdkit(cluster.dir(), &["-r", "file", path_text(&files.image)]);
    import_and_cross(&cluster, source, &files);
}

/// Moves a machine at once with what it imports from `source`; when it has arrived, the source is not needed.
fn import_and_cross(cluster: &Cluster, source: Peer, files: &RealFiles) {
    let (w1, w2) = cluster.pair();
    import(w1, "files", &source.uri());
    w1.moves("files", w2);
    source.kill();
    let copy = cluster.dir().join("copy");
    read_out(&w2.volume("files"), &copy);
    image::assert_same(&files.image, &copy);
    files.assert_all_in(&copy, cluster.dir());
}

#[test]
fn both_volumes_of_a_machine_cross_together() {
    needs!(QEMU_IO);
    let cluster = Cluster::two();
    let (w1, w2) = cluster.pair();
    create(w1, "web", &["data=64MiB", "log=32MiB"], &[]);
    guest(&w1.volume("data"), &["write -P 1 3M 5M", "flush"]);
    guest(&w1.volume("log"), &["write -P 2 0 1M", "write -P 3 31M 1M", "flush"]);

    w1.moves("web", w2);
    let web = w2.machine("web");
    assert!(is_running(&web), "{web:?}");
    assert_eq!(web.generation, Generation(2));
    let generations: Vec<_> = web.volumes.iter().map(|v| (v.name.to_string(), v.generation.0)).collect();
    assert_eq!(generations, [("data".to_owned(), 2), ("log".to_owned(), 2)]);
    guest(&w2.volume("data"), &["read -P 0 0 3M", "read -P 1 3M 5M", "read -P 0 8M 56M"]);
    guest(&w2.volume("log"), &["read -P 2 0 1M", "read -P 0 1M 30M", "read -P 3 31M 1M"]);
    for name in ["data", "log"] {
        let left = w1.volume(name);
        assert!(matches!(left.ownership, Ownership::Retired { .. }), "{left:?}");
        assert_eq!((left.server, left.export_uri), (ServerState::NotNeeded, None));
    }
}

#[test]
fn there_and_back_and_there_again_every_generation_adds_to_the_last() {
    needs!(QEMU_IO);
    let cluster = Cluster::two();
    let (w1, w2) = cluster.pair();
    create(w1, "web", &["data=64MiB"], &[]);
    guest(&w1.volume("data"), &["write -P 1 0 16M", "flush"]);
    for (generation, from, to) in [(2, w1, w2), (3, w2, w1), (4, w1, w2)] {
        from.moves("web", to);
        let (volume, web) = (to.volume("data"), to.machine("web"));
        assert_eq!((volume.generation.0, web.generation.0), (generation, generation));
        assert_eq!(volume.ownership, Ownership::Ours);
        assert!(is_running(&web), "{web:?}");
        // A part of what the generation before wrote is written over, so that a stale copy would show.
        let before = format!("read -P {} {}M 16M", generation - 1, 8 * (generation - 2));
        let (at, pattern) = (8 * (generation - 1), generation);
        let now = format!("write -P {pattern} {at}M 16M");
        guest(&volume, &[&before, &now, "flush", &format!("read -P {pattern} {at}M 16M")]);
    }
    let reads =
        ["read -P 1 0 8M", "read -P 2 8M 8M", "read -P 3 16M 8M", "read -P 4 24M 16M", "read -P 0 40M 24M"];
    guest(&w2.volume("data"), &reads);
    let state = w1.machine("web").state;
    assert_eq!(state, MachineState::HandedOver { to: "w2".parse().unwrap() });
}

#[test]
fn a_stopped_machine_crosses_and_stays_stopped() {
    needs!(QEMU_IO);
    let cluster = Cluster::two();
    let (w1, w2) = cluster.pair();
    create(w1, "web", &["data=16MiB"], &["--stopped"]);
    guest(&w1.volume("data"), &["write -P 7 1M 64k", "flush"]);
    w1.moves("web", w2);
    assert_eq!(w2.machine("web").state, MachineState::Stopped);
    guest(&w2.volume("data"), &["read -P 7 1M 64k", "read -P 0 0 1M"]);
    let started: Machine = w2.ask(&["machine", "start", "web"]);
    assert!(is_running(&started), "{started:?}");
}

#[test]
fn a_machine_moves_on_and_back_before_its_disk_has_arrived() {
    needs!(NBDCOPY, NBDINFO, QEMU_IO);
    let cluster = Cluster::two();
    let (w1, w2) = cluster.pair();
    let image = cluster.dir().join("image");
    image::dense(&image, 48 * MIB, 70);
    overwrite(&image, 7, 40 * MIB, MIB);
    let source = Gated::serve(cluster.dir(), &image, 48 * MIB, 32 * MIB);
    import(w1, "web", &source.uri());
    w1.wait_for_volume("web", "has its source", |volume| {
        volume.source.as_ref().is_some_and(|source| source.connected == Some(true))
    });

    let there = move_until_booted(w1, "web", w2);
    let on_w2 = w2.volume("web");
    // The guest reads what is not here yet, and writes: nothing of that waits for the rest.
    guest(&on_w2, &["read -P 7 40M 1M", "write -P 8 1M 1M", "write -P 9 40M 4k", "flush"]);
    let hydration = w2.volume("web").hydration.unwrap();
    assert!(!hydration.complete && hydration.cold_reads > 0, "{hydration:?}");
    let on_w1 = w1.volume("web");
    assert_eq!(on_w1.ownership, Ownership::HandedOver { to: "w2".parse().unwrap(), job: there.id });
    assert_serves_only(&on_w1);

    let back = move_until_booted(w2, "web", w1);
    assert_serves_only(&w2.volume("web"));
    let home = w1.volume("web");
    assert_eq!((home.generation, home.ownership.clone()), (Generation(3), Ownership::Ours));
    guest(
        &home,
        &["read -P 8 1M 1M", "read -P 9 40M 4k", "read -P 7 41939k 1k", "write -P 10 2M 1M", "flush"],
    );

    source.open();
    follow(w1, &there);
    follow(w2, &back);
    overwrite(&image, 8, MIB, MIB);
    overwrite(&image, 9, 40 * MIB, 4096);
    overwrite(&image, 10, 2 * MIB, MIB);
    let copy = cluster.dir().join("copy");
    read_out(&home, &copy);
    image::assert_same(&image, &copy);
    let whole = w1.wait_for_volume("web", "forgets its source", |volume| volume.source.is_none());
    assert!(whole.hydration.unwrap().complete);
}

#[test]
fn a_move_keeps_its_source_until_a_fork_of_what_still_follows_has_what_it_is_owed() {
    needs!(NBDCOPY, QEMU_IO);
    let cluster = Cluster::two();
    let (w1, w2) = cluster.pair();
    let image = cluster.dir().join("image");
    image::dense(&image, 8 * MIB, 72);
    // All arrives but the first region.
    let source = Gated::serve(cluster.dir(), &image, 8 * MIB, 1);
    import(w1, "web", &source.uri());
    w1.wait_for_volume("web", "has its source", |volume| {
        volume.source.as_ref().is_some_and(|source| source.connected == Some(true))
    });
    let job = move_until_booted(w1, "web", w2);
    let _: Volume = w2.ask(&["volume", "fork", "web", "copy", "--to", "w1"]);
    // Nobody has what this overwrites but the source, and it does not wait for that.
    guest(&w2.volume("web"), &["write -P 9 0 1M", "flush"]);
    let web = w2.wait_for_volume("web", "it lacks nothing itself", |volume| {
        volume.hydration.is_some_and(|hydration| hydration.bytes_remote == 0)
    });
    assert_eq!(web.forks[0].bytes_owed, MIB);
    assert!(!web.hydration.unwrap().complete, "its fork still needs the source: {web:?}");
    let asked: Job = w1.ask(&["job", "show", &job.id.to_string()]);
    assert_eq!(asked.state, JobState::Running, "{asked:?}");
    source.open();
    follow(w1, &job);
    w1.wait_for_volume("copy", "it is whole", |volume| volume.source.is_none());
    let found = cluster.dir().join("found");
    read_out(&w1.volume("copy"), &found);
    image::assert_same(&image, &found);
    guest(&w2.volume("web"), &["read -P 9 0 1M"]);
}

#[test]
fn a_machine_that_is_destroyed_before_its_disk_has_arrived_ends_its_move() {
    let cluster = Cluster::of(&[("w1", "retention_hours = 0"), ("w2", "")]);
    let (w1, w2) = cluster.pair();
    let image = cluster.dir().join("image");
    image::dense(&image, 48 * MIB, 71);
    let source = Gated::serve(cluster.dir(), &image, 48 * MIB, 32 * MIB);
    import(w1, "web", &source.uri());
    w1.wait_for_volume("web", "has its source", |volume| {
        volume.source.as_ref().is_some_and(|source| source.connected == Some(true))
    });
    let job = move_until_booted(w1, "web", w2);
    let said = w2.ferry(&["machine", "destroy", "web", "--stop"]);
    assert_eq!(said.code, Some(0), "{said:?}");
    follow(w1, &job);
    until("nothing is left of its volume", || {
        let left = [w1, w2].map(|worker| worker.ask::<Vec<Volume>>(&["volume", "list"]));
        // What was set aside goes after the record.
        let lies = |worker: &&Worker| std::fs::read_dir(worker.dir.join("volumes")).unwrap().next().is_some();
        (left.iter().all(Vec::is_empty) && ![w1, w2].iter().any(lies)).then_some(())
    });
    for worker in [w1, w2] {
        assert!(worker.processes().is_empty(), "{}: {:?}", worker.name, worker.processes());
    }
}

#[test]
fn volumes_that_hydrate_share_the_budget_of_their_worker() {
    let cluster = Cluster::of(&[("w1", "")]);
    let w1 = &cluster.workers[0];
    let image = cluster.dir().join("image");
    image::dense(&image, 8 * MIB, 72);
    let sources = ["a", "b"].map(|name| {
        let dir = cluster.dir().join(name);
        std::fs::create_dir(&dir).unwrap();
        Gated::serve(&dir, &image, 8 * MIB, 8 * MIB)
    });
    let rate = |mib: u64| NonZeroU64::new(mib * MIB);
    let budget = |max: &str| w1.ask::<WorkerInfo>(&["worker", "pace", "--max", max]).budget_bytes_per_s;
    let pace = |name: &str, max: &str| w1.ask::<Volume>(&["volume", "pace", name, "--max", max]).pace;
    let has = |name: &str, share: Option<NonZeroU64>| {
        w1.wait_for_volume(name, "has its share", |volume| volume.pace.share_bytes_per_s == share)
    };
    assert_eq!(budget("8MiB"), rate(8));
    for (name, source) in ["a", "b"].iter().zip(&sources) {
        w1.ask::<Volume>(&["volume", "import", name, "--from", &source.uri()]);
    }
    has("a", rate(4));
    has("b", rate(4));
    assert_eq!(pace("a", "1MiB").budget_bytes_per_s, rate(1));
    has("b", rate(7));
    assert_eq!(has("a", rate(1)).pace.budget_bytes_per_s, rate(1));

    // The budget outlives the agent, and so does what is divided of it.
    w1.restart();
    assert_eq!(w1.ask::<WorkerInfo>(&["worker", "show"]).budget_bytes_per_s, rate(8));
    assert_eq!(budget("50MiB"), rate(50));
    has("b", rate(49));

    // What is whole leaves its share to who is not.
    sources[1].open();
    w1.wait_for_volume("b", "is whole", |volume| volume.source.is_none());
    assert_eq!(pace("a", "none").budget_bytes_per_s, None);
    has("a", rate(50));
    assert_eq!(budget("none"), None);
    assert!(!has("a", None).hydration.unwrap().complete);
    sources[0].open();
    w1.wait_for_volume("a", "is whole", |volume| volume.source.is_none());
}

/// Writes `byte` over `len` bytes of a file at `at`.
fn overwrite(file: &Path, byte: u8, at: u64, len: u64) {
    let file = File::options().write(true).open(file).unwrap();
    file.write_all_at(&vec![byte; len as usize], at).unwrap();
}

/// Fails unless the volume's export can be had by its id and generation and under no other name.
fn assert_serves_only(volume: &Volume) {
    let uri = volume.export_uri.clone().unwrap();
    let key = key(volume);
    let door = uri.strip_suffix(&key.to_string()).unwrap();
    succeed("nbdinfo", &["--size", &uri]);
    let VolumeKey { id, generation: Generation(generation) } = key;
    for name in [
        format!("{id}@{}", generation - 1),
        format!("{id}@{}", generation + 1),
        id.to_string(),
        String::new(),
    ] {
        let refused = run("nbdinfo", &["--size", &format!("{door}{name}")]);
        assert!(!refused.status.success(), "'{name}' is served beside {uri}: {}", text(&refused));
    }
}

#[test]
fn the_sources_copy_is_kept_as_long_as_is_asked() {
    needs!(QEMU_IO);
    let cluster = Cluster::of(&[("w1", "retention_hours = 0"), ("w2", "retention_hours = 5")]);
    let (w1, w2) = cluster.pair();
    create(w1, "web", &["data=16MiB"], &[]);
    guest(&w1.volume("data"), &["write -P 1 0 8M", "flush"]);
    let first = key(&w1.volume("data"));

    // By the worker's own rule: not at all.
    w1.moves("web", w2);
    until("w1 has deleted its copy", || w1.ask::<Vec<Volume>>(&["volume", "list"]).is_empty().then_some(()));
    assert!(!w1.volume_dir(first).exists());

    // Longer than the worker's own rule says.
    let second = key(&w2.volume("data"));
    let job: Job = w2.ask(&["move", "web", "--to", "w1", "--retention", "48h"]);
    let kept = w2.volume("data");
    let Ownership::Retired { until_ms, .. } = kept.ownership else { panic!("{kept:?}") };
    let retired_ms = job.steps.iter().find(|step| step.step == "Retire").unwrap().started_at_ms.unwrap();
    assert!((retired_ms + 48 * 3_600_000..=job.finished_at_ms.unwrap() + 48 * 3_600_000).contains(&until_ms));
    assert!(w2.volume_dir(second).join("data").exists());
    guest(&w1.volume("data"), &["read -P 1 0 8M", "read -P 0 8M 8M"]);
}
