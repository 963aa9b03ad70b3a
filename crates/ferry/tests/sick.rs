//! Workers are emptied whose disk or agent is not well: what can be moved moves, and what cannot is said.
#![allow(clippy::unwrap_used, reason = "a test ends at whatever it did not expect")]

mod support;

use ferry_api::{DirectoryView, Job, JobState, Losses, Machine, MachineState, Volume, WorkerInfo};
use ferry_volume::client::BlockClient;
use support::cluster::{Cluster, Worker};
use support::disk::{FragileDisk, SmallDisk};
use support::gated::Gated;
use support::image;
use support::peers::Peer;
use support::{MKE2FS, NBDKIT, needs, skip, test_name, until};

use std::fs::File;
use std::io::Write;
use std::path::Path;

const MIB: u64 = 1 << 20;
const SIZE_BYTES: u64 = 16 * MIB;
const BLOCK: u64 = 4096;

/// A machine of this name on a disk that is called `data` and is read from `uri`.
fn create_on(worker: &Worker, name: &str, uri: &str) {
    create_named(worker, name, "data", uri);
}

fn create_named(worker: &Worker, name: &str, disk: &str, uri: &str) {
    let _: Volume = worker.ask(&["volume", "import", name, "--from", uri]);
    let disk = format!("{disk}={name}");
    let _: Machine = worker.ask(&["machine", "create", name, "--volume", &disk, "--", "sleep", "1000000"]);
}

/// Waits until a machine of this name is a worker's.
fn runs(worker: &Worker, name: &str) {
    until(&format!("{name} runs on {}", worker.name), || {
        let here: Vec<Machine> = worker.ask(&["machine", "list"]);
        here.iter().any(|machine| machine.name.as_str() == name).then_some(())
    });
}

fn job(worker: &Worker, id: &str) -> Job {
    worker.ask(&["job", "show", id])
}

fn ended(worker: &Worker, id: &str) -> Job {
    until("the job has ended", || Some(job(worker, id)).filter(|job| job.state.is_final()))
}

#[test]
fn a_drain_of_a_sick_source_moves_all_that_can_be_read_and_a_person_gives_up_exactly_the_rest() {
    needs!(NBDKIT);
    let cluster = Cluster::two();
    let (w1, w2) = cluster.pair();
    let image = cluster.dir().join("image");
    image::dense(&image, SIZE_BYTES, 80);
    let source = Peer::sick(cluster.dir(), &image, SIZE_BYTES, [5 * MIB, 9 * MIB]);
    create_on(w1, "db", &source.uri());
    let drain: Job = w1.ask(&["drain", "w1", "--detach"]);
    let id = drain.id.to_string();
    let told = until("the drain says what cannot be read", || {
        Some(job(w1, &id))
            .filter(|job| job.reason.as_ref().is_some_and(|why| why.contains("all else has arrived")))
    });
    assert_eq!(told.state, JobState::Running);
    let why = told.reason.unwrap();
    let ranges = format!("{} bytes ({}+{BLOCK}, {}+{BLOCK}) of volume data", 2 * BLOCK, 5 * MIB, 9 * MIB);
    assert!(why.starts_with("machine db: ") && why.contains(&ranges), "{why}");
    let shown = job(w1, &told.children[0].job.to_string());
    assert!(shown.reason.is_some_and(|why| why.contains(&ranges)), "its move says so, too");
    // What was said is what is typed.
    let command = why.split("(ferry ").last().unwrap().split(')').next().unwrap();
    let lost: Losses = w2.ask(&command.split(' ').collect::<Vec<_>>());
    assert_eq!((lost.abandoned, lost.bytes), (true, 2 * BLOCK));
    let ended = ended(w1, &id);
    assert_eq!((ended.state, ended.reason), (JobState::Succeeded, None));
    assert_eq!(w2.volume("data").hydration.unwrap().bytes_abandoned, 2 * BLOCK);
    assert_eq!(w1.ferry(&["worker", "safe-to-stop"]).code, Some(0));
}

