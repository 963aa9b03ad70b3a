//! The product's long bad day: two real agents, a machine that notes every record it was promised, moves back and forth,
//! and at random moments `kill -9` of agents, volume servers and the machine, and cancels. Whatever comes of a move, the
//! machine then runs exactly once, goes on, and every record and all other data is on its volume.
//!
//! As a test it is a few moves; `cargo xtask soak --what workers` is the same for as long as somebody wants. A seed gives
//! the same choices again, not the same moments.
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test ends at, and tells, what it did not expect"
)]

#[path = "../../../../xtask/src/soak/dice.rs"]
mod dice;
mod guest;
mod house;
mod pingpong;
mod postgres;
mod redis;
#[path = "../support/mod.rs"]
mod support;
mod undone;
mod used;

use dice::Dice;
use ferry_api::{Job, JobId, JobState, Machine, MachineState, StepState, VolumeKey};
use ferry_volume::control::{self, Phase};
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};
use support::cluster::{Cluster, Worker};
use support::crossing::{MACHINE, RING_BYTES, RING_OFFSET, USED_BYTES};
use support::sqlite::WRONG;
use support::until;

/// So many moves are enough for a test.
const MOVES: u64 = 6;
/// Nothing more goes wrong in a move after so many faults: then it must end.
const FAULTS_MAX: usize = 6;
/// A fault comes once in so many looks at the job.
const FAULT_ONCE_IN: usize = 8;
/// An agent that was killed is back after at most so many looks.
const AWAY_LOOKS_MAX: usize = 30;
/// So many records tell that the machine goes on.
const RECORDS_MORE: usize = 10;

/// Whether the machine runs on the target.
fn has_booted(job: &Job) -> bool {
    job.steps.iter().any(|step| step.step == "Boot" && step.state == StepState::Done)
}

#[derive(Debug, Default)]
struct Tally {
    moved: u64,
    failed: u64,
    cancelled: u64,
    agents_killed: u64,
    servers_killed: u64,
    machines_killed: u64,
}

impl Tally {
    fn moves(&self) -> u64 {
        self.moved + self.failed + self.cancelled
    }
}

struct Soak {
    cluster: Cluster,
    dice: Dice,
    tally: Tally,
    /// The worker that the machine is on.
    here: usize,
    /// Bytes that came from the worker before, in moves that were followed to their end.
    crossed_bytes: u64,
    /// How many looks until the agent of a worker is started again.
    away_looks: [usize; 2],
}

/// A number from the environment, as `cargo xtask soak` gives it.
fn told(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|value| value.parse().unwrap())
}

#[test]
fn a_machine_keeps_all_it_was_promised_whatever_dies_while_it_moves_back_and_forth() {
    let seed = told("FERRY_SOAK_SEED").unwrap_or(1);
    let minutes = told("FERRY_SOAK_MINUTES");
    let begun = Instant::now();
    let mut soak = Soak::start(seed, "retention_hours = 0");
    let is_over = |tally: &Tally| match minutes {
        Some(minutes) => begun.elapsed() >= Duration::from_secs(minutes * 60),
        None => tally.moves() >= MOVES,
    };
    while !is_over(&soak.tally) {
        soak.cross();
        soak.check();
        println!("soak: {} s, {:?}", begun.elapsed().as_secs(), soak.tally);
    }
}

impl Soak {
    /// Two workers without a machine.
    fn empty(seed: u64, lines: &str) -> Self {
        println!("soak: seed {seed} (the same choices again, not the same moments)");
        let cluster = Cluster::of(&[("w1", lines), ("w2", lines)]);
        Self {
            cluster,
            dice: Dice::new(seed),
            tally: Tally::default(),
            here: 0,
            crossed_bytes: 0,
            away_looks: [0; 2],
        }
    }

    /// A machine on the first worker, whose volume has some data and gets records.
    fn start(seed: u64, lines: &str) -> Self {
        let soak = Self::empty(seed, lines);
        let ferry = env!("CARGO_BIN_EXE_ferry");
        let diary = soak.diary();
        let diary = diary.to_str().expect("temporary directories have plain names");
        let (offset, len) = (RING_OFFSET.to_string(), RING_BYTES.to_string());
        let create =
            ["machine", "create", "writer", "--volume", "data=64MiB", "--", "/bin/sh", "-c", MACHINE];
        let writer =
            [diary, ferry, "demo-writer", "--acks", diary, "--ring-offset", &offset, "--ring-bytes", &len];
        let _: Machine = soak.here().ask(&[&create[..], &writer].concat());
        soak.wait_for_records();
        soak.demo("demo-fill", &[]);
        soak
    }

    /// One move with all that goes wrong in it, to its end.
    fn cross(&mut self) {
        let to = self.cluster.workers[1 - self.here].name.clone();
        let job: Job = self.here().ask(&["move", "writer", "--to", &to, "--detach"]);
        let mut faults = 0;
        let job = until("the move ends", || {
            self.come_back();
            if faults < FAULTS_MAX && self.dice.once_in(FAULT_ONCE_IN) {
                faults += 1;
                self.fault(job.id);
            }
            self.job(job.id).filter(|job| job.state.is_final())
        });
        match job.state {
            JobState::Succeeded => {
                self.tally.moved += 1;
                self.here = 1 - self.here;
            }
            JobState::Failed => self.tally.failed += 1,
            JobState::Cancelled => self.tally.cancelled += 1,
            JobState::Waiting | JobState::Running | JobState::Unwinding | JobState::Parked => {
                panic!("that is no end: {job:#?}")
            }
        }
    }

