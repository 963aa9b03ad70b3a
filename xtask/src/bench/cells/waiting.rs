//! How long a guest waits: the first read of a block that is not there yet, and every request while a clone hydrates.

use std::num::NonZeroU64;

use anyhow::{Context, bail};

use super::super::content::MIB;
use super::super::figures::{Goal, Outcome, Unit};
use super::super::fio::{Figures, Job, Length};
use super::super::{Bench, content, processes};
use super::{OURS, Source, alternate, beside, compared};

const FIRST_READ: &str = "first read of a remote 4 KiB block, p50";
const GUEST_P50: &str = "guest's 4 KiB requests while hydrating, guard on, p50";
const GUEST_P99: &str = "guest's 4 KiB requests while hydrating, guard on, p99";

/// What this module's cells are called.
pub const WORKS: [&str; 3] = [FIRST_READ, GUEST_P50, GUEST_P99];

const FIRST_READ_GOAL: Goal = Goal::AtMost(1.2);
/// The goal is for the p99; the p50 is held to the same.
const GUEST_GOAL: Goal = Goal::AtMost(1.5);

const BLOCK_BYTES: u64 = 4096;
/// First reads a sample.
const FIRST_READS: u64 = 1000;
/// How many of them must have been cold, by the clone's own count: the rest may have been neighbours of a fetch.
const COLD_READS_MIN: u64 = FIRST_READS * 95 / 100;
/// What the guest works on while the rest hydrates: at the far end, which comes last.
const WORKING_SET_MIB: u64 = 32;
/// Length of a guest's run, in seconds: short, so that it ends before the hydration.
const GUEST_SECONDS: f64 = 1.0;
/// How long the guard has to find its pace before the guest is looked at, in seconds.
const GUARD_SECONDS: f64 = 1.5;
/// The guard is told to keep the p99 within so many times the calm one: a little less than the goal.
const GUARD_BOUND: f64 = 1.4;

pub fn run(bench: &mut Bench, source: &Source) -> anyhow::Result<()> {
    let wanted: Vec<String> = WORKS.into_iter().filter(|work| bench.wants(work)).map(str::to_owned).collect();
    if !processes::is_there("fio") {
        bench.keep_all(&wanted, &Outcome::Skipped("fio is not installed".to_owned()));
        return Ok(());
    }
    bench.cell(FIRST_READ, |bench| first_read(bench, source))?;
    if !bench.wants(GUEST_P50) && !bench.wants(GUEST_P99) {
        return Ok(());
    }
    // One run gives both rows.
    let mut rounds = None;
    bench.cell(GUEST_P50, |bench| {
        let rounds = rounds.insert(guest_rounds(bench, source)?);
        outcome(rounds, |figures| figures.p50_us)
    })?;
    bench.cell(GUEST_P99, |bench| {
        let rounds = match rounds {
            Some(rounds) => rounds,
            None => guest_rounds(bench, source)?,
        };
        outcome(&rounds, |figures| figures.p99_us)
    })
}

fn first_read(bench: &Bench, source: &Source) -> anyhow::Result<Outcome> {
    content::warm(&source.data())?;
    let values = alternate(bench.options.pairs, &[true, false], |ours| match ours {
        true => {
            let clone = source.paused_clone(bench, "clone")?;
            let figures = reads(bench, &clone.uri())?;
            let cold = clone.status()?.hydration.cold_reads;
            if cold < COLD_READS_MIN {
                bail!(
                    "only {cold} of {FIRST_READS} reads had to wait for the source: this measured something else"
                );
            }
            drop(clone);
            Ok(figures.p50_us)
        }
        // What `@` means to whoever parses the address is settled by writing it as its code.
        false => Ok(reads(bench, &source.uri.replace('@', "%40"))?.p50_us),
    })?;
    let names = vec![OURS.to_owned(), "straight from the source".to_owned()];
    Ok(compared(names, values, Unit::Micros, FIRST_READ_GOAL))
}

/// Random blocks, none twice, the same ones whoever serves.
fn reads(bench: &Bench, uri: &str) -> anyhow::Result<Figures> {
    let size_bytes = bench.options.hydration_mib * MIB;
    let length = Length::Requests(FIRST_READS);
    guest(uri, "randread", 0, size_bytes, length)
}

fn guest(
    uri: &str,
    pattern: &str,
    offset_bytes: u64,
    size_bytes: u64,
    length: Length,
) -> anyhow::Result<Figures> {
    let request_bytes = BLOCK_BYTES;
    Job { uri, pattern, request_bytes, depth: 1, connections: 1, offset_bytes, size_bytes, length }.run()
}

/// Of every round: the guest while the clone hydrates as fast as a guard lets it, and the same guest with hydration
/// paused.
fn guest_rounds(bench: &Bench, source: &Source) -> anyhow::Result<Vec<(Figures, Figures)>> {
    let mut rounds = Vec::new();
    for round in 0..bench.options.pairs {
        content::warm(&source.data())?;
        let clone = source.paused_clone(bench, "clone")?;
        let offset_bytes = (bench.options.hydration_mib - WORKING_SET_MIB) * MIB;
        let working_set_bytes = WORKING_SET_MIB * MIB;
        // Every block of the working set becomes the guest's own: no request waits for the source itself.
        let all = Length::Requests(working_set_bytes / BLOCK_BYTES);
        guest(&clone.uri(), "write", offset_bytes, working_set_bytes, all)?;
        content::settle(&clone.data())?;
        let run = |seconds| {
            guest(&clone.uri(), "randrw", offset_bytes, working_set_bytes, Length::Seconds(seconds))
        };
        let before = run(GUEST_SECONDS)?;
        let mut control = clone.control()?;
        control.set_guard(NonZeroU64::new((before.p99_us * GUARD_BOUND) as u64))?;
        control.resume_hydration()?;
        run(GUARD_SECONDS)?;
        let busy = run(GUEST_SECONDS)?;
        if clone.status()?.hydration.complete {
            bail!("the hydration ended before the guest did: choose a larger --hydration-mib");
        }
        control.pause_hydration()?;
        // Every second round is compared with the calm after it.
        let calm = if round % 2 == 0 { before } else { run(GUEST_SECONDS)? };
        drop(control);
        drop(clone);
        rounds.push((busy, calm));
    }
    Ok(rounds)
}

fn outcome(rounds: &[(Figures, Figures)], tell: impl Fn(&Figures) -> f64) -> anyhow::Result<Outcome> {
    let busy: Vec<f64> = rounds.iter().map(|(busy, _)| tell(busy)).collect();
    let calm: Vec<f64> = rounds.iter().map(|(_, calm)| tell(calm)).collect();
    let comparison = beside(&busy, "without hydration", &calm, Unit::Micros, GUEST_GOAL);
    comparison.map(Outcome::Compared).context("no round was run")
}
