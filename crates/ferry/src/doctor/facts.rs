//! What was found on this host: plain data, so that the judgement can be tested on hosts that nobody has.

use ferry_agent::NatsTrouble;
use std::path::PathBuf;

/// Everything that the judgement needs.
#[derive(Clone, Debug)]
pub struct Facts {
    /// The kernel, as in `6.18.5-generic`.
    pub kernel: String,
    /// Whether this process may mount and configure devices (CAP_SYS_ADMIN).
    pub may_administer: bool,
    /// Why io_uring is not to be had, if it is not.
    pub io_uring: Result<(), String>,
    /// `/dev/fuse`.
    pub fuse: Device,
    /// `/dev/loop-control`.
    pub loop_control: Device,
    /// `/dev/ublk-control`.
    pub ublk_control: Device,
    /// What the ublk driver has, or why it cannot be used.
    pub ublk_driver: Result<ferry_volume::UblkDriver, String>,
    /// `/dev/kvm`.
    pub kvm: Device,
    /// Whether the kernel has network namespaces.
    pub net_namespaces: bool,
    /// Cgroups, as they are mounted.
    pub cgroups: Cgroups,
    /// What of machines can be limited, as was found by limiting nobody.
    pub limits: Vec<ferry_api::Limit>,
    /// Drivers that may be modules.
    pub modules: Modules,
    /// Programs that are on the PATH.
    pub programs: Programs,
    /// Where the worker keeps all that it knows.
    pub store: Store,
    /// Where it keeps its volumes, if that is another file system.
    pub volumes: Option<Store>,
    /// The worker's part in its cluster; none if it belongs to none; why it cannot be looked at.
    pub membership: Result<Option<Membership>, String>,
    /// The bucket by which it is to hear the others, and what came of trying it; none if its configuration names none.
    pub directory: Option<Directory>,
    /// Files that a process may have open.
    pub open_files_max: Option<u64>,
    /// Bytes of memory that a process may lock; none: as many as it wants.
    pub locked_bytes_max: Option<u64>,
    /// The clock, in seconds since 1970.
    pub now_s: u64,
}

/// Whether a device can be opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Device {
    /// It can.
    Usable,
    /// It is there, and not for us.
    Forbidden,
    /// It is not there.
    Missing,
}

/// Whether the kernel has a driver, or can load it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Module {
    /// It has.
    There,
    /// It has not.
    Missing,
    /// It does not tell.
    Untold,
}

/// Drivers that may be modules.
#[derive(Clone, Copy, Debug)]
pub struct Modules {
    /// Virtual network cables.
    pub veth: Module,
    /// Network block devices.
    pub nbd: Module,
    /// Device mapper's target `clone`.
    pub dm_clone: Module,
    /// Device mapper's target `crypt`.
    pub dm_crypt: Module,
    /// Block devices in user space.
    pub ublk: Module,
}

/// Where programs are.
#[derive(Clone, Debug, Default)]
pub struct Programs {
    /// A QEMU for whole machines.
    pub qemu: Option<PathBuf>,
    /// `cryptsetup`.
    pub cryptsetup: Option<PathBuf>,
    /// An OCI runtime: the first of those that the driver looks for.
    pub runtime: Option<PathBuf>,
}

/// Which hierarchies of cgroups are mounted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cgroups {
    /// The unified one alone.
    V2,
    /// The former ones, also beside the unified one.
    V1,
    /// None.
    None,
}

/// A worker's part in its cluster.
#[derive(Clone, Debug)]
pub struct Membership {
    /// Its name.
    pub worker: String,
    /// The version of the newest roster that it has.
    pub roster_version: u64,
    /// Since and until when its certificate is good, in seconds since 1970.
    pub certificate_s: std::ops::Range<u64>,
    /// Why it belongs to the cluster no longer, if so.
    pub lost: Option<String>,
}

/// A bucket of NATS servers in which workers tell each other of themselves.
#[derive(Clone, Debug)]
pub struct Directory {
    /// Its name.
    pub bucket: String,
    /// What was in the way, if anything.
    pub tried: Result<(), NatsTrouble>,
}

/// Why nothing can be written in a directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Unwritable {
    /// Its file system is read-only.
    ReadOnly,
    /// Its file system is full; bytes that are left of what the agent keeps there for itself, if it had to give of that.
    Full(Option<u64>),
    /// The system says why.
    Other(String),
}

/// A directory for volumes.
#[derive(Clone, Debug)]
pub struct Store {
    /// The directory that was looked at: the one that was named, or the nearest above it that exists.
    pub dir: PathBuf,
    /// Why nothing can be written there, if so.
    pub writable: Result<(), Unwritable>,
    /// Whether holes can be punched into files.
    pub punches_holes: bool,
    /// Whether files can be opened past the page cache.
    pub direct_io: bool,
    /// Whether files can share blocks.
    pub reflinks: bool,
    /// Whether the path of a volume's sockets fits.
    pub sockets_fit: bool,
}
