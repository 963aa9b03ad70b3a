//! `cargo xtask bench --what interruption`: how long a machine writes nothing while it goes to another worker, four ways side by
//! side, and what its reads cost right after a warm move.
//!
//! The machine is the demo's writer: it notes each record that became durable, so that the longest gap between two is the
//! interruption as the machine has it, with its own stop and start in it. By hand the same program is stopped, its disk copied
//! with nbdcopy, and it is started on the copy. Under load somebody else writes the same disk as fast as it takes it.
//! Only a VM moves live: the lab's, with as much in use on a second disk.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, ensure};
use serde_json::Value;

use super::content::{self, MIB};
use super::control::{Agents, Line, tell};
use super::gaps::{self, Crossed, Gaps};
use super::live::{ByFerry, Guest};
use super::load::{Place, reads_p99_us, while_loaded};
use super::options::Options;
use super::peers::{Door, Kind, Peer};
use super::processes::{self, Process};
use super::{interrupt, machine};

/// The heading by which the section is found again.
const HEADING: &str = "## Interruption";
/// Behind what is in use: where the machine keeps its records.
const RING_MIB: u64 = 16;
/// What else happens to the disk meanwhile.
const LOADS: [(bool, &str); 2] = [(false, "idle"), (true, "under write load")];
/// How long the machine's flushes are looked at while nothing moves.
const WITHOUT_A_MOVE: Duration = Duration::from_secs(10);
const LOOK_EVERY: Duration = Duration::from_millis(1);
const DEADLINE: Duration = Duration::from_secs(600);

/// Runs all of it and prints the section of the page that is kept.
pub fn run(root: &Path, options: &Options, ferry: &Path, dir: &Path) -> anyhow::Result<()> {
    crate::lab::vm(root)?;
    let machine = machine::describe()?;
    let begun = jiff::Timestamp::now();
    let mut lines = Vec::new();
    for used_mib in &options.used_mib {
        // Each has a place of its own, which is gone before the next: they are large.
        let place = tempfile::tempdir_in(dir).context("cannot make a directory")?;
        let house = House::open(ferry, place.path(), *used_mib)?;
        for (load, name) in LOADS {
            lines.extend(house.lines(load, &format!("{used_mib} MiB, {name}"), options.pairs)?);
        }
        // It takes long, and what comes next may fail.
        eprintln!("{}", Line::table(&lines));
        drop(house);
        let place = tempfile::tempdir_in(dir).context("cannot make a directory")?;
        let mut vm = ByFerry::start(&Guest::of_the_lab(root), ferry, place.path(), Some(*used_mib))?;
        for (load, name) in LOADS {
            let moves: anyhow::Result<Vec<_>> = (0..options.pairs).map(|_| vm.moves(load)).collect();
            let away = moves?.iter().map(|moved| moved.gaps.away_ms).collect();
            lines.push(Line::new(&format!("{used_mib} MiB, {name}: live move of a VM"), "ms", away));
        }
    }
    let section = format!(
        "{HEADING}\n\n{} two agents on loopback, a machine with that much in use.\n{} times each, by turns. The longest time without a record that \
         the machine knows to be durable, of those that began before it had run for a second again; its own stop and start included; a VM (without KVM) that moves live has none.\n\n{}",
        machine.preamble("interruption", begun),
        options.pairs,
        Line::table(&lines),
    );
    tell(root, options, HEADING, &section)
}

/// Two workers, and the machine on one of them.
struct House {
    agents: Agents,
    ferry: PathBuf,
    dir: PathBuf,
    used_mib: u64,
}

/// What a move was to the machine.
struct Moved {
    gaps: Gaps,
    /// Of a second before it, under the same load.
    reads_before_p99_us: f64,
    /// Of the first second on the other worker.
    reads_p99_us: f64,
}

impl House {
    fn open(ferry: &Path, dir: &Path, used_mib: u64) -> anyhow::Result<Self> {
        let agents = Agents::start(ferry, &dir.join("moves"))?;
        let house = Self { agents, ferry: ferry.to_owned(), dir: dir.to_owned(), used_mib };
        let disk = format!("data={}MiB", used_mib + RING_MIB);
        let program = house.program(None);
        let program: Vec<&str> = program.iter().map(String::as_str).collect();
        let words = ["machine", "create", "web", "--volume", &disk, "--stopped", "--"];
        house.agents.ask(0, &[&words[..], &program].concat())?;
        house.place(0)?.fill()?;
        house.agents.ask(0, &["machine", "start", "web"])?;
        Ok(house)
    }

