//! The processes of the demo, and of a drill: none of them may be left behind.
//!
//! Volume servers and machines outlive their agents on purpose, so ending the agents is not enough. The demo makes
//! itself the *subreaper* of all it starts (prctl(2)): whatever loses its parent becomes its child, is seen in
//! /proc as such, and is ended by its own id. A demo that was kept is ended later by another process: then its members
//! are those that run this program's parts on files in its directory. Invariant: nobody else is ever signalled.

use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::process::{Pid, PidfdFlags, Signal, WaitOptions, WaitStatus, pidfd_send_signal};

/// How long processes may take to end when asked, before they are killed.
const END_GRACE: Duration = Duration::from_secs(5);
/// How often is looked whether they have ended.
const END_POLL: Duration = Duration::from_millis(5);

/// Children that have ended, by process id.
#[derive(Clone, Debug, Default)]
pub struct Ended(Arc<Mutex<BTreeMap<u32, WaitStatus>>>);

impl Ended {
    /// How the child ended, if it did.
    pub fn of(&self, pid: u32) -> Option<WaitStatus> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get(&pid).copied()
    }

    /// Takes note of children as they end. Their agents look for them by process id, so the dead must not linger.
    ///
    /// # Errors
    /// This program cannot see its children end.
    pub async fn reap_for_ever(&self) -> Result<std::convert::Infallible> {
        use tokio::signal::unix::{SignalKind, signal};
        let mut child_ended =
            signal(SignalKind::child()).context("this program cannot see its children end")?;
        loop {
            self.reap();
            child_ended.recv().await;
        }
    }

    /// Takes note of all children that have ended since.
    pub fn reap(&self) {
        // An error means that there is no child left.
        while let Ok(Some((pid, status))) = rustix::process::wait(WaitOptions::NOHANG) {
            let pid = pid.as_raw_nonzero().get().unsigned_abs();
            self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(pid, status);
        }
    }
}

/// Makes this process the parent of every descendant whose own parent ends.
///
/// # Errors
/// The kernel refuses.
pub fn become_subreaper() -> Result<()> {
    rustix::process::set_child_subreaper(Some(rustix::process::getpid()))
        .context("this program cannot adopt the processes it starts")
}

/// Starts this program again with `args` in a process group of its own, so that ctrl-C reaches only the demo itself.
/// Its output goes to the end of `log`; it finds programs of `bin` before any others.
///
/// # Errors
/// The program cannot be started.
pub fn start_self(args: &[&std::ffi::OsStr], log: &Path, bin: Option<&Path>) -> Result<u32> {
    use std::os::unix::process::CommandExt;

    let program = std::env::current_exe().context("this program cannot find its own file")?;
    let output = std::fs::OpenOptions::new().create(true).append(true).open(log);
    let output = output.with_context(|| format!("{} cannot be made", log.display()))?;
    let errors = output.try_clone().context("a file cannot be opened twice")?;
    let mut command = Command::new(&program);
    if let Some(bin) = bin {
        let others = std::env::var_os("PATH").unwrap_or_default();
        let all = std::iter::once(bin.to_owned()).chain(std::env::split_paths(&others));
        command.env(
            "PATH",
            std::env::join_paths(all).context("a directory of programs has a colon in its name")?,
        );
    }
    let child = command
        .args(args)
        .stdin(Stdio::null())
        .stdout(output)
        .stderr(errors)
        .process_group(0)
        .spawn()
        .with_context(|| format!("{} cannot be started", program.display()))?;
    Ok(child.id())
}

/// Ends the agents `first` (so that nobody starts anything again) and then every other descendant.
pub fn end_all(first: &[u32], ended: &Ended) {
    end(&|| first.iter().copied().filter(|pid| ended.of(*pid).is_none()).collect(), ended);
    end(&|| descendants().into_iter().collect(), ended);
}

/// The living processes with a command line (as in /proc: each word ends in a NUL) that `is_wanted`.
pub fn find(is_wanted: impl Fn(&[u8]) -> bool) -> Vec<u32> {
    let is_found = |pid: &u32| is_wanted(&command_line(*pid)) && parent_of_living(*pid).is_some();
    all_pids().into_iter().filter(is_found).collect()
}

/// Sends a signal to the processes that [`find`] gives; answers those that it reached.
fn signal(is_wanted: impl Fn(&[u8]) -> bool, signal: Signal) -> Vec<OwnedFd> {
    let mut reached = Vec::new();
    for pid in find(&is_wanted) {
        let Some(id) = i32::try_from(pid).ok().and_then(Pid::from_raw) else { continue };
        let Ok(process) = rustix::process::pidfd_open(id, PidfdFlags::empty()) else { continue };
        // The number may have become another one's between the look and the descriptor.
        if is_wanted(&command_line(pid)) && pidfd_send_signal(&process, signal).is_ok() {
            reached.push(process);
        }
    }
    reached
}

/// Processes that stand still. Dropped, it lets them go on.
pub struct Frozen(Vec<OwnedFd>);

impl Drop for Frozen {
    fn drop(&mut self) {
        for process in &self.0 {
            // One that was killed meanwhile is gone.
            let _ = pidfd_send_signal(process, Signal::CONT);
        }
    }
}

/// Has the processes that [`find`] gives stand still.
pub fn freeze(is_wanted: impl Fn(&[u8]) -> bool) -> Frozen {
    Frozen(signal(is_wanted, Signal::STOP))
}

/// The command lines of all living processes.
pub fn command_lines() -> Vec<Vec<u8>> {
    // What has ended has none.
    all_pids().into_iter().map(command_line).filter(|line| !line.is_empty()).collect()
}

