//! `cargo xtask sim`: clusters from seeds, in a release build: with what `ferry` is built from, many times as fast as in
//! a debug build, and event for event the same.

use std::path::Path;

use anyhow::{Context, bail};

use crate::ci;

/// The seeds that CI runs each time, besides those of the tests: the first, and how many.
const FIXED: (u64, u64) = (21, 500);
/// How many it runs that no earlier commit has run.
const FRESH: u64 = 500;
/// Hexadecimal digits of a commit's id that its fresh seeds begin at: a number that can still be typed.
const COMMIT_DIGITS: usize = 9;

/// Runs the simulator; what it may be told stands in `crates/ferry-sim/src/main.rs`.
pub fn run(root: &Path, wishes: &[&str]) -> anyhow::Result<()> {
    // Not by its package: so what it is built from is built for `ferry`, too.
    let arguments = ["run", "--release", "--locked", "--quiet", "--bin", "ferry-sim", "--"];
    let mut command = ci::cargo(root, &arguments);
    let status = command.args(wishes).status().context("cannot start cargo")?;
    if !status.success() {
        bail!("the simulator ended with {status}; `cargo xtask sim --seed N --trace` does a seed again");
    }
    Ok(())
}

/// What CI runs: the same seeds each time, and others for each commit.
pub fn run_for_ci(root: &Path) -> anyhow::Result<()> {
    run_from(root, FIXED.0, FIXED.1)?;
    match ci::commit(root).as_deref().and_then(first_fresh) {
        Some(first) => run_from(root, first, FRESH),
        None => {
            println!("sim: SKIP: there is no commit here that fresh seeds could follow from");
            Ok(())
        }
    }
}

fn run_from(root: &Path, first: u64, seeds: u64) -> anyhow::Result<()> {
    println!("--- sim: cargo xtask sim --seeds {seeds} --from {first}");
    run(root, &["--seeds", &seeds.to_string(), "--from", &first.to_string()])
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
