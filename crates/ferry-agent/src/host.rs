//! The host as its agent sees it: the clock on the wall, the directories and servers of volumes, machines.
//!
//! ```text
//!   agent ──▶ Host ──▶ ThisHost    files, processes, control sockets
//!                 └──▶ a simulation of all that, with every mishap that a host may have
//! ```
//!
//! Invariant: nothing of the agent that decides who may write, or what runs where, comes to files, processes or the clock
//! by another way; so what a simulation tries is what real hosts run.

use crate::drivers::oci::images::Images;
use crate::drivers::qemu::MONITOR_SOCKET;
use crate::drivers::{
    Channel, Driver, DriverError, Gates, Holds, LaunchError, Launcher, MicroVmDriver, OciDriver,
    ProcessDriver, QemuDriver, Vmm, Watch, filesystem, isolated, oci, tap,
};
use crate::lying::{self, Lying, Running};
use crate::machines::LOG;
use crate::means::{self, Means};
use crate::records::{ProcessMark, VolumeRecord};
use crate::volumes::VolumesError;
use ferry_api::{CONSOLE_SOCKET, DriverKind, Frontend, MachineId, MachineSpec, VolumeKey};
use ferry_volume::client::{self, BlockError};
use ferry_volume::control::{Client, ControlError};
use ferry_volume::{Credentials, LastState, Left, SourceUri, StoreError};
use rustix::process::Signal;
use std::future::Future;
use std::io;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::time::timeout;

use crate::config::{volume_dir, volumes_dir};
use crate::disks;
use crate::volumes::files;

/// How long a process that nobody knows may take to end when it is asked to.
const END_GRACE: Duration = Duration::from_secs(2);

/// Something a host does for its agent.
pub type Doing<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// What is asked of a volume server once somebody has come to it.
pub type Question = Box<dyn FnOnce(&mut Client) + Send>;

