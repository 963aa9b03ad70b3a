//! `ferry gc`: what jobs and killed processes leave on a worker is told with its job, its bytes and why it may go, and goes;
//! what somebody needs, and what nobody can tell of, stays.
#![allow(clippy::unwrap_used, reason = "a test ends at whatever it did not expect")]

mod support;

use ferry_api::{
    Artefact, Garbage, Generation, Job, JobKind, JobState, Machine, MachineId, MachineState, Ownership,
    Remnant, Volume, VolumeId, VolumeKey,
};
use ferry_volume::client::BlockClient;
use ferry_volume::control::{self, Phase};
use ferry_volume::{CreateOptions, REGION_BYTES_DEFAULT};
use std::fs;
use std::os::unix::net::UnixListener;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use support::cluster::{Cluster, Worker};
use support::crossing::{Crossing, Source, Target};
use support::devices::{loop_devices_below, needs_loop_devices};
use support::moments::{Die, Fail};
use support::peers::path_text;
use support::{LOSETUP, RUNC, needs, oci, succeed, until};

const MIB: u64 = 1024 * 1024;

/// Creates a machine with one disk of 64 MiB that does nothing, and writes so much to the disk. Answers the disk.
fn create(worker: &Worker, name: &str, mib: u64) -> Volume {
    let words = ["machine", "create", name, "--volume", "data=64MiB", "--", "sleep", "1000000"];
    let machine: Machine = worker.ask(&words);
    let disk = worker.volume(&machine.volumes[0].volume.to_string());
    let mut guest = BlockClient::connect_text(&disk.guest_uri).unwrap();
    (0..mib).for_each(|at| guest.write_at(at * MIB, &[7; MIB as usize]).unwrap());
    guest.flush().unwrap();
    disk
}

fn key_of(volume: &Volume) -> VolumeKey {
    VolumeKey { id: volume.id, generation: volume.generation }
}

fn fresh_key() -> VolumeKey {
    VolumeKey { id: VolumeId::fresh(), generation: Generation(2) }
}

/// What would go, which must change nothing.
fn dry_run(worker: &Worker, words: &[&str]) -> Garbage {
    let before = worker.belongings();
    let told: Garbage = worker.ask(&[&["gc", "--dry-run"], words].concat());
    assert_eq!(worker.belongings(), before, "a dry run changes nothing");
    assert_eq!(told.failed, []);
    told
}

/// Clears away; exactly what a dry run tells must go.
fn clear(worker: &Worker, words: &[&str]) -> Garbage {
    let whats = |artefacts: &[Artefact]| artefacts.iter().map(|a| a.what.clone()).collect::<Vec<_>>();
    let told = dry_run(worker, words);
    let gone: Garbage = worker.ask(&[&["gc"], words].concat());
    assert_eq!(whats(&gone.goes), whats(&told.goes));
    assert_eq!(gone.failed, []);
    assert_eq!(dry_run(worker, words).goes, [], "something is left that was to go");
    gone
}

/// The one thing that goes.
fn only(garbage: &Garbage) -> &Artefact {
    assert_eq!(garbage.goes.len(), 1, "{garbage:#?}");
    &garbage.goes[0]
}

/// Makes the directory of a copy that no record of this worker tells of.
fn make_unknown(worker: &Worker, phase: Phase) -> (VolumeKey, PathBuf) {
    let key = fresh_key();
    let dir = worker.volume_dir(key);
    let options = CreateOptions {
        dir: dir.clone(),
        id: key.id.to_string(),
        size_bytes: 8 * MIB,
        region_bytes: REGION_BYTES_DEFAULT,
        generation: key.generation.0,
        phase,
        source: None,
        born_from: None,
        base: None,
        device: None,
        direct: false,
    };
    ferry_volume::create(&options).unwrap();
    (key, dir)
}

/// A process of this worker as an agent before this one may have left it.
fn stray(worker: &Worker, command: &mut Command) -> Child {
    let command = command.env("TMPDIR", &worker.dir).process_group(0);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
}