#[test]
fn a_disk_of_which_nothing_more_can_be_read_holds_up_no_other_machine_of_a_drain_of_one_at_a_time() {
    needs!(NBDKIT);
    let cluster = Cluster::of(&[("w1", "moves_at_once = 1"), ("w2", "")]);
    let (w1, w2) = cluster.pair();
    let image = cluster.dir().join("image");
    image::dense(&image, SIZE_BYTES, 90);
    let source = Peer::sick(cluster.dir(), &image, SIZE_BYTES, [5 * MIB, 9 * MIB]);
    create_named(w1, "db", "tables", &source.uri());
    let words = ["machine", "create", "web", "--volume", "scratch=1MiB", "--", "sleep", "1000000"];
    let _: Machine = w1.ask(&words);
    let drain: Job = w1.ask(&["drain", "w1", "--max-parallel", "1", "--detach"]);
    runs(w2, "db");
    runs(w2, "web");
    let drain = job(w1, &drain.id.to_string());
    let states: Vec<_> = drain.children.iter().map(|child| child.machine_name.as_str()).collect();
    assert_eq!((drain.state, states), (JobState::Running, vec!["db", "web"]));
    let held_up = job(w1, &drain.children[0].job.to_string());
    assert!(held_up.state == JobState::Running && held_up.progress.unwrap().held_up, "{held_up:?}");
    let why = held_up.reason.unwrap();
    assert!(why.contains("all else has arrived"), "{why}");
    let lose = format!("{}", 2 * BLOCK);
    let _: Losses = w2.ask(&["volume", "abandon-source", "tables", "--lose", &lose, "--force"]);
    assert_eq!(ended(w1, &drain.id.to_string()).state, JobState::Succeeded);
}

#[test]
fn a_drain_goes_on_with_its_disks_while_its_agent_is_down_and_with_its_machines_once_it_is_back() {
    let cluster = Cluster::two();
    let (w1, w2) = cluster.pair();
    let image = cluster.dir().join("image");
    image::dense(&image, SIZE_BYTES, 81);
    let source = Gated::serve(cluster.dir(), &image, SIZE_BYTES, SIZE_BYTES);
    create_on(w1, "db", &source.uri());
    let words = ["machine", "create", "web", "--volume", "scratch=1MiB", "--", "sleep", "1000000"];
    let _: Machine = w1.ask(&words);
    let drain: Job = w1.ask(&["drain", "w1", "--max-parallel", "1", "--detach"]);
    runs(w2, "db");
    w1.kill();
    source.open();
    w2.wait_for_volume("data", "is whole although the agent of its source is down", |volume| {
        volume.hydration.is_some_and(|counted| counted.complete)
    });
    assert_eq!(w2.volume("data").hydration.unwrap().bytes_fetched, SIZE_BYTES);
    assert_eq!(w2.ferry(&["move", "web", "--to", "w2"]).code, Some(1), "nobody else may hand it over");
    w1.start();
    assert_eq!(ended(w1, &drain.id.to_string()).state, JobState::Succeeded);
    assert_eq!(w2.machine("web").worker.as_str(), "w2");
    assert_eq!(w1.ferry(&["worker", "safe-to-stop"]).code, Some(0));
}

