//! A lane: two real workers of its own and a machine that never stops writing, which is moved back and forth.
//!
//! Each worker has a loopback address of its own (127.0.0.0/8 is all this host's), so that its ports stay free while its
//! agent is dead. The link lies between the two where outages are drilled; elsewhere exports get a new port each time their server
//! starts, as on real hosts.

use std::ffi::OsStr;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use ferry_api::http::Client;
use ferry_api::{
    Accel, AgentApi, CreateMachine, Driver, Machine, MachineSpec, QemuSpec, Volume, VolumeId, VolumeRef,
};
use ferry_volume::client::BlockClient;
use tokio::time::{Instant, sleep};

use super::gate::Gate;
use super::hook;
use super::link::Link;
use super::point::Role;
use super::row::{Guest, Victim};
use super::vm;
use crate::demo::acks::{self, Entry};
use crate::demo::layout::Layout;
use crate::demo::processes::{self, runs_part};
use crate::demo::workers::last_words;
use crate::demo::{fill, machine_ref, writer_machine};

/// Between two looks at what nothing announces.
pub const LOOK_EVERY: Duration = Duration::from_millis(5);
/// How long anything of a lane may take: far more than it ever does, also on a host that is busy.
pub const PATIENCE: Duration = Duration::from_secs(60);
/// How long somebody who is to be killed is waited for.
const VICTIM_WAIT_MAX: Duration = Duration::from_secs(2);
/// Pause between two records of the machine.
const RECORD_EVERY_MS: u64 = 2;
/// So many records tell that the machine goes on.
const RECORDS_MORE: usize = 5;
/// Where the agents of all lanes listen, each at an address of its own.
pub const AGENT_PORT: u16 = 7433;
const EXPORT_PORT: u16 = 7434;
/// Where memory arrives that crosses a link.
const MEMORY_PORT: u16 = 7435;
/// What the driver of VMs runs, as it looks for it.
const VMM: &str = "qemu-system-x86_64";
/// Addresses of one lane: its two workers, and each of them as seen through the link.
const ADDRESSES: u8 = 4;
/// Lanes that one block of addresses has room for.
pub const SLOTS_MAX: u8 = 60;

/// A test for the command line of a process, as in /proc.
pub type OfCommandLine = Box<dyn Fn(&[u8]) -> bool + Send>;

/// What is between the two workers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wiring {
    /// Nothing.
    Direct,
    /// A link that can be cut, stalled and reset.
    Linked,
}

/// One worker of a lane.
pub struct Seat {
    /// Its name.
    pub name: &'static str,
    /// Its state directory.
    pub dir: PathBuf,
    /// The door to its agent.
    pub client: Client,
    address: SocketAddr,
    config: PathBuf,
    log: PathBuf,
}

/// The addresses of a lane.
#[derive(Clone, Copy, Debug)]
pub struct Addresses {
    /// 127.A.B.0/24, which the lanes of a drill share.
    pub block: [u8; 2],
    /// The lane's part of it.
    pub slot: u8,
}

impl Addresses {
    fn at(self, index: u8) -> IpAddr {
        let [a, b] = self.block;
        IpAddr::V4(Ipv4Addr::new(127, a, b, self.slot * ADDRESSES + index + 1))
    }
}

/// Two workers and their machine.
pub struct Lane {
    /// Where everything of it lies.
    pub dir: PathBuf,
    /// Its workers.
    pub seats: [Seat; 2],
    /// Which of them has the machine.
    pub home: usize,
    /// Where their agents say where they are.
    pub gate: Gate,
    /// What is between them.
    pub link: Link,
    /// How its machine uses its volume.
    pub layout: Layout,
    /// What its machine was promised.
    pub diary: PathBuf,
    /// The volume of the machine.
    pub volume: VolumeId,
    /// Whether the link is between them.
    pub wiring: Wiring,
    /// What the machine is.
    pub guest: Guest,
    /// Whether copies that the machine left behind are kept for a while.
    pub keeps_copies: bool,
}

impl Lane {
    /// Starts two agents and a machine on the first in `dir`, which is new.
    ///
    /// # Errors
    /// Something does not start; what was started is ended with the house.
    pub async fn found(
        dir: PathBuf,
        addresses: Addresses,
        wiring: Wiring,
        guest: Guest,
        layout: Layout,
    ) -> Result<Self> {
        std::fs::create_dir(&dir).with_context(|| format!("{} cannot be made", dir.display()))?;
        let gate = Gate::listen(&dir.join("drill.sock"))?;
        let address = |index| addresses.at(index);
        let workers = [address(0), address(1)];
        let (seen, mut link) =
            (if wiring == Wiring::Linked { [address(2), address(3)] } else { workers }, Link::new());
        if wiring == Wiring::Linked {
            for (near, far) in seen.into_iter().zip(workers) {
                for port in [AGENT_PORT, EXPORT_PORT, MEMORY_PORT] {
                    link.bridge(SocketAddr::new(near, port), SocketAddr::new(far, port)).await?;
                }
            }
        }
        let seat = |index: usize| Seat::prepare(&dir, index, workers, seen, wiring);
        let diary = dir.join("acks");
        let seats = [seat(0)?, seat(1)?];
        let volume = VolumeId::fresh();
        let mut lane = Self {
            dir,
            seats,
            home: 0,
            gate,
            link,
            layout,
            diary,
            volume,
            wiring,
            guest,
            keeps_copies: false,
        };
        lane.install_vmm()?;
        tokio::try_join!(lane.start_agent(0), lane.start_agent(1))?;
        lane.create_machine().await?;
        Ok(lane)
    }