fn serve(worker: &Worker, dir: &Path) -> Child {
    let server =
        stray(worker, Command::new(env!("CARGO_BIN_EXE_ferry")).args(["volume-server", "--dir"]).arg(dir));
    until("the stray volume server answers", || control::Client::connect(dir).ok()?.status().ok());
    server
}

#[test]
fn a_dry_run_tells_of_a_kept_copy_its_job_its_bytes_and_how_long_it_is_kept() {
    let cluster = Cluster::two();
    let (w1, w2) = cluster.pair();
    let disk = create(w1, "web", 4);
    let job = w1.moves("web", w2);
    let told = dry_run(w1, &[]);
    assert_eq!(told.goes, []);
    let [kept] = &told.stays[..] else { panic!("{told:#?}") };
    assert!(matches!(&kept.what, Remnant::Retained { copy, .. } if *copy == key_of(&disk)), "{kept:#?}");
    assert_eq!(kept.job, Some(job.id));
    let Some(JobKind::Move { machine_name, from, to, .. }) = &kept.job_does else { panic!("{kept:#?}") };
    assert_eq!([machine_name.as_str(), from.as_str(), to.as_str()], ["web", "w1", "w2"]);
    assert!(kept.bytes >= 4 * MIB && kept.since_ms >= Some(job.created_at_ms), "{kept:#?}");
    assert_eq!(kept.why, "it is kept for the way back, for 24 h more");

    let table = w1.ferry(&["gc", "--dry-run", "--retained"]).stdout;
    let expected = format!(
        "kept copy of data, which is with w2 ({}@1)   move of web from w1 to w2 ({})",
        disk.id, job.id
    );
    assert!(table.lines().nth(1).unwrap().starts_with(&expected), "{table}");
    assert!(table.contains("its volume is whole on worker w2; a way back will copy all of it"), "{table}");
    assert!(table.contains("1 thing would go from worker w1, with 4."), "{table}");
    let all = w1.ferry(&["gc", "--dry-run", "--all"]).stdout;
    assert!(all.contains("WHY IT STAYS") && all.contains("for the way back"), "{all}");
}

#[test]
fn a_kept_copy_stays_until_its_time_unless_it_is_given_up() {
    let cluster = Cluster::two();
    let (w1, w2) = cluster.pair();
    let disk = create(w1, "web", 4);
    w1.moves("web", w2);
    assert_eq!(clear(w1, &[]).goes, []);
    assert!(w1.volume_dir(key_of(&disk)).exists());
    let gone = clear(w1, &["--retained"]);
    assert!(matches!(&only(&gone).what, Remnant::Retained { copy, .. } if *copy == key_of(&disk)));
    assert!(!w1.volume_dir(key_of(&disk)).exists());
    assert_eq!(w1.ask::<Vec<Volume>>(&["volume", "list"]), []);
    // Without it the way back copies everything, and works.
    let job: Job = w2.ask(&["move", "web", "--undo"]);
    assert_eq!(job.state, JobState::Succeeded, "{job:#?}");
    assert!(matches!(w1.machine("web").state, MachineState::Running { .. }));
}

