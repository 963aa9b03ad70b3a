//! Everything a change must pass, cheapest first, stopping at the first failure. People and CI run the same.

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context, bail};

/// About half a minute of it: a fixed part of everything at each moment. A point has 13 or 18 rows, so all sorts come up.
const SOME_ROWS: &[&str] = &["--all", "--every", "71"];
/// About half a minute of it.
const SHORT_SOAK: &[&str] = &["--kills", "10", "--seed", "1"];
const SHORT_SOAK_WITH_FIO: &[&str] = &["--what", "fio", "--kills", "10", "--seed", "1"];

/// How many tests ran and how they ended, summed over all test binaries.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
struct Tally {
    passed: u64,
    failed: u64,
    ignored: u64,
}

/// Runs every step in `root`. What comes behind the tests is run by the programs that they have built: another build, for release, would
/// take minutes in which nothing is tested.
pub fn run(root: &Path) -> anyhow::Result<()> {
    let begun = Instant::now();
    step(root, "formatting", &["fmt", "--all", "--check"])?;
    step(root, "clippy", &["clippy", "--workspace", "--all-targets", "--locked", "--", "-D", "warnings"])?;
    announce("tidy");
    crate::tidy::run(root)?;
    dependencies(root)?;
    announce("lab: the VM that tests move");
    crate::lab::vm(root)?;
    let tally = tests(root)?;
    let ferry = built(root, "ferry");
    play("demo", program(&ferry).arg("demo"))?;
    crate::sim::run_for_ci(root, &built(root, "ferry-sim"))?;
    play("drill", program(&ferry).arg("drill").args(SOME_ROWS))?;
    announce("soak");
    crate::soak::run(root, &with_program(SHORT_SOAK, &ferry)?)?;
    soak_with_fio(root, &ferry)?;
    println!("\nci: everything passed in {} s", begun.elapsed().as_secs());
    println!("{} passed, {} failed, {} skipped", tally.passed, tally.failed, tally.ignored);
    Ok(())
}

fn announce(name: &str) {
    println!("\n=== {name}");
}

/// The id of the commit that `root` is at.
pub fn commit(root: &Path) -> Option<String> {
    let told = Command::new("git").args(["rev-parse", "HEAD"]).current_dir(root).output().ok()?;
    told.status.success().then(|| String::from_utf8_lossy(&told.stdout).into_owned())
}

/// `cargo ARGUMENTS` in `root`.
pub fn cargo(root: &Path, arguments: &[&str]) -> Command {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command.args(arguments).current_dir(root);
    command
}

/// Where the tests' own build has put a program.
fn built(root: &Path, program: &str) -> PathBuf {
    crate::bench::target_dir(root).join("debug").join(program)
}

/// A program by where it is.
pub fn program(path: &Path) -> Command {
    Command::new(path)
}

fn step(root: &Path, name: &str, arguments: &[&str]) -> anyhow::Result<()> {
    play(name, &mut cargo(root, arguments))
}

/// Lets a command run, named and timed.
///
/// # Errors
/// It cannot be started, or fails.
pub fn play(name: &str, command: &mut Command) -> anyhow::Result<()> {
    let words: Vec<_> = [command.get_program()].into_iter().chain(command.get_args()).collect();
    let words = words.join(" ".as_ref()).to_string_lossy().into_owned();
    announce(&format!("{name}: {words}"));
    let begun = Instant::now();
    let status = command.status().with_context(|| format!("{name}: cannot start `{words}`"))?;
    if !status.success() {
        bail!("{name}: `{words}` failed ({status})");
    }
    println!("--- {name}: {} s", begun.elapsed().as_secs());
    Ok(())
}

/// What a soak is told, with the program that it is to run.
fn with_program<'a>(wishes: &[&'a str], ferry: &'a Path) -> anyhow::Result<Vec<&'a str>> {
    let ferry = ferry.to_str().context("soak: the target directory is to have a name in UTF-8")?;
    Ok([wishes, &["--ferry", ferry]].concat())
}

/// Licences, bans and sources; advisories too where their database can be had. The tool is not in Debian and takes
/// long to build, so its absence is said and tolerated, also in CI.
fn dependencies(root: &Path) -> anyhow::Result<()> {
    let works = |arguments: &[&str]| {
        let status = cargo(root, arguments).stdout(Stdio::null()).stderr(Stdio::null()).status();
        status.is_ok_and(|status| status.success())
    };
    if !works(&["deny", "--version"]) {
        announce("deny: SKIP: cargo-deny is not installed (cargo install --locked cargo-deny)");
        return Ok(());
    }
    step(root, "deny", &["deny", "--locked", "check", "bans", "licenses", "sources"])?;
    if !works(&["deny", "--locked", "fetch", "db"]) {
        announce("advisories: SKIP: their database cannot be fetched from here");
        return Ok(());
    }
    step(root, "advisories", &["deny", "--locked", "check", "advisories"])
}

/// Without fio it is said and tolerated at home, and a failure in CI.
fn soak_with_fio(root: &Path, ferry: &Path) -> anyhow::Result<()> {
    let is_ci = std::env::var_os("CI").is_some_and(|ci| ci == "true");
    if !is_ci && !crate::bench::processes::is_there("fio") {
        announce("soak with fio: SKIP: fio is not installed (apt-get install fio)");
        return Ok(());
    }
    announce("soak with fio");
    crate::soak::run(root, &with_program(SHORT_SOAK_WITH_FIO, ferry)?)
}

/// `cargo test`, every line of it passed on as it comes, and the results summed.
fn tests(root: &Path) -> anyhow::Result<Tally> {
    announce("test: cargo test --locked");
    let begun = Instant::now();
    let mut child = cargo(root, &["test", "--locked"])
        .stdout(Stdio::piped())
        .spawn()
        .context("test: cannot start cargo")?;
    let output = child.stdout.take().expect("stdout was piped a line above");
    let mut tally = Tally::default();
    for line in BufReader::new(output).lines() {
        let line = line.context("test: cannot read what cargo prints")?;
        writeln!(std::io::stdout(), "{line}").context("test: cannot print")?;
        tally.add(&line);
    }
    let status = child.wait().context("test: cannot wait for cargo")?;
    if !status.success() {
        bail!("test: `cargo test` failed ({status})");
    }
    if tally.passed == 0 {
        bail!("test: `cargo test` ran no test");
    }
    println!("--- test: {} s", begun.elapsed().as_secs());
    Ok(tally)
}

impl Tally {
    /// Adds what a line such as `test result: ok. 12 passed; 0 failed; 1 ignored; …` says; other lines say nothing.
    fn add(&mut self, line: &str) {
        let Some((_, counts)) = line.strip_prefix("test result: ").and_then(|rest| rest.split_once(". "))
        else {
            return;
        };
        for part in counts.split("; ") {
            let Some((count, word)) = part.split_once(' ') else { continue };
            let Ok(count) = count.parse::<u64>() else { continue };
            match word {
                "passed" => self.passed += count,
                "failed" => self.failed += count,
                "ignored" => self.ignored += count,
                _ => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_results_of_all_test_binaries_are_summed() {
        let mut tally = Tally::default();
        for line in [
            "running 3 tests",
            "test result: ok. 3 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.00s",
            "test result: FAILED. 2 passed; 4 failed; 0 ignored; 0 measured; 0 filtered out; finished in 1.2s",
            "my own test result: 9 passed",
        ] {
            tally.add(line);
        }
        assert_eq!(tally, Tally { passed: 5, failed: 4, ignored: 1 });
    }
}
