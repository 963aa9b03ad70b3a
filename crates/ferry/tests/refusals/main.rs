//! Bad input and bad days as a person meets them: each refusal is one sentence on stderr that says what was wrong and
//! what to do, the exit code says its kind, and nothing is left behind.
#![allow(clippy::unwrap_used, reason = "a test ends at whatever it did not expect")]

#[path = "../support/mod.rs"]
mod support;

mod agents;
mod back;
mod loss;
mod programs;
mod stop;
mod truth;

use ferry_api::{Job, JobState, Machine, MachineState, ServerState, Volume, VolumeKey, WorkerInfo};
use rustix::process::{Pid, Signal, kill_process};
use std::fs::{self, File};
use support::cluster::{Belongings, Cluster, Worker};
use support::image;
use support::peers::{Peer, path_text};
use support::{NBDCOPY, NBDKIT, QEMU_IO, needs, qemu_io, succeed, until};

const MIB: u64 = 1024 * 1024;
/// A machine that does nothing until it is asked to stop.
const IDLE: [&str; 3] = ["--", "sleep", "1000000"];
/// The first letters of what is wrong with a name.
const NAME_RULE: &str = "a name has 1 to 63 of a-z, 0-9, - and _ and begins with a letter or digit";

/// Creates a machine with these disks that does nothing.
fn create(worker: &Worker, name: &str, volumes: &[&str]) -> Machine {
    let mut words = vec!["machine", "create", name];
    words.extend(volumes.iter().flat_map(|volume| ["--volume", volume]));
    words.extend(IDLE);
    worker.ask(&words)
}

/// Creates a machine that does not stop when it is asked to, so that its move does not get on; it is deaf already.
fn create_deaf(worker: &Worker, name: &str) -> Machine {
    let deaf = "trap '' TERM; echo deaf; while :; do sleep 1000000; done";
    let words =
        ["machine", "create", name, "--volume", "data=1MiB", "--grace", "24h", "--", "sh", "-c", deaf];
    let machine: Machine = worker.ask(&words);
    until("it is deaf", || fs::read_to_string(&machine.log).ok().filter(|said| said.contains("deaf")));
    machine
}

fn belongings(cluster: &Cluster) -> Vec<Belongings> {
    cluster.workers.iter().filter(|worker| worker.runs()).map(Worker::belongings).collect()
}

/// Each of the commands is refused by `worker` with exit code 1 and exactly this sentence, and nothing changes.
fn refused(cluster: &Cluster, worker: &Worker, cases: &[(&[&str], String)]) {
    let before = belongings(cluster);
    for (words, sentence) in cases {
        assert_eq!(worker.refusal(words, 1), *sentence, "ferry {words:?}");
        assert_eq!(belongings(cluster), before, "ferry {words:?} has left something behind");
    }
}

/// A move that ends at once and leaves everything as it was: exit code 4 and this sentence, after what it always says.
fn move_fails(cluster: &Cluster, from: &Worker, machine: &str, to: &str, sentence: &str) {
    let before = (belongings(cluster), from.machine(machine).state);
    let said = from.ferry(&["move", machine, "--to", to, "--json"]);
    assert_eq!(said.code, Some(4), "{said:?}");
    let job: Job = serde_json::from_str(&said.stdout).unwrap();
    assert_eq!(job.state, JobState::Failed);
    assert_eq!(job.reason.as_deref(), Some(sentence));
    let told = said.sentence();
    let begin = format!("move of {machine} from {} to {to} failed after ", from.name);
    let end = format!(", and everything is as before: {sentence}");
    assert!(told.starts_with(&begin) && told.ends_with(&end), "{told}");
    assert_eq!((belongings(cluster), from.machine(machine).state), before, "{sentence}: something changed");
}

