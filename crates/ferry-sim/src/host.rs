//! A simulated host as its agent sees it: behind the product's traits for hosts, records and marks.

use crate::control;
use crate::guest;
use crate::process::{Watching, What};
use crate::server::{launch, state_of};
use crate::store::{Store, sectors};
use crate::world::{At, Copy, HostIndex, Life, State, World};
use ferry_agent::drivers::{
    Driver, DriverError, Ended, HeldMachine, Holds, Launch, LaunchError, Live, Watch,
};
use ferry_agent::fences::{FenceError, Raising, Shelf};
use ferry_agent::host::{Doing, Host, Question};
use ferry_agent::lying::{Lying, MachinePlace, Place, Running};
use ferry_agent::means::Means;
use ferry_agent::records::{Change, Gate, ProcessMark, VolumeRecord};
use ferry_agent::volumes::VolumesError;
use ferry_api::{DriverKind, Frontend, HealthCheck, MachineId, MachineSpec, Ownership, VolumeKey};
use ferry_crossing::Subject;
use ferry_engine::{Geometry, MapState, Phase, map};
use ferry_volume::client::BlockError;
use ferry_volume::control::{Client, ControlError};
use ferry_volume::{LastState, Left, SourceUri, StoreError};
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Bytes of room on each host; no simulation comes near it.
const ROOM_BYTES: u64 = 1 << 30;
/// What the name of a directory that was set aside ends with.
const ASIDE: &str = ".deleted";

/// A host, as one agent on it sees it.
#[derive(Clone)]
pub struct Simulated {
    /// The world it is in.
    pub world: Arc<World>,
    /// Which one it is.
    pub index: HostIndex,
    /// The agent.
    pub life: Arc<Life>,
}

impl fmt::Debug for Simulated {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Simulated").field("index", &self.index).finish_non_exhaustive()
    }
}

impl Simulated {
    fn at(&self, key: VolumeKey) -> At {
        At { host: self.index, key }
    }

    /// Changes the host, unless the agent that wants it is dead.
    pub(crate) fn change<T>(&self, act: impl FnOnce(&mut State) -> T) -> io::Result<T> {
        match self.life.is_over() {
            true => Err(io::Error::other("the agent is dead")),
            false => Ok(act(&mut self.world.lock())),
        }
    }

    async fn after_disk(&self) {
        let ms = self.world.disk_ms(self.index);
        self.world.let_through(self.index, &self.life, ms).await;
    }

    fn full(&self) -> io::Result<()> {
        match self.world.lock().hosts[self.index].is_full {
            true => Err(io::Error::from(io::ErrorKind::StorageFull)),
            false => Ok(()),
        }
    }

    fn make_copy(&self, record: &VolumeRecord) -> io::Result<()> {
        self.full()?;
        let at = self.at(record.key());
        self.change(|state| {
            if state.hosts[at.host].copies.contains_key(&at.key) {
                return;
            }
            state.say_of(at.host, format!("makes {}", at.key));
            state.hosts[at.host].copies.insert(at.key, fresh(record));
            if record.source.is_none() && record.ownership == Ownership::Ours {
                state.oracle.add(at.key.id, sectors(0, record.size_bytes).len());
            }
            state.check_open_copies(at);
        })
    }
}

fn fresh(record: &VolumeRecord) -> Copy {
    let geometry = Geometry::new(record.size_bytes, u64::from(record.region_bytes)).expect("it was checked");
    let phase = if record.ownership == Ownership::Ours { Phase::Open } else { Phase::Standby };
    let has_source = record.source.is_some();
    let state = MapState::fresh([1; 16], geometry, record.generation.0, phase, has_source);
    // As the product makes a copy: only a move makes one of a later generation, from the one before.
    let born_from = record.generation.0.checked_sub(1).filter(|before| *before > 0 && has_source);
    let state = if born_from.is_some() { state.born() } else { state };
    let (map, log) = map::compact(&state);
    Copy {
        data: Store::new(record.size_bytes),
        map,
        log,
        last_frame: None,
        notes: Vec::new(),
        source: record.source.as_ref().map(|source| source.uri.clone()),
        export: None,
        born_from,
        base: None,
        bad: None,
    }
}

