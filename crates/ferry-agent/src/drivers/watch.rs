//! Watching a process, child or not, without ever mistaking another one for it.
//!
//! A pidfd is taken first and the process's start time is compared after, so that a number that was given to
//! another process meanwhile is noticed.

use crate::host::{Doing, now_ms};
use crate::lying::has_ended;
use crate::records::ProcessMark;
use ferry_api::AskedBy;
use rustix::fd::OwnedFd;
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal, WaitId, WaitIdOptions};
use std::fmt;
use std::io;
use std::os::fd::AsFd;
use std::time::Duration;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Place of the start time among the fields of `/proc/PID/stat` after the command's name (see proc(5)).
const START_TIME_FIELD: usize = 19;

/// How long to wait before a pidfd that cannot be waited for is tried again.
const READABLE_RETRY: Duration = Duration::from_secs(1);

/// How a process ended. Neither is known for one that was not a child of this agent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ended {
    /// Exit code, if it exited.
    pub code: Option<i32>,
    /// Signal that killed it, if one did.
    pub signal: Option<i32>,
    /// Whether it was killed since it wanted more memory than it may have.
    pub out_of_memory: bool,
    /// By what it was asked to end, if it is a VM.
    pub asked: Option<AskedBy>,
}

impl Ended {
    /// Without anything that is known of it.
    pub const UNSEEN: Self = Self { code: None, signal: None, out_of_memory: false, asked: None };

    /// By itself, with an exit code.
    #[must_use]
    pub const fn with_code(code: i32) -> Self {
        Self { code: Some(code), ..Self::UNSEEN }
    }

    /// By a signal.
    #[must_use]
    pub const fn by_signal(signal: i32) -> Self {
        Self { signal: Some(signal), ..Self::UNSEEN }
    }
}

impl fmt::Display for Ended {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.code, self.signal) {
            _ if self.out_of_memory => f.write_str("killed: it wanted more memory than its limit"),
            (Some(code), _) => write!(f, "with code {code}"),
            (None, Some(signal)) => write!(f, "by signal {signal}"),
            (None, None) => f.write_str("in an unknown way"),
        }
    }
}

/// What can be watched: a process, or what stands for one in a simulation.
pub trait Watched: Send + Sync + fmt::Debug {
    /// Its number.
    fn pid(&self) -> u32;
    /// Resolves when it has ended, and nothing of its process group runs any more.
    fn ended(&self) -> Doing<'_, Ended>;
    /// Sends a signal to the first process of the group. Nothing happens if it has ended.
    fn signal(&self, number: i32);
    /// Kills the whole process group.
    fn kill_group(&self);
    /// Asks it to end as machines of its kind are asked, for which `signal` may serve, and resolves when it has.
    fn end(&self, signal: i32) -> Doing<'_, Ended> {
        self.signal(signal);
        self.ended()
    }
}

/// A process that is watched.
#[derive(Debug)]
pub struct Watch(Box<dyn Watched>);

impl Watch {
    /// Watches something.
    #[must_use]
    pub fn over(watched: impl Watched + 'static) -> Self {
        Self(Box::new(watched))
    }

    /// Watches the process with this mark, if it still runs. Must be called within the tokio runtime.
    ///
    /// # Errors
    /// The system refuses.
    pub fn find(mark: &ProcessMark) -> io::Result<Option<Self>> {
        Ok(Process::find(mark)?.map(Self::over))
    }

    /// Watches whatever process has this number now. Must be called within the tokio runtime.
    ///
    /// # Errors
    /// The system refuses.
    pub fn open(pid: u32) -> io::Result<Option<Self>> {
        Ok(Process::open(pid)?.map(Self::over))
    }

    /// Kills what is left of the process group of a first process that has ended while nobody watched. Nothing
    /// happens if it still runs, or if its number was given to another one: then nothing of its group is left.
    ///
    /// # Errors
    /// The system refuses to tell.
    pub fn kill_orphans(mark: &ProcessMark) -> io::Result<()> {
        let Some(pid) = i32::try_from(mark.pid).ok().and_then(Pid::from_raw) else { return Ok(()) };
        if mark.boot_id == boot_id()? && start_ticks(mark.pid)?.is_none() {
            // Fails when nothing is left, which is well.
            let _ = rustix::process::kill_process_group(pid, Signal::KILL);
        }
        Ok(())
    }

