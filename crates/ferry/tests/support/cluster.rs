//! Workers as people have them: real `ferry agent` processes with a configuration file each, asked through the
//! program's own command line. Every process that an agent starts, directly or not, carries a mark in its environment
//! and is ended with its cluster.
//!
//! Each worker listens on a loopback address of its own (127.0.0.0/8 is all this host's), so no other test and no
//! outgoing connection can take its port, and peers are known before they run.

use super::devices;
use super::moments::{self, Wish};
use super::network::{Namespace, Network};
use super::until;
use ferry_api::{Job, JobState, Machine, Volume, VolumeKey, WorkerInfo};
use ferry_volume::client::BlockClient;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use serde::de::DeserializeOwned;
use std::collections::BTreeSet;
use std::fs::File;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};
use tempfile::TempDir;

/// In the environment of everything a worker runs: the worker's own directory. One of the few variables that a machine
/// keeps of its agent's.
const MARK: &str = "TMPDIR";
/// Where the first cluster of this test process listens; each has a port of its own.
const PORT_FIRST: u32 = 20_000;
/// How many workers of one test process have different addresses.
const WORKERS_MAX: u32 = 4;
/// Where the agent of a worker listens that is a host of a network.
const PORT_ON_A_NETWORK: u16 = 7433;
/// What is read of a volume at once, in bytes.
const READ_BYTES: usize = 1 << 20;

static CLUSTERS: AtomicU32 = AtomicU32::new(0);

/// Workers that know each other. Dropped, it ends and removes everything of theirs.
pub struct Cluster {
    pub workers: Vec<Worker>,
    dir: TempDir,
}

impl Cluster {
    /// Two workers, `w1` and `w2`.
    pub fn two() -> Self {
        Self::of(&[("w1", ""), ("w2", "")])
    }

    /// Workers by name, each with further lines for its configuration.
    pub fn of(workers: &[(&str, &str)]) -> Self {
        let cluster = Self::configured(workers);
        cluster.workers.iter().for_each(Worker::start);
        cluster
    }

    /// As [`Cluster::of`], but no agent runs yet.
    pub fn configured(workers: &[(&str, &str)]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let port = PORT_FIRST + CLUSTERS.fetch_add(1, Ordering::Relaxed);
        let addresses: Vec<_> = (0..workers.len()).map(|index| address(index as u32, port)).collect();
        let peers: String = workers
            .iter()
            .zip(&addresses)
            .map(|((name, _), address)| format!("{name} = \"http://{address}\"\n"))
            .collect();
        let workers = workers.iter().zip(addresses).map(|((name, lines), address)| {
            let lines = format!("{lines}\n[peers]\n{peers}");
            Worker::configured(dir.path(), name, (address, None), &lines)
        });
        Self { workers: workers.collect(), dir }
    }

    /// Workers that are the hosts of a network, `w1` and so on. No agent runs yet, and none knows another.
    pub fn on(network: &Network, lines: &str) -> Self {
        Self::on_by(network, |index| network.address(index), lines)
    }

    /// The same with agents that listen at these addresses of the hosts.
    pub fn on_by(network: &Network, address: impl Fn(usize) -> IpAddr, lines: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let workers = (0..network.len()).map(|index| {
            let address = SocketAddr::new(address(index), PORT_ON_A_NETWORK);
            let place = (address, Some(network.host(index).clone()));
            Worker::configured(dir.path(), &format!("w{}", index + 1), place, lines)
        });
        Self { workers: workers.collect(), dir }
    }

    /// A directory of this cluster's, for whatever its test needs.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// The first two workers.
    pub fn pair(&self) -> (&Worker, &Worker) {
        (&self.workers[0], &self.workers[1])
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if std::thread::panicking() {
            for worker in &self.workers {
                println!("-- the agent of {} said:\n{}", worker.name, worker.log());
                println!("-- its machines said:\n{}", worker.machines_said());
            }
        }
        self.workers.iter().for_each(Worker::kill);
        self.workers.iter().for_each(Worker::kill_rest);
        devices::take_apart_below(self.dir());
    }
}

/// One worker: a name, a directory, an address and, while it runs, an agent.
pub struct Worker {
    pub name: String,
    /// Its state directory.
    pub dir: PathBuf,
    pub address: SocketAddr,
    /// Where its agent looks for programs, if not where the tests do.
    pub programs: Option<PathBuf>,
    /// The host that it is, if not the one that the tests run on.
    network: Option<Namespace>,
    agent: Mutex<Option<Child>>,
}