/// What lies in the directories of a host.
fn lying_on(host: &crate::world::Host) -> Lying {
    let place = |path: String, copy, bytes| Place {
        path: PathBuf::from(path),
        copy,
        is_elsewhere: false,
        since_ms: None,
        bytes,
    };
    let copies = host.copies.iter();
    let volumes = copies
        .map(|(key, copy)| place(format!("/sim/volumes/{key}"), Some(*key), copy.data.bytes_used()))
        .collect();
    let half_deleted = host.aside.iter().map(|(name, copy)| {
        let key = name.strip_suffix(ASIDE).and_then(|name| name.parse().ok());
        place(name.clone(), key, copy.data.bytes_used())
    });
    let machines = host.machine_dirs.iter().map(|&machine| {
        let place = place(format!("/sim/machines/{machine}"), None, 0);
        MachinePlace { place, machine, holds_files: false }
    });
    Lying { volumes, half_deleted: half_deleted.collect(), machines: machines.collect() }
}

fn mark_of(host: &crate::world::Host, pid: u32, wall_ms: u64) -> ProcessMark {
    ProcessMark { pid, start_ticks: 1, boot_id: host.boot.to_string(), started_at_ms: wall_ms }
}

fn failed(doing: &'static str) -> impl Fn(io::Error) -> VolumesError {
    move |cause| VolumesError::Io { doing, path: PathBuf::from("/sim"), cause }
}

impl Host for Simulated {
    fn now_ms(&self) -> u64 {
        self.world.lock().wall_ms(self.index)
    }

    fn driver(&self, _kind: DriverKind) -> &dyn Driver {
        self
    }