#[test]
fn a_kept_copy_is_not_given_up_when_its_owner_is_silent_or_the_volume_is_not_whole_there() {
    let cluster = Cluster::of(&[("w1", ""), ("w2", ""), ("w3", "")]);
    let [w1, w2, w3] = &cluster.workers[..] else { panic!("three workers") };
    let disk = create(w1, "web", 48);
    w1.moves("web", w2);
    let reason = |words: &[&str]| {
        let told = clear(w1, words);
        let kept = told.stays.into_iter().find(|artefact| matches!(artefact.what, Remnant::Retained { .. }));
        kept.expect("it stays").why
    };
    w2.kill();
    assert!(reason(&["--retained"]).contains("cannot be reached"), "{}", reason(&["--retained"]));
    w2.start();

    // It moves on, and has not arrived.
    let _: Volume = w2.ask(&["volume", "pace", "data", "--max", "64KiB"]);
    let job: Job = w2.ask(&["move", "web", "--to", "w3", "--detach"]);
    until("the machine runs on w3", || {
        let machines: Vec<Machine> = w3.ask(&["machine", "list"]);
        machines.iter().any(|machine| matches!(machine.state, MachineState::Running { .. })).then_some(())
    });
    let why = reason(&["--retained"]);
    assert!(why.ends_with("it is not whole on worker w3 yet"), "{why}");
    assert!(w1.volume_dir(key_of(&disk)).exists());
    let handed_over = dry_run(w2, &["--retained"]);
    assert_eq!(handed_over.goes, []);
    let [reads] = &handed_over.stays[..] else { panic!("{handed_over:#?}") };
    assert!(matches!(reads.what, Remnant::HandedOver { .. }) && reads.job == Some(job.id), "{reads:#?}");
    assert_eq!(reads.why, "worker w3 reads it until the move is verified");

    let _: Volume = w3.ask(&["volume", "pace", "data", "--max", "none"]);
    let watched = w2.ferry(&["job", "watch", &job.id.to_string()]);
    assert_eq!(watched.code, Some(0), "{watched:?}");
    assert!(matches!(only(&clear(w1, &["--retained"])).what, Remnant::Retained { .. }));
}

#[test]
fn a_live_volume_and_its_machine_are_never_told_of_and_go_on() {
    let cluster = Cluster::two();
    let (w1, w2) = cluster.pair();
    let disk = create(w1, "web", 1);
    create(w2, "other", 1);
    let before = (w1.belongings(), w2.belongings());
    for words in [&[][..], &["--retained"]] {
        for worker in [w1, w2] {
            let told = clear(worker, words);
            assert_eq!((told.goes, told.stays), (Vec::new(), Vec::new()));
        }
    }
    let said = w1.ferry(&["gc"]);
    assert_eq!(said.stdout, "there is nothing to clear away on worker w1\n", "{said:?}");
    assert_eq!((w1.belongings(), w2.belongings()), before);
    let mut guest = BlockClient::connect_text(&disk.guest_uri).unwrap();
    guest.write_at(0, &[9; 4096]).unwrap();
}

#[test]
fn what_was_made_for_nobody_is_told_and_removed_and_what_a_machine_may_have_written_stays() {
    let cluster = Cluster::two();
    let (w1, _) = cluster.pair();
    create(w1, "web", 1);
    let before = w1.belongings();
    // A creation that did not finish, a deletion that was cut off, a clone that nobody wrote, with its server.
    let unfinished = w1.volume_dir(fresh_key());
    fs::create_dir(&unfinished).unwrap();
    let half_deleted = w1.dir.join("volumes").join(format!("{}.deleted", fresh_key()));
    fs::create_dir(&half_deleted).unwrap();
    fs::write(half_deleted.join("data"), vec![1; MIB as usize]).unwrap();
    let (clone, clone_dir) = make_unknown(w1, Phase::Standby);
    let mut server = serve(w1, &clone_dir);
    // A volume that a machine may have written, with its server; something of somebody else's.
    let (_, precious) = make_unknown(w1, Phase::Open);
    let mut alive = serve(w1, &precious);
    let notes = w1.dir.join("volumes/notes");
    fs::create_dir(&notes).unwrap();

    let gone = clear(w1, &["--retained"]);
    let of = |is: &dyn Fn(&Remnant) -> bool| gone.goes.iter().find(|artefact| is(&artefact.what)).unwrap();
    let unfinished_told = of(&|what| matches!(what, Remnant::Directory { path, .. } if *path == unfinished));
    assert_eq!(unfinished_told.why, "it was never finished, and no record tells of it");
    let cut_off = of(&|what| matches!(what, Remnant::HalfDeleted { path, .. } if *path == half_deleted));
    assert!(cut_off.bytes >= MIB && cut_off.since_ms.is_some(), "{cut_off:#?}");
    let served = of(&|what| matches!(what, Remnant::VolumeServer { copy, .. } if *copy == clone));
    assert!(served.why.contains("no machine has ever written it"), "{served:#?}");
    assert_eq!(gone.goes.len(), 4, "{gone:#?}");
    assert!(!server.wait().unwrap().success() || !clone_dir.exists());

    let stays: Vec<_> = gone.stays.iter().map(|artefact| artefact.why.as_str()).collect();
    assert_eq!(stays.len(), 3, "{gone:#?}");
    assert_eq!(stays.iter().filter(|why| why.contains("a machine has written it")).count(), 2, "{stays:#?}");
    assert!(precious.exists() && notes.exists() && alive.try_wait().unwrap().is_none());
    alive.kill().unwrap();
    alive.wait().unwrap();
    fs::remove_dir_all(&precious).unwrap();
    fs::remove_dir(&notes).unwrap();
    assert_eq!(w1.belongings(), before);
}

