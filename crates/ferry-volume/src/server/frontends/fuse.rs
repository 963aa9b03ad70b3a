//! The volume as a block device on any Linux: one file in a FUSE filesystem, and a loop device on it.
//!
//! ```text
//!  /dev/loopN ──direct I/O──▶ <volume>/fuse/disk ──/dev/fuse──▶ our threads ──mailbox──▶ the server's loop
//! ```
//!
//! No byte is cached on the way, and a flush or discard of the device reaches the engine as one. The mount and the
//! device are found by their path in the volume's directory, so whatever a server that died left behind is cleared
//! before the next one makes its own.

use super::loop_device::LoopDevice;
use super::{Ground, Running};
use crate::lent::Lent;
use crate::server::mailbox::{Letter, MailGuest};
use ferry_engine::{ByteRange, Errno, RequestKind};
use fuser::{
    Config, FileAttr, FileHandle, FileType, Filesystem, FopenFlags, Generation, INodeNo, InitFlags,
    KernelConfig, LockOwner, OpenFlags, ReplyAttr, ReplyData, ReplyEmpty, ReplyEntry, ReplyOpen, ReplyStatfs,
    ReplyWrite, Request, Session, SessionACL, WriteFlags,
};
use rustix::mount::{MountFlags, UnmountFlags};
use std::ffi::{CString, OsStr};
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, SystemTime};

/// Where the filesystem is mounted, in the volume's directory.
const MOUNT_POINT: &str = "fuse";
/// The one file in it.
const DISK: &str = "disk";
const ROOT_INODE: INodeNo = INodeNo::ROOT;
const DISK_INODE: INodeNo = INodeNo(2);
/// Longest request of the kernel, in bytes.
const REQUEST_BYTES_MAX: u32 = 1 << 20;
/// Requests that the kernel sends us without waiting for answers.
const REQUESTS_MAX: u16 = 256;
/// Threads that take requests from the kernel.
const THREADS: usize = 2;
/// Unit in which the filesystem says it works, in bytes; the loop device discards in such units.
const UNIT_BYTES: u32 = 4096;
/// The size may change at any time, so nothing is remembered by the kernel.
const NOT_KEPT: Duration = Duration::ZERO;

/// A mounted filesystem with a loop device on its file.
struct Device {
    device: LoopDevice,
    mount: Mount,
    size_bytes: Arc<AtomicU64>,
    session: fuser::BackgroundSession,
}

/// Tells the kernel that this thread, and those it makes, serve a block device: they must not wait for memory that only
/// becomes free when that device has written something.
#[allow(unsafe_code, reason = "a call that the standard library does not have")]
pub(super) fn be_below_a_device() {
    // From linux/prctl.h, since Linux 5.6.
    const PR_SET_IO_FLUSHER: libc::c_int = 57;
    // SAFETY: takes numbers. It only fails without the right to do so, or before Linux 5.6; then it is as before.
    unsafe { libc::prctl(PR_SET_IO_FLUSHER, 1, 0, 0, 0) };
}

/// Makes the device.
pub(super) fn start(ground: Ground) -> Result<Box<dyn Running>, String> {
    if !rustix::process::geteuid().is_root() {
        return Err(
            "the frontend fuse mounts and makes a loop device, which only root may: run the agent as root, \
                    or give the guest the NBD socket"
                .to_owned(),
        );
    }
    make(ground).map(|device| Box::new(device) as Box<dyn Running>)
}

fn make(ground: Ground) -> Result<Device, String> {
    let Ground { dir, id, size_bytes, mailbox } = ground;
    clear(&dir)?;
    let dir = dir.canonicalize().map_err(|e| format!("cannot look at {}: {e}", dir.display()))?;
    let size_bytes = Arc::new(AtomicU64::new(size_bytes));
    let guest = mailbox.connect(|| ()).ok_or("too many guests use the volume; detach one")?;
    let disk = Disk { guest, size_bytes: size_bytes.clone(), since: SystemTime::now() };
    let (mount, device) = Mount::new(&dir)?;
    let mut config = Config::default();
    (config.n_threads, config.clone_fd) = (Some(THREADS), true);
    let session = Session::from_fd(disk, device, SessionACL::All, config)
        .and_then(Session::spawn)
        .map_err(|e| format!("the FUSE filesystem cannot be served: {e}; look at the kernel's log"))?;
    let path = mount.disk();
    let file = File::options().read(true).write(true).open(&path);
    let file = file.map_err(|e| format!("cannot open {}: {e}; look at the kernel's log", path.display()))?;
    let device = LoopDevice::attach(&file, &format!("ferry {id}")).map_err(|e| {
        format!("no loop device can be made: {e}; load the kernel's module `loop` (Linux 5.8 or later)")
    })?;
    Ok(Device { device, mount, size_bytes, session })
}

impl Running for Device {
    fn address(&self) -> PathBuf {
        self.device.path()
    }

    fn in_use(&self) -> Option<String> {
        self.device
            .is_held()
            .then(|| format!("{} is mounted or held; unmount it first", self.device.path().display()))
    }

