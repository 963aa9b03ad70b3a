//! Child processes: the only place where the agent starts any.
//!
//! Machines and volume servers are children of nobody: they outlive the agent that started them, and a later one
//! finds them again by a mark that cannot be mistaken ([`crate::records::ProcessMark`]). The one that holds a lock for the agent
//! (`inhibitor`) ends with it.

mod button;
mod cgroup;
pub(crate) mod filesystem;
mod freeze;
mod gate;
pub(crate) mod inhibitor;
mod init;
pub(crate) mod isolated;
mod live;
mod microvm;
mod network;
pub(crate) mod oci;
mod probe;
mod process;
pub(crate) mod qemu;
pub(crate) mod routes;
mod server;
mod socket;
pub(crate) mod tap;
mod vm;
mod watch;

pub use cgroup::limits;
pub use filesystem::Holds;
pub use freeze::{Freeze, GuestError};
pub use gate::Gates;
pub use init::{InitError, Side, init};
pub use live::{Channel, Live, Memory};
pub use microvm::{MicroVmDriver, Vmm};
pub use oci::{ImageError, Images, OciDriver, RUNTIMES};
pub use probe::{ProbeError, probe};
pub use process::ProcessDriver;
pub use qemu::QemuDriver;
pub use server::{LaunchError, Launcher};
pub use watch::{Ended, Watch, Watched, boot_id, mark_of};

use crate::host::Doing;
use crate::records::ProcessMark;
use ferry_api::{
    HealthCheck, HttpUrl, Limit, MachineId, MachineName, MachineSpec, Mount, VmModels, VolumeId,
};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Everything a driver must know to start a machine.
#[derive(Clone, Debug)]
pub struct Launch {
    /// Its id.
    pub machine: MachineId,
    /// Its name.
    pub name: MachineName,
    /// What it runs.
    pub spec: MachineSpec,
    /// The machine's own directory on this worker; it exists.
    pub dir: PathBuf,
    /// File its output is appended to.
    pub log: PathBuf,
    /// Environment variables that Ferry gives it.
    pub env: BTreeMap<String, String>,
    /// The volumes that it mounts.
    pub mounts: Vec<MountedVolume>,
    /// All its volumes, as disks.
    pub disks: Vec<Disk>,
}

/// A volume as a disk of its machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Disk {
    /// The volume.
    pub volume: VolumeId,
    /// The socket where its server speaks NBD.
    pub nbd: PathBuf,
    /// The socket where it speaks vhost-user-blk, for a machine that wants that.
    pub vhost: Option<PathBuf>,
}

/// A volume that a machine mounts, in the order in which they are mounted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MountedVolume {
    /// Its block device, with a file system on it.
    pub device: PathBuf,
    /// Where, and how.
    pub mount: Mount,
}

/// Why a machine could not be started or found.
#[derive(Debug, thiserror::Error)]
pub enum DriverError {
    /// The program is not there.
    #[error("the program {command} is not to be found on this worker; install it or give its whole path")]
    NoProgram {
        /// What the machine's spec says.
        command: String,
    },
    /// Its working directory is not there.
    #[error("the working directory {} is not to be found on this worker; make it or choose another", path.display())]
    NoWorkdir {
        /// What the machine's spec says.
        path: PathBuf,
    },
    /// Its root file system is not there.
    #[error("the root {} is no directory of this worker; make it or choose another", path.display())]
    NoRoot {
        /// What the machine's spec says.
        path: PathBuf,
    },
    /// A volume cannot be mounted where it is to be.
    #[error("nothing can be mounted at {}, since {why}; make that a directory, or choose another place", path.display())]
    NoPlace {
        /// What the machine's spec says.
        path: PathBuf,
        /// What is in the way.
        why: String,
    },
    /// Its user is not there.
    #[error("there is no user {user} in {}; add it or choose another", passwd.display())]
    NoUser {
        /// What the machine's spec says.
        user: String,
        /// Where it was looked for.
        passwd: PathBuf,
    },
    /// A tool is not there.
    #[error("{tool} is not to be found on this worker; install it (apt-get install {package})")]
    NoTool {
        /// The tool.
        tool: &'static str,
        /// What it comes with.
        package: &'static str,
    },
    /// Nothing says what a container is to run.
    #[error("neither the machine's spec nor its image in {} says what it runs; give a `command`", path.display())]
    NoCommand {
        /// Its root file system.
        path: PathBuf,
    },
    /// Its image cannot be used.
    #[error(transparent)]
    Image(#[from] ImageError),
    /// The agent may not do what the machine needs.
    #[error(
        "this worker's agent may make no namespaces and mount nothing; run it as root with CAP_SYS_ADMIN, or leave \
         mounts and isolation out of the machine's spec"
    )]
    NoRights,
    /// A program is too old.
    #[error(
        "{program} is too old: it says '{found}', and {needed} is the earliest that will do; install a newer one"
    )]
    TooOld {
        /// The program.
        program: &'static str,
        /// What it says of itself.
        found: String,
        /// The earliest version.
        needed: String,
    },
    /// A VM has more processors than its VMM gives.
    #[error("a VM of {program} has at most {most} vcpus; give it fewer, or choose another driver")]
    TooManyVcpus {
        /// The VMM.
        program: &'static str,
        /// The most.
        most: u32,
    },
    /// Its QEMU knows no such machine or CPU.
    #[error(
        "the QEMU of this worker knows no {field} {name} (`qemu-system-x86_64 -{field} help` tells those that it does); give \
         another, or leave {field} out of [qemu]"
    )]
    NoModel {
        /// What `[qemu]` calls it.
        field: &'static str,
        /// Its name.
        name: String,
    },
    /// KVM is asked for and of no use.
    #[error("KVM is of no use on this worker: {why}; choose another worker, or accel = \"auto\"")]
    NoKvm {
        /// What was found.
        why: String,
    },
    /// What a VM is to boot is not there.
    #[error("{} is no file of this worker; put it there or choose another", path.display())]
    NoImage {
        /// What the machine's spec says.
        path: PathBuf,
    },
    /// A VM cannot have it.
    #[error(
        "mounts, isolation and limits are not for VMs, whose kernel is their own, and services only for those of QEMU with network = \"own\"; \
         leave them out"
    )]
    NotForVms,
    /// A VM without a network is to be asked over it.
    #[error(
        "a health check by port or URL reaches a VM at its own address, and this one has none; say network = \"own\" (of a VM of \
         QEMU), or give a command for its guest agent"
    )]
    NoWayIn,
    /// A VM's health is to be asked of somebody else.
    #[error(
        "the health check of a VM is made at the VM's own address, and {url} is not of the VM itself; write localhost for its host"
    )]
    AsksAnother {
        /// What the machine's spec says.
        url: HttpUrl,
    },
    /// Nobody inside a VM would run it.
    #[error(
        "hooks and health checks of a VM are run by the QEMU guest agent inside it; install that, and say guest_agent = true in [qemu], or \
         leave them out"
    )]
    NoGuestAgent,
    /// A socket cannot be made.
    #[error(
        "{} is longer than the {bytes_max} bytes that a socket's path can have; choose a shorter state_dir",
        path.display()
    )]
    LongPath {
        /// The socket.
        path: PathBuf,
        /// The most bytes.
        bytes_max: usize,
    },
    /// A limit cannot be kept.
    #[error(
        "this worker cannot limit the {limit} of a machine, since {why}; mend that, or leave {limit} out of its limits"
    )]
    NoLimit {
        /// What is to be limited.
        limit: Limit,
        /// What it lacks.
        why: String,
    },
    /// A limit is more than the worker has.
    #[error(
        "this worker has {has} {unit}, and the {limit} of the machine is to be {wanted} at most; lower that limit, or choose \
         another worker"
    )]
    MoreThanThereIs {
        /// What is limited.
        limit: Limit,
        /// What the machine's spec says.
        wanted: u64,
        /// What there is.
        has: u64,
        /// What both are counted in.
        unit: &'static str,
    },
    /// The worker cannot give the machine a network of its own.
    #[error(
        "this worker can give a machine no network of its own, since {lacks}; mend that, or leave `network` out of the \
         machine's spec"
    )]
    NoNetwork {
        /// What it lacks.
        lacks: &'static str,
    },
    /// A file or process operation failed.
    #[error("cannot {doing}")]
    Io {
        /// What was tried.
        doing: String,
        /// What the system said.
        #[source]
        cause: std::io::Error,
    },
}

