//! Machines that mount their volumes and have namespaces of their own, asked as people ask: by a file and the command line.
#![allow(clippy::unwrap_used, reason = "a test ends at whatever it did not expect")]

#[expect(dead_code, reason = "certificates that name no worker are of no use here")]
#[path = "../../../ferry-volume/tests/support/authority.rs"]
mod authority;
mod bad_days;
mod drivers;
mod health;
mod hooks;
mod memory;
mod stand_in;
#[path = "../support/mod.rs"]
mod support;

use ferry_api::{Exit, Machine, MachineState};
use std::collections::BTreeSet;
use std::path::Path;
use support::cluster::{Cluster, Worker};
use support::devices::{in_private, loop_devices_below, mounts_below, needs_loop_devices};
use support::peers::path_text;
use support::{DEBUGFS, DUMPE2FS, E2FSCK, MKE2FS, SQLITE, UNSHARE, needs, succeed, until};

/// How often the database moves.
const MOVES: u64 = 10;
/// Commits between two moves.
const COMMITS: usize = 5;

/// Creates the machine `web` of a file that says so; its volume `data` is mounted at `dir/data`.
fn create(worker: &Worker, dir: &Path, script: &str, more: &str) -> Machine {
    let file = dir.join("web.toml");
    let spec = format!(
        "name = \"web\"\ncommand = [\"sh\", \"-c\", {script:?}]\n{more}\n\n[volumes.data]\nsize = \"64MiB\"\n\
         mount = {:?}\n",
        dir.join("data")
    );
    std::fs::write(&file, spec).unwrap();
    worker.ask(&["machine", "create", "--file", path_text(&file)])
}

/// What the machine wrote so far.
fn said(machine: &Machine) -> String {
    std::fs::read_to_string(&machine.log).unwrap_or_default()
}

fn wait_until_said(machine: &Machine, what: &str) {
    until(&format!("the machine says {what}"), || said(machine).contains(what).then_some(()));
}

fn pid(machine: &Machine) -> u32 {
    let MachineState::Running { pid, .. } = machine.state else { panic!("{machine:?}") };
    pid
}

/// The file system of `data` is whole, and was unmounted, not cut off.
fn assert_clean(worker: &Worker, check: impl FnOnce(&Path)) {
    let device = worker.ferry(&["volume", "attach", "data"]).stdout.trim().to_owned();
    let facts = succeed("dumpe2fs", &["-h", &device]);
    assert!(
        facts.contains("Filesystem state:         clean") && !facts.contains("needs_recovery"),
        "{facts}"
    );
    succeed("e2fsck", &["-fn", &device]);
    check(Path::new(&device));
    assert_eq!(worker.ferry(&["volume", "detach", "data"]).code, Some(0));
}

/// Each byte of the volume is as it was in the image.
fn assert_unrepaired(worker: &Worker, image: &Path) {
    assert!(worker.read_all("data") == std::fs::read(image).unwrap(), "it was repaired unasked");
}

