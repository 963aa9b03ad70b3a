//! What it costs a guest that its volume server keeps track of what it does: the same requests to a volume with a mark and to
//! one without any; and to one that counts heat and to one that does not.

use anyhow::Context;

use super::super::content::{self, MIB};
use super::super::figures::{Goal, Outcome, Unit};
use super::super::fio::{Job, Length};
use super::super::volume::Volume;
use super::super::{Bench, processes};
use super::{alternate, compared};

/// At most 3 % slower.
const GOAL: Goal = Goal::AtLeast(0.97);

/// What is there in one of two runs.
#[derive(Clone, Copy, PartialEq)]
enum Tracked {
    /// A mark since which the guest has been writing for a run.
    SteadyMark,
    /// A mark that is set anew before each run: the first writes to a stretch are what costs.
    FreshMark,
    Heat,
}

struct Cell {
    work: &'static str,
    tracked: Tracked,
    pattern: &'static str,
    request_bytes: u64,
    depth: u32,
}

const CELLS: [Cell; 6] = [
    cell("4 KiB random write, qd 1, with a mark", Tracked::SteadyMark, "randwrite", 4 << 10, 1),
    cell("4 KiB random write, qd 32, with a mark", Tracked::SteadyMark, "randwrite", 4 << 10, 32),
    cell("1 MiB sequential write, qd 8, with a mark", Tracked::SteadyMark, "write", MIB, 8),
    cell("4 KiB random write, qd 32, from a mark on", Tracked::FreshMark, "randwrite", 4 << 10, 32),
    cell("4 KiB random read, qd 32, heat counted", Tracked::Heat, "randread", 4 << 10, 32),
    cell("4 KiB random write, qd 32, heat counted", Tracked::Heat, "randwrite", 4 << 10, 32),
];

const fn cell(
    work: &'static str,
    tracked: Tracked,
    pattern: &'static str,
    request_bytes: u64,
    depth: u32,
) -> Cell {
    Cell { work, tracked, pattern, request_bytes, depth }
}

pub fn run(bench: &mut Bench) -> anyhow::Result<()> {
    let cells: Vec<Cell> = CELLS.into_iter().filter(|cell| bench.wants(cell.work)).collect();
    let works: Vec<String> = cells.iter().map(|cell| cell.work.to_owned()).collect();
    if cells.is_empty() {
        return Ok(());
    }
    if !processes::is_there("fio") {
        bench.keep_all(&works, &Outcome::Skipped("fio is not installed".to_owned()));
        return Ok(());
    }
    let (tracked, plain) = match volumes(bench) {
        Ok(volumes) => volumes,
        Err(error) => {
            bench.keep_all(&works, &Outcome::Failed(format!("{error:#}")));
            return Ok(());
        }
    };
    for cell in cells {
        bench.cell(cell.work, |bench| cell.run(bench, &tracked, &plain))?;
    }
    Ok(())
}

/// One that is tracked, and one that counts no heat and never has a mark.
fn volumes(bench: &Bench) -> anyhow::Result<(Volume, Volume)> {
    let size_mib = bench.options.size_mib;
    let tracked = Volume::filled(&bench.ferry, bench.path("tracked"), size_mib)?;
    let mut plain = Volume::filled(&bench.ferry, bench.path("plain"), size_mib)?;
    plain.restart_without_heat(&bench.ferry)?;
    Ok((tracked, plain))
}

impl Cell {
    fn run(&self, bench: &Bench, tracked: &Volume, plain: &Volume) -> anyhow::Result<Outcome> {
        // A mark comes and goes; so that nothing else differs it is the same volume with it and without.
        let without = if self.tracked == Tracked::Heat { plain } else { tracked };
        let contenders = [(tracked, true), (without, false)];
        let values = alternate(bench.options.pairs, &contenders, |&(volume, is_tracked)| {
            content::settle(&tracked.data())?;
            content::settle(&plain.data())?;
            let mut control = volume.control()?;
            let is_marked = is_tracked && self.tracked != Tracked::Heat;
            let mark = if is_marked { Some(control.mark()?) } else { None };
            if self.tracked == Tracked::SteadyMark {
                self.guest(bench, volume)?;
                content::settle(&tracked.data())?;
            }
            let requests_per_s = self.guest(bench, volume)?;
            if let Some(mark) = mark {
                control.forget_mark(mark)?;
            }
            Ok(requests_per_s)
        })?;
        let names = vec!["with".to_owned(), "without".to_owned()];
        Ok(compared(names, values, Unit::RequestsPerS, GOAL))
    }

    fn guest(&self, bench: &Bench, volume: &Volume) -> anyhow::Result<f64> {
        let job = Job {
            uri: &volume.uri(),
            pattern: self.pattern,
            request_bytes: self.request_bytes,
            depth: self.depth,
            connections: 1,
            offset_bytes: 0,
            size_bytes: bench.options.size_mib * MIB,
            length: Length::Seconds(bench.options.seconds),
        };
        Ok(job.run().with_context(|| format!("the guest of `{}` failed", self.work))?.requests_per_s)
    }
}
