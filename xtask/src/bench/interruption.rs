//! `cargo xtask bench --what interruption`: how long a machine writes nothing while it goes to another worker, three ways side by
//! side, and what its reads cost right after a warm move.
//!
//! The machine is the demo's writer: it notes each record that became durable, so that the longest gap between two is the
//! interruption as the machine has it, with its own stop and start in it. By hand the same program is stopped, its disk copied
//! with nbdcopy, and it is started on the copy. Under load somebody else writes the same disk as fast as it takes it.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use ferry_volume::client::BlockClient;
use serde_json::Value;

use super::content::{self, MIB, Noise};
use super::control::{Agents, Line, tell};
use super::options::Options;
use super::peers::{Door, Kind, Peer};
use super::processes::{self, Process};
use super::{interrupt, machine};
use crate::soak::dice::Dice;

/// The heading by which the section is found again.
const HEADING: &str = "## Interruption";
/// Behind what is in use: where the machine keeps its records.
const RING_MIB: u64 = 16;
/// How long reads are measured, before a move and after.
const READING: Duration = Duration::from_secs(1);
const BLOCK: u64 = 4096;
const LOOK_EVERY: Duration = Duration::from_millis(1);
const DEADLINE: Duration = Duration::from_secs(600);

/// Runs all of it and prints the section of the page that is kept.
pub fn run(root: &Path, options: &Options, ferry: &Path, dir: &Path) -> anyhow::Result<()> {
    let machine = machine::describe()?;
    let begun = jiff::Timestamp::now();
    let house = House::open(ferry, dir, options.used_mib)?;
    let mut lines = Vec::new();
    for (load, name) in [(false, "idle"), (true, "under write load")] {
        lines.extend(house.lines(load, name, options.pairs)?);
    }
    let mut section = format!(
        "{HEADING}\n\nBy `cargo xtask bench --what interruption`, {}, {} cores ({}), Linux {}, load average {} before: two agents on loopback, a machine \
         with {} MiB in use.\n{} times each, by turns. The longest time without a record that the machine knows to be durable, its own stop and start \
         included.\n\n| what | median | p90 | beside | goal | |\n|---|---|---|---|---|---|\n",
        begun.strftime("%Y-%m-%d"),
        machine.cores,
        machine.processor,
        machine.kernel,
        machine.load,
        options.used_mib,
        options.pairs,
    );
    lines.iter().for_each(|line| section.push_str(&line.row()));
    tell(root, options, HEADING, &section)
}

/// Two workers, and the machine on one of them.
struct House {
    agents: Agents,
    ferry: PathBuf,
    dir: PathBuf,
    used_mib: u64,
}

/// Where the machine is, and where its disk is reached there.
struct Place {
    worker: usize,
    uri: String,
    /// Where the disk will be reached on the other worker after a move.
    next_uri: String,
}

