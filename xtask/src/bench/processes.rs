//! Child processes: a server that is ended when its guard goes, and a tool that is run to its end.

use std::ffi::OsStr;
use std::io::{Read, Seek};
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use rustix::process::{Pid, Signal, kill_process_group};

use super::interrupt;

/// How often a running tool is looked at: what its measured time may be too long by.
const LOOK_EVERY: Duration = Duration::from_millis(1);
/// How long a tool may run before the bench gives it up.
const TOOL_DEADLINE: Duration = Duration::from_secs(600);

/// Takes the listening socket from stdin to where socket activation wants it.
const ACTIVATE: &str = "exec 3<&0 </dev/null; export LISTEN_PID=$$ LISTEN_FDS=1; exec \"$@\"";

/// A child that leads a process group of its own, for fio and others have children too. When dropped the group is
/// ended, and the child waited for.
pub struct Process {
    child: Child,
    name: String,
}

impl Process {
    /// Starts `program` with everything it says going to `log`.
    pub fn start(program: &Path, arguments: &[&OsStr], log: &Path) -> anyhow::Result<Self> {
        let mut command = Command::new(program);
        command.args(arguments).stdin(Stdio::null());
        Self::spawn(command, &program.display().to_string(), log)
    }

    /// Starts a server that takes over `listener`, by the protocol of systemd's socket activation: it can be
    /// connected to from the first moment, and nobody had to guess a free port.
    pub fn activate(
        program: &str,
        arguments: &[&str],
        listener: OwnedFd,
        log: &Path,
    ) -> anyhow::Result<Self> {
        let mut command = Command::new("sh");
        command.args(["-c", ACTIVATE, "sh", program]).args(arguments).stdin(Stdio::from(listener));
        Self::spawn(command, program, log)
    }

    fn spawn(mut command: Command, name: &str, log: &Path) -> anyhow::Result<Self> {
        let log = std::fs::File::options().create(true).append(true).open(log);
        let log = log.context("cannot open a log")?;
        let second = log.try_clone().context("cannot open a log")?;
        let child = command.stdout(second).stderr(log).process_group(0).spawn();
        let child = child.with_context(|| format!("cannot start {name}"))?;
        Ok(Self { child, name: name.to_owned() })
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// An error if it has ended.
    pub fn check(&mut self) -> anyhow::Result<()> {
        match self.child.try_wait().context("cannot look at a child process")? {
            Some(status) => bail!("{} ended by itself ({status})", self.name),
            None => Ok(()),
        }
    }
}

impl Process {
    /// Ends it and waits for that.
    pub fn end(&mut self) {
        // Once it was waited for, its process id may be another's: then there is nobody to end.
        if matches!(self.child.try_wait(), Ok(Some(_))) {
            return;
        }
        let killed = kill_process_group(Pid::from_child(&self.child), Signal::KILL);
        let ended = killed.map_err(std::io::Error::from).and_then(|()| self.child.wait());
        if let Err(error) = ended {
            eprintln!("bench: cannot end {} (process {}): {error}", self.name, self.child.id());
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.end();
    }
}

/// What a tool said, and how long it took.
pub struct Finished {
    pub stdout: String,
    pub took: Duration,
}

/// Runs `program` to its end; an error with what it said on stderr unless it succeeds.
pub fn run(program: &str, arguments: &[&str]) -> anyhow::Result<Finished> {
    let mut stdout = tempfile::tempfile().context("cannot make a temporary file")?;
    let mut stderr = tempfile::tempfile().context("cannot make a temporary file")?;
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::null());
    command.stdout(stdout.try_clone().context("cannot open a file twice")?);
    command.stderr(stderr.try_clone().context("cannot open a file twice")?);
    let begun = Instant::now();
    let child = command.process_group(0).spawn().with_context(|| format!("cannot start {program}"))?;
    let mut process = Process { child, name: program.to_owned() };
    let status = interrupt::until(&format!("{program} ends"), LOOK_EVERY, TOOL_DEADLINE, || {
        process.child.try_wait().context("cannot look at a child process")
    })?;
    let took = begun.elapsed();
    if !status.success() {
        bail!("`{program} {}` failed ({status}): {}", arguments.join(" "), text_of(&mut stderr)?.trim());
    }
    Ok(Finished { stdout: text_of(&mut stdout)?, took })
}

fn text_of(file: &mut std::fs::File) -> anyhow::Result<String> {
    let mut bytes = Vec::new();
    file.rewind().and_then(|()| file.read_to_end(&mut bytes)).context("cannot read what a tool said")?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// Whether `program` can be started here.
pub fn is_there(program: &str) -> bool {
    is_there_as(program, "--version")
}

/// Whether `program` can be started here with this argument, which asks for its version.
pub fn is_there_as(program: &str, version: &str) -> bool {
    let mut command = Command::new(program);
    command.arg(version).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command.status().is_ok_and(|status| status.success())
}
