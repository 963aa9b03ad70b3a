//! `ferry-sim`: many seeds, or one again with its trace.

use ferry_sim::fleet::{self, Fleet};
use ferry_sim::{Options, Outcome, Planted, run_all};
use std::collections::BTreeMap;
use std::io::{self, Write};
use std::process::ExitCode;
use std::time::Instant;

const USAGE: &str = "\
ferry-sim --seeds N [--from S]   runs N seeds from S on (1 unless told)
ferry-sim --seed N [--trace]     runs one seed again, with the end of its trace or all of it
          --calm                 nothing goes wrong
          --planted NAME         with a mistake on purpose
ferry-sim --fleet WORKERS,MACHINES,DRAINED [--calm] [--from S]
                                 drains some of many workers while agents die, and says what that took";

/// How often an agent of a fleet is killed, on average.
const KILLS_EVERY_MS: u64 = 1_000;

struct Wishes {
    from: u64,
    seeds: u64,
    is_one: bool,
    trace: bool,
    calm: bool,
    planted: Option<Planted>,
    fleet: Option<(usize, u64, usize)>,
}

impl Wishes {
    fn parse(mut words: impl Iterator<Item = String>) -> Option<Self> {
        let mut wishes = Self {
            from: 1,
            seeds: 100,
            is_one: false,
            trace: false,
            calm: false,
            planted: None,
            fleet: None,
        };
        while let Some(word) = words.next() {
            match word.as_str() {
                "--seeds" => wishes.seeds = words.next()?.parse().ok()?,
                "--from" => wishes.from = words.next()?.parse().ok()?,
                "--seed" => {
                    wishes.from = words.next()?.parse().ok()?;
                    (wishes.seeds, wishes.is_one) = (1, true);
                }
                "--fleet" => wishes.fleet = Some(fleet(&words.next()?)?),
                "--trace" => wishes.trace = true,
                "--calm" => wishes.calm = true,
                "--planted" => {
                    let name = words.next()?;
                    wishes.planted = Planted::ALL.into_iter().find(|planted| format!("{planted:?}") == name);
                    wishes.planted?;
                }
                _ => return None,
            }
        }
        Some(wishes)
    }
}

/// Workers, machines, and how many of the workers are drained.
fn fleet(text: &str) -> Option<(usize, u64, usize)> {
    let mut parts = text.split(',');
    let all = (parts.next()?.parse().ok()?, parts.next()?.parse().ok()?, parts.next()?.parse().ok()?);
    (all.2 < all.0 && parts.next().is_none()).then_some(all)
}

fn main() -> ExitCode {
    match Wishes::parse(std::env::args().skip(1)) {
        None => {
            // Nobody may be listening.
            let _ = writeln!(io::stderr(), "{USAGE}");
            ExitCode::from(2)
        }
        Some(wishes) => match wishes.run(&mut io::stdout()) {
            Ok(true) => ExitCode::SUCCESS,
            Ok(false) | Err(_) => ExitCode::FAILURE,
        },
    }
}

impl Wishes {
    fn run(&self, out: &mut impl Write) -> io::Result<bool> {
        match self.fleet {
            Some(of) => drain_fleet(of, self, out),
            None => simulate(self, out),
        }
    }
}

/// Drains some of many workers. Tells whether that ended as it should.
fn drain_fleet(
    (workers, machines, drained): (usize, u64, usize),
    wishes: &Wishes,
    out: &mut impl Write,
) -> io::Result<bool> {
    let begun = Instant::now();
    let kills_every_ms = (!wishes.calm).then_some(KILLS_EVERY_MS);
    let done = fleet::drain(Fleet { seed: wishes.from, workers, machines, drained, kills_every_ms });
    let resident = std::fs::read_to_string("/proc/self/status")?;
    let resident_kib = resident.lines().find_map(|line| {
        line.strip_prefix("VmHWM:")?.trim().strip_suffix(" kB")?.trim().parse::<usize>().ok()
    });
    writeln!(
        out,
        "{workers} workers with {machines} machines, {drained} drained at once: {} moves, {} agents killed, {} times a person was waited for\n\
         {} s by the fleet's clock, {:.1} s here; {} calls between agents, {} a move; {} KiB of memory a worker at most, its machines and disks included\n{}",
        done.moves,
        done.kills,
        done.parked,
        done.simulated_ms / 1_000,
        begun.elapsed().as_secs_f64(),
        done.calls,
        done.calls / done.moves.max(1),
        resident_kib.unwrap_or_default() / workers,
        done.found.as_deref().unwrap_or(
            "drained: nothing runs there and nothing is owed; all machines run elsewhere, each once"
        ),
    )?;
    Ok(done.found.is_none())
}

/// Tells whether all promises were kept.
fn simulate(wishes: &Wishes, out: &mut impl Write) -> io::Result<bool> {
    let begun = Instant::now();
    let (mut events, mut simulated_ms, mut tally) = (0, 0, BTreeMap::new());
    let mut broken = 0_u64;
    let mut written = Ok(());
    let all = (wishes.from..wishes.from + wishes.seeds).map(|seed| Options {
        planted: wishes.planted,
        whole_trace: wishes.trace,
        has_faults: !wishes.calm,
        ..Options::of_seed(seed)
    });
    run_all(all, |Options { seed, .. }, outcome| {
        events += outcome.events;
        simulated_ms += outcome.simulated_ms;
        outcome.tally.iter().for_each(|(what, times)| *tally.entry(*what).or_insert(0_u64) += times);
        let is_broken = outcome.found.is_some();
        if is_broken || wishes.is_one {
            let told = tell(out, seed, &outcome, wishes.is_one || broken == 0);
            written = std::mem::replace(&mut written, Ok(())).and(told);
        }
        broken += u64::from(is_broken);
    });
    written?;
    tally.iter().try_for_each(|(what, times)| writeln!(out, "{times:>9}  {what}"))?;
    writeln!(
        out,
        "{} seeds from {} on, {broken} of them broke a promise; {events} events, {} h simulated in {} s",
        wishes.seeds,
        wishes.from,
        simulated_ms / 3_600_000,
        begun.elapsed().as_secs()
    )?;
    Ok(broken == 0)
}

fn tell(out: &mut impl Write, seed: u64, outcome: &Outcome, with_trace: bool) -> io::Result<()> {
    if with_trace {
        outcome.lines.iter().try_for_each(|line| writeln!(out, "{line}"))?;
    }
    let found = outcome.found.as_deref().unwrap_or("every promise was kept");
    writeln!(out, "seed {seed}: {found} ({} events, {:016x})", outcome.events, outcome.fingerprint)
}