    /// What the machine runs; with the disk that it is given, or another one.
    fn program(&self, uri: Option<&str>) -> Vec<String> {
        let diary = self.diary().display().to_string();
        let (ferry, offset) = (self.ferry.display().to_string(), format!("{}MiB", self.used_mib));
        let bytes = format!("{RING_MIB}MiB");
        let words =
            [&ferry, "demo-writer", "--acks", &diary, "--ring-offset", &offset, "--ring-bytes", &bytes];
        let words = words.into_iter().chain(uri.iter().flat_map(|uri| ["--uri", *uri]));
        words.map(str::to_owned).collect()
    }

    fn diary(&self) -> PathBuf {
        self.dir.join("acks")
    }

    fn place(&self, worker: usize) -> anyhow::Result<Place> {
        Place::of(&self.agents, &self.dir.join("moves"), worker, "data", self.used_mib)
    }

    /// All three ways by turns, and the reads around the warm one.
    fn lines(&self, load: bool, name: &str, rounds: usize) -> anyhow::Result<Vec<Line>> {
        let mut ms = [const { Vec::new() }; 3];
        let (mut own, mut reads, mut reads_after) = (Vec::new(), Vec::new(), Vec::new());
        let (mut waits, mut ahead, mut behind) = (Vec::new(), Vec::new(), Vec::new());
        let mut worker = 0;
        for round in 0..rounds {
            eprintln!("bench: {name}, round {} of {rounds}", round + 1);
            own.push(self.restart(worker)?);
            waits.push(self.wait_ms(worker, load)?);
            ms[0].extend(self.by_hand(worker, load)?);
            for (way, into) in [("cold", 1), ("warm", 2)] {
                let place = self.place(worker)?;
                let moved = self.moves(&place, way, load)?;
                ms[into].push(moved.gaps.away_ms);
                behind.push(moved.gaps.after_ms);
                if way == "warm" {
                    reads.push(moved.reads_before_p99_us);
                    reads_after.push(moved.reads_p99_us);
                    ahead.push(moved.gaps.ahead_ms);
                }
                worker = 1 - worker;
            }
        }
        let own = Line::new("", "ms", own);
        let beside = format!("stop and start on the same worker {}", own.told_short());
        let reads = Line::new("", "us", reads);
        let waits = format!("without a move {}", Line::new("", "ms", waits).told_short());
        let [by_hand, cold, warm] = ms;
        let within = own.median() + 100.0;
        Ok(vec![
            Line::new(&format!("{name}: kill, nbdcopy, boot"), "ms", by_hand).beside(beside.clone()),
            Line::new(&format!("{name}: cold move"), "ms", cold).beside(beside.clone()).at_most(within),
            Line::new(&format!("{name}: warm move"), "ms", warm).beside(beside).at_most(within),
            Line::new(
                &format!("{name}: longest wait for a flush while a warm move copies ahead"),
                "ms",
                ahead,
            )
            .beside(waits.clone()),
            Line::new(
                &format!("{name}: longest wait for a flush while the rest follows a move, cold or warm"),
                "ms",
                behind,
            )
            .beside(waits),
            Line::new(
                &format!("{name}: p99 of reads of 4 KiB in the first second after a warm move"),
                "us",
                reads_after,
            )
            .beside(format!("before it {}", reads.told_short()))
            .at_most(reads.median() * 1.5),
        ])
    }

    /// The machine's own stop and start, as it has them.
    fn restart(&self, worker: usize) -> anyhow::Result<f64> {
        let since = self.settled()?;
        self.agents.ask(worker, &["machine", "stop", "web"])?;
        self.agents.ask(worker, &["machine", "start", "web"])?;
        self.gap_ms(since)
    }

    /// The longest wait for a flush while nothing moves: what the disk itself does to the machine.
    fn wait_ms(&self, worker: usize, load: bool) -> anyhow::Result<f64> {
        let place = self.place(worker)?;
        while_loaded(load.then_some(&place), || {
            let since = self.settled()?;
            std::thread::sleep(WITHOUT_A_MOVE);
            self.gap_ms(since)
        })
    }