#[test]
fn a_worker_whose_disk_is_full_to_the_last_block_is_drained_by_an_agent_that_lives_on_what_it_kept() {
    let cluster = Cluster::configured(&[("w1", ""), ("w2", "")]);
    let (w1, w2) = cluster.pair();
    let Some(_disk) = SmallDisk::mount(&w1.dir, 128 * MIB) else {
        return skip(test_name!(), "the right to mount a tmpfs (run as root)");
    };
    cluster.workers.iter().for_each(Worker::start);
    let image = cluster.dir().join("image");
    image::dense(&image, SIZE_BYTES, 82);
    create_on(w1, "db", image.to_str().unwrap());
    w1.wait_for_volume("data", "is whole", |volume| volume.hydration.is_none_or(|counted| counted.complete));
    let filling = w1.dir.join("filling");
    let mut file = File::create(&filling).unwrap();
    let full = std::iter::repeat_with(|| file.write_all(&[1; 4096])).find_map(Result::err).unwrap();
    assert_eq!(full.kind(), std::io::ErrorKind::StorageFull);
    let troubles = || w1.ask::<WorkerInfo>(&["worker", "show"]).troubles;
    assert!(troubles()[0].contains("is full, so that machines get no more room"), "{:?}", troubles());
    let drain: Job = w1.ask(&["drain", "w1", "--detach"]);
    let ended = ended(w1, &drain.id.to_string());
    assert_eq!((ended.state, ended.reason), (JobState::Succeeded, None), "{}", w1.log());
    assert!(w1.log().contains("lives on the room that it has kept"), "{}", w1.log());
    assert_eq!(w2.volume("data").hydration.unwrap().bytes_fetched, SIZE_BYTES);
    // It is told wherever somebody may look.
    let lives_on = "the agent lives on the";
    assert!(troubles()[0].contains(lives_on), "{:?}", troubles());
    until("the other worker has heard of it", || {
        let seen: DirectoryView = w2.ask(&["directory"]);
        let known = seen.workers.into_iter().find(|known| known.name.as_str() == "w1")?;
        known.about?.troubles.iter().any(|trouble| trouble.contains(lives_on)).then_some(())
    });
    let doctor = w1.ferry(&["doctor", "--state-dir", w1.dir.to_str().unwrap()]);
    assert!(doctor.code == Some(1) && doctor.stdout.contains(lives_on), "{doctor:?}");
    let ballast = w1.dir.join("ballast");
    let kept = || ballast.metadata().unwrap().len();
    let left = kept();
    std::fs::remove_file(&filling).unwrap();
    drop(file);
    assert_eq!(w1.ferry(&["worker", "uncordon"]).code, Some(0));
    assert!(left < kept(), "it is kept again once there is room");
    assert!(troubles().is_empty(), "{:?}", troubles());
}

#[test]
fn a_worker_whose_volumes_became_read_only_is_drained_since_its_agent_notes_elsewhere() {
    needs!(MKE2FS);
    let cluster = Cluster::configured(&[("w1", ""), ("w2", "")]);
    let (w1, w2) = cluster.pair();
    let Some(disk) = FragileDisk::mount(&w1.dir.join("volumes"), &cluster.dir().join("disk"), 128 * MIB)
    else {
        return skip(test_name!(), "the right to mount a loop device (run as root)");
    };
    cluster.workers.iter().for_each(Worker::start);
    let image = cluster.dir().join("image");
    image::dense(&image, SIZE_BYTES, 83);
    create_on(w1, "db", image.to_str().unwrap());
    w1.wait_for_volume("data", "is whole", |volume| volume.hydration.is_none_or(|counted| counted.complete));
    disk.fail_read_only();
    let told: WorkerInfo = w1.ask(&["worker", "show"]);
    assert!(told.troubles[0].contains("read-only, so that machines read and no longer write"), "{told:?}");
    let scraped = w1.ferry(&["worker", "metrics"]).stdout;
    assert!(scraped.lines().any(|line| line.starts_with("ferry_disk_troubles 1")), "{scraped}");
    let doctor = w1.ferry(&["doctor", "--state-dir", w1.dir.to_str().unwrap()]);
    let of_volumes = format!("the file system of {} is read-only", w1.dir.join("volumes").display());
    assert!(doctor.code == Some(1) && doctor.stdout.contains(&of_volumes), "{doctor:?}");
    let drain: Job = w1.ask(&["drain", "w1", "--detach"]);
    let ended = ended(w1, &drain.id.to_string());
    assert_eq!((ended.state, ended.reason), (JobState::Succeeded, None), "{}", w1.log());
    assert_eq!(w2.volume("data").hydration.unwrap().bytes_fetched, SIZE_BYTES);
    assert_eq!(w2.machine("db").worker.as_str(), "w2");
    assert_eq!(w1.ferry(&["worker", "safe-to-stop"]).code, Some(0));
}