#[test]
fn a_machine_alone_sees_its_volume_and_leaves_it_clean() {
    needs!(MKE2FS, E2FSCK, DUMPE2FS);
    needs_loop_devices!();
    let cluster = Cluster::two();
    let (w1, _) = cluster.pair();
    let script = "cd ..; echo $$ in $(hostname); ls /proc | grep -c '^[0-9]'; echo kept > $PLACE/note; echo up; \
                  trap 'echo bye; exit 3' TERM; while :; do sleep 0.05; done";
    let place = format!("restart = \"never\"\n[env]\nPLACE = {:?}", cluster.dir().join("data"));
    let machine = create(w1, cluster.dir(), script, &place);
    wait_until_said(&machine, "up\n");
    let now = said(&machine);
    let mut lines = now.lines();
    assert_eq!(lines.next(), Some("2 in web"), "{now}");
    let processes: u32 = lines.next().unwrap().parse().unwrap();
    assert!(processes < 10, "it sees the processes of others: {now}");
    assert!(!cluster.dir().join("data/note").exists(), "its volume is seen outside");

    w1.restart();
    let found = w1.machine("web");
    assert_eq!(pid(&found), pid(&machine), "the agent has lost its machine");
    let shown = w1.ferry(&["machine", "spec", "web"]).stdout;
    assert!(shown.contains("[volumes.data]") && shown.contains("fs = \"ext4\""), "{shown}");

    let stopped: Machine = w1.ask(&["machine", "stop", "web"]);
    assert!(said(&machine).ends_with("bye\n"), "{}", said(&machine));
    assert_eq!(stopped.state, MachineState::Stopped);
    assert_eq!((loop_devices_below(cluster.dir()), mounts_below(cluster.dir()) > 1), (vec![], false));
    assert_clean(w1, |_| {});
    let again: Machine = w1.ask(&["machine", "start", "web"]);
    until("it is up again", || (said(&again).matches("up\n").count() == 2).then_some(()));
    assert_eq!(w1.ferry(&["machine", "destroy", "web", "--stop"]).code, Some(0));
    assert_eq!((loop_devices_below(cluster.dir()), mounts_below(cluster.dir())), (vec![], 0));
}

#[test]
fn a_machine_has_a_user_a_root_and_no_network_and_keeps_its_exit_code() {
    needs!(MKE2FS);
    needs_loop_devices!();
    let cluster = Cluster::two();
    let (w1, _) = cluster.pair();
    // The worker's own files, by another way: read-only in the machine.
    let script = "id -u; ls /sys/class/net 2>/dev/null | wc -w >&2; echo mine > $PLACE/file && stat -c %u $PLACE/file; \
                  touch /etc/made-by-a-test 2>/dev/null && echo wrote; sh -c 'kill -9 $$'; echo $?; exit 7";
    let root = cluster.dir().join("root");
    support::oci::copy_tools(&root);
    let place = cluster.dir().join("data");
    let more = format!(
        "restart = \"never\"\nuser = \"4711\"\nroot = {root:?}\nnetwork = \"none\"\n[env]\nPLACE = {place:?}"
    );
    let machine = create(w1, cluster.dir(), script, &more);
    let ended = until("it ends", || w1.machine("web").last_exit);
    assert_eq!((ended.code, ended.signal), (Some(7), None), "{}", said(&machine));
    let said = said(&machine);
    let lines: Vec<&str> = said.lines().filter(|line| line.parse::<u32>().is_ok()).collect();
    assert!(lines.contains(&"4711") && lines.contains(&"137") && !said.contains("wrote"), "{said}");
    assert_eq!(lines.iter().filter(|line| **line == "4711").count(), 2, "its volume is not its own: {said}");
}

#[test]
fn a_machine_that_does_not_stop_is_killed_with_all_that_it_started_and_unmounted() {
    needs!(MKE2FS, E2FSCK, DUMPE2FS);
    needs_loop_devices!();
    let cluster = Cluster::two();
    let (w1, _) = cluster.pair();
    let script = "trap '' TERM; setsid sh -c 'while :; do date > $PLACE/date; done' & echo up; while :; do sleep 1; done";
    let more = format!("stop_grace = \"200ms\"\n[env]\nPLACE = {:?}", cluster.dir().join("data"));
    let machine = create(w1, cluster.dir(), script, &more);
    wait_until_said(&machine, "up\n");
    let stopped: Machine = w1.ask(&["machine", "stop", "web"]);
    assert!(matches!(stopped.last_exit, Some(Exit { signal: Some(9), .. })), "{stopped:?}");
    assert_eq!(loop_devices_below(cluster.dir()), Vec::<std::path::PathBuf>::new());
    assert_clean(w1, |_| {});
}

