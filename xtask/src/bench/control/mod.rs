//! `cargo xtask bench --what control`: what moves cost beside the machine's own stop and start and the bytes, how long an
//! append to a journal takes, and what many jobs weigh; each beside what the machine itself gives in the same run.

mod agents;
mod appends;
mod many;
mod moves;
mod table;

use std::path::Path;

use anyhow::Context;

use super::options::Options;
use super::{KEPT_IN, machine};
pub use agents::{Agents, SERVICES_AT};
pub use table::Line;

/// Runs all of it and prints the section of the page that is kept.
pub fn run(root: &Path, options: &Options, ferry: &Path, dir: &Path) -> anyhow::Result<()> {
    let machine = machine::describe()?;
    let begun = jiff::Timestamp::now();
    let mut lines: Vec<Line> = Vec::new();
    let mut keep = |figures: Vec<Line>| {
        figures.iter().for_each(|line| eprintln!("bench: {}", line.told()));
        lines.extend(figures);
    };
    keep(moves::run(ferry, dir, options.moves)?);
    keep(many::run(ferry, dir, options.jobs)?);
    keep(appends::run(root, dir, options.appends)?);
    let section = table::section(&lines, &machine, begun, options);
    tell(root, options, table::HEADING, &section)
}

/// Prints a section, and keeps it in the place of the former one of that heading if that is asked.
pub fn tell(root: &Path, options: &Options, heading: &str, section: &str) -> anyhow::Result<()> {
    println!("{section}");
    if options.write {
        let path = root.join(KEPT_IN);
        let page =
            std::fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
        let page = table::with_section(&page, heading, section);
        std::fs::write(&path, page).with_context(|| format!("cannot write {}", path.display()))?;
        println!("kept in {KEPT_IN}");
    }
    Ok(())
}
