//! The two workers of the demo: a directory, a configuration and an agent process each.

use std::ffi::OsStr;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use ferry_api::http::Client;
use ferry_api::{AgentApi, DriverKind};

use ferry_volume::directory;

use super::processes::{self, Ended};

/// How long an agent may take to answer for the first time.
const START_MAX: Duration = Duration::from_secs(20);
/// How often it is asked meanwhile.
const START_POLL: Duration = Duration::from_millis(10);
/// How many fresh names are tried for the demo's directory.
const DIRECTORY_TRIES_MAX: u32 = 100;

/// How the names of all demos' directories begin.
const DIRECTORY_PREFIX: &str = "ferry-demo-";
/// The longest name the directory of a copy of a volume can have: `VOLUME@GENERATION`.
const LONGEST_VOLUME: &str = "01JD2V6M5X8Y3Q4R5S6T7V8W9X@9999999";

/// One worker of the demo.
#[derive(Clone, Debug)]
pub struct Worker {
    /// Its name.
    pub name: &'static str,
    /// The door to its agent.
    pub client: Client,
    /// Its agent.
    pub pid: u32,
}

/// Everything the demo starts and makes. Dropped, it ends and removes all of it.
#[derive(Debug)]
pub struct Household {
    /// Where everything of the demo lies.
    pub dir: PathBuf,
    /// The agents that were started.
    pub agents: Vec<u32>,
    /// The workers that answer.
    workers: Vec<Worker>,
    ended: Ended,
    keep: bool,
}

impl Household {
    /// Makes the demo's directory, and this process responsible for all that will be started.
    ///
    /// # Errors
    /// The directory cannot be made.
    pub fn found() -> Result<Self> {
        processes::become_subreaper()?;
        Ok(Self {
            dir: fresh_directory(&std::env::temp_dir(), DIRECTORY_PREFIX, "w1")?,
            agents: Vec::new(),
            workers: Vec::new(),
            ended: Ended::default(),
            keep: false,
        })
    }

    /// The children that have ended.
    pub fn ended(&self) -> Ended {
        self.ended.clone()
    }

    /// What a person needs to go on alone.
    pub fn farewell(&self) -> String {
        let mut lines = vec!["The two workers go on. Talk to them:".to_owned()];
        for worker in &self.workers {
            lines.push(format!("  ferry worker show --agent {}", worker.client.url()));
        }
        for (machine, target) in [(1, 0), (0, 1)] {
            if let (Some(on), Some(to)) = (self.workers.get(machine), self.workers.get(target)) {
                lines.push(format!(
                    "  ferry move {} --to {} --agent {}",
                    super::MACHINE,
                    to.name,
                    on.client.url()
                ));
            }
        }
        lines.push(format!("End and remove everything:\n  ferry demo --end {}", self.dir.display()));
        lines.join("\n")
    }

    /// Leaves everything running and in place.
    pub fn leave(mut self) {
        self.keep = true;
    }
}