#[test]
fn an_imported_volume_without_a_file_system_gets_none_and_one_with_errors_is_not_mounted() {
    needs!(MKE2FS, DEBUGFS);
    needs_loop_devices!();
    let cluster = Cluster::two();
    let (w1, _) = cluster.pair();
    let image = cluster.dir().join("image");
    let file = cluster.dir().join("web.toml");
    let spec = format!(
        "name = \"web\"\ncommand = [\"sleep\", \"1000\"]\n[volumes.data]\nvolume = \"disk\"\nmount = {:?}\n",
        cluster.dir().join("data")
    );
    std::fs::write(&file, spec).unwrap();
    let waits_for = |prepare: &dyn Fn()| {
        std::fs::File::create(&image).unwrap().set_len(16 << 20).unwrap();
        prepare();
        let _: ferry_api::Volume = w1.ask(&["volume", "import", "disk", "--from", path_text(&image)]);
        let machine: Machine = w1.ask(&["machine", "create", "--file", path_text(&file)]);
        let MachineState::Starting { waits_for } = machine.state else { panic!("{machine:?}") };
        assert_unrepaired(w1, &image);
        assert_eq!(w1.ferry(&["machine", "destroy", "web", "--stop"]).code, Some(0));
        waits_for
    };
    let nothing = waits_for(&|| {});
    assert!(nothing.contains("volume data holds no ext4 file system"), "{nothing}");
    let sick = waits_for(&|| {
        succeed("mke2fs", &["-q", "-t", "ext4", path_text(&image)]);
        succeed("debugfs", &["-w", "-R", "set_super_value state 2", path_text(&image)]);
    });
    assert!(sick.contains("needs repair") && sick.contains("e2fsck -f /dev/"), "{sick}");
}

#[test]
fn what_is_wrong_with_a_file_is_told_by_line_and_field() {
    let cluster = Cluster::two();
    let (w1, _) = cluster.pair();
    let file = cluster.dir().join("web.toml");
    std::fs::write(&file, "name = \"web\"\ncommand = [\"sleep\", \"1\"]\nstop_sginal = \"INT\"\n").unwrap();
    let said = w1.refusal(&["machine", "create", "--file", path_text(&file)], 2);
    assert!(said.contains("web.toml, line 3 field stop_sginal: unknown field `stop_sginal`"), "{said}");
    std::fs::write(&file, "name = \"web\"\ncommand = [\"sleep\", \"1\"]\nuser = \"no-such-user\"\n").unwrap();
    if rustix::process::geteuid().is_root() {
        let said = w1.refusal(&["machine", "create", "--file", path_text(&file)], 1);
        assert!(said.contains("there is no user no-such-user in /etc/passwd"), "{said}");
    }
}

#[test]
fn a_limit_that_no_worker_could_keep_is_refused_before_anything_is_made() {
    let cluster = Cluster::two();
    let (w1, _) = cluster.pair();
    let file = cluster.dir().join("web.toml");
    let spec = "name = \"web\"\ncommand = [\"sleep\", \"1000\"]\n[limits]\nmemory = \"8PiB\"\n";
    std::fs::write(&file, format!("{spec}[volumes.data]\nsize = \"64MiB\"\n")).unwrap();
    let before = w1.belongings();
    let said = w1.refusal(&["machine", "create", "--file", path_text(&file)], 1);
    let is_told =
        said.contains("the memory of the machine is to be 9007199254740992 at most; lower that limit");
    // Where there are no control groups, that is told first.
    assert!(is_told || said.contains("cannot limit the memory of a machine"), "{said}");
    assert_eq!(w1.belongings(), before);
}

