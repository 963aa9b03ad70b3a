//! Trying how a machine is, where the machine is: this program enters its namespaces, as its user, and asks. A VM is asked from
//! outside, at its address.
//!
//! ```text
//!  agent ──▶ ferry machine-probe (a process group of its own) ──▶ the machine's command, or a connection
//! ```
//!
//! Invariant: a try ends in its time, also when the agent dies: it kills its own group then. When the agent loses interest
//! (the machine stops), the group is killed, so that nothing of it holds what the machine has mounted.

use super::init::Inside;
use super::watch::mark_of;
use crate::host::{Doing, blocking};
use crate::records::ProcessMark;
use ferry_api::{HealthCheck, HttpUrl, Probe};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal};
use rustix::thread::LinkNameSpaceType;
use serde::{Deserialize, Serialize};
use std::fs::File;
use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream, ToSocketAddrs};
use std::os::fd::AsFd;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};
use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe::Receiver;
use tokio::process::Child;

/// The most that is kept of what a try says, in bytes: its last lines.
const WORDS_BYTES_MAX: usize = 4096;
/// How long what a try has said may take to arrive after its end.
const WORDS_GRACE: Duration = Duration::from_millis(200);
/// The most that is read of an answer to GET, in bytes: its status is at the beginning.
const STATUS_BYTES_MAX: usize = 64;
/// Namespaces that are entered, mounts last: what is below `/proc` is to be found before.
const ENTERED: [(&str, LinkNameSpaceType); 5] = [
    ("ipc", LinkNameSpaceType::InterProcessCommunication),
    ("uts", LinkNameSpaceType::HostNameAndNISDomainName),
    ("net", LinkNameSpaceType::Network),
    ("pid_for_children", LinkNameSpaceType::ProcessID),
    ("mnt", LinkNameSpaceType::Mount),
];

/// One try, as the agent tells this program.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Try {
    /// The machine's keeper and the description of what is inside; none if the machine has no namespaces of its own.
    pub inside: Option<(ProcessMark, PathBuf)>,
    /// What is tried.
    pub probe: Probe,
    /// How long it may take.
    pub timeout_ms: u64,
}

/// Why a try failed.
#[derive(Debug, thiserror::Error)]
pub enum ProbeError {
    /// The agent's words are not understood.
    #[error("cannot understand what to try; let the agent ask")]
    Words(#[source] serde_json::Error),
    /// The keeper has ended.
    #[error("the machine has ended")]
    Gone,
    /// Its namespaces are not made yet.
    #[error("the machine is only being made")]
    Starting,
    /// The port or the server does not answer as it should.
    #[error("{what}: {why}")]
    Refused {
        /// What was tried.
        what: String,
        /// What came of it.
        why: String,
    },
    /// The system refuses something.
    #[error("cannot {doing}")]
    Io {
        /// What was tried.
        doing: String,
        /// What the system said.
        #[source]
        cause: io::Error,
    },
}

fn failed<E: Into<io::Error>>(doing: impl Into<String>) -> impl FnOnce(E) -> ProbeError {
    let doing = doing.into();
    move |cause| ProbeError::Io { doing, cause: cause.into() }
}

/// Makes one try; tells the code to exit with. To be called while the process has one thread.
///
/// # Errors
/// The machine is not well, or cannot be asked.
pub fn probe(words: &str) -> Result<u8, ProbeError> {
    let Try { inside, probe, timeout_ms } = serde_json::from_str(words).map_err(ProbeError::Words)?;
    let until = Instant::now() + Duration::from_millis(timeout_ms);
    let ids = match &inside {
        Some((keeper, plan)) => enter(keeper, plan)?,
        None => None,
    };
    match &probe {
        Probe::Command(words) => run(words, ids, until),
        Probe::Tcp(port) => {
            let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port.get()));
            connect(&[address], until).map(|_| 0).map_err(refused(&probe))
        }
        Probe::Http(url) => {
            let asked = url
                .authority()
                .to_socket_addrs()
                .and_then(|addresses| get(url, &addresses.collect::<Vec<_>>(), until));
            asked.map(|()| 0).map_err(refused(&probe))
        }
    }
}