    /// The job as the worker that leads it says, if that answers.
    fn job(&self, id: JobId) -> Option<Job> {
        let said = self.here().ferry(&["job", "show", &id.to_string(), "--json"]);
        let job: Job = (said.code == Some(0)).then(|| serde_json::from_str(&said.stdout).unwrap())?;
        assert_ne!(job.state, JobState::Parked, "{job:#?}");
        Some(job)
    }

    fn fault(&mut self, job: JobId) {
        let side = self.dice.below(2);
        match self.dice.below(8) {
            0..3 => {
                if self.away_looks[side] == 0 {
                    self.cluster.workers[side].kill();
                    self.away_looks[side] = 1 + self.dice.below(AWAY_LOOKS_MAX);
                    self.tally.agents_killed += 1;
                }
            }
            3..6 => self.tally.servers_killed += self.kill_one("volume-server"),
            6 => self.tally.machines_killed += self.kill_one("demo-writer"),
            // Refused behind the hand-over, and by an agent that is away.
            _ => drop(self.here().ferry(&["job", "cancel", &job.to_string()])),
        }
    }

    /// Kills one of the processes that run this command of the program; tells how many that were.
    fn kill_one(&mut self, command: &str) -> u64 {
        let all = self.processes(command);
        let Some((worker, pid)) = all.get(self.dice.below(all.len())) else { return 0 };
        self.cluster.workers[*worker].kill_process(*pid);
        1
    }

    /// Agents whose time has come are started again.
    fn come_back(&mut self) {
        for (worker, looks) in self.cluster.workers.iter().zip(&mut self.away_looks) {
            if *looks > 0 {
                *looks -= 1;
                if *looks == 0 {
                    worker.start();
                }
            }
        }
    }

    /// The machine runs exactly once, on the worker it should be on, and has all it ever wrote.
    fn check(&mut self) {
        while self.away_looks != [0; 2] {
            self.come_back();
        }
        until("the machine runs", || {
            matches!(self.here().machine("writer").state, MachineState::Running { .. }).then_some(())
        });
        self.wait_for_records();
        let writers: Vec<usize> = self.processes("demo-writer").into_iter().map(|(on, _)| on).collect();
        assert_eq!(writers, [self.here], "the machine runs once, where it belongs");
        assert!(!self.diary().with_extension("clash").exists(), "two machines ran at once");
        let is_open = |dir: &PathBuf| {
            let status = control::Client::connect(dir).and_then(|mut client| client.status());
            status.is_ok_and(|status| status.phase == Phase::Open)
        };
        let open: Vec<PathBuf> = self.volume_dirs().into_iter().filter(is_open).collect();
        assert_eq!(open, [self.volume_dir()], "one volume may be written");
        let diary = self.diary();
        self.demo("demo-check", &["--acks", diary.to_str().expect("temporary directories have plain names")]);
    }

    fn here(&self) -> &Worker {
        &self.cluster.workers[self.here]
    }

    /// Runs one of the demo's commands on the machine's volume, which must succeed.
    fn demo(&self, command: &str, words: &[&str]) {
        let uri = format!("nbd+unix:///?socket={}", self.volume_dir().join("guest.sock").display());
        let mut demo = Command::new(env!("CARGO_BIN_EXE_ferry"));
        demo.args([command, "--uri", &uri, "--used", &USED_BYTES.to_string()]).args(words);
        let ended = demo.output().unwrap();
        assert!(ended.status.success(), "{command}: {}", support::text(&ended));
    }

    fn wait_for_records(&self) {
        let count = || {
            let diary = std::fs::read_to_string(self.diary()).unwrap_or_default();
            let wrong = diary.lines().find(|line| line.starts_with(WRONG));
            assert_eq!(wrong, None, "the machine does not find what it was promised");
            diary.lines().filter(|line| line.starts_with("ack ")).count()
        };
        let before = count();
        until("the machine writes records", || (count() >= before + RECORDS_MORE).then_some(()));
    }

    /// The processes that run this command of the program, each with its worker.
    fn processes(&self, command: &str) -> Vec<(usize, u32)> {
        let runs = |pid: &u32| {
            let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            line.split(|byte| *byte == 0).nth(1) == Some(command.as_bytes())
        };
        let workers = self.cluster.workers.iter().enumerate();
        workers
            .flat_map(|(on, worker)| worker.processes().into_iter().filter(runs).map(move |pid| (on, pid)))
            .collect()
    }

    fn volume_dirs(&self) -> Vec<PathBuf> {
        let dirs = self.cluster.workers.iter().map(|worker| worker.dir.join("volumes"));
        dirs.flat_map(|dir| std::fs::read_dir(dir).into_iter().flatten().flatten())
            .map(|entry| entry.path())
            .collect()
    }

    fn volume_dir(&self) -> PathBuf {
        let disk = &self.here().machine("writer").volumes[0];
        self.here().volume_dir(VolumeKey { id: disk.volume, generation: disk.generation })
    }

    fn diary(&self) -> PathBuf {
        self.cluster.dir().join("acks")
    }
}