#[test]
fn processes_of_machines_that_no_record_tells_of_end_if_they_are_this_workers_and_have_no_disk_left() {
    let cluster = Cluster::two();
    let (w1, w2) = cluster.pair();
    let sleeps = |dir: &Path, machine: MachineId, key: VolumeKey| {
        let uri = format!("nbd+unix:///?socket={}/volumes/{key}/guest.sock", dir.display());
        let mut command = Command::new("sleep");
        command.arg("1000000").env("FERRY_MACHINE_ID", machine.to_string()).env("FERRY_VOLUME_DATA", uri);
        stray(w1, &mut command)
    };
    let (machine, gone) = (MachineId::fresh(), fresh_key());
    let mut orphan = sleeps(&w1.dir, machine, gone);
    let (disk, disk_dir) = make_unknown(w1, Phase::Open);
    let mut has_disk = sleeps(&w1.dir, MachineId::fresh(), disk);
    let mut of_w2 = sleeps(&w2.dir, MachineId::fresh(), gone);
    let cleared = clear(w1, &[]);
    let Remnant::MachineProcess { machine: of, pid } = only(&cleared).what else { panic!("{cleared:#?}") };
    assert_eq!((of, pid), (machine, orphan.id()));
    assert!(!orphan.wait().unwrap().success());
    assert!(has_disk.try_wait().unwrap().is_none(), "its disk is there");
    assert!(of_w2.try_wait().unwrap().is_none(), "it is another worker's");
    let why = cleared.stays.iter().find(|a| matches!(a.what, Remnant::MachineProcess { .. })).unwrap();
    assert!(why.why.contains("disk is still there"), "{why:#?}");
    assert!(disk_dir.exists());
    for process in [&mut has_disk, &mut of_w2] {
        process.kill().unwrap();
        process.wait().unwrap();
    }
}

#[test]
fn sockets_that_a_killed_server_left_with_a_kept_copy_go_and_the_copy_stays_whole() {
    let cluster = Cluster::two();
    let (w1, w2) = cluster.pair();
    let disk = create(w1, "web", 2);
    let job = w1.moves("web", w2);
    let dir = w1.volume_dir(key_of(&disk));
    for name in ["control.sock", "guest.sock"] {
        drop(UnixListener::bind(dir.join(name)).unwrap());
    }
    fs::write(dir.join("map.new"), "half a map").unwrap();
    let gone = clear(w1, &[]);
    let paths: Vec<_> = gone.goes.iter().map(|artefact| &artefact.what).collect();
    assert_eq!(paths.len(), 3, "{gone:#?}");
    assert!(paths.iter().all(|what| matches!(what, Remnant::DeadFile { path, .. } if !path.exists())));
    assert!(gone.goes.iter().all(|artefact| artefact.job == Some(job.id)));
    let back: Job = w2.ask(&["move", "web", "--undo"]);
    assert_eq!(back.state, JobState::Succeeded, "{back:#?}");
    let here = w1.volume("data");
    assert_eq!(here.lineage.base, None);
    assert_eq!(here.ownership, Ownership::Ours);
}

