//! `cargo xtask fuzz`: any bytes for the parsers of foreign bytes, one target after the other, for a given time each.
//! What must hold is said in `fuzz/src`; the stable tests `foreign_bytes` run the same in small.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, bail};

const SECONDS_DEFAULT: u64 = 60;
/// A target that takes more than this many MiB has found something without a bound.
const MEMORY_MIB_MAX: u32 = 1024;
/// A single input that takes longer than this many seconds has found something that hangs.
const INPUT_SECONDS_MAX: u32 = 10;

#[derive(Debug, PartialEq, Eq)]
struct Wishes<'a> {
    seconds: u64,
    /// None: all of them.
    target: Option<&'a str>,
}

/// Runs what `arguments` ask for in `root`; fails at the first target that finds something.
pub fn run(root: &Path, arguments: &[&str]) -> anyhow::Result<()> {
    let wishes = parse(arguments)?;
    let known = targets(root)?;
    let chosen: Vec<&String> =
        known.iter().filter(|name| wishes.target.is_none_or(|target| target == name.as_str())).collect();
    if chosen.is_empty() {
        bail!(
            "fuzz: there is no target {}; there are {}",
            wishes.target.unwrap_or("at all"),
            known.join(", ")
        );
    }
    check_tools(root)?;
    for target in &chosen {
        fuzz(root, target, wishes.seconds)?;
    }
    println!("\nfuzz: {} targets ran for {} s each and found nothing", chosen.len(), wishes.seconds);
    Ok(())
}

fn parse<'a>(arguments: &[&'a str]) -> anyhow::Result<Wishes<'a>> {
    let (seconds, target) = match arguments {
        [] => (None, None),
        ["--seconds", seconds] => (Some(*seconds), None),
        ["--seconds", seconds, target] | [target, "--seconds", seconds] => (Some(*seconds), Some(*target)),
        [target] if !target.starts_with('-') => (None, Some(*target)),
        _ => bail!("usage: cargo xtask fuzz [--seconds N] [TARGET]"),
    };
    let seconds = match seconds {
        None => SECONDS_DEFAULT,
        // libFuzzer takes 0 for "for ever".
        Some(text) => text
            .parse()
            .ok()
            .filter(|seconds| *seconds > 0)
            .with_context(|| format!("{text} is not a number of seconds; give 1 or more"))?,
    };
    Ok(Wishes { seconds, target })
}

/// The names of `fuzz/fuzz_targets/*.rs`, sorted.
fn targets(root: &Path) -> anyhow::Result<Vec<String>> {
    let folder = root.join("fuzz/fuzz_targets");
    let entries = fs::read_dir(&folder).with_context(|| format!("cannot read {}", folder.display()))?;
    let mut names = Vec::new();
    for entry in entries {
        let name = entry.with_context(|| format!("cannot read {}", folder.display()))?.file_name();
        names.extend(name.to_string_lossy().strip_suffix(".rs").map(str::to_owned));
    }
    names.sort();
    Ok(names)
}

/// A command of the nightly toolchain. The one that runs this chore is stable, and says so in the environment.
fn nightly(root: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new("rustup");
    command.args(["run", "nightly"]).args(arguments).current_dir(root);
    for name in ["CARGO", "RUSTC", "RUSTDOC", "RUSTUP_TOOLCHAIN"] {
        command.env_remove(name);
    }
    command
}

/// Says what is missing, and how to get it, before anything is built.
fn check_tools(root: &Path) -> anyhow::Result<()> {
    let works = |arguments: &[&str]| {
        let status = nightly(root, arguments).stdout(Stdio::null()).stderr(Stdio::null()).status();
        status.is_ok_and(|status| status.success())
    };
    if !works(&["rustc", "--version"]) {
        bail!(
            "fuzz: NOTHING WAS FUZZED: there is no nightly toolchain (rustup toolchain install nightly); \
             the small stable version is `cargo test --test foreign_bytes`"
        );
    }
    if !works(&["cargo", "fuzz", "--version"]) {
        bail!(
            "fuzz: NOTHING WAS FUZZED: cargo-fuzz is not installed (cargo install --locked cargo-fuzz); \
             the small stable version is `cargo test --test foreign_bytes`"
        );
    }
    Ok(())
}

/// What is found on the way stays under `fuzz/target/corpus`, and the next run begins with it.
fn fuzz(root: &Path, target: &str, seconds: u64) -> anyhow::Result<()> {
    println!("\n=== fuzz: {target} for {seconds} s");
    let (corpus, seeds) = (format!("fuzz/target/corpus/{target}"), format!("fuzz/seeds/{target}"));
    fs::create_dir_all(root.join(&corpus)).with_context(|| format!("cannot make {corpus}"))?;
    let (time, memory, timeout) = (
        format!("-max_total_time={seconds}"),
        format!("-rss_limit_mb={MEMORY_MIB_MAX}"),
        format!("-timeout={INPUT_SECONDS_MAX}"),
    );
    // The parsers are safe Rust: what a sanitizer finds is not what is looked for, and it halves the speed.
    let build =
        ["cargo", "fuzz", "run", "--sanitizer", "none", target, corpus.as_str(), seeds.as_str(), "--"];
    let limits = [time.as_str(), memory.as_str(), timeout.as_str(), "-print_final_stats=1"];
    let arguments = [build.as_slice(), limits.as_slice()].concat();
    let status = nightly(root, &arguments).status().context("fuzz: cannot start rustup")?;
    if !status.success() {
        bail!(
            "fuzz: {target} found something ({status}): its input is under fuzz/artifacts/{target}; \
             keep the smallest such as a test of the crate it belongs to, then mend it"
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wishes_may_come_in_either_order() {
        let wishes = |seconds, target| Wishes { seconds, target };
        assert_eq!(parse(&[]).unwrap(), wishes(SECONDS_DEFAULT, None));
        assert_eq!(parse(&["nbd_uri"]).unwrap(), wishes(SECONDS_DEFAULT, Some("nbd_uri")));
        assert_eq!(parse(&["--seconds", "5"]).unwrap(), wishes(5, None));
        assert_eq!(parse(&["--seconds", "5", "nbd_uri"]).unwrap(), wishes(5, Some("nbd_uri")));
        assert_eq!(parse(&["nbd_uri", "--seconds", "5"]).unwrap(), wishes(5, Some("nbd_uri")));
        for wrong in
            [&["--second"][..], &["--seconds"], &["--seconds", "0"], &["--seconds", "x"], &["a", "b"]]
        {
            parse(wrong).unwrap_err();
        }
    }

    #[test]
    fn every_target_has_seeds_and_a_wrong_name_is_told_the_right_ones() {
        let root = crate::workspace_root();
        let names = targets(&root).unwrap();
        assert!(!names.is_empty());
        for name in &names {
            assert!(root.join("fuzz/seeds").join(name).is_dir(), "{name} has no seeds");
        }
        let said = run(&root, &["nbd_uro"]).unwrap_err().to_string();
        assert!(said.contains("nbd_uro") && said.contains("nbd_uri"), "{said}");
    }
}