/// A host. What waits for a disk, a process or the network is [`Doing`]; everything may be repeated.
pub trait Host: Send + Sync + 'static {
    /// Milliseconds since 1970 by the clock on the wall, which may be wrong and may jump. For records and people.
    fn now_ms(&self) -> u64;

    /// What runs machines of a kind. This is the only place where a driver is chosen.
    fn driver(&self, kind: DriverKind) -> &dyn Driver;

    /// What a block device holds.
    fn look(&self, device: PathBuf) -> Doing<'_, Result<Holds, DriverError>>;

    /// Makes a file system on a block device, whatever it holds. It belongs to the user of the machine with this spec.
    fn make_filesystem(&self, device: PathBuf, spec: MachineSpec) -> Doing<'_, Result<(), DriverError>>;

    /// The directory of a machine, made if it is not there.
    ///
    /// # Errors
    /// The system refuses.
    fn machine_dir(&self, machine: MachineId) -> io::Result<PathBuf>;

    /// Removes the directory of a machine, if there is one.
    fn remove_machine_dir(&self, machine: MachineId) -> Doing<'_, io::Result<()>>;

    /// Makes the directory of a copy; done already if a complete one is there.
    fn make(&self, record: VolumeRecord) -> Doing<'_, Result<(), VolumesError>>;

    /// Whether a copy has a directory.
    fn is_made(&self, copy: VolumeKey) -> bool;

    /// The copies that have directories, also those of which no record tells.
    ///
    /// # Errors
    /// The system refuses.
    fn copies(&self) -> io::Result<Vec<VolumeKey>>;

    /// What a copy last was, by the map in its directory; none if it has none.
    ///
    /// # Errors
    /// The map cannot be read or is damaged.
    fn last_state(&self, copy: VolumeKey) -> Result<Option<LastState>, StoreError>;

    /// Takes the directory of a copy out of the way, so that nothing finds it any more, durably. Tells where it is now.
    ///
    /// # Errors
    /// The system refuses.
    fn set_aside(&self, copy: VolumeKey) -> Result<PathBuf, VolumesError>;

    /// Removes a directory that was set aside.
    fn remove(&self, leftover: PathBuf) -> Doing<'_, Result<(), VolumesError>>;

    /// Removes what deletions that were cut off left behind.
    ///
    /// # Errors
    /// The system refuses.
    fn remove_leftovers(&self) -> Result<(), VolumesError>;

    /// What lies in the directories of volumes and machines, also what no record tells of.
    ///
    /// # Errors
    /// The system refuses.
    fn lying(&self) -> Doing<'_, io::Result<Lying>>;

    /// Where images of containers are unpacked; none on a host that runs no containers.
    fn images(&self) -> Option<&Images> {
        None
    }

    /// The volume servers and the processes of machines that this agent, or one before it, has started.
    ///
    /// # Errors
    /// The system refuses.
    fn running(&self) -> Doing<'_, io::Result<Running>>;

    /// Ends a process, asked first, then killed with its group. Nothing happens if it has ended.
    ///
    /// # Errors
    /// The system refuses.
    fn end_process(&self, mark: ProcessMark) -> Doing<'_, io::Result<()>>;

    /// What a server that was killed has left in the directory of a copy.
    ///
    /// # Errors
    /// The system refuses.
    fn left_by_server(&self, copy: VolumeKey) -> Doing<'_, io::Result<Left>>;

    /// Removes that, unless a server has the copy.
    ///
    /// # Errors
    /// A server has it; the system refuses.
    fn clear_left_by_server(&self, copy: VolumeKey) -> Doing<'_, Result<(), VolumesError>>;

    /// Bytes that the files of a copy occupy; 0 if there are none.
    ///
    /// # Errors
    /// The system refuses.
    fn occupied_bytes(&self, copy: VolumeKey) -> io::Result<u64>;

    /// Bytes that are free where volumes lie.
    ///
    /// # Errors
    /// The system refuses.
    fn available_bytes(&self) -> io::Result<u64>;

    /// What is wrong with the disks that the worker lives on, each in one sentence.
    fn disk_troubles(&self) -> Doing<'_, Vec<String>> {
        Box::pin(std::future::ready(Vec::new()))
    }

    /// Whether volumes in files can have direct I/O.
    fn has_direct_io(&self) -> Doing<'_, bool>;

    /// What it has for machines, and how busy it is.
    ///
    /// # Errors
    /// The system does not tell.
    fn means(&self) -> io::Result<Means>;

    /// What it can make of a volume beside its NBD socket.
    fn frontends(&self) -> Doing<'_, Vec<Frontend>>;

    /// Starts the server of a copy, which is to be asked until it answers.
    ///
    /// # Errors
    /// It cannot be started.
    fn launch(&self, copy: VolumeKey) -> Result<u32, LaunchError>;

    /// Watches the volume server with this process number, if it still runs.
    ///
    /// # Errors
    /// The system refuses.
    fn watch(&self, pid: u32) -> io::Result<Option<Watch>>;

    /// Goes to the server of a copy and has `question` ask it.
    fn ask(&self, copy: VolumeKey, question: Question) -> Doing<'_, Result<(), ControlError>>;

    /// The last thing that the server of a copy said, to be quoted.
    fn last_words(&self, copy: VolumeKey) -> String;

    /// Asks whether a source is there, also one that is not to be read yet.
    fn reach(&self, source: SourceUri) -> Doing<'_, Result<(), BlockError>>;
}

/// Where an agent really runs.
#[derive(Debug)]
pub struct ThisHost {
    state_dir: PathBuf,
    launcher: Launcher,
    credentials: Option<Credentials>,
    process: Arc<ProcessDriver>,
    oci: OciDriver,
    qemu: QemuDriver,
    cloud_hypervisor: MicroVmDriver,
    firecracker: MicroVmDriver,
}