impl Worker {
    fn configured(
        dir: &Path,
        name: &str,
        (address, network): (SocketAddr, Option<Namespace>),
        lines: &str,
    ) -> Self {
        let name = name.to_owned();
        let worker =
            Self { dir: dir.join(&name), name, address, programs: None, network, agent: Mutex::new(None) };
        let text = format!(
            "name = \"{}\"\nlisten = \"{address}\"\nstate_dir = \"{}\"\n{lines}",
            worker.name,
            worker.dir.display()
        );
        std::fs::write(worker.config(), text).unwrap();
        worker
    }

    /// Does something on the worker's host.
    pub fn there<T: Send>(&self, what: impl FnOnce() -> T + Send) -> T {
        match &self.network {
            Some(network) => network.inside(what),
            None => what(),
        }
    }

    /// Starts the agent and returns when it listens.
    pub fn start(&self) {
        self.start_wishing(&[]);
    }

    /// The same with wishes for when it dies and what fails.
    pub fn start_wishing(&self, wishes: &[Wish<'_>]) {
        let before = self.log().len();
        let mut agent = self.spawn_wishing(wishes);
        until(&format!("the agent of {} listens", self.name), || {
            if let Some(status) = agent.try_wait().unwrap() {
                panic!("the agent of {} ended with {status}:\n{}", self.name, self.log());
            }
            // A child of an agent that was killed between its fork and its exec has that one's sockets for a moment, and they take connections.
            let says_so = self.log()[before..].contains("the agent listens");
            says_so.then(|| self.there(|| TcpStream::connect(self.address).ok())).flatten()
        });
        let before = self.agent.lock().unwrap().replace(agent);
        assert!(before.is_none(), "one agent at a time");
    }

    /// Starts an agent that may end at once; the caller waits for it.
    pub fn spawn(&self) -> Child {
        self.spawn_wishing(&[])
    }

    fn spawn_wishing(&self, wishes: &[Wish<'_>]) -> Child {
        let socket = self.dir.with_extension("drill");
        if !wishes.is_empty() {
            moments::grant(&socket, wishes);
        }
        let log = File::options().create(true).append(true).open(self.log_path()).unwrap();
        let mut agent = Command::new(env!("CARGO_BIN_EXE_ferry"));
        agent
            .args(["agent", "--config"])
            .arg(self.config())
            .args((!wishes.is_empty()).then_some("--drill"))
            .args((!wishes.is_empty()).then_some(socket))
            .env(MARK, &self.dir)
            .envs(self.programs.iter().map(|programs| ("PATH", programs)))
            .env_remove("FERRY_LOG")
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log);
        self.there(|| agent.spawn().unwrap())
    }

    /// Ends the agent at once, as a crash would, and returns when it is gone. Its machines and volumes go on.
    pub fn kill(&self) {
        if let Some(mut agent) = self.agent.lock().unwrap().take() {
            agent.kill().unwrap();
            agent.wait().unwrap();
        }
    }

    /// Waits until the agent has ended by itself, and tells how.
    pub fn wait_for_end(&self) -> ExitStatus {
        let mut agent = self.agent.lock().unwrap();
        let ended = until(&format!("the agent of {} ends", self.name), || {
            agent.as_mut().expect("an agent runs").try_wait().unwrap()
        });
        *agent = None;
        ended
    }

    /// Whether an agent was started and has ended by itself, so that another one can be started.
    pub fn has_ended(&self) -> bool {
        let mut agent = self.agent.lock().unwrap();
        let ended = agent.as_mut().is_some_and(|agent| agent.try_wait().unwrap().is_some());
        agent.take_if(|_| ended);
        ended
    }

    /// Whether an agent was started and not killed since.
    pub fn runs(&self) -> bool {
        self.agent.lock().unwrap().is_some()
    }

    /// Kills the agent and starts it again.
    pub fn restart(&self) {
        self.kill();
        self.start();
    }

    /// Where the agent listens, as its clients write it. One that belongs to a cluster answers strangers at its socket only.
    pub fn url(&self) -> String {
        match self.dir.join("cluster").exists() {
            true => format!("unix:{}", self.dir.join("agent.sock").display()),
            false => format!("http://{}", self.address),
        }
    }

    /// Its configuration file.
    pub fn config(&self) -> PathBuf {
        self.dir.with_extension("toml")
    }

    /// All its agents said so far.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.log_path()).unwrap_or_default()
    }