    /// The worker that has this part in a move from where the machine is.
    pub fn seat_of(&self, role: Role) -> usize {
        match role {
            Role::Source => self.home,
            Role::Target => 1 - self.home,
        }
    }

    /// Starts the agent of a worker, and returns when it answers.
    ///
    /// # Errors
    /// It ends or does not answer; its last words are in the error.
    pub async fn start_agent(&self, seat: usize) -> Result<()> {
        let socket = self.dir.join("drill.sock");
        let seat = &self.seats[seat];
        let words = ["agent", "--config"].map(OsStr::new).into_iter().chain([seat.config.as_os_str()]);
        let words: Vec<_> = words.chain([OsStr::new("--drill"), socket.as_os_str()]).collect();
        let pid = processes::start_self(&words, &seat.log, Some(&self.bin()))?;
        let deadline = Instant::now() + PATIENCE;
        while tokio::net::TcpStream::connect(seat.address).await.is_err() {
            if !processes::is_living(pid) {
                bail!("the agent of {} ended at once: {}", seat.name, last_words(&seat.log));
            }
            if Instant::now() > deadline {
                bail!("the agent of {} does not answer: {}", seat.name, last_words(&seat.log));
            }
            sleep(LOOK_EVERY).await;
        }
        Ok(())
    }

    /// Where the hooks of the machine note that they were run.
    pub fn ledger(&self) -> PathBuf {
        self.dir.join("hooks")
    }

    /// Where programs lie that stand for others.
    fn bin(&self) -> PathBuf {
        self.dir.join("bin")
    }

    fn install_vmm(&self) -> Result<()> {
        let made = || {
            std::fs::create_dir(self.bin())?;
            let path = self.bin().join(VMM);
            std::fs::write(&path, vm::script(std::env::current_exe()?.as_os_str()).as_bytes())?;
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755))
        };
        made().context("what stands for a VMM cannot be made")
    }

    /// The machine, which is not started yet.
    fn machine(&self) -> Result<CreateMachine> {
        let interval = format!("{RECORD_EVERY_MS}ms");
        let mut create = writer_machine(self.layout, &self.diary, &["--interval", &interval])?;
        if self.guest == Guest::Hooked {
            create.spec.hooks = hook::hooks(&self.ledger(), &self.dir.join("drill.sock"))?;
        }
        if self.guest == Guest::Vm {
            // Also a kernel to the driver, which looks for that on both workers.
            std::fs::write(&self.diary, "").context("the diary cannot be made")?;
            let port = if self.wiring == Wiring::Linked { MEMORY_PORT } else { 0 };
            let ring = (self.layout.ring_offset(), self.layout.ring_bytes);
            let told = vm::Told { ring, interval_ms: RECORD_EVERY_MS, port };
            let driver = Driver::Qemu(QemuSpec {
                kernel: Some(self.diary.clone()),
                append: Some(told.to_text()),
                accel: Accel::Tcg,
                ..QemuSpec::default()
            });
            create.spec = MachineSpec { driver, ..create.spec };
        }
        Ok(create)
    }

    async fn create_machine(&mut self) -> Result<()> {
        let client = &self.seats[self.home].client;
        let machine = client.machine_create(self.machine()?).await?;
        self.volume = machine.volumes.first().ok_or_else(|| anyhow!("a machine without its volume"))?.volume;
        let (uri, layout) = (self.volume_on(self.home).await?.guest_uri, self.layout);
        let filling = tokio::task::spawn_blocking(move || {
            fill::fill(&mut BlockClient::connect_text(&uri)?, &layout, &mut |_| {})
        });
        filling.await.context("filling the volume broke off")?.context("the volume cannot be filled")?;
        client.machine_start(&machine_ref()?).await?;
        self.wait_for_records().await
    }

    /// The copy of the volume that a worker has.
    ///
    /// # Errors
    /// Its agent does not say.
    pub async fn volume_on(&self, seat: usize) -> Result<Volume> {
        Ok(self.seats[seat].client.volume(&VolumeRef::Id(self.volume)).await?)
    }

    /// The machine as a worker knows it.
    ///
    /// # Errors
    /// Its agent does not say.
    pub async fn machine_on(&self, seat: usize) -> Result<Machine> {
        Ok(self.seats[seat].client.machine(&machine_ref()?).await?)
    }

    /// The diary of the machine.
    ///
    /// # Errors
    /// It cannot be read, or is damaged.
    pub fn entries(&self) -> Result<Vec<Entry>> {
        acks::read(&self.diary)
    }

    /// Waits until the machine has got some more records acknowledged.
    ///
    /// # Errors
    /// It has not for too long.
    pub async fn wait_for_records(&self) -> Result<()> {
        let count = || anyhow::Ok(acks::acknowledged(&self.entries()?).count());
        let (before, deadline) = (count()?, Instant::now() + PATIENCE);
        while count()? < before + RECORDS_MORE {
            if Instant::now() > deadline {
                bail!("the machine writes no record any more");
            }
            sleep(LOOK_EVERY).await;
        }
        Ok(())
    }

    /// Kills some, all at the same moment, and returns when they are gone. Tells how many processes they were.
    ///
    /// # Errors
    /// The system refuses.
    pub async fn kill(&self, victims: &[Victim]) -> Result<usize> {
        let wanted: Vec<_> = victims.iter().map(|victim| self.is_victim(*victim)).collect();
        let killing = tokio::task::spawn_blocking(move || {
            processes::kill(|line| wanted.iter().any(|is_wanted| is_wanted(line)))
        });
        killing.await.context("killing broke off")?
    }

    /// Whether all of these live. What another agent starts at the same time may come a moment later than in the
    /// rehearsal, and is waited for; what another one ends may be gone already.
    pub async fn are_there(&self, victims: &[Victim]) -> bool {
        let deadline = Instant::now() + VICTIM_WAIT_MAX;
        while victims.iter().any(|victim| processes::find(self.is_victim(*victim)).is_empty()) {
            if Instant::now() > deadline {
                return false;
            }
            sleep(LOOK_EVERY).await;
        }
        true
    }

    /// A test for the command line of one who may be killed.
    pub fn is_victim(&self, victim: Victim) -> OfCommandLine {
        let (source, target) = (&self.seats[self.home], &self.seats[1 - self.home]);
        match victim {
            Victim::SourceAgent => Box::new(source.is_agent()),
            Victim::TargetAgent => Box::new(target.is_agent()),
            Victim::SourceServer => Box::new(source.is_server()),
            Victim::TargetServer => Box::new(target.is_server()),
            Victim::Machine => {
                // Also while it is behind the gate of its driver, as a shell.
                let diary = self.diary.clone();
                Box::new(move |line| {
                    line.split(|byte| *byte == 0).any(|word| OsStr::from_bytes(word) == diary)
                })
            }
        }
    }

    /// The processes in which the machine runs.
    pub fn machines(&self) -> Vec<u32> {
        let mut found = self.processes();
        // A VM may also wait for its memory, or be paused: then its diary is closed.
        found.retain(|pid| self.guest != Guest::Vm || processes::has_open(*pid, &self.diary));
        found
    }

    /// All processes of the machine.
    pub fn processes(&self) -> Vec<u32> {
        processes::find(|line| runs_part(line, &["demo-writer", "drill-vm"], &self.dir))
    }

    /// How often the machine was started.
    ///
    /// # Errors
    /// Its diary cannot be read, or is damaged.
    pub fn boots(&self) -> Result<usize> {
        Ok(self.entries()?.iter().filter(|entry| matches!(entry, Entry::Start { .. })).count())
    }
}

