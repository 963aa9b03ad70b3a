//! `cargo xtask model`: the crossing in small worlds, searched further than the tests do.

use std::time::Instant;

use anyhow::{Context, bail};
use ferry_model::{Groups, scope, search, search_groups};

/// Worlds of one kind that are searched unless told.
const WORLDS_MAX: usize = 3_000_000;

/// Searches the worlds that are meant; fails at the first broken promise.
pub fn run(wishes: &[&str]) -> anyhow::Result<()> {
    let (worlds_max, words) = match wishes {
        ["--worlds", count, words @ ..] => {
            (count.parse().with_context(|| format!("`{count}` is not a number of worlds"))?, words)
        }
        words => (WORLDS_MAX, words),
    };
    let words = words.join(" ");
    let meant: Vec<_> = scope::ALL.iter().filter(|(what, _)| what.contains(&words)).collect();
    let groups: Vec<_> = Groups::all().into_iter().filter(|(what, _)| what.contains(&words)).collect();
    if meant.is_empty() && groups.is_empty() {
        bail!("no world is described by `{words}`; `cargo xtask model` alone searches and names them all");
    }
    for (what, scope) in meant {
        println!("{what} ({} workers, {} volumes)", scope.workers, scope.volumes);
        let begun = Instant::now();
        let report = search(*scope, worlds_max);
        println!("  {report}; {} s", begun.elapsed().as_secs());
        if report.broken.is_some() {
            bail!("a promise can be broken; the shortest way is above");
        }
    }
    for (what, scope) in groups {
        println!("{what}");
        let begun = Instant::now();
        let report = search_groups(scope, worlds_max);
        println!("  {report}; {} s", begun.elapsed().as_secs());
        if report.broken.is_some() {
            bail!("a promise can be broken; the shortest way is above");
        }
    }
    Ok(())
}