/// What a move was to the machine, in milliseconds but for its reads.
struct Moved {
    /// The longest gap before it was asked to stop.
    ahead_ms: f64,
    /// The longest gap from then on.
    away_ms: f64,
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
        let mut guest = BlockClient::connect_text(&house.place(0)?.uri).context("cannot come to the disk")?;
        let mut noise = Noise::new();
        for number in 0..used_mib {
            guest.write_at(number * MIB, noise.mebibyte(number)).context("cannot fill the disk")?;
        }
        guest.flush().context("cannot fill the disk")?;
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
        let volume = self.agents.ask(worker, &["volume", "show", "data"])?;
        let uri = volume["guest_uri"].as_str().context("a volume has an address")?.to_owned();
        let (id, generation) = (volume["id"].as_str(), volume["generation"].as_u64());
        let (id, generation) = (id.context("a volume has an id")?, generation.context("and a generation")?);
        let there = ["w2", "w1"][worker];
        let copy = format!("{id}@{}", generation + 1);
        let socket = self.dir.join("moves").join(there).join("volumes").join(copy).join("guest.sock");
        Ok(Place { worker, uri, next_uri: format!("nbd+unix:///?socket={}", socket.display()) })
    }

    /// All three ways by turns, and the reads around the warm one.
    fn lines(&self, load: bool, name: &str, rounds: usize) -> anyhow::Result<Vec<Line>> {
        let mut ms = [const { Vec::new() }; 3];
        let (mut own, mut usual, mut after, mut ahead) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        let mut worker = 0;
        for round in 0..rounds {
            eprintln!("bench: {name}, round {} of {rounds}", round + 1);
            own.push(self.restart(worker)?);
            ms[0].extend(self.by_hand(worker, load)?);
            for (way, into) in [("cold", 1), ("warm", 2)] {
                let place = self.place(worker)?;
                usual.extend((into == 2).then(|| reads_p99_us(&place.uri, self.used_mib)).transpose()?);
                let moved = self.moves(&place, way, load)?;
                ms[into].push(moved.away_ms);
                after.extend((into == 2).then_some(moved.reads_p99_us));
                ahead.extend((into == 2).then_some(moved.ahead_ms));
                worker = 1 - worker;
            }
        }
        let own = Line::new("", "ms", own);
        let beside = format!("stop and start on the same worker {}", own.told_short());
        let usual = Line::new("", "us", usual);
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
            ),
            Line::new(
                &format!("{name}: p99 of reads of 4 KiB in the first second after a warm move"),
                "us",
                after,
            )
            .beside(format!("before it {}", usual.told_short()))
            .at_most(usual.median() * 1.5),
        ])
    }

    /// The machine's own stop and start, as it has them.
    fn restart(&self, worker: usize) -> anyhow::Result<f64> {
        let since = self.settled()?;
        self.agents.ask(worker, &["machine", "stop", "web"])?;
        self.agents.ask(worker, &["machine", "start", "web"])?;
        self.gap_ms(since)
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
        let gap = while_loaded(load.then_some(&place), self.used_mib, || {
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
        self.agents.ask(worker, &["machine", "start", "web"])?;
        self.settled()?;
        Ok(Some(gap))
    }

    /// A move to the other worker.
    fn moves(&self, place: &Place, way: &str, load: bool) -> anyhow::Result<Moved> {
        content::touch_memory(self.used_mib);
        while_loaded(load.then_some(place), self.used_mib, || {
            let since = self.settled()?;
            let to = ["w2", "w1"][place.worker];
            std::thread::scope(|scope| {
                let words = ["move", "web", "--to", to, "--mode", way, "--retention", "1h"];
                let moving = scope.spawn(move || self.agents.ask(place.worker, &words));
                let reads = reads_p99_us(&place.next_uri, self.used_mib);
                let job: Value = moving.join().expect("asking does not panic")?;
                ensure!(job["state"] == "succeeded", "a move did not succeed: {job}");
                let ahead = &job["steps"][2]["memo"]["ahead"];
                ensure!(way == "cold" || ahead["rounds"][0].is_object(), "it was no warm move: {ahead}");
                let stop = job["steps"].as_array().into_iter().flatten().find(|step| step["step"] == "Stop");
                let stop_ms = stop.and_then(|stop| stop["started_at_ms"].as_u64());
                let stop_ns = stop_ms.context("a move has stopped its machine")? * 1_000_000;
                let [ahead_ms, away_ms] = self.gaps_ms(since, stop_ns)?;
                // Only now: both workers have one disk here, and deleting a copy keeps flushes waiting.
                self.agents.ask(place.worker, &["gc", "--retained"])?;
                Ok(Moved { ahead_ms, away_ms, reads_p99_us: reads? })
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
        let [_, gap_ms] = self.gaps_ms(since, 0)?;
        Ok(gap_ms)
    }

    /// The longest gaps between two records since then, once the machine writes again: of those that ended before a moment, and of
    /// the others. In milliseconds.
    fn gaps_ms(&self, since: u64, moment_ns: u64) -> anyhow::Result<[f64; 2]> {
        self.settled()?;
        let diary = std::fs::read(self.diary()).context("cannot read the machine's diary")?;
        let diary = String::from_utf8_lossy(&diary[usize::try_from(since)?..]);
        let mut acks =
            diary.lines().filter_map(|line| line.strip_prefix("ack ")?.split(' ').next()?.parse().ok());
        let mut last: u64 = acks.next().context("the machine has written")?;
        let mut longest = [0; 2];
        for ack in acks {
            let longest = &mut longest[usize::from(ack >= moment_ns)];
            *longest = (*longest).max(ack.saturating_sub(last));
            last = ack;
        }
        Ok(longest.map(|gap_ns| gap_ns as f64 / 1e6))
    }
}

/// Does something while somebody writes blocks all over what is in use, here and after a move there, if `place` is given.
fn while_loaded<T>(
    place: Option<&Place>,
    used_mib: u64,
    act: impl FnOnce() -> anyhow::Result<T>,
) -> anyhow::Result<T> {
    let is_over = AtomicBool::new(false);
    let write = |uri: &str| {
        let Ok(mut guest) = BlockClient::connect_text(uri) else { return std::thread::sleep(LOOK_EVERY) };
        let block = vec![0x5A; 16 * BLOCK as usize];
        let mut dice = Dice::new(1);
        while !is_over.load(Ordering::Relaxed) {
            // The machine goes, and its disk with it.
            let Ok(at) = block_at(&mut dice, used_mib - 1) else { return };
            let Ok(()) = guest.write_at(at, &block) else { return };
        }
    };
    std::thread::scope(|scope| {
        if let Some(place) = place {
            scope.spawn(|| {
                while !is_over.load(Ordering::Relaxed) {
                    write(&place.uri);
                    write(&place.next_uri);
                }
            });
        }
        let done = act();
        is_over.store(true, Ordering::Relaxed);
        done
    })
}

/// The p99 of random reads of 4 KiB for a second, from when the disk lets somebody in. In microseconds.
fn reads_p99_us(uri: &str, used_mib: u64) -> anyhow::Result<f64> {
    let mut guest = interrupt::until("the disk lets its guest in", LOOK_EVERY, DEADLINE, || {
        Ok(BlockClient::connect_text(uri).ok())
    })?;
    let (begun, mut dice, mut took) = (Instant::now(), Dice::new(7), Vec::new());
    let mut block = vec![0; BLOCK as usize];
    while begun.elapsed() < READING {
        let asked = Instant::now();
        guest.read_at(block_at(&mut dice, used_mib)?, &mut block).context("cannot read the disk")?;
        took.push(asked.elapsed().as_secs_f64() * 1e6);
    }
    took.sort_by(f64::total_cmp);
    Ok(took[(took.len() * 99).div_ceil(100) - 1])
}

/// Where a block within so many MiB begins, by chance.
fn block_at(dice: &mut Dice, mib: u64) -> anyhow::Result<u64> {
    Ok(dice.below(usize::try_from(mib * MIB / BLOCK)?) as u64 * BLOCK)
}
