//! What a volume server weighs: resident memory, at rest and at the most while everything is asked of it.

use anyhow::Context;
use ferry_volume::control::Phase;

use super::super::content::MIB;
use super::super::figures::{Absolute, Goal, Outcome, Unit, median};
use super::super::fio::{Job, Length};
use super::super::machine::resident_mib;
use super::super::{Bench, processes};
use super::Source;

const IDLE: &str = "memory of a volume server, idle";
const LOADED: &str = "memory of a volume server, most under load";

/// What this module's cells are called.
pub const WORKS: [&str; 2] = [IDLE, LOADED];

const IDLE_MIB_MAX: f64 = 10.0;
const LOADED_MIB_MAX: f64 = 64.0;
/// The load: hydration flat out, and a guest with this much under way.
const DEPTH: u32 = 32;
const CONNECTIONS: u32 = 4;
const REQUEST_BYTES: u64 = 128 * 1024;

pub fn run(bench: &mut Bench, source: &Source) -> anyhow::Result<()> {
    bench.cell(IDLE, |bench| {
        let mut samples = Vec::new();
        for _ in 0..bench.options.pairs {
            let clone = source.paused_clone(bench, "clone")?;
            samples.push(resident_mib(clone.pid())?.0);
            drop(clone);
        }
        outcome(&samples, IDLE_MIB_MAX)
    })?;
    if bench.wants(LOADED) && !processes::is_there("fio") {
        bench.keep(LOADED, Outcome::Skipped("fio is not installed".to_owned()));
        return Ok(());
    }
    bench.cell(LOADED, |bench| {
        let mut samples = Vec::new();
        for _ in 0..bench.options.pairs {
            let clone = source.clone(bench, "clone", Phase::Open)?;
            Job {
                uri: &clone.uri(),
                pattern: "randrw",
                request_bytes: REQUEST_BYTES,
                depth: DEPTH,
                connections: CONNECTIONS,
                offset_bytes: 0,
                size_bytes: bench.options.hydration_mib * MIB,
                length: Length::Seconds(bench.options.seconds),
            }
            .run()?;
            samples.push(resident_mib(clone.pid())?.1);
            drop(clone);
        }
        outcome(&samples, LOADED_MIB_MAX)
    })
}

fn outcome(samples: &[f64], most: f64) -> anyhow::Result<Outcome> {
    let ours = median(samples).context("no round was run")?;
    Ok(Outcome::Measured(Absolute { unit: Unit::Mib, goal: Goal::AtMost(most), ours }))
}