/// Tries a port or a URL of a machine from outside, at its own address. Whoever gives up waiting leaves nothing behind but a thread,
/// which ends in the time of the check.
pub(super) fn try_at(address: IpAddr, check: &HealthCheck) -> Doing<'static, Result<(), String>> {
    let (probe, until) = (check.probe.clone(), Instant::now() + Duration::from_millis(check.timeout_ms));
    blocking(move || {
        let tried = match &probe {
            Probe::Command(_) => Err(io::Error::other("a command is run inside")),
            Probe::Tcp(port) => connect(&[(address, port.get()).into()], until).map(drop),
            Probe::Http(url) => get(url, &[(address, url.authority().1).into()], until),
        };
        tried.map_err(|cause| refused(&probe)(cause).to_string())
    })
}

fn refused(probe: &Probe) -> impl FnOnce(io::Error) -> ProbeError {
    let what = probe.to_string();
    move |cause| ProbeError::Refused { what, why: cause.to_string() }
}

/// Goes where the machine is; answers the user and group that it runs as.
fn enter(keeper: &ProcessMark, plan: &Path) -> Result<Option<(u32, u32)>, ProbeError> {
    let text = std::fs::read(plan).map_err(failed(format!("read {}", plan.display())))?;
    let inside: Inside =
        serde_json::from_slice(&text).map_err(failed(format!("understand {}", plan.display())))?;
    let open = |name: &str| File::open(format!("/proc/{}/ns/{name}", keeper.pid));
    let opened = ENTERED.map(|(name, kind)| (open(name), kind));
    if is_still_outside(keeper.pid).map_err(failed("look into the machine"))? {
        return Err(ProbeError::Starting);
    }
    // What was opened is the keeper's only if the number is still its own.
    let is_it = mark_of(keeper.pid).map_err(failed("look for the machine"))?;
    if !is_it.is_some_and(|mark| mark.is_of_the_same(keeper)) {
        return Err(ProbeError::Gone);
    }
    for (namespace, kind) in opened {
        let namespace = namespace.map_err(failed("look into the machine"))?;
        rustix::thread::move_into_link_name_space(namespace.as_fd(), Some(kind))
            .map_err(failed("enter the machine"))?;
    }
    let root = inside.root.as_deref().unwrap_or(Path::new("/"));
    rustix::process::chroot(root).map_err(failed("enter the machine's root"))?;
    std::env::set_current_dir(&inside.workdir)
        .map_err(failed(format!("enter {}", inside.workdir.display())))?;
    Ok(inside.ids)
}

/// Whether the keeper has no namespaces for the machine yet; it makes all of them at once.
fn is_still_outside(keeper: u32) -> io::Result<bool> {
    let own = std::fs::read_link("/proc/self/ns/pid")?;
    Ok(std::fs::read_link(format!("/proc/{keeper}/ns/pid_for_children"))? == own)
}

fn run(words: &[String], ids: Option<(u32, u32)>, until: Instant) -> Result<u8, ProbeError> {
    let program = words.first().map(String::as_str).unwrap_or_default();
    let mut command = Command::new(program);
    command.args(words.get(1..).unwrap_or_default()).stdin(Stdio::null());
    if let Some((uid, gid)) = ids {
        command.uid(uid).gid(gid);
    }
    let mut child = command.spawn().map_err(failed(format!("run {program}")))?;
    let pidfd = rustix::process::pidfd_open(Pid::from_child(&child), PidfdFlags::empty())
        .map_err(failed(format!("watch {program}")))?;
    let left = until.saturating_duration_since(Instant::now());
    let left = Timespec::try_from(left).map_err(|_| io::Error::other("its timeout is too long"));
    let left = left.map_err(failed("wait"))?;
    poll(&mut [PollFd::new(&pidfd, PollFlags::IN)], Some(&left)).map_err(failed("wait"))?;
    match child.try_wait().map_err(failed(format!("wait for {program}")))? {
        Some(status) => Ok(status.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(u8::MAX)),
        None => {
            // This process is the first of the group; the agent takes this end for what it is.
            let _ = rustix::process::kill_current_process_group(Signal::KILL);
            Err(failed("end in time")(io::Error::from(io::ErrorKind::TimedOut)))
        }
    }
}

