//! `ferry-sim`: many seeds, or one again with its trace.

use ferry_sim::{Options, Outcome, Planted, run_all};
use std::collections::BTreeMap;
use std::io::{self, Write};
use std::process::ExitCode;
use std::time::Instant;

const USAGE: &str = "\
ferry-sim --seeds N [--from S]   runs N seeds from S on (1 unless told)
ferry-sim --seed N [--trace]     runs one seed again, with the end of its trace or all of it
          --calm                 nothing goes wrong
          --planted NAME         with a mistake on purpose";

struct Wishes {
    from: u64,
    seeds: u64,
    is_one: bool,
    trace: bool,
    calm: bool,
    planted: Option<Planted>,
}

impl Wishes {
    fn parse(mut words: impl Iterator<Item = String>) -> Option<Self> {
        let mut wishes =
            Self { from: 1, seeds: 100, is_one: false, trace: false, calm: false, planted: None };
        while let Some(word) = words.next() {
            match word.as_str() {
                "--seeds" => wishes.seeds = words.next()?.parse().ok()?,
                "--from" => wishes.from = words.next()?.parse().ok()?,
                "--seed" => {
                    wishes.from = words.next()?.parse().ok()?;
                    (wishes.seeds, wishes.is_one) = (1, true);
                }
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

fn main() -> ExitCode {
    match Wishes::parse(std::env::args().skip(1)) {
        None => {
            // Nobody may be listening.
            let _ = writeln!(io::stderr(), "{USAGE}");
            ExitCode::from(2)
        }
        Some(wishes) => match simulate(&wishes, &mut io::stdout()) {
            Ok(true) => ExitCode::SUCCESS,
            Ok(false) | Err(_) => ExitCode::FAILURE,
        },
    }
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
