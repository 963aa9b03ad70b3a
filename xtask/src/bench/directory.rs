//! `cargo xtask bench --what directory`: what it costs workers to know of each other, in fleets of several sizes. A fleet runs in one
//! thread by its own clock (`ferry_gossip::fleet`), every datagram really sealed and opened, so that times are those of the
//! protocol, whatever this machine does meanwhile; only the processor's time is measured here.

use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, ensure};
use ferry_gossip::fleet::Fleet;
use rustix::param::clock_ticks_per_second;

use super::control::tell;
use super::machine;
use super::options::Options;

/// The heading by which the section is found again.
const HEADING: &str = "## The directory";
const SIZES: [u16; 4] = [20, 100, 200, 1_000];
/// Of a thousand datagrams so many are lost.
const LOST_OF_1000: u32 = 10;
const SEED: u64 = 1;
/// How long a fleet is watched in peace.
const WATCHED: Duration = Duration::from_secs(60);
/// Each worker's machines change so often meanwhile, as in a drain of all.
const CHANGES: u64 = 1;
const PATIENCE: Duration = Duration::from_secs(600);

/// What a fleet of one size costs.
struct Cost {
    size: u16,
    found: Duration,
    told: Duration,
    missed: Duration,
    /// Of one worker, in a second.
    datagrams: f64,
    bytes: f64,
    compared_bytes: f64,
    /// Of one worker, in thousandths of a processor.
    cpu_permille: f64,
    pulls: f64,
}

/// Runs all of it and prints the section of the page that is kept.
pub fn run(root: &Path, options: &Options) -> anyhow::Result<()> {
    let (machine, begun) = (machine::describe()?, jiff::Timestamp::now());
    let costs: Vec<Cost> = SIZES.into_iter().map(cost).collect::<anyhow::Result<_>>()?;
    let rows: String = costs.iter().map(row).collect();
    let section = format!(
        "{HEADING}\n\n{}\n\nFleets by their own clock, every datagram sealed and opened; {LOST_OF_1000} of 1,000 are lost. The costs are those of one \
         worker over {} s in which the machines of each worker change {CHANGES} time. A pull is one question to another worker, over \
         a connection that is there already, for what has changed.\n\n\
         | workers | all know all after | news reach all after | a death is known to all after | datagrams/s | gossip B/s | digests B/s | pulls/s | CPU |\n\
         |---:|---:|---:|---:|---:|---:|---:|---:|---:|\n{rows}",
        machine.preamble("directory", begun),
        WATCHED.as_secs(),
    );
    tell(root, options, HEADING, &section)
}

fn row(cost: &Cost) -> String {
    let Cost { size, found, told, missed, datagrams, bytes, compared_bytes, cpu_permille, pulls } = cost;
    let s = |time: &Duration| time.as_secs_f64();
    format!(
        "| {size} | {:.1} s | {:.1} s | {:.1} s | {datagrams:.1} | {bytes:.0} | {compared_bytes:.0} | {pulls:.1} | {:.3} % |\n",
        s(found),
        s(told),
        s(missed),
        cpu_permille / 10.0
    )
}

fn cost(size: u16) -> anyhow::Result<Cost> {
    eprintln!("bench: directory, {size} workers");
    let mut fleet = Fleet::new(size, LOST_OF_1000, SEED);
    let late = |what: &str| format!("{size} workers: {what} not within {} s", PATIENCE.as_secs());
    let found = fleet.until(PATIENCE, Fleet::all_agree).with_context(|| late("all find each other"))?;
    fleet.change(0, 1);
    let told = fleet.until(PATIENCE, |fleet| fleet.all_know(0, 1)).with_context(|| late("news reach all"))?;

    let (before, cpu) = (fleet.traffic(), cpu_time()?);
    let workers = u64::from(size);
    let pause = WATCHED / u32::from(size);
    for of in 0..usize::from(size) {
        fleet.change(of, 2);
        fleet.run(pause);
    }
    let (after, cpu) = (fleet.traffic(), cpu_time()? - cpu);
    let each = |count: u64| count as f64 / f64::from(size) / WATCHED.as_secs_f64();

    fleet.kill(usize::from(size) / 2);
    let missed = fleet
        .until(PATIENCE, |fleet| fleet.all_miss(usize::from(size) / 2))
        .with_context(|| late("a death is known"))?;
    ensure!(
        (0..usize::from(size)).all(|of| fleet.all_know(of, 2) || of == usize::from(size) / 2),
        late("every change is known")
    );
    Ok(Cost {
        size,
        found,
        told,
        missed,
        datagrams: each(after.datagrams - before.datagrams),
        bytes: each(after.bytes - before.bytes),
        compared_bytes: each(after.compared_bytes - before.compared_bytes),
        cpu_permille: 1_000.0 * cpu.as_secs_f64() / f64::from(size) / WATCHED.as_secs_f64(),
        // Each change is asked for by each other worker, and each worker is asked as often as it asks.
        pulls: (workers - 1) as f64 * CHANGES as f64 / WATCHED.as_secs_f64(),
    })
}

/// Time that this process has had of processors.
fn cpu_time() -> anyhow::Result<Duration> {
    let stat = fs::read_to_string("/proc/self/stat").context("cannot read /proc/self/stat")?;
    let fields = stat.rsplit(')').next().unwrap_or_default();
    let ticks: u64 =
        fields.split_whitespace().skip(11).take(2).filter_map(|ticks| ticks.parse::<u64>().ok()).sum();
    Ok(Duration::from_secs_f64(ticks as f64 / clock_ticks_per_second() as f64))
}
