//! The first two processes of a machine that has namespaces of its own, both of them this program.
//!
//! ```text
//!  the gate ──exec──▶ keeper ──▶ init (process 1 inside) ──▶ the machine, as its user
//!                     mounts the volumes      reaps whatever is left behind
//!                     and unmounts them
//!                 ──────────── signals ────────────▶
//! ```
//!
//! Invariants: the keeper is the process in the records, and ends after everything inside, when the file systems are
//! unmounted. If it is killed, init dies with it (and with init all that is inside), and the kernel unmounts.

use super::MountedVolume;
use super::network::OwnNetwork;
use ferry_api::{Filesystem, MountPath, Network};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::mount::{MountFlags, MountPropagationFlags, UnmountFlags};
use rustix::process::{Pid, Signal, WaitOptions, WaitStatus};
use rustix::thread::UnshareFlags;
use serde::{Deserialize, Serialize};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;

/// Signals that the keeper passes on to init, and init to the machine: those that a machine may be stopped with.
const PASSED_ON: [Signal; 6] =
    [Signal::TERM, Signal::INT, Signal::QUIT, Signal::HUP, Signal::USR1, Signal::USR2];
/// What is added to the number of the signal that killed the machine to make the exit code that says so.
const KILLED_BY: i32 = 128;
/// How long a file system may stay busy after everything that saw it has ended.
const BUSY_MAX: Duration = Duration::from_secs(60);
const BUSY_POLL: Duration = Duration::from_millis(2);

/// How `/proc/self/mountinfo` tells the mount of a volume's server that a loop device lies on.
const VOLUME_MOUNT: &str = " - fuse.ferry ";

/// What the keeper is to make, and init to run. Written by the agent into the machine's directory.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Inside {
    /// Name of the host, as the machine sees it.
    pub host_name: String,
    /// What it mounts.
    pub mounts: Vec<MountedVolume>,
    /// Its root file system, if it is not the worker's.
    pub root: Option<PathBuf>,
    /// Its network.
    pub network: Network,
    /// What of it is its own.
    pub own_network: Option<OwnNetwork>,
    /// User and group that it runs as.
    pub ids: Option<(u32, u32)>,
    /// What it runs.
    pub program: PathBuf,
    /// With these arguments.
    pub args: Vec<String>,
    /// Where it runs, inside.
    pub workdir: PathBuf,
    /// A directory that is seen elsewhere as well, and what is written there is in memory.
    #[serde(default)]
    pub overlay: Option<Overlay>,
}

/// A directory over which another one lies that is in memory.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Overlay {
    /// What is seen where nothing was written.
    pub lower: PathBuf,
    /// An empty directory, for what is written.
    pub memory: PathBuf,
    /// Where both are seen.
    pub at: PathBuf,
}

/// Which of the two processes this is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// The one in the records.
    Keeper,
    /// Process 1 of the machine.
    Init,
}

/// Why a machine cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum InitError {
    /// What the agent wrote cannot be read.
    #[error("cannot understand {}; start the machine by its agent", path.display())]
    Plan {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        #[source]
        cause: io::Error,
    },
    /// A volume is not mounted.
    #[error(
        "cannot mount the {} file system of {} at {path}; stop the machine and see what `e2fsck -fn` says of its device \
         (`ferry volume attach`), and what the kernel's log does", fs.as_str(), device.display()
    )]
    Mount {
        /// What it is said to hold.
        fs: Filesystem,
        /// Its block device.
        device: PathBuf,
        /// Where.
        path: MountPath,
        /// What the system said.
        #[source]
        cause: io::Error,
    },
    /// The system refuses something.
    #[error("cannot {doing}")]
    Io {
        /// What was tried.
        doing: String,
        /// What the system said.
        #[source]
        cause: io::Error,
    },
}

/// Is the keeper, or init, of the machine that the file at `plan` describes. Tells the code to exit with. To be called
/// while the process has one thread.
///
/// # Errors
/// Something cannot be made; the machine has not run then.
pub fn init(plan: &Path, side: Side) -> Result<u8, InitError> {
    let text = std::fs::read(plan).map_err(|cause| InitError::Plan { path: plan.to_owned(), cause })?;
    let inside: Inside = serde_json::from_slice(&text)
        .map_err(|e| InitError::Plan { path: plan.to_owned(), cause: e.into() })?;
    let code = match side {
        Side::Keeper => keep(plan, &inside)?,
        Side::Init => run_inside(&inside)?,
    };
    Ok(u8::try_from(code).unwrap_or(u8::MAX))
}

fn failed<E: Into<io::Error>>(doing: impl Into<String>) -> impl FnOnce(E) -> InitError {
    let doing = doing.into();
    move |cause| InitError::Io { doing, cause: cause.into() }
}

