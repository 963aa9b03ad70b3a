//! `cargo xtask sim`: clusters from seeds, in a debug build.

use std::path::Path;

use anyhow::{Context, bail};

/// Runs the simulator; what it may be told stands in `crates/ferry-sim/src/main.rs`.
pub fn run(root: &Path, wishes: &[&str]) -> anyhow::Result<()> {
    let arguments = ["run", "--locked", "--quiet", "-p", "ferry-sim", "--"];
    let mut command = crate::ci::cargo(root, &arguments);
    let status = command.args(wishes).status().context("cannot start cargo")?;
    if !status.success() {
        bail!(
            "the simulator ended with {status}; the seed that it names does the same again: --seed N --trace"
        );
    }
    Ok(())
}