    /// Its number.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.0.pid()
    }

    /// Resolves when the process has ended; kills what is left of its process group and reaps it if it is ours.
    pub async fn ended(&self) -> Ended {
        self.0.ended().await
    }

    /// Sends a signal to the first process of the group. Nothing happens if it has ended.
    pub fn signal(&self, number: i32) {
        self.0.signal(number);
    }

    /// Kills the whole process group.
    pub fn kill_group(&self) {
        self.0.kill_group();
    }

    /// Asks the process to end, as [`Watched::end`] does.
    pub(super) async fn end(&self, signal: i32) -> Ended {
        self.0.end(signal).await
    }

    /// Asks the process to end, as [`Watched::end`] does, and kills its whole group after `grace`. Returns as soon as it ended.
    pub async fn stop(&self, signal: i32, grace: Duration) -> Ended {
        match tokio::time::timeout(grace, self.0.end(signal)).await {
            Ok(ended) => ended,
            Err(_) => {
                self.kill_group();
                self.ended().await
            }
        }
    }
}

/// A process of this host.
#[derive(Debug)]
struct Process {
    fd: AsyncFd<OwnedFd>,
    pid: Pid,
    /// When it started; none if it had ended before that could be seen.
    start_ticks: Option<u64>,
}

impl Process {
    fn find(mark: &ProcessMark) -> io::Result<Option<Self>> {
        if mark.boot_id != boot_id()? {
            return Ok(None);
        }
        let watch = Self::open(mark.pid)?;
        Ok(watch.filter(|watch| watch.start_ticks == Some(mark.start_ticks)))
    }

    fn open(pid: u32) -> io::Result<Option<Self>> {
        let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) else { return Ok(None) };
        match rustix::process::pidfd_open(pid, PidfdFlags::NONBLOCK) {
            Ok(fd) => {
                let start_ticks = start_ticks(pid.as_raw_nonzero().get().unsigned_abs())?;
                Ok(Some(Self { fd: registered(fd)?, pid, start_ticks }))
            }
            Err(Errno::SRCH) => Ok(None),
            Err(e) => Err(e.into()),
        }
    }

    /// Whether the number still belongs to the ended process, which keeps it until its parent has reaped it, or to no
    /// process: then only what is left of the group can have it.
    fn group_is_ours(&self) -> bool {
        start_ticks(self.pid()).is_ok_and(|ticks| ticks.is_none() || ticks == self.start_ticks)
    }

    fn reap(&self) -> Ended {
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG;
        match rustix::process::waitid(WaitId::PidFd(self.fd.get_ref().as_fd()), options) {
            Ok(Some(status)) => {
                Ended { code: status.exit_status(), signal: status.terminating_signal(), ..Ended::UNSEEN }
            }
            Ok(None) | Err(_) => Ended::UNSEEN,
        }
    }
}

impl Watched for Process {
    fn pid(&self) -> u32 {
        self.pid.as_raw_nonzero().get().unsigned_abs()
    }

    fn ended(&self) -> Doing<'_, Ended> {
        Box::pin(async {
            // A pidfd becomes readable once, when the process ends, and stays so.
            while self.fd.readable().await.is_err() {
                tokio::time::sleep(READABLE_RETRY).await;
            }
            if self.group_is_ours() {
                self.kill_group();
            }
            self.reap()
        })
    }

    fn signal(&self, number: i32) {
        let signal = Signal::from_named_raw(number).unwrap_or(Signal::KILL);
        // The only failure is that it has ended already, which is what whoever signals wants.
        let _ = rustix::process::pidfd_send_signal(&self.fd, signal);
    }

    fn kill_group(&self) {
        // As in `signal`.
        let _ = rustix::process::kill_process_group(self.pid, Signal::KILL);
    }
}

#[allow(deprecated, reason = "its successor is unsafe and asks for what an OwnedFd that stays in here is")]
fn registered(fd: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    AsyncFd::with_interest(fd, Interest::READABLE)
}

/// The mark of the process that has this number now, if there is one.
///
/// # Errors
/// `/proc` cannot be read.
pub fn mark_of(pid: u32) -> io::Result<Option<ProcessMark>> {
    let Some(start_ticks) = start_ticks(pid)? else { return Ok(None) };
    Ok(Some(ProcessMark { pid, start_ticks, boot_id: boot_id()?, started_at_ms: now_ms() }))
}

/// The host's boot.
///
/// # Errors
/// `/proc` cannot be read.
pub fn boot_id() -> io::Result<String> {
    Ok(std::fs::read_to_string("/proc/sys/kernel/random/boot_id")?.trim().to_owned())
}

/// Whether the process with this mark has ended and only waits for its parent to hear of that.
#[must_use]
pub(super) fn is_over(mark: &ProcessMark) -> bool {
    std::fs::read(format!("/proc/{}/stat", mark.pid)).is_ok_and(|stat| has_ended(&stat))
}

