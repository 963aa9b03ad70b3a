//! Which pages of the guest's memory are written here, for a VMM that moves it to another host meanwhile.
//!
//! The VMM shares a bitmap with a bit for each page of the guest's addresses, and asks with the feature `LOG_ALL` for it to be
//! kept (QEMU, docs/interop/vhost-user.rst, "Migration"). All that is written into the guest's memory passes the mapping of
//! one of its regions, the rings as well; so that is where it is noted, after the write.

use std::fs::File;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::sync::{Arc, OnceLock, PoisonError, RwLock};
use vhost::vhost_user::message::VhostUserLog;
use vm_memory::bitmap::{Bitmap, NewBitmap, RefSlice, WithBitmapSlice};
use vm_memory::{FileOffset, MmapRegion, VolatileMemory};

/// What one bit stands for, in bytes.
const PAGE_BYTES: u64 = 4096;

/// The bitmap of a VMM, once it has shared one.
#[derive(Debug, Default)]
pub(super) struct Log {
    is_kept: AtomicBool,
    pages: RwLock<Option<MmapRegion>>,
}

impl Log {
    /// From now on `file` holds the bitmap.
    pub(super) fn share(&self, shared: &VhostUserLog, file: File) -> io::Result<()> {
        let bytes = usize::try_from(shared.mmap_size).map_err(io::Error::other)?;
        let map = MmapRegion::from_file(FileOffset::new(file, shared.mmap_offset), bytes);
        *self.pages.write().unwrap_or_else(PoisonError::into_inner) = Some(map.map_err(io::Error::other)?);
        Ok(())
    }

    /// Whether the VMM wants it to be kept.
    pub(super) fn keep(&self, kept: bool) {
        self.is_kept.store(kept, Ordering::Release);
    }

    fn note(&self, address: u64, bytes: usize) {
        if !self.is_kept.load(Ordering::Acquire) || bytes == 0 {
            return;
        }
        let pages = self.pages.read().unwrap_or_else(PoisonError::into_inner);
        let Some(pages) = &*pages else { return };
        for page in address / PAGE_BYTES..=(address + (bytes as u64 - 1)) / PAGE_BYTES {
            // The VMM knows how far its guest's memory goes.
            let at = usize::try_from(page / 8).ok().and_then(|at| pages.get_atomic_ref::<AtomicU8>(at).ok());
            if let Some(byte) = at {
                byte.fetch_or(1 << (page % 8), Ordering::AcqRel);
            }
        }
    }
}

/// Where a region's pages are in the log: the guest's address of its first byte.
#[derive(Debug, Default)]
pub(super) struct RegionLog(OnceLock<(u64, Arc<Log>)>);

impl RegionLog {
    /// The region begins at that address of the guest.
    pub(super) fn begins_at(&self, address: u64, log: &Arc<Log>) {
        // A region is mapped once, and told once.
        let _ = self.0.set((address, Arc::clone(log)));
    }
}

impl<'a> WithBitmapSlice<'a> for RegionLog {
    type S = RefSlice<'a, Self>;
}

impl Bitmap for RegionLog {
    fn mark_dirty(&self, offset: usize, len: usize) {
        if let Some((begin, log)) = self.0.get() {
            log.note(begin + offset as u64, len);
        }
    }

    fn dirty_at(&self, _offset: usize) -> bool {
        unreachable!("the log is written here and read by the VMM")
    }

    fn slice_at(&self, offset: usize) -> RefSlice<'_, Self> {
        RefSlice::new(self, offset)
    }
}

impl NewBitmap for RegionLog {
    fn with_len(_len: usize) -> Self {
        Self::default()
    }
}