fn connect(addresses: &[SocketAddr], until: Instant) -> io::Result<TcpStream> {
    let mut last = io::Error::other("it has no address");
    for address in addresses {
        let left = until.saturating_duration_since(Instant::now()).max(Duration::from_millis(1));
        match TcpStream::connect_timeout(address, left) {
            Ok(stream) => return Ok(stream),
            Err(error) => last = error,
        }
    }
    Err(last)
}

fn get(url: &HttpUrl, at: &[SocketAddr], until: Instant) -> io::Result<()> {
    let (host, port) = url.authority();
    let mut stream = connect(at, until)?;
    let left = until.saturating_duration_since(Instant::now()).max(Duration::from_millis(1));
    stream.set_read_timeout(Some(left))?;
    stream.set_write_timeout(Some(left))?;
    let host = if host.contains(':') { format!("[{host}]") } else { host.to_owned() };
    let request = format!(
        "GET {} HTTP/1.1\r\nHost: {host}:{port}\r\nUser-Agent: ferry\r\nConnection: close\r\n\r\n",
        url.path()
    );
    stream.write_all(request.as_bytes())?;
    let mut answer = Vec::new();
    stream.take(STATUS_BYTES_MAX as u64).read_to_end(&mut answer)?;
    match status_of(&answer) {
        Some(200..=399) => Ok(()),
        Some(status) => Err(io::Error::other(format!("it answers with status {status}"))),
        None => Err(io::Error::other("what answers does not speak HTTP")),
    }
}

fn status_of(answer: &[u8]) -> Option<u16> {
    let line = String::from_utf8_lossy(answer);
    line.strip_prefix("HTTP/1.")?.split(' ').nth(1)?.split_whitespace().next()?.parse().ok()
}

/// A try that is under way; dropped, it is killed with all that it has started.
pub(super) struct Trying {
    child: Child,
    group: Option<Pid>,
    words: Option<Receiver>,
}

impl Drop for Trying {
    fn drop(&mut self) {
        if let Some(group) = self.group {
            // It is not reaped yet, so the number is its own. What has ended cannot be killed, which is well.
            let _ = rustix::process::kill_process_group(group, Signal::KILL);
        }
    }
}

/// Begins a try by a process that is told a [`Try`]; `command` is complete but for its streams and group.
pub(super) fn begin(command: Command) -> Result<Trying, String> {
    let failed = |cause| format!("it cannot be tried: {cause}");
    // One pipe for both streams, so that the last line is the last one.
    let (words, said) = io::pipe().map_err(failed)?;
    let mut command = tokio::process::Command::from(command);
    command.stdin(Stdio::null()).stdout(said.try_clone().map_err(failed)?).stderr(said).process_group(0);
    let child = command.spawn().map_err(failed)?;
    let group = child.id().and_then(|id| Pid::from_raw(i32::try_from(id).ok()?));
    let words = Receiver::from_owned_fd(words.into()).map_err(failed)?;
    Ok(Trying { child, group, words: Some(words) })
}

impl Trying {
    /// Waits for the end of a try, which limits itself.
    pub(super) async fn outcome(mut self, check: &HealthCheck) -> Result<(), String> {
        let said = self.words.take();
        let mut words = Vec::new();
        let status = {
            let mut listening = pin!(listen(said, &mut words));
            let mut has_heard_all = false;
            // As long as the process takes, which limits itself; one that is stopped is not waited for.
            let patience = Duration::from_millis(check.timeout_ms.saturating_mul(2).saturating_add(1000));
            let waited = tokio::time::timeout(patience, async {
                loop {
                    tokio::select! {
                        status = self.child.wait() => break status,
                        () = &mut listening, if !has_heard_all => has_heard_all = true,
                    }
                }
            });
            let status = waited.await;
            if status.is_ok() && !has_heard_all {
                // What it left behind may hold the pipes for ever.
                let _ = tokio::time::timeout(WORDS_GRACE, listening).await;
            }
            status
        };
        let last = last_line(&words);
        match status {
            Ok(Ok(status)) => {
                // It is reaped; what it left behind is not known by that number for sure.
                self.group = None;
                verdict(status.code(), last, check)
            }
            Ok(Err(cause)) => Err(format!("it cannot be waited for: {cause}")),
            Err(_) => Err(late(check)),
        }
    }
}