    fn grown(&self, size_bytes: u64) -> Box<dyn FnOnce() -> Result<(), String> + Send> {
        self.size_bytes.store(size_bytes, Relaxed);
        let (device, path) = (self.device, self.mount.disk());
        Box::new(move || {
            // The kernel learns the size of a file by asking for it.
            let told = path.metadata().and_then(|_| device.follow_size());
            told.map_err(|e| {
                format!("{} keeps its former size: {e}; attach it again", device.path().display())
            })
        })
    }

    fn stop(self: Box<Self>) {
        let Self { device, mount, session, .. } = *self;
        clear_device(device, &mount.disk());
        drop(mount);
        // The session ends with the last user of the mount.
        if let Err(e) = session.join() {
            tracing::warn!(error = %e, "a FUSE session ended badly");
        }
    }
}

fn clear_device(device: LoopDevice, on: &Path) {
    match device.clear(on) {
        Ok(true) => {}
        Ok(false) => tracing::warn!(
            device = %device.path().display(),
            "a guest still holds the device: it gets errors from now on, and what it had not flushed is lost"
        ),
        Err(e) => {
            tracing::error!(error = %e, device = %device.path().display(), "a loop device cannot be cleared")
        }
    }
}

/// What is mounted and attached in a volume's directory.
///
/// # Errors
/// It cannot be looked at; the reason is one sentence.
pub(super) fn left(dir: &Path) -> Result<Vec<PathBuf>, String> {
    let dir = dir.canonicalize().map_err(|e| format!("cannot look at {}: {e}", dir.display()))?;
    let mount_point = dir.join(MOUNT_POINT);
    if mount_point.symlink_metadata().is_err_and(|e| e.kind() == io::ErrorKind::NotFound) {
        return Ok(Vec::new());
    }
    let devices = LoopDevice::all_on(&mount_point.join(DISK))
        .map_err(|e| format!("cannot look for loop devices: {e}; mount /sys"))?;
    Ok(devices.into_iter().map(LoopDevice::path).chain([mount_point]).collect())
}

/// Clears what a server that is no more has left mounted and attached in a volume's directory.
///
/// # Errors
/// It cannot be cleared; the reason is one sentence.
pub(super) fn clear(dir: &Path) -> Result<(), String> {
    let dir = dir.canonicalize().map_err(|e| format!("cannot look at {}: {e}", dir.display()))?;
    // A dead filesystem answers with another error.
    let never = dir.join(MOUNT_POINT).symlink_metadata().is_err_and(|e| e.kind() == io::ErrorKind::NotFound);
    if never || !rustix::process::geteuid().is_root() {
        return Ok(());
    }
    let mount = Mount { point: dir.join(MOUNT_POINT) };
    let disk = mount.disk();
    let left =
        LoopDevice::all_on(&disk).map_err(|e| format!("cannot look for loop devices: {e}; mount /sys"))?;
    left.into_iter().for_each(|device| clear_device(device, &disk));
    drop(mount);
    Ok(())
}

/// A mounted filesystem, unmounted when dropped.
struct Mount {
    point: PathBuf,
}

impl Mount {
    /// Mounts a filesystem in the volume's directory, and gives the device on which its requests come.
    fn new(dir: &Path) -> Result<(Self, OwnedFd), String> {
        let point = dir.join(MOUNT_POINT);
        match std::fs::create_dir(&point) {
            Err(e) if e.kind() != io::ErrorKind::AlreadyExists => {
                return Err(format!("cannot make {}: {e}", point.display()));
            }
            Ok(()) | Err(_) => {}
        }
        let device = File::options().read(true).write(true).open("/dev/fuse");
        let device =
            device.map_err(|e| format!("cannot open /dev/fuse: {e}; load the kernel's module `fuse`"))?;
        let data = format!("fd={},rootmode=40000,user_id=0,group_id=0", device.as_raw_fd());
        let data = CString::new(data).expect("it holds no zero byte");
        let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
        rustix::mount::mount("ferry", &point, "fuse.ferry", flags, &*data)
            .map_err(|e| format!("cannot mount {}: {e}; the agent needs CAP_SYS_ADMIN", point.display()))?;
        Ok((Self { point }, device.into()))
    }

    fn disk(&self) -> PathBuf {
        self.point.join(DISK)
    }

    fn unmount(&self) -> rustix::io::Result<()> {
        match rustix::mount::unmount(&self.point, UnmountFlags::empty()) {
            // A device that a guest still holds keeps it busy; what it asks from now on fails.
            Err(rustix::io::Errno::BUSY) => {
                let _ = rustix::mount::unmount(&self.point, UnmountFlags::FORCE);
                rustix::mount::unmount(&self.point, UnmountFlags::DETACH)
            }
            // Nothing is mounted there.
            Err(rustix::io::Errno::INVAL | rustix::io::Errno::NOENT) => Ok(()),
            other => other,
        }
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        if let Err(e) = self.unmount() {
            tracing::error!(error = %e, point = %self.point.display(), "a FUSE filesystem cannot be unmounted");
        }
        // Fails only if it is not there, or still mounted.
        let _ = std::fs::remove_dir(&self.point);
    }
}

