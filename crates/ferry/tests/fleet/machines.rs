//! The machines of the fleet: what each is, how it is made, and how it is held against all that it promised in the end.
//!
//! Each takes a lock while it lives, beside a diary that lies outside its volume: so two of one machine never pass unseen,
//! and what is promised is never told by what is to be checked.

use crate::support::cluster::{Cluster, Worker};
use crate::support::ledger::{Entry, Ledger};
use crate::support::peers::path_text;
use crate::support::redis::Session;
use crate::support::sqlite::{self, Work};
use crate::support::{text, until};
use ferry_api::{Machine, MachineState, VolumeKey};
use rustix::fs::{FlockOperation, flock};
use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

const MIB: u64 = 1024 * 1024;
/// Every disk. A writer's records take its second half; the first one is filled so far, with data that it never touches.
const SIZE_BYTES: u64 = 32 * MIB;
const RING_BYTES: u64 = 16 * MIB;
const USED_BYTES: u64 = 4 * MIB;
const USED_BYTES_OF_A_SCOUT: u64 = 16 * MIB;
/// Between two records of a writer, and two commits of a database.
const WRITER_PAUSE: &str = "100ms";
const DATABASE_PAUSE: Duration = Duration::from_millis(25);
/// Room that a database takes at its beginning.
const DATABASE_ROOM_BYTES: i64 = 2 << 20;
/// So many records tell that a machine goes on.
const RECORDS_MORE: usize = 5;
/// Where the first Redis listens; each has a port of its own, since two may come to one worker.
const REDIS_PORT_FIRST: u16 = 7_500;
/// A Redis whose every write is on the disk before it is acknowledged, for its worker's proxy alone.
const REDIS_DURABLE: [&str; 8] =
    ["--bind", "127.0.0.1", "--save", "", "--appendonly", "yes", "--appendfsync", "always"];
/// Complains if another one of this machine lives. `$0` is its diary, what follows is the machine.
const ALONE: &str = r#"exec 9>>"$0.lock"; flock -n 9 || echo two at once >>"$0.clash"; "#;
/// Becomes the machine.
const PLAIN: &str = r#"exec "$@""#;
/// One that takes its time to stop and notes when it is told to, and when its process was made: the time now, for how long the host has
/// been up, and how long it had been when the process was made, in ticks.
const SLOW: &str = r#"
now=$(date +%s%N); read -r up _ </proc/uptime; echo "$now $up $(cut -d" " -f22 /proc/$$/stat)" >>"$0.born"
trap 'date +%s%N >>"$0.told"; sleep 1; kill $writer' TERM
"$@" & writer=$!
wait $writer || wait $writer
"#;

/// What a machine runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The demo's writer of records, straight to its volume.
    Writer,
    /// One that has so much on its disk that it shows how fast that crosses.
    Scout,
    /// One that is of a group.
    Grouped(&'static str),
    /// SQLite on a file system.
    Database,
    /// Redis on a file system, with clients from outside.
    Redis(u16),
}
use Kind::{Database, Grouped, Redis, Scout, Writer};

/// A group that is on one worker, and one that is on two.
const PAIR: Kind = Grouped("pair");
const TWIN: Kind = Grouped("twin");
/// What runs on each worker at the beginning.
const HOMES: [[Kind; 8]; 5] = [
    [PAIR, PAIR, TWIN, Scout, Writer, Database, Database, Redis(0)],
    [TWIN, Scout, Writer, Writer, Writer, Database, Database, Redis(1)],
    [Writer, Writer, Writer, Writer, Writer, Writer, Writer, Database],
    [Writer, Writer, Writer, Writer, Writer, Writer, Writer, Database],
    [Writer; 8],
];
/// How many workers there are.
pub const WORKERS: u8 = HOMES.len() as u8;

/// A machine, as the test knows it.
#[derive(Clone, Debug)]
pub struct Guest {
    pub name: String,
    pub kind: Kind,
    /// The worker that it is made on.
    home: usize,
    diary: PathBuf,
    /// Where its volume is mounted, if it is.
    disk: PathBuf,
}

/// All of them.
pub fn guests(dir: &Path) -> Vec<Guest> {
    let of = |home: usize, index: usize, kind: Kind| {
        let what = match kind {
            Writer => "writer",
            Scout => "scout",
            Grouped(group) => group,
            Database => "sqlite",
            Redis(_) => "redis",
        };
        let name = format!("{what}-{}{index}", home + 1);
        Guest {
            kind,
            home,
            diary: dir.join(format!("{name}.acks")),
            disk: dir.join(format!("{name}.disk")),
            name,
        }
    };
    let homes = HOMES.iter().enumerate();
    homes
        .flat_map(|(home, kinds)| kinds.iter().enumerate().map(move |(index, kind)| of(home, index, *kind)))
        .collect()
}