#[test]
fn what_cannot_be_created_is_refused_and_leaves_nothing_behind() {
    let cluster = Cluster::of(&[("w1", "room_bytes = 67108864")]);
    let w1 = &cluster.workers[0];
    create(w1, "web", &["data=1MiB"]);
    let ends = ["--", "true"];
    let new = |words: &[&'static str]| [&["machine", "create"], words, &ends].concat();
    let cases: Vec<(Vec<&str>, &str)> = vec![
        (
            new(&["web"]),
            "a machine named web is already on this worker; choose another name or destroy that one",
        ),
        (
            vec!["machine", "create", "a", "--", "no-such-program"],
            "the program no-such-program is not to be found on this worker; install it or give its whole path",
        ),
        (
            vec!["machine", "create", "a", "--", "/etc/passwd"],
            "the program /etc/passwd is not to be found on this worker; install it or give its whole path",
        ),
        (
            new(&["a", "--workdir", "/no/such/place"]),
            "the working directory /no/such/place is not to be found on this worker; make it or choose another",
        ),
        (
            new(&["a", "--volume", "data=100"]),
            "a volume cannot have 100 bytes; give a multiple of 512 above 0",
        ),
        (
            new(&["a", "--volume", "data=65MiB"]),
            "volume data of 68157440 bytes is larger than the 67108864 bytes this worker has room for \
             (room_bytes); choose another worker or raise the limit",
        ),
        (
            new(&["a", "--volume", "data=data"]),
            "there is no volume data here that belongs to no machine; import it first",
        ),
        (
            new(&["a", "--volume", "d-1=1MiB", "--volume", "d_1=1MiB"]),
            "two volumes would both be FERRY_VOLUME_D_1 to the machine; name them differently",
        ),
        (
            vec!["machine", "destroy", "web"],
            "machine web runs; stop it first, or ask to stop it too (--stop)",
        ),
        (
            vec!["volume", "delete", "data"],
            "volume data is a disk of machine web; destroy the machine to delete it",
        ),
        (
            vec!["machine", "start", "nobody"],
            "there is no machine nobody here; `ferry machine list` shows those there are",
        ),
        (
            vec!["volume", "show", "nothing"],
            "there is no volume nothing here; `ferry volume list` shows those there are",
        ),
        (
            vec!["job", "watch", "01JD7Q0000000000000000000V"],
            "there is no job 01JD7Q0000000000000000000V here; `ferry job list` shows those there are",
        ),
    ];
    let cases: Vec<_> = cases.iter().map(|(words, said)| (&words[..], (*said).to_owned())).collect();
    refused(&cluster, w1, &cases);
    for words in
        [&["machine", "create", "We b", "--", "true"][..], &["volume", "import", "We b", "--from", "/x"]]
    {
        assert_eq!(w1.refusal(words, 2), format!("'We b' is not a name; {NAME_RULE}"));
    }
}

#[test]
fn an_import_that_cannot_be_is_refused_and_leaves_nothing_behind() {
    let cluster = Cluster::of(&[("w1", "room_bytes = 67108864")]);
    let w1 = &cluster.workers[0];
    let dir = cluster.dir();
    let at = |name: &str| dir.join(name).to_str().unwrap().to_owned();
    let sized = |name: &str, bytes: u64| File::create(dir.join(name)).unwrap().set_len(bytes).unwrap();
    sized("image", MIB);
    sized("odd", 1000);
    sized("empty", 0);
    sized("large", 65 * MIB);
    rustix::fs::mkfifoat(rustix::fs::CWD, dir.join("pipe"), rustix::fs::Mode::RWXU).unwrap();
    let _: Volume = w1.ask(&["volume", "import", "taken", "--from", &at("image")]);
    w1.wait_for_volume("taken", "is whole", |volume| volume.source.is_none());

    let gone = "check that it is there and that worker w1 may read it";
    let nobody = format!("nbd+unix:///?socket={}", at("nobody.sock"));
    let cases: Vec<(Vec<String>, String)> = [
        ("no-such", &at("no-such")[..], format!("cannot read {}: No such file or directory (os error 2); {gone}", at("no-such"))),
        ("nobody", &nobody, format!("cannot connect to {nobody}: No such file or directory (os error 2); {gone}")),
        ("dir", path_text(dir), format!("{} is neither a file nor a block device; give a raw disk image", dir.display())),
        ("pipe", &at("pipe"), format!("{} is neither a file nor a block device; give a raw disk image", at("pipe"))),
        ("empty", &at("empty"), format!("{} is empty; give a disk image or an export that holds something", at("empty"))),
        ("odd", &at("odd"), format!("{} has 1000 bytes, which is no multiple of 512; pad it, or ask for a smaller size", at("odd"))),
        ("large", &at("large"), "volume large of 68157440 bytes is larger than the 67108864 bytes this worker has room for (room_bytes); choose another worker or raise the limit".to_owned()),
        ("taken", &at("image"), "a volume named taken is already here; choose another name or delete that one".to_owned()),
        ("tls", "nbds://host/x", "nbds://host/x is read over TLS, for which there are no certificates; name their directory (`tls` in the agent's configuration)".to_owned()),
        ("http", "http://host/x", "http://host/x is not a source; give nbd://HOST:PORT/EXPORT, nbd+unix:///EXPORT?socket=PATH or file:///PATH".to_owned()),
    ]
    .into_iter()
    .map(|(name, from, said)| (["volume", "import", name, "--from", from].map(str::to_owned).to_vec(), said))
    .chain([(
        ["volume", "import", "x", "--size", "2MiB", "--from", &at("image")].map(str::to_owned).to_vec(),
        format!("{} has 1048576 bytes, less than the 2097152 that were asked for; ask for at most what it has", at("image")),
    )])
    .collect();
    let words: Vec<Vec<&str>> =
        cases.iter().map(|(words, _)| words.iter().map(String::as_str).collect()).collect();
    let cases: Vec<_> =
        words.iter().zip(&cases).map(|(words, (_, said))| (&words[..], said.clone())).collect();
    refused(&cluster, w1, &cases);
}

#[test]
fn an_import_source_that_goes_away_is_told_and_taken_up_when_it_is_back() {
    needs!(NBDCOPY, NBDKIT);
    let cluster = Cluster::two();
    let (w1, _) = cluster.pair();
    let image = cluster.dir().join("image");
    // It takes a minute, of which the first seconds are enough.
    image::dense(&image, 32 * MIB, 80);
    let slow = ["--filter=rate", "-r", "file", path_text(&image), "rate=4M"];
    let source = Peer::nbdkit(cluster.dir(), &slow);
    let _: Volume = w1.ask(&["volume", "import", "disk", "--from", &source.uri()]);
    create(w1, "web", &["disk=disk"]);
    w1.wait_for_volume("disk", "has some", |volume| volume.hydration.is_some_and(|h| h.bytes_local >= MIB));
    let uri = source.uri();
    source.kill();
    let cut = w1.wait_for_volume("disk", "misses its source", |volume| {
        // First it tells how the connection ended, and from then on why there is no other.
        let is_refused = |error: &String| error.contains("cannot connect");
        volume
            .source
            .as_ref()
            .is_some_and(|s| s.connected == Some(false) && s.last_error.as_ref().is_some_and(is_refused))
    });
    let left = cut.hydration.unwrap().bytes_remote;
    assert!(left > 0 && left < 32 * MIB, "{cut:?}");
    let shown = w1.ferry(&["volume", "show", "disk"]).stdout;
    let reason = cut.source.unwrap().last_error.unwrap();
    assert!(shown.contains(&format!("{uri} (away, tried again: {reason})")), "{shown}");
    let sentence = format!(
        "Plan: volume disk still needs {left} bytes from {uri}, which cannot be reached; move the machine when it \
         can be read"
    );
    move_fails(&cluster, w1, "web", "w2", &sentence);

    let _source = Peer::nbdkit(cluster.dir(), &["-r", "file", path_text(&image)]);
    let whole = w1.wait_for_volume("disk", "is whole", |volume| volume.source.is_none());
    let copy = cluster.dir().join("copy");
    succeed("nbdcopy", &[&whole.guest_uri, path_text(&copy)]);
    image::assert_same(&image, &copy);
}

#[test]
fn a_move_that_cannot_be_is_refused_and_the_machine_never_notices() {
    needs!(QEMU_IO);
    let cluster = Cluster::configured(&[("w1", ""), ("w2", "room_bytes = 67108864"), ("w3", "")]);
    let (w1, w2) = cluster.pair();
    w1.start();
    w2.start();
    create(w1, "web", &["data=65MiB"]);
    create(w2, "full", &["data=48MiB"]);
    create(w1, "heavy", &["data-2=48MiB"]);
    qemu_io(&w2.volume("data").guest_uri, &["write -P 1 0 40M"]);
    qemu_io(&w1.volume("data-2").guest_uri, &["write -P 1 0 40M"]);

    let cases: [(&[&str], &str); 3] = [
        (
            &["move", "web", "--to", "w9"],
            "worker w9 is not known here (known: w1, w2, w3); add it to [peers] in the configuration",
        ),
        (&["move", "web", "--to", "w1"], "machine web is already on w1; choose another worker"),
        (
            &["move", "nobody", "--to", "w2"],
            "there is no machine nobody here; `ferry machine list` shows those there are",
        ),
    ];
    let cases = cases.map(|(words, said)| (words, said.to_owned()));
    refused(&cluster, w1, &cases);

    let refuses = "Reserve: worker w2 refuses: ";
    let sentence = format!(
        "{refuses}volume data of 68157440 bytes is larger than the 67108864 bytes this worker has room for (room_bytes); \
         choose another worker or raise the limit"
    );
    move_fails(&cluster, w1, "web", "w2", &sentence);
    let room: WorkerInfo = w2.ask(&["worker", "show"]);
    let needed = w1.volume("data-2").store_bytes_allocated.unwrap();
    let sentence = format!(
        "Plan: worker w2 has room for {} bytes and the machine's volumes need {needed}; make room there or choose \
         another worker",
        room.room.free_bytes
    );
    move_fails(&cluster, w1, "heavy", "w2", &sentence);
    let url = cluster.workers[2].url();
    let sentence = format!(
        "Plan: the agent at {url} cannot be reached (Connection refused (os error 111)); start it there, or give the \
         right address"
    );
    move_fails(&cluster, w1, "web", "w3", &sentence);

    let place = cluster.dir().join("place");
    fs::create_dir(&place).unwrap();
    let place = path_text(&place);
    let _: Machine = w1.ask(&["machine", "create", "lost", "--workdir", place, "--", "sleep", "1000000"]);
    fs::remove_dir(place).unwrap();
    let sentence = format!(
        "{refuses}the working directory {place} is not to be found on this worker; make it or choose another"
    );
    move_fails(&cluster, w1, "lost", "w2", &sentence);
}

#[test]
fn a_machine_that_is_already_moving_is_left_alone() {
    let cluster = Cluster::two();
    let (w1, w2) = cluster.pair();
    create_deaf(w1, "web");
    let job: Job = w1.ask(&["move", "web", "--to", "w2", "--detach"]);
    until("web is asked to stop", || {
        let job: Job = w1.ask(&["job", "show", &job.id.to_string()]);
        job.steps.iter().any(|step| step.step == "Stop" && step.attempts > 0).then_some(())
    });

    let id = job.id;
    let busy = format!(
        "machine web is already moving with job {id}; wait for it (`ferry job watch {id}`) and ask again"
    );
    let id = id.to_string();
    let cases: [(&[&str], String); 6] = [
        (&["move", "web", "--to", "w2"], busy.clone()),
        (&["machine", "stop", "web"], busy.clone()),
        (&["machine", "start", "web"], busy.clone()),
        (&["machine", "destroy", "web", "--stop"], busy),
        (
            &["volume", "delete", "data"],
            "volume data is a disk of machine web; destroy the machine to delete it".to_owned(),
        ),
        (
            &["job", "resume", &id],
            format!("job {id} is neither parked nor waiting for a time; there is nothing to resume"),
        ),
    ];
    refused(&cluster, w1, &cases);
    let on_its_way =
        "a machine named web is on its way to this worker; choose another name or destroy that one";
    assert_eq!(w2.refusal(&["machine", "create", "web", "--", "true"], 1), on_its_way);

    let MachineState::Running { pid, .. } = w1.machine("web").state else { panic!("web does not run") };
    let _: Job = w1.ask(&["job", "cancel", &id]);
    kill_process(Pid::from_raw(pid.cast_signed()).unwrap(), Signal::KILL).unwrap();
    let said = w1.ferry(&["job", "watch", &id]);
    assert_eq!(said.code, Some(4), "{said:?}");
    assert!(said.sentence().starts_with("move of web from w1 to w2 was cancelled after "), "{said:?}");
    let home = w1.machine("web");
    assert!(matches!(home.state, MachineState::Running { .. }), "{home:?}");
    assert_eq!(home.job, None);
    let there = w2.belongings();
    assert!(
        there.directories.is_empty() && there.processes.is_empty() && there.volumes.is_empty(),
        "{there:?}"
    );
}

#[test]
fn a_machine_that_moved_is_its_new_workers_to_command() {
    let cluster = Cluster::two();
    let (w1, w2) = cluster.pair();
    create(w1, "web", &["data=1MiB"]);
    let job = w1.moves("web", w2).id;
    let gone =
        format!("machine web was handed over to worker w2 with job {job}; ask the agent of that worker");
    let kept = "volume data has moved to worker w2; the copy kept here is deleted by itself at the time that `ferry volume \
                list` tells";
    let cases: [(&[&str], String); 6] = [
        (&["volume", "delete", "data"], kept.to_owned()),
        (&["move", "web", "--to", "w2"], gone.clone()),
        (&["machine", "start", "web"], gone.clone()),
        (&["machine", "stop", "web"], gone.clone()),
        (&["machine", "destroy", "web"], gone),
        (
            &["job", "cancel", &job.to_string()],
            format!("job {job} has already ended; `ferry job show {job}` tells how"),
        ),
    ];
    refused(&cluster, w1, &cases);
}

#[test]
fn a_machine_that_exits_at_once_is_shown_with_its_exit() {
    let cluster = Cluster::of(&[("w1", "")]);
    let w1 = &cluster.workers[0];
    let _: Machine = w1.ask(&["machine", "create", "once", "--restart", "never", "--", "sh", "-c", "exit 3"]);
    let once = until("once has ended", || Some(w1.machine("once")).filter(|once| once.last_exit.is_some()));
    assert_eq!((once.state, once.last_exit.unwrap().code), (MachineState::Stopped, Some(3)));
    assert!(w1.ferry(&["machine", "show", "once"]).stdout.contains("with code 3 at "));
    let _: Machine = w1.ask(&["machine", "create", "again", "--", "sh", "-c", "exit 4"]);
    let again = until("again is started again", || {
        Some(w1.machine("again")).filter(|again| matches!(again.state, MachineState::Restarting { .. }))
    });
    assert_eq!(again.last_exit.unwrap().code, Some(4));
    let shown = w1.ferry(&["machine", "show", "again"]).stdout;
    assert!(shown.contains("exited, starts again at "), "{shown}");
}

#[test]
fn a_damaged_map_is_refused_with_the_reason_and_left_as_it_is() {
    needs!(QEMU_IO);
    let cluster = Cluster::two();
    let (w1, _) = cluster.pair();
    create(w1, "web", &["data=16MiB"]);
    let volume = w1.volume("data");
    qemu_io(&volume.guest_uri, &["write -P 6 0 1M", "flush"]);
    let dir = w1.volume_dir(VolumeKey { id: volume.id, generation: volume.generation });
    w1.kill();
    w1.processes().into_iter().for_each(|pid| w1.kill_process(pid));
    let whole = fs::read(dir.join("map")).unwrap();
    let mut damaged = whole.clone();
    damaged[40] ^= 0x10;
    fs::write(dir.join("map"), &damaged).unwrap();
    w1.start();

    let reason = until("the map is refused", || match w1.volume("data").server {
        ServerState::Down { reason } if reason.contains("refused") => Some(reason),
        ServerState::Down { .. } | ServerState::NotNeeded | ServerState::Running { .. } => None,
    });
    let sentence = format!(
        "the volume server of {}@1 ended at once: the map {} is refused: the map's superblock is damaged (its checksum is \
         wrong); restore it from a copy (see {})",
        volume.id,
        dir.join("map").display(),
        dir.join("server.log").display()
    );
    assert_eq!(reason, sentence);
    let sheet = w1.ferry(&["volume", "show", "data"]).stdout;
    assert!(sheet.contains(&format!("down: {sentence}")), "{sheet}");
    let list = w1.ferry(&["volume", "list"]).stdout;
    assert!(list.contains("server down"), "{list}");
    assert!(w1.log().contains(&sentence), "{}", w1.log());
    let waits = until("web waits for it", || {
        let MachineState::Starting { waits_for } = w1.machine("web").state else { return None };
        waits_for.contains("refused").then_some(waits_for)
    });
    assert_eq!(waits, format!("volume data is not ready: {sentence}"));
    assert!(fs::read(dir.join("map")).unwrap() == damaged, "the damaged map was written to");

    fs::write(dir.join("map"), &whole).unwrap();
    let web: Machine = w1.ask(&["machine", "start", "web"]);
    assert!(matches!(web.state, MachineState::Running { .. }), "{web:?}");
    qemu_io(&w1.volume("data").guest_uri, &["read -P 6 0 1M", "read -P 0 1M 15M"]);
}