/// The filesystem: a directory with one file.
struct Disk {
    guest: MailGuest,
    size_bytes: Arc<AtomicU64>,
    since: SystemTime,
}

impl Disk {
    fn attributes(&self, inode: INodeNo) -> Option<FileAttr> {
        let (kind, perm, size) = match inode {
            ROOT_INODE => (FileType::Directory, 0o700, 0),
            DISK_INODE => (FileType::RegularFile, 0o600, self.size_bytes.load(Relaxed)),
            _ => return None,
        };
        let (atime, mtime, ctime, crtime) = (self.since, self.since, self.since, self.since);
        let (nlink, uid, gid, rdev, flags) = (1, 0, 0, 0, 0);
        let (ino, blocks, blksize) = (inode, size / 512, UNIT_BYTES);
        Some(FileAttr {
            ino,
            size,
            blocks,
            atime,
            mtime,
            ctime,
            crtime,
            kind,
            perm,
            nlink,
            uid,
            gid,
            rdev,
            blksize,
            flags,
        })
    }

    fn ask(
        &self,
        kind: RequestKind,
        memory: Option<Lent>,
        reply: impl FnOnce(Result<&[u8], fuser::Errno>) + Send + 'static,
    ) {
        let reply = Box::new(|result: Result<&[u8], Errno>| {
            reply(result.map_err(|errno| fuser::Errno::from_i32(errno.0)));
        });
        self.guest.post([Letter { kind, memory, reply }]);
    }

    fn ask_whether(&self, kind: RequestKind, reply: ReplyEmpty) {
        self.ask(kind, None, |result| match result {
            Ok(_) => reply.ok(),
            Err(errno) => reply.error(errno),
        });
    }
}

impl Filesystem for Disk {
    fn init(&mut self, _: &Request, config: &mut KernelConfig) -> io::Result<()> {
        // Each of these only costs speed where the kernel does not know it.
        let _ = config.add_capabilities(InitFlags::FUSE_ASYNC_DIO);
        let _ = config.set_max_write(REQUEST_BYTES_MAX);
        let _ = config.set_max_background(REQUESTS_MAX);
        let _ = config.set_congestion_threshold(REQUESTS_MAX);
        Ok(())
    }

    fn lookup(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        match self.attributes(DISK_INODE).filter(|_| parent == ROOT_INODE && name == DISK) {
            Some(attributes) => reply.entry(&NOT_KEPT, &attributes, Generation(0)),
            None => reply.error(fuser::Errno::ENOENT),
        }
    }

    fn getattr(&self, _: &Request, inode: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        match self.attributes(inode) {
            Some(attributes) => reply.attr(&NOT_KEPT, &attributes),
            None => reply.error(fuser::Errno::ENOENT),
        }
    }

    fn open(&self, _: &Request, _: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        let flags = FopenFlags::FOPEN_DIRECT_IO | FopenFlags::FOPEN_PARALLEL_DIRECT_WRITES;
        reply.opened(FileHandle(0), flags | FopenFlags::FOPEN_NOFLUSH);
    }

    fn read(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        offset: u64,
        size: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let there = self.size_bytes.load(Relaxed).saturating_sub(offset).min(u64::from(size));
        let Some(range) = ByteRange::new(offset, there) else { return reply.data(&[]) };
        self.ask(RequestKind::Read { range }, None, |result| match result {
            Ok(bytes) => reply.data(bytes),
            Err(errno) => reply.error(errno),
        });
    }

    fn write(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        offset: u64,
        data: &[u8],
        _: WriteFlags,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        let Some(range) = ByteRange::new(offset, data.len() as u64) else { return reply.written(0) };
        let written = data.len() as u32;
        // The kernel's request lies in a buffer that takes the next one as soon as we return.
        let kind = RequestKind::Write { range, fua: false };
        self.ask(kind, Some(Lent::copy_of(data)), move |result| match result {
            Ok(_) => reply.written(written),
            Err(errno) => reply.error(errno),
        });
    }

    fn fsync(&self, _: &Request, _: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        self.ask_whether(RequestKind::Flush, reply);
    }

    fn fallocate(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        offset: u64,
        length: u64,
        mode: i32,
        reply: ReplyEmpty,
    ) {
        let Some(range) = ByteRange::new(offset, length) else { return reply.error(fuser::Errno::EINVAL) };
        // Both must read as zeroes afterwards, to the byte.
        let no_hole = match mode & !libc::FALLOC_FL_KEEP_SIZE {
            libc::FALLOC_FL_PUNCH_HOLE => false,
            libc::FALLOC_FL_ZERO_RANGE => true,
            _ => return reply.error(fuser::Errno::EOPNOTSUPP),
        };
        self.ask_whether(RequestKind::WriteZeroes { range, fua: false, no_hole }, reply);
    }

    fn statfs(&self, _: &Request, _: INodeNo, reply: ReplyStatfs) {
        let blocks = self.size_bytes.load(Relaxed) / u64::from(UNIT_BYTES);
        let (free, files, name_bytes_max) = (0, 1, 255);
        reply.statfs(blocks, free, free, files, free, UNIT_BYTES, name_bytes_max, UNIT_BYTES);
    }
}
