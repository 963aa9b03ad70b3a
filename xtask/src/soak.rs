//! `cargo xtask soak`: bad days that are as long as somebody wants, every byte checked.
//!
//! `volumes` a random guest on a volume that moves again and again while servers are killed · `fio` the same kills under
//! fio, which verifies what it wrote, behind `steady`, a client that outlives its server · `workers` two agents and a
//! machine that moves between them, which is a test of the program's that is told to go on · `pingpong` the same there and
//! back while nothing goes wrong, for so many moves · `database` that with a database on a filesystem · `postgres` PostgreSQL
//! with clients at the workers' proxies, for so many moves · `postgres-oci` that in a container · `redis` the same of Redis · `vm` a VM that moves cold, warm and live · `vm-kills` that while agents are killed · `oracle`, `dice`, `link`, `server`, `tally` what they share.
//!
//! A seed gives the same choices again, not the same moments: when a kill meets a server is up to the scheduler. So a
//! finding comes with what happened last and what the servers said, and is looked for with its seed many times.

pub mod dice;
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

const USAGE: &str = "usage: cargo xtask soak [--what volumes|fio|workers|pingpong|database|postgres|postgres-oci|redis|vm|vm-kills] [--minutes N | --kills N | --moves N] [--seed S] [--ferry PATH]";
const MINUTES_DEFAULT: u64 = 10;
const MOVES_DEFAULT: u64 = 1000;
/// Of a server with clients at the workers' proxies.
const SERVER_MOVES_DEFAULT: u64 = 10;
const VM_MOVES_DEFAULT: u64 = 10;
/// A request that nothing on purpose stands in the way of is answered within this time, or that is a finding. Far above
/// what a starved host takes for one request, for it is no measurement.
const PATIENCE: Duration = Duration::from_secs(60);

/// The tests that go on as long as they are told.
const SOAK: &str = "soak";
const VMS: &str = "vms";
const WORKERS: &str = "a_machine_keeps_all_it_was_promised_whatever_dies_while_it_moves_back_and_forth";
const PINGPONG: &str =
    "pingpong::a_machine_that_moves_there_and_back_loses_nothing_and_leaves_nothing_behind";
const DATABASE: &str = "pingpong::a_database_that_moves_there_and_back_keeps_every_commit_it_acknowledged";
const POSTGRES: &str = "postgres::a_postgres_that_moves_there_and_back_keeps_every_commit_and_refuses_nobody";
const POSTGRES_OCI: &str =
    "postgres::a_postgres_in_a_container_that_moves_there_and_back_keeps_every_commit_and_refuses_nobody";
const REDIS: &str = "redis::a_redis_that_moves_there_and_back_keeps_every_write_and_refuses_nobody";
const VM: &str = "a_vm_moves_cold_warm_and_live_told_of_it_inside_and_keeps_every_record_it_acknowledged";
const VM_KILLS: &str =
    "kills::a_vm_that_moves_while_agents_are_killed_runs_once_and_keeps_every_record_it_acknowledged";

#[derive(Clone, Copy)]
enum What {
    Volumes,
    Fio,
    Workers,
    Pingpong,
    Database,
    Postgres,
    PostgresOci,
    Redis,
    Vm,
    VmKills,
}

struct Wishes {
    what: What,
    until: Until,
    seed: u64,
    ferry: Option<PathBuf>,
}

/// Runs as `arguments` say; an error with the seed and the last steps at the first byte that is not as it must be.
pub fn run(root: &Path, arguments: &[&str]) -> anyhow::Result<()> {
    let Wishes { what, until, seed, ferry } = parse(arguments)?;
    let play = match what {
        What::Volumes => volumes::run,
        What::Fio => fio::run,
        What::Workers => return soak_test(root, SOAK, WORKERS, seed, &until, ferry.is_some()),
        What::Pingpong => return soak_test(root, SOAK, PINGPONG, seed, &until, ferry.is_some()),
        What::Database => return soak_test(root, SOAK, DATABASE, seed, &until, ferry.is_some()),
        What::Postgres => return soak_test(root, SOAK, POSTGRES, seed, &until, ferry.is_some()),
        What::PostgresOci => {
            return soak_test(root, SOAK, POSTGRES_OCI, seed, &until, ferry.is_some());
        }
        What::Redis => return soak_test(root, SOAK, REDIS, seed, &until, ferry.is_some()),
        What::Vm | What::VmKills => {
            crate::lab::vm(root)?;
            let test = if let What::Vm = what { VM } else { VM_KILLS };
            return soak_test(root, VMS, test, seed, &until, ferry.is_some());
        }
    };
    let ferry = match ferry {
        Some(path) => path.canonicalize().context("there is no such program")?,
        None => bench::release_build(root)?,
    };
    interrupt::watch()?;
    println!("soak: seed {seed} (the same choices again, not the same moments)");
    play(ferry, seed, until).with_context(|| format!("soak failed with seed {seed}"))
}