#[test]
fn an_agent_whose_disk_became_read_only_ends_with_what_to_do_and_what_it_handed_over_follows_all_the_same() {
    needs!(MKE2FS);
    let cluster = Cluster::configured(&[("w1", ""), ("w2", "")]);
    let (w1, w2) = cluster.pair();
    let Some(disk) = FragileDisk::mount(&w1.dir, &cluster.dir().join("disk"), 256 * MIB) else {
        return skip(test_name!(), "the right to mount a loop device (run as root)");
    };
    cluster.workers.iter().for_each(Worker::start);
    let image = cluster.dir().join("image");
    image::dense(&image, SIZE_BYTES, 84);
    create_on(w1, "db", image.to_str().unwrap());
    w1.wait_for_volume("data", "is whole", |volume| volume.hydration.is_none_or(|counted| counted.complete));
    // So that it still follows when the disk fails, however slow that comes.
    let _: WorkerInfo = w2.ask(&["worker", "pace", "--max", "64KiB"]);
    let _: Job = w1.ask(&["move", "db", "--to", "w2", "--mode", "cold", "--detach"]);
    runs(w2, "db");
    disk.fail_read_only();
    let said = w1.ferry(&["worker", "cordon"]);
    assert!(said.code != Some(0), "nothing can be noted: {said:?}");
    assert!(!w1.wait_for_end().success());
    // What it meets may still be the error that makes the disk read-only.
    assert!(w1.log().contains("mend that and start it again"), "{}", w1.log());
    let mut again = w1.spawn();
    assert!(!again.wait().unwrap().success());
    assert!(w1.log().contains("so that no agent can keep its journal there"), "{}", w1.log());
    let doctor = w1.ferry(&["doctor", "--state-dir", w1.dir.to_str().unwrap()]);
    assert!(doctor.code == Some(1) && doctor.stdout.contains("is read-only"), "{doctor:?}");
    let _: WorkerInfo = w2.ask(&["worker", "pace", "--max", "none"]);
    w2.wait_for_volume("data", "is whole although its source is read-only and without an agent", |volume| {
        volume.hydration.is_some_and(|counted| counted.complete)
    });
    assert_eq!(w2.volume("data").hydration.unwrap().bytes_fetched, SIZE_BYTES);
}

#[test]
fn a_source_that_hangs_is_told_fails_nobody_and_leaves_its_share_to_a_healthy_move() {
    let cluster = Cluster::two();
    let (w1, w2) = cluster.pair();
    let [hanging, healthy] = [("hanging", 85), ("healthy", 86)].map(|(name, seed)| {
        let image = cluster.dir().join(name);
        image::dense(&image, SIZE_BYTES, seed);
        image
    });
    let source = Gated::serve(cluster.dir(), &hanging, SIZE_BYTES, SIZE_BYTES);
    create_named(w1, "db", "tables", &source.uri());
    create_named(w1, "web", "pages", healthy.to_str().unwrap());
    w1.wait_for_volume("pages", "is whole", |volume| volume.hydration.is_none_or(|counted| counted.complete));
    let _: WorkerInfo = w2.ask(&["worker", "pace", "--max", "4MiB"]);
    let hung: Job = w1.ask(&["move", "db", "--to", "w2", "--mode", "cold", "--detach"]);
    let why = until("the move says that its source is slow", || {
        job(w1, &hung.id.to_string()).reason.filter(|why| why.contains("the source of volume tables is slow"))
    });
    assert!(why.contains("and the rest follows as it comes"), "{why}");
    let slow = w2.volume("tables");
    assert!(slow.source.unwrap().slow_ms.is_some_and(|ms| ms >= 1_000));
    // Somebody waits for it meanwhile.
    let guest_uri = slow.guest_uri.clone();
    let reading = std::thread::spawn(move || {
        let mut bytes = [0; 4096];
        BlockClient::connect_text(&guest_uri).unwrap().read_at(3 * MIB, &mut bytes).map(|()| bytes.to_vec())
    });
    until("the read has reached the source", || {
        Some(w2.volume("tables").source?.requests_waiting).filter(|waiting| *waiting > 0)
    });
    let _: Job = w1.ask(&["move", "web", "--to", "w2", "--mode", "cold", "--detach"]);
    runs(w2, "web");
    w2.wait_for_volume("pages", "has more than half of the worker's budget", |volume| {
        volume.pace.share_bytes_per_s.is_some_and(|share| share.get() >= 3 * MIB)
    });
    w2.wait_for_volume("pages", "is whole", |volume| {
        volume.hydration.is_some_and(|counted| counted.complete)
    });
    assert_eq!(w2.volume("tables").hydration.unwrap().bytes_fetched, 0, "its source still hangs");
    assert!(!reading.is_finished(), "a read waits, and does not fail");
    source.open();
    let whole = std::fs::read(&hanging).unwrap();
    assert_eq!(reading.join().unwrap().unwrap(), whole[3 << 20..][..4096]);
    let _: WorkerInfo = w2.ask(&["worker", "pace", "--max", "none"]);
    let ended = ended(w1, &hung.id.to_string());
    assert_eq!((ended.state, ended.reason), (JobState::Succeeded, None));
}