/// What the end of a try says. Pure.
pub(super) fn verdict(code: Option<i32>, last: Option<String>, check: &HealthCheck) -> Result<(), String> {
    match (code, last) {
        (Some(0), _) => Ok(()),
        (None, _) => Err(late(check)),
        (Some(code), None) => Err(format!("{} ended with code {code}", check.probe)),
        (Some(code), Some(line)) => Err(match line.strip_prefix("ferry: ") {
            Some(ours) => ours.to_owned(),
            None => format!("{} ended with code {code}: {line}", check.probe),
        }),
    }
}

pub(super) fn late(check: &HealthCheck) -> String {
    format!("{} took longer than {} ms", check.probe, check.timeout_ms)
}

/// Reads what a try says to its end, and keeps the last of it.
async fn listen(said: Option<Receiver>, words: &mut Vec<u8>) {
    let Some(mut said) = said else { return };
    let mut piece = [0; 1024];
    while let Ok(count @ 1..) = said.read(&mut piece).await {
        words.extend_from_slice(&piece[..count]);
        let old = words.len().saturating_sub(WORDS_BYTES_MAX);
        words.drain(..old);
    }
}

pub(super) fn last_line(words: &[u8]) -> Option<String> {
    let text = String::from_utf8_lossy(words);
    let line = text.lines().rev().find(|line| !line.trim().is_empty())?;
    Some(line.trim().chars().filter(|c| !c.is_control()).take(200).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(probe: Probe) -> HealthCheck {
        HealthCheck { timeout_ms: 100, ..probe.into() }
    }

    #[test]
    fn the_status_of_an_answer_is_read() {
        assert_eq!(status_of(b"HTTP/1.1 204 No Content\r\n"), Some(204));
        assert_eq!(status_of(b"HTTP/1.0 503\r\n"), Some(503));
        assert_eq!(status_of(b"220 mail.example ESMTP\r\n"), None);
    }

    #[tokio::test]
    async fn a_machine_is_tried_at_its_address_whatever_host_its_url_names() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let server = std::thread::spawn(move || {
            let (mut connection, _) = listener.accept().unwrap();
            let mut asked = [0; 1024];
            let count = connection.read(&mut asked).unwrap();
            connection.write_all(b"HTTP/1.1 200 OK\r\n\r\n").unwrap();
            String::from_utf8_lossy(&asked[..count]).into_owned()
        });
        let patient = |probe| HealthCheck { timeout_ms: 60_000, ..HealthCheck::from(probe) };
        let url = Probe::Http(format!("http://[::1]:{port}/well").parse().unwrap());
        assert_eq!(try_at(Ipv4Addr::LOCALHOST.into(), &patient(url)).await, Ok(()));
        let asked = server.join().unwrap();
        assert!(asked.starts_with(&format!("GET /well HTTP/1.1\r\nHost: [::1]:{port}\r\n")), "{asked}");
        let tcp = patient(Probe::Tcp(port.try_into().unwrap()));
        let closed = try_at(Ipv4Addr::LOCALHOST.into(), &tcp).await.unwrap_err();
        assert!(closed.starts_with(&format!("a connection to port {port}: Connection refused")), "{closed}");
    }

    #[tokio::test]
    async fn a_try_tells_its_last_words() {
        let check = check(Probe::Command(vec!["sh".to_owned()]));
        let ask_sh = |script: &str| {
            let mut command = Command::new("sh");
            command.args(["-c", script]);
            begin(command).unwrap().outcome(&check)
        };
        assert_eq!(ask_sh("exit 0").await, Ok(()));
        let said = ask_sh("seq 1 100000; echo its disk is full >&2; exit 3").await.unwrap_err();
        assert_eq!(said, "`sh` ended with code 3: its disk is full");
        assert_eq!(ask_sh("echo ferry: port 1 is closed; exit 1").await.unwrap_err(), "port 1 is closed");
        assert_eq!(ask_sh("kill -9 $$").await.unwrap_err(), "`sh` took longer than 100 ms");
        // Its child holds the pipes.
        assert_eq!(ask_sh("sleep 2 & exit 0").await, Ok(()));
    }
}