fn start_ticks(pid: u32) -> io::Result<Option<u64>> {
    let stat = match std::fs::read_to_string(format!("/proc/{pid}/stat")) {
        Ok(stat) => stat,
        Err(e)
            if e.kind() == io::ErrorKind::NotFound
                || e.raw_os_error() == Some(Errno::SRCH.raw_os_error()) =>
        {
            return Ok(None);
        }
        Err(e) => return Err(e),
    };
    // The command's name is in parentheses and may itself contain any character.
    let after_name = stat.rsplit_once(')').map_or("", |(_, after)| after);
    let ticks = after_name.split_ascii_whitespace().nth(START_TIME_FIELD).and_then(|t| t.parse().ok());
    ticks
        .map(Some)
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "/proc/PID/stat has no start time"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{BufRead, BufReader, Read};
    use std::os::unix::process::CommandExt;
    use std::process::{Child, Command, Stdio};

    #[allow(clippy::zombie_processes, reason = "reaping them is what is tested")]
    fn child(program: &str, args: &[&str]) -> Child {
        Command::new(program).args(args).process_group(0).spawn().unwrap()
    }

    #[tokio::test]
    #[allow(clippy::zombie_processes, reason = "reaping it is what is tested")]
    async fn the_end_of_a_child_is_noticed_with_its_exit_code() {
        let child = child("sh", &["-c", "exit 7"]);
        let watch = Watch::open(child.id()).unwrap().unwrap();
        assert_eq!(watch.ended().await, Ended::with_code(7));
    }

    #[tokio::test]
    #[allow(clippy::zombie_processes, reason = "reaping it is what is tested")]
    async fn a_process_that_ignores_its_stop_signal_is_killed_with_its_group() {
        let script = "trap '' TERM; sleep 1000 & echo ready; wait; sleep 1000";
        let mut child =
            Command::new("sh").args(["-c", script]).process_group(0).stdout(Stdio::piped()).spawn().unwrap();
        child.stdout.take().unwrap().read_exact(&mut [0; 6]).unwrap();
        let watch = Watch::open(child.id()).unwrap().unwrap();
        let ended = watch.stop(Signal::TERM.as_raw(), Duration::ZERO).await;
        assert_eq!(ended, Ended::by_signal(9));
    }

    /// A first process that ends when its input does, and another one of its group that does not.
    const PAIR: &str = "sleep 1000 & echo $$ $!; read gone";

    /// Starts a pair; answers the mark of the first process, the second one, and what was started.
    fn pair(script: &str) -> (ProcessMark, Watch, Child) {
        let mut started = Command::new("sh")
            .args(["-c", script])
            .process_group(0)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut said = String::new();
        BufReader::new(started.stdout.as_mut().unwrap()).read_line(&mut said).unwrap();
        let (first, second) = said.trim().split_once(' ').unwrap();
        let second = Watch::open(second.parse().unwrap()).unwrap().unwrap();
        (mark_of(first.parse().unwrap()).unwrap().unwrap(), second, started)
    }

    #[tokio::test]
    async fn what_is_left_of_a_group_is_killed_when_its_first_process_ended_unseen() {
        let (mark, second, mut first) = pair(PAIR);
        // Waiting for it closes its input.
        first.wait().unwrap();
        assert!(Watch::find(&mark).unwrap().is_none());
        Watch::kill_orphans(&mark).unwrap();
        second.ended().await;
    }

    #[tokio::test]
    async fn what_is_left_of_a_group_is_killed_while_its_first_process_is_not_reaped() {
        // Its parent is a program that reaps nobody.
        let script = format!("exec 3<&0; setsid sh -c '{PAIR}' <&3 3<&- & exec sleep 1000");
        let (mark, second, mut parent) = pair(&script);
        let first = Watch::find(&mark).unwrap().unwrap();
        drop(parent.stdin.take());
        first.ended().await;
        second.ended().await;
        parent.kill().unwrap();
        parent.wait().unwrap();
    }

    #[tokio::test]
    async fn a_number_given_to_another_process_is_not_mistaken() {
        let mut child = child("sleep", &["1000"]);
        let mark = mark_of(child.id()).unwrap().unwrap();
        assert!(Watch::find(&mark).unwrap().is_some());
        let earlier = ProcessMark { start_ticks: mark.start_ticks - 1, ..mark.clone() };
        assert!(Watch::find(&earlier).unwrap().is_none());
        let other_boot = ProcessMark { boot_id: "another".to_owned(), ..mark };
        assert!(Watch::find(&other_boot).unwrap().is_none());
        child.kill().unwrap();
        child.wait().unwrap();
    }
}
