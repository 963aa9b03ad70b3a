//! A machine there and back, and the same program killed and started by hand.

use std::ffi::OsStr;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use ferry_volume::client::BlockClient;
use serde_json::Value;

use super::super::content::{MIB, Noise};
use super::super::processes::Process;
use super::agents::Agents;
use super::table::{Line, Samples};

/// What the machine runs: it does nothing, and ends when it is told to.
const PROGRAM: &str = "/bin/sleep";
const FOR_EVER: &str = "1000000";
/// Of the disk so much is in use.
const USED_MIB: u64 = 8;
const GOAL_MS: f64 = 100.0;

pub fn run(ferry: &Path, dir: &Path, moves: usize) -> anyhow::Result<Vec<Line>> {
    eprintln!("bench: {moves} moves");
    let agents = Agents::start(ferry, &dir.join("moves"))?;
    let machine = ["machine", "create", "web", "--volume", "data=64MiB", "--", PROGRAM, FOR_EVER];
    agents.ask(0, &machine)?;
    fill(&agents)?;
    let (mut jobs, mut by_hand) = (Vec::new(), Vec::new());
    // The first one finds everything cold.
    for number in 0..=moves {
        let (from, to) = (number % 2, ["w2", "w1"][number % 2]);
        let job = agents.ask(from, &["move", "web", "--to", to])?;
        ensure!(job["state"] == "succeeded", "a move did not succeed: {job}");
        by_hand.push(stop_and_start(dir)?.as_secs_f64() * 1_000.0);
        jobs.push(Job(job));
    }
    let (jobs, by_hand) = (&jobs[1..], Samples::of(by_hand.split_off(1)));
    let own = by_hand.median;
    let of =
        |of: &dyn Fn(&Job) -> anyhow::Result<f64>| jobs.iter().map(of).collect::<anyhow::Result<Vec<_>>>();
    let whole = of(&|job| Ok(job.whole_ms()? - job.step_ms("Hydrate")? - own))?;
    let away = of(&|job| Ok(job.between_ms("Stop", "Boot")? - own))?;
    let beside = format!("stop and start by hand {}", by_hand.told("ms"));
    let mut lines = vec![
        Line::new("a move, all but the machine's stop and start and the bytes", "ms", whole)
            .at_most(GOAL_MS)
            .beside(beside.clone()),
        Line::new("of it the machine is away", "ms", away).beside(beside),
    ];
    for step in
        ["Plan", "Reserve", "Prepare", "Stop", "Seal", "Activate", "Boot", "Hydrate", "Verify", "Retire"]
    {
        lines.push(Line::new(&format!("step {step}"), "ms", of(&|job| job.step_ms(step))?));
    }
    Ok(lines)
}

/// Writes the machine's disk, in part.
fn fill(agents: &Agents) -> anyhow::Result<()> {
    let volume = agents.ask(0, &["volume", "show", "data"])?;
    let uri = volume["guest_uri"].as_str().context("a volume has an address")?;
    let mut guest = BlockClient::connect_text(uri).context("cannot come to the machine's disk")?;
    let mut noise = Noise::new();
    for number in 0..USED_MIB {
        guest.write_at(number * MIB, noise.mebibyte(number)).context("cannot write the machine's disk")?;
    }
    guest.flush().context("cannot write the machine's disk")
}

/// How long it takes to end the machine's program and to start it again, without Ferry.
fn stop_and_start(dir: &Path) -> anyhow::Result<Duration> {
    let start = || Process::start(Path::new(PROGRAM), &[OsStr::new(FOR_EVER)], &dir.join("by-hand.log"));
    let mut machine = start()?;
    let begun = Instant::now();
    machine.end();
    let again = start()?;
    let took = begun.elapsed();
    drop(again);
    Ok(took)
}

/// A move that succeeded, as it is told.
struct Job(Value);

impl Job {
    fn whole_ms(&self) -> anyhow::Result<f64> {
        span_ms(&self.0["created_at_ms"], &self.0["finished_at_ms"])
    }

    fn step_ms(&self, step: &str) -> anyhow::Result<f64> {
        self.between_ms(step, step)
    }

    /// From when the first of these steps was begun until the last was done.
    fn between_ms(&self, first: &str, last: &str) -> anyhow::Result<f64> {
        span_ms(&self.step(first)?["started_at_ms"], &self.step(last)?["finished_at_ms"])
    }

    fn step(&self, name: &str) -> anyhow::Result<&Value> {
        let steps = self.0["steps"].as_array().context("a job has steps")?;
        steps.iter().find(|step| step["step"] == name).with_context(|| format!("a move has no {name}"))
    }
}

fn span_ms(from: &Value, to: &Value) -> anyhow::Result<f64> {
    let (from, to) = (from.as_u64().context("it has begun")?, to.as_u64().context("it has ended")?);
    Ok(to as f64 - from as f64)
}