    /// All that machines said here so far, also those that have moved away.
    pub fn machines_said(&self) -> String {
        let dirs = std::fs::read_dir(self.dir.join("machines")).into_iter().flatten().flatten();
        dirs.filter_map(|dir| std::fs::read(dir.path().join("machine.log")).ok())
            .map(|said| String::from_utf8_lossy(&said).into_owned())
            .collect()
    }

    fn log_path(&self) -> PathBuf {
        self.dir.with_extension("log")
    }

    /// The directory of a copy of a volume.
    pub fn volume_dir(&self, key: VolumeKey) -> PathBuf {
        self.dir.join("volumes").join(key.to_string())
    }

    /// `ferry WORDS`, asking this worker's agent.
    pub fn ferry(&self, words: &[&str]) -> Said {
        let mut command = Command::new(env!("CARGO_BIN_EXE_ferry"));
        command.args(words).env("FERRY_AGENT", self.url()).stdin(Stdio::null());
        let output = self.there(|| command.output().unwrap());
        let text = |bytes| String::from_utf8(bytes).expect("ferry writes UTF-8");
        Said { code: output.status.code(), stdout: text(output.stdout), stderr: text(output.stderr) }
    }

    /// Begins `ferry WORDS`; what it prints is to be read by the test.
    pub fn begin(&self, words: &[&str]) -> Child {
        let mut command = Command::new(env!("CARGO_BIN_EXE_ferry"));
        command.args(words).env("FERRY_AGENT", self.url()).stdin(Stdio::null());
        command.stdout(Stdio::piped()).stderr(Stdio::null());
        self.there(|| command.spawn().unwrap())
    }

    /// `ferry WORDS --json`, which must succeed.
    pub fn ask<T: DeserializeOwned>(&self, words: &[&str]) -> T {
        let said = self.ferry(&with_json(words));
        assert_eq!(said.code, Some(0), "ferry {words:?}: {}", said.stderr);
        serde_json::from_str(&said.stdout).unwrap_or_else(|e| panic!("ferry {words:?}: {e}: {}", said.stdout))
    }

    /// `ferry WORDS`, which must be refused with `code`: answers the one sentence on stderr, without `ferry: `. With
    /// `--json` it is refused with the same words.
    pub fn refusal(&self, words: &[&str], code: i32) -> String {
        let [plain, json] = [words.to_vec(), with_json(words)].map(|words| {
            let said = self.ferry(&words);
            assert_eq!(said.code, Some(code), "ferry {words:?}: {said:?}");
            assert_eq!(said.stdout, "", "ferry {words:?}");
            said.sentence()
        });
        assert_eq!(plain, json);
        plain
    }

    pub fn machine(&self, name: &str) -> Machine {
        self.ask(&["machine", "show", name])
    }

    pub fn volume(&self, name: &str) -> Volume {
        self.ask(&["volume", "show", name])
    }

    /// Moves a machine to `to` and follows the job to its end, which must be success.
    pub fn moves(&self, machine: &str, to: &Self) -> Job {
        let job: Job = self.ask(&["move", machine, "--to", &to.name]);
        assert_eq!(job.state, JobState::Succeeded, "{job:?}");
        job
    }

    /// All that is on the volume of this name, as its machine reads it.
    pub fn read_all(&self, name: &str) -> Vec<u8> {
        let volume = self.volume(name);
        let mut bytes = vec![0; usize::try_from(volume.size_bytes).unwrap()];
        let mut guest = BlockClient::connect_text(&volume.guest_uri).unwrap();
        for (at, part) in (0..).step_by(READ_BYTES).zip(bytes.chunks_mut(READ_BYTES)) {
            guest.read_at(at, part).unwrap();
        }
        bytes
    }

    /// Looks at the volume until `condition` holds, and answers it as it was then.
    pub fn wait_for_volume(&self, name: &str, what: &str, condition: impl Fn(&Volume) -> bool) -> Volume {
        until(&format!("volume {name} of {}: {what}", self.name), || {
            Some(self.volume(name)).filter(&condition)
        })
    }

    /// All processes that this worker started and that still run, without the agent that [`Worker::start`] started.
    pub fn processes(&self) -> BTreeSet<u32> {
        let agent = self.agent.lock().unwrap().as_ref().map(Child::id);
        let pids = std::fs::read_dir("/proc").unwrap().flatten();
        let pids = pids.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
        pids.filter(|pid| Some(*pid) != agent && is_marked(*pid, &self.dir)).collect()
    }