/// A test of the program for as long as is asked. It is one because workers are at home there.
fn soak_test(
    root: &Path,
    tests: &str,
    test: &str,
    seed: u64,
    until: &Until,
    has_program: bool,
) -> anyhow::Result<()> {
    let (name, value) = match until {
        Until::Minutes(minutes) => ("FERRY_SOAK_MINUTES", minutes),
        Until::Moves(moves) => ("FERRY_SOAK_MOVES", moves),
        Until::Kills(_) => unreachable!("no test is told how many kills"),
    };
    ensure!(!has_program, "workers soak with the program that their test is built with: leave out --ferry");
    let test =
        ["test", "--locked", "--package", "ferry", "--test", tests, "--", "--nocapture", "--exact", test];
    let status = crate::ci::cargo(root, &test)
        .env(name, value.to_string())
        .env("FERRY_SOAK_SEED", seed.to_string())
        .status()
        .context("cannot start cargo")?;
    ensure!(status.success(), "soak failed with seed {seed} ({status})");
    Ok(())
}

fn parse(mut arguments: &[&str]) -> anyhow::Result<Wishes> {
    let mut seed = jiff::Timestamp::now().as_millisecond().unsigned_abs();
    let (mut what, mut until, mut ferry) = (What::Volumes, None, None);
    while let [option, value, rest @ ..] = arguments {
        let number = || value.parse::<u64>().with_context(|| format!("`{value}` is no number\n{USAGE}"));
        match (*option, *value) {
            ("--what", "volumes") => what = What::Volumes,
            ("--what", "fio") => what = What::Fio,
            ("--what", "workers") => what = What::Workers,
            ("--what", "pingpong") => what = What::Pingpong,
            ("--what", "database") => what = What::Database,
            ("--what", "postgres") => what = What::Postgres,
            ("--what", "postgres-oci") => what = What::PostgresOci,
            ("--what", "redis") => what = What::Redis,
            ("--what", "vm") => what = What::Vm,
            ("--what", "vm-kills") => what = What::VmKills,
            ("--minutes", _) => until = Some(Until::Minutes(number()?)),
            ("--kills", _) => until = Some(Until::Kills(number()?)),
            ("--moves", _) => until = Some(Until::Moves(number()?)),
            ("--seed", _) => seed = number()?,
            ("--ferry", path) => ferry = Some(PathBuf::from(path)),
            _ => bail!("`{option} {value}` is not known\n{USAGE}"),
        }
        arguments = rest;
    }
    match arguments {
        [] => Ok(Wishes { what, until: ends(what, until)?, seed, ferry }),
        [alone, ..] => bail!("`{alone}` stands alone\n{USAGE}"),
    }
}

/// When a soak ends: as asked, if it can be told that.
fn ends(what: What, asked: Option<Until>) -> anyhow::Result<Until> {
    Ok(match (what, asked) {
        (What::Pingpong | What::Database, None) => Until::Moves(MOVES_DEFAULT),
        (What::Postgres | What::PostgresOci | What::Redis, None) => Until::Moves(SERVER_MOVES_DEFAULT),
        (What::Vm | What::VmKills, None) => Until::Moves(VM_MOVES_DEFAULT),
        (What::Volumes | What::Fio | What::Workers, None) => Until::Minutes(MINUTES_DEFAULT),
        (
            What::Pingpong
            | What::Database
            | What::Postgres
            | What::PostgresOci
            | What::Redis
            | What::Vm
            | What::VmKills,
            Some(until @ Until::Moves(_)),
        )
        | (What::Volumes | What::Fio, Some(until))
        | (What::Workers, Some(until @ Until::Minutes(_))) => until,
        (
            What::Pingpong
            | What::Database
            | What::Postgres
            | What::PostgresOci
            | What::Redis
            | What::Vm
            | What::VmKills,
            Some(_),
        ) => {
            bail!("that is counted in moves: give --moves\n{USAGE}")
        }
        (What::Workers, Some(_)) => bail!("workers soak for a time: give --minutes\n{USAGE}"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_soak_that_is_a_test_is_one() {
        // A name that no test has would run none, and succeed.
        let tests = Path::new(env!("CARGO_MANIFEST_DIR")).join("../crates/ferry/tests");
        let all: [(&str, &[&str]); 2] =
            [(SOAK, &[WORKERS, PINGPONG, DATABASE, POSTGRES, POSTGRES_OCI, REDIS]), (VMS, &[VM, VM_KILLS])];
        for (dir, names) in all {
            for name in names {
                let (file, name) = name.split_once("::").unwrap_or(("main", name));
                let text = std::fs::read_to_string(tests.join(dir).join(file).with_extension("rs")).unwrap();
                assert!(text.contains(&format!("fn {name}(")), "there is no {dir} {file}::{name}");
            }
        }
    }

    #[test]
    fn what_a_soak_cannot_be_told_is_refused() {
        let refused = |what| {
            let kinds: [fn(u64) -> Until; 3] = [Until::Minutes, Until::Kills, Until::Moves];
            kinds.map(|kind| ends(what, Some(kind(1))).is_err())
        };
        assert_eq!(refused(What::Pingpong), [true, true, false]);
        assert_eq!(refused(What::Database), [true, true, false]);
        assert_eq!(refused(What::Workers), [false, true, true]);
        assert_eq!(refused(What::Fio), [false, false, false]);
        let Ok(Until::Moves(MOVES_DEFAULT)) = ends(What::Database, None) else { panic!("so many by itself") };
    }
}
