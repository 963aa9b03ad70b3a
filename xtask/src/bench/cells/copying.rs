//! Hydration of a whole volume over TCP, beside the tools that copy one: all end with the bytes durable at the
//! target, and every copy is looked at before its time counts.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::Context;
use ferry_volume::control::Phase;

use super::super::content::{self, MIB};
use super::super::figures::{Goal, Outcome, Unit};
use super::super::peers::{Door, Kind, Peer};
use super::super::{Bench, certificates, interrupt, processes};
use super::{OURS, Source, alternate, compared};

const GOAL: Goal = Goal::AtLeast(1.0);
const GOAL_OF_THE_PLAIN: Goal = Goal::AtLeast(0.9);
const PLAIN: &str = "the slower of plain disk write and loopback TCP";

/// The state of the page cache that the source reads from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Cache {
    Warm,
    Cold,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Tool {
    Nbdcopy,
    QemuImg,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Contender {
    Ferry,
    Copy(Tool, Kind),
}

/// What this module's cells are called, for these options.
pub fn works(bench: &Bench) -> Vec<String> {
    caches(bench)
        .into_iter()
        .flat_map(|cache| [work(bench, cache), work_of_the_plain(bench, cache)])
        .chain([work_with_tls(bench)])
        .collect()
}

fn caches(bench: &Bench) -> Vec<Cache> {
    if bench.options.warm_only { vec![Cache::Warm] } else { vec![Cache::Warm, Cache::Cold] }
}

fn work(bench: &Bench, cache: Cache) -> String {
    let cache = match cache {
        Cache::Warm => "warm",
        Cache::Cold => "cold",
    };
    format!("hydration of {} MiB, {cache} page cache", bench.options.hydration_mib)
}

fn work_of_the_plain(bench: &Bench, cache: Cache) -> String {
    format!("{}, beside plain copying", work(bench, cache))
}

fn work_with_tls(bench: &Bench) -> String {
    format!("{} and mutual TLS", work(bench, Cache::Warm))
}

pub fn run(bench: &mut Bench, source: &Source) -> anyhow::Result<()> {
    for cache in caches(bench) {
        bench.cell(&work(bench, cache), |bench| {
            let contenders = contenders(&[Tool::Nbdcopy, Tool::QemuImg]);
            let values = alternate(bench.options.pairs, &contenders, |contender| {
                sample(bench, source, *contender, cache)
            })?;
            Ok(compared(contenders.iter().map(name).collect(), values, Unit::MibPerS, GOAL))
        })?;
        bench.cell(&work_of_the_plain(bench, cache), |bench| {
            let values = alternate(bench.options.pairs, &[true, false], |ours| match ours {
                true => sample(bench, source, Contender::Ferry, cache),
                false => {
                    content::touch_memory(bench.options.hydration_mib);
                    plain(bench)
                }
            })?;
            let names = vec![OURS.to_owned(), PLAIN.to_owned()];
            Ok(compared(names, values, Unit::MibPerS, GOAL_OF_THE_PLAIN))
        })?;
    }
    Ok(())
}

/// The last of the cells that clone the source: from here on it speaks TLS.
pub fn run_with_tls(bench: &mut Bench, source: Source) -> anyhow::Result<()> {
    bench.cell(&work_with_tls(bench), |bench| {
        if !processes::is_there_as("openssl", "version") {
            return Ok(Outcome::Skipped(
                "openssl, which signs the certificates, is not installed".to_owned(),
            ));
        }
        let source = source.secured(bench, certificates::make(&bench.path("certificates"))?)?;
        let contenders = contenders(&[Tool::Nbdcopy]);
        let values = alternate(bench.options.pairs, &contenders, |contender| {
            sample(bench, &source, *contender, Cache::Warm)
        })?;
        Ok(compared(contenders.iter().map(name).collect(), values, Unit::MibPerS, GOAL))
    })
}

/// Ours and every pair of a copying tool and a kind of server that is installed.
fn contenders(tools: &[Tool]) -> Vec<Contender> {
    let kinds = Kind::installed();
    let mut contenders = vec![Contender::Ferry];
    for &tool in tools {
        let program = match tool {
            Tool::Nbdcopy => "nbdcopy",
            Tool::QemuImg => "qemu-img",
        };
        if processes::is_there(program) {
            contenders.extend(kinds.iter().map(|kind| Contender::Copy(tool, *kind)));
        } else {
            eprintln!("bench: SKIP: {program} is not installed: hydration is not compared with it");
        }
    }
    contenders
}

fn name(contender: &Contender) -> String {
    match contender {
        Contender::Ferry => OURS.to_owned(),
        Contender::Copy(Tool::Nbdcopy, kind) => format!("nbdcopy ({})", kind.program()),
        Contender::Copy(Tool::QemuImg, kind) => format!("qemu-img ({})", kind.program()),
    }
}

/// MiB a second of one whole copy.
fn sample(bench: &Bench, source: &Source, contender: Contender, cache: Cache) -> anyhow::Result<f64> {
    content::touch_memory(bench.options.hydration_mib);
    match cache {
        Cache::Warm => content::warm(&source.data())?,
        Cache::Cold => content::forget(&source.data())?,
    }
    let took = match contender {
        Contender::Ferry => hydrate(bench, source)?,
        Contender::Copy(tool, kind) => copy(bench, source, tool, kind)?,
    };
    Ok(rate(bench, took))
}

fn rate(bench: &Bench, took: Duration) -> f64 {
    bench.options.hydration_mib as f64 / took.as_secs_f64()
}

/// From opening a clone whose server runs until nothing of it is remote and its map on disk says so.
fn hydrate(bench: &Bench, source: &Source) -> anyhow::Result<Duration> {
    let clone = source.clone(bench, "clone", Phase::Standby)?;
    let begun = Instant::now();
    clone.control()?.open()?;
    clone.wait_hydrated()?;
    let took = begun.elapsed();
    content::check_file(&clone.data(), bench.options.hydration_mib)?;
    drop(clone);
    Ok(took)
}

/// The run of the copying tool between two servers that run; it flushes the target before it ends.
fn copy(bench: &Bench, source: &Source, tool: Tool, kind: Kind) -> anyhow::Result<Duration> {
    let file = bench.path("copy.raw");
    let target = std::fs::File::create(&file).context("cannot make a copy's file")?;
    target.set_len(bench.options.hydration_mib * MIB).context("cannot make a copy's file")?;
    drop(target);
    let door = source.tls.as_deref().map_or(Door::Tcp, Door::Tls);
    let from = Peer::start(kind, door, bench.dir.path(), "copy-source", &source.data())?;
    let to = Peer::start(kind, Door::Unix, bench.dir.path(), "copy-target", &file)?;
    let finished = match tool {
        Tool::Nbdcopy => processes::run("nbdcopy", &["--flush", &from.uri, &to.uri]),
        Tool::QemuImg => {
            // The target is new, as a clone's store is: qemu-img need not write its zeroes first. `-t writeback`
            // makes it flush, which it does not by itself; `-W` lets it write out of order, with more under way.
            let arguments = [
                "convert",
                "-n",
                "--target-is-zero",
                "-W",
                "-m",
                "16",
                "-f",
                "raw",
                "-O",
                "raw",
                "-t",
                "writeback",
            ];
            processes::run("qemu-img", &[&arguments[..], &[&from.uri, &to.uri]].concat())
        }
    };
    drop((from, to));
    let took = finished?.took;
    content::check_file(&file, bench.options.hydration_mib)?;
    std::fs::remove_file(&file).context("cannot remove a copy")?;
    Ok(took)
}

/// MiB a second of the slower one: a fresh file written and synced, or as many bytes over one loopback connection.
fn plain(bench: &Bench) -> anyhow::Result<f64> {
    let written = write_plainly(bench, bench.path("plain.raw"))?;
    let sent = send_plainly(bench)?;
    Ok(rate(bench, written.max(sent)))
}

fn write_plainly(bench: &Bench, path: PathBuf) -> anyhow::Result<Duration> {
    let mut noise = content::Noise::new();
    let chunk = noise.mebibyte(0);
    let begun = Instant::now();
    let mut file = std::fs::File::create(&path).context("cannot make a file")?;
    for _ in 0..bench.options.hydration_mib {
        file.write_all(chunk).context("cannot write a file")?;
    }
    file.sync_all().context("cannot sync a file")?;
    let took = begun.elapsed();
    std::fs::remove_file(&path).context("cannot remove a file")?;
    interrupt::check()?;
    Ok(took)
}

fn send_plainly(bench: &Bench) -> anyhow::Result<Duration> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("cannot listen")?;
    let address = listener.local_addr().context("cannot tell where we listen")?;
    let mut sender = TcpStream::connect(address).context("cannot connect to ourselves")?;
    let (mut receiver, _) = listener.accept().context("cannot accept ourselves")?;
    let mut noise = content::Noise::new();
    let chunk = noise.mebibyte(0);
    let begun = Instant::now();
    std::thread::scope(|scope| {
        let received = scope.spawn(move || {
            let mut buffer = vec![0; 1024 * 1024];
            while receiver.read(&mut buffer)? > 0 {}
            std::io::Result::Ok(())
        });
        for _ in 0..bench.options.hydration_mib {
            sender.write_all(chunk)?;
        }
        drop(sender);
        received.join().expect("reading a socket does not panic")
    })
    .context("cannot send over the loopback")?;
    Ok(begun.elapsed())
}