    /// Ends all that [`Worker::processes`] finds.
    fn kill_rest(&self) {
        loop {
            let left = self.processes();
            if left.is_empty() {
                return;
            }
            // What they have just forked is found by the next look.
            left.into_iter().for_each(|pid| self.kill_process(pid));
        }
    }

    /// Sends a signal to a process of this worker.
    pub fn signal_process(&self, pid: u32, signal: Signal) {
        assert!(is_marked(pid, &self.dir), "process {pid} is not this worker's");
        let process = pidfd_open(process_id(pid), PidfdFlags::empty()).unwrap();
        pidfd_send_signal(&process, signal).unwrap();
    }

    /// Kills a process of this worker and returns when it is gone.
    pub fn kill_process(&self, pid: u32) {
        let Ok(process) = pidfd_open(process_id(pid), PidfdFlags::empty()) else { return };
        // The number may have become another process's between the look and the descriptor.
        if is_marked(pid, &self.dir) {
            // It may have ended since, which is what is wanted.
            let _ = pidfd_send_signal(&process, Signal::KILL);
            wait_ended(&process);
        }
    }

    /// What there is of this worker: to be compared before and after something that must leave nothing behind.
    pub fn belongings(&self) -> Belongings {
        let entries = |dir: &str| {
            let entries = std::fs::read_dir(self.dir.join(dir)).into_iter().flatten();
            entries.map(|entry| entry.unwrap().path()).collect::<Vec<_>>()
        };
        let info: WorkerInfo = self.ask(&["worker", "show"]);
        let machines: Vec<Machine> = self.ask(&["machine", "list"]);
        let volumes: Vec<Volume> = self.ask(&["volume", "list"]);
        Belongings {
            directories: entries("volumes").into_iter().chain(entries("machines")).collect(),
            processes: self.processes(),
            machines: machines.iter().map(|machine| format!("{} {:?}", machine.name, machine.job)).collect(),
            volumes: volumes
                .iter()
                .map(|v| format!("{} {}@{} {:?}", v.name, v.id, v.generation, v.ownership))
                .collect(),
            promised_bytes: info.room.promised_bytes,
        }
    }
}

/// What a worker has.
#[derive(Debug, PartialEq, Eq)]
pub struct Belongings {
    pub directories: BTreeSet<PathBuf>,
    pub processes: BTreeSet<u32>,
    pub machines: Vec<String>,
    pub volumes: Vec<String>,
    pub promised_bytes: u64,
}

/// How a command ended.
#[derive(Debug)]
pub struct Said {
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

impl Said {
    /// The one sentence on stderr, without the program's name.
    pub fn sentence(&self) -> String {
        let mut lines = self.stderr.lines();
        let (Some(line), None) = (lines.next(), lines.next()) else { panic!("not one line: {self:?}") };
        let sentence = line.strip_prefix("ferry: ").unwrap_or_else(|| panic!("not said by ferry: {self:?}"));
        assert!(!sentence.contains('\u{1b}') && !sentence.contains("panicked"), "{self:?}");
        sentence.to_owned()
    }
}

/// `words` with `--json`, before those of the machine.
fn with_json<'a>(words: &[&'a str]) -> Vec<&'a str> {
    let mut words = words.to_vec();
    let at = words.iter().position(|word| *word == "--").unwrap_or(words.len());
    words.insert(at, "--json");
    words
}

/// The loopback address of a worker of this test process: the process id is in it.
pub fn address(worker: u32, port: u32) -> SocketAddr {
    assert!(worker < WORKERS_MAX);
    let low = std::process::id() * WORKERS_MAX + worker;
    let [_, a, b, c] = low.to_be_bytes();
    SocketAddr::new(IpAddr::V4(Ipv4Addr::new(127, a, b, c)), u16::try_from(port).unwrap())
}

/// Whether `pid` is a living process that the worker with this directory started.
fn is_marked(pid: u32, dir: &Path) -> bool {
    // A process that has ended or is another user's has no environment to be read.
    let environment = std::fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
    let mark = format!("{MARK}={}", dir.display());
    environment.split(|byte| *byte == 0).any(|variable| variable == mark.as_bytes())
}

fn process_id(pid: u32) -> Pid {
    Pid::from_raw(i32::try_from(pid).unwrap()).expect("a process id is positive")
}

fn wait_ended(process: &OwnedFd) {
    let mut ended = [PollFd::new(process, PollFlags::IN)];
    poll(&mut ended, None).expect("a process descriptor can be waited for");
}
