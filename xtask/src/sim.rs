//! `cargo xtask sim`: clusters from seeds, in a release build: with what `ferry` is built from, many times as fast as in
//! a debug build, and event for event the same.

use std::path::Path;

use anyhow::Context;

use crate::ci;

/// The seeds that CI runs each time, besides those of the tests: the first, and how many.
const FIXED: (u64, u64) = (21, 30);
/// How many it runs that no earlier commit has run.
const FRESH: u64 = 100;
/// What to do about a broken promise.
const AGAIN: &str = "`cargo xtask sim --seed N --trace` does a seed again";
/// Hexadecimal digits of a commit's id that its fresh seeds begin at: a number that can still be typed.
const COMMIT_DIGITS: usize = 9;

/// Runs the simulator; what it may be told stands in `crates/ferry-sim/src/main.rs`.
pub fn run(root: &Path, wishes: &[&str]) -> anyhow::Result<()> {
    // Not by its package: so what it is built from is built for `ferry`, too.
    let arguments = ["run", "--release", "--locked", "--quiet", "--bin", "ferry-sim", "--"];
    ci::play("sim", ci::cargo(root, &arguments).args(wishes)).context(AGAIN)
}

/// What CI runs, with the simulator at `program`: the same seeds each time, and others for each commit.
pub fn run_for_ci(root: &Path, program: &Path) -> anyhow::Result<()> {
    run_from(program, FIXED.0, FIXED.1)?;
    match ci::commit(root).as_deref().and_then(first_fresh) {
        Some(first) => run_from(program, first, FRESH),
        None => {
            println!("sim: SKIP: there is no commit here that fresh seeds could follow from");
            Ok(())
        }
    }
}

fn run_from(program: &Path, first: u64, seeds: u64) -> anyhow::Result<()> {
    let (seeds, first) = (seeds.to_string(), first.to_string());
    ci::play("sim", ci::program(program).args(["--seeds", &seeds, "--from", &first])).context(AGAIN)
}

/// Where the fresh seeds of a commit begin.
fn first_fresh(commit: &str) -> Option<u64> {
    u64::from_str_radix(commit.get(..COMMIT_DIGITS)?, 16).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_fresh_seeds_of_a_commit_are_the_same_whenever_it_runs() {
        assert_eq!(first_fresh("000000001f9d1e6c\n"), Some(1));
        assert_eq!(first_fresh("fffffffff000\n"), Some((1 << 36) - 1));
        assert_eq!(first_fresh("HEAD\n"), None);
    }
}
