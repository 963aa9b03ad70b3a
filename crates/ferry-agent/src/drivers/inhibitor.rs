//! A lock of systemd-logind against a shutdown of the host, held while other workers need this one.
//!
//! The lock is one of mode `block`: a delay lets a shutdown wait for five seconds, and disks take minutes to follow. A person
//! who asks for a shutdown is told who holds it and why, and can overrule it (`systemctl reboot -i`). It is held by a
//! `systemd-inhibit` whose input is this agent's: it goes with the agent, whatever becomes of it.
//!
//! Invariant: machines that run here hold no lock, else no host with a machine could ever be restarted.

use crate::config::Config;
use ferry_api::{StopReason, WorkerName};
use ferry_crossing::stopping::in_a_sentence;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, ChildStdin, Command};

/// The program that holds a lock for as long as its child runs.
const PROGRAM: &str = "systemd-inhibit";
/// There if systemd runs this host (sd_booted(3)).
const BOOTED: &str = "/run/systemd/system";
/// What is said by what runs once the lock is held.
const HAS_IT: &str = "held";
/// How long a program may take to end once its input has.
const END_MAX: Duration = Duration::from_secs(2);

/// Holds the lock or does not.
#[derive(Debug)]
pub(crate) struct Inhibitor {
    program: PathBuf,
    worker: WorkerName,
    /// The program, and the end of a pipe whose closing ends it.
    held: Option<(Child, ChildStdin)>,
    /// Whether it was said already that there is no lock.
    is_said: bool,
}

impl Inhibitor {
    /// The one of this host; none where systemd does not run it.
    pub(crate) fn of_this_host(config: &Config) -> Option<Self> {
        if Path::new(BOOTED).is_dir() {
            return Some(Self::by(PROGRAM, config.name.clone()));
        }
        tracing::warn!(
            "systemd does not run this host: nothing keeps it from being shut down while other workers need it; ask \
             `ferry worker safe-to-stop` first"
        );
        None
    }

    /// One that is held by another program (for tests).
    pub(crate) fn by(program: impl Into<PathBuf>, worker: WorkerName) -> Self {
        Self { program: program.into(), worker, held: None, is_said: false }
    }

    /// Takes the lock if others need this worker, and gives it back if not. Tells whether it is held.
    pub(crate) async fn follow(&mut self, reasons: &[StopReason]) -> bool {
        let needed = reasons.iter().filter(|reason| !matches!(reason, StopReason::Machine { .. }));
        let needed: Vec<&StopReason> = needed.collect();
        match needed.first() {
            None => self.release().await,
            Some(first) if !self.is_held() => self.take(first, needed.len() - 1).await,
            Some(_) => {}
        }
        self.is_held()
    }

    /// Whether the program that holds it still runs.
    fn is_held(&mut self) -> bool {
        self.held.as_mut().is_some_and(|(held, _)| matches!(held.try_wait(), Ok(None)))
    }

    async fn take(&mut self, first: &StopReason, more: usize) {
        let more = if more == 0 { String::new() } else { format!(", and {more} more") };
        let why = format!("{}{more}; see ferry worker safe-to-stop", in_a_sentence(first));
        let spawned = Command::new(&self.program)
            .args(["--what=shutdown", "--mode=block"])
            .arg(format!("--who=ferry, worker {}", self.worker))
            .arg(format!("--why={why}"))
            // What runs once the lock is held; it ends when its input does.
            .args(["sh", "-c", &format!("echo {HAS_IT}; exec cat")])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn();
        let trouble = match spawned {
            Ok(child) => match held(child).await {
                Ok(held) => {
                    tracing::info!(why, "a shutdown of this host is inhibited");
                    (self.held, self.is_said) = (Some(held), false);
                    return;
                }
                Err(said) => said,
            },
            Err(error) => error.to_string(),
        };
        if !std::mem::replace(&mut self.is_said, true) {
            let program = self.program.display();
            tracing::warn!(%program, trouble, "a shutdown of this host cannot be inhibited, though other workers need it");
        }
    }

    async fn release(&mut self) {
        let Some((mut held, input)) = self.held.take() else { return };
        drop(input);
        // It ends by itself; a program that does not is killed as it is dropped.
        let _ = tokio::time::timeout(END_MAX, held.wait()).await;
        tracing::info!("a shutdown of this host is not inhibited any more");
    }
}

/// Waits until a program says that it has the lock; else answers what it said before it ended.
async fn held(mut child: Child) -> Result<(Child, ChildStdin), String> {
    let input = child.stdin.take().expect("its input is a pipe");
    let output = child.stdout.take().expect("its output is a pipe");
    let mut line = String::new();
    let read = BufReader::new(output).read_line(&mut line).await;
    if read.is_ok() && line.trim() == HAS_IT {
        return Ok((child, input));
    }
    let ended = child.wait_with_output().await.map_err(|error| error.to_string())?;
    Err(format!("it ended with {}: {}", ended.status, String::from_utf8_lossy(&ended.stderr).trim()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use ferry_api::{JobId, MachineId};
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    /// A stand-in that notes what it was asked, and does what follows.
    fn stand_in(dir: &Path, then: &str) -> Inhibitor {
        let program = dir.join("systemd-inhibit");
        let noted = dir.join("noted");
        let script = format!("#!/bin/sh\necho \"$@\" >>{}\n{then}\n", noted.display());
        fs::write(&program, script).unwrap();
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
        Inhibitor::by(program, "w1".parse().unwrap())
    }

    fn arrival() -> StopReason {
        let (machine, from) = ("web".parse().unwrap(), "w2".parse().unwrap());
        StopReason::Arrival { job: JobId::fresh(), machine, from }
    }

    fn machine() -> StopReason {
        StopReason::Machine { machine: MachineId::fresh(), name: "web".parse().unwrap() }
    }

    #[tokio::test]
    async fn a_lock_is_held_while_others_need_the_worker_and_not_for_its_own_machines() {
        let dir = tempfile::tempdir().unwrap();
        let mut inhibitor = stand_in(dir.path(), "shift 4; exec \"$@\"");
        assert!(!inhibitor.follow(&[machine()]).await);
        assert!(inhibitor.follow(&[machine(), arrival()]).await);
        assert!(inhibitor.follow(&[arrival()]).await);
        let noted = fs::read_to_string(dir.path().join("noted")).unwrap();
        assert_eq!(noted.lines().count(), 1, "it is taken once: {noted}");
        assert!(noted.starts_with("--what=shutdown --mode=block --who=ferry, worker w1 --why="), "{noted}");
        assert!(noted.contains("machine web is on its way here from w2"), "{noted}");
        assert!(!inhibitor.follow(&[machine()]).await, "it is not given back");
        assert!(inhibitor.follow(&[arrival()]).await);
        // As when the agent is gone: its end of the pipe closes.
        let (mut held, input) = inhibitor.held.take().unwrap();
        drop(input);
        assert!(held.wait().await.unwrap().success(), "it outlives the agent");
    }

    #[tokio::test]
    async fn a_lock_that_cannot_be_had_is_tried_again() {
        let dir = tempfile::tempdir().unwrap();
        let mut inhibitor = stand_in(dir.path(), "echo no bus >&2; exit 1");
        assert!(!inhibitor.follow(&[arrival()]).await && inhibitor.is_said);
        assert!(!inhibitor.follow(&[arrival()]).await);
        assert_eq!(fs::read_to_string(dir.path().join("noted")).unwrap().lines().count(), 2);
        let mut none = Inhibitor::by(dir.path().join("nowhere"), "w1".parse().unwrap());
        assert!(!none.follow(&[arrival()]).await && none.is_said);
    }
}
