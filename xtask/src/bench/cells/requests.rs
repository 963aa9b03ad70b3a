//! Reads and writes of a volume that is all local, beside qemu-nbd and nbdkit on files of the same content.

use std::path::PathBuf;

use super::super::content::{self, MIB};
use super::super::figures::{Goal, Outcome, Unit};
use super::super::fio::{Job, Length};
use super::super::peers::{Door, Kind, Peer};
use super::super::volume::Volume;
use super::super::{Bench, interrupt, processes};
use super::{OURS, alternate, compared};

const KIB: u64 = 1024;
/// Requests under way at a time in the sequential cells.
const SEQUENTIAL_DEPTH: u32 = 8;
const GOAL: Goal = Goal::AtLeast(1.0);

struct Cell {
    work: String,
    pattern: &'static str,
    request_bytes: u64,
    depth: u32,
    connections: u32,
    unit: Unit,
}

/// Who is measured: the fio address, and the file behind it.
struct Contender {
    name: &'static str,
    uri: String,
    file: PathBuf,
}

pub fn run(bench: &mut Bench) -> anyhow::Result<()> {
    let cells: Vec<Cell> = cells().into_iter().filter(|cell| bench.wants(&cell.work)).collect();
    if cells.is_empty() {
        return Ok(());
    }
    let works: Vec<String> = cells.iter().map(|cell| cell.work.clone()).collect();
    if !processes::is_there("fio") {
        bench.keep_all(&works, &Outcome::Skipped("fio is not installed".to_owned()));
        return Ok(());
    }
    eprintln!("bench: filling the volumes that are read and written");
    let servers = start(bench);
    interrupt::check()?;
    let (volume, files) = match servers {
        Ok(servers) => servers,
        Err(error) => {
            bench.keep_all(&works, &Outcome::Failed(format!("{error:#}")));
            return Ok(());
        }
    };
    for cell in &cells {
        bench.cell(&cell.work, |bench| measure_all(bench, cell, &volume, &files))?;
    }
    drop(volume);
    Ok(())
}

fn cells() -> Vec<Cell> {
    let mut cells = Vec::new();
    for (pattern, name) in [("randread", "read"), ("randwrite", "write")] {
        for (depth, connections) in [(1, 1), (1, 4), (32, 1), (32, 4)] {
            let plural = if connections == 1 { "" } else { "s" };
            cells.push(Cell {
                work: format!("4 KiB random {name}, qd {depth}, {connections} connection{plural}"),
                pattern,
                request_bytes: 4 * KIB,
                depth,
                connections,
                unit: Unit::RequestsPerS,
            });
        }
    }
    for (request_bytes, size) in [(128 * KIB, "128 KiB"), (MIB, "1 MiB")] {
        for pattern in ["read", "write"] {
            cells.push(Cell {
                work: format!("{size} sequential {pattern}, qd {SEQUENTIAL_DEPTH}"),
                pattern,
                request_bytes,
                depth: SEQUENTIAL_DEPTH,
                connections: 1,
                unit: Unit::MibPerS,
            });
        }
    }
    cells
}

fn start(bench: &Bench) -> anyhow::Result<(Volume, Vec<(Kind, PathBuf)>)> {
    let size_mib = bench.options.size_mib;
    let volume = Volume::filled(&bench.ferry, bench.path("ferry"), size_mib)?;
    let mut files = Vec::new();
    for kind in Kind::installed() {
        let file = bench.path(&format!("{}.raw", kind.program()));
        content::write_file(&file, size_mib)?;
        files.push((kind, file));
    }
    Ok((volume, files))
}

/// The others are started anew for each cell, so that one that ends by itself spoils no more than that.
fn measure_all(
    bench: &Bench,
    cell: &Cell,
    volume: &Volume,
    files: &[(Kind, PathBuf)],
) -> anyhow::Result<Outcome> {
    let start = |(kind, file): &(Kind, PathBuf)| {
        Peer::start(*kind, Door::Unix, bench.dir.path(), kind.program(), file)
    };
    let peers: Vec<Peer> = files.iter().map(start).collect::<anyhow::Result<_>>()?;
    let ours = Contender { name: OURS, uri: volume.uri(), file: volume.data() };
    let others = files.iter().zip(&peers).map(|((kind, file), peer)| Contender {
        name: kind.program(),
        uri: peer.uri.clone(),
        file: file.clone(),
    });
    let contenders: Vec<Contender> = std::iter::once(ours).chain(others).collect();
    let outcome = measure(bench, cell, &contenders);
    drop(peers);
    outcome
}

fn measure(bench: &Bench, cell: &Cell, contenders: &[Contender]) -> anyhow::Result<Outcome> {
    let values = alternate(bench.options.pairs, contenders, |contender| {
        // What another one left unwritten must not be written at this one's expense.
        for each in contenders {
            content::settle(&each.file)?;
        }
        let figures = Job {
            uri: &contender.uri,
            pattern: cell.pattern,
            request_bytes: cell.request_bytes,
            depth: cell.depth,
            connections: cell.connections,
            offset_bytes: 0,
            size_bytes: bench.options.size_mib * MIB,
            length: Length::Seconds(bench.options.seconds),
        }
        .run()?;
        Ok(match cell.unit {
            Unit::MibPerS => figures.mib_per_s,
            Unit::RequestsPerS | Unit::Micros | Unit::Seconds | Unit::Mib | Unit::Kib => {
                figures.requests_per_s
            }
        })
    })?;
    let names = contenders.iter().map(|contender| contender.name.to_owned()).collect();
    Ok(compared(names, values, cell.unit, GOAL))
}