    /// Kill, copy, boot; none where the tools for it are missing.
    fn by_hand(&self, worker: usize, load: bool) -> anyhow::Result<Option<f64>> {
        let kinds = Kind::installed();
        let Some(&kind) = kinds.last().filter(|_| processes::is_there("nbdcopy")) else {
            eprintln!("bench: SKIP: nbdcopy or a server for its copy is not installed");
            return Ok(None);
        };
        let place = self.place(worker)?;
        let file = self.dir.join("copy.raw");
        let copy = std::fs::File::create(&file).context("cannot make a copy's file")?;
        copy.set_len((self.used_mib + RING_MIB) * MIB).context("cannot make a copy's file")?;
        let there = Peer::start(kind, Door::Unix, &self.dir, "copy", &file)?;
        let gap = while_loaded(load.then_some(&place), || {
            let since = self.settled()?;
            self.agents.ask(worker, &["machine", "stop", "web"])?;
            processes::run("nbdcopy", &["--flush", &place.uri, &there.uri])?;
            let program = self.program(Some(&there.uri));
            let words: Vec<&OsStr> = program[1..].iter().map(OsStr::new).collect();
            let started = Process::start(&self.ferry, &words, &self.dir.join("by-hand.log"))?;
            let gap = self.gap_ms(since);
            drop(started);
            gap
        })?;
        drop(there);
        std::fs::remove_file(&file).context("cannot remove a copy")?;
        // What is free now is told to the disk here, and not while a move is measured.
        rustix::fs::sync();
        self.agents.ask(worker, &["machine", "start", "web"])?;
        self.settled()?;
        Ok(Some(gap))
    }

    /// A move to the other worker.
    fn moves(&self, place: &Place, way: &str, load: bool) -> anyhow::Result<Moved> {
        content::touch_memory(self.used_mib);
        while_loaded(load.then_some(place), || {
            let reads_before_p99_us = reads_p99_us(&place.uri, place.used_mib)?;
            let since = self.settled()?;
            let to = ["w2", "w1"][place.worker];
            std::thread::scope(|scope| {
                let words = ["move", "web", "--to", to, "--mode", way, "--retention", "1h"];
                let moving = scope.spawn(move || self.agents.ask(place.worker, &words));
                let reads = reads_p99_us(&place.next_uri, place.used_mib);
                let job: Value = moving.join().expect("asking does not panic")?;
                ensure!(job["state"] == "succeeded", "a move did not succeed: {job}");
                let ahead = &job["steps"][2]["memo"]["ahead"];
                ensure!(way == "cold" || ahead["rounds"][0].is_object(), "it was no warm move: {ahead}");
                let gaps = Gaps::around(Crossed::of(&job)?, &self.moments_ns(since)?);
                let reads_p99_us = reads?;
                eprintln!(
                    "bench: {way} move, {:.0} ms without a record: {}; p99 of reads {reads_before_p99_us:.0} us, then {reads_p99_us:.0}",
                    gaps.away_ms,
                    gaps::steps_told(&job)
                );
                // Only now: both workers have one disk here, and deleting a copy keeps flushes waiting.
                self.agents.ask(place.worker, &["gc", "--retained"])?;
                Ok(Moved { gaps, reads_before_p99_us, reads_p99_us })
            })
        })
    }

    /// Waits until the machine writes; tells how much of the diary is of before.
    fn settled(&self) -> anyhow::Result<u64> {
        // It is made with the first start.
        let len = || std::fs::metadata(self.diary()).map_or(0, |file| file.len());
        let before = len();
        interrupt::until("the machine writes", LOOK_EVERY, DEADLINE, || {
            Ok((len() > before + 2_000).then_some(before))
        })
    }

    /// The longest gap between two records since then, once the machine writes again. In milliseconds.
    fn gap_ms(&self, since: u64) -> anyhow::Result<f64> {
        Ok(gaps::longest_ms(&self.moments_ns(since)?))
    }

    /// When records became durable since then, once the machine writes again, in nanoseconds since 1970.
    fn moments_ns(&self, since: u64) -> anyhow::Result<Vec<u64>> {
        self.settled()?;
        let diary = std::fs::read(self.diary()).context("cannot read the machine's diary")?;
        let diary = String::from_utf8_lossy(&diary[usize::try_from(since)?..]);
        let acks =
            diary.lines().filter_map(|line| line.strip_prefix("ack ")?.split(' ').next()?.parse().ok());
        Ok(acks.collect())
    }
}
