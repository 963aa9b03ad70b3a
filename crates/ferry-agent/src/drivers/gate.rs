//! The gate between fork and a machine's first instruction, so that no machine ever runs that the records do not know.
//!
//! The process is made as a shell that waits for a line on its standard input, its mark is recorded, then the line is
//! sent and the shell becomes the machine (`exec`: same process, same number). An agent that dies before leaves a shell
//! whose input ends, and that ends with it.

use super::watch::{Watch, mark_of};
use super::{DriverError, HeldMachine};
use crate::host::Doing;
use crate::records::ProcessMark;
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{ChildStdin, Command, Stdio};
use tokio::sync::{Mutex, MutexGuard};

/// What a machine gets of its agent's environment. The rest may be the agent's own secrets, and would differ from
/// worker to worker.
const KEPT_VARIABLES: [&str; 7] = ["PATH", "HOME", "USER", "SHELL", "LANG", "TZ", "TMPDIR"];
/// Waits for the gate to open and becomes the machine.
const GATE: &str = "IFS= read -r gate && [ \"$gate\" = open ] && exec \"$@\" </dev/null";
/// The line that opens the gate.
const OPEN: &[u8] = b"open\n";

/// Makes machines that wait behind their gates; one for all drivers of an agent.
#[derive(Debug, Default)]
pub struct Gates {
    /// One machine is made at a time: a process that is forked while a gate is made would hold it open.
    making: Mutex<()>,
}

/// What a gate becomes.
#[derive(Debug)]
pub(super) struct Behind<'a> {
    /// The program, as people know it.
    pub name: &'a str,
    /// The program and its arguments.
    pub words: &'a [OsString],
    /// Its environment and its working directory.
    pub clothes: Clothes<'a>,
    /// File its output is appended to.
    pub log: &'a Path,
}

/// What a machine has around it.
#[derive(Debug)]
pub(super) struct Clothes<'a> {
    /// Its environment, beside what every machine gets.
    pub env: Vec<&'a BTreeMap<String, String>>,
    /// Its working directory.
    pub workdir: &'a Path,
}

impl Clothes<'_> {
    /// Gives them to a command.
    pub fn put_on(&self, command: &mut Command) {
        let kept = KEPT_VARIABLES.into_iter().filter_map(|name| Some((name, std::env::var_os(name)?)));
        let env = self.env.iter().copied().flatten();
        command.env_clear().envs(kept).envs(env).current_dir(self.workdir);
    }
}

/// A machine behind its gate.
#[derive(Debug)]
pub(super) struct Held {
    mark: ProcessMark,
    watch: Watch,
    gate: ChildStdin,
}

impl Gates {
    /// To be held while something else is started.
    pub(super) async fn one_at_a_time(&self) -> MutexGuard<'_, ()> {
        self.making.lock().await
    }

    /// Makes a process that waits.
    pub(super) async fn hold(&self, behind: &Behind<'_>) -> Result<Held, DriverError> {
        let log = open_log(behind.log)?;
        let failed = |doing: &str| {
            let doing = format!("{doing} {}", behind.name);
            move |cause| DriverError::Io { doing, cause }
        };
        let _one_at_a_time = self.making.lock().await;
        let mut gate = Command::new("/bin/sh");
        gate.args(["-c", GATE, "ferry-machine"]).args(behind.words);
        behind.clothes.put_on(&mut gate);
        let mut child = gate
            .stdin(Stdio::piped())
            .stdout(log.try_clone().map_err(failed("log the output of"))?)
            .stderr(log)
            .process_group(0)
            .spawn()
            .map_err(failed("start"))?;
        let gate = child.stdin.take().expect("its standard input was asked for");
        let gone = || io::Error::other("its process ended at once");
        // Not reaped yet, so the number cannot be another process's.
        let watch = Watch::open(child.id()).and_then(|w| w.ok_or_else(gone)).map_err(failed("watch"))?;
        let mark = mark_of(child.id()).and_then(|m| m.ok_or_else(gone)).map_err(failed("watch"))?;
        Ok(Held { mark, watch, gate })
    }
}

impl HeldMachine for Held {
    fn mark(&self) -> &ProcessMark {
        &self.mark
    }

    fn release(mut self: Box<Self>) -> Result<Watch, DriverError> {
        let doing = || format!("let process {} run", self.mark.pid);
        self.gate.write_all(OPEN).map_err(|cause| DriverError::Io { doing: doing(), cause })?;
        Ok(self.watch)
    }

    fn abandon(self: Box<Self>) -> Doing<'static, ()> {
        let Self { watch, gate, .. } = *self;
        drop(gate);
        Box::pin(async move {
            watch.ended().await;
        })
    }
}

/// The process with this mark, if it still runs; what is left of its group is killed if it does not.
pub(super) fn find(mark: &ProcessMark) -> Result<Option<Watch>, DriverError> {
    let failed = |cause| DriverError::Io { doing: format!("look for process {}", mark.pid), cause };
    let found = Watch::find(mark).map_err(failed)?;
    if found.is_none() {
        Watch::kill_orphans(mark).map_err(failed)?;
    }
    Ok(found)
}

fn open_log(path: &Path) -> Result<File, DriverError> {
    let opened = OpenOptions::new().create(true).append(true).open(path);
    opened.map_err(|cause| DriverError::Io { doing: format!("open {}", path.display()), cause })
}
