//! The workers of a test: agents behind real doors, which can be killed and started again.

use ferry_agent::drivers::Launcher;
use ferry_agent::{Agent, Config};
use ferry_api::http::{Client, Entrance, serve};
use ferry_api::{
    AgentApi, CreateMachine, EventsAfter, Job, JobId, Machine, MachineSpec, MachineState, NewVolume,
    ServerState, Signal, Volume, VolumeOrigin,
};
use ferry_volume::client::BlockClient;
use ferry_volume::{IoBackend, ServeOptions};
use rustix::fs::{FlockOperation, flock};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::runtime::Runtime;

/// How long a state may take to come on any machine before a test gives it up.
const PATIENCE: Duration = Duration::from_secs(120);
/// Between two looks: who looks all the time takes the processor from whom it waits for.
const LOOK_EVERY: Duration = Duration::from_millis(2);
/// Where the first agent of this test process listens: below what the system gives to outgoing connections.
const PORT_FIRST: u16 = 20_000;

/// This very test program is also the volume server: the agent under test starts it with `--dir`. Without, there is
/// nothing to serve.
#[test]
fn a_volume_server() {
    let argument = |name: &str| std::env::args().skip_while(|arg| arg != name).nth(1).map(PathBuf::from);
    let Some(dir) = argument("--dir") else { return };
    let options = ServeOptions { dir, io: IoBackend::Auto, tls: argument("--tls"), count_heat: true };
    ferry_volume::serve(&options).unwrap();
}

fn launcher() -> Launcher {
    let this = std::env::current_exe().unwrap();
    Launcher::with_args(this, ["--exact", "--nocapture", "house::a_volume_server", "--"])
}

/// Looks until there is something.
pub async fn until<T>(mut look: impl AsyncFnMut() -> Option<T>) -> T {
    let found = async {
        loop {
            if let Some(found) = look().await {
                return found;
            }
            a_moment().await;
        }
    };
    tokio::time::timeout(PATIENCE, found).await.unwrap_or_else(|_| panic!("waited {PATIENCE:?} in vain"))
}

/// Between two looks.
pub async fn a_moment() {
    tokio::time::sleep(LOOK_EVERY).await;
}

/// The loopback address of all agents of this test process. Nobody else has it, so an agent that was killed finds its port
/// free again.
pub fn ip() -> IpAddr {
    let [_, a, b, c] = std::process::id().to_be_bytes();
    IpAddr::V4(Ipv4Addr::new(127, a, b, c))
}

fn own_address() -> SocketAddr {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    SocketAddr::new(ip(), PORT_FIRST + NEXT.fetch_add(1, Ordering::Relaxed))
}

/// A worker whose agent may be down.
pub struct Worker {
    config: Config,
    address: SocketAddr,
    pub door: Client,
    /// An agent lives in a runtime of its own, so that a crash takes everything with it that is the agent's.
    running: Option<Runtime>,
    /// Removed last.
    _dir: tempfile::TempDir,
}

/// Workers `w1`, `w2`, … that know each other, each with more lines in its configuration.
pub async fn workers<const N: usize>(more: [&str; N]) -> [Worker; N] {
    workers_below(more.map(|more| ("/tmp", more))).await
}

/// As [`workers`], each with its state directory below the given one.
pub async fn workers_below<const N: usize>(each: [(&str, &str); N]) -> [Worker; N] {
    let addresses = [(); N].map(|()| own_address());
    let mut workers = Vec::new();
    for (index, (below, more)) in each.into_iter().enumerate() {
        let dir = tempfile::Builder::new().prefix("fa").tempdir_in(below).unwrap();
        let name = format!("w{}", index + 1);
        let (state_dir, address) = (dir.path().join(&name), addresses[index]);
        let mut text =
            format!("name = {name:?}\nstate_dir = {state_dir:?}\nlisten = \"{address}\"\n{more}\n[peers]\n");
        for (other, address) in addresses.iter().enumerate().filter(|(other, _)| *other != index) {
            text.push_str(&format!("w{} = \"http://{address}\"\n", other + 1));
        }
        let config = Config::parse(Path::new("/test.toml"), &text).unwrap();
        let door = Client::new(&format!("http://{address}")).unwrap();
        let mut worker = Worker { config, address, door, running: None, _dir: dir };
        worker.start().await;
        workers.push(worker);
    }
    workers.try_into().unwrap_or_else(|_| unreachable!("as many workers as lines"))
}

impl Worker {
    pub async fn start(&mut self) {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let (config, address) = (self.config.clone(), self.address);
        let starting = runtime.spawn(async move {
            let agent = Arc::new(Agent::start(config, launcher()).await.unwrap());
            let listener = TcpListener::bind(address).await.unwrap();
            tokio::spawn(serve(vec![Entrance::Open(listener)], agent, std::future::pending()));
        });
        starting.await.unwrap();
        self.running = Some(runtime);
    }

    /// Drops the agent where it is, as a crash would, and returns when another one may have its state directory. Everything it
    /// started goes on.
    pub async fn kill(&mut self) {
        let runtime = self.running.take().unwrap();
        tokio::task::spawn_blocking(move || drop(runtime)).await.unwrap();
        let lock = std::fs::File::open(self.config.state_dir.join("agent.lock")).unwrap();
        until(async || flock(&lock, FlockOperation::NonBlockingLockExclusive).ok()).await;
    }

