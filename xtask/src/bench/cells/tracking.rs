//! What dirty tracking costs a guest that writes: the same writes to a volume with a mark that was just set, and to one
//! without any.

use super::super::content::{self, MIB};
use super::super::figures::{Goal, Outcome, Unit};
use super::super::fio::{Job, Length};
use super::super::volume::Volume;
use super::super::{Bench, processes};
use super::{alternate, compared};

/// At most 3 % slower.
const GOAL: Goal = Goal::AtLeast(0.97);
const CELLS: [(&str, &str, u64, u32); 3] = [
    ("4 KiB random write, qd 1, with a mark beside without", "randwrite", 4 << 10, 1),
    ("4 KiB random write, qd 32, with a mark beside without", "randwrite", 4 << 10, 32),
    ("1 MiB sequential write, qd 8, with a mark beside without", "write", MIB, 8),
];

pub fn run(bench: &mut Bench) -> anyhow::Result<()> {
    let cells: Vec<_> = CELLS.into_iter().filter(|(work, ..)| bench.wants(work)).collect();
    let works: Vec<String> = cells.iter().map(|(work, ..)| (*work).to_owned()).collect();
    if cells.is_empty() {
        return Ok(());
    }
    if !processes::is_there("fio") {
        bench.keep_all(&works, &Outcome::Skipped("fio is not installed".to_owned()));
        return Ok(());
    }
    let size_mib = bench.options.size_mib;
    let filled = |name: &str| Volume::filled(&bench.ferry, bench.path(name), size_mib);
    let (marked, plain) = match filled("marked").and_then(|marked| Ok((marked, filled("plain")?))) {
        Ok(volumes) => volumes,
        Err(error) => {
            bench.keep_all(&works, &Outcome::Failed(format!("{error:#}")));
            return Ok(());
        }
    };
    for (work, pattern, request_bytes, depth) in cells {
        bench.cell(work, |bench| {
            let contenders = [(&marked, true), (&plain, false)];
            let values = alternate(bench.options.pairs, &contenders, |&(volume, is_marked)| {
                content::settle(&marked.data())?;
                content::settle(&plain.data())?;
                let mut control = volume.control()?;
                // Anew each time: the first write of each region is what costs.
                let mark = if is_marked { Some(control.mark()?) } else { None };
                let figures = Job {
                    uri: &volume.uri(),
                    pattern,
                    request_bytes,
                    depth,
                    connections: 1,
                    offset_bytes: 0,
                    size_bytes: size_mib * MIB,
                    length: Length::Seconds(bench.options.seconds),
                }
                .run()?;
                if let Some(mark) = mark {
                    control.forget_mark(mark)?;
                }
                Ok(figures.requests_per_s)
            })?;
            let names = vec!["with a mark".to_owned(), "without".to_owned()];
            Ok(compared(names, values, Unit::RequestsPerS, GOAL))
        })?;
    }
    Ok(())
}