#[test]
fn a_block_device_that_a_killed_server_left_on_a_kept_copy_is_cleared() {
    needs!(LOSETUP);
    needs_loop_devices!();
    let cluster = Cluster::two();
    let (w1, w2) = cluster.pair();
    let disk = create(w1, "web", 1);
    w1.moves("web", w2);
    let dir = w1.volume_dir(key_of(&disk));
    let backing = dir.join("fuse/disk");
    fs::create_dir(dir.join("fuse")).unwrap();
    fs::File::create(&backing).unwrap().set_len(MIB).unwrap();
    succeed("losetup", &["--find", path_text(&backing)]);
    fs::remove_file(&backing).unwrap();
    let [device] = &loop_devices_below(&dir)[..] else { panic!("one device") };
    let gone = clear(w1, &[]);
    let told = |path: &Path| {
        gone.goes.iter().any(|a| matches!(&a.what, Remnant::Device { path: p, .. } if p == path))
    };
    assert!(told(device) && told(&dir.join("fuse")), "{gone:#?}");
    assert_eq!(loop_devices_below(&dir), [] as [PathBuf; 0]);
    assert!(dir.join("map").exists());
}

#[test]
fn an_address_that_a_fork_no_longer_needs_is_withdrawn() {
    let cluster = Cluster::two();
    let (w1, w2) = cluster.pair();
    create(w1, "web", 2);
    let _: Volume = w1.ask(&["volume", "fork", "data", "copy", "--to", "w2"]);
    w2.wait_for_volume("copy", "it is whole", |copy| copy.source.is_none());
    w1.wait_for_volume("data", "nobody reads it", |v| v.forks.is_empty() && v.readers == Some(0));
    assert!(w1.volume("data").export_uri.is_some(), "a fork leaves its address");
    let gone = clear(w1, &[]);
    assert!(matches!(only(&gone).what, Remnant::Export { .. }), "{gone:#?}");
    assert_eq!(w1.volume("data").export_uri, None);
    let moved = w1.moves("web", w2);
    assert_eq!(moved.state, JobState::Succeeded, "a move exports it anew");
}

#[test]
fn what_a_move_set_aside_stays_while_its_source_is_away_and_goes_when_that_says_it_was_undone() {
    let mut crossing = Crossing::configured();
    crossing.run(Source, &[Fail("HandOver"), Die("after undo_begun:Seal")]);
    crossing.run(Target, &[]);
    crossing.create_machine();
    crossing.start_move();
    crossing.wait_for_crash(Source);
    let target = crossing.worker(Target);
    let told = clear(target, &["--retained"]);
    assert_eq!(told.goes, []);
    let [room, clone] = &told.stays[..] else { panic!("{told:#?}") };
    assert!(matches!(room.what, Remnant::Reservation { .. }), "{room:#?}");
    assert!(matches!(clone.what, Remnant::Clone { .. }), "{clone:#?}");
    for stays in [room, clone] {
        assert!(stays.why.starts_with("nobody can tell whether its move goes on: "), "{stays:#?}");
        assert!(stays.job.is_some() && matches!(stays.job_does, Some(JobKind::Move { .. })), "{stays:#?}");
    }
    crossing.run(Source, &[]);
    let job = crossing.follow();
    assert_eq!(job.state, JobState::Failed, "{job:#?}");
    assert_eq!(room.job, Some(job.id));
    for worker in [crossing.worker(Source), crossing.worker(Target)] {
        let left = clear(worker, &["--retained"]);
        assert_eq!((left.goes, left.stays), (Vec::new(), Vec::new()));
    }
    crossing.assert_in_order(&job);
}