    fn look(&self, _device: PathBuf) -> Doing<'_, Result<Holds, DriverError>> {
        Box::pin(async { Err(no_devices()) })
    }

    fn make_filesystem(&self, _device: PathBuf, _spec: MachineSpec) -> Doing<'_, Result<(), DriverError>> {
        Box::pin(async { Err(no_devices()) })
    }

    fn machine_dir(&self, machine: MachineId) -> io::Result<PathBuf> {
        self.change(|state| state.hosts[self.index].machine_dirs.insert(machine))?;
        Ok(PathBuf::from(format!("/sim/machines/{machine}")))
    }

    fn remove_machine_dir(&self, machine: MachineId) -> Doing<'_, io::Result<()>> {
        Box::pin(async move {
            self.after_disk().await;
            self.change(|state| {
                state.hosts[self.index].machine_dirs.remove(&machine);
            })
        })
    }

    fn make(&self, record: VolumeRecord) -> Doing<'_, Result<(), VolumesError>> {
        Box::pin(async move {
            self.after_disk().await;
            self.make_copy(&record).map_err(failed("make"))
        })
    }

    fn is_made(&self, copy: VolumeKey) -> bool {
        self.world.lock().hosts[self.index].copies.contains_key(&copy)
    }

    fn copies(&self) -> io::Result<Vec<VolumeKey>> {
        Ok(self.world.lock().hosts[self.index].copies.keys().copied().collect())
    }

    fn last_state(&self, copy: VolumeKey) -> Result<Option<LastState>, StoreError> {
        let state = self.world.lock();
        let known = state.hosts[self.index].copies.get(&copy).map(|copy| {
            let map = state_of(copy);
            let size_bytes = map.geometry().size_bytes();
            let bytes_remote = size_bytes - map.truth.bytes_local();
            LastState { phase: ferry_volume::control::Phase::of_map(map.phase), size_bytes, bytes_remote }
        });
        Ok(known)
    }

    fn set_aside(&self, copy: VolumeKey) -> Result<PathBuf, VolumesError> {
        let aside = format!("{copy}{ASIDE}");
        let moved = self.change(|state| {
            if state.server(self.at(copy)).is_some() {
                state.find(format!("the directory of {copy} is deleted under its server"));
            }
            state.say_of(self.index, format!("deletes {copy}"));
            let host = &mut state.hosts[self.index];
            if let Some(copy) = host.copies.remove(&copy) {
                host.aside.insert(aside.clone(), copy);
            }
        });
        moved.map_err(failed("move away"))?;
        Ok(PathBuf::from(aside))
    }

    fn remove(&self, leftover: PathBuf) -> Doing<'_, Result<(), VolumesError>> {
        Box::pin(async move {
            self.after_disk().await;
            let name = leftover.display().to_string();
            let removed = self.change(|state| drop(state.hosts[self.index].aside.remove(&name)));
            removed.map_err(failed("remove"))
        })
    }

    fn remove_leftovers(&self) -> Result<(), VolumesError> {
        self.change(|state| state.hosts[self.index].aside.clear()).map_err(failed("remove"))
    }

    fn lying(&self) -> Doing<'_, io::Result<Lying>> {
        Box::pin(async move {
            self.after_disk().await;
            Ok(lying_on(&self.world.lock().hosts[self.index]))
        })
    }

    fn running(&self) -> Doing<'_, io::Result<Running>> {
        Box::pin(async move {
            let state = self.world.lock();
            let host = &state.hosts[self.index];
            let servers = host.processes.iter().filter_map(|(pid, process)| match process.what {
                What::Serves(key) => Some((mark_of(host, *pid, state.wall_ms(self.index)), key)),
                What::Waits(_) | What::Awaits { .. } | What::Runs(_) => None,
            });
            // Machines here have no variables by which they could be known, and none is ever lost sight of.
            Ok(Running { servers: servers.collect(), machines: Vec::new() })
        })
    }

    fn end_process(&self, mark: ProcessMark) -> Doing<'_, io::Result<()>> {
        Box::pin(async move { self.change(|state| state.kill(self.index, mark.pid)) })
    }

    fn left_by_server(&self, _copy: VolumeKey) -> Doing<'_, io::Result<Left>> {
        // A server here leaves nothing.
        Box::pin(async { Ok(Left::default()) })
    }

    fn clear_left_by_server(&self, _copy: VolumeKey) -> Doing<'_, Result<(), VolumesError>> {
        Box::pin(async { Ok(()) })
    }

    fn occupied_bytes(&self, copy: VolumeKey) -> io::Result<u64> {
        let state = self.world.lock();
        Ok(state.hosts[self.index].copies.get(&copy).map_or(0, |copy| copy.data.bytes_used()))
    }

    fn available_bytes(&self) -> io::Result<u64> {
        Ok(ROOM_BYTES)
    }

    fn has_direct_io(&self) -> Doing<'_, bool> {
        Box::pin(async { true })
    }

    fn means(&self) -> io::Result<Means> {
        Ok(Means { cpu_millis: 8_000, memory_bytes: 32 << 30, busy_cpu_millis: 0 })
    }

    fn frontends(&self) -> Doing<'_, Vec<Frontend>> {
        Box::pin(async { Vec::new() })
    }

    fn launch(&self, copy: VolumeKey) -> Result<u32, LaunchError> {
        let failed = |cause| LaunchError::Start { program: PathBuf::from("ferry"), cause };
        self.change(|_| ()).map_err(failed)?;
        Ok(launch(&self.world, self.at(copy)))
    }

    fn watch(&self, pid: u32) -> io::Result<Option<Watch>> {
        Ok(Watching::find(&self.world, self.index, &self.life, pid).map(Watch::over))
    }

    fn ask(&self, copy: VolumeKey, question: Question) -> Doing<'_, Result<(), ControlError>> {
        Box::pin(async move {
            self.after_disk().await;
            let dir = PathBuf::from(format!("/sim/volumes/{copy}"));
            let at = self.at(copy);
            let pid = self.world.lock().server(at).map(|server| server.pid);
            let Some(pid) = pid else {
                let cause = io::Error::from(io::ErrorKind::ConnectionRefused);
                return Err(ControlError::NotRunning { path: dir, cause });
            };
            let courier = control::Socket { world: Arc::clone(&self.world), at, pid };
            question(&mut Client::by_courier(&dir, Box::new(courier)));
            self.world.let_through(self.index, &self.life, 0).await;
            Ok(())
        })
    }

    fn last_words(&self, copy: VolumeKey) -> String {
        let state = self.world.lock();
        state.hosts[self.index].last_words.get(&copy).cloned().unwrap_or_else(|| "it said nothing".to_owned())
    }

    fn reach(&self, source: SourceUri) -> Doing<'_, Result<(), BlockError>> {
        Box::pin(async move {
            self.world.let_through(self.index, &self.life, 2).await;
            let state = self.world.lock();
            let found = crate::wire::parse_uri(&state, &source.to_string());
            let is_there = found.is_some_and(|(to, port)| {
                state.hear(self.index, to.host)
                    && state.server(to).is_some_and(|server| server.exports == Some(port))
            });
            match is_there {
                true => Ok(()),
                false => Err(BlockError::Broken(io::Error::from(io::ErrorKind::ConnectionRefused))),
            }
        })
    }
}