/// Makes them all, on each worker one after the other, and returns when all of them write.
pub fn create(cluster: &Cluster, guests: &[Guest]) {
    on_all(cluster, |home, worker| {
        guests.iter().filter(|guest| guest.home == home).for_each(|guest| guest.create(worker))
    });
    guests.iter().for_each(Guest::wait_for_records);
}

/// Does something for each worker, all at the same time.
pub fn on_all(cluster: &Cluster, what: impl Fn(usize, &Worker) + Sync) {
    std::thread::scope(|scope| {
        for (index, worker) in cluster.workers.iter().enumerate() {
            let what = &what;
            scope.spawn(move || what(index, worker));
        }
    });
}

/// The database itself: started as a machine and by nobody else.
#[test]
#[ignore = "a machine of the fleet"]
fn database() {
    sqlite::live(&Work { room_bytes: DATABASE_ROOM_BYTES, pause: DATABASE_PAUSE });
}

impl Guest {
    fn create(&self, worker: &Worker) {
        let file = self.diary.with_extension("toml");
        std::fs::write(&file, self.spec()).unwrap();
        let create = ["machine", "create", "--file", path_text(&file)];
        if self.is_mounted() {
            let _: Machine = worker.ask(&create);
            return;
        }
        let _: Machine = worker.ask(&[&create[..], &["--stopped"]].concat());
        self.demo("demo-fill", worker, &[]);
        let _: Machine = worker.ask(&["machine", "start", &self.name]);
    }

    fn spec(&self) -> String {
        let this = std::env::current_exe().unwrap();
        let (diary, disk) = (path_text(&self.diary), path_text(&self.disk));
        let (offset, bytes) = ((SIZE_BYTES - RING_BYTES).to_string(), RING_BYTES.to_string());
        let port = self.port().unwrap_or_default().to_string();
        let runs = match self.kind {
            Writer | Scout | Grouped(_) => vec![
                env!("CARGO_BIN_EXE_ferry"),
                "demo-writer",
                "--acks",
                diary,
                "--interval",
                WRITER_PAUSE,
                "--ring-offset",
                &offset,
                "--ring-bytes",
                &bytes,
            ],
            Database => vec![path_text(&this), "--exact", "--ignored", "--nocapture", "machines::database"],
            Redis(_) => [&["redis-server", "--dir", disk, "--port", &port][..], &REDIS_DURABLE].concat(),
        };
        let shell = format!("{ALONE}{}", if self.group().is_some() { SLOW } else { PLAIN });
        let command = [&["/bin/sh", "-c", &shell, diary][..], &runs].concat();
        let services =
            self.port().map(|port| format!("services = [{{ port = {port} }}]\n")).unwrap_or_default();
        let mount = if self.is_mounted() { format!("mount = {disk:?}\n") } else { String::new() };
        let group = self.group().map(|group| format!("[placement]\ngroup = {group:?}\n")).unwrap_or_default();
        format!(
            "name = {:?}\ncommand = {command:?}\nworkdir = \"/\"\n{services}{group}[env]\n{} = {diary:?}\n{} = {disk:?}\n\
             [volumes.data]\nsize = \"{SIZE_BYTES}\"\n{mount}",
            self.name,
            sqlite::DIARY,
            sqlite::DISK,
        )
    }

    fn is_mounted(&self) -> bool {
        matches!(self.kind, Database | Redis(_))
    }