/// Makes the namespaces and mounts, has init run in them, and takes the mounts away when it has ended.
fn keep(plan: &Path, inside: &Inside) -> Result<i32, InitError> {
    let this = std::env::current_exe().map_err(failed("tell which program this is"))?;
    if let Some(own) = &inside.own_network {
        own.enter().map_err(failed("make a network of the machine's own"))?;
    }
    unshare(inside.network).map_err(failed("make namespaces"))?;
    let all = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
    rustix::mount::mount_change("/", all).map_err(failed("keep mounts to the machine"))?;
    leave_volumes()?;
    rustix::system::sethostname(inside.host_name.as_bytes()).map_err(failed("name the machine's host"))?;
    make_root(inside)?;
    if let Some(overlay) = &inside.overlay {
        lay_over(overlay)?;
    }
    let places: Vec<PathBuf> = inside.mounts.iter().map(|mounted| place(inside, mounted)).collect();
    for (mounted, place) in inside.mounts.iter().zip(&places) {
        mount_volume(mounted, place)?;
    }
    let code = runtime()?.block_on(async {
        let mut signals = passed_on()?;
        // Init watches this pipe: it breaks when the keeper dies.
        let mut child = Command::new(&this)
            .args(["machine-init", "--inside"])
            .arg(plan)
            .stdin(Stdio::piped())
            .spawn()
            .map_err(failed("start process 1 of the machine"))?;
        let pid = Pid::from_child(&child);
        let _alive = child.stdin.take();
        wait_passing_on(pid, &mut signals).await
    })?;
    for place in places.iter().rev() {
        unmount(place)?;
    }
    Ok(code)
}

#[allow(deprecated, reason = "its successor is unsafe for what other threads and FILES do; neither is here")]
fn unshare(network: Network) -> rustix::io::Result<()> {
    let own = UnshareFlags::NEWNS | UnshareFlags::NEWPID | UnshareFlags::NEWIPC | UnshareFlags::NEWUTS;
    rustix::thread::unshare(match network {
        // Its own one is entered already.
        Network::Host | Network::Own => own,
        Network::None => own | UnshareFlags::NEWNET,
    })
}

/// Takes the copies of volumes' own mounts out of these namespaces: the server of a volume could not end before the machine.
fn leave_volumes() -> Result<(), InitError> {
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").map_err(failed("look at the mounts"))?;
    for line in mounts.lines().filter(|line| line.contains(VOLUME_MOUNT)) {
        let place = line.split(' ').nth(4).unwrap_or_default();
        // One that is written in another way (spaces in its path) is gone already, or stays.
        let _ = rustix::mount::unmount(place, UnmountFlags::DETACH);
    }
    Ok(())
}

/// Mounts what a root of its own needs, and makes it read-only.
fn make_root(inside: &Inside) -> Result<(), InitError> {
    let Some(root) = &inside.root else { return Ok(()) };
    let doing = || format!("mount the root {}", root.display());
    rustix::mount::mount_bind_recursive(root, root).map_err(failed(doing()))?;
    for mounted in &inside.mounts {
        make_dir(&mounted.mount.path.below(root))?;
    }
    for name in ["dev", "proc", "tmp"] {
        make_dir(&root.join(name))?;
    }
    let read_only = MountFlags::BIND | MountFlags::RDONLY;
    rustix::mount::mount_remount(root, read_only, c"").map_err(failed(doing()))?;
    let dev = root.join("dev");
    rustix::mount::mount_bind_recursive("/dev", dev).map_err(failed("mount /dev of the machine"))?;
    let safe = MountFlags::NOSUID | MountFlags::NODEV;
    rustix::mount::mount("tmpfs", root.join("tmp"), "tmpfs", safe, c"mode=1777")
        .map_err(failed("mount /tmp of the machine"))
}

fn lay_over(Overlay { lower, memory, at }: &Overlay) -> Result<(), InitError> {
    let doing = || format!("lay memory over {}", lower.display());
    rustix::mount::mount("tmpfs", memory, "tmpfs", MountFlags::empty(), c"mode=755")
        .map_err(failed(doing()))?;
    let (upper, work) = (memory.join("upper"), memory.join("work"));
    make_dir(&upper)?;
    make_dir(&work)?;
    // The machine's root looks as it does in the image.
    let seen = lower.metadata().map_err(failed(doing()))?;
    std::fs::set_permissions(&upper, seen.permissions()).map_err(failed(doing()))?;
    let [lower, upper, work] = [lower, &upper, &work].map(|path| path.display());
    let options = std::ffi::CString::new(format!("lowerdir={lower},upperdir={upper},workdir={work}"))
        .map_err(failed(doing()))?;
    rustix::mount::mount("overlay", at, "overlay", MountFlags::empty(), options.as_c_str())
        .map_err(failed(doing()))
}

fn place(inside: &Inside, mounted: &MountedVolume) -> PathBuf {
    mounted.mount.path.below(inside.root.as_deref().unwrap_or(Path::new("/")))
}