/// What runs machines of one kind ([`ferry_api::DriverKind`]); [`crate::host::Host::driver`] is the registry.
pub trait Driver: Send + Sync + 'static {
    /// Says what it was found to run machines with, in a few words (none: nothing beside the kernel). May be asked often.
    ///
    /// # Errors
    /// It can run no machine here at all.
    fn probe(&self) -> Doing<'_, Result<String, DriverError>>;

    /// What of its machines can be limited here.
    fn limits(&self) -> Vec<Limit> {
        Vec::new()
    }

    /// Says why a machine with this spec cannot run here, if it cannot.
    ///
    /// # Errors
    /// As [`Driver::start`] would.
    fn check<'a>(&'a self, spec: &'a MachineSpec) -> Doing<'a, Result<(), DriverError>>;

    /// Makes the machine's first process without letting it run yet. If this agent dies before
    /// [`HeldMachine::release`], the process ends without ever having been the machine.
    ///
    /// # Errors
    /// The program is not there, or the system refuses.
    fn start<'a>(&'a self, launch: &'a Launch) -> Doing<'a, Result<Box<dyn HeldMachine>, DriverError>>;

    /// Tries once how a machine is that runs by this mark, in the time that `check` gives. The error says in words what is
    /// wrong with it.
    fn try_health<'a>(
        &'a self,
        launch: &'a Launch,
        mark: &'a ProcessMark,
        check: &'a HealthCheck,
    ) -> Doing<'a, Result<(), String>>;

    /// The block devices that the machine in `dir` was to mount when it was started, in the order of [`Launch::mounts`].
    fn devices(&self, _dir: &Path) -> Vec<PathBuf> {
        Vec::new()
    }

    /// What its VMs can be told to be; none if it tells them no such thing. May be asked often.
    fn models(&self) -> Doing<'_, Option<VmModels>> {
        Box::pin(async { None })
    }

    /// How it moves machines with their memory; none if it does not.
    fn live(&self) -> Option<&dyn Live> {
        None
    }

    /// What freezes the file systems of the machine in `dir`; none if that cannot be done.
    fn freezes(&self, _dir: &Path) -> Option<Box<dyn Freeze>> {
        None
    }

    /// The machine with this mark, if it still runs; `dir` is its own directory. If it ended unseen, nothing of it runs any
    /// more after this.
    ///
    /// # Errors
    /// The system refuses to tell.
    fn find(&self, dir: &Path, mark: &ProcessMark) -> Result<Option<Watch>, DriverError>;
}

/// A machine whose first process exists, and waits until its mark is durable.
pub trait HeldMachine: Send {
    /// How to recognise it.
    fn mark(&self) -> &ProcessMark;

    /// Lets it run.
    ///
    /// # Errors
    /// It has died meanwhile.
    fn release(self: Box<Self>) -> Result<Watch, DriverError>;

    /// Ends it; it has never run.
    fn abandon(self: Box<Self>) -> Doing<'static, ()>;
}