impl Drop for Household {
    fn drop(&mut self) {
        if self.keep {
            return;
        }
        processes::end_all(&self.agents, &self.ended);
        // Nobody is left who could be told, and it lies in the directory for temporary files.
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

/// Ends everything of the demo that was kept in `dir`, and removes it.
///
/// # Errors
/// `dir` is not a demo's, or cannot be removed.
pub fn end_kept(dir: &Path) -> Result<()> {
    let is_ours =
        dir.file_name().and_then(OsStr::to_str).is_some_and(|name| name.starts_with(DIRECTORY_PREFIX));
    let dir = std::path::absolute(dir).unwrap_or_else(|_| dir.to_owned());
    if !is_ours || !dir.join("w1.toml").is_file() {
        bail!(
            "{} is not the directory of a kept demo; give the one that `ferry demo --keep` printed",
            dir.display()
        );
    }
    processes::end_kept(&dir);
    std::fs::remove_dir_all(&dir).with_context(|| format!("{} cannot be removed", dir.display()))
}

/// Starts two agents that know each other and waits until both answer.
///
/// # Errors
/// An agent does not start; its last words are in the error.
pub async fn start_two(household: &mut Household) -> Result<[Worker; 2]> {
    let names = ["w1", "w2"];
    let addresses = free_addresses()?;
    let mut workers = Vec::new();
    for (index, name) in names.into_iter().enumerate() {
        let (own, other) = (addresses[index], (names[1 - index], addresses[1 - index]));
        workers.push(start(household, name, own, other)?);
    }
    let [first, second]: [Worker; 2] = workers.try_into().expect("two names make two workers");
    tokio::try_join!(answers(household, &first), answers(household, &second))?;
    household.workers = vec![first.clone(), second.clone()];
    Ok([first, second])
}

fn start(
    household: &mut Household,
    name: &'static str,
    own: SocketAddr,
    other: (&str, SocketAddr),
) -> Result<Worker> {
    let config = household.dir.join(format!("{name}.toml"));
    let text = configuration(&household.dir.join(name), name, own, other);
    std::fs::write(&config, text).with_context(|| format!("{} cannot be written", config.display()))?;
    let args = [OsStr::new("agent"), OsStr::new("--config"), config.as_os_str()];
    let pid = processes::start_self(&args, &log_of(household, name), None)?;
    household.agents.push(pid);
    Ok(Worker { name, client: Client::new(&format!("http://{own}"))?, pid })
}

fn configuration(
    state_dir: &Path,
    name: &str,
    own: SocketAddr,
    (other, there): (&str, SocketAddr),
) -> String {
    let state_dir = state_dir.display();
    format!(
        "name = \"{name}\"\nlisten = \"{own}\"\nstate_dir = \"{state_dir}\"\n\n[peers]\n{other} = \"http://{there}\"\n"
    )
}

async fn answers(household: &Household, worker: &Worker) -> Result<()> {
    let deadline = Instant::now() + START_MAX;
    loop {
        let refusal = match worker.client.worker_for(DriverKind::Process).await {
            Ok(_) => return Ok(()),
            Err(refusal) => refusal,
        };
        household.ended.reap();
        if household.ended.of(worker.pid).is_some() {
            bail!(
                "the agent of {} ended at once: {}",
                worker.name,
                last_words(&log_of(household, worker.name))
            );
        }
        if Instant::now() > deadline {
            bail!("the agent of {} does not answer after {START_MAX:?}: {refusal}", worker.name);
        }
        tokio::time::sleep(START_POLL).await;
    }
}

fn log_of(household: &Household, name: &str) -> PathBuf {
    household.dir.join(format!("{name}.log"))
}

/// The last line of a program's log, to be quoted.
pub fn last_words(log: &Path) -> String {
    let text = std::fs::read_to_string(log).unwrap_or_default();
    text.lines().last().map_or_else(|| "it said nothing".to_owned(), |line| line.trim().to_owned())
}

/// Two addresses nobody listens on now.
fn free_addresses() -> Result<[SocketAddr; 2]> {
    let any = (Ipv4Addr::LOCALHOST, 0);
    // Both are held until both are known, so that they differ.
    let (first, second) = (TcpListener::bind(any), TcpListener::bind(any));
    let address =
        |listener: std::io::Result<TcpListener>| listener.and_then(|listener| listener.local_addr());
    let context = "there is no free port on 127.0.0.1";
    Ok([address(first).context(context)?, address(second).context(context)?])
}

/// A directory of this process's own in `parent`, with a short path: sockets below `worker` in it may have 107 bytes.
///
/// # Errors
/// It cannot be made, or its path is too long.
pub fn fresh_directory(parent: &Path, prefix: &str, worker: &str) -> Result<PathBuf> {
    let parent = std::path::absolute(parent).unwrap_or_else(|_| parent.to_owned());
    for number in 0..DIRECTORY_TRIES_MAX {
        let dir = parent.join(format!("{prefix}{}-{number}", std::process::id()));
        let deepest = dir.join(worker).join("volumes").join(LONGEST_VOLUME);
        if directory::check_socket_paths(&deepest).is_err() {
            bail!(
                "the path of the directory {} leaves no room for the sockets in it; choose a shorter one, such as \
                 TMPDIR=/tmp",
                parent.display()
            );
        }
        match std::fs::DirBuilder::new().mode(0o700).create(&dir) {
            Ok(()) => return Ok(dir),
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {}
            Err(error) => {
                return Err(error).with_context(|| {
                    format!(
                        "{} cannot be made; choose a directory that can be written (TMPDIR)",
                        dir.display()
                    )
                });
            }
        }
    }
    bail!("{} is full of directories of former runs; delete {prefix}* in it", parent.display())
}