impl Seat {
    fn prepare(
        dir: &Path,
        index: usize,
        workers: [IpAddr; 2],
        seen: [IpAddr; 2],
        wiring: Wiring,
    ) -> Result<Self> {
        let names = ["w1", "w2"];
        let (name, other) = (names[index], names[1 - index]);
        let (address, there) =
            (SocketAddr::new(workers[index], AGENT_PORT), SocketAddr::new(seen[1 - index], AGENT_PORT));
        let state_dir = dir.join(name);
        let export = match wiring {
            Wiring::Direct => 0,
            Wiring::Linked => EXPORT_PORT,
        };
        let text = format!(
            "name = \"{name}\"\nlisten = \"{address}\"\nstate_dir = \"{}\"\nadvertise = \"{}\"\nexport_listen = \
             \"{}\"\n\n[peers]\n{other} = \"http://{there}\"\n",
            state_dir.display(),
            seen[index],
            SocketAddr::new(workers[index], export),
        );
        let config = dir.join(format!("{name}.toml"));
        std::fs::write(&config, text).with_context(|| format!("{} cannot be written", config.display()))?;
        let client = Client::new(&format!("http://{address}"))?;
        Ok(Self { name, dir: state_dir, client, address, config, log: dir.join(format!("{name}.log")) })
    }

    /// A test for the command line of its agent.
    pub fn is_agent(&self) -> impl Fn(&[u8]) -> bool + Send + use<> {
        let config = self.config.clone();
        move |line| {
            let mut words = line.split(|byte| *byte == 0).map(OsStr::from_bytes);
            words.nth(1) == Some(OsStr::new("agent")) && words.any(|word| word == config)
        }
    }

    /// A test for the command line of its volume servers.
    pub fn is_server(&self) -> impl Fn(&[u8]) -> bool + Send + use<> {
        let dir = self.dir.clone();
        move |line| runs_part(line, &["volume-server"], &dir)
    }

    /// The directories of the copies it has.
    pub fn copies(&self) -> Vec<PathBuf> {
        let entries = std::fs::read_dir(self.dir.join("volumes")).into_iter().flatten().flatten();
        entries.map(|entry| entry.path()).collect()
    }
}
