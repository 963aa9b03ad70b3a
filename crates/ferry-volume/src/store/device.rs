//! A store on a block device, which its volume has for itself.
//!
//! A device is as large as it is, may hold anything at the start, and cannot tell what is a hole. What is remote is not
//! zeroed when the volume is made or opened, which could take hours: the engine is told that it may hold anything, and
//! zeroes what the source says is zero, piece by piece in the background, where the device can by unmapping it (a thin
//! LV, an NVMe disk, a loop device). What is local from the start must be zero before anybody reads it.

use super::direct::{DirectIo, UNIT_BYTES, whole_units};
use super::{StoreError, bytes_of_store, clear, direct};
use crate::buffer::Pool;
use crate::directory::{DirectoryError, StoreConfig};
use rustix::fs::{FallocateFlags, fallocate};
use std::fs::{File, OpenOptions};
use std::io::{self, Seek, SeekFrom};
use std::os::unix::fs::{FileExt, FileTypeExt, OpenOptionsExt};
use std::path::Path;
use std::time::{Duration, Instant};

/// How long the kernel may keep a device for a server that has ended: its ring is taken down behind its back.
const LETTING_GO_MAX: Duration = Duration::from_secs(2);
const LOOK_AGAIN: Duration = Duration::from_millis(10);

/// Opens the device for this process alone: nobody can mount it, or put another device on it, meanwhile.
///
/// # Errors
/// It is none, is too small, somebody else has it, or it has no direct I/O as wanted.
pub(super) fn open(
    path: &Path,
    size_bytes: u64,
    store: &StoreConfig,
) -> Result<(File, Option<DirectIo>), StoreError> {
    let (device, has_bytes) = open_alone(path, bytes_of_store(size_bytes, store))?;
    let direct = store.direct.then(|| direct::switch(&device, path)).transpose()?;
    clear_rest(&device, size_bytes, has_bytes).map_err(DirectoryError::io("clear the end of", path))?;
    Ok((device, direct))
}

/// Clears what the last block of the volume has beyond the volume, so that it reads as zeroes once the volume has grown.
fn clear_rest(device: &File, size_bytes: u64, has_bytes: u64) -> io::Result<()> {
    let begin = size_bytes - size_bytes % UNIT_BYTES;
    let (len, rest) =
        ((whole_units(size_bytes).min(has_bytes) - begin) as usize, (size_bytes - begin) as usize);
    let block = Pool::new().take(UNIT_BYTES as usize);
    block.with_bytes_mut(0, len, |block| {
        device.read_exact_at(block, begin)?;
        if block[rest..].iter().all(|&byte| byte == 0) {
            return Ok(());
        }
        block[rest..].fill(0);
        device.write_all_at(block, begin)
    })
}

/// Gives back what a volume of this size had on a device, once it is deleted: nobody shall find it there. Only where the
/// device can unmap, since writing zeroes may take hours.
///
/// # Errors
/// Somebody else has the device, or it cannot unmap; it is left as it is.
pub fn discard(path: &Path, size_bytes: u64) -> Result<(), StoreError> {
    let (device, has_bytes) = open_alone(path, 0)?;
    let len = whole_units(size_bytes).min(has_bytes);
    let punch = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
    let unmap = || -> io::Result<()> {
        fallocate(&device, punch, 0, len)?;
        device.sync_all()
    };
    Ok(unmap().map_err(DirectoryError::io("unmap", path))?)
}

/// The device, and how many bytes it has: at least as many as are asked for.
fn open_alone(path: &Path, size_bytes: u64) -> Result<(File, u64), StoreError> {
    let refuse = |reason: String| StoreError::Device { path: path.to_owned(), reason };
    let kind = path.metadata().map_err(DirectoryError::io("look at", path))?.file_type();
    if !kind.is_block_device() {
        return Err(refuse("it is no block device; leave it out to keep the volume in a file".to_owned()));
    }
    let begun = Instant::now();
    let mut device = loop {
        match OpenOptions::new().read(true).write(true).custom_flags(libc::O_EXCL).open(path) {
            Err(e) if e.raw_os_error() == Some(libc::EBUSY) && begun.elapsed() < LETTING_GO_MAX => {
                std::thread::sleep(LOOK_AGAIN);
            }
            Err(e) if e.raw_os_error() == Some(libc::EBUSY) => {
                let reason = "something else uses it (a mounted filesystem, another volume, a device on it); free it, \
                              or choose another";
                return Err(refuse(reason.to_owned()));
            }
            other => break other.map_err(DirectoryError::io("open", path))?,
        }
    };
    let has_bytes = device.seek(SeekFrom::End(0)).map_err(DirectoryError::io("look at the end of", path))?;
    if has_bytes < size_bytes {
        let reason =
            format!("it has {has_bytes} bytes, the volume {size_bytes}; choose or make a larger one");
        return Err(refuse(reason));
    }
    Ok((device, has_bytes))
}

/// Makes the device fit for a new volume; what it held is lost.
///
/// # Errors
/// As [`open`], or it cannot be zeroed.
pub(super) fn prepare(
    path: &Path,
    size_bytes: u64,
    store: &StoreConfig,
    all_local: bool,
) -> Result<(), StoreError> {
    if !path.is_absolute() {
        let reason = "its path is not absolute; name it by a path that stays, such as /dev/VG/LV";
        return Err(StoreError::Device { path: path.to_owned(), reason: reason.to_owned() });
    }
    let (device, _) = open(path, size_bytes, store)?;
    let zero = || -> io::Result<()> {
        clear(&device, 0, bytes_of_store(size_bytes, store))?;
        device.sync_all()
    };
    if all_local {
        zero().map_err(DirectoryError::io("zero", path))?;
    }
    Ok(())
}