/// A machine of the group `pair` that takes all the time that it gets once it is told of a move.
fn create_lingering(worker: &Worker, name: &str, (volume, origin): (&str, &str)) {
    let spec = format!(
        "name = \"{name}\"\ncommand = [\"sleep\", \"1000000\"]\n[placement]\ngroup = \"pair\"\n\
         [hooks.before_move]\ncommand = [\"sleep\", \"987654\"]\ntimeout = \"10m\"\n[volumes.{volume}]\n{origin}\n"
    );
    let file = worker.dir.with_file_name(format!("{name}.toml"));
    std::fs::write(&file, spec).unwrap();
    let _: Machine = worker.ask(&["machine", "create", "--file", file.to_str().unwrap()]);
}

#[test]
fn when_the_time_of_a_drain_is_over_what_was_handed_over_stays_there_and_what_was_not_runs_at_home() {
    let cluster = Cluster::two();
    let (w1, w2) = cluster.pair();
    let [db, web, log] = [("db", 87), ("web", 88), ("log", 89)].map(|(name, seed)| {
        let dir = cluster.dir().join(format!("source-{name}"));
        std::fs::create_dir(&dir).unwrap();
        let image = dir.join("image");
        image::dense(&image, SIZE_BYTES, seed);
        image
    });
    let hangs = |image: &Path| Gated::serve(image.parent().unwrap(), image, SIZE_BYTES, SIZE_BYTES);
    let sources = [hangs(&db), hangs(&log)];
    create_named(w1, "db", "tables", &sources[0].uri());
    create_named(w1, "web", "pages", web.to_str().unwrap());
    let _: Volume = w1.ask(&["volume", "import", "log", "--from", &sources[1].uri()]);
    create_lingering(w1, "log", ("lines", "volume = \"log\""));
    create_lingering(w1, "spare", ("scratch", "size = \"1MiB\""));
    w1.wait_for_volume("pages", "is whole", |volume| volume.hydration.is_none_or(|counted| counted.complete));
    let drain: Job = w1.ask(&["drain", "w1", "--deadline", "10s", "--detach"]);
    runs(w2, "db");
    runs(w2, "web");
    w2.wait_for_volume("pages", "is whole", |volume| {
        volume.hydration.is_some_and(|counted| counted.complete)
    });
    let over = ended(w1, &drain.id.to_string());
    assert_eq!(over.state, JobState::Failed);
    let why = over.reason.unwrap();
    assert!(why.contains("not handed over by then: log, spare; handed over"), "{why}");
    assert!(why.contains("db (the source of volume tables is slow"), "{why}");
    let children: Vec<_> =
        over.children.iter().map(|child| (child.machine_name.as_str(), child.state.unwrap())).collect();
    let named = [("db", JobState::Running), ("log", JobState::Cancelled), ("web", JobState::Succeeded)];
    assert_eq!(children, named);
    for name in ["log", "spare"] {
        let machine = w1.machine(name);
        assert!(
            matches!(machine.state, MachineState::Running { .. }) && machine.job.is_none(),
            "{machine:?}"
        );
    }
    assert_eq!(w1.ask::<WorkerInfo>(&["worker", "show"]).cordon, None, "it takes machines as before");
    let kept = w1.ferry(&["worker", "safe-to-stop"]);
    assert!(kept.code == Some(6) && kept.stdout.contains("it moves db to w2, at Hydrate"), "{kept:?}");
    // What has not followed follows as it comes.
    sources.iter().for_each(Gated::open);
    let move_of_db = over.children.iter().find(|child| child.machine_name.as_str() == "db").unwrap().job;
    assert_eq!(ended(w1, &move_of_db.to_string()).state, JobState::Succeeded);
    for (worker, volume, image) in [(w2, "tables", &db), (w2, "pages", &web), (w1, "lines", &log)] {
        assert!(worker.read_all(volume) == std::fs::read(image).unwrap(), "{volume}");
    }
}
