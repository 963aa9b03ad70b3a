//! `cargo xtask soak`: bad days that are as long as somebody wants, every byte checked.
//!
//! `volumes` a random guest on a volume that moves again and again while servers are killed · `fio` the same kills under
//! fio, which verifies what it wrote, behind `steady`, a client that outlives its server · `workers` two agents and a
//! machine that moves between them, which is a test of the program's that is told to go on · `pingpong` the same there and
//! back while nothing goes wrong, for so many moves · `oracle`, `dice`, `link`, `server`, `tally` what they share.
//!
//! A seed gives the same choices again, not the same moments: when a kill meets a server is up to the scheduler. So a
//! finding comes with what happened last and what the servers said, and is looked for with its seed many times.

mod dice;
mod fio;
mod link;
mod oracle;
mod server;
mod steady;
mod tally;
mod volumes;

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, bail, ensure};

use crate::bench;
use crate::bench::interrupt;
use tally::Until;

const USAGE: &str = "usage: cargo xtask soak [--what volumes|fio|workers|pingpong] [--minutes N | --kills N | --moves N] [--seed S] [--ferry PATH]";
const MINUTES_DEFAULT: u64 = 10;
const MOVES_DEFAULT: u64 = 1000;
/// A request that nothing on purpose stands in the way of is answered within this time, or that is a finding. Far above
/// what a starved host takes for one request, for it is no measurement.
const PATIENCE: Duration = Duration::from_secs(60);

#[derive(Clone, Copy)]
enum What {
    Volumes,
    Fio,
    Workers,
    Pingpong,
}

struct Wishes {
    what: What,
    until: Until,
    moves: u64,
    seed: u64,
    ferry: Option<PathBuf>,
}

/// Runs as `arguments` say; an error with the seed and the last steps at the first byte that is not as it must be.
pub fn run(root: &Path, arguments: &[&str]) -> anyhow::Result<()> {
    let Wishes { what, until, moves, seed, ferry } = parse(arguments)?;
    let play = match what {
        What::Volumes => volumes::run,
        What::Fio => fio::run,
        What::Workers => return workers(root, seed, &until, ferry.is_some()),
        What::Pingpong => return pingpong(root, seed, moves, ferry.is_some()),
    };
    let ferry = match ferry {
        Some(path) => path.canonicalize().context("there is no such program")?,
        None => bench::release_build(root)?,
    };
    interrupt::watch()?;
    println!("soak: seed {seed} (the same choices again, not the same moments)");
    play(ferry, seed, until).with_context(|| format!("soak failed with seed {seed}"))
}

/// The test `soak` of the program, for so many minutes. It is one because workers are at home there.
fn workers(root: &Path, seed: u64, until: &Until, has_program: bool) -> anyhow::Result<()> {
    let Until::Minutes(minutes) = until else {
        bail!("workers soak for a time: give --minutes instead of --kills\n{USAGE}");
    };
    let test = "a_machine_keeps_all_it_was_promised_whatever_dies_while_it_moves_back_and_forth";
    soak_test(root, test, seed, ("FERRY_SOAK_MINUTES", *minutes), has_program)
}

/// The same for so many moves in which nothing goes wrong.
fn pingpong(root: &Path, seed: u64, moves: u64, has_program: bool) -> anyhow::Result<()> {
    let test = "pingpong::a_machine_that_moves_there_and_back_loses_nothing_and_leaves_nothing_behind";
    soak_test(root, test, seed, ("FERRY_SOAK_MOVES", moves), has_program)
}

fn soak_test(
    root: &Path,
    test: &str,
    seed: u64,
    (name, value): (&str, u64),
    has_program: bool,
) -> anyhow::Result<()> {
    ensure!(!has_program, "workers soak with the program that their test is built with: leave out --ferry");
    let test =
        ["test", "--locked", "--package", "ferry", "--test", "soak", "--", "--nocapture", "--exact", test];
    let status = crate::ci::cargo(root, &test)
        .env(name, value.to_string())
        .env("FERRY_SOAK_SEED", seed.to_string())
        .status()
        .context("cannot start cargo")?;
    ensure!(status.success(), "soak failed with seed {seed} ({status})");
    Ok(())
}

fn parse(mut arguments: &[&str]) -> anyhow::Result<Wishes> {
    let now = jiff::Timestamp::now().as_millisecond().unsigned_abs();
    let until = Until::Minutes(MINUTES_DEFAULT);
    let mut wishes = Wishes { what: What::Volumes, until, moves: MOVES_DEFAULT, seed: now, ferry: None };
    while let [option, value, rest @ ..] = arguments {
        let number = || value.parse::<u64>().with_context(|| format!("`{value}` is no number\n{USAGE}"));
        match (*option, *value) {
            ("--what", "volumes") => wishes.what = What::Volumes,
            ("--what", "fio") => wishes.what = What::Fio,
            ("--what", "pingpong") => wishes.what = What::Pingpong,
            ("--moves", _) => wishes.moves = number()?,
            ("--what", "workers") => wishes.what = What::Workers,
            ("--minutes", _) => wishes.until = Until::Minutes(number()?),
            ("--kills", _) => wishes.until = Until::Kills(number()?),
            ("--seed", _) => wishes.seed = number()?,
            ("--ferry", path) => wishes.ferry = Some(PathBuf::from(path)),
            _ => bail!("`{option} {value}` is not known\n{USAGE}"),
        }
        arguments = rest;
    }
    match arguments {
        [] => Ok(wishes),
        [alone, ..] => bail!("`{alone}` stands alone\n{USAGE}"),
    }
}