#[test]
fn after_a_kill_in_the_middle_of_a_move_gc_leaves_nothing_and_the_move_can_be_made_again() {
    let mut crossing = Crossing::configured();
    crossing.run(Source, &[Fail("HandOver")]);
    crossing.run(Target, &[Die("before call release")]);
    crossing.create_machine();
    crossing.start_move();
    crossing.wait_for_crash(Target);
    let job = crossing.follow();
    assert_eq!(job.state, JobState::Failed, "{job:#?}");
    crossing.kill_agent(Source);
    crossing.run(Source, &[]);
    crossing.run(Target, &[]);
    for worker in [crossing.worker(Source), crossing.worker(Target)] {
        let _: Garbage = worker.ask(&["gc", "--retained"]);
        let left = clear(worker, &["--retained"]);
        assert_eq!((left.goes, left.stays), (Vec::new(), Vec::new()));
    }
    crossing.assert_in_order(&job);
    let again = crossing.worker(Source).moves("writer", crossing.worker(Target));
    crossing.assert_in_order(&again);
}

#[test]
fn a_deletion_is_not_stopped_by_what_an_earlier_one_of_the_same_copy_has_left() {
    let cluster = Cluster::two();
    let (w1, _) = cluster.pair();
    let disk = create(w1, "web", 1);
    let left = w1.dir.join("volumes").join(format!("{}.deleted", key_of(&disk)));
    fs::create_dir(&left).unwrap();
    fs::write(left.join("data"), "of before").unwrap();
    let said = w1.ferry(&["machine", "destroy", "web", "--stop"]);
    assert_eq!(said.code, Some(0), "{said:?}");
    assert!(!left.exists() && !w1.volume_dir(key_of(&disk)).exists());
    assert_eq!(clear(w1, &[]).goes, []);
}

#[test]
fn unpacked_images_that_no_machine_is_made_of_go_and_what_runs_keeps_its_own() {
    needs!(RUNC);
    if !rustix::process::geteuid().is_root() {
        return support::skip_where_impossible(support::test_name!(), "root");
    }
    let cluster = Cluster::two();
    let (w1, _) = cluster.pair();
    let (layout, file) = (cluster.dir().join("layout"), cluster.dir().join("web.toml"));
    oci::make_layout(&layout);
    let spec =
        "name = \"web\"\ndriver = \"oci\"\ncommand = [\"sleep\", \"1000000\"]\nstop_signal = \"KILL\"\n";
    fs::write(&file, format!("{spec}[oci]\nimage = {layout:?}\n")).unwrap();
    let made: Machine = w1.ask(&["machine", "create", "--file", path_text(&file)]);
    let images = w1.dir.join("images");
    let [own] = &fs::read_dir(&images).unwrap().map(|e| e.unwrap().path()).collect::<Vec<_>>()[..] else {
        panic!("one image")
    };
    let [old, cut_off, notes] =
        [format!("sha256-{}", "0".repeat(64)), "unpacking-x".to_owned(), "notes".to_owned()]
            .map(|name| images.join(name));
    for dir in [&old, &cut_off, &notes] {
        fs::create_dir_all(dir.join("rootfs/etc")).unwrap();
        fs::write(dir.join("rootfs/etc/file"), vec![1; MIB as usize]).unwrap();
    }
    // What it was made of is in use, whatever its layout says by now.
    fs::rename(&layout, cluster.dir().join("away")).unwrap();

    let gone = clear(w1, &[]);
    let whats: Vec<_> = gone.goes.iter().map(|artefact| artefact.what.clone()).collect();
    assert_eq!(
        whats,
        [Remnant::Image { path: old.clone() }, Remnant::HalfUnpacked { path: cut_off.clone() }]
    );
    assert!(gone.goes.iter().all(|artefact| artefact.bytes >= MIB && artefact.job.is_none()), "{gone:#?}");
    let [stays] = &gone.stays[..] else { panic!("{gone:#?}") };
    assert_eq!(stays.why, "it is not named like an unpacked image, so that it is not Ferry's");
    assert_eq!([&old, &cut_off, &notes, own].map(|path| path.exists()), [false, false, true, true]);
    assert_eq!(w1.machine("web").state, made.state, "the container runs on");

    assert_eq!(w1.ferry(&["machine", "destroy", "web", "--stop"]).code, Some(0));
    assert_eq!(only(&clear(w1, &[])).what, Remnant::Image { path: own.clone() });
    assert!(!own.exists());
}
