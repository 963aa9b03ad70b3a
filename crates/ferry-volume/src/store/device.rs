//! A store on a block device, which its volume has for itself.
//!
//! A device is as large as it is, may hold anything at the start, and cannot tell what is a hole. What is remote is not
//! zeroed when the volume is made or opened, which could take hours: the engine is told that it may hold anything, and
//! zeroes what the source says is zero, piece by piece in the background, where the device can by unmapping it (a thin
//! LV, an NVMe disk, a loop device). What is local from the start must be zero before anybody reads it.

use super::direct::DirectIo;
use super::{StoreError, bytes_of_store, clear, direct};
use crate::directory::{DirectoryError, StoreConfig};
use std::fs::{File, OpenOptions};
use std::io::{self, Seek, SeekFrom};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
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
    let device = open_alone(path, bytes_of_store(size_bytes, store))?;
    let direct = store.direct.then(|| direct::switch(&device, path)).transpose()?;
    Ok((device, direct))
}

fn open_alone(path: &Path, size_bytes: u64) -> Result<File, StoreError> {
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
    Ok(device)
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
