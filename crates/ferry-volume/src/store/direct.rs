//! A store past the page cache: what the kernel demands of it, and whether a file can do it.
//!
//! Whatever the device asks for, all is read and written in whole units of [`UNIT_BYTES`]. So `data` has whole units,
//! and its last one may reach beyond the volume. Invariant: every descriptor that touches its bytes is one of direct
//! I/O: buffered I/O beside it on the same file can leave stale pages.

use super::StoreError;
use crate::buffer::Pool;
use crate::directory::DirectoryError;
use rustix::fs::{AtFlags, OFlags, StatxFlags, fcntl_setfl, statx};
use rustix::io::Errno;
use std::fs::{File, OpenOptions};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

/// What is read and written at once at least, in bytes, and what offsets and lengths are multiples of.
pub(crate) const UNIT_BYTES: u64 = 4096;
/// `f_type` of the filesystems that are nothing but page cache.
const IN_MEMORY: [i64; 2] = [0x0102_1994, 0x8584_58f6];
/// Name of the file that is tried; it is removed at once.
const TRIED: &str = ".ferry-direct-io";

/// How a file takes direct I/O.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct DirectIo {
    /// What addresses in memory must be multiples of, in bytes; at most [`UNIT_BYTES`].
    pub(crate) memory_bytes: u64,
}

/// How many bytes the store of a volume of this size has.
pub(crate) const fn whole_units(size_bytes: u64) -> u64 {
    size_bytes.next_multiple_of(UNIT_BYTES)
}

/// Whether a volume in a file below this directory could have direct I/O.
///
/// # Errors
/// It could not, and why; or the directory cannot be written.
pub fn check_direct_io(dir: &Path) -> Result<(), StoreError> {
    let path = dir.join(TRIED);
    let mut options = OpenOptions::new();
    let file = options.read(true).write(true).create(true).truncate(true).mode(0o600).open(&path);
    let file = file.map_err(DirectoryError::io("create", &path))?;
    std::fs::remove_file(&path).map_err(DirectoryError::io("remove", &path))?;
    file.set_len(UNIT_BYTES).map_err(DirectoryError::io("size", &path))?;
    switch(&file, dir).map(drop)
}

/// Lets all I/O on this open file go past the page cache, if it can.
///
/// # Errors
/// It cannot, and why.
pub(super) fn switch(file: &File, path: &Path) -> Result<DirectIo, StoreError> {
    let refuse = |reason: &str| StoreError::Direct { path: path.to_owned(), reason: reason.to_owned() };
    let none = "its filesystem has no direct I/O; leave direct I/O off, or choose another filesystem";
    let kind = rustix::fs::fstatfs(file).map_err(|e| DirectoryError::io("look at", path)(e.into()))?;
    // They take the flag and keep the bytes in the page cache all the same, where they live.
    #[allow(clippy::unnecessary_cast, reason = "its width differs between targets")]
    let is_in_memory = IN_MEMORY.contains(&(kind.f_type as i64));
    if is_in_memory && !is_device(file) {
        return Err(refuse(none));
    }
    let told = alignments(file);
    if told == Some((0, 0)) {
        return Err(refuse(none));
    }
    let (memory_bytes, offset_bytes) = told.unwrap_or((UNIT_BYTES, UNIT_BYTES));
    if memory_bytes.max(offset_bytes) > UNIT_BYTES {
        let needs = memory_bytes.max(offset_bytes);
        return Err(refuse(&format!(
            "its device wants units of {needs} bytes, and a volume's are {UNIT_BYTES}; leave direct I/O off"
        )));
    }
    let flags = rustix::fs::fcntl_getfl(file).map_err(|e| DirectoryError::io("look at", path)(e.into()))?;
    match fcntl_setfl(file, flags | OFlags::DIRECT) {
        Err(Errno::INVAL) => return Err(refuse(none)),
        other => other.map_err(|e| DirectoryError::io("open for direct I/O", path)(e.into()))?,
    }
    // A kernel before 6.1, and some filesystems, do not tell: what is not refused here is taken for granted.
    match try_read(file) {
        Err(Errno::INVAL) => Err(refuse(none)),
        Err(e) => Err(DirectoryError::io("read", path)(e.into()).into()),
        Ok(()) => Ok(DirectIo { memory_bytes }),
    }
}

fn is_device(file: &File) -> bool {
    use std::os::unix::fs::FileTypeExt;
    file.metadata().is_ok_and(|facts| facts.file_type().is_block_device())
}

/// What memory and offsets must be multiples of, in bytes, where the kernel tells; zeroes where there is no direct I/O.
fn alignments(file: &File) -> Option<(u64, u64)> {
    let facts = statx(file, "", AtFlags::EMPTY_PATH, StatxFlags::DIOALIGN).ok()?;
    let tells = facts.stx_mask & StatxFlags::DIOALIGN.bits() != 0;
    tells.then(|| (facts.stx_dio_mem_align.into(), facts.stx_dio_offset_align.into()))
}

fn try_read(file: &File) -> rustix::io::Result<()> {
    let buffer = Pool::new().take(UNIT_BYTES as usize);
    buffer.with_bytes_mut(0, UNIT_BYTES as usize, |bytes| rustix::io::pread(file, bytes, 0)).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_tried_leaves_nothing_behind() {
        let dir = tempfile::tempdir().unwrap();
        check_direct_io(dir.path()).unwrap();
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    }

    #[test]
    fn a_filesystem_in_memory_is_refused_in_a_sentence() {
        let Ok(dir) = tempfile::tempdir_in("/dev/shm") else {
            assert!(std::env::var_os("CI").is_none(), "no filesystem in memory at /dev/shm");
            eprintln!("SKIPPED: no filesystem in memory at /dev/shm");
            return;
        };
        let refusal = check_direct_io(dir.path()).unwrap_err().to_string();
        assert!(refusal.contains("no direct I/O; leave direct I/O off"), "{refusal}");
    }
}
