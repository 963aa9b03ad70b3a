//! Many jobs in one agent: moves that wait for their time, as a person asks for them.

use std::path::Path;
use std::time::Instant;

use anyhow::{Context, ensure};

use super::super::machine::resident_mib;
use super::agents::Agents;
use super::table::Line;

const GOAL_MIB: f64 = 100.0;
/// How often they are listed.
const LISTS: usize = 10;

pub fn run(ferry: &Path, dir: &Path, jobs: usize) -> anyhow::Result<Vec<Line>> {
    eprintln!("bench: {jobs} jobs");
    let agents = Agents::start(ferry, &dir.join("many"))?;
    agents.ask(0, &["machine", "create", "web", "--volume", "data=8MiB", "--", "/bin/sleep", "1000000"])?;
    let before = resident_mib(agents.pid(0))?.0;
    for _ in 0..jobs {
        agents.ask(0, &["move", "web", "--to", "w2", "--after", "24h", "--detach"])?;
    }
    let mut lists = Vec::new();
    for _ in 0..LISTS {
        let begun = Instant::now();
        let listed = agents.ask(0, &["job", "list"])?;
        lists.push(begun.elapsed().as_secs_f64() * 1_000.0);
        let listed = listed.as_array().context("jobs come as a list")?.len();
        ensure!(listed == jobs, "{listed} of {jobs} jobs are listed");
    }
    let (after, most) = resident_mib(agents.pid(0))?;
    let beside = format!("before them {before:.1} MiB, at the most {most:.1} MiB");
    Ok(vec![
        Line::new(&format!("memory of an agent with {jobs} jobs"), "MiB", vec![after])
            .at_most(GOAL_MIB)
            .beside(beside),
        Line::new(&format!("`ferry job list` of {jobs} jobs"), "ms", lists),
    ])
}