    /// The group that it is of.
    pub fn group(&self) -> Option<&'static str> {
        match self.kind {
            Grouped(group) => Some(group),
            Writer | Scout | Database | Redis(_) => None,
        }
    }

    /// Where clients find it, on every worker.
    pub fn port(&self) -> Option<u16> {
        match self.kind {
            Redis(index) => Some(REDIS_PORT_FIRST + index),
            Writer | Scout | Grouped(_) | Database => None,
        }
    }

    /// Runs one of the demo's commands on its volume, which must succeed.
    fn demo(&self, command: &str, worker: &Worker, words: &[&str]) {
        let disk = &worker.machine(&self.name).volumes[0];
        let dir = worker.volume_dir(VolumeKey { id: disk.volume, generation: disk.generation });
        let uri = format!("nbd+unix:///?socket={}", dir.join("guest.sock").display());
        let mut demo = Command::new(env!("CARGO_BIN_EXE_ferry"));
        let used_bytes = if self.kind == Scout { USED_BYTES_OF_A_SCOUT } else { USED_BYTES };
        demo.args([command, "--uri", &uri, "--used", &used_bytes.to_string()]).args(words);
        let ended = demo.output().unwrap();
        assert!(ended.status.success(), "{command} of {}: {}", self.name, text(&ended));
    }

    fn diary(&self) -> String {
        std::fs::read_to_string(&self.diary).unwrap_or_default()
    }

    /// Returns when it writes. Of a Redis its clients tell that.
    fn wait_for_records(&self) {
        let count = || self.diary().lines().filter(|line| line.starts_with("ack ")).count();
        if self.port().is_none() {
            let before = count();
            until(&format!("{} writes records", self.name), || {
                (count() >= before + RECORDS_MORE).then_some(())
            });
        }
    }

    /// When it was down by what it noted itself, in nanoseconds since 1970: from when it was told to stop to when the process that wrote
    /// next was made. Only one of a group notes that.
    pub fn gaps_ns(&self) -> Vec<(u64, u64)> {
        let noted = |what| std::fs::read_to_string(self.diary.with_extension(what)).unwrap_or_default();
        let born: Vec<u64> = noted("acks.born").lines().map(born_ns).collect();
        let told: Vec<u64> = noted("acks.told").lines().map(|line| line.parse().unwrap()).collect();
        assert_eq!(born.len(), told.len() + 1, "{} ends only where it is told to", self.name);
        told.into_iter().zip(born.into_iter().skip(1)).collect()
    }

    /// The longest time between two of its records of these nanoseconds since 1970, in milliseconds, by its own diary; none where
    /// that tells no times.
    pub fn longest_pause_ms(&self, within_ns: Range<u64>) -> Option<u64> {
        if self.is_mounted() {
            return None;
        }
        let diary = self.diary();
        let times = diary
            .lines()
            .filter_map(|line| line.strip_prefix("ack ")?.split(' ').next()?.parse::<u64>().ok());
        let times: Vec<u64> = times.filter(|at_ns| within_ns.contains(at_ns)).collect();
        times.windows(2).map(|pair| pair[1].saturating_sub(pair[0]) / 1_000_000).max()
    }

    /// The machine runs on this worker, goes on, and has all that it promised.
    pub fn check(&self, worker: &Worker, at: impl Fn(u16) -> SocketAddr, ledger: &BTreeSet<Entry>) {
        self.wait_for_records();
        match self.kind {
            Writer | Scout | Grouped(_) => {
                self.demo("demo-check", worker, &["--acks", path_text(&self.diary)])
            }
            Database => self.check_database(worker),
            Redis(_) => {
                let found = Session::open(at(self.port().unwrap())).unwrap().entries().unwrap();
                let lost: Vec<_> = ledger.difference(&found).collect();
                assert!(!ledger.is_empty() && lost.is_empty(), "{} lost {lost:?}", self.name);
            }
        }
        self.assert_runs_once();
    }

    /// It looks for all that it promised whenever it starts.
    fn check_database(&self, worker: &Worker) {
        let _: Machine = worker.ask(&["machine", "stop", &self.name]);
        let promised = sqlite::acknowledged(&self.diary);
        let lives = |diary: &str| diary.lines().filter(|line| line.starts_with("found ")).count();
        let before = lives(&self.diary());
        let _: Machine = worker.ask(&["machine", "start", &self.name]);
        let diary = until(&format!("{} has looked", self.name), || {
            let diary = self.diary();
            let wrong = diary.lines().find(|line| line.starts_with(sqlite::WRONG));
            assert_eq!(wrong, None, "{} does not find what it promised", self.name);
            (lives(&diary) > before).then_some(diary)
        });
        let found =
            diary.lines().filter_map(|line| line.strip_prefix("found ")?.parse::<i64>().ok()).next_back();
        assert!(
            promised > 0 && found >= Some(promised),
            "{}: of {promised} commits {found:?} are there",
            self.name
        );
    }

    /// It lives, and never did twice.
    fn assert_runs_once(&self) {
        let lock = std::fs::File::open(self.diary.with_extension("acks.lock")).unwrap();
        assert!(
            flock(&lock, FlockOperation::NonBlockingLockExclusive).is_err(),
            "{} does not run",
            self.name
        );
        assert!(!self.diary.with_extension("acks.clash").exists(), "{} ran twice at once", self.name);
    }
}

/// When a process was made that noted this, in nanoseconds since 1970. Never later than it was.
fn born_ns(line: &str) -> u64 {
    let words: Vec<f64> = line.split(' ').map(|word| word.parse().unwrap()).collect();
    let [now_ns, up_s, made_ticks] = words[..] else { panic!("{line}") };
    let age_s = up_s - made_ticks / rustix::param::clock_ticks_per_second() as f64;
    (now_ns - age_s * 1e9) as u64
}

/// Which machines run on a worker.
pub fn running(worker: &Worker) -> BTreeSet<String> {
    let machines: Vec<Machine> = worker.ask(&["machine", "list"]);
    let runs = machines.into_iter().filter(|machine| matches!(machine.state, MachineState::Running { .. }));
    runs.map(|machine| machine.name.to_string()).collect()
}