/// Kills the processes that [`find`] gives, as `kill -9` does, and returns when they are gone. Tells how many there were.
///
/// # Errors
/// The kernel refuses.
pub fn kill(is_wanted: impl Fn(&[u8]) -> bool) -> Result<usize> {
    let dying = signal(is_wanted, Signal::KILL);
    for process in &dying {
        let mut ended = [PollFd::new(process, PollFlags::IN)];
        poll(&mut ended, None).context("a process that was killed cannot be waited for")?;
    }
    Ok(dying.len())
}

/// Ends everything of the kept demo or drill in `dir`, agents first.
pub fn end_kept(dir: &Path) {
    let ended = Ended::default();
    for part in [&["agent"][..], &["agent", "volume-server", "demo-writer", "drill-vm", "drill-hook"]] {
        end(&|| find(|line| runs_part(line, part, dir)), &ended);
    }
}

/// Empty for what is gone or only waits to be noticed as dead.
fn command_line(pid: u32) -> Vec<u8> {
    std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default()
}

/// Whether this command line (as in /proc) is that of one of `parts` of this program on something in `dir`.
pub fn runs_part(line: &[u8], parts: &[&str], dir: &Path) -> bool {
    use std::os::unix::ffi::OsStrExt;
    let mut words = line.split(|byte| *byte == 0).map(std::ffi::OsStr::from_bytes);
    let part = words.nth(1);
    part.is_some_and(|word| parts.iter().any(|part| word == *part))
        && words.any(|word| word != dir.as_os_str() && Path::new(word).starts_with(dir))
}

/// Whether a process has this file open.
pub fn has_open(pid: u32, path: &Path) -> bool {
    // As the kernel knows it.
    let Ok(path) = std::fs::canonicalize(path) else { return false };
    let open = std::fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
    open.filter_map(|entry| std::fs::read_link(entry.path()).ok()).any(|open| open == path)
}

/// All living descendants of this process.
pub fn descendants() -> BTreeSet<u32> {
    let mut children_of: BTreeMap<u32, Vec<u32>> = BTreeMap::new();
    for pid in all_pids() {
        if let Some(parent) = parent_of_living(pid) {
            children_of.entry(parent).or_default().push(pid);
        }
    }
    let mut found = BTreeSet::new();
    let mut looked_at = vec![std::process::id()];
    while let Some(pid) = looked_at.pop() {
        for child in children_of.get(&pid).into_iter().flatten() {
            if found.insert(*child) {
                looked_at.push(*child);
            }
        }
    }
    found
}

/// Asks the processes that `still_there` names to end, and kills what is left after the grace time.
fn end(still_there: &dyn Fn() -> Vec<u32>, ended: &Ended) {
    for signal in [Signal::TERM, Signal::KILL] {
        ended.reap();
        still_there().into_iter().for_each(|pid| send(pid, signal));
        let deadline = Instant::now() + END_GRACE;
        while Instant::now() < deadline {
            ended.reap();
            if still_there().is_empty() {
                return;
            }
            std::thread::sleep(END_POLL);
        }
    }
}

fn send(pid: u32, signal: Signal) {
    if let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) {
        // It may have ended in between, which is what was wanted.
        let _ = rustix::process::kill_process(pid, signal);
    }
}

fn all_pids() -> Vec<u32> {
    let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect()
}

/// Whether `pid` is a process that has not ended.
pub fn is_living(pid: u32) -> bool {
    parent_of_living(pid).is_some()
}

/// The parent of `pid`, unless it is gone or only waits to be noticed as dead.
fn parent_of_living(pid: u32) -> Option<u32> {
    parse_parent(&std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
}

/// `PID (NAME) STATE PARENT ...`, see proc_pid_stat(5). A name may contain anything, also parentheses.
fn parse_parent(stat: &str) -> Option<u32> {
    let mut words = stat[stat.rfind(')')? + 1..].split_whitespace();
    let state = words.next()?;
    let parent = words.next()?.parse().ok()?;
    (!matches!(state, "Z" | "X")).then_some(parent)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_parent_is_found_whatever_the_process_is_called() {
        assert_eq!(parse_parent("12 (cat) S 7 12 12 0"), Some(7));
        assert_eq!(parse_parent("12 (a) S 3 (b) R 8 12"), Some(8));
        assert_eq!(parse_parent("12 (cat) Z 7 12 12 0"), None);
        assert_eq!(parse_parent("12 (cat"), None);
    }

    #[test]
    fn only_parts_of_this_program_that_work_in_the_directory_belong_to_a_kept_demo() {
        let dir = Path::new("/t/ferry-demo-7-0");
        let parts = ["agent", "volume-server"];
        let is = |line: &str| runs_part(line.replace(' ', "\0").as_bytes(), &parts, dir);
        assert!(is("/bin/ferry agent --config /t/ferry-demo-7-0/w1.toml "));
        assert!(is("ferry volume-server --dir /t/ferry-demo-7-0/w1/volumes/x "));
        assert!(!is("ferry agent --config /t/ferry-demo-7-01/w1.toml "));
        assert!(!is("ferry demo --end /t/ferry-demo-7-0/ "));
        assert!(!is("vi /t/ferry-demo-7-0/w1.toml "));
        assert!(!is("sh -c ferry agent /t/ferry-demo-7-0/w1.toml "));
        assert!(!is(""));
    }

    #[test]
    fn a_child_of_this_process_is_its_descendant_and_init_is_not() {
        let mut child = Command::new("sleep").arg("1000").spawn().unwrap();
        let found = descendants();
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(found.contains(&child.id()));
        assert!(!found.contains(&1));
        assert!(!found.contains(&std::process::id()));
    }
}
