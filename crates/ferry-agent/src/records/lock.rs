//! The lock on a state directory: one agent at a time.

use super::RecordsError;
use rustix::fs::{FlockOperation, Mode, OFlags};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::{Duration, Instant};

/// Name of the lock file.
pub(crate) const FILE: &str = "agent.lock";
/// How long a lock that is held is tried again: a process that an agent was just starting when it was killed holds
/// it for a moment longer.
const PATIENCE: Duration = Duration::from_secs(2);
/// How often it is tried meanwhile.
const POLL: Duration = Duration::from_millis(5);
/// Longest process number that is read from the lock file, in bytes.
const PID_BYTES_MAX: usize = 16;

/// Holds a state directory for this agent; given back when dropped or when the process dies.
#[derive(Debug)]
pub struct StateLock {
    _held: OwnedFd,
}

impl StateLock {
    /// Takes `state_dir`, making it if it is not there, and leaves the process number of this agent in the lock.
    ///
    /// # Errors
    /// [`RecordsError::InUse`] names the agent that has it.
    pub fn take(state_dir: &Path) -> Result<Self, RecordsError> {
        let io = |doing, path: &Path, cause| RecordsError::Io { doing, path: path.to_owned(), cause };
        std::fs::create_dir_all(state_dir).map_err(|e| io("make", state_dir, e))?;
        let path = state_dir.join(FILE);
        let flags = OFlags::CREATE | OFlags::RDWR | OFlags::CLOEXEC;
        let file = rustix::fs::open(&path, flags, Mode::RUSR | Mode::WUSR).map_err(|e| match e {
            rustix::io::Errno::ROFS => RecordsError::ReadOnly { state_dir: state_dir.to_owned() },
            other => io("open", &path, other.into()),
        })?;
        let deadline = Instant::now() + PATIENCE;
        while let Err(error) = rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
            if error != rustix::io::Errno::WOULDBLOCK {
                return Err(io("lock", &path, error.into()));
            }
            if Instant::now() > deadline {
                let (state_dir, holder) = (state_dir.to_owned(), holder(&file));
                return Err(RecordsError::InUse { state_dir, lock: path, holder });
            }
            std::thread::sleep(POLL);
        }
        let pid = format!("{}\n", std::process::id());
        rustix::fs::ftruncate(&file, 0)
            .and_then(|()| rustix::io::pwrite(&file, pid.as_bytes(), 0))
            .map_err(|e| io("write", &path, e.into()))?;
        Ok(Self { _held: file })
    }
}

fn holder(file: &OwnedFd) -> String {
    let mut text = [0; PID_BYTES_MAX];
    let n = rustix::io::pread(file, &mut text, 0).unwrap_or(0);
    match str::from_utf8(&text[..n]).map(|t| t.trim().parse::<u32>()) {
        Ok(Ok(pid)) => format!("process {pid}"),
        Ok(Err(_)) | Err(_) => "a process of unknown number".to_owned(),
    }
}
