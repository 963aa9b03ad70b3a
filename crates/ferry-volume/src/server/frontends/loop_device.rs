//! Loop devices: a block device on a file, by the kernel's own calls (`loop(4)`).
#![allow(unsafe_code, reason = "the loop driver is spoken to by ioctl")]

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Smallest unit of a device, in bytes: what a volume's size is a multiple of, and what disks of virtual machines
/// have, so that a partition table made through one frontend is understood through another.
const BLOCK_BYTES: u32 = 512;
/// How often another program may take the free device before we do.
const TRIES_MAX: u32 = 16;
/// How long a device may be kept by those who only look at it (udev does) after it was told to go.
const GOING_MAX: Duration = Duration::from_secs(5);

// From linux/loop.h.
const LOOP_CLR_FD: u32 = 0x4C01;
const LOOP_SET_CAPACITY: u32 = 0x4C07;
const LOOP_CONFIGURE: u32 = 0x4C0A;
const LOOP_CTL_GET_FREE: u32 = 0x4C82;
const LO_FLAGS_DIRECT_IO: u32 = 16;

/// `struct loop_info64`.
#[repr(C)]
struct LoopInfo {
    device: u64,
    inode: u64,
    rdevice: u64,
    offset: u64,
    size_limit: u64,
    number: u32,
    encrypt_type: u32,
    encrypt_key_size: u32,
    flags: u32,
    file_name: [u8; 64],
    crypt_name: [u8; 64],
    encrypt_key: [u8; 32],
    init: [u64; 2],
}

/// `struct loop_config`.
#[repr(C)]
struct LoopConfig {
    fd: u32,
    block_size: u32,
    info: LoopInfo,
    reserved: [u64; 8],
}

/// A loop device that is, or was, ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct LoopDevice {
    number: u32,
}

impl LoopDevice {
    /// Makes a device on `file` that passes the page cache by.
    ///
    /// # Errors
    /// The host has no loop driver, or this process may not use it.
    pub(super) fn attach(file: &File, name: &str) -> io::Result<Self> {
        let control = File::options().read(true).write(true).open("/dev/loop-control")?;
        let mut tries = 0;
        loop {
            let number = ioctl(&control, LOOP_CTL_GET_FREE, 0)? as u32;
            let device = Self { number };
            match device.configure(file, name) {
                Ok(()) => return Ok(device),
                // Somebody else was faster.
                Err(e) if e.raw_os_error() == Some(libc::EBUSY) && tries < TRIES_MAX => tries += 1,
                Err(e) => return Err(e),
            }
        }
    }

    fn configure(&self, file: &File, name: &str) -> io::Result<()> {
        let device = File::options().read(true).write(true).open(self.path())?;
        // SAFETY: all-zero is a valid configuration of plain numbers and bytes.
        let mut config: LoopConfig = unsafe { std::mem::zeroed() };
        config.fd = file.as_raw_fd() as u32;
        config.block_size = BLOCK_BYTES;
        config.info.flags = LO_FLAGS_DIRECT_IO;
        // The last byte stays the closing zero.
        let known = name.len().min(config.info.file_name.len() - 1);
        config.info.file_name[..known].copy_from_slice(&name.as_bytes()[..known]);
        ioctl(&device, LOOP_CONFIGURE, (&raw const config) as libc::c_ulong).map(|_| ())
    }

    /// The devices on the file at `path`, which need not answer any more.
    pub(super) fn all_on(path: &Path) -> io::Result<Vec<Self>> {
        let mut found = Vec::new();
        for entry in std::fs::read_dir("/sys/block")? {
            let name = entry?.file_name();
            let number = name.to_str().and_then(|name| name.strip_prefix("loop")?.parse().ok());
            let Some(device) = number.map(|number| Self { number }) else { continue };
            if device.backing_file().is_some_and(|on| on == path) {
                found.push(device);
            }
        }
        Ok(found)
    }

    /// Where a guest opens it.
    pub(super) fn path(self) -> PathBuf {
        PathBuf::from(format!("/dev/loop{}", self.number))
    }

    /// The file it is on; none when it is free.
    fn backing_file(self) -> Option<PathBuf> {
        let file = format!("/sys/block/loop{}/loop/backing_file", self.number);
        let text = std::fs::read_to_string(file).ok()?;
        // The kernel says so of a file that it has looked up in vain, as in a filesystem whose server is dead.
        let path = text.trim_end_matches('\n').trim_end_matches(" (deleted)");
        Some(PathBuf::from(path))
    }

    /// Whether somebody holds it for himself: a mounted filesystem, or a device above it.
    pub(super) fn is_held(self) -> bool {
        let alone = File::options().read(true).custom_flags(libc::O_EXCL).open(self.path());
        alone.is_err_and(|e| e.raw_os_error() == Some(libc::EBUSY))
    }

    /// Takes it off its file, which `path` names, once all that was written is there. Tells whether it is free; one that
    /// is still open becomes free when it is closed.
    pub(super) fn clear(self, path: &Path) -> io::Result<bool> {
        let device = File::options().read(true).open(self.path())?;
        match ioctl(&device, LOOP_CLR_FD, 0) {
            // It was free before.
            Err(e) if e.raw_os_error() == Some(libc::ENXIO) => return Ok(true),
            other => other?,
        };
        drop(device);
        let told = Instant::now();
        while self.backing_file().is_some_and(|on| on == path) {
            if told.elapsed() > GOING_MAX || self.is_held() {
                return Ok(false);
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(true)
    }

    /// Lets it have the size that its file has now.
    pub(super) fn follow_size(self) -> io::Result<()> {
        let device = File::options().read(true).open(self.path())?;
        ioctl(&device, LOOP_SET_CAPACITY, 0).map(|_| ())
    }
}

fn ioctl(file: &File, request: u32, argument: libc::c_ulong) -> io::Result<i32> {
    // SAFETY: the requests of this file take a number, or the address of a configuration that outlives the call.
    let result = unsafe { libc::ioctl(file.as_raw_fd(), request as _, argument) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_structures_are_as_long_as_the_kernels() {
        assert_eq!(size_of::<LoopInfo>(), 232);
        assert_eq!(size_of::<LoopConfig>(), 304);
    }
}