impl ThisHost {
    /// This host with the state directory of an agent, which starts volume servers by `launcher`; memory of machines comes and
    /// goes through `channel`.
    #[must_use]
    pub fn new(
        state_dir: &Path,
        launcher: Launcher,
        credentials: Option<Credentials>,
        channel: Channel,
    ) -> Self {
        let gates = Arc::new(Gates::default());
        let process = Arc::new(ProcessDriver::new(launcher.program(), Arc::clone(&gates)));
        let oci = OciDriver::new(Arc::clone(&process), state_dir);
        let qemu = QemuDriver::new(Arc::clone(&gates), channel);
        let cloud_hypervisor = MicroVmDriver::new(Vmm::CloudHypervisor, Arc::clone(&gates));
        let firecracker = MicroVmDriver::new(Vmm::Firecracker, gates);
        let state_dir = state_dir.to_owned();
        Self { state_dir, launcher, credentials, process, oci, qemu, cloud_hypervisor, firecracker }
    }

    /// Where volumes lie, or will lie once there are any: that may be a file system of their own.
    fn volumes_dir(&self) -> PathBuf {
        let dir = volumes_dir(&self.state_dir);
        if dir.exists() { dir } else { self.state_dir.clone() }
    }

    fn dir(&self, copy: VolumeKey) -> PathBuf {
        volume_dir(&self.state_dir, copy)
    }
}

/// Does something that waits for the system beside everything else.
pub(crate) fn blocking<T: Send + 'static>(act: impl FnOnce() -> T + Send + 'static) -> Doing<'static, T> {
    Box::pin(async move {
        match tokio::task::spawn_blocking(act).await {
            Ok(done) => done,
            Err(panicked) => std::panic::resume_unwind(panicked.into_panic()),
        }
    })
}

impl Host for ThisHost {
    fn now_ms(&self) -> u64 {
        now_ms()
    }

    fn driver(&self, kind: DriverKind) -> &dyn Driver {
        match kind {
            DriverKind::Process => &*self.process,
            DriverKind::Oci => &self.oci,
            DriverKind::Qemu => &self.qemu,
            DriverKind::CloudHypervisor => &self.cloud_hypervisor,
            DriverKind::Firecracker => &self.firecracker,
        }
    }