impl Gate for Simulated {
    fn before<'a>(&'a self, write: Option<(&'a [String], &'a [Change])>) -> Doing<'a, Result<(), String>> {
        Box::pin(async move {
            let Some((entries, changes)) = write else {
                self.world.let_through(self.index, &self.life, 0).await;
                return Ok(());
            };
            self.after_disk().await;
            if self.full().is_err() {
                self.world.lock().say_of(self.index, "has no room for its records");
                return Err("no space left on device".to_owned());
            }
            self.die_writing("is killed before it has written").await;
            self.world.lock().say_of(self.index, crate::records::in_words(entries, changes));
            Ok(())
        })
    }

    fn after<'a>(&'a self, entries: &'a [String], changes: &'a [Change]) -> Doing<'a, ()> {
        Box::pin(async move {
            crate::records::written(&mut self.world.lock(), self.index, entries, changes);
            self.die_writing("is killed after it has written").await;
        })
    }
}

/// Machines of a simulation mount nothing.
fn no_devices() -> DriverError {
    let cause = io::Error::from(io::ErrorKind::Unsupported);
    DriverError::Io { doing: "use block devices here".to_owned(), cause }
}

impl Simulated {
    async fn die_writing(&self, how: &str) {
        {
            let mut state = self.world.lock();
            let often = state.faults.dies_writing;
            if state.mishap(often) {
                state.count("agents killed over a write");
                state.agent_dies(self.index, how);
            }
        }
        self.world.let_through(self.index, &self.life, 0).await;
    }
}

impl Shelf for Simulated {
    fn path(&self, subject: Subject) -> PathBuf {
        PathBuf::from(format!("/sim/handed-over/{subject:?}"))
    }

    fn read(&self, subject: Subject) -> Result<Option<Vec<u8>>, FenceError> {
        Ok(self.world.lock().hosts[self.index].marks.get(&subject).cloned())
    }

    fn replace(&self, subject: Subject, mark: Option<Vec<u8>>) -> Result<(), FenceError> {
        let io = |cause| FenceError::Io { doing: "write", path: self.path(subject), cause };
        self.full().map_err(io)?;
        self.change(|state| {
            if let Some(mark) = mark {
                state.say_of(self.index, format!("remembers that it handed over {subject:?}"));
                state.hosts[self.index].marks.insert(subject, mark);
            }
        })
        .map_err(io)
    }

    fn aside(&self, act: Raising) -> Doing<'static, Result<(), FenceError>> {
        let this = self.clone();
        Box::pin(async move {
            this.after_disk().await;
            act()
        })
    }
}