#[test]
fn what_a_machine_writes_is_followed_over_the_death_of_its_agent_and_stays_where_it_wrote_it() {
    let cluster = Cluster::two();
    let (w1, w2) = cluster.pair();
    let go = cluster.dir().join("go");
    let script = format!(
        "echo one; echo two; until [ -e {0} ]; do sleep 0.02; done; printf 'thr'; sleep 0.1; echo ee; sleep 1000",
        path_text(&go)
    );
    let machine: Machine =
        w1.ask(&["machine", "create", "web", "--restart", "never", "--", "sh", "-c", &script]);
    wait_until_said(&machine, "two\n");
    let logs = |words: &[&str]| w1.ferry(&[&["machine", "logs", "web"], words].concat()).stdout;
    assert_eq!((logs(&[]).as_str(), logs(&["-n", "1"]).as_str()), ("one\ntwo\n", "two\n"));
    w1.restart();
    // In the middle of its line, and on.
    std::fs::write(&go, "").unwrap();
    let mut follower = w1.begin(&["machine", "logs", "web", "--follow", "-n", "1"]);
    let mut found = String::new();
    let mut out = std::io::BufReader::new(follower.stdout.take().unwrap());
    while !found.ends_with("three\n") {
        assert_ne!(std::io::BufRead::read_line(&mut out, &mut found).unwrap(), 0, "{found}");
    }
    w1.moves("web", w2);
    assert_eq!(follower.wait().unwrap().code(), Some(0), "it does not notice that the machine has moved");
    let there = w1.ferry(&["machine", "logs", "web"]);
    assert_eq!(there.stdout, "one\ntwo\nthree\n");
    assert!(there.stderr.contains("has moved to w2"), "{there:?}");
    assert_eq!(w2.ferry(&["machine", "logs", "web", "-n", "1"]).code, Some(0));
    assert!(w1.refusal(&["machine", "logs", "nobody"], 1).contains("there is no machine nobody"));
}

/// The numbers in a file or an answer, one a line.
fn numbers(text: &str) -> BTreeSet<u64> {
    text.lines().filter_map(|line| line.parse().ok()).collect()
}

#[test]
fn a_database_on_a_file_system_moves_ten_times_while_agents_are_killed_and_loses_no_commit() {
    needs!(MKE2FS, E2FSCK, DUMPE2FS, SQLITE, UNSHARE);
    needs_loop_devices!();
    let cluster = Cluster::two();
    let (mut here, mut there) = cluster.pair();
    // The client's ledger lies outside: what is in it was acknowledged.
    let ledger = cluster.dir().join("ledger");
    let script = "db=$PLACE/db; sql() { sqlite3 $db \"pragma synchronous=full; $1\"; }; \
                  sql 'create table if not exists commits(n integer primary key)'; \
                  n=$(sql 'select coalesce(max(n), 0) from commits' | tail -1); \
                  while :; do n=$((n+1)); sql \"insert into commits values($n)\" && echo $n >> $LEDGER; done";
    let more = format!("[env]\nPLACE = {:?}\nLEDGER = {ledger:?}", cluster.dir().join("data"));
    let machine = create(here, cluster.dir(), script, &more);
    let acknowledged = || numbers(&std::fs::read_to_string(&ledger).unwrap_or_default());
    for number in 0..MOVES {
        let before = acknowledged().len();
        until("it commits", || (acknowledged().len() >= before + COMMITS).then_some(()));
        here.hops("web", there, number, || here.restart());
        std::mem::swap(&mut here, &mut there);
    }
    let before = acknowledged().len();
    until("it commits at last", || (acknowledged().len() >= before + COMMITS).then_some(()));
    let stopped: Machine = here.ask(&["machine", "stop", "web"]);
    assert_eq!(stopped.id, machine.id);
    assert_clean(here, |device| {
        let out = cluster.dir().join("out");
        let ask = format!(
            "mount $1 $2; sqlite3 $2/db 'pragma integrity_check; select n from commits' > {}; umount $2",
            path_text(&out)
        );
        in_private(&ask, device, cluster.dir());
        let found = std::fs::read_to_string(&out).unwrap();
        assert!(found.starts_with("ok\n"), "{found}");
        let lost: Vec<u64> = acknowledged().difference(&numbers(&found)).copied().collect();
        assert_eq!(lost, Vec::<u64>::new());
    });
}
