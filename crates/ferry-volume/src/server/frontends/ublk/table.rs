//! The memory in which the driver describes the requests of a device, one descriptor for each tag.
#![allow(unsafe_code, reason = "memory that the kernel shares with us has no safe owner")]

use crate::ublk::request::DESCRIPTOR_BYTES;
use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};
use std::fs::File;
use std::io;
use std::ptr::NonNull;

/// The table of the only queue of a device.
pub(super) struct Table {
    start: NonNull<u8>,
    bytes: usize,
    depth: u16,
}

// SAFETY: memory belongs to no thread.
unsafe impl Send for Table {}

impl Table {
    /// Maps the table of a device with `depth` tags.
    pub(super) fn map(device: &File, depth: u16) -> io::Result<Self> {
        let bytes = (usize::from(depth) * DESCRIPTOR_BYTES).next_multiple_of(rustix::param::page_size());
        // SAFETY: a new mapping at an address of the kernel's choice touches nothing that is there.
        let start =
            unsafe { mmap(std::ptr::null_mut(), bytes, ProtFlags::READ, MapFlags::SHARED, device, 0) }?;
        let start = NonNull::new(start.cast()).ok_or(io::ErrorKind::OutOfMemory)?;
        Ok(Self { start, bytes, depth })
    }

    /// A copy of the descriptor of a tag.
    ///
    /// # Panics
    /// There is no such tag.
    pub(super) fn copy(&self, tag: u16) -> [u8; DESCRIPTOR_BYTES] {
        assert!(tag < self.depth, "a tag is one of those that were asked for");
        // SAFETY: it lies in the mapping (just checked), which lives as long as we; the driver may write, so every byte is
        // read once, by a volatile access.
        let at =
            |i: usize| unsafe { self.start.add(usize::from(tag) * DESCRIPTOR_BYTES + i).read_volatile() };
        std::array::from_fn(at)
    }
}

impl Drop for Table {
    fn drop(&mut self) {
        // SAFETY: mapped in `map` with this length, and nobody else knows it. Unmapping what is mapped cannot fail.
        let _ = unsafe { munmap(self.start.as_ptr().cast(), self.bytes) };
    }
}