impl Driver for Simulated {
    fn probe(&self) -> Doing<'_, Result<String, DriverError>> {
        Box::pin(async { Ok(String::new()) })
    }

    fn check<'a>(&'a self, _spec: &'a MachineSpec) -> Doing<'a, Result<(), DriverError>> {
        Box::pin(async { Ok(()) })
    }

    fn start<'a>(&'a self, launch: &'a Launch) -> Doing<'a, Result<Box<dyn HeldMachine>, DriverError>> {
        Box::pin(async move {
            self.world.let_through(self.index, &self.life, 3).await;
            let held = Held::new(self, launch, false);
            Ok(Box::new(held) as Box<dyn HeldMachine>)
        })
    }

    fn try_health<'a>(
        &'a self,
        _launch: &'a Launch,
        _mark: &'a ProcessMark,
        _check: &'a HealthCheck,
    ) -> Doing<'a, Result<(), String>> {
        Box::pin(async { Ok(()) })
    }

    fn live(&self) -> Option<&dyn Live> {
        Some(self)
    }

    fn find(&self, _dir: &Path, mark: &ProcessMark) -> Result<Option<Watch>, DriverError> {
        if mark.boot_id != self.world.lock().hosts[self.index].boot.to_string() {
            return Ok(None);
        }
        Ok(Watching::find(&self.world, self.index, &self.life, mark.pid).map(Watch::over))
    }
}

/// A process that is a machine once it is let run, or waits for the memory of one.
pub(crate) struct Held {
    host: Simulated,
    mark: ProcessMark,
    machine: MachineId,
    disks: Vec<VolumeKey>,
    awaits: bool,
}

impl Held {
    /// One of a host that does nothing yet.
    pub(crate) fn new(host: &Simulated, launch: &Launch, awaits: bool) -> Self {
        let machine = launch.env.get("FERRY_MACHINE_ID").and_then(|id| id.parse().ok());
        let machine: MachineId = machine.expect("a machine is told its id");
        let is_disk = |name: &str| name.starts_with("FERRY_VOLUME_");
        let of_uri = |uri: &str| uri.rsplit('/').nth(1).and_then(crate::wire::parse_key);
        let uris = launch.env.iter().filter(|(name, _)| is_disk(name)).map(|(_, uri)| uri);
        let disks = uris.map(|uri| of_uri(uri).expect("the URI of a disk names its copy")).collect();
        let mut state = host.world.lock();
        let pid = state.start_process(host.index, What::Waits(Arc::clone(&host.life)));
        let boot_id = state.hosts[host.index].boot.to_string();
        let mark = ProcessMark { pid, start_ticks: 1, boot_id, started_at_ms: state.wall_ms(host.index) };
        drop(state);
        Self { host: host.clone(), mark, machine, disks, awaits }
    }
}

impl HeldMachine for Held {
    fn mark(&self) -> &ProcessMark {
        &self.mark
    }

    fn release(self: Box<Self>) -> Result<Watch, DriverError> {
        let Self { host, mark, machine, disks, awaits } = *self;
        let gone = || DriverError::Io {
            doing: "let a process run".to_owned(),
            cause: io::Error::from(io::ErrorKind::BrokenPipe),
        };
        let watching = Watching::find(&host.world, host.index, &host.life, mark.pid).ok_or_else(gone)?;
        let lets_run = |state: &mut State| match awaits {
            true => {
                state.say_of(host.index, format!("process {} waits for the memory of {machine}", mark.pid));
                if let Some(process) = state.hosts[host.index].processes.get_mut(&mark.pid) {
                    process.what = What::Awaits { machine, disks };
                }
            }
            false => guest::begin(state, host.index, mark.pid, machine, disks, None),
        };
        host.change(lets_run).map_err(|_| gone())?;
        Ok(Watch::over(watching))
    }

    fn abandon(self: Box<Self>) -> Doing<'static, ()> {
        let end = Ended::with_code(1);
        // Also of a dead agent: what it holds never ran, and ends with it.
        self.host.world.lock().end_process(self.host.index, self.mark.pid, end);
        Box::pin(async {})
    }
}