fn make_dir(path: &Path) -> Result<(), InitError> {
    match path.is_dir() {
        true => Ok(()),
        false => std::fs::create_dir_all(path).map_err(failed(format!("make {}", path.display()))),
    }
}

fn mount_volume(mounted: &MountedVolume, place: &Path) -> Result<(), InitError> {
    let MountedVolume { device, mount } = mounted;
    make_dir(place)?;
    let flags = if mount.read_only { MountFlags::RDONLY } else { MountFlags::empty() };
    rustix::mount::mount(device, place, mount.fs.as_str(), flags | MountFlags::NODEV, None).map_err(|cause| {
        let (fs, path) = (mount.fs, mount.path.clone());
        InitError::Mount { fs, device: device.clone(), path, cause: cause.into() }
    })
}

/// Unmounts a volume; all of it is on its device then.
fn unmount(place: &Path) -> Result<(), InitError> {
    let began = std::time::Instant::now();
    loop {
        match rustix::mount::unmount(place, UnmountFlags::empty()) {
            // Files of the dead are closed a moment after their end.
            Err(Errno::BUSY) if began.elapsed() < BUSY_MAX => std::thread::sleep(BUSY_POLL),
            other => return other.map_err(failed(format!("unmount {}", place.display()))),
        }
    }
}

/// Is process 1: runs the machine in its root, as its user, and reaps until it has ended.
fn run_inside(inside: &Inside) -> Result<i32, InitError> {
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL))
        .map_err(failed("be bound to the keeper of the machine"))?;
    if is_orphaned().map_err(failed("look for the keeper of the machine"))? {
        return Ok(KILLED_BY + Signal::KILL.as_raw());
    }
    let root = inside.root.as_deref().unwrap_or(Path::new("/"));
    let safe = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    rustix::mount::mount("proc", root.join("proc"), "proc", safe, None)
        .map_err(failed("mount /proc of the machine"))?;
    rustix::process::chroot(root).map_err(failed("enter the machine's root"))?;
    std::env::set_current_dir(&inside.workdir)
        .map_err(failed(format!("enter the working directory {}", inside.workdir.display())))?;
    runtime()?.block_on(async {
        let mut signals = passed_on()?;
        let mut command = Command::new(&inside.program);
        // A group of its own: a signal to the keeper's group is not also one to the machine.
        command.args(&inside.args).stdin(Stdio::null()).process_group(0);
        if let Some((uid, gid)) = inside.ids {
            command.uid(uid).gid(gid);
        }
        let child = command.spawn().map_err(failed(format!("run {}", inside.program.display())))?;
        wait_passing_on(Pid::from_child(&child), &mut signals).await
    })
}

/// Whether the keeper died before it could take this process with it.
fn is_orphaned() -> io::Result<bool> {
    let input = io::stdin();
    let mut watched = [PollFd::from_borrowed_fd(input.as_fd(), PollFlags::IN)];
    let at_once = Timespec { tv_sec: 0, tv_nsec: 0 };
    poll(&mut watched, Some(&at_once))?;
    Ok(watched[0].revents().contains(PollFlags::HUP))
}

fn runtime() -> Result<tokio::runtime::Runtime, InitError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.map_err(failed("watch for signals"))
}

/// The signals to be passed on that came, one after the other; `CHLD` when a child has ended.
fn passed_on() -> Result<mpsc::UnboundedReceiver<Signal>, InitError> {
    let (tell, told) = mpsc::unbounded_channel();
    for of in PASSED_ON.into_iter().chain([Signal::CHILD]) {
        let mut stream = signal(SignalKind::from_raw(of.as_raw())).map_err(failed("watch for signals"))?;
        let tell = tell.clone();
        tokio::spawn(async move { while stream.recv().await.is_some() && tell.send(of).is_ok() {} });
    }
    Ok(told)
}

/// Passes signals on to a child until it has ended, and reaps all others meanwhile. Tells its exit code.
async fn wait_passing_on(
    child: Pid,
    signals: &mut mpsc::UnboundedReceiver<Signal>,
) -> Result<i32, InitError> {
    loop {
        while let Some((pid, status)) = reap().map_err(failed("wait for the machine"))? {
            if pid == child {
                return Ok(exit_code(status));
            }
        }
        match signals.recv().await {
            Some(Signal::CHILD) | None => {}
            Some(other) => {
                // The only failure is that it has just ended.
                let _ = rustix::process::kill_process(child, other);
            }
        }
    }
}

fn reap() -> rustix::io::Result<Option<(Pid, WaitStatus)>> {
    match rustix::process::wait(WaitOptions::NOHANG) {
        Err(Errno::CHILD) => Ok(None),
        other => other,
    }
}

fn exit_code(status: WaitStatus) -> i32 {
    let killed = || status.terminating_signal().map_or(1, |signal| KILLED_BY + signal);
    status.exit_status().unwrap_or_else(killed)
}
