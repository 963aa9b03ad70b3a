//! A guest with a kernel that this host does not have, in which a script runs Ferry's program, and says row by row what it saw to
//! hold.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::Context;

use super::console::{said, until_heard};
use super::debian::{Kernel, Suite};
use super::guest::{self, Parts};
use super::{QEMU, has_qemu};
use crate::bench::processes::Process;

/// Room for what a row is about, in characters.
const WIDTH: usize = 66;

/// What is looked at.
pub struct Experiment {
    pub name: &'static str,
    /// Of which of Debian's suites the kernels are.
    pub suites: &'static [&'static str],
    pub modules: &'static [&'static str],
    /// Programs of this host that the guest uses, and the packages that they come in.
    pub programs: &'static [(&'static str, &'static str)],
    pub script: &'static str,
    /// How many rows a guest must have: a script that ends early has seen too little.
    pub rows: usize,
}

impl Experiment {
    /// Runs it with the program at `ferry`; downloads are kept in `kept`.
    pub fn run(&self, ferry: &Path, kept: &Path) -> anyhow::Result<()> {
        has_qemu()?;
        let mut programs = vec![ferry.to_path_buf()];
        for (program, package) in self.programs {
            programs.push(
                which(program)
                    .with_context(|| format!("{program} is missing: `apt-get install {package}`"))?,
            );
        }
        let kernels: anyhow::Result<Vec<Kernel>> =
            self.suites.iter().map(|suite| Suite::new(suite, kept).kernel()).collect();
        let kernels = match kernels {
            Ok(kernels) => kernels,
            Err(error) if std::env::var_os("CI").is_some_and(|ci| ci == "true") => return Err(error),
            Err(error) => {
                println!("SKIP lab {}: there is no kernel to boot: {error:#}", self.name);
                return Ok(());
            }
        };
        kernels.iter().try_for_each(|kernel| self.boot(kernel, &programs, kept))
    }

    /// Boots one kernel, and prints what its guest saw.
    fn boot(&self, kernel: &Kernel, programs: &[PathBuf], kept: &Path) -> anyhow::Result<()> {
        let tmp = tempfile::tempdir().context("cannot make a temporary directory")?;
        let parts = Parts { kernel, modules: self.modules, programs, script: self.script };
        let guest = guest::make(tmp.path(), kept, &parts)?;
        let mut arguments = guest.arguments();
        arguments.extend("-machine q35 -cpu max -smp 2 -m 2048".split(' ').map(OsString::from));
        let arguments: Vec<_> = arguments.iter().map(OsString::as_os_str).collect();
        let console = tmp.path().join("console");
        println!("lab: {}: Linux {} boots", self.name, kernel.version);
        let begun = Instant::now();
        let mut qemu = Process::start(Path::new(QEMU), &arguments, &console)?;
        let mut shown = 0;
        while shown < self.rows {
            until_heard(&mut qemu, &console, "the guest sees the next thing", |said| {
                rows(said).len() > shown
            })?;
            let said = said(&console);
            rows(&said)[shown..].iter().for_each(|(what, seen)| println!("| {what:WIDTH$} | {seen}"));
            shown = rows(&said).len();
        }
        until_heard(&mut qemu, &console, "the guest is done", |said| said.contains("LAB done\n"))?;
        let seconds = begun.elapsed().as_secs();
        println!("lab: {}: everything held, {seconds} s after QEMU was started", self.name);
        Ok(())
    }
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
