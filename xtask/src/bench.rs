//! `cargo xtask bench`: the volume server beside what people would take instead, in one run on one machine.
//! A cell takes its samples in alternating rounds, so that what else the machine does hits all alike, and ends as one
//! row of one table. A cell that misses its goal, fails or cannot run is a row too, never left out.

mod cells;
mod certificates;
mod connections;
mod content;
mod control;
mod directory;
mod figures;
mod fio;
mod gaps;
pub mod interrupt;
mod interruption;
mod live;
mod load;
mod machine;
mod options;
mod peers;
pub mod processes;
mod reasons;
mod report;
mod volume;

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, bail};
use figures::{Outcome, Row};
use options::{Options, What};

/// Where `--write` keeps the last table.
const KEPT_IN: &str = "docs/benchmarks.md";

/// What every cell works with.
struct Bench {
    options: Options,
    ferry: PathBuf,
    dir: tempfile::TempDir,
    rows: Vec<Row>,
}

/// Runs the bench as `arguments` say.
pub fn run(root: &Path, arguments: &[&str]) -> anyhow::Result<()> {
    if arguments.iter().any(|argument| matches!(*argument, "--help" | "-h" | "help")) {
        println!("{}", options::USAGE);
        return Ok(());
    }
    if let ["--answer", port] = arguments {
        return connections::answer(port);
    }
    let options = Options::parse(arguments)?;
    interrupt::watch()?;
    if options.what == What::Directory {
        return directory::run(root, &options);
    }
    let ferry = ferry_program(root, &options)?;
    let machine = machine::describe()?;
    let begun = jiff::Timestamp::now();
    let dir = match &options.dir {
        Some(parent) => tempfile::Builder::new().prefix("ferry-bench-").tempdir_in(parent),
        None => tempfile::Builder::new().prefix("ferry-bench-").tempdir(),
    };
    let dir = dir.context("cannot make a temporary directory; name another place with --dir")?;
    match options.what {
        What::Control => return control::run(root, &options, &ferry, dir.path()),
        What::Interruption => return interruption::run(root, &options, &ferry, dir.path()),
        What::Connections => return connections::run(root, &options, &ferry, dir.path()),
        What::Live => return live::run(root, &options, &ferry, dir.path()),
        What::Data | What::Directory => {}
    }
    let mut bench = Bench { options, ferry, dir, rows: Vec::new() };
    let outcome = cells::run_all(&mut bench);
    let Bench { options, dir, rows, .. } = bench;
    dir.close().context("cannot remove the temporary directory")?;
    outcome?;
    if rows.is_empty() {
        bail!("no cell's name contains `{}`", options.only.unwrap_or_default());
    }
    println!("{}", report::table(&rows));
    println!("{}", report::summary(&rows));
    if options.write {
        let path = root.join(KEPT_IN);
        let kept = std::fs::read_to_string(&path).unwrap_or_default();
        // What other runs have written stays.
        let page = report::page(&rows, &machine, begun, &options) + report::further_sections(&kept);
        std::fs::write(&path, page).with_context(|| format!("cannot write {}", path.display()))?;
        println!("kept in {KEPT_IN}");
    }
    match rows.iter().filter(|row| matches!(row.outcome, Outcome::Failed(_))).count() {
        0 => Ok(()),
        failed => bail!("bench: {failed} cells failed"),
    }
}

/// The program under test: the one that was named, or a fresh release build.
fn ferry_program(root: &Path, options: &Options) -> anyhow::Result<PathBuf> {
    if let Some(path) = &options.ferry {
        return path.canonicalize().with_context(|| format!("there is no ferry at {}", path.display()));
    }
    release_build(root)
}

/// Builds the program for release, as `cargo run --release` does; tells where it is.
pub fn release_build(root: &Path) -> anyhow::Result<PathBuf> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    // Not by its package, which would have it built again, with fewer features of what it is built from.
    let arguments = ["build", "--release", "--locked", "--bin", "ferry"];
    let status = Command::new(cargo).args(arguments).current_dir(root).status();
    let status = status.context("cannot start cargo")?;
    if !status.success() {
        bail!("`cargo {}` failed ({status})", arguments.join(" "));
    }
    Ok(target_dir(root).join("release/ferry"))
}

/// Where cargo puts what it builds.
pub fn target_dir(root: &Path) -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root.join("target"), |dir| root.join(dir))
}

impl Bench {
    /// Whether a cell of this name was asked for.
    fn wants(&self, work: &str) -> bool {
        let only = self.options.only.as_deref().unwrap_or_default();
        work.to_lowercase().contains(&only.to_lowercase())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Runs one cell if it was asked for; what goes wrong in it becomes its row, except an interrupt, which ends all.
    fn cell(
        &mut self,
        work: &str,
        measure: impl FnOnce(&Self) -> anyhow::Result<Outcome>,
    ) -> anyhow::Result<()> {
        if !self.wants(work) {
            return Ok(());
        }
        eprintln!("bench: {work}");
        let outcome = measure(self);
        interrupt::check()?;
        let outcome = outcome.unwrap_or_else(|error| Outcome::Failed(format!("{error:#}")));
        self.keep(work, outcome);
        Ok(())
    }

    /// Adds a row, and says at once when it holds no figure.
    fn keep(&mut self, work: &str, outcome: Outcome) {
        match &outcome {
            Outcome::Skipped(reason) => eprintln!("bench: SKIP: {work}: {reason}"),
            Outcome::Failed(reason) => eprintln!("bench: FAILED: {work}: {reason}"),
            Outcome::Compared(_) | Outcome::Measured(_) => {}
        }
        self.rows.push(Row { work: work.to_owned(), outcome });
    }

    /// Adds the same row without figures for every cell of these names that was asked for.
    fn keep_all(&mut self, works: &[String], outcome: &Outcome) {
        for work in works {
            if self.wants(work) {
                self.keep(work, outcome.clone());
            }
        }
    }
}