    fn look(&self, device: PathBuf) -> Doing<'_, Result<Holds, DriverError>> {
        blocking(move || filesystem::look(&device))
    }

    fn make_filesystem(&self, device: PathBuf, spec: MachineSpec) -> Doing<'_, Result<(), DriverError>> {
        Box::pin(async move {
            let owner = match spec.driver.kind() {
                DriverKind::Process => isolated::ids(&spec)?,
                DriverKind::Oci => self.oci.ids(&spec).await?,
                // A VM mounts its volumes itself.
                DriverKind::Qemu | DriverKind::CloudHypervisor | DriverKind::Firecracker => None,
            };
            blocking(move || filesystem::make(&device, owner)).await
        })
    }

    fn machine_dir(&self, machine: MachineId) -> io::Result<PathBuf> {
        let dir = self.state_dir.join("machines").join(machine.to_string());
        std::fs::create_dir_all(&dir).map(|()| dir)
    }

    fn remove_machine_dir(&self, machine: MachineId) -> Doing<'_, io::Result<()>> {
        let dir = self.state_dir.join("machines").join(machine.to_string());
        blocking(move || {
            // Its name is that of the directory, so nobody finds it after that.
            tap::remove_of(&dir);
            match std::fs::remove_dir_all(dir) {
                Err(cause) if cause.kind() == io::ErrorKind::NotFound => Ok(()),
                other => other,
            }
        })
    }

    fn make(&self, record: VolumeRecord) -> Doing<'_, Result<(), VolumesError>> {
        let state_dir = self.state_dir.clone();
        blocking(move || files::make(&state_dir, &record))
    }

    fn is_made(&self, copy: VolumeKey) -> bool {
        self.dir(copy).is_dir()
    }

    fn copies(&self) -> io::Result<Vec<VolumeKey>> {
        files::copies(&self.state_dir)
    }

    fn last_state(&self, copy: VolumeKey) -> Result<Option<LastState>, StoreError> {
        ferry_volume::last_state(&self.dir(copy))
    }

    fn set_aside(&self, copy: VolumeKey) -> Result<PathBuf, VolumesError> {
        files::set_aside(&self.dir(copy))
    }

    fn remove(&self, leftover: PathBuf) -> Doing<'_, Result<(), VolumesError>> {
        blocking(move || files::remove_tree(&leftover))
    }

    fn remove_leftovers(&self) -> Result<(), VolumesError> {
        files::remove_leftovers(&self.state_dir)
    }

    fn lying(&self) -> Doing<'_, io::Result<Lying>> {
        let state_dir = self.state_dir.clone();
        let known = [LOG, isolated::PLAN, oci::OCI_DIR, MONITOR_SOCKET, CONSOLE_SOCKET];
        blocking(move || lying::lying(&state_dir, &known))
    }

    fn images(&self) -> Option<&Images> {
        Some(self.oci.images())
    }

    fn running(&self) -> Doing<'_, io::Result<Running>> {
        let state_dir = self.state_dir.clone();
        blocking(move || lying::running(&state_dir))
    }

    fn end_process(&self, mark: ProcessMark) -> Doing<'_, io::Result<()>> {
        Box::pin(async move {
            let Some(watch) = Watch::find(&mark)? else { return Ok(()) };
            watch.signal(Signal::TERM.as_raw());
            if timeout(END_GRACE, watch.ended()).await.is_ok() {
                return Ok(());
            }
            // It may be the first of a group, or one of many.
            watch.signal(Signal::KILL.as_raw());
            watch.kill_group();
            let ended = timeout(END_GRACE, watch.ended()).await;
            ended.map(drop).map_err(|_| io::Error::other(format!("process {} does not end", mark.pid)))
        })
    }

    fn left_by_server(&self, copy: VolumeKey) -> Doing<'_, io::Result<Left>> {
        let dir = self.dir(copy);
        blocking(move || Left::look(&dir))
    }

    fn clear_left_by_server(&self, copy: VolumeKey) -> Doing<'_, Result<(), VolumesError>> {
        let dir = self.dir(copy);
        blocking(move || {
            Left::clear(&dir).map_err(|cause| {
                let doing = "clear what a volume server has left in";
                VolumesError::Io { doing, path: dir, cause: io::Error::other(cause) }
            })
        })
    }

    fn occupied_bytes(&self, copy: VolumeKey) -> io::Result<u64> {
        files::occupied_bytes(&self.dir(copy))
    }

    fn available_bytes(&self) -> io::Result<u64> {
        let filesystem = rustix::fs::statvfs(self.volumes_dir())?;
        Ok(filesystem.f_bavail.saturating_mul(filesystem.f_frsize))
    }

    fn disk_troubles(&self) -> Doing<'_, Vec<String>> {
        let dir = self.state_dir.clone();
        blocking(move || disks::troubles(&dir))
    }

    fn has_direct_io(&self) -> Doing<'_, bool> {
        let dir = self.volumes_dir();
        blocking(move || ferry_volume::check_direct_io(&dir).is_ok())
    }

    fn means(&self) -> io::Result<Means> {
        Means::of_this_host()
    }

    fn frontends(&self) -> Doing<'_, Vec<Frontend>> {
        blocking(means::frontends)
    }

    fn launch(&self, copy: VolumeKey) -> Result<u32, LaunchError> {
        self.launcher.launch(&self.dir(copy))
    }

    fn watch(&self, pid: u32) -> io::Result<Option<Watch>> {
        Watch::open(pid)
    }

    fn ask(&self, copy: VolumeKey, question: Question) -> Doing<'_, Result<(), ControlError>> {
        let dir = self.dir(copy);
        blocking(move || Client::connect(&dir).map(|mut client| question(&mut client)))
    }

    fn last_words(&self, copy: VolumeKey) -> String {
        files::last_words(&self.dir(copy))
    }

    fn reach(&self, source: SourceUri) -> Doing<'_, Result<(), BlockError>> {
        let credentials = self.credentials.clone();
        blocking(move || client::reach(&source, credentials.as_ref()))
    }
}

/// Milliseconds since 1970, by the system.
pub(crate) fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
