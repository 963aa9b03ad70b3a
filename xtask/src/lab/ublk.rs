//! `cargo xtask lab ublk`: an agent and its volumes in a guest whose kernel has ublk, for this host's may have none. The
//! guest's script does everything and says what it saw.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::Context;

use super::console::{said, until_heard};
use super::debian::{Kernel, Suite};
use super::guest::{self, Parts};
use super::{QEMU, has_qemu};
use crate::bench::processes::Process;

/// A kernel whose devices cannot grow while they are used, and a later one.
const SUITES: [&str; 2] = ["trixie", "trixie-backports"];
const MODULES: &[&str] = &["ublk_drv", "loop"];
/// Programs of this host that the guest uses, and the packages that they come in.
const PROGRAMS: &[(&str, &str)] =
    &[("mke2fs", "e2fsprogs"), ("e2fsck", "e2fsprogs"), ("fstrim", "util-linux"), ("partx", "util-linux")];
/// How many rows a guest must have: a script that ends early has seen too little.
const ROWS: usize = 18;
/// Room for what a row is about, in characters.
const WIDTH: usize = 66;

/// Runs it with the program at `ferry`; downloads are kept in `kept`.
pub fn run(ferry: &Path, kept: &Path) -> anyhow::Result<()> {
    has_qemu()?;
    let mut programs = vec![ferry.to_path_buf()];
    for (program, package) in PROGRAMS {
        programs.push(
            which(program).with_context(|| format!("{program} is missing: `apt-get install {package}`"))?,
        );
    }
    let kernels: anyhow::Result<Vec<Kernel>> =
        SUITES.iter().map(|suite| Suite::new(suite, kept).kernel()).collect();
    let kernels = match kernels {
        Ok(kernels) => kernels,
        Err(error) if std::env::var_os("CI").is_some_and(|ci| ci == "true") => return Err(error),
        Err(error) => {
            println!("SKIP lab ublk: there is no kernel to boot: {error:#}");
            return Ok(());
        }
    };
    for kernel in kernels {
        boot(&kernel, &programs, kept)?;
    }
    Ok(())
}

fn which(program: &str) -> Option<PathBuf> {
    let dirs = ["/usr/sbin", "/sbin", "/usr/bin", "/bin"];
    dirs.iter().map(|dir| Path::new(dir).join(program)).find(|path| path.exists())
}

/// What the guest saw: each thing, and how.
fn rows(said: &str) -> Vec<(&str, &str)> {
    // The last line may not be complete, and the first may follow what the firmware said.
    let whole = said.rsplit_once('\n').map_or("", |(whole, _)| whole);
    whole.lines().filter_map(|line| line.split_once("LAB row ")?.1.split_once(" | ")).collect()
}

/// Boots one kernel, and prints what its guest saw.
fn boot(kernel: &Kernel, programs: &[PathBuf], kept: &Path) -> anyhow::Result<()> {
    let tmp = tempfile::tempdir().context("cannot make a temporary directory")?;
    let script = include_str!("ublk.sh");
    let guest = guest::make(tmp.path(), kept, &Parts { kernel, modules: MODULES, programs, script })?;
    let mut arguments = guest.arguments();
    arguments.extend("-machine q35 -cpu max -smp 2 -m 2048".split(' ').map(OsString::from));
    let arguments: Vec<_> = arguments.iter().map(OsString::as_os_str).collect();
    let console = tmp.path().join("console");
    println!("lab: ublk: Linux {} boots", kernel.version);
    let begun = Instant::now();
    let mut qemu = Process::start(Path::new(QEMU), &arguments, &console)?;
    let mut shown = 0;
    while shown < ROWS {
        until_heard(&mut qemu, &console, "the guest sees the next thing", |said| rows(said).len() > shown)?;
        let said = said(&console);
        rows(&said)[shown..].iter().for_each(|(what, seen)| println!("| {what:WIDTH$} | {seen}"));
        shown = rows(&said).len();
    }
    until_heard(&mut qemu, &console, "the guest is done", |said| said.contains("LAB done\n"))?;
    println!("lab: ublk: everything held, {} s after QEMU was started", begun.elapsed().as_secs());
    Ok(())
}