    pub fn config(&self) -> &Config {
        &self.config
    }

    pub fn door(&self) -> &Client {
        &self.door
    }

    pub async fn machine(&self, name: &str) -> Machine {
        self.door.machine(&name.parse().unwrap()).await.unwrap()
    }

    pub async fn volume(&self, name: &str) -> Volume {
        self.door.volume(&name.parse().unwrap()).await.unwrap()
    }

    /// Waits until a volume is as it should be.
    pub async fn volume_when(&self, name: &str, is: impl Fn(&Volume) -> bool) -> Volume {
        until(async || Some(self.volume(name).await).filter(&is)).await
    }

    /// Waits until a machine is as it should be.
    pub async fn machine_when(&self, name: &str, is: impl Fn(&Machine) -> bool) -> Machine {
        until(async || Some(self.machine(name).await).filter(&is)).await
    }

    /// Waits until a job has ended.
    pub async fn finished(&self, job: JobId) -> Job {
        let mut asked = EventsAfter { after: 0, wait_ms: EventsAfter::WAIT_MS_MAX };
        loop {
            let told = self.door.job_events(job, asked).await.unwrap();
            if told.job.state.is_final() {
                return told.job;
            }
            asked.after = told.job.last_seq;
        }
    }

    /// Ends everything on this worker.
    pub async fn end(mut self) {
        for machine in self.door.machines().await.unwrap() {
            if let MachineState::Running { .. } = machine.state {
                self.door.machine_stop(&machine.id.into()).await.unwrap();
            }
        }
        let volumes = self.door.volumes().await.unwrap();
        self.kill().await;
        for volume in volumes {
            let key = ferry_api::VolumeKey { id: volume.id, generation: volume.generation };
            let dir = ferry_agent::config::volume_dir(&self.config.state_dir, key);
            if let Ok(mut server) = ferry_volume::control::Client::connect(&dir) {
                server.shutdown().unwrap();
            }
        }
    }
}

/// A machine of this name that runs `script` and has one empty disk named `data`.
pub fn machine(name: &str, script: &str) -> CreateMachine {
    let mut spec = MachineSpec::process("sh", ["-c", script]);
    spec.stop_signal = Signal::KILL;
    let data = VolumeOrigin::Empty { size_bytes: 64 << 20, region_bytes: None, store: None, direct: false };
    CreateMachine {
        name: name.parse().unwrap(),
        spec,
        volumes: vec![NewVolume { name: "data".parse().unwrap(), origin: data }],
        start: true,
    }
}

pub fn pid(machine: &Machine) -> u32 {
    let MachineState::Running { pid, .. } = machine.state else { panic!("{machine:?} does not run") };
    pid
}

pub fn server_pid(volume: &Volume) -> u32 {
    let ServerState::Running { pid } = volume.server else { panic!("no server runs for {volume:?}") };
    pid
}

/// A machine that only sleeps.
pub fn sleeper(name: &str) -> CreateMachine {
    machine(name, "exec sleep 1000")
}

/// A machine that does not stop before `gate` is there.
pub fn gated(name: &str, gate: &Path) -> CreateMachine {
    let wait = format!("until [ -e {} ]; do sleep 0.02; done; exit", gate.display());
    let mut gated = machine(name, &format!("trap '{wait}' TERM; echo up; while :; do sleep 0.02; done"));
    (gated.spec.stop_signal, gated.spec.stop_grace_ms) = (Signal::TERM, 24 * 3_600_000);
    gated
}

pub async fn create(worker: &Worker, machine: CreateMachine) {
    worker.door().machine_create(machine).await.unwrap();
}

/// Writes so many bytes, whole MiB, to the one disk of a machine.
pub async fn fill(worker: &Worker, name: &str, bytes: u64) {
    const MIB: usize = 1 << 20;
    let machine = worker.machine(name).await.id;
    let volumes = worker.door().volumes().await.unwrap();
    let volume = volumes.iter().find(|volume| volume.machine == Some(machine)).unwrap();
    let mut disk = BlockClient::connect_text(&volume.guest_uri).unwrap();
    for at in (0..bytes).step_by(MIB) {
        disk.write_at(at, &vec![7; MIB]).unwrap();
    }
    disk.flush().unwrap();
}

/// Waits until the trap of a machine was set so many times: once each time that it was started.
pub async fn is_up(worker: &Worker, name: &str, times: usize) {
    let log = worker.machine(name).await.log;
    let is = |said: &String| said.lines().filter(|line| *line == "up").count() >= times;
    until(async || std::fs::read_to_string(&log).ok().filter(is)).await;
}

/// Whether a machine runs on a worker.
pub async fn runs_on(worker: &Worker, name: &str) -> bool {
    let machines = worker.door().machines().await.unwrap();
    machines.iter().any(|one| one.name.as_str() == name && matches!(one.state, MachineState::Running { .. }))
}

/// Ends everything on all of them.
pub async fn end<const N: usize>(workers: [Worker; N]) {
    for worker in workers {
        worker.end().await;
    }
}
