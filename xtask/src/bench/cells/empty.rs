//! An enormous volume with nothing in it must cost next to nothing: time, map and memory follow what is in use.

use std::time::{Duration, Instant};

use anyhow::Context;
use ferry_volume::control::Phase;

use super::super::Bench;
use super::super::content::MIB;
use super::super::figures::{Absolute, Goal, Outcome, Unit, median};
use super::super::machine::resident_mib;
use super::super::volume::Volume;

const SIZE_BYTES: u64 = 8 * 1024 * 1024 * MIB;

const TIME: &str = "8 TiB with nothing in use: created, cloned, fully hydrated";
const MAP: &str = "8 TiB with nothing in use: the clone's map on disk";
const MEMORY: &str = "8 TiB with nothing in use: memory of the clone's server";

const SECONDS_MAX: f64 = 1.0;
/// In proportion to what is in use, which is nothing: a few pages.
const MAP_KIB_MAX: f64 = 64.0;
/// No more than any idle server.
const MEMORY_MIB_MAX: f64 = 10.0;

/// What one round gave.
struct Round {
    took: Duration,
    map_bytes: u64,
    resident_mib: f64,
}

pub fn run(bench: &mut Bench) -> anyhow::Result<()> {
    let mut rounds: Vec<Round> = Vec::new();
    // Whichever cell comes first makes the rounds for all.
    let mut cell = |bench: &mut Bench, work, unit, most, tell: fn(&Round) -> f64| {
        bench.cell(work, |bench| {
            while rounds.len() < bench.options.pairs {
                rounds.push(round(bench)?);
            }
            let samples: Vec<f64> = rounds.iter().map(tell).collect();
            let ours = median(&samples).context("no round was run")?;
            Ok(Outcome::Measured(Absolute { unit, goal: Goal::AtMost(most), ours }))
        })
    };
    cell(bench, TIME, Unit::Seconds, SECONDS_MAX, |round| round.took.as_secs_f64())?;
    cell(bench, MAP, Unit::Kib, MAP_KIB_MAX, |round| round.map_bytes as f64 / 1024.0)?;
    cell(bench, MEMORY, Unit::Mib, MEMORY_MIB_MAX, |round| round.resident_mib)
}

fn round(bench: &Bench) -> anyhow::Result<Round> {
    let begun = Instant::now();
    let home = Volume::start(&bench.ferry, bench.path("empty"), SIZE_BYTES, Phase::Open, None, None)?;
    let uri = home.seal_and_export()?;
    let clone =
        Volume::start(&bench.ferry, bench.path("empty-clone"), SIZE_BYTES, Phase::Open, Some(&uri), None)?;
    clone.wait_hydrated()?;
    let took = begun.elapsed();
    let round = Round { took, map_bytes: clone.map_bytes()?, resident_mib: resident_mib(clone.pid())?.0 };
    drop(clone);
    drop(home);
    Ok(round)
}
